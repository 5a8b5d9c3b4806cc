//! What the operator names as a destination.

use std::path::PathBuf;
use std::str::FromStr;

use crate::host::Host;
use crate::tool::ToolError;
use crate::tool::lvm::{self, BadVolumeName};

/// What the operator named with `--to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A volume group; the volume is named after the machine.
    Group(String),
    /// A volume, there or to be made.
    Volume(String, String),
    /// A file or block device.
    Path(PathBuf),
}

impl FromStr for Wanted {
    type Err = BadVolumeName;

    /// `VG`, `VG/LV`, or a path that starts with `/` or `.`.
    fn from_str(text: &str) -> Result<Wanted, BadVolumeName> {
        if text.starts_with(['/', '.']) {
            return Ok(Wanted::Path(text.into()));
        }
        match text.split_once('/') {
            Some((vg, lv)) => Ok(Wanted::Volume(
                lvm::check_name(vg)?.to_owned(),
                lvm::check_name(lv)?.to_owned(),
            )),
            None => Ok(Wanted::Group(lvm::check_name(text)?.to_owned())),
        }
    }
}

impl Wanted {
    /// What the operator calls a file or device.
    pub fn path(&self) -> Option<String> {
        let Wanted::Path(path) = self else {
            return None;
        };
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Some(path.display().to_string())
    }

    /// Whether several disks can go there.
    ///
    /// # Errors
    /// LVM cannot be asked.
    pub fn takes_several(&self, host: &Host) -> Result<bool, ToolError> {
        Ok(match self {
            Wanted::Group(_) => true,
            Wanted::Volume(vg, lv) => {
                lvm::volume(&host.tools, vg, lv)?.is_some_and(|volume| volume.is_thin_pool)
            }
            Wanted::Path(_) => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_may_name() {
        assert_eq!("vg0".parse(), Ok(Wanted::Group("vg0".into())));
        assert_eq!(
            "vg0/web".parse(),
            Ok(Wanted::Volume("vg0".into(), "web".into()))
        );
        assert_eq!("/dev/sdb".parse(), Ok(Wanted::Path("/dev/sdb".into())));
        assert_eq!("./x".parse(), Ok(Wanted::Path("./x".into())));
        for bad in [
            "",
            "vg0/",
            "/".trim_start_matches('/'),
            "a/b/c",
            "-vg",
            "@tag",
        ] {
            assert!(bad.parse::<Wanted>().is_err(), "{bad}");
        }
    }
}
