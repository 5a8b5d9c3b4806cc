//! What several commands take, and the codes they end with.

use std::path::PathBuf;

use clap::Args;
use p2v_policy::settings::Overrides;

/// Exit codes, for scripts; also in `p2v help`.
pub mod exit {
    /// Something failed; what and what to do is on standard error.
    pub const FAILED: u8 = 1;
    /// `p2v doctor` found something that must be mended; `p2v copy` ended with unreadable sectors;
    /// `p2v verify` found a difference.
    pub const INCOMPLETE: u8 = 3;
}

/// Options that every command takes.
#[derive(Args, Debug)]
pub struct Global {
    /// Settings file [default: /etc/p2v/p2v.toml, where there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where machine records are kept [default: /var/lib/p2v]
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Network interface with the old machines on it [default: from the settings, or xenbr0]
    #[arg(long, global = true, value_name = "IFACE")]
    pub iface: Option<String>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
}

impl Global {
    /// Those that stand for settings.
    pub fn overrides(&self) -> Overrides<'_> {
        Overrides {
            config: self.config.as_deref(),
            iface: self.iface.as_deref(),
            state: self.state.as_deref(),
        }
    }
}

/// The number of a disk, as `1` or as in its address, `e7.1`.
pub fn slot(text: &str) -> Result<u8, String> {
    let number = match text.rsplit_once('.') {
        Some((shelf, slot)) if shelf.starts_with('e') => slot,
        _ => text,
    };
    number.parse().map_err(|_| {
        "write the disk's number: 1 (or e7.1) for the second disk of the machine at shelf 7".into()
    })
}

/// A number of bytes as an operator writes it: `50M` is 50 * 1024 * 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let sizes = parse_size::Config::new().with_binary();
    match sizes.parse_size(text) {
        Ok(0) => Err("0 would be nothing at all".into()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(format!(
            "{error}: write a number of bytes, or as in 50M or 2G"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_by_number_or_address() {
        assert_eq!((slot("1"), slot("e7.1")), (Ok(1), Ok(1)));
        assert!(slot("sda").unwrap_err().contains("e7.1") && slot("e7").is_err());
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        assert_eq!(bytes("50M"), Ok(50 << 20));
        assert_eq!(bytes("1G"), Ok(1 << 30));
        assert_eq!(bytes("1234"), Ok(1234));
        assert!(bytes("0").is_err() && bytes("fast").unwrap_err().contains("50M"));
    }
}
