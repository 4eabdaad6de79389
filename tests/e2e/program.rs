//! The built program and the untrained model of the tests.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

use serde_json::Value;
use support::language_model::smollm2;
use support::repository::root;

/// Options for tests that do not check the text of an answer.
pub const QUICK: [&str; 4] = ["--beams", "1", "--max-new-tokens", "3"];

/// Exit status and output of a run.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Asserts the exit status.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Returns standard output, parsed as one JSON object per line.
    #[track_caller]
    pub fn reports(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.out.lines().map(parse).collect()
    }

    /// Returns the only JSON object.
    #[track_caller]
    pub fn report(&self) -> Value {
        let mut reports = self.reports();
        assert_eq!(reports.len(), 1, "{self:?}");
        reports.remove(0)
    }

    /// Returns the lines of standard error that are errors.
    pub fn errors(&self) -> Vec<&str> {
        self.err.lines().filter(|line| line.starts_with("error")).collect()
    }
}

/// Runs `flamingo` on the untrained model.
pub fn flamingo<S: AsRef<OsStr>>(arguments: &[S]) -> Ran {
    run(command().args(arguments))
}

/// Runs `flamingo COMMAND INPUT... --beams 1 ...`.
pub fn quick<S: AsRef<OsStr>>(arguments: &[S]) -> Ran {
    run(command().args(arguments).args(QUICK))
}

pub fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Returns a command for `flamingo` with the untrained model as its default.
pub fn command() -> Command {
    let mut command = Command::new(binary());
    command.env("FLAMINGO_MODEL", model()).stdin(Stdio::null());
    command
}

/// Returns the folder of flamingo-mini.
pub fn mini() -> PathBuf {
    root().join("models/flamingo-mini")
}

/// Returns the path of a sample clip of SpriteWorld.
pub fn sample(name: &str) -> PathBuf {
    root().join("samples/spriteworld").join(name)
}

/// Returns the path of the program in the build folder of this test.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().expect("a test is a file");
        let folder = test.ancestors().nth(2).expect("tests lie in a folder of the build folder");
        let path = folder.join("flamingo");
        let build = "cargo build --release --workspace";
        assert!(path.is_file(), "{} is not there: run `{build}`", path.display());
        let newest = newest_source(&path.with_extension("d"));
        let built = path.metadata().and_then(|m| m.modified()).expect("a file has a time");
        assert!(newest <= built, "{} is older than its source: run `{build}`", path.display());
        path
    })
}

/// Returns the time of the newest source file of the program, as cargo lists them.
fn newest_source(list: &Path) -> SystemTime {
    let text = std::fs::read_to_string(list).unwrap_or_else(|e| panic!("{}: {e}", list.display()));
    let (_, files) = text.split_once(": ").expect("a rule of make");
    let written = |file: &str| std::fs::metadata(file).and_then(|m| m.modified()).ok();
    files.split_whitespace().filter_map(written).max().expect("the program has a source")
}

/// Returns the untrained model, made once per run of the tests.
pub fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e/model");
        let _ = std::fs::remove_dir_all(&folder);
        let mut init = Command::new(binary());
        init.args(["model", "init", "--language"]).arg(smollm2()).arg("--out").arg(&folder);
        run(&mut init).exits(0);
        folder
    })
}

/// Returns the names in a folder, sorted.
pub fn listing(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
