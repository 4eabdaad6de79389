//! `flamingo jobs retry`: retries the failed and cancelled items of a job, as a new job.

use anyhow::bail;
use clap::Args;
use jobs::JobId;
use video_worker::api::{Input, JobMessage};

use super::open_backends;
use crate::args::UsageError;
use crate::output::print_line;
use crate::settings::{SettingsArgs, find_job};
use crate::submit::{Submitted, submit};

#[derive(Debug, Args)]
pub struct Retry {
    /// Id of the ended job.
    #[arg(value_name = "JOB")]
    job: String,
    /// Id of the new job [default: `JOB.retry`].
    #[arg(long = "as", value_name = "ID")]
    name: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl Retry {
    pub async fn run(self) -> anyhow::Result<bool> {
        let (backends, remote) = open_backends(&self.settings).await?;
        backends.ledger.check().await?;
        let record = find_job(&backends.ledger, &self.job).await?;
        if !record.state.is_end() {
            bail!("{}: is {}: cancel it, or wait until it has ended", record.id, record.state.as_str());
        }
        if !record.is_listed() {
            bail!(
                "{}: ended before all of its inputs were listed: submit it again with another id",
                record.id
            );
        }
        let counts = backends.ledger.counts(&record.id).await?;
        if counts.failed + counts.cancelled == 0 {
            bail!("{}: nothing failed and nothing was cancelled", record.id);
        }
        let name = self.name.unwrap_or_else(|| format!("{}.retry", record.id));
        let job = JobMessage {
            job_id: Some(JobId::try_from(name).map_err(|why| UsageError(why.message))?),
            idempotency_key: None,
            input: Input::UnfinishedOf(record.id.clone()),
            not_before: None,
            deadline: None,
            ..JobMessage::from_ledger(&record.message)?
        };
        if !remote {
            let line = video_worker::api::json(&job);
            bail!(UsageError(format!(
                "queue.url is memory://, which no worker reads: put this line into a file for `flamingo run`: {line}"
            )));
        }
        match submit(&backends, &job).await? {
            Submitted::Refused(why) => Err(why.into()),
            Submitted::Job { id, new: true } => {
                print_line(id.as_str())?;
                Ok(true)
            }
            Submitted::Job { id, new: false } => {
                let state = find_job(&backends.ledger, id.as_str()).await?.state;
                bail!(
                    "{id}: exists already and is {}: retry that one, or name another id with --as",
                    state.as_str()
                )
            }
        }
    }
}
