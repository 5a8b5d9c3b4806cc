//! Machines that are moved to qcow2 images, with QEMU's own programs.

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::destinations::make_again;
use super::*;
use crate::record::Destination;
use crate::tool::qemu_storage_daemon;

/// A lab with one disk, and QEMU's programs beside the made-up ones.
fn image_lab() -> (Lab, PathBuf) {
    let lab = lab(1);
    for program in ["qemu-img", "qemu-storage-daemon", "setpriv"] {
        let at = Path::new("/usr/bin").join(program);
        std::os::unix::fs::symlink(at, lab.dir.path().join(program)).unwrap();
    }
    let image = lab.dir.path().join("e1.qcow2");
    (lab, image)
}

fn qemu_img(arguments: &[&str]) {
    let status = std::process::Command::new("qemu-img")
        .args(arguments)
        .status();
    assert!(
        status.expect("qemu-utils is installed").success(),
        "{arguments:?}"
    );
}

#[test]
fn a_domain_is_switched_to_an_image() {
    let (lab, image) = image_lab();
    let to = image.to_str().unwrap();
    lab.copy(to).unwrap();
    assert_eq!(lab.state(), State::Copied);
    let config = lab.cutover().unwrap();
    let written = fs::read_to_string(&config).unwrap();
    let line = format!("format=qcow2, backendtype=qdisk, vdev=hda, access=rw, target={to}");
    assert!(
        written.contains(&line) && !written.contains("format=raw"),
        "{written}"
    );
    let record = lab.host.store.get(&lab.name).unwrap();
    let copy = record.disks[&0].mapped_copy().unwrap();
    assert!(matches!(copy, Destination::Qcow2 { path, .. } if *path == image));
    // Nothing is to be made of it after a restart of the host, and nothing to be taken away.
    assert_eq!(lab.file("dm"), "");
    assert!(devices_up(&lab.host, &Silent).unwrap().is_empty());
    assert!(devices_down(&lab.host, &Silent).unwrap().is_empty());
    assert!(text(lab.copy(to)).contains("newer than the old disk"));
}

#[test]
fn an_image_that_changed_since_is_not_switched_to() {
    let (lab, image) = image_lab();
    let to = image.to_str().unwrap();
    lab.copy(to).unwrap();
    // What it holds.
    let at = lab.dir.path().join("raw");
    let shown = qemu_storage_daemon::show(&Tools::new(), &image, &at, true).unwrap();
    let raw = fs::OpenOptions::new().write(true).open(&at).unwrap();
    raw.write_all_at(&[0xAB; 512], 512).unwrap();
    drop(raw);
    shown.end().unwrap();
    assert!(text(lab.cutover()).contains("something wrote to it"));
    lab.copy(to).unwrap();
    // What it is.
    qemu_img(&["snapshot", "-c", "s", to]);
    assert!(text(lab.cutover()).contains("snapshots"));
    qemu_img(&["snapshot", "-d", "s", to]);
    qemu_img(&["resize", "-q", to, "+1M"]);
    assert!(text(lab.cutover()).contains("the old one has"));
    qemu_img(&["resize", "-q", "--shrink", to, "--", "-1M"]);
    let twin = lab.dir.path().join("twin");
    fs::copy(&image, &twin).unwrap();
    fs::rename(&image, lab.dir.path().join("first")).unwrap();
    fs::rename(&twin, &image).unwrap();
    assert!(text(lab.cutover()).contains("is not the file that was copied to"));
    fs::rename(lab.dir.path().join("first"), &image).unwrap();
    lab.assert_clean();
    lab.cutover().unwrap();
}

#[test]
fn an_image_that_was_deleted_and_made_again_is_not_the_copy() {
    let (lab, image) = image_lab();
    let to = image.to_str().unwrap();
    lab.copy(to).unwrap();
    make_again(&image);
    let stop = AtomicBool::new(false);
    for error in [
        text(verify(lab.context(), &lab.name, false, &stop)),
        text(lab.cutover()),
    ] {
        assert!(
            error.contains("is not the file that was copied to"),
            "{error}"
        );
    }
    let error = text(lab.copy(to));
    assert!(error.contains("--overwrite="), "{error}");
    lab.assert_clean();
    lab.copy_with(to, |r| r.may_go = &|_, _| true).unwrap();
    lab.cutover().unwrap();
}

#[test]
fn an_image_that_a_domain_has_is_not_copied_to_nor_compared() {
    let (lab, image) = image_lab();
    let to = image.to_str().unwrap();
    lab.copy(to).unwrap();
    let link = lab.dir.path().join("link.qcow2");
    std::os::unix::fs::symlink(&image, &link).unwrap();
    let disk = serde_json::json!({"pdev_path": link, "format": "qcow2", "backend": "qdisk"});
    let config = serde_json::json!({"c_info": {"name": "other"}, "disks": [disk]});
    let domains = serde_json::json!([{"domid": 9, "config": config}]);
    fs::write(lab.dir.path().join("long"), domains.to_string()).unwrap();
    let stop = AtomicBool::new(false);
    for error in [
        text(lab.copy(to)),
        text(lab.cutover()),
        text(verify(lab.context(), &lab.name, false, &stop)),
    ] {
        assert!(error.contains("domain other (number 9"), "{error}");
    }
}

#[test]
fn what_cannot_be_read_is_looked_up_in_the_image() {
    let (lab, image) = image_lab();
    lab.machine().bad = vec![77];
    for program in ["sfdisk", "blkid"] {
        let found = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(program));
        let found = found
            .iter()
            .find(|at| at.exists())
            .expect("util-linux and fdisk");
        std::os::unix::fs::symlink(found, lab.dir.path().join(program)).unwrap();
    }
    // Partitions, so that the answer is not that of the image's own first bytes.
    let mut table = vec![0; 66];
    table[0..16].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    table[64..].copy_from_slice(&[0x55, 0xAA]);
    lab.machine().data[0][..446].fill(0);
    lab.machine().data[0][446..512].copy_from_slice(&table);
    let done = lab.copy(image.to_str().unwrap()).unwrap();
    assert_eq!(done[0].summary.unreadable, [(77, 1)]);
    let owner = done[0].files[0].owner.to_string();
    assert!(owner.contains("no partition"), "{owner}");
    let again = lab.copy(image.to_str().unwrap()).unwrap();
    assert_eq!(again[0].summary.unreadable, [(77, 1)]);
    lab.machine().bad.clear();
    lab.copy(image.to_str().unwrap()).unwrap();
    lab.cutover().unwrap();
}
