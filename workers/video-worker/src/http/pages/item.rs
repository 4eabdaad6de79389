//! The page of one video: tasks, answers, stage times and the contact sheet.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use flamingo::Task;
use flamingo::video::VideoInfo;
use inference::report::{AnswerReport, Timing};
use jobs::ledger::{ItemRecord, Ledger};
use jobs::{ItemId, JobId};
use maud::{Markup, html};
use tokio::time::timeout;

use super::format::{bytes, clock, number, sampling, task};
use super::layout::{code, text, time};
use super::reports;
use super::{PageError, Pages, item_path, job_path, layout, render};
use crate::api::{Item, ItemReport, LeftOut, sheet_key};

/// Largest contact sheet in bytes.
const LARGEST_SHEET: u64 = 1 << 20;
/// Answers per page.
const ANSWERS: usize = 500;
/// Time limit for reading the contact sheet.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An item of the ledger, with its message if this build can read it.
struct ItemView {
    job: JobId,
    item: ItemId,
    row: ItemRecord,
    message: Result<Item, String>,
}

impl ItemView {
    async fn find(ledger: &Ledger, Path((job, item)): Path<(JobId, ItemId)>) -> Result<Self, PageError> {
        let Some(row) = ledger.item(&job, &item).await? else {
            return Err(PageError::NotFound(format!("{job}/{item}: no such video in the ledger.")));
        };
        let text = ledger.item_content(&job, &item).await?;
        let message = Item::parse(&text).map_err(|stopped| stopped.to_string());
        Ok(Self { job, item, row, message })
    }

    /// Returns the key of the contact sheet.
    fn sheet_key(&self) -> Option<String> {
        self.message.as_ref().ok().map(|message| sheet_key(&message.output, &self.job, &self.item))
    }
}

pub async fn page(
    State(pages): State<Arc<Pages>>,
    ids: Result<Path<(JobId, ItemId)>, PathRejection>,
) -> Result<Response, PageError> {
    let backends = pages.backends()?;
    let view = ItemView::find(&backends.ledger, ids?).await?;
    let has_ended = view.row.state.is_end();
    let ended = view.message.as_ref().ok().filter(|_| has_ended).cloned();
    let report = reports::read(&backends.store, vec![ended]).await.pop().unwrap_or(Ok(None));
    let has_sheet = match view.sheet_key() {
        Some(key) => {
            timeout(TIMEOUT, backends.store.head(&key)).await.is_ok_and(|found| matches!(found, Ok(Some(_))))
        }
        None => false,
    };
    let body = html! {
        (layout::crumbs(&[("Jobs", "/".into()), (view.job.as_str(), job_path(&view.job))], view.item.as_str()))
        div.head { h1 { (view.item) } (layout::badge(view.row.state.as_str())) }
        @if let Some(why) = &view.row.failure {
            p.notice.failed { code { (why.code) } " " (why.message) }
        }
        @match &report {
            Err(why) => { p.notice { "The report cannot be shown: " (why) } }
            Ok(None) if has_ended => { p.notice { "The store has no report of this video." } }
            _ => {}
        }
        @if has_sheet { (contact_sheet(&view)) }
        (answers_section(&view, report.as_ref().ok().and_then(Option::as_ref)))
        div.columns {
            (details(&view, report.as_ref().ok().and_then(Option::as_ref)))
            @if let Ok(Some(report)) = &report { (stages(report)) }
        }
    };
    Ok(render(view.item.as_str(), !has_ended, body))
}

/// Serves the contact sheet from the store.
pub async fn sheet(
    State(pages): State<Arc<Pages>>,
    ids: Result<Path<(JobId, ItemId)>, PathRejection>,
) -> Result<Response, PageError> {
    let backends = pages.backends()?;
    let view = ItemView::find(&backends.ledger, ids?).await?;
    let none = || PageError::NotFound("There is no contact sheet of this video.".into());
    let key = view.sheet_key().ok_or_else(none)?;
    let found = timeout(TIMEOUT, backends.store.get(&key, LARGEST_SHEET)).await;
    let found = found.map_err(|_| PageError::Unavailable("The store does not respond.".into()))?;
    let bytes = found.map_err(|e| PageError::Unavailable(e.to_string()))?.ok_or_else(none)?;
    Ok(([(CONTENT_TYPE, "image/jpeg")], bytes).into_response())
}

fn contact_sheet(view: &ItemView) -> Markup {
    html! {
        figure.card {
            img src={ (item_path(&view.job, &view.item)) "/sheet.jpg" } alt="Encoded frames with their times";
        }
    }
}

/// Renders the answers window by window; each window answers the tasks in their order.
fn answers_section(view: &ItemView, report: Option<&ItemReport>) -> Markup {
    let tasks = view.message.as_ref().map_or(&[][..], |message| &message.spec.tasks);
    let all = report.map(|report| report.body.answers()).unwrap_or_default();
    if all.is_empty() {
        return html! {
            section.card { h2 { "Tasks" } ul.tasks { @for task in tasks { (task_line(task)) } } }
        };
    }
    let shown = &all[..all.len().min(ANSWERS)];
    html! {
        section {
            h2 { "Answers" }
            @for window in shown.chunks(tasks.len().max(1)) { (one_window(window, tasks)) }
            @if all.len() > shown.len() {
                p.muted { "and " (number((all.len() - shown.len()) as u64, "more answer")) " in the report" }
            }
        }
    }
}

fn one_window(answers: &[AnswerReport], tasks: &[Task]) -> Markup {
    html! {
        div.card.answered {
            @if let Some(first) = answers.first() {
                p.window {
                    (clock(first.start)) "\u{2013}" (clock(first.end))
                    span.muted { (number(first.frames() as u64, "frame")) }
                }
            }
            dl {
                @for (n, answer) in answers.iter().enumerate() {
                    @if let Some((kind, words)) = tasks.get(n).map(task) {
                        dt { span.sort { (kind) } @if let Some(words) = words { span.said { (words) } } }
                    }
                    dd { @if answer.text.is_empty() { span.muted { "(nothing)" } } @else { (answer.text) } }
                    @if let Some(answer) = &answer.from_captions { dd { span.muted { "from captions: " } (answer.text) } }
                }
            }
        }
    }
}

fn task_line(asked: &Task) -> Markup {
    let (kind, words) = task(asked);
    html! { li { span.sort { (kind) } @if let Some(words) = words { span.said { (words) } } } }
}

fn details(view: &ItemView, report: Option<&ItemReport>) -> Markup {
    let message = view.message.as_ref().ok();
    let body = report.map(|report| &report.body);
    let few_shot = report.and_then(|report| report.few_shot.as_ref());
    let hashes: Vec<_> = body.iter().flat_map(|body| &body.model.sha256).collect();
    html! {
        section.card {
            h2 { "Video" }
            (layout::facts(&[
                ("From", message.and_then(|message| code(&message.video))),
                ("Name", message.and_then(|message| text(message.custom_id.as_ref()?))),
                ("Size", report.and_then(|report| text(bytes(report.input.bytes?)))),
                ("Format", body.and_then(|body| text(video_format(body.videos.first()?)))),
                ("Frames", message.and_then(|message| text(sampling(&message.spec.sampling)))),
                ("Attempts", text(view.row.attempts())),
                ("Worker", view.row.worker.as_ref().or(report.map(|report| &report.worker)).and_then(code)),
                ("Claimed", view.row.claimed_at.map(time)),
                ("Ended", view.row.ended_at.map(time)),
                ("Model", body.and_then(|body| text(&body.model.name))),
                ("Support set", few_shot.and_then(|few_shot| code(&few_shot.support))),
            ]))
            @if !hashes.is_empty() {
                details {
                    summary { "Hashes of the model" }
                    dl.facts { @for (role, hash) in &hashes { div { dt { (role) } dd { code { (hash) } } } } }
                }
            }
            @for warning in body.iter().flat_map(|body| &body.warnings) {
                p.notice { (warning) }
            }
            @for LeftOut { media, message, .. } in few_shot.iter().flat_map(|few_shot| &few_shot.left_out) {
                p.notice { "The example " code { (media) } " is left out: " (message) }
            }
        }
    }
}

/// `mov, h264, 640 x 360, 0:10, 25 frames per second`
fn video_format(video: &VideoInfo) -> String {
    let VideoInfo { container, codec, width, height, duration, average_fps, .. } = video;
    let motion = if *duration > 0.0 {
        format!(", {}, {average_fps:.4} frames per second", clock(*duration))
    } else {
        String::new()
    };
    format!("{container}, {codec}, {width} \u{d7} {height}{motion}")
}

/// Renders the seconds of each stage as bars.
fn stages(report: &ItemReport) -> Markup {
    let Timing { decode_s, encode_s, answer_s, total_s } = report.body.timing;
    let stages =
        [("fetch", report.fetch_s), ("decode", decode_s), ("encode", encode_s), ("answer", answer_s)];
    let longest = stages.iter().map(|(_, s)| *s).fold(f64::MIN_POSITIVE, f64::max);
    html! {
        section.card {
            h2 { "Time" }
            dl.stages {
                @for (name, seconds) in &stages {
                    dt { (name) }
                    dd {
                        span.track { span style={ "width:" (format!("{:.1}", seconds / longest * 100.0)) "%" } {} }
                        (format!("{seconds:.2} s"))
                    }
                }
            }
            p.muted { "From opening the file to the last answer: " (format!("{total_s:.2} s")) "." }
            @if report.body.cache_hit {
                p.notice { "Answered from cached visual tokens; the video was not decoded." }
            }
        }
    }
}
