//! Text tower of contrastive pre-training: a frozen BERT sentence encoder with its last hidden states
//! averaged over the tokens.

use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use candle_transformers::models::bert::{BertModel, Config};
use tokenizers::{Encoding, Tokenizer, TruncationParams};

use crate::error::{Error, Result};
use crate::weights::{Quantization, Rename, Weights};

/// Longest text in tokens, special tokens included. Longer texts are truncated.
const MAX_TOKENS: usize = 256;

/// Texts per pass. They are sorted by length, so that a pass contains little padding.
const BATCH: usize = 32;

/// Frozen BERT sentence encoder.
pub struct TextTower {
    tokenizer: Tokenizer,
    model: BertModel,
    width: usize,
}

impl TextTower {
    /// Opens a directory with `config.json`, `tokenizer.json` and `model.safetensors`.
    ///
    /// # Errors
    /// A file is missing or malformed, or the files do not fit together; the message names the file.
    pub fn open(directory: &Path, device: &Device) -> Result<Self> {
        let config = read_config(&directory.join("config.json"))?;
        let tokenizer = read_tokenizer(&directory.join("tokenizer.json"), &config)?;
        let model = read_model(&directory.join("model.safetensors"), &config, device)?;
        Ok(Self { tokenizer, model, width: config.hidden_size })
    }

    /// d, the width of a text vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Encodes texts as the mean of their last hidden states: (n, d) in f32, in the order of `texts`, not
    /// normalised and without a gradient. The vector of a text does not depend on the others.
    ///
    /// # Errors
    /// The tokenizer refuses a text, or a text has no tokens.
    pub fn encode(&self, texts: &[impl AsRef<str>]) -> Result<Tensor> {
        let refused = |e: tokenizers::Error| Error::Tokenizer(e.to_string());
        let encode = |text| self.tokenizer.encode_fast(text, true).map_err(refused);
        let mut encoded: Vec<Encoding> =
            texts.iter().map(|text| encode(text.as_ref())).collect::<Result<_>>()?;
        if let Some(i) = encoded.iter().position(|e| e.is_empty()) {
            return Err(Error::Tokenizer(format!("text {i} has no tokens")));
        }
        if texts.is_empty() {
            return Ok(Tensor::zeros((0, self.width), DType::F32, &self.model.device)?);
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| encoded[i].len());
        let sorted: Vec<Encoding> = order.iter().map(|&i| std::mem::take(&mut encoded[i])).collect();
        let means = sorted.chunks(BATCH).map(|batch| self.means(batch)).collect::<Result<Vec<_>>>()?;
        let mut places = vec![0u32; order.len()];
        for (place, i) in (0u32..).zip(order) {
            places[i] = place;
        }
        let places = Tensor::new(places, &self.model.device)?;
        Ok(Tensor::cat(&means, 0)?.index_select(&places, 0)?.detach())
    }

    /// Encodes one batch: (n, d).
    fn means(&self, batch: &[Encoding]) -> Result<Tensor> {
        let longest = batch.iter().map(Encoding::len).max().unwrap_or(0);
        let padded = |of: fn(&Encoding) -> &[u32]| {
            let row = |e| {
                let values: &[u32] = of(e);
                values.iter().copied().chain(std::iter::repeat_n(0, longest - values.len()))
            };
            let flat: Vec<u32> = batch.iter().flat_map(row).collect();
            Tensor::from_vec(flat, (batch.len(), longest), &self.model.device)
        };
        let mask = padded(Encoding::get_attention_mask)?; // (n, l)
        let ids = padded(Encoding::get_ids)?;
        let hidden = self.model.forward(&ids, &padded(Encoding::get_type_ids)?, Some(&mask))?; // (n, l, d)
        let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
        Ok(hidden.broadcast_mul(&mask)?.sum(1)?.broadcast_div(&mask.sum(1)?)?)
    }
}

fn read_config(path: &Path) -> Result<Config> {
    let bad = |reason: String| Error::Config { path: path.into(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    let config: Config = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let (width, heads) = (config.hidden_size, config.num_attention_heads);
    if width == 0 || heads == 0 || width % heads != 0 {
        return Err(bad(format!("a width of {width} is not divided by {heads} heads")));
    }
    match config.model_type.as_deref() {
        None | Some("bert") => Ok(config),
        Some(other) => Err(bad(format!("model_type is `{other}`, not `bert`"))),
    }
}

fn read_tokenizer(path: &Path, config: &Config) -> Result<Tokenizer> {
    let bad = |reason: String| Error::Tokenizer(format!("{}: {reason}", path.display()));
    let mut tokenizer = Tokenizer::from_file(path).map_err(|e| bad(e.to_string()))?;
    let greatest = tokenizer.get_vocab(true).values().max().copied().unwrap_or(0) as usize;
    if greatest >= config.vocab_size {
        return Err(bad(format!("id {greatest} is beyond the model's {} tokens", config.vocab_size)));
    }
    // The file contains truncation and padding settings of its publisher.
    let max_length = MAX_TOKENS.min(config.max_position_embeddings);
    let truncation = TruncationParams { max_length, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(|e| bad(e.to_string()))?.with_padding(None);
    Ok(tokenizer)
}

fn read_model(path: &Path, config: &Config, device: &Device) -> Result<BertModel> {
    // The pooler serves the next-sentence task of BERT, and the position ids are 0, 1, 2, ..
    let rename = |name: &str| match name {
        "embeddings.position_ids" | "pooler.dense.weight" | "pooler.dense.bias" => Rename::Ignore,
        _ => Rename::To(name.into()),
    };
    let weights = Weights::open(&[path.into()], device, DType::F32, Quantization::Keep, &rename)?;
    let first_error = Arc::default();
    let backend = WeightsBackend { weights: weights.clone(), first_error: Arc::clone(&first_error) };
    let names = VarBuilder::from_backend(Box::new(backend), DType::F32, device.clone());
    let model = BertModel::load(names, config);
    if let Some(error) = first_error.lock().expect("error lock").take() {
        return Err(error);
    }
    weights.finish()?;
    Ok(model?)
}

/// Adapter from [`Weights`] to the backend interface of candle's models.
struct WeightsBackend {
    weights: Weights,
    /// The first error. candle tries other names after an error and keeps only its text.
    first_error: Arc<Mutex<Option<Error>>>,
}

impl SimpleBackend for WeightsBackend {
    fn get(&self, shape: Shape, name: &str, init: Init, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        self.weights.get(shape, name, init).map_err(|error| {
            let message = candle_core::Error::msg(&error);
            self.first_error.lock().expect("error lock").get_or_insert(error);
            message
        })
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("`{name}` was requested without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        false
    }
}
