//! `flamingo chat`: a conversation about one video, on the command line and as a task of a job.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::program::{Ran, command, mini, read_json, run, sample};

const CLIP: &str = "00020.mp4";

/// Sends lines to the standard input of a conversation about the clip.
fn chat(lines: &[u8], more: &[&str]) -> Ran {
    let mut chat = command();
    chat.arg("chat").arg(sample(CLIP)).arg("--model").arg(mini()).args(["--beams", "1"]).args(more);
    let mut child = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn reply(report: &Value) -> (&str, f64) {
    (report["reply"].as_str().unwrap(), report["log_likelihood"].as_f64().unwrap())
}

/// The first reply is the answer to the same question, a later one depends on the conversation so far, and `/new` forgets it.
#[test]
fn replies_depend_on_the_conversation() {
    let lines = b"What is this?\n\n  What does it do?\r\n/new\nWhat is this?\nWhat does it do?\n/quit\nWhat is this?\n";
    let replies = chat(lines, &["--json"]).exits(0).reports();
    let messages: Vec<&Value> = replies.iter().map(|reply| &reply["message"]).collect();
    assert_eq!(messages, ["What is this?", "What does it do?", "What is this?", "What does it do?"]);
    assert_eq!(replies[0], replies[2], "`/new` forgets the conversation");
    assert_eq!(replies[1], replies[3]);

    let ask = |question: &str| {
        let mut ask = command();
        ask.arg("ask").arg(sample(CLIP)).arg("--model").arg(mini());
        run(ask.args(["--beams", "1", "--json", "-q", question])).exits(0).report()
    };
    let (first, alone) = (ask("What is this?"), ask("What does it do?"));
    assert_eq!(first["answers"][0]["text"], replies[0]["reply"]);
    let alone = alone["answers"][0]["log_likelihood"].as_f64().unwrap();
    assert_ne!(reply(&replies[1]).1, alone, "the reply does not depend on the first exchange");

    // The same conversation as options, and as a task of a job.
    let options = chat(b"", &["--json", "-m", "What is this?", "-m", "What does it do?"]).exits(0).reports();
    assert_eq!(options, replies[..2]);
    let folder = tempfile::tempdir().unwrap();
    let history = json!([{ "message": "What is this?", "reply": replies[0]["reply"] }]);
    let task = json!({ "kind": "chat", "history": history, "message": "What does it do?" });
    let job = json!({
        "schema": "flamingo.job/1", "job_id": "j", "tasks": [task], "input": { "video": sample(CLIP) },
        "generation": { "strategy": { "kind": "greedy" } },
    });
    std::fs::write(folder.path().join("jobs.jsonl"), format!("{job}\n")).unwrap();
    run(command().current_dir(folder.path()).args(["run", "jobs.jsonl", "--model"]).arg(mini())).exits(0);
    let report = read_json(&folder.path().join("results/j/items").join(format!("{CLIP}.json")));
    let answer = &report["answers"][0];
    assert_eq!((&answer["question"], &answer["text"]), (&json!("What does it do?"), &replies[1]["reply"]));
}

/// Messages are untrusted: they do not control the terminal, and markers in them are text.
#[test]
fn messages_are_untrusted() {
    let ran = chat(b"<image><image> \x1b[2J What is this\xff?\n/what\n", &[]).exits(0);
    assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
    assert!(ran.err.contains("/what: commands: /new"), "{ran:?}");
    assert!(!ran.err.contains('>'), "there is no prompt without a terminal: {ran:?}");
    let long = [&b"x".repeat(20_000)[..], b"\n"].concat();
    let ran = chat(&long, &[]).exits(1);
    assert_eq!(ran.errors(), ["error: a message has more than 16384 bytes"]);
    let task = json!({ "kind": "chat", "message": " " });
    let job = json!({ "schema": "flamingo.job/1", "tasks": [task], "input": { "video": "a.mp4" } });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jobs.jsonl"), format!("{job}\n")).unwrap();
    let ran = run(command().current_dir(folder.path()).args(["run", "jobs.jsonl"])).exits(2);
    assert!(ran.err.contains("a question or prompt is empty"), "{ran:?}");
}
