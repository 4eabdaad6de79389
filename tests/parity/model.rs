//! Resampler and gated cross-attention against open_flamingo's modules.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use flamingo::kernels::activation::Activation;
use flamingo::model::media::{MediaCursor, MediaRule, Seen};
use flamingo::model::{
    CrossAttentionConfig, GatedCrossAttention, PerceiverResampler, Placement, ResamplerConfig,
};
use flamingo::weights::Weights;
use support::golden::{Golden, relative_error};
use support::random_weights;

const TOLERANCE: f64 = 1e-4;
const ACTIVATIONS: [(&str, Activation); 2] =
    [("gelu", Activation::Gelu), ("squared_relu", Activation::SquaredRelu)];

const WIDTH: usize = 24;
const TEXT_WIDTH: usize = 26;
const LATENTS: usize = 7;

/// The weights of `rule.py` under our names: `(ours, theirs, shape)`.
fn weights(list: &[(String, String, Vec<usize>)]) -> Weights {
    let tensor = |theirs: &str, shape: &[usize]| random_weights::tensor(theirs, shape).unwrap();
    let tensors: HashMap<String, Tensor> =
        list.iter().map(|(ours, theirs, shape)| (ours.clone(), tensor(theirs, shape))).collect();
    Weights::from_tensors("rule", tensors, &Device::Cpu, DType::F32)
}

fn norm(list: &mut Vec<(String, String, Vec<usize>)>, ours: &str, theirs: &str, width: usize) {
    for part in ["weight", "bias"] {
        list.push((format!("{ours}.{part}"), format!("{theirs}.{part}"), vec![width]));
    }
}

fn resampler(activation: Activation) -> PerceiverResampler {
    let config = ResamplerConfig {
        width: WIDTH,
        depth: 2,
        heads: 3,
        head_width: 10,
        latents: LATENTS,
        frames: 5,
        feed_forward_multiple: 2,
        activation,
    };
    let mut list = vec![
        ("latents".into(), "latents".into(), vec![LATENTS, WIDTH]),
        ("temporal_embedding".into(), "frame_embs".into(), vec![5, WIDTH]),
    ];
    norm(&mut list, "norm", "norm", WIDTH);
    for i in 0..2 {
        for name in ["norm_media", "norm_latents"] {
            norm(&mut list, &format!("layers.{i}.attention.{name}"), &format!("layers.{i}.0.{name}"), WIDTH);
        }
        norm(&mut list, &format!("layers.{i}.feed_forward.norm"), &format!("layers.{i}.1.0"), WIDTH);
        for (ours, theirs, shape) in [
            ("attention.to_q", "0.to_q", vec![30, WIDTH]),
            ("attention.to_kv", "0.to_kv", vec![60, WIDTH]),
            ("attention.to_out", "0.to_out", vec![WIDTH, 30]),
            ("feed_forward.up", "1.1", vec![2 * WIDTH, WIDTH]),
            ("feed_forward.down", "1.3", vec![WIDTH, 2 * WIDTH]),
        ] {
            list.push((format!("layers.{i}.{ours}.weight"), format!("layers.{i}.{theirs}.weight"), shape));
        }
    }
    let weights = weights(&list);
    let resampler = PerceiverResampler::new(&config, WIDTH, weights.clone()).unwrap();
    weights.finish().unwrap();
    resampler
}

fn features(t: usize) -> Tensor {
    let all = random_weights::values(&format!("features.{t}"), (2, 1, t, 11, WIDTH), 0.0, 1.7).unwrap();
    all.squeeze(1).unwrap()
}

#[test]
fn the_resampler_equals_open_flamingo() {
    let golden = Golden::load("resampler");
    for (name, activation) in ACTIVATIONS {
        let resampler = resampler(activation);
        for t in [1, 3, 5, 8] {
            let out = resampler.forward(&features(t), &[t, t]).unwrap();
            golden.compare(&[(&format!("{name}.{t}"), &out, TOLERANCE)]);
        }
    }
}

#[test]
fn ragged_media_in_one_batch_equal_each_alone() {
    let resampler = resampler(Activation::SquaredRelu);
    let long = features(8);
    // What lies in padded frames must not matter, so it is left there.
    let batch = resampler.forward(&long, &[3, 8]).unwrap();
    for (i, t) in [(0, 3), (1, 8)] {
        let alone = resampler.forward(&long.narrow(0, i, 1).unwrap().narrow(1, 0, t).unwrap(), &[t]).unwrap();
        let error = relative_error(&batch.narrow(0, i, 1).unwrap(), &alone);
        assert!(error <= 1e-5, "medium {i} of {t} frames: relative error {error:.1e}");
    }
}

#[test]
fn the_order_of_frames_matters() {
    let resampler = resampler(Activation::Gelu);
    let forth = features(3).narrow(0, 0, 1).unwrap();
    let back = forth.flip(&[1]).unwrap();
    let error =
        relative_error(&resampler.forward(&forth, &[3]).unwrap(), &resampler.forward(&back, &[3]).unwrap());
    assert!(error > 1e-2, "the temporal embedding does nothing: relative error {error:.1e}");
}

fn cross_attention(activation: Activation) -> GatedCrossAttention {
    let placement = Placement { every: 1, first: 0 };
    let config =
        CrossAttentionConfig { placement, heads: 3, head_width: 10, feed_forward_multiple: 2, activation };
    let mut list = vec![
        ("attention_gate".into(), "attn_gate".into(), vec![1]),
        ("feed_forward_gate".into(), "ff_gate".into(), vec![1]),
    ];
    norm(&mut list, "attention.norm", "attn.norm", TEXT_WIDTH);
    norm(&mut list, "feed_forward.norm", "ff.0", TEXT_WIDTH);
    for (ours, theirs, shape) in [
        ("attention.to_q", "attn.to_q", vec![30, TEXT_WIDTH]),
        ("attention.to_kv", "attn.to_kv", vec![60, WIDTH]),
        ("attention.to_out", "attn.to_out", vec![TEXT_WIDTH, 30]),
        ("feed_forward.up", "ff.1", vec![2 * TEXT_WIDTH, TEXT_WIDTH]),
        ("feed_forward.down", "ff.3", vec![TEXT_WIDTH, 2 * TEXT_WIDTH]),
    ] {
        list.push((format!("{ours}.weight"), format!("{theirs}.weight"), shape));
    }
    let weights = weights(&list);
    let block = GatedCrossAttention::new(&config, TEXT_WIDTH, WIDTH, weights.clone()).unwrap();
    weights.finish().unwrap();
    block
}

/// Three rows packed, as the language model sees them; then two decode steps of each.
#[test]
fn gated_cross_attention_equals_open_flamingo() {
    let golden = Golden::load("cross_attention");
    let locations = golden.tensor("locations").to_vec2::<u8>().unwrap();
    let text = random_weights::values("text", (3, 13, TEXT_WIDTH), 0.0, 1.7).unwrap();
    let media = random_weights::values("media", (3, 3, LATENTS, WIDTH), 0.0, 1.7).unwrap();
    let rule = MediaRule { media_token: 1, forget_token: None };
    for (name, activation) in ACTIVATIONS {
        let block = cross_attention(activation);
        let keys: Vec<Vec<_>> = (0..3)
            .map(|row| {
                (0..3).map(|m| block.keys_values(&media.get(row).unwrap().get(m).unwrap()).unwrap()).collect()
            })
            .collect();
        let (mut prompt, mut decode) = (Vec::<Seen>::new(), Vec::<Seen>::new());
        for (row, ids) in locations.iter().enumerate() {
            let ids: Vec<u32> = ids.iter().map(|&marker| u32::from(marker)).collect();
            let mut cursor = MediaCursor::default();
            cursor.walk(&ids, &rule, row, row * 13, &mut prompt);
            cursor.walk(&[0, 0], &rule, row, row * 2, &mut decode);
        }
        let run = |x: &Tensor, seen: &[Seen]| {
            let (rows, n, d) = x.dims3().unwrap();
            let packed = x.reshape((rows * n, d)).unwrap();
            let out = block.forward(&packed, seen, |s| &keys[s.row][s.medium]).unwrap();
            out.reshape((rows, n, d)).unwrap()
        };
        let first_two = text.narrow(1, 0, 2).unwrap().contiguous().unwrap();
        golden.compare(&[
            (name, &run(&text, &prompt), TOLERANCE),
            (&format!("{name}.cached"), &run(&first_two, &decode), TOLERANCE),
        ]);
    }
}
