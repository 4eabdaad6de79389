//! `flamingo search`: finds videos by a text or by another video, in the joint space of the model.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use candle_core::{DType, Tensor};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use flamingo::Pipeline;
use flamingo::model::{JointSpace, JointSpaces};
use flamingo::search::{IndexEntry, TextTower, VideoIndex};
use inference::analysis::{AnalysisSpec, Source, VideoAnalyzer};
use inference::context::RequestContext;
use inference::encoded_video::EncodedWindow;
use inference::report::Outcome;
use inference::time::human_time;
use serde_json::json;

use crate::analyze::analyzer;
use crate::args::{ModelArgs, SamplingArgs, UsageError, parse_length};
use crate::inputs;
use crate::output::{printable, progress};

#[derive(Debug, Args)]
pub struct Search {
    /// Videos, images, and directories of them; with --index, those that it does not have yet.
    #[arg(value_name = "INPUT", required_unless_present = "index")]
    inputs: Vec<PathBuf>,
    /// Text that describes what to find.
    #[arg(long, short, value_name = "TEXT", required_unless_present = "like", help_heading = "Query")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    query: Option<String>,
    /// Video or image that is similar to what to find.
    #[arg(long, value_name = "FILE", conflicts_with = "query", help_heading = "Query")]
    like: Option<PathBuf>,
    /// Number of results.
    #[arg(long, default_value_t = 5, value_name = "N", help_heading = "Query")]
    top: usize,
    /// File that keeps the vectors of all inputs, so that each version of a video is encoded once.
    #[arg(long, value_name = "FILE", help_heading = "Query")]
    index: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Text tower of the joint space (`make training` fetches it).
    #[arg(long, value_name = "DIR", default_value = "models/text/all-MiniLM-L6-v2", help_heading = "Model")]
    text_tower: PathBuf,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Split each video into consecutive windows of this length, which are found separately (`8s`, `1:30`).
    #[arg(long, value_parser = parse_length, value_name = "TIME", help_heading = "Frames")]
    window: Option<f64>,
    /// Print one JSON object per result and line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Search {
    /// Runs the search. `Ok(false)`: some inputs failed.
    ///
    /// # Errors
    /// Wrong usage, a model without a joint space or that does not load, or a file that cannot be read or written.
    pub fn run(self) -> anyhow::Result<bool> {
        let spec = AnalysisSpec {
            tasks: Vec::new(),
            sampling: self.sampling.sampling()?,
            window: self.window,
            ..AnalysisSpec::default()
        };
        let inputs = match self.inputs.is_empty() {
            true => Vec::new(),
            false => inputs::find(&self.inputs)?.found,
        };
        let pipeline = self.model.load()?;
        let Some(spaces) = &pipeline.loaded().joint_space else {
            bail!(UsageError(format!(
                "the model {} has no joint space, which a search needs",
                self.model.model.display()
            )));
        };
        let revision = format!("{} {}", pipeline.loaded().visual_sha256, json!([spec.sampling, spec.window]));
        let encoder = VectorEncoder { pipeline: &pipeline, space: &spaces.videos, spec: &spec };
        let query = self.query_vector(&encoder, spaces)?;
        let mut index = match &self.index {
            Some(path) if path.exists() => VideoIndex::read(path, revision)
                .with_context(|| format!("{}: cannot read the index", path.display()))?,
            _ => VideoIndex::new(revision),
        };
        let failed = self.add(&mut index, &encoder, inputs.iter().map(|input| input.path.as_path()))?;
        if index.is_empty() {
            bail!("there is no video to search in");
        }
        for (cosine, entry) in index.nearest(&query, self.top) {
            self.print(cosine, entry);
        }
        Ok(failed == 0)
    }

    fn query_vector(&self, encoder: &VectorEncoder, spaces: &JointSpaces) -> anyhow::Result<Vec<f32>> {
        match (&self.query, &self.like) {
            (Some(text), _) => {
                let tower = TextTower::open(&self.text_tower, &encoder.pipeline.options().device)
                    .context("the text tower cannot be opened (`make training` fetches it)")?;
                let states = tower.encode(&[text])?.to_dtype(encoder.pipeline.options().dtype)?;
                unit_vector(&spaces.videos.of_text(&states)?)
            }
            (None, Some(path)) => {
                let whole = AnalysisSpec { window: None, ..encoder.spec.clone() };
                let encoder = VectorEncoder { spec: &whole, ..*encoder };
                let mut windows = encoder.windows(path)?;
                Ok(windows.remove(0).vector)
            }
            (None, None) => bail!(UsageError("a search needs --query or --like".into())),
        }
    }

    /// Adds the videos that the index does not have, and writes it. Returns the number of those that failed.
    fn add<'p>(
        &self,
        index: &mut VideoIndex,
        encoder: &VectorEncoder,
        paths: impl Iterator<Item = &'p Path>,
    ) -> anyhow::Result<usize> {
        let new: Vec<(&Path, String, String)> = paths
            .map(|path| Ok((path, path.display().to_string(), version(path)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let new: Vec<_> = new.into_iter().filter(|(_, name, version)| !index.has(name, version)).collect();
        let (bar, mut failed, mut added) = (progress(new.len()), 0, Vec::new());
        for (path, name, version) in &new {
            match encoder.windows(path) {
                Ok(windows) => {
                    let entry = |WindowVector { start, end, vector }| {
                        let (name, version) = (name.clone(), version.clone());
                        (IndexEntry { name, version, start, end }, vector)
                    };
                    added.extend(windows.into_iter().map(entry));
                }
                Err(error) => {
                    failed += 1;
                    bar.suspend(|| eprintln!("error: {}", printable(&format!("{error:#}"))));
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        index.add(added)?;
        if let (Some(path), false) = (&self.index, new.is_empty()) {
            index.write(path).with_context(|| format!("{}: cannot write the index", path.display()))?;
        }
        Ok(failed)
    }

    fn print(&self, cosine: f32, entry: &IndexEntry) {
        let IndexEntry { name, start, end, .. } = entry;
        if self.json {
            println!("{}", json!({ "input": name, "start": start, "end": end, "cosine": cosine }));
        } else {
            let range = format!("{}-{}", human_time(*start), human_time(end.ceil()));
            println!("{cosine:.3}  {range:<12} {}", printable(name));
        }
    }
}

/// A window of a video, with its unit vector (width).
struct WindowVector {
    start: f64,
    end: f64,
    vector: Vec<f32>,
}

/// Encoder of videos to vectors of the joint space.
#[derive(Clone, Copy)]
struct VectorEncoder<'a> {
    pipeline: &'a Pipeline,
    space: &'a JointSpace,
    spec: &'a AnalysisSpec,
}

impl VectorEncoder<'_> {
    /// Encodes every window of a video.
    fn windows(&self, path: &Path) -> anyhow::Result<Vec<WindowVector>> {
        let analyzer = VideoAnalyzer { keep_visual_tokens: true, ..analyzer(self.pipeline)? };
        let context = RequestContext::default();
        let analysis =
            analyzer.analyze(&Source::file(path), self.spec, &context, &mut |_| ControlFlow::Continue(()));
        let Some(encoded) = analysis.encoded else {
            match analysis.report.body.outcome {
                Outcome::Failed { error, .. } => bail!("{}", error.message),
                Outcome::Succeeded { .. } => bail!("{}: there is no frame", path.display()),
            }
        };
        let vector = |window: &EncodedWindow| {
            let options = self.pipeline.options();
            let tokens = Tensor::from_slice(&window.tokens.values, window.tokens.shape, &options.device)?;
            let pooled = tokens.mean_keepdim(0)?.to_dtype(options.dtype)?;
            let vector = unit_vector(&self.space.of_media(&pooled)?)?;
            anyhow::Ok(WindowVector { start: window.start, end: window.end, vector })
        };
        encoded.windows.iter().map(vector).collect()
    }
}

/// Copies a unit vector (1, width) to the host.
fn unit_vector(vector: &Tensor) -> anyhow::Result<Vec<f32>> {
    Ok(vector.squeeze(0)?.to_dtype(DType::F32)?.to_vec1()?)
}

/// Returns the version of a file: its size and the time of its last change.
fn version(path: &Path) -> anyhow::Result<String> {
    let metadata =
        std::fs::metadata(path).with_context(|| format!("{}: cannot read the file", path.display()))?;
    Ok(format!("{} {}.{:09}", metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}
