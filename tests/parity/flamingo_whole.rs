//! The whole model, from pixels to written tokens, against open_flamingo's modules in transformers' Llama; and the
//! promises of the decode loop: batched = single, shared = alone, closed gates = the bare language model.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use flamingo::generate::{Decoder, Generation, RowId, Strategy, TokenRules, generate, score};
use flamingo::kernels::activation::Activation;
use flamingo::language;
use flamingo::model::media::MediaRule;
use flamingo::model::{Flamingo, FlamingoConfig, MediaKeys, Placement, RowInput};
use flamingo::vision::VisionEncoder;
use flamingo::weights::{Quantization, Weights};
use support::golden::{Golden, folder, relative_error};
use support::{random_weights, target};

use crate::adapters::{self, WIDTH};

const PLACEMENTS: [(&str, Placement); 2] =
    [("open_flamingo", Placement { every: 2, first: 1 }), ("paper", Placement { every: 2, first: 0 })];
const MEDIA_TOKEN: u32 = 5;
const STOP: [u32; 5] = [17, 3, 44, 71, 90];
const FRAMES: [usize; 3] = [3, 1, 6];
const PROMPTS: [(&str, &[u32], &[usize]); 3] = [
    ("blind", &[1, 23, 45, 67, 89], &[]),
    ("one", &[1, 5, 30, 60, 2, 9], &[0]),
    ("interleaved", &[1, 40, 5, 30, 31, 5, 5, 32, 33, 34], &[2, 0, 1]),
];
/// Beams, length penalty, stop tokens, as in the generator.
const SEARCHES: [(usize, f64, usize); 5] = [(1, 0.0, 2), (3, 0.0, 2), (3, 1.0, 5), (4, 0.5, 5), (2, -1.0, 3)];

/// Takes the pixels for features: the encoders have parity tests of their own.
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
}

fn model(placement: Placement, dtype: DType, weights: impl Fn(&adapters::Names) -> Weights) -> Flamingo {
    let path = folder().join("tiny_llama");
    let (language, _) = language::build(&path, target::device(), dtype, Quantization::Keep).unwrap();
    let activation = Activation::SquaredRelu;
    let config = FlamingoConfig {
        resampler: adapters::resampler(4, activation),
        cross_attention: adapters::cross_attention(placement, activation),
    };
    let mut names = adapters::resampler_names(&config.resampler, "resampler.", "perceiver.");
    for i in (0..language.n_layers()).filter(|&i| placement.has(i)) {
        let (ours, theirs) = (format!("cross_attention.{i}."), format!("xattn.{i}."));
        let x = &config.cross_attention;
        names.extend(adapters::cross_attention_names(x, language.width(), WIDTH, &ours, &theirs));
    }
    let weights = weights(&names);
    let rule = MediaRule { media_token: MEDIA_TOKEN, forget_token: None };
    let model = Flamingo::new(&config, Box::new(Pixels), language, rule, &weights).unwrap();
    weights.finish().unwrap();
    model
}

fn trained(placement: Placement) -> Flamingo {
    model(placement, DType::F32, |names| adapters::weights(names, DType::F32))
}

fn pixels(medium: usize) -> Tensor {
    random_weights::values(&format!("pixels.{medium}"), (FRAMES[medium], 3, 8, 11), 0.0, 1.7)
        .unwrap()
        .to_device(target::device())
        .unwrap()
}

fn look(model: &Flamingo, media: &[usize]) -> (Vec<Tensor>, Vec<Arc<MediaKeys>>) {
    if media.is_empty() {
        return (vec![], vec![]);
    }
    let dtype = model.language().cache_shape().dtype;
    let pixels: Vec<Tensor> = media.iter().map(|&m| pixels(m).to_dtype(dtype).unwrap()).collect();
    let tokens = model.visual_tokens(&pixels, None).unwrap();
    let keys = tokens.iter().map(|t| model.media_keys(t).unwrap()).collect();
    (tokens, keys)
}

fn rules(stop: usize) -> TokenRules {
    TokenRules { stop: STOP[..stop].into(), forbidden: vec![MEDIA_TOKEN] }
}

#[test]
fn every_stage_equals_the_reference() {
    let golden = Golden::load("flamingo");
    for (placement, layers) in PLACEMENTS {
        let model = model(layers, target::dtype(), |names| adapters::weights(names, target::dtype()));
        for (name, ids, media) in PROMPTS {
            let key = format!("{placement}.{name}");
            let (tokens, keys) = look(&model, media);
            let mut stages = Vec::new();
            if !tokens.is_empty() {
                stages.push(("visual_tokens".to_string(), Tensor::stack(&tokens, 0).unwrap(), 1e-4));
            }
            let mut row = model.uncached_row(keys);
            let mut observe = |stage: &str, x: &Tensor| {
                stages.push((stage.to_string(), x.clone(), 1e-4));
                Ok(())
            };
            let hidden = model.forward(&mut [RowInput { ids, state: &mut row }], Some(&mut observe)).unwrap();
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
fn greedy_and_beam_search_write_what_transformers_writes() {
    let golden = Golden::load("flamingo");
    for (placement, layers) in PLACEMENTS {
        let model = trained(layers);
        for (name, ids, media) in PROMPTS {
            let (_, keys) = look(&model, media);
            for (beams, length_penalty, stop) in SEARCHES {
                let strategy = Strategy::Beam { beams, length_penalty };
                let generation = Generation { strategy, max_new_tokens: 9 };
                let written = generate(&model, ids, &keys, &generation, &rules(stop)).unwrap();
                let key = format!("{placement}.{name}.written.{beams}.{length_penalty:?}.{stop}");
                let mut expected = golden.tensor(&key).to_vec1::<u32>().unwrap();
                if expected.last().is_some_and(|last| STOP[..stop].contains(last)) {
                    expected.pop();
                }
                assert_eq!(written.ids, expected, "{key}");
            }
        }
    }
}

/// Rows of different lengths and media in one decoder, joining at different steps, one of them forked.
#[test]
fn rows_in_one_batch_write_what_each_writes_alone() {
    let model = trained(PLACEMENTS[0].1);
    let prompts: Vec<(&[u32], Vec<Arc<MediaKeys>>)> =
        PROMPTS.iter().map(|(_, ids, media)| (*ids, look(&model, media).1)).collect();
    let greedy = Generation { strategy: Strategy::Greedy {}, max_new_tokens: 8 };
    let alone: Vec<_> = prompts
        .iter()
        .map(|(ids, keys)| generate(&model, ids, keys, &greedy, &rules(0)).unwrap().ids)
        .collect();

    let mut decoder = Decoder::new(&model, 32).unwrap();
    let mut rows: Vec<(RowId, usize, Vec<u32>)> = Vec::new();
    for step in 0.. {
        if let Some((ids, keys)) = prompts.get(step) {
            let row = decoder.admit(ids.to_vec(), keys.clone(), 8, 2).unwrap();
            rows.push((row, step, Vec::new()));
        }
        let scores = decoder.step().unwrap();
        if scores.is_empty() {
            break;
        }
        for mut score in scores {
            let (row, _, written) = rows.iter_mut().find(|(row, ..)| *row == score.row).unwrap();
            score.log_probs[MEDIA_TOKEN as usize] = f32::NEG_INFINITY;
            let best =
                (0..score.log_probs.len()).max_by(|&a, &b| score.log_probs[a].total_cmp(&score.log_probs[b]));
            written.push(best.unwrap() as u32);
            if written.len() < 8 {
                decoder.push(*row, *written.last().unwrap());
            } else {
                decoder.retire(*row);
            }
        }
        // A fork in the middle of writing goes on as its parent does.
        if step == 3 {
            let (parent, prompt, written) = rows[1].clone();
            rows.push((decoder.fork(parent), prompt, written));
        }
    }
    assert_eq!(rows.len(), 4);
    for (_, prompt, written) in rows {
        assert_eq!(written, alone[prompt], "{}", PROMPTS[prompt].0);
    }
}

/// A prompt may be read in pieces of any size, while other rows go on.
#[test]
fn a_prompt_in_pieces_is_the_same_prompt() {
    let model = trained(PLACEMENTS[0].1);
    let (_, ids, media) = PROMPTS[2];
    let (_, keys) = look(&model, media);
    let scores = |chunk: usize| {
        let mut decoder = Decoder::new(&model, 4).unwrap().with_prefill_chunk(chunk);
        decoder.admit(ids.to_vec(), keys.clone(), 2, 1).unwrap();
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
fn sampling_is_decided_by_its_seed() {
    let model = trained(PLACEMENTS[0].1);
    let (_, keys) = look(&model, &[0]);
    let draw = |temperature: f64, top_k: usize, seed: u64| {
        let strategy = Strategy::Sample { temperature, top_k, top_p: 0.95, seed };
        let generation = Generation { strategy, max_new_tokens: 12 };
        generate(&model, PROMPTS[1].1, &keys, &generation, &rules(0)).unwrap().ids
    };
    assert_eq!(draw(1.5, 0, 1), draw(1.5, 0, 1));
    assert_ne!(draw(1.5, 0, 1), draw(1.5, 0, 2));
    assert!((0..20).all(|seed| !draw(3.0, 0, seed).contains(&MEDIA_TOKEN)), "a forbidden token was drawn");
    let greedy = Generation { strategy: Strategy::Greedy {}, max_new_tokens: 12 };
    let greedy = generate(&model, PROMPTS[1].1, &keys, &greedy, &rules(0)).unwrap().ids;
    assert_eq!(draw(1.0, 1, 3), greedy, "the likeliest of one");
}

#[test]
fn settings_that_mean_nothing_are_refused() {
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
fn a_score_is_the_sum_of_the_log_probabilities() {
    let model = trained(PLACEMENTS[1].1);
    let (_, keys) = look(&model, &[0]);
    let continuations = [vec![8u32], vec![8, 19, 4], vec![30, 2, 2, 61, 7]];
    let scores = score(&model, PROMPTS[1].1, &keys, &continuations).unwrap();
    for (continuation, score) in continuations.iter().zip(scores) {
        let ids: Vec<u32> = PROMPTS[1].1.iter().chain(continuation).copied().collect();
        let mut row = model.uncached_row(keys.clone());
        let hidden = model.forward(&mut [RowInput { ids: &ids, state: &mut row }], None).unwrap();
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

/// Fresh gates are closed: the language model is undisturbed, whatever it is shown.
#[test]
fn an_untrained_model_is_the_bare_language_model() {
    let untrained = model(PLACEMENTS[1].1, DType::F32, |_| Weights::random(7, target::device(), DType::F32));
    assert!(!untrained.gates_open().unwrap());
    assert!(trained(PLACEMENTS[1].1).gates_open().unwrap());
    let (_, ids, media) = PROMPTS[2];
    let (_, keys) = look(&untrained, media);
    let mut row = untrained.uncached_row(keys);
    let hidden = untrained.forward(&mut [RowInput { ids, state: &mut row }], None).unwrap();
    let bare = {
        let mut cache = language::KvCache::off();
        let rows = vec![(ids, &mut cache)];
        support::language_model::logits(untrained.language(), rows).unwrap()
    };
    let error = relative_error(&untrained.logits(&hidden).unwrap(), &bare);
    assert!(error <= 1e-6, "closed gates let {error:.1e} through");
}

/// What is shown matters: another medium, another answer.
#[test]
fn the_media_matter() {
    let model = trained(PLACEMENTS[0].1);
    let logits = |medium: usize| {
        let mut row = model.uncached_row(look(&model, &[medium]).1);
        let hidden = model.forward(&mut [RowInput { ids: PROMPTS[1].1, state: &mut row }], None).unwrap();
        model.logits(&hidden).unwrap()
    };
    assert!(relative_error(&logits(0), &logits(1)) > 1e-2);
}

#[test]
fn prompts_and_media_must_fit() {
    let model = trained(PLACEMENTS[0].1);
    let (_, keys) = look(&model, &[0]);
    let check = |ids: &[u32], media: &[Arc<MediaKeys>], max_new_tokens: usize, expected: &str| {
        let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens };
        let error = generate(&model, ids, media, &generation, &rules(0)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(&[], &[], 4, "0 tokens");
    check(&[1, 5], &[], 4, "1 media markers, but 0 media");
    check(&[1, 101], &[], 4, "token 101");
    check(&[1, 7], &keys, 4, "0 media markers, but 1 media");
    check(&[1, 5, 5], &keys, 4, "2 media markers, but 1 media");
    check(&[1; 150], &[], 11, "150 tokens");
    check(&[1], &[], 0, "at most 0 tokens");
}
