//! Table from the tensor names of a checkpoint to ours. There are two spellings: that of transformers up to 4.51, which the
//! published files have, and a later one with `model.` in front of every part.

use crate::weights::Rename;

/// Spelling of the token that marks an image.
pub(super) const IMAGE: &str = "<|image|>";

/// Maps the name of a tensor. `cross_layers` are the numbers of the cross-attention layers. A name that the table does not
/// know stays, so that the load refuses it as unused.
pub(super) fn rename(cross_layers: &[usize], theirs: &str) -> Rename {
    let part = theirs.strip_prefix("model.").unwrap_or(theirs);
    let ours = match part.split_once('.') {
        Some(("vision_model", name)) => Some(format!("vision.{name}")),
        Some(("multi_modal_projector", name)) => Some(format!("projector.{name}")),
        Some(("language_model", name)) => language(cross_layers, name.strip_prefix("model.").unwrap_or(name)),
        Some(("lm_head", name)) => Some(format!("language.lm_head.{name}")),
        _ => None,
    };
    match ours {
        Some(ours) if ours.ends_with(".inv_freq") => Rename::Ignore,
        ours => Rename::To(ours.unwrap_or_else(|| theirs.into())),
    }
}

/// Maps a name below `language_model.model.`. The layers of the language model are counted without the cross-attentions.
fn language(cross_layers: &[usize], name: &str) -> Option<String> {
    if name.starts_with("lm_head.") {
        return Some(format!("language.{name}"));
    }
    let Some(layer) = name.strip_prefix("layers.") else { return Some(format!("language.model.{name}")) };
    let (number, name) = layer.split_once('.')?;
    let number: usize = number.parse().ok()?;
    if cross_layers.contains(&number) {
        return Some(format!("cross_attention.{number}.{}", cross_attention(name)?));
    }
    let before = cross_layers.iter().filter(|&&layer| layer < number).count();
    Some(format!("language.model.layers.{}.{name}", number - before))
}

fn cross_attention(name: &str) -> Option<&'static str> {
    Some(match name {
        "input_layernorm.weight" => "attention.norm.weight",
        "cross_attn.q_proj.weight" => "attention.to_q.weight",
        "cross_attn.k_proj.weight" => "attention.to_k.weight",
        "cross_attn.v_proj.weight" => "attention.to_v.weight",
        "cross_attn.o_proj.weight" => "attention.to_out.weight",
        "cross_attn.q_norm.weight" => "attention.q_norm.weight",
        "cross_attn.k_norm.weight" => "attention.k_norm.weight",
        "cross_attn_attn_gate" => "attention_gate",
        "post_attention_layernorm.weight" => "feed_forward.norm.weight",
        "mlp.gate_proj.weight" => "feed_forward.gate.weight",
        "mlp.up_proj.weight" => "feed_forward.up.weight",
        "mlp.down_proj.weight" => "feed_forward.down.weight",
        "cross_attn_mlp_gate" => "feed_forward_gate",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_have_the_same_names() {
        let ours = |name: &str| match rename(&[3, 8], name) {
            Rename::To(name) => name,
            _ => "ignored".into(),
        };
        for (released, later, expected) in [
            ("vision_model.class_embedding", "model.vision_model.class_embedding", "vision.class_embedding"),
            ("multi_modal_projector.bias", "model.multi_modal_projector.bias", "projector.bias"),
            ("language_model.lm_head.weight", "lm_head.weight", "language.lm_head.weight"),
            (
                "language_model.model.norm.weight",
                "model.language_model.norm.weight",
                "language.model.norm.weight",
            ),
            (
                "language_model.model.layers.9.mlp.up_proj.weight",
                "model.language_model.layers.9.mlp.up_proj.weight",
                "language.model.layers.7.mlp.up_proj.weight",
            ),
            (
                "language_model.model.layers.8.cross_attn_mlp_gate",
                "model.language_model.layers.8.cross_attn_mlp_gate",
                "cross_attention.8.feed_forward_gate",
            ),
        ] {
            assert_eq!((ours(released), ours(later)), (expected.into(), expected.into()));
        }
        // Unknown names stay as they are: the load refuses them.
        for name in ["language_model.model.layers.3.self_attn.q_proj.weight", "lm_heads", "other.weight"] {
            assert_eq!(ours(name), name);
        }
    }
}
