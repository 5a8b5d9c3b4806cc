//! A Xen host and an old server of which all is in files of one directory, so that they outlive a command that is killed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use p2v_contract::SECTOR;
use p2v_copy::boundary;
use serde::{Deserialize, Serialize};

use super::old_server::OldServer;
use crate::{Host, Paths, Settings};

/// Sectors of each disk of the old server.
pub(super) const SECTORS: u64 = 128;
/// Bytes of an extent of LVM.
const EXTENT: u64 = 4 << 20;

/// All that is true.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct World {
    pub(super) domains: Vec<Domain>,
    /// Domains that there ever were.
    numbers: u32,
    /// Device-mapper devices, with their tables.
    pub(super) devices: BTreeMap<String, String>,
    pub(super) volumes: Vec<Volume>,
    rules: bool,
    pub(super) old: OldServer,
    /// Of a record that was damaged and a clock that is wrong: the agent refuses a counter that was used, and that is all.
    pub(super) forgives_counters: bool,
    /// What must not happen, and did.
    pub(super) violations: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Domain {
    pub(super) id: u32,
    pub(super) name: String,
    /// As its config names them.
    pub(super) disks: Vec<PathBuf>,
    paused: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Volume {
    pub(super) vg: String,
    pub(super) lv: String,
    uuid: String,
    size: u64,
    pub(super) tags: Vec<String>,
}

/// What goes wrong with a call of a program, or with an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Trouble {
    /// It fails, and does nothing.
    Nothing,
    /// It does what it shall, and fails all the same.
    Done,
}

/// Calls until one goes wrong, and how.
static TROUBLE: Mutex<Option<(u64, Trouble)>> = Mutex::new(None);

/// The call of this number, from 0, goes wrong.
pub(super) fn set_trouble(trouble: Option<(u64, Trouble)>) {
    *TROUBLE.lock().unwrap() = trouble;
}

/// What goes wrong with this call.
pub(super) fn trouble() -> Option<Trouble> {
    let mut trouble = TROUBLE.lock().unwrap();
    match &mut *trouble {
        Some((0, how)) => {
            let how = *how;
            *trouble = None;
            Some(how)
        }
        Some((left, _)) => {
            *left -= 1;
            None
        }
        None => None,
    }
}

impl World {
    pub(super) fn load(root: &Path) -> World {
        serde_json::from_slice(&fs::read(root.join("world")).unwrap()).unwrap()
    }

    /// Replaced as a whole: another thread of this process may be about to kill it.
    pub(super) fn save(&self, root: &Path) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let new = root.join(format!("world.{number}"));
        fs::write(&new, serde_json::to_vec(self).unwrap()).unwrap();
        fs::rename(new, root.join("world")).unwrap();
    }

    /// Looks at it, or changes it, alone in this process.
    pub(super) fn with<T>(root: &Path, act: impl FnOnce(&mut World) -> T) -> T {
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut world = World::load(root);
        let value = act(&mut world);
        world.save(root);
        value
    }

    /// The host restarts: what only the kernel and Xen knew is gone.
    pub(super) fn host_restarts(&mut self, root: &Path) {
        self.domains.clear();
        self.devices.clear();
        self.rules = false;
        for gone in ["run", "sys/module", "dev/mapper"] {
            let _ = fs::remove_dir_all(root.join(gone));
        }
    }

    /// A domain's disk is there.
    fn has(&self, root: &Path, disk: &Path) -> bool {
        match disk.strip_prefix(root.join("dev/mapper")) {
            Ok(name) => self.devices.contains_key(name.to_str().unwrap()),
            Err(_) => disk.exists(),
        }
    }

    pub(super) fn xl(&mut self, root: &Path, args: &[&str]) -> Result<String, String> {
        let find = |world: &World, name: &str| {
            let found = world.domains.iter().position(|d| d.name == name);
            found.ok_or_else(|| format!("{name} is an invalid domain identifier"))
        };
        match args {
            ["list", "-l"] => {
                let all = self.domains.iter().map(|d| {
                    let disks = d.disks.iter().map(|d| serde_json::json!({"pdev_path": d}));
                    let disks: Vec<_> = disks.collect();
                    serde_json::json!({
                        "domid": d.id, "config": {"c_info": {"name": d.name}, "disks": disks},
                    })
                });
                Ok(serde_json::Value::Array(all.collect()).to_string())
            }
            ["list"] => {
                let mut text =
                    "Name ID Mem VCPUs State Time(s)\nDomain-0 0 1536 2 r----- 41.2\n".to_owned();
                for d in &self.domains {
                    let state = if d.paused { "--p---" } else { "-b----" };
                    text += &format!("{} {} 512 1 {state} 7.9\n", d.name, d.id);
                }
                Ok(text)
            }
            ["info"] => Ok("free_memory : 9000\nnr_cpus : 4\nvirt_caps : hvm\n".into()),
            ["pause" | "unpause", name] => {
                let at = find(self, name)?;
                self.domains[at].paused = args[0] == "pause";
                Ok(String::new())
            }
            ["create", config] => {
                let text = fs::read_to_string(config).map_err(|e| e.to_string())?;
                let lines = || text.lines().filter(|l| !l.starts_with('#'));
                let name = lines().find_map(|l| l.strip_prefix("name = \"")?.strip_suffix('"'));
                let name = name.ok_or("no name")?.to_owned();
                if find(self, &name).is_ok() {
                    return Err(format!("domain {name} exists already"));
                }
                let disks = lines().filter_map(|l| Some(l.split_once("target=")?.1));
                let disks = disks.map(|d| PathBuf::from(d.split(['"', '\'', ',']).next().unwrap()));
                let disks: Vec<PathBuf> = disks.collect();
                if let Some(gone) = disks.iter().find(|disk| !self.has(root, disk)) {
                    return Err(format!("failed to open {}", gone.display()));
                }
                self.numbers += 1;
                self.domains.push(Domain {
                    id: self.numbers,
                    name,
                    disks,
                    paused: false,
                });
                Ok(String::new())
            }
            ["destroy", name] => {
                let at = find(self, name)?;
                self.domains.remove(at);
                Ok(String::new())
            }
            ["shutdown", "-F", name] => {
                let at = find(self, name)?;
                // One that waits for its disk does not shut down.
                if self.domains[at].disks.iter().all(|d| self.answers(root, d)) {
                    self.domains.remove(at);
                }
                Ok(String::new())
            }
            _ => Err(format!("xl {args:?}?")),
        }
    }

    fn dmsetup(&mut self, root: &Path, args: &[&str]) -> Result<String, String> {
        let path = |name: &str| root.join("dev/mapper").join(name);
        let open = |world: &World, name: &str| {
            let disks = world.domains.iter().flat_map(|d| &d.disks);
            disks.filter(|disk| **disk == path(name)).count()
        };
        match args {
            ["info", ..] => {
                let line = |name: &String| format!("{name}|P2V-{name}|{}\n", open(self, name));
                Ok(self.devices.keys().map(line).collect())
            }
            ["create", name, "--uuid", _, "--table", table] => {
                if self.devices.contains_key(*name) {
                    return Err("Device or resource busy".into());
                }
                let backing = table.split(' ').nth(3).unwrap();
                if !Path::new(backing).exists() {
                    return Err(format!("{backing}: no such device"));
                }
                fs::create_dir_all(root.join("dev/mapper")).unwrap();
                let _ = fs::remove_file(path(name));
                symlink(backing, path(name)).unwrap();
                self.devices.insert((*name).to_owned(), (*table).to_owned());
                Ok(String::new())
            }
            ["remove", "--retry", name] => {
                if open(self, name) > 0 {
                    return Err("Device or resource busy".into());
                }
                self.devices.remove(*name).ok_or("No such device")?;
                fs::remove_file(path(name)).unwrap();
                Ok(String::new())
            }
            ["table", name] => {
                let table = self.devices.get(*name).ok_or("No such device")?;
                let columns: Vec<&str> = table.split(' ').collect();
                Ok(format!("0 {} linear 0:0 0\n", columns[1]))
            }
            _ => Err(format!("dmsetup {args:?}?")),
        }
    }

    fn lvm(&mut self, root: &Path, program: &str, args: &[&str]) -> Result<String, String> {
        let after = |option: &str| {
            let pairs = args.windows(2).filter(|pair| pair[0] == option);
            pairs.map(|pair| pair[1].to_owned()).collect::<Vec<_>>()
        };
        let of = args.last().unwrap();
        match program {
            "vgs" => Ok(r#"{"report":[{"vg":[{"vg_name":"vg","vg_size":"100000000","vg_free":"90000000"}]}]}"#.into()),
            "lvs" => {
                let all = self.volumes.iter().map(|v| {
                    serde_json::json!({
                        "vg_name": v.vg, "lv_name": v.lv, "lv_uuid": v.uuid, "vg_uuid": "AbC-d", "lv_active": "active",
                        "lv_size": v.size.to_string(), "lv_tags": v.tags.join(","), "segtype": "linear", "pool_lv": "",
                        "data_percent": "",
                    })
                });
                let all: Vec<_> = all.collect();
                Ok(serde_json::json!({"report": [{"lv": all}]}).to_string())
            }
            "lvcreate" => {
                let lv = after("--name").remove(0);
                if self.volumes.iter().any(|v| v.vg == *of && v.lv == lv) {
                    return Err("already exists".into());
                }
                let bytes = after("--size").remove(0);
                let bytes: u64 = bytes.trim_end_matches('b').parse().unwrap();
                let size = bytes.next_multiple_of(EXTENT);
                let path = root.join("dev").join(of).join(&lv);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::File::create(&path).unwrap().set_len(size).unwrap();
                self.numbers += 1;
                self.volumes.push(Volume {
                    vg: (*of).to_owned(),
                    lv,
                    uuid: format!("u-{}", self.numbers),
                    size,
                    tags: after("--addtag"),
                });
                Ok(String::new())
            }
            "lvchange" => {
                let name = |v: &Volume| format!("{}/{}", v.vg, v.lv) == *of;
                let volume = self.volumes.iter_mut().find(|v| name(v)).ok_or("not found")?;
                volume.tags.retain(|tag| !after("--deltag").contains(tag));
                for tag in after("--addtag") {
                    if !volume.tags.contains(&tag) {
                        volume.tags.push(tag);
                    }
                }
                Ok(String::new())
            }
            "lvremove" => {
                let name = |v: &Volume| format!("{}/{}", v.vg, v.lv) == *of;
                self.volumes.retain(|v| !name(v));
                fs::remove_file(root.join("dev").join(of)).map_err(|e| e.to_string())?;
                Ok(String::new())
            }
            _ => Err(format!("{program}?")),
        }
    }

    pub(super) fn run(
        &mut self,
        root: &Path,
        program: &str,
        args: &[&str],
    ) -> Result<String, String> {
        let parameters = root.join("sys/module/aoe/parameters");
        match (program, args) {
            ("xl", _) => self.xl(root, args),
            ("dmsetup", _) => self.dmsetup(root, args),
            ("modprobe", ["--remove", "aoe"]) => {
                fs::remove_dir_all(root.join("sys/module/aoe")).map_err(|e| e.to_string())?;
                Ok(String::new())
            }
            ("modprobe", ["aoe", list]) => {
                fs::create_dir_all(&parameters).unwrap();
                let list = list.split_once('=').unwrap().1;
                fs::write(parameters.join("aoe_iflist"), list).unwrap();
                fs::write(parameters.join("aoe_deadsecs"), "180\n").unwrap();
                Ok(String::new())
            }
            ("nft", ["list", ..]) if self.rules => Ok(String::new()),
            ("nft", ["delete", ..]) => {
                self.rules = false;
                Ok(String::new())
            }
            ("nft", [_]) => {
                self.rules = true;
                Ok(String::new())
            }
            ("nft" | "blkid" | "lvmconfig", _) => Err("nothing".into()),
            _ => self.lvm(root, program, args),
        }
    }
}

/// What stands in for the host's programs.
fn stand_in(root: &Path, program: &str, args: &[OsString]) -> Output {
    let args: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
    let looks = ["list", "info", "table"].contains(&args[0])
        || ["lvs", "vgs", "lvmconfig", "blkid"].contains(&program);
    // One who only looks leaves nothing behind.
    let boundary = |when| {
        if !looks {
            boundary::reached(&format!("{when} {program} {}", args[0]));
        }
    };
    boundary("before");
    let trouble = trouble();
    let mut said = match trouble {
        Some(Trouble::Nothing) => Err("was told to fail".to_owned()),
        _ => World::with(root, |world| world.run(root, program, &args)),
    };
    boundary("after");
    if trouble == Some(Trouble::Done) {
        said = Err("was told to fail when it was done".to_owned());
    }
    let status = |code: i32| ExitStatus::from_raw(code << 8);
    let (code, stdout, stderr) = match said {
        Ok(text) => (0, text, String::new()),
        Err(text) => (5, String::new(), text),
    };
    Output {
        status: status(code),
        stdout: stdout.into_bytes(),
        stderr: stderr.into_bytes(),
    }
}

/// The host whose files are there.
///
/// # Errors
/// Its state cannot be used.
pub(super) fn host(root: &Path) -> Result<Host, String> {
    let settings = Settings {
        xen_dir: root.join("xen"),
        auto_dir: root.join("xen/auto"),
        wait_seconds: 0,
        ..Settings::default()
    };
    let host = Host::open(settings, "xenbr0", &root.join("state"));
    let mut host = host.map_err(|error| error.to_string())?;
    host.tools = crate::tool::Tools::stood_in_for(root, stand_in);
    host.paths = Paths::under(root);
    Ok(host)
}

/// Makes them, with an old server of so many disks that runs its own system.
pub(super) fn make(root: &Path, disks: u8) -> World {
    let host = host(root).unwrap();
    fs::create_dir_all(host.paths.xen_capabilities.parent().unwrap()).unwrap();
    fs::write(&host.paths.xen_capabilities, "control_d\n").unwrap();
    fs::create_dir_all(&host.paths.dev_etherd).unwrap();
    for control in ["discover", "flush", "revalidate", "interfaces"] {
        fs::write(host.paths.dev_etherd.join(control), "").unwrap();
    }
    let world = World {
        old: OldServer::new(disks, host.key.public()),
        ..World::default()
    };
    for slot in 0..disks {
        let byte = |i: u64| (i * 31 / 7 + u64::from(slot)) as u8;
        let mut data: Vec<u8> = (0..SECTORS * SECTOR).map(byte).collect();
        // A BIOS starts from it.
        data[510..512].copy_from_slice(&[0x55, 0xAA]);
        fs::write(root.join(format!("disk{slot}")), data).unwrap();
    }
    world.save(root);
    world
}
