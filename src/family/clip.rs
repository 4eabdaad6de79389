//! CLIP on disk: a directory in Hugging Face's or OpenCLIP's format, or a weight file in one.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::preprocessor::Preprocessor;
use crate::error::{Error, Result};
use crate::kernels::activation::Activation;
use crate::language::hugging_face::{ModelDirectory, read_json};
use crate::language::json::{flag, number, optional, size, text};
use crate::vision::clip_vit::{ClassToken, Config};
use crate::vision::{Fit, Preprocess};

/// Description in OpenCLIP's format.
const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
/// Weight files in OpenCLIP's format, in the order of preference.
const OPEN_CLIP_WEIGHTS: [&str; 2] = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"];

/// A vision encoder of CLIP on disk, described but not loaded.
pub(super) struct ClipSource {
    pub config: Config,
    pub files: Vec<PathBuf>,
}

impl ClipSource {
    /// Reads the description of a directory, or of the directory of a weight file.
    ///
    /// # Errors
    /// There is no description or no weights, or the description is of another model.
    pub fn open(path: &Path, class_token: ClassToken) -> Result<Self> {
        let (directory, file) = match path.is_dir() {
            true => (path, None),
            false => (path.parent().unwrap_or(Path::new("")), Some(path.to_path_buf())),
        };
        let open_clip =
            OPEN_CLIP_WEIGHTS.map(|name| directory.join(name)).into_iter().find(|file| file.exists());
        let hugging_face =
            ModelDirectory::open(directory).and_then(|model| Ok((model.weight_files()?, model)));
        let described = directory.join(OPEN_CLIP_CONFIG).exists();
        let (config, files) = match (hugging_face, open_clip) {
            (Ok((files, _)), _) => (read_hugging_face(directory, class_token)?, files),
            (Err(_), Some(file)) if described => (read_open_clip(directory, class_token)?, vec![file]),
            (Err(error), _) => return Err(error),
        };
        Ok(Self { config, files: file.map_or(files, |file| vec![file]) })
    }
}

fn config_error(path: &Path) -> impl Fn(String) -> Error {
    let path = path.to_path_buf();
    move |reason| Error::Config { path: path.clone(), reason }
}

/// Reads `config.json` of a `CLIPModel` or of a `CLIPVisionModel`.
fn read_hugging_face(directory: &Path, class_token: ClassToken) -> Result<Config> {
    let path = directory.join("config.json");
    let (json, error) = (read_json(&path)?, config_error(&path));
    let model_type = text(&json, "model_type").map_err(&error)?;
    let vision = match model_type.as_str() {
        "clip" => json.get("vision_config").ok_or_else(|| error("`vision_config` is missing".into()))?,
        "clip_vision_model" => &json,
        other => return Err(error(format!("unknown model type `{other}` of a vision encoder"))),
    };
    let side = size_or(vision, "image_size", 224).map_err(&error)?;
    let preprocessor = Preprocessor::read(directory)?;
    preprocessor.only_square("crop_size", side)?;
    preprocessor.only_square("size", side)?;
    let preprocess = preprocessor.preprocess(Fit::Crop, side)?;
    hugging_face_sizes(vision, class_token, preprocess).map_err(error)
}

/// Reads the sizes. Absent ones have the defaults of `CLIPVisionConfig`.
pub(super) fn hugging_face_sizes(
    json: &Value,
    class_token: ClassToken,
    preprocess: Preprocess,
) -> Result<Config, String> {
    let activation = match optional(json, "hidden_act", text)?.as_deref() {
        None | Some("quick_gelu") => Activation::QuickGelu,
        Some("gelu") => Activation::Gelu,
        Some(other) => return Err(format!("unknown `hidden_act` `{other}` of the vision encoder")),
    };
    checked(Config {
        width: size_or(json, "hidden_size", 768)?,
        layers: size_or(json, "num_hidden_layers", 12)?,
        heads: size_or(json, "num_attention_heads", 12)?,
        patch: size_or(json, "patch_size", 32)?,
        feed_forward_width: size_or(json, "intermediate_size", 3072)?,
        activation,
        norm_eps: optional(json, "layer_norm_eps", number)?.unwrap_or(1e-5),
        class_token,
        preprocess,
    })
}

/// Reads `open_clip_config.json`.
fn read_open_clip(directory: &Path, class_token: ClassToken) -> Result<Config> {
    let path = directory.join(OPEN_CLIP_CONFIG);
    let json = read_json(&path)?;
    open_clip_sizes(&json, class_token).map_err(config_error(&path))
}

fn open_clip_sizes(json: &Value, class_token: ClassToken) -> Result<Config, String> {
    /// Variants of the vision transformer that this build lacks.
    const UNKNOWN: [&str; 6] = [
        "timm_model_name",
        "attentional_pool",
        "input_patchnorm",
        "no_ln_pre",
        "global_average_pool",
        "ls_init_value",
    ];
    let model = json.get("model_cfg").ok_or("`model_cfg` is missing")?;
    let vision = model.get("vision_cfg").ok_or("`vision_cfg` is missing")?;
    for key in UNKNOWN {
        if !matches!(vision.get(key), None | Some(Value::Null | Value::Bool(false))) {
            return Err(format!("`{key}` of the vision encoder is set: this build lacks that variant"));
        }
    }
    let (width, head_width) = (size(vision, "width")?, size_or(vision, "head_width", 64)?);
    let quick = optional(model, "quick_gelu", flag)?.unwrap_or(false);
    let channels = |key: &str, default: [f64; 3]| match json.pointer(&format!("/preprocess_cfg/{key}")) {
        None | Some(Value::Null) => json!(default),
        Some(value) => value.clone(),
    };
    let mean = channels("mean", [0.481_454_66, 0.457_827_5, 0.408_210_73]);
    let std = channels("std", [0.268_629_54, 0.261_302_6, 0.275_777_1]);
    let preprocess = json!({ "fit": "crop", "size": size(vision, "image_size")?, "mean": mean, "std": std });
    checked(Config {
        width,
        layers: size(vision, "layers")?,
        heads: width / head_width.max(1),
        patch: size(vision, "patch_size")?,
        feed_forward_width: (width as f64 * optional(vision, "mlp_ratio", number)?.unwrap_or(4.0)) as usize,
        activation: if quick { Activation::QuickGelu } else { Activation::Gelu },
        norm_eps: 1e-5,
        class_token,
        preprocess: serde_json::from_value(preprocess).map_err(|e| e.to_string())?,
    })
}

fn checked(config: Config) -> Result<Config, String> {
    config.check().map(|()| config)
}

fn size_or(json: &Value, key: &str, default: usize) -> Result<usize, String> {
    Ok(optional(json, key, size)?.unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ViT-L/14 as `open_clip_config.json` describes it.
    fn open_clip() -> Value {
        json!({
            "model_cfg": {
                "embed_dim": 768, "quick_gelu": true, "text_cfg": {"width": 768},
                "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
            },
            "preprocess_cfg": {"mean": [0.5, 0.25, 0.125], "std": [0.5, 0.25, 0.125]},
        })
    }

    #[test]
    fn both_formats_describe_the_same_encoder() {
        let theirs = json!({
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "image_size": 224, "patch_size": 14, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        });
        let open_clip = open_clip_sizes(&open_clip(), ClassToken::Dropped).unwrap();
        let preprocess = open_clip.preprocess.clone();
        assert_eq!((preprocess.size, preprocess.mean), (224, [0.5, 0.25, 0.125]));
        let hugging_face = hugging_face_sizes(&theirs, ClassToken::Dropped, preprocess).unwrap();
        assert_eq!(open_clip, hugging_face);
        assert_eq!(hugging_face.activation, Activation::QuickGelu);
    }

    /// H/14 of LAION has wider heads and no `quick_gelu`; without `preprocess_cfg` the pixels are CLIP's.
    #[test]
    fn defaults_are_those_of_open_clip() {
        let mut json = open_clip();
        json["model_cfg"]["quick_gelu"] = Value::Null;
        json["preprocess_cfg"] = Value::Null;
        json["model_cfg"]["vision_cfg"] =
            json!({"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14});
        let config = open_clip_sizes(&json, ClassToken::Kept).unwrap();
        assert_eq!((config.heads, config.feed_forward_width), (16, 5120));
        assert_eq!(config.activation, Activation::Gelu);
        assert_eq!(config.preprocess.std, [0.268_629_54, 0.261_302_6, 0.275_777_1]);
    }

    #[test]
    fn unknown_variants_are_refused() {
        let check = |key: &str, value: Value, expected: &str| {
            let mut json = open_clip();
            json["model_cfg"]["vision_cfg"][key] = value;
            let error = open_clip_sizes(&json, ClassToken::Kept).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check("timm_model_name", "vit_base".into(), "`timm_model_name` of the vision encoder is set");
        check("attentional_pool", true.into(), "`attentional_pool` of the vision encoder is set");
        check("layers", json!([3, 4, 6, 3]), "`layers` is [3,4,6,3], not a size");
        check("head_width", 60.into(), "17 heads of the vision encoder do not divide its width 1024");
        check("head_width", 4096.into(), "heads of the vision encoder is 0");
        check("patch_size", 15.into(), "patches of 15 pixels do not divide an image of 224 pixels");
        check("width", (1u64 << 40).into(), "width of the vision encoder is");
        check("mlp_ratio", 1e12.into(), "feed_forward_width of the vision encoder is");
    }
}
