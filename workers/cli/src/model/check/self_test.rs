//! The tests of `flamingo model check`, over any model that answers about pictures.

use anyhow::{Context, ensure};
use candle_core::{D, DType, Tensor};
use flamingo::generate::Completion;

/// Generated tokens per answer.
pub const NEW_TOKENS: usize = 8;
/// Least change of the logits by another picture, relative to their size. Closed gates give exactly 0.
const LEAST_CHANGE: f64 = 1e-4;

/// A model with two pictures and two prompts, which the tests name by their numbers 0 and 1.
pub trait CheckedModel {
    fn gates_open(&self) -> bool;

    fn cross_attention_layers(&self) -> Vec<usize>;

    /// Whether it computes in f32.
    fn is_f32(&self) -> bool;

    fn visual_tokens(&self, picture: usize) -> &Tensor;

    /// Token ids of a prompt about one picture.
    fn prompt(&self, prompt: usize) -> &[u32];

    /// Logits (l, vocabulary) of a whole sequence, without a cache.
    fn logits(&self, ids: &[u32], picture: usize) -> anyhow::Result<Tensor>;

    /// Greedy answers of [`NEW_TOKENS`] tokens to pairs of prompt and picture, with a cache, in one batch.
    fn generate(&self, requests: &[(usize, usize)]) -> anyhow::Result<Vec<Completion>>;
}

/// The tests of a model.
pub struct SelfTest<'m, M> {
    pub model: &'m M,
}

impl<M: CheckedModel> SelfTest<'_, M> {
    /// Runs all tests. Returns the name of each, with a detail or the error.
    pub fn run(&self) -> [(&'static str, anyhow::Result<String>); 5] {
        [
            ("gates are open", self.gates()),
            ("all values are finite", self.finite()),
            ("another picture changes the answer", self.picture_matters()),
            ("cached equals uncached", self.cached_equals_uncached()),
            ("batch equals single", self.batch_equals_single()),
        ]
    }

    fn gates(&self) -> anyhow::Result<String> {
        ensure!(self.model.gates_open(), "every gate is closed: the model is untrained and cannot see");
        Ok(format!("cross-attention before layers {:?}", self.model.cross_attention_layers()))
    }

    fn finite(&self) -> anyhow::Result<String> {
        for picture in [0, 1] {
            let name = |what: &str| format!("{what} of picture {}", picture + 1);
            check_finite(&name("visual tokens"), self.model.visual_tokens(picture))?;
            check_finite(&name("logits"), &self.model.logits(self.model.prompt(0), picture)?)?;
        }
        Ok("visual tokens and logits of two pictures".into())
    }

    fn picture_matters(&self) -> anyhow::Result<String> {
        let logits = |picture| last(&self.model.logits(self.model.prompt(0), picture)?);
        let (a, b) = (logits(0)?, logits(1)?);
        let change = rms(&(&a - &b)?)? / rms(&a)?;
        // Not `change < LEAST_CHANGE`, which is false for NaN.
        ensure!(
            change >= LEAST_CHANGE,
            "the logits change by {change:.1e} of their size, at least {LEAST_CHANGE:.0e} are expected"
        );
        Ok(format!("the logits change by {change:.1e} of their size"))
    }

    fn cached_equals_uncached(&self) -> anyhow::Result<String> {
        let prompt = self.model.prompt(0);
        let cached = self.model.generate(&[(0, 0)])?.remove(0);
        let ids: Vec<u32> = prompt.iter().chain(&cached.ids).copied().collect();
        let logits = self.model.logits(&ids, 0)?.to_dtype(DType::F32)?;
        let mut uncached = 0.0;
        for (n, &id) in cached.ids.iter().enumerate() {
            let row: Vec<f32> = logits.get(prompt.len() + n - 1)?.to_vec1()?;
            uncached += log_probability(&row, id as usize).context("an id beyond the vocabulary")?;
        }
        let difference = self.check_close("log-likelihood", cached.log_likelihood, uncached)?;
        Ok(format!("the log-likelihood of {NEW_TOKENS} tokens differs by {difference:.1e}"))
    }

    fn batch_equals_single(&self) -> anyhow::Result<String> {
        let requests = [(0, 0), (0, 1), (1, 0), (1, 1)];
        let together = self.model.generate(&requests)?;
        let mut worst = 0f64;
        for (n, (request, batched)) in requests.iter().zip(&together).enumerate() {
            let alone = self.model.generate(std::slice::from_ref(request))?.remove(0);
            let name = format!("answer {} of {}", n + 1, requests.len());
            if self.model.is_f32() {
                ensure!(
                    alone.ids == batched.ids,
                    "{name}: the tokens are {:?} alone and {:?} in a batch",
                    alone.ids,
                    batched.ids
                );
            }
            worst = worst.max(self.check_close(&name, alone.log_likelihood, batched.log_likelihood)?);
        }
        Ok(format!("log-likelihoods of {} answers differ by {worst:.1e} at most", requests.len()))
    }

    /// Returns the difference of two log-likelihoods, relative to their size.
    fn check_close(&self, name: &str, a: f64, b: f64) -> anyhow::Result<f64> {
        let tolerance = if self.model.is_f32() { 1e-3 } else { 5e-2 };
        let difference = (a - b).abs() / a.abs().max(1.0);
        ensure!(
            difference <= tolerance,
            "{name}: {a:.6} and {b:.6} differ by {difference:.1e}, at most {tolerance:.0e} are expected"
        );
        Ok(difference)
    }
}

fn check_finite(name: &str, tensor: &Tensor) -> anyhow::Result<()> {
    let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let wrong = values.iter().filter(|value| !value.is_finite()).count();
    ensure!(wrong == 0, "{name}: {wrong} of {} values are infinite or no numbers", values.len());
    Ok(())
}

/// Logits of the last position.
fn last(logits: &Tensor) -> anyhow::Result<Tensor> {
    Ok(logits.get(logits.dim(0)? - 1)?.to_dtype(DType::F32)?)
}

fn rms(tensor: &Tensor) -> anyhow::Result<f64> {
    Ok(f64::from(tensor.sqr()?.mean(D::Minus1)?.to_scalar::<f32>()?).sqrt())
}

/// Natural logarithm of the probability of a token.
fn log_probability(logits: &[f32], id: usize) -> Option<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    Some(f64::from(*logits.get(id)?) - largest - sum.ln())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use flamingo::generate::Finish;

    use super::*;

    /// Fault of a model.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fault {
        None,
        ClosedGates,
        /// The logits about the second picture are not finite.
        NoNumbers,
        /// The text attends to no picture, though the gates are open.
        Blind,
        /// The cache has lost the first token.
        Cache,
        /// The cached values are wrong by some percent.
        RoughCache,
        /// All rows of a batch have the picture of the first one.
        Batch,
    }

    /// A model whose logits are a function of all tokens so far and of the picture.
    struct Fake {
        fault: Fault,
        visual_tokens: Tensor,
        prompts: [Vec<u32>; 2],
    }

    const VOCABULARY: u32 = 7;

    impl Fake {
        fn new(fault: Fault) -> Self {
            let visual_tokens = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
            Self { fault, visual_tokens, prompts: [vec![1, 2, 3], vec![4, 5, 6, 1, 2]] }
        }

        fn row(&self, ids: &[u32], picture: usize) -> Vec<f32> {
            let picture = match self.fault {
                Fault::ClosedGates | Fault::Blind => 0,
                _ => picture,
            };
            if (self.fault, picture) == (Fault::NoNumbers, 1) {
                return vec![f32::NAN; VOCABULARY as usize];
            }
            let state = ids.iter().fold(picture as u32 + 1, |state, id| (state * 31 + id * 7 + 5) % 1009);
            (1..=VOCABULARY).map(|id| (state as f32 * 0.37 * id as f32).sin()).collect()
        }

        fn answer(&self, prompt: usize, picture: usize) -> Completion {
            let mut ids = self.prompts[prompt].clone();
            let (begin, mut log_likelihood) = (ids.len(), 0.0);
            for _ in 0..NEW_TOKENS {
                let cached = if self.fault == Fault::Cache { &ids[1..] } else { &ids[..] };
                let mut row = self.row(cached, picture);
                if self.fault == Fault::RoughCache {
                    row.iter_mut().for_each(|logit| *logit *= 1.03);
                }
                let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
                log_likelihood += log_probability(&row, best).unwrap();
                ids.push(best as u32);
            }
            Completion { ids: ids.split_off(begin), log_likelihood, finish: Finish::Length }
        }
    }

    impl CheckedModel for Fake {
        fn gates_open(&self) -> bool {
            self.fault != Fault::ClosedGates
        }

        fn cross_attention_layers(&self) -> Vec<usize> {
            vec![0]
        }

        fn is_f32(&self) -> bool {
            true
        }

        fn visual_tokens(&self, _: usize) -> &Tensor {
            &self.visual_tokens
        }

        fn prompt(&self, prompt: usize) -> &[u32] {
            &self.prompts[prompt]
        }

        fn logits(&self, ids: &[u32], picture: usize) -> anyhow::Result<Tensor> {
            let rows: Vec<f32> = (1..=ids.len()).flat_map(|n| self.row(&ids[..n], picture)).collect();
            Ok(Tensor::from_vec(rows, (ids.len(), VOCABULARY as usize), &Device::Cpu)?)
        }

        fn generate(&self, requests: &[(usize, usize)]) -> anyhow::Result<Vec<Completion>> {
            let first = requests[0].1;
            let picture = |picture| if self.fault == Fault::Batch { first } else { picture };
            Ok(requests.iter().map(|&(prompt, of)| self.answer(prompt, picture(of))).collect())
        }
    }

    #[test]
    fn each_fault_fails_its_tests() {
        const GATES: &str = "gates are open";
        const FINITE: &str = "all values are finite";
        const PICTURE: &str = "another picture changes the answer";
        const CACHE: &str = "cached equals uncached";
        const BATCH: &str = "batch equals single";
        for (fault, expected) in [
            (Fault::None, &[][..]),
            (Fault::ClosedGates, &[GATES, PICTURE]),
            (Fault::NoNumbers, &[FINITE, PICTURE, BATCH]),
            (Fault::Blind, &[PICTURE]),
            (Fault::Cache, &[CACHE]),
            (Fault::RoughCache, &[CACHE]),
            (Fault::Batch, &[BATCH]),
        ] {
            let model = Fake::new(fault);
            let results = SelfTest { model: &model }.run();
            let failed: Vec<_> =
                results.iter().filter(|(_, result)| result.is_err()).map(|(name, _)| *name).collect();
            assert_eq!(failed, expected, "{fault:?}: {results:?}");
        }
    }

    #[test]
    fn log_probabilities_are_normalised() {
        let logits = [1.0, -2.0, 0.5];
        let sum: f64 = (0..3).map(|id| log_probability(&logits, id).unwrap().exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        assert_eq!(log_probability(&logits, 3), None);
    }

    #[test]
    fn values_that_are_no_numbers_are_counted() {
        let tensor = Tensor::new(&[1f32, f32::NAN, f32::INFINITY], &Device::Cpu).unwrap();
        let error = check_finite("logits", &tensor).unwrap_err();
        assert_eq!(error.to_string(), "logits: 2 of 3 values are infinite or no numbers");
    }
}
