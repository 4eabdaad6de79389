//! The page of one job: progress, request, and videos with their answers.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use jobs::ledger::{ItemRecord, JobRecord, Ledger, UnservedRoute};
use jobs::state::{Counts, ItemState, JobState};
use jobs::time::Millis;
use jobs::{ItemId, JobId};
use maud::{Markup, html};
use serde::Deserialize;

use super::format::{about_left, clock, examples, input, job_task, number, percent, sampling, span};
use super::layout::{code, text, time};
use super::reports::{self, ReadReport};
use super::{PageError, Pages, item_path, job_path, layout, render};
use crate::api::{Item, JobMessage};
use crate::jobs::progress::JobProgress;
use inference::progress::Progress;

/// Videos per page.
const ITEMS: u32 = 50;
/// Answers per video; the page of the video has all.
const ANSWERS: usize = 4;

/// Query of the page.
#[derive(Debug, Deserialize)]
pub struct Position {
    /// Last video of the page before.
    after: Option<ItemId>,
}

pub async fn page(
    State(pages): State<Arc<Pages>>,
    id: Result<Path<JobId>, PathRejection>,
    position: Result<Query<Position>, QueryRejection>,
) -> Result<Response, PageError> {
    let backends = pages.backends()?;
    let (Path(id), Query(Position { after })) = (id?, position?);
    let Some(record) = backends.ledger.job(&id).await? else {
        return Err(PageError::NotFound(format!("{id}: no such job in the ledger.")));
    };
    let counts = backends.ledger.counts(&id).await?;
    let rows = rows(&backends.ledger, &id, after.as_ref()).await?;
    let job = JobMessage::from_ledger(&record.message);
    let succeeded = |(row, content): &(ItemRecord, String)| {
        let content = Some(content).filter(|_| row.state == ItemState::Succeeded)?;
        Item::parse(content).ok()
    };
    let reports = reports::read(&backends.store, rows.iter().map(succeeded).collect()).await;
    let rows: Vec<_> = rows.into_iter().map(|(row, _)| row).collect();
    let now = backends.ledger.now().await?;
    let current = JobProgress::load(&backends.ledger, &record, &counts).await?;
    let unserved = backends.ledger.unserved_routes(&id, now).await?;
    let body = html! {
        (layout::crumbs(&[("Jobs", "/".into())], id.as_str()))
        div.head { h1 { (id) } (layout::badge(record.state.as_str())) }
        @if let Some(why) = &record.failure {
            p.notice.failed { code { (why.code) } " " (why.message) }
        }
        @for UnservedRoute { route, items } in &unserved {
            p.notice { "No worker has the model " code { (route.as_str()) } ": " (number(*items, "video")) " waiting." }
        }
        (progress(&record, &counts, current, now))
        div.columns {
            (request(&record, job.as_ref().map_err(|why| why.message.as_str())))
            (states(&record, now))
        }
        section {
            h2 { "Videos" }
            (table(&id, &rows, &reports, after.is_some()))
        }
    };
    Ok(render(id.as_str(), !record.state.is_end(), body))
}

/// Reads a page of items with their contents; fails if `after` is not an item of the job.
async fn rows(
    ledger: &Ledger,
    job: &JobId,
    after: Option<&ItemId>,
) -> Result<Vec<(ItemRecord, String)>, PageError> {
    let Some(after) = after else { return Ok(ledger.items_with_content(job, None, ITEMS).await?) };
    let Some(last) = ledger.item(job, after).await? else {
        return Err(PageError::NotFound(format!("{job}/{after}: no such video in the ledger.")));
    };
    Ok(ledger.items_with_content(job, Some((last.position, after)), ITEMS).await?)
}

fn progress(record: &JobRecord, counts: &Counts, current: Option<JobProgress>, now: Millis) -> Markup {
    let began = record.accepted_at();
    let ended = record.entered_at(record.state).filter(|_| record.state.is_end());
    let parts = [
        ("succeeded", counts.succeeded),
        ("failed", counts.failed),
        ("cancelled", counts.cancelled),
        ("running", counts.running),
        ("queued", counts.queued),
    ];
    html! {
        section.card {
            div.head {
                p.percent { b { (current.map_or(percent(counts), |p| p.percent as u64)) " %" } " of " (number(counts.total, "video")) }
                p.muted {
                    @if let Some(left) = current.and_then(|p| p.left_s) { (about_left(left)) }
                    @else if let Some(ended) = ended { "took " (span(ended - began)) }
                    @else if !record.is_listed() { "videos are being listed" }
                    @else { "for " (span(now - began)) }
                }
            }
            (layout::bar(counts))
            ul.legend {
                @for (name, n) in parts.iter().filter(|(_, n)| *n > 0) {
                    li { span.dot.(name) {} (n) " " (name) }
                }
            }
        }
    }
}

fn request(record: &JobRecord, job: Result<&JobMessage, &str>) -> Markup {
    html! {
        section.card {
            h2 { "Request" }
            @match job {
                Err(why) => { p.notice { "This build cannot read the job: " (why) } }
                Ok(job) => {
                    ul.tasks {
                        @for (kind, words) in job.spec.tasks.iter().map(job_task) {
                            li { span.sort { (kind) } @if let Some(words) = words { span.said { (words) } } }
                        }
                    }
                    (layout::facts(&[
                        ("Videos", text(input(&job.input))),
                        ("Frames", text(sampling(&job.spec.sampling))),
                        ("Windows", job.spec.window_length().and_then(|s| text(format!("of {s} s")))),
                        ("Examples", job.few_shot.as_ref().and_then(|few_shot| text(examples(few_shot)))),
                        ("Model", job.model.as_ref().and_then(text)),
                        ("Not before", record.not_before.map(time)),
                        ("Deadline", record.deadline.map(time)),
                        ("Key", job.idempotency_key.as_ref().and_then(code)),
                    ]))
                    @if !job.metadata.is_empty() {
                        dl.facts {
                            @for (name, value) in &job.metadata { div { dt { (name) } dd { (value) } } }
                        }
                    }
                }
            }
        }
    }
}

/// Renders each state with its time and duration.
fn states(record: &JobRecord, now: Millis) -> Markup {
    let mut entered: Vec<(JobState, Millis)> =
        JobState::ALL.into_iter().filter_map(|state| Some((state, record.entered_at(state)?))).collect();
    entered.sort_by_key(|(_, at)| *at);
    let until = |n: usize| entered.get(n + 1).map_or(now, |(_, at)| *at);
    html! {
        section.card {
            h2 { "States" }
            ol.states {
                @for (n, (state, at)) in entered.iter().enumerate() {
                    li {
                        span.dot.(state.as_str()) {}
                        b { (super::format::state_words(state.as_str())) }
                        (time(*at))
                        span.muted { @if !state.is_end() { (span(until(n) - at)) } }
                    }
                }
            }
            @if let Some(worker) = &record.worker {
                p.muted { "Claimed by " code { (worker) } }
            }
        }
    }
}

fn table(job: &JobId, rows: &[ItemRecord], reports: &[ReadReport], is_later: bool) -> Markup {
    if rows.is_empty() {
        return html! {
            p.empty { @if is_later { "No more videos." } @else { "No videos yet." } }
            @if is_later { nav.pages { a href=(job_path(job)) { "First videos" } } }
        };
    }
    let next = rows.last().filter(|_| rows.len() == ITEMS as usize);
    html! {
        div.scroll {
            table.items {
                thead { tr { th { "Video" } th { "State" } th.number { "Attempt" } th.answers { "Answers" } } }
                tbody {
                    @for (row, report) in rows.iter().zip(reports) {
                        tr {
                            td.name { a href=(item_path(job, &row.id)) { (row.id) } }
                            td { (layout::badge(row.state.as_str())) }
                            td.number { (row.attempts()) }
                            td.answers { (cell(row, report)) }
                        }
                    }
                }
            }
        }
        @if is_later || next.is_some() {
            nav.pages {
                @if is_later { a href=(job_path(job)) { "First videos" } }
                @if let Some(last) = next {
                    a href={ (job_path(job)) "?after=" (last.id) } { "Next " (ITEMS) }
                }
            }
        }
    }
}

fn cell(row: &ItemRecord, report: &ReadReport) -> Markup {
    if let Some(why) = &row.failure {
        return html! { p.why { code { (why.code) } " " (why.message) } };
    }
    match report {
        Err(why) => html! { p.why { "The report cannot be shown: " (why) } },
        Ok(None) if row.state == ItemState::Succeeded => {
            html! { p.why { "The report is not in the store." } }
        }
        Ok(None) => match row.progress.as_deref().and_then(Progress::parse) {
            Some(Progress { percent, frames, tokens }) => html! {
                p.muted { (percent) " %, " (number(frames, "frame")) ", " (number(tokens, "token")) }
            },
            None => html! {},
        },
        Ok(Some(report)) => {
            let all = report.body.answers();
            let windows = all.iter().any(|answer| answer.start > 0.0);
            html! {
                @for answer in all.iter().take(ANSWERS) {
                    p {
                        @if windows { span.window { (clock(answer.start)) "\u{2013}" (clock(answer.end)) } }
                        @if answer.text.is_empty() { span.muted { "(nothing)" } } @else { (answer.text) }
                    }
                }
                @if all.len() > ANSWERS { p.muted { "and " (all.len() - ANSWERS) " more" } }
            }
        }
    }
}
