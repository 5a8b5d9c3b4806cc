//! `p2v-image`: makes the netboot image.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use p2v_image::image::{self, BUDGET, Recipe};
use p2v_image::kernel;

/// Makes the image that old servers boot over the network.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write vmlinuz and initrd from a Debian kernel package and the static agent
    Build {
        /// The agent, linked statically
        #[arg(long, value_name = "PATH")]
        agent: PathBuf,
        /// Directory to write vmlinuz and initrd into
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// A linux-image package, or a directory one was unpacked into; without it the current
        /// one is fetched with apt
        #[arg(long, value_name = "DEB-OR-DIR")]
        kernel: Option<PathBuf>,
        /// Where fetched and unpacked packages are kept
        #[arg(long, value_name = "DIR", default_value = "target/kernel-cache")]
        cache: PathBuf,
        /// Also put in the firmware files the modules may ask for, as far as they are in DIR
        /// (laid out as /lib/firmware)
        #[arg(long, value_name = "DIR")]
        firmware: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("p2v-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let Command::Build {
        agent,
        out,
        kernel,
        cache,
        firmware,
    } = args.command;
    let package = match kernel {
        Some(given) => given,
        None => kernel::fetch(&cache).context("fetching the kernel package")?,
    };
    let kernel = kernel::open(&package, &cache)
        .with_context(|| format!("opening the kernel {}", package.display()))?;
    let version = kernel.version.clone();
    let image = image::build(&Recipe {
        kernel,
        agent,
        firmware,
    })?;
    for rule in &image.unanswered {
        eprintln!(
            "p2v-image: this kernel has no module for {} ({})",
            rule.path, rule.why
        );
    }
    image::write(&image, &out)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (vmlinuz, initrd) = (image.vmlinuz.len() as u64, image.initrd.len() as u64);
    println!(
        "kernel {version}: {} modules, {} firmware files",
        image.modules, image.firmware
    );
    println!("vmlinuz {vmlinuz:>9} bytes ({:.1} MiB)", mib(vmlinuz));
    println!(
        "initrd  {initrd:>9} bytes ({:.1} MiB; {:.1} MiB unpacked)",
        mib(initrd),
        mib(image.unpacked)
    );
    println!(
        "total   {:>9} bytes ({:.1} of {:.0} MiB) in {}",
        vmlinuz + initrd,
        mib(vmlinuz + initrd),
        mib(BUDGET),
        out.display()
    );
    Ok(())
}
