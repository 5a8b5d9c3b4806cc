//! Fetching boot files from `p2v serve`, beside dnsmasq and tftpd-hpa, by the same clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde::Serialize;

use crate::measured::{self, median};
use crate::network::Network;

mod clients;
pub mod report;
mod servers;

use servers::Running;
pub use servers::{Programs, Server, published};

/// TFTP's block in all rows: what PXELINUX asks for.
const BLOCK_SIZE: u32 = 1408;

/// By what the file is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Client {
    CurlTftp,
    Atftp,
    CurlHttp,
}

/// What is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub client: Client,
    pub clients: u8,
    /// The interface cuts what TCP sends into frames, and puts it together again, as those of Xen hosts do;
    /// else the kernel does. TFTP's datagrams are frames anyway.
    pub offloads: bool,
    pub servers: Vec<Server>,
}

impl Row {
    pub fn name(&self) -> String {
        let client = match self.client {
            Client::CurlTftp => "tftp by curl",
            Client::Atftp => "tftp by atftp",
            Client::CurlHttp => "http by curl",
        };
        let offloads = if self.offloads { "" } else { ", no offloads" };
        format!("netboot {client}, {} at once{offloads}", self.clients)
    }

    /// A command of this row. With one block in flight the two ends work by turns, and share a processor:
    /// on two, most of a block's time is one waking the other, which in a virtual machine is a hundred
    /// times what either does. Many are where the kernel puts them.
    fn command(&self, network: &Network, namespace: &str, words: &[&str]) -> Command {
        match self.clients {
            1 => network.command(namespace, 0, words),
            _ => network.command_anywhere(namespace, words),
        }
    }

    /// Bytes of the file fetched: long enough to measure for one, by HTTP too, which takes a while to come up to
    /// its speed; for many the kernel, as it is.
    fn bytes(&self) -> u64 {
        match (self.clients, self.client) {
            (1, Client::CurlHttp) => 256 << 20,
            (1, _) => 24 << 20,
            _ => 8 << 20,
        }
    }
}

/// Bytes of the other file that is served beside the fetched one when there are many clients: so the
/// memory is that of a real boot set.
const BESIDE: u64 = 15 << 20;

/// Every row there is.
pub fn all() -> Vec<Row> {
    let all = vec![
        Server::P2v,
        Server::Beside,
        Server::Dnsmasq,
        Server::TftpdHpa,
        Server::AsyncTftp,
    ];
    let row = |client, clients, servers: &Vec<Server>| Row {
        client,
        clients,
        offloads: true,
        servers: servers.clone(),
    };
    let http = vec![Server::P2v, Server::Beside];
    vec![
        row(Client::CurlTftp, 1, &all),
        row(Client::Atftp, 1, &all),
        row(Client::CurlTftp, 100, &all),
        row(Client::CurlHttp, 1, &http),
        Row {
            offloads: false,
            ..row(Client::CurlHttp, 1, &http)
        },
        row(Client::CurlHttp, 100, &http),
    ]
}

/// One server's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    /// Bytes that all clients together got in a second, in units of 10^6.
    pub megabytes: f64,
    /// Clients that did not get the whole file.
    pub failed: usize,
    /// The slowest client's time over the median one's.
    pub unfairness: f64,
    /// Processor seconds of the server for 2^30 bytes; not known of one that forks.
    pub cpu_seconds_per_gib: Option<f64>,
    /// The most memory the server's first process had (`VmHWM`), in MiB.
    pub max_rss: f64,
}

/// What a row came to: by each server the median of its rounds.
pub type Measured = measured::Measured<Row, Server, Taken>;

/// Where the boot files are.
pub struct BootFiles {
    directory: PathBuf,
    programs: Programs,
}

impl BootFiles {
    pub fn new(directory: &Path, programs: Programs) -> Result<BootFiles> {
        let directory = directory.join("netboot");
        fs::create_dir_all(&directory)?;
        Ok(BootFiles {
            directory: directory.canonicalize()?,
            programs,
        })
    }

    /// Measures a row so many times, the servers by turns, and takes the median of each by throughput,
    /// with the failures of all rounds.
    pub fn measure(&self, row: &Row, rounds: usize) -> Result<Measured> {
        let settle = |list: Vec<Taken>| {
            let failed = list.iter().map(|taken| taken.failed).sum();
            let median = median(list, |taken| taken.megabytes);
            Taken { failed, ..median }
        };
        let once = |server| self.once(row, server);
        let mut servers = row.servers.clone();
        servers.retain(|&server| server != Server::Beside || self.programs.beside.is_some());
        Measured::by_turns(row, row.name(), &servers, rounds, once, settle)
    }

    fn once(&self, row: &Row, server: Server) -> Result<Taken> {
        let root = self.directory.join("root");
        fs::create_dir_all(&root)?;
        for (name, bytes) in [("vmlinuz", row.bytes()), ("initrd", BESIDE)] {
            let path = root.join(name);
            if fs::metadata(&path).map(|m| m.len()).ok() != Some(bytes) {
                let file = fs::File::create(&path)?;
                std::io::copy(
                    &mut std::io::Read::take(fs::File::open("/dev/urandom")?, bytes),
                    &mut &file,
                )?;
            }
        }
        let network = Network::new(1500)?;
        network.with_addresses()?;
        if !row.offloads {
            network.without_offloads()?;
        }
        let addresses = network.with_more_load_addresses(row.clients)?;
        let running = Running::start(&self.programs, row, server, &network, &self.directory)?;
        if row.clients == 1 {
            // What is loaded and found for the first time is no part of a block's way.
            clients::fetch(row, &network, &addresses, &self.directory)?;
        }
        let before = running.processor_seconds()?;
        let fetched = clients::fetch(row, &network, &addresses, &self.directory)?;
        let used = running.processor_seconds()? - before;
        let got = fetched.whole as f64 * row.bytes() as f64;
        Ok(Taken {
            megabytes: got / fetched.seconds / 1e6,
            failed: usize::from(row.clients) - fetched.whole,
            unfairness: fetched.unfairness,
            cpu_seconds_per_gib: (server != Server::TftpdHpa)
                .then_some(used / (got / f64::from(1 << 30))),
            max_rss: running.max_rss()?,
        })
    }
}
