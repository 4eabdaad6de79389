//! Against candle, which is what runs in f64, and against finite differences.

use candle_core::Var;

use super::*;
use crate::kernels::finite_differences::{check, random, variable};

/// `f` of f32 equals `f` of f64 in value, and its gradients are right.
fn same(case: &str, inputs: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let vars: Vec<(String, Var)> = inputs
        .iter()
        .enumerate()
        .map(|(i, shape)| (format!("{case}.{i}"), variable(&format!("{case}.{i}"), shape)))
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|(_, var)| var.as_tensor().clone()).collect();
    let wide: Vec<Tensor> = tensors.iter().map(|t| t.to_dtype(DType::F64).unwrap()).collect();
    let (fast, slow) = (f(&tensors).unwrap(), f(&wide).unwrap());
    assert_eq!(fast.dims(), slow.dims(), "{case}");
    let apart = (fast.to_dtype(DType::F64).unwrap() - slow).unwrap().abs().unwrap();
    let apart: f64 = apart.max_all().unwrap().to_scalar().unwrap();
    assert!(apart < 1e-5, "{case}: {apart}");
    check(case, vars, || f(&tensors));
}

#[test]
fn planes_equal_candle() {
    for shape in [[2, 3, 6, 4], [3, 2, 5, 7], [1, 4, 1, 1], [2, 1, 33, 9]] {
        let gates = [shape[0], shape[1], 1, 1];
        same(&format!("mean {shape:?}"), &[&shape], |x| mean_of_planes(&x[0]));
        same(&format!("halve {shape:?}"), &[&shape], |x| halve(&x[0]));
        same(&format!("gated sum {shape:?}"), &[&shape, &gates, &shape], |x| gated_sum(&x[0], &x[1], &x[2]));
    }
}

/// The forms for other devices agree with those for the CPU, and half precision stays with them.
#[test]
fn any_device_computes_the_same() {
    let check = |case: &str, wanted: Result<Tensor>, generic: Result<Tensor>, halves: [Result<Tensor>; 2]| {
        let wanted = wanted.unwrap();
        for (got, allowed) in [(generic, 1e-6)].into_iter().chain(halves.map(|half| (half, 2e-2))) {
            let got = got.unwrap().to_dtype(DType::F32).unwrap();
            assert_eq!(got.dims(), wanted.dims(), "{case}");
            let largest = |x: Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let apart = largest((got - &wanted).unwrap()) / largest(wanted.clone()).max(1.0);
            assert!(apart < allowed, "{case}: relative {apart}");
        }
    };
    for shape in [[2, 3, 6, 4], [3, 2, 5, 7], [1, 4, 1, 1], [2, 1, 65, 63]] {
        let (x, y) = (random("x", &shape), random("y", &shape));
        let gate = random("gate", &[shape[0], shape[1], 1, 1]);
        let in_half = |f: &dyn Fn(DType) -> Result<Tensor>| [DType::BF16, DType::F16].map(f);
        let to = |x: &Tensor, half: DType| x.to_dtype(half).unwrap();
        let halves = in_half(&|half| mean_of_planes(&to(&x, half)));
        check(&format!("mean {shape:?}"), mean_of_planes(&x), generic_mean(&x), halves);
        let halves = in_half(&|half| halve(&to(&x, half)));
        check(&format!("halve {shape:?}"), halve(&x), generic_halve(&x), halves);
        let halves = in_half(&|half| gated_sum(&to(&x, half), &to(&gate, half), &to(&y, half)));
        let sums = (gated_sum(&x, &gate, &y), generic_gated_sum(&x, &gate, &y));
        check(&format!("gated sum {shape:?}"), sums.0, sums.1, halves);
    }
}

#[test]
fn a_constant_shortcut_needs_no_gradient() {
    let (y, gate) = (random("y", &[2, 3, 4, 5]), variable("gate", &[2, 3, 1, 1]));
    let sum = gated_sum(&y, &gate, &y).unwrap();
    let gradients = sum.sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&gate).is_some() && gradients.get(&y).is_none());
}
