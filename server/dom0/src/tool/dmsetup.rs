//! `dmsetup`, the one place that runs it.

use std::path::Path;

use super::{ToolError, Tools, unexpected};
use crate::table::Table;

/// Start of the UUID of every device-mapper device that is ours; others are never touched.
pub const UUID_PREFIX: &str = "P2V-";

/// A device-mapper device as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its UUID; empty if it has none.
    pub uuid: String,
    /// How often it is open (by domains, mounts, other device-mapper devices).
    pub open: u32,
}

impl Device {
    /// Whether p2v made it.
    pub fn is_ours(&self) -> bool {
        self.uuid == format!("{UUID_PREFIX}{}", self.name)
    }
}

/// The device called `name`, if there is one.
///
/// # Errors
/// What `dmsetup` said.
pub fn info(tools: &Tools, name: &str) -> Result<Option<Device>, ToolError> {
    Ok(list(tools)?.into_iter().find(|d| d.name == name))
}

/// Where the kernel shows that it has device-mapper: also as a module, once that is loaded.
const IN_KERNEL: &str = "/sys/class/misc/device-mapper";

/// Every device. A kernel that has no device-mapper has none.
///
/// # Errors
/// What `dmsetup` said.
pub fn list(tools: &Tools) -> Result<Vec<Device>, ToolError> {
    let listed = tools.run(
        "dmsetup",
        [
            "info",
            "-c",
            "--noheadings",
            "--separator",
            "|",
            "-o",
            "name,uuid,open",
        ],
    );
    match listed {
        Ok(text) => parse(&text),
        // Asking for them loads the module, where there is one.
        Err(ToolError::Failed { .. }) if !Path::new(IN_KERNEL).exists() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Makes the device, marked as ours.
///
/// # Errors
/// What `dmsetup` said; also if the name is taken.
pub fn create(tools: &Tools, name: &str, table: &Table) -> Result<(), ToolError> {
    let uuid = format!("{UUID_PREFIX}{name}");
    tools
        .run(
            "dmsetup",
            [
                "create",
                name,
                "--uuid",
                &uuid,
                "--table",
                &table.to_string(),
            ],
        )
        .map(drop)
}

/// Puts another table under a device that may be in use: load, suspend, resume.
///
/// # Errors
/// What `dmsetup` said; the device is left running, on the old table if the new one was refused.
pub fn replace(tools: &Tools, name: &str, table: &Table) -> Result<(), ToolError> {
    tools.run("dmsetup", ["load", name, "--table", &table.to_string()])?;
    let suspended = tools.run("dmsetup", ["suspend", name]);
    // Also after a failed suspend: a device must not be left standing still.
    let resumed = tools.run("dmsetup", ["resume", name]);
    suspended.and(resumed).map(drop)
}

/// Removes the device. `--retry`: udev may hold it open for a moment after it was made.
///
/// # Errors
/// What `dmsetup` said; it refuses a device that is in use.
pub fn remove(tools: &Tools, name: &str) -> Result<(), ToolError> {
    tools.run("dmsetup", ["remove", "--retry", name]).map(drop)
}

/// The device's table, one line per target.
///
/// # Errors
/// What `dmsetup` said.
pub fn table(tools: &Tools, name: &str) -> Result<String, ToolError> {
    tools.run("dmsetup", ["table", name])
}

fn parse(text: &str) -> Result<Vec<Device>, ToolError> {
    text.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && *l != "No devices found")
        .map(|line| {
            let bad = || unexpected("dmsetup info -c", format!("the line `{line}`"));
            let mut columns = line.split('|');
            let (Some(name), Some(uuid), Some(open), None) = (
                columns.next(),
                columns.next(),
                columns.next(),
                columns.next(),
            ) else {
                return Err(bad());
            };
            Ok(Device {
                name: name.to_owned(),
                uuid: uuid.to_owned(),
                open: open.parse().map_err(|_| bad())?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_whose_they_are() {
        let devices = parse("p2v-web-0|P2V-p2v-web-0|1\nvg-root|LVM-abc|1\np2v-x-0||0\n").unwrap();
        assert_eq!(
            devices.iter().map(Device::is_ours).collect::<Vec<_>>(),
            [true, false, false]
        );
        assert_eq!(devices[0].open, 1);
        assert_eq!(parse("No devices found\n").unwrap(), []);
        assert!(parse("a|b\n").is_err());
    }
}
