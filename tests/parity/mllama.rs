//! Parity of Llama 3.2 Vision with transformers (`golden/generate_mllama.py`), with the row masks of both references.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use flamingo::family::mllama::RowMask;
use flamingo::family::{self, LoadOptions, Loaded};
use flamingo::generate::{Generation, Goal, SequencePlan, StopCriteria, Strategy, generate, run, score};
use flamingo::model::{MediaKv, MediumPixels, RowInput};
use flamingo::vision::TileGrid;
use flamingo::weights::Quantization;
use serde_json::Value;
use support::golden::{Golden, folder, rms_error};
use support::{random_weights, target};

const CASES: [&str; 7] = ["text", "first", "leak", "adjacent", "separated", "three", "small"];
const MASKS: [(&str, RowMask); 2] = [("hf", RowMask::Hf), ("meta", RowMask::Meta)];
const TOLERANCE: f64 = 1e-5;
const LOGITS: f64 = 1e-4;
const SIDE: usize = 28;
const SLOTS: usize = 4;

pub fn checkpoint() -> PathBuf {
    folder().join("tiny_mllama")
}

pub fn golden() -> &'static Golden {
    static GOLDEN: OnceLock<Golden> = OnceLock::new();
    GOLDEN.get_or_init(|| Golden::load("mllama"))
}

pub fn options(row_mask: Option<RowMask>) -> LoadOptions {
    let mut options = LoadOptions::new(target::device().clone(), DType::F32, Quantization::Keep);
    options.family.row_mask = row_mask;
    options
}

pub fn open(path: &Path, row_mask: RowMask) -> Loaded {
    family::open(path, &options(Some(row_mask))).expect("the checkpoint loads")
}

/// Pixels of a picture as the generator makes them: random in the tiles of its grid, 0 in the others.
pub fn picture(case: &str, index: usize, grid: TileGrid) -> Tensor {
    let name = format!("pixels.{case}.{index}");
    let tiles = random_weights::values(&name, (grid.tiles(), 3, SIDE, SIDE), 0.1, 1.7).unwrap();
    tiles.pad_with_zeros(0, 0, SLOTS - grid.tiles()).unwrap().to_device(target::device()).unwrap()
}

/// Returns the ids and the pixels of a case, one medium per image.
pub fn case(name: &str) -> (Vec<u32>, Vec<MediumPixels>) {
    let ids = golden().tensor(&format!("{name}.ids")).to_vec1().unwrap();
    let grids: Vec<Vec<u32>> = match golden().tensor(&format!("{name}.grids")) {
        grids if grids.elem_count() == 0 => Vec::new(),
        grids => grids.to_vec2().unwrap(),
    };
    let medium = |(i, grid): (usize, &Vec<u32>)| {
        let grid = TileGrid { rows: grid[0], columns: grid[1] };
        let pictures = picture(name, i, grid).unsqueeze(0).unwrap();
        MediumPixels { pictures, grids: Some(vec![grid]), shown: None }
    };
    (ids, grids.iter().enumerate().map(medium).collect())
}

pub fn media_kv(loaded: &Loaded, pixels: &[MediumPixels]) -> Vec<Arc<MediaKv>> {
    if pixels.is_empty() {
        return Vec::new();
    }
    let tokens = loaded.model.visual_tokens(pixels, None).unwrap();
    let kv = |(pixels, tokens): (&MediumPixels, &Tensor)| {
        let visible = loaded.model.visible_tokens(pixels, tokens.dim(0).unwrap()).unwrap();
        loaded.model.padded_media_kv(tokens, visible).unwrap()
    };
    pixels.iter().zip(&tokens).map(kv).collect()
}

/// Stages of a case: `xattn.1`, `xattn.4`, the last two rows of `logits`, and the sums of all.
pub fn stages(loaded: &Loaded, name: &str) -> Vec<(String, Tensor)> {
    let (ids, pixels) = case(name);
    let mut stages = Vec::new();
    let mut observe = |stage: &str, x: &Tensor| {
        stages.push((stage.to_string(), x.clone()));
        Ok(())
    };
    let mut row = loaded.model.uncached_row(media_kv(loaded, &pixels));
    let input = RowInput { ids: &ids, state: &mut row };
    let hidden = loaded.model.forward(&mut [input], None, Some(&mut observe)).unwrap();
    let logits = loaded.model.logits(&hidden).unwrap();
    let last = logits.narrow(0, ids.len() - 2, 2).unwrap();
    stages.push(("logits".into(), last));
    stages.push(("log_sum_exp".into(), logits.log_sum_exp(1).unwrap()));
    // The golden of a prompt without images has no cross-attention layers: they are skipped.
    stages.retain(|(stage, _)| !pixels.is_empty() || !stage.starts_with("xattn"));
    stages
}

#[test]
fn every_stage_equals_the_reference() {
    for (mode, row_mask) in MASKS {
        let loaded = open(&checkpoint(), row_mask);
        assert_eq!(loaded.model.cross_attention_layers(), [1, 4]);
        for name in CASES {
            let key = |stage: &str| format!("{name}.{mode}.{stage}");
            let got: Vec<_> = stages(&loaded, name).into_iter().map(|(stage, x)| (key(&stage), x)).collect();
            let tolerance = |name: &str| if name.contains("log") { LOGITS } else { TOLERANCE };
            let got: Vec<_> = got.iter().map(|(name, x)| (name.as_str(), x, tolerance(name))).collect();
            golden().compare_rms(&got);
        }
    }
}

#[test]
fn answers_equal_the_reference() {
    for (mode, row_mask) in MASKS {
        let loaded = open(&checkpoint(), row_mask);
        for name in CASES {
            let (ids, pixels) = case(name);
            let kv = media_kv(&loaded, &pixels);
            let expected =
                |stage: &str| golden().tensor(&format!("{name}.{mode}.{stage}")).to_vec1::<u32>().unwrap();
            let answer = |strategy, max_new_tokens| {
                let generation = Generation { strategy, max_new_tokens };
                generate(&loaded.model, &ids, &kv, &generation, &none()).unwrap()
            };
            let greedy = answer(Strategy::Greedy {}, 32);
            assert_eq!(greedy.ids, expected("greedy"), "{name} {mode}");
            let beams = answer(Strategy::Beam { beams: 3, length_penalty: 1.0 }, 12);
            assert_eq!(beams.ids, expected("beams"), "{name} {mode}");
            let wanted = golden().tensor(&format!("{name}.{mode}.log_likelihood")).to_vec1::<f32>().unwrap();
            let scored = score(&loaded.model, &ids, &kv, &[greedy.ids]).unwrap()[0];
            for found in [greedy.log_likelihood, scored] {
                assert!(
                    (found - f64::from(wanted[0])).abs() <= 1e-3,
                    "{name} {mode}: {found} is not {wanted:?}"
                );
            }
        }
    }
}

pub fn none() -> StopCriteria {
    StopCriteria { stop: Vec::new(), suppressed: Vec::new() }
}

/// Rows without an image, with one and with several in one batch equal each of them.
#[test]
fn batched_rows_equal_single() {
    for (mode, row_mask) in MASKS {
        let loaded = open(&checkpoint(), row_mask);
        let request = |name: &&str| {
            let (ids, pixels) = case(name);
            let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens: 32 };
            let goal = Goal::Generate { generation, stop_criteria: none() };
            SequencePlan { prompt: ids, prefix_len: 0, goal }.over(media_kv(&loaded, &pixels))
        };
        let requests: Vec<_> = CASES.iter().map(request).collect();
        for (name, output) in CASES.iter().zip(run(&loaded.model, &requests)) {
            let ids = output.unwrap().into_completion().unwrap().ids;
            let expected = golden().tensor(&format!("{name}.{mode}.greedy")).to_vec1::<u32>().unwrap();
            assert_eq!(ids, expected, "{name} {mode}");
        }
        // The same for all states of one pass.
        let mut rows: Vec<_> = CASES
            .iter()
            .map(|name| case(name))
            .map(|(ids, pixels)| (ids, loaded.model.uncached_row(media_kv(&loaded, &pixels))))
            .collect();
        let mut inputs: Vec<_> = rows.iter_mut().map(|(ids, state)| RowInput { ids: &*ids, state }).collect();
        let hidden = loaded.model.forward(&mut inputs, None, None).unwrap();
        let logits = loaded.model.logits(&hidden).unwrap();
        let mut start = 0;
        for name in CASES {
            let n = case(name).0.len();
            let expected = golden().tensor(&format!("{name}.{mode}.logits"));
            let error = rms_error(&logits.narrow(0, start + n - 2, 2).unwrap(), expected);
            assert!(error <= LOGITS, "{name} {mode}: {error:.1e}");
            start += n;
        }
    }
}

/// Prefill in parts, and a decode step per token, give the logits of one pass.
#[test]
fn cached_steps_equal_one_pass() {
    use flamingo::language::{KvPool, kv_cache::blocks_for};
    for (mode, row_mask) in MASKS {
        let loaded = open(&checkpoint(), row_mask);
        for name in CASES {
            let (ids, pixels) = case(name);
            let kv = media_kv(&loaded, &pixels);
            let all =
                [ids.clone(), golden().tensor(&format!("{name}.{mode}.greedy")).to_vec1().unwrap()].concat();
            let logits = |row: &mut _, ids: &[u32]| {
                let hidden = loaded.model.forward(&mut [RowInput { ids, state: row }], None, None).unwrap();
                loaded.model.logits(&hidden).unwrap()
            };
            let whole = logits(&mut loaded.model.uncached_row(kv.clone()), &all);
            let shape = loaded.model.language().sizes().cache.clone();
            let pool = KvPool::new(&shape, blocks_for(all.len())).unwrap();
            let mut row = loaded.model.row(kv, &pool);
            let mut parts = vec![logits(&mut row, &all[..2]), logits(&mut row, &all[2..ids.len()])];
            parts.extend(all[ids.len()..].chunks(1).map(|id| logits(&mut row, id)));
            let error = rms_error(&Tensor::cat(&parts, 0).unwrap(), &whole);
            // Of text alone, rounding differs by 9e-6 to 11e-6, as the kernels of attention sum.
            assert!(error <= 2.0 * TOLERANCE, "{name} {mode}: {error:.1e}");
        }
    }
}

/// Quantised matrices change the answers a little, and the visual tokens not at all.
#[test]
fn quantised_model_stays_close() {
    let quantised = LoadOptions::new(target::device().clone(), DType::F32, Quantization::Q8_0);
    let (exact, quantised) =
        (open(&checkpoint(), RowMask::Meta), family::open(&checkpoint(), &quantised).unwrap());
    let error = error_of_logits(&quantised, "three", "meta");
    println!("q8_0: {error:.1e}");
    assert!(error > 1e-4 && error < 0.2, "{error:.1e}");
    let (_, pixels) = case("three");
    let tokens =
        |loaded: &Loaded| Tensor::cat(&loaded.model.visual_tokens(&pixels, None).unwrap(), 0).unwrap();
    assert_eq!(rms_error(&tokens(&quantised), &tokens(&exact)), 0.0);
}

/// A trace starts from pixels with their tile grids, and ends with the logits.
#[test]
fn trace_names_every_stage() {
    use flamingo::stage_trace::{split_pixels, trace};
    let pipeline = flamingo::Pipeline::load_with(&checkpoint(), options(None)).unwrap();
    let (_, pixels) = case("adjacent");
    let stages = trace(&pipeline, "a<image><image>b", &pixels).unwrap();
    let names: Vec<&str> = stages.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "input_ids",
        "pixels",
        "grids",
        "lengths",
        "features",
        "visual_tokens",
        "xattn.1",
        "xattn.4",
        "logits",
    ];
    assert_eq!(names, expected);
    let stage = |name: &str| &stages.iter().find(|(stage, _)| stage == name).unwrap().1;
    let again = split_pixels(stage("pixels"), Some(stage("lengths")), Some(stage("grids"))).unwrap();
    let logits = |media| trace(&pipeline, "a<image><image>b", media).unwrap().pop().unwrap().1;
    assert_eq!(rms_error(&logits(&again), stage("logits")), 0.0);
    assert!(split_pixels(stage("pixels"), Some(stage("lengths")), Some(stage("lengths"))).is_err());
}

/// The spelling of transformers after 4.51, without the inner `model.` of the language model.
#[test]
fn later_spelling_loads() {
    let changed = changed_checkpoint(
        |_| (),
        |name| match name.strip_prefix("language_model.") {
            Some("lm_head.weight") => "lm_head.weight".into(),
            Some(name) => format!("model.language_model.{}", name.strip_prefix("model.").unwrap()),
            None => format!("model.{name}"),
        },
    );
    let loaded = open(changed.path(), RowMask::Meta);
    assert!(error_of_logits(&loaded, "leak", "meta") <= LOGITS);
}

pub fn error_of_logits(loaded: &Loaded, name: &str, mode: &str) -> f64 {
    let (_, logits) = stages(loaded, name).into_iter().find(|(stage, _)| stage == "logits").unwrap();
    rms_error(&logits, golden().tensor(&format!("{name}.{mode}.logits")))
}

/// Copies the checkpoint with a changed `config.json` and renamed tensors.
pub fn changed_checkpoint(change: impl Fn(&mut Value), rename: impl Fn(&str) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(checkpoint()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let tensors: HashMap<String, Tensor> = tensors.into_iter().map(|(name, x)| (rename(&name), x)).collect();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    folder
}
