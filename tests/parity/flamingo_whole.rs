//! Parity of the whole model, from pixels to generated tokens, with open_flamingo's modules in transformers' Llama; and
//! the invariants of the decode loop: batched = single, forked = independent, closed gates = the language model only.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use flamingo::generate::{Decoder, Generation, RowId, StopCriteria, Strategy, generate, score};
use flamingo::kernels::activation::Activation;
use flamingo::language;
use flamingo::model::{
    ConnectorConfig, Flamingo, FlamingoConfig, MediaAttentionConfig, MediaAttentionRule, MediaKv,
    MediumPixels, Placement, RowInput, RowState,
};
use flamingo::vision::VisionEncoder;
use flamingo::weights::{Quantization, Weights};
use support::golden::{Golden, folder, relative_error};
use support::{random_weights, target};

use crate::adapters::{self, WIDTH};

const PLACEMENTS: [(&str, Placement); 2] =
    [("open_flamingo", Placement { every: 2, first: 1 }), ("paper", Placement { every: 2, first: 0 })];
pub const MEDIA_TOKEN: u32 = 5;
const STOP: [u32; 5] = [17, 3, 44, 71, 90];
const FRAMES: [usize; 3] = [3, 1, 6];
const PROMPTS: [(&str, &[u32], &[usize]); 3] = [
    ("blind", &[1, 23, 45, 67, 89], &[]),
    ("one", &[1, 5, 30, 60, 2, 9], &[0]),
    ("interleaved", &[1, 40, 5, 30, 31, 5, 5, 32, 33, 34], &[2, 0, 1]),
];
/// Beams, length penalty, stop tokens, as in the generator.
const SEARCHES: [(usize, f64, usize); 5] = [(1, 0.0, 2), (3, 0.0, 2), (3, 1.0, 5), (4, 0.5, 5), (2, -1.0, 3)];

/// Takes the pixels for features: the vision encoders have parity tests of their own.
struct Pixels;

impl VisionEncoder for Pixels {
    fn encode(&self, pixels: &Tensor) -> flamingo::Result<Tensor> {
        Ok(pixels.reshape((pixels.dim(0)?, 11, WIDTH))?)
    }

    fn width(&self) -> usize {
        WIDTH
    }

    fn patches(&self, _: usize, _: usize) -> usize {
        11
    }

    fn fold(self: Box<Self>) -> flamingo::Result<Box<dyn VisionEncoder>> {
        Ok(self)
    }
}

fn model(placement: Placement, dtype: DType, weights: impl Fn(&adapters::Names) -> Weights) -> Flamingo {
    let path = folder().join("tiny_llama");
    let (language, _) = language::load(&path, target::device(), dtype, Quantization::Keep).unwrap();
    let activation = Activation::SquaredRelu;
    let resampler = adapters::resampler(4, activation);
    let mut names = adapters::resampler_names(&resampler, "resampler.", "perceiver.");
    let config = FlamingoConfig {
        connector: ConnectorConfig::Resampler(resampler),
        cross_attention: adapters::cross_attention(placement, activation),
        media_attention: MediaAttentionConfig::default(),
    };
    for i in (0..language.n_layers()).filter(|&i| placement.has(i)) {
        let (ours, theirs) = (format!("cross_attention.{i}."), format!("xattn.{i}."));
        let x = &config.cross_attention;
        names.extend(adapters::cross_attention_names(x, language.sizes().width, WIDTH, &ours, &theirs));
    }
    let weights = weights(&names);
    let rule = MediaAttentionRule::last_medium(MEDIA_TOKEN);
    let model = Flamingo::new(&config, Box::new(Pixels), language, rule, &weights).unwrap();
    weights.finish().unwrap();
    model
}

fn trained(placement: Placement) -> Flamingo {
    model(placement, DType::F32, |names| adapters::weights(names, DType::F32))
}

pub fn trained_paper() -> Flamingo {
    trained(PLACEMENTS[1].1)
}

fn pixels(medium: usize) -> Tensor {
    random_weights::values(&format!("pixels.{medium}"), (FRAMES[medium], 3, 8, 11), 0.0, 1.7)
        .unwrap()
        .to_device(target::device())
        .unwrap()
}

pub fn encode(model: &Flamingo, media: &[usize]) -> (Vec<Tensor>, Vec<Arc<MediaKv>>) {
    if media.is_empty() {
        return (vec![], vec![]);
    }
    let dtype = model.language().sizes().cache.dtype;
    let pixels: Vec<MediumPixels> =
        media.iter().map(|&m| pixels(m).to_dtype(dtype).unwrap().into()).collect();
    let tokens = model.visual_tokens(&pixels, None).unwrap();
    let kv = tokens.iter().map(|t| model.media_kv(t).unwrap()).collect();
    (tokens, kv)
}

fn stop_criteria(stop: usize) -> StopCriteria {
    StopCriteria { stop: STOP[..stop].into(), suppressed: vec![MEDIA_TOKEN] }
}

#[test]
fn every_stage_equals_the_reference() {
    let golden = Golden::load("flamingo");
    for (placement, layers) in PLACEMENTS {
        let model = model(layers, target::dtype(), |names| adapters::weights(names, target::dtype()));
        for (name, ids, media) in PROMPTS {
            let key = format!("{placement}.{name}");
            let (tokens, kv) = encode(&model, media);
            let mut stages = Vec::new();
            if !tokens.is_empty() {
                stages.push(("visual_tokens".to_string(), Tensor::stack(&tokens, 0).unwrap(), 1e-4));
            }
            let mut row = model.uncached_row(kv);
            let mut observe = |stage: &str, x: &Tensor| {
                stages.push((stage.to_string(), x.clone(), 1e-4));
                Ok(())
            };
            let hidden =
                model.forward(&mut [RowInput { ids, state: &mut row }], None, Some(&mut observe)).unwrap();
            stages.push(("logits".into(), model.logits(&hidden).unwrap(), 1e-3));
            let names: Vec<String> = stages.iter().map(|(stage, ..)| format!("{key}.{stage}")).collect();
            let stages: Vec<_> = names
                .iter()
                .zip(&stages)
                .map(|(name, (_, x, tolerance))| (name.as_str(), x, *tolerance))
                .collect();
            golden.compare(&stages);
        }
    }
}

#[test]
fn greedy_and_beam_search_equal_transformers() {
    let golden = Golden::load("flamingo");
    for (placement, layers) in PLACEMENTS {
        let model = trained(layers);
        for (name, ids, media) in PROMPTS {
            let (_, kv) = encode(&model, media);
            for (beams, length_penalty, stop) in SEARCHES {
                let strategy = Strategy::Beam { beams, length_penalty };
                let generation = Generation { strategy, max_new_tokens: 9 };
                let generated = generate(&model, ids, &kv, &generation, &stop_criteria(stop)).unwrap();
                let key = format!("{placement}.{name}.written.{beams}.{length_penalty:?}.{stop}");
                let mut expected = golden.tensor(&key).to_vec1::<u32>().unwrap();
                if expected.last().is_some_and(|last| STOP[..stop].contains(last)) {
                    expected.pop();
                }
                assert_eq!(generated.ids, expected, "{key}");
            }
        }
    }
}

/// Rows of different lengths and media in one decoder, admitted at different steps, one of them forked.
#[test]
fn batched_rows_equal_single() {
    let model = trained(PLACEMENTS[0].1);
    let prompts: Vec<(&[u32], Vec<Arc<MediaKv>>)> =
        PROMPTS.iter().map(|(_, ids, media)| (*ids, encode(&model, media).1)).collect();
    let greedy = Generation { strategy: Strategy::Greedy {}, max_new_tokens: 8 };
    let single: Vec<_> = prompts
        .iter()
        .map(|(ids, kv)| generate(&model, ids, kv, &greedy, &stop_criteria(0)).unwrap().ids)
        .collect();

    let mut decoder = Decoder::new(&model, 32).unwrap();
    let mut rows: Vec<(RowId, usize, Vec<u32>)> = Vec::new();
    for step in 0.. {
        if let Some((ids, kv)) = prompts.get(step) {
            let row = decoder.admit(ids.to_vec(), kv.clone(), 8, 2).unwrap();
            rows.push((row, step, Vec::new()));
        }
        let scores = decoder.step().unwrap();
        if scores.is_empty() {
            break;
        }
        for mut score in scores {
            let (row, _, generated) = rows.iter_mut().find(|(row, ..)| *row == score.row).unwrap();
            score.log_probs[MEDIA_TOKEN as usize] = f32::NEG_INFINITY;
            let best =
                (0..score.log_probs.len()).max_by(|&a, &b| score.log_probs[a].total_cmp(&score.log_probs[b]));
            generated.push(best.unwrap() as u32);
            if generated.len() < 8 {
                decoder.push(*row, *generated.last().unwrap());
            } else {
                decoder.retire(*row);
            }
        }
        // A fork in the middle of an answer continues as its parent does.
        if step == 3 {
            let (parent, prompt, generated) = rows[1].clone();
            rows.push((decoder.fork(parent), prompt, generated));
        }
    }
    assert_eq!(rows.len(), 4);
    for (_, prompt, generated) in rows {
        assert_eq!(generated, single[prompt], "{}", PROMPTS[prompt].0);
    }
}

/// The size of prefill chunks does not change the scores.
#[test]
fn chunked_prefill_equals_whole_prefill() {
    let model = trained(PLACEMENTS[0].1);
    let (_, ids, media) = PROMPTS[2];
    let (_, kv) = encode(&model, media);
    let scores = |chunk: usize| {
        let mut decoder = Decoder::new(&model, 4).unwrap().with_prefill_chunk(chunk);
        decoder.admit(ids.to_vec(), kv.clone(), 2, 1).unwrap();
        let mut steps = 1;
        loop {
            if let Some(scores) = decoder.step().unwrap().pop() {
                return (steps, scores.log_probs);
            }
            steps += 1;
        }
    };
    let (one, whole) = scores(512);
    assert_eq!(one, 1);
    for (chunk, expected_steps) in [(1, 10), (3, 4), (7, 2)] {
        let (steps, log_probs) = scores(chunk);
        assert_eq!(steps, expected_steps, "pieces of {chunk}");
        let worst = whole.iter().zip(&log_probs).map(|(a, b)| ((a - b) / a).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-5, "pieces of {chunk}: {worst:.1e}");
    }
}

#[test]
fn sampling_depends_on_seed() {
    let model = trained(PLACEMENTS[0].1);
    let (_, kv) = encode(&model, &[0]);
    let sample = |temperature: f64, top_k: usize, seed: u64| {
        let strategy = Strategy::Sample { temperature, top_k, top_p: 0.95, seed };
        let generation = Generation { strategy, max_new_tokens: 12 };
        generate(&model, PROMPTS[1].1, &kv, &generation, &stop_criteria(0)).unwrap().ids
    };
    assert_eq!(sample(1.5, 0, 1), sample(1.5, 0, 1));
    assert_ne!(sample(1.5, 0, 1), sample(1.5, 0, 2));
    assert!(
        (0..20).all(|seed| !sample(3.0, 0, seed).contains(&MEDIA_TOKEN)),
        "a suppressed token was sampled"
    );
    let greedy = Generation { strategy: Strategy::Greedy {}, max_new_tokens: 12 };
    let greedy = generate(&model, PROMPTS[1].1, &kv, &greedy, &stop_criteria(0)).unwrap().ids;
    assert_eq!(sample(1.0, 1, 3), greedy, "the likeliest of one token");
}

#[test]
fn rejects_invalid_settings() {
    let sample = |temperature, top_p| Strategy::Sample { temperature, top_k: 0, top_p, seed: 0 };
    for (strategy, expected) in [
        (Strategy::Beam { beams: 0, length_penalty: 0.0 }, "0 beams"),
        (Strategy::Beam { beams: 65, length_penalty: 0.0 }, "65 beams"),
        (Strategy::Beam { beams: 2, length_penalty: f64::NAN }, "NaN"),
        (sample(0.0, 1.0), "temperature of 0"),
        (sample(f64::INFINITY, 1.0), "temperature of inf"),
        (sample(1.0, 0.0), "likeliest 0"),
        (sample(1.0, 1.1), "likeliest 1.1"),
    ] {
        let error = Generation { strategy, max_new_tokens: 4 }.check().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn score_is_sum_of_log_probabilities() {
    let model = trained(PLACEMENTS[1].1);
    let (_, kv) = encode(&model, &[0]);
    let continuations = [vec![8u32], vec![8, 19, 4], vec![30, 2, 2, 61, 7]];
    let scores = score(&model, PROMPTS[1].1, &kv, &continuations).unwrap();
    for (continuation, score) in continuations.iter().zip(scores) {
        let ids: Vec<u32> = PROMPTS[1].1.iter().chain(continuation).copied().collect();
        let mut row = model.uncached_row(kv.clone());
        let hidden = model.forward(&mut [RowInput { ids: &ids, state: &mut row }], None, None).unwrap();
        let log_probs = log_softmax(&model.logits(&hidden).unwrap());
        let at = PROMPTS[1].1.len();
        let sum: f64 = continuation
            .iter()
            .enumerate()
            .map(|(i, &id)| f64::from(log_probs[at + i - 1][id as usize]))
            .sum();
        assert!((score - sum).abs() <= 1e-5 * sum.abs(), "{continuation:?}: {score} is not {sum}");
    }
}

fn log_softmax(logits: &Tensor) -> Vec<Vec<f32>> {
    let sums = logits.log_sum_exp(1).unwrap().unsqueeze(1).unwrap();
    logits.broadcast_sub(&sums).unwrap().to_vec2().unwrap()
}

/// The gates of an untrained model are closed: media do not change the language model.
#[test]
fn untrained_model_equals_language_model() {
    let untrained = model(PLACEMENTS[1].1, DType::F32, |_| Weights::random(7, target::device(), DType::F32));
    assert!(!untrained.gates_open().unwrap());
    assert!(trained(PLACEMENTS[1].1).gates_open().unwrap());
    let (_, ids, media) = PROMPTS[2];
    let (_, kv) = encode(&untrained, media);
    let mut row = untrained.uncached_row(kv);
    let hidden = untrained.forward(&mut [RowInput { ids, state: &mut row }], None, None).unwrap();
    let bare = {
        let mut cache = language::KvCache::off();
        let rows = vec![(ids, &mut cache)];
        support::language_model::logits(untrained.language(), rows).unwrap()
    };
    let error = relative_error(&untrained.logits(&hidden).unwrap(), &bare);
    assert!(error <= 1e-6, "closed gates change the logits: {error:.1e}");
}

/// Training keeps the states below the first gated cross-attention and continues from them.
#[test]
fn continuing_from_kept_states_equals_a_whole_pass() {
    fn inputs(rows: &mut [RowState; 3]) -> Vec<RowInput<'_>> {
        PROMPTS.iter().zip(rows).map(|((_, ids, _), state)| RowInput { ids, state }).collect()
    }
    let model = trained(PLACEMENTS[0].1);
    let sequences = PROMPTS.map(|(_, ids, _)| ids);
    let rows = || PROMPTS.map(|(_, _, media)| model.uncached_row(encode(&model, media).1));
    let whole = model.forward(&mut inputs(&mut rows()), None, None).unwrap();
    let states = model.states_below_media(&sequences).unwrap();
    let continued = model.forward_from(&mut inputs(&mut rows()), &states).unwrap();
    assert!(relative_error(&continued, &whole) <= 1e-6);
    let other = states.roll(1, 0).unwrap();
    let wrong = model.forward_from(&mut inputs(&mut rows()), &other).unwrap();
    assert!(relative_error(&wrong, &whole) > 1e-2, "the pass does not use the states");
}

/// Another medium gives another answer.
#[test]
fn media_change_answer() {
    let model = trained(PLACEMENTS[0].1);
    let logits = |medium: usize| {
        let mut row = model.uncached_row(encode(&model, &[medium]).1);
        let hidden =
            model.forward(&mut [RowInput { ids: PROMPTS[1].1, state: &mut row }], None, None).unwrap();
        model.logits(&hidden).unwrap()
    };
    assert!(relative_error(&logits(0), &logits(1)) > 1e-2);
}

#[test]
fn rejects_prompts_that_do_not_fit() {
    let model = trained(PLACEMENTS[0].1);
    let (_, kv) = encode(&model, &[0]);
    let check = |ids: &[u32], media: &[Arc<MediaKv>], max_new_tokens: usize, expected: &str| {
        let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens };
        let error = generate(&model, ids, media, &generation, &stop_criteria(0)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(&[], &[], 4, "0 tokens");
    check(&[1, 5], &[], 4, "1 media markers, but 0 media");
    check(&[1, 101], &[], 4, "token 101");
    check(&[1, 7], &kv, 4, "0 media markers, but 1 media");
    check(&[1, 5, 5], &kv, 4, "2 media markers, but 1 media");
    check(&[1; 150], &[], 11, "150 tokens");
    check(&[1], &[], 0, "at most 0 tokens");
}
