//! `flamingo ask`: answers questions about videos and images, and free prompts.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use flamingo::Task;

use crate::analyze::AnalyzeArgs;

#[derive(Debug, Args)]
pub struct Ask {
    #[command(flatten)]
    common: AnalyzeArgs,
    /// Question about each input. Repeat the option for several questions; each video is encoded once.
    #[arg(long, short, value_name = "TEXT", required_unless_present = "prompt", help_heading = "Question")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    question: Vec<String>,
    /// One prompt about all inputs together: `<image>` or `<video>` marks the place of each input, in order, and `<EOC>`
    /// ends each example: `<image>A cat.<EOC><video>`.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["question", "window", "support"], help_heading = "Question")]
    prompt: Option<String>,
    /// Answer from captions too: each window of the video (--window, 8 seconds by default) is captioned, and the language model
    /// answers from the captions with their times. The direct answer is over evenly spread frames, at most --max-frames.
    #[arg(long, conflicts_with_all = ["prompt", "support"], help_heading = "Question")]
    long: bool,
}

impl Ask {
    pub fn run(self) -> anyhow::Result<bool> {
        match self.prompt {
            Some(prompt) => self.common.run_joint(Task::Complete { prompt }),
            None => {
                let tasks = self.question.into_iter().map(|question| Task::Question { question }).collect();
                if self.long { self.common.run_long(tasks) } else { self.common.run_each(tasks) }
            }
        }
    }
}
