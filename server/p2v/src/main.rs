//! The `p2v` command: thin over the netboot service and the Xen host's workflows.

use std::process::ExitCode;

use clap::Parser;
use p2v_dom0::store::StoreError;
use p2v_dom0::workflow::{self, Code};
use serde_json::json;

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
mod log;
mod privileges;
mod report;
mod serve;
mod service_manager;
mod show;

fn main() -> ExitCode {
    let arguments = command_line::Arguments::parse();
    output::checked(match commands::run(&arguments.global, &arguments.command) {
        Ok(code) => code,
        Err(error) => {
            let message = in_one_line(&error);
            if arguments.global.json {
                println!(
                    "{}",
                    json!({ "error": { "code": code(&error), "message": message } })
                );
            }
            eprintln!("p2v: {message}");
            ExitCode::from(arguments::exit::FAILED)
        }
    })
}

/// The code of what a rule or a part of p2v said, if it was one.
fn code(error: &anyhow::Error) -> Option<Code> {
    let mut causes = error.chain();
    causes.find_map(|cause| match cause.downcast_ref::<workflow::Error>() {
        Some(error) => Some(error.code()),
        None if cause.is::<StoreError>() => Some(Code::Records),
        None if cause.is::<p2v_aoe::initiator::Error>() => Some(Code::Wire),
        None => None,
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
