//! An invalid command exits with 2 before any work and names the invalid argument.

use support::clips::clip;

use crate::program::flamingo;

#[track_caller]
fn check(arguments: &str, says: &str) {
    let short = clip("short");
    let word = |word: &str| if word == "CLIP" { short.display().to_string() } else { word.replace('_', " ") };
    let words: Vec<String> = arguments.split(' ').map(word).collect();
    let ran = flamingo(&words).exits(2);
    assert!(ran.out.is_empty() && ran.err.starts_with("error: ") && ran.err.contains(says), "{ran:?}");
    assert!(!ran.err.contains("untrained: "), "the model was loaded before the check: {ran:?}");
}

#[test]
fn invalid_options() {
    check("caption", "<INPUT>");
    check("caption CLIP --nonsense", "--nonsense");
    check("caption CLIP --beams 0", "0 is not in 1..=64");
    check("caption CLIP --beams 2 --temperature 1", "cannot be used with");
    check("caption CLIP --temperature 0", "above 0");
    check("caption CLIP --temperature 1 --top-p 1.5", "at most 1");
    check("caption CLIP --seed 3", "--temperature");
    check("caption CLIP --max-frames 0", "0 is not in 1..");
    check("caption CLIP --sheet", "--out");
    check("caption CLIP --device gpu", "expected `cpu`, `cuda` or `cuda:N`");
    check("caption CLIP --device cuda:1", "cuda:1: this build of flamingo has no CUDA");
}

#[test]
fn invalid_times() {
    check("caption CLIP --window 0", "a window is at least a millisecond long");
    check("caption CLIP --window soon", "`soon` is not a time such as 8s");
    check("caption CLIP --fps 0", "fps is 0");
    check("caption CLIP --fps 2 --frames 3", "cannot be used with");
    check("caption CLIP --frames 0", "the number of frames is zero");
    check("caption CLIP --start 5 --end 3", "the range from 5 s to 3 s is empty");
    check("frames CLIP --fps=-1", "fps is -1");
}

#[test]
fn invalid_questions_and_prompts() {
    check("ask CLIP", "--question");
    check("ask CLIP --question=", "a value is required");
    check("ask CLIP --question why --prompt <image>", "cannot be used with");
    check("ask CLIP --prompt <image>A_cat.<EOC><video>What?", "for 2 inputs, but there are 1");
    check("ask CLIP CLIP --prompt <image>", "for 1 inputs, but there are 2");
    check("ask CLIP --prompt What?", "for 0 inputs, but there are 1");
}

#[test]
fn invalid_paths() {
    let folder = tempfile::tempdir().unwrap();
    check(&format!("caption {}", folder.path().display()), "no video or image found");
    check("caption CLIP --model nowhere", "nowhere: no such model directory; name one with --model");
}

#[test]
fn invalid_benches() {
    check("bench --shape huge", "possible values: mini, 3b, 9b, 80b-layer");
    check("bench --rows speed", "possible values: encoder, resampler");
    check("bench --batch 1,0", "0 is not in 1..=1024");
    check("bench --seconds 0", "above 0");
    check("bench --shape mini --dtype bf16", "no convolution in bf16 on cpu");
    check("bench --model nowhere", "nowhere: no such model directory; name one with --model");
}
