//! Comparison with candle, which computes the f64 cases, and with finite differences.

use candle_core::Var;

use super::*;
use crate::kernels::finite_differences::{check, random, variable};

/// Checks that `f` in f32 equals `f` in f64, and that its gradients are right.
fn equals_f64(case: &str, inputs: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let vars: Vec<(String, Var)> = inputs
        .iter()
        .enumerate()
        .map(|(i, shape)| (format!("{case}.{i}"), variable(&format!("{case}.{i}"), shape)))
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|(_, var)| var.as_tensor().clone()).collect();
    let wide: Vec<Tensor> = tensors.iter().map(|t| t.to_dtype(DType::F64).unwrap()).collect();
    let (fast, slow) = (f(&tensors).unwrap(), f(&wide).unwrap());
    assert_eq!(fast.dims(), slow.dims(), "{case}");
    let error = (fast.to_dtype(DType::F64).unwrap() - slow).unwrap().abs().unwrap();
    let error: f64 = error.max_all().unwrap().to_scalar().unwrap();
    assert!(error < 1e-5, "{case}: {error}");
    check(case, vars, || f(&tensors));
}

#[test]
fn planes_equal_candle() {
    for shape in [[2, 3, 6, 4], [3, 2, 5, 7], [1, 4, 1, 1], [2, 1, 33, 9]] {
        let gates = [shape[0], shape[1], 1, 1];
        equals_f64(&format!("mean {shape:?}"), &[&shape], |x| global_average_pool(&x[0]));
        equals_f64(&format!("average pool {shape:?}"), &[&shape], |x| average_pool_2x2(&x[0]));
        equals_f64(&format!("gated sum {shape:?}"), &[&shape, &gates, &shape], |x| {
            gated_sum(&x[0], &x[1], &x[2])
        });
    }
}

/// The generic implementations equal those for the CPU, and half precision is close to them.
#[test]
fn cpu_kernels_equal_generic() {
    let check = |case: &str, wanted: Result<Tensor>, generic: Result<Tensor>, halves: [Result<Tensor>; 2]| {
        let wanted = wanted.unwrap();
        for (got, allowed) in [(generic, 1e-6)].into_iter().chain(halves.map(|half| (half, 2e-2))) {
            let got = got.unwrap().to_dtype(DType::F32).unwrap();
            assert_eq!(got.dims(), wanted.dims(), "{case}");
            let largest = |x: Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let error = largest((got - &wanted).unwrap()) / largest(wanted.clone()).max(1.0);
            assert!(error < allowed, "{case}: relative {error}");
        }
    };
    for shape in [[2, 3, 6, 4], [3, 2, 5, 7], [1, 4, 1, 1], [2, 1, 65, 63]] {
        let (x, y) = (random("x", &shape), random("y", &shape));
        let gate = random("gate", &[shape[0], shape[1], 1, 1]);
        let in_half = |f: &dyn Fn(DType) -> Result<Tensor>| [DType::BF16, DType::F16].map(f);
        let to = |x: &Tensor, half: DType| x.to_dtype(half).unwrap();
        let halves = in_half(&|half| global_average_pool(&to(&x, half)));
        check(&format!("mean {shape:?}"), global_average_pool(&x), generic_global_average_pool(&x), halves);
        let halves = in_half(&|half| average_pool_2x2(&to(&x, half)));
        check(&format!("average pool {shape:?}"), average_pool_2x2(&x), generic_average_pool_2x2(&x), halves);
        let halves = in_half(&|half| gated_sum(&to(&x, half), &to(&gate, half), &to(&y, half)));
        let sums = (gated_sum(&x, &gate, &y), generic_gated_sum(&x, &gate, &y));
        check(&format!("gated sum {shape:?}"), sums.0, sums.1, halves);
    }
}

#[test]
fn constant_shortcut_gets_no_gradient() {
    let (y, gate) = (random("y", &[2, 3, 4, 5]), variable("gate", &[2, 3, 1, 1]));
    let sum = gated_sum(&y, &gate, &y).unwrap();
    let gradients = sum.sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&gate).is_some() && gradients.get(&y).is_none());
}
