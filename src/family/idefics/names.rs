//! Table from the tensor names of `IdeficsForVisionText2Text` to ours.

use super::config::IdeficsConfig;
use crate::family::checkpoint::LANGUAGE;
use crate::vision::clip_vit::hugging_face_name;
use crate::weights::Rename;

/// Modules of the perceiver, below `blocks.{i}`: attention is 0, the feed-forward 1.
const PERCEIVER: [(&str, &str); 11] = [
    ("0.context_layer_norm.", "attention.norm_media."),
    ("0.latents_layer_norm.", "attention.norm_latents."),
    ("0.q_layer_norm.", "attention.q_norm."),
    ("0.k_layer_norm.", "attention.k_norm."),
    ("0.q_proj.", "attention.to_q."),
    ("0.k_proj.", "attention.to_k."),
    ("0.v_proj.", "attention.to_v."),
    ("0.output_proj.", "attention.to_out."),
    ("1.ln.", "feed_forward.norm."),
    ("1.fc.", "feed_forward.up."),
    ("1.c_proj.", "feed_forward.down."),
];

/// Modules of a gated cross-attention, below `gated_cross_attn_layers.{j}`.
const CROSS_ATTENTION: [(&str, &str); 11] = [
    ("input_layernorm.", "attention.norm."),
    ("cross_attn.q_proj.", "attention.to_q."),
    ("cross_attn.k_proj.", "attention.to_k."),
    ("cross_attn.v_proj.", "attention.to_v."),
    ("cross_attn.o_proj.", "attention.to_out."),
    ("cross_attn.q_layer_norm.", "attention.q_norm."),
    ("cross_attn.k_layer_norm.", "attention.k_norm."),
    ("post_attention_layernorm.", "feed_forward.norm."),
    ("mlp.gate_proj.", "feed_forward.gate."),
    ("mlp.up_proj.", "feed_forward.up."),
    ("mlp.down_proj.", "feed_forward.down."),
];

/// Maps a name of the checkpoint to ours. Unknown names stay, so that the load names them.
pub(super) fn rename(config: &IdeficsConfig, theirs: &str) -> Rename {
    if theirs.ends_with(".rotary_emb.inv_freq") {
        return Rename::Ignore;
    }
    let below = |prefix: &str| theirs.strip_prefix(prefix);
    if let Some(name) = below("model.vision_model.") {
        return hugging_face_name(name).below("vision");
    }
    if let Some(name) = below("model.perceiver_resampler.") {
        return perceiver(name);
    }
    if let Some((block, name)) = below("model.gated_cross_attn_layers.").and_then(|n| n.split_once('.'))
        && let Ok(block) = block.parse::<usize>()
    {
        let layer = block.saturating_mul(config.every);
        return cross_attention(name).below(&format!("cross_attention.{layer}"));
    }
    token_rows(config, theirs).unwrap_or_else(|| Rename::To(format!("{LANGUAGE}.{theirs}")))
}

/// Maps the embedding and the head, each of which has a second matrix for the tokens that IDEFICS added. A tied head that is
/// stored nevertheless must equal the embedding.
fn token_rows(config: &IdeficsConfig, theirs: &str) -> Option<Rename> {
    let (embedding, head) = ("model.embed_tokens.weight", "lm_head.weight");
    let head = if config.tied { embedding } else { head };
    let (whole, index) = match theirs {
        "model.embed_tokens.weight" => (embedding, 0),
        "model.embed_tokens.additional_embedding.weight" => (embedding, 1),
        "lm_head.weight" => (head, 0),
        "lm_head.additional_fc.weight" => (head, 1),
        _ => return None,
    };
    Some(Rename::Rows { whole: format!("{LANGUAGE}.{whole}"), index })
}

fn perceiver(theirs: &str) -> Rename {
    let name = match theirs.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((block, name)) => format!("layers.{block}.{}", replaced(&PERCEIVER, name)),
        None => replaced(&[("layer_norm.", "norm.")], theirs),
    };
    Rename::To(format!("resampler.{name}"))
}

fn cross_attention(theirs: &str) -> Rename {
    match theirs {
        // A gate per channel is stored as (1, 1, d).
        "alpha_cross_attn" => Rename::Flat("attention_gate".into()),
        "alpha_dense" => Rename::Flat("feed_forward_gate".into()),
        _ => Rename::To(replaced(&CROSS_ATTENTION, theirs)),
    }
}

fn replaced(table: &[(&str, &str)], theirs: &str) -> String {
    let ours = table.iter().find_map(|(from, to)| Some(format!("{to}{}", theirs.strip_prefix(from)?)));
    ours.unwrap_or_else(|| theirs.into())
}
