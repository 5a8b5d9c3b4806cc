//! What the fetches say, for people.

use super::{Client, Measured, Server};
use crate::report::verdict;

/// One row, as soon as it is known.
pub fn line(measured: &Measured) {
    println!("{}", measured.name);
    for (server, taken) in &measured.results {
        let cpu = taken.cpu_seconds_per_gib;
        println!(
            "  {:10} {:>7.1} MB/s  {} failed  slowest {:4.2} of the median  {:>6} CPU s/GiB  {:>6.1} MiB",
            server.words(),
            taken.megabytes,
            taken.failed,
            taken.unfairness,
            cpu.map_or("-".to_owned(), |seconds| format!("{seconds:.2}")),
            taken.max_rss,
        );
    }
    for server in [
        Server::Beside,
        Server::Dnsmasq,
        Server::TftpdHpa,
        Server::AsyncTftp,
    ] {
        if let Some(ratio) = against(measured, server) {
            println!("  p2v is {ratio:.2} of {}", server.words());
        }
    }
}

fn against(measured: &Measured, server: Server) -> Option<f64> {
    Some(measured.of(Server::P2v)?.megabytes / measured.of(server)?.megabytes)
}

/// Which goals were reached.
pub fn goals(measured: &[Measured]) {
    println!("\ngoals");
    let tell = |reached: bool, figure: f64, what: &str, name: &str| {
        let verdict = verdict(reached);
        println!("  {verdict} {figure:6.2} {what}: {name}");
    };
    for row in measured {
        let faster = [Server::Dnsmasq, Server::TftpdHpa]
            .into_iter()
            .filter_map(|server| against(row, server))
            .reduce(f64::min);
        if let Some(ratio) = faster {
            let what = "(at least 1) of the faster of the two";
            tell(ratio >= 1.0, ratio, what, &row.name);
        }
        if let Some(ours) = row.of(Server::P2v) {
            let what = "(0) clients that failed";
            tell(ours.failed == 0, ours.failed as f64, what, &row.name);
            if row.row.clients > 1 {
                let what = "(below 64) MiB of memory";
                tell(ours.max_rss < 64.0, ours.max_rss, what, &row.name);
            }
        }
    }
    let singles = |client| {
        let of_client = move |m: &&Measured| m.row.client == client && m.row.clients == 1;
        measured.iter().filter(of_client)
    };
    let speed = |row: &Measured| Some(row.of(Server::P2v)?.megabytes);
    if let Some(tftp) = singles(Client::CurlTftp).next().and_then(speed) {
        for row in singles(Client::CurlHttp) {
            if let Some(http) = speed(row) {
                let ratio = http / tftp;
                tell(ratio >= 10.0, ratio, "(at least 10) of TFTP", &row.name);
            }
        }
    }
    println!(
        "one client shared a processor with the server; of tftpd-hpa, which forks for each client, \
         the memory is the first process's"
    );
}
