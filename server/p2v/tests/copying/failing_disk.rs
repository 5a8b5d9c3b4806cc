//! A disk with sectors that cannot be read, and some that can at the n-th try: a FUSE file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry,
    ReplyOpen, Request,
};

const FILE: INodeNo = INodeNo(2);
const FOREVER: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct State {
    data: Vec<u8>,
    bad: Mutex<BTreeSet<u64>>,
    /// How many more times these fail.
    hard: Mutex<BTreeMap<u64, u32>>,
    reads: AtomicU64,
}

struct Disk(Arc<State>);

/// The disk, while it lives.
pub struct Failing {
    state: Arc<State>,
    _mounted: BackgroundSession,
}

impl Failing {
    /// From now on all of it can be read.
    pub fn heal(&self) {
        self.state.bad.lock().unwrap().clear();
    }

    /// Requests so far.
    pub fn reads(&self) -> u64 {
        self.state.reads.load(Ordering::Relaxed)
    }
}

impl Disk {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let file = inode == FILE;
        let size = if file { self.0.data.len() as u64 } else { 0 };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
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
            blksize: 512,
        }
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "disk" {
            reply.entry(&FOREVER, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Sector by sector, as a disk is: nothing is kept in memory.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = &self.0;
        state.reads.fetch_add(1, Ordering::Relaxed);
        let end = (offset + u64::from(size)).min(state.data.len() as u64);
        let sectors = offset / 512..end.div_ceil(512);
        let mut fails = state
            .bad
            .lock()
            .unwrap()
            .range(sectors.clone())
            .next()
            .is_some();
        for (_, left) in state.hard.lock().unwrap().range_mut(sectors) {
            if *left > 0 {
                *left -= 1;
                fails = true;
            }
        }
        if fails {
            reply.error(Errno::EIO);
        } else {
            reply.data(&state.data[offset.min(end) as usize..end as usize]);
        }
    }
}

/// Shows the disk as `at/disk`.
pub fn mount(at: &Path, data: Vec<u8>, bad: &[u64], hard: &[(u64, u32)]) -> Failing {
    std::fs::create_dir_all(at).unwrap();
    let state = Arc::new(State {
        data,
        bad: Mutex::new(bad.iter().copied().collect()),
        hard: Mutex::new(hard.iter().copied().collect()),
        reads: AtomicU64::new(0),
    });
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("p2v-failing-disk".into())];
    let mounted = fuser::spawn_mount(Disk(state.clone()), at, &config).unwrap();
    Failing {
        state,
        _mounted: mounted,
    }
}
