//! Calls and types that are allowed in a few files only.

use super::tree::{Source, has_word, rust};
use super::{check, lines, not_tidy, ours, under};

#[test]
fn ffmpeg_is_called_in_one_place() {
    let rule = |s: &[Source]| {
        lines(s, |s, line| {
            let calls = ["ffmpeg_next", "ffmpeg_sys_next"].iter().any(|name| has_word(line, name));
            (calls && !under(&s.path, &["src/video/decode.rs", "src/video/decode/"]))
                .then(|| "FFmpeg is called in src/video/decode only".into())
        })
    };
    let broken =
        [("src/video/decode/open.rs", "use ffmpeg_next;"), ("src/video/plan.rs", "use ffmpeg_next as f;")];
    check(rule, &broken, &["src/video/plan.rs:1: FFmpeg"], &rust(&["src", "workers", "tests/support"]));
}

#[test]
fn the_clock_of_a_machine_is_read_in_one_place() {
    let rule = |s: &[Source]| {
        lines(s, |s, line| {
            let reads = ["Timestamp::now", "Zoned::now", "SystemTime::now", "Utc::now", "UNIX_EPOCH"];
            let reads = reads.iter().any(|call| line.contains(call));
            (reads && s.path != "workers/jobs/src/ledger/clock.rs")
                .then(|| "jobs follow the clock of the database: Ledger::now".into())
        })
    };
    let broken = [
        ("workers/jobs/src/ledger/clock.rs", "Timestamp::now()"),
        ("workers/jobs/src/time.rs", "\njiff::Timestamp::now().as_millisecond()"),
        ("workers/cli/src/submit.rs", "SystemTime::now()"),
    ];
    let expected = ["workers/jobs/src/time.rs:2: jobs follow", "workers/cli/src/submit.rs:1: jobs follow"];
    check(rule, &broken, &expected, &rust(&["workers"]));
}

#[test]
fn workers_decode_in_a_child_process() {
    let rule = |s: &[Source]| {
        lines(s, |s, line| {
            let parses = ["Video::open", "Video::from_file", "Pipeline::run", "pipeline.run("];
            let parses = parses.iter().any(|call| line.contains(call));
            (parses && !under(&s.path, &["src/", "workers/inference/src/decoder/child.rs"]))
                .then(|| "video bytes are parsed in the decoder's child process only".into())
        })
    };
    let broken = [
        ("src/pipeline.rs", "Video::open(path)"),
        ("workers/cli/src/a.rs", "\nVideo::open(path)"),
        ("workers/cli/src/b.rs", "pipeline.run(path, task)"),
    ];
    let expected = ["workers/cli/src/a.rs:2: video bytes", "workers/cli/src/b.rs:1: video bytes"];
    check(rule, &broken, &expected, &rust(&["src", "workers"]));
}

#[test]
fn unsafe_is_rare_and_has_a_proof() {
    const ALLOWED: [&str; 8] = [
        "workers/inference/src/decoder/child.rs",
        "workers/cli/src/process.rs",
        "workers/cli/src/bench/fma.rs",
        "src/weights.rs",
        "src/weights/",
        "src/kernels/product.rs",
        "src/video/decode.rs",
        "src/video/decode/",
    ];
    let rule = |sources: &[Source]| -> Vec<String> {
        let mut complaints = Vec::new();
        for s in sources {
            // A word of Content-Security-Policy.
            let is_unsafe = |line: &str| has_word(&line.replace("'unsafe-inline'", ""), "unsafe");
            for (n, _) in s.code().filter(|(_, line)| is_unsafe(line)) {
                let above = s.text.lines().take(n).collect::<Vec<_>>();
                if !under(&s.path, &ALLOWED) {
                    complaints.push(format!("{}:{n}: unsafe is not allowed in this file", s.path));
                } else if !above.iter().rev().take(6).any(|line| line.contains("// SAFETY: ")) {
                    complaints
                        .push(format!("{}:{n}: unsafe without a `// SAFETY: ` comment above it", s.path));
                }
            }
        }
        complaints
    };
    let broken = [
        ("src/weights.rs", "#[allow(unsafe_code)]\n// SAFETY: because.\nunsafe {}\n\n\n\n\n\nunsafe {}"),
        ("src/task/mod.rs", "// SAFETY: trust me.\nunsafe {}"),
    ];
    let expected = ["src/weights.rs:9: unsafe without", "src/task/mod.rs:2: unsafe is not allowed"];
    check(rule, &broken, &expected, &not_tidy(ours()));
}

#[test]
fn only_wire_report_task_and_config_types_are_serialisable() {
    const ALLOWED: [&str; 49] = [
        "src/error.rs",
        "src/kernels/activation.rs",
        "src/kernels/norm.rs",
        "src/video/mod.rs",
        "src/video/warning.rs",
        "src/video/limits.rs",
        "src/video/sampling.rs",
        "src/video/orientation.rs",
        "src/vision/",
        "src/language/llama/config.rs",
        "src/model/config.rs",
        "src/model/config/",
        "src/prompt.rs",
        "src/prompt/dialogue.rs",
        "src/pipeline.rs",
        "src/generate/mod.rs",
        "src/family/",
        "src/task/",
        "src/few_shot/support.rs",
        "src/search/index.rs",
        "src/train/config.rs",
        "src/train/evaluate.rs",
        "src/train/spriteworld/family.rs",
        "src/train/spriteworld/icons.rs",
        "src/train/spriteworld/world.rs",
        "workers/jobs/src/failure.rs",
        "workers/jobs/src/id.rs",
        "workers/jobs/src/message.rs",
        "workers/jobs/src/secret_url.rs",
        "workers/jobs/src/state.rs",
        "workers/jobs/src/worker/settings.rs",
        "workers/jobs/src/ledger/outbox.rs",
        "workers/jobs/src/queue/address.rs",
        "workers/jobs/src/queue/rabbitmq/topology.rs",
        "workers/inference/src/engine/limits.rs",
        "workers/inference/src/listing/skip.rs",
        "workers/inference/src/report/mod.rs",
        "workers/inference/src/progress.rs",
        "workers/inference/src/context.rs",
        "workers/inference/src/method_name.rs",
        "workers/inference/src/shot_options.rs",
        "workers/inference/src/analysis/request.rs",
        "workers/video-worker/src/settings/",
        "workers/video-worker/src/api/",
        "workers/video-worker/src/cache/format.rs",
        "workers/video-worker/src/http/pages/",
        "workers/video-worker/src/jobs/progress.rs",
        "workers/inference/src/decoder/",
        "workers/cli/",
    ];
    let rule = |s: &[Source]| {
        lines(s, |s, line| {
            let derives = ["Serialize", "Deserialize"].iter().any(|name| has_word(line, name));
            (derives && line.contains("derive(") && !under(&s.path, &ALLOWED))
                .then(|| "a serialisable type".into())
        })
    };
    let derive = "#[derive(Debug, serde::Serialize)]";
    check(
        rule,
        &[("src/task/mod.rs", derive), ("src/model/flamingo.rs", derive)],
        &["src/model/flamingo.rs:1: a serialisable type"],
        &rust(&["src", "workers"]),
    );
}
