//! A TCP relay between a client and its server, which can break the line between them on command.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What S3 says when it has too much to do.
const SLOW_DOWN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";

/// The most bytes that a request's head may have.
const HEAD: usize = 64 << 10;

/// Relays every connection to one server until it is dropped.
pub struct Relay {
    addr: SocketAddr,
    line: Arc<Line>,
}

/// What the threads of a relay share.
struct Line {
    server: SocketAddr,
    /// Both ends of what is relayed or held now.
    open: Mutex<Vec<(usize, TcpStream)>>,
    accepted: AtomicUsize,
    relayed: AtomicUsize,
    refuse: AtomicBool,
    answer_503: AtomicBool,
    hang: AtomicBool,
    ended: AtomicBool,
}

impl Relay {
    /// A relay to `server` on a free port of this machine.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port for the relay");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let line = Arc::new(Line {
            server,
            open: Mutex::default(),
            accepted: AtomicUsize::new(0),
            relayed: AtomicUsize::new(0),
            refuse: AtomicBool::new(false),
            answer_503: AtomicBool::new(false),
            hang: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let shared = line.clone();
        thread::spawn(move || shared.accept(&listener));
        Self { addr, line }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every connection that is open now; new ones are served.
    pub fn cut(&self) {
        for (_, stream) in self.line.open().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// New connections are closed at once.
    pub fn refuse(&self, yes: bool) {
        self.line.refuse.store(yes, Ordering::SeqCst);
    }

    /// New connections have their first HTTP request answered with 503, as S3 says it, and are closed.
    pub fn answer_503(&self, yes: bool) {
        self.line.answer_503.store(yes, Ordering::SeqCst);
    }

    /// New connections are held open, and nothing comes of them, until they are cut.
    pub fn hang(&self, yes: bool) {
        self.line.hang.store(yes, Ordering::SeqCst);
    }

    /// How many connections clients have made.
    pub fn accepted(&self) -> usize {
        self.line.accepted.load(Ordering::SeqCst)
    }

    /// How many of them reached the server.
    pub fn relayed(&self) -> usize {
        self.line.relayed.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.line.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts, and waits until the port is free again.
        if let Ok(mut last) = TcpStream::connect(self.addr) {
            let _ = last.read(&mut [0]);
        }
        self.cut();
    }
}

impl Line {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for (id, client) in listener.incoming().enumerate() {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            self.accepted.fetch_add(1, Ordering::SeqCst);
            let line = self.clone();
            // A connection that fails is the client's to notice.
            thread::spawn(move || line.serve(id, client));
        }
    }

    fn serve(&self, id: usize, client: TcpStream) -> io::Result<()> {
        if self.refuse.load(Ordering::SeqCst) {
            return client.shutdown(Shutdown::Both);
        }
        if self.answer_503.load(Ordering::SeqCst) {
            return slow_down(client);
        }
        self.keep(id, &client)?;
        if self.hang.load(Ordering::SeqCst) {
            return Ok(());
        }
        let server = TcpStream::connect(self.server).inspect_err(|_| self.close(id))?;
        self.relayed.fetch_add(1, Ordering::SeqCst);
        self.keep(id, &server)?;
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        let up = thread::spawn(move || pump(from, to));
        pump(server, client);
        let _ = up.join();
        self.close(id);
        Ok(())
    }

    fn keep(&self, id: usize, stream: &TcpStream) -> io::Result<()> {
        self.open().push((id, stream.try_clone()?));
        Ok(())
    }

    fn close(&self, id: usize) {
        for (_, stream) in self.open().extract_if(.., |(other, _)| *other == id) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<(usize, TcpStream)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies until one side ends, then tells the other.
fn pump(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn slow_down(mut client: TcpStream) -> io::Result<()> {
    // A client that says nothing must not hold the thread for ever.
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = Vec::new();
    let mut block = [0; 4096];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") && head.len() < HEAD {
        match client.read(&mut block)? {
            0 => return Ok(()),
            n => head.extend_from_slice(&block[..n]),
        }
    }
    let length = SLOW_DOWN.len();
    write!(
        client,
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{SLOW_DOWN}"
    )?;
    client.shutdown(Shutdown::Write)?;
    // Closing while the body is still on its way would reset the line, and the client would lose the answer.
    io::copy(&mut client, &mut io::sink())?;
    Ok(())
}

#[cfg(test)]
mod tests {
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
}
