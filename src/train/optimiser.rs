//! AdamW with the additions of the recipe: warm-up and decay of the rate, clipping by the global norm, and
//! adaptive clipping for a network without normalisation layers.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use rayon::prelude::*;

use super::config::OptimiserConfig;
use crate::error::Result;

mod kernel;

const EPS: f64 = 1e-8;
/// Least norm of weights in adaptive clipping, for weights near 0.
const ADAPTIVE_FLOOR: f64 = 1e-3;

/// Gradients by parameter name, ordered by name, so that sums over them are the same in every run.
pub type Gradients = BTreeMap<String, Tensor>;

/// Returns the gradients of `parameters` from the result of candle's backward pass, detached from their
/// graph. The moments of the optimiser would otherwise keep the graph of every update.
pub fn gradients(parameters: &BTreeMap<String, Var>, store: &GradStore) -> Gradients {
    let of = |(name, var): (&String, &Var)| Some((name.clone(), store.get(var)?.detach()));
    parameters.iter().filter_map(of).collect()
}

/// Adds `more` to `sum` by name.
///
/// # Errors
/// Two gradients of the same name differ in shape.
pub fn accumulate(sum: &mut Gradients, more: Gradients) -> Result<()> {
    for (name, gradient) in more {
        let total = match sum.get(&name) {
            Some(have) => (have + gradient)?,
            None => gradient,
        };
        sum.insert(name, total);
    }
    Ok(())
}

/// A trainable tensor with its two moments.
struct ParameterState {
    name: String,
    var: Var,
    first: Tensor,
    second: Tensor,
}

/// State of the optimiser, with the parameters: everything that an update changes.
pub struct AdamW {
    config: OptimiserConfig,
    steps: u64,
    parameters: Vec<ParameterState>,
}

impl AdamW {
    /// Creates the state for `steps` updates of `parameters`.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn new(config: OptimiserConfig, steps: u64, parameters: &BTreeMap<String, Var>) -> Result<Self> {
        let parameter = |(name, var): (&String, &Var)| {
            let zeros = || Tensor::zeros(var.shape(), DType::F32, var.device());
            Ok(ParameterState { name: name.clone(), var: var.clone(), first: zeros()?, second: zeros()? })
        };
        Ok(Self { config, steps, parameters: parameters.iter().map(parameter).collect::<Result<_>>()? })
    }

    /// Performs update `step` (from 0). Returns the global norm of the gradients before clipping.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn update(&mut self, step: u64, mut gradients: Gradients) -> Result<f64> {
        if let Some(limit) = self.config.adaptive_clip {
            for parameter in self.parameters.iter().filter(|s| s.is_matrix() && !s.is_output_layer()) {
                if let Some(gradient) = gradients.get_mut(&parameter.name) {
                    *gradient = clip_units(gradient, &parameter.var.as_detached_tensor(), limit)?;
                }
            }
        }
        let norm = global_norm(&gradients)?;
        let scale = match self.config.clip_norm {
            Some(limit) if norm > limit => limit / norm,
            _ => 1.0,
        };
        let (config, rate) = (self.config, self.config.rate_at(step, self.steps));
        self.parameters.par_iter_mut().try_for_each(|parameter| match gradients.get(&parameter.name) {
            Some(gradient) => parameter.update(&config, rate, step, gradient, scale),
            None => Ok(()),
        })?;
        Ok(norm)
    }

    /// All tensors of the state by name: `parameter.*`, `first.*`, `second.*`.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let of = |s: &ParameterState| {
            [("parameter", s.var.as_tensor()), ("first", &s.first), ("second", &s.second)]
                .map(|(role, tensor)| (format!("{role}.{}", s.name), tensor.detach()))
        };
        self.parameters.iter().flat_map(of).collect()
    }

    /// Restores a state bit by bit. `state` holds the tensors of [`state`](Self::state).
    ///
    /// # Errors
    /// A tensor is missing or has a wrong shape; the text names it.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), String> {
        for parameter in &mut self.parameters {
            let get = |role: &str| {
                let name = format!("{role}.{}", parameter.name);
                let tensor = state.get(&name).ok_or_else(|| format!("`{name}` is missing"))?;
                if tensor.shape() != parameter.var.shape() {
                    return Err(format!(
                        "`{name}` has shape {:?}, not {:?}",
                        tensor.shape(),
                        parameter.var.shape()
                    ));
                }
                tensor.to_device(parameter.var.device()).map_err(|e| e.to_string())
            };
            let (value, first, second) = (get("parameter")?, get("first")?, get("second")?);
            parameter.var.set(&value).map_err(|e| e.to_string())?;
            (parameter.first, parameter.second) = (first, second);
        }
        Ok(())
    }
}

impl ParameterState {
    fn update(
        &mut self,
        config: &OptimiserConfig,
        rate: f64,
        step: u64,
        gradient: &Tensor,
        scale: f64,
    ) -> Result<()> {
        let rate = rate * self.rate_factor(config);
        let kept = if self.is_decayed() { 1.0 - rate * config.weight_decay } else { 1.0 };
        let update = kernel::Update { scale, betas: config.betas, t: (step + 1) as i32, rate, kept };
        let gradient = gradient.detach();
        if self.var.device().is_cpu() {
            let moments = [&self.first, &self.second];
            return Ok(update.apply(self.var.as_tensor(), moments, &gradient.contiguous()?)?);
        }
        let (b1, b2) = config.betas;
        let gradient = (gradient * scale)?;
        self.first = ((&self.first * b1)? + (&gradient * (1.0 - b1))?)?;
        self.second = ((&self.second * b2)? + (gradient.sqr()? * (1.0 - b2))?)?;
        let first = (&self.first / (1.0 - b1.powi(update.t)))?;
        let second = (&self.second / (1.0 - b2.powi(update.t)))?;
        let direction = (first / (second.sqrt()? + EPS)?)?;
        let next = ((self.var.as_tensor() * kept)? - (direction * rate)?)?;
        Ok(self.var.set(&next)?)
    }

    /// Factor on the common rate.
    fn rate_factor(&self, config: &OptimiserConfig) -> f64 {
        match self.name.as_str() {
            name if name.ends_with("attention_gate") || name.ends_with("feed_forward_gate") => {
                config.gate_rate
            }
            name if name.starts_with("resampler.") => config.resampler_rate,
            _ => 1.0,
        }
    }

    fn is_matrix(&self) -> bool {
        self.var.rank() >= 2
    }

    /// Whether this is a last linear layer, which adaptive clipping leaves out (arXiv 2102.06171, section
    /// 4.1): here those of the joint space.
    fn is_output_layer(&self) -> bool {
        self.name.starts_with("joint_space.")
    }

    /// Whether weight decay applies: to matrices outside the resampler (Flamingo, appendix B.1.2 of its first
    /// version), but not to gains.
    fn is_decayed(&self) -> bool {
        self.is_matrix() && !self.name.starts_with("resampler.") && !self.name.ends_with(".gain")
    }
}

/// Global norm of the gradients.
fn global_norm(gradients: &Gradients) -> Result<f64> {
    let squares = gradients.values().map(|g| Ok(f64::from(g.sqr()?.sum_all()?.to_scalar::<f32>()?)));
    Ok(squares.sum::<Result<f64>>()?.sqrt())
}

/// Scales the gradient of every unit (row of the first axis) down to `limit` times the norm of its weights.
fn clip_units(gradient: &Tensor, weight: &Tensor, limit: f64) -> Result<Tensor> {
    let norms = |t: &Tensor| t.flatten_from(1)?.sqr()?.sum_keepdim(1)?.sqrt(); // (units, 1)
    let allowed = (norms(weight)?.maximum(ADAPTIVE_FLOOR)? * limit)?;
    let scale = (allowed / norms(gradient)?.maximum(1e-6)?)?.minimum(1.0)?;
    Ok(gradient.flatten_from(1)?.broadcast_mul(&scale)?.reshape(gradient.shape())?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::config::Decay;
    use super::*;

    #[test]
    fn rate_warms_up_and_decays() {
        let config = |decay| OptimiserConfig { rate: 2.0, warm_up: 4, decay, ..OptimiserConfig::default() };
        for (decay, step, expected) in [
            (Decay::Constant, 0, 0.5),
            (Decay::Constant, 3, 2.0),
            (Decay::Constant, 99, 2.0),
            (Decay::Linear, 4, 2.0),
            (Decay::Linear, 9, 1.0),
            (Decay::Cosine, 9, 1.0),
            (Decay::Cosine, 14, 0.0),
        ] {
            let rate = config(decay).rate_at(step, 14);
            assert!((rate - expected).abs() < 1e-12, "{decay:?} {step}: {rate}");
        }
    }

    /// torch.optim.AdamW(lr=0.1, betas=(0.9, 0.98), weight_decay=0.1), three updates of a matrix.
    #[test]
    fn updates_equal_pytorch() {
        let start = Tensor::new(&[[0.5f32, -1.0], [2.0, 0.1]], &Device::Cpu).unwrap();
        let var = Var::from_tensor(&start).unwrap();
        let parameters = BTreeMap::from([("w".to_string(), var.clone())]);
        let config = OptimiserConfig {
            rate: 0.1,
            warm_up: 0,
            decay: Decay::Constant,
            clip_norm: None,
            ..OptimiserConfig::default()
        };
        let mut optimiser = AdamW::new(config, 3, &parameters).unwrap();
        for (step, gradient) in
            [[[0.1f32, -0.2], [0.3, 0.0]], [[-0.5, 0.1], [0.3, 0.2]], [[0.2, 0.2], [-0.1, 0.4]]]
                .iter()
                .enumerate()
        {
            let gradient = Tensor::new(gradient, &Device::Cpu).unwrap();
            optimiser.update(step as u64, BTreeMap::from([("w".into(), gradient)])).unwrap();
        }
        let got = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let want = PYTORCH;
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < 1e-6, "{got:?}");
        }
    }

    /// candle's gradient of a product keeps its factors, and moments computed from it would keep every
    /// update.
    #[test]
    fn moments_keep_no_graph() {
        let var = Var::new(&[[0.5f32, -1.0]], &Device::Cpu).unwrap();
        let parameters = BTreeMap::from([("w".to_string(), var.clone())]);
        let store = var.matmul(&var.t().unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(
            store.get(&var).unwrap().track_op(),
            "candle now detaches gradients, so this test proves nothing"
        );
        let config = OptimiserConfig { adaptive_clip: Some(0.01), ..OptimiserConfig::default() };
        let mut optimiser = AdamW::new(config, 3, &parameters).unwrap();
        optimiser.update(0, gradients(&parameters, &store)).unwrap();
        assert!(!optimiser.parameters[0].first.track_op() && !optimiser.parameters[0].second.track_op());
    }

    const PYTORCH: [f32; 4] = [0.465_817_5, -0.873_114_4, 1.682_770_8, -0.058_516_2];
}
