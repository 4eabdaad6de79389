//! Comparison of gradients with central finite differences, for the tests of all trainable layers.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Init;

use crate::error::Result;
use crate::weights::Weights;

/// Distance between the two points of a difference, in standard deviations of the direction.
const STEP: f64 = 4e-3;
const TOLERANCE: f64 = 1e-2;

/// Standard normal numbers. The same name always gives the same numbers.
pub(crate) fn random(name: &str, shape: &[usize]) -> Tensor {
    let normal = Init::Randn { mean: 0.0, stdev: 1.0 };
    Weights::random(11, &Device::Cpu, DType::F32).get(shape, name, normal).unwrap().detach()
}

pub(crate) fn variable(name: &str, shape: &[usize]) -> Var {
    Var::from_tensor(&random(name, shape)).unwrap()
}

/// Sets variables that are initialised to 0, which would block the gradients of other variables, to numbers
/// around 1/2.
pub(crate) fn randomise_zeros(vars: impl IntoIterator<Item = (String, Var)>, suffixes: &[&str]) {
    for (name, var) in vars.into_iter().filter(|(name, _)| suffixes.iter().any(|s| name.ends_with(s))) {
        let moved = (random(&name, var.dims()) * 0.1).unwrap() + 0.5;
        var.set(&moved.unwrap()).unwrap();
    }
}

fn product(a: &Tensor, b: &Tensor) -> f64 {
    let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    (wide(a) * wide(b)).unwrap().sum_all().unwrap().to_scalar().unwrap()
}

/// Projects the output of `f` onto a random direction and compares, for each variable, the derivative along
/// another random direction with the central difference. Directions are standard normal, so the derivative is
/// about as large as the norm of the gradient, and errors are relative to that norm.
pub(crate) fn check(
    case: &str,
    vars: impl IntoIterator<Item = (String, Var)>,
    f: impl Fn() -> Result<Tensor>,
) {
    let y = f().unwrap();
    let up = random("up", y.dims());
    let gradients = (&y * &up).unwrap().sum_all().unwrap().backward().unwrap();
    for (name, var) in vars {
        let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{case}: no gradient at {name}"));
        let length = product(gradient, gradient).sqrt();
        assert!(length > 0.0 && length.is_finite(), "{case}: the gradient at {name} has length {length}");
        // The direction must differ from the variable itself: a normalised input does not change along
        // itself.
        let direction = random(&format!("direction of {name}"), var.dims());
        let original = var.as_tensor().copy().unwrap();
        let moved = |by: f64| {
            var.set(&(&original + (&direction * by).unwrap()).unwrap()).unwrap();
            product(&f().unwrap(), &up)
        };
        let numeric = (moved(STEP / 2.0) - moved(-STEP / 2.0)) / STEP;
        var.set(&original).unwrap();
        let analytic = product(gradient, &direction);
        let error = (numeric - analytic).abs() / length;
        assert!(
            error < TOLERANCE,
            "{case}: {analytic} at {name}, by differences {numeric}, gradient {length}"
        );
    }
}
