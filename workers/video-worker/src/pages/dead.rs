//! Dead letters, and the one thing that a page changes: one is sent once more.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};
use jobs::queue::{DeadLetter, Settled};
use maud::{Markup, html};
use tokio::time::{sleep, timeout};

use super::job::value_of;
use super::words::number;
use super::{Pages, Sorry, item_path, shown};
use crate::dead::{item_of, lane_of, name_of, send_again};

/// Letters on the page.
const LETTERS: usize = 50;
/// Letters among which one is looked for: looking at another page may have changed their order.
const SEARCHED: usize = 4 * LETTERS;
const PATIENCE: Duration = Duration::from_secs(10);
/// The broker takes back what was only looked at in its own time.
const BACK: Duration = Duration::from_millis(150);
/// How often a letter is looked for.
const LOOKS: u32 = 5;

pub async fn page(State(pages): State<Arc<Pages>>) -> Result<Response, Sorry> {
    let queue = &pages.backends()?.queue;
    let looking = pages.letters.lock().await;
    let found = match timeout(PATIENCE, queue.dead_letters(LETTERS)).await {
        Ok(found) => found.map_err(|e| e.to_string()),
        Err(_) => Err("the queue does not answer".into()),
    };
    let body = html! {
        h1 { "Dead letters" }
        p.muted { "Messages that nobody can or may deliver any more; the oldest " (LETTERS) " of them." }
        @match &found {
            Err(why) => { (unreadable(why)) }
            Ok(letters) if letters.is_empty() => { p.empty { "None." } }
            Ok(letters) => { (table(letters, !pages.token.is_empty())) }
        }
    };
    if found.is_ok_and(|letters| !letters.is_empty()) {
        sleep(BACK).await;
    }
    drop(looking);
    // With no referrer at all a browser would not say either where a form comes from.
    Ok(([(REFERRER_POLICY, "same-origin")], shown("Dead letters", false, body)).into_response())
}

fn unreadable(why: &str) -> Markup {
    html! {
        div.notice {
            @if why.contains("ACCESS_REFUSED") {
                p { "The broker does not let this worker read dead letters: its user has no right to." }
            } @else {
                p { "The dead letters cannot be read now." }
            }
            p { code { "flamingo jobs dead list" } " names them, with the broker's administrator in " code { "FLAMINGO__QUEUE__URL" } "." }
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
            p.muted { code { "flamingo jobs dead redrive" } " sends one once more; so does this page where " code { "status.token" } " is set." }
        };
    }
    html! {
        form method="post" action="/dead/redrive" {
            (rows)
            p.token {
                label for="token" { "Token" }
                input #token name="token" type="password" required autocomplete="current-password";
                span.muted { code { "status.token" } " of the settings: whoever knows it may send a message again." }
            }
        }
    }
}

fn row(letter: &DeadLetter, may_send: bool) -> Markup {
    let name = name_of(letter);
    html! {
        tr {
            td.name {
                @if let Some((job, item)) = item_of(letter) { a href=(item_path(&job, &item)) { (name) } }
                @else { (name) }
                div.muted { (number(letter.delivery.message.body.len() as u64, "byte")) }
            }
            td { (lane_of(letter)) }
            td.answers { p.why { code { (letter.reason.code) } " " (letter.reason.message) } }
            @if may_send { td { button name="letter" value=(name) { "Send again" } } }
        }
    }
}

pub async fn redrive(
    State(pages): State<Arc<Pages>>,
    headers: HeaderMap,
    form: String,
) -> Result<Response, Sorry> {
    let refused = |why: &str| {
        tracing::warn!(why, "a dead letter is not sent once more");
        Err(Sorry::Forbidden(why.into()))
    };
    if !is_from_here(&headers) {
        return refused("This form comes from another site.");
    }
    if pages.token.is_empty() {
        return refused("Nobody may send dead letters from here: status.token is empty.");
    }
    if !pages.token.is(&value_of(&form, "token").unwrap_or_default()) {
        return refused("The token is wrong.");
    }
    let wanted = value_of(&form, "letter").unwrap_or_default();
    let backends = pages.backends()?;
    let _looking = pages.letters.lock().await;
    let letter = find(&pages, &wanted).await?;
    let why = send_again(backends, &letter).await.map_err(|e| Sorry::Away(e.to_string()))?;
    if let Some(why) = why {
        return Err(Sorry::InVain(format!("{wanted}: {why}")));
    }
    tracing::info!(letter = wanted, "a dead letter is sent once more");
    let gone = letter.delivery.ack().await == Settled::Confirmed;
    let body = html! {
        h1 { "Sent once more" }
        p.notice.succeeded { code { (wanted) } " was sent once more." }
        @if !gone { p.notice { "The connection was lost: it is a dead letter still." } }
        p { a href="/dead" { "Dead letters" } }
    };
    Ok(shown("Sent once more", false, body))
}

/// The others go back at once.
async fn find(pages: &Pages, wanted: &str) -> Result<DeadLetter, Sorry> {
    let queue = &pages.backends()?.queue;
    for _ in 0..LOOKS {
        let letters = timeout(PATIENCE, queue.dead_letters(SEARCHED)).await;
        let letters = letters.map_err(|_| Sorry::Away("The queue does not answer.".into()))?;
        let letters = letters.map_err(|e| Sorry::Away(e.to_string()))?;
        if let Some(found) = letters.into_iter().find(|letter| name_of(letter) == wanted) {
            return Ok(found);
        }
        sleep(BACK).await;
    }
    Err(Sorry::NotFound(format!("{wanted}: no such dead letter.")))
}

/// A browser says which site a form comes from; what says nothing is no browser.
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
    fn forms_of_other_sites_are_known() {
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
