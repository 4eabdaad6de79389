//! A small S3 server for reading: one bucket in memory. It keeps every key as it is, also those that real servers change.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Keys and contents of the bucket.
type Objects = BTreeMap<String, Vec<u8>>;

/// Server that runs until the process ends.
pub struct TinyS3 {
    addr: SocketAddr,
}

/// Maximum keys of one response, small so that tests see more than one.
const MAX_KEYS: usize = 3;

impl TinyS3 {
    /// Starts a server on a free port of this machine.
    ///
    /// # Panics
    /// Panics if no port is free.
    pub fn start(objects: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no port is free");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let objects: Arc<Objects> = Arc::new(objects.into_iter().collect());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let objects = objects.clone();
                // The client notices a failed connection.
                thread::spawn(move || serve(&objects, client));
            }
        });
        Self { addr }
    }

    /// Returns the environment variables with which a program reads from this server.
    pub fn env(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.addr)),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_ACCESS_KEY_ID", "key".into()),
            ("AWS_SECRET_ACCESS_KEY", "secret".into()),
            ("AWS_REGION", "us-east-1".into()),
        ]
    }
}

/// Answers the requests of a connection.
fn serve(objects: &Objects, client: TcpStream) -> io::Result<()> {
    let mut requests = BufReader::new(client.try_clone()?);
    let mut client = client;
    loop {
        let mut line = String::new();
        if requests.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut range = None;
        loop {
            let mut header = String::new();
            requests.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("range")
            {
                range = Some(value.trim().to_owned());
            }
        }
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        // The first part of the path is the bucket.
        let key = decoded(path).get(1..).and_then(|path| Some(path.split_once('/')?.1.to_owned()));
        let answer = match key.filter(|key| !key.is_empty()) {
            Some(key) => object(objects, &key, range.as_deref()),
            None => listing(objects, query),
        };
        let Answer { status, headers, body } = answer;
        write!(client, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len())?;
        if method != "HEAD" {
            client.write_all(&body)?;
        }
    }
}

struct Answer {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
}

fn object(objects: &Objects, key: &str, range: Option<&str>) -> Answer {
    let Some(bytes) = objects.get(key) else {
        return Answer { status: "404 Not Found", headers: String::new(), body: Vec::new() };
    };
    let headers = "etag: \"1\"\r\nlast-modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n".to_owned();
    let bounds = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, to)) = bounds.and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?))) else {
        return Answer { status: "200 OK", headers, body: bytes.clone() };
    };
    let to = usize::min(to, bytes.len() - 1);
    let headers = format!("{headers}content-range: bytes {from}-{to}/{}\r\n", bytes.len());
    Answer { status: "206 Partial Content", headers, body: bytes[from..=to].to_vec() }
}

fn listing(objects: &Objects, query: &str) -> Answer {
    let parameter = |wanted: &str| {
        let found = query.split('&').find_map(|pair| pair.strip_prefix(wanted)?.strip_prefix('='));
        found.map(|value| decoded(&value.replace('+', " ")))
    };
    let prefix = parameter("prefix").unwrap_or_default();
    let after = parameter("continuation-token").or(parameter("start-after")).unwrap_or_default();
    let limit = parameter("max-keys").and_then(|max| max.parse().ok()).unwrap_or(MAX_KEYS).min(MAX_KEYS);
    let mut keys = objects.keys().filter(|key| key.starts_with(&prefix) && **key > after);
    let mut body = "<ListBucketResult>".to_owned();
    let mut last = String::new();
    for key in keys.by_ref().take(limit) {
        last = escaped(key);
        let size = objects[key].len();
        let modified = "<LastModified>2023-11-14T22:13:20.000Z</LastModified><ETag>\"1\"</ETag>";
        body += &format!("<Contents><Key>{last}</Key>{modified}<Size>{size}</Size></Contents>");
    }
    if keys.next().is_some() {
        body += &format!("<NextContinuationToken>{last}</NextContinuationToken>");
    }
    body += "</ListBucketResult>";
    Answer { status: "200 OK", headers: "content-type: application/xml\r\n".into(), body: body.into() }
}

/// Percent-decodes a text.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).expect("a key is UTF-8")
}

/// Writes a text for XML, control characters as references.
fn escaped(text: &str) -> String {
    let one = |c: char| match c {
        '&' | '<' | '>' => format!("&#{};", u32::from(c)),
        c if c.is_control() => format!("&#x{:X};", u32::from(c)),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}
