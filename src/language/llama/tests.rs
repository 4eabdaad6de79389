use candle_core::{Device, Var};
use serde_json::{Value, json};

use super::*;
use crate::language::KvCache;

fn small(style: RopeStyle, tied: bool) -> LlamaConfig {
    LlamaConfig {
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
        rope: Rope { theta: 100.0, style, scaling: RopeScaling::None },
        tied,
        qkv_bias: false,
    }
}

/// Hidden states `x` (n, d) through all layers to logits.
fn forward(model: &Llama, x: &Tensor) -> Result<Tensor> {
    let mut cache = KvCache::off();
    let rows = PackedBatch::new([(x.dim(0)?, &mut cache)], &model.sizes().cache)?;
    let mut x = x.clone();
    for i in 0..model.n_layers() {
        x = model.layer(i, &x, &rows)?;
    }
    model.head(&x)
}

/// Adapter training needs a gradient through the frozen model to its input.
#[test]
fn gradient_reaches_input_embedding() {
    for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
        let trained = Weights::random(5, &Device::Cpu, DType::F32);
        let model = Llama::new(small(style, false), &trained).unwrap();
        let detached =
            trained.vars().into_iter().map(|(name, var)| (name, var.as_tensor().detach())).collect();
        let frozen = Weights::from_tensors("frozen", detached, &Device::Cpu, DType::F32);
        let frozen_model = Llama::new(small(style, false), &frozen).unwrap();
        frozen.finish().unwrap();

        let x = Var::randn(0f32, 1.0, (7, 12), &Device::Cpu).unwrap();
        let loss = |x: &Tensor| -> f32 {
            forward(&frozen_model, x).unwrap().sqr().unwrap().mean_all().unwrap().to_scalar().unwrap()
        };
        let logits = forward(&frozen_model, x.as_tensor()).unwrap();
        let gradients = logits.sqr().unwrap().mean_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&x).expect("a gradient").to_vec2::<f32>().unwrap();
        assert!(gradient.iter().flatten().all(|g| g.is_finite()));
        // Compared with a central difference in one coordinate of an early and of a late token.
        for (token, coordinate) in [(0, 3), (6, 11)] {
            let step = |h: f32| {
                let mut moved = x.as_tensor().to_vec2::<f32>().unwrap();
                moved[token][coordinate] += h;
                loss(&Tensor::new(moved, &Device::Cpu).unwrap())
            };
            let numeric = (step(1e-2) - step(-1e-2)) / 2e-2;
            let analytic = gradient[token][coordinate];
            assert!(
                analytic != 0.0 && (analytic - numeric).abs() < 1e-3 + 0.02 * numeric.abs(),
                "{analytic} {numeric}"
            );
        }
        // The slow kernels of tracked tensors compute the same as the fused ones.
        let fused = forward(&frozen_model, &x.as_tensor().detach()).unwrap();
        let apart = (logits - fused).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(apart < 1e-5, "{apart}");
        assert_eq!(model.sizes().cache.width, 4);
    }
}

/// Every variable of a freshly initialised model receives a gradient; a tied embedding is one variable.
#[test]
fn every_random_weight_receives_gradient() {
    for tied in [false, true] {
        let weights = Weights::random(5, &Device::Cpu, DType::F32);
        let model = Llama::new(small(RopeStyle::HalfSplit, tied), &weights).unwrap();
        let x = {
            let tensor = |ids: [u32; 5]| Tensor::new(&ids, &Device::Cpu).unwrap();
            model.embed(&tensor([3, 19, 0, 7, 22]), &tensor([0, 1, 2, 3, 4])).unwrap()
        };
        let loss = forward(&model, &x).unwrap().sqr().unwrap().mean_all().unwrap();
        let gradients = loss.backward().unwrap();
        let vars = weights.vars();
        assert_eq!(vars.len(), 2 + 2 * 9 + usize::from(!tied));
        for (name, var) in vars {
            let gradient = gradients.get(&var).unwrap_or_else(|| panic!("no gradient for {name}"));
            let norm: f32 = gradient.sqr().unwrap().sum_all().unwrap().to_scalar().unwrap();
            assert!(norm.is_finite() && norm > 0.0, "{name}: {norm}");
        }
    }
}

fn smollm2() -> Value {
    json!({
        "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
        "num_hidden_layers": 30, "vocab_size": 49152, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 100000, "tie_word_embeddings": true, "hidden_act": "silu", "rope_scaling": null,
    })
}

fn with(key: &str, value: Value) -> Value {
    let mut json = smollm2();
    json[key] = value;
    json
}

#[test]
fn reads_config_json() {
    let config = LlamaConfig::from_hugging_face(&smollm2()).unwrap();
    assert_eq!((config.head_width, config.kv_heads, config.tied), (64, 3, true));
    let rope = Rope { theta: 1e5, style: RopeStyle::HalfSplit, scaling: RopeScaling::None };
    assert_eq!(config.rope, rope);
    let five = with("rope_parameters", json!({ "rope_theta": 5.0, "rope_type": "default" }));
    assert_eq!(LlamaConfig::from_hugging_face(&five).unwrap().rope.theta, 5.0);
}

#[test]
fn rejects_impossible_config() {
    let cases = [
        ("hidden_size", json!(0), "the width is 0, not between 1 and 16777216"),
        ("hidden_size", json!(-4), "`hidden_size` is -4, not a size"),
        ("hidden_size", Value::Null, "`hidden_size` is null, not a size"),
        ("num_attention_heads", json!(0), "the number of heads is 0, not between 1 and 16777216"),
        (
            "num_attention_heads",
            json!(1u64 << 60),
            "the number of heads is 1152921504606846976, not between 1 and 16777216",
        ),
        ("num_key_value_heads", json!(4), "9 heads cannot share 4 key and value heads"),
        ("head_dim", json!(15), "the head width 15 is odd: rotary positions rotate pairs"),
        ("max_position_embeddings", json!(1 << 23), "8388608 positions of width 64 are too many"),
        ("num_hidden_layers", json!("30"), "`num_hidden_layers` is \"30\", not a size"),
        ("rms_norm_eps", json!(-1.0), "epsilon -1 must be positive"),
        ("attention_bias", json!(true), "`attention_bias` is true: this build runs models with false only"),
        ("hidden_act", json!("gelu"), "unknown `hidden_act` `gelu`"),
        ("rope_scaling", json!({ "type": "yarn", "factor": 2.0 }), "unknown rope scaling `yarn`"),
        ("rope_scaling", json!({ "factor": 2.0 }), "rope scaling without a type"),
        ("rope_scaling", json!({ "rope_type": "llama3", "factor": 8.0 }), "`low_freq_factor` is missing"),
    ];
    for (key, value, expected) in cases {
        let found = LlamaConfig::from_hugging_face(&with(key, value.clone())).unwrap_err();
        assert_eq!(found, expected, "{key} = {value}");
    }
}

/// Llama 3.1's published parameters: the slowest frequency is divided by 8, the fastest kept.
#[test]
fn llama3_scaling_changes_low_frequencies_only() {
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_frequency: 1.0,
        high_frequency: 4.0,
        original_positions: 8192.0,
    };
    let rope = |scaling| Rope { theta: 5e5, style: RopeStyle::HalfSplit, scaling };
    let (scaled, plain) = (rope(scaling).frequencies(128), rope(RopeScaling::None).frequencies(128));
    assert_eq!((plain.len(), plain[0], scaled[0]), (64, 1.0, 1.0));
    assert!((scaled[63] * 8.0 / plain[63] - 1.0).abs() < 1e-6);
    assert!(scaled.iter().zip(&plain).any(|(s, p)| s < p && s * 8.0 > p * 1.01), "some are blended");
}
