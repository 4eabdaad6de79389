//! `flamingo eval dataset`: evaluates a model on a file of items, with the metric of a benchmark.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use flamingo::Task;
use flamingo::generate::{Generation, Strategy};
use flamingo::metrics::{
    CaptionedItem, MetricError, WordNet, cider, exact_match, ivqa_accuracy, ndcg, roc_auc, vqa_accuracy,
};
use flamingo::pipeline::Answer;
use flamingo::statistics::{bootstrap, mean};
use flamingo::task::{Classification, Labels};
use inference::analysis::{AnalysisSpec, Source, VideoAnalyzer};
use inference::context::RequestContext;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::analyze::analyzer;
use crate::args::{ModelArgs, SamplingArgs, UsageError};
use crate::few_shot::SupportArgs;
use crate::output::{printable, progress, write_file};

/// The benchmarks, as data.
const BENCHMARKS: &str = include_str!("../../../../config/benchmarks.toml");
/// Greatest size of a file of items in bytes.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Debug, Args)]
pub struct EvalDataset {
    /// JSON lines: `{"media": "a.mp4", "question": "What?", "answers": ["a frog"]}`, with paths from the folder of the file. A
    /// caption has no question, and its `answers` are the captions of people. A choice has `candidates` too, unless the benchmark has
    /// them, and for NDCG the `relevance` of each; a meme has the `text` that is written on it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Benchmark, which decides task, metric and decoding: a name in `config/benchmarks.toml`.
    #[arg(long, value_name = "NAME", value_parser = parse_benchmark, help_heading = "Evaluation")]
    benchmark: Benchmark,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    support: SupportArgs,
    /// Folder of WordNet, for WUPS: Debian's package `wordnet-base` has it.
    #[arg(long, value_name = "DIR", default_value = "/usr/share/wordnet", help_heading = "Evaluation")]
    wordnet: PathBuf,
    /// Evaluate the first N items only.
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    limit: Option<usize>,
    /// Print one JSON object instead of text.
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// File for every item with its answer and score, one JSON object per line.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    answers: Option<PathBuf>,
}

/// Task, metric and decoding of a benchmark.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Benchmark {
    name: String,
    task: TaskName,
    metric: Metric,
    #[serde(default)]
    candidates: Vec<String>,
    /// Question about the items that have none.
    #[serde(default)]
    question: Option<String>,
    #[serde(default = "caption_length")]
    max_new_tokens: usize,
}

fn caption_length() -> usize {
    20
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum TaskName {
    Caption,
    Question,
    Choose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Metric {
    Cider,
    Vqa,
    ExactMatch,
    Ivqa,
    Ndcg,
    RocAuc,
    Wups,
}

/// Threshold of WUPS in the Flamingo paper's benchmark, NExT-QA.
const WUPS_THRESHOLD: f64 = 0.0;

fn parse_benchmark(name: &str) -> Result<Benchmark, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        benchmark: Vec<Benchmark>,
    }
    let File { benchmark } = toml::from_str(BENCHMARKS).expect("the file of benchmarks is valid");
    let names: Vec<String> = benchmark.iter().map(|known| known.name.clone()).collect();
    let found = benchmark.into_iter().find(|known| known.name == name);
    found.ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

/// Item of a dataset: one line of its file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    media: String,
    #[serde(default)]
    question: Option<String>,
    /// Text that is written on the medium.
    #[serde(default)]
    text: Option<String>,
    answers: Vec<String>,
    #[serde(default)]
    candidates: Vec<String>,
    #[serde(default)]
    relevance: Vec<f64>,
}

/// An item with the answer of the model.
struct Answered {
    item: Item,
    answer: Answer,
}

impl EvalDataset {
    pub fn run(self) -> anyhow::Result<bool> {
        let items = self.items()?;
        let wordnet =
            (self.benchmark.metric == Metric::Wups).then(|| WordNet::open(&self.wordnet)).transpose();
        let wordnet = wordnet.context("WUPS needs WordNet (--wordnet; apt install wordnet-base)")?;
        let generation = Generation {
            strategy: Strategy::Beam { beams: 3, length_penalty: 0.0 },
            max_new_tokens: self.benchmark.max_new_tokens,
        };
        let spec =
            AnalysisSpec { sampling: self.sampling.sampling()?, generation, ..AnalysisSpec::default() };
        let tasks = items.iter().zip(1..).map(|(item, line)| {
            self.benchmark.task(item).map_err(|reason| UsageError(format!("item {line}: {reason}")).into())
        });
        let tasks = tasks.collect::<anyhow::Result<Vec<Task>>>()?;
        let support = self.support.read()?;
        let pipeline = self.model.load_to_answer()?;
        let mut analyzer = analyzer(&pipeline)?;
        let support = support.map(|support| support.encode(&analyzer, &spec)).transpose()?;
        analyzer.support = support.as_ref();
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let bar = progress(items.len());
        let (mut answered, mut failed) = (Vec::new(), 0);
        for (item, task) in items.into_iter().zip(tasks) {
            match answer(&analyzer, &folder.join(&item.media), &task, &spec) {
                Ok(answer) => answered.push(Answered { item, answer }),
                Err(error) => {
                    failed += 1;
                    bar.suspend(|| eprintln!("error: {}", printable(&format!("{error:#}"))));
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        self.report(&answered, failed, wordnet.as_ref())?;
        Ok(failed == 0)
    }

    fn items(&self) -> anyhow::Result<Vec<Item>> {
        let name = self.file.display();
        let size =
            std::fs::metadata(&self.file).with_context(|| format!("{name}: cannot read the items"))?.len();
        if size > MAX_BYTES {
            bail!(UsageError(format!("{name}: {size} bytes are more than {MAX_BYTES}")));
        }
        let text =
            std::fs::read_to_string(&self.file).with_context(|| format!("{name}: cannot read the items"))?;
        let lines = text.trim_start_matches('\u{feff}').lines().zip(1..);
        let lines = lines.filter(|(line, _)| !line.trim().is_empty()).take(self.limit.unwrap_or(usize::MAX));
        let item = |(line, number): (&str, usize)| {
            let item: Item =
                serde_json::from_str(line).map_err(|e| UsageError(format!("{name}: line {number}: {e}")))?;
            anyhow::Ok(item)
        };
        let items = lines.map(item).collect::<anyhow::Result<Vec<_>>>()?;
        if items.is_empty() {
            bail!(UsageError(format!("{name}: there are no items")));
        }
        Ok(items)
    }

    fn report(&self, answered: &[Answered], failed: usize, wordnet: Option<&WordNet>) -> anyhow::Result<()> {
        let Benchmark { name, metric, .. } = &self.benchmark;
        let scores = metric.scores(answered, wordnet)?;
        let value = metric.value(&scores)?;
        let interval = bootstrap(scores.len(), |sample| {
            let sampled: Vec<ItemScore> = sample.iter().map(|&i| scores[i]).collect();
            metric.value(&sampled).ok()
        });
        if let Some(path) = &self.answers {
            let line = |(Answered { item, answer }, score): (&Answered, &ItemScore)| {
                let (media, question, answers) = (&item.media, &item.question, &item.answers);
                let line = json!({
                    "media": media, "question": question, "answers": answers, "answer": answer.text, "score": score.score,
                });
                format!("{line}\n")
            };
            write_file(path, answered.iter().zip(&scores).map(line).collect::<String>().as_bytes())?;
        }
        let (low, high) = interval.unzip();
        let object = json!({
            "benchmark": name, "metric": metric, "value": value, "low": low, "high": high,
            "items": answered.len(), "failed": failed,
        });
        if self.json {
            println!("{object}");
        } else {
            let interval = low.zip(high).map(|(low, high)| format!(" ({low:.4} to {high:.4})"));
            let failed =
                if failed > 0 { format!("; {failed} items failed and do not count") } else { String::new() };
            println!(
                "{name}: {metric} {value:.4}{} on {} items{failed}",
                interval.unwrap_or_default(),
                answered.len()
            );
        }
        Ok(())
    }
}

fn answer(analyzer: &VideoAnalyzer, file: &Path, task: &Task, spec: &AnalysisSpec) -> anyhow::Result<Answer> {
    let context = RequestContext::default();
    let (medium, _) = analyzer.encode_video(&Source::file(file), spec, &context)?;
    let shots = analyzer.support.map(|support| {
        support.choose(&medium, task.question(), &analyzer.model.pipeline().loaded().tokenizer)
    });
    let shots = shots.transpose()?.unwrap_or_default();
    let tasks = std::slice::from_ref(task);
    Ok(analyzer.model.ask(tasks, shots[..].into(), &[&medium], &spec.generation, &context).remove(0)?)
}

impl Benchmark {
    /// Returns the task of an item.
    fn task(&self, item: &Item) -> Result<Task, String> {
        if item.answers.is_empty() && self.metric != Metric::Ndcg {
            return Err("it has no answer".into());
        }
        let question = || item.question.clone().or(self.question.clone()).ok_or("it has no question");
        Ok(match self.task {
            TaskName::Caption => Task::Caption {},
            TaskName::Question => Task::Question { question: question()? },
            TaskName::Choose => {
                let own = if self.candidates.is_empty() { &item.candidates } else { &self.candidates };
                let labels = Labels::new(own).map_err(|e| format!("its candidates cannot be used: {e}"))?;
                let plain = Classification::new(labels, question()?);
                Task::Classify(Classification { text: item.text.clone(), ..plain })
            }
        })
    }
}

/// Score of one item, and for ROC AUC whether it is positive.
#[derive(Debug, Clone, Copy)]
struct ItemScore {
    score: f64,
    positive: bool,
}

impl Metric {
    /// Returns the score of every item.
    fn scores(self, answered: &[Answered], wordnet: Option<&WordNet>) -> Result<Vec<ItemScore>, MetricError> {
        let score = |score: f64| ItemScore { score, positive: false };
        if self == Metric::Cider {
            let item = |Answered { item, answer }: &Answered| CaptionedItem {
                caption: answer.text.clone(),
                references: item.answers.clone(),
            };
            let items: Vec<CaptionedItem> = answered.iter().map(item).collect();
            return Ok(cider(&items)?.items.into_iter().map(score).collect());
        }
        let of_item = |Answered { item, answer }: &Answered| {
            let Item { answers, .. } = item;
            Ok(match self {
                Metric::Vqa => score(vqa_accuracy(&answer.text, answers)?),
                Metric::Ivqa => score(ivqa_accuracy(&answer.text, answers)?),
                Metric::ExactMatch => {
                    score(f64::from(answers.iter().any(|right| exact_match(&answer.text, right))))
                }
                Metric::Wups => {
                    let wordnet = wordnet.expect("WordNet is open for WUPS");
                    score(wordnet.wups(&answer.text, answers, WUPS_THRESHOLD)?)
                }
                Metric::Ndcg => {
                    let scores: Vec<f64> = answer.scores.iter().map(|of| of.log_likelihood).collect();
                    score(ndcg(&scores, &item.relevance)?)
                }
                // The first candidate is the positive class.
                Metric::RocAuc => ItemScore {
                    score: answer.scores.first().map_or(f64::NAN, |first| first.probability),
                    positive: answer.scores.first().is_some_and(|first| answers.contains(&first.text)),
                },
                Metric::Cider => unreachable!("the score of a caption depends on all items"),
            })
        };
        answered.iter().map(of_item).collect()
    }

    /// Joins the scores of items to the value of the metric.
    fn value(self, scores: &[ItemScore]) -> Result<f64, MetricError> {
        let (values, positive): (Vec<f64>, Vec<bool>) =
            scores.iter().map(|of| (of.score, of.positive)).unzip();
        match self {
            Metric::RocAuc => roc_auc(&values, &positive),
            _ => mean(&values).ok_or(MetricError::NoItems),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Metric::Cider => "CIDEr-D",
            Metric::Vqa => "VQA accuracy",
            Metric::ExactMatch => "exact match",
            Metric::Ivqa => "iVQA accuracy",
            Metric::Ndcg => "NDCG",
            Metric::RocAuc => "ROC AUC",
            Metric::Wups => "WUPS 0.0",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_benchmark_has_a_task_that_fits_its_metric() {
        for name in ["coco", "vqav2", "ivqa", "next-qa", "star", "visdial", "hateful-memes"] {
            let benchmark = parse_benchmark(name).unwrap();
            let chooses = matches!(benchmark.metric, Metric::Ndcg | Metric::RocAuc);
            assert!(!chooses || benchmark.task == TaskName::Choose, "{name}");
            assert_eq!(benchmark.metric == Metric::Cider, benchmark.task == TaskName::Caption, "{name}");
        }
        assert!(parse_benchmark("none").unwrap_err().contains("hateful-memes"));
    }
}
