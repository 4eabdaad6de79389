//! Options for few-shot examples, and the encoding of a support set.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::{Args, ValueEnum};
use flamingo::few_shot::{SupportExample, SupportSet};
use flamingo::pipeline::{Medium, Shot};
use flamingo::task::ShotText;
use inference::analysis::{AnalysisSpec, Source, VideoAnalyzer};
use inference::context::RequestContext;
use inference::shot_options::{SelectName, ShotOptions};
use inference::support::{EncodedSet, EncodedSupport};

use crate::output::{printable, progress};

pub mod files;
mod media;
#[cfg(feature = "service")]
pub mod stored;

use files::FoundSet;
use media::MediaReader;

#[derive(Debug, Args)]
#[command(next_help_heading = "Few-shot examples")]
pub struct SupportArgs {
    /// Examples that the prompt shows before each input: JSON lines (`{"media": "a.mp4", "output": "a frog"}`, paths from the
    /// folder of the file), a directory with one folder of videos and images per output, or the name of a stored support set
    /// (`flamingo support list`).
    #[arg(long, value_name = "FILE|DIR|NAME")]
    support: Option<PathBuf>,
    /// Examples per prompt. Of more than the model has room for, the last ones are shown.
    #[arg(long, default_value_t = 4, value_name = "N", requires = "support")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    shots: u32,
    /// Choice of the examples: the `nearest` by vision features, most similar last; of 8 times as many of them, those with the
    /// most similar questions (`nearest-question`); `random`; or the `first`.
    #[arg(long, default_value = "nearest", value_enum, requires = "support")]
    select: SelectionName,
    /// Seed of random choices: of the examples, and of their orders.
    #[arg(long, default_value_t = 0, value_name = "SEED", requires = "support")]
    support_seed: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SelectionName {
    Nearest,
    NearestQuestion,
    Random,
    First,
}

impl From<SelectionName> for SelectName {
    fn from(name: SelectionName) -> Self {
        match name {
            SelectionName::Nearest => Self::Nearest,
            SelectionName::NearestQuestion => Self::NearestQuestion,
            SelectionName::Random => Self::Random,
            SelectionName::First => Self::First,
        }
    }
}

/// A support set, and the choice of its examples.
#[derive(Debug)]
pub struct Support {
    found: FoundSet,
    options: ShotOptions,
}

impl SupportArgs {
    /// Reads the support set, if one is named.
    ///
    /// # Errors
    /// The file, directory or store cannot be read; [`UsageError`](crate::args::UsageError): there is no such support set.
    pub fn read(&self) -> anyhow::Result<Option<Support>> {
        let Some(named) = &self.support else { return Ok(None) };
        let found = match named.exists() {
            true => files::read(named)?,
            #[cfg(feature = "service")]
            false => FoundSet { set: stored::read(named)?, empty: Vec::new() },
            #[cfg(not(feature = "service"))]
            false => {
                bail!(crate::args::UsageError(format!("{}: no such file or directory", named.display())))
            }
        };
        Ok(Some(Support { found, options: self.options() }))
    }

    /// Returns number and choice of the examples.
    pub fn options(&self) -> ShotOptions {
        ShotOptions {
            shots: self.shots as usize,
            select: self.select.into(),
            seed: self.support_seed,
            ..ShotOptions::default()
        }
    }
}

impl Support {
    /// Returns the different outputs, in the order of the examples.
    pub fn outputs(&self) -> Vec<&str> {
        self.found.set.outputs()
    }

    /// Returns the same set with these options.
    pub fn with_options(self, change: impl FnOnce(&mut ShotOptions)) -> Self {
        let Self { found, mut options } = self;
        change(&mut options);
        Self { found, options }
    }

    /// Returns number, choice and orders of the examples.
    pub fn options(&self) -> &ShotOptions {
        &self.options
    }

    /// Returns the longest texts that a prompt can show: those that need most memory.
    pub fn longest_texts(&self) -> Vec<ShotText> {
        let length = |text: &ShotText| text.output.len() + text.question.as_ref().map_or(0, String::len);
        let mut texts: Vec<ShotText> = self.examples().iter().map(SupportExample::text).collect();
        texts.sort_by_key(|text| std::cmp::Reverse(length(text)));
        texts.truncate(self.options.shots);
        texts
    }

    fn examples(&self) -> &[SupportExample] {
        let set: &SupportSet = &self.found.set;
        set.examples()
    }

    /// Encodes all examples, as [`encode_examples`].
    ///
    /// # Errors
    /// As [`encode_examples`].
    pub fn encode(self, analyzer: &VideoAnalyzer, spec: &AnalysisSpec) -> anyhow::Result<EncodedSupport> {
        let shots = encode_examples(&self.found, analyzer, spec)?;
        Ok(EncodedSupport::new(Arc::new(EncodedSet::new(shots)?), self.options))
    }
}

/// Encodes all examples of a set. Those that cannot be read or decoded are named on standard error and left out.
///
/// # Errors
/// No example is left, or the model fails.
pub fn encode_examples(
    found: &FoundSet,
    analyzer: &VideoAnalyzer,
    spec: &AnalysisSpec,
) -> anyhow::Result<Vec<Shot>> {
    found.warn_of_empty();
    let examples = found.set.examples();
    let bar = progress(examples.len());
    let mut shots = Vec::with_capacity(examples.len());
    let mut reader = MediaReader::default();
    for example in examples {
        match encode_example(example, &mut reader, analyzer, spec) {
            Ok(medium) => shots.push(Shot { name: example.media.clone(), medium, text: example.text() }),
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

fn encode_example(
    example: &SupportExample,
    reader: &mut MediaReader,
    analyzer: &VideoAnalyzer,
    spec: &AnalysisSpec,
) -> anyhow::Result<Medium> {
    let medium = reader.open(&example.media)?;
    let source = Source { file: medium.path(), name: PathBuf::from(&example.media) };
    Ok(analyzer.encode_video(&source, spec, &RequestContext::default())?.0)
}
