//! HTTP client of the hub: the three paths that a pull needs, redirects, retries and the token.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use reqwest::blocking::{Client as HttpClient, Response};
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, HeaderMap, LINK, LOCATION, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cache::home;
use super::listing::{FILES_LIMIT, ListedEntry, RemoteFile};
use super::name::{RepoName, is_commit};

/// Hub that is asked without `HF_ENDPOINT`.
const ENDPOINT: &str = "https://huggingface.co";
/// Longest wait for a connection, and for the next bytes of an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 10;
/// Largest JSON answer in bytes.
const JSON_LIMIT: u64 = 64 << 20;
/// Attempts of a request, without progress between them.
pub const ATTEMPTS: u32 = 5;
/// Wait after the first failed attempt; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(300);
/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Failed request.
#[derive(Debug)]
pub enum Failure {
    /// Another attempt may succeed, after this wait if the server names one.
    Transient(anyhow::Error, Option<Duration>),
    /// Another attempt would fail too.
    Final(anyhow::Error),
}

impl Failure {
    /// The error, when no attempt is left.
    pub fn into_error(self) -> anyhow::Error {
        match self {
            Failure::Transient(error, _) | Failure::Final(error) => error,
        }
    }

    /// Waits after the failed attempt number `failed`, counted from 1.
    ///
    /// # Errors
    /// No attempt is left.
    pub fn wait(self, failed: u32) -> anyhow::Result<()> {
        match self {
            Failure::Transient(error, asked) if failed < ATTEMPTS => {
                let wait = asked.unwrap_or(FIRST_WAIT * 2u32.pow(failed - 1)).min(LONGEST_WAIT);
                tracing::debug!(failed, ?wait, "{error:#}");
                std::thread::sleep(wait);
                Ok(())
            }
            failure => Err(failure.into_error()),
        }
    }
}

/// Client of one hub.
pub struct Client {
    http: HttpClient,
    endpoint: Url,
    /// Sent to the endpoint only.
    token: Option<String>,
}

/// Answer to a request for a file.
pub struct Body {
    /// Offset of its first byte in the file.
    pub start: u64,
    /// Length that the server announces, if it does.
    pub length: Option<u64>,
    pub content: Response,
}

/// A revision of a repository.
pub struct Revision {
    pub commit: String,
    /// Licence tag of the model card, if it has one.
    pub licence: Option<String>,
}

impl Client {
    /// A client of the hub that `HF_ENDPOINT` names, with the token of `HF_TOKEN` or of the file that `huggingface-cli login`
    /// writes. reqwest takes proxies from `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    ///
    /// # Errors
    /// `HF_HUB_OFFLINE` forbids downloads, the endpoint is no URL, or the client cannot be built.
    pub fn from_env() -> anyhow::Result<Self> {
        if text_of("HF_HUB_OFFLINE").is_some_and(|set| !matches!(set.as_str(), "0" | "false" | "no" | "off"))
        {
            bail!("HF_HUB_OFFLINE is set: nothing is downloaded");
        }
        let endpoint = text_of("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let endpoint: Url = endpoint.parse().with_context(|| format!("HF_ENDPOINT: {endpoint}"))?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host().is_none() {
            bail!("HF_ENDPOINT: {endpoint}: expected an http or https URL");
        }
        // An error means that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = HttpClient::builder()
            .user_agent(concat!("flamingo/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(READ_TIMEOUT)
            // Followed here: the token must not reach another host.
            .redirect(Policy::none())
            .build()
            .context("cannot start the HTTP client")?;
        Ok(Self { http, endpoint, token: token()? })
    }

    /// Page of a repository, for people.
    pub fn page(&self, repo: &RepoName) -> String {
        format!("{}/{repo}", self.endpoint.as_str().trim_end_matches('/'))
    }

    /// Returns the commit of a branch, a tag or a commit.
    ///
    /// # Errors
    /// The repository or the revision does not exist or needs access rights, or the hub does not answer.
    pub fn revision(&self, repo: &RepoName, revision: &str) -> anyhow::Result<Revision> {
        let url = self.url(&["api", "models"], repo, &["revision", revision])?;
        let (info, _): (Value, _) = self.json(repo, &url)?;
        let commit = info["sha"].as_str().unwrap_or_default().to_owned();
        if !is_commit(&commit) {
            bail!("{repo}: the hub names no commit for the revision {revision}");
        }
        Ok(Revision { commit, licence: info["cardData"]["license"].as_str().map(str::to_owned) })
    }

    /// Lists the files of a commit.
    ///
    /// # Errors
    /// A name or hash is malformed, there are too many files, or the hub does not answer.
    pub fn files(&self, repo: &RepoName, commit: &str) -> anyhow::Result<Vec<RemoteFile>> {
        let mut url = self.url(&["api", "models"], repo, &["tree", commit])?;
        url.set_query(Some("recursive=true"));
        let mut files = Vec::new();
        loop {
            let (entries, headers): (Vec<ListedEntry>, _) = self.json(repo, &url)?;
            for entry in entries {
                files.extend(entry.check().with_context(|| repo.to_string())?);
            }
            if files.len() > FILES_LIMIT {
                bail!("{repo}: more than {FILES_LIMIT} files");
            }
            match next_page(&headers).map(|next| url.join(&next)) {
                Some(Ok(next)) if same_origin(&next, &self.endpoint) && next != url => url = next,
                Some(_) => bail!("{repo}: the hub names a wrong address for the next page of its listing"),
                None => return Ok(files),
            }
        }
    }

    /// Requests a file from byte `start` on.
    ///
    /// # Errors
    /// As [`Failure`] says.
    pub fn file(&self, repo: &RepoName, commit: &str, path: &str, start: u64) -> Result<Body, Failure> {
        let parts: Vec<&str> = ["resolve", commit].into_iter().chain(path.split('/')).collect();
        let url = self.url(&[], repo, &parts).map_err(Failure::Final)?;
        let response = self.get(repo, &url, start)?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(response.headers()).ok_or_else(|| {
                Failure::Final(anyhow!("{repo}: {path}: the server sends a part without saying which"))
            })?,
            _ => 0,
        };
        Ok(Body { start, length: response.content_length(), content: response })
    }

    fn url(&self, before: &[&str], repo: &RepoName, after: &[&str]) -> anyhow::Result<Url> {
        let mut url = self.endpoint.clone();
        let name = repo.to_string();
        match url.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().extend(before).extend(name.split('/')).extend(after);
            }
            Err(()) => bail!("HF_ENDPOINT: {}: cannot be the base of a path", self.endpoint),
        }
        Ok(url)
    }

    /// Requests JSON, with retries.
    fn json<T: DeserializeOwned>(&self, repo: &RepoName, url: &Url) -> anyhow::Result<(T, HeaderMap)> {
        let mut failed = 0;
        loop {
            match self.text(repo, url) {
                Ok((text, headers)) => {
                    let value = serde_json::from_slice(&text);
                    return Ok((
                        value.with_context(|| format!("{url}: not the answer of a model hub"))?,
                        headers,
                    ));
                }
                Err(failure) => {
                    failed += 1;
                    failure.wait(failed)?;
                }
            }
        }
    }

    fn text(&self, repo: &RepoName, url: &Url) -> Result<(Vec<u8>, HeaderMap), Failure> {
        let response = self.get(repo, url, 0)?;
        let headers = response.headers().clone();
        let mut text = Vec::new();
        response
            .take(JSON_LIMIT + 1)
            .read_to_end(&mut text)
            .map_err(|e| Failure::Transient(anyhow!("{}: the answer was cut off: {e}", host(url)), None))?;
        if text.len() as u64 > JSON_LIMIT {
            return Err(Failure::Final(anyhow!("{url}: the answer has more than {JSON_LIMIT} bytes")));
        }
        Ok((text, headers))
    }

    /// Sends a request and follows its redirects. The token is sent to the endpoint only.
    fn get(&self, repo: &RepoName, url: &Url, start: u64) -> Result<Response, Failure> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.http.get(url.clone());
            if let Some(token) = self.token.as_ref().filter(|_| same_origin(&url, &self.endpoint)) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            if start > 0 {
                request = request.header(RANGE, format!("bytes={start}-"));
            }
            let response =
                request.send().map_err(|e| Failure::Transient(unreachable_error(&url, &e), None))?;
            if !response.status().is_redirection() {
                return self.check(repo, &url, response);
            }
            let location = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let next = location.and_then(|to| url.join(to).ok());
            let next = next.filter(|to| matches!(to.scheme(), "http" | "https"));
            let next =
                next.ok_or_else(|| Failure::Final(anyhow!("{}: redirects to no address", host(&url))))?;
            if url.scheme() == "https" && next.scheme() == "http" {
                let text = format!("{}: redirects to {} without encryption", host(&url), host(&next));
                return Err(Failure::Final(anyhow!(text)));
            }
            url = next;
        }
        Err(Failure::Final(anyhow!("{}: more than {MAX_REDIRECTS} redirects", host(&url))))
    }

    /// Turns a status into an error.
    fn check(&self, repo: &RepoName, url: &Url, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let code = header("x-error-code").unwrap_or_default();
        let page = self.page(repo);
        let error = match (status.as_u16(), code) {
            (401 | 403, "GatedRepo") => anyhow!(
                "{repo} is gated: accept its terms at {page} with your account, and set HF_TOKEN to a token of this account{}",
                if self.token.is_some() { " (the hub refuses the present one)" } else { "" }
            ),
            (401 | 404, "RepoNotFound") => {
                anyhow!("{repo}: no such repository at {page}, or it is private: check the name and HF_TOKEN")
            }
            (404, "RevisionNotFound") => anyhow!("{repo}: no such revision; {page}/tree/main lists them"),
            (404, _) => anyhow!("{repo}: {} is not there (status 404)", url.path()),
            (401 | 403, _) => {
                anyhow!("{repo}: {} refuses access (status {}): check HF_TOKEN", host(url), status.as_u16())
            }
            (416, _) => anyhow!("{repo}: {}: the server's file is shorter than the hub lists", url.path()),
            _ => anyhow!("{repo}: {} answers with status {}", host(url), status.as_u16()),
        };
        let wait =
            header(RETRY_AFTER.as_str()).and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        match status.as_u16() {
            408 | 429 | 500..=599 => Err(Failure::Transient(error, wait)),
            _ => Err(Failure::Final(error)),
        }
    }
}

/// Describes a failed connection in one sentence.
fn unreachable_error(url: &Url, error: &reqwest::Error) -> anyhow::Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let hint = "check the network, HTTPS_PROXY and HF_ENDPOINT";
    match error.is_timeout() {
        true => anyhow!("{} does not answer in time: {hint}", host(url)),
        false => anyhow!("cannot reach {}: {cause}: {hint}", host(url)),
    }
}

/// Name of the server of a URL, for errors: a signed address does not belong there.
fn host(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

/// Address of the next page: `<ADDRESS>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(LINK)?.to_str().ok()?;
    let link = text.split(',').find(|link| link.contains("rel=\"next\""))?;
    Some(link.trim().strip_prefix('<')?.split_once('>')?.0.to_owned())
}

/// First byte of `bytes FIRST-LAST/SIZE`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

fn text_of(variable: &str) -> Option<String> {
    std::env::var(variable).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The token of the environment, else of the file that `huggingface-cli login` writes.
fn token() -> anyhow::Result<Option<String>> {
    if let Some(token) = text_of("HF_TOKEN").or_else(|| text_of("HUGGING_FACE_HUB_TOKEN")) {
        return Ok(Some(token));
    }
    let file = match text_of("HF_TOKEN_PATH") {
        Some(file) => file.into(),
        None => home()?.join("token"),
    };
    let token = std::fs::read_to_string(file).ok();
    Ok(token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_headers_of_pages_and_ranges() {
        let mut headers = HeaderMap::new();
        assert_eq!((next_page(&headers), range_start(&headers)), (None, None));
        headers.insert(LINK, "<https://h/a?cursor=x>; rel=\"next\"".parse().unwrap());
        headers.insert(CONTENT_RANGE, "bytes 12-19/20".parse().unwrap());
        assert_eq!(
            (next_page(&headers), range_start(&headers)),
            (Some("https://h/a?cursor=x".into()), Some(12))
        );
    }
}
