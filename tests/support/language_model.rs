//! Paths of the pretrained models, and forward passes through any language model.

use std::path::PathBuf;

use candle_core::{D, Result, Tensor};
use flamingo::language::kv_cache::blocks_for;
use flamingo::language::{KvCache, KvPool, LanguageModel, PackedBatch};

use crate::{repository, target};

/// Returns the path of SmolLM2-135M-Instruct in 4 bits.
///
/// # Panics
/// Panics if the file is absent: a test that needs the model fails, it never skips.
pub fn smollm2() -> PathBuf {
    fetched("language", "SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// Returns the folder of all-MiniLM-L6-v2, the text tower.
///
/// # Panics
/// Panics if the folder is absent.
pub fn all_minilm() -> PathBuf {
    fetched("text", "all-MiniLM-L6-v2")
}

fn fetched(name: &str, place: &str) -> PathBuf {
    let path = repository::root().join("models").join(name).join(place);
    let command = format!("python3 scripts/fetch_models.py {name}");
    assert!(path.exists(), "a model is not there: run `{command}` ({})", path.display());
    path
}

/// Runs one packed pass. Returns the hidden states after the embedding and after every layer, then the logits.
pub fn stages(model: &dyn LanguageModel, rows: Vec<(&[u32], &mut KvCache)>) -> flamingo::Result<Vec<Tensor>> {
    let ids: Vec<u32> = rows.iter().flat_map(|(ids, _)| ids.iter().copied()).collect();
    let rows =
        PackedBatch::new(rows.into_iter().map(|(ids, cache)| (ids.len(), cache)), &model.sizes().cache)?;
    let mut stages = vec![model.embed(&Tensor::new(ids, target::device())?, rows.positions())?];
    for i in 0..model.n_layers() {
        stages.push(model.layer(i, &stages[i], &rows)?);
    }
    rows.advance();
    stages.push(model.head(&stages[model.n_layers()])?);
    Ok(stages)
}

/// Returns the logits of one packed pass: (n, vocabulary).
pub fn logits(model: &dyn LanguageModel, rows: Vec<(&[u32], &mut KvCache)>) -> flamingo::Result<Tensor> {
    Ok(stages(model, rows)?.pop().expect("logits are the last stage"))
}

/// Generates `n` tokens after `prompt` greedily.
pub fn greedy(model: &dyn LanguageModel, prompt: &[u32], n: usize) -> flamingo::Result<Vec<u32>> {
    let pool = KvPool::new(&model.sizes().cache, blocks_for(prompt.len() + n))?;
    let mut cache = KvCache::new(&pool);
    let mut ids = prompt.to_vec();
    let mut done = 0;
    while ids.len() < prompt.len() + n {
        let logits = logits(model, vec![(&ids[done..], &mut cache)])?;
        done = ids.len();
        ids.push(*best(&logits)?.last().expect("a token was fed"));
    }
    Ok(ids.split_off(prompt.len()))
}

/// Returns the most likely id of every row of `logits`.
pub fn best(logits: &Tensor) -> Result<Vec<u32>> {
    logits.argmax(D::Minus1)?.to_vec1()
}

/// Returns the log-likelihood of each id but the first, from the logits of all ids but the last.
pub fn log_likelihoods(logits: &Tensor, ids: &[u32]) -> Result<Vec<f32>> {
    let scored = logits.narrow(0, 0, ids.len() - 1)?;
    let next = Tensor::new(&ids[1..], logits.device())?.unsqueeze(1)?;
    let chosen = scored.gather(&next, 1)?.squeeze(1)?;
    (chosen - scored.log_sum_exp(1)?)?.to_vec1()
}
