//! This Xen host: settings, records, programs and paths, together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use p2v_contract::key::SecretKey;

use crate::host_key::{self, HostKeyError};
use crate::name::MachineName;
use crate::settings::Settings;
use crate::store::{Store, StoreError};
use crate::tool::Tools;

/// Paths that the kernel and udev fix; others only for trying things without touching the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `/dev/etherd`.
    pub dev_etherd: PathBuf,
    /// `/dev/mapper`.
    pub dev_mapper: PathBuf,
    /// `/dev`, under which volumes are `VG/LV`.
    pub dev: PathBuf,
    /// `/sys/module`.
    pub sys_module: PathBuf,
    /// `/sys/class/net`.
    pub sys_net: PathBuf,
    /// `/sys/dev/block`, where block devices are by their numbers.
    pub sys_dev_block: PathBuf,
    /// `/sys/bus/xen-backend/devices`, where the devices are that dom0 has for domains.
    pub xen_backends: PathBuf,
    /// `/var/lib/xen/save`, where Debian's `xendomains` keeps the images of domains it suspended.
    pub xen_save: PathBuf,
    /// `/run/p2v`: what holds until the host restarts.
    pub run: PathBuf,
    /// `/proc/version`.
    pub proc_version: PathBuf,
    /// `/etc/mdadm/mdadm.conf`: Debian's.
    pub mdadm_conf: PathBuf,
    /// `/proc/xen/capabilities`: holds `control_d` in dom0.
    pub xen_capabilities: PathBuf,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths {
            dev_etherd: "/dev/etherd".into(),
            dev_mapper: "/dev/mapper".into(),
            dev: "/dev".into(),
            sys_module: "/sys/module".into(),
            sys_net: "/sys/class/net".into(),
            sys_dev_block: "/sys/dev/block".into(),
            xen_backends: "/sys/bus/xen-backend/devices".into(),
            xen_save: "/var/lib/xen/save".into(),
            run: "/run/p2v".into(),
            proc_version: "/proc/version".into(),
            mdadm_conf: "/etc/mdadm/mdadm.conf".into(),
            xen_capabilities: "/proc/xen/capabilities".into(),
        }
    }
}

impl Paths {
    /// All of them under `root`.
    pub fn under(root: &Path) -> Paths {
        let at = |path: PathBuf| root.join(path.strip_prefix("/").unwrap_or(&path));
        let real = Paths::default();
        Paths {
            dev_etherd: at(real.dev_etherd),
            dev_mapper: at(real.dev_mapper),
            dev: at(real.dev),
            sys_module: at(real.sys_module),
            sys_net: at(real.sys_net),
            sys_dev_block: at(real.sys_dev_block),
            xen_backends: at(real.xen_backends),
            xen_save: at(real.xen_save),
            run: at(real.run),
            proc_version: at(real.proc_version),
            mdadm_conf: at(real.mdadm_conf),
            xen_capabilities: at(real.xen_capabilities),
        }
    }
}

/// Why the host's state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The records.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key.
    #[error(transparent)]
    Key(#[from] HostKeyError),
}

/// What every workflow needs.
#[derive(Clone, Debug)]
pub struct Host {
    /// The operator's settings.
    pub settings: Settings,
    /// The interface that AoE goes over (also the bridge, where that has the wire).
    pub iface: String,
    /// More interfaces by which the old machines can be reached.
    pub more_ifaces: Vec<String>,
    /// The machine records.
    pub store: Store,
    /// What orders to the old machines are signed with.
    pub key: SecretKey,
    /// External programs.
    pub tools: Tools,
    /// The kernel's and udev's paths.
    pub paths: Paths,
}

impl Host {
    /// The real host, with its records under `state`.
    ///
    /// # Errors
    /// The state directory, or the key in it, cannot be used.
    pub fn open(settings: Settings, iface: &str, state: &Path) -> Result<Host, HostError> {
        Ok(Host {
            settings,
            iface: iface.to_owned(),
            more_ifaces: Vec::new(),
            store: Store::open(state)?,
            key: host_key::secret(state)?,
            tools: Tools::new(),
            paths: Paths::default(),
        })
    }

    /// Whether this is a running Xen host: without Xen there are no domains to look for.
    pub fn is_xen(&self) -> bool {
        std::fs::read_to_string(&self.paths.xen_capabilities)
            .is_ok_and(|text| text.contains("control_d"))
    }

    /// The image of the domain `name` that `xendomains` saved when the host stopped and will restore,
    /// if there is one.
    pub fn saved_image(&self, name: &MachineName) -> Option<PathBuf> {
        let path = self.paths.xen_save.join(name.as_str());
        // Also a link that leads nowhere: it says that there is more to look at.
        path.symlink_metadata().is_ok().then_some(path)
    }

    /// How long to wait for devices and for domains that shut down.
    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.settings.wait_seconds)
    }
}
