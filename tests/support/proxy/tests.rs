//! Tests of the proxy with an echo server.

use std::time::Instant;

use super::*;

/// Starts a proxy to an echo server.
fn proxy_to_echo() -> Proxy {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    Proxy::to(addr)
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Returns the echo of `text`, or an empty text if the connection is cut.
fn echo_of(mut stream: &TcpStream, text: &str) -> String {
    let mut answer = vec![0; text.len()];
    match stream.write_all(text.as_bytes()).and_then(|()| stream.read_exact(&mut answer)) {
        Ok(()) => String::from_utf8(answer).unwrap(),
        Err(_) => String::new(),
    }
}

#[test]
fn forwards_both_directions_until_dropped() {
    let proxy = proxy_to_echo();
    let (one, two) = (connect(&proxy), connect(&proxy));
    assert_eq!((echo_of(&one, "hello").as_str(), echo_of(&two, "you two").as_str()), ("hello", "you two"));
    assert_eq!((proxy.accepted(), proxy.forwarded()), (2, 2));
    let addr = proxy.addr();
    drop(proxy);
    assert_eq!(echo_of(&one, "anyone?"), "");
    assert!(TcpStream::connect(addr).is_err(), "the port is still open");
}

#[test]
fn forwards_the_end_of_one_direction() {
    let proxy = proxy_to_echo();
    let mut stream = connect(&proxy);
    stream.write_all(b"all of it").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "all of it");
}

#[test]
fn cuts_open_connections_and_serves_new_ones() {
    let proxy = proxy_to_echo();
    let old = connect(&proxy);
    assert_eq!(echo_of(&old, "before"), "before");
    proxy.cut();
    assert_eq!(echo_of(&old, "after"), "");
    assert_eq!(echo_of(&connect(&proxy), "again"), "again");
}

#[test]
fn refuses_new_connections_while_set() {
    let proxy = proxy_to_echo();
    let old = connect(&proxy);
    assert_eq!(echo_of(&old, "before"), "before");
    proxy.refuse(true);
    assert_eq!(echo_of(&connect(&proxy), "new"), "");
    assert_eq!(echo_of(&old, "still"), "still");
    proxy.refuse(false);
    assert_eq!(echo_of(&connect(&proxy), "newer"), "newer");
    assert_eq!((proxy.accepted(), proxy.forwarded()), (3, 2));
}

#[test]
fn answers_503_before_the_body_arrives() {
    let proxy = proxy_to_echo();
    proxy.answer_503(true);
    let mut stream = connect(&proxy);
    stream.write_all(b"PUT /bucket/key HTTP/1.1\r\nContent-Length: 4\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("</Error>"), "{answer}");
    assert_eq!(proxy.forwarded(), 0);
}

#[test]
fn hangs_until_cut() {
    let proxy = proxy_to_echo();
    proxy.hang(true);
    let mut stream = connect(&proxy);
    stream.write_all(b"anyone?").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
    proxy.cut();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn closes_the_connection_if_the_server_is_absent() {
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let proxy = Proxy::to(gone);
    assert_eq!(echo_of(&connect(&proxy), "hello"), "");
    assert_eq!((proxy.accepted(), proxy.forwarded()), (1, 0));
}

#[test]
fn the_pace_limits_both_directions() {
    let proxy = proxy_to_echo();
    let stream = connect(&proxy);
    assert_eq!(echo_of(&stream, "fast"), "fast");
    proxy.set_pace(Pace { latency: Duration::from_millis(100), bytes_per_s: Some(50) });
    let start = Instant::now();
    assert_eq!(echo_of(&stream, "0123456789"), "0123456789");
    // Both directions: twice the latency and twice ten bytes.
    assert!(start.elapsed() >= Duration::from_millis(600), "{:?}", start.elapsed());
}

#[test]
fn cuts_one_answer() {
    let proxy = proxy_to_echo();
    let stream = connect(&proxy);
    proxy.cut_after(5);
    assert_eq!(echo_of(&stream, "short"), "short");
    (&stream).write_all(b"longer").unwrap();
    let mut answer = String::new();
    (&stream).read_to_string(&mut answer).unwrap();
    assert_eq!((answer.as_str(), proxy.truncated()), ("longe", 1));
    assert_eq!(echo_of(&connect(&proxy), "as long as you like"), "as long as you like");
    assert_eq!(proxy.truncated(), 1);
}

#[test]
fn holds_matching_requests() {
    let proxy = proxy_to_echo();
    proxy.hold("/secret");
    let (free, held) = (connect(&proxy), connect(&proxy));
    (&held).write_all(b"GET /secret").unwrap();
    assert_eq!(echo_of(&free, "GET /open"), "GET /open");
    while proxy.held() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    held.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!((&held).read(&mut [0]).is_err(), "a held request was forwarded");
    proxy.release();
    held.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = [0; 11];
    (&held).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"GET /secret");
}
