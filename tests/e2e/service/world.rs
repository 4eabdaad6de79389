//! A separate deployment for each test: its own queue, database and folder of the store, on shared or private servers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use jobs::JobId;
use jobs::ledger::{JobRecord, Ledger, LedgerSettings};
use jobs::secret_url::SecretUrl;
use jobs::state::Counts;
use jobs::store::{Store, StoreSettings};
use serde_json::{Value, json};
use support::clips::clip;
use support::servers::{Kind, shared};

use super::worker_process::WorkerProcess;
use crate::program::{Ran, command, run};

/// Upper bound of every wait on a busy machine.
const LONG: Duration = Duration::from_secs(300);

/// Names of videos and of their sample clips.
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
    /// Folder for the logs of its programs.
    pub folder: PathBuf,
    pub env: Vec<(String, String)>,
    runtime: tokio::runtime::Runtime,
    ledger: Ledger,
    inputs: Store,
    results: Store,
}

/// Default log filter: the steps of every worker, which tests wait for.
const STEPS: &str = "info,jobs=debug,video_worker=debug";
/// Log filter of tests that search logs for secrets.
const EVERYTHING: &str = "trace";

/// Polls `poll` until it returns a value.
#[track_caller]
pub fn wait<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    wait_for(what, LONG, &mut poll)
}

#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, poll: &mut dyn FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl World {
    /// Makes a deployment on the shared servers.
    pub fn new(name: &str) -> Self {
        Self::with(name, &[])
    }

    /// Makes a deployment whose programs log at the level `trace`. Such logs are slow; use it only to search for secrets.
    pub fn with_trace_log(name: &str) -> Self {
        Self::make(name, &[], EVERYTHING)
    }

    /// Makes a deployment with some variables of the servers replaced.
    pub fn with(name: &str, over: &[(String, String)]) -> Self {
        Self::make(name, over, STEPS)
    }

    /// Makes a deployment with replaced variables and the level `trace`.
    pub fn with_variables_and_trace_log(name: &str, over: &[(String, String)]) -> Self {
        Self::make(name, over, EVERYTHING)
    }

    fn make(name: &str, over: &[(String, String)], log: &str) -> Self {
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
            ("FLAMINGO__DATABASE__URL", database.clone()),
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
            ("FLAMINGO_LOG", log.into()),
        ];
        env.extend(settings.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let open =
            |part: &str| Store::open(&format!("{bucket}/{name}/{part}"), &StoreSettings::default()).unwrap();
        let (inputs, results) = (open("videos"), open("results"));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e/service").join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        let url = SecretUrl::new(database);
        let settings = LedgerSettings { connections: 1, ..LedgerSettings::default() };
        let ledger = runtime.block_on(Ledger::open(&url, &settings)).unwrap();
        let world = Self { name, folder, env, runtime, ledger, inputs, results };
        world.flamingo(&["migrate"]).exits(0);
        world
    }

    /// Returns the URL of the videos.
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

    /// Runs the program. Saves its standard error as a log.
    pub fn flamingo(&self, arguments: &[&str]) -> Ran {
        let ran = run(self.command().args(arguments));
        let log = self.folder.join(format!("{}-{:08x}.log", arguments[0], rand::random::<u32>()));
        std::fs::write(log, &ran.err).unwrap();
        ran
    }

    /// Starts a worker and waits until it consumes messages.
    pub fn worker(&self, name: &str) -> WorkerProcess {
        let worker = self.spawn(name, self.command().arg("work"));
        worker.wait_for_log("worker started");
        worker
    }

    /// Starts a program and saves its log.
    pub fn spawn(&self, name: &str, command: &mut Command) -> WorkerProcess {
        let log = self.folder.join(format!("{name}-{:08x}.log", rand::random::<u32>()));
        command.envs(self.env.iter().map(|(name, value)| (name, value))).env("FLAMINGO__WORKER__NAME", name);
        WorkerProcess::start(name, command, log)
    }

    /// Uploads a video.
    pub fn upload(&self, key: &str, bytes: Vec<u8>) {
        self.runtime.block_on(self.inputs.put(key, bytes.into())).unwrap();
    }

    /// Uploads sample clips as videos.
    pub fn upload_clips(&self, clips: &[(&str, &str)]) {
        for (key, name) in clips {
            self.upload(key, std::fs::read(clip(name)).unwrap());
        }
    }

    /// Returns a cheap job; `over` replaces some of its fields.
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

    /// Submits jobs from a file.
    pub fn submit(&self, jobs: &[Value]) -> Ran {
        let file = self.folder.join(format!("jobs-{:08x}.jsonl", rand::random::<u32>()));
        let lines: String = jobs.iter().map(|job| format!("{job}\n")).collect();
        std::fs::write(&file, lines).unwrap();
        self.flamingo(&["submit", file.to_str().unwrap()])
    }

    /// Returns the output of `jobs show`.
    pub fn show(&self, job: &str) -> Value {
        let ran = self.flamingo(&["jobs", "show", job, "--json"]).exits(0);
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
    }

    /// Waits until a job has ended. Returns the output of `jobs show`.
    #[track_caller]
    pub fn ended(&self, job: &str) -> Value {
        self.ended_within(job, LONG)
    }

    #[track_caller]
    pub fn ended_within(&self, job: &str, limit: Duration) -> Value {
        wait_for(&format!("the end of {job}"), limit, &mut || {
            self.record(job).is_some_and(|record| record.state.is_end()).then_some(())
        });
        self.show(job)
    }

    /// Returns a job of the ledger; `None` also if the ledger is unreachable.
    pub fn record(&self, job: &str) -> Option<JobRecord> {
        let id = JobId::try_from(job.to_owned()).unwrap();
        self.runtime.block_on(self.ledger.job(&id)).unwrap_or_default()
    }

    /// Returns the number of items per state; zeros if the ledger is unreachable.
    pub fn counts(&self, job: &str) -> Counts {
        let id = JobId::try_from(job.to_owned()).unwrap();
        self.runtime.block_on(self.ledger.counts(&id)).unwrap_or_default()
    }

    /// Returns the newest jobs of the ledger.
    pub fn records(&self, most: u32) -> Vec<JobRecord> {
        self.runtime.block_on(self.ledger.jobs(None, most)).unwrap_or_default()
    }

    /// Returns an object of the results.
    pub fn result(&self, key: &str) -> Option<Vec<u8>> {
        self.runtime.block_on(self.results.get(key, 1 << 26)).unwrap().map(|bytes| bytes.to_vec())
    }

    #[track_caller]
    pub fn result_json(&self, key: &str) -> Value {
        let bytes = self.result(key).unwrap_or_else(|| panic!("{key} is missing"));
        serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{key}: {e}"))
    }

    /// Returns the lines of a JSONL object of the results.
    #[track_caller]
    pub fn result_lines(&self, key: &str) -> Vec<Value> {
        let bytes = self.result(key).unwrap_or_else(|| panic!("{key} is missing"));
        let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    /// Puts an object in the place of a result.
    pub fn put_result(&self, key: &str, bytes: &[u8]) {
        self.runtime.block_on(self.results.put(key, bytes.to_vec().into())).unwrap();
    }

    pub fn delete_result(&self, key: &str) {
        self.runtime.block_on(self.results.delete(key)).unwrap();
    }

    /// Returns the keys of all results of a job, relative to the folder of the job.
    pub fn results(&self, job: &str) -> Vec<String> {
        let page = self.runtime.block_on(self.results.page(job, None, 10_000)).unwrap();
        let strip = |key: &str| key.strip_prefix(&format!("{job}/")).unwrap_or(key).to_owned();
        page.iter().map(|object| strip(&object.key)).collect()
    }

    /// Waits for the end of a job and checks its results: one report per item, results, errors and manifest, and no others.
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

    /// Runs a query in the database of the ledger. Returns its first value.
    pub fn sql(&self, query: &str) -> String {
        let (_, url) = self.env.iter().rfind(|(name, _)| name == "FLAMINGO__DATABASE__URL").unwrap();
        let ran = run(Command::new("psql").arg(url).args(["-Atqc", query])).exits(0);
        ran.out
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

/// Makes a database for one test.
fn own_database(server: &str, name: &str) -> String {
    let database = name.replace('-', "_");
    let made =
        Command::new("psql").arg(server).args(["-qc", &format!("CREATE DATABASE {database}")]).output();
    let made = made.expect("psql comes with Postgres");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (server, _) = server.rsplit_once('/').expect("the URL names a database");
    format!("{server}/{database}")
}

/// Asserts equal answers. Log-likelihoods may differ by the rounding of another batch.
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
