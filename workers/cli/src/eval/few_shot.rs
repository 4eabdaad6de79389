//! `flamingo eval few-shot`: accuracy and time of every method of few-shot classification, by the number of examples.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use flamingo::few_shot::balanced_order;
use flamingo::pipeline::Shot;
use flamingo::statistics::Accuracy;
use flamingo::task::{Classification, Labels};
use inference::analysis::AnalysisSpec;
use inference::context::RequestContext;
use inference::medium_classifier::MediumClassifier;
use inference::methods::FewShotClassification;
use inference::model::Model;
use inference::shot_options::ShotOptions;
use inference::support::{EncodedSet, EncodedSupport};
use serde_json::{Value, json};

use super::plot::{self, Line, Point};
use crate::analyze::analyzer;
use crate::args::{ModelArgs, SamplingArgs, UsageError};
use crate::few_shot::encode_examples;
use crate::few_shot::files::{self, FoundSet};
use crate::methods::{MethodArg, TextTowerArgs, usage};
use crate::output::{progress, write_file};

#[derive(Debug, Args)]
pub struct EvalFewShot {
    /// Examples: JSON lines (`{"media": "a.mp4", "output": "frog"}`), or a directory with one folder per label.
    #[arg(long, value_name = "FILE|DIR", help_heading = "Evaluation")]
    support: PathBuf,
    /// Queries with their right labels, in the same form.
    #[arg(long, value_name = "FILE|DIR", help_heading = "Evaluation")]
    queries: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text_tower: TextTowerArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Numbers of examples, separated by commas: the labels share them equally. 0: the language model alone.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [0, 2, 4, 8, 16, 32, 64, 128])]
    #[arg(help_heading = "Evaluation")]
    shots: Vec<usize>,
    /// Methods, separated by commas [default: all but label-text].
    #[arg(long, value_name = "METHOD", value_enum, value_delimiter = ',', help_heading = "Evaluation")]
    methods: Vec<MethodArg>,
    /// Question whose answer is one of the labels.
    #[arg(long, short, value_name = "TEXT", default_value = "What is this?", help_heading = "Evaluation")]
    question: String,
    /// Seed of the choice of the examples.
    #[arg(long, default_value_t = 0, value_name = "SEED", help_heading = "Evaluation")]
    seed: u64,
    /// Print one JSON object instead of a table.
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Write the JSON object to this file too.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Draw the accuracy by the number of examples, a line per method, and write it to this SVG file.
    #[arg(long, value_name = "FILE.svg", value_parser = plot::parse_path, help_heading = "Output")]
    plot: Option<PathBuf>,
}

/// Result of one method with one number of examples.
struct Row {
    method: MethodArg,
    shots: usize,
    /// Least number of examples that a prompt had room for.
    shown: Option<usize>,
    accuracy: Accuracy,
    /// Median of the seconds per query, without its decoding and encoding.
    seconds: f64,
}

impl EvalFewShot {
    pub fn run(self) -> anyhow::Result<bool> {
        let spec = AnalysisSpec { sampling: self.sampling.sampling()?, ..AnalysisSpec::default() };
        let (support, queries) = (files::read(&self.support)?, files::read(&self.queries)?);
        let labels = Labels::new(support.set.outputs()).map_err(|e| UsageError(e.to_string()))?;
        check_queries(&labels, &queries)?;
        let pipeline = self.model.load_to_answer()?;
        let analyzer = analyzer(&pipeline)?;
        let begun = Instant::now();
        let encode = |found: &FoundSet| encode_examples(found, &analyzer, &spec);
        let (support, queries) = (encode(&support)?, encode(&queries)?);
        let encoding = begun.elapsed().as_secs_f64() / (support.len() + queries.len()) as f64;
        let count = support.len();
        let options = ShotOptions { shots: count, ..ShotOptions::default() };
        let support = EncodedSupport::new(Arc::new(EncodedSet::new(support)?), options);
        let classification = Classification::new(labels.clone(), &self.question);
        let rows = self.rows(&pipeline, &support, &classification, &queries)?;
        let rows_json: Vec<Value> = rows.iter().map(Row::json).collect();
        let object = json!({
            "model": pipeline.info(), "examples": count, "queries": queries.len(), "labels": labels,
            "encode_s_per_medium": encoding, "rows": rows_json,
        });
        if let Some(path) = &self.out {
            write_file(path, format!("{}\n", serde_json::to_string_pretty(&object)?).as_bytes())?;
        }
        if let Some(path) = &self.plot {
            let title = format!(
                "{}: {} queries, {} labels",
                pipeline.info().name,
                queries.len(),
                labels.iter().count()
            );
            plot::write(path, &title, &lines(&rows))?;
        }
        if self.json {
            println!("{object}");
            return Ok(true);
        }
        println!("{} queries; decoding and encoding take {:.0} ms per medium", queries.len(), 1e3 * encoding);
        println!(
            "{:<17} {:>8} {:>9} {:>18} {:>13}",
            "method", "examples", "right", "95 % interval", "ms per query"
        );
        rows.iter().for_each(Row::print);
        Ok(true)
    }

    fn rows(
        &self,
        model: &dyn Model,
        support: &EncodedSupport,
        classification: &Classification,
        queries: &[Shot],
    ) -> anyhow::Result<Vec<Row>> {
        let names: Vec<&str> = classification.labels.iter().collect();
        let label = |shot: &Shot| names.iter().position(|name| *name == shot.text.output.trim());
        let of_examples: Vec<usize> = support.shots().iter().filter_map(label).collect();
        let order = balanced_order(&of_examples, self.seed);
        let mut counts: Vec<usize> = self.shots.iter().map(|&n| n.min(order.len())).collect();
        counts.sort_unstable();
        counts.dedup();
        let methods: &[MethodArg] = if self.methods.is_empty() { &MethodArg::ALL } else { &self.methods };
        let context = &RequestContext::default();
        let examples = FewShotClassification { model, support, classification, context, on_example: &|| {} };
        let features = EncodedSet::new(queries.to_vec())?;
        let queries = Queries { queries, features: features.features() };
        let bar = progress(counts.len() * methods.len() * queries.queries.len());
        let mut rows = Vec::new();
        if methods.contains(&MethodArg::LabelText) {
            let classifier = self.text_tower.classifier(model.pipeline(), classification)?;
            rows.push(Row::new(MethodArg::LabelText, 0, queries.answer_by(&classifier, model, 0, &bar)?));
        }
        for &shots in &counts {
            let among = &order[..shots];
            for &method in methods {
                let answers = match method {
                    MethodArg::Auto | MethodArg::LabelText => continue,
                    MethodArg::InContext => queries.answers(&bar, |query, features| {
                        let answer = examples.in_context(among, query, features)?;
                        Ok((answer.text, answer.shots))
                    })?,
                    // A classifier needs an example of every label, and a choice of heads two of one.
                    MethodArg::AttentionVectors if shots <= names.len() => continue,
                    _ if shots < names.len() => continue,
                    _ => {
                        let method = method.few_shot().unwrap_or_default();
                        let classifier = examples.classifier(method, among).map_err(usage)?;
                        let classifier = classifier.context("the method has no classifier")?;
                        queries.answer_by(&classifier, model, shots, &bar)?
                    }
                };
                rows.push(Row::new(method, shots, answers));
            }
        }
        bar.finish_and_clear();
        Ok(rows)
    }
}

/// Returns a line per method, in the order of the rows.
fn lines(rows: &[Row]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        let (low, high) = row.accuracy.interval();
        let point = Point { examples: row.shots, share: row.accuracy.share(), low, high };
        match lines.iter_mut().find(|line| line.name == row.method.name()) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name: row.method.name(), points: vec![point] }),
        }
    }
    lines
}

/// Whether an answer is right, the examples that its prompt had, and its seconds.
type Answered = (bool, usize, f64);

/// Encoded queries with their right labels, and their vision features.
struct Queries<'q> {
    queries: &'q [Shot],
    features: &'q [Vec<f32>],
}

impl Queries<'_> {
    /// Answers every query by `answer`, which returns a label and the number of examples that it was based on.
    fn answers(
        &self,
        bar: &indicatif::ProgressBar,
        answer: impl Fn(&Shot, &[f32]) -> anyhow::Result<(String, usize)>,
    ) -> anyhow::Result<Vec<Answered>> {
        let one = |(query, features): (&Shot, &Vec<f32>)| {
            let start = Instant::now();
            let (text, shots) = answer(query, features)?;
            bar.inc(1);
            Ok((text == query.text.output.trim(), shots, start.elapsed().as_secs_f64()))
        };
        self.queries.iter().zip(self.features).map(one).collect()
    }

    /// Answers every query by a classifier that has learnt from `shots` examples.
    fn answer_by(
        &self,
        classifier: &MediumClassifier,
        model: &dyn Model,
        shots: usize,
        bar: &indicatif::ProgressBar,
    ) -> anyhow::Result<Vec<Answered>> {
        let answer =
            |query: &Shot, _: &[f32]| Ok((classifier.answer(model.pipeline(), &query.medium)?.text, shots));
        self.answers(bar, answer)
    }
}

impl Row {
    fn new(method: MethodArg, shots: usize, answers: Vec<Answered>) -> Self {
        let mut seconds: Vec<f64> = answers.iter().map(|(.., seconds)| *seconds).collect();
        seconds.sort_by(f64::total_cmp);
        Self {
            method,
            shots,
            shown: answers.iter().map(|(_, shown, _)| *shown).min().filter(|shown| *shown < shots),
            accuracy: answers.iter().map(|(right, ..)| *right).collect(),
            seconds: seconds[seconds.len() / 2],
        }
    }

    fn json(&self) -> Value {
        let (low, high) = self.accuracy.interval();
        json!({
            "method": self.method.name(), "examples": self.shots, "shown": self.shown.unwrap_or(self.shots),
            "right": self.accuracy.right, "asked": self.accuracy.asked, "low": low, "high": high,
            "s_per_query": self.seconds,
        })
    }

    fn print(&self) {
        let (low, high) = self.accuracy.interval();
        let interval = format!("{:.1} % to {:.1} %", 100.0 * low, 100.0 * high);
        let room = self.shown.map(|shown| format!("  (room for {shown})")).unwrap_or_default();
        println!(
            "{:<17} {:>8} {:>7.1} % {interval:>18} {:>13.3}{room}",
            self.method.name(),
            self.shots,
            100.0 * self.accuracy.share(),
            1e3 * self.seconds,
        );
    }
}

/// Checks that every query has a label of the support set.
fn check_queries(labels: &Labels, queries: &FoundSet) -> anyhow::Result<()> {
    let is_known = |output: &str| labels.iter().any(|label| label == output.trim());
    match queries.set.outputs().into_iter().find(|output| !is_known(output)) {
        None => Ok(()),
        Some(output) => {
            let text = format!("the label {output:?} of the queries has no example in the support set");
            Err(UsageError(text).into())
        }
    }
}
