//! A TCP relay between a client and its server, which can break or slow the line between them on command.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What S3 says when it has too much to do.
const SLOW_DOWN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";

/// The most bytes that a request's head may have.
const HEAD: usize = 64 << 10;

/// The most bytes that are passed on at once.
const CHUNK: usize = 64 << 10;

/// How slowly bytes are passed on, in both directions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// Before every chunk of at most 64 KiB.
    pub latency: Duration,
    /// No limit without.
    pub bytes_per_s: Option<u32>,
}

impl Pace {
    /// How long so many bytes take.
    fn of(self, bytes: usize) -> Duration {
        let rate = self
            .bytes_per_s
            .map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / f64::from(rate)));
        self.latency + rate
    }
}

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
    pace: Mutex<Pace>,
    /// Bytes of one answer after which the line is cut, once; 0: never.
    cut_after: AtomicUsize,
    broken_off: AtomicUsize,
    /// What requests must not contain.
    held_back: Mutex<Option<String>>,
    let_go: Condvar,
    held: AtomicUsize,
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
            pace: Mutex::default(),
            cut_after: AtomicUsize::new(0),
            broken_off: AtomicUsize::new(0),
            held_back: Mutex::default(),
            let_go: Condvar::new(),
            held: AtomicUsize::new(0),
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

    /// From now on, on connections that are open too.
    pub fn slow(&self, pace: Pace) {
        *lock(&self.line.pace) = pace;
    }

    /// The next answer that is longer breaks off after so many bytes, its head among them; those after it are whole.
    pub fn cut_after(&self, bytes: usize) {
        self.line.cut_after.store(bytes, Ordering::SeqCst);
    }

    /// How many answers broke off.
    pub fn broken_off(&self) -> usize {
        self.line.broken_off.load(Ordering::SeqCst)
    }

    /// Requests that contain `text` wait on their way, until [`let_go`](Self::let_go).
    pub fn hold(&self, text: &str) {
        *lock(&self.line.held_back) = Some(text.into());
    }

    /// Whatever waits goes on.
    pub fn let_go(&self) {
        *lock(&self.line.held_back) = None;
        self.line.let_go.notify_all();
    }

    /// How many requests have waited or wait.
    pub fn held(&self) -> usize {
        self.line.held.load(Ordering::SeqCst)
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
        self.let_go();
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

    fn serve(self: &Arc<Self>, id: usize, client: TcpStream) -> io::Result<()> {
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
        // Bytes of the answer that is on its way.
        let answered = Arc::new(AtomicUsize::new(0));
        let (line, asked) = (self.clone(), answered.clone());
        let up = thread::spawn(move || {
            pump(from, to, |chunk| {
                line.wait(chunk);
                asked.store(0, Ordering::SeqCst);
                chunk.len()
            })
        });
        pump(server, client, |chunk| {
            thread::sleep(lock(&self.pace).of(chunk.len()));
            self.allowed(&answered, chunk.len())
        });
        let _ = up.join();
        self.close(id);
        Ok(())
    }

    /// A request waits as long as it has to.
    fn wait(&self, request: &[u8]) {
        thread::sleep(lock(&self.pace).of(request.len()));
        let mut held_back = lock(&self.held_back);
        let contains = |text: &String| request.windows(text.len()).any(|part| part == text.as_bytes());
        if held_back.as_ref().is_some_and(contains) {
            self.held.fetch_add(1, Ordering::SeqCst);
            while held_back.is_some() {
                held_back = self.let_go.wait(held_back).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// How many of the next `bytes` of an answer are passed on.
    fn allowed(&self, answered: &AtomicUsize, bytes: usize) -> usize {
        let before = answered.fetch_add(bytes, Ordering::SeqCst);
        let limit = self.cut_after.load(Ordering::SeqCst);
        // Whoever takes the limit away is the one that is cut.
        let cut = limit > 0
            && before + bytes > limit
            && self.cut_after.compare_exchange(limit, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if !cut {
            return bytes;
        }
        self.broken_off.fetch_add(1, Ordering::SeqCst);
        limit.saturating_sub(before)
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
        lock(&self.open)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies until one side ends, then tells the other. Of each chunk as much as `allowed` says; less than all of it breaks the
/// line.
fn pump(mut from: TcpStream, mut to: TcpStream, mut allowed: impl FnMut(&[u8]) -> usize) {
    let mut block = vec![0; CHUNK];
    while let Ok(n @ 1..) = from.read(&mut block) {
        let passed = allowed(&block[..n]);
        if to.write_all(&block[..passed]).is_err() || passed < n {
            let _ = from.shutdown(Shutdown::Both);
            break;
        }
    }
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
mod tests;
