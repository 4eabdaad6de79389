//! Small resamplers and cross-attentions with the weights of `rule.py` under open_flamingo's names.

use std::collections::HashMap;

use candle_core::DType;
use flamingo::kernels::activation::Activation;
use flamingo::model::{CrossAttentionConfig, KvProjectionKind, Placement, ResamplerConfig};
use flamingo::weights::Weights;
use support::{random_weights, target};

pub const WIDTH: usize = 24;
pub const LATENTS: usize = 7;

/// Our name, theirs, shape.
pub type Names = Vec<(String, String, Vec<usize>)>;

pub fn resampler(frames: usize, activation: Activation) -> ResamplerConfig {
    ResamplerConfig {
        width: WIDTH,
        depth: 2,
        heads: 3,
        head_width: 10,
        latents: LATENTS,
        frames,
        feed_forward_multiple: 2,
        activation,
        qk_norm: None,
        kv_projection: KvProjectionKind::Fused,
    }
}

pub fn cross_attention(placement: Placement, activation: Activation) -> CrossAttentionConfig {
    CrossAttentionConfig::new(placement, 3, 10, 2, activation)
}

/// Returns the weights of `rule.py`, computed from open_flamingo's names, under our names.
pub fn weights(names: &Names, dtype: DType) -> Weights {
    let tensors: HashMap<_, _> = names
        .iter()
        .map(|(ours, theirs, shape)| {
            (ours.clone(), random_weights::tensor(theirs, shape.as_slice()).unwrap())
        })
        .collect();
    Weights::from_tensors("rule", tensors, target::device(), dtype)
}

/// Returns the names of a resampler. `ours` and `theirs` are prefixes, with their dots.
pub fn resampler_names(config: &ResamplerConfig, ours: &str, theirs: &str) -> Names {
    let (d, inner, wide) =
        (config.width, config.heads * config.head_width, config.feed_forward_multiple * config.width);
    let mut list = vec![
        (format!("{ours}latents"), format!("{theirs}latents"), vec![config.latents, d]),
        (format!("{ours}temporal_embedding"), format!("{theirs}frame_embs"), vec![config.frames, d]),
    ];
    norm(&mut list, &format!("{ours}norm"), &format!("{theirs}norm"), d);
    for i in 0..config.depth {
        let (ours, theirs) = (format!("{ours}layers.{i}."), format!("{theirs}layers.{i}."));
        for name in ["norm_media", "norm_latents"] {
            norm(&mut list, &format!("{ours}attention.{name}"), &format!("{theirs}0.{name}"), d);
        }
        norm(&mut list, &format!("{ours}feed_forward.norm"), &format!("{theirs}1.0"), d);
        for (our, their, shape) in [
            ("attention.to_q", "0.to_q", [inner, d]),
            ("attention.to_kv", "0.to_kv", [2 * inner, d]),
            ("attention.to_out", "0.to_out", [d, inner]),
            ("feed_forward.up", "1.1", [wide, d]),
            ("feed_forward.down", "1.3", [d, wide]),
        ] {
            list.push((format!("{ours}{our}.weight"), format!("{theirs}{their}.weight"), shape.into()));
        }
    }
    list
}

/// Returns the names of a cross-attention. `ours` and `theirs` are prefixes, with their dots.
pub fn cross_attention_names(
    config: &CrossAttentionConfig,
    text: usize,
    media: usize,
    ours: &str,
    theirs: &str,
) -> Names {
    let (inner, wide) = (config.heads * config.head_width, config.feed_forward_multiple * text);
    let mut list = vec![
        (format!("{ours}attention_gate"), format!("{theirs}attn_gate"), vec![1]),
        (format!("{ours}feed_forward_gate"), format!("{theirs}ff_gate"), vec![1]),
    ];
    norm(&mut list, &format!("{ours}attention.norm"), &format!("{theirs}attn.norm"), text);
    norm(&mut list, &format!("{ours}feed_forward.norm"), &format!("{theirs}ff.0"), text);
    for (our, their, shape) in [
        ("attention.to_q", "attn.to_q", [inner, text]),
        ("attention.to_kv", "attn.to_kv", [2 * inner, media]),
        ("attention.to_out", "attn.to_out", [text, inner]),
        ("feed_forward.up", "ff.1", [wide, text]),
        ("feed_forward.down", "ff.3", [text, wide]),
    ] {
        list.push((format!("{ours}{our}.weight"), format!("{theirs}{their}.weight"), shape.into()));
    }
    list
}

fn norm(list: &mut Names, ours: &str, theirs: &str, width: usize) {
    for part in ["weight", "bias"] {
        list.push((format!("{ours}.{part}"), format!("{theirs}.{part}"), vec![width]));
    }
}
