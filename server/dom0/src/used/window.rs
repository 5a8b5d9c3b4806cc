//! The disk, or a part of it, as a read-only regular file that other programs can read.
//!
//! A FUSE file system, in a mount namespace of the calling thread: no block device of the old disk
//! appears on the host, so that neither udev nor LVM nor anybody else acts on what is in it, and the
//! mount goes with the process, however that ends.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use p2v_contract::SECTOR;
use tempfile::TempDir;

use super::DiskView;
use super::ranges::Range;

/// How long the kernel may remember a name or a size: neither ever changes.
const FOREVER: Duration = Duration::from_secs(3600);
/// Inode number of the first window; 1 is the directory's.
const FIRST: u64 = 2;

/// Files that show parts of a disk.
pub struct Windows {
    list: Arc<RwLock<Vec<Range>>>,
    failures: Arc<AtomicU64>,
    /// Ended before the directory it is mounted on is removed.
    session: Option<BackgroundSession>,
    at: TempDir,
}

impl Windows {
    /// Mounts the file system, with no window yet. The calling thread gets a mount namespace of its
    /// own for good, so call this from one that does nothing else; only programs it starts see the
    /// windows.
    ///
    /// # Errors
    /// The namespace or the mount: what the system said.
    pub fn open(disk: Arc<dyn DiskView>) -> io::Result<Windows> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let nothing: Option<&str> = None;
        // What is mounted here is not to spread to the other namespaces.
        mount(
            nothing,
            "/",
            nothing,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            nothing,
        )?;
        let at = tempfile::Builder::new().prefix("p2v-used-").tempdir()?;
        let list = Arc::<RwLock<Vec<Range>>>::default();
        let failures = Arc::<AtomicU64>::default();
        let show = Show {
            disk,
            list: list.clone(),
            failures: failures.clone(),
        };
        let mut config = Config::default();
        // Not read-only: xfs_logprint opens for writing what it only reads. See `write`.
        config.mount_options = vec![
            MountOption::FSName("p2v-used".into()),
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::NoExec,
        ];
        let session = fuser::spawn_mount(show, at.path(), &config)?;
        Ok(Windows {
            list,
            failures,
            session: Some(session),
            at,
        })
    }

    /// A file that shows these sectors of the disk.
    pub fn file(&self, sectors: Range) -> PathBuf {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        if !list.contains(&sectors) {
            list.push(sectors);
        }
        self.at.path().join(name(sectors))
    }

    /// Reads of the disk that failed, and tries to write to it, so far. A program that takes no notice
    /// of the first would go on with what was in its memory.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // If it is still in use, the mount goes with the namespace, at the thread's end.
            let _ = session.umount_and_join();
        }
    }
}

fn name((first, count): Range) -> String {
    format!("{first}+{count}")
}

struct Show {
    disk: Arc<dyn DiskView>,
    list: Arc<RwLock<Vec<Range>>>,
    failures: Arc<AtomicU64>,
}

impl Show {
    fn window(&self, inode: INodeNo) -> Option<Range> {
        let index = usize::try_from(inode.0.checked_sub(FIRST)?).ok()?;
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.get(index).copied()
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let window = self.window(inode);
        let sectors = window.map_or(0, |w| w.1);
        FileAttr {
            ino: inode,
            size: sectors * SECTOR,
            blocks: sectors,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: match window {
                Some(_) => FileType::RegularFile,
                None => FileType::Directory,
            },
            perm: if window.is_some() { 0o400 } else { 0o500 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }

    /// The bytes `offset` to `offset + size` of a window, as far as it goes.
    fn bytes(&self, window: Range, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let end = offset
            .saturating_add(u64::from(size))
            .min(window.1 * SECTOR);
        if offset >= end {
            return Ok(Vec::new());
        }
        let first = offset / SECTOR;
        let sectors = end.div_ceil(SECTOR) - first;
        // At most what the kernel asks for at once, so it fits.
        let mut buffer = vec![0; (sectors * SECTOR) as usize];
        self.disk.read(window.0 + first, &mut buffer)?;
        buffer.truncate((end - first * SECTOR) as usize);
        buffer.drain(..(offset - first * SECTOR) as usize);
        Ok(buffer)
    }
}

impl Filesystem for Show {
    fn lookup(&self, _: &Request, _: INodeNo, wanted: &OsStr, reply: ReplyEntry) {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let index = list.iter().position(|w| wanted == name(*w).as_str());
        drop(list);
        match index {
            Some(index) => {
                let inode = INodeNo(index as u64 + FIRST);
                reply.entry(&FOREVER, &self.attributes(inode), Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Programs open it several times: what was read once stays in memory.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = match self.window(inode) {
            Some(window) => self.bytes(window, offset, size),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        match bytes {
            Ok(bytes) => reply.data(&bytes),
            Err(_) => {
                self.failures.fetch_add(1, Ordering::SeqCst);
                reply.error(Errno::EIO);
            }
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // What a program reads after this may be what it wrote.
        self.failures.fetch_add(1, Ordering::SeqCst);
        reply.error(Errno::EROFS);
    }
}
