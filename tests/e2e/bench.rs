//! `flamingo bench` prints every measurement with its lower bound, and rejects impossible requests before any work.

use std::process::Command;

use serde_json::Value;
use support::clips::clip;

use crate::program::{binary, flamingo, run};

/// Small sizes; the test does not check the measured values.
const SMALL: [&str; 6] = ["--seconds", "0.05", "--batch", "1,2", "--prompt-tokens", "8"];

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {row}"))
}

#[test]
fn every_row_has_a_lower_bound() {
    let clip = clip("short").display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("bench.json").display().to_string();
    let arguments = [&["bench", &clip, "--shape", "mini", "--json", "--out", &out], &SMALL[..]].concat();
    let report = flamingo(&arguments).exits(0).report();
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| (row["row"].as_str().unwrap(), number(row, "batch"))).collect();
    let expected = [
        ("encoder", 1.0),
        ("encoder", 2.0),
        ("resampler", 1.0),
        ("prefill", 1.0),
        ("prefill", 2.0),
        ("decode", 1.0),
        ("decode", 2.0),
        ("end to end", 1.0),
        ("peak memory", 1.0),
    ];
    assert_eq!(names, expected);
    for row in rows {
        for key in ["value", "low", "high", "repetitions", "bytes", "floor"] {
            assert!(number(row, key) > 0.0, "{key} of {row}");
        }
        // The ratio to the bound is at most 1 in theory. On a busy machine the peak may be measured too low.
        assert!(number(row, "ratio") > 0.0 && number(row, "ratio") < 2.0, "{row}");
    }
    assert_eq!(report["parameters"]["language"], 134_515_008);
    assert_eq!(crate::program::read_json(out.as_ref()), report);
}

#[test]
fn quantised_weights_are_read_as_stored() {
    let decode = |how| {
        let arguments = ["bench", "--rows", "decode,memory", "--json", "--quantize", how];
        let report = flamingo(&[&arguments, &SMALL[..]].concat()).exits(0).report();
        (report["language_weights"].clone(), number(&report["rows"][0], "bytes"))
    };
    let ((kept, few), (dense, many)) = (decode("keep"), decode("none"));
    assert_eq!((kept, dense), ("quantised".into(), "dense".into()));
    assert!(many / few > 2.0, "{many} and {few} bytes");
}

#[test]
fn too_large_models_are_rejected_before_allocation() {
    let mut small = Command::new("sh");
    small.args(["-c", "ulimit -v 3000000; exec \"$0\" bench --shape 3b"]).arg(binary());
    let ran = run(&mut small).exits(1);
    assert!(
        ran.out.is_empty() && ran.err.starts_with("error: 3b has 12.7 GB of weights, but only"),
        "{ran:?}"
    );
}
