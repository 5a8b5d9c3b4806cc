//! All files of a directory, to be had again.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

#[derive(Clone)]
pub(super) struct Snapshot {
    /// Every file by its path: what is in it before the zeros at its end, and its length.
    files: Vec<(PathBuf, Vec<u8>, u64)>,
    links: Vec<(PathBuf, PathBuf)>,
    dirs: Vec<PathBuf>,
}

impl Snapshot {
    /// That of `root` as it is.
    pub(super) fn of(root: &Path) -> Snapshot {
        let (mut files, mut links, mut dirs) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = vec![root.to_owned()];
        while let Some(dir) = next.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let place = path.strip_prefix(root).unwrap().to_owned();
                let kind = path.symlink_metadata().unwrap().file_type();
                if kind.is_dir() {
                    dirs.push(place);
                    next.push(path);
                } else if kind.is_symlink() {
                    links.push((place, fs::read_link(path).unwrap()));
                } else {
                    let mut bytes = fs::read(path).unwrap();
                    let length = bytes.len() as u64;
                    // Those of the state directory are damaged: all of their bytes count.
                    if !place.starts_with("state") {
                        let end = bytes.iter().rposition(|byte| *byte != 0);
                        bytes.truncate(end.map_or(0, |end| end + 1));
                    }
                    files.push((place, bytes, length));
                }
            }
        }
        dirs.sort();
        files.sort();
        Snapshot { files, links, dirs }
    }

    /// Makes `root` what it was.
    pub(super) fn put_back(&self, root: &Path) {
        for entry in fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => fs::remove_dir_all(path).unwrap(),
                false => fs::remove_file(path).unwrap(),
            }
        }
        for dir in &self.dirs {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (place, bytes, length) in &self.files {
            let mut file = fs::File::create(root.join(place)).unwrap();
            file.write_all(bytes).unwrap();
            file.set_len(*length).unwrap();
        }
        for (place, to) in &self.links {
            symlink(to, root.join(place)).unwrap();
        }
    }

    /// The files under the state directory.
    pub(super) fn state_files(&self) -> Vec<(String, Vec<u8>)> {
        let all = self.files.iter().filter_map(|(path, bytes, _)| {
            let path = path.to_str().unwrap().to_owned();
            path.starts_with("state/").then(|| (path, bytes.clone()))
        });
        all.collect()
    }
}
