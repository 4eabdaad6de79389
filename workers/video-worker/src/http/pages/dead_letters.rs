//! The page of dead letters, with the only form: redelivery of one.

use std::sync::Arc;
use std::time::Duration;

use axum::Form;
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};
use jobs::client::Redriven;
use jobs::queue::DeadLetter;
use maud::{Markup, html};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::format::number;
use super::{PageError, Pages, item_path, render};
use crate::jobs::dead_letters::{lane_name, letter_name, not_redriven};

/// Letters per page.
const PAGE_SIZE: usize = 50;
/// Letters among which one is searched: an earlier page view may have changed their order.
const SEARCH_LIMIT: usize = 4 * PAGE_SIZE;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the broker to return letters that were only read.
const RETURN_DELAY: Duration = Duration::from_millis(150);
/// Attempts to find a letter.
const FIND_ATTEMPTS: u32 = 5;

pub async fn page(State(pages): State<Arc<Pages>>) -> Result<Response, PageError> {
    let queue = &pages.backends()?.queue;
    let guard = pages.letters.lock().await;
    let found = match timeout(TIMEOUT, queue.dead_letters(PAGE_SIZE)).await {
        Ok(found) => found.map_err(|e| e.to_string()),
        Err(_) => Err("the queue does not respond".into()),
    };
    let body = html! {
        h1 { "Dead letters" }
        p.muted { "Messages that cannot be delivered; the oldest " (PAGE_SIZE) "." }
        @match &found {
            Err(why) => { (unreadable(why)) }
            Ok(letters) if letters.is_empty() => { p.empty { "None." } }
            Ok(letters) => { (table(letters, !pages.token.is_empty())) }
        }
    };
    if found.is_ok_and(|letters| !letters.is_empty()) {
        sleep(RETURN_DELAY).await;
    }
    drop(guard);
    // Without any referrer a browser would not send the origin of the form either.
    Ok(([(REFERRER_POLICY, "same-origin")], render("Dead letters", false, body)).into_response())
}

fn unreadable(why: &str) -> Markup {
    html! {
        div.notice {
            @if why.contains("ACCESS_REFUSED") {
                p { "The broker does not let the user of this worker read dead letters." }
            } @else {
                p { "The dead letters cannot be read now." }
            }
            p { code { "flamingo jobs dead list" } " lists them, with the broker's administrator in " code { "FLAMINGO__QUEUE__URL" } "." }
            p.muted { (why) }
        }
    }
}

fn table(letters: &[DeadLetter], may_send: bool) -> Markup {
    let rows = html! {
        div.scroll {
            table.dead {
                thead { tr { th { "Message" } th { "Lane" } th.answers { "Why" } @if may_send { th {} } } }
                tbody { @for letter in letters { (row(letter, may_send)) } }
            }
        }
    };
    if !may_send {
        return html! {
            (rows)
            p.muted { code { "flamingo jobs dead redrive" } " sends a letter again; so does this page if " code { "status.token" } " is set." }
        };
    }
    html! {
        form method="post" action="/dead/redrive" {
            (rows)
            p.token {
                label for="token" { "Token" }
                input #token name="token" type="password" required autocomplete="current-password";
                span.muted { code { "status.token" } " in the settings; it is required to send a message again." }
            }
        }
    }
}

fn row(letter: &DeadLetter, may_send: bool) -> Markup {
    let name = letter_name(letter);
    html! {
        tr {
            td.name {
                @if let Some((job, item)) = letter.item() { a href=(item_path(&job, &item)) { (name) } }
                @else { (name) }
                div.muted { (number(letter.delivery.message.body.len() as u64, "byte")) }
            }
            td { (lane_name(letter)) }
            td.answers { p.why { code { (letter.reason.code) } " " (letter.reason.message) } }
            @if may_send { td { button name="letter" value=(name) { "Send again" } } }
        }
    }
}

/// Form of the page.
#[derive(Deserialize)]
pub struct Redrive {
    /// Name of the letter.
    letter: String,
    #[serde(default)]
    token: String,
}

pub async fn redrive(
    State(pages): State<Arc<Pages>>,
    headers: HeaderMap,
    form: Result<Form<Redrive>, FormRejection>,
) -> Result<Response, PageError> {
    let refused = |why: &str| {
        tracing::warn!(why, "refused to send a dead letter again");
        Err(PageError::Forbidden(why.into()))
    };
    if !is_from_here(&headers) {
        return refused("This form comes from another site.");
    }
    if pages.token.is_empty() {
        return refused("Sending dead letters from here is disabled: status.token is empty.");
    }
    let Form(Redrive { letter: wanted, token }) = form?;
    if !pages.token.is(&token) {
        return refused("The token is wrong.");
    }
    let backends = pages.backends()?;
    let _guard = pages.letters.lock().await;
    let letter = find(&pages, &wanted).await?;
    let redriven = backends.client().redrive(letter).await;
    let redriven = redriven.map_err(|e| PageError::Unavailable(e.to_string()))?;
    if let Some(why) = not_redriven(&redriven) {
        return Err(PageError::Conflict(format!("{wanted}: {why}")));
    }
    tracing::info!(letter = wanted, "a dead letter was sent again");
    let body = html! {
        h1 { "Sent again" }
        p.notice.succeeded { code { (wanted) } " was sent again." }
        @if redriven == Redriven::SentAndKept { p.notice { "The connection was lost: the message is still a dead letter too." } }
        p { a href="/dead" { "Dead letters" } }
    };
    Ok(render("Sent again", false, body))
}

/// Finds a letter by name; the others return to the queue on drop.
async fn find(pages: &Pages, wanted: &str) -> Result<DeadLetter, PageError> {
    let queue = &pages.backends()?.queue;
    for _ in 0..FIND_ATTEMPTS {
        let letters = timeout(TIMEOUT, queue.dead_letters(SEARCH_LIMIT)).await;
        let letters = letters.map_err(|_| PageError::Unavailable("The queue does not respond.".into()))?;
        let letters = letters.map_err(|e| PageError::Unavailable(e.to_string()))?;
        if let Some(found) = letters.into_iter().find(|letter| letter_name(letter) == wanted) {
            return Ok(found);
        }
        sleep(RETURN_DELAY).await;
    }
    Err(PageError::NotFound(format!("{wanted}: no such dead letter.")))
}

/// Whether a form comes from this site. Browsers send the origin; other clients may not.
fn is_from_here(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detects_forms_of_other_sites() {
        for (origin, from_here) in [
            (None, true),
            (Some("http://worker:9464"), true),
            (Some("https://Worker:9464"), true),
            (Some("http://worker:9465"), false),
            (Some("http://evil/worker:9464"), false),
            (Some("null"), false),
            (Some(""), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "worker:9464".parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            assert_eq!(is_from_here(&headers), from_here, "{origin:?}");
        }
    }
}
