//! Names and sizes of a checkpoint of open_flamingo, or of Otter, which renamed some parts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::family::checkpoint::LANGUAGE;
use crate::kernels::activation::Activation;
use crate::language::LanguageSource;
use crate::model::{
    ConnectorConfig, CrossAttentionConfig, FlamingoConfig, KvProjectionKind, MediaAttentionConfig, Placement,
    ResamplerConfig,
};
use crate::vision::clip_vit;
use crate::weights::{Rename, shapes};

/// Attention heads of the resampler and of the cross-attentions, whatever the language model (`helpers.py`).
const HEADS_PER_LAYER: usize = 8;
/// Segments of names that wrappers of training add.
const WRAPPERS: [&str; 2] = ["_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];
/// Our names of token embeddings, by language model.
const EMBEDDINGS: [&str; 4] = [
    "model.embed_tokens.weight",
    "gpt_neox.embed_in.weight",
    "transformer.wte.weight",
    "model.decoder.embed_tokens.weight",
];
/// Our names of heads that are not the embedding.
pub(super) const HEADS: [&str; 2] = ["lm_head.weight", "embed_out.weight"];

/// Names and sizes of a checkpoint.
#[derive(Debug)]
pub(in crate::family) struct Layout {
    /// Path of the language model's layers in its names, such as `model.layers`.
    layers: Option<String>,
    /// Rows of the token embedding: the tokenizer's tokens with those that open_flamingo adds.
    pub rows: usize,
    /// Shapes by our names.
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Layout {
    /// Reads the names and shapes of the checkpoint of a model over the language model `source`.
    ///
    /// # Errors
    /// A file is missing, truncated or malformed, or none has a token embedding.
    pub fn read(checkpoint: &[PathBuf], source: &LanguageSource) -> Result<Self> {
        let mut theirs = BTreeMap::new();
        for file in checkpoint {
            theirs.extend(shapes(file)?);
        }
        let layers = theirs.keys().find_map(|name| layers_path(&plain(name)));
        let mut layout = Self { layers, rows: 0, shapes: BTreeMap::new() };
        for (name, shape) in theirs {
            if let Rename::To(ours) = layout.rename(source, &name) {
                layout.shapes.insert(ours, shape);
            }
        }
        let embedding = EMBEDDINGS.iter().find_map(|name| layout.shapes.get(&format!("{LANGUAGE}.{name}")));
        layout.rows = embedding.and_then(|shape| shape.first().copied()).ok_or_else(|| Error::Config {
            path: checkpoint.first().cloned().unwrap_or_default(),
            reason: "the checkpoint has no token embedding, so the rows of `<image>` and `<|endofchunk|>` are missing"
                .into(),
        })?;
        Ok(layout)
    }

    /// Tells whether the checkpoint holds a head that is not the embedding.
    pub fn has_head(&self) -> bool {
        HEADS.iter().any(|name| self.shapes.contains_key(&format!("{LANGUAGE}.{name}")))
    }

    /// Maps a name of the checkpoint to ours. Cross-attention has two names, under the language model's layers and in a list of
    /// its own; both must hold the same numbers.
    pub fn rename(&self, source: &LanguageSource, theirs: &str) -> Rename {
        let name = plain(theirs);
        if let Some(name) = name.strip_prefix("perceiver.") {
            return Rename::To(format!("resampler.{}", resampler_name(name)));
        }
        if let Some(name) = name.strip_prefix("vision_encoder.") {
            return match name.strip_prefix("vision_model.") {
                Some(name) => clip_vit::hugging_face_name(name),
                None => clip_vit::open_clip_name(name),
            }
            .below("vision");
        }
        let Some(name) = name.strip_prefix("lang_encoder.") else { return Rename::To(name) };
        if let Some((index, name)) = numbered(name, "gated_cross_attn_layers.") {
            return cross_attention_name(index, name);
        }
        if let Some((layer, name)) = name.split_once(".gated_cross_attn_layer.")
            && let Some((_, index)) = layer.rsplit_once('.')
        {
            return cross_attention_name(index, name);
        }
        match (numbered(name, "old_decoder_blocks."), &self.layers) {
            (Some((index, name)), Some(layers)) => source.rename(&format!("{layers}.{index}.{name}")),
            _ => source.rename(&name.replacen(".decoder_layer.", ".", 1)),
        }
        .below(LANGUAGE)
    }

    /// Returns the configuration of the trained parts. The heads are fixed; all other sizes are those of the tensors.
    ///
    /// # Errors
    /// A tensor that decides a size is missing or has another number of axes, or a size is absurd.
    pub fn flamingo(&self, every: usize) -> Result<FlamingoConfig, String> {
        let placement =
            Placement { every, first: every.checked_sub(1).ok_or("cross_attn_every_n_layers is 0")? };
        let config = FlamingoConfig {
            connector: ConnectorConfig::Resampler(self.resampler()?),
            cross_attention: self.cross_attention(placement)?,
            media_attention: MediaAttentionConfig::default(),
        };
        config.check()?;
        Ok(config)
    }

    fn resampler(&self) -> Result<ResamplerConfig, String> {
        let [latents, width] = self.matrix("resampler.latents")?;
        let [inner, _] = self.matrix("resampler.layers.0.attention.to_q.weight")?;
        let [hidden, _] = self.matrix("resampler.layers.0.feed_forward.up.weight")?;
        let layer = |i: &usize| format!("resampler.layers.{i}.attention.to_q.weight");
        Ok(ResamplerConfig {
            width,
            depth: (0..).take_while(|i| self.shapes.contains_key(&layer(i))).count(),
            heads: HEADS_PER_LAYER,
            head_width: head_width(inner)?,
            latents,
            frames: match self.shapes.contains_key("resampler.temporal_embedding") {
                true => self.matrix("resampler.temporal_embedding")?[0],
                false => 0,
            },
            feed_forward_multiple: multiple(hidden, width)?,
            activation: Activation::Gelu,
            qk_norm: None,
            kv_projection: KvProjectionKind::Fused,
        })
    }

    fn cross_attention(&self, placement: Placement) -> Result<CrossAttentionConfig, String> {
        let layer = format!("cross_attention.{}", placement.first);
        let [inner, _] = self.matrix(&format!("{layer}.attention.to_q.weight")).map_err(|_| {
            let layers = self.cross_attention_layers();
            format!(
                "cross_attn_every_n_layers is {}, but the checkpoint has cross-attention at the layers {layers:?}",
                placement.every
            )
        })?;
        let [hidden, width] = self.matrix(&format!("{layer}.feed_forward.up.weight"))?;
        let (head_width, multiple) = (head_width(inner)?, multiple(hidden, width)?);
        Ok(CrossAttentionConfig::new(placement, HEADS_PER_LAYER, head_width, multiple, Activation::Gelu))
    }

    fn cross_attention_layers(&self) -> Vec<usize> {
        let index = |name: &String| {
            name.strip_prefix("cross_attention.")?.strip_suffix(".attention_gate")?.parse().ok()
        };
        let mut layers: Vec<usize> = self.shapes.keys().filter_map(index).collect();
        layers.sort_unstable();
        layers
    }

    fn matrix(&self, name: &str) -> Result<[usize; 2], String> {
        let shape = self.shapes.get(name).ok_or_else(|| format!("tensor `{name}` is missing"))?;
        <[usize; 2]>::try_from(shape.as_slice())
            .map_err(|_| format!("tensor `{name}` has the shape {shape:?}"))
    }
}

fn head_width(inner: usize) -> Result<usize, String> {
    match inner % HEADS_PER_LAYER {
        0 => Ok(inner / HEADS_PER_LAYER),
        _ => Err(format!("{HEADS_PER_LAYER} heads do not divide the width {inner} of an attention")),
    }
}

fn multiple(hidden: usize, width: usize) -> Result<usize, String> {
    match hidden.checked_rem(width) {
        Some(0) => Ok(hidden / width),
        _ => Err(format!("the feed-forward of width {hidden} is no multiple of {width}")),
    }
}

/// Removes what training adds to a name.
fn plain(theirs: &str) -> String {
    let name = theirs.strip_prefix("module.").unwrap_or(theirs);
    WRAPPERS.iter().fold(name.to_owned(), |name, wrapper| name.replace(wrapper, ""))
}

/// Returns the path of the language model's layers, if the name is one of a layer.
fn layers_path(name: &str) -> Option<String> {
    let name = name.strip_prefix("lang_encoder.")?;
    let (layer, _) =
        name.split_once(".gated_cross_attn_layer.").or_else(|| name.split_once(".decoder_layer."))?;
    Some(layer.rsplit_once('.')?.0.to_owned())
}

/// Splits `{list}{index}.{name}` into index and name.
fn numbered<'a>(name: &'a str, list: &str) -> Option<(&'a str, &'a str)> {
    name.strip_prefix(list)?.split_once('.')
}

/// Maps a name of the resampler: of open_flamingo, where a layer is a list, or of Otter, where its parts have names. Unknown names
/// stay.
fn resampler_name(theirs: &str) -> String {
    if theirs == "frame_embs" {
        return "temporal_embedding".into();
    }
    match numbered(theirs, "layers.") {
        Some((index, name)) => match (name.strip_prefix("0."), name.strip_prefix("1.")) {
            (Some(name), _) => format!("layers.{index}.attention.{name}"),
            (_, Some(name)) => format!("layers.{index}.feed_forward.{}", feed_forward_name(name)),
            _ => match name.strip_prefix("feed_forward.") {
                Some(name) => format!("layers.{index}.feed_forward.{}", feed_forward_name(name)),
                None => format!("layers.{index}.attention.{name}"),
            },
        },
        None => theirs.into(),
    }
}

fn cross_attention_name(index: &str, theirs: &str) -> Rename {
    let name = match theirs {
        "attn_gate" => "attention_gate".into(),
        "ff_gate" => "feed_forward_gate".into(),
        _ => match (
            theirs.strip_prefix("attn."),
            theirs.strip_prefix("ff.").or(theirs.strip_prefix("feed_forward.")),
        ) {
            (Some(name), _) => format!("attention.{name}"),
            (_, Some(name)) => format!("feed_forward.{}", feed_forward_name(name)),
            _ => theirs.into(),
        },
    };
    Rename::To(format!("cross_attention.{index}.{name}"))
}

/// Maps a name of the feed-forward, which is a list there: normalisation, matrix, activation, matrix.
pub(crate) fn feed_forward_name(theirs: &str) -> String {
    const PARTS: [(&str, &str); 3] = [("0.", "norm."), ("1.", "up."), ("3.", "down.")];
    let part = PARTS.iter().find_map(|(from, to)| Some(format!("{to}{}", theirs.strip_prefix(from)?)));
    part.unwrap_or_else(|| theirs.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_lack_what_training_adds() {
        for (theirs, name) in [
            ("module.perceiver.latents", "perceiver.latents"),
            (
                "lang_encoder.model.layers.1._checkpoint_wrapped_module.decoder_layer._fsdp_wrapped_module.mlp.weight",
                "lang_encoder.model.layers.1.decoder_layer.mlp.weight",
            ),
        ] {
            assert_eq!(plain(theirs), name);
        }
        for (name, layers) in [
            ("lang_encoder.transformer.blocks.11.gated_cross_attn_layer.ff_gate", Some("transformer.blocks")),
            ("lang_encoder.gpt_neox.layers.0.decoder_layer.mlp.weight", Some("gpt_neox.layers")),
            ("lang_encoder.lm_head.weight", None),
            ("lang_encoder.gated_cross_attn_layers.3.ff_gate", None),
        ] {
            assert_eq!(layers_path(name).as_deref(), layers);
        }
    }

    #[test]
    fn trained_parts_have_our_names() {
        for (theirs, ours) in [
            ("frame_embs", "temporal_embedding"),
            ("layers.5.0.norm_media.bias", "layers.5.attention.norm_media.bias"),
            ("layers.5.1.0.bias", "layers.5.feed_forward.norm.bias"),
            ("layers.5.1.3.weight", "layers.5.feed_forward.down.weight"),
            ("media_time_embs", "media_time_embs"),
            ("layers.5.norm_media.bias", "layers.5.attention.norm_media.bias"),
            ("layers.5.feed_forward.3.weight", "layers.5.feed_forward.down.weight"),
        ] {
            assert_eq!(resampler_name(theirs), ours);
        }
        for (theirs, ours) in [
            ("attn_gate", "cross_attention.7.attention_gate"),
            ("attn.to_kv.weight", "cross_attention.7.attention.to_kv.weight"),
            ("ff.1.weight", "cross_attention.7.feed_forward.up.weight"),
            ("feed_forward.1.weight", "cross_attention.7.feed_forward.up.weight"),
        ] {
            assert_eq!(cross_attention_name("7", theirs), Rename::To(ours.into()));
        }
    }
}
