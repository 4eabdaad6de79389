//! A deployment of its own for each test: a queue, a database and a folder of the store that nobody else uses, on servers
//! that all share or that the test has for itself.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jobs::store::{Store, StoreSettings};
use serde_json::{Value, json};
use support::clips::clip;
use support::servers::{Kind, shared};

use crate::program::{Ran, command, run};

/// How long anything may take on a machine that is busy with everything at once.
const LONG: Duration = Duration::from_secs(300);

/// Names of videos, and the sample clips that they are copies of.
pub const CLIPS: [(&str, &str); 6] = [
    ("a.mp4", "short"),
    ("b.webm", "vp8"),
    ("c.avi", "mjpeg"),
    ("d.mp4", "h264"),
    ("e.mp4", "mpeg4"),
    ("f.mp4", "hevc"),
];

pub struct World {
    pub name: String,
    /// Where the logs of its programs go.
    pub folder: PathBuf,
    pub env: Vec<(String, String)>,
    runtime: tokio::runtime::Runtime,
    inputs: Store,
    results: Store,
}

/// A worker that runs. Dropped, it is killed.
pub struct WorkerProcess {
    child: Child,
    log: PathBuf,
    name: String,
}

/// Waits until `seen` sees something.
#[track_caller]
pub fn wait<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    wait_for(what, LONG, &mut seen)
}

#[track_caller]
pub fn wait_for<T>(what: &str, patience: Duration, seen: &mut dyn FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(thing) = seen() {
            return thing;
        }
        assert!(start.elapsed() < patience, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl World {
    /// On the servers that all tests share.
    pub fn new(name: &str) -> Self {
        Self::with(name, &[])
    }

    /// The same, but some variables lead elsewhere.
    pub fn with(name: &str, over: &[(String, String)]) -> Self {
        let name = format!("{name}-{:08x}", rand::random::<u32>());
        let mut env: Vec<_> =
            [Kind::RabbitMq, Kind::Postgres, Kind::S3].into_iter().flat_map(shared).collect();
        for (variable, value) in over {
            env.retain(|(known, _)| known != variable);
            env.push((variable.clone(), value.clone()));
        }
        let variable = |wanted: &str| {
            let found = env.iter().find(|(known, _)| known == wanted);
            found.unwrap_or_else(|| panic!("no {wanted}")).1.clone()
        };
        let bucket = variable("FLAMINGO_TEST_S3");
        let database = own_database(&variable("FLAMINGO_TEST_POSTGRES"), &name);
        let settings = [
            ("FLAMINGO__QUEUE__URL", variable("FLAMINGO_TEST_AMQP")),
            ("FLAMINGO__QUEUE__NAME", name.clone()),
            ("FLAMINGO__QUEUE__RETRY_DELAYS", "1s,5s".into()),
            ("FLAMINGO__DATABASE__URL", database),
            ("FLAMINGO__STORE__URL", format!("{bucket}/{name}/results")),
            ("FLAMINGO__INPUTS__ALLOW", format!("{bucket}/{name}")),
            ("FLAMINGO__INPUTS__PAGE", "7".into()),
            ("FLAMINGO__WORKER__LEASE", "4s".into()),
            ("FLAMINGO__WORKER__HEARTBEAT", "1s".into()),
            ("FLAMINGO__WORKER__SWEEP", "500ms".into()),
            ("FLAMINGO__WORKER__FORGOTTEN", "3s".into()),
            ("FLAMINGO__WORKER__BACKOFF_FIRST", "200ms".into()),
            ("FLAMINGO__WORKER__BACKOFF_MOST", "2s".into()),
            ("FLAMINGO__STATUS__ADDRESS", String::new()),
            // Everything that could say a secret says it.
            ("FLAMINGO_LOG", "trace".into()),
        ];
        env.extend(settings.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let open =
            |part: &str| Store::open(&format!("{bucket}/{name}/{part}"), &StoreSettings::default()).unwrap();
        let (inputs, results) = (open("videos"), open("results"));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e/service").join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        let world = Self { name, folder, env, runtime, inputs, results };
        world.flamingo(&["migrate"]).exits(0);
        world
    }

    /// Where the videos of this test are.
    pub fn videos(&self) -> String {
        let bucket = self.env.iter().find(|(name, _)| name == "FLAMINGO_TEST_S3").unwrap().1.clone();
        format!("{bucket}/{}/videos", self.name)
    }

    pub fn set(&mut self, variable: &str, value: &str) {
        self.env.push((variable.to_owned(), value.to_owned()));
    }

    pub fn command(&self) -> Command {
        let mut command = command();
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the program; what it says on standard error is kept as a log too.
    pub fn flamingo(&self, arguments: &[&str]) -> Ran {
        let ran = run(self.command().args(arguments));
        let log = self.folder.join(format!("{}-{:08x}.log", arguments[0], rand::random::<u32>()));
        std::fs::write(log, &ran.err).unwrap();
        ran
    }

    /// Starts a worker, and waits until it takes messages.
    pub fn worker(&self, name: &str) -> WorkerProcess {
        let worker = self.spawn(name, self.command().arg("work"));
        worker.wait_for_log("worker started");
        worker
    }

    /// Starts a program whose log is kept.
    pub fn spawn(&self, name: &str, command: &mut Command) -> WorkerProcess {
        let log = self.folder.join(format!("{name}-{:08x}.log", rand::random::<u32>()));
        let child = command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("FLAMINGO__WORKER__NAME", name)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        WorkerProcess { child, log, name: name.into() }
    }

    /// Puts a file among the videos.
    pub fn upload(&self, key: &str, bytes: Vec<u8>) {
        self.runtime.block_on(self.inputs.put(key, bytes.into())).unwrap();
    }

    /// Puts sample clips among the videos.
    pub fn upload_clips(&self, clips: &[(&str, &str)]) {
        for (key, name) in clips {
            self.upload(key, std::fs::read(clip(name)).unwrap());
        }
    }

    /// A job that asks little of the model, with any fields set otherwise.
    pub fn job(&self, id: &str, over: Value) -> Value {
        let mut job = json!({
            "schema": "flamingo.job/1",
            "job_id": id,
            "tasks": [{ "kind": "caption" }],
            "input": { "prefix": { "url": self.videos() } },
            "generation": { "strategy": { "kind": "greedy" }, "max_new_tokens": 3 },
        });
        for (name, value) in over.as_object().unwrap() {
            job[name] = value.clone();
        }
        job
    }

    /// Submits jobs as a file.
    pub fn submit(&self, jobs: &[Value]) -> Ran {
        let file = self.folder.join(format!("jobs-{:08x}.jsonl", rand::random::<u32>()));
        let lines: String = jobs.iter().map(|job| format!("{job}\n")).collect();
        std::fs::write(&file, lines).unwrap();
        self.flamingo(&["submit", file.to_str().unwrap()])
    }

    /// What `jobs show` says.
    pub fn show(&self, job: &str) -> Value {
        let ran = self.flamingo(&["jobs", "show", job, "--json"]).exits(0);
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
    }

    /// Waits until a job has ended; what `jobs show` says then.
    #[track_caller]
    pub fn ended(&self, job: &str) -> Value {
        let ends = ["succeeded", "partially_succeeded", "failed", "cancelled", "expired"];
        wait(&format!("the end of {job}"), || {
            let shown = self.show(job);
            ends.iter().any(|end| shown["status"] == **end).then_some(shown)
        })
    }

    /// An object among the results.
    pub fn result(&self, key: &str) -> Option<Vec<u8>> {
        self.runtime.block_on(self.results.get(key, 1 << 26)).unwrap().map(|bytes| bytes.to_vec())
    }

    #[track_caller]
    pub fn result_json(&self, key: &str) -> Value {
        let bytes = self.result(key).unwrap_or_else(|| panic!("{key} is not there"));
        serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{key}: {e}"))
    }

    /// The lines of a JSONL object among the results.
    #[track_caller]
    pub fn result_lines(&self, key: &str) -> Vec<Value> {
        let bytes = self.result(key).unwrap_or_else(|| panic!("{key} is not there"));
        let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    /// The keys of everything that a job left in the store, without the job's own folder.
    pub fn results(&self, job: &str) -> Vec<String> {
        let page = self.runtime.block_on(self.results.page(job, None, 10_000)).unwrap();
        let strip = |key: &str| key.strip_prefix(&format!("{job}/")).unwrap_or(key).to_owned();
        page.iter().map(|object| strip(&object.key)).collect()
    }

    /// A job has ended as it should: one report for each of its items and nothing else, gathered, and nothing is open.
    #[track_caller]
    pub fn check_whole(&self, job: &str, status: &str, succeeded: usize, failed: usize) {
        let shown = self.ended(job);
        assert_eq!(shown["status"], status, "{shown:#}");
        let counts = &shown["counts"];
        let total = succeeded + failed;
        let expected = json!({ "total": total, "queued": 0, "running": 0, "succeeded": succeeded, "failed": failed, "cancelled": 0 });
        assert_eq!(*counts, expected);
        let keys = self.results(job);
        let reports = keys.iter().filter(|key| key.starts_with("items/")).count();
        assert_eq!(reports, total, "{keys:?}");
        assert_eq!(keys.len(), total + 3, "{keys:?}");
        let lines = self.result_lines(&format!("{job}/results.jsonl"));
        let errors = self.result_lines(&format!("{job}/errors.jsonl"));
        assert_eq!((lines.len(), errors.len()), (succeeded, failed));
        let manifest = self.result_json(&format!("{job}/manifest.json"));
        assert_eq!((&manifest["status"], &manifest["counts"]["total"]), (&json!(status), &json!(total)));
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

/// Postgres can make databases, and one for each test keeps them apart.
fn own_database(server: &str, name: &str) -> String {
    let database = name.replace('-', "_");
    let made =
        Command::new("psql").arg(server).args(["-qc", &format!("CREATE DATABASE {database}")]).output();
    let made = made.expect("psql comes with Postgres");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (server, _) = server.rsplit_once('/').expect("the URL names a database");
    format!("{server}/{database}")
}

impl WorkerProcess {
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        wait(&format!("{text:?} in the log of {} ({})", self.name, self.log.display()), || {
            self.log().contains(text).then_some(())
        });
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    /// Its exit status; `None`: a signal ended it.
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

/// Equal to the last letter; likelihoods within what the company of other answers in a batch may change.
#[track_caller]
pub fn same_answers(one: &Value, other: &Value) {
    let (mut one, mut other) = (one.clone(), other.clone());
    let likelihoods: [Vec<f64>; 2] = [take_likelihoods(&mut one), take_likelihoods(&mut other)];
    assert_eq!(one, other);
    assert!(!likelihoods[0].is_empty() && likelihoods[0].len() == likelihoods[1].len());
    for (a, b) in likelihoods[0].iter().zip(&likelihoods[1]) {
        support::likelihood::assert_same("an answer", *a, *b);
    }
}

fn take_likelihoods(value: &mut Value) -> Vec<f64> {
    match value {
        Value::Array(list) => list.iter_mut().flat_map(take_likelihoods).collect(),
        Value::Object(map) => {
            let own = map.remove("log_likelihood").and_then(|likelihood| likelihood.as_f64());
            own.into_iter().chain(map.values_mut().flat_map(take_likelihoods)).collect()
        }
        _ => Vec::new(),
    }
}
