//! `cargo xtask bench engine`: the encoders alone, in tokens a second, without server or tokenizer.

use std::process::Command;

use anyhow::Result;
use bert_cpu::{Isa, Precision};
use clap::Args;

use super::{
    accuracy::{self, Cosines},
    competitors::{self, Binaries, Name, Ready},
    in_process::{self, Job, LibraryResults},
    number::shown,
    results::Figure,
    running::log_of,
    sysinfo,
    texts::TextKind,
};
use testkit::workspace::Workspace;
use xtask::{serve, setup};

#[derive(Args)]
pub(crate) struct EngineArgs {
    /// Instruction sets of embedgate's encoder, one after the other; by default the CPU's best
    #[arg(long, value_name = "ISA", value_delimiter = ',')]
    isa: Vec<Isa>,
    /// Seconds of each shape
    #[arg(long, default_value_t = 5.0, value_parser = super::positive)]
    seconds: f64,
    /// Measure the release binary and the imported model as they are, without building first
    #[arg(long)]
    no_build: bool,
}

/// A shape of the load. The identifiers are those of `embedgate model bench`.
pub(crate) struct LoadShape {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    kind: TextKind,
    batch: Option<usize>,
    /// One text at a time, whose latency is measured.
    pub(crate) single: bool,
}

pub(crate) const SHAPES: [LoadShape; 4] = [
    LoadShape {
        id: "32x32",
        title: "32 × 32 tokens, tokens/s",
        kind: TextKind::Exactly(32),
        batch: Some(32),
        single: false,
    },
    LoadShape {
        id: "8x256",
        title: "8 × 256 tokens, tokens/s",
        kind: TextKind::Exactly(256),
        batch: Some(8),
        single: false,
    },
    LoadShape {
        id: "mixed",
        title: "mixed lengths, tokens/s",
        kind: TextKind::Mixed,
        batch: None,
        single: false,
    },
    LoadShape {
        id: "one",
        title: "one text of 14 tokens, p50 in ms",
        kind: TextKind::Exactly(14),
        batch: None,
        single: true,
    },
];

/// Measures and prints.
///
/// # Errors
/// Set-up or the build fails; an engine that cannot be run has its reason in the table.
pub(crate) fn run(workspace: &Workspace, options: &EngineArgs) -> Result<()> {
    setup::run(workspace)?;
    if !options.no_build {
        serve::build_and_import(workspace)?;
    }
    super::check_texts(workspace)?;
    let mut jobs: Vec<Job> = SHAPES
        .iter()
        .zip(20..)
        .map(|(shape, series)| {
            Job::new(shape.id, shape.kind, series, 512, options.seconds)
                .single(shape.single)
                .batch(shape.batch)
                .encoder_alone()
        })
        .collect();
    jobs.push(Job::vectors(&accuracy::texts()));
    let reference = accuracy::reference(workspace)?;

    let mut table = String::from("| encoder alone |");
    for shape in &SHAPES {
        table += &format!(" {} |", shape.title);
    }
    table += &format!(" worst cosine to fp32 |\n|---|{}---:|\n", "---:|".repeat(SHAPES.len()));
    for (name, command) in engines(workspace, options) {
        eprintln!("{name} …");
        let log = log_of(&workspace.runtime(), &format!("engine-{}", name.replace([' ', ','], "-")));
        let done = command.and_then(|engine| match engine {
            Engine::Own(command, flags) => {
                let done = in_process::follow(command, options.seconds, &log)?;
                let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                Ok(LibraryResults { vectors: accuracy::of_embedgate(workspace, &flags)?, ..done })
            }
            Engine::Python(command) => in_process::run(command, &jobs, &log),
        });
        table += &row(&name, &done, &reference);
    }
    let results = super::results::Results {
        machine: sysinfo::Machine::read(workspace),
        seconds: options.seconds,
        rounds: 1,
        ..Default::default()
    };
    println!("{}{table}", super::report::machine(&results));
    Ok(())
}

/// Command of an engine.
enum Engine {
    /// embedgate's command, which contains the load shapes, and the settings in it.
    Own(Command, Vec<String>),
    /// The script, which reads them.
    Python(Command),
}

/// Every engine with its command, or the reason why there is none.
fn engines(workspace: &Workspace, options: &EngineArgs) -> Vec<(String, Result<Engine>)> {
    let isas: Vec<Option<Isa>> =
        if options.isa.is_empty() { vec![None] } else { options.isa.iter().copied().map(Some).collect() };
    let mut engines = Vec::new();
    for isa in isas {
        let name = isa.map_or_else(|| "embedgate".to_owned(), |isa| format!("embedgate, {isa}"));
        let flags = isa.map_or_else(Vec::new, flags);
        engines.push((name, Ok(Engine::Own(own(workspace, options.seconds, &flags), flags))));
    }
    for name in [Name::Onnxruntime, Name::Openvino] {
        let competitor = competitors::prepare(workspace, name, &Binaries::default(), &[]);
        let command = match competitor.ready {
            Ok(Ready::InProcess { python, library }) => Ok(Engine::Python(in_process::python(
                &python,
                &competitors::sources(workspace).join("in_process.py"),
                library,
                &competitors::model(workspace),
            ))),
            Ok(Ready::Server { .. }) => Err(anyhow::anyhow!("is a server")),
            Err(reason) => Err(anyhow::anyhow!(reason)),
        };
        engines.push((competitor.versions, command));
    }
    engines
}

/// Settings by which embedgate computes with an instruction set. It never selects int8 by itself.
fn flags(isa: Isa) -> Vec<String> {
    let precision = if isa.precision() == Precision::Int8 { "int8" } else { "auto" };
    vec![format!("--isa={isa}"), format!("--precision={precision}")]
}

/// `embedgate model bench` with JSON lines.
fn own(workspace: &Workspace, seconds: f64, flags: &[String]) -> Command {
    let mut command = Command::new(workspace.release_binary());
    command.args(["model", "bench", "--json"]).arg(format!("--seconds={seconds}"));
    command.args(flags).arg(competitors::model(workspace));
    command.current_dir(workspace.root());
    command
}

fn row(name: &str, done: &Result<LibraryResults>, reference: &[Vec<f32>]) -> String {
    let mut row = match done {
        Ok(done) => format!("| {name}, {} |", done.note),
        Err(error) => format!("| {name} | not run: {error:#} |"),
    };
    for shape in &SHAPES {
        let Ok(done) = done else { break };
        let job = done.jobs.iter().find(|(id, ..)| id == shape.id);
        let figure = job.map(|(_, measured, cpu)| Figure::new(measured, Some(*cpu)));
        let value =
            figure.and_then(|figure| if shape.single { figure.p50 } else { Some(figure.tokens_per_second) });
        row += &format!(" {} |", shown(value));
    }
    if let Ok(done) = done {
        row += &format!(" {:.5} |", Cosines::between(&done.vectors, reference).worst);
    }
    row + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Measured;

    #[test]
    fn a_row_has_a_cell_for_each_shape_or_a_reason() {
        let measured = |tokens| Measured {
            texts: 1,
            tokens,
            seconds: 2.0,
            milliseconds: vec![3.0],
            ..Measured::default()
        };
        let jobs = vec![
            ("32x32".to_owned(), measured(2000), 1.0),
            ("one".to_owned(), measured(28), 1.0),
            ("mixed".to_owned(), measured(500), 1.0),
        ];
        let vectors = vec![vec![4.0, 3.0]];
        let done = LibraryResults { note: "fp32".into(), jobs, vectors, ..LibraryResults::default() };
        let reference = [vec![3.0, 4.0]];
        assert_eq!(row("x", &Ok(done), &reference), "| x, fp32 | 1,000 | – | 250 | 3.00 | 0.96000 |\n");
        let failed = Err(anyhow::anyhow!("no"));
        assert_eq!(row("x", &failed, &reference), "| x | not run: no |\n");
    }
}
