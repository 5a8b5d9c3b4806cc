//! The `p2v` command: thin over the netboot service and the Xen host's workflows.

use std::process::ExitCode;

use clap::Parser;

mod arguments;
mod commands;
mod doctor;
mod report;
mod serve;
mod settings;
mod show;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    match commands::run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("p2v: {error:#}");
            ExitCode::from(arguments::exit::FAILED)
        }
    }
}
