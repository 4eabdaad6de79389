//! AdamW of one tensor on the CPU in three passes over its memory. candle's operations take about twelve.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor};

/// Moving average of a gradient or of its square: average = decay average + (1 - decay) (scale gradient)^power.
struct MovingAverage {
    decay: f32,
    scale: f32,
    squared: bool,
}

/// Numbers of one update.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    /// Factor of the gradient, from clipping.
    pub(super) scale: f64,
    /// Decay rates of the moments.
    pub(super) betas: (f64, f64),
    /// Number of this update, from 1.
    pub(super) t: i32,
    /// Learning rate.
    pub(super) rate: f64,
    /// Factor of the weights, from weight decay.
    pub(super) kept: f64,
}

impl Update {
    /// Updates a parameter and its moments in place. All four tensors are contiguous, in f32, on the CPU, and of one shape.
    pub(super) fn apply(self, parameter: &Tensor, moments: [&Tensor; 2], gradient: &Tensor) -> Result<()> {
        let [first, second] = moments;
        let average =
            |decay: f64, squared| MovingAverage { decay: decay as f32, scale: self.scale as f32, squared };
        first.inplace_op2(gradient, &average(self.betas.0, false))?;
        second.inplace_op2(gradient, &average(self.betas.1, true))?;
        parameter.inplace_op3(first, second, &self)
    }
}

impl InplaceOp2 for MovingAverage {
    fn name(&self) -> &'static str {
        "moving-average"
    }

    fn cpu_fwd(&self, average: &mut CpuStorage, a: &Layout, gradient: &CpuStorage, g: &Layout) -> Result<()> {
        let Self { decay, scale, squared } = *self;
        for (average, &gradient) in floats_mut(average, a)?.iter_mut().zip(floats(gradient, g)?) {
            let gradient = scale * gradient;
            let sample = if squared { gradient * gradient } else { gradient };
            *average = decay * *average + (1.0 - decay) * sample;
        }
        Ok(())
    }
}

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        p: &Layout,
        first: &CpuStorage,
        f: &Layout,
        second: &CpuStorage,
        s: &Layout,
    ) -> Result<()> {
        let unbiased = |beta: f64| (1.0 / (1.0 - beta.powi(self.t))) as f32;
        let (of_first, of_second) = (unbiased(self.betas.0), unbiased(self.betas.1));
        let (kept, rate, eps) = (self.kept as f32, self.rate as f32, super::EPS as f32);
        let moments = floats(first, f)?.iter().zip(floats(second, s)?);
        for (parameter, (first, second)) in floats_mut(parameter, p)?.iter_mut().zip(moments) {
            let direction = first * of_first / ((second * of_second).sqrt() + eps);
            *parameter = kept * *parameter - rate * direction;
        }
        Ok(())
    }
}

fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = range(layout)?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

fn floats_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let (start, end) = range(layout)?;
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        _ => candle_core::bail!("the optimiser updates f32"),
    }
}

fn range(layout: &Layout) -> Result<(usize, usize)> {
    layout.contiguous_offsets().ok_or_else(|| candle_core::Error::Msg("a tensor is not contiguous".into()))
}
