//! Layout and small parts of all pages.

use axum::response::Html;
use jobs::state::Counts;
use jobs::time::{Millis, timestamp};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::format::{plain_time, state_words};

/// Refresh interval of changing pages, in seconds.
pub const REFRESH_S: u32 = 5;

const STYLE: &str = include_str!("style.css");

/// Returns the complete document.
pub fn page(title: &str, refresh_s: Option<u32>, body: Markup) -> Html<String> {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if let Some(seconds) = refresh_s {
                    meta http-equiv="refresh" content=(seconds);
                }
                title { (title) " · Flamingo" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header.top {
                    div.wide {
                        a.brand href="/" { span.dot {} "Flamingo" }
                        nav {
                            a href="/" { "Jobs" }
                            a href="/dead" { "Dead letters" }
                        }
                        @if refresh_s.is_some() {
                            span.live { "refreshes automatically" }
                        }
                    }
                }
                main.wide { (body) }
            }
        }
    };
    Html(document.into_string())
}

/// Renders breadcrumbs: the pages above this one, and this one.
pub fn crumbs(above: &[(&str, String)], here: &str) -> Markup {
    html! {
        p.crumbs {
            @for (name, path) in above {
                a href=(path) { (name) }
                span.slash { "/" }
            }
            span { (here) }
        }
    }
}

/// Renders a state as a coloured badge.
pub fn badge(state: &str) -> Markup {
    html! { span class={ "badge " (state) } { (state_words(state)) } }
}

/// Renders the item states of a job as a bar.
pub fn bar(counts: &Counts) -> Markup {
    let parts = [
        ("succeeded", counts.succeeded),
        ("failed", counts.failed),
        ("cancelled", counts.cancelled),
        ("running", counts.running),
        ("queued", counts.queued),
    ];
    let labels: Vec<_> =
        parts.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name}")).collect();
    html! {
        div.bar role="img" aria-label=(labels.join(", ")) {
            @for (name, n) in parts.iter().filter(|(_, n)| *n > 0) {
                span class=(name) style={ "flex-grow:" (n) } {}
            }
        }
    }
}

/// Renders a time to the second.
pub fn time(at: Millis) -> Markup {
    html! { time datetime=(timestamp(at)) { (plain_time(at)) } }
}

/// Renders named facts; those without a value are left out.
pub fn facts(rows: &[(&str, Option<Markup>)]) -> Markup {
    html! {
        dl.facts {
            @for (name, value) in rows {
                @if let Some(value) = value {
                    div { dt { (name) } dd { (value) } }
                }
            }
        }
    }
}

/// Renders text as a value.
pub fn text(value: impl std::fmt::Display) -> Option<Markup> {
    Some(html! { (value.to_string()) })
}

/// Renders a value as code.
pub fn code(value: impl std::fmt::Display) -> Option<Markup> {
    Some(html! { code { (value.to_string()) } })
}
