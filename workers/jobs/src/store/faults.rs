//! Tests against an S3 server with scripted faults.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;

const SECRET: &str = "this-must-stay-secret";

/// Scripted response, after which the server closes the connection.
#[derive(Clone)]
struct Answer {
    text: String,
    /// Keep the connection open without sending more.
    stall: bool,
}

fn answer(status: &str, headers: &str, body: &str) -> Answer {
    let text = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n{body}");
    Answer { text, stall: false }
}

fn status(status: &str) -> Answer {
    // The body has the form of S3's, with a secret that must not be shown.
    let body = format!("<Error><AWSAccessKeyId>{SECRET}</AWSAccessKeyId></Error>");
    answer(status, &format!("content-length: {}\r\n", body.len()), &body)
}

fn object(body: &str) -> Answer {
    partial(body.len(), body)
}

/// Response with only a part of an object.
fn partial(announced: usize, body: &str) -> Answer {
    let headers = format!("content-length: {announced}\r\netag: \"1\"\r\n{MODIFIED}");
    answer("200 OK", &headers, body)
}

fn stored() -> Answer {
    answer("200 OK", "content-length: 0\r\netag: \"1\"\r\n", "")
}

const MODIFIED: &str = "last-modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n";

/// Starts a server that sends these responses in order and repeats the last one.
async fn server(answers: impl IntoIterator<Item = Answer>) -> Store {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers = Mutex::new(answers.into_iter().collect::<VecDeque<_>>());
    tokio::spawn(async move {
        let mut stalled = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            receive(&mut connection).await;
            let answer = {
                let mut answers = answers.lock().unwrap();
                if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
            };
            connection.write_all(answer.text.as_bytes()).await.unwrap();
            if answer.stall {
                stalled.push(connection);
            }
        }
    });
    store_at(&format!("http://{address}"))
}

fn store_at(endpoint: &str) -> Store {
    let settings = StoreSettings {
        connect_timeout: Duration::from_millis(500),
        read_timeout: Duration::from_millis(300),
        retry_for: Duration::from_millis(1_200),
    };
    let environment = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_REGION", "us-east-1"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Store::open_with("s3://bucket/prefix", &settings, environment.into_iter()).unwrap()
}

/// Reads a request and its body.
async fn receive(connection: &mut TcpStream) {
    let mut request = Vec::new();
    loop {
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if request.len() >= end + 4 + length {
                return;
            }
        }
        if connection.read_buf(&mut request).await.unwrap() == 0 {
            return;
        }
    }
}

async fn fetched(store: &Store) -> Result<ObjectInfo, StoreError> {
    let mut file = tokio::fs::File::from_std(tempfile::tempfile().unwrap());
    store.fetch("clip", None, &mut file, 1_000).await
}

#[track_caller]
fn check(error: &StoreError, code: &str, transient: bool) {
    assert_eq!((error.code(), error.is_transient()), (code, transient), "{error}");
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    assert!(error.to_string().starts_with("s3://bucket/prefix"), "{error}");
}

#[tokio::test]
async fn retries_server_errors() {
    let store = server([status("500 Internal Server Error"), status("503 Slow Down"), object("whole")]).await;
    assert_eq!(store.get("clip", 1_000).await.unwrap().unwrap(), "whole");
    let store = server([status("503 Slow Down"), stored()]).await;
    assert_eq!(store.put_new("clip", "x".into()).await.unwrap(), Put::Created);
}

#[tokio::test]
async fn gives_up_after_repeated_server_errors() {
    let store = server([status("503 Slow Down")]).await;
    let begun = Instant::now();
    let error = store.get("clip", 1_000).await.unwrap_err();
    check(&error, "store_unavailable", true);
    assert!(error.to_string().ends_with("it keeps answering HTTP 503"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn gives_up_on_a_stalled_body() {
    let store = server([Answer { stall: true, ..partial(100, "only this") }]).await;
    let begun = Instant::now();
    check(&fetched(&store).await.unwrap_err(), "store_unavailable", true);
    check(&store.get("clip", 1_000).await.unwrap_err(), "store_unavailable", true);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn gives_up_on_a_silent_server() {
    let store = server([Answer { text: String::new(), stall: true }]).await;
    let begun = Instant::now();
    check(&store.head("clip").await.unwrap_err(), "store_unavailable", true);
    check(&store.put_new("clip", "x".into()).await.unwrap_err(), "store_unavailable", true);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn truncated_body_is_an_error() {
    let store = server([partial(100, "only this")]).await;
    assert!(fetched(&store).await.unwrap_err().to_string().starts_with("s3://bucket/prefix/clip: "));
    assert!(store.get("clip", 1_000).await.is_err());
}

#[tokio::test]
async fn resumes_a_truncated_body() {
    let rest = |etag| {
        let headers =
            format!("content-length: 5\r\ncontent-range: bytes 5-9/10\r\netag: \"{etag}\"\r\n{MODIFIED}");
        answer("206 Partial Content", &headers, "56789")
    };
    let store = server([partial(10, "01234"), rest(1)]).await;
    assert_eq!(store.get("clip", 1_000).await.unwrap().unwrap(), "0123456789");
    let store = server([partial(10, "01234"), rest(2)]).await;
    assert!(fetched(&store).await.is_err(), "the rest belongs to another object");
    let store = server([partial(10, "01234"), status("412 Precondition Failed")]).await;
    check(&fetched(&store).await.unwrap_err(), "changed", false);
}

#[tokio::test]
async fn client_errors_are_permanent_and_show_no_secret() {
    for (line, code) in [
        ("401 Unauthorized", "forbidden"),
        ("403 Forbidden", "forbidden"),
        ("400 Bad Request", "unsupported_store"),
        ("501 Not Implemented", "unsupported_store"),
    ] {
        let store = server([status(line)]).await;
        check(&store.get("clip", 1_000).await.unwrap_err(), code, false);
        check(&store.put_new("clip", "x".into()).await.unwrap_err(), code, false);
        check(&store.probe().await.unwrap_err(), code, false);
    }
}

fn refusal(status: &str, code: &str) -> Answer {
    let body = format!("<Error><Code>{code}</Code><AWSAccessKeyId>{SECRET}</AWSAccessKeyId></Error>");
    answer(status, &format!("content-length: {}\r\n", body.len()), &body)
}

#[tokio::test]
async fn codes_of_s3_decide_about_retries() {
    for (code, expected, transient) in [
        ("KeyTooLongError", "bad_url", false),
        ("XMinioInvalidObjectName", "bad_url", false),
        ("RequestTimeout", "store_unavailable", true),
        ("BadDigest", "store_unavailable", true),
        ("ExpiredToken", "forbidden", false),
        ("InvalidArgument", "unsupported_store", false),
        ("<b>", "unsupported_store", false),
    ] {
        let store = server([refusal("400 Bad Request", code)]).await;
        let error = store.put_new("clip", "x".into()).await.unwrap_err();
        check(&error, expected, transient);
        assert_eq!(error.to_string().contains(code), expected != "forbidden" && code != "<b>", "{error}");
        let mut upload = store.upload("clip").unwrap();
        upload.write("x".into()).await.unwrap();
        check(&upload.finish().await.unwrap_err(), expected, transient);
    }
    let store = server([status("414 URI Too Long")]).await;
    check(&store.put("clip", "x".into()).await.unwrap_err(), "bad_url", false);
}

#[tokio::test]
async fn unreachable_server_is_a_transient_error() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    check(&store_at(&format!("http://{closed}")).probe().await.unwrap_err(), "store_unavailable", true);
}

#[tokio::test]
async fn retries_a_conflict_without_an_object() {
    let store = server([status("409 Conflict"), status("404 Not Found"), stored()]).await;
    assert_eq!(store.put_new("clip", "x".into()).await.unwrap(), Put::Created);
}

#[tokio::test]
async fn repeated_put_finds_its_own_object() {
    // The response to the first try is lost; the second try finds our own object.
    let answers = [status("500 Internal Server Error"), status("412 Precondition Failed"), object("ours")];
    let store = server(answers).await;
    assert_eq!(store.put_new("clip", "ours".into()).await.unwrap(), Put::Same);
}

#[tokio::test]
async fn probe_detects_ignored_conditions() {
    let store = server([stored()]).await;
    let error = store.probe().await.unwrap_err();
    check(&error, "unsupported_store", false);
    assert!(error.to_string().contains("If-None-Match"), "{error}");
}

#[tokio::test]
async fn probe_detects_403_for_missing_objects() {
    let refused =
        [stored(), status("412 Precondition Failed"), object("first"), status("403 Forbidden"), stored()];
    let store = server(refused).await;
    let error = store.probe().await.unwrap_err();
    check(&error, "unsupported_store", false);
    assert!(error.to_string().contains("s3:ListBucket"), "{error}");
}
