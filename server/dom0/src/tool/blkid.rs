//! `blkid`: what a device or file holds.

use std::path::Path;

use super::Tools;

/// What `path` holds by its signatures: "ext4 file system `root`", "LVM2_member", "dos partition table".
/// `None` if nothing is known, or `blkid` is not there.
pub fn content(tools: &Tools, path: &Path) -> Option<String> {
    let mut arguments: Vec<&std::ffi::OsStr> = Vec::new();
    for word in ["-p", "-o", "export"] {
        arguments.push(word.as_ref());
    }
    arguments.push(path.as_os_str());
    describe(&tools.run("blkid", arguments).ok()?)
}

/// What `blkid -o export` printed for a key: once, or more often where it found more than one thing.
pub fn values<'t>(export: &'t str, key: &'t str) -> impl Iterator<Item = &'t str> {
    export
        .lines()
        .filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='))
}

fn describe(export: &str) -> Option<String> {
    let value = |key| values(export, key).next();
    let printable = |text: &str| {
        let clean = |c: char| if c.is_control() { '?' } else { c };
        text.replace("\\ ", " ")
            .chars()
            .map(clean)
            .collect::<String>()
    };
    if let Some(kind) = value("TYPE") {
        let what = match value("USAGE") {
            Some("filesystem") => format!("an {} file system", printable(kind)),
            _ => printable(kind),
        };
        return Some(match value("LABEL") {
            Some(label) => format!("{what} `{}`", printable(label)),
            None => what,
        });
    }
    value("PTTYPE").map(|kind| format!("a {} partition table", printable(kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blkid_prints_in_words() {
        let file_system = "DEVNAME=/dev/x\nLABEL=old\\ root\nTYPE=ext4\nUSAGE=filesystem\n";
        assert_eq!(
            describe(file_system).unwrap(),
            "an ext4 file system `old root`"
        );
        let member = "TYPE=LVM2_member\nUSAGE=raid\n";
        assert_eq!(describe(member).unwrap(), "LVM2_member");
        assert_eq!(describe("PTTYPE=dos\n").unwrap(), "a dos partition table");
        assert_eq!(describe(""), None);
    }

    #[test]
    fn the_real_program_sees_a_real_file_system() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        assert_eq!(content(&Tools::new(), file.path()), None);
        let made = std::process::Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext2", "-L", "srv"])
            .arg(file.path())
            .status();
        assert!(made.expect("e2fsprogs is installed").success());
        let content = content(&Tools::new(), file.path()).unwrap();
        assert_eq!(content, "an ext2 file system `srv`");
    }
}
