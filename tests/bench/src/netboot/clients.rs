//! The clients, all started at once.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use super::{BLOCK_SIZE, Client, Row};
use crate::network::{Network, TARGET_IP};

/// What came of them.
pub struct Fetched {
    /// Clients that got all of it.
    pub whole: usize,
    /// One client: its own time. Many: from the first's start to the last's end.
    pub seconds: f64,
    pub unfairness: f64,
}

/// Has each address fetch the file.
pub fn fetch(
    row: &Row,
    network: &Network,
    addresses: &[String],
    directory: &Path,
) -> Result<Fetched> {
    let begun = Instant::now();
    let children: Vec<Child> = addresses
        .iter()
        .map(|address| start(row, network, address, directory))
        .collect::<Result<_>>()?;
    let mut times = Vec::new();
    for child in children {
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = text.split_whitespace();
        let (bytes, time) = match row.client {
            Client::Atftp => (
                std::fs::metadata(directory.join("got")).map_or(0, |m| m.len()),
                begun.elapsed().as_secs_f64(),
            ),
            _ => (
                words.next().and_then(|word| word.parse().ok()).unwrap_or(0),
                words
                    .next()
                    .and_then(|word| word.parse().ok())
                    .unwrap_or(f64::NAN),
            ),
        };
        if output.status.success() && bytes == row.bytes() {
            times.push(time);
        } else {
            eprintln!(
                "a client failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    let elapsed = begun.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let last = times.last().copied().unwrap_or(f64::NAN);
    let median = times.get(times.len() / 2).copied().unwrap_or(f64::NAN);
    Ok(Fetched {
        whole: times.len(),
        seconds: if row.clients == 1 { last } else { elapsed },
        unfairness: last / median,
    })
}

fn start(row: &Row, network: &Network, address: &str, directory: &Path) -> Result<Child> {
    let size = BLOCK_SIZE.to_string();
    let option = format!("blksize {size}");
    let got = directory.join("got");
    let got = got.to_str().context("the directory's name is not UTF-8")?;
    let protocol = match row.client {
        Client::CurlHttp => "http",
        _ => "tftp",
    };
    let url = format!("{protocol}://{TARGET_IP}/vmlinuz");
    let words = match row.client {
        Client::Atftp => {
            let _ = std::fs::remove_file(got);
            vec![
                "atftp", "--option", &option, "-g", "-r", "vmlinuz", "-l", got, TARGET_IP,
            ]
        }
        _ => {
            let mut words = vec!["curl", "-sS", "-m", "300", "-o", "/dev/null"];
            words.extend(["--interface", address, "--tftp-blksize", &size]);
            words.extend(["-w", "%{size_download} %{time_total}", &url]);
            words
        }
    };
    row.command(network, &network.load, &words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", words[0]))
}
