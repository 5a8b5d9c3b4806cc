//! The domain config on disk. One that somebody edited is never overwritten without keeping it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use p2v_copy::atomic_file;

use crate::record::WrittenConfig;
use crate::timestamp::Timestamp;

/// Whose a config file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// There is none.
    Nobody,
    /// It is as p2v wrote it.
    P2v,
    /// It was edited since, or p2v never wrote it.
    Operator,
}

/// What writing a config did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For the machine's record.
    pub written: WrittenConfig,
    /// Where the operator's own version was kept.
    pub kept: Option<PathBuf>,
}

/// A config file could not be read, written or linked.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file system said no.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else is where the link should be.
    #[error("{} is there already and is no link to {}; move it away first", link.display(), target.display())]
    Taken {
        /// The link.
        link: PathBuf,
        /// What it should point at.
        target: PathBuf,
    },
}

/// Whose the file at `path` is, `written` being what the record remembers.
///
/// # Errors
/// It is there and cannot be read.
pub fn owner(path: &Path, written: Option<&WrittenConfig>) -> Result<Owner, ConfigFileError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Owner::Nobody),
        Err(source) => return Err(io_error("read", path, source)),
    };
    let ours = written.is_some_and(|w| w.path == path && w.blake3 == hash(&text));
    Ok(if ours { Owner::P2v } else { Owner::Operator })
}

/// Writes `text` to `path`. An operator's version is kept beside it as `NAME.cfg.p2v-TIME`.
///
/// # Errors
/// [`ConfigFileError::Io`]; the old file is then still in place.
pub fn write(
    path: &Path,
    text: &str,
    written: Option<&WrittenConfig>,
    now: Timestamp,
) -> Result<Outcome, ConfigFileError> {
    let same = fs::read(path).is_ok_and(|old| old == text.as_bytes());
    let kept = if owner(path, written)? == Owner::Operator && !same {
        Some(keep(path, now)?)
    } else {
        None
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| io_error("create the directory", dir, e))?;
    }
    if !same {
        atomic_file::replace(path, text.as_bytes(), 0o644)
            .map_err(|e| io_error("write", path, e))?;
    }
    Ok(Outcome {
        written: WrittenConfig {
            path: path.to_owned(),
            blake3: hash(text.as_bytes()),
            at: now,
        },
        kept,
    })
}

/// Has the domain started with the host: a link to its config in `auto_dir`.
///
/// # Errors
/// Something else has that name.
pub fn link_auto(auto_dir: &Path, config: &Path) -> Result<PathBuf, ConfigFileError> {
    fs::create_dir_all(auto_dir).map_err(|e| io_error("create the directory", auto_dir, e))?;
    let link = auto_dir.join(config.file_name().unwrap_or_default());
    match std::os::unix::fs::symlink(config, &link) {
        Ok(()) => Ok(link),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if fs::read_link(&link).is_ok_and(|t| t == config) {
                return Ok(link);
            }
            Err(ConfigFileError::Taken {
                link,
                target: config.to_owned(),
            })
        }
        Err(e) => Err(io_error("create the link", &link, e)),
    }
}

/// Copies the file beside itself under a name nothing has yet.
fn keep(path: &Path, now: Timestamp) -> Result<PathBuf, ConfigFileError> {
    let text = fs::read(path).map_err(|e| io_error("read", path, e))?;
    for n in 0u32.. {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".p2v-{}", now.compact()));
        if n > 0 {
            name.push(format!("-{n}"));
        }
        let beside = PathBuf::from(name);
        match fs::File::create_new(&beside) {
            Ok(mut file) => {
                file.write_all(&text)
                    .and_then(|()| file.sync_all())
                    .map_err(|e| io_error("write", &beside, e))?;
                return Ok(beside);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io_error("create", &beside, e)),
        }
    }
    Err(io_error("keep", path, io::ErrorKind::AlreadyExists.into()))
}

fn hash(text: &[u8]) -> String {
    blake3::hash(text).to_hex().to_string()
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> ConfigFileError {
    ConfigFileError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_config_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.cfg");
        let now = Timestamp::from_unix(1_800_000_000);
        assert_eq!(owner(&path, None).unwrap(), Owner::Nobody);
        let first = write(&path, "one\n", None, now).unwrap();
        assert_eq!(first.kept, None);
        assert_eq!(owner(&path, Some(&first.written)).unwrap(), Owner::P2v);
        let second = write(&path, "two\n", Some(&first.written), now).unwrap();
        assert_eq!(second.kept, None);
        for n in 0..2 {
            fs::write(&path, format!("edited {n}\n")).unwrap();
            assert_eq!(
                owner(&path, Some(&second.written)).unwrap(),
                Owner::Operator
            );
            let third = write(&path, "two\n", Some(&second.written), now).unwrap();
            let kept = third.kept.unwrap();
            assert_eq!(fs::read_to_string(&kept).unwrap(), format!("edited {n}\n"));
            assert!(
                kept.to_str()
                    .unwrap()
                    .contains("web.cfg.p2v-20270115T080000Z")
            );
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn the_auto_link_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (auto, config) = (dir.path().join("auto"), dir.path().join("web.cfg"));
        let link = link_auto(&auto, &config).unwrap();
        assert_eq!(link_auto(&auto, &config).unwrap(), link);
        fs::remove_file(&link).unwrap();
        fs::write(&link, "an own file").unwrap();
        assert!(matches!(
            link_auto(&auto, &config),
            Err(ConfigFileError::Taken { .. })
        ));
    }
}
