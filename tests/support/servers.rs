//! RabbitMQ, Postgres and S3 for tests: shared servers, and private servers that a test may stop or kill.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::repository::root;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RabbitMq,
    Postgres,
    S3,
}

/// Private server of one test. It is stopped when it is dropped.
pub struct Server {
    kind: Kind,
    folder: PathBuf,
    options: Vec<(String, String)>,
    env: Vec<(String, String)>,
}

/// Returns the environment variables that describe the shared server.
///
/// # Panics
/// Panics if the server is not running: a test that needs a server fails, it never skips.
pub fn shared(kind: Kind) -> Vec<(String, String)> {
    let value = |name: &&str| Some(((*name).to_owned(), env::var(name).ok()?));
    let found: Option<Vec<_>> = kind.variables().iter().map(value).collect();
    let advice = "run `make test`, or scripts/with_servers.sh cargo test ...";
    found.unwrap_or_else(|| panic!("the tests' {} is not running: {advice}", kind.word()))
}

impl Server {
    /// Starts a server below `target/servers/` and waits until it answers. Removes the files of an earlier run. Concurrent
    /// tests must choose different names.
    ///
    /// # Panics
    /// Panics, as all other methods do, if scripts/server.sh fails; the message has its standard error.
    pub fn start(kind: Kind, name: &str) -> Self {
        Self::start_with(kind, name, &[])
    }

    /// Starts a server with options of its script, such as `RABBITMQ_CONSUMER_TIMEOUT_MS`.
    pub fn start_with(kind: Kind, name: &str, options: &[(&str, &str)]) -> Self {
        let folder = root().join("target/servers").join(name);
        let options = options.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        let mut server = Self { kind, folder, options, env: Vec::new() };
        server.script("remove");
        server.start_again();
        server
    }

    /// Returns the environment variables that describe the server; a restart does not change them.
    pub fn env(&self) -> Vec<(String, String)> {
        self.env.clone()
    }

    /// Returns its log, which starts with its creation.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.join("log")).expect("a server that was started has a log");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the path of its pid file, which exists while the server runs.
    pub fn pid_file(&self) -> PathBuf {
        self.folder.join("pid")
    }

    /// Stops it gracefully.
    pub fn stop(&self) {
        self.script("stop");
    }

    /// Kills it, as a crash does. RabbitMQ 3.10 saves a new quorum queue late: a broker that is killed within a second of
    /// the declaration restarts with a queue that never answers.
    pub fn kill(&self) {
        self.script("kill");
    }

    /// Starts it after a stop or a kill, with the same data, ports and password.
    pub fn start_again(&mut self) {
        self.env = parse(&self.script("start"));
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Runs the script and returns its standard output.
    fn script(&self, verb: &str) -> String {
        let mut command = Command::new(root().join("scripts/server.sh"));
        command.arg(verb);
        if verb == "start" {
            command.arg(self.kind.word());
        }
        command.arg(&self.folder).envs(self.options.iter().map(|(name, value)| (name, value)));
        let output = command.output().unwrap_or_else(|e| panic!("scripts/server.sh did not start: {e}"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "scripts/server.sh {verb} {}: {errors}", self.folder.display());
        String::from_utf8(output.stdout).expect("scripts/server.sh prints text")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A failing test must keep its own panic message.
        let _ = Command::new(root().join("scripts/server.sh")).arg("stop").arg(&self.folder).status();
    }
}

impl Kind {
    /// Returns its name for scripts/server.sh.
    fn word(self) -> &'static str {
        match self {
            Self::RabbitMq => "rabbitmq",
            Self::Postgres => "postgres",
            Self::S3 => "s3",
        }
    }

    /// Returns the names of the variables that scripts/server.sh prints.
    fn variables(self) -> &'static [&'static str] {
        match self {
            Self::RabbitMq => &["FLAMINGO_TEST_AMQP", "FLAMINGO_TEST_RABBITMQ_API"],
            Self::Postgres => &["FLAMINGO_TEST_POSTGRES"],
            Self::S3 => &[
                "FLAMINGO_TEST_S3",
                "AWS_ACCESS_KEY_ID",
                "AWS_SECRET_ACCESS_KEY",
                "AWS_REGION",
                "AWS_ENDPOINT_URL",
                "AWS_ALLOW_HTTP",
            ],
        }
    }
}

/// Parses lines of the form `NAME=value`.
fn parse(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(|line| line.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test of a restarting broker checks the same of RabbitMQ, which starts slowest.
    #[test]
    #[ignore = "needs Postgres and S3"]
    fn private_servers_restart() {
        for kind in [Kind::Postgres, Kind::S3] {
            let mut server = Server::start(kind, &format!("self-test-{}", kind.word()));
            let first = server.env();
            let names: Vec<&str> = first.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, kind.variables());
            server.restart();
            server.kill();
            server.kill();
            server.start_again();
            assert_eq!(server.env(), first);
            let pid = server.pid_file();
            assert!(pid.exists());
            drop(server);
            assert!(!pid.exists(), "{kind:?} still runs after its test");
            assert_eq!(shared(kind).len(), first.len());
        }
    }
}
