//! `config.json` and `preprocessor_config.json` of Llama 3.2 Vision. transformers leaves out of a saved configuration what
//! equals its defaults, so the defaults are here.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::RowMask;
use crate::error::{Error, Result};
use crate::family::{FrameMode, config_error, optional_json};
use crate::language::llama::LlamaConfig;
use crate::vision::mllama::TowerConfig;
use crate::vision::{Fit, Preprocess, TileGrid};

/// Rows of the embedding beyond those of the head, as the reference adds them.
const EXTRA_EMBEDDINGS: usize = 8;

/// Sizes and conventions of one checkpoint.
#[derive(Debug, Clone)]
pub(super) struct MllamaConfig {
    pub tower: TowerConfig,
    /// Llama without the cross-attention layers.
    pub language: LlamaConfig,
    /// Numbers of the cross-attention layers among all layers, ascending.
    pub cross_layers: Vec<usize>,
    pub image_token: u32,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end a text; `generation_config.json` comes first.
    pub eos: Vec<u32>,
    /// Row mask that `config.json` asks for; a key of ours.
    pub row_mask: RowMask,
    /// Treatment of the frames of a video that `config.json` asks for; a key of ours.
    pub frame_mode: FrameMode,
    pub preprocess: Preprocess,
}

#[derive(Deserialize)]
struct TopLevel {
    vision_config: Value,
    text_config: Value,
    #[serde(default = "image_token")]
    image_token_index: u32,
    #[serde(default)]
    row_mask: RowMask,
    #[serde(default = "sheet")]
    frame_mode: FrameMode,
}

fn sheet() -> FrameMode {
    FrameMode::Sheet
}

fn image_token() -> u32 {
    128_256
}

#[derive(Deserialize)]
struct VisionJson {
    hidden_size: usize,
    #[serde(alias = "attention_heads")]
    num_attention_heads: usize,
    num_hidden_layers: usize,
    num_global_layers: usize,
    num_channels: usize,
    intermediate_size: usize,
    vision_output_dim: usize,
    image_size: usize,
    patch_size: usize,
    max_num_tiles: usize,
    intermediate_layers_indices: Vec<usize>,
    norm_eps: f64,
    hidden_act: String,
    #[serde(default)]
    supported_aspect_ratios: Option<Vec<(u32, u32)>>,
}

#[derive(Deserialize)]
struct PreprocessorJson {
    size: SizeJson,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    max_image_tiles: usize,
    #[serde(default = "bilinear")]
    resample: u32,
    #[serde(default = "yes")]
    do_resize: bool,
    #[serde(default = "yes")]
    do_pad: bool,
    #[serde(default = "yes")]
    do_rescale: bool,
    #[serde(default = "yes")]
    do_normalize: bool,
    #[serde(default = "byte")]
    rescale_factor: f64,
}

#[derive(Deserialize)]
struct SizeJson {
    height: usize,
    width: usize,
}

fn bilinear() -> u32 {
    2
}

fn yes() -> bool {
    true
}

fn byte() -> f64 {
    1.0 / 255.0
}

impl MllamaConfig {
    /// Reads the configuration of a model directory.
    ///
    /// # Errors
    /// A file or key is missing, a size is out of bounds, or two of them contradict each other.
    pub(super) fn read(directory: &Path, json: &Value) -> Result<Self> {
        let error = |reason| config_error(directory, reason);
        let top: TopLevel = serde_json::from_value(json.clone()).map_err(|e| error(e.to_string()))?;
        let tower = tower(&top.vision_config).map_err(error)?;
        let text = with_defaults(&top.text_config, text_defaults());
        let (language, cross_layers) = language(&text).map_err(error)?;
        let ids = (language.vocabulary + EXTRA_EMBEDDINGS) as u32;
        if top.image_token_index >= ids {
            let token = top.image_token_index;
            return Err(error(format!(
                "`image_token_index` is {token}, beyond the {ids} rows of the embedding"
            )));
        }
        if top.frame_mode == FrameMode::Joint {
            return Err(error(
                "`frame_mode` is `joint`: the model has no map from several frames to one medium".into(),
            ));
        }
        let generation = optional_json(&directory.join("generation_config.json"))?;
        let sources = [&generation, &text, json];
        let token_ids = |key: &str| sources.iter().map(|json| ids_of(json, key)).find(|ids| !ids.is_empty());
        let preprocess = preprocess(directory, &tower)?;
        Ok(Self {
            tower,
            language,
            cross_layers,
            image_token: top.image_token_index,
            bos: token_ids("bos_token_id").and_then(|ids| ids.first().copied()),
            eos: token_ids("eos_token_id").unwrap_or_default(),
            row_mask: top.row_mask,
            frame_mode: top.frame_mode,
            preprocess,
        })
    }
}

/// Returns the numbers of a key that holds one or a list.
fn ids_of(json: &Value, key: &str) -> Vec<u32> {
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    match json.get(key) {
        Some(Value::Array(ids)) => ids.iter().filter_map(number).collect(),
        Some(value) => number(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn text_defaults() -> Value {
    json!({
        "vocab_size": 128_256, "hidden_size": 4096, "hidden_act": "silu", "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14_336, "rope_theta": 500_000.0,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 131_072, "tie_word_embeddings": false,
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        "bos_token_id": 128_000, "eos_token_id": 128_001,
    })
}

fn vision_defaults() -> Value {
    json!({
        "hidden_size": 1280, "hidden_act": "gelu", "num_hidden_layers": 32, "num_global_layers": 8, "num_channels": 3,
        "intermediate_size": 5120, "vision_output_dim": 7680, "image_size": 448, "patch_size": 14,
        "norm_eps": 1e-5, "max_num_tiles": 4, "intermediate_layers_indices": [3, 7, 15, 23, 30],
    })
}

/// Adds the defaults of keys that `json` lacks.
fn with_defaults(json: &Value, mut defaults: Value) -> Value {
    if let (Some(all), Some(given)) = (defaults.as_object_mut(), json.as_object()) {
        all.extend(given.clone());
    }
    defaults
}

fn tower(json: &Value) -> Result<TowerConfig, String> {
    let mut json = with_defaults(json, vision_defaults());
    let keys = ["num_attention_heads", "attention_heads"];
    match keys.map(|key| json.get(key).cloned()) {
        [None, None] => json["num_attention_heads"] = 16.into(),
        [Some(a), Some(b)] if a != b => return Err(format!("`{}` is {a}, `{}` is {b}", keys[0], keys[1])),
        [Some(_), Some(_)] => drop(json.as_object_mut().and_then(|json| json.remove(keys[1]))),
        [Some(_), None] | [None, Some(_)] => {}
    }
    let json: VisionJson = serde_json::from_value(json).map_err(|e| format!("vision_config: {e}"))?;
    if json.hidden_act != "gelu" || json.num_channels != 3 {
        let (activation, channels) = (json.hidden_act, json.num_channels);
        return Err(format!(
            "vision_config: activation `{activation}` and {channels} channels are not `gelu` and 3"
        ));
    }
    let config = TowerConfig {
        width: json.hidden_size,
        heads: json.num_attention_heads,
        layers: json.num_hidden_layers,
        global_layers: json.num_global_layers,
        feed_forward_width: json.intermediate_size,
        side: json.image_size,
        patch: json.patch_size,
        slots: json.max_num_tiles,
        kept: json.intermediate_layers_indices,
        norm_eps: json.norm_eps,
    };
    config.check()?;
    if json.vision_output_dim != config.features_width() {
        let (stated, width) = (json.vision_output_dim, config.features_width());
        return Err(format!("`vision_output_dim` is {stated}, but the features have width {width}"));
    }
    let grids = || TileGrid::all(config.slots as u32).map(|grid| (grid.rows, grid.columns));
    if json.supported_aspect_ratios.is_some_and(|ratios| !grids().eq(ratios)) {
        return Err(format!("`supported_aspect_ratios` are not those of {} tiles", config.slots));
    }
    Ok(config)
}

fn language(json: &Value) -> Result<(LlamaConfig, Vec<usize>), String> {
    let all = LlamaConfig::from_hugging_face(json)?;
    let cross = json.get("cross_attention_layers").and_then(Value::as_array);
    let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let cross: Option<Vec<usize>> = cross.map(|cross| cross.iter().map(number).collect()).unwrap_or_default();
    let ascending = |cross: &Vec<usize>| cross.is_sorted_by(|a, b| a < b);
    let bounded = |cross: &Vec<usize>| cross.last().is_some_and(|&last| last < all.layers);
    let cross = cross.filter(|cross| ascending(cross) && bounded(cross) && cross.len() < all.layers);
    let cross = cross.ok_or_else(|| {
        let stated = json.get("cross_attention_layers").unwrap_or(&Value::Null);
        format!("`cross_attention_layers` are {stated}, not ascending numbers of the {} layers", all.layers)
    })?;
    let layers = all.layers - cross.len();
    let language = LlamaConfig { layers, extra_embeddings: EXTRA_EMBEDDINGS, ..all };
    language.check()?;
    Ok((language, cross))
}

fn preprocess(directory: &Path, tower: &TowerConfig) -> Result<Preprocess> {
    let path = directory.join("preprocessor_config.json");
    let error = |reason: String| Error::Config { path: path.clone(), reason };
    let json = optional_json(&path)?;
    if json.is_null() {
        return Err(error("the file is missing".into()));
    }
    let json: PreprocessorJson = serde_json::from_value(json).map_err(|e| error(e.to_string()))?;
    let (side, slots) = (tower.side, tower.slots);
    if (json.size.height, json.size.width) != (side, side) || json.max_image_tiles != slots {
        let SizeJson { height, width } = json.size;
        let tiles = json.max_image_tiles;
        return Err(error(format!(
            "at most {tiles} tiles of {width}x{height} pixels, but config.json has {slots} of {side}x{side}"
        )));
    }
    let steps = json.do_resize && json.do_pad && json.do_rescale && json.do_normalize;
    if !steps || json.resample != bilinear() || (json.rescale_factor - byte()).abs() > 1e-9 {
        return Err(error("the steps are not resize (bilinear), pad, rescale by 1/255 and normalise".into()));
    }
    let fit = Fit::Tiles { slots: slots as u32 };
    let preprocess = Preprocess { fit, size: side as u32, mean: json.image_mean, std: json.image_std };
    preprocess.check().map_err(error)?;
    Ok(preprocess)
}
