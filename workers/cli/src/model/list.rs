//! `flamingo model list`: shows the models that are known by name.

use clap::Args;
use serde_json::{Value, json};

use crate::hub::cache::{Cache, find};
use crate::hub::catalogue::{Entry, all};
use crate::hub::name::ModelName;

#[derive(Debug, Args)]
pub struct List {
    /// Show only the models on this machine.
    #[arg(long)]
    pulled: bool,
    /// Print one JSON object per line instead of text.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl List {
    pub fn run(self) -> anyhow::Result<bool> {
        let cache = Cache::from_env().ok();
        for entry in all() {
            let directory = match (&cache, ModelName::parse(&entry.name)) {
                (Some(cache), Ok(name)) => find(cache, &name)?,
                _ => None,
            };
            if self.pulled && directory.is_none() {
                continue;
            }
            let path = directory.map(|directory| directory.path.display().to_string());
            if self.json {
                println!("{}", as_json(entry, path));
            } else {
                print_text(entry, path);
            }
        }
        Ok(true)
    }
}

fn as_json(entry: &Entry, path: Option<String>) -> Value {
    let memory = entry.parameters.map(|parameters| parameters.memory());
    let memory = memory.map(|formats| formats.map(|(name, bytes)| (name.to_owned(), Value::from(bytes))));
    json!({
        "name": entry.name,
        "family": entry.family,
        "parameters": entry.parameters.map(|parameters| parameters.total()),
        "memory_estimate_bytes": memory.map(|formats| Value::Object(formats.into_iter().collect())),
        "download_bytes": entry.download_bytes,
        "licence": entry.licence,
        "gated": entry.gated,
        "trained_on": entry.trained_on,
        "quality": entry.quality,
        "frames": entry.frames,
        "needs": entry.bases(),
        "note": entry.note,
        "path": path,
    })
}

fn print_text(entry: &Entry, path: Option<String>) {
    let parameters = match entry.parameters {
        Some(parameters) => format!("{:.1} B parameters", parameters.total() as f64 / 1e9),
        None => "number of parameters unknown".into(),
    };
    let gated = if entry.gated { ", gated" } else { "" };
    println!("{}  ({}, {parameters}{gated})", entry.name, entry.family);
    let line = |name: &str, text: &str| println!("  {name:<11} {text}");
    line("licence", &entry.licence);
    line("trained on", &entry.trained_on);
    line("quality", &entry.quality);
    line("frames", &entry.frames);
    let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    if let Some(parameters) = entry.parameters {
        let formats = parameters.memory().map(|(name, bytes)| format!("{name} {}", gigabytes(bytes)));
        line("memory", &format!("{} (weights alone, estimated)", formats.join(", ")));
    }
    line("download", &entry.download_bytes.map_or("size unknown".into(), gigabytes));
    let bases = entry.bases();
    if !bases.is_empty() {
        line("needs", &bases.join(", "));
    }
    if let Some(note) = &entry.note {
        line("note", note);
    }
    line("pulled", path.as_deref().unwrap_or("no"));
}
