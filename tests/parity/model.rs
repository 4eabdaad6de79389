//! Parity of resampler and gated cross-attention with open_flamingo's modules.

use candle_core::Tensor;
use flamingo::kernels::activation::Activation;
use flamingo::model::media_attention::{
    CrossAttentionSpan, MediaAttentionRule, MediaCursor, MediaSpan, MlpPositions,
};
use flamingo::model::{GatedCrossAttention, PerceiverResampler, Placement};
use support::golden::{Golden, relative_error};
use support::{random_weights, target};

use crate::adapters::{self, LATENTS, WIDTH};

const TOLERANCE: f64 = 1e-4;
const ACTIVATIONS: [(&str, Activation); 2] =
    [("gelu", Activation::Gelu), ("squared_relu", Activation::SquaredRelu)];

const TEXT_WIDTH: usize = 26;

fn resampler(activation: Activation) -> PerceiverResampler {
    let config = adapters::resampler(5, activation);
    let weights = adapters::weights(&adapters::resampler_names(&config, "", ""), target::dtype());
    let resampler = PerceiverResampler::new(&config, WIDTH, weights.clone()).unwrap();
    weights.finish().unwrap();
    resampler
}

fn features(t: usize) -> Tensor {
    let all = random_weights::values(&format!("features.{t}"), (2, 1, t, 11, WIDTH), 0.0, 1.7).unwrap();
    target::input(&all.squeeze(1).unwrap())
}

#[test]
fn resampler_equals_open_flamingo() {
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
fn media_of_different_lengths_in_one_batch_equal_single() {
    let resampler = resampler(Activation::SquaredRelu);
    let long = features(8);
    // The padded frames of the first medium hold numbers that must not matter.
    let batch = resampler.forward(&long, &[3, 8]).unwrap();
    for (i, t) in [(0, 3), (1, 8)] {
        let single =
            resampler.forward(&long.narrow(0, i, 1).unwrap().narrow(1, 0, t).unwrap(), &[t]).unwrap();
        let error = relative_error(&batch.narrow(0, i, 1).unwrap(), &single);
        assert!(error <= target::tolerance(1e-5), "medium {i} of {t} frames: relative error {error:.1e}");
    }
}

#[test]
fn order_of_frames_changes_tokens() {
    let resampler = resampler(Activation::Gelu);
    let forth = features(3).narrow(0, 0, 1).unwrap();
    let back = forth.flip(&[1]).unwrap();
    let error =
        relative_error(&resampler.forward(&forth, &[3]).unwrap(), &resampler.forward(&back, &[3]).unwrap());
    assert!(error > 1e-2, "the temporal embedding has no effect: relative error {error:.1e}");
}

fn cross_attention(activation: Activation) -> GatedCrossAttention {
    let config = adapters::cross_attention(Placement { every: 1, first: 0 }, activation);
    let weights = adapters::weights(
        &adapters::cross_attention_names(&config, TEXT_WIDTH, WIDTH, "", ""),
        target::dtype(),
    );
    let block = GatedCrossAttention::new(&config, TEXT_WIDTH, WIDTH, weights.clone()).unwrap();
    weights.finish().unwrap();
    block
}

/// Three rows in one packed prefill, then two decode steps of each.
#[test]
fn gated_cross_attention_equals_open_flamingo() {
    let golden = Golden::load("cross_attention");
    let locations = golden.tensor("locations").to_vec2::<u8>().unwrap();
    let text = target::input(&random_weights::values("text", (3, 13, TEXT_WIDTH), 0.0, 1.7).unwrap());
    let media = target::input(&random_weights::values("media", (3, 3, LATENTS, WIDTH), 0.0, 1.7).unwrap());
    let rule = MediaAttentionRule::last_medium(1);
    for (name, activation) in ACTIVATIONS {
        let block = cross_attention(activation);
        let kv: Vec<Vec<_>> = (0..3)
            .map(|row| {
                (0..3).map(|m| block.project_kv(&media.get(row).unwrap().get(m).unwrap()).unwrap()).collect()
            })
            .collect();
        let (mut prompt, mut decode) = (Vec::<MediaSpan>::new(), Vec::<MediaSpan>::new());
        for (row, ids) in locations.iter().enumerate() {
            let ids: Vec<u32> = ids.iter().map(|&marker| u32::from(marker)).collect();
            let mut cursor = MediaCursor::default();
            cursor.advance(&ids, &rule, row, row * 13, &mut prompt);
            cursor.advance(&[0, 0], &rule, row, row * 2, &mut decode);
        }
        let run = |x: &Tensor, spans: &[MediaSpan]| {
            let (rows, n, d) = x.dims3().unwrap();
            let packed = x.reshape((rows * n, d)).unwrap();
            let span = |s: &MediaSpan| CrossAttentionSpan {
                positions: s.positions.clone(),
                kv: kv[s.row][s.media.clone()].to_vec(),
                mask: None,
            };
            let spans = spans.iter().map(span).collect::<Vec<_>>();
            let out = block.forward(&packed, &spans, &MlpPositions::All).unwrap();
            out.reshape((rows, n, d)).unwrap()
        };
        let first_two = text.narrow(1, 0, 2).unwrap().contiguous().unwrap();
        golden.compare(&[
            (name, &run(&text, &prompt), TOLERANCE),
            (&format!("{name}.cached"), &run(&first_two, &decode), TOLERANCE),
        ]);
    }
}
