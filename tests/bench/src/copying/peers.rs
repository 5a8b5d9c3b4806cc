//! The commands of each peer.

use std::path::Path;

use anyhow::{Context, Result};

use super::images::Image;
use super::rows::Peer;
use crate::network::TARGET_IP;
use crate::scene::{SHELF, SLOT};

/// IANA's port of NBD; dd and nc take the next.
const NBD_PORT: u16 = 10809;

/// What runs on either side.
pub struct Roles {
    /// On the old machine.
    pub old: Vec<String>,
    /// On the copying one.
    pub new: Vec<String>,
    /// Where the old one listens when it is ready. AoE waits for the target by itself.
    pub port: Option<u16>,
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The commands with which `peer` copies `image` to the file `copy`.
pub fn roles(peer: Peer, image: &Image, copy: &Path) -> Result<Roles> {
    let text = |path: &Path| {
        let text = path.to_str().filter(|text| !text.contains([' ', '\'']));
        let text = text.with_context(|| format!("{} cannot be a word", path.display()));
        text.map(str::to_owned)
    };
    let own = std::env::current_exe()?;
    let agent = text(&own.with_file_name("p2v-agent"))?;
    let (own, disk, copy) = (text(&own)?, text(&image.path)?, text(copy)?);
    let export =
        format!("{agent} export --shelf {SHELF} --slot {SLOT} --iface target0 --read-only {disk}");
    Ok(match peer {
        Peer::P2v => Roles {
            old: words(&export),
            new: words(&format!("{own} copy load0 {SHELF} {copy} checked")),
            port: None,
        },
        Peer::P2vUsedOnly => Roles {
            old: words(&export),
            new: words(&format!("{own} copy load0 {SHELF} {copy} used-only")),
            port: None,
        },
        Peer::Vblade => Roles {
            old: words(&format!("vblade -b 64 -r {SHELF} {SLOT} target0 {disk}")),
            new: words(&format!("{own} copy load0 {SHELF} {copy} plain")),
            port: None,
        },
        Peer::Nbdcopy => Roles {
            old: words(&format!(
                "nbdkit -f -r -i {TARGET_IP} -p {NBD_PORT} file {disk}"
            )),
            // As it is usual: 4 connections, as many threads as there are processors, 64 requests of
            // 256 KiB in flight on each.
            new: words(&format!(
                "nbdcopy --flush nbd://{TARGET_IP}:{NBD_PORT} {copy}"
            )),
            port: Some(NBD_PORT),
        },
        Peer::DdNc => {
            let port = NBD_PORT + 1;
            let shell = |line: String| vec!["sh".to_owned(), "-c".to_owned(), line];
            Roles {
                old: shell(format!(
                    "dd if={disk} bs=1M status=none | nc -l -N {TARGET_IP} {port}"
                )),
                new: shell(format!(
                    "nc -d {TARGET_IP} {port} | dd of={copy} bs=1M iflag=fullblock conv=fsync status=none"
                )),
                port: Some(port),
            }
        }
    })
}
