//! The `flamingo` command: one executable with one subcommand per role. Each subcommand has a file of its name.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

mod process;
mod args;
mod grounding;
mod logs;
#[cfg(feature = "service")]
mod traces;
mod inputs;
mod output;
// Models by name, and the memory that they need.
// A build without downloads reads the cache only.
#[cfg_attr(not(feature = "hub"), allow(dead_code))]
mod hub;
mod memory;
// One video at a time.
mod analyze;
mod caption;
mod ask;
mod classify;
mod few_shot;
mod methods;
mod chat;
mod search;
mod frames;
// Models.
mod model;
mod bench;
// Training.
#[cfg(feature = "train")]
mod train;
#[cfg(feature = "train")]
mod spriteworld;
#[cfg(feature = "train")]
mod data;
mod eval;
// Jobs.
#[cfg(feature = "service")]
mod settings;
#[cfg(feature = "service")]
mod config;
#[cfg(feature = "service")]
mod migrate;
#[cfg(feature = "service")]
mod support;
#[cfg(feature = "service")]
mod submit;
#[cfg(feature = "service")]
mod jobs;
#[cfg(feature = "service")]
mod work;
#[cfg(feature = "service")]
mod run;

/// Captions videos and answers questions about them, with open weights on your own machine.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Caption videos and images.
    Caption(caption::Caption),
    /// Ask questions about videos and images.
    Ask(ask::Ask),
    /// Choose the likeliest of given labels for videos and images.
    Classify(classify::Classify),
    /// Have a conversation about a video or image.
    Chat(chat::Chat),
    /// Find videos by a text or by another video.
    Search(search::Search),
    /// Show which frames are sampled from a video.
    Frames(frames::Frames),
    /// List, download, inspect, trace and create models.
    #[command(subcommand)]
    Model(model::Model),
    /// Measure how fast a model runs on this machine, and compare it with the machine's limits.
    Bench(bench::Bench),
    /// Train a model, or continue an interrupted training run.
    #[cfg(feature = "train")]
    Train(train::Train),
    /// Generate training data.
    #[cfg(feature = "train")]
    #[command(subcommand)]
    Data(data::Data),
    /// Measure the accuracy of a model.
    #[command(subcommand)]
    Eval(eval::Eval),
    /// Run the jobs of a file on this machine, without servers; run it again to continue after an interruption.
    #[cfg(feature = "service")]
    Run(run::Run),
    /// Run a worker: take jobs from the queue until stopped.
    #[cfg(feature = "service")]
    Work(work::Work),
    /// Submit jobs to the workers.
    #[cfg(feature = "service")]
    Submit(Box<submit::Submit>),
    /// Store, list, show and remove support sets: few-shot examples with a name.
    #[cfg(feature = "service")]
    #[command(subcommand)]
    Support(support::Support),
    /// List, watch, cancel and retry jobs.
    #[cfg(feature = "service")]
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    /// Create the database tables, or upgrade them to this version.
    #[cfg(feature = "service")]
    Migrate(migrate::Migrate),
    /// Show the settings in force, and the source of each.
    #[cfg(feature = "service")]
    Config(config::Config),
    /// The child process of `inference::decoder`.
    #[command(name = inference::decoder::SUBCOMMAND, hide = true)]
    DecodeFrames { request: String },
}

impl Command {
    /// Whether the command runs until it is stopped.
    fn is_server(&self) -> bool {
        match self {
            #[cfg(feature = "service")]
            Command::Work(_) => true,
            _ => false,
        }
    }

    /// Log filter when `FLAMINGO_LOG` is not set: a server logs its progress, the other commands only errors.
    fn default_log_filter(&self) -> &'static str {
        // lapin warns of every reply without a receiver.
        if self.is_server() { "info,lapin=error,sqlx=warn" } else { "error" }
    }

    /// Whether the command exports spans.
    #[cfg(feature = "service")]
    fn is_traced(&self) -> bool {
        matches!(self, Command::Run(_) | Command::Work(_) | Command::Submit(_) | Command::Jobs(_))
    }
}

/// Exit status when some inputs failed, and of every error that is not a usage error.
const SOME_FAILED: u8 = 1;
/// Exit status of clap, here also for usage errors that clap cannot detect.
const USAGE_ERROR: u8 = 2;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    if let Command::DecodeFrames { request } = &command {
        // The decoder process runs the decoder only: no logging, no model, no settings.
        return exit_code(inference::decoder::serve(request).map(|()| true).map_err(Into::into));
    }
    if !command.is_server() {
        process::end_on_closed_pipe();
    }
    // Dropped last: it sends the last spans.
    let _traces = match init_logs_and_traces(&command) {
        Ok(traces) => traces,
        Err(error) => return exit_code(Err(error)),
    };
    exit_code(match command {
        Command::Caption(command) => command.run(),
        Command::Ask(command) => command.run(),
        Command::Classify(command) => command.run(),
        Command::Chat(command) => command.run(),
        Command::Search(command) => command.run(),
        Command::Frames(command) => command.run(),
        Command::Model(command) => command.run(),
        Command::Bench(command) => command.run(),
        #[cfg(feature = "train")]
        Command::Train(command) => command.run(),
        #[cfg(feature = "train")]
        Command::Data(command) => command.run(),
        Command::Eval(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Run(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Work(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Submit(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Support(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Jobs(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Migrate(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Config(command) => command.run(),
        Command::DecodeFrames { .. } => Ok(true),
    })
}

/// Installs the log layer, and the trace layer when a collector is configured.
#[cfg(feature = "service")]
fn init_logs_and_traces(command: &Command) -> anyhow::Result<Option<traces::Exporter>> {
    let (exporter, spans) = if command.is_traced() { traces::layer()? } else { None }.unzip();
    tracing_subscriber::registry().with(spans).with(logs::layer(command.default_log_filter())?).init();
    Ok(exporter)
}

#[cfg(not(feature = "service"))]
fn init_logs_and_traces(command: &Command) -> anyhow::Result<()> {
    tracing_subscriber::registry().with(logs::layer(command.default_log_filter())?).init();
    Ok(())
}

/// Exit status of a command. `Ok(false)`: some inputs failed, and the command has named each of them.
fn exit_code(result: anyhow::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(SOME_FAILED),
        Err(e) => {
            eprintln!("{}", output::error_line(&e));
            ExitCode::from(if e.is::<args::UsageError>() { USAGE_ERROR } else { SOME_FAILED })
        }
    }
}
