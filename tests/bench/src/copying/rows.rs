//! Which copies are compared.

use serde::Serialize;

/// What is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disk {
    /// 2 GiB of random data: nothing can be left out.
    Random,
    /// 8 GiB, 20 % in use by file systems, old data in the rest.
    Aged,
    /// The same with zeros in the rest.
    AgedZeros,
}

/// Over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// As fast as the machine is.
    Veth,
    /// At 1 Gbit/s.
    Gigabit,
}

/// With what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// Our agent and engine, everything checked, with a journal.
    P2v,
    /// The same, only what the file systems use.
    P2vUsedOnly,
    /// `nbdkit file` and `nbdcopy --flush`.
    Nbdcopy,
    /// `dd | nc` and `nc | dd conv=fsync`.
    DdNc,
    /// vblade and our engine: no digests, the copy is read back.
    Vblade,
}

impl Peer {
    /// Whether it is our engine that copies.
    pub fn is_ours(self) -> bool {
        matches!(self, Peer::P2v | Peer::P2vUsedOnly | Peer::Vblade)
    }

    pub fn words(self) -> &'static str {
        match self {
            Peer::P2v => "p2v",
            Peer::P2vUsedOnly => "p2v --used-only",
            Peer::Nbdcopy => "nbdkit, nbdcopy",
            Peer::DdNc => "dd, nc",
            Peer::Vblade => "vblade, p2v",
        }
    }
}

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub disk: Disk,
    pub link: Link,
    pub mtu: u32,
    pub peers: Vec<Peer>,
}

impl Row {
    pub fn name(&self) -> String {
        let disk = match self.disk {
            Disk::Random => "random",
            Disk::Aged => "aged",
            Disk::AgedZeros => "aged-zeros",
        };
        let link = match self.link {
            Link::Veth => "veth",
            Link::Gigabit => "gigabit",
        };
        format!("copy {disk} {link} mtu={}", self.mtu)
    }

    /// Bytes of disk data that AoE gets across the slow wire in a second if it is never idle, where all of
    /// the disk has to cross it: as many whole sectors as fit the MTU beside 10 bytes of AoE and 12 of ATA
    /// (AoEr11, 2 and 3.1), of what they take with 14 bytes of Ethernet and the 24 that a frame has on the
    /// wire beside.
    pub fn wire_limit(&self) -> Option<f64> {
        let data = f64::from((self.mtu - 22) / 512 * 512);
        (self.link == Link::Gigabit && self.disk == Disk::Random)
            .then(|| super::GIGABIT as f64 / 8.0 * data / (data + 10.0 + 12.0 + 14.0 + 24.0))
    }
}

/// All rows.
pub fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for (disk, peers) in [
        (
            Disk::Random,
            vec![Peer::P2v, Peer::Nbdcopy, Peer::DdNc, Peer::Vblade],
        ),
        (
            Disk::Aged,
            vec![Peer::P2vUsedOnly, Peer::P2v, Peer::Nbdcopy],
        ),
        (Disk::AgedZeros, vec![Peer::P2v, Peer::Nbdcopy]),
    ] {
        for link in [Link::Veth, Link::Gigabit] {
            for mtu in [1500, 9000] {
                rows.push(Row {
                    disk,
                    link,
                    mtu,
                    peers: peers.clone(),
                });
            }
        }
    }
    rows
}
