//! The `p2v` command: thin over the netboot service and the Xen host's workflows.

use std::process::ExitCode;

use clap::Parser;

#[macro_use]
mod output;

mod approve;
mod arguments;
mod command_line;
mod commands;
mod copying;
mod descriptors;
mod doctor;
mod image;
mod privileges;
mod report;
mod serve;
mod serve_log;
mod service_manager;
mod settings;
mod show;
mod site_dhcp;

fn main() -> ExitCode {
    let arguments = command_line::Arguments::parse();
    output::checked(match commands::run(&arguments.global, &arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("p2v: {}", in_one_line(&error));
            ExitCode::from(arguments::exit::FAILED)
        }
    })
}

/// An error and what caused it. Many of ours name their cause themselves: nothing is said twice.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text += ": ";
            text += &cause;
        }
    }
    text
}
