//! What `used::plan` leaves out is nobody's: real tables and file systems in files, copied by the
//! plan onto a disk of zeros, and then checked and read. Needs root, FUSE, loop devices and the
//! packages in the Makefile.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use p2v_dom0::report::Silent;
use p2v_dom0::tool::Tools;
use p2v_dom0::used::{self, DiskView, Extent, Options, Stopped};

mod lab;

use lab::{FileDisk, Kind, MIB, SECTOR, Slot, part, plan, plan_with, sh, transfer, why};

/// Plans, copies, checks and reads; each file system must leave out at least `saved` of itself.
fn round_trip(dir: &Path, disk: &Path, slots: &[Slot], saved: f64) {
    let plan = plan(disk);
    let copied = dir.join("copy.img");
    lab::copy(&plan, disk, &copied);
    let copy = File::open(&copied).unwrap();
    for slot in slots {
        let part = plan
            .parts
            .iter()
            .find(|p| p.first == slot.first && p.sectors == slot.sectors)
            .unwrap();
        assert_eq!(part.extent, Extent::UsedOnly, "{part:?}");
        assert!(
            part.what
                .ends_with(&format!("on partition {}", slot.number))
        );
        let share = part.copied as f64 / part.sectors as f64;
        eprintln!("{}: {share:.3} of {} MiB", part.what, part.sectors / 2048);
        assert!(share < 1.0 - saved, "{part:?}: {share}");
        let image = File::create(dir.join("back.img")).unwrap();
        transfer(&copy, slot.first * SECTOR, &image, 0, slot.sectors * SECTOR);
        Kind::named(slot.kind).prove(dir, "back.img");
    }
    // What is outside of partitions is the same to the byte.
    sh(
        dir,
        "sfdisk --json disk.img | sed s/disk.img/x/ >a; sfdisk --json copy.img | sed s/copy.img/x/ >b; cmp a b",
    );
    let original = File::open(disk).unwrap();
    for part in plan.parts.iter().filter(|p| p.extent != Extent::UsedOnly) {
        let (mut a, mut b) = (
            vec![0; (part.sectors * SECTOR) as usize],
            vec![1; (part.sectors * SECTOR) as usize],
        );
        original.read_exact_at(&mut a, part.first * SECTOR).unwrap();
        copy.read_exact_at(&mut b, part.first * SECTOR).unwrap();
        assert!(a == b, "{part:?}");
    }
}

fn slot(kind: &'static str, number: u32, first: u64, sectors: u64) -> Slot {
    Slot {
        kind,
        number,
        first,
        sectors,
    }
}

#[test]
fn a_dos_table_with_logical_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    lab::tree(dir, 2 * MIB);
    // Odd starts and sizes, as tools of that time made them.
    let slots = [
        slot("ext3", 1, 63, 160_587),
        slot("ntfs", 2, 160_650, 192_779),
        slot("fat16", 5, 361_463, 128_001),
        slot("ext2", 6, 500_063, 99_999),
        slot("fat32", 7, 600_126, 144_585),
    ];
    let mut table = String::from("label: dos\n63,160587,83\n160650,192779,7\n361400,470000,5\n");
    for (s, kind) in slots[2..].iter().zip(["6", "83", "c"]) {
        table += &format!("\n start={}, size={}, type={kind}", s.first, s.sectors);
    }
    let table = table.replace(
        "361400,470000,5\n",
        "361400,470000,5\nstart=835000, size=1000, type=82\n",
    );
    let disk = lab::disk(dir, 840_001, &table, &slots);
    round_trip(dir, &disk, &slots, 0.3);
}

#[test]
fn a_gpt() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    lab::tree(dir, 20 * MIB);
    let slots = [
        slot("ext4", 1, 2048, 200 * 2048 + 6),
        slot("xfs", 2, 500_001, 340 * 2048 + 5),
        slot("btrfs", 3, 1_300_000, 700 * 2048 + 3),
        slot("ntfs", 4, 2_800_000, 150 * 2048),
    ];
    let mut table = String::from("label: gpt\nfirst-lba: 40\n");
    for s in &slots {
        table += &format!("\n start={}, size={}, type=L", s.first, s.sectors);
    }
    let disk = lab::disk(dir, 3_200_000, &table, &slots);
    round_trip(dir, &disk, &slots, 0.3);
}

#[test]
fn a_file_system_without_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    lab::tree(dir, MIB);
    for (kind, sectors) in [("ext4", 200_001), ("fat32", 150_000), ("xfs", 700_003)] {
        Kind::named(kind).make(dir, "disk.img", sectors);
        let plan = plan(&dir.join("disk.img"));
        assert_eq!(plan.parts.len(), 1);
        assert_eq!(plan.parts[0].extent, Extent::UsedOnly, "{plan:?}");
        assert!(plan.sectors() < sectors / 2);
        lab::copy(&plan, &dir.join("disk.img"), &dir.join("back.img"));
        Kind::named(kind).prove(dir, "back.img");
    }
}

/// Makes a file system, does `script` to it (`$1`), and gives the plan's reason to copy it whole.
fn refused(kind: &str, sectors: u64, script: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    lab::tree(dir, MIB);
    Kind::named(kind).make(dir, "fs.img", sectors);
    assert_eq!(
        plan(&dir.join("fs.img")).parts[0].extent,
        Extent::UsedOnly,
        "{kind} is refused before anything was done to it"
    );
    sh(dir, &format!("set -- fs.img; {script}"));
    let plan = plan(&dir.join("fs.img"));
    assert_eq!(plan.parts.len(), 1);
    let why = why(&plan.parts[0]).to_owned();
    eprintln!("{}: {why}", plan.parts[0].what);
    assert!(!why.contains("p2v-used"), "{why}");
    why
}

/// The image as it is while the file system is in use, as after a power cut.
const POWER_CUT: &str = "mkdir m; mount -o loop $1 m; cp -r tree m/more; sync -f m; echo x >m/late; sync m/late; \
    cp $1 cut.img; umount m; mv cut.img $1";

#[test]
fn what_is_unclean_is_copied_whole() {
    let why = refused("ext4", 200_000, POWER_CUT);
    assert!(why.contains("journal"), "{why}");
    let why = refused("ext3", 200_000, POWER_CUT);
    assert!(why.contains("journal"), "{why}");
    let why = refused("ext2", 200_000, POWER_CUT);
    assert!(why.contains("not clean"), "{why}");
    let why = refused("xfs", 700_000, POWER_CUT);
    assert!(why.contains("its log holds changes"), "{why}");
    let why = refused("btrfs", 700_000, POWER_CUT);
    assert!(why.contains("log of changes"), "{why}");
}

#[test]
fn what_windows_left_open_is_copied_whole() {
    // ntfsfix schedules a check, that is sets the dirty flag.
    let why = refused("ntfs", 200_000, "ntfsfix $1");
    assert!(why.contains("ntfs"), "{why}");
    let why = refused(
        "ntfs",
        200_000,
        "head -c 4096 /dev/zero >h; printf hibr | dd of=h conv=notrunc status=none; ntfscp -q $1 h hiberfil.sys",
    );
    assert!(why.contains("ibernat"), "{why}");
    let why = refused(
        "ntfs",
        200_000,
        "mkdir m; ntfs-3g $1 m; mkdir 'm/System Volume Information'; \
         echo x >'m/System Volume Information/{11111111-2222-3333-4444-555555555555}{3808876B-C176-4e48-B7AE-04046E6CC752}'; \
         umount m",
    );
    assert!(why.contains("shadow copies"), "{why}");
    for (kind, at) in [("fat16", 0x25), ("fat32", 0x41)] {
        let why = refused(
            kind,
            128_000,
            &format!("printf '\\001' | dd of=$1 bs=1 seek={at} conv=notrunc status=none"),
        );
        assert!(
            why.contains("Dirty bit") || why.contains("fsck.fat"),
            "{why}"
        );
    }
}

#[test]
fn a_bitmap_that_does_not_fit_the_files_is_found() {
    // A used block is marked free and a free one used, so that the counts still fit.
    let why = refused(
        "ext4",
        200_000,
        "used=$(debugfs -R 'bmap tree/large 5' $1 2>/dev/null); free=$(debugfs -R 'ffb 1' $1 2>/dev/null | grep -o '[0-9]*$'); \
         debugfs -w -R \"freeb $used\" $1; debugfs -w -R \"setb $free\" $1",
    );
    assert!(why.contains("e2fsck"), "{why}");
    // Entries 2048 to 5887 of the first FAT.
    let why = refused(
        "fat32",
        144_000,
        "dd if=/dev/zero of=$1 seek=48 count=30 conv=notrunc status=none",
    );
    assert!(why.contains("fsck.fat"), "{why}");
}

#[test]
fn what_is_not_known_or_not_a_file_system_is_copied_whole() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let whole = |script: &str, words: &str| {
        sh(
            dir,
            &format!("rm -f fs.img; truncate -s 200M fs.img; set -- fs.img; {script}"),
        );
        let plan = plan(&dir.join("fs.img"));
        assert_eq!(plan.copy, [(0, 200 * 2048)]);
        let why = why(&plan.parts[0]);
        eprintln!("{}: {why}", plan.parts[0].what);
        assert!(why.contains(words), "{why}");
    };
    whole(":", "not known");
    whole(
        "head -c 1M /dev/urandom | dd of=$1 conv=notrunc status=none",
        "not known",
    );
    whole("mkswap $1", "swap is not a file system");
    whole("mkfs.ext4 -q -F -O bigalloc $1", "`bigalloc`");
    whole("mkfs.ext4 -q -F -O journal_dev $1", "not a file system");
    whole("mkfs.minix $1", "does not know how to tell what minix");
    whole(
        "mkfs.ext4 -q -F $1; truncate -s 200M fat.img; mkfs.fat -F 32 fat.img; \
         dd if=fat.img of=$1 count=1 conv=notrunc status=none",
        "more than one",
    );
    whole("mkfs.fat -F 12 -s 128 $1", "FAT12");
    whole(
        "truncate -s 300M b.img; cat </dev/null; mkfs.btrfs -q -f $1 b.img",
        "other devices",
    );
    // A table in a partition, a table that is damaged, one with no partition on the disk.
    whole(
        "printf 'label: gpt\\nstart=2048, type=L' | sfdisk -q $1; dd if=/dev/zero of=$1 seek=1 count=1 conv=notrunc status=none",
        "not content",
    );
    whole(
        "printf 'label: gpt\\nstart=2048, type=L' | sfdisk -q $1; dd if=/dev/zero of=$1 seek=1 count=1 conv=notrunc status=none; \
         dd if=/dev/zero of=$1 seek=409599 count=1 conv=notrunc status=none",
        "of the type PMBR",
    );
}

#[test]
fn odd_tables() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    lab::tree(dir, MIB);
    let path = lab::disk(
        dir,
        600_000,
        "label: dos\n2048,100000,83\n110000,100000,8e\n220000,100000,42\n330000,200000,83",
        &[
            slot("ext4", 1, 2048, 100_000),
            slot("ext4", 4, 330_000, 200_000),
        ],
    );
    let plan_before = plan(&path);
    assert_eq!(
        part(&plan_before, "ext4 on partition 1").extent,
        Extent::UsedOnly
    );
    assert!(why(part(&plan_before, "partition 2")).contains("LVM"));
    assert!(why(part(&plan_before, "partition 3")).contains("dynamic disk"));
    assert_eq!(
        part(&plan_before, "ext4 on partition 4").extent,
        Extent::UsedOnly
    );
    // A disk that ends before its last partition does: a copy of a larger one.
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(400_000 * SECTOR)
        .unwrap();
    let cut = plan(&path);
    assert!(why(part(&cut, "partition 4")).contains("past the end"));
    assert_eq!(part(&cut, "ext4 on partition 1").extent, Extent::UsedOnly);
}

/// A disk with one sector that cannot be read.
struct Sick(FileDisk, u64);

impl DiskView for Sick {
    fn sectors(&self) -> u64 {
        self.0.sectors()
    }

    fn read(&self, lba: u64, buffer: &mut [u8]) -> io::Result<()> {
        if (lba..lba + buffer.len() as u64 / SECTOR).contains(&self.1) {
            return Err(io::ErrorKind::Other.into());
        }
        self.0.read(lba, buffer)
    }
}

#[test]
fn metadata_that_cannot_be_read_is_no_free_space() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    lab::tree(dir, MIB);
    // The second sector of the first FAT, the first group's block bitmap.
    for (kind, bad) in [("fat32", 33), ("fat16", 6), ("ext2", 2 * 250)] {
        Kind::named(kind).make(dir, "fs.img", 160_000);
        let sick = Sick(FileDisk::open(&dir.join("fs.img")), bad);
        let plan = plan_with(sick, &Tools::new()).unwrap();
        let why = why(&plan.parts[0]);
        assert!(why.contains("could not be read"), "{kind}: {why}");
    }
}

#[test]
fn what_a_program_lacks_or_takes_too_long_for_is_copied_whole() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    lab::tree(dir, MIB);
    Kind::named("ext4").make(dir, "fs.img", 100_000);
    let bin = dir.join("bin");
    fs::create_dir(&bin).unwrap();
    let tools = Tools::in_dir(&bin);
    for (program, package) in [
        ("blkid", "util-linux"),
        ("dumpe2fs", "e2fsprogs"),
        ("e2fsck", "e2fsprogs"),
        ("partclone.extfs", "partclone"),
    ] {
        let plan = plan_with(FileDisk::open(&dir.join("fs.img")), &tools).unwrap();
        let why = why(&plan.parts[0]);
        assert!(why.contains(&format!("apt install {package}")), "{why}");
        let real = ["/usr/sbin", "/sbin"]
            .map(|d| Path::new(d).join(program))
            .into_iter()
            .find(|p| p.exists())
            .unwrap();
        symlink(real, bin.join(program)).unwrap();
    }
    // Now all are there; one that never ends takes the place of the checker.
    fs::remove_file(bin.join("e2fsck")).unwrap();
    fs::write(bin.join("e2fsck"), "#!/bin/sh\nsleep 3600\n").unwrap();
    sh(&bin, "chmod +x e2fsck");
    let stop = AtomicBool::new(false);
    let mut options = Options {
        time_limit: Duration::from_secs(2),
        stop: &stop,
        report: &Silent,
    };
    let disk = || Arc::new(FileDisk::open(&dir.join("fs.img")));
    let plan = used::plan(disk(), &tools, &options).unwrap();
    assert!(why(&plan.parts[0]).contains("had not ended after 2 s"));
    // And the operator does not wait for it.
    options.time_limit = Duration::from_secs(3600);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let planning = scope.spawn(|| used::plan(disk(), &tools, &options));
        std::thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(planning.join().unwrap(), Err(Stopped));
    });
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn nothing_is_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    lab::garbage(&dir.path().join("disk.img"), MIB);
    plan(&dir.path().join("disk.img"));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("p2v-used"), "{mounts}");
    // Other tests have loop devices meanwhile, of files of theirs.
    let of_it = dir.path().to_str().unwrap();
    for device in fs::read_dir("/sys/block").unwrap() {
        let backing = device.unwrap().path().join("loop/backing_file");
        let file = fs::read_to_string(backing).unwrap_or_default();
        assert!(
            !file.contains(of_it) && !file.contains("p2v-used"),
            "{file}"
        );
    }
}

#[test]
fn damage_ends_in_a_plan() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    lab::tree(dir, MIB);
    let mut state: u64 = 88_172_645_463_325_252;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    // Where the metadata is, in bytes, but not where it would no more be known.
    for (kind, sectors, from, to) in [
        ("ext4", 100_000, 2048, 3 * MIB),
        ("fat32", 80_000, 16384, MIB),
        ("ntfs", 100_000, 16384, 16384 + 64 * 1024),
        ("xfs", 640_000, 512, 64 * 1024),
        ("btrfs", 300_000, 20 * MIB, 40 * MIB),
    ] {
        Kind::named(kind).make(dir, "fs.img", sectors);
        sh(dir, "cp fs.img good.img");
        for _ in 0..4 {
            sh(dir, "cp good.img fs.img");
            let file = File::options()
                .write(true)
                .open(dir.join("fs.img"))
                .unwrap();
            for _ in 0..40 {
                let at = from + random(to - from);
                file.write_all_at(&random(u64::MAX).to_le_bytes(), at)
                    .unwrap();
            }
            let plan = plan(&dir.join("fs.img"));
            eprintln!("{kind}: {:?}", plan.parts[0].extent);
        }
    }
}

/// Not a test: `cargo test --release -p p2v-dom0 --test used -- --ignored --nocapture`.
#[test]
#[ignore = "figures"]
fn figures() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("tree")).unwrap();
    sh(
        dir,
        "cp -r /usr/share /usr/lib tree 2>/dev/null || true; du -sh tree; find tree | wc -l >n",
    );
    for kind in ["ext4", "ext3", "xfs", "btrfs", "ntfs"] {
        let k = Kind::named(kind);
        sh(
            dir,
            &format!(
                "rm -f fs.img; truncate -s 8G fs.img; set -- fs.img; {}; mkdir m; {}; cp -r tree m/ 2>/dev/null || true; umount m; rmdir m",
                k.mkfs,
                if kind == "ntfs" {
                    "ntfs-3g $1 m"
                } else {
                    "mount -o loop $1 m"
                },
            ),
        );
        let started = Instant::now();
        let plan = plan(&dir.join("fs.img"));
        eprintln!(
            "{kind}: {:?}, {} MiB of 8192 in {} ranges, {} files: {:.1?}",
            plan.parts[0].extent,
            plan.sectors() / 2048,
            plan.copy.len(),
            fs::read_to_string(dir.join("n")).unwrap().trim(),
            started.elapsed()
        );
    }
}
