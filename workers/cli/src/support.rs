//! Options for few-shot examples, and the encoding of a support set.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use flamingo::few_shot::{Selection, SupportExample, SupportSet};
use flamingo::pipeline::Shot;
use flamingo::task::ShotText;
use inference::analysis::{AnalysisSpec, Source, VideoAnalyzer};
use inference::context::RequestContext;
use inference::support::EncodedSupport;

use crate::args::UsageError;
use crate::inputs;
use crate::output::{printable, progress};

#[derive(Debug, Args)]
#[command(next_help_heading = "Few-shot examples")]
pub struct SupportArgs {
    /// Examples that the prompt shows before each input: JSON lines (`{"media": "a.mp4", "output": "a frog"}`, paths from the
    /// folder of the file), or a directory with one folder of videos and images per output.
    #[arg(long, value_name = "FILE|DIR")]
    support: Option<PathBuf>,
    /// Examples per prompt. Of more than the model has room for, the last ones are shown.
    #[arg(long, default_value_t = 4, value_name = "N", requires = "support")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    shots: u32,
    /// Choice of the examples: the `nearest` by vision features, most similar last; `random`; or the `first`.
    #[arg(long, default_value = "nearest", value_enum, requires = "support")]
    select: SelectionName,
    /// Seed of the random choice.
    #[arg(long, default_value_t = 0, value_name = "SEED", requires = "support")]
    support_seed: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SelectionName {
    Nearest,
    Random,
    First,
}

/// Media with the right output of each, as a file or a directory names them.
#[derive(Debug)]
pub struct LabelledMedia {
    set: SupportSet,
    media: Vec<PathBuf>,
    /// Folders of classes without a video or image.
    empty: Vec<PathBuf>,
}

/// A support set, and the rule that chooses examples of it.
#[derive(Debug)]
pub struct Support {
    examples: LabelledMedia,
    selection: Selection,
    count: usize,
}

impl SupportArgs {
    /// Reads the support set, if one is named.
    ///
    /// # Errors
    /// The file or directory cannot be read; [`UsageError`]: it is no support set.
    pub fn read(&self) -> anyhow::Result<Option<Support>> {
        let Some(path) = &self.support else { return Ok(None) };
        let selection = match self.select {
            SelectionName::Nearest => Selection::Nearest,
            SelectionName::Random => Selection::Random { seed: self.support_seed },
            SelectionName::First => Selection::First,
        };
        Ok(Some(Support { examples: LabelledMedia::read(path)?, selection, count: self.shots as usize }))
    }

    /// Returns the seed of random choices.
    pub fn seed(&self) -> u64 {
        self.support_seed
    }
}

impl LabelledMedia {
    /// Reads JSON lines, or a directory with one folder per output.
    ///
    /// # Errors
    /// The file or directory cannot be read; [`UsageError`]: it is no support set.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let (set, folder, empty) = match path.is_dir() {
            true => {
                let (set, empty) = classes(path)?;
                (set, PathBuf::new(), empty)
            }
            false => (lines(path)?, path.parent().map(Path::to_path_buf).unwrap_or_default(), Vec::new()),
        };
        let media = set.examples().iter().map(|example| folder.join(&example.media)).collect();
        Ok(Self { set, media, empty })
    }

    /// Returns the output of every medium.
    pub fn all_outputs(&self) -> impl Iterator<Item = &str> {
        self.set.examples().iter().map(|example| example.output.as_str())
    }

    /// Returns the different outputs, in the order of the media.
    pub fn outputs(&self) -> Vec<&str> {
        let mut outputs: Vec<&str> = Vec::new();
        for output in self.all_outputs() {
            if !outputs.contains(&output) {
                outputs.push(output);
            }
        }
        outputs
    }

    /// Encodes all media. Those that cannot be decoded are named on standard error and left out.
    ///
    /// # Errors
    /// No medium is left, or the model fails.
    pub fn encode(self, analyzer: &VideoAnalyzer, spec: &AnalysisSpec) -> anyhow::Result<Vec<Shot>> {
        for folder in &self.empty {
            eprintln!(
                "warning: {}: the class has no video or image",
                printable(&folder.display().to_string())
            );
        }
        let bar = progress(self.media.len());
        let mut shots = Vec::with_capacity(self.media.len());
        for (example, path) in self.set.examples().iter().zip(&self.media) {
            match analyzer.encode_video(&Source::file(path), spec, &RequestContext::default()) {
                Ok(medium) => {
                    let name = path.display().to_string();
                    shots.push(Shot { name, medium, text: example.text() });
                }
                Err(error) => bar.suspend(|| {
                    eprintln!("warning: an example is left out: {}", printable(&error.to_string()));
                }),
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        if shots.is_empty() {
            bail!("no example of the support set can be used");
        }
        Ok(shots)
    }
}

impl Support {
    /// Returns the different outputs, in the order of the examples.
    pub fn outputs(&self) -> Vec<&str> {
        self.examples.outputs()
    }

    /// Returns the longest texts that a prompt can show: those that need most memory.
    pub fn longest_texts(&self) -> Vec<ShotText> {
        let length = |text: &ShotText| text.output.len() + text.question.as_ref().map_or(0, String::len);
        let mut texts: Vec<ShotText> =
            self.examples.set.examples().iter().map(SupportExample::text).collect();
        texts.sort_by_key(|text| std::cmp::Reverse(length(text)));
        texts.truncate(self.count);
        texts
    }

    /// Encodes all examples.
    ///
    /// # Errors
    /// As [`LabelledMedia::encode`].
    pub fn encode(self, analyzer: &VideoAnalyzer, spec: &AnalysisSpec) -> anyhow::Result<EncodedSupport> {
        let shots = self.examples.encode(analyzer, spec)?;
        Ok(EncodedSupport::new(shots, self.selection, self.count)?)
    }
}

fn lines(path: &Path) -> anyhow::Result<SupportSet> {
    let name = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("{name}: cannot read the support set"))?;
    SupportSet::from_json_lines(&text).map_err(|e| UsageError(format!("{name}: {e}")).into())
}

/// Reads a directory whose folders are named by the outputs of their files. Returns the empty folders, too.
fn classes(path: &Path) -> anyhow::Result<(SupportSet, Vec<PathBuf>)> {
    let name = path.display();
    let entries = std::fs::read_dir(path).with_context(|| format!("{name}: cannot read the support set"))?;
    let mut folders: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    folders.retain(|folder| folder.is_dir() && !hidden(folder));
    folders.sort();
    let (mut examples, mut empty) = (Vec::new(), Vec::new());
    for folder in folders {
        let output = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(found) = inputs::find(std::slice::from_ref(&folder)) else {
            empty.push(folder);
            continue;
        };
        for input in found.found {
            let media = input.path.to_str().map(String::from);
            let media = media.with_context(|| format!("{}: the name is not UTF-8", input.path.display()))?;
            examples.push(SupportExample { media, question: None, output: output.clone() });
        }
    }
    let set = SupportSet::new(examples).map_err(|e| UsageError(format!("{name}: {e}")))?;
    Ok((set, empty))
}
