//! A small model hub: repositories in memory, and faults of servers and networks on request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use flamingo::digest::{hex, sha256};
use sha1::{Digest, Sha1};

/// Commit of every repository that [`TinyHub::add`] adds.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Files of at least this size are listed with their SHA-256, as the hub does for large files.
const LARGE: usize = 1000;
/// Entries of one page of a listing, few so that tests read more than one.
const PAGE: usize = 2;

/// Server that runs until the process ends.
pub struct TinyHub {
    addr: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    repos: Mutex<BTreeMap<String, Vec<Listed>>>,
    faults: Mutex<Vec<(String, Fault)>>,
    requests: Mutex<Vec<Request>>,
}

/// A file, with the path and hash under which it is listed.
struct Listed {
    path: String,
    content: Vec<u8>,
}

/// Answer to the next request for a path, instead of the right one.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends after so many bytes of the file.
    CutAfter(usize),
    /// A status and headers, each with an end of line.
    Status(&'static str, String),
    /// Another content of the same length.
    Changed,
    /// A content with more bytes, with their number announced or not.
    Longer(bool),
    /// The whole file, although a part was asked for.
    Whole,
    /// The right answer, later.
    Slow(Duration),
    /// This text.
    Text(String),
}

/// A request that the server got.
#[derive(Debug, Clone)]
pub struct Request {
    pub target: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

impl TinyHub {
    /// Starts a server without repositories on a free port of this machine.
    ///
    /// # Panics
    /// Panics if no port is free.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no port is free");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State::default());
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = shared.clone();
                // The client notices a failed connection.
                thread::spawn(move || serve(&state, client));
            }
        });
        Self { addr, state }
    }

    /// Adds or replaces a repository.
    pub fn add(&self, name: &str, files: &[(&str, &[u8])]) {
        let listed =
            |(path, content): &(&str, &[u8])| Listed { path: (*path).into(), content: content.to_vec() };
        lock(&self.state.repos).insert(name.into(), files.iter().map(listed).collect());
    }

    /// Makes the next request whose target ends with `target` fail. Several faults of a target apply one after the other.
    pub fn fail(&self, target: &str, fault: Fault) {
        lock(&self.state.faults).push((target.into(), fault));
    }

    /// Returns the requests so far whose target ends with `target`.
    pub fn requests(&self, target: &str) -> Vec<Request> {
        lock(&self.state.requests)
            .iter()
            .filter(|request| request.target.ends_with(target))
            .cloned()
            .collect()
    }

    /// Returns the address of the server.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns the environment variables with which a program uses this hub and a cache.
    pub fn env(&self, home: &Path) -> [(&'static str, String); 2] {
        [("HF_ENDPOINT", self.url()), ("HF_HOME", home.display().to_string())]
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no test panics with the lock")
}

/// Answers the requests of a connection.
fn serve(state: &State, client: TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?);
    let mut client = client;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut request = Request { target, range: None, authorization: None };
        loop {
            let mut header = String::new();
            lines.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(':') else { break };
            match name.to_lowercase().as_str() {
                "range" => request.range = Some(value.trim().into()),
                "authorization" => request.authorization = Some(value.trim().into()),
                _ => {}
            }
        }
        lock(&state.requests).push(request.clone());
        let fault = take_fault(state, &request.target);
        if let Some(Fault::Slow(wait)) = fault {
            thread::sleep(wait);
        }
        let Answer { status, headers, mut body } = answer(state, &request, fault.as_ref());
        let (mut announced, mut cut) = (body.len(), None);
        match fault {
            Some(Fault::CutAfter(bytes)) => cut = Some(bytes),
            Some(Fault::Changed) => body.iter_mut().for_each(|byte| *byte = !*byte),
            Some(Fault::Longer(says)) => {
                body.extend(b"more");
                announced += if says { 4 } else { 0 };
            }
            _ => {}
        }
        let length = match fault {
            Some(Fault::Longer(false)) => "connection: close\r\n".into(),
            _ => format!("content-length: {announced}\r\n"),
        };
        write!(client, "HTTP/1.1 {status}\r\n{length}{headers}\r\n")?;
        client.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())])?;
        client.flush()?;
        if cut.is_some() || matches!(fault, Some(Fault::Longer(false))) {
            return client.shutdown(Shutdown::Both);
        }
    }
}

fn take_fault(state: &State, target: &str) -> Option<Fault> {
    let mut faults = lock(&state.faults);
    let at = faults.iter().position(|(end, _)| target.ends_with(end.as_str()))?;
    Some(faults.remove(at).1)
}

struct Answer {
    status: String,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn ok(body: Vec<u8>) -> Self {
        Self { status: "200 OK".into(), headers: String::new(), body }
    }

    fn missing(code: &str) -> Self {
        let headers = format!("x-error-code: {code}\r\n");
        Self { status: "404 Not Found".into(), headers, body: Vec::new() }
    }
}

fn answer(state: &State, request: &Request, fault: Option<&Fault>) -> Answer {
    match fault {
        Some(Fault::Status(status, headers)) => {
            return Answer { status: (*status).into(), headers: headers.clone(), body: Vec::new() };
        }
        Some(Fault::Text(text)) => return Answer::ok(text.clone().into()),
        _ => {}
    }
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let repos = lock(&state.repos);
    match parts[..] {
        ["api", "models", owner, name, kind, revision] => {
            let Some(files) = repos.get(&format!("{owner}/{name}")) else {
                return Answer::missing("RepoNotFound");
            };
            match kind {
                "revision" if ["main", "v1", COMMIT].contains(&revision) => {
                    let info =
                        format!(r#"{{"sha":"{COMMIT}","gated":false,"cardData":{{"license":"mit"}}}}"#);
                    Answer::ok(info.into())
                }
                "tree" if revision == COMMIT => listing(files, path, query),
                _ => Answer::missing("RevisionNotFound"),
            }
        }
        [owner, name, "resolve", COMMIT, ref path @ ..] => {
            let files = repos.get(&format!("{owner}/{name}"));
            let path = path.join("/");
            let found = files.and_then(|files| files.iter().find(|file| file.path == path));
            let range = request.range.as_deref().filter(|_| !matches!(fault, Some(Fault::Whole)));
            found.map_or_else(|| Answer::missing("EntryNotFound"), |file| part(&file.content, range))
        }
        _ => Answer::missing("EntryNotFound"),
    }
}

/// A file from the first byte of a range on.
fn part(content: &[u8], range: Option<&str>) -> Answer {
    let start =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match start {
        None => Answer::ok(content.to_vec()),
        Some(start) if start >= content.len() => {
            Answer { status: "416 Range Not Satisfiable".into(), headers: String::new(), body: Vec::new() }
        }
        Some(start) => {
            let last = content.len() - 1;
            let headers = format!("content-range: bytes {start}-{last}/{}\r\n", content.len());
            Answer { status: "206 Partial Content".into(), headers, body: content[start..].to_vec() }
        }
    }
}

/// One page of the files, in the form of the hub.
fn listing(files: &[Listed], path: &str, query: &str) -> Answer {
    let start = query.split_once("cursor=").and_then(|(_, n)| n.parse().ok()).unwrap_or(0);
    let mut entries = Vec::new();
    for Listed { path, content } in files.iter().skip(start).take(PAGE) {
        let path = serde_json::to_string(path).expect("a path is a text");
        let (git, size) = (git_hash(content), content.len());
        let mut entry = format!(r#"{{"type":"file","oid":"{git}","size":{size},"path":{path}"#);
        if size >= LARGE {
            let oid = sha256(content);
            let _ = write!(entry, r#","lfs":{{"oid":"{oid}","size":{size},"pointerSize":134}}"#);
        }
        entries.push(entry + "}");
    }
    let mut answer = Answer::ok(format!("[{}]", entries.join(",")).into());
    if start + PAGE < files.len() {
        let next = start + PAGE;
        answer.headers = format!("link: <{path}?recursive=true&cursor={next}>; rel=\"next\"\r\n");
    }
    answer
}

/// Returns the hash that git gives to a file.
pub fn git_hash(content: &[u8]) -> String {
    let hash = Sha1::new_with_prefix(format!("blob {}\0", content.len())).chain_update(content);
    hex(&hash.finalize())
}
