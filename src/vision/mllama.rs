//! Vision encoder of Llama 3.2 Vision: a ViT over the tiles of a picture, with gated position embeddings per tile grid, local
//! and global layers, and features of several depths.
//!
//! Reference: `MllamaVisionModel` of transformers 4.49.0; tensor names are those of its checkpoint. All slots are computed,
//! also those that a picture leaves empty: the reference hides empty tokens from each other only, so the tokens of a picture
//! attend to them. The tokens are therefore ordered once, those of the picture first; then the tokens of the picture attend
//! to all, and the others attend to those of the picture. No mask is needed.

use candle_core::{Device, Tensor};
use candle_nn::Init;

use super::{TileGrid, VisionEncoder};
use crate::error::{Error, Result};
use crate::kernels::linear::Linear;
use crate::kernels::norm::LayerNorm;
use crate::weights::{Matrix, Weights};

mod config;
mod layer;

pub use config::TowerConfig;
use layer::Layer;

/// Epsilon of the norms before and after the local layers, which the reference takes from torch's default, not from the
/// configuration.
const OUTER_EPS: f32 = 1e-5;
/// The token axis of a tile is padded to a multiple of this number.
const ALIGNMENT: usize = 8;
const INIT: Init = Init::Randn { mean: 0.0, stdev: 0.02 };

/// Receiver of the name and value of every stage, for comparisons with the reference.
pub type StageObserver<'o> = &'o mut dyn FnMut(&str, &Tensor) -> Result<()>;

/// The vision encoder.
pub struct Tower {
    config: TowerConfig,
    patch_embedding: Linear,
    class_embedding: Tensor,
    /// Position embedding of one tile (p, d), times (1 - tanh(gate)).
    positions: Tensor,
    tile_positions: GridEmbedding,
    before: GridEmbedding,
    after: GridEmbedding,
    norm_before: LayerNorm,
    norm_after: LayerNorm,
    local: Vec<Layer>,
    global: Vec<Layer>,
}

/// Embedding of a tile grid, one row per grid: (grids + 1, slots * n * d).
struct GridEmbedding {
    table: Tensor,
    /// tanh of the gate (1).
    gate: Tensor,
}

impl GridEmbedding {
    fn new(config: &TowerConfig, tokens: usize, table: &Weights, gate: &Weights) -> Result<Self> {
        let grids = TileGrid::all(config.slots as u32).count();
        let shape = (grids + 1, config.slots * tokens * config.width);
        let gate = gate.get(1, "gate", Init::Const(0.0))?.tanh()?;
        Ok(Self { table: table.get(shape, "weight", INIT)?, gate })
    }

    /// Returns the gated embedding of a grid: (slots, n, d).
    fn of(&self, id: u32, config: &TowerConfig) -> Result<Tensor> {
        let row = self.table.get(id as usize)?.reshape((config.slots, (), config.width))?;
        Ok(row.broadcast_mul(&self.gate)?)
    }
}

/// Order of the tokens of one picture: those of the picture first, then those of empty slots and of the alignment.
struct TokenOrder {
    /// Tokens of the picture.
    valid: usize,
    /// Index in the natural order of each token.
    order: Tensor,
    /// Slot of each token.
    slots: Tensor,
    /// Place of each token of the natural order, slot by slot, without the alignment.
    places: Tensor,
    /// The same with the alignment.
    natural: Tensor,
}

impl TokenOrder {
    fn new(config: &TowerConfig, tiles: usize, device: &Device) -> Result<Self> {
        let (tokens, aligned) = (config.tokens(), config.tokens().next_multiple_of(ALIGNMENT));
        let is_valid = |&token: &usize| token / aligned < tiles && token % aligned < tokens;
        let (valid, empty): (Vec<usize>, Vec<usize>) = (0..config.slots * aligned).partition(is_valid);
        let order = [&valid[..], &empty].concat();
        let mut natural = vec![0; order.len()];
        order.iter().enumerate().for_each(|(place, &token)| natural[token] = place);
        let slots = order.iter().map(|token| token / aligned).collect();
        let is_token = |(token, _): &(usize, &usize)| token % aligned < tokens;
        let places = natural.iter().enumerate().filter(is_token).map(|(_, &place)| place).collect();
        let index = |values: Vec<usize>| -> Result<Tensor> {
            Ok(Tensor::new(values.into_iter().map(|i| i as u32).collect::<Vec<_>>(), device)?)
        };
        Ok(Self {
            valid: valid.len(),
            order: index(order)?,
            slots: index(slots)?,
            places: index(places)?,
            natural: index(natural)?,
        })
    }
}

impl Tower {
    /// Takes every tensor of the encoder.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: TowerConfig, weights: &Weights) -> Result<Self> {
        let (d, patch, tokens) = (config.width, config.patch, config.tokens());
        let patches = weights.pp("patch_embedding").get((d, 3, patch, patch), "weight", INIT)?;
        let position = weights.pp("gated_positional_embedding");
        let tile_positions = GridEmbedding::new(&config, tokens, &position.pp("tile_embedding"), &position)?;
        let positions = position.get((tokens, d), "embedding", INIT)?;
        let positions = positions.broadcast_mul(&tile_positions.gate.affine(-1.0, 1.0)?)?;
        let grid_embedding = |name: &str| {
            let weights = weights.pp(name);
            GridEmbedding::new(&config, 1, &weights.pp("embedding"), &weights)
        };
        let layers = |name: &str, count, gated| -> Result<Vec<Layer>> {
            let weights = weights.pp(name).pp("layers");
            (0..count).map(|i| Layer::new(&config, gated, &weights.pp(i))).collect()
        };
        let norm = |name| LayerNorm::new(d, OUTER_EPS, weights.pp(name));
        Ok(Self {
            patch_embedding: Linear::from_matrix(Matrix::Dense(patches.reshape((d, 3 * patch * patch))?))?,
            class_embedding: weights.get(d, "class_embedding", INIT)?,
            positions,
            tile_positions,
            before: grid_embedding("pre_tile_positional_embedding")?,
            after: grid_embedding("post_tile_positional_embedding")?,
            norm_before: norm("layernorm_pre")?,
            norm_after: norm("layernorm_post")?,
            local: layers("transformer", config.layers, false)?,
            global: layers("global_transformer", config.global_layers, true)?,
            config,
        })
    }

    /// Encodes one picture: tiles (slots, 3, side, side) -> (slots * tokens, width). Sends every stage to `observe`, tokens in
    /// their natural order.
    ///
    /// # Errors
    /// The tiles have another shape, the grid has too many tiles, or the device refuses an operation.
    pub fn picture(&self, tiles: &Tensor, grid: TileGrid, observe: StageObserver) -> Result<Tensor> {
        let config = &self.config;
        let expected = [config.slots, 3, config.side, config.side];
        let id = grid.id(config.slots as u32).filter(|_| tiles.dims() == expected);
        let id = id.ok_or_else(|| {
            Error::Prompt(format!("tiles {:?} in {grid:?} are not tiles {expected:?}", tiles.dims()))
        })?;
        let order = TokenOrder::new(config, grid.tiles(), tiles.device())?;
        let x = self.embed(tiles, id, observe)?; // (slots, tokens, d)
        let padding = config.tokens().next_multiple_of(ALIGNMENT) - config.tokens();
        let x = x.pad_with_zeros(1, 0, padding)?.flatten(0, 1)?;
        let mut x = x.index_select(&order.order, 0)?; // (slots * aligned, d)
        let mut kept = Vec::with_capacity(config.kept.len());
        for i in 0..=self.local.len() {
            if config.kept.contains(&i) {
                kept.push((i, x.index_select(&order.places, 0)?));
            }
            if let Some(layer) = self.local.get(i) {
                x = layer.forward(&x, order.valid)?;
                observe(&format!("local.{i}"), &x.index_select(&order.natural, 0)?)?;
            }
        }
        x = self.norm_after.forward(&x)?;
        x = (x + self.after.of(id, config)?.squeeze(1)?.index_select(&order.slots, 0)?)?;
        observe("post", &x.index_select(&order.natural, 0)?)?;
        for (i, layer) in self.global.iter().enumerate() {
            x = layer.forward(&x, order.valid)?;
            observe(&format!("global.{i}"), &x.index_select(&order.natural, 0)?)?;
        }
        let last = x.index_select(&order.places, 0)?; // (slots * tokens, d)
        let features = Tensor::cat(&[last, interleaved(&config.kept, &kept)?], 1)?;
        observe("features", &features)?;
        Ok(features)
    }

    /// Embeds patches, positions and tile grid: tiles (slots, 3, side, side) -> (slots, tokens, d).
    fn embed(&self, tiles: &Tensor, id: u32, observe: StageObserver) -> Result<Tensor> {
        let config = &self.config;
        let (slots, patch, d) = (config.slots, config.patch, config.width);
        let along = config.side / patch;
        let patches =
            tiles.reshape(&[slots, 3, along, patch, along, patch][..])?.permute(vec![0, 2, 4, 1, 3, 5])?;
        let patches = patches.reshape((slots, along * along, 3 * patch * patch))?;
        let x = self.patch_embedding.forward(&patches)?; // (slots, patches, d)
        let x = x.broadcast_add(&self.before.of(id, config)?)?;
        observe("patches", &x.flatten(0, 1)?)?;
        let class = self.class_embedding.reshape((1, 1, d))?.broadcast_as((slots, 1, d))?;
        let x = Tensor::cat(&[class.contiguous()?, x], 1)?; // (slots, tokens, d)
        let x = (x.broadcast_add(&self.positions)? + self.tile_positions.of(id, config)?)?;
        observe("embedded", &x.flatten(0, 1)?)?;
        let x = self.norm_before.forward(&x)?;
        observe("normed", &x.flatten(0, 1)?)?;
        Ok(x)
    }
}

/// Interleaves the states of several depths: feature h * n + l is channel h of the l-th depth of `wanted` (.., d * n).
fn interleaved(wanted: &[usize], kept: &[(usize, Tensor)]) -> Result<Tensor> {
    let state = |depth: &usize| kept.iter().find(|(i, _)| i == depth).map(|(_, x)| x);
    let states: Vec<&Tensor> = wanted.iter().filter_map(state).collect();
    Ok(Tensor::stack(&states, 2)?.flatten(1, 2)?)
}

impl VisionEncoder for Tower {
    /// Encodes pictures of one tile each.
    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        let tiles = pixels.unsqueeze(1)?.pad_with_zeros(1, 0, self.config.slots - 1)?;
        self.encode_tiles(&tiles, &vec![TileGrid { rows: 1, columns: 1 }; pixels.dim(0)?])
    }

    fn encode_tiles(&self, tiles: &Tensor, grids: &[TileGrid]) -> Result<Tensor> {
        if tiles.dim(0)? != grids.len() {
            return Err(Error::Prompt(format!("{} pictures and {} tile grids", tiles.dim(0)?, grids.len())));
        }
        // One picture after the other: a picture has 6432 tokens already.
        let picture = |(i, &grid)| self.picture(&tiles.get(i)?, grid, &mut |_, _| Ok(()));
        let features = grids.iter().enumerate().map(picture).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&features, 0)?)
    }

    fn width(&self) -> usize {
        self.config.features_width()
    }

    fn patches(&self, _: usize, _: usize) -> usize {
        self.config.slots * self.config.tokens()
    }

    fn fold(self: Box<Self>) -> Result<Box<dyn VisionEncoder>> {
        Ok(self)
    }
}
