//! A command ends without a message when the reader of its output is gone.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use support::clips::clip;

use crate::program::{QUICK, command};

const SIGPIPE: i32 = 13;

#[test]
fn commands_end_quietly_when_their_reader_is_gone() {
    let short = clip("short");
    let short = short.to_str().unwrap();
    for arguments in [
        &["frames", short][..],
        &["frames", short, "--json"],
        &[&["caption", short], &QUICK[..]].concat(),
        &[&["caption", short, "--json"], &QUICK[..]].concat(),
        &["model", "inspect"],
        &["config"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = command().args(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(ended.status.signal(), Some(SIGPIPE), "{arguments:?}: {ended:?}");
        let messages = String::from_utf8(ended.stderr).unwrap();
        assert!(!messages.contains("error") && !messages.contains("panicked"), "{arguments:?}: {messages}");
    }
}
