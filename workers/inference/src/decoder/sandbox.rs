//! Confines this process for good: no files, no sockets, no other programs.
//!
//! Two mechanisms. seccomp allows a short list of system calls and answers any other with ENOSYS, so that libraries fall
//! back instead of dying. Landlock gets an empty list of files and ports.
//!
//! There is no limit on processes (`RLIMIT_NPROC`). A decoder can start threads, which FFmpeg needs and its memory limits.
//! It cannot start a process: `fork`, `vfork` and `execve` are not on seccomp's list, and `clone` is there for threads
//! only. `RLIMIT_NPROC` counts all threads of a user on the whole machine, and does not apply to root: a value that leaves
//! FFmpeg its threads protects nothing, and a smaller one makes videos fail because of other processes.
use std::collections::BTreeMap;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde::{Deserialize, Serialize};

/// Confinement mechanisms that are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// seccomp: a short list of system calls.
    pub system_calls: bool,
    /// Landlock: no file and, on newer kernels, no port and no signal to another process.
    pub files: bool,
}

impl Confinement {
    /// Returns whether all mechanisms are in force.
    pub fn is_full(self) -> bool {
        self.system_calls && self.files
    }
}

impl std::fmt::Display for Confinement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.system_calls, self.files) {
            (true, true) => "system calls and files",
            (true, false) => "system calls only (the kernel has no Landlock)",
            (false, true) => "files only (the kernel has no seccomp filters)",
            (false, false) => "limits only (the kernel has neither seccomp filters nor Landlock)",
        })
    }
}

/// Confines this process. Must be called while it has one thread: Landlock reaches only this thread and its children.
pub(super) fn enter() -> Confinement {
    // Landlock first: seccomp does not allow its system calls.
    Confinement { files: restrict_files(), system_calls: restrict_system_calls().is_ok() }
}

/// Applies Landlock with an empty list, as far as the kernel supports it.
fn restrict_files() -> bool {
    let newest = ABI::V6;
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(newest)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(newest)))
        .and_then(|ruleset| ruleset.create())
        .and_then(|ruleset| ruleset.restrict_self());
    restricted.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

fn restrict_system_calls() -> Result<(), seccompiler::Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let denied = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new(allowed()?, denied, SeccompAction::Allow, architecture)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter_all_threads(&program)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Returns the allowed system calls: memory, threads, clocks, and I/O on open descriptors.
fn allowed() -> Result<Rules, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let of = |argument: u8, op: SeccompCmpOp, value: u64| {
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)?])
    };
    let itself = u64::from(std::process::id());
    let signal = |argument: u8| {
        let to_itself = SeccompCondition::new(0, SeccompCmpArgLen::Dword, Eq, itself)?;
        let kill = libc::SIGKILL as u64;
        SeccompRule::new(vec![to_itself, SeccompCondition::new(argument, SeccompCmpArgLen::Dword, Ne, kill)?])
    };
    let no_program = MaskedEq(libc::PROT_EXEC as u64);
    let thread = (libc::CLONE_THREAD | libc::CLONE_VM) as u64;
    let unconditional = [
        libc::SYS_brk,
        libc::SYS_clock_getres,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_fstat,
        libc::SYS_futex,
        libc::SYS_getpid,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_gettimeofday,
        libc::SYS_lseek,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_nanosleep,
        libc::SYS_ppoll,
        libc::SYS_pread64,
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_restart_syscall,
        libc::SYS_rseq,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_yield,
        libc::SYS_set_robust_list,
        libc::SYS_sigaltstack,
        libc::SYS_sysinfo,
        libc::SYS_write,
        libc::SYS_writev,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
    ];
    let conditional = [
        // Threads of this process, not processes. (`clone3` passes its flags in memory; without it glibc uses `clone`.)
        (libc::SYS_clone, vec![of(0, MaskedEq(thread), thread)?]),
        // No executable memory.
        (libc::SYS_mmap, vec![of(2, no_program.clone(), 0)?]),
        (libc::SYS_mprotect, vec![of(2, no_program, 0)?]),
        // Reads flags of descriptors; duplicates none.
        (libc::SYS_fcntl, vec![of(1, Eq, libc::F_GETFD as u64)?, of(1, Eq, libc::F_GETFL as u64)?]),
        // Names threads.
        (libc::SYS_prctl, vec![of(0, Eq, libc::PR_SET_NAME as u64)?]),
        // Signals to itself, except SIGKILL, which the parent takes for the kernel out of memory.
        (libc::SYS_kill, vec![signal(1)?]),
        (libc::SYS_tgkill, vec![signal(2)?]),
    ];
    Ok(unconditional.into_iter().map(|call| (call, Vec::new())).chain(conditional).collect())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    const MECHANISM: &str = "FLAMINGO_TEST_MECHANISM";

    /// Tries what a compromised decoder would try; prints each attempt that worked.
    fn try_everything(listener: &str, folder: &str) {
        let worked: Vec<(&str, bool)> = vec![
            ("read a file", File::open("/etc/passwd").is_ok()),
            ("list a folder", fs::read_dir("/").is_ok()),
            ("ask what lies at a path", fs::metadata("/etc/passwd").is_ok()),
            ("write a file", fs::write(format!("{folder}/written"), "x").is_ok()),
            ("remove a file", fs::remove_file(format!("{folder}/there")).is_ok()),
            ("connect", TcpStream::connect(listener).is_ok()),
            ("listen", TcpListener::bind("127.0.0.1:0").is_ok()),
            ("send a datagram", UdpSocket::bind("127.0.0.1:0").is_ok()),
            ("reach a local socket", UnixStream::pair().is_ok()),
            ("start a program", Command::new("/bin/true").status().is_ok()),
            // A change of uid, even to the same, uses `fork` and not `posix_spawn`.
            ("fork", Command::new("/bin/true").uid(rustix::process::getuid().as_raw()).status().is_ok()),
            ("signal another process", {
                let parent = rustix::process::getppid().expect("a test has a parent");
                rustix::process::test_kill_process(parent).is_ok()
            }),
        ];
        for (what, _) in worked.iter().filter(|(_, worked)| *worked) {
            println!("\nWORKED: {what}");
        }
        // Everything that decoding needs must still work.
        let threads: Vec<_> = (0..3).map(|i| std::thread::spawn(move || vec![i; 1 << 22].len())).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() == 1 << 22));
        println!("\nLIVES");
    }

    /// The parent takes SIGKILL for the kernel out of memory, so a decoder must not be able to send it.
    fn cannot_send_sigkill() {
        use rustix::process::{Signal, getpid, kill_process};
        assert!(kill_process(getpid(), Signal::KILL).is_err());
    }

    /// Runs this test in a child process with one mechanism or both; returns the attempts that worked.
    fn attempts_that_work(mechanism: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("there"), "x").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "decoder::sandbox::tests::confined_process_can_do_nothing_else",
                "--nocapture",
                "--test-threads",
                "1",
            ])
            .env(MECHANISM, mechanism)
            .env("LISTENER", listener.local_addr().unwrap().to_string())
            .env("FOLDER", folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("LIVES"), "{mechanism}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
        text.lines().filter_map(|line| line.strip_prefix("WORKED: ")).map(String::from).collect()
    }

    #[test]
    fn confined_process_can_do_nothing_else() {
        let variable = |name: &str| std::env::var(name).unwrap();
        if let Ok(mechanism) = std::env::var(MECHANISM) {
            let (listener, folder) = (variable("LISTENER"), variable("FOLDER"));
            match mechanism.as_str() {
                "none" => {}
                "files" => assert!(restrict_files()),
                "system calls" => restrict_system_calls().unwrap(),
                _ => assert!(enter().is_full()),
            }
            if mechanism == "system calls" || mechanism == "both" {
                cannot_send_sigkill();
            }
            return try_everything(&listener, &folder);
        }
        assert_eq!(attempts_that_work("none").len(), 12, "all work without confinement");
        assert_eq!(attempts_that_work("both"), [""; 0]);
        assert_eq!(attempts_that_work("system calls"), [""; 0]);
        // Landlock covers neither other kinds of sockets nor programs whose files are already open.
        let left = attempts_that_work("files");
        for closed in
            ["read a file", "list a folder", "write a file", "remove a file", "connect", "start a program"]
        {
            assert!(!left.iter().any(|what| what == closed), "{closed}: {left:?}");
        }
    }
}
