//! `flamingo support`: stored support sets.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use flamingo::few_shot::SupportSet;
use serde_json::json;
use video_worker::api::{SupportName, SupportRef, SupportVersion};
use video_worker::app;
use video_worker::settings::Settings;
use video_worker::support::{Added, StoredSets, StoredVersion};

use crate::args::UsageError;
use crate::few_shot::files;
use crate::few_shot::stored::{absolute, open_sets};
use crate::output::{print_line, printable};
use crate::settings::{SettingsArgs, block_on};

#[derive(Debug, Subcommand)]
pub enum Support {
    /// Store a support set, as the new current version of its name.
    Add(Add),
    /// List the stored support sets with all their versions.
    List(List),
    /// Show the examples of a support set.
    Show(Show),
    /// Remove a version, or a support set with all its versions. Jobs that still need it fail.
    Remove(Remove),
}

#[derive(Debug, Args)]
pub struct Add {
    /// Name: 1 to 64 letters, digits, `-`, `_` and `.`.
    #[arg(value_parser = parse_name)]
    name: SupportName,
    /// JSON lines (`{"media": "a.mp4", "output": "a frog"}`; media are paths from the folder of the file, or s3:// URLs), or a
    /// directory with one folder of videos and images per output.
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub struct List {
    /// Print one JSON object per version.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub struct Show {
    #[arg(value_name = "NAME[@VERSION]", value_parser = parse_reference)]
    set: SupportRef,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub struct Remove {
    #[arg(value_name = "NAME[@VERSION]", value_parser = parse_reference)]
    set: SupportRef,
    #[command(flatten)]
    settings: SettingsArgs,
}

fn parse_name(text: &str) -> Result<SupportName, String> {
    SupportName::try_from(text.to_owned()).map_err(|why| why.message)
}

fn parse_reference(text: &str) -> Result<SupportRef, String> {
    text.parse().map_err(|why: jobs::Failure| why.message)
}

impl Support {
    pub fn run(self) -> anyhow::Result<bool> {
        match self {
            Support::Add(command) => command.run(),
            Support::List(command) => command.run(),
            Support::Show(command) => command.run(),
            Support::Remove(command) => command.run(),
        }
    }
}

impl Add {
    fn run(self) -> anyhow::Result<bool> {
        let (settings, _) = self.settings.load(&[])?;
        let sets = open_sets(&settings)?;
        let found = files::read(&self.path)?;
        if let Some(folder) = found.empty.first() {
            let folder = folder.display();
            bail!(UsageError(format!(
                "{folder}: the class has no video or image: put one into the folder, or remove it"
            )));
        }
        let set = absolute(&found.set)?;
        let Added { version, is_new } = block_on(async {
            check_media(&settings, &set).await?;
            Ok(sets.add(&self.name, &set).await?)
        })?;
        print_line(&version.to_string())?;
        if !is_new {
            eprintln!("note: this version was stored before");
        }
        warn_of_local(&settings, &set);
        Ok(true)
    }
}

/// Checks that every medium exists and may be read.
async fn check_media(settings: &Settings, set: &SupportSet) -> anyhow::Result<()> {
    let inputs = app::inputs(settings)?;
    for (number, example) in (1..).zip(set.examples()) {
        let found = match inputs.locate(&example.media) {
            Ok(location) => inputs.check(&location).await,
            Err(error) => Err(error),
        };
        found.map_err(|why| UsageError(format!("example {number}: {why}")))?;
    }
    Ok(())
}

/// Notes on standard error that workers on other machines need the files of the set.
fn warn_of_local(settings: &Settings, set: &SupportSet) {
    let local = set.examples().iter().filter(|example| !example.media.starts_with("s3://")).count();
    if local > 0 && (settings.is_remote() || settings.store.url.starts_with("s3://")) {
        eprintln!(
            "note: {local} media are files: a worker on another machine needs them at the same paths; put them into S3 and name \
             them s3://bucket/key for all workers"
        );
    }
}

impl List {
    fn run(self) -> anyhow::Result<bool> {
        let (settings, _) = self.settings.load(&[])?;
        let sets = open_sets(&settings)?;
        let versions = block_on(async {
            let mut versions = Vec::new();
            for stored in sets.list().await? {
                let StoredVersion { name, version, is_current } = stored;
                let version = SupportVersion { name: Some(name), version };
                // Removed by another process since, or damaged: listed all the same.
                versions.push((sets.read(&version).await, version, is_current));
            }
            Ok(versions)
        })?;
        for (set, version, is_current) in versions {
            if self.json {
                let mut line = json!(version);
                line["current"] = json!(is_current);
                match set {
                    Ok(set) => line["examples"] = json!(set.examples().len()),
                    Err(why) => line["error"] = json!({ "code": why.code(), "message": why.to_string() }),
                }
                print_line(&line.to_string())?;
                continue;
            }
            let content = match set {
                Ok(set) => format!("{} examples, {} outputs", set.examples().len(), set.outputs().len()),
                Err(why) => printable(&why.to_string()),
            };
            let current = if is_current { ", current" } else { "" };
            print_line(&format!("{version}  {content}{current}"))?;
        }
        Ok(true)
    }
}

impl Show {
    fn run(self) -> anyhow::Result<bool> {
        let (settings, _) = self.settings.load(&[])?;
        let sets = open_sets(&settings)?;
        let (version, set) = block_on(async {
            let version = sets.resolve(&self.set).await?;
            let set = sets.read(&version).await?;
            Ok((version, set))
        })?;
        if self.json {
            let mut shown = json!(version);
            shown["examples"] = json!(set.examples());
            print_line(&format!("{shown:#}"))?;
            return Ok(true);
        }
        print_line(&version.to_string())?;
        for example in set.examples() {
            let question =
                example.question.as_ref().map(|q| format!("{} ", printable(q))).unwrap_or_default();
            print_line(&format!(
                "  {}  {question}{}",
                printable(&example.media),
                printable(&example.output)
            ))?;
        }
        Ok(true)
    }
}

impl Remove {
    fn run(self) -> anyhow::Result<bool> {
        let (settings, _) = self.settings.load(&[])?;
        let sets: StoredSets = open_sets(&settings)?;
        block_on(async { Ok(sets.remove(&self.set).await?) })?;
        Ok(true)
    }
}
