//! Formatting of numbers, times and states for people.

use flamingo::Task;
use flamingo::task::Classification;
use flamingo::video::FrameSampling;
use inference::method_name::MethodName;
use inference::shot_options::{SelectName, ShotOptions};
use jobs::state::Counts;
use jobs::time::Millis;

use crate::api::{ClassifyOutputs, FewShot, Input, JobMessage, JobTask, SupportSource};

/// Formats a state.
pub fn state_words(state: &str) -> String {
    state.replace('_', " ")
}

/// `2026-11-24 03:27:29 UTC`
pub fn plain_time(at: Millis) -> String {
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Formats a duration in its two largest units.
pub fn span(millis: Millis) -> String {
    let seconds = millis.max(0) / 1000;
    match seconds {
        0..10 => format!("{:.1} s", millis.max(0) as f64 / 1000.0),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// Formats how long ago a time was, in its largest unit.
pub fn ago(at: Millis, now: Millis) -> String {
    let seconds = (now - at).max(0) / 1000;
    match seconds {
        0..5 => "just now".into(),
        5..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86400),
    }
}

/// Formats a position in a video: `0:07`, `1:02:03`; with tenths where it has them.
pub fn clock(seconds: f64) -> String {
    let tenths = (seconds.max(0.0) * 10.0).round() as u64;
    let (whole, tenth) = (tenths / 10, tenths % 10);
    let (h, m, s) = (whole / 3600, whole / 60 % 60, whole % 60);
    let head = if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") };
    if tenth == 0 { head } else { format!("{head}.{tenth}") }
}

pub fn bytes(n: u64) -> String {
    match n {
        0..1000 => format!("{n} bytes"),
        1000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

/// `1 video`, `2 videos`
pub fn number(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// Returns the finished items in percent, rounded down, so that 100 means all.
pub fn percent(counts: &Counts) -> u64 {
    (counts.total - counts.open()) * 100 / counts.total.max(1)
}

/// Formats an estimated remaining time, rounded to its accuracy.
pub fn about_left(seconds: f64) -> String {
    let rounded = |n: f64| (n.round() as u64).max(1);
    match seconds {
        ..5.0 => "a few seconds left".into(),
        ..90.0 => format!("about {} s left", rounded(seconds / 5.0) * 5),
        ..5400.0 => format!("about {} min left", rounded(seconds / 60.0)),
        ..172_800.0 => format!("about {} h left", rounded(seconds / 3600.0)),
        _ => format!("about {} days left", rounded(seconds / 86400.0)),
    }
}

/// Returns the kind of a task, and its text if it has one.
pub fn task(task: &Task) -> (&'static str, Option<&str>) {
    match task {
        Task::Caption {} => ("Caption", None),
        Task::Question { question } => ("Question", Some(question)),
        Task::Classify(Classification { question, .. }) => ("Classification", Some(question)),
        Task::Chat { message, .. } => ("Conversation", Some(message)),
        Task::Complete { prompt } => ("Prompt", Some(prompt)),
    }
}

/// Returns the kind of a task of a job, and its text if it has one.
pub fn job_task(asked: &JobTask) -> (&'static str, Option<&str>) {
    match asked {
        JobTask::Given(given) => task(given),
        JobTask::ClassifyOutputs(ClassifyOutputs { question, .. }) => ("Classification", Some(question)),
    }
}

/// `4 nearest of birds`
pub fn examples(few_shot: &FewShot<SupportSource>) -> String {
    let ShotOptions { shots, select, method, .. } = few_shot.options;
    let rule = match select {
        SelectName::Nearest => "nearest",
        SelectName::Random => "random",
        SelectName::First => "first",
        SelectName::NearestQuestion => "nearest with similar questions",
    };
    let from = match &few_shot.support {
        SupportSource::Stored(name) => name.to_string(),
        SupportSource::Inline(examples) => {
            format!("the {} of the job", number(examples.len() as u64, "example"))
        }
    };
    match method {
        MethodName::InContext => format!("{shots} {rule} of {from}"),
        _ => format!("{} over {from}", method.name()),
    }
}

/// Formats the tasks of a job on one line.
pub fn tasks(job: &JobMessage) -> String {
    let Some(first) = job.spec.tasks.first() else { return String::new() };
    let (kind, words) = job_task(first);
    let more = match job.spec.tasks.len() - 1 {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("{}{more}", words.unwrap_or(kind))
}

pub fn input(input: &Input) -> String {
    match input {
        Input::Video(url) => url.clone(),
        Input::Videos(urls) => number(urls.len() as u64, "named video"),
        Input::Prefix { url, glob } if glob == "**" => format!("all objects below {url}"),
        Input::Prefix { url, glob } => format!("{glob} below {url}"),
        Input::Manifest(url) => format!("the manifest {url}"),
        Input::UnfinishedOf(job) => format!("unfinished videos of {job}"),
    }
}

pub fn sampling(sampling: &FrameSampling) -> String {
    let frames = match sampling {
        FrameSampling::Fps { fps: 1.0, .. } => "1 frame per second".into(),
        FrameSampling::Fps { fps, .. } => format!("{fps} frames per second"),
        FrameSampling::Uniform { n, .. } => format!("{} evenly spaced", number(*n as u64, "frame")),
    };
    match sampling.range() {
        (0.0, None) => frames,
        (start, None) => format!("{frames}, from {}", clock(start)),
        (start, Some(end)) => format!("{frames}, {} to {}", clock(start), clock(end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_durations() {
        for (millis, expected) in [
            (0, "0.0 s"),
            (9_940, "9.9 s"),
            (59_999, "59 s"),
            (60_000, "1 min 0 s"),
            (3_725_000, "1 h 2 min"),
            (200_000_000, "2 d 7 h"),
            (-5, "0.0 s"),
        ] {
            assert_eq!(span(millis), expected);
        }
        for (seconds, expected) in [
            (0.0, "a few seconds left"),
            (7.0, "about 5 s left"),
            (89.0, "about 90 s left"),
            (185.0, "about 3 min left"),
            (5400.0, "about 2 h left"),
            (400_000.0, "about 5 days left"),
        ] {
            assert_eq!(about_left(seconds), expected);
        }
        assert_eq!((ago(0, 4_999), ago(0, 61_000)), ("just now".into(), "1 min ago".into()));
        assert_eq!([0.0, 7.25, 59.99, 3723.0].map(clock), ["0:00", "0:07.3", "1:00", "1:02:03"]);
    }

    #[test]
    fn percent_is_rounded_down() {
        let counts = Counts { total: 3, queued: 1, succeeded: 1, failed: 1, ..Counts::default() };
        assert_eq!((percent(&counts), percent(&Counts::default())), (66, 0));
    }
}
