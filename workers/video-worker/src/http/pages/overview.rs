//! The overview page: state of this worker, and the newest jobs.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jobs::JobId;
use jobs::ledger::{JobRecord, LedgerError};
use jobs::queue::Lane;
use jobs::state::Counts;
use jobs::time::{Millis, timestamp};
use maud::{Markup, html};

use super::format::{about_left, ago, number, span, tasks};
use super::{Pages, job_path, layout, render};
use crate::api::JobMessage;
use crate::jobs::progress::JobProgress;

/// Jobs per page.
const JOBS: u32 = 50;

pub async fn page(State(pages): State<Arc<Pages>>) -> Response {
    let (missing, waiting, newest) =
        tokio::join!(pages.status.missing(), pages.status.waiting(), newest(&pages));
    let is_open = match &newest {
        Ok(Some(Newest { jobs, .. })) => jobs.iter().any(|job| !job.state.is_end()),
        // Refresh until jobs can be shown.
        Ok(None) | Err(_) => true,
    };
    let body = html! {
        (worker(&pages, &missing, &waiting))
        section {
            h2 { "Jobs" }
            @match &newest {
                Ok(Some(newest)) => { (table(newest)) }
                Ok(None) => { p.notice { "The worker is starting." } }
                Err(error) => { p.notice.failed { (error.to_string()) } }
            }
        }
    };
    let status = if newest.is_err() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, render("Jobs", is_open, body)).into_response()
}

/// The newest jobs, with the counts of their items, at the time `now`.
struct Newest {
    jobs: Vec<JobRecord>,
    counts: HashMap<JobId, Counts>,
    now: Millis,
}

/// Reads the newest jobs; `None` while the worker starts.
async fn newest(pages: &Pages) -> Result<Option<Newest>, LedgerError> {
    let Some(backends) = pages.status.backends() else { return Ok(None) };
    let jobs = backends.ledger.jobs(None, JOBS).await?;
    let ids: Vec<_> = jobs.iter().map(|job| job.id.clone()).collect();
    let counts = backends.ledger.counts_of(&ids).await?;
    Ok(Some(Newest { jobs, counts, now: backends.ledger.now().await? }))
}

fn worker(pages: &Pages, missing: &[String], waiting: &[(Lane, Option<u64>)]) -> Markup {
    let status = &pages.status;
    let model = status.model().map(|model| {
        html! {
            (model.name)
            @if !model.gates_open { span.muted { " (untrained: gates closed, answers ignore the video)" } }
        }
    });
    let decoders = status.confinement().map(|confinement| html! { (confinement.to_string()) });
    html! {
        section.card.worker {
            div.head {
                h1 { "Worker " code { (pages.worker) } }
                @if missing.is_empty() { (layout::badge("ready")) } @else { (layout::badge("not_ready")) }
            }
            @if !missing.is_empty() {
                ul.notice.failed { @for line in missing { li { (line) } } }
            }
            div.figures {
                (figure(Some(status.in_flight().max(0) as u64), "in flight here"))
                @for (lane, waiting) in waiting {
                    (figure(*waiting, waiting_in(*lane)))
                }
            }
            (layout::facts(&[
                ("Model", model.or_else(|| layout::text("loading"))),
                ("Decoder confinement", decoders),
                ("Version", layout::text(env!("CARGO_PKG_VERSION"))),
            ]))
        }
    }
}

fn waiting_in(lane: Lane) -> &'static str {
    match lane {
        Lane::Jobs => "job messages waiting",
        Lane::Items => "videos waiting",
        Lane::Urgent => "urgent videos waiting",
    }
}

fn figure(value: Option<u64>, name: &str) -> Markup {
    html! {
        div.figure {
            b { @if let Some(value) = value { (value) } @else { "?" } }
            span { (name) }
        }
    }
}

fn table(Newest { jobs, counts, now }: &Newest) -> Markup {
    if jobs.is_empty() {
        return html! {
            p.empty { "No jobs yet. " code { "flamingo submit" } " adds one." }
        };
    }
    html! {
        div.scroll {
            table.jobs {
                thead { tr { th { "Job" } th { "State" } th.progress { "Progress" } th { "Created" } th { "Took" } } }
                tbody {
                    @for job in jobs {
                        (row(job, &counts.get(&job.id).copied().unwrap_or_default(), *now))
                    }
                }
            }
        }
        @if jobs.len() == JOBS as usize {
            p.muted { "These are the newest " (JOBS) ". " code { "flamingo jobs list" } " has them all." }
        }
    }
}

fn row(job: &JobRecord, counts: &Counts, now: Millis) -> Markup {
    let tasks = JobMessage::from_ledger(&job.message).map(|job| tasks(&job)).unwrap_or_default();
    let ended = job.entered_at(job.state).filter(|_| job.state.is_end());
    html! {
        tr {
            td.name {
                a href=(job_path(&job.id)) { (job.id) }
                div.asked title=(tasks) { (tasks) }
            }
            td { (layout::badge(job.state.as_str())) }
            td.progress {
                (layout::bar(counts))
                div.muted { (progress(job, counts, now)) }
            }
            td.when title=(timestamp(job.accepted_at())) { (ago(job.accepted_at(), now)) }
            td.when { (span(ended.unwrap_or(now) - job.accepted_at())) }
        }
    }
}

/// `2 of 3 succeeded, 1 failed`
fn progress(job: &JobRecord, counts: &Counts, now: Millis) -> String {
    if counts.total == 0 {
        return match &job.failure {
            Some(why) => why.code.clone(),
            None if job.state.is_end() => "no videos".into(),
            None => "videos are being listed".into(),
        };
    }
    let more = if job.is_listed() || job.state.is_end() { "" } else { " or more" };
    let mut text = format!("{} of {}{more}", counts.succeeded, number(counts.total, "video"));
    for (n, word) in [(counts.failed, "failed"), (counts.cancelled, "cancelled")] {
        if n > 0 {
            text.push_str(&format!(", {n} {word}"));
        }
    }
    if let Some(left) = JobProgress::of_job(job, counts, &[], now).and_then(|p| p.left_s) {
        text.push_str(&format!(", {}", about_left(left)));
    }
    text
}
