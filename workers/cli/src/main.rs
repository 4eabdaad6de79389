//! The `flamingo` command: one executable whose subcommands are the roles.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

mod args;
mod logs;
#[cfg(feature = "service")]
mod traces;
mod inputs;
mod output;
mod understand;
mod frames;
mod model;
mod bench;
#[cfg(feature = "train")]
mod train;
#[cfg(feature = "service")]
mod service;

/// Captions and answers for videos, from open weights on your own machine.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what is to be seen in videos and images.
    Caption(understand::Caption),
    /// Ask questions about videos and images.
    Ask(understand::Ask),
    /// Show which frames of a video the model would look at.
    Frames(frames::Frames),
    /// Look into model directories, trace them, make new ones.
    #[command(subcommand)]
    Model(model::Model),
    /// Measure how fast a model runs here, beside what the machine could do.
    Bench(bench::Bench),
    /// Train a model, or go on with a training that was interrupted.
    #[cfg(feature = "train")]
    Train(train::Train),
    /// Make the data that a model learns from.
    #[cfg(feature = "train")]
    #[command(subcommand)]
    Data(train::Data),
    /// Measure what a model knows.
    #[cfg(feature = "train")]
    #[command(subcommand)]
    Eval(train::Eval),
    /// Do the jobs of a file on this machine, with no server: where it was interrupted it goes on.
    #[cfg(feature = "service")]
    Run(service::Run),
    /// Take jobs from the queue until told to end.
    #[cfg(feature = "service")]
    Work(service::Work),
    /// Send jobs to the workers.
    #[cfg(feature = "service")]
    Submit(Box<service::Submit>),
    /// See what has become of jobs.
    #[cfg(feature = "service")]
    #[command(subcommand)]
    Jobs(service::Jobs),
    /// Make the tables of the database, or bring them up to date.
    #[cfg(feature = "service")]
    Migrate(service::Migrate),
    /// Show which settings are in force, and where each was set.
    #[cfg(feature = "service")]
    Config(service::Config),
    /// The decoder's end of `inference::decoder`.
    #[command(name = inference::decoder::SUBCOMMAND, hide = true)]
    DecodeFrames { request: String },
}

impl Command {
    /// What is logged when `FLAMINGO_LOG` says nothing: a server tells what it does, other commands what went wrong.
    fn logs(&self) -> &'static str {
        match self {
            // lapin warns of every answer that nobody listens to.
            #[cfg(feature = "service")]
            Command::Work(_) => "info,lapin=error,sqlx=warn",
            _ => "error",
        }
    }

    /// Whether what it does belongs to traces.
    #[cfg(feature = "service")]
    fn is_traced(&self) -> bool {
        matches!(self, Command::Run(_) | Command::Work(_) | Command::Submit(_) | Command::Jobs(_))
    }
}

const SOME_FAILED: u8 = 1;
/// clap's own exit code, for what clap cannot see.
const BAD_USE: u8 = 2;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    if let Command::DecodeFrames { request } = &command {
        // Nothing but the decoder runs in its process: no logging, no model, no settings.
        return exit(inference::decoder::serve(request).map(|()| true).map_err(Into::into));
    }
    // Dropped last: it sends the last spans.
    let _traces = match observe(&command) {
        Ok(traces) => traces,
        Err(error) => return exit(Err(error)),
    };
    exit(match command {
        Command::Caption(command) => command.run(),
        Command::Ask(command) => command.run(),
        Command::Frames(command) => command.run(),
        Command::Model(command) => command.run(),
        Command::Bench(command) => command.run(),
        #[cfg(feature = "train")]
        Command::Train(command) => command.run(),
        #[cfg(feature = "train")]
        Command::Data(command) => command.run(),
        #[cfg(feature = "train")]
        Command::Eval(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Run(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Work(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Submit(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Jobs(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Migrate(command) => command.run(),
        #[cfg(feature = "service")]
        Command::Config(command) => command.run(),
        Command::DecodeFrames { .. } => Ok(true),
    })
}

/// Logs, and traces where they are wanted.
#[cfg(feature = "service")]
fn observe(command: &Command) -> anyhow::Result<Option<traces::Exporter>> {
    let (exporter, spans) = if command.is_traced() { traces::layer()? } else { None }.unzip();
    tracing_subscriber::registry().with(spans).with(logs::layer(command.logs())?).init();
    Ok(exporter)
}

#[cfg(not(feature = "service"))]
fn observe(command: &Command) -> anyhow::Result<()> {
    tracing_subscriber::registry().with(logs::layer(command.logs())?).init();
    Ok(())
}

/// `Ok(false)`: some inputs failed, and each has been named.
fn exit(result: anyhow::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(SOME_FAILED),
        Err(e) => {
            eprintln!("{}", output::error_line(&e));
            ExitCode::from(if e.is::<args::BadUse>() { BAD_USE } else { SOME_FAILED })
        }
    }
}
