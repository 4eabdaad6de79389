//! Pages for a browser: how a worker is, what its jobs do, what was answered. Rendered here, without a script; whatever a
//! stranger may have written (names, prompts, answers) is escaped by the templates.

mod look;
mod words;
mod reports;
mod overview;
mod job;
mod item;
mod dead;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
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

use crate::settings::Secret;
use crate::start::Backends;
use crate::status::Status;

/// What the pages are made of.
pub struct Pages {
    status: Arc<Status>,
    /// What this worker is called.
    worker: String,
    /// Who knows it may send dead letters once more; empty: nobody.
    token: Secret,
    /// Whoever looks at dead letters holds them: two at once would each see a part.
    letters: Mutex<()>,
}

/// Bytes of a form.
const LONGEST_FORM: usize = 16 << 10;

/// No script, no frame, nothing from elsewhere, and nothing kept.
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

    fn backends(&self) -> Result<&Backends, Sorry> {
        self.status.backends().ok_or(Sorry::Away("The worker is starting.".into()))
    }
}

/// Every page.
pub fn routes(pages: Pages) -> Router {
    Router::new()
        .route("/", get(overview::page))
        .route("/jobs/{job}", get(job::page))
        .route("/jobs/{job}/items/{item}", get(item::page))
        .route("/jobs/{job}/items/{item}/sheet.jpg", get(item::sheet))
        .route("/dead", get(dead::page))
        .route("/dead/redrive", post(dead::redrive))
        .fallback(async || Sorry::NotFound("There is no such page.".into()))
        .layer(DefaultBodyLimit::max(LONGEST_FORM))
        .layer(map_response(guarded))
        .with_state(Arc::new(pages))
}

/// A page may have set one of them otherwise.
async fn guarded(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Why there is no such page.
enum Sorry {
    NotFound(String),
    Forbidden(String),
    /// What it is made of is not there now.
    Away(String),
    /// It is not to be done, as things are.
    InVain(String),
}

impl From<LedgerError> for Sorry {
    fn from(error: LedgerError) -> Self {
        tracing::warn!(%error, "a page could not be made");
        Sorry::Away(error.to_string())
    }
}

impl IntoResponse for Sorry {
    fn into_response(self) -> Response {
        let (status, title, why) = match self {
            Sorry::NotFound(why) => (StatusCode::NOT_FOUND, "Not found", why),
            Sorry::Forbidden(why) => (StatusCode::FORBIDDEN, "Refused", why),
            Sorry::Away(why) => (StatusCode::SERVICE_UNAVAILABLE, "Not available now", why),
            Sorry::InVain(why) => (StatusCode::CONFLICT, "Not done", why),
        };
        let body = html! {
            h1 { (title) }
            p.notice.failed { (why) }
            p { a href="/" { "All jobs" } }
        };
        (status, look::page(title, None, body)).into_response()
    }
}

/// A page that is well.
fn shown(title: &str, refresh: bool, body: Markup) -> Response {
    look::page(title, refresh.then_some(look::REFRESH_S), body).into_response()
}

fn job_id(text: String) -> Result<JobId, Sorry> {
    JobId::try_from(text).map_err(|why| Sorry::NotFound(why.message))
}

fn item_id(text: String) -> Result<ItemId, Sorry> {
    ItemId::try_from(text).map_err(|why| Sorry::NotFound(why.message))
}

/// An id is made of letters, digits, `.`, `_` and `-`: a URL takes them as they are.
fn job_path(job: &JobId) -> String {
    format!("/jobs/{job}")
}

fn item_path(job: &JobId, item: &ItemId) -> String {
    format!("/jobs/{job}/items/{item}")
}
