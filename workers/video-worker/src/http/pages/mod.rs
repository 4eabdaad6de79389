//! HTML pages: worker, jobs, videos, answers, dead letters. Rendered on the server, without scripts; the templates escape
//! untrusted text (names, prompts, answers).

mod layout;
mod format;
mod reports;
mod overview;
mod job;
mod item;
mod dead_letters;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::rejection::{FormRejection, PathRejection, QueryRejection};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use jobs::ledger::LedgerError;
use jobs::{ItemId, JobId};
use maud::{Markup, html};
use tokio::sync::Mutex;

use crate::app::Backends;
use crate::http::health::Status;
use crate::settings::Secret;

/// State of the pages.
pub struct Pages {
    status: Arc<Status>,
    /// Name of this worker.
    worker: String,
    /// Required to send dead letters again; empty disables it.
    token: Secret,
    /// Serializes reads of dead letters: two at once would each see a part.
    letters: Mutex<()>,
}

/// Largest form in bytes.
const MAX_FORM_BYTES: usize = 16 << 10;

/// Default headers: no script, no frame, nothing from other sites, no caching.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
];

impl Pages {
    pub fn new(status: Arc<Status>, worker: String, token: Secret) -> Self {
        Self { status, worker, token, letters: Mutex::new(()) }
    }

    fn backends(&self) -> Result<&Backends, PageError> {
        self.status.backends().ok_or(PageError::Unavailable("The worker is starting.".into()))
    }
}

/// Returns the routes of all pages.
pub fn routes(pages: Pages) -> Router {
    Router::new()
        .route("/", get(overview::page))
        .route("/jobs/{job}", get(job::page))
        .route("/jobs/{job}/items/{item}", get(item::page))
        .route("/jobs/{job}/items/{item}/sheet.jpg", get(item::sheet))
        .route("/dead", get(dead_letters::page))
        .route("/dead/redrive", post(dead_letters::redrive))
        .fallback(async || PageError::NotFound("There is no such page.".into()))
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(map_response(with_default_headers))
        .with_state(Arc::new(pages))
}

/// Adds the default headers that the page has not set.
async fn with_default_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Error page.
enum PageError {
    NotFound(String),
    /// The form lacks a field, or is too large.
    BadForm(FormRejection),
    Forbidden(String),
    /// A backend is unavailable.
    Unavailable(String),
    /// The current state forbids the action.
    Conflict(String),
}

impl From<LedgerError> for PageError {
    fn from(error: LedgerError) -> Self {
        tracing::warn!(%error, "cannot render a page");
        PageError::Unavailable(error.to_string())
    }
}

/// No page has a path or query with an invalid id.
impl From<PathRejection> for PageError {
    fn from(rejection: PathRejection) -> Self {
        PageError::NotFound(rejection.body_text())
    }
}

impl From<QueryRejection> for PageError {
    fn from(rejection: QueryRejection) -> Self {
        PageError::NotFound(rejection.body_text())
    }
}

impl From<FormRejection> for PageError {
    fn from(rejection: FormRejection) -> Self {
        PageError::BadForm(rejection)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let (status, title, why) = match self {
            PageError::NotFound(why) => (StatusCode::NOT_FOUND, "Not found", why),
            PageError::BadForm(rejection) => (rejection.status(), "Not understood", rejection.body_text()),
            PageError::Forbidden(why) => (StatusCode::FORBIDDEN, "Refused", why),
            PageError::Unavailable(why) => (StatusCode::SERVICE_UNAVAILABLE, "Not available now", why),
            PageError::Conflict(why) => (StatusCode::CONFLICT, "Not done", why),
        };
        let body = html! {
            h1 { (title) }
            p.notice.failed { (why) }
            p { a href="/" { "All jobs" } }
        };
        (status, layout::page(title, None, body)).into_response()
    }
}

/// Renders a page.
fn render(title: &str, refresh: bool, body: Markup) -> Response {
    layout::page(title, refresh.then_some(layout::REFRESH_S), body).into_response()
}

/// Returns the path of a job. Ids consist of letters, digits, `.`, `_` and `-`, so a URL needs no escaping.
fn job_path(job: &JobId) -> String {
    format!("/jobs/{job}")
}

fn item_path(job: &JobId, item: &ItemId) -> String {
    format!("/jobs/{job}/items/{item}")
}
