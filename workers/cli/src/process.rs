//! This process: its executable, its signals, and its number of threads.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::Context;

/// Environment variable from which candle and rayon take their number of threads.
const RAYON_THREADS: &str = "RAYON_NUM_THREADS";

/// Path of the running executable, which is also the decoder's.
///
/// # Errors
/// The operating system does not tell the path.
pub fn own_executable() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find this program on disk")
}

/// Ends this process, without a message, when it writes to a pipe whose reader is gone, as in `flamingo frames clip.mp4 |
/// head -1`. Rust ignores the signal by default, and then the write is an error. Writing to a closed socket stays an error.
#[allow(unsafe_code)]
pub fn end_on_closed_pipe() {
    // SAFETY: the default action of a signal runs no code of this program.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Fixes the number of threads of the model: `threads`, or one per core. Restarts the program where it is not set yet.
///
/// # Errors
/// The program cannot be restarted.
pub fn fix_thread_count(threads: Option<u16>) -> anyhow::Result<()> {
    // Without the variable, candle asks for the number of cores before every product: an eighth of the time.
    let threads = threads.map_or_else(candle_core::utils::get_num_threads, usize::from).to_string();
    match std::env::var(RAYON_THREADS) {
        Ok(set) if set == threads => Ok(()),
        _ => restart_with(RAYON_THREADS, &threads),
    }
}

/// Replaces this process by a new one with the same arguments and one more environment variable. Libraries read their
/// number of threads from the environment once, and a restart sets it without changing the environment of a running
/// process.
///
/// # Errors
/// The program cannot be restarted.
pub fn restart_with(variable: &str, value: &str) -> anyhow::Result<()> {
    let arguments = std::env::args_os().skip(1);
    let error = std::process::Command::new(own_executable()?).args(arguments).env(variable, value).exec();
    Err(error).with_context(|| format!("cannot restart the program with {variable}={value}"))
}
