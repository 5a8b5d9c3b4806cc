//! Device-mapper tables as values: one line each, made here, applied by [`crate::tool::dmsetup`].
//!
//! Sizes are in 512-byte sectors, as device-mapper counts. The device always has exactly the old
//! disk's size, whatever is underneath: a GPT keeps its second header in the last sector.

use std::fmt;
use std::path::{Path, PathBuf};

/// What is under the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// dm-linear: the first sectors of one device.
    Linear {
        /// The device underneath.
        device: PathBuf,
    },
}

/// A whole table: one target from sector 0 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    sectors: u64,
    target: Target,
}

/// Why there is no such table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTable {
    /// A device of no size.
    #[error("a device-mapper device cannot have 0 sectors")]
    Empty,
    /// dmsetup splits at white space.
    #[error(
        "the path {0:?} cannot stand in a device-mapper table: it must be absolute and without white space"
    )]
    Path(PathBuf),
}

impl Table {
    /// The first `sectors` sectors of `device`.
    ///
    /// # Errors
    /// No sectors, or a path that a table cannot hold.
    pub fn linear(sectors: u64, device: &Path) -> Result<Table, BadTable> {
        if sectors == 0 {
            return Err(BadTable::Empty);
        }
        let text = device.to_str().filter(|t| {
            t.starts_with('/')
                && !t
                    .chars()
                    .any(|c| c.is_whitespace() || c.is_control() || c == '\\')
        });
        if text.is_none() {
            return Err(BadTable::Path(device.to_owned()));
        }
        Ok(Table {
            sectors,
            target: Target::Linear {
                device: device.to_owned(),
            },
        })
    }

    /// Size of the device in 512-byte sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// What is underneath.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Whether `line`, as `dmsetup table` prints it (devices as `major:minor`), is this table, the
    /// device underneath being `device_number`.
    pub fn is_line(&self, line: &str, device_number: (u64, u64)) -> bool {
        let Target::Linear { .. } = self.target;
        let (major, minor) = device_number;
        line.split_whitespace().eq([
            "0",
            &self.sectors.to_string(),
            "linear",
            &format!("{major}:{minor}"),
            "0",
        ])
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Target::Linear { device } = &self.target;
        write!(f, "0 {} linear {} 0", self.sectors, device.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_old_size() {
        let table = Table::linear(586_072_367, Path::new("/dev/etherd/e7.0")).unwrap();
        assert_eq!(table.to_string(), "0 586072367 linear /dev/etherd/e7.0 0");
        assert!(table.is_line("0 586072367 linear 152:0 0\n", (152, 0)));
        for other in [
            "0 586072368 linear 152:0 0",
            "0 586072367 linear 152:16 0",
            "0 586072367 linear 152:0 8",
            "0 586072367 striped 152:0 0",
            "",
            "0 586072367 linear 152:0 0\n586072367 8 zero",
        ] {
            assert!(!table.is_line(other, (152, 0)), "{other}");
        }
    }

    #[test]
    fn nothing_a_table_cannot_hold() {
        assert_eq!(Table::linear(0, Path::new("/dev/x")), Err(BadTable::Empty));
        for bad in ["dev/x", "/dev/a b", "/dev/x 0\n0 1 zero", "/dev/\\x"] {
            assert!(Table::linear(1, Path::new(bad)).is_err(), "{bad}");
        }
    }
}
