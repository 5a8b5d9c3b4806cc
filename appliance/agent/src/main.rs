//! `p2v-agent`: one program for four parts. On any system, `export` puts a disk on the wire. As PID 1 it is the supervisor; started by that with
//! the word `worker` it does the work; as `modprobe` it loads what the kernel asks for.

use std::process::ExitCode;

use p2v_agent::{export_command, modprobe, supervisor, worker};

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    if name.ends_with("modprobe") {
        return if modprobe::run(arguments) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    if std::process::id() == 1 {
        supervisor::run();
    }
    match arguments.next().as_deref() {
        Some("export") => ExitCode::from(export_command::main(arguments)),
        Some("worker") => match worker::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("p2v-agent: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!(
                "p2v-agent is PID 1 of the p2v netboot image. On a machine that runs another system it \
                 does one thing: `p2v-agent export --help`."
            );
            ExitCode::from(2)
        }
    }
}
