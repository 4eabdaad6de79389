//! `flamingo model inspect`: shows the parts, sizes, memory, gates and hashes of a model.

use std::path::Path;

use clap::Args;
use flamingo::family::{LoadOptions, Loaded, header_problems};
use serde_json::{Value, json};

use crate::args::ModelArgs;
use crate::memory::plan::MemoryPlan;
use crate::output::printable;

#[derive(Debug, Args)]
pub struct Inspect {
    #[command(flatten)]
    model: ModelArgs,
    /// Read the headers of the files only: parts, number types, memory, and tensors that are missing or unused, without the load.
    #[arg(long)]
    headers: bool,
    /// Print one JSON object instead of text.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Inspect {
    pub fn run(self) -> anyhow::Result<bool> {
        let (directory, options) = (self.model.directory()?.path, self.model.options()?);
        let plan = MemoryPlan::read(&directory, &options);
        if self.headers {
            return self.print_headers(&plan?, &tensor_problems(&directory, &options));
        }
        let pipeline = self.model.load()?;
        if self.json {
            println!("{}", as_json(pipeline.loaded(), plan.ok().as_ref()));
        } else {
            print_text(pipeline.loaded(), plan.ok().as_ref());
        }
        Ok(true)
    }

    /// Prints the plan of the files. `Ok(false)`: they contradict each other or the model.
    fn print_headers(&self, plan: &MemoryPlan, tensors: &[String]) -> anyhow::Result<bool> {
        if self.json {
            println!("{}", json!({"memory": plan.as_json(), "tensor_problems": tensors}));
        } else {
            println!("{}", self.model.model.display());
            plan.print();
            if tensors.is_empty() {
                println!("  tensors          all that the model takes, and no others");
            }
        }
        let problems = plan.problems().iter().chain(tensors);
        problems.clone().for_each(|problem| eprintln!("error: {}", printable(problem)));
        Ok(problems.count() == 0)
    }
}

/// Returns a sentence per tensor that is missing, misshapen or unused, or the reason why the model cannot be described.
fn tensor_problems(directory: &Path, options: &LoadOptions) -> Vec<String> {
    header_problems(directory, options).unwrap_or_else(|error| vec![error.to_string()])
}

fn as_json(loaded: &Loaded, plan: Option<&MemoryPlan>) -> Value {
    let language = loaded.model.language().sizes();
    json!({
        "about": loaded.info,
        "parameters": loaded.parameters,
        "cross_attention_layers": loaded.model.cross_attention_layers(),
        "language": {
            "layers": language.cache.layers, "width": language.width,
            "vocabulary": language.vocabulary, "max_positions": language.max_positions,
        },
        "preprocess": loaded.preprocess,
        "prompt": loaded.format,
        "memory": plan.map(MemoryPlan::as_json),
    })
}

fn print_text(loaded: &Loaded, plan: Option<&MemoryPlan>) {
    let language = loaded.model.language().sizes();
    println!("{} ({})", loaded.info.name, loaded.info.family);
    for (part, n) in &loaded.parameters {
        println!("  {part:<16} {:>8.2} M parameters", *n as f64 / 1e6);
    }
    let (n, width) = (language.cache.layers, language.width);
    println!(
        "  language model   {n} layers of width {width}, {} tokens, up to {} positions",
        language.vocabulary, language.max_positions
    );
    println!("  cross-attention before layers {:?}", loaded.model.cross_attention_layers());
    println!("  frames are {:?} to {} px", loaded.preprocess.fit, loaded.preprocess.size);
    println!(
        "  frames of a video: {}",
        loaded.info.frames.note().unwrap_or("one sequence, with a temporal embedding")
    );
    let open = loaded.info.gates_open;
    println!("  gates are {}", if open { "open" } else { "closed: the model is untrained and cannot see" });
    for (file, sha256) in &loaded.info.sha256 {
        println!("  {file:<16} sha256 {sha256}");
    }
    if let Some(plan) = plan {
        println!("tensors of the files:");
        plan.print();
    }
}
