//! Stored support sets by name, and media in S3.

use std::path::{Path, PathBuf};

use anyhow::Context;
use flamingo::few_shot::{SupportExample, SupportSet};
use jobs::store::Store;
use tokio::runtime::Runtime;
use video_worker::api::{FewShot, Priority, SupportRef, SupportSource};
use video_worker::app;
use video_worker::inputs::{Fetched, Inputs, Location};
use video_worker::settings::{Settings, load};
use video_worker::support::{StoredSets, SupportStoreError};

use super::{SupportArgs, files};
use crate::args::UsageError;
use crate::inputs::local_path;
use crate::settings::block_on;

impl SupportArgs {
    /// Returns the examples as a job names them: those of a file or directory with absolute paths, or the name of a stored set,
    /// which must exist.
    ///
    /// # Errors
    /// As [`SupportArgs::read`], and a medium that does not exist.
    pub fn few_shot(&self, settings: &Settings) -> anyhow::Result<Option<FewShot<SupportSource>>> {
        let Some(named) = &self.support else { return Ok(None) };
        let support = if named.exists() {
            let found = files::read(named)?;
            found.warn_of_empty();
            SupportSource::Inline(absolute(&found.set)?.examples().to_vec())
        } else {
            let reference = parse(named)?;
            let sets = open_sets(settings)?;
            block_on(async { Ok(sets.resolve(&reference).await) })?.map_err(|why| missing(named, why))?;
            SupportSource::Stored(reference)
        };
        Ok(Some(FewShot::new(support, self.options())))
    }
}

/// Reads the stored support set that `named` means: there is no such file.
///
/// # Errors
/// [`UsageError`]: it is no name, or there is no such set. Else: the store is unavailable.
pub fn read(named: &Path) -> anyhow::Result<SupportSet> {
    let reference = parse(named)?;
    let sets = open_sets(&settings()?)?;
    let set = block_on(async {
        Ok(match sets.resolve(&reference).await {
            Ok(version) => sets.read(&version).await,
            Err(error) => Err(error),
        })
    })?;
    set.map_err(|why| missing(named, why))
}

fn parse(named: &Path) -> Result<SupportRef, UsageError> {
    let name = named.display();
    named.to_string_lossy().parse().map_err(|why: jobs::Failure| {
        UsageError(format!("{name}: no such file or directory, and no name of a stored support set: {why}"))
    })
}

fn missing(named: &Path, why: SupportStoreError) -> anyhow::Error {
    match why {
        SupportStoreError::NotFound { .. } => {
            UsageError(format!("{}: no such file or directory, and {why}", named.display())).into()
        }
        other => other.into(),
    }
}

/// Opens the stored support sets of the settings.
///
/// # Errors
/// [`UsageError`]: the store ends with this process. Else: the URL names no store.
pub fn open_sets(settings: &Settings) -> anyhow::Result<StoredSets> {
    let url = &settings.store.url;
    if url.starts_with("memory:") {
        let text = format!(
            "store.url is {url}, which is empty in every process: stored support sets need another store"
        );
        return Err(UsageError(text).into());
    }
    Ok(StoredSets::new(Store::open(url, &app::store_settings(settings))?))
}

/// Returns the same set with canonical paths, which all processes of this machine can open. URLs stay.
///
/// # Errors
/// [`UsageError`]: a file does not exist.
pub fn absolute(set: &SupportSet) -> anyhow::Result<SupportSet> {
    let example = |(number, example): (usize, &SupportExample)| {
        let SupportExample { media, .. } = example;
        if media.starts_with("s3://") {
            return Ok(example.clone());
        }
        let path = std::fs::canonicalize(local_path(Path::new(media))?);
        let path = path.map_err(|why| UsageError(format!("example {number}: {media}: {why}")))?;
        Ok(SupportExample { media: files::utf8(&path)?, ..example.clone() })
    };
    let examples = (1..).zip(set.examples()).map(example).collect::<anyhow::Result<_>>()?;
    Ok(SupportSet::new(examples)?)
}

/// The settings of the file that `FLAMINGO_CONFIG` names, and of the environment.
fn settings() -> anyhow::Result<Settings> {
    let file = std::env::var_os("FLAMINGO_CONFIG").map(PathBuf::from);
    Ok(load(file.as_deref(), &[]).map_err(|why| UsageError(why.to_string()))?.0)
}

/// Objects in S3, with the settings of the service.
pub struct Remote {
    runtime: Runtime,
    inputs: Inputs,
    max_bytes: u64,
}

impl Remote {
    /// Reads the settings. Does not connect.
    ///
    /// # Errors
    /// The settings are invalid.
    pub fn open() -> anyhow::Result<Self> {
        let settings = settings()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the threads of the runtime")?;
        Ok(Self { runtime, inputs: app::inputs(&settings)?, max_bytes: settings.inputs.max_bytes })
    }

    /// Fetches an object to a temporary file.
    ///
    /// # Errors
    /// It does not exist or is too large, or the store is unavailable.
    pub fn fetch(&self, url: &str) -> anyhow::Result<Fetched> {
        let location: Location = self.inputs.locate(url)?;
        let fetched = self.inputs.fetch(&location, None, self.max_bytes, Priority::Normal);
        Ok(self.runtime.block_on(fetched)?.0)
    }
}
