//! One video: what was asked and answered, how long each stage took, and the frames that were looked at.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use flamingo::Task;
use flamingo::family::ModelInfo;
use jobs::ledger::{ItemRecord, Ledger};
use jobs::{ItemId, JobId};
use maud::{Markup, html};
use serde_json::Value;
use tokio::time::timeout;

use super::look::{code, text, time};
use super::reports::{self, Answer, answers};
use super::words::{bytes, clock, number, sampling, task};
use super::{Pages, Sorry, item_id, item_path, job_id, job_path, look, shown};
use crate::batch::{report_key, sheet_key};
use crate::message::ItemMessage;

/// Bytes of a sheet.
const LARGEST_SHEET: u64 = 1 << 20;
/// Answers on a page.
const ANSWERS: usize = 500;
/// How long the store has to give a sheet.
const PATIENCE: Duration = Duration::from_secs(5);

/// An item of the ledger, and its message if this build can read it.
struct Known {
    job: JobId,
    item: ItemId,
    row: ItemRecord,
    asked: Result<ItemMessage, String>,
}

impl Known {
    async fn find(ledger: &Ledger, job: String, item: String) -> Result<Self, Sorry> {
        let (job, item) = (job_id(job)?, item_id(item)?);
        let Some(row) = ledger.item(&job, &item).await? else {
            return Err(Sorry::NotFound(format!("{job}/{item}: no such video in the ledger.")));
        };
        let message = ledger.item_message(&job, &item).await?;
        let asked = serde_json::from_str(&message).map_err(|e| e.to_string());
        Ok(Self { job, item, row, asked })
    }

    /// What `key` makes of its place.
    fn key(&self, key: impl Fn(&str, &JobId, &ItemId) -> String) -> Option<String> {
        self.asked.as_ref().ok().map(|asked| key(&asked.output, &self.job, &self.item))
    }
}

pub async fn page(
    State(pages): State<Arc<Pages>>,
    Path((job, item)): Path<(String, String)>,
) -> Result<Response, Sorry> {
    let backends = pages.backends()?;
    let known = Known::find(&backends.ledger, job, item).await?;
    let has_ended = known.row.state.is_end();
    let key = known.key(report_key).filter(|_| has_ended);
    let report = reports::read(&backends.store, vec![key]).await.pop().unwrap_or(Ok(None));
    let has_sheet = match known.key(sheet_key) {
        Some(key) => {
            timeout(PATIENCE, backends.store.head(&key)).await.is_ok_and(|found| matches!(found, Ok(Some(_))))
        }
        None => false,
    };
    let body = html! {
        (look::crumbs(&[("Jobs", "/".into()), (known.job.as_str(), job_path(&known.job))], known.item.as_str()))
        div.head { h1 { (known.item) } (look::badge(known.row.state.as_str())) }
        @if let Some(why) = &known.row.failure {
            p.notice.failed { code { (why.code) } " " (why.message) }
        }
        @match &report {
            Err(why) => { p.notice { "The report cannot be shown: " (why) } }
            Ok(None) if has_ended => { p.notice { "There is no report of this video in the store." } }
            _ => {}
        }
        @if has_sheet { (picture(&known)) }
        (answered(&known, report.as_ref().ok().and_then(Option::as_ref)))
        div.columns {
            (details(&known, report.as_ref().ok().and_then(Option::as_ref)))
            @if let Ok(Some(report)) = &report { (stages(report)) }
        }
    };
    Ok(shown(known.item.as_str(), !has_ended, body))
}

/// The picture of the frames, from the store.
pub async fn sheet(
    State(pages): State<Arc<Pages>>,
    Path((job, item)): Path<(String, String)>,
) -> Result<Response, Sorry> {
    let backends = pages.backends()?;
    let known = Known::find(&backends.ledger, job, item).await?;
    let none = || Sorry::NotFound("There is no sheet of this video.".into());
    let key = known.key(sheet_key).ok_or_else(none)?;
    let found = timeout(PATIENCE, backends.store.get(&key, LARGEST_SHEET)).await;
    let found = found.map_err(|_| Sorry::Away("The store does not answer.".into()))?;
    let bytes = found.map_err(|e| Sorry::Away(e.to_string()))?.ok_or_else(none)?;
    Ok(([(CONTENT_TYPE, "image/jpeg")], bytes).into_response())
}

fn picture(known: &Known) -> Markup {
    html! {
        figure.card {
            img src={ (item_path(&known.job, &known.item)) "/sheet.jpg" } alt="Frames that were looked at, with their times";
        }
    }
}

/// Window by window: the tasks were asked of each in their order.
fn answered(known: &Known, report: Option<&Value>) -> Markup {
    let tasks = known.asked.as_ref().map_or(&[][..], |asked| &asked.tasks);
    let all = report.map(answers).unwrap_or_default();
    if all.is_empty() {
        return html! {
            section.card { h2 { "What is asked" } ul.tasks { @for task in tasks { (question(task)) } } }
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

fn one_window(answers: &[Answer], tasks: &[Task]) -> Markup {
    html! {
        div.card.answered {
            @if let Some(first) = answers.first() {
                p.window {
                    (clock(first.start)) "\u{2013}" (clock(first.end))
                    span.muted { (number(first.frames as u64, "frame")) }
                }
            }
            dl {
                @for (n, answer) in answers.iter().enumerate() {
                    @if let Some((sort, words)) = tasks.get(n).map(task) {
                        dt { span.sort { (sort) } @if let Some(words) = words { span.said { (words) } } }
                    }
                    dd { @if answer.text.is_empty() { span.muted { "(nothing)" } } @else { (answer.text) } }
                }
            }
        }
    }
}

fn question(asked: &Task) -> Markup {
    let (sort, words) = task(asked);
    html! { li { span.sort { (sort) } @if let Some(words) = words { span.said { (words) } } } }
}

fn details(known: &Known, report: Option<&Value>) -> Markup {
    let nothing = Value::Null;
    let report = report.unwrap_or(&nothing);
    let asked = known.asked.as_ref().ok();
    let said = |value: &Value| value.as_str().map(str::to_owned);
    let model: Option<ModelInfo> = serde_json::from_value(report["model"].clone()).ok();
    let sha256 = model.iter().flat_map(|model| &model.sha256);
    let hashes: Vec<(&str, &str)> = sha256.map(|(role, hash)| (role.as_str(), hash.as_str())).collect();
    html! {
        section.card {
            h2 { "Video" }
            (look::facts(&[
                ("From", asked.and_then(|asked| code(&asked.video))),
                ("Called", asked.and_then(|asked| text(asked.custom_id.as_ref()?))),
                ("Size", report["input"]["bytes"].as_u64().and_then(|n| text(bytes(n)))),
                ("Is", film(&report["videos"][0]).and_then(text)),
                ("Frames", asked.and_then(|asked| text(sampling(&asked.sampling)))),
                ("Attempt", text(known.row.attempt - known.row.released)),
                ("Worker", known.row.worker.clone().or_else(|| said(&report["worker"])).and_then(code)),
                ("Claimed", known.row.claimed_at.map(time)),
                ("Ended", known.row.ended_at.map(time)),
                ("Model", said(&report["model"]["name"]).and_then(text)),
            ]))
            @if !hashes.is_empty() {
                details {
                    summary { "Hashes of the model" }
                    dl.facts { @for (role, hash) in &hashes { div { dt { (role) } dd { code { (hash) } } } } }
                }
            }
            @for warning in report["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                p.notice { (warning) }
            }
        }
    }
}

/// `mov, h264, 640 x 360, 0:10, 25 frames per second`
fn film(video: &Value) -> Option<String> {
    let (container, codec) = (video["container"].as_str()?, video["codec"].as_str()?);
    let (width, height) = (video["width"].as_u64()?, video["height"].as_u64()?);
    let (duration, fps) = (video["duration"].as_f64()?, video["average_fps"].as_f64()?);
    let moving = if duration > 0.0 {
        format!(", {}, {fps:.4} frames per second", clock(duration))
    } else {
        String::new()
    };
    Some(format!("{container}, {codec}, {width} \u{d7} {height}{moving}"))
}

/// Seconds of each stage, side by side.
fn stages(report: &Value) -> Markup {
    let timing = &report["timing"];
    let stages = [
        ("fetch", &report["fetch_s"]),
        ("decode", &timing["decode_s"]),
        ("encode", &timing["encode_s"]),
        ("answer", &timing["answer_s"]),
    ]
    .map(|(name, value)| (name, value.as_f64().unwrap_or(0.0)));
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
            @if let Some(total) = timing["total_s"].as_f64() {
                p.muted { "From the first look at the file to the last answer: " (format!("{total:.2} s")) "." }
            }
            @if report["recalled"].as_bool() == Some(true) {
                p.notice { "This video had been looked at before, and was not decoded again." }
            }
        }
    }
}
