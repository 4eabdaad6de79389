//! One bad file never stops the others, and each error names its file and its reason.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use serde_json::Value;
use support::clips::{clip, run, write};

use crate::program::{flamingo, listing, quick, read_json};

/// File name and error code; `None` for files that are answered.
const FOLDER: [(&str, Option<&str>); 7] = [
    ("a_good.mp4", None),
    ("b_text.mp4", Some("unknown_container")),
    ("c_empty.mp4", Some("empty_file")),
    ("d_playlist.mp4", Some("container_not_allowed")),
    // This file has its index at the beginning, the next one at the end.
    ("e_cut.mp4", None),
    ("f_cut.mp4", Some("malformed_video")),
    ("g_good.mkv", None),
];

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let cut = |name| {
        let bytes = std::fs::read(clip(name)).unwrap();
        bytes[..bytes.len() * 6 / 10].to_vec()
    };
    let playlist = b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n";
    let contents: [&[u8]; 7] = [
        &std::fs::read(clip("short")).unwrap(),
        b"dear diary, today nothing moved\n",
        b"",
        playlist,
        &cut("faststart"),
        &cut("h264"),
        &std::fs::read(clip("three_streams")).unwrap(),
    ];
    for ((name, _), bytes) in FOLDER.iter().zip(contents) {
        write(folder.path(), name, bytes);
    }
    write(folder.path(), "notes.txt", b"no input");
    folder
}

#[test]
fn each_bad_file_has_an_error_line() {
    let folder = folder();
    let ran = quick(&[OsStr::new("caption"), folder.path().as_os_str()]).exits(1);
    let bad: Vec<_> = FOLDER.iter().filter_map(|(name, code)| Some((name, (*code)?))).collect();
    assert_eq!(ran.errors().len(), bad.len(), "{ran:?}");
    for (line, (name, code)) in ran.errors().iter().zip(bad) {
        let path = folder.path().join(name);
        assert!(line.starts_with(&format!("error[{code}]: {}: ", path.display())), "{line}");
    }
    let answered: Vec<_> = ran.out.lines().filter(|line| !line.starts_with(' ')).collect();
    let good = FOLDER.iter().filter(|(_, code)| code.is_none());
    let good: Vec<_> = good.map(|(name, _)| folder.path().join(name).display().to_string()).collect();
    assert_eq!(answered, good);
    let warning =
        ran.err.lines().find(|line| line.starts_with("warning: ")).expect("no warning about the cut video");
    assert!(warning.contains("e_cut.mp4: the video can be read up to "), "{warning}");
    assert!(ran.err.trim_end().ends_with("4 of 7 inputs failed"), "{}", ran.err);
    assert_eq!(ran.err.matches("untrained").count(), 1, "{}", ran.err);
}

#[test]
fn json_output_equals_the_report_files() {
    let (folder, out) = (folder(), tempfile::tempdir().unwrap());
    let arguments = ["caption", "--json", "--sheet", "--out"].map(OsStr::new);
    let paths = [out.path().as_os_str(), folder.path().as_os_str()];
    let ran = quick(&[&arguments[..], &paths].concat()).exits(1);
    let reports = ran.reports();
    assert_eq!(reports.len(), FOLDER.len());
    let mut files = Vec::new();
    for (report, (name, code)) in reports.iter().zip(FOLDER) {
        let input = folder.path().join(name).display().to_string();
        assert_eq!(report["input"], serde_json::json!([input]));
        let status = if code.is_some() { "failed" } else { "succeeded" };
        assert_eq!((report["status"].as_str(), report["error"]["code"].as_str()), (Some(status), code));
        assert_eq!(report["answers"].is_array(), code.is_none(), "{report}");
        files.push(format!("{name}.json"));
        files.extend(code.is_none().then(|| format!("{name}.png")));
        let path = out.path().join(format!("{name}.json"));
        assert_eq!(read_json(&path), *report, "{name}");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o666 & !umask(), "{name}");
    }
    assert_eq!(listing(out.path()), files, "unexpected or partial files");
    assert!(
        ran.errors().is_empty(),
        "errors on standard error although they are in the objects: {}",
        ran.err
    );
    assert!(reports[4]["warnings"][0].as_str().is_some_and(|w| w.contains("e_cut.mp4")), "{}", reports[4]);
}

/// Returns the umask, measured with a new file.
fn umask() -> u32 {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "new", b"");
    0o666 & !path.metadata().unwrap().mode()
}

fn only_code(report: &Value, code: &str) {
    assert_eq!(report["error"]["code"], code, "{report}");
}

#[test]
fn unreadable_files_are_io_errors() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.mp4");
    run("mkfifo", &[&pipe.to_string_lossy()]);
    let (missing, good) = (folder.path().join("missing.mp4"), clip("short"));
    let paths = [&missing, &pipe, &good].map(|p| p.as_os_str());
    let ran = quick(&[&["caption", "--json"].map(OsStr::new)[..], &paths].concat()).exits(1);
    let reports = ran.reports();
    only_code(&reports[0], "io");
    only_code(&reports[1], "io");
    let said = reports[1]["error"]["message"].as_str().unwrap();
    assert!(said.ends_with("pipe.mp4: not a regular file"), "{said}");
    assert_eq!(reports[2]["status"], "succeeded");

    let ran = flamingo(&[OsStr::new("frames"), missing.as_os_str()]).exits(1);
    let expected = format!("error[io]: {}: No such file or directory (os error 2)\n", missing.display());
    assert_eq!(ran.err, expected);
}

/// File names are untrusted: they may be invalid UTF-8 and must not send control characters to the terminal.
#[test]
fn file_names_are_sanitised() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &OsStr| {
        std::fs::copy(clip("short"), folder.path().join(name)).unwrap();
    };
    copy(&OsString::from_vec(b"a\xff.mp4".to_vec()));
    copy(OsStr::from_bytes(b"b\x1b[31m\nred.mp4"));
    write(folder.path(), "c\n.mp4", b"");
    let out = tempfile::tempdir().unwrap();
    let arguments = ["caption".as_ref(), folder.path().as_os_str(), "--out".as_ref(), out.path().as_os_str()];
    let ran = quick(&arguments).exits(1);
    assert_eq!(ran.out.lines().filter(|line| !line.starts_with(' ')).count(), 2, "{ran:?}");
    assert!(!ran.out.contains('\x1b') && ran.errors().len() == 1, "{ran:?}");
    assert!(ran.errors()[0].contains("c .mp4: the file is empty"), "{ran:?}");
    assert_eq!(listing(out.path()).len(), 3);
    let ran = quick(&["caption".as_ref(), folder.path().as_os_str(), "--json".as_ref()]).exits(1);
    let input = ran.reports()[0]["input"][0].as_str().map(str::to_owned);
    assert!(input.is_some_and(|name| name.ends_with("a\u{fffd}.mp4")), "{ran:?}");
}

#[test]
fn symbolic_links_in_a_folder_are_followed_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    symlink(clip("short"), at("a.mp4")).unwrap();
    symlink(Path::new("nowhere.mp4"), at("b.mp4")).unwrap();
    symlink(folder.path(), at("loop")).unwrap();
    let ran = quick(&["caption".as_ref(), folder.path().as_os_str(), "--json".as_ref()]).exits(1);
    let reports = ran.reports();
    assert_eq!(reports.len(), 2, "{ran:?}");
    assert_eq!(reports[0]["status"], "succeeded");
    only_code(&reports[1], "io");
}
