//! Sizes of `flamingo-mini`: small enough for a CPU, made for SmolLM2-135M.

use std::path::PathBuf;

use super::native::{NativeConfig, SCHEMA, TokenNames, WeightFile};
use crate::kernels::activation::Activation;
use crate::model::{
    ConnectorConfig, CrossAttentionConfig, FlamingoConfig, KvProjectionKind, MediaAttentionConfig, Placement,
    ResamplerConfig,
};
use crate::prompt::PromptFormat;
use crate::vision::{Fit, Preprocess, VisionConfig, nfnet};

impl NativeConfig {
    /// Returns a description without weights. `language` is the path of the language model, relative to the model
    /// directory.
    pub fn mini(name: &str, language: PathBuf) -> Self {
        let tokens = TokenNames {
            begin: Some("<|endoftext|>".into()),
            media: "<file_sep>".into(),
            end_of_chunk: "<|im_end|>".into(),
            forget: None,
            stop: vec!["<|endoftext|>".into()],
        };
        Self {
            schema: SCHEMA.into(),
            name: name.into(),
            vision: vision(),
            model: FlamingoConfig {
                connector: ConnectorConfig::Resampler(resampler()),
                cross_attention: cross_attention(),
                media_attention: MediaAttentionConfig::default(),
            },
            joint_space: None,
            adapters: WeightFile { file: "adapters.safetensors".into(), sha256: None },
            language: WeightFile { file: language, sha256: None },
            tokens,
            prompt: PromptFormat::default(),
        }
    }

    /// Adds the two text-only examples of the paper's zero-shot prompt (section 4.2): they show the form of an answer, not
    /// its content. A model that was trained on the form needs none.
    pub fn zero_shot(mut self) -> Self {
        self.prompt.example_captions =
            ["A dog runs along the beach.", "Two people are cooking in a kitchen."].map(Into::into).into();
        self.prompt.example_answers =
            [("What is the man riding?", "a bicycle"), ("How many birds are there?", "three")]
                .map(|(question, answer)| (question.into(), answer.into()))
                .into();
        self
    }
}

fn vision() -> VisionConfig {
    let preprocess =
        Preprocess { fit: Fit::Pad, size: 128, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    VisionConfig::Nfnet(nfnet::Config {
        variant: nfnet::Variant::Mini,
        features: nfnet::Features::FinalStage,
        preprocess,
    })
}

fn resampler() -> ResamplerConfig {
    ResamplerConfig {
        width: 192,
        depth: 4,
        heads: 4,
        head_width: 48,
        latents: 64,
        frames: 8,
        feed_forward_multiple: 4,
        activation: Activation::SquaredRelu,
        qk_norm: None,
        kv_projection: KvProjectionKind::Fused,
    }
}

fn cross_attention() -> CrossAttentionConfig {
    // The paper spreads the blocks over all layers. In this small language model the gates of the first half stay closed,
    // and blocks in the second half alone are cheaper to train: the backward pass ends at the first block.
    let placement = Placement { every: 3, first: 15 };
    CrossAttentionConfig::new(placement, 6, 64, 2, Activation::SquaredRelu)
}
