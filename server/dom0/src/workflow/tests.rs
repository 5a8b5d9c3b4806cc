//! The workflows against a wire in memory and programs that keep their state in files: which steps
//! are taken, in which order, and what is left when one fails. The real `xl`, LVM and device-mapper
//! are the lab's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use p2v_aoe::SECTOR;
use p2v_aoe::inventory::{Dmi, Nic};

use super::*;
use crate::copy::{Digest, Source, SourceError};
use crate::record::State;
use crate::report::Silent;
use crate::tool::Tools;
use crate::wire::{Finish, Found};
use crate::{Paths, Settings};

/// A little more than one range of the copy.
const SECTORS: u64 = 9001;

/// The old machine.
struct Machine {
    inventory: Inventory,
    data: Vec<Vec<u8>>,
    bad: Vec<u64>,
    stations: Vec<MacAddr>,
    token: Option<Token>,
    counter: u64,
    writable: bool,
    reserved: bool,
    on: bool,
    orders: Vec<String>,
    /// A disk that takes no orders.
    deaf: Option<usize>,
    /// Restarts after so many readings of its inventory.
    restarts_after: Option<u32>,
}

#[derive(Clone)]
struct FakeWire(Arc<Mutex<Machine>>);

struct FakeExport {
    machine: Arc<Mutex<Machine>>,
    slot: usize,
    mac: MacAddr,
}

impl Wire for FakeWire {
    fn discover(&self, _: Duration) -> Result<Vec<Found>, WireError> {
        let machine = self.0.lock().unwrap();
        if !machine.on {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for disk in &machine.inventory.disks {
            for mac in &machine.stations {
                found.push(Found {
                    address: disk.address.unwrap(),
                    mac: *mac,
                });
            }
        }
        Ok(found)
    }

    fn attach(&self, address: Address) -> Result<Box<dyn Export>, WireError> {
        let machine = self.0.lock().unwrap();
        match machine.stations.as_slice() {
            [mac] if machine.on => Ok(Box::new(FakeExport {
                machine: self.0.clone(),
                slot: address.slot.into(),
                mac: *mac,
            })),
            stations => Err(WireError(format!(
                "{} stations answer for {address}",
                stations.len()
            ))),
        }
    }
}

impl Source for FakeExport {
    fn sectors(&self) -> u64 {
        self.machine.lock().unwrap().data[self.slot].len() as u64 / SECTOR
    }

    fn read(&mut self, lba: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let machine = self.machine.lock().unwrap();
        let end = lba + buffer.len() as u64 / SECTOR;
        let bad: Vec<u64> = machine
            .bad
            .iter()
            .copied()
            .filter(|b| (lba..end).contains(b))
            .collect();
        if !bad.is_empty() {
            return Err(SourceError::Unreadable { bad });
        }
        assert!(!machine.writable, "copied while the disk could be written");
        assert!(machine.reserved, "copied without a reservation");
        buffer.copy_from_slice(&machine.data[self.slot][(lba * SECTOR) as usize..][..buffer.len()]);
        Ok(())
    }

    fn digest(&mut self, lba: u64, sectors: u32) -> Result<Digest, SourceError> {
        let machine = self.machine.lock().unwrap();
        let end = lba + u64::from(sectors);
        if let Some(bad) = machine.bad.iter().find(|b| (lba..end).contains(*b)) {
            return Err(SourceError::Unreadable { bad: vec![*bad] });
        }
        let span = &machine.data[self.slot][(lba * SECTOR) as usize..(end * SECTOR) as usize];
        Ok(Digest {
            zero: span.iter().all(|b| *b == 0),
            blake3: *blake3::hash(span).as_bytes(),
        })
    }
}

impl FakeExport {
    fn order(&self, token: &Token, counter: u64, order: String) -> Result<(), WireError> {
        let mut machine = self.machine.lock().unwrap();
        assert!(
            counter > machine.counter,
            "a control counter was used twice"
        );
        machine.counter = counter;
        if machine.token.as_ref() != Some(token) {
            return Err(WireError("wrong token".into()));
        }
        if machine.deaf == Some(self.slot) {
            return Err(WireError("does not answer".into()));
        }
        machine.orders.push(order);
        Ok(())
    }
}

impl Export for FakeExport {
    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn wait_out_silence(&mut self, _: Duration, _: crate::wire::SilenceListener) {}

    fn inventory(&mut self) -> Result<Inventory, WireError> {
        let mut machine = self.machine.lock().unwrap();
        match &mut machine.restarts_after {
            Some(0) => machine.inventory.boot_id = "restarted".into(),
            Some(count) => *count -= 1,
            None => {}
        }
        Ok(machine.inventory.clone())
    }

    fn access(&mut self, token: &Token, counter: u64, access: Access) -> Result<(), WireError> {
        self.order(token, counter, format!("{access:?}"))?;
        self.machine.lock().unwrap().writable = access == Access::ReadWrite;
        Ok(())
    }

    fn finish(&mut self, token: &Token, counter: u64, finish: Finish) -> Result<(), WireError> {
        self.order(token, counter, format!("{finish:?}"))?;
        let mut machine = self.machine.lock().unwrap();
        assert!(!machine.writable);
        machine.on = false;
        Ok(())
    }

    fn stats(&mut self) -> Result<p2v_aoe::vendor::Stats, WireError> {
        Ok(p2v_aoe::vendor::Stats::default())
    }

    fn reserve(&mut self) -> Result<(), WireError> {
        self.machine.lock().unwrap().reserved = true;
        Ok(())
    }

    fn release(&mut self) -> Result<(), WireError> {
        self.machine.lock().unwrap().reserved = false;
        Ok(())
    }
}

/// Keeps the warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Report for Warnings {
    fn step(&self, _: &str) {}
    fn warn(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn progress(&self, _: &str, _: crate::report::Progress) {}
}

/// A Xen host whose programs are scripts. Each writes its arguments to `log`, and fails when a file
/// `fail-PROGRAM-VERB` is there.
struct Lab {
    dir: tempfile::TempDir,
    host: Host,
    wire: FakeWire,
    name: MachineName,
}

const HEAD: &str = r#"#!/bin/sh
D=@DIR@
P=${0##*/}
echo "$P $*" >> $D/log
[ -e "$D/fail-$P-$1" ] && { echo "$P was told to fail" >&2; exit 5; }
"#;

const SCRIPTS: [(&str, &str); 7] = [
    (
        "xl",
        r#"
case "$1" in
list) if [ "$2" = -l ]; then cat $D/long; exit; fi
    echo 'Name                 ID   Mem VCPUs	State	Time(s)'
    echo 'Domain-0              0  1536     2     r-----      41.2'
    while read n; do echo "$n    7   512     1     -b----       7.9"; done < $D/domains ;;
info) printf 'free_memory            : 9000\nnr_cpus : 4\nvirt_caps : hvm\n' ;;
create) basename "$2" .cfg >> $D/domains
    [ ! -e $D/no-record ] || mv $D/state/machines $D/state/away
    [ ! -e $D/create-dies ] || { echo "no bootable device" >&2; exit 3; } ;;
destroy) grep -vx "$2" $D/domains > $D/d2; mv $D/d2 $D/domains ;;
shutdown) grep -vx "$3" $D/domains > $D/d2; mv $D/d2 $D/domains ;;
esac"#,
    ),
    (
        "dmsetup",
        r#"
case "$1" in
info) cat $D/dm ;;
create) grep -q "^$2|" $D/dm && { echo "exists" >&2; exit 1; }
    echo "$2|$4|0" >> $D/dm; echo "$6" > $D/table-$2 ;;
remove) grep -q "^$3|" $D/dm || { echo "none" >&2; exit 1; }
    grep -v "^$3|" $D/dm > $D/d2; mv $D/d2 $D/dm ;;
table) sed "s,/[^ ]*,$(cat $D/number 2>/dev/null || echo 0:0)," $D/table-$2 ;;
esac"#,
    ),
    (
        "modprobe",
        r#"
case "$1" in
--remove) rm -r $D/sys/module/aoe ;;
aoe) mkdir -p $D/sys/module/aoe/parameters; echo ${2#*=} > $D/sys/module/aoe/parameters/aoe_iflist ;;
esac"#,
    ),
    (
        "vgs",
        r#"echo '{"report":[{"vg":[{"vg_name":"vg","vg_size":"100000000","vg_free":"90000000"}]}]}'"#,
    ),
    (
        "lvs",
        r#"
printf '{"report":[{"lv":['
S=
while read vg lv size tags; do
    uuid=$(stat -c %i $D/dev/$vg/$lv)
    printf '%s{"vg_name":"%s","lv_name":"%s","lv_uuid":"%s","vg_uuid":"AbC-d","lv_size":"%s","lv_tags":"%s","lv_active":"active"}' "$S" $vg $lv $uuid $size "$tags"
    S=,
done < $D/lv
printf ']}]}\n'"#,
    ),
    (
        "lvcreate",
        r#"
tags=
while [ $# -gt 1 ]; do case "$1" in
    --size) size=${2%b}; shift 2 ;; --name) lv=$2; shift 2 ;;
    --addtag) tags="$tags,$2"; shift 2 ;; *) shift ;;
esac; done
size=$(( (size + 4194303) / 4194304 * 4194304 ))
mkdir -p $D/dev/$1; truncate -s $size $D/dev/$1/$lv
echo "$1 $lv $size ${tags#,}" >> $D/lv"#,
    ),
    (
        "lvchange",
        r#"
add=; del=
while [ $# -gt 1 ]; do case "$1" in
    --addtag) add="$add $2"; shift 2 ;; --deltag) del="$del $2"; shift 2 ;; *) shift ;;
esac; done
while read vg lv size tags; do
    if [ "$vg/$lv" = "$1" ]; then
        for t in $del; do tags=$(echo "$tags" | tr , '\n' | grep -vx "$t" | paste -sd,); done
        for t in $add; do case ",$tags," in *,$t,*) ;; *) tags="$tags,$t" ;; esac; done
    fi
    echo "$vg $lv $size ${tags#,}"
done < $D/lv > $D/lv2; mv $D/lv2 $D/lv"#,
    ),
];

fn lab(disks: u8) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for (program, script) in SCRIPTS {
        let text = HEAD.replace("@DIR@", root.to_str().unwrap()) + script;
        let path = root.join(program);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for file in ["log", "domains", "dm", "lv"] {
        fs::write(root.join(file), "").unwrap();
    }
    fs::write(root.join("long"), "[]").unwrap();
    let settings = Settings {
        xen_dir: root.join("xen"),
        auto_dir: root.join("xen/auto"),
        wait_seconds: 0,
        ..Settings::default()
    };
    let mut host = Host::open(settings, "xenbr0", &root.join("state")).unwrap();
    host.tools = Tools::in_dir(root);
    host.paths = Paths::under(root);
    fs::create_dir_all(host.paths.xen_capabilities.parent().unwrap()).unwrap();
    fs::write(&host.paths.xen_capabilities, "control_d\n").unwrap();
    fs::create_dir_all(&host.paths.dev_etherd).unwrap();
    for control in ["discover", "flush", "revalidate", "interfaces"] {
        fs::write(host.paths.dev_etherd.join(control), "").unwrap();
    }
    let boot_mac = MacAddr::new(0x00, 0x0c, 0x29, 1, 2, 3);
    let facts = host.store.menu(boot_mac, None, Timestamp::now()).unwrap();
    let mut inventory = Inventory {
        token_id: facts.token.fingerprint(),
        boot_id: "first".into(),
        memory_bytes: 500 << 20,
        dmi: Dmi::default(),
        nics: vec![Nic {
            name: "eth0".into(),
            mac: boot_mac,
            driver: "e1000".into(),
            pci_id: String::new(),
            carrier: true,
            speed: 1000,
            boot: true,
        }],
        ..Inventory::default()
    };
    let mut data = Vec::new();
    for slot in 0..disks {
        let address = Address::new(facts.shelf, slot);
        inventory.disks.push(Disk {
            address: Some(address),
            serial: format!("S{slot}"),
            sectors: SECTORS,
            controller: "ata_piix".into(),
            ..Disk::default()
        });
        data.push(
            (0..SECTORS * SECTOR)
                .map(|i| (i * 31 / 7 + u64::from(slot)) as u8)
                .collect(),
        );
        let node = fs::File::create(host.paths.dev_etherd.join(address.to_string())).unwrap();
        node.set_len(SECTORS * SECTOR).unwrap();
    }
    let wire = FakeWire(Arc::new(Mutex::new(Machine {
        inventory,
        data,
        bad: Vec::new(),
        stations: vec![MacAddr::new(0x02, 0x0c, 0x29, 1, 2, 3)],
        token: Some(facts.token),
        counter: 0,
        writable: false,
        reserved: false,
        on: true,
        orders: Vec::new(),
        deaf: None,
        restarts_after: None,
    })));
    Lab {
        dir,
        host,
        wire,
        name: facts.name,
    }
}

impl Lab {
    fn context(&self) -> Context<'_> {
        Context {
            host: &self.host,
            wire: &self.wire,
            report: &Silent,
        }
    }

    fn start(&self) -> Result<PathBuf, Error> {
        start(self.context(), &self.name, StartOptions::default())
    }

    fn stop(&self) -> Result<(), Error> {
        stop(self.context(), &self.name, StopOptions::default())
    }

    fn copy(&self, to: &str) -> Result<Vec<CopyDone>, Error> {
        self.copy_with(to, |_| {})
    }

    fn copy_with(
        &self,
        to: &str,
        change: impl FnOnce(&mut CopyRequest<'_>),
    ) -> Result<Vec<CopyDone>, Error> {
        let stop = AtomicBool::new(false);
        let target = CopyTarget::Machine(self.name.clone());
        let mut request = CopyRequest::new(&target, to, &stop);
        change(&mut request);
        copy(self.context(), request)
    }

    fn cutover(&self) -> Result<PathBuf, Error> {
        cutover(self.context(), &self.name, CutoverOptions::default())
    }

    fn release(&self) -> Result<(), Error> {
        release(self.context(), &self.name, ReleaseOptions::default())
    }

    fn state(&self) -> State {
        self.host.store.get(&self.name).unwrap().state
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    /// A file that makes a program fail.
    fn obstacle(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, "").unwrap();
        path
    }

    fn machine(&self) -> std::sync::MutexGuard<'_, Machine> {
        self.wire.0.lock().unwrap()
    }

    /// Nothing of ours is on the host, and the old disk cannot be written.
    fn assert_clean(&self) {
        assert_eq!(self.file("domains"), "");
        assert_eq!(self.file("dm"), "");
        assert!(!self.machine().writable);
        assert!(!self.machine().reserved);
    }

    fn volume(&self, slot: usize) -> Vec<u8> {
        fs::read(
            self.dir
                .path()
                .join(format!("dev/vg/{}-disk{slot}", self.name)),
        )
        .unwrap()
    }
}

const FORCE: StartOptions = StartOptions {
    discard_copy: true,
    discard_moved: true,
    without: Vec::new(),
};

fn text<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn the_whole_way_of_a_machine() {
    let lab = lab(2);
    let config = lab.start().unwrap();
    assert_eq!(lab.state(), State::Running);
    assert!(lab.machine().writable);
    assert_eq!(lab.file("domains"), "e1\n");
    assert_eq!(
        lab.file("table-p2v-e1-1"),
        format!(
            "0 {SECTORS} linear {}/dev/etherd/e1.1 0\n",
            lab.dir.path().display()
        )
    );
    assert!(lab.file("log").contains("modprobe aoe aoe_iflist=xenbr0"));
    let on_old_disk = fs::read_to_string(&config).unwrap();

    // One writer: not while the domain runs, and not a byte of a volume is made for it.
    let error = text(lab.copy("vg"));
    assert!(error.contains("p2v stop e1"), "{error}");
    assert!(text(lab.cutover()).contains("not copied"));
    assert!(text(lab.release()).contains("not moved"));
    assert_eq!(lab.file("lv"), "");

    lab.stop().unwrap();
    lab.assert_clean();
    assert_eq!(lab.state(), State::Exported);
    let done = lab.copy("vg").unwrap();
    assert!(done.iter().all(|d| d.summary.is_complete()));
    assert_eq!(lab.state(), State::Copied);
    for slot in 0..2 {
        assert!(lab.volume(slot)[..(SECTORS * SECTOR) as usize] == lab.machine().data[slot]);
    }
    assert!(!lab.file("lv").contains("p2v.copying"));
    assert!(text(lab.start()).contains("p2v cutover"));
    lab.assert_clean();

    let options = CutoverOptions {
        autostart: true,
        ..CutoverOptions::default()
    };
    cutover(lab.context(), &lab.name, options).unwrap();
    assert_eq!(lab.state(), State::Moved);
    assert!(
        lab.file("table-p2v-e1-0")
            .starts_with(&format!("0 {SECTORS} linear "))
    );
    assert!(lab.file("table-p2v-e1-0").contains("/dev/vg/e1-disk0 0"));
    assert_eq!(lab.file("lv").matches("p2v.moved").count(), 2);
    assert!(lab.host.settings.auto_dir.join("e1.cfg").exists());
    // What xl acts on is what it was: only the comments tell where the disk is.
    let acting = |t: &str| {
        t.lines()
            .filter(|l| !l.starts_with('#'))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let on_copy = fs::read_to_string(&config).unwrap();
    assert_eq!(acting(&on_copy), acting(&on_old_disk));
    assert_ne!(on_copy, on_old_disk);

    // What holds newer data is never written again.
    let before = lab.volume(0);
    for refused in [text(lab.copy("vg")), text(lab.start()), text(lab.cutover())] {
        assert!(refused.contains("moved"), "{refused}");
    }
    assert!(lab.volume(0) == before);

    // The host restarted: no domain, no device-mapper device.
    fs::write(lab.dir.path().join("dm"), "").unwrap();
    fs::write(lab.dir.path().join("domains"), "").unwrap();
    for expected in ["made", "was there"] {
        let results = devices_up(&lab.host, &Silent).unwrap();
        assert_eq!(results.len(), 2);
        assert!(
            results
                .iter()
                .all(|r| *r.result.as_ref().unwrap() == expected)
        );
    }
    assert!(
        devices_down(&lab.host, &Silent)
            .unwrap()
            .iter()
            .all(|r| r.result.is_ok())
    );
    assert_eq!(lab.file("dm"), "");

    lab.release().unwrap();
    assert_eq!(lab.state(), State::Released);
    assert!(!lab.machine().on);
    assert_eq!(lab.machine().orders.last().unwrap(), "PowerOff");
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    for obstacle in [
        "fail-modprobe-aoe",
        "fail-dmsetup-create",
        "fail-xl-create",
        "create-dies",
    ] {
        let lab = lab(2);
        let path = lab.obstacle(obstacle);
        let error = text(lab.start());
        assert!(
            error.contains("taken back") && !error.contains("NOT"),
            "{obstacle}: {error}"
        );
        lab.assert_clean();
        assert_eq!(lab.state(), State::Exported, "{obstacle}");
        assert!(
            !lab.host.paths.sys_module.join("aoe").exists(),
            "{obstacle}"
        );
        // Write access is asked for when nothing but the domain is missing.
        let orders = lab.machine().orders.join(" ");
        let expected = if ["fail-xl-create", "create-dies"].contains(&obstacle) {
            "ReadWrite ReadWrite ReadOnly ReadOnly"
        } else {
            ""
        };
        assert_eq!(orders, expected, "{obstacle}");
        // And the way is clear for the next try.
        fs::remove_file(path).unwrap();
        lab.start().unwrap();
    }
}

#[test]
fn the_wrong_disk_is_not_started() {
    let lab = lab(1);
    let node = fs::File::options()
        .write(true)
        .open(lab.host.paths.dev_etherd.join("e1.0"))
        .unwrap();
    node.set_len((SECTORS - 1) * SECTOR).unwrap();
    let error = text(lab.start());
    assert!(error.contains("not the disk it should be"), "{error}");
    lab.assert_clean();

    node.set_len(SECTORS * SECTOR).unwrap();
    lab.machine().stations.push(MacAddr::new(2, 0, 0, 0, 0, 9));
    let log = lab.file("log");
    let error = text(lab.start());
    assert!(error.contains("2 machines answer"), "{error}");
    assert_eq!(lab.file("log"), log, "nothing was run");
    lab.machine().stations.pop();

    lab.machine().inventory.nics[0].mac = MacAddr::new(0, 1, 2, 3, 4, 5);
    let error = text(lab.start());
    assert!(error.contains("is not e1"), "{error}");
}

#[test]
fn no_orders_without_the_token_of_this_boot() {
    let lab = lab(1);
    lab.machine().inventory.token_id = "0123456789abcdef".into();
    assert!(text(lab.start()).contains("boot token"));
    lab.assert_clean();
    assert!(lab.machine().orders.is_empty());
}

#[test]
fn a_copy_is_out_of_date_once_the_old_disk_was_started_again() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    start(lab.context(), &lab.name, FORCE).unwrap();
    lab.machine().data[0][12_345] ^= 1;
    lab.stop().unwrap();
    let error = text(lab.cutover());
    assert!(error.contains("p2v copy"), "{error}");
    lab.assert_clean();
    let done = lab.copy("vg").unwrap();
    assert_eq!(
        done[0].summary.moved,
        u64::from(crate::copy::RANGE_SECTORS) * SECTOR
    );
    lab.cutover().unwrap();
    assert!(lab.volume(0)[..(SECTORS * SECTOR) as usize] == lab.machine().data[0]);
}

#[test]
fn a_forced_start_that_fails_does_not_leave_the_copy_current() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    let obstacle = lab.obstacle("create-dies");
    start(lab.context(), &lab.name, FORCE).unwrap_err();
    lab.assert_clean();
    fs::remove_file(obstacle).unwrap();
    assert_eq!(lab.state(), State::Copying);
    assert!(text(lab.cutover()).contains("may have been written"));
}

#[test]
fn a_restart_of_the_old_machine_makes_the_copy_doubtful() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    lab.machine().inventory.boot_id = "second".into();
    let error = text(lab.cutover());
    assert!(error.contains("restarted"), "{error}");
    lab.assert_clean();
    lab.copy("vg").unwrap();
    lab.cutover().unwrap();
}

#[test]
fn a_volume_that_was_written_since_is_not_switched_to() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    let path = lab.dir.path().join("dev/vg/e1-disk0");
    let mut volume = fs::read(&path).unwrap();
    volume[100] ^= 1;
    fs::write(&path, volume).unwrap();
    assert!(text(lab.cutover()).contains("something wrote to it"));
    lab.assert_clean();
    assert_eq!(lab.state(), State::Copied);
}

#[test]
fn a_cutover_that_fails_can_be_tried_again() {
    for obstacle in ["fail-dmsetup-create", "fail-xl-create", "create-dies"] {
        let lab = lab(2);
        lab.copy("vg").unwrap();
        let path = lab.obstacle(obstacle);
        let options = CutoverOptions {
            autostart: true,
            ..CutoverOptions::default()
        };
        let error = text(cutover(lab.context(), &lab.name, options));
        assert!(
            error.contains("taken back") && !error.contains("NOT"),
            "{obstacle}: {error}"
        );
        lab.assert_clean();
        assert_eq!(lab.state(), State::Copied);
        assert!(!lab.file("lv").contains("p2v.moved"));
        assert!(!lab.host.settings.auto_dir.join("e1.cfg").exists());
        fs::remove_file(path).unwrap();
        lab.cutover().unwrap();
    }
}

#[test]
fn unreadable_sectors_need_the_operators_word() {
    let lab = lab(1);
    lab.machine().bad = vec![77, 5000];
    let done = lab.copy("vg").unwrap();
    assert_eq!(done[0].summary.unreadable, [(77, 1), (5000, 1)]);
    assert_eq!(lab.state(), State::Copying);
    assert!(lab.file("lv").contains("p2v.copying"));
    let error = text(lab.cutover());
    assert!(
        error.contains("2 sectors") && error.contains("--accept-unreadable"),
        "{error}"
    );
    let options = CutoverOptions {
        accept_unreadable: true,
        ..CutoverOptions::default()
    };
    cutover(lab.context(), &lab.name, options).unwrap();
}

#[test]
fn a_strangers_volume_is_not_touched() {
    let lab = lab(1);
    fs::create_dir_all(lab.dir.path().join("dev/vg")).unwrap();
    let path = lab.dir.path().join("dev/vg/e1-disk0");
    fs::write(&path, vec![9; 12 << 20]).unwrap();
    fs::write(lab.dir.path().join("lv"), "vg e1-disk0 12582912 \n").unwrap();
    let error = text(lab.copy("vg"));
    assert!(error.contains("may hold data"), "{error}");
    assert!(fs::read(&path).unwrap().iter().all(|b| *b == 9));
    lab.assert_clean();
    assert_eq!(lab.state(), State::Exported);
}

#[test]
fn an_edited_config_is_used_and_one_for_other_disks_is_kept() {
    let lab = lab(1);
    let path = lab.start().unwrap();
    lab.stop().unwrap();
    let edited = fs::read_to_string(&path)
        .unwrap()
        .replace("vcpus = 1", "vcpus = 3");
    fs::write(&path, &edited).unwrap();
    lab.start().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), edited);
    lab.stop().unwrap();
    let other = edited.replace("target=", "target=/dev/sdx #");
    fs::write(&path, &other).unwrap();
    let other = other.replace("/dev/mapper", "/elsewhere");
    fs::write(&path, &other).unwrap();
    lab.start().unwrap();
    assert_ne!(fs::read_to_string(&path).unwrap(), other);
    let kept = fs::read_dir(&lab.host.settings.xen_dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p != &path)
        .unwrap();
    assert_eq!(fs::read_to_string(kept).unwrap(), other);
}

#[test]
fn discovery_shows_what_is_and_keeps_secrets() {
    let lab = lab(1);
    let secret = lab.machine().token.as_ref().unwrap().to_hex();
    lab.start().unwrap();
    fs::write(lab.dir.path().join("domains"), "").unwrap();
    let views = discover(lab.context()).unwrap();
    assert_eq!(views.len(), 1);
    assert!(
        views[0]
            .differences
            .iter()
            .any(|d| d.contains("there is no domain"))
    );
    let json = serde_json::to_string(&views).unwrap();
    assert!(json.contains("\"e1.0\"") && !json.contains(&secret));
    // A machine nobody here booted is shown, and gets no record by being looked at.
    fs::remove_file(lab.host.store.path(&lab.name)).unwrap();
    let views = discover(lab.context()).unwrap();
    assert_eq!(views[0].name, None);
    assert!(lab.host.store.list().unwrap().records.is_empty());
}

mod destinations;
mod images;
mod safety;
