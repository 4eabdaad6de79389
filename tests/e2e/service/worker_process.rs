//! A worker process and its log.

use std::cell::{Ref, RefCell};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::world::wait;

/// Running worker. It is killed on drop.
pub struct WorkerProcess {
    child: Child,
    log: RefCell<Log>,
    name: String,
}

/// Growing log file. Each part of it is read once.
struct Log {
    path: PathBuf,
    file: File,
    text: String,
    /// Bytes of an incomplete character at the end.
    rest: Vec<u8>,
}

impl Log {
    fn read(&mut self) {
        self.file.read_to_end(&mut self.rest).unwrap();
        let whole = std::str::from_utf8(&self.rest).map_or_else(|e| e.valid_up_to(), str::len);
        let part = self.rest.drain(..whole).collect();
        self.text.push_str(&String::from_utf8(part).expect("this part is valid UTF-8"));
    }
}

impl WorkerProcess {
    /// Starts a program that logs to the file `log`.
    pub fn start(name: &str, command: &mut Command, log: PathBuf) -> Self {
        let child = command
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let file = File::open(&log).unwrap();
        let log = RefCell::new(Log { path: log, file, text: String::new(), rest: Vec::new() });
        Self { child, log, name: name.into() }
    }

    /// Returns its log so far.
    pub fn log(&self) -> Ref<'_, str> {
        self.log.borrow_mut().read();
        Ref::map(self.log.borrow(), |log| log.text.as_str())
    }

    /// Returns the number of occurrences of a text in its log.
    pub fn logged(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        let path = self.log.borrow().path.display().to_string();
        wait(&format!("{text:?} in the log of {} ({path})", self.name), || {
            (self.logged(text) > 0).then_some(())
        });
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end. Returns the exit status, or `None` if a signal ended it.
    #[track_caller]
    pub fn wait(&mut self) -> Option<i32> {
        let name = self.name.clone();
        wait(&format!("the end of {name}"), || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
