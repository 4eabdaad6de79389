//! Vision transformer of CLIP (arXiv 2103.00020), with the tensor names of Hugging Face's `CLIPVisionModel`.
//!
//! The features are the patch tokens after the last layer. CLIP's own output normalisation and projection apply to the class
//! token only, so they are not part of the encoder.

use candle_core::Tensor;
use candle_nn::Init;
use serde::{Deserialize, Serialize};

use super::{EncoderConfig, Preprocess, VisionEncoder};
use crate::error::{Error, Result};
use crate::kernels::activation::Activation;
use crate::kernels::attention::attention;
use crate::kernels::linear::{LINEAR_INIT, Linear};
use crate::kernels::norm::LayerNorm;
use crate::weights::{Matrix, Weights};

mod names;
mod cost;

pub use names::{file_name, hugging_face_name, open_clip_name};

/// Initial values of an untrained class token and of untrained positions.
const EMBEDDING_INIT: Init = Init::Randn { mean: 0.0, stdev: 0.02 };

/// Configuration of a CLIP vision transformer. The side of its input is `preprocess.size`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Width d of a token.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Hidden width of the feed-forward.
    pub feed_forward_width: usize,
    /// Activation of the feed-forward: `quick_gelu` in OpenAI's models, `gelu` in LAION's H/14.
    pub activation: Activation,
    /// Epsilon of every normalisation.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
    /// Whether the features begin with the class token.
    pub class_token: ClassToken,
    /// Preprocessing of frames.
    pub preprocess: Preprocess,
}

/// Use of the class token in the features of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassToken {
    /// It is the first feature: IDEFICS.
    Kept,
    /// It is not a feature: OpenFlamingo, Otter.
    Dropped,
}

fn default_norm_eps() -> f64 {
    1e-5
}

impl Config {
    /// Side of the grid of patches.
    fn grid(&self) -> usize {
        self.preprocess.size as usize / self.patch
    }

    /// Checks every size.
    ///
    /// # Errors
    /// The name and value of a size that is zero or absurdly large, or the two that contradict each other.
    pub fn check(&self) -> Result<(), String> {
        let Self { width, layers, heads, patch, feed_forward_width, .. } = *self;
        let sizes = [
            ("width", width, 1 << 16),
            ("layers", layers, 1 << 10),
            ("heads", heads, width.max(1)),
            ("patch", patch, self.preprocess.size as usize),
            ("feed_forward_width", feed_forward_width, 1 << 18),
        ];
        if let Some((name, size, _)) = sizes.iter().find(|(_, size, most)| *size == 0 || size > most) {
            return Err(format!("{name} of the vision encoder is {size}"));
        }
        if width % heads != 0 {
            return Err(format!("{heads} heads of the vision encoder do not divide its width {width}"));
        }
        let side = self.preprocess.size as usize;
        if !side.is_multiple_of(patch) {
            return Err(format!("patches of {patch} pixels do not divide an image of {side} pixels"));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return Err(format!("norm_eps of the vision encoder is {}", self.norm_eps));
        }
        Ok(())
    }
}

impl EncoderConfig for Config {
    fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    fn ignores(&self, name: &str) -> bool {
        names::is_output(name)
    }

    fn build(&self, weights: &Weights) -> Result<Box<dyn VisionEncoder>> {
        Ok(Box::new(ClipVit::new(self, weights)?))
    }

    fn features(&self, side: usize) -> (usize, usize) {
        ((side / self.patch).pow(2) + usize::from(self.class_token == ClassToken::Kept), self.width)
    }

    fn parameters(&self) -> usize {
        cost::parameters(self)
    }

    fn operations(&self, side: usize) -> f64 {
        cost::operations(self, side)
    }

    fn describe(&self) -> serde_json::Value {
        let mut sizes = serde_json::to_value(self).expect("a configuration serializes");
        if let Some(fields) = sizes.as_object_mut() {
            fields.remove("preprocess");
        }
        sizes
    }
}

/// CLIP's vision transformer.
pub struct ClipVit {
    embeddings: Embeddings,
    pre_layrnorm: LayerNorm,
    layers: Vec<Layer>,
    config: Config,
}

impl ClipVit {
    /// Takes every tensor of the encoder from `weights`; the caller finishes the weights.
    ///
    /// # Errors
    /// A size is out of bounds, or a tensor is missing or has another shape.
    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        config.check().map_err(Error::Plan)?;
        let layers = weights.pp("encoder").pp("layers");
        Ok(Self {
            embeddings: Embeddings::new(config, &weights.pp("embeddings"))?,
            pre_layrnorm: norm(config, weights.pp("pre_layrnorm"))?,
            layers: (0..config.layers).map(|i| Layer::new(config, &layers.pp(i))).collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    /// Encodes `pixels` (n, 3, side, side) -> (n, s, d). `observe` is called with `embeddings`, after their normalisation, and
    /// `layers.0`, `layers.1` ..., each (n, 1 + patches, d) with the class token first.
    ///
    /// # Errors
    /// The pixels have another size than the encoder was trained on, or the tensor library refused an operation.
    pub fn forward(&self, pixels: &Tensor, observe: &mut dyn FnMut(&str, &Tensor)) -> Result<Tensor> {
        let mut x = self.pre_layrnorm.forward(&self.embeddings.forward(pixels)?)?; // (n, 1 + patches, d)
        observe("embeddings", &x);
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x)?;
            observe(&format!("layers.{i}"), &x);
        }
        match self.config.class_token {
            ClassToken::Kept => Ok(x),
            ClassToken::Dropped => Ok(x.narrow(1, 1, x.dim(1)? - 1)?.contiguous()?),
        }
    }
}

impl VisionEncoder for ClipVit {
    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        self.forward(pixels, &mut |_, _| ())
    }

    fn width(&self) -> usize {
        self.config.width
    }

    fn patches(&self, height: usize, width: usize) -> usize {
        let class = usize::from(self.config.class_token == ClassToken::Kept);
        (height / self.config.patch) * (width / self.config.patch) + class
    }

    fn fold(self: Box<Self>) -> Result<Box<dyn VisionEncoder>> {
        Ok(self)
    }
}

fn norm(config: &Config, weights: Weights) -> Result<LayerNorm> {
    LayerNorm::new(config.width, config.norm_eps as f32, weights)
}

/// Patches, class token and positions.
struct Embeddings {
    /// Map from the pixels of a patch (3 * patch * patch) to a token (d).
    patch_embedding: Linear,
    class_embedding: Tensor,
    position_embedding: Tensor,
    patch: usize,
    grid: usize,
}

impl Embeddings {
    fn new(config: &Config, weights: &Weights) -> Result<Self> {
        let (width, patch, grid) = (config.width, config.patch, config.grid());
        let shape = (width, 3, patch, patch);
        let kernel = weights.pp("patch_embedding").get(shape, "weight", LINEAR_INIT)?;
        let matrix = Matrix::Dense(kernel.flatten_from(1)?); // (d, 3 * patch * patch)
        let positions = weights.pp("position_embedding");
        Ok(Self {
            patch_embedding: Linear::from_matrix(matrix)?,
            class_embedding: weights.get(width, "class_embedding", EMBEDDING_INIT)?,
            position_embedding: positions.get((grid * grid + 1, width), "weight", EMBEDDING_INIT)?,
            patch,
            grid,
        })
    }

    /// (n, 3, side, side) -> (n, 1 + patches, d).
    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (n, channels, height, width) = pixels.dims4()?;
        let (grid, patch) = (self.grid, self.patch);
        let side = grid * patch;
        if (channels, height, width) != (3, side, side) {
            return Err(Error::Prompt(format!(
                "a frame of {channels} channels and {width}x{height} pixels, but the vision encoder takes {side}x{side}"
            )));
        }
        let x = pixels.reshape(&[n * 3, grid, patch, grid, patch])?.transpose(2, 3)?.contiguous()?;
        let x = x.reshape((n, 3, grid * grid, patch * patch))?.transpose(1, 2)?.contiguous()?;
        let x = self.patch_embedding.forward(&x.flatten_from(2)?)?; // (n, patches, d)
        let d = x.dim(2)?;
        let class = self.class_embedding.reshape((1, 1, d))?.broadcast_as((n, 1, d))?;
        Ok(Tensor::cat(&[&class, &x], 1)?.broadcast_add(&self.position_embedding)?)
    }
}

/// Pre-normalised transformer layer.
struct Layer {
    layer_norm1: LayerNorm,
    self_attn: Attention,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Layer {
    fn new(config: &Config, weights: &Weights) -> Result<Self> {
        let (d, hidden, mlp) = (config.width, config.feed_forward_width, weights.pp("mlp"));
        Ok(Self {
            layer_norm1: norm(config, weights.pp("layer_norm1"))?,
            self_attn: Attention::new(d, config.heads, &weights.pp("self_attn"))?,
            layer_norm2: norm(config, weights.pp("layer_norm2"))?,
            fc1: Linear::load(d, hidden, true, mlp.pp("fc1"))?,
            fc2: Linear::load(hidden, d, true, mlp.pp("fc2"))?,
            activation: config.activation,
        })
    }

    /// (n, l, d) -> (n, l, d).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = (x + self.self_attn.forward(&self.layer_norm1.forward(x)?)?)?;
        let hidden = self.activation.forward(&self.fc1.forward(&self.layer_norm2.forward(&x)?)?)?;
        Ok((&x + self.fc2.forward(&hidden)?)?)
    }
}

/// Attention of all tokens of a frame to each other.
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

impl Attention {
    fn new(d: usize, heads: usize, weights: &Weights) -> Result<Self> {
        let linear = |name| Linear::load(d, d, true, weights.pp(name));
        let (q_proj, k_proj, v_proj) = (linear("q_proj")?, linear("k_proj")?, linear("v_proj")?);
        Ok(Self { q_proj, k_proj, v_proj, out_proj: linear("out_proj")?, heads })
    }

    /// (n, l, d) -> (n, l, d).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, l, d) = x.dims3()?;
        let (h, width) = (self.heads, d / self.heads);
        let fold = |x: Tensor| -> Result<Tensor> {
            Ok(x.reshape((n, l, h, width))?.transpose(1, 2)?.reshape((n * h, l, width))?)
        };
        let q = fold(self.q_proj.forward(x)?)?; // (n * h, l, d_head)
        let kv = (fold(self.k_proj.forward(x)?)?, fold(self.v_proj.forward(x)?)?);
        let out = attention(&q, &[kv], (width as f64).powf(-0.5), None)?;
        let out = out.reshape((n, h, l, width))?.transpose(1, 2)?.reshape((n, l, d))?;
        self.out_proj.forward(&out)
    }
}
