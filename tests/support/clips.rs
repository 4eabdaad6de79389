//! Sample clips of every codec and container quirk, made with the `ffmpeg` command and cached in `target/clips`.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use crate::repository;

mod shown;

/// Name, extension, arguments of `ffmpeg` before the output file. `{name}` is the path of another clip.
/// All sizes differ, so that a test cannot confuse two clips.
const CLIPS: &[(&str, &str, &str)] = &[
    (
        "h264",
        "mp4",
        "-f lavfi -i testsrc2=s=320x240:r=30,noise=alls=4:allf=t -t 14 -c:v libx264 -preset fast -g 60 \
         -keyint_min 60 -sc_threshold 0 -bf 3",
    ),
    (
        "h264_ntsc",
        "mp4",
        "-f lavfi -i testsrc2=s=256x144:r=30000/1001 -t 40 -c:v libx264 -preset fast -g 30 -sc_threshold 0 -bf 2",
    ),
    (
        "h264_open_gop",
        "mkv",
        "-f lavfi -i testsrc2=s=304x176:r=25 -t 12 -c:v libx264 -preset fast -x264-params open-gop=1:keyint=40:bframes=4",
    ),
    (
        "h264_refresh",
        "mp4",
        "-f lavfi -i testsrc2=s=288x160:r=25 -t 9 -c:v libx264 -preset fast -x264-params intra-refresh=1:keyint=30",
    ),
    (
        "h264_interlaced",
        "mp4",
        "-f lavfi -i testsrc2=s=352x288:r=25 -t 8 -c:v libx264 -preset fast -flags +ildct+ilme -x264-params tff=1:keyint=50",
    ),
    ("h264_ts", "ts", "-i {h264_ntsc} -c copy"),
    (
        "hevc",
        "mp4",
        "-f lavfi -i testsrc2=s=272x208:r=30 -t 12 -c:v libx265 -preset fast -x265-params log-level=none:keyint=45:bframes=4",
    ),
    (
        "hevc_closed_10bit",
        "mkv",
        "-f lavfi -i testsrc2=s=336x192:r=24 -t 10 -c:v libx265 -preset fast -pix_fmt yuv420p10le -x265-params \
         log-level=none:keyint=48:open-gop=0:bframes=3",
    ),
    (
        "hevc_layers",
        "mp4",
        "-f lavfi -i testsrc2=s=240x176:r=30 -t 10 -c:v libx265 -preset fast -x265-params \
         log-level=none:keyint=60:temporal-layers=3:bframes=4",
    ),
    (
        "vp9",
        "webm",
        "-f lavfi -i testsrc2=s=319x181:r=30 -t 10 -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -auto-alt-ref 1 \
         -lag-in-frames 16 -g 48 -b:v 300k",
    ),
    (
        "vp8",
        "webm",
        "-f lavfi -i testsrc2=s=280x168:r=25 -t 8 -c:v libvpx -deadline realtime -cpu-used 8 -auto-alt-ref 1 \
         -lag-in-frames 12 -g 60 -b:v 300k",
    ),
    ("av1", "mp4", "-f lavfi -i testsrc2=s=264x152:r=30 -t 9 -c:v libsvtav1 -preset 12 -g 70"),
    (
        "av1_aom",
        "webm",
        "-f lavfi -i testsrc2=s=192x112:r=20 -t 6 -c:v libaom-av1 -cpu-used 8 -usage realtime -g 40",
    ),
    ("mpeg4", "mp4", "-f lavfi -i testsrc2=s=248x184:r=25 -t 12 -c:v mpeg4 -bf 2 -g 35 -q:v 4"),
    ("mpeg4_no_pts", "avi", "-f lavfi -i testsrc2=s=216x168:r=25 -t 6 -c:v mpeg4 -bf 2 -g 35 -q:v 4"),
    ("mpeg2", "ts", "-f lavfi -i testsrc2=s=232x136:r=25 -t 9 -c:v mpeg2video -bf 2 -g 25 -q:v 4"),
    ("mjpeg", "avi", "-f lavfi -i testsrc2=s=200x120:r=15 -t 5 -c:v mjpeg -q:v 5 -pix_fmt yuvj422p"),
    (
        "vfr",
        "mkv",
        "-f lavfi -i testsrc2=s=224x128:r=30 -t 20 -vf select='(not(mod(n,7))+between(t,3,4))*not(between(t,8,11.3))' \
         -vsync vfr -c:v libx264 -preset fast -g 40 -bf 2",
    ),
    ("pause", "mkv", "-i {vp8} -c copy -bsf:v setts=ts=TS+gte(N\\,77)*3600000"),
    ("rotated_90", "mp4", "-i {h264} -c copy -t 5 -metadata:s:v rotate=90"),
    ("rotated_180", "mp4", "-i {mpeg4} -c copy -t 5 -metadata:s:v rotate=180"),
    ("edit_list", "mp4", "-ss 1.37 -i {h264} -c copy"),
    ("negative_pts", "mp4", "-i {h264_ntsc} -c copy -output_ts_offset -1.5 -avoid_negative_ts disabled"),
    ("late_start", "ts", "-i {hevc} -c copy -output_ts_offset 3600.5"),
    ("short", "mp4", "-f lavfi -i testsrc2=s=208x104:r=25 -t 0.28 -c:v libx264 -preset fast"),
    ("one_frame", "mp4", "-f lavfi -i testsrc2=s=184x96:r=25 -frames:v 1 -c:v libx264 -preset fast"),
    ("faststart", "mp4", "-i {h264} -c copy -movflags +faststart"),
    (
        "three_streams",
        "mkv",
        "-f lavfi -i testsrc2=s=176x144:r=10 -f lavfi -i sine -f lavfi -i sine=880 -map 0 -map 1 -map 2 -t 3 \
         -c:v libx264 -preset fast -c:a aac",
    ),
    ("sound", "mp4", "-f lavfi -i sine -t 2 -c:a aac"),
    ("lossless", "mkv", "-f lavfi -i testsrc2=s=168x94:r=10 -t 2 -c:v ffv1"),
    ("huge", "mp4", "-f lavfi -i color=s=8192x8192 -frames:v 1 -c:v libx264 -preset ultrafast"),
    (
        "slow",
        "mp4",
        "-f lavfi -i testsrc2=s=960x540:r=30,noise=alls=40:allf=t -t 3 -c:v libx264 -preset ultrafast -qp 24 -g 1000",
    ),
    ("big", "ts", "-f lavfi -i testsrc2=s=384x216:r=25 -t 4 -c:v libx264 -preset fast -g 25"),
    (
        "small",
        "ts",
        "-f lavfi -i testsrc2=s=160x90:r=25 -t 4 -c:v libx264 -preset fast -g 25 -output_ts_offset 4",
    ),
];

/// Returns the path of a clip of the table; makes the clip if it is absent.
pub fn clip(name: &str) -> PathBuf {
    static MADE: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    make(name, made.get_or_insert_default())
}

/// Writes a file into `directory` and returns its path.
pub fn write(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

/// Runs `ffmpeg` or `ffprobe`. Panics if the command is missing or fails.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| {
        panic!("the tests need the `{program}` command (Debian: apt-get install ffmpeg), and it did not start: {e}")
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
    output
}

fn make(name: &str, made: &mut HashMap<String, PathBuf>) -> PathBuf {
    if let Some(path) = made.get(name) {
        return path.clone();
    }
    let clips = || CLIPS.iter().chain(shown::CLIPS);
    let Some((_, extension, recipe)) = clips().find(|(n, ..)| *n == name) else {
        panic!("no clip is called `{name}`")
    };
    let arguments: Vec<String> = recipe.split_whitespace().map(|word| fill(word, made)).collect();
    // The hash of the recipe is part of the name: a changed recipe makes a new clip.
    let mut hash = DefaultHasher::new();
    arguments.hash(&mut hash);
    let directory = repository::root().join("target/clips");
    fs::create_dir_all(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let path = directory.join(format!("{name}-{:08x}.{extension}", hash.finish() as u32));
    if !path.exists() {
        let part = directory.join(format!("{name}-{}.part.{extension}", std::process::id()));
        let mut all = vec!["-nostdin", "-v", "error", "-y"];
        all.extend(arguments.iter().map(String::as_str));
        if recipe.contains("-c:v") && !recipe.contains("-pix_fmt") {
            all.extend(["-pix_fmt", "yuv420p"]);
        }
        let part_text = part.to_string_lossy();
        all.push(&part_text);
        run("ffmpeg", &all);
        fs::rename(&part, &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    made.insert(name.into(), path.clone());
    path
}

fn fill(word: &str, made: &mut HashMap<String, PathBuf>) -> String {
    match word.strip_prefix('{').and_then(|w| w.strip_suffix('}')) {
        Some(name) => make(name, made).to_string_lossy().into_owned(),
        None => word.into(),
    }
}
