//! `flamingo data`: generates training data.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use clap::{Args, Subcommand};
use flamingo::train::spriteworld::Question;
use image::RgbImage;

use crate::output::{create_folder, progress, write_file};
use crate::spriteworld::{SplitName, WorldArgs};

#[derive(Debug, Subcommand)]
pub enum Data {
    /// Write clips of moving drawings as video files, with their captions and questions.
    Spriteworld(DataSpriteworld),
}

impl Data {
    pub fn run(self) -> anyhow::Result<bool> {
        match self {
            Data::Spriteworld(command) => command.run(),
        }
    }
}

#[derive(Debug, Args)]
pub struct DataSpriteworld {
    #[command(flatten)]
    world: WorldArgs,
    /// Split of the clips.
    #[arg(long, value_enum, default_value = "seeds")]
    split: SplitName,
    /// Number of clips.
    #[arg(long, default_value_t = 20, value_name = "N")]
    clips: u64,
    /// Index of the first clip in its split.
    #[arg(long, default_value_t = 0, value_name = "INDEX")]
    first: u64,
    /// Frames per second of the video files.
    #[arg(long, default_value_t = 12, value_name = "RATE", value_parser = clap::value_parser!(u16).range(1..=120))]
    fps: u16,
    /// Folder for `INDEX.mp4` of each clip, and `clips.jsonl` with captions, near misses, questions and answers.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl DataSpriteworld {
    fn run(self) -> anyhow::Result<bool> {
        let world = self.world.open()?;
        create_folder(&self.out)?;
        let bar = progress(self.clips as usize);
        let mut lines = String::new();
        for index in self.first..self.first + self.clips {
            let clip = world.clip(self.split.split(), index);
            let file = format!("{index:05}.mp4");
            let moments = 0..clip.scene().seconds * usize::from(self.fps);
            let frames = clip.frames_at(moments.map(|i| i as f64 / f64::from(self.fps)));
            encode(&frames, self.fps, &self.out.join(&file))?;
            let question = |q: Question| serde_json::json!({"kind": q.kind.name(), "question": q.question, "answer": q.answer, "choices": q.choices});
            let line = serde_json::json!({
                "file": file,
                "captions": clip.captions(),
                "near_misses": clip.near_misses(),
                "questions": clip.questions().into_iter().map(question).collect::<Vec<_>>(),
            });
            lines += &format!("{line}\n");
            bar.inc(1);
        }
        bar.finish_and_clear();
        write_file(&self.out.join("clips.jsonl"), lines.as_bytes())?;
        println!("{} clips in {}", self.clips, self.out.display());
        Ok(true)
    }
}

/// Encodes frames of one size as H.264, with the `ffmpeg` program.
fn encode(frames: &[RgbImage], fps: u16, path: &Path) -> anyhow::Result<()> {
    let (width, height) = frames.first().context("a clip has frames")?.dimensions();
    let (size, fps) = (format!("{width}x{height}"), fps.to_string());
    let mut ffmpeg = Command::new("ffmpeg")
        .args([
            "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r", &fps, "-i", "-",
        ])
        .args(["-pix_fmt", "yuv420p", "-c:v", "libx264", "-crf", "24", "-movflags", "+faststart"])
        .args(["-fflags", "+bitexact", "-flags:v", "+bitexact"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .context("the program `ffmpeg` cannot be started")?;
    let mut pipe = ffmpeg.stdin.take().expect("stdin was piped");
    // ffmpeg reports its own errors on standard error.
    let _ = frames.iter().try_for_each(|frame| pipe.write_all(frame.as_raw()));
    drop(pipe);
    anyhow::ensure!(ffmpeg.wait()?.success(), "{}: ffmpeg could not write it", path.display());
    Ok(())
}
