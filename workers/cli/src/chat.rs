//! `flamingo chat`: a conversation about one video or image.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use flamingo::generate::Generation;
use flamingo::pipeline::{Answer, Medium};
use flamingo::task::Exchange;
use flamingo::{Pipeline, Task};
use inference::analysis::{AnalysisSpec, Source};
use inference::context::RequestContext;
use serde_json::json;

use crate::analyze::analyzer;
use crate::args::{GenerationArgs, ModelArgs, SamplingArgs};
use crate::output::printable;

/// Greatest length of a message in bytes.
const MAX_MESSAGE_BYTES: u64 = 16 * 1024;

const HELP: &str = "commands: /new begins a new conversation, /quit or the end of the input ends the program";

#[derive(Debug, Args)]
pub struct Chat {
    /// Video or image.
    #[arg(value_name = "INPUT")]
    input: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Maximum number of frames; more are an error.
    #[arg(long, default_value_t = 64, value_name = "N", help_heading = "Frames")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_frames: u32,
    #[command(flatten)]
    generation: GenerationArgs,
    /// Message. Repeat the option for several; the program ends after the last reply [default: lines of standard input].
    #[arg(long, short, value_name = "TEXT", help_heading = "Conversation")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    message: Vec<String>,
    /// Print one JSON object per reply and line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Chat {
    /// Runs the conversation.
    ///
    /// # Errors
    /// The model does not load, the input cannot be decoded, a message cannot be answered, or standard output is closed.
    pub fn run(self) -> anyhow::Result<bool> {
        let spec = AnalysisSpec {
            tasks: Vec::new(),
            sampling: self.sampling.sampling()?,
            max_frames: self.max_frames as usize,
            generation: self.generation.generation(),
            ..AnalysisSpec::default()
        };
        let pipeline = self.model.load_to_answer()?;
        let source = Source::file(&self.input);
        let (medium, _) = analyzer(&pipeline)?.encode_video(&source, &spec, &RequestContext::default())?;
        let history = Vec::new();
        let mut conversation =
            Conversation { pipeline: &pipeline, medium, generation: spec.generation, history };
        if self.message.is_empty() {
            self.converse(&mut conversation)?;
        } else {
            for message in &self.message {
                self.print(message, &conversation.reply(message)?)?;
            }
        }
        Ok(true)
    }

    /// Answers the lines of standard input.
    fn converse(&self, conversation: &mut Conversation) -> anyhow::Result<()> {
        let stdin = std::io::stdin();
        let terminal = stdin.is_terminal();
        if terminal {
            eprintln!("{HELP}");
        }
        let mut lines = stdin.lock();
        loop {
            if terminal {
                eprint!("> ");
            }
            let mut line = Vec::new();
            let read = lines.by_ref().take(MAX_MESSAGE_BYTES + 1).read_until(b'\n', &mut line)?;
            if read as u64 > MAX_MESSAGE_BYTES {
                anyhow::bail!("a message has more than {MAX_MESSAGE_BYTES} bytes");
            }
            let line = String::from_utf8_lossy(&line);
            match line.trim() {
                _ if read == 0 => return Ok(()),
                "" => {}
                "/quit" => return Ok(()),
                "/new" => conversation.history.clear(),
                command if command.starts_with('/') => eprintln!("{}: {HELP}", printable(command)),
                message => self.print(message, &conversation.reply(message)?)?,
            }
        }
    }

    fn print(&self, message: &str, answer: &Answer) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            let Answer { text, finish, log_likelihood, .. } = answer;
            let reply = json!({ "message": message, "reply": text, "finish": finish, "log_likelihood": log_likelihood });
            writeln!(out, "{reply}")?;
        } else {
            let reply = if answer.text.is_empty() { "(nothing)".into() } else { printable(&answer.text) };
            writeln!(out, "{reply}")?;
        }
        Ok(out.flush()?)
    }
}

struct Conversation<'p> {
    pipeline: &'p Pipeline,
    medium: Medium,
    generation: Generation,
    history: Vec<Exchange>,
}

impl Conversation<'_> {
    /// Answers a message and remembers it. The oldest messages that the model has no room for are forgotten.
    fn reply(&mut self, message: &str) -> anyhow::Result<Answer> {
        let task = |history: &[Exchange]| Task::Chat { history: history.to_vec(), message: message.into() };
        let before = self.history.len();
        while !self.history.is_empty() && !self.fits(&task(&self.history))? {
            self.history.remove(0);
        }
        match before - self.history.len() {
            0 => {}
            n => eprintln!(
                "note: the model has no room for the whole conversation: its oldest {n} messages are left out"
            ),
        }
        let answer = self.pipeline.ask(&task(&self.history), &[&self.medium], &self.generation)?;
        self.history.push(Exchange { message: message.into(), reply: answer.text.clone() });
        Ok(answer)
    }

    fn fits(&self, task: &Task) -> anyhow::Result<bool> {
        let plan = self.pipeline.plan(task, &[], &[&self.medium.frame_times], &self.generation)?;
        Ok(plan.check(&self.pipeline.loaded().model).is_ok())
    }
}
