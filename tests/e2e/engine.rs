//! The engine: many questions at once are answered as each alone, and nobody is starved, forgotten or refused for another.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;
use flamingo::generate::{Generation, Strategy};
use flamingo::pipeline::{Answer, Medium, Pipeline};
use flamingo::video::Frame;
use flamingo::{Error, Task};
use image::RgbImage;
use inference::context::{Cancel, RequestContext};
use inference::engine::{Engine, EngineLimits, EngineSnapshot};
use inference::model::{Model, ModelError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::likelihood;

fn pipeline() -> Pipeline {
    let mini: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("models/flamingo-mini");
    Pipeline::load(&mini, Device::Cpu).unwrap()
}

const LIMITS: EngineLimits = EngineLimits { rows: 12, frames: 6, kv_bytes: 64 << 20, media_bytes: 1 << 20 };

/// Frames of a colour that changes.
fn frames(seed: usize, n: usize) -> Vec<Frame> {
    let pixel =
        |t: usize, x: u32, y: u32| [(40 * seed + 9 * t) as u8, (x * 5) as u8, (y * 3 + seed as u32) as u8];
    (0..n)
        .map(|t| Frame { pts: t as f64, image: RgbImage::from_fn(48, 36, |x, y| image::Rgb(pixel(t, x, y))) })
        .collect()
}

fn ask(
    model: &dyn Model,
    medium: &Medium,
    task: &Task,
    generation: &Generation,
    turn: &RequestContext,
) -> Result<Answer, ModelError> {
    model.ask(std::slice::from_ref(task), &[medium], generation, turn).remove(0)
}

fn strategy(i: usize) -> Generation {
    let strategy = match i % 3 {
        0 => Strategy::Greedy {},
        1 => Strategy::Beam { beams: 2 + i % 2, length_penalty: 0.0 },
        _ => Strategy::Sample { temperature: 2.0, top_k: 20, top_p: 0.95, seed: i as u64 },
    };
    Generation { strategy, max_new_tokens: 8 + i }
}

/// Captions have some ten tokens, answers one or two.
fn task(i: usize) -> Task {
    match i % 4 {
        0 => Task::Question { question: format!("What is this{}?", " and what is that".repeat(i % 5)) },
        _ => Task::Caption {},
    }
}

/// 16 requests of different lengths, media and strategies, at random moments.
#[test]
fn a_batch_answers_what_each_alone_is_answered() {
    let alone = pipeline();
    let turn = RequestContext::default();
    let expected: Vec<(Answer, f64)> = (0..16)
        .map(|i| {
            let prepared = frames(i, 1 + i % 4).iter().map(|frame| alone.prepare(frame)).collect::<Vec<_>>();
            let medium = alone.encode(&prepared).unwrap();
            let answer = Pipeline::ask(&alone, &task(i), &[&medium], &strategy(i)).unwrap();
            let likelihood = answer.log_likelihood;
            (answer, likelihood)
        })
        .collect();
    let tokens = expected.iter().map(|(answer, _)| answer.completion_tokens).sum::<usize>();
    assert!(tokens > 80, "answers of {tokens} tokens are hardly ever written side by side");
    let engine = Engine::start(pipeline(), LIMITS).unwrap();
    let rng = &mut StdRng::seed_from_u64(3);
    std::thread::scope(|scope| {
        for (i, (expected, likelihood)) in expected.iter().enumerate() {
            let delay = Duration::from_millis(rng.random_range(0..400));
            let (engine, turn) = (&engine, &turn);
            scope.spawn(move || {
                std::thread::sleep(delay);
                let prepared = frames(i, 1 + i % 4).iter().map(|frame| engine.prepare(frame)).collect();
                let medium = engine.encode(prepared, turn).unwrap();
                let answer = ask(engine, &medium, &task(i), &strategy(i), turn).unwrap();
                assert_eq!((&answer.text, answer.finish), (&expected.text, expected.finish), "request {i}");
                assert_eq!(answer.completion_tokens, expected.completion_tokens, "request {i}");
                likelihood::assert_same(&format!("request {i}"), answer.log_likelihood, *likelihood);
            });
        }
    });
    let load = until(&engine, at_rest);
    assert!(load.generator.passes < tokens as u64, "{tokens} tokens took {} steps", load.generator.passes);
    assert!(
        load.encoder.passes > 0 && load.generator.busy > Duration::ZERO && load.media_bytes > 0,
        "{load:?}"
    );
}

/// Waits until so much is said of the engine: an answer is told before its room is counted as free.
fn until(engine: &Engine, true_of: impl Fn(&EngineSnapshot) -> bool) -> EngineSnapshot {
    let start = Instant::now();
    loop {
        let load = engine.stats().snapshot();
        if true_of(&load) {
            return load;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{load:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn at_rest(load: &EngineSnapshot) -> bool {
    (load.rows, load.kv_bytes, load.encoder.waiting, load.generator.waiting) == (0, 0, 0, 0)
}

/// What could never be written is refused with its numbers; the others are answered.
#[test]
fn what_cannot_fit_is_refused_and_the_others_go_on() {
    let small = EngineLimits { kv_bytes: 8 << 20, ..LIMITS };
    let engine = Engine::start(pipeline(), small).unwrap();
    let turn = RequestContext::default();
    let medium = engine.encode(vec![engine.prepare(&frames(1, 1)[0])], &turn).unwrap();
    let long =
        Generation { strategy: Strategy::Beam { beams: 16, length_penalty: 0.0 }, max_new_tokens: 200 };
    let refused = ask(&engine, &medium, &Task::Caption {}, &long, &turn).unwrap_err();
    let ModelError::Refused(error @ Error::OverBudget(_)) = &refused else { panic!("{refused}") };
    assert_eq!(error.code(), "over_budget");
    assert!(error.to_string().contains("16 rows of up to 200 more need"), "{error}");
    assert!(error.to_string().contains("engine.kv_bytes"), "{error}");
    ask(&engine, &medium, &Task::Caption {}, &strategy(0), &turn).unwrap();

    let none = EngineLimits { kv_bytes: 1, ..LIMITS };
    assert!(Engine::start(pipeline(), none).is_err(), "an engine without memory answers nothing");
}

/// An answer that nobody wants any more gives its room to one that waits for it.
#[test]
fn a_cancelled_answer_frees_its_memory() {
    // Room for one of the two.
    let block = pipeline().loaded().model.language().cache_shape().block_bytes() as u64;
    let engine = Engine::start(pipeline(), EngineLimits { kv_bytes: 40 * block, ..LIMITS }).unwrap();
    let turn = RequestContext::default();
    let medium = engine.encode(vec![engine.prepare(&frames(1, 1)[0])], &turn).unwrap();
    let endless = Generation {
        strategy: Strategy::Sample { temperature: 5.0, top_k: 0, top_p: 1.0, seed: 1 },
        max_new_tokens: 500,
    };
    let (cancel, flag) = Cancel::by_flag();
    let cancelled = RequestContext { cancel, ..turn.clone() };
    std::thread::scope(|scope| {
        let long = scope.spawn(|| ask(&engine, &medium, &Task::Caption {}, &endless, &cancelled));
        let one = until(&engine, |load| load.rows == 1);
        let next = scope.spawn(|| {
            let wide =
                Generation { strategy: Strategy::Beam { beams: 5, length_penalty: 0.0 }, max_new_tokens: 60 };
            ask(&engine, &medium, &Task::Caption {}, &wide, &turn)
        });
        let two = until(&engine, |load| load.generator.waiting == 1);
        assert_eq!((two.rows, two.kv_bytes), (1, one.kv_bytes), "there was room for both");
        flag.set();
        assert!(matches!(long.join().unwrap(), Err(ModelError::Cancelled)));
        next.join().unwrap().unwrap();
    });
    until(&engine, at_rest);
}

/// Hundred questions of one job are waiting when another job asks its first.
#[test]
fn a_small_job_is_not_starved_by_a_large_one() {
    let engine = Engine::start(pipeline(), LIMITS).unwrap();
    let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens: 4 };
    let large = RequestContext { job: "large".into(), ..RequestContext::default() };
    let small = RequestContext { job: "small".into(), ..RequestContext::default() };
    let medium = engine.encode(vec![engine.prepare(&frames(2, 1)[0])], &large).unwrap();
    let (answered, before) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let tasks = vec![Task::Caption {}; 10];
                for answer in engine.ask(&tasks, &[&medium], &generation, &large) {
                    answer.unwrap();
                }
                answered.fetch_add(10, Ordering::SeqCst);
            });
        }
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            ask(&engine, &medium, &Task::Caption {}, &generation, &small).unwrap();
            before.store(answered.load(Ordering::SeqCst), Ordering::SeqCst);
        });
    });
    let before = before.load(Ordering::SeqCst);
    assert!(before <= 60, "{before} of 100 answers of the large job came before the one of the small");
}
