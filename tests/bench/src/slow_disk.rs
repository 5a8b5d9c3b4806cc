//! A disk that takes 4 ms for a request and serves many at once, as one with a queue does: a FUSE
//! file of zeros.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyEntry, Request,
};

/// The file's name in the mount point.
pub const NAME: &str = "disk";
/// Its size in bytes.
pub const SIZE: u64 = 1 << 30;
/// What one request takes.
const TAKES: Duration = Duration::from_millis(4);
const FILE: INodeNo = INodeNo(2);
const FOREVER: Duration = Duration::from_secs(3600);

/// Requests in the order they came, which is that of their ends.
type Waiting = VecDeque<(Instant, u32, ReplyData)>;

struct SlowDisk {
    waiting: Arc<(Mutex<Waiting>, Condvar)>,
}

fn attributes(inode: INodeNo) -> FileAttr {
    let file = inode == FILE;
    FileAttr {
        ino: inode,
        size: if file { SIZE } else { 0 },
        blocks: if file { SIZE / 512 } else { 0 },
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if file {
            FileType::RegularFile
        } else {
            FileType::Directory
        },
        perm: if file { 0o644 } else { 0o755 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 4096,
    }
}

impl Filesystem for SlowDisk {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // As many at once as anybody asks for.
        let _ = config.set_max_background(512);
        let _ = config.set_congestion_threshold(512);
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_READ | InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&FOREVER, &attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (waiting, changed) = &*self.waiting;
        if let Ok(mut waiting) = waiting.lock() {
            waiting.push_back((Instant::now() + TAKES, size, reply));
            changed.notify_one();
        }
    }
}

/// Ends the requests when their time has come.
fn serve(waiting: &(Mutex<Waiting>, Condvar)) {
    let zeros = vec![0; 1 << 20];
    let (waiting, changed) = waiting;
    let Ok(mut requests) = waiting.lock() else {
        return;
    };
    loop {
        let now = Instant::now();
        let next = requests.front().map(|(due, _, _)| *due);
        let guard = match next {
            Some(due) if due <= now => {
                let first = requests.pop_front();
                drop(requests);
                if let Some((_, size, reply)) = first {
                    reply.data(&zeros[..(size as usize).min(zeros.len())]);
                }
                waiting.lock()
            }
            Some(due) => changed
                .wait_timeout(requests, due - now)
                .map(|(guard, _)| guard)
                .map_err(|poisoned| std::sync::PoisonError::new(poisoned.into_inner().0)),
            None => changed.wait(requests),
        };
        match guard {
            Ok(guard) => requests = guard,
            Err(_) => return,
        }
    }
}

/// Mounts it at `at`; it is there while the result lives.
pub fn mount(at: &Path) -> Result<BackgroundSession> {
    std::fs::create_dir_all(at)?;
    let disk = SlowDisk {
        waiting: Arc::default(),
    };
    let waiting = disk.waiting.clone();
    std::thread::spawn(move || serve(&waiting));
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("p2v-slow-disk".into())];
    fuser::spawn_mount(disk, at, &config)
        .with_context(|| format!("cannot mount a FUSE file system at {}", at.display()))
}
