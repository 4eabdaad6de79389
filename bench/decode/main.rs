//! Decodes a clip at 1 frame per second for `compare.py` and writes one JSON object with times and counts to
//! stdout. `bench-decode FILE [--full] [--hash]`

use std::time::Instant;

use anyhow::{Context, Result};
use flamingo::digest::hex;
use flamingo::video::{FrameSampling, Video, VideoLimits};
use sha2::{Digest, Sha256};

/// CPU seconds of this thread, which also decodes if the decoder has one thread. Zero without /proc.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|a| a == flag);
    let path = arguments.first().context("usage: bench-decode FILE [--full] [--hash]")?;

    let (start, cpu) = (Instant::now(), cpu_seconds());
    let video = Video::open(path, &VideoLimits::default())?;
    let opened = start.elapsed();
    let sampling = FrameSampling::default();
    let mut frames =
        if has("--full") { video.frames_by_full_decode(&sampling)? } else { video.frames(&sampling)? };
    let (mut times, mut hash) = (Vec::new(), Sha256::new());
    for frame in &mut frames {
        let frame = frame?;
        times.push(frame.pts);
        if has("--hash") {
            hash.update(frame.image.as_raw());
        }
    }
    let (wall, cpu) = (start.elapsed(), cpu_seconds() - cpu);
    let summary = frames.summary();
    let sha256 = if has("--hash") { hex(&hash.finalize()) } else { String::new() };
    println!(
        "{}",
        serde_json::json!({
            "wall": wall.as_secs_f64(), "cpu": cpu, "open": opened.as_secs_f64(), "times": times, "sha256": sha256,
            "decoded": summary.decoded, "skipped": summary.skipped, "warnings": summary.warnings,
            "info": video.info(),
        })
    );
    Ok(())
}
