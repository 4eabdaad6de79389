//! A relay against a server that sends everything back.

use std::time::Instant;

use super::*;

/// A relay to a server that sends everything back.
fn echo() -> Relay {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    Relay::to(addr)
}

fn connect(relay: &Relay) -> TcpStream {
    let stream = TcpStream::connect(relay.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// What comes back for `text`; nothing when the line is broken.
fn say(mut stream: &TcpStream, text: &str) -> String {
    let mut answer = vec![0; text.len()];
    match stream.write_all(text.as_bytes()).and_then(|()| stream.read_exact(&mut answer)) {
        Ok(()) => String::from_utf8(answer).unwrap(),
        Err(_) => String::new(),
    }
}

#[test]
fn relays_both_ways_until_it_is_dropped() {
    let relay = echo();
    let (one, two) = (connect(&relay), connect(&relay));
    assert_eq!((say(&one, "hello").as_str(), say(&two, "you two").as_str()), ("hello", "you two"));
    assert_eq!((relay.accepted(), relay.relayed()), (2, 2));
    let addr = relay.addr();
    drop(relay);
    assert_eq!(say(&one, "anyone?"), "");
    assert!(TcpStream::connect(addr).is_err(), "the port is still open");
}

#[test]
fn passes_on_the_end_of_one_direction() {
    let relay = echo();
    let mut stream = connect(&relay);
    stream.write_all(b"all of it").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "all of it");
}

#[test]
fn cuts_what_is_open_and_serves_what_comes() {
    let relay = echo();
    let old = connect(&relay);
    assert_eq!(say(&old, "before"), "before");
    relay.cut();
    assert_eq!(say(&old, "after"), "");
    assert_eq!(say(&connect(&relay), "again"), "again");
}

#[test]
fn refuses_until_it_is_told_otherwise() {
    let relay = echo();
    let old = connect(&relay);
    assert_eq!(say(&old, "before"), "before");
    relay.refuse(true);
    assert_eq!(say(&connect(&relay), "new"), "");
    assert_eq!(say(&old, "still"), "still");
    relay.refuse(false);
    assert_eq!(say(&connect(&relay), "newer"), "newer");
    assert_eq!((relay.accepted(), relay.relayed()), (3, 2));
}

#[test]
fn answers_503_before_the_body_is_there() {
    let relay = echo();
    relay.answer_503(true);
    let mut stream = connect(&relay);
    stream.write_all(b"PUT /bucket/key HTTP/1.1\r\nContent-Length: 4\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("</Error>"), "{answer}");
    assert_eq!(relay.relayed(), 0);
}

#[test]
fn hangs_until_it_is_cut() {
    let relay = echo();
    relay.hang(true);
    let mut stream = connect(&relay);
    stream.write_all(b"anyone?").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
    relay.cut();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn a_server_that_is_not_there_closes_the_line() {
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let relay = Relay::to(gone);
    assert_eq!(say(&connect(&relay), "hello"), "");
    assert_eq!((relay.accepted(), relay.relayed()), (1, 0));
}

#[test]
fn slow_lines_take_their_time() {
    let relay = echo();
    let stream = connect(&relay);
    assert_eq!(say(&stream, "fast"), "fast");
    relay.slow(Pace { latency: Duration::from_millis(100), bytes_per_s: Some(50) });
    let start = Instant::now();
    assert_eq!(say(&stream, "0123456789"), "0123456789");
    // There and back: twice the latency and twice ten bytes.
    assert!(start.elapsed() >= Duration::from_millis(600), "{:?}", start.elapsed());
}

#[test]
fn one_answer_breaks_off() {
    let relay = echo();
    let stream = connect(&relay);
    relay.cut_after(5);
    assert_eq!(say(&stream, "short"), "short");
    (&stream).write_all(b"longer").unwrap();
    let mut answer = String::new();
    (&stream).read_to_string(&mut answer).unwrap();
    assert_eq!((answer.as_str(), relay.broken_off()), ("longe", 1));
    assert_eq!(say(&connect(&relay), "as long as you like"), "as long as you like");
    assert_eq!(relay.broken_off(), 1);
}

#[test]
fn holds_what_it_is_told_to() {
    let relay = echo();
    relay.hold("/secret");
    let (free, held) = (connect(&relay), connect(&relay));
    (&held).write_all(b"GET /secret").unwrap();
    assert_eq!(say(&free, "GET /open"), "GET /open");
    while relay.held() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    held.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!((&held).read(&mut [0]).is_err(), "it came through");
    relay.let_go();
    held.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = [0; 11];
    (&held).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"GET /secret");
}
