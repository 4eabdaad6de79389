//! Measures a training step of the mini vision encoder (forward, and backward to all weights) on the CPU,
//! with the kernels of this library and with candle's operations: `encoder_training_speed [BATCH [SIDE]]`.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use flamingo::kernels::{conv, standardise};
use flamingo::vision::VisionEncoder;
use flamingo::vision::nfnet::{Dimensions, Features, NfNet, Variant};
use flamingo::weights::Weights;

const STEPS: usize = 5;
const GAMMA: f64 = 1.701_504_349_708_557_1;

/// The network of `src/vision/nfnet.rs` in candle's operations.
struct CandleNet {
    vars: BTreeMap<String, Var>,
    dimensions: Dimensions,
    /// Multiplications and additions of all convolutions of one pass.
    operations: std::cell::Cell<f64>,
}

impl CandleNet {
    fn var(&self, name: &str, leaf: &str) -> &Tensor {
        self.vars[&format!("{name}.{leaf}")].as_tensor()
    }

    fn conv(&self, x: &Tensor, name: &str, stride: usize) -> Result<Tensor> {
        let weight = standardise::generic(self.var(name, "weight"), self.var(name, "gain"), 1e-5)?;
        let groups = x.dim(1)? / weight.dim(1)?;
        let y = conv::generic(x, &weight, self.var(name, "bias"), stride, groups)?;
        let products = y.elem_count() * weight.elem_count() / weight.dim(0)?;
        self.operations.set(self.operations.get() + 2.0 * products as f64);
        Ok(y)
    }

    fn gate(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let linear = |x: &Tensor, layer: &str| {
            let name = format!("{name}.{layer}");
            conv::generic(x, self.var(&name, "weight"), self.var(&name, "bias"), 1, 1)
        };
        let means = x.flatten_from(2)?.mean(D::Minus1)?.unsqueeze(2)?.unsqueeze(3)?;
        candle_nn::ops::sigmoid(&linear(&linear(&means, "fc1")?.relu()?, "fc2")?)
    }

    fn block(&self, x: &Tensor, name: &str, stride: usize, beta: f64) -> Result<Tensor> {
        let h = (gelu(x)? * beta)?;
        let shortcut = match self.vars.contains_key(&format!("{name}.downsample.conv.weight")) {
            true if stride == 2 => self.conv(&h.avg_pool2d(2)?, &format!("{name}.downsample.conv"), 1)?,
            true => self.conv(&h, &format!("{name}.downsample.conv"), 1)?,
            false => x.clone(),
        };
        let y = self.conv(&h, &format!("{name}.conv1"), 1)?;
        let y = self.conv(&gelu(&y)?, &format!("{name}.conv2"), stride)?;
        let y = self.conv(&gelu(&y)?, &format!("{name}.conv2b"), 1)?;
        let y = self.conv(&gelu(&y)?, &format!("{name}.conv3"), 1)?;
        let gain = (self.var(name, "skipinit_gain") * 0.4)?;
        let gate = self.gate(&y, &format!("{name}.attn_last"))?.broadcast_mul(&gain)?;
        y.broadcast_mul(&gate)? + shortcut
    }

    /// Encodes (n, 3, h, w), with sides divisible by 32, -> (n, d, h / 32, w / 32).
    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.operations.set(0.0);
        let mut x = pixels.clone();
        for (i, stride) in [2, 1, 1, 2].into_iter().enumerate() {
            x = self.conv(&if i > 0 { gelu(&x)? } else { x }, &format!("stem.conv{}", i + 1), stride)?;
        }
        let mut variance = 1.0f64;
        for (s, &depth) in self.dimensions.depths.iter().enumerate() {
            for b in 0..depth {
                let stride = if s > 0 && b == 0 { 2 } else { 1 };
                x = self.block(&x, &format!("stages.{s}.{b}"), stride, variance.sqrt().recip())?;
                variance = if b == 0 { 1.0 } else { variance } + 0.04;
            }
        }
        gelu(&self.conv(&x, "final_conv", 1)?)
    }
}

fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()? * GAMMA
}

/// Measures the median seconds of (forward, backward), after a warm-up pass.
fn seconds(forward: impl Fn() -> Result<Tensor>) -> Result<(f64, f64)> {
    let mut times: [Vec<f64>; 2] = Default::default();
    for step in 0..=STEPS {
        let start = Instant::now();
        let loss = forward()?.sqr()?.mean_all()?;
        let middle = Instant::now();
        loss.backward()?;
        if step > 0 {
            times[0].push((middle - start).as_secs_f64());
            times[1].push(middle.elapsed().as_secs_f64());
        }
    }
    let [forward, backward] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[STEPS / 2]
    });
    Ok((forward, backward))
}

fn main() -> flamingo::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>().expect("a number"));
    let (batch, side) = (arguments.next().unwrap_or(16), arguments.next().unwrap_or(128));
    let weights = Weights::random(1, &Device::Cpu, DType::F32);
    let dimensions = Variant::Mini.dimensions();
    let net = NfNet::new(&dimensions, Features::FinalConv, &weights)?;
    for (name, var) in weights.vars() {
        if name.ends_with("skipinit_gain") {
            var.set(&var.ones_like()?)?; // the initial 0 blocks the residual branches
        }
    }
    let in_candle = CandleNet { vars: weights.vars(), dimensions, operations: Default::default() };
    let pixels = Tensor::randn(0f32, 1.0, (batch, 3, side, side), &Device::Cpu)?;

    let ours = || net.encode(&pixels).map_err(|e| candle_core::Error::Msg(e.to_string()));
    let theirs = || in_candle.forward(&pixels)?.flatten_from(2)?.transpose(1, 2)?.contiguous();
    let difference = (ours()? - theirs()?)?.abs()?.max_all()?.to_scalar::<f32>()?;
    println!(
        "batch {batch}, {side} x {side}, {} threads, outputs differ by {difference:.1e}",
        rayon::current_num_threads()
    );
    // A backward pass has twice the operations of a forward pass.
    let giga = 3.0 * in_candle.operations.get() / 1e9;
    let report = |name: &str, (forward, backward): (f64, f64)| {
        let step = forward + backward;
        println!(
            "{name}: forward {:.0} ms, backward {:.0} ms, step {:.0} ms, {:.1} GFLOP/s",
            1e3 * forward,
            1e3 * backward,
            1e3 * step,
            giga / step
        );
        step
    };
    let ours = report("ours", seconds(ours)?);
    let theirs = report("candle", seconds(theirs)?);
    println!("ratio {:.1}", theirs / ours);
    Ok(())
}
