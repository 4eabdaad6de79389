//! Gradients of every layer type against finite differences.

use candle_core::{DType, Device, Var};

use super::*;
use crate::kernels::finite_differences::{check, randomise_zeros, variable};
use crate::kernels::gelu::scaled_gelu;
use crate::kernels::standardise;

/// The variables of a layer and its input.
fn vars(weights: &Weights, x: &Var) -> Vec<(String, Var)> {
    weights.vars().into_iter().chain([("x".to_string(), x.clone())]).collect()
}

fn random_weights() -> Weights {
    Weights::random(3, &Device::Cpu, DType::F32)
}

#[test]
fn convolution_gradients() {
    let plain = ConvShape::new(6, 9, 3);
    for (case, shape, [n, h, w]) in [
        ("plain", plain, [2, 7, 5]),
        ("strided", ConvShape { stride: 2, ..plain }, [3, 7, 8]),
        ("grouped", ConvShape { groups: 3, ..plain }, [2, 4, 9]),
        ("strided and grouped", ConvShape { stride: 2, groups: 3, ..plain }, [5, 6, 11]),
        ("1x1", ConvShape::new(7, 4, 1), [3, 5, 2]),
        ("of a pixel", ConvShape::new(5, 4, 3), [3, 1, 1]),
    ] {
        let (weights, x) = (random_weights(), variable("x", &[n, shape.from, h, w]));
        let conv = StdConv::new(shape, &weights).unwrap();
        randomise_zeros(weights.vars(), &["bias"]);
        check(case, vars(&weights, &x), || conv.forward(&x));
        check(
            &format!("{case}, not standardised"),
            vars(&weights, &x).into_iter().filter(|v| v.0 != "gain"),
            || conv2d_same(&x, &conv.weight, &conv.bias, conv.stride, conv.groups),
        );
    }
}

#[test]
fn standardised_weights_equal_candle() {
    let (weight, gain) = (variable("weight", &[7, 3, 5, 2]), variable("gain", &[7, 1, 1, 1]));
    let fast = standardise::standardise(&weight, &gain, EPS).unwrap();
    let slow = standardise::generic(&weight, &gain, EPS).unwrap();
    let error = (fast - slow).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(error < 1e-6, "{error}");
}

#[test]
fn squeeze_and_excitation_gradients() {
    let (weights, x) = (random_weights(), variable("x", &[3, 20, 5, 4]));
    let gate = SqueezeExcite::new(20, &weights).unwrap();
    randomise_zeros(weights.vars(), &["bias"]);
    check("gate", vars(&weights, &x), || gate.forward(&x));
}

#[test]
fn activation_gradient() {
    let x = variable("x", &[3, 5, 7]);
    check("scaled gelu", [("x".to_string(), x.clone())], || scaled_gelu(&x, GAMMA));
}

#[test]
fn block_gradients() {
    for (width, out, stride) in [(12, 12, 1), (8, 12, 1), (12, 20, 2)] {
        let (weights, x) = (random_weights(), variable("x", &[2, width, 7, 5]));
        let shape = BlockShape { width, out, stride, group: 2, beta: 0.9 };
        let block = Block::new(&shape, &weights).unwrap();
        randomise_zeros(weights.vars(), &["skipinit_gain", "bias"]);
        check(&format!("{width} -> {out} / {stride}"), vars(&weights, &x), || block.forward(&x));
    }
}
