//! Copies to thin pools: none begins in a pool that is in danger, and none brings it there.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use p2v_copy::RANGE_SECTORS;

use super::*;

const GIB: u64 = 1 << 30;

/// The pool `vg/pool`: how much of its data and metadata is used, and what is said of its monitor.
fn pool(dir: &Path, size: u64, data: &str, metadata: &str, monitor: &str) {
    let line = format!("vg pool {size} {data} {metadata} {monitor}\n");
    // At once: it is read meanwhile.
    fs::write(dir.join("pool.new"), line).unwrap();
    fs::rename(dir.join("pool.new"), dir.join("pool")).unwrap();
}

fn autoextend(dir: &Path, threshold: u32) {
    let text =
        format!("thin_pool_autoextend_threshold={threshold}\nthin_pool_autoextend_percent=20\n");
    fs::write(dir.join("autoextend"), text).unwrap();
}

fn warned(lab: &Lab, to: &str, dry_run: bool) -> (Result<(), Error>, String) {
    let warnings = Warnings::default();
    let context = Context {
        report: &warnings,
        ..lab.context()
    };
    let stop = AtomicBool::new(false);
    let target = CopyTarget::Machine(lab.name.clone());
    let request = CopyRequest::new(&target, to, &stop);
    let done = match dry_run {
        true => plan_copy(context, request).map(drop),
        false => copy(context, request).map(drop),
    };
    (done, warnings.0.into_inner().unwrap().concat())
}

#[test]
fn no_copy_begins_in_a_pool_that_is_in_danger() {
    let lab = lab(2);
    let dir = lab.dir.path();
    for (data, metadata, remedy) in [
        ("96.00", "5.00", "`lvextend --size +SIZE vg/pool`"),
        (
            "5.00",
            "96.00",
            "`lvextend --poolmetadatasize +SIZE vg/pool`",
        ),
    ] {
        pool(dir, 40 * GIB, data, metadata, "monitored");
        for dry_run in [true, false] {
            let error = text(warned(&lab, "vg/pool", dry_run).0);
            for part in ["96.00 %", remedy] {
                assert!(error.contains(part), "{part} is not in {error}");
            }
        }
        assert_eq!(lab.file("lv"), "", "nothing was made for it");
    }
    // One that LVM makes larger is not in danger, if it is watched.
    let size = 400 << 20;
    autoextend(dir, 80);
    pool(dir, size, "96.00", "5.00", "not monitored");
    assert!(text(lab.copy("vg/pool")).contains("`lvchange --monitor y`"));
    pool(dir, size, "96.00", "5.00", "monitored");
    lab.copy("vg/pool").unwrap();
    assert_eq!(lab.file("thin").lines().count(), 2);
    // Nor is an earlier copy in it brought up to date, however it is named.
    autoextend(dir, 100);
    let volume = dir.join("dev/vg/e1-disk0");
    lab.machine().inventory.disks.truncate(1);
    for to in ["vg", "vg/pool", "vg/e1-disk0"] {
        let error = text(lab.copy_with(to, |r| r.without = &[1]));
        assert!(error.contains("nearly full"), "{to}: {error}");
    }
    assert!(volume.exists());
}

#[test]
fn a_disk_that_may_not_fit_is_copied_with_a_warning() {
    let lab = lab(2);
    let dir = lab.dir.path();
    // Two disks of 4.4 MiB: each has room, both may not.
    for (data, expected) in [("40.00", true), ("10.00", false)] {
        pool(dir, 16 << 20, data, "5.00", "monitored");
        for dry_run in [true, false] {
            // A dry run reads a little without a reservation.
            lab.machine().reserved = dry_run;
            let (done, said) = warned(&lab, "vg/pool", dry_run);
            done.unwrap();
            let is_so = said.contains("up to 8 MiB") && said.contains("`lvextend ");
            assert_eq!(is_so, expected, "{data}: {said}");
        }
    }
}

#[test]
fn a_copy_stops_in_order_before_the_pool_is_full() {
    for full in [("95.50", "5.00"), ("5.00", "95.50")] {
        let lab = lab(1);
        let dir = lab.dir.path().to_owned();
        pool(&dir, 40 * GIB, "50.00", "5.00", "monitored");
        let stop = Arc::new(AtomicBool::new(false));
        // More pieces than are asked for ahead.
        let sectors = u64::from(RANGE_SECTORS) * 12;
        lab.machine().inventory.disks[0].sectors = sectors;
        lab.machine().data[0] = (0..sectors * SECTOR).map(|i| (i / 511) as u8).collect();
        // While the second piece is read, the pool fills up, and the copy is asked to stop.
        let (told, filled) = (stop.clone(), dir.clone());
        lab.machine().on_read = Some(Arc::new(move |lba| {
            if lba != u64::from(RANGE_SECTORS) {
                return;
            }
            pool(&filled, 40 * GIB, full.0, full.1, "monitored");
            let until = Instant::now() + Duration::from_secs(30);
            while !told.load(Ordering::Acquire) && Instant::now() < until {
                std::thread::yield_now();
            }
        }));
        let target = CopyTarget::Machine(lab.name.clone());
        let request = CopyRequest::new(&target, "vg/pool", &stop);
        let error = copy(lab.context(), request).unwrap_err();
        let is_so = matches!(&error, Error::PoolFull(_));
        assert!(is_so, "{error}");
        let error = error.to_string();
        for part in ["95.50 %", "`lvextend ", "same command"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        assert_eq!(lab.state(), State::Copying);
        let record = lab.host.store.get(&lab.name).unwrap();
        let last = &record.history.last().unwrap().what;
        assert!(last.contains("nearly full"), "{last}");
        lab.assert_clean();

        // Made larger, the pool takes the rest: what was done is not done again.
        lab.machine().on_read = None;
        assert!(text(lab.copy("vg/pool")).contains("nearly full"));
        pool(&dir, 80 * GIB, "47.00", "5.00", "monitored");
        let done = lab.copy("vg/pool").unwrap();
        assert!(done[0].summary.before > 0, "{:?}", done[0].summary);
        assert!(lab.volume(0) == lab.machine().data[0]);
    }
}

#[test]
fn a_pool_that_cannot_be_looked_at_any_more_is_told_of() {
    let lab = lab(1);
    let dir = lab.dir.path().to_owned();
    pool(&dir, 40 * GIB, "50.00", "5.00", "monitored");
    let warnings = Warnings::default();
    let context = Context {
        report: &warnings,
        ..lab.context()
    };
    // Until the operator, who reads the warning, stops it.
    let stop = Arc::new(AtomicBool::new(false));
    let read = stop.clone();
    let log = dir.join("log");
    lab.machine().on_read = Some(Arc::new(move |_| {
        let _ = fs::remove_file(dir.join("pool"));
        let looks = || {
            fs::read_to_string(&log)
                .unwrap()
                .matches("seg_monitor vg/pool")
                .count()
        };
        let now = looks();
        let until = Instant::now() + Duration::from_secs(30);
        while !read.load(Ordering::Acquire) && looks() < now + 2 && Instant::now() < until {
            std::thread::yield_now();
        }
        read.store(true, Ordering::Release);
    }));
    let target = CopyTarget::Machine(lab.name.clone());
    let request = CopyRequest::new(&target, "vg/pool", &stop);
    let _ = copy(context, request);
    let said = warnings.0.into_inner().unwrap().concat();
    assert!(said.contains("vg/pool cannot be watched"), "{said}");
}
