//! Guests on the bridge that leads to the old machines: while a domain is on an old disk, their AoE frames are kept off it.

use std::collections::BTreeSet;
use std::fs;

use super::{Code, Context, Error, refused};
use crate::host::Host;
use crate::record::Record;
use crate::tool::nft;

/// The bridges by which guests' frames could reach the old machines: the interface itself, what it is made of (a VLAN's
/// bridge), and what it is a port of.
pub fn bridges(host: &Host) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut next = vec![host.iface.clone()];
    next.extend(host.more_ifaces.iter().cloned());
    while let Some(name) = next.pop() {
        let dir = host.paths.sys_net.join(&name);
        if name.is_empty() || !seen.insert(name) {
            continue;
        }
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        next.extend(names.filter_map(|name| name.strip_prefix("lower_").map(str::to_owned)));
        let master = fs::read_link(dir.join("master"));
        let master = master
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        next.extend(master);
    }
    let is_bridge = |name: &String| host.paths.sys_net.join(name).join("bridge").exists();
    seen.into_iter().filter(is_bridge).collect()
}

impl Context<'_> {
    /// Keeps guests' AoE frames off the old machines, if guests are on a way to them.
    pub(super) fn keep_guests_off(&self) -> Result<(), Error> {
        let (tools, bridges) = (&self.host.tools, bridges(self.host));
        if bridges.is_empty() {
            return Ok(());
        }
        let kept = match nft::keeps_guests_off(tools, &bridges) {
            Ok(true) => return Ok(()),
            Ok(false) => nft::keep_guests_off(tools, &bridges),
            Err(error) => Err(error),
        };
        kept.or_else(|error| {
            refused(Code::GuestsOnWire, format!(
                "guests on {} could write to the old machine's disk, and cannot be kept off it: {error}. Install nftables \
                 (apt install nftables), or give the old machines an interface of their own (`iface`)",
                bridges.join(" and ")
            ))
        })
    }

    /// Takes that back where no domain is on an old disk.
    pub(super) fn let_guests(&self) {
        let listing = self.host.store.list();
        let nobody = listing.is_ok_and(|listing| {
            listing.unreadable.is_empty()
                && !listing.records.iter().any(Record::has_domain_on_old_disks)
        });
        if nobody && let Err(error) = nft::let_guests(&self.host.tools) {
            self.report.warn(&error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Paths, Settings};

    #[test]
    fn every_bridge_on_the_way_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut host =
            Host::open(Settings::default(), "xenbr0.5", &dir.path().join("state")).unwrap();
        host.paths = Paths::under(dir.path());
        let net = host.paths.sys_net.clone();
        assert!(bridges(&host).is_empty());
        for entry in [
            "xenbr0.5/lower_xenbr0",
            "xenbr0/bridge",
            "xenbr0/lower_eth0",
            "eth0",
            "br9/bridge",
        ] {
            fs::create_dir_all(net.join(entry)).unwrap();
        }
        std::os::unix::fs::symlink("../xenbr0", net.join("eth0/master")).unwrap();
        assert_eq!(bridges(&host), ["xenbr0"]);
        for iface in ["eth0", "xenbr0"] {
            host.iface = iface.to_owned();
            assert_eq!(bridges(&host), ["xenbr0"]);
        }
        host.more_ifaces = vec!["br9".to_owned()];
        assert_eq!(bridges(&host), ["br9", "xenbr0"]);
        host.more_ifaces.clear();
        // A network card that is no port of any.
        fs::remove_file(net.join("eth0/master")).unwrap();
        host.iface = "eth0".to_owned();
        assert!(bridges(&host).is_empty());
    }
}
