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

#[test]
fn a_constant_shortcut_needs_no_gradient() {
    let (y, gate) = (random("y", &[2, 3, 4, 5]), variable("gate", &[2, 3, 1, 1]));
    let sum = gated_sum(&y, &gate, &y).unwrap();
    let gradients = sum.sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&gate).is_some() && gradients.get(&y).is_none());
}
