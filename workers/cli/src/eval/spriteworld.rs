//! `flamingo eval spriteworld`: measures the accuracy of a model on a world with known answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::{Args, ValueEnum};
use flamingo::statistics::Accuracy;
use flamingo::train::evaluate::{
    Condition, QuestionResult, Separation, Trust, evaluate, evaluate_naming, frames_under, scores,
};
use flamingo::train::spriteworld::{Split, World};
use flamingo::video::Frame;
use serde::Serialize;

use crate::args::ModelArgs;
use crate::output::{create_folder, progress, write_file, write_png};
use crate::spriteworld::{SplitName, WorldArgs};
use inference::report::contact_sheet::{ContactSheet, Layout};

#[derive(Debug, Args)]
pub struct EvalSpriteworld {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    world: WorldArgs,
    /// Number of clips.
    #[arg(long, default_value_t = 300, value_name = "N", help_heading = "Evaluation")]
    clips: u64,
    /// Split of the clips.
    #[arg(long, value_enum, default_value = "seeds", help_heading = "Evaluation")]
    split: SplitName,
    /// Frames that the model gets: as they are, or a control.
    #[arg(long, value_enum, default_value = "as-is", help_heading = "Evaluation")]
    show: ConditionName,
    /// Instead of questions: episodes with two invented words and N examples of each, scored by which word is likelier.
    #[arg(long, value_name = "N", conflicts_with_all = ["show", "failures"], help_heading = "Evaluation")]
    shots: Option<usize>,
    /// Compute the grounding of every answer, and how well it and the log-likelihood separate right answers from wrong ones.
    #[arg(long, conflicts_with = "shots", help_heading = "Evaluation")]
    grounding: bool,
    /// Folder for the frames of 12 wrong answers, spread over the kinds of question (PNG).
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    failures: Option<PathBuf>,
    /// File for every question with the expected and the given answer, one JSON object per line.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    answers: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ConditionName {
    /// One frame per second.
    AsIs,
    /// Frames in random order: hides order and direction.
    Shuffled,
    /// Grey frames: shows what the language model guesses.
    Blank,
    /// 16 frames, with interpolated temporal embeddings.
    Sixteen,
}

impl EvalSpriteworld {
    pub fn run(self) -> anyhow::Result<bool> {
        let world = self.world.open()?;
        let pipeline = self.model.load_to_answer()?;
        self.world.check_trains(&pipeline)?;
        let split = self.split.split();
        let condition = match self.show {
            ConditionName::AsIs => Condition::AsIs,
            ConditionName::Shuffled => Condition::Shuffled,
            ConditionName::Blank => Condition::Blank,
            ConditionName::Sixteen => Condition::Sixteen,
        };
        let bar = progress(self.clips as usize);
        let done = AtomicU64::new(0);
        let on_clip = || bar.set_position(done.fetch_add(1, Ordering::Relaxed) + 1);
        let results = match self.shots {
            None => evaluate(&pipeline, &world, split, condition, self.grounding, self.clips, &on_clip)?,
            Some(shots) => evaluate_naming(&pipeline, &world, split, shots, self.clips, &on_clip)?,
        };
        bar.finish_and_clear();
        if let Some(path) = &self.answers {
            write_lines(path, &results)?;
        }
        if let Some(folder) = &self.failures {
            write_failures(folder, &world, split, condition, &results)?;
        }
        let scores = scores(&results);
        let separations: BTreeMap<&str, Separations> =
            scores.keys().map(|kind| (kind.as_str(), Separations::of(&results, kind))).collect();
        if self.json {
            let kind = |(kind, score): (&String, &Accuracy)| {
                let mut object = json(score);
                if self.grounding {
                    object["separation"] = serde_json::to_value(separations[kind.as_str()])?;
                }
                Ok((kind.clone(), object))
            };
            let kinds = scores.iter().map(kind).collect::<anyhow::Result<BTreeMap<_, _>>>()?;
            println!("{}", serde_json::to_string(&kinds)?);
            return Ok(true);
        }
        let trust = if self.grounding { "  AUC of grounding, of log-likelihood" } else { "" };
        println!("{:<12} {:>6} {:>9} {:>18}{trust}", "kind", "asked", "right", "95 % interval");
        for (kind, score) in &scores {
            println!("{}{}", line(kind, score), separations[kind.as_str()]);
        }
        Ok(true)
    }
}

/// Separation of right answers from wrong ones, of one kind of question.
#[derive(Debug, Clone, Copy, Serialize)]
struct Separations {
    grounding: Option<Separation>,
    log_likelihood: Option<Separation>,
}

impl Separations {
    fn of(results: &[QuestionResult], kind: &str) -> Self {
        let scored = |score: fn(&Trust) -> f64| {
            let of_kind = results.iter().filter(|result| result.kind == kind);
            let answers: Vec<(bool, f64)> =
                of_kind.filter_map(|result| Some((result.right, score(result.trust.as_ref()?)))).collect();
            Separation::of(&answers)
        };
        Self {
            grounding: scored(|trust| trust.grounding),
            log_likelihood: scored(|trust| trust.log_likelihood),
        }
    }
}

impl std::fmt::Display for Separations {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        for Separation { auc, low, high } in [self.grounding, self.log_likelihood].into_iter().flatten() {
            write!(f, "  {auc:.2} ({low:.2}-{high:.2})")?;
        }
        Ok(())
    }
}

fn line(kind: &str, score: &Accuracy) -> String {
    let (low, high) = score.interval();
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let interval = format!("{} to {}", percent(low), percent(high));
    format!("{kind:<12} {:>6} {:>9} {interval:>18}", score.asked, percent(score.share()))
}

fn json(score: &Accuracy) -> serde_json::Value {
    let (low, high) = score.interval();
    serde_json::json!({ "right": score.right, "asked": score.asked, "low": low, "high": high })
}

fn write_lines(path: &Path, results: &[QuestionResult]) -> anyhow::Result<()> {
    let lines = results.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    write_file(path, (lines.join("\n") + "\n").as_bytes())
}

/// Number of wrong answers that are drawn.
const DRAWN_FAILURES: usize = 12;

/// Wrong answers spread over the kinds of question, each of another clip.
fn spread(results: &[QuestionResult]) -> Vec<&QuestionResult> {
    let mut by_kind: BTreeMap<&str, VecDeque<&QuestionResult>> = BTreeMap::new();
    for wrong in results.iter().filter(|a| !a.right) {
        by_kind.entry(&wrong.kind).or_default().push_back(wrong);
    }
    let (mut chosen, mut clips) = (Vec::new(), BTreeSet::new());
    while by_kind.values().any(|left| !left.is_empty()) {
        for left in by_kind.values_mut() {
            // Take the next of this kind whose clip is not taken yet.
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
    results: &[QuestionResult],
) -> anyhow::Result<()> {
    create_folder(folder)?;
    for (i, wrong) in spread(results).into_iter().take(DRAWN_FAILURES).enumerate() {
        let mut sheet = ContactSheet::new(Layout { columns: Some(8), ..Layout::default() });
        let frames = frames_under(&world.clip(split, wrong.clip), wrong.clip, condition);
        for (second, image) in frames.into_iter().enumerate() {
            sheet.add(&Frame::at(second as f64, image));
        }
        let path = folder.join(format!("{:02}.png", i + 1));
        write_png(&path, &sheet)?;
        let question = if wrong.question.is_empty() { &wrong.kind } else { &wrong.question };
        println!(
            "{}: {question} `{}`, not `{}`",
            path.display(),
            wrong.written,
            wrong.expected.join("` or `")
        );
    }
    Ok(())
}
