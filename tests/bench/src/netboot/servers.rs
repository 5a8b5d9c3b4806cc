//! The servers, each as its manual has it for this use.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_tftp::server::TftpServerBuilder;
use futures_lite::future::block_on;
use serde::Serialize;

use super::Row;
use crate::network::{Network, TARGET_IP};
use crate::scene::processor_seconds;

/// A server that does not listen for so long does not run.
const READY: Duration = Duration::from_secs(20);

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Server {
    P2v,
    /// Another build of p2v.
    Beside,
    Dnsmasq,
    TftpdHpa,
    /// The published crate's own server.
    AsyncTftp,
}

impl Server {
    pub fn words(self) -> &'static str {
        match self {
            Server::P2v => "p2v",
            Server::Beside => "p2v beside",
            Server::Dnsmasq => "dnsmasq",
            Server::TftpdHpa => "tftpd-hpa",
            Server::AsyncTftp => "async-tftp",
        }
    }
}

/// Programs that need not be in the path.
pub struct Programs {
    pub p2v: PathBuf,
    /// Another build, measured too.
    pub beside: Option<PathBuf>,
    pub tftpd: PathBuf,
}

/// A server that serves; ended when dropped.
pub struct Running(Child);

impl Running {
    /// Starts it in the target's namespace, and waits until it listens.
    pub fn start(
        programs: &Programs,
        row: &Row,
        server: Server,
        network: &Network,
        directory: &Path,
    ) -> Result<Running> {
        let root = directory.join("root");
        let root = root.to_str().context("the directory's name is not UTF-8")?;
        let program = |path: &Path| path.to_string_lossy().into_owned();
        let words: Vec<String> = match server {
            Server::P2v | Server::Beside => {
                let binary = match (server, &programs.beside) {
                    (Server::Beside, Some(beside)) => beside,
                    _ => &programs.p2v,
                };
                let (config, state) = (directory.join("p2v.toml"), directory.join("state"));
                let text = format!(
                    "iface = \"target0\"\nstate = {state:?}\n[serve]\nmode = \"off\"\nallow = [\"*\"]\n\
                     kernel = \"{root}/vmlinuz\"\ninitrd = \"{root}/initrd\"\n"
                );
                fs::create_dir_all(&state)?;
                fs::write(&config, text)?;
                let config = program(&config);
                vec![program(binary), "serve".into(), "--config".into(), config]
            }
            Server::Dnsmasq => vec![
                "dnsmasq".into(),
                "--keep-in-foreground".into(),
                "--conf-file=/dev/null".into(),
                "--pid-file".into(),
                "--port=0".into(),
                "--user=root".into(),
                "--enable-tftp".into(),
                "--tftp-max=200".into(),
                format!("--tftp-root={root}"),
            ],
            Server::TftpdHpa => vec![
                program(&programs.tftpd),
                "--foreground".into(),
                "--address".into(),
                format!("{TARGET_IP}:69"),
                "--user".into(),
                "root".into(),
                "--secure".into(),
                root.to_owned(),
            ],
            Server::AsyncTftp => vec![
                program(&std::env::current_exe()?),
                "published-tftp".into(),
                format!("{TARGET_IP}:69"),
                root.to_owned(),
            ],
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let child = row
            .command(network, &network.target, &words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(match server {
                Server::P2v | Server::Beside => Stdio::piped(),
                _ => Stdio::null(),
            })
            .spawn()
            .with_context(|| format!("cannot start {}", words[0]))?;
        let mut running = Running(child);
        let until = Instant::now() + READY;
        while !network.hears(69)? {
            if running.0.try_wait()?.is_some() || Instant::now() > until {
                bail!("{} does not serve: {}", server.words(), words.join(" "));
            }
        }
        if let Some(log) = running.0.stderr.take() {
            look_is_over(log)?;
        }
        Ok(running)
    }

    pub fn processor_seconds(&self) -> Result<f64> {
        processor_seconds(self.0.id())
    }

    /// In MiB.
    pub fn max_rss(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        Ok(kib.context("no VmHWM in the process's status")? / 1024.0)
    }
}

/// The published server, until the process is ended: an address and a directory.
pub fn published(values: &[String]) -> Result<()> {
    let [address, root] = values else {
        bail!("published-tftp ADDRESS:PORT DIR");
    };
    let builder = TftpServerBuilder::with_dir_ro(root)?.bind(address.parse()?);
    block_on(async { Ok(builder.build().await?.serve().await?) })
}

/// In its first seconds p2v looks for other DHCP servers, and hears every frame for that: waits until it
/// says what it found.
fn look_is_over(log: ChildStderr) -> Result<()> {
    let mut log = BufReader::new(log);
    let mut line = String::new();
    while !line.contains("DHCP server") {
        line.clear();
        if log.read_line(&mut line)? == 0 {
            bail!("p2v serve ended");
        }
    }
    // What it says later has to go somewhere.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    Ok(())
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
