//! Tables from the names of CLIP checkpoints to ours, which are Hugging Face's below `vision_model`.

use crate::weights::Rename;

/// Parts of a whole CLIP that are not the vision encoder, in both layouts.
const OTHER_PARTS: [&str; 10] = [
    "text_model.",
    "visual_projection.",
    "text_projection",
    "logit_scale",
    "logit_bias",
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "attn_mask",
];

/// Tells whether a tensor of the encoder (our name) belongs to CLIP's output for the class token, or is a buffer.
pub(super) fn is_output(name: &str) -> bool {
    name.starts_with("post_layernorm.") || name == "embeddings.position_ids"
}

/// Maps the name of a tensor of Hugging Face's `CLIPVisionModel`, relative to its `vision_model`, to ours.
pub fn hugging_face_name(theirs: &str) -> Rename {
    if is_output(theirs) { Rename::Ignore } else { Rename::To(theirs.into()) }
}

/// Maps the name of a tensor of OpenCLIP's `VisionTransformer`, relative to it, to ours. Other names stay.
pub fn open_clip_name(theirs: &str) -> Rename {
    let to = |ours: &str| Rename::To(ours.into());
    match theirs {
        "class_embedding" => return to("embeddings.class_embedding"),
        "conv1.weight" => return to("embeddings.patch_embedding.weight"),
        "positional_embedding" => return to("embeddings.position_embedding.weight"),
        "ln_pre.weight" => return to("pre_layrnorm.weight"),
        "ln_pre.bias" => return to("pre_layrnorm.bias"),
        "ln_post.weight" | "ln_post.bias" | "proj" => return Rename::Ignore,
        _ => {}
    }
    let layer = theirs.strip_prefix("transformer.resblocks.").and_then(|rest| rest.split_once('.'));
    match layer {
        Some((index, name)) => layer_name(name).below(&format!("encoder.layers.{index}")),
        None => to(theirs),
    }
}

/// Maps a name relative to a layer of OpenCLIP. Queries, keys and values are one tensor there.
fn layer_name(theirs: &str) -> Rename {
    const MODULES: [(&str, &str); 5] = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("attn.out_proj.", "self_attn.out_proj."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ];
    if let Some(kind) = theirs.strip_prefix("attn.in_proj_") {
        return Rename::Parts(["q", "k", "v"].map(|part| format!("self_attn.{part}_proj.{kind}")).into());
    }
    let ours = MODULES.iter().find_map(|(from, to)| Some(format!("{to}{}", theirs.strip_prefix(from)?)));
    Rename::To(ours.unwrap_or_else(|| theirs.into()))
}

/// Maps the name of a tensor of a file to ours. The file holds a CLIP or its vision encoder, in Hugging Face's layout
/// (`vision_model.*`) or OpenCLIP's (`visual.*`). Other parts of a CLIP are ignored; unknown names stay, so that the load
/// names them.
pub fn file_name(theirs: &str) -> Rename {
    if let Some(name) = theirs.strip_prefix("vision_model.") {
        hugging_face_name(name)
    } else if let Some(name) = theirs.strip_prefix("visual.") {
        open_clip_name(name)
    } else if OTHER_PARTS.iter().any(|part| theirs.starts_with(part)) {
        Rename::Ignore
    } else {
        Rename::To(theirs.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_both_layouts() {
        let to = |name: &str| Rename::To(name.into());
        for (theirs, ours) in [
            ("vision_model.embeddings.class_embedding", to("embeddings.class_embedding")),
            ("vision_model.embeddings.position_ids", Rename::Ignore),
            ("vision_model.post_layernorm.bias", Rename::Ignore),
            ("vision_model.pre_layrnorm.bias", to("pre_layrnorm.bias")),
            ("vision_model.other", to("other")),
            ("text_model.final_layer_norm.bias", Rename::Ignore),
            ("visual.proj", Rename::Ignore),
            ("visual.conv1.weight", to("embeddings.patch_embedding.weight")),
            ("visual.transformer.resblocks.11.ln_1.bias", to("encoder.layers.11.layer_norm1.bias")),
            ("visual.transformer.resblocks.2.mlp.c_proj.weight", to("encoder.layers.2.mlp.fc2.weight")),
            ("visual.transformer.resblocks.2.ls_1.gamma", to("encoder.layers.2.ls_1.gamma")),
            (
                "visual.transformer.resblocks.0.attn.in_proj_bias",
                Rename::Parts(
                    ["q", "k", "v"].map(|part| format!("encoder.layers.0.self_attn.{part}_proj.bias")).into(),
                ),
            ),
            ("visual.attn_pool.query", to("attn_pool.query")),
            ("transformer.resblocks.0.ln_1.bias", Rename::Ignore),
            ("epoch", to("epoch")),
        ] {
            assert_eq!(file_name(theirs), ours, "{theirs}");
        }
    }
}
