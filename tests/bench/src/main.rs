//! `bench`: our AoE target beside vblade and beside a ceiling, same machine, same disk image, same load.
//!
//! Figures, not tests: it ends with status 0 whatever they are, and says which goals were reached.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lexopt::{Arg, Parser, ValueExt};

mod ceiling;
mod generator;
mod report;
mod rows;
mod scene;
mod slow_disk;
mod target;

const USAGE: &str = "\
usage: bench [--only WORDS] [--list] [--out DIR]
  --only WORDS  the rows whose names contain all of these words
  --list        the names of the rows
  --out DIR     where the image is made and results.json is written (target/bench)
BENCH_SECONDS (2) and BENCH_ROUNDS (3) say how long and how often each row is measured.
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = Parser::from_env();
    let (mut only, mut list, mut out) = (String::new(), false, PathBuf::from("target/bench"));
    while let Some(argument) = arguments.next()? {
        match argument {
            // The parts that run in processes of their own.
            Arg::Value(part) => {
                let mut values = Vec::new();
                while let Some(argument) = arguments.next()? {
                    match argument {
                        Arg::Value(value) => values.push(value.string()?),
                        other => return Err(other.unexpected().into()),
                    }
                }
                return match part.to_str() {
                    Some("target") => target::run(&values),
                    Some("ceiling") => ceiling::run(&values),
                    Some("generate") => generator::run(&values),
                    _ => bail!("there is no part {part:?}\n{USAGE}"),
                };
            }
            Arg::Long("only") => only = arguments.value()?.string()?,
            Arg::Long("list") => list = true,
            Arg::Long("out") => out = arguments.value()?.into(),
            Arg::Long("help") => {
                print!("{USAGE}");
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let rows: Vec<rows::Row> = rows::all()
        .into_iter()
        .filter(|row| {
            only.split_whitespace()
                .all(|word| row.name().contains(word))
        })
        .collect();
    if list {
        for row in rows {
            println!("{}", row.name());
        }
        return Ok(());
    }
    let number = |name: &str, default: f64| -> Result<f64> {
        match std::env::var(name) {
            Ok(value) => value.parse().with_context(|| format!("{name}={value}")),
            Err(_) => Ok(default),
        }
    };
    let seconds = number("BENCH_SECONDS", 2.0)?;
    let rounds = number("BENCH_ROUNDS", 3.0)? as usize;
    let scene = scene::Scene::new(&out)?;
    let mut measured = Vec::new();
    for row in rows {
        let result = scene.measure(&row, seconds, rounds.max(1))?;
        report::line(&result);
        measured.push(result);
    }
    report::goals(&measured);
    report::json(&measured, &out.join("results.json"))
}
