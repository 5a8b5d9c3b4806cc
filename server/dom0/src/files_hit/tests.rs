//! Real file systems, asked about by the real tools. Needs root for NTFS's loop device.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::*;

const LONG: Duration = Duration::from_secs(60);
const EXT: u64 = 2048;
const NTFS: u64 = 34_816;

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A disk with an ext4 and an NTFS partition, with a file of ones in each.
fn disk(dir: &Path) -> PathBuf {
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (tree, ext, nt, disk) = (at("tree"), at("ext"), at("nt"), at("disk"));
    fs::create_dir_all(format!("{tree}/sub dir")).unwrap();
    let file = format!("{tree}/sub dir/ones");
    fs::write(&file, vec![1; 300_000]).unwrap();
    fs::hard_link(&file, format!("{tree}/also")).unwrap();
    run("mkfs.ext4", &["-q", "-d", &tree, &ext, "16M"]);
    fs::write(&nt, vec![0; 20 << 20]).unwrap();
    run("mkntfs", &["-q", "-F", "-s", "512", "-c", "4096", &nt]);
    run("ntfscp", &["-q", &nt, &file, "ones"]);
    let mut bytes = vec![0; (NTFS as usize * 512) + (20 << 20)];
    for (start, part) in [(EXT, &ext), (NTFS, &nt)] {
        let part = fs::read(part).unwrap();
        bytes[start as usize * 512..][..part.len()].copy_from_slice(&part);
    }
    fs::write(&disk, bytes).unwrap();
    let table = "label: dos\nstart=2048,size=32768,type=83\nstart=34816,size=40960,type=7\n";
    let mut child = Command::new("sfdisk")
        .args(["-q", &disk])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), table.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    disk.into()
}

/// Sectors from `from` on that are all ones.
fn ones(disk: &Path, from: u64) -> u64 {
    let bytes = fs::read(disk).unwrap();
    let found = bytes
        .chunks(512)
        .skip(from as usize)
        .position(|sector| sector.iter().all(|b| *b == 1));
    from + found.unwrap() as u64
}

fn hit(partition: u32, owner: Owner, lba: u64, sectors: u64) -> FileHit {
    FileHit {
        partition: Some(partition),
        owner,
        lba,
        sectors,
    }
}

#[test]
fn files_metadata_and_free_space_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path());
    let (in_ext, in_nt) = (ones(&disk, EXT) + 8, ones(&disk, NTFS) + 8);
    let file = |path: &str| Owner::File(path.into());
    let before = fs::read(&disk).unwrap();
    let bad = [
        (0, 1),
        (EXT + 2, 2),
        (in_ext, 3),
        (in_ext + 100, 1),
        (EXT + 32_000, 5),
        (NTFS + 32, 1),
        (in_nt, 2),
        (NTFS + 36_000, 1),
    ];
    let hits = files_hit(&Tools::new(), &disk, &bad, LONG);
    let outside = FileHit {
        partition: None,
        owner: Owner::OutsidePartitions,
        lba: 0,
        sectors: 1,
    };
    let tables = Owner::Metadata("tables and bitmaps, or a file that lost its inode".into());
    let mut expected = vec![
        outside,
        hit(1, tables, EXT + 2, 2),
        hit(1, file("/also"), in_ext, 4),
        hit(1, file("/sub dir/ones"), in_ext, 4),
        hit(1, Owner::NoFile, EXT + 32_000, 5),
        hit(2, Owner::Metadata("$MFT".into()), NTFS + 32, 1),
        hit(2, file("/ones"), in_nt, 2),
        hit(2, Owner::NoFile, NTFS + 36_000, 1),
    ];
    let order = |hit: &FileHit| (hit.lba, hit.owner.clone());
    let mut hits = hits;
    hits.sort_by_key(order);
    expected.sort_by_key(order);
    assert_eq!(hits, expected);
    assert!(
        fs::read(&disk).unwrap() == before,
        "the copy is not touched"
    );
    let loops = run("losetup", &["--associated", disk.to_str().unwrap()]);
    assert_eq!(loops, "");
}

#[test]
fn a_disk_without_partitions_and_one_without_anything() {
    let dir = tempfile::tempdir().unwrap();
    let whole = disk(dir.path());
    let ext = whole.with_file_name("ext");
    let at = ones(&ext, 0);
    let hits = files_hit(&Tools::new(), &ext, &[(at, 1)], LONG);
    assert!(
        hits.iter()
            .any(|h| h.owner == Owner::File("/also".into()) && h.partition.is_none()),
        "{hits:?}"
    );
    let none = dir.path().join("none");
    fs::write(&none, vec![0; 1 << 20]).unwrap();
    let hits = files_hit(&Tools::new(), &none, &[(5, 2)], LONG);
    assert!(matches!(
        &hits[..],
        [FileHit {
            owner: Owner::Unknown(_),
            lba: 5,
            sectors: 2,
            ..
        }]
    ));
}

#[test]
fn what_is_not_there_or_takes_too_long_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path());
    let told = |tools: &Tools, limit| {
        let hits = files_hit(tools, &disk, &[(EXT + 2, 1)], limit);
        assert_eq!(hits.len(), 1, "{hits:?}");
        hits[0].owner.to_string()
    };
    let empty = tempfile::tempdir().unwrap();
    assert!(told(&Tools::in_dir(empty.path()), LONG).contains("apt install fdisk"));
    assert!(told(&Tools::new(), Duration::ZERO).contains("had not ended after"));
    let steering = Owner::File("/a\x1b[2Jb".into()).to_string();
    assert_eq!(steering, "/a?[2Jb");
}

#[test]
fn a_damaged_file_system_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path());
    let mut bytes = fs::read(&disk).unwrap();
    // Group descriptors, bitmaps and half of the inode table; the start of the master file table.
    bytes[(EXT as usize + 4) * 512..][..300 << 10].fill(0);
    bytes[(NTFS as usize + 32) * 512..][..64 << 10].fill(0);
    fs::write(&disk, bytes).unwrap();
    let bad = [(EXT + 3000, 1), (NTFS + 3000, 1)];
    let hits = files_hit(&Tools::new(), &disk, &bad, LONG);
    assert_eq!(hits.len(), 2, "{hits:?}");
    assert!(
        hits.iter().all(|hit| !matches!(hit.owner, Owner::File(_))),
        "{hits:?}"
    );
}
