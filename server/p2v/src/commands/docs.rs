//! `p2v docs`: manual pages and shell completions, made from the definitions of the commands.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::command_line::Arguments;

#[derive(Debug, Args)]
pub struct Docs {
    /// Where they go: man8 and completions/SHELL below it
    dir: PathBuf,
}

impl Docs {
    /// Writes a page for each command, and what a shell completes.
    pub fn run(&self) -> Result<ExitCode> {
        let mut command = Arguments::command();
        command.build();
        let man = self.dir.join("man8");
        make(&man)?;
        write_pages(&command, &man)?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let dir = self.dir.join(format!("completions/{shell}"));
            make(&dir)?;
            clap_complete::generate_to(shell, &mut command, "p2v", &dir)
                .with_context(|| format!("cannot write to {}", dir.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

/// A page for each subcommand, and for theirs. The options that all have are in p2v(8).
fn write_pages(command: &Command, dir: &Path) -> Result<()> {
    let subcommands = command.get_subcommands();
    for sub in subcommands.filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let mut page = sub.clone();
        if sub.has_subcommands() {
            page = page.mut_subcommand("help", |help| help.hide(true));
        }
        page = page.mut_args(|argument| match argument.is_global_set() {
            true => argument.hide(true),
            false => argument,
        });
        let name = sub.get_display_name().unwrap_or(sub.get_name());
        write_page(&dir.join(format!("{name}.8")), page)?;
        write_pages(sub, dir)?;
    }
    Ok(())
}

fn write_page(path: &Path, command: Command) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        let page = Man::new(command)
            .section("8")
            .manual("System administration")
            .source(concat!("p2v ", env!("CARGO_PKG_VERSION")));
        page.render_title(&mut file)?;
        page.render_name_section(&mut file)?;
        page.render_synopsis_section(&mut file)?;
        page.render_description_section(&mut file)?;
        page.render_options_section(&mut file)?;
        page.render_subcommands_section(&mut file)?;
        file.write_all(b".SH SEE ALSO\n.BR p2v (8)\n")
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
