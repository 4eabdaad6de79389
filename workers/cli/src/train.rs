//! `flamingo train`, `flamingo data`, `flamingo eval`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use flamingo::Pipeline;
use flamingo::train::config::TrainConfig;
use flamingo::train::evaluate::{
    Condition, QuestionResult, Score, evaluate, evaluate_naming, frames_under, scores,
};
use flamingo::train::recipe::train;
use flamingo::train::run::Progress;
use flamingo::train::spriteworld::{Question, Split, World};
use flamingo::video::{ContactSheet, Frame, Sheet};
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{BadUse, DeviceArgs, ModelArgs, make_folder, start_over_with};
use crate::output;

/// Train a model, or go on with a training that was interrupted.
#[derive(Debug, Args)]
pub struct Train {
    /// What is trained, on what, for how long: a TOML file; see `config/train/`.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where checkpoints and records go. The same folder goes on where it was.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the finished model goes [default: `model` in that folder].
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// candle's own threads wait by spinning: beside shards that keep every core busy they only take time from them.
const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";

impl Train {
    pub fn run(self) -> anyhow::Result<bool> {
        self.device.settle_threads()?;
        if std::env::var_os(CANDLE_THREADS).is_none() {
            start_over_with(CANDLE_THREADS, "1")?;
        }
        let config = read_config(&self.config)?;
        let model = self.model.unwrap_or_else(|| self.out.join("model"));
        let mut bars = Bars::default();
        train(&config, &self.out, &model, &self.device.open()?, &mut |p| bars.show(p))?;
        bars.finish();
        println!("model written to {}", model.display());
        Ok(true)
    }
}

fn read_config(path: &Path) -> anyhow::Result<TrainConfig> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("{}: name the configuration of a training with --config (the repository has some in config/train/)", path.display())
    })?;
    toml::from_str(&text).map_err(|e| anyhow::Error::new(BadUse(format!("{}: {e}", path.display()))))
}

/// A bar per stage on a terminal; elsewhere a line now and then.
#[derive(Default)]
struct Bars {
    stage: String,
    bar: Option<ProgressBar>,
    /// Lines written of this stage.
    lines: u64,
}

/// Lines per stage where there is no terminal.
const LINES: u64 = 50;

impl Bars {
    fn show(&mut self, p: &Progress) {
        if self.stage != p.stage {
            self.finish();
            (self.stage, self.lines) = (p.stage.to_string(), 0);
            self.bar = std::io::stderr().is_terminal().then(|| {
                let style = "{prefix:12} {wide_bar} {pos}/{len} {eta} {msg}";
                let style = ProgressStyle::with_template(style).expect("the template is right");
                ProgressBar::new(p.steps).with_prefix(self.stage.clone()).with_style(style)
            });
        }
        let figures: Vec<String> = [("loss", p.loss)]
            .iter()
            .chain(p.figures)
            .filter(|(_, value)| value.is_finite())
            .map(|(name, value)| format!("{name} {value:.3}"))
            .collect();
        let message = format!("{} {:.1}/s", figures.join(" "), p.throughput);
        match &self.bar {
            Some(bar) => {
                bar.set_position(p.step);
                bar.set_message(message);
            }
            None if p.step * LINES / p.steps > self.lines => {
                self.lines = p.step * LINES / p.steps;
                eprintln!("{} {}/{} {message}", p.stage, p.step, p.steps);
            }
            None => {}
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

/// Ask a model what it knows of a world whose answers are known.
#[derive(Debug, Subcommand)]
pub enum Eval {
    /// Accuracy by kind of question on clips that were never trained on, and with the controls.
    Spriteworld(EvalSpriteworld),
}

impl Eval {
    pub fn run(self) -> anyhow::Result<bool> {
        match self {
            Eval::Spriteworld(command) => command.run(),
        }
    }
}

/// Which world.
#[derive(Debug, Args)]
pub struct WorldArgs {
    /// The configuration of a training: its world.
    #[arg(long, value_name = "FILE", default_value = "config/train/flamingo-mini.toml")]
    config: PathBuf,
    /// The same world drawn with other icons (Iconify JSON); may be repeated.
    #[arg(long, value_name = "FILE")]
    icons: Vec<PathBuf>,
}

impl WorldArgs {
    /// Of another world the held-out clips may be those that this model was trained on.
    fn is_the_world_of(&self, pipeline: &Pipeline) -> anyhow::Result<()> {
        let (world, model) = (read_config(&self.config)?.name, &pipeline.loaded().info.name);
        if world != *model {
            bail!(BadUse(format!(
                "{}: trains `{world}`, and this model is `{model}`: name its own configuration with --config",
                self.config.display()
            )));
        }
        Ok(())
    }

    fn open(&self) -> anyhow::Result<World> {
        let mut config = read_config(&self.config)?.world;
        if !self.icons.is_empty() {
            config.icons.clone_from(&self.icons);
        }
        World::new(config).context("the drawings are fetched with `make training`")
    }
}

#[derive(Debug, Args)]
pub struct EvalSpriteworld {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    world: WorldArgs,
    /// How many clips.
    #[arg(long, default_value_t = 300, value_name = "N")]
    clips: u64,
    /// Which clips.
    #[arg(long, value_enum, default_value = "seeds")]
    split: SplitName,
    /// What is shown of them.
    #[arg(long, value_enum, default_value = "as-is")]
    show: ConditionName,
    /// Instead of questions, episodes with two invented words and so many examples of each: which word is likelier?
    #[arg(long, value_name = "N", conflicts_with_all = ["show", "failures"])]
    shots: Option<usize>,
    /// The frames of 12 questions of all kinds that were answered wrongly, a PNG each, named on standard output.
    #[arg(long, value_name = "DIR")]
    failures: Option<PathBuf>,
    /// Every question with what was expected and what was written, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SplitName {
    /// Clips that were trained on.
    Train,
    /// Clips of the kind that was trained on, never seen.
    Seeds,
    /// Combinations of thing and motion that were left out of the training.
    Combinations,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ConditionName {
    /// One frame per second.
    AsIs,
    /// Frames in another order: order and direction cannot be known.
    Shuffled,
    /// Grey frames: the language model guesses.
    Blank,
    /// 16 frames, by interpolated temporal embeddings.
    Sixteen,
}

impl SplitName {
    fn split(self) -> Split {
        match self {
            SplitName::Train => Split::Train,
            SplitName::Seeds => Split::HeldOutSeeds,
            SplitName::Combinations => Split::HeldOutCombinations,
        }
    }
}

impl EvalSpriteworld {
    fn run(self) -> anyhow::Result<bool> {
        let world = self.world.open()?;
        let pipeline = self.model.load_to_answer()?;
        self.world.is_the_world_of(&pipeline)?;
        let split = self.split.split();
        let condition = match self.show {
            ConditionName::AsIs => Condition::AsIs,
            ConditionName::Shuffled => Condition::Shuffled,
            ConditionName::Blank => Condition::Blank,
            ConditionName::Sixteen => Condition::Sixteen,
        };
        let bar = output::progress(self.clips as usize);
        let done = AtomicU64::new(0);
        let watch = || bar.set_position(done.fetch_add(1, Ordering::Relaxed) + 1);
        let asked = match self.shots {
            None => evaluate(&pipeline, &world, split, condition, self.clips, &watch)?,
            Some(shots) => evaluate_naming(&pipeline, &world, split, shots, self.clips, &watch)?,
        };
        bar.finish_and_clear();
        if let Some(path) = &self.answers {
            write_lines(path, &asked)?;
        }
        if let Some(folder) = &self.failures {
            write_failures(folder, &world, split, condition, &asked)?;
        }
        let scores = scores(&asked);
        if self.json {
            println!(
                "{}",
                serde_json::to_string(
                    &scores.iter().map(|(kind, s)| (kind, json(s))).collect::<BTreeMap<_, _>>()
                )?
            );
            return Ok(true);
        }
        println!("{:<12} {:>6} {:>9} {:>18}", "kind", "asked", "right", "95 % interval");
        for (kind, score) in &scores {
            println!("{}", line(kind, score));
        }
        Ok(true)
    }
}

fn line(kind: &str, score: &Score) -> String {
    let (low, high) = score.interval();
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let interval = format!("{} to {}", percent(low), percent(high));
    format!("{kind:<12} {:>6} {:>9} {interval:>18}", score.asked, percent(score.share()))
}

fn json(score: &Score) -> serde_json::Value {
    let (low, high) = score.interval();
    serde_json::json!({ "right": score.right, "asked": score.asked, "low": low, "high": high })
}

fn write_lines(path: &Path, asked: &[QuestionResult]) -> anyhow::Result<()> {
    let lines = asked.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    output::write(path, (lines.join("\n") + "\n").as_bytes())
}

/// Failures that are drawn.
const SHOWN: usize = 12;

/// Failures of as many kinds as there are, each of another clip.
fn spread(asked: &[QuestionResult]) -> Vec<&QuestionResult> {
    let mut of_kind: BTreeMap<&str, VecDeque<&QuestionResult>> = BTreeMap::new();
    for wrong in asked.iter().filter(|a| !a.right) {
        of_kind.entry(&wrong.kind).or_default().push_back(wrong);
    }
    let (mut chosen, mut clips) = (Vec::new(), BTreeSet::new());
    while of_kind.values().any(|left| !left.is_empty()) {
        for left in of_kind.values_mut() {
            // The next of this kind whose clip is not among them yet.
            while let Some(wrong) = left.pop_front() {
                if clips.insert(wrong.clip) {
                    chosen.push(wrong);
                    break;
                }
            }
        }
    }
    chosen
}

fn write_failures(
    folder: &Path,
    world: &World,
    split: Split,
    condition: Condition,
    asked: &[QuestionResult],
) -> anyhow::Result<()> {
    make_folder(folder)?;
    for (i, wrong) in spread(asked).into_iter().take(SHOWN).enumerate() {
        let mut sheet = Sheet::new(ContactSheet { columns: Some(8), ..ContactSheet::default() });
        let frames = frames_under(&world.clip(split, wrong.clip), wrong.clip, condition);
        for (second, image) in frames.into_iter().enumerate() {
            sheet.add(&Frame { pts: second as f64, image });
        }
        let path = folder.join(format!("{:02}.png", i + 1));
        output::write_png(&path, &sheet)?;
        let asked = if wrong.question.is_empty() { &wrong.kind } else { &wrong.question };
        println!("{}: {asked} `{}`, not `{}`", path.display(), wrong.written, wrong.expected.join("` or `"));
    }
    Ok(())
}

/// Make the data that a model learns from.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// Clips of moving drawings as video files, with their captions and questions.
    Spriteworld(DataSpriteworld),
}

impl Data {
    pub fn run(self) -> anyhow::Result<bool> {
        match self {
            Data::Spriteworld(command) => command.run(),
        }
    }
}

#[derive(Debug, Args)]
pub struct DataSpriteworld {
    #[command(flatten)]
    world: WorldArgs,
    /// Which clips.
    #[arg(long, value_enum, default_value = "seeds")]
    split: SplitName,
    /// Number of clips.
    #[arg(long, default_value_t = 20, value_name = "N")]
    clips: u64,
    /// The first clip's index in its split.
    #[arg(long, default_value_t = 0, value_name = "INDEX")]
    first: u64,
    /// Frames per second of the files.
    #[arg(long, default_value_t = 12, value_name = "RATE", value_parser = clap::value_parser!(u16).range(1..=120))]
    fps: u16,
    /// `INDEX.mp4` for each clip, and `clips.jsonl`: captions, near misses, questions with answers.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl DataSpriteworld {
    fn run(self) -> anyhow::Result<bool> {
        let world = self.world.open()?;
        make_folder(&self.out)?;
        let bar = output::progress(self.clips as usize);
        let mut lines = String::new();
        for index in self.first..self.first + self.clips {
            let clip = world.clip(self.split.split(), index);
            let file = format!("{index:05}.mp4");
            let moments = 0..clip.scene().seconds * usize::from(self.fps);
            let frames = clip.frames_at(moments.map(|i| i as f64 / f64::from(self.fps)));
            encode(&frames, self.fps, &self.out.join(&file))?;
            let question = |q: Question| serde_json::json!({"kind": q.kind.name(), "question": q.question, "answer": q.answer, "choices": q.choices});
            let told = serde_json::json!({
                "file": file,
                "captions": clip.captions(),
                "near_misses": clip.near_misses(),
                "questions": clip.questions().into_iter().map(question).collect::<Vec<_>>(),
            });
            lines += &format!("{told}\n");
            bar.inc(1);
        }
        bar.finish_and_clear();
        output::write(&self.out.join("clips.jsonl"), lines.as_bytes())?;
        println!("{} clips in {}", self.clips, self.out.display());
        Ok(true)
    }
}

/// Frames of one size -> H.264, by the `ffmpeg` program.
fn encode(frames: &[RgbImage], fps: u16, path: &Path) -> anyhow::Result<()> {
    let (width, height) = frames.first().context("a clip has frames")?.dimensions();
    let (size, fps) = (format!("{width}x{height}"), fps.to_string());
    let mut ffmpeg = Command::new("ffmpeg")
        .args([
            "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r", &fps, "-i", "-",
        ])
        .args(["-pix_fmt", "yuv420p", "-c:v", "libx264", "-crf", "24", "-movflags", "+faststart"])
        .args(["-fflags", "+bitexact", "-flags:v", "+bitexact"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .context("the program `ffmpeg` cannot be started")?;
    let mut pipe = ffmpeg.stdin.take().expect("stdin was piped");
    // What it does not take, it says itself.
    let _ = frames.iter().try_for_each(|frame| pipe.write_all(frame.as_raw()));
    drop(pipe);
    anyhow::ensure!(ffmpeg.wait()?.success(), "{}: ffmpeg could not write it", path.display());
    Ok(())
}
