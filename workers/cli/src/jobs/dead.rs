//! `flamingo jobs dead`: lists, redrives and drops dead letters.

use anyhow::bail;
use clap::{Args, Subcommand};
use jobs::Failure;
use jobs::client::Redriven;
use jobs::queue::{DeadLetter, Lane, Settled};
use serde_json::{Value, json};
use video_worker::app::Backends;
use video_worker::jobs::dead_letters::{lane_name, letter_name, not_redriven};

use super::open_backends;
use crate::args::UsageError;
use crate::output::{print_line, printable};
use crate::settings::SettingsArgs;

#[derive(Debug, Subcommand)]
pub enum Dead {
    /// List dead letters with their reasons.
    List(ListDeadLetters),
    /// Send dead letters back to their queue: only those that could not be read or delivered. `jobs retry` retries failed
    /// videos.
    Redrive(SettleArgs),
    /// Delete dead letters.
    Drop(SettleArgs),
}

#[derive(Debug, Args)]
pub struct ListDeadLetters {
    /// Maximum number of dead letters.
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
    /// Print one JSON object per message.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub struct SettleArgs {
    /// Ids of the messages, as `list` shows them.
    #[arg(value_name = "MESSAGE", required_unless_present = "all")]
    messages: Vec<String>,
    /// All dead letters.
    #[arg(long, conflicts_with = "messages")]
    all: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Dead letters per request to the broker.
const PAGE_SIZE: usize = 1000;
/// Maximum number of dead letters per command: all of them are held in memory.
const MAX_LETTERS: usize = 10_000;

impl Dead {
    pub async fn run(self) -> anyhow::Result<bool> {
        match self {
            Dead::List(list) => list.run().await,
            Dead::Redrive(settle) => settle.run(true).await,
            Dead::Drop(settle) => settle.run(false).await,
        }
    }
}

async fn letters(settings: &SettingsArgs, limit: usize) -> anyhow::Result<(Backends, Vec<DeadLetter>)> {
    let (backends, remote) = open_backends(settings).await?;
    if !remote {
        bail!(UsageError(
            "queue.url is memory://, which keeps no dead letters: set the URL of the workers' queue".into()
        ));
    }
    let letters = backends.queue.dead_letters(limit).await?;
    Ok((backends, letters))
}

impl ListDeadLetters {
    async fn run(self) -> anyhow::Result<bool> {
        let (_, letters) = letters(&self.settings, self.limit).await?;
        for letter in &letters {
            if self.json {
                print_line(&letter_json(letter).to_string())?;
            } else {
                let Failure { code, message } = &letter.reason;
                print_line(&format!(
                    "{:<44} {:<6} {code}: {}",
                    letter_name(letter),
                    lane_name(letter),
                    printable(message)
                ))?;
            }
        }
        Ok(true)
    }
}

fn letter_json(letter: &DeadLetter) -> Value {
    let message = &letter.delivery.message;
    json!({
        "message": letter_name(letter),
        "lane": letter.lane.map(Lane::as_str),
        "kind": message.kind,
        "bytes": message.body.len(),
        "error": letter.reason,
    })
}

impl SettleArgs {
    async fn run(self, redrive: bool) -> anyhow::Result<bool> {
        // Take all of them before the first is sent: a message that is dead-lettered again at once would be sent for ever.
        let (backends, mut letters) = letters(&self.settings, PAGE_SIZE).await?;
        let mut found = letters.len();
        while found > 0 && letters.len() < MAX_LETTERS {
            let more = backends.queue.dead_letters(PAGE_SIZE).await?;
            found = more.len();
            letters.extend(more);
        }
        if found > 0 {
            eprintln!(
                "warning: only the oldest {} dead letters are handled; run the command again for the others",
                letters.len()
            );
        }
        let mut missing = self.messages.clone();
        let mut all_well = true;
        for letter in letters {
            let name = letter_name(&letter);
            if !self.all && !self.messages.contains(&name) {
                continue;
            }
            missing.retain(|wanted| *wanted != name);
            let settled = match redrive {
                true => redrive_letter(&backends, &name, letter).await?,
                false => drop_letter(&name, letter).await?,
            };
            all_well &= settled;
        }
        for name in &missing {
            eprintln!("error[not_found]: {name}: no such dead letter");
        }
        Ok(all_well && missing.is_empty())
    }
}

async fn redrive_letter(backends: &Backends, name: &str, letter: DeadLetter) -> anyhow::Result<bool> {
    let redriven = backends.client().redrive(letter).await?;
    if let Some(reason) = not_redriven(&redriven) {
        eprintln!("error[not_sent]: {name}: {reason}");
        return Ok(false);
    }
    if redriven == Redriven::SentAndKept {
        return Ok(still_there(name));
    }
    print_line(&format!("{name}  sent again"))?;
    Ok(true)
}

async fn drop_letter(name: &str, letter: DeadLetter) -> anyhow::Result<bool> {
    match letter.delivery.ack().await {
        Settled::Confirmed => {
            print_line(&format!("{name}  dropped"))?;
            Ok(true)
        }
        Settled::Lost => Ok(still_there(name)),
    }
}

fn still_there(name: &str) -> bool {
    eprintln!("error[not_dropped]: {name}: the connection was lost: the dead letter is still there");
    false
}
