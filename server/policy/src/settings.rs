//! `p2v.toml`: one file for the command and the service.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use p2v_contract::MacAddr;
use p2v_contract::key::PublicKey;
use p2v_dom0::shelves::Shelves;
use p2v_netboot::{ImageName, MachineId, boot_menu};
use serde::Deserialize;

use crate::{Lists, Machine};

/// Where settings are looked for when `--config` is not given.
pub const SETTINGS_FILE: &str = "/etc/p2v/p2v.toml";

/// The file.
///
/// ```toml
/// iface = "xenbr0"
///
/// [serve]
/// mode = "dhcp"
/// pool = { start = "192.168.7.200", end = "192.168.7.250" }
///
/// [xen]
/// bridge = "xenbr0"
///
/// [machines."52:54:00:12:34:56"]
/// name = "oldmail"
/// address = "192.168.7.21"
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Interface with the old machines on it; default `xenbr0`.
    pub iface: String,
    /// More interfaces on which the old machines can be reached: disks are then read over all of them.
    /// The domains' disks and the netboot service stay on `iface`.
    pub more_ifaces: Vec<String>,
    /// Directory of the machine records; default `/var/lib/p2v`.
    pub state: PathBuf,
    /// More MAC addresses that the agents answer, beside that of `iface`; for a host that is
    /// replaced, or a second one.
    #[serde(deserialize_with = "p2v_netboot::list_of_macs")]
    pub hosts: Vec<MacAddr>,
    /// More keys whose orders the agents take, as `p2v key` prints them, beside this host's own: for such hosts.
    pub host_keys: Vec<PublicKey>,
    /// The shelves that new machines get; default all, from 1. For two Xen hosts that boot machines on one segment.
    pub shelves: Shelves,
    /// SMBIOS UUIDs that the firmware of several machines has: no machine is known by one of them.
    pub shared_uuids: Vec<MachineId>,
    /// The netboot service.
    pub serve: p2v_netboot::Settings,
    /// The Xen host.
    pub xen: p2v_dom0::settings::Settings,
    /// What is known beforehand of some machines, by the MAC address they boot from.
    #[serde(deserialize_with = "p2v_netboot::by_mac")]
    pub machines: BTreeMap<MacAddr, Machine>,
    /// The file they were read from; none: all are defaults.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// What a command's options say instead of the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides<'a> {
    /// The file; default [`SETTINGS_FILE`], where there is one.
    pub config: Option<&'a Path>,
    /// The interface.
    pub iface: Option<&'a str>,
    /// The directory of the machine records.
    pub state: Option<&'a Path>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            iface: "xenbr0".into(),
            more_ifaces: Vec::new(),
            state: "/var/lib/p2v".into(),
            hosts: Vec::new(),
            host_keys: Vec::new(),
            shelves: Shelves::default(),
            shared_uuids: Vec::new(),
            serve: Default::default(),
            xen: Default::default(),
            machines: BTreeMap::new(),
            file: None,
        }
    }
}

impl Settings {
    /// What they say of machines.
    pub fn lists(&self) -> Lists<'_> {
        Lists {
            serve: &self.serve,
            machines: &self.machines,
            shared_uuids: &self.shared_uuids,
        }
    }

    /// Reads the file that the options name, or the usual one if it is there, and lets the options
    /// win over it.
    ///
    /// # Errors
    /// The file cannot be read, or what it says cannot be used.
    pub fn load(options: Overrides<'_>) -> Result<Settings> {
        let usual = Path::new(SETTINGS_FILE);
        let file = options.config.or(usual.exists().then_some(usual));
        let text = match file {
            Some(file) => std::fs::read_to_string(file).map_err(|error| {
                let as_whom = match error.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        " (the unit p2v-serve reads it as the user p2v)"
                    }
                    _ => "",
                };
                anyhow::Error::new(error)
                    .context(format!("cannot read {}{as_whom}", file.display()))
            })?,
            None => String::new(),
        };
        let name = file.unwrap_or(usual).display().to_string();
        let mut settings =
            Settings::parse(&text).with_context(|| format!("cannot use the settings in {name}"))?;
        if let Some(iface) = options.iface {
            iface.clone_into(&mut settings.iface);
        }
        if let Some(state) = options.state {
            state.clone_into(&mut settings.state);
        }
        settings.serve.iface.clone_from(&settings.iface);
        settings.serve.shelves = settings.shelves.range();
        // Apart from the rest: the service's user writes there, and nobody else does.
        settings.serve.state_dir = settings.state.join("netboot");
        settings.file = file.map(Path::to_owned);
        Ok(settings)
    }

    /// The images that machines shall have and that are not there, with those machines. No error: they get the
    /// usual image, and without the service those whose server is on this host would start their own disks.
    pub fn unknown_images(&self) -> BTreeMap<ImageName, Vec<MacAddr>> {
        let mut unknown: BTreeMap<ImageName, Vec<MacAddr>> = BTreeMap::new();
        for (mac, machine) in &self.machines {
            if let Some(name) = machine.image
                && !self.serve.images.contains_key(&name)
            {
                unknown.entry(name).or_default().push(*mac);
            }
        }
        unknown
    }

    fn parse(text: &str) -> Result<Settings> {
        let table: toml::Table = toml::from_str(text)?;
        if let Some(serve) = table.get("serve").and_then(|serve| serve.as_table()) {
            // One interface and one state directory for everything: said once, at the top.
            for key in ["iface", "state_dir"] {
                if serve.contains_key(key) {
                    let top = if key == "iface" { "iface" } else { "state" };
                    bail!(
                        "`{key}` does not go under [serve]: write `{top} = ...` at the top of the file"
                    );
                }
            }
        }
        let mut settings: Settings = toml::from_str(text)?;
        for (mac, machine) in &settings.machines {
            if let Some(address) = machine.address {
                let other = settings.serve.fixed.insert(*mac, address);
                if let Some(other) = other.filter(|other| *other != address) {
                    bail!(
                        "{mac} is given {address} under [machines] and {other} under [serve.fixed]: take one away"
                    );
                }
            }
            if let Some(loader) = machine.loader {
                settings.serve.loaders.insert(*mac, loader);
            }
            if let Err(wrong) = boot_menu::check_arguments(&machine.kernel_arguments()) {
                bail!("`console` and `append` of {mac} under [machines] {wrong}");
            }
        }
        let mut names = BTreeMap::new();
        for (mac, machine) in &settings.machines {
            if let Some(name) = &machine.name
                && let Some(other) = names.insert(name.as_str(), mac)
            {
                bail!(
                    "both {other} and {mac} are called {name} under [machines]: give each its own name"
                );
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use p2v_netboot::Image;

    use super::*;

    #[test]
    fn the_example_shows_every_key_and_its_default() {
        let example = include_str!("../../p2v/p2v.toml");
        let shown = Settings::parse(example).unwrap();
        let usual = Settings::parse("").unwrap();
        assert_eq!(format!("{shown:?}"), format!("{usual:?}"));
        // With the examples in the place of comments it is still right.
        let all = example.replace("#: ", "");
        Settings::parse(&all).unwrap();
        // Serde names the keys of a structure when it meets one that it does not know.
        for (section, foreign) in [
            ("", ["serve", "xen", "machines"].as_slice()),
            ("[serve]", &["iface", "state_dir"]),
            ("[xen]", &[]),
        ] {
            let error = format!(
                "{:#}",
                Settings::parse(&format!("{section}\nno_such_key = 1")).unwrap_err()
            );
            let known = error.split_once("expected one of").expect(&error).1;
            let keys: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
            assert!(keys.len() > 4, "{error}");
            for key in keys.into_iter().filter(|key| !foreign.contains(key)) {
                let (value, table) = (format!("{key} = "), format!("[serve.{key}."));
                let there = all
                    .lines()
                    .any(|line| line.starts_with(&value) || line.starts_with(&table));
                assert!(there, "{section} {key} is not in p2v.toml");
            }
        }
    }

    #[test]
    fn the_example_of_the_documentation() {
        let settings = Settings::parse(
            r#"
            iface = "br1"
            [serve]
            mode = "dhcp"
            pool = { start = "192.168.7.200", end = "192.168.7.250" }
            [xen]
            bridge = "br1"
            [machines."52:54:00:12:34:56"]
            name = "oldmail"
            address = "192.168.7.21"
            "#,
        )
        .unwrap();
        let mac = "52:54:00:12:34:56".parse().unwrap();
        assert_eq!(settings.iface, "br1");
        assert_eq!(settings.serve.fixed[&mac], Ipv4Addr::new(192, 168, 7, 21));
        assert_eq!(
            settings.machines[&mac].name.as_ref().unwrap().as_str(),
            "oldmail"
        );
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| format!("{:#}", Settings::parse(text).unwrap_err());
        assert!(error("ifcae = 'x'").contains("ifcae"));
        assert!(error("[serve]\niface = 'x'").contains("at the top"));
        assert!(error("[serve]\nmode = 'fast'").contains("fast"));
        let twice =
            "[machines.'52:54:00:00:00:01']\nname='a'\n[machines.'52:54:00:00:00:02']\nname='a'";
        assert!(error(twice).contains("both"));
        assert!(!error("[machines.'nonsense']\nname='a'").is_empty());
        let machine = |text| error(&format!("[machines.'52:54:00:00:00:01']\n{text}"));
        assert!(machine("append='a;b'").contains("52:54:00:00:00:01 under [machines] contain"));
        assert!(machine("console=['ttyS1\\n']").contains("contain"));
        let twice =
            "[machines.'52:54:00:00:00:01']\nname='a'\n[machines.'52-54-00-00-00-01']\nname='b'";
        assert!(error(twice).contains("is there twice"));
        let both = "[serve]\nfixed={'52-54-00-00-00-01'='10.0.0.1'}\n\
             [machines.'52:54:00:00:00:01']\naddress='10.0.0.2'";
        assert!(error(both).contains("10.0.0.1 under [serve.fixed]"));
        assert!(error("hosts=['52:54']").contains("`52:54` is no MAC address"));
        assert!(machine("boot='disk'").contains("local"));
        assert!(machine("loader='grub.efi'").contains("shimx64.efi"));
    }

    #[test]
    fn an_image_is_two_files_under_a_name_that_machines_can_have() {
        let parse = |image: &str, machine: &str| {
            let text = format!("{image}\n[machines.'52:54:00:00:00:01']\n{machine}");
            Settings::parse(&text).map_err(|error| format!("{error:#}"))
        };
        let whole = "[serve.images.old]\nkernel = '/srv/k'\ninitrd = '/srv/i'";
        let settings = parse(whole, "image = 'old'").unwrap();
        let machine = settings.machines.values().next();
        assert_eq!(
            Machine::image(machine),
            Image::Named("old".parse().unwrap())
        );
        assert_eq!(Machine::image(Some(&Machine::default())), Image::Usual);
        assert_eq!(Machine::image(None), Image::Usual);

        assert!(settings.unknown_images().is_empty());

        // Neither keeps the service from starting.
        let odd = parse(whole, "image = 'odl'").unwrap();
        let mac = "52:54:00:00:00:01".parse().unwrap();
        assert_eq!(
            odd.unknown_images(),
            BTreeMap::from([("odl".parse().unwrap(), vec![mac])])
        );
        parse(
            "[serve.images.old]\nkernel = 'k'\ninitrd = '/srv/i'",
            "image = 'old'",
        )
        .unwrap();
        for (image, named) in [
            ("[serve.images.old]\nkernel = '/srv/k'", "initrd"),
            ("[serve.images.old]\ninitrd = '/srv/i'", "kernel"),
            (
                "[serve.images.'../x']\nkernel = '/srv/k'\ninitrd = '/srv/i'",
                "`../x` cannot name an image",
            ),
            (&format!("{whole}\nmodules = '/x'"), "modules"),
        ] {
            let error = parse(image, "").unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        let error = parse(whole, "image = 'Old'").unwrap_err();
        assert!(error.contains("`Old` cannot name an image"), "{error}");
    }
}
