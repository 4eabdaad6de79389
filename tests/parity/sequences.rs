//! Sequences in one batch: generation and scores, shared prefixes, one projection of each medium for all prompts.

use std::sync::Arc;

use flamingo::Pipeline;
use flamingo::generate::{
    Decoder, Generation, Goal, Output, SequencePlan, SequenceRequest, StopCriteria, Strategy, run, run_until,
};
use flamingo::model::{Flamingo, MediaKv};
use flamingo::task::Task;
use flamingo::video::{Frame, FrameSampling, SelectedFrame, VideoTimes};
use support::language_model::smollm2;

use crate::flamingo_whole::{MEDIA_TOKEN, encode, trained_paper};

const BEGINNING: [u32; 22] =
    [1, 23, 5, 45, 67, 89, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 46];
const ENDS: [&[u32]; 4] = [&[5, 60, 2], &[5, 61, 62, 63, 64, 9], &[5, 7], &[5, 90, 2, 2, 8, 70, 71]];

fn generate(ids: Vec<u32>, media: Vec<Arc<MediaKv>>, strategy: Strategy) -> SequenceRequest {
    let stop_criteria = StopCriteria { stop: vec![17], suppressed: vec![MEDIA_TOKEN] };
    let generation = Generation { strategy, max_new_tokens: 7 };
    let goal = Goal::Generate { generation, stop_criteria };
    SequencePlan { prompt: ids, prefix_len: BEGINNING.len(), goal }.over(media)
}

/// Beam searches, a greedy sequence and scores, all after the same beginning over a medium, with another medium each.
fn requests(model: &Flamingo) -> Vec<SequenceRequest> {
    let kv = encode(model, &[0, 1, 2]).1;
    let prompt = |end: usize| [&BEGINNING[..], ENDS[end]].concat();
    let media = |last: usize| vec![kv[0].clone(), kv[last].clone()];
    let continuations = vec![vec![8u32], vec![8, 19, 4], vec![30, 2, 2, 61, 7]];
    let mut requests = vec![
        generate(prompt(0), media(1), Strategy::Beam { beams: 3, length_penalty: 0.0 }),
        generate(prompt(1), media(2), Strategy::Greedy {}),
        generate(prompt(2), media(1), Strategy::Beam { beams: 2, length_penalty: 1.0 }),
    ];
    let goal = Goal::Score { continuations };
    requests.push(SequencePlan { prompt: prompt(3), prefix_len: BEGINNING.len(), goal }.over(media(2)));
    requests
}

fn assert_same(got: &Output, expected: &Output, what: &str) {
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs();
    match (got, expected) {
        (Output::Completion(got), Output::Completion(expected)) => {
            assert_eq!((&got.ids, got.finish), (&expected.ids, expected.finish), "{what}");
            assert!(close(got.log_likelihood, expected.log_likelihood), "{what}: {got:?}, {expected:?}");
        }
        (Output::LogLikelihoods(got), Output::LogLikelihoods(expected)) => {
            assert_eq!(got.len(), expected.len(), "{what}");
            assert!(got.iter().zip(expected).all(|(a, b)| close(*a, *b)), "{what}: {got:?}, {expected:?}");
        }
        (got, expected) => panic!("{what}: {got:?} is of another kind than {expected:?}"),
    }
}

#[test]
fn shared_prefix_and_batch_equal_single() {
    let model = trained_paper();
    let requests = requests(&model);
    let batch = run(&model, &requests);
    for (i, (request, output)) in requests.iter().zip(batch).enumerate() {
        let whole = SequencePlan { prefix_len: 0, ..request.plan.clone() };
        let single = run(&model, &[whole.over(request.media.clone())]).remove(0).unwrap();
        assert_same(&output.unwrap(), &single, &format!("request {i}"));
    }
}

/// Prefill splits at the end of the prefix, shared or not: the same chunks give the same bits.
#[test]
fn shared_prefix_has_the_bits_of_a_split_prefill() {
    let model = trained_paper();
    let kv = encode(&model, &[0, 1]).1;
    let scores = |shared: bool| {
        let mut decoder = Decoder::new(&model, 8).unwrap();
        if shared {
            let prefix = decoder.admit_prefix(BEGINNING.to_vec(), vec![kv[0].clone()]).unwrap();
            decoder.admit_after(prefix, ENDS[1].to_vec(), vec![kv[1].clone()], 2, 1).unwrap();
        } else {
            let prompt = [&BEGINNING[..], ENDS[1]].concat();
            decoder.admit_split(prompt, BEGINNING.len(), kv.clone(), 2, 1).unwrap();
        }
        loop {
            if let Some(scores) = decoder.step().unwrap().pop() {
                return scores.log_probs;
            }
        }
    };
    assert_eq!(scores(true), scores(false));
}

/// A prefix whose keys and values another decoder has computed gives the same bits.
#[test]
fn computed_prefix_has_the_bits_of_a_prefilled_one() {
    let model = trained_paper();
    let kv = encode(&model, &[0, 1]).1;
    let scores = |decoder: &mut Decoder, prefix| {
        decoder.admit_after(prefix, ENDS[1].to_vec(), vec![kv[1].clone()], 2, 1).unwrap();
        loop {
            if let Some(scores) = decoder.step().unwrap().pop() {
                return scores.log_probs;
            }
        }
    };
    let mut first = Decoder::new(&model, 8).unwrap();
    let prefix = first.admit_prefix(BEGINNING.to_vec(), vec![kv[0].clone()]).unwrap();
    assert!(first.prefix_kv(prefix).unwrap().is_none(), "it is not complete");
    let expected = scores(&mut first, prefix);
    let layers = first.prefix_kv(prefix).unwrap().unwrap();
    let mut second = Decoder::new(&model, 8).unwrap();
    let prefix = second.admit_computed_prefix(&BEGINNING, vec![kv[0].clone()], &layers).unwrap();
    assert_eq!(second.free_blocks(), 6);
    assert_eq!(scores(&mut second, prefix), expected);
    let mut small = Decoder::new(&model, 1).unwrap();
    let refused = small.admit_computed_prefix(&BEGINNING, vec![kv[0].clone()], &layers);
    assert_eq!(refused.unwrap_err().code(), "over_budget");
}

#[test]
fn prefix_blocks_are_returned_with_the_last_row() {
    let model = trained_paper();
    let kv = encode(&model, &[0, 1]).1;
    let mut decoder = Decoder::new(&model, 10).unwrap();
    let prefix = decoder.admit_prefix(BEGINNING.to_vec(), vec![kv[0].clone()]).unwrap();
    assert_eq!((decoder.free_blocks(), decoder.prefix_len(prefix)), (8, 22));
    let admit = |decoder: &mut Decoder| {
        decoder.admit_after(prefix, ENDS[0].to_vec(), vec![kv[1].clone()], 9, 1).unwrap()
    };
    // 6 tokens of the prefix's open block, 3 of the prompt and 9 new ones.
    let (first, second) = (admit(&mut decoder), admit(&mut decoder));
    assert_eq!(decoder.free_blocks(), 4);
    let too_large = decoder.admit_after(prefix, ENDS[0].to_vec(), vec![kv[1].clone()], 90, 1);
    assert_eq!(too_large.unwrap_err().code(), "over_budget");
    while decoder.step().unwrap().len() < 2 {}
    decoder.release_prefix(prefix);
    assert_eq!((decoder.rows(), decoder.free_blocks()), (3, 4), "rows share the prefix");
    decoder.retire(first);
    assert_eq!((decoder.rows(), decoder.free_blocks()), (2, 6));
    decoder.retire(second);
    assert_eq!((decoder.rows(), decoder.free_blocks()), (0, 10));
    // All blocks can be written again.
    decoder.admit(vec![1; 150], Vec::new(), 10, 1).unwrap();
    assert_eq!(decoder.step().unwrap().len(), 1);
}

#[test]
fn bad_request_does_not_fail_the_batch() {
    let model = trained_paper();
    let mut requests = requests(&model);
    requests[1].media.pop();
    requests.push(SequencePlan::score(&[1, 2], &[vec![]]).over(Vec::new()));
    let outputs = run(&model, &requests);
    let codes: Vec<_> =
        outputs.iter().map(|output| output.as_ref().err().map(flamingo::Error::code)).collect();
    assert_eq!(codes, [None, Some("bad_prompt"), None, None, Some("bad_prompt")]);
}

#[test]
fn stopped_batch_has_no_outputs() {
    let model = trained_paper();
    assert!(run_until(&model, &requests(&model), &|| true).iter().all(Option::is_none));
}

/// An untrained model directory with SmolLM2.
fn directory(zero_shot: bool) -> tempfile::TempDir {
    use flamingo::family::native::{NativeConfig, create};

    let mut config = NativeConfig::mini("test", smollm2());
    if zero_shot {
        config = config.zero_shot();
    }
    let directory = tempfile::tempdir().unwrap();
    create(directory.path(), &config, 3).unwrap();
    directory
}

/// A picture that stays on the screen is encoded once. Its visual tokens are those of as many equal pictures.
#[test]
fn a_picture_that_stays_is_encoded_once() {
    let directory = directory(false);
    let pipeline = Pipeline::load(directory.path(), support::target::device().clone()).unwrap();
    let picture = |shade: u8| image::RgbImage::from_pixel(64, 48, image::Rgb([shade, 90, 255 - shade]));
    let times = VideoTimes { frames: &[0.0, 3.0], end: 60.0, interval: 3.0, tick: 0.001 };
    let selected = FrameSampling::fps(1.0).select(&times).unwrap().frames;
    let frame = |(shown, shade): (SelectedFrame, u8)| {
        pipeline.prepare(&Frame { moments: shown.moments, ..Frame::at(0.0, picture(shade)) })
    };
    let stays: Vec<Frame> = selected.into_iter().zip([20, 200]).map(frame).collect();
    let repeated: Vec<Frame> =
        (0..60).map(|k| pipeline.prepare(&Frame::at(0.0, picture(if k < 3 { 20 } else { 200 })))).collect();
    assert_eq!(pipeline.pixels(&stays).unwrap().pictures.dim(0).unwrap(), 2);
    let media = pipeline.encode_batch(&[&stays, &repeated, &repeated[..1]]).unwrap();
    assert_eq!(media[0].frame_times.len(), 60);
    let difference = |a: usize, b: usize| {
        let apart = (&media[a].visual_tokens - &media[b].visual_tokens).unwrap().abs().unwrap();
        let scale = media[b].visual_tokens.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        apart.max_all().unwrap().to_scalar::<f32>().unwrap() / scale
    };
    assert!(difference(0, 1) < 1e-5, "{}", difference(0, 1));
    assert!(difference(0, 2) > 1e-4, "the time on the screen does not count");
}

#[test]
fn five_questions_encode_and_project_a_medium_once() {
    for zero_shot in [false, true] {
        let directory = directory(zero_shot);
        let pipeline = Pipeline::load(directory.path(), support::target::device().clone()).unwrap();
        let frame =
            |shade: u8, pts| Frame::at(pts, image::RgbImage::from_pixel(64, 48, image::Rgb([shade; 3])));
        let prepared = [pipeline.prepare(&frame(10, 0.0)), pipeline.prepare(&frame(200, 1.0))];
        let medium = pipeline.encode(&prepared).unwrap();
        let questions =
            ["What is it?", "Which animal?", "How many birds are there?", "Who runs?", "Is it red?"];
        let tasks = questions.map(|question| Task::Question { question: question.into() });
        let generation = Generation { max_new_tokens: 5, ..Generation::default() };
        let batch = pipeline.ask_batch(&tasks, &[&medium], &generation);
        let work = pipeline.loaded().model.work();
        let layers = pipeline.loaded().model.cross_attention_layers().len() as u64;
        assert_eq!((work.media_encoded, work.kv_projections), (1, layers), "{work:?}");
        for (task, answer) in tasks.iter().zip(batch) {
            let (answer, single) = (answer.unwrap(), pipeline.ask(task, &[&medium], &generation).unwrap());
            assert_eq!((&answer.text, answer.finish), (&single.text, single.finish), "{task:?}");
            let error = (answer.log_likelihood - single.log_likelihood).abs() / single.log_likelihood.abs();
            assert!(error <= 1e-5, "{task:?}: {error:.1e}");
        }
        assert_eq!(pipeline.loaded().model.work(), work, "single questions use the same keys and values");
    }
}
