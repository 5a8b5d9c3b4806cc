//! Netboot images beside the usual one, for machines that need another kernel.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use arrayvec::ArrayString;
use serde::Deserialize;

/// Bytes of a name at most: it stands in the names of files, which boot loaders have little room for, and in
/// lines on screens.
const NAME_MAX: usize = 16;

/// What an image is called in the settings, and in the names of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct ImageName(ArrayString<NAME_MAX>);

/// A text that is no image's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot name an image: use 1 to {NAME_MAX} of a-z, 0-9 and `-`, beginning with a letter or digit"
)]
pub struct BadImageName(String);

impl FromStr for ImageName {
    type Err = BadImageName;

    fn from_str(text: &str) -> Result<ImageName, BadImageName> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_name = !text.is_empty() && !text.starts_with('-') && text.bytes().all(legal);
        match ArrayString::from(text) {
            Ok(name) if is_name => Ok(ImageName(name)),
            _ => Err(BadImageName(text.to_owned())),
        }
    }
}

impl TryFrom<String> for ImageName {
    type Error = BadImageName;

    fn try_from(text: String) -> Result<ImageName, BadImageName> {
        text.parse()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an image's files are. They belong together: the modules in the one are the other's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial RAM disk, with the agent in it.
    pub initrd: PathBuf,
}

/// Which image the agent is started with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Image {
    /// The one for all machines.
    #[default]
    Usual,
    /// The one that the settings name for this machine.
    Named(ImageName),
    /// The usual one, because that which the settings name cannot be used.
    UsualFor(ImageName),
}

impl Image {
    /// What the names of its files begin with.
    pub fn prefix(self) -> String {
        match self {
            Image::Usual | Image::UsualFor(_) => String::new(),
            Image::Named(name) => format!("image/{name}/"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_need_no_quotes_anywhere() {
        for name in ["old", "0", "debian-11", "sixteen-letters0"] {
            assert_eq!(name.parse::<ImageName>().unwrap().to_string(), name);
        }
        for name in [
            "",
            "-x",
            "Old",
            "a.b",
            "..",
            "a/b",
            "a b",
            "a_b",
            "\u{e4}",
            "seventeen-letters",
        ] {
            let error = name.parse::<ImageName>().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
