//! Gradients of all trained parts, through the frozen language model.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor, Var};

use super::config::{MediaAttention, WithoutMedia};
use super::*;
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::finite_differences::{check, random, randomise_zeros, variable};
use crate::kernels::linear::Linear;
use crate::kernels::norm::LayerNorm;
use crate::language::llama::{Llama, LlamaConfig, Rope, RopeScaling, RopeStyle};
use crate::vision::VisionEncoder;
use crate::weights::{Matrix, Packed, Weights};

const MEDIUM: u32 = 7;

/// Takes the pixels for features.
struct PassThroughEncoder;

impl VisionEncoder for PassThroughEncoder {
    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        Ok(pixels.clone())
    }

    fn width(&self) -> usize {
        10
    }

    fn patches(&self, _height: usize, _width: usize) -> usize {
        1
    }

    fn fold(self: Box<Self>) -> Result<Box<dyn VisionEncoder>> {
        Ok(self)
    }
}

fn fresh() -> Weights {
    Weights::random(3, &Device::Cpu, DType::F32)
}

fn resampler() -> ResamplerConfig {
    ResamplerConfig {
        width: 8,
        depth: 2,
        heads: 2,
        head_width: 3,
        latents: 5,
        frames: 4,
        feed_forward_multiple: 2,
        activation: Activation::SquaredRelu,
        qk_norm: None,
        kv_projection: KvProjectionKind::Fused,
    }
}

/// All trained parts, in front of a frozen Llama of two layers.
fn flamingo() -> (Flamingo, Weights) {
    let (parts, weights) = parts();
    (Flamingo::from_parts(parts).unwrap(), weights)
}

fn parts() -> (FlamingoParts, Weights) {
    parts_with(ConnectorConfig::Resampler(resampler()))
}

fn parts_with(connector: ConnectorConfig) -> (FlamingoParts, Weights) {
    let config = LlamaConfig {
        vocabulary: 23,
        extra_embeddings: 0,
        width: 12,
        ffn_width: 20,
        layers: 2,
        heads: 6,
        kv_heads: 3,
        head_width: 4,
        max_positions: 17,
        norm_eps: 1e-5,
        rope: Rope { theta: 100.0, style: RopeStyle::HalfSplit, scaling: RopeScaling::None },
        tied: false,
        qkv_bias: false,
    };
    let (source, weights) = (fresh(), fresh());
    Llama::new(config.clone(), &source).unwrap();
    let frozen = source.vars().into_iter().map(|(name, var)| (name, var.as_tensor().detach())).collect();
    let frozen = Weights::from_tensors("frozen", frozen, &Device::Cpu, DType::F32);
    let language = Box::new(Llama::new(config, &frozen).unwrap());
    let placement = Placement { every: 1, first: 0 };
    let cross_attention = CrossAttentionConfig::new(placement, 3, 4, 2, Activation::Gelu);
    let media_attention = MediaAttentionConfig::default();
    let config = FlamingoConfig { connector, cross_attention, media_attention };
    let rule = MediaAttentionRule::last_medium(MEDIUM);
    let vision = Box::new(PassThroughEncoder);
    let parts = FlamingoParts::from_config(&config, vision, language, rule, &weights).unwrap();
    randomise_zeros(weights.vars(), &["_gate"]);
    (parts, weights)
}

#[test]
fn gradients_flow_through_frozen_language_model() {
    let (model, weights) = flamingo();
    // Two media, of three frames and of one.
    let features = random("features", &[4, 3, 10]);
    let logits = || {
        let tokens = model.connect(&features, &[3, 1])?;
        let media = tokens.iter().map(|tokens| model.media_kv(tokens)).collect::<Result<Vec<_>>>()?;
        let mut row = model.uncached_row(media);
        let ids = [2, MEDIUM, 4, 19, MEDIUM, 11, 3];
        let hidden = model.forward(&mut [RowInput { ids: &ids, state: &mut row }], None, None)?;
        model.logits(&hidden)
    };
    let vars = weights.vars();
    assert!(vars.keys().all(|name| !name.starts_with("model.")));
    assert!(vars.contains_key("cross_attention.0.attention_gate"));
    check("whole", vars, logits);
}

#[test]
fn gradients_of_resampler_with_learned_and_interpolated_times() {
    for (case, lengths) in [("learned", [3, 2]), ("interpolated", [3, 6])] {
        let (weights, longest) = (fresh(), lengths.into_iter().max().unwrap());
        let resampler = PerceiverResampler::new(&resampler(), 10, weights.clone()).unwrap();
        let x = variable("x", &[2, longest, 3, 10]);
        let vars = weights.vars().into_iter().chain([("x".to_string(), x.clone())]);
        check(case, vars, || resampler.forward(&x, &lengths));
    }
}

#[test]
fn gradients_of_joint_spaces_and_temperature() {
    let (weights, x) = (fresh(), variable("x", &[3, 8]));
    let config = JointSpaceConfig { width: 5, text_width: 6 };
    let spaces = JointSpaces::new(&config, 10, 8, &weights).unwrap();
    let texts = random("texts", &[4, 6]);
    let vars = weights.vars().into_iter().filter(|(name, _)| name.starts_with("videos."));
    check("joint space", vars.chain([("x".to_string(), x.clone())]), || {
        let (media, texts) = (spaces.videos.of_media(&x)?, spaces.videos.of_text(&texts)?);
        Ok(media.matmul(&texts.t()?)?.broadcast_mul(&spaces.videos.scale()?)?)
    });
}

#[test]
fn gradients_of_layer_norm_and_linear() {
    let (weights, x) = (fresh(), variable("x", &[2, 3, 7]));
    let norm = LayerNorm::new(7, 1e-5, weights.pp("norm")).unwrap();
    let linear = Linear::new(7, 5, weights.pp("linear")).unwrap();
    let vars = weights.vars().into_iter().chain([("x".to_string(), x.clone())]);
    check("norm and linear", vars, || linear.forward(&norm.forward(&x)?));
}

/// Reason why training dequantises: no gradient passes a quantised matrix, neither by candle nor by our kernels.
#[test]
fn quantised_matrix_blocks_gradient() {
    let x = Var::from_tensor(&random("x", &[3, 64])).unwrap();
    for format in [GgmlDType::Q8_0, GgmlDType::Q5_0] {
        let packed = QTensor::quantize(&random("weight", &[5, 64]), format).unwrap();
        let dense = Matrix::Dense(packed.dequantize(&Device::Cpu).unwrap());
        let packed = Matrix::Quantized(Packed::copied(&packed, &Device::Cpu).unwrap());
        for (matrix, flows) in [(dense, true), (packed, false)] {
            let y = Linear::from_matrix(matrix).unwrap().forward(&x).unwrap();
            let gradients = y.sum_all().unwrap().backward().unwrap();
            assert_eq!(gradients.get(&x).is_some(), flows, "{format:?}");
        }
    }
}

#[test]
fn observer_receives_heads_only_if_it_wants_them() {
    let (model, _) = flamingo();
    let names = |wants_heads: bool| {
        let mut names = Vec::new();
        let mut stage = |name: &str, value: &Tensor| {
            names.push(format!("{name} {:?}", value.dims()));
            Ok(())
        };
        let mut row = model.uncached_row(Vec::new());
        let inputs = &mut [RowInput { ids: &[2, 4, 19], state: &mut row }];
        match wants_heads {
            true => model.forward(inputs, None, Some(&mut WithHeads(&mut stage))).unwrap(),
            false => model.forward(inputs, None, Some(&mut stage)).unwrap(),
        };
        names
    };
    assert_eq!(names(false), ["xattn.0 [3, 12]", "xattn.1 [3, 12]"]);
    let expected = ["xattn.0 [3, 12]", "heads.0 [6, 3, 4]", "xattn.1 [3, 12]", "heads.1 [6, 3, 4]"];
    assert_eq!(names(true), expected);
}

#[test]
fn incomplete_layer_plan_is_refused() {
    let (model, _) = flamingo();
    assert_eq!(model.cross_attention_layers(), [0, 1]);
    use LayerStep::{CrossAttention, Language};
    assert_eq!(
        Placement { every: 2, first: 1 }.plan(4),
        [Language(0), CrossAttention(0), Language(1), Language(2), CrossAttention(1), Language(3)]
    );
    for plan in [
        vec![Language(0), CrossAttention(0), CrossAttention(1)],
        vec![Language(1), Language(0), CrossAttention(0), CrossAttention(1)],
        vec![Language(0), Language(1), CrossAttention(0)],
    ] {
        let (mut parts, _) = parts();
        parts.plan = plan.clone();
        let error = Flamingo::from_parts(parts).err().expect("an error");
        assert_eq!(error.code(), "bad_model_config", "{plan:?}");
    }
}

/// Llama 3.2 Vision has cross-attention between layers, also after the last one.
#[test]
fn family_gives_layer_plan() {
    use LayerStep::{CrossAttention, Language};
    let (mut parts, _) = parts();
    parts.plan = vec![Language(0), CrossAttention(0), Language(1), CrossAttention(1)];
    let model = Flamingo::from_parts(parts).unwrap();
    let mut names = Vec::new();
    let mut stage = |name: &str, _: &Tensor| {
        names.push(name.to_string());
        Ok(())
    };
    let mut row = model.uncached_row(Vec::new());
    let inputs = &mut [RowInput { ids: &[2, 4], state: &mut row }];
    model.forward(inputs, None, Some(&mut WithHeads(&mut stage))).unwrap();
    assert_eq!(names, ["heads.0", "xattn.0", "heads.1", "xattn.1"]);
}

/// Without a resampler the features, projected or not, are the visual tokens of their medium.
#[test]
fn features_are_visual_tokens_without_resampler() {
    let media = [random("one", &[2, 3, 10]), random("two", &[1, 3, 10])];
    let projector = ConnectorConfig::Projector(ProjectorConfig { width: 8, bias: true });
    for (config, width) in [(ConnectorConfig::Identity, 10), (projector, 8)] {
        let (parts, weights) = parts_with(config.clone());
        let model = Flamingo::from_parts(parts).unwrap();
        let pixels = media.clone().map(MediumPixels::from);
        let tokens = model.visual_tokens(&pixels, None).unwrap();
        let shapes: Vec<_> = tokens.iter().map(|tokens| tokens.dims().to_vec()).collect();
        assert_eq!(shapes, [[6, width], [3, width]]);
        let vars = weights.vars();
        for (tokens, features) in tokens.iter().zip(&media) {
            let features = features.flatten(0, 1).unwrap();
            let expected = match vars.get("projector.weight") {
                None => features,
                Some(weight) => features
                    .matmul(&weight.as_tensor().t().unwrap())
                    .and_then(|x| x.broadcast_add(vars["projector.bias"].as_tensor()))
                    .unwrap(),
            };
            assert!(apart(tokens, &expected) < 1e-6, "{config:?}");
        }
        hidden(&model, &[2, MEDIUM, 4, MEDIUM, 11], &kv(&model, &tokens, [6, 3]));
    }
}

/// Padding is invisible, except to positions without a visible medium in a family that masks nothing for them.
#[test]
fn padding_is_visible_where_nothing_is_masked() {
    let tokens = [random("one", &[5, 8]), random("two", &[4, 8])];
    let valid = [3, 4];
    let model = |attention: MediaAttention| {
        let (mut parts, _) = parts();
        parts.rule.config.without_media = WithoutMedia { attention, mlp: false };
        Flamingo::from_parts(parts).unwrap()
    };
    let ids = [2, 5, MEDIUM, 4, MEDIUM, 11];
    for attention in [MediaAttention::Zero, MediaAttention::Unmasked] {
        let model = model(attention);
        let padded = kv(&model, &tokens, valid);
        let cut = [tokens[0].narrow(0, 0, 3).unwrap(), tokens[1].clone()];
        let cut = kv(&model, &cut, valid);
        let (with, without) = (hidden(&model, &ids, &padded), hidden(&model, &ids, &cut));
        let difference = apart(&with.narrow(0, 0, 2).unwrap(), &without.narrow(0, 0, 2).unwrap());
        match attention {
            MediaAttention::Unmasked => assert!(difference > 1e-4, "padding was not attended to"),
            _ => assert_eq!(difference, 0.0, "padding was attended to"),
        }
        // The same bytes in other places.
        let size = |kv: &[Arc<MediaKv>]| kv.iter().map(|kv| kv.bytes()).sum::<usize>();
        assert_eq!(size(&padded) * 7, size(&cut) * 9);
    }
    let model = model(MediaAttention::Unmasked);
    assert_eq!(model.padded_media_kv(&tokens[0], 0).unwrap_err().code(), "bad_prompt");
    assert_eq!(model.padded_media_kv(&tokens[0], 6).unwrap_err().code(), "bad_prompt");
}

#[test]
fn config_names_its_connector() {
    let (with_resampler, projector) = (
        r#""resampler": {"width": 8, "depth": 2, "heads": 2, "head_width": 3, "latents": 5, "frames": 4,
            "feed_forward_multiple": 2, "activation": "squared_relu"}"#,
        r#""projector": {"width": 8, "bias": true}"#,
    );
    let rest = r#""cross_attention": {"placement": {"every": 1, "first": 0}, "heads": 3, "head_width": 4,
        "feed_forward_multiple": 2, "activation": "gelu"}"#;
    let read = |fields: &[&str]| {
        serde_json::from_str::<FlamingoConfig>(&format!("{{{}}}", fields.join(",")))
            .map_err(|e| e.to_string())
    };
    for (fields, connector) in [
        (&[with_resampler, rest][..], ConnectorConfig::Resampler(resampler())),
        (&[projector, rest], ConnectorConfig::Projector(ProjectorConfig { width: 8, bias: true })),
        (&[rest], ConnectorConfig::Identity),
    ] {
        let config = read(fields).unwrap();
        assert_eq!(config.connector, connector);
        config.check().unwrap();
        let again = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<FlamingoConfig>(&again).unwrap(), config);
    }
    let error = read(&[with_resampler, projector, rest]).unwrap_err();
    assert!(error.contains("both `resampler` and `projector`"), "{error}");
    let error = read(&[rest, r#""resampled": {}"#]).unwrap_err();
    assert!(error.contains("unknown field `resampled`"), "{error}");
    let zero = read(&[r#""projector": {"width": 0, "bias": true}"#, rest]).unwrap();
    assert_eq!(zero.check().unwrap_err(), "projector.width is 0");
}

/// Returns the keys and values of media of which the first `valid` tokens are no padding.
fn kv(model: &Flamingo, tokens: &[Tensor], valid: [usize; 2]) -> Vec<Arc<MediaKv>> {
    tokens.iter().zip(valid).map(|(tokens, valid)| model.padded_media_kv(tokens, valid).unwrap()).collect()
}

fn hidden(model: &Flamingo, ids: &[u32], media: &[Arc<MediaKv>]) -> Tensor {
    let mut row = model.uncached_row(media.to_vec());
    model.forward(&mut [RowInput { ids, state: &mut row }], None, None).unwrap()
}

fn apart(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}
