//! A TCP proxy between a client and its server. It can cut, slow, delay or refuse connections on command.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The answer of an overloaded S3 server.
const SLOW_DOWN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";

/// Upper bound of the head of a request, in bytes.
const HEAD: usize = 64 << 10;

/// Upper bound of one forwarded chunk, in bytes.
const CHUNK: usize = 64 << 10;

/// Speed limit of both directions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// Delay before every chunk of at most 64 KiB.
    pub latency: Duration,
    /// `None`: no limit.
    pub bytes_per_s: Option<u32>,
}

impl Pace {
    /// Returns the time that `bytes` bytes take.
    fn of(self, bytes: usize) -> Duration {
        let rate = self
            .bytes_per_s
            .map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / f64::from(rate)));
        self.latency + rate
    }
}

/// Forwards every connection to one server until it is dropped.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Owns the listener: it is closed when this thread has ended.
    acceptor: Option<JoinHandle<()>>,
}

/// State that the threads of a proxy share.
struct Shared {
    server: SocketAddr,
    /// Both ends of every open connection.
    open: Mutex<Vec<(usize, TcpStream)>>,
    accepted: AtomicUsize,
    forwarded: AtomicUsize,
    refuse: AtomicBool,
    answer_503: AtomicBool,
    hang: AtomicBool,
    pace: Mutex<Pace>,
    /// Number of bytes of one answer after which its connection is cut, once; 0: never.
    cut_after: AtomicUsize,
    truncated: AtomicUsize,
    /// Requests that contain this text are held.
    hold_pattern: Mutex<Option<String>>,
    released: Condvar,
    held: AtomicUsize,
    ended: AtomicBool,
}

impl Proxy {
    /// Starts a proxy to `server` on a free port of this machine.
    ///
    /// # Panics
    /// Panics if no port is free.
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no port is free");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            server,
            open: Mutex::default(),
            accepted: AtomicUsize::new(0),
            forwarded: AtomicUsize::new(0),
            refuse: AtomicBool::new(false),
            answer_503: AtomicBool::new(false),
            hang: AtomicBool::new(false),
            pace: Mutex::default(),
            cut_after: AtomicUsize::new(0),
            truncated: AtomicUsize::new(0),
            hold_pattern: Mutex::default(),
            released: Condvar::new(),
            held: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        let acceptor = Some(thread::spawn(move || accepting.accept(&listener)));
        Self { addr, shared, acceptor }
    }

    /// Returns the address that clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every open connection; new connections are served.
    pub fn cut(&self) {
        for (_, stream) in self.shared.open().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Closes new connections at once.
    pub fn refuse(&self, yes: bool) {
        self.shared.refuse.store(yes, Ordering::SeqCst);
    }

    /// Answers the first HTTP request of each new connection with 503, as S3 does, and closes the connection.
    pub fn answer_503(&self, yes: bool) {
        self.shared.answer_503.store(yes, Ordering::SeqCst);
    }

    /// Keeps new connections open without an answer until they are cut.
    pub fn hang(&self, yes: bool) {
        self.shared.hang.store(yes, Ordering::SeqCst);
    }

    /// Sets the speed limit of new and open connections.
    pub fn set_pace(&self, pace: Pace) {
        *lock(&self.shared.pace) = pace;
    }

    /// Cuts the next answer that is longer than `bytes` (head included) after `bytes` bytes; later answers stay whole.
    pub fn cut_after(&self, bytes: usize) {
        self.shared.cut_after.store(bytes, Ordering::SeqCst);
    }

    /// Returns the number of answers that were cut.
    pub fn truncated(&self) -> usize {
        self.shared.truncated.load(Ordering::SeqCst)
    }

    /// Holds requests that contain `text` until [`release`](Self::release).
    pub fn hold(&self, text: &str) {
        *lock(&self.shared.hold_pattern) = Some(text.into());
    }

    /// Forwards all held requests.
    pub fn release(&self) {
        *lock(&self.shared.hold_pattern) = None;
        self.shared.released.notify_all();
    }

    /// Returns the number of requests that were ever held.
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// Returns the number of connections from clients.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Returns the number of connections that reached the server.
    pub fn forwarded(&self) -> usize {
        self.shared.forwarded.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // This wakes the accepting thread.
        if TcpStream::connect(self.addr).is_ok()
            && let Some(acceptor) = self.acceptor.take()
        {
            let _ = acceptor.join();
        }
        self.release();
        self.cut();
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for (id, client) in listener.incoming().enumerate() {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            self.accepted.fetch_add(1, Ordering::SeqCst);
            let shared = self.clone();
            // The client notices a failed connection.
            thread::spawn(move || shared.serve(id, client));
        }
    }

    fn serve(self: &Arc<Self>, id: usize, client: TcpStream) -> io::Result<()> {
        if self.refuse.load(Ordering::SeqCst) {
            return client.shutdown(Shutdown::Both);
        }
        if self.answer_503.load(Ordering::SeqCst) {
            return answer_slow_down(client);
        }
        self.register(id, &client)?;
        if self.hang.load(Ordering::SeqCst) {
            return Ok(());
        }
        let server = TcpStream::connect(self.server).inspect_err(|_| self.close(id))?;
        self.forwarded.fetch_add(1, Ordering::SeqCst);
        self.register(id, &server)?;
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        // Bytes of the current answer.
        let answered = Arc::new(AtomicUsize::new(0));
        let (shared, asked) = (self.clone(), answered.clone());
        let up = thread::spawn(move || {
            pump(from, to, |chunk| {
                shared.delay(chunk);
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

    /// Delays a request as the speed limit and `hold` ask.
    fn delay(&self, request: &[u8]) {
        thread::sleep(lock(&self.pace).of(request.len()));
        let mut hold_pattern = lock(&self.hold_pattern);
        let contains = |text: &String| request.windows(text.len()).any(|part| part == text.as_bytes());
        if hold_pattern.as_ref().is_some_and(contains) {
            self.held.fetch_add(1, Ordering::SeqCst);
            while hold_pattern.is_some() {
                hold_pattern = self.released.wait(hold_pattern).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Returns how many of the next `bytes` of an answer to forward.
    fn allowed(&self, answered: &AtomicUsize, bytes: usize) -> usize {
        let before = answered.fetch_add(bytes, Ordering::SeqCst);
        let limit = self.cut_after.load(Ordering::SeqCst);
        // The thread that resets the limit cuts its connection; so one answer is cut.
        let cut = limit > 0
            && before + bytes > limit
            && self.cut_after.compare_exchange(limit, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if !cut {
            return bytes;
        }
        self.truncated.fetch_add(1, Ordering::SeqCst);
        limit.saturating_sub(before)
    }

    fn register(&self, id: usize, stream: &TcpStream) -> io::Result<()> {
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

/// Copies until one side ends, then closes the other side. Forwards of each chunk as much as `allowed` returns; cuts the
/// connection if that is less than the chunk.
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

fn answer_slow_down(mut client: TcpStream) -> io::Result<()> {
    // A silent client must not hold the thread for ever.
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
    // Closing before the body has arrived would reset the connection, and the client would lose the answer.
    io::copy(&mut client, &mut io::sink())?;
    Ok(())
}

#[cfg(test)]
mod tests;
