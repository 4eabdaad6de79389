//! Checks of checkpoints in the layout of their authors: stages, answers and batches against a golden, and refusals.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use flamingo::family::{self, LoadOptions, Loaded};
use flamingo::generate::{Decoder, Generation, RowId, StopCriteria, Strategy, generate, score};
use flamingo::model::{MediaKv, MediumPixels, RowInput};
use flamingo::weights::Quantization;
use support::golden::{Golden, rms_error};
use support::target;

/// A prompt of a golden: its name, and the frames of each of its media, by the index of their pixels.
pub type Case = (&'static str, &'static [&'static [usize]]);

/// Opens a model directory in f32, as it is stored.
pub fn open(directory: &Path) -> flamingo::Result<Loaded> {
    let (device, dtype) = (target::device().clone(), target::dtype());
    family::open(directory, &LoadOptions::new(device, dtype, Quantization::Keep))
}

/// Writes a picture as a PNG file and decodes it as a video.
#[cfg(feature = "video")]
pub fn decoded(image: &image::RgbaImage) -> image::RgbImage {
    use flamingo::video::{FrameSampling, Video, VideoLimits};

    let file = tempfile::Builder::new().suffix(".png").tempfile().unwrap();
    image.save(file.path()).unwrap();
    let video = Video::open(file.path(), &VideoLimits::default()).unwrap();
    video.frames(&FrameSampling::fps(1.0)).unwrap().next().unwrap().unwrap().image
}

/// Returns the error that refuses a directory.
pub fn refusal(directory: &Path) -> String {
    open(directory).err().expect("a refusal").to_string()
}

/// Token ids of a prompt, or of an answer, of the golden.
pub fn ids(golden: &Golden, name: &str) -> Vec<u32> {
    golden.tensor(name).to_dtype(candle_core::DType::U32).unwrap().to_vec1().unwrap()
}

fn pixels(golden: &Golden, frames: &[usize]) -> MediumPixels {
    let frames: Vec<_> = frames.iter().map(|i| golden.tensor(&format!("pixels.{i}"))).collect();
    target::input(&Tensor::cat(&frames, 0).unwrap()).into()
}

/// Encodes the media of a case.
pub fn encode(model: &Loaded, golden: &Golden, media: &[&[usize]]) -> Vec<Arc<MediaKv>> {
    let media: Vec<_> = media.iter().map(|frames| pixels(golden, frames)).collect();
    if media.is_empty() {
        return Vec::new();
    }
    let tokens = model.model.visual_tokens(&media, None).unwrap();
    tokens.iter().map(|tokens| model.model.media_kv(tokens).unwrap()).collect()
}

/// Returns every stage of a case with its name in the golden.
pub fn stages(model: &Loaded, golden: &Golden, (name, media): Case) -> Vec<(String, Tensor)> {
    let mut stages = Vec::new();
    let mut observe = |stage: &str, x: &Tensor| {
        stages.push((format!("{name}.{stage}"), x.clone()));
        Ok(())
    };
    let mut kv = Vec::new();
    if !media.is_empty() {
        let media: Vec<_> = media.iter().map(|frames| pixels(golden, frames)).collect();
        let tokens = model.model.visual_tokens(&media, Some(&mut observe)).unwrap();
        kv = tokens.iter().map(|tokens| model.model.media_kv(tokens).unwrap()).collect();
    }
    let ids = ids(golden, &format!("{name}.ids"));
    let mut row = model.model.uncached_row(kv);
    let mut input = [RowInput { ids: &ids, state: &mut row }];
    let hidden = model.model.forward(&mut input, None, Some(&mut observe)).unwrap();
    // The golden has the logits of the last positions only.
    let key = format!("{name}.logits");
    let last = golden.tensor(&key).dim(0).unwrap();
    let hidden = hidden.narrow(0, ids.len() - last, last).unwrap();
    stages.push((key, model.model.logits(&hidden).unwrap()));
    stages
}

/// Compares every stage of every case with the golden: max|a-b| <= 1e-5 rms(b), logits 1e-4.
pub fn stages_equal(model: &Loaded, golden: &Golden, cases: &[Case]) {
    for case in cases {
        let stages = stages(model, golden, *case);
        let of = |name: &str| if name.ends_with("logits") { 1e-4 } else { 1e-5 };
        let known = stages.iter().filter(|(name, _)| golden.has(name));
        let compared: Vec<_> = known.map(|(name, x)| (name.as_str(), x, of(name))).collect();
        assert!(compared.len() >= 2, "{}", case.0);
        golden.compare_rms(&compared);
    }
}

/// Largest error of the logits of all cases, max|a-b| / rms(b).
pub fn logits_error(model: &Loaded, golden: &Golden, cases: &[Case]) -> f64 {
    let error = |case: &Case| {
        let (name, logits) = stages(model, golden, *case).pop().unwrap();
        rms_error(&logits, golden.tensor(&name))
    };
    cases.iter().map(error).fold(0.0, f64::max)
}

/// Compares generated ids with the golden's `{case}.written.{beams}.{length penalty}`.
pub fn answers_equal(model: &Loaded, golden: &Golden, cases: &[Case], searches: &[(usize, f64, usize)]) {
    for (name, media) in cases {
        let kv = encode(model, golden, media);
        let prompt = ids(golden, &format!("{name}.ids"));
        for &(beams, length_penalty, max_new_tokens) in searches {
            let strategy = match beams {
                1 => Strategy::Greedy {},
                _ => Strategy::Beam { beams, length_penalty },
            };
            let generation = Generation { strategy, max_new_tokens };
            let written = generate(&model.model, &prompt, &kv, &generation, &model.stop_criteria).unwrap();
            let key = format!("{name}.written.{beams}.{length_penalty:?}");
            let mut expected = ids(golden, &key);
            if expected.last().is_some_and(|last| model.stop_criteria.stop.contains(last)) {
                expected.pop();
            }
            assert_eq!(written.ids, expected, "{key}");
        }
    }
}

/// Compares the log-likelihoods of answers with the golden's `{case}.likelihoods`, within 1e-3.
pub fn likelihoods_equal(model: &Loaded, golden: &Golden, cases: &[Case], answers: &[Vec<u32>]) {
    for (name, media) in cases {
        let kv = encode(model, golden, media);
        let prompt = ids(golden, &format!("{name}.ids"));
        let scores = score(&model.model, &prompt, &kv, answers).unwrap();
        let expected = golden.tensor(&format!("{name}.likelihoods")).to_vec1::<f64>().unwrap();
        for (score, expected) in scores.iter().zip(&expected) {
            assert!((score - expected).abs() <= 1e-3, "{name}: {score} is not {expected}");
        }
        assert_eq!(scores.len(), expected.len());
    }
}

/// Generates greedily for all cases, one after the other and in one batch of rows that are admitted at different steps.
pub fn batch_equals_one_by_one(model: &Loaded, golden: &Golden, cases: &[Case]) {
    const TOKENS: usize = 8;
    let greedy = Generation { strategy: Strategy::Greedy {}, max_new_tokens: TOKENS };
    let criteria = StopCriteria { stop: Vec::new(), suppressed: model.stop_criteria.suppressed.clone() };
    let prompts: Vec<_> = cases
        .iter()
        .map(|(name, media)| (ids(golden, &format!("{name}.ids")), encode(model, golden, media)))
        .collect();
    let single: Vec<_> = prompts
        .iter()
        .map(|(ids, kv)| generate(&model.model, ids, kv, &greedy, &criteria).unwrap().ids)
        .collect();
    let mut decoder = Decoder::new(&model.model, 64).unwrap();
    let mut rows: Vec<(RowId, Vec<u32>)> = Vec::new();
    for step in 0.. {
        if let Some((ids, kv)) = prompts.get(step) {
            rows.push((decoder.admit(ids.clone(), kv.clone(), TOKENS, 1).unwrap(), Vec::new()));
        }
        let scores = decoder.step().unwrap();
        if scores.is_empty() {
            break;
        }
        for mut score in scores {
            let (row, generated) = rows.iter_mut().find(|(row, _)| *row == score.row).unwrap();
            for &id in &criteria.suppressed {
                score.log_probs[id as usize] = f32::NEG_INFINITY;
            }
            let log_probs = &score.log_probs;
            let best = (0..log_probs.len()).max_by(|&a, &b| log_probs[a].total_cmp(&log_probs[b]));
            generated.push(best.unwrap() as u32);
            match generated.len() {
                TOKENS => decoder.retire(*row),
                _ => decoder.push(*row, *generated.last().unwrap()),
            }
        }
    }
    for ((_, generated), (single, (name, _))) in rows.iter().zip(single.iter().zip(cases)) {
        assert_eq!(generated, single, "{name}");
    }
}

/// Copies a directory and gives the copy's `config.json` to `edit`.
pub fn copy(from: &Path, edit: impl FnOnce(&mut serde_json::Value)) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    edit_json(&to.path().join("config.json"), edit);
    to
}

/// Edits a JSON file.
pub fn edit_json(path: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

/// Gives all tensors of a directory's safetensors to `edit`, and writes them as one file.
pub fn edit_tensors(directory: &Path, edit: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let mut tensors = HashMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            tensors.extend(candle_core::safetensors::load(&path, &Device::Cpu).unwrap());
            std::fs::remove_file(&path).unwrap();
        }
    }
    let _ = std::fs::remove_file(directory.join("model.safetensors.index.json"));
    edit(&mut tensors);
    candle_core::safetensors::save(&tensors, directory.join("model.safetensors")).unwrap();
}

/// Swaps the tensors of two names that differ in one part.
pub fn swap(tensors: &mut HashMap<String, Tensor>, one: &str, other: &str) {
    let names: Vec<String> = tensors.keys().filter(|name| name.contains(one)).cloned().collect();
    assert!(!names.is_empty(), "{one}");
    for name in names {
        let partner = name.replace(one, other);
        let (a, b) = (tensors.remove(&name).unwrap(), tensors.remove(&partner).unwrap());
        tensors.insert(name, b);
        tensors.insert(partner, a);
    }
}
