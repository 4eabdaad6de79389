//! Few-shot examples on disk: a restarted worker reads their keys and values, and ignores files that are not right.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use flamingo::Task;
use flamingo::family::LoadOptions;
use flamingo::generate::{Generation, Strategy};
use flamingo::pipeline::{Answer, Medium, Pipeline, Shot};
use flamingo::task::ShotText;
use flamingo::video::Frame;
use flamingo::weights::Quantization;
use image::RgbImage;
use inference::context::RequestContext;
use inference::engine::{Engine, EngineLimits, PrefixCounts, PrefixFolder};
use inference::model::Model;
use serde_json::{Value, json};
use support::likelihood;
use tempfile::TempDir;

const SHOTS: usize = 3;

/// A folder of prefixes, and its budget.
struct Disk {
    folder: TempDir,
    bytes: u64,
}

impl Disk {
    fn new(bytes: u64) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), bytes }
    }

    fn start(&self) -> Engine {
        self.start_with(&mini(), DType::F32, Quantization::Keep)
    }

    fn start_with(&self, model: &Path, dtype: DType, quantization: Quantization) -> Engine {
        let mut options = LoadOptions::new(Device::Cpu, dtype, quantization);
        options.hash_language = true;
        let pipeline = Pipeline::load_with(model, options).unwrap();
        let folder = PrefixFolder { path: self.folder.path().join("prefixes"), bytes: self.bytes };
        Engine::start_with_prefixes(pipeline, EngineLimits::default(), Some(folder)).unwrap()
    }

    /// Asks two questions after the examples of a colour in an engine of its own, which writes them. Returns the answers and the
    /// counts.
    fn ask_two(&self, colour: usize) -> ([Answer; 2], PrefixCounts) {
        let engine = self.start();
        let shots = shots(&engine, colour);
        let answers = [0, 1].map(|i| ask(&engine, &shots, i));
        (answers, engine.stats().snapshot().prefixes)
    }

    /// Returns the files, the least recently used first.
    fn files(&self) -> Vec<PathBuf> {
        let Ok(folder) = fs::read_dir(self.folder.path().join("prefixes")) else { return Vec::new() };
        let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
        files.sort_by_key(|file| file.metadata().unwrap().modified().unwrap());
        files
    }
}

fn mini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("models/flamingo-mini")
}

/// Makes a model that differs from flamingo-mini in one bit of the language model, whose hash its description does not name.
fn other_language(folder: &Path) -> PathBuf {
    let mut config: Value = serde_json::from_slice(&fs::read(mini().join("config.json")).unwrap()).unwrap();
    let mut language = fs::read(mini().join(config["language"]["file"].as_str().unwrap())).unwrap();
    *language.last_mut().unwrap() ^= 1;
    fs::write(folder.join("language.gguf"), language).unwrap();
    config["language"] = json!({"file": "language.gguf"});
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::copy(mini().join("adapters.safetensors"), folder.join("adapters.safetensors")).unwrap();
    folder.into()
}

fn medium(engine: &Engine, colour: usize) -> Medium {
    let pixel = |x: u32, y: u32| image::Rgb([(40 * colour) as u8, (x * 5) as u8, (y * 3) as u8]);
    let frame = engine.prepare(&Frame::at(0.0, RgbImage::from_fn(48, 36, pixel)));
    engine.encode(vec![frame], &RequestContext::default()).unwrap()
}

fn shots(engine: &Engine, colour: usize) -> Vec<Shot> {
    let shot = |i: usize| {
        let text = ShotText { question: None, text: None, output: format!("a thing of colour {i}") };
        Shot { name: i.to_string(), medium: medium(engine, colour + i), text }
    };
    (0..SHOTS).map(shot).collect()
}

fn ask(engine: &Engine, shots: &[Shot], query: usize) -> Answer {
    let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens: 6 };
    let medium = medium(engine, 20 + query);
    let context = RequestContext::default();
    engine.ask(&[Task::Caption {}], shots.into(), &[&medium], &generation, &context).remove(0).unwrap()
}

fn assert_same(what: &str, got: &Answer, expected: &Answer) {
    assert_eq!((&got.text, got.shots), (&expected.text, SHOTS), "{what}");
    likelihood::assert_same(what, got.log_likelihood, expected.log_likelihood);
}

/// The restarted engine neither computes the examples nor projects their media.
#[test]
fn restart_reads_examples_from_disk() {
    let disk = Disk::new(1 << 30);
    let (expected, counts) = disk.ask_two(0);
    assert_eq!(counts, PrefixCounts { memory: 1, disk: 0, missed: 1 });
    assert_eq!(disk.files().len(), 1, "the end of the engine waits for the file");
    let engine = disk.start();
    let shots = shots(&engine, 0);
    for (i, expected) in expected.iter().enumerate() {
        assert_same(&format!("query {i}"), &ask(&engine, &shots, i), expected);
    }
    assert_eq!(engine.stats().snapshot().prefixes, PrefixCounts { memory: 1, disk: 1, missed: 0 });
    let model = &engine.pipeline().loaded().model;
    let of_queries = 2 * model.cross_attention_layers().len() as u64;
    assert_eq!(model.work().kv_projections, of_queries, "the media of the examples were projected");
}

/// Examples that one query has used are not written: with nearest examples, these are most.
#[test]
fn examples_of_one_query_are_not_written() {
    let disk = Disk::new(1 << 30);
    let engine = disk.start();
    ask(&engine, &shots(&engine, 0), 0);
    drop(engine);
    assert!(disk.files().is_empty());
}

#[test]
fn files_that_are_not_right_are_ignored_and_written_again() {
    let disk = Disk::new(1 << 30);
    let (expected, _) = disk.ask_two(0);
    disk.ask_two(7);
    let [file, other] = &disk.files()[..] else { panic!("two files") };
    let (right, other) = (fs::read(file).unwrap(), fs::read(other).unwrap());
    assert_eq!(right.len(), other.len(), "both have the same shapes");
    let mut corrupt = right.clone();
    corrupt[right.len() / 2] ^= 1;
    let truncated = right[..right.len() - 4].to_vec();
    for (what, bytes) in
        [("corrupt", corrupt), ("truncated", truncated), ("empty", Vec::new()), ("foreign", other)]
    {
        fs::write(file, bytes).unwrap();
        let (answers, counts) = disk.ask_two(0);
        assert_eq!(counts, PrefixCounts { memory: 1, disk: 0, missed: 1 }, "{what}");
        for (got, expected) in answers.iter().zip(&expected) {
            assert_same(what, got, expected);
        }
        assert!(fs::read(file).unwrap() == right, "{what}: not written again");
    }
}

#[test]
fn budget_removes_the_least_recently_used_file() {
    let mut disk = Disk::new(1 << 30);
    disk.ask_two(0);
    let [first] = &disk.files()[..] else { panic!("one file") };
    let (first, bytes) = (first.clone(), first.metadata().unwrap().len());
    disk.bytes = 2 * bytes + bytes / 2;
    disk.ask_two(1);
    let second = disk.files()[1].clone();
    assert_eq!(disk.ask_two(0).1.disk, 1);
    disk.ask_two(2);
    let files = disk.files();
    assert_eq!(files.len(), 2);
    assert!(files[0] == first && !files.contains(&second), "the file used last is not the one to remove");
    disk.bytes = bytes - 1;
    disk.ask_two(3);
    assert_eq!(disk.files(), files, "a prefix larger than the budget removes nothing");
}

/// Other weights of the language model, other formats of numbers and of matrices do not find the file.
#[test]
fn other_numbers_are_other_files() {
    let (disk, folder) = (Disk::new(1 << 30), tempfile::tempdir().unwrap());
    disk.ask_two(0);
    for (model, dtype, quantization) in [
        (other_language(folder.path()), DType::F32, Quantization::Keep),
        (mini(), DType::F16, Quantization::Keep),
        (mini(), DType::F32, Quantization::Q8_0),
    ] {
        let engine = disk.start_with(&model, dtype, quantization);
        ask(&engine, &shots(&engine, 0), 0);
        let counts = engine.stats().snapshot().prefixes;
        assert_eq!(
            counts,
            PrefixCounts { memory: 0, disk: 0, missed: 1 },
            "{model:?}, {dtype:?}, {quantization:?}"
        );
    }
}
