//! Initial values that depend on a seed and the tensor's name only.

use candle_core::{Device, Shape, Tensor};
use candle_nn::Init;
use candle_nn::init::NormalOrUniform;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::StandardNormal;
use sha2::{Digest, Sha256};

/// Returns the initial value of the tensor `name` (f32, on the CPU).
pub(super) fn initial_value(seed: u64, name: &str, shape: &Shape, init: Init) -> candle_core::Result<Tensor> {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
    let mut rng = StdRng::from_seed(digest.into());
    let n = shape.elem_count();
    let mut uniform = |lo: f64, up: f64| (0..n).map(|_| rng.random_range(lo..up) as f32).collect::<Vec<_>>();
    let values = match init {
        Init::Const(value) => vec![value as f32; n],
        Init::Uniform { lo, up } => uniform(lo, up),
        Init::Randn { mean, stdev } => normal(&mut rng, n, mean, stdev),
        Init::Kaiming { dist, fan, non_linearity } => {
            let stdev = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            match dist {
                NormalOrUniform::Uniform => uniform(-3f64.sqrt() * stdev, 3f64.sqrt() * stdev),
                NormalOrUniform::Normal => normal(&mut rng, n, 0.0, stdev),
            }
        }
    };
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Length of the sequence that [`repeated`] repeats: a prime, so that no two rows of a matrix are equal.
pub(super) const PATTERN: usize = 65_537;

/// Repeats the sequence `pattern` of numbers in -1..1, scaled to the mean and the deviation of `init`.
pub(super) fn repeated(pattern: &Tensor, shape: &Shape, init: Init) -> candle_core::Result<Tensor> {
    let half_width = |stdev: f64| 3f64.sqrt() * stdev;
    let (mean, half) = match init {
        Init::Const(value) => (value, 0.0),
        Init::Uniform { lo, up } => ((lo + up) / 2.0, (up - lo) / 2.0),
        Init::Randn { mean, stdev } => (mean, half_width(stdev)),
        Init::Kaiming { fan, non_linearity, .. } => {
            (0.0, half_width(non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt()))
        }
    };
    let (n, run) = (shape.elem_count(), pattern.elem_count());
    let scaled = pattern.affine(half, mean)?;
    scaled.broadcast_as((n.div_ceil(run), run))?.flatten_all()?.narrow(0, 0, n)?.reshape(shape)
}

fn normal(rng: &mut StdRng, n: usize, mean: f64, stdev: f64) -> Vec<f32> {
    (0..n).map(|_| (mean + stdev * rng.sample::<f64, _>(StandardNormal)) as f32).collect()
}
