//! `flamingo caption` and `flamingo ask`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use anyhow::bail;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use flamingo::prompt::Prompt;
use flamingo::video::{ContactSheet, Sheet, VideoLimits};
use flamingo::{Pipeline, Task};
use indicatif::ProgressBar;
use inference::analysis::{AnalysisError, AnalysisRequest, Source, VideoAnalyzer};
use inference::decoder::{ProcessLimits, StopFlag};
use inference::engine::{Engine, EngineLimits};
use inference::model::{Model, ModelError};
use inference::progress::ProgressCounter;
use inference::report::{Outcome, Report};

use crate::args::{BadUse, GenerationArgs, ModelArgs, SamplingArgs, make_folder, parse_length, program};
use crate::inputs::{self, Input};
use crate::output::{Output, progress, show_frame};

/// Inputs at once: one is decoded while another is looked at and others are answered.
const AT_ONCE: u32 = 4;

#[derive(Debug, Args)]
pub struct Caption {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub struct Ask {
    #[command(flatten)]
    common: Common,
    /// A question about each input; may be given several times, the video is looked at once.
    #[arg(long, short, value_name = "TEXT", required_unless_present = "prompt", help_heading = "Question")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    question: Vec<String>,
    /// One prompt about all inputs together, with `<image>` or `<video>` where each goes, in order, and `<EOC>` after
    /// each example: `<image>A cat.<EOC><video>`.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["question", "window"], help_heading = "Question")]
    prompt: Option<String>,
}

#[derive(Debug, Args)]
struct Common {
    /// Videos, images, and directories of them.
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Cut the video into consecutive windows of this length, each with an answer of its own (`8s`, `1:30`).
    #[arg(long, value_parser = parse_length, value_name = "TIME", help_heading = "Frames")]
    window: Option<f64>,
    /// Most frames that one answer may look at.
    #[arg(long, default_value_t = 64, value_name = "N", help_heading = "Frames")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_frames: u32,
    #[command(flatten)]
    generation: GenerationArgs,
    /// Inputs that are decoded, looked at and answered side by side. With 1, an answer is the same to the last bit of its
    /// likelihood whatever the other inputs are.
    #[arg(long, default_value_t = AT_ONCE, value_name = "N", help_heading = "Model")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    at_once: u32,
    /// One JSON object per input and line on standard output.
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Write one JSON file per input here, and WebVTT if windows were asked for.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Write the frames that were looked at as a contact sheet beside it.
    #[arg(long, requires = "out", help_heading = "Output")]
    sheet: bool,
}

impl Caption {
    pub fn run(self) -> anyhow::Result<bool> {
        self.common.run(vec![Task::Caption {}], false)
    }
}

impl Ask {
    pub fn run(self) -> anyhow::Result<bool> {
        match self.prompt {
            Some(prompt) => self.common.run(vec![Task::Complete { prompt }], true),
            None => {
                let tasks = self.question.into_iter().map(|question| Task::Question { question });
                self.common.run(tasks.collect(), false)
            }
        }
    }
}

impl Common {
    fn run(self, tasks: Vec<Task>, together: bool) -> anyhow::Result<bool> {
        let request = self.request(tasks)?;
        let inputs = inputs::find(&self.inputs)?;
        if together {
            check_places(&request.tasks, inputs.len())?;
        }
        if let Some(folder) = &self.out {
            make_folder(folder)?;
        }
        // What is asked once needs no company.
        let at_once = if together { 1 } else { inputs.len().min(self.at_once as usize) };
        let model = self.model(&request, at_once)?;
        let analyzer = VideoAnalyzer { model: &*model, decoder: program()? };
        let output = Output { json: self.json, folder: self.out.clone(), web_vtt: self.window.is_some() };
        if together {
            self.all_in_one(&inputs, &request, &analyzer, &output)
        } else {
            self.each(&inputs, &request, &analyzer, &output, at_once)
        }
    }

    fn model(&self, request: &AnalysisRequest, at_once: usize) -> anyhow::Result<Box<dyn Model>> {
        let pipeline: Pipeline = self.model.load_to_answer()?;
        if at_once == 1 {
            return Ok(Box::new(pipeline));
        }
        let limits = EngineLimits::for_videos(at_once, &pipeline, &request.tasks, &request.generation);
        Ok(Box::new(Engine::start(pipeline, limits)?))
    }

    /// Several at once, written as soon as they are done and told in the order in which they were named.
    fn each(
        &self,
        inputs: &[Input],
        request: &AnalysisRequest,
        analyzer: &VideoAnalyzer,
        output: &Output,
        at_once: usize,
    ) -> anyhow::Result<bool> {
        let bar = &progress(inputs.len());
        let next = &AtomicUsize::new(0);
        let (answered, heard) = channel();
        let failed = std::thread::scope(|scope| {
            for _ in 0..at_once {
                let answered = answered.clone();
                scope.spawn(move || {
                    let _ending = EndsAll(&request.stop);
                    while let (n, Some(input)) = take(inputs, next) {
                        let one = self.one(input, request, analyzer, output, bar);
                        // Nobody listens any more after one that could not be written or told.
                        if request.stop.is_set() || answered.send((n, one)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(answered);
            let _ending = EndsAll(&request.stop);
            let (mut early, mut told, mut failed) = (BTreeMap::new(), 0, 0);
            for (n, one) in heard {
                early.insert(n, one.inspect_err(|_| request.stop.set())?);
                while let Some(report) = early.remove(&told) {
                    bar.suspend(|| output.say(&report)).inspect_err(|_| request.stop.set())?;
                    failed += usize::from(bar.suspend(|| is_failure(&report.outcome)));
                    told += 1;
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

    fn one(
        &self,
        input: &Input,
        request: &AnalysisRequest,
        analyzer: &VideoAnalyzer,
        output: &Output,
        bar: &ProgressBar,
    ) -> anyhow::Result<Report> {
        let mut sheet = self.sheet.then(|| Sheet::new(ContactSheet::default()));
        let analysis = analyzer.analyze(&Source::file(&input.path), request, &mut |frame| {
            show_frame(bar, input, frame);
            if let Some(sheet) = &mut sheet {
                sheet.add(frame);
            }
            ControlFlow::Continue(())
        });
        if let Some(AnalysisError::Model { source: ModelError::Gone, .. }) = analysis.error {
            bail!("the model has failed: no more can be answered");
        }
        output.write(&input.name, &analysis.report, sheet.as_ref())?;
        Ok(analysis.report)
    }

    fn all_in_one(
        &self,
        inputs: &[Input],
        request: &AnalysisRequest,
        analyzer: &VideoAnalyzer,
        output: &Output,
    ) -> anyhow::Result<bool> {
        let sources: Vec<Source> = inputs.iter().map(|i| Source::file(&i.path)).collect();
        let mut sheet = self.sheet.then(|| Sheet::new(ContactSheet::default()));
        let analysis = analyzer.analyze_jointly(&sources, request, &mut |frame| {
            if let Some(sheet) = &mut sheet {
                sheet.add(frame);
            }
            ControlFlow::Continue(())
        });
        let report = analysis.report;
        output.write("answer", &report, sheet.as_ref())?;
        output.say(&report)?;
        Ok(!is_failure(&report.outcome))
    }

    fn request(&self, tasks: Vec<Task>) -> anyhow::Result<AnalysisRequest> {
        Ok(AnalysisRequest {
            tasks,
            sampling: self.sampling.sampling()?,
            window: self.window,
            max_frames: self.max_frames as usize,
            generation: self.generation.generation(),
            limits: VideoLimits::default(),
            process: ProcessLimits::default(),
            job: String::new(),
            urgent: false,
            stop: StopFlag::default(),
            progress: ProgressCounter::default(),
        })
    }
}

/// Whoever panics ends the others: they would wait for its report, or go on for nobody.
struct EndsAll<'s>(&'s StopFlag);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set();
        }
    }
}

fn take<'i>(inputs: &'i [Input], next: &AtomicUsize) -> (usize, Option<&'i Input>) {
    let n = next.fetch_add(1, Ordering::Relaxed);
    (n, inputs.get(n))
}

/// A prompt over all inputs has a place for each: said before anything is loaded or decoded.
fn check_places(tasks: &[Task], inputs: usize) -> anyhow::Result<()> {
    for task in tasks {
        let Task::Complete { prompt } = task else { continue };
        let places = Prompt::parse(prompt).media();
        if places != inputs {
            bail!(BadUse(format!(
                "the prompt has places (`<image>`, `<video>`) for {places} inputs, but there are {inputs}"
            )));
        }
    }
    Ok(())
}

fn is_failure(outcome: &Outcome) -> bool {
    if let Outcome::Failed { error, .. } = outcome
        && error.code == "limit_frames"
    {
        eprintln!(
            "hint: cut long videos with --window, look at fewer frames with --frames or --fps, or raise --max-frames"
        );
    }
    matches!(outcome, Outcome::Failed { .. })
}
