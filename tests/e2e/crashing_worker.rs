//! Worker like `flamingo work` that kills itself with `kill -9` right after the step that `CRASH_AFTER` names. The released
//! program has no such option.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use candle_core::Device;
use flamingo::Pipeline;
use jobs::worker::{Observer, Step, Stop};
use jobs::{ItemId, JobId};
use video_worker::app::{Backends, build_worker};
use video_worker::settings;

struct CrashAfter(String);

impl<R> Observer<R> for CrashAfter {
    fn step(&self, step: Step<'_>, job: Option<&JobId>, item: Option<&ItemId>) {
        let step = format!("{step:?}");
        eprintln!("{step} {job:?} {item:?}");
        if step.starts_with(&self.0) {
            eprintln!("crashes after {}", self.0);
            let killed = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            panic!("kill failed: {killed:?}");
        }
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

#[tokio::main]
async fn main() {
    let (settings, _) = settings::load(None, &[]).unwrap();
    let backends = Backends::open(&settings).await.unwrap();
    backends.wait(&settings).await.unwrap();
    let pipeline = Pipeline::load(Path::new(&variable("FLAMINGO_MODEL")), Device::Cpu).unwrap();
    let observer = Arc::new(CrashAfter(variable("CRASH_AFTER")));
    let decoder = PathBuf::from(variable("DECODER"));
    let worker = build_worker(&settings, &backends, pipeline, decoder, observer, Stop::default()).unwrap();
    worker.run().await.unwrap();
}
