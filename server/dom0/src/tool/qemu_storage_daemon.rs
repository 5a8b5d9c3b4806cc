//! `qemu-storage-daemon`: an image of QEMU's, shown as the raw disk that it holds.
//!
//! By FUSE, as a regular file with another one under it: no block device appears on the host, so neither
//! udev nor LVM acts on what is in the image. It must be given one request at a time, as
//! [`FileSink`](p2v_copy::FileSink) does with an image.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{STDERR_SHOWN, ToolError, Tools};

const PROGRAM: &str = "qemu-storage-daemon";
/// Time to open an image and mount it.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked whether that is done.
const LOOK: Duration = Duration::from_millis(5);
/// What a shell and setpriv(1) return for a program that is not there.
const NOT_FOUND: i32 = 127;

/// An image that is shown. The daemon ends when this goes, and when this process is killed.
#[derive(Debug)]
pub struct Shown {
    child: Child,
    at: PathBuf,
    command: String,
    /// Its standard error.
    said: File,
    status: Option<ExitStatus>,
}

/// Shows the qcow2 image `image` as the raw disk `at`, which a run that was killed may have left behind. The
/// calling thread must live as long as what is returned: the daemon ends with it.
///
/// # Errors
/// What the daemon said: an image that another QEMU program has open is refused by it.
pub fn show(tools: &Tools, image: &Path, at: &Path, writable: bool) -> Result<Shown, ToolError> {
    let not_done = |doing: &str, path: &Path, error: &dyn std::fmt::Display| {
        ToolError::NotDone(format!("cannot {doing} {}: {error}", path.display()))
    };
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| not_done("show", path, &"QEMU takes only names in UTF-8"))
    };
    let (image_name, at_name) = (text(image)?, text(at)?);
    let direct = has_direct_io(image).map_err(|e| not_done("open", image, &e))?;
    clear(at).map_err(|e| not_done("clear away", at, &e))?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(at)
        .map_err(|e| not_done("create", at, &e))?;
    let device = fs::metadata(at)
        .map_err(|e| not_done("look at", at, &e))?
        .dev();
    let said =
        tempfile::tempfile().map_err(|e| not_done("make a file in", &std::env::temp_dir(), &e))?;
    let stderr = said.try_clone().map_err(|e| not_done("open", at, &e))?;

    let cache = serde_json::json!({"direct": direct});
    let node = serde_json::json!({
        "driver": "qcow2", "node-name": "image", "read-only": !writable, "discard": "unmap", "cache": cache,
        "file": {"driver": "file", "filename": image_name, "read-only": !writable, "discard": "unmap", "cache": cache},
    });
    let export = serde_json::json!({
        "type": "fuse", "id": "disk", "node-name": "image", "mountpoint": at_name, "writable": writable,
        "allow-other": "off",
    });
    let program = tools.path(PROGRAM).into_os_string();
    let words = [
        "--blockdev",
        &node.to_string(),
        "--export",
        &export.to_string(),
    ]
    .map(Into::into);
    // `setpriv`: gone with this process, also when it is killed.
    let mut arguments = vec!["--pdeathsig".into(), "TERM".into(), program];
    arguments.extend(words);
    let command = super::command_line("setpriv", &arguments);
    let child = tools
        .command("setpriv", &arguments)
        .stdout(Stdio::null())
        .stderr(stderr)
        // A ^C is for p2v, which has work to finish with it.
        .process_group(0)
        .spawn()
        .map_err(|source| super::not_started("setpriv", &command, source));
    let child = child.inspect_err(|_| {
        let _ = fs::remove_file(at);
    })?;
    let mut shown = Shown {
        child,
        at: at.to_owned(),
        command,
        said,
        status: None,
    };
    let until = Instant::now() + START_LIMIT;
    loop {
        if let Some(error) = shown.ended() {
            return Err(error);
        }
        // Another file system is on it now.
        if fs::metadata(at).is_ok_and(|there| there.dev() != device) {
            return Ok(shown);
        }
        if Instant::now() > until {
            return Err(not_done(
                "show",
                image,
                &format!("{PROGRAM} did not begin; it said: {}", shown.words()),
            ));
        }
        std::thread::sleep(LOOK);
    }
}

impl Shown {
    /// The raw disk.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Why it ended, if it did though nobody asked it to.
    pub fn ended(&mut self) -> Option<ToolError> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        let status = self.status?;
        if status.code() == Some(NOT_FOUND) {
            return Some(super::not_started(
                PROGRAM,
                &self.command,
                io::ErrorKind::NotFound.into(),
            ));
        }
        let said = self.words();
        Some(super::failed(
            self.command.clone(),
            status,
            &[],
            said.as_bytes(),
        ))
    }

    /// Has it close the image. Nothing may have the raw disk open any more.
    ///
    /// # Errors
    /// It ended before, or not as it should: the image may lack what was written last.
    pub fn end(mut self) -> Result<(), ToolError> {
        if let Some(error) = self.ended() {
            return Err(error);
        }
        self.terminate();
        match self.status {
            Some(status) if status.success() => Ok(()),
            _ => Err(self.ended().unwrap_or_else(|| {
                ToolError::NotDone(format!("it is not known how `{}` ended", self.command))
            })),
        }
    }

    fn terminate(&mut self) {
        if self.status.is_some() {
            return;
        }
        // Not waited for yet, so the number is nobody else's.
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        self.status = self.child.wait().ok();
    }

    /// The end of what it said.
    fn words(&self) -> String {
        let length = self.said.metadata().map_or(0, |m| m.len());
        let from = length.saturating_sub(STDERR_SHOWN as u64);
        let mut bytes = vec![0; (length - from) as usize];
        match self.said.read_exact_at(&mut bytes, from) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(what it said cannot be read: {error})"),
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.terminate();
        // What is left is cleared away when the disk is shown again.
        let _ = clear(&self.at);
    }
}

/// Takes away a raw disk that is shown no more: its mount, and the file under it.
fn clear(at: &Path) -> io::Result<()> {
    loop {
        match umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted on it; it is not there.
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match fs::remove_file(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether the file's file system can read past the page cache: then what is read back is what the medium
/// holds.
fn has_direct_io(path: &Path) -> io::Result<bool> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    match opened {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::qemu_img;
    use p2v_copy::pool::Buffer;
    use p2v_copy::{FileSink, Sink};

    #[test]
    fn an_image_is_a_raw_disk_while_it_is_shown() {
        // Beside the sources (a disk) and in memory (tmpfs): with and without direct I/O.
        for base in [Path::new(env!("CARGO_MANIFEST_DIR")), Path::new("/dev/shm")] {
            let dir = tempfile::tempdir_in(base).unwrap();
            let (image, at) = (dir.path().join("a,b c.qcow2"), dir.path().join("raw"));
            let tools = Tools::new();
            let size = (3 << 20) + 1536;
            qemu_img::create(&tools, &image, size).unwrap();
            let mut data = vec![0; size as usize];
            let shown = show(&tools, &image, &at, true).unwrap();
            assert!(qemu_img::is_open(&image).unwrap());
            let error = show(&tools, &image, &dir.path().join("other"), true).unwrap_err();
            assert!(error.to_string().contains("lock"), "{error}");
            assert!(!dir.path().join("other").exists());
            // Not in the terminal's group: a ^C is not for it.
            let pid = Pid::from_raw(shown.child.id() as i32);
            assert_eq!(nix::unistd::getpgid(Some(pid)), Ok(pid));
            let sink = FileSink::open_image(&at).unwrap();
            assert_eq!(sink.bytes(), size);
            for (from, to, fill) in [
                (0, size, 9),
                (512, 1024, 3),
                (70_000 / 512 * 512, 1 << 20, 0),
            ] {
                let range = from as usize..to as usize;
                data[range.clone()].fill(fill);
                match fill {
                    0 => sink.zero(from, range.len()).unwrap(),
                    _ => sink.write_at(from, &data[range]).unwrap(),
                }
            }
            sink.sync().unwrap();
            let read = |sink: &FileSink| {
                let mut back = vec![1; size as usize];
                sink.read_back(0, &mut back).unwrap();
                let differs = back.iter().zip(&data).position(|(a, b)| a != b);
                assert_eq!(differs.map(|at| (at, back[at], data[at], base)), None);
            };
            read(&sink);
            drop(sink);
            shown.end().unwrap();
            assert!(!at.exists() && !qemu_img::is_open(&image).unwrap());

            let shown = show(&tools, &image, &at, false).unwrap();
            let sink = FileSink::open_image(&at).unwrap();
            read(&sink);
            assert!(sink.write_at(0, &[1; 512]).is_err());
            drop((sink, shown));
            assert!(!at.exists());
        }
    }

    #[test]
    fn what_is_written_and_read_at_once_does_not_mix() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (image, at) = (dir.path().join("x.qcow2"), dir.path().join("raw"));
        let tools = Tools::new();
        const PART: usize = 4 << 20;
        const PARTS: usize = 8;
        qemu_img::create(&tools, &image, (PARTS * PART) as u64).unwrap();
        let shown = show(&tools, &image, &at, true).unwrap();
        let sink = FileSink::open_image(&at).unwrap();
        // Each sector has its number in it.
        let fill = |part: usize, buffer: &mut [u8]| {
            for (i, word) in buffer.chunks_mut(8).enumerate() {
                word.copy_from_slice(&(part * PART / 8 + i).to_le_bytes());
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (sink, fill) = (&sink, &fill);
                scope.spawn(move || {
                    let (mut data, mut back) = (Buffer::new(PART), Buffer::new(PART));
                    for part in (thread..PARTS).step_by(4) {
                        fill(part, &mut data);
                        sink.write_at((part * PART) as u64, &data).unwrap();
                        sink.sync().unwrap();
                        sink.read_back((part * PART) as u64, &mut back).unwrap();
                        assert!(back[..] == data[..], "part {part}");
                    }
                });
            }
        });
        drop(sink);
        shown.end().unwrap();
    }

    #[test]
    fn a_killed_daemon_is_told_of_and_what_it_left_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let (image, at) = (dir.path().join("x.qcow2"), dir.path().join("raw"));
        let tools = Tools::new();
        qemu_img::create(&tools, &image, 1 << 20).unwrap();
        let mut shown = show(&tools, &image, &at, true).unwrap();
        let sink = FileSink::open_image(&at).unwrap();
        shown.child.kill().unwrap();
        shown.status = shown.child.wait().ok();
        assert!(sink.write_at(0, &[1; 512]).is_err());
        drop(sink);
        assert!(shown.ended().unwrap().to_string().contains("signal: 9"));
        // As if this process had been killed before it cleared up.
        assert_eq!(
            fs::metadata(&at).unwrap_err().raw_os_error(),
            Some(libc::ENOTCONN)
        );
        std::mem::forget(shown);
        let again = show(&tools, &image, &at, true).unwrap();
        again.end().unwrap();
        assert!(!at.exists());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (image, at) = (dir.path().join("x.qcow2"), dir.path().join("raw"));
        fs::write(&image, "no image").unwrap();
        let error = show(&Tools::new(), &image, &at, true)
            .unwrap_err()
            .to_string();
        assert!(error.contains("qcow2 format"), "{error}");
        assert!(!at.exists());
        for (program, package) in [("setpriv", "util-linux"), (PROGRAM, "qemu-system-common")] {
            let error = show(&Tools::in_dir(dir.path()), &image, &at, true)
                .unwrap_err()
                .to_string();
            assert!(error.contains(&format!("apt install {package}")), "{error}");
            std::os::unix::fs::symlink("/usr/bin/setpriv", dir.path().join(program)).unwrap();
        }
    }
}
