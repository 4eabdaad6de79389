//! Every kind of gated cross-attention, and every media attention, against a plain reference in candle operations.

use std::sync::Arc;

use candle_core::{D, Device};

use super::*;
use crate::kernels::activation::Activation;
use crate::kernels::finite_differences::random;
use crate::language::CacheShape;
use crate::model::config::{
    FeedForwardKind, KvProjectionKind, MediaAttention, MediaAttentionConfig, NormKind, Placement,
    VisibleMedia, WithoutMedia,
};
use crate::model::media_attention::{
    BatchedMediaKv, CrossAttentionPlan, MediaAttentionRule, MediaKv, RowMedia,
};

const TEXT: usize = 10;
const MEDIA: usize = 7;
const TOKENS: usize = 3;
const MARKER: u32 = 9;

fn config(change: impl Fn(&mut CrossAttentionConfig)) -> CrossAttentionConfig {
    let mut config =
        CrossAttentionConfig::new(Placement { every: 1, first: 0 }, 2, 4, 2, Activation::SquaredRelu);
    change(&mut config);
    config
}

/// A block with random values for all parameters, gates and biases too, and its weights.
fn block(config: &CrossAttentionConfig) -> (GatedCrossAttention, Weights) {
    let weights = Weights::random(5, &Device::Cpu, DType::F32);
    let block = GatedCrossAttention::new(config, TEXT, MEDIA, weights.clone()).unwrap();
    for (name, var) in weights.vars() {
        let constant = name.ends_with("norm.weight");
        let value = (random(&name, var.dims()) * 0.5).unwrap();
        var.set(&if constant { (value + 1.0).unwrap() } else { value }).unwrap();
    }
    (block, weights)
}

/// The same block in plain candle operations, with one dense mask.
struct Reference<'a> {
    config: &'a CrossAttentionConfig,
    weights: Weights,
}

impl Reference<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor> {
        self.weights.vars().get(name).map(|var| var.as_tensor().detach())
    }

    fn linear(&self, x: &Tensor, name: &str) -> Tensor {
        let y = x.broadcast_matmul(&self.tensor(&format!("{name}.weight")).unwrap().t().unwrap()).unwrap();
        match self.tensor(&format!("{name}.bias")) {
            Some(bias) => y.broadcast_add(&bias).unwrap(),
            None => y,
        }
    }

    fn norm(&self, kind: NormKind, x: &Tensor, name: &str) -> Tensor {
        let centred = match kind {
            NormKind::LayerNorm => x.broadcast_sub(&x.mean_keepdim(D::Minus1).unwrap()).unwrap(),
            NormKind::RmsNorm => x.clone(),
        };
        let variance = centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let scale = (variance + self.config.norm_eps).unwrap().sqrt().unwrap();
        let y = centred.broadcast_div(&scale).unwrap();
        let y = y.broadcast_mul(&self.tensor(&format!("{name}.weight")).unwrap()).unwrap();
        match self.tensor(&format!("{name}.bias")) {
            Some(bias) => y.broadcast_add(&bias).unwrap(),
            None => y,
        }
    }

    fn heads(&self, x: &Tensor) -> Tensor {
        let (n, h, d) = (x.dim(0).unwrap(), self.config.heads, self.config.head_width);
        x.reshape((n, h, d)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap()
    }

    /// `visible[i]` are the media that position i attends to, `mlp[i]` tells whether its feed-forward runs.
    fn forward(&self, x: &Tensor, media: &Tensor, visible: &[Vec<usize>], mlp: &[bool]) -> Tensor {
        let Self { config, .. } = self;
        let (n, inner) = (x.dim(0).unwrap(), config.heads * config.head_width);
        let q = self.heads(&self.linear(&self.norm(config.norm, x, "attention.norm"), "attention.to_q"));
        let (k, v) = match config.kv_projection {
            KvProjectionKind::Fused => {
                let kv = self.linear(media, "attention.to_kv");
                (kv.narrow(1, 0, inner).unwrap(), kv.narrow(1, inner, inner).unwrap())
            }
            KvProjectionKind::Separate => {
                (self.linear(media, "attention.to_k"), self.linear(media, "attention.to_v"))
            }
        };
        let (k, v) = (self.heads(&k), self.heads(&v));
        let (q, k) = match config.qk_norm {
            None => (q, k),
            Some(kind) => (self.norm(kind, &q, "attention.q_norm"), self.norm(kind, &k, "attention.k_norm")),
        };
        let scores = q.matmul(&k.transpose(1, 2).unwrap().contiguous().unwrap()).unwrap();
        let scores = (scores / (config.head_width as f64).sqrt()).unwrap();
        let tokens = media.dim(0).unwrap();
        let mask_row = |own: &Vec<usize>| -> Vec<f32> {
            let all_hidden = own.is_empty();
            (0..tokens)
                .map(|j| if all_hidden || own.contains(&(j / TOKENS)) { 0.0 } else { f32::NEG_INFINITY })
                .collect()
        };
        let mask: Vec<f32> = visible.iter().flat_map(mask_row).collect();
        let mask = Tensor::from_vec(mask, (n, tokens), &Device::Cpu).unwrap();
        let p = candle_nn::ops::softmax(&scores.broadcast_add(&mask).unwrap(), D::Minus1).unwrap();
        let out = p.matmul(&v).unwrap().transpose(0, 1).unwrap().reshape((n, inner)).unwrap();
        let column = |on: Vec<f32>| Tensor::from_vec(on, (n, 1), &Device::Cpu).unwrap();
        let attends = column(visible.iter().map(|own| if own.is_empty() { 0.0 } else { 1.0 }).collect());
        let gated =
            |y: Tensor, gate: &str| y.broadcast_mul(&self.tensor(gate).unwrap().tanh().unwrap()).unwrap();
        let out = self.linear(&out, "attention.to_out").broadcast_mul(&attends).unwrap();
        let x = (x + gated(out, "attention_gate")).unwrap();
        let y = self.norm(config.norm, &x, "feed_forward.norm");
        let up = self.linear(&y, "feed_forward.up");
        let hidden = match config.feed_forward {
            FeedForwardKind::Plain => self.activation(&up),
            FeedForwardKind::Gated => (self.activation(&self.linear(&y, "feed_forward.gate")) * up).unwrap(),
        };
        let dense = gated(self.linear(&hidden, "feed_forward.down"), "feed_forward_gate");
        let runs = column(mlp.iter().map(|&on| if on { 1.0 } else { 0.0 }).collect());
        (x + dense.broadcast_mul(&runs).unwrap()).unwrap()
    }

    fn activation(&self, x: &Tensor) -> Tensor {
        match self.config.activation {
            Activation::SquaredRelu => x.relu().unwrap().sqr().unwrap(),
            Activation::Silu => (x / ((x.neg().unwrap().exp().unwrap() + 1.0).unwrap())).unwrap(),
            Activation::Gelu => x.gelu_erf().unwrap(),
            Activation::Relu => x.relu().unwrap(),
            Activation::QuickGelu => (x / (((x * -1.702).unwrap().exp().unwrap() + 1.0).unwrap())).unwrap(),
        }
    }
}

fn shape() -> CacheShape {
    CacheShape { layers: 1, heads: 1, width: 1, dtype: DType::F32, device: Device::Cpu }
}

fn rule(config: MediaAttentionConfig) -> MediaAttentionRule {
    MediaAttentionRule { media_token: MARKER, forget_token: None, config }
}

/// Rows of a pass.
#[derive(Clone, Copy, Default)]
struct Rows<'a> {
    /// Ids of earlier passes, per row.
    history: &'a [&'a [u32]],
    /// Ids of this pass, per row.
    ids: &'a [&'a [u32]],
    /// Media of every row: three media, or two, the first of which has the second set of tokens as padding.
    padded: bool,
}

/// Runs rows of ids over one set of media, and compares every position with the reference.
fn check(
    what: &str,
    config: &CrossAttentionConfig,
    attention: MediaAttentionConfig,
    ids: &[&[u32]],
    visible: &[Vec<usize>],
    mlp: &[bool],
) {
    let history = &vec![&[][..]; ids.len()];
    check_after(what, config, attention, Rows { history, ids, padded: false }, visible, mlp);
}

/// As [`check`], after a history or over padded media. `visible` counts the sets of tokens, padding too.
fn check_after(
    what: &str,
    config: &CrossAttentionConfig,
    attention: MediaAttentionConfig,
    Rows { history, ids: rows, padded }: Rows,
    visible: &[Vec<usize>],
    mlp: &[bool],
) {
    let (block, weights) = block(config);
    let media: Vec<Tensor> = (0..3).map(|m| random(&format!("medium {m}"), &[TOKENS, MEDIA])).collect();
    let layers = |m: usize| vec![block.project_kv(&media[m]).unwrap()];
    let medium = |m: usize| Arc::new(MediaKv::new(layers(m), None));
    let kv = match padded {
        false => vec![medium(0), medium(1), medium(2)],
        true => vec![Arc::new(MediaKv::new(layers(0), Some(medium(1)))), medium(2)],
    };
    let n = rows.iter().map(|ids| ids.len()).sum::<usize>();
    let x = random("x", &[n, TEXT]);
    let reference = Reference { config, weights };
    let expected = reference.forward(&x, &Tensor::cat(&media, 0).unwrap(), visible, mlp);
    for packs in [false, true] {
        let mut of_rows: Vec<RowMedia> = rows.iter().map(|_| RowMedia::new(kv.clone())).collect();
        let mut packed = BatchedMediaKv::default();
        let past = history.iter().copied().zip(&mut of_rows).collect();
        CrossAttentionPlan::build(past, &rule(attention), None, &shape()).unwrap();
        let inputs = rows.iter().copied().zip(&mut of_rows).collect();
        let packed = packs.then_some(&mut packed);
        let plan = CrossAttentionPlan::build(inputs, &rule(attention), packed, &shape()).unwrap();
        let got = block.forward(&x, &plan.at(0), plan.mlp()).unwrap();
        let apart = (got - &expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(apart < 1e-5, "{what}, packed {packs}: {apart:.1e}");
    }
}

fn on(n: usize) -> Vec<bool> {
    vec![true; n]
}

#[test]
fn every_kind_equals_plain_reference() {
    let swiglu = |c: &mut CrossAttentionConfig| {
        (c.feed_forward, c.activation, c.feed_forward_width) =
            (FeedForwardKind::Gated, Activation::Silu, Some(13));
    };
    type Change = Box<dyn Fn(&mut CrossAttentionConfig)>;
    let cases: [(&str, Change); 11] = [
        ("paper", Box::new(|_| ())),
        ("gelu", Box::new(|c| c.activation = Activation::Gelu)),
        ("rms norm", Box::new(|c| (c.norm, c.norm_eps) = (NormKind::RmsNorm, 1e-3))),
        ("gates per channel", Box::new(|c| c.gate = GateShape::PerChannel)),
        ("swiglu", Box::new(swiglu)),
        ("qk rms norm", Box::new(|c| c.qk_norm = Some(NormKind::RmsNorm))),
        ("qk layer norm", Box::new(|c| c.qk_norm = Some(NormKind::LayerNorm))),
        ("separate keys and values", Box::new(|c| c.kv_projection = KvProjectionKind::Separate)),
        ("attention bias", Box::new(|c| c.attention_bias = true)),
        ("feed-forward bias", Box::new(|c| c.feed_forward_bias = true)),
        (
            "all of them",
            Box::new(move |c| {
                swiglu(c);
                (c.norm, c.qk_norm, c.gate) =
                    (NormKind::RmsNorm, Some(NormKind::RmsNorm), GateShape::PerChannel);
                (c.attention_bias, c.feed_forward_bias) = (true, true);
                c.kv_projection = KvProjectionKind::Separate;
            }),
        ),
    ];
    for (what, change) in cases {
        let rows: &[&[u32]] = &[&[1, MARKER, 2, MARKER, 3, 4]];
        let visible = [vec![], vec![0], vec![0], vec![1], vec![1], vec![1]];
        check(what, &config(change), MediaAttentionConfig::default(), rows, &visible, &on(6));
    }
}

#[test]
fn every_media_attention_equals_dense_mask() {
    let with = |visible, attention, mlp| MediaAttentionConfig {
        visible,
        without_media: WithoutMedia { attention, mlp },
    };
    let paper = config(|c| c.attention_bias = true);
    let rows: &[&[u32]] = &[&[1, MARKER, MARKER, 2, 3], &[4, MARKER], &[5]];
    let none = Vec::new;
    let last = [none(), vec![0], vec![1], vec![1], vec![1], none(), vec![0], none()];
    check("last", &paper, with(VisibleMedia::Last, MediaAttention::Zero, true), rows, &last, &on(8));
    let all = [none(), vec![0], vec![0, 1], vec![0, 1], vec![0, 1], none(), vec![0], none()];
    check("all", &paper, with(VisibleMedia::All, MediaAttention::Zero, true), rows, &all, &on(8));
    let mlp = [false, true, true, true, true, false, true, false];
    let group = VisibleMedia::AdjacentGroup;
    check("group by Meta", &paper, with(group, MediaAttention::Zero, false), rows, &all, &mlp);
    let all_of_row = || vec![0, 1, 2];
    let unmasked =
        [all_of_row(), vec![0], vec![0, 1], vec![0, 1], vec![0, 1], all_of_row(), vec![0], all_of_row()];
    check(
        "group in Hugging Face",
        &paper,
        with(group, MediaAttention::Unmasked, false),
        rows,
        &unmasked,
        &mlp,
    );
    let off = [false; 3];
    let nothing = [none(), none(), none()];
    let rows: &[&[u32]] = &[&[1, 2], &[3]];
    check("no media", &paper, with(group, MediaAttention::Zero, false), rows, &nothing, &off);
}

/// Decode steps of several rows, each with other media, attend in one product.
#[test]
fn packed_decode_steps_equal_dense_mask() {
    let paper = config(|_| ());
    let (history, rows): ([&[u32]; 3], [&[u32]; 3]) =
        ([&[MARKER], &[MARKER; 2], &[MARKER; 3]], [&[1], &[1], &[1]]);
    for (visible, expected) in [
        (VisibleMedia::Last, [vec![0], vec![1], vec![2]]),
        (VisibleMedia::All, [vec![0], vec![0, 1], vec![0, 1, 2]]),
    ] {
        let attention = MediaAttentionConfig { visible, ..MediaAttentionConfig::default() };
        let rows = Rows { history: &history, ids: &rows, ..Rows::default() };
        check_after("steps", &paper, attention, rows, &expected, &on(3));
    }
    let all = MediaAttentionConfig { visible: VisibleMedia::All, ..MediaAttentionConfig::default() };
    let same = [vec![0, 1, 2], vec![0, 1, 2]];
    let rows = Rows { history: &[&[MARKER; 3], &[MARKER; 3]], ids: &rows[..2], padded: false };
    check_after("same media", &paper, all, rows, &same, &on(2));
}

/// Meta's mllama hides padding from all positions; Hugging Face's shows it to positions without a visible medium.
#[test]
fn padding_follows_the_family() {
    let paper = config(|_| ());
    let family = |attention| MediaAttentionConfig {
        visible: VisibleMedia::AdjacentGroup,
        without_media: WithoutMedia { attention, mlp: false },
    };
    // The second set of tokens is the padding of the first medium.
    let mlp = [false, true, true, true, true];
    let ids: &[&[u32]] = &[&[1, MARKER, 2, MARKER, 3]];
    let rows = Rows { history: &[&[]], ids, padded: true };
    let meta = [vec![], vec![0], vec![0], vec![2], vec![2]];
    check_after("Meta", &paper, family(MediaAttention::Zero), rows, &meta, &mlp);
    let hugging_face = [vec![0, 1, 2], vec![0], vec![0], vec![2], vec![2]];
    check_after("Hugging Face", &paper, family(MediaAttention::Unmasked), rows, &hugging_face, &mlp);
    // Decode steps in one product: before every medium, after one, after both in a group.
    let history: &[&[u32]] = &[&[1], &[MARKER], &[MARKER, MARKER]];
    let rows = Rows { history, ids: &[&[1], &[1], &[1]], padded: true };
    let steps = [vec![0, 1, 2], vec![0], vec![0, 2]];
    check_after("steps", &paper, family(MediaAttention::Unmasked), rows, &steps, &[false, true, true]);
}

/// mllama skips the layer for a row without media: attention is zero and the feed-forward is off.
#[test]
fn row_without_media_skips_the_layer() {
    let (block, _) = block(&config(|_| ()));
    let without_media = WithoutMedia { attention: MediaAttention::Unmasked, mlp: false };
    let attention = MediaAttentionConfig { visible: VisibleMedia::AdjacentGroup, without_media };
    let (x, mut row) = (random("x", &[2, TEXT]), RowMedia::default());
    let inputs = vec![(&[1u32, 2][..], &mut row)];
    let plan = CrossAttentionPlan::build(inputs, &rule(attention), None, &shape()).unwrap();
    let got = block.forward(&x, &plan.at(0), plan.mlp()).unwrap();
    assert_eq!(got.to_vec2::<f32>().unwrap(), x.to_vec2::<f32>().unwrap());
}

#[test]
fn config_has_defaults_and_rejects_unknown_fields() {
    let paper = config(|_| ());
    let text = serde_json::to_string(&paper).unwrap();
    assert!(!text.contains("norm") && !text.contains("bias") && !text.contains("gate"), "{text}");
    assert_eq!(serde_json::from_str::<CrossAttentionConfig>(&text).unwrap(), paper);
    let mllama =
        config(|c| (c.norm, c.qk_norm, c.norm_eps) = (NormKind::RmsNorm, Some(NormKind::RmsNorm), 1e-6));
    let again = serde_json::to_string(&mllama).unwrap();
    assert_eq!(serde_json::from_str::<CrossAttentionConfig>(&again).unwrap(), mllama);
    let unknown = text.replacen("heads", "head_count", 1);
    assert!(serde_json::from_str::<CrossAttentionConfig>(&unknown).is_err());
    let unknown = text.replacen('{', r#"{"bias": true, "#, 1);
    assert!(serde_json::from_str::<CrossAttentionConfig>(&unknown).unwrap_err().to_string().contains("bias"));
}
