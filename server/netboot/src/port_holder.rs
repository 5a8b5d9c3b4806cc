//! Which program has a port, so that an error can name it.

use std::collections::BTreeSet;
use std::fs;

/// Programs with a UDP socket on this port in our network namespace, as `dnsmasq (pid 812)`. As
/// far as we may look: another user's programs need root.
pub fn port_holders(port: u16) -> Vec<String> {
    holders("udp", port)
}

/// The same of a TCP port.
pub fn tcp_port_holders(port: u16) -> Vec<String> {
    holders("tcp", port)
}

fn holders(protocol: &str, port: u16) -> Vec<String> {
    // A socket of IPv6 has the port of IPv4 as well, unless it was told otherwise.
    let tables = ["", "6"].map(|version| {
        let table = format!("/proc/thread-self/net/{protocol}{version}");
        fs::read_to_string(table).unwrap_or_default()
    });
    let inodes: BTreeSet<u64> = tables
        .iter()
        .flat_map(|table| inodes_of_port(table, port))
        .collect();
    let mut holders = BTreeSet::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let files = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let has_it = files
            .flat_map(|file| fs::read_link(file.path()))
            .any(|target| {
                let target = target.to_string_lossy();
                target
                    .strip_prefix("socket:[")
                    .and_then(|rest| rest.strip_suffix(']'))
                    .and_then(|inode| inode.parse().ok())
                    .is_some_and(|inode: u64| inodes.contains(&inode))
            });
        if has_it {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            holders.insert(format!("{} (pid {pid})", name.trim()));
        }
    }
    holders.into_iter().collect()
}

/// Socket inodes in the kernel's table (`proc(5)`, `/proc/net/udp` and `/proc/net/tcp`) with this local port.
fn inodes_of_port(table: &str, port: u16) -> BTreeSet<u64> {
    let rows = table.lines().skip(1).filter_map(|row| {
        let columns: Vec<&str> = row.split_whitespace().collect();
        let (_, local_port) = columns.get(1)?.split_once(':')?;
        let inode = columns.get(9)?.parse().ok()?;
        (u16::from_str_radix(local_port, 16).ok()? == port).then_some(inode)
    });
    rows.filter(|&inode| inode != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_socket_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let both = std::net::TcpListener::bind("[::]:0").unwrap();
        let pid = format!("(pid {})", std::process::id());
        for holders in [
            tcp_port_holders(both.local_addr().unwrap().port()),
            port_holders(socket.local_addr().unwrap().port()),
            tcp_port_holders(listener.local_addr().unwrap().port()),
        ] {
            assert!(
                holders.iter().any(|holder| holder.ends_with(&pid)),
                "{holders:?}"
            );
        }
    }
}
