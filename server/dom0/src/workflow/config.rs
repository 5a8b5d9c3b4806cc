//! `p2v config`: the domain config for a machine.

use std::path::PathBuf;

use super::{Code, Error, refused};
use crate::config_file::{self, Owner};
use crate::domain::{self, Backend, DomainConfig, Format, HostFacts};
use crate::host::Host;
use crate::name::MachineName;
use crate::record::{Destination, DiskRecord, Record, State, exported};
use crate::report::Report;
use crate::timestamp::Timestamp;
use crate::tool::{aoe_driver::AoeDriver, xl};

/// The config on disk after it was looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWritten {
    /// Where it is.
    pub path: PathBuf,
    /// Where the operator's own version was kept, if it was replaced.
    pub kept: Option<PathBuf>,
    /// The operator's own version was left in place and is used.
    pub edited: bool,
}

/// The config p2v would use for the machine, from the inventory in its record.
///
/// # Errors
/// No inventory was ever read, or no domain fits.
pub fn config(host: &Host, name: &MachineName) -> Result<DomainConfig, Error> {
    of_record(host, &host.store.get(name)?)
}

/// Writes the config; an edited one is kept beside it.
///
/// # Errors
/// As [`config`], or the file cannot be written.
pub fn write_config(
    host: &Host,
    name: &MachineName,
    report: &dyn Report,
) -> Result<ConfigWritten, Error> {
    let _lock = host
        .store
        .lock(name, &format!("p2v config {name} --write"))?;
    let record = host.store.get(name)?;
    let config = of_record(host, &record)?;
    replace(host, &record, &config, report)
}

pub(super) fn path(host: &Host, name: &MachineName) -> PathBuf {
    host.settings.xen_dir.join(format!("{name}.cfg"))
}

pub(super) fn of_record(host: &Host, record: &Record) -> Result<DomainConfig, Error> {
    let Some(inventory) = &record.inventory else {
        return refused(
            Code::NoInventory,
            format!(
                "the inventory of {} was not read yet: boot the old machine, and run `p2v list`",
                record.name
            ),
        );
    };
    let backends: Vec<Backend> = exported(inventory)
        .iter()
        .map(|(address, _)| {
            let disk = record.disks.get(&address.slot);
            let dm = host
                .paths
                .dev_mapper
                .join(record.name.dm_name(address.slot.into()));
            match disk.and_then(DiskRecord::mapped_copy) {
                Some(copy) => Backend {
                    address: *address,
                    path: match copy.is_device() {
                        true => dm,
                        false => copy.path(),
                    },
                    format: match copy {
                        Destination::Qcow2 { .. } => Format::Qcow2,
                        _ => Format::Raw,
                    },
                    underneath: format!("the copy of {address} on {copy}"),
                },
                None => Backend {
                    address: *address,
                    path: dm,
                    format: Format::Raw,
                    underneath: format!(
                        "the old machine's disk {address}, over the wire ({})",
                        AoeDriver::new(&host.tools, &host.paths)
                            .device(*address)
                            .display()
                    ),
                },
            }
        })
        .collect();
    Ok(domain::fit(
        &record.name,
        record.boot_mac,
        inventory,
        &backends,
        &host.settings,
        facts(host),
        matches!(record.state, State::Moved | State::Released),
    )?)
}

fn facts(host: &Host) -> HostFacts {
    let mut facts = HostFacts::default();
    // A preview is of use where Xen does not run; `start` fails on `xl` itself.
    for (key, value) in xl::info(&host.tools).unwrap_or_default() {
        match key.as_str() {
            "free_memory" => facts.free_memory_mib = value.parse().ok(),
            "nr_cpus" => facts.cpus = value.parse().ok(),
            _ => {}
        }
    }
    facts
}

/// The config a domain is to be started with: the operator's own if it was edited and names the
/// right disks, else a new one.
pub(super) fn ready(
    host: &Host,
    record: &Record,
    config: &DomainConfig,
    report: &dyn Report,
) -> Result<ConfigWritten, Error> {
    let path = path(host, &record.name);
    if config_file::owner(&path, record.config.as_ref())? == Owner::Operator {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let acting = acting(&text);
        let names_all = names_all(&acting, config);
        if let Some(uuid) = uuid_in(&acting).filter(|uuid| *uuid != config.uuid.value) {
            return refused(
                Code::ConfigOfAnother,
                format!(
                    "{} is the config of another domain: its uuid is {uuid}, and that of {} is {}. Move it away; or, if it is for \
                     this machine, give it the machine's uuid",
                    path.display(),
                    record.name,
                    config.uuid.value
                ),
            );
        }
        let named = acting.iter().any(|l| {
            l.split_once('=').is_some_and(|(k, v)| {
                k.trim() == "name" && v.trim().trim_matches(['"', '\'']) == record.name.as_str()
            })
        });
        if names_all && named && uuid_in(&acting).is_some() {
            report.step(&format!("using {} as it was edited", path.display()));
            return Ok(ConfigWritten {
                path,
                kept: None,
                edited: true,
            });
        }
        report.warn(&format!(
            "{} was edited or is not p2v's, and does not have this domain's name, uuid and all its disks: a new one is written",
            path.display()
        ));
    }
    replace(host, record, config, report)
}

/// Whether there is a config of the machine that names the disks which its domain has by the record.
pub(super) fn is_there(host: &Host, record: &Record) -> bool {
    let text = std::fs::read_to_string(path(host, &record.name));
    let config = of_record(host, record);
    let named = text.ok().zip(config.ok());
    named.is_some_and(|(text, config)| names_all(&acting(&text), &config))
}

/// The lines that `xl` acts on.
fn acting(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|l| !l.trim_start().starts_with('#'))
        .collect()
}

fn names_all(acting: &[&str], config: &DomainConfig) -> bool {
    config.disks.iter().all(|d| {
        acting
            .iter()
            .any(|l| l.contains(&*d.path.to_string_lossy()))
    })
}

/// The value of `uuid` in a config's lines.
fn uuid_in(lines: &[&str]) -> Option<String> {
    lines.iter().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        let value = value.trim().trim_matches(['"', '\'']);
        (key.trim() == "uuid").then(|| value.to_ascii_lowercase())
    })
}

fn replace(
    host: &Host,
    record: &Record,
    config: &DomainConfig,
    report: &dyn Report,
) -> Result<ConfigWritten, Error> {
    let path = path(host, &record.name);
    let outcome = config_file::write(
        &path,
        &config.to_string(),
        record.config.as_ref(),
        Timestamp::now(),
    )?;
    host.store.update(&record.name, |record| {
        record.config = Some(outcome.written.clone());
        Ok::<_, Error>(())
    })?;
    report.step(&format!("wrote {}", path.display()));
    if let Some(kept) = &outcome.kept {
        report.warn(&format!(
            "the edited {} was kept as {}",
            path.display(),
            kept.display()
        ));
    }
    Ok(ConfigWritten {
        path,
        kept: outcome.kept,
        edited: false,
    })
}
