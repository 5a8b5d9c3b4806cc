//! `bench`: our AoE target beside vblade and beside a ceiling, same machine, same disk image, same load; and
//! our copies beside other ways to copy a disk, and our netboot service beside other servers.
//!
//! Figures, not tests: it ends with status 0 whatever they are, and says which goals were reached.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lexopt::{Arg, Parser, ValueExt};

mod ceiling;
mod copying;
mod generator;
mod measured;
mod netboot;
mod network;
mod power_on;
mod report;
mod rows;
mod scene;
mod slow_disk;
mod target;

const USAGE: &str = "\
usage: bench [--only WORDS] [--list] [--out DIR]
  --only WORDS  the rows whose names contain all of these words
  --list        the names of the rows
  --p2v FILE    the p2v whose netboot service is measured (p2v, beside this program)
  --beside FILE another build of p2v, whose netboot service is measured in the same run
  --tftpd FILE  tftpd-hpa's server (/usr/sbin/in.tftpd)
  --out DIR     where the images are made and the results are written (target/bench)
BENCH_SECONDS (2) and BENCH_ROUNDS (3) say how long and how often each row is measured, BENCH_COPIES (1) how
often each copy is made.
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
    let mut programs = netboot::Programs {
        p2v: std::env::current_exe()?.with_file_name("p2v"),
        beside: None,
        tftpd: "/usr/sbin/in.tftpd".into(),
    };
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
                    Some("copy") => copying::engine::run(&values),
                    Some("generate") => generator::run(&values),
                    Some("published-tftp") => netboot::published(&values),
                    _ => bail!("there is no part {part:?}\n{USAGE}"),
                };
            }
            Arg::Long("only") => only = arguments.value()?.string()?,
            Arg::Long("list") => list = true,
            Arg::Long("out") => out = arguments.value()?.into(),
            Arg::Long("p2v") => programs.p2v = arguments.value()?.into(),
            Arg::Long("beside") => programs.beside = Some(arguments.value()?.into()),
            Arg::Long("tftpd") => programs.tftpd = arguments.value()?.into(),
            Arg::Long("help") => {
                print!("{USAGE}");
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let chosen = |name: &str| only.split_whitespace().all(|word| name.contains(word));
    let mut rows = rows::all();
    rows.retain(|row| chosen(&row.name()));
    let mut copies = copying::all();
    copies.retain(|row| chosen(&row.name()));
    let mut shares = copying::share::all();
    shares.retain(|row| chosen(&row.name()));
    let mut fetches = netboot::all();
    fetches.retain(|row| chosen(&row.name()));
    let mut starts = power_on::all();
    starts.retain(|row| chosen(&row.name()));
    if list {
        let names = rows.iter().map(rows::Row::name);
        let names = names.chain(copies.iter().map(copying::Row::name));
        let names = names.chain(fetches.iter().map(netboot::Row::name));
        let names = names.chain(starts.iter().map(power_on::Row::name));
        for name in names.chain(shares.iter().map(copying::share::Row::name)) {
            println!("{name}");
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
    network::clear_up();
    if !rows.is_empty() {
        let scene = scene::Scene::new(&out)?;
        let mut measured = Vec::new();
        for row in rows {
            let result = scene.measure(&row, seconds, rounds.max(1))?;
            report::line(&result);
            measured.push(result);
        }
        report::goals(&measured);
        report::json(&measured, &out.join("results.json"))?;
    }
    if !fetches.is_empty() {
        let files = netboot::BootFiles::new(&out, programs)?;
        let mut measured = Vec::new();
        for row in fetches {
            let result = files.measure(&row, rounds.max(1))?;
            netboot::report::line(&result);
            measured.push(result);
        }
        netboot::report::goals(&measured);
        report::json(&measured, &out.join("netboot.json"))?;
    }
    if !starts.is_empty() {
        let measured = power_on::measure(&out, rounds.max(1))?;
        measured.print();
        report::json(&[measured], &out.join("power-on.json"))?;
    }
    if !copies.is_empty() {
        let workshop = copying::Workshop::new(&out)?;
        let rounds = number("BENCH_COPIES", 1.0)? as usize;
        let mut measured = Vec::new();
        for row in copies {
            let result = workshop.measure(&row, rounds.max(1))?;
            copying::report::line(&result);
            measured.push(result);
        }
        copying::report::goals(&measured);
        report::json(&measured, &out.join("copies.json"))?;
    }
    if !shares.is_empty() {
        let workshop = copying::Workshop::new(&out)?;
        for row in shares {
            copying::share::measure(&workshop, &row)?.print();
        }
    }
    Ok(())
}
