//! Disks with real tables and real file systems, in files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use p2v_dom0::report::Silent;
use p2v_dom0::tool::Tools;
use p2v_dom0::used::{self, DiskView, Extent, Options, Part, Plan, Stopped};

pub const SECTOR: u64 = 512;
pub const MIB: u64 = 1 << 20;

/// Runs a script that must succeed; what it mounts is gone at its end.
pub fn sh(dir: &Path, script: &str) {
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-euc", script])
        .current_dir(dir)
        .env("MTOOLS_SKIP_CHECK", "1")
        .output()
        .expect("util-linux is installed");
    assert!(
        output.status.success(),
        "{script}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A disk in a file.
pub struct FileDisk(pub File, pub u64);

impl FileDisk {
    pub fn open(path: &Path) -> FileDisk {
        let file = File::open(path).unwrap();
        let sectors = file.metadata().unwrap().len() / SECTOR;
        FileDisk(file, sectors)
    }
}

impl DiskView for FileDisk {
    fn sectors(&self) -> u64 {
        self.1
    }

    fn read(&self, lba: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, lba * SECTOR)
    }
}

pub fn plan_with(disk: impl DiskView + 'static, tools: &Tools) -> Result<Plan, Stopped> {
    let stop = AtomicBool::new(false);
    let options = Options {
        time_limit: Duration::from_secs(300),
        stop: &stop,
        report: &Silent,
    };
    used::plan(Arc::new(disk), tools, &options)
}

pub fn plan(path: &Path) -> Plan {
    let plan = plan_with(FileDisk::open(path), &Tools::new()).unwrap();
    covers(&plan, FileDisk::open(path).1);
    plan
}

/// The parts cover the disk, and what is copied whole is in the copy.
fn covers(plan: &Plan, sectors: u64) {
    let mut next = 0;
    for part in &plan.parts {
        assert!(part.first <= next, "{part:?}");
        next = next.max(part.first + part.sectors);
        let copied: u64 = plan
            .copy
            .iter()
            .map(|c| {
                let end = (c.0 + c.1).min(part.first + part.sectors);
                end.saturating_sub(c.0.max(part.first))
            })
            .sum();
        assert_eq!(copied, part.copied, "{part:?}");
        if part.extent != Extent::UsedOnly {
            assert_eq!(copied, part.sectors, "{part:?}");
        }
    }
    assert_eq!(next, sectors);
    assert!(plan.copy.windows(2).all(|p| p[0].0 + p[0].1 < p[1].0));
}

/// The part whose description begins so.
pub fn part<'p>(plan: &'p Plan, what: &str) -> &'p Part {
    plan.parts
        .iter()
        .find(|p| p.what.starts_with(what))
        .unwrap_or_else(|| panic!("no part `{what}` in {:#?}", plan.parts))
}

/// Why the part is copied whole.
#[track_caller]
pub fn why(part: &Part) -> &str {
    match &part.extent {
        Extent::Whole { why } => why,
        Extent::UsedOnly => panic!("not whole: {part:?}"),
    }
}

/// Fills a file with what is nobody's.
pub fn garbage(path: &Path, bytes: u64) {
    let file = File::create(path).unwrap();
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut chunk = vec![0; MIB as usize];
    let mut at = 0;
    while at < bytes {
        for word in chunk.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let n = (bytes - at).min(MIB);
        file.write_all_at(&chunk[..n as usize], at).unwrap();
        at += n;
    }
}

/// Copies `count` bytes.
pub fn transfer(from: &File, from_at: u64, to: &File, to_at: u64, count: u64) {
    let mut buffer = vec![0; MIB as usize];
    let mut done = 0;
    while done < count {
        let n = (count - done).min(MIB) as usize;
        from.read_exact_at(&mut buffer[..n], from_at + done)
            .unwrap();
        to.write_all_at(&buffer[..n], to_at + done).unwrap();
        done += n as u64;
    }
}

/// What the plan says, on a disk of zeros.
pub fn copy(plan: &Plan, from: &Path, to: &Path) {
    let from = File::open(from).unwrap();
    let to = File::create(to).unwrap();
    to.set_len(from.metadata().unwrap().len()).unwrap();
    for &(first, count) in &plan.copy {
        transfer(&from, first * SECTOR, &to, first * SECTOR, count * SECTOR);
    }
}

/// How file systems of one kind are made, filled, checked and read.
pub struct Kind {
    /// What `mkfs` to run on `$1`; it must not clear what it does not use.
    pub mkfs: &'static str,
    /// Copies `tree` into `$1`, with a deletion in between.
    pub fill: &'static str,
    /// Its own checker on `$1`.
    pub check: &'static str,
    /// Copies what is in `$1` to `out`.
    pub read: &'static str,
}

const MOUNT_FILL: &str = "mkdir m; mount -o loop $1 m; mkdir m/gone; cp -r tree/. m/gone; sync; cp -r tree m/tree; \
    rm -r m/gone; cp -r tree/. m/tree; sync; umount m; rmdir m";
const MOUNT_READ: &str = "mkdir m; mount -o loop,ro $1 m; cp -r m/tree out; umount m; rmdir m";
const MTOOLS_FILL: &str = "mmd -i $1 ::gone; mcopy -s -i $1 tree/* ::gone; mmd -i $1 ::tree; mcopy -s -i $1 tree/* ::tree; \
    mdeltree -i $1 ::gone";
const MTOOLS_READ: &str = "mkdir back; mcopy -s -n -i $1 ::tree back; mv back/tree out; rmdir back";

impl Kind {
    pub fn named(name: &str) -> Kind {
        let ext = |mkfs| Kind {
            mkfs,
            fill: MOUNT_FILL,
            check: "e2fsck -fn $1",
            read: MOUNT_READ,
        };
        let fat = |mkfs| Kind {
            mkfs,
            fill: MTOOLS_FILL,
            check: "fsck.fat -n $1",
            read: MTOOLS_READ,
        };
        match name {
            "ext2" => ext("mkfs.ext2 -q -F -b 1024 -E nodiscard $1"),
            "ext3" => ext("mkfs.ext3 -q -F -b 1024 -E nodiscard $1"),
            "ext4" => ext("mkfs.ext4 -q -F -b 4096 -E nodiscard $1"),
            "fat12" => fat("mkfs.fat -F 12 $1"),
            "fat16" => fat("mkfs.fat -F 16 $1"),
            "fat32" => fat("mkfs.fat -F 32 -s 1 $1"),
            "xfs" => Kind {
                mkfs: "mkfs.xfs -q -f -K $1",
                fill: MOUNT_FILL,
                check: "xfs_repair -n -f $1",
                read: MOUNT_READ,
            },
            "btrfs" => Kind {
                mkfs: "mkfs.btrfs -q -f -K $1",
                fill: MOUNT_FILL,
                check: "btrfs check --readonly $1",
                read: MOUNT_READ,
            },
            "ntfs" => Kind {
                mkfs: "mkntfs -q -F -Q -s 512 -p 0 -H 16 -S 63 $1",
                fill: "mkdir m; ntfs-3g $1 m; mkdir m/gone; cp -r tree/. m/gone; cp -r tree m/tree; rm -r m/gone; \
                    umount m; rmdir m",
                check: "ntfsfix -n $1; ntfsresize -i -P $1",
                read: "mkdir m; ntfs-3g -o ro $1 m; cp -r m/tree out; umount m; rmdir m",
            },
            _ => panic!("no kind {name}"),
        }
    }

    /// A file system of so many sectors, with garbage in its free space.
    pub fn make(&self, dir: &Path, image: &str, sectors: u64) {
        garbage(&dir.join(image), sectors * SECTOR);
        let (mkfs, fill) = (self.mkfs, self.fill);
        sh(dir, &format!("set -- {image}; {mkfs}; {fill}"));
    }

    /// Its checker is content, and every file is there.
    pub fn prove(&self, dir: &Path, image: &str) {
        let (check, read) = (self.check, self.read);
        sh(
            dir,
            &format!("set -- {image}; {check}; rm -rf out; {read}; diff -r tree out; rm -r out"),
        );
    }
}

/// Files to store: many small ones, some of many blocks, one with holes' worth of zeros.
pub fn tree(dir: &Path, large: u64) {
    std::fs::create_dir_all(dir.join("tree/small")).unwrap();
    for n in 0..100 {
        let text = format!("file {n}\n").repeat(n * 7 + 1);
        std::fs::write(dir.join(format!("tree/small/{n}.txt")), text).unwrap();
    }
    garbage(&dir.join("tree/large"), large + 77);
    std::fs::write(dir.join("tree/empty"), "").unwrap();
    std::fs::write(dir.join("tree/zeros"), vec![0; 70_000]).unwrap();
}

/// A partition of a disk.
pub struct Slot {
    pub kind: &'static str,
    pub number: u32,
    pub first: u64,
    pub sectors: u64,
}

/// A disk of `sectors` sectors with a table by `sfdisk`'s script, garbage everywhere else, and these
/// file systems.
pub fn disk(dir: &Path, sectors: u64, table: &str, slots: &[Slot]) -> PathBuf {
    let path = dir.join("disk.img");
    garbage(&path, sectors * SECTOR);
    sh(
        dir,
        &format!(
            "sfdisk -q --wipe never --wipe-partitions never --no-reread disk.img <<'END'\n{table}\nEND"
        ),
    );
    let disk = File::options().read(true).write(true).open(&path).unwrap();
    for slot in slots {
        Kind::named(slot.kind).make(dir, "part.img", slot.sectors);
        let part = File::open(dir.join("part.img")).unwrap();
        transfer(&part, 0, &disk, slot.first * SECTOR, slot.sectors * SECTOR);
    }
    path
}
