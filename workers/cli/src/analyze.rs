//! Common part of `flamingo caption` and `flamingo ask`: options, analysis of all inputs, output.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use anyhow::bail;
use clap::Args;
use flamingo::prompt::Prompt;
use flamingo::task::ShotText;
use flamingo::{Pipeline, Task};
use indicatif::ProgressBar;
use inference::analysis::{AnalysisError, AnalysisSpec, Source, VideoAnalyzer};
use inference::context::{Cancel, CancelFlag, RequestContext};
use inference::decoder::DecoderConfig;
use inference::engine::{Engine, EngineLimits};
use inference::methods::FittedMethod;
use inference::model::{Model, ModelError};
use inference::report::contact_sheet::{ContactSheet, Layout};
use inference::report::{Outcome, Report};
use inference::shot_options::TaskTraits;

use crate::args::{GenerationArgs, ModelArgs, SamplingArgs, UsageError, parse_length};
use crate::few_shot::{Support, SupportArgs};
use crate::grounding::GroundingArgs;
use crate::inputs::{self, Input};
use crate::methods::{self, TextTowerArgs};
use crate::output::{Output, create_folder, progress, show_frame};
use crate::process::own_executable;

/// Inputs in flight: one is decoded while another is encoded and others are answered.
const AT_ONCE: u32 = 4;

#[derive(Debug, Args)]
pub struct AnalyzeArgs {
    /// Videos, images, and directories of them; directories are searched recursively, without hidden and side files.
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Split the video into consecutive windows of this length, with one answer per window (`8s`, `1:30`).
    #[arg(long, value_parser = parse_length, value_name = "TIME", help_heading = "Frames")]
    window: Option<f64>,
    /// Maximum number of frames per answer; more are an error.
    #[arg(long, default_value_t = 64, value_name = "N", help_heading = "Frames")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_frames: u32,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    grounding: GroundingArgs,
    #[command(flatten)]
    support: SupportArgs,
    /// Inputs that are decoded, encoded and answered concurrently. With 1, the log-likelihood of an answer is bit-equal
    /// whatever the other inputs are.
    #[arg(long, default_value_t = AT_ONCE, value_name = "N", help_heading = "Model")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    at_once: u32,
    /// Print one JSON object per input and line.
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Folder for one JSON report per input, and a WebVTT file each with windows.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Write a contact sheet (PNG) of the sampled frames next to each report.
    #[arg(long, requires = "out", help_heading = "Output")]
    sheet: bool,
    /// Name the files that are left out of a directory, and the reason of each.
    #[arg(long, short, help_heading = "Output")]
    verbose: bool,
}

impl AnalyzeArgs {
    /// Runs the tasks on each input separately. `Ok(false)`: some inputs failed.
    ///
    /// # Errors
    /// Wrong usage, a model that does not load, or an output that cannot be written.
    pub fn run_each(self, tasks: Vec<Task>) -> anyhow::Result<bool> {
        let support = self.support.read()?;
        self.run_each_with(tasks, support, None)
    }

    /// Reads the support set, if one is named.
    ///
    /// # Errors
    /// As [`SupportArgs::read`].
    pub fn support(&self) -> anyhow::Result<Option<Support>> {
        self.support.read()
    }

    /// Runs the tasks on each input separately, after examples of `support`. With a text tower, it classifies by the texts of the
    /// labels. `Ok(false)`: some inputs failed.
    ///
    /// # Errors
    /// As [`run_each`](Self::run_each), and a support set without a usable example.
    pub fn run_each_with(
        self,
        tasks: Vec<Task>,
        support: Option<Support>,
        text_tower: Option<&TextTowerArgs>,
    ) -> anyhow::Result<bool> {
        let spec = self.spec(tasks)?;
        self.run_spec(spec, support, text_tower)
    }

    /// Answers questions about each input over frames of the whole video, and from the captions of its windows. `Ok(false)`: some
    /// inputs failed.
    ///
    /// # Errors
    /// As [`run_each`](Self::run_each).
    pub fn run_long(self, tasks: Vec<Task>) -> anyhow::Result<bool> {
        let spec = AnalysisSpec { long: true, ..self.spec(tasks)? };
        self.run_spec(spec, None, None)
    }

    fn run_spec(
        self,
        spec: AnalysisSpec,
        support: Option<Support>,
        text_tower: Option<&TextTowerArgs>,
    ) -> anyhow::Result<bool> {
        if spec.grounding.is_some() && text_tower.is_some() {
            bail!(UsageError("the grounding is that of the language model: use --method in-context".into()));
        }
        if let Some(support) = &support {
            let tasks = spec.tasks.iter().map(TaskTraits::of);
            let checked = support.options().check(tasks, spec.grounding.is_some());
            checked.map_err(|why| UsageError(format!("few-shot examples: {why}")))?;
        }
        let inputs = inputs::find(&self.inputs)?;
        self.create_output_folder()?;
        let at_once = inputs.found.len().min(self.at_once as usize);
        let texts = support.as_ref().map(Support::longest_texts).unwrap_or_default();
        let model = self.model(&spec, &texts, at_once)?;
        // Not before: loading the model may restart the program.
        inputs.print_skipped(self.verbose);
        let mut analyzer = analyzer(&*model)?;
        let options = support.as_ref().map(|support| *support.options());
        let support = support.map(|support| support.encode(&analyzer, &spec)).transpose()?.zip(options);
        let fitted = match (&spec.tasks[..], &support, text_tower) {
            ([Task::Classify(classification)], _, Some(tower)) => {
                let classifier = Some(tower.classifier(model.pipeline(), classification)?);
                vec![Some(Arc::new(FittedMethod { classifier, choice: None }))]
            }
            ([Task::Classify(classification)], Some((support, options)), None) => {
                let fitted = methods::fit(options.method, &*model, support, classification, options.seed)?;
                vec![Some(Arc::new(fitted))]
            }
            _ => Vec::new(),
        };
        analyzer.support = support.as_ref().map(|(support, _)| support);
        analyzer.classifiers = &fitted;
        self.analyze_each(&inputs.found, &spec, &analyzer, at_once)
    }

    /// Runs one free prompt on all inputs together. `Ok(false)`: it failed.
    ///
    /// # Errors
    /// As [`run_each`](Self::run_each), and a prompt whose places do not match the number of inputs.
    pub fn run_joint(self, task: Task) -> anyhow::Result<bool> {
        let spec = self.spec(vec![task])?;
        let inputs = inputs::find(&self.inputs)?;
        check_places(&spec.tasks, inputs.found.len())?;
        self.create_output_folder()?;
        let model = self.model(&spec, &[], 1)?;
        inputs.print_skipped(self.verbose);
        self.analyze_jointly(&inputs.found, &spec, &analyzer(&*model)?)
    }

    fn create_output_folder(&self) -> anyhow::Result<()> {
        self.out.as_deref().map_or(Ok(()), create_folder)
    }

    fn output(&self, spec: &AnalysisSpec) -> Output {
        Output { json: self.json, folder: self.out.clone(), web_vtt: spec.window_length().is_some() }
    }

    fn model(
        &self,
        spec: &AnalysisSpec,
        shots: &[ShotText],
        at_once: usize,
    ) -> anyhow::Result<Box<dyn Model>> {
        let pipeline: Pipeline = self.model.load_to_answer()?;
        // One input: the pipeline answers all tasks in one batch, with the media K/V projected once.
        if at_once == 1 {
            return Ok(Box::new(pipeline));
        }
        let AnalysisSpec { tasks, generation, .. } = spec;
        let mut limits = EngineLimits::for_videos(at_once, &pipeline, tasks, shots, generation);
        if spec.long {
            limits = limits.with_transcripts(at_once, &pipeline, tasks, generation);
        }
        Ok(Box::new(Engine::start(pipeline, limits)?))
    }

    /// Analyses inputs concurrently. Report files are written at once, reports are printed in the order of the inputs.
    fn analyze_each(
        &self,
        inputs: &[Input],
        spec: &AnalysisSpec,
        analyzer: &VideoAnalyzer,
        at_once: usize,
    ) -> anyhow::Result<bool> {
        let output = &self.output(spec);
        let (cancel, stop) = &Cancel::by_flag();
        let context = &RequestContext { cancel: cancel.clone(), ..RequestContext::default() };
        let bar = &progress(inputs.len());
        let next = &AtomicUsize::new(0);
        let (sender, receiver) = channel();
        let failed = std::thread::scope(|scope| {
            for _ in 0..at_once {
                let sender = sender.clone();
                scope.spawn(move || {
                    let _guard = StopOnPanic(stop);
                    while let (n, Some(input)) = take(inputs, next) {
                        let report = self.analyze(input, spec, context, analyzer, output, bar);
                        // After a report that could not be written or printed, the others are not wanted any more.
                        if stop.is_set() || sender.send((n, report)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            let _guard = StopOnPanic(stop);
            let (mut pending, mut printed, mut failed) = (BTreeMap::new(), 0, 0);
            for (n, report) in receiver {
                pending.insert(n, report.inspect_err(|_| stop.set())?);
                while let Some(report) = pending.remove(&printed) {
                    bar.suspend(|| output.print(&report)).inspect_err(|_| stop.set())?;
                    failed += usize::from(bar.suspend(|| is_failure(&report.body.outcome)));
                    printed += 1;
                    bar.inc(1);
                }
            }
            anyhow::Ok(failed)
        })?;
        bar.finish_and_clear();
        if failed > 0 {
            eprintln!("{failed} of {} inputs failed", inputs.len());
        }
        Ok(failed == 0)
    }

    fn analyze(
        &self,
        input: &Input,
        spec: &AnalysisSpec,
        context: &RequestContext,
        analyzer: &VideoAnalyzer,
        output: &Output,
        bar: &ProgressBar,
    ) -> anyhow::Result<Report> {
        let mut sheet = self.sheet.then(|| ContactSheet::new(Layout::default()));
        let analysis = analyzer.analyze(&Source::file(&input.path), spec, context, &mut |frame| {
            show_frame(bar, input, frame);
            if let Some(sheet) = &mut sheet {
                sheet.add(frame);
            }
            ControlFlow::Continue(())
        });
        if let Some(AnalysisError::Model { source: ModelError::Gone, .. }) = analysis.error {
            bail!("the model has failed: the remaining inputs cannot be answered");
        }
        output.write_files(&input.name, &analysis.report, sheet.as_ref())?;
        Ok(analysis.report)
    }

    fn analyze_jointly(
        &self,
        inputs: &[Input],
        spec: &AnalysisSpec,
        analyzer: &VideoAnalyzer,
    ) -> anyhow::Result<bool> {
        let sources: Vec<Source> = inputs.iter().map(|i| Source::file(&i.path)).collect();
        let mut sheet = self.sheet.then(|| ContactSheet::new(Layout::default()));
        let analysis = analyzer.analyze_jointly(&sources, spec, &RequestContext::default(), &mut |frame| {
            if let Some(sheet) = &mut sheet {
                sheet.add(frame);
            }
            ControlFlow::Continue(())
        });
        let (output, report) = (self.output(spec), analysis.report);
        output.write_files("answer", &report, sheet.as_ref())?;
        output.print(&report)?;
        Ok(!is_failure(&report.body.outcome))
    }

    fn spec(&self, tasks: Vec<Task>) -> anyhow::Result<AnalysisSpec> {
        Ok(AnalysisSpec {
            tasks,
            sampling: self.sampling.sampling()?,
            window: self.window,
            max_frames: self.max_frames as usize,
            generation: self.generation.generation(),
            long: false,
            grounding: self.grounding.spec(),
        })
    }
}

pub fn analyzer(model: &dyn Model) -> anyhow::Result<VideoAnalyzer<'_>> {
    let decoder = DecoderConfig::new(own_executable()?);
    Ok(VideoAnalyzer { model, decoder, keep_visual_tokens: false, support: None, classifiers: &[] })
}

/// Sets the stop flag when its thread panics: the other threads would wait for its report, or work for nothing.
struct StopOnPanic<'s>(&'s CancelFlag);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set();
        }
    }
}

/// Takes the next input, with its number.
fn take<'i>(inputs: &'i [Input], next: &AtomicUsize) -> (usize, Option<&'i Input>) {
    let n = next.fetch_add(1, Ordering::Relaxed);
    (n, inputs.get(n))
}

/// Checks that a free prompt has one place per input, before anything is loaded or decoded.
fn check_places(tasks: &[Task], inputs: usize) -> anyhow::Result<()> {
    for task in tasks {
        let Task::Complete { prompt } = task else { continue };
        let places = Prompt::parse(prompt).media();
        if places != inputs {
            bail!(UsageError(format!(
                "the prompt has places (`<image>`, `<video>`) for {places} inputs, but there are {inputs}"
            )));
        }
    }
    Ok(())
}

/// Whether an analysis failed; prints a hint where an option would help.
fn is_failure(outcome: &Outcome) -> bool {
    if let Outcome::Failed { error, .. } = outcome
        && error.code == "limit_frames"
    {
        eprintln!(
            "hint: cut long videos with --window, sample fewer frames with --frames or --fps, or raise --max-frames"
        );
    }
    matches!(outcome, Outcome::Failed { .. })
}
