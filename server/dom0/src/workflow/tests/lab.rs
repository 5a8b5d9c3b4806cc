//! A Xen host whose programs are scripts that keep their state in files.

use super::*;

/// Keeps the warnings.
#[derive(Default)]
pub(super) struct Warnings(pub(super) Mutex<Vec<String>>);

impl Report for Warnings {
    fn step(&self, _: &str) {}
    fn warn(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn progress(&self, _: &str, _: p2v_copy::Progress) {}
}

/// A Xen host whose programs are scripts. Each writes its arguments to `log`, and fails when a file
/// `fail-PROGRAM-VERB` is there.
pub(super) struct Lab {
    pub(super) dir: tempfile::TempDir,
    pub(super) host: Host,
    pub(super) wire: FakeWire,
    pub(super) name: MachineName,
}

pub(super) const HEAD: &str = r#"#!/bin/sh
D=@DIR@
P=${0##*/}
echo "$P $*" >> $D/log
[ -e "$D/fail-$P-$1" ] && { echo "$P was told to fail" >&2; exit 5; }
"#;

pub(super) const SCRIPTS: [(&str, &str); 9] = [
    (
        "xl",
        r#"
case "$1" in
list) if [ "$2" = -l ]; then cat $D/long; exit; fi
    echo 'Name                 ID   Mem VCPUs	State	Time(s)'
    echo 'Domain-0              0  1536     2     r-----      41.2'
    while read n; do
        state=-b----; grep -qx "$n" $D/paused && state=--p---
        echo "$n    7   512     1     $state       7.9"
    done < $D/domains ;;
pause) echo "$2" >> $D/paused ;;
unpause) grep -vx "$2" $D/paused > $D/p2; mv $D/p2 $D/paused ;;
info) printf 'free_memory            : 9000\nnr_cpus : 4\nvirt_caps : hvm\n' ;;
create) basename "$2" .cfg >> $D/domains
    [ ! -e $D/no-record ] || mv $D/state/machines $D/state/away
    [ ! -e $D/create-dies ] || { echo "no bootable device" >&2; exit 3; } ;;
destroy) grep -vx "$2" $D/domains > $D/d2; mv $D/d2 $D/domains; echo '[]' > $D/long ;;
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
aoe) mkdir -p $D/sys/module/aoe/parameters; echo ${2#*=} > $D/sys/module/aoe/parameters/aoe_iflist
    echo 180 > $D/sys/module/aoe/parameters/aoe_deadsecs ;;
esac"#,
    ),
    (
        "nft",
        r#"
case "$1" in
list) cat $D/ruleset ;;
delete) rm $D/ruleset ;;
*) [ ! -e $D/no-nft ] || { echo "not supported" >&2; exit 1; }
    echo "$1" > $D/ruleset ;;
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
    pool=$(grep -sx "$vg/$lv .*" $D/thin)
    printf '%s{"vg_name":"%s","lv_name":"%s","lv_uuid":"%s","vg_uuid":"AbC-d","lv_size":"%s","lv_tags":"%s","lv_active":"active","segtype":"%s","pool_lv":"%s","data_percent":"%s"}' "$S" $vg $lv $uuid $size "$tags" ${pool:+thin} "${pool#* }" ${pool:+0.00}
    S=,
done < $D/lv
[ ! -e $D/pool ] || while read vg lv size data metadata monitor; do
    printf '%s{"vg_name":"%s","lv_name":"%s","lv_uuid":"u","vg_uuid":"AbC-d","lv_size":"%s","lv_tags":"","lv_active":"active","segtype":"thin-pool","zero":"zero","data_percent":"%s","metadata_percent":"%s","vg_free":"90000000","seg_monitor":"%s"}' "$S" $vg $lv $size $data $metadata "$monitor"
    S=,
done < $D/pool
printf ']}]}\n'"#,
    ),
    ("lvmconfig", r#"[ -e $D/autoextend ] && cat $D/autoextend"#),
    (
        "lvcreate",
        r#"
tags= pool=
while [ $# -gt 1 ]; do case "$1" in
    --size|--virtualsize) size=${2%b}; shift 2 ;; --thinpool) pool=$2; shift 2 ;; --name) lv=$2; shift 2 ;;
    --addtag) tags="$tags,$2"; shift 2 ;; *) shift ;;
esac; done
size=$(( (size + 4194303) / 4194304 * 4194304 ))
[ -z "$pool" ] || { set -- ${pool%/*}; echo "$1/$lv ${pool#*/}" >> $D/thin; }
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

pub(super) fn lab(disks: u8) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for (program, script) in SCRIPTS {
        let text = HEAD.replace("@DIR@", root.to_str().unwrap()) + script;
        let path = root.join(program);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for file in ["log", "domains", "paused", "dm", "lv"] {
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
        menu_id: facts.menu_id,
        host_keys: vec![host.key.public()],
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
        counter: 0,
        writable: false,
        waits: false,
        reserved: false,
        on: true,
        orders: Vec::new(),
        deaf: None,
        restarts_after: None,
        writes_left: None,
        first_pass: false,
        on_read: None,
    })));
    Lab {
        dir,
        host,
        wire,
        name: facts.name,
    }
}

impl Lab {
    pub(super) fn context(&self) -> Context<'_> {
        Context {
            host: &self.host,
            wire: &self.wire,
            report: &Silent,
        }
    }

    pub(super) fn start(&self) -> Result<PathBuf, Error> {
        start(self.context(), &self.name, StartOptions::default())
    }

    pub(super) fn stop(&self) -> Result<(), Error> {
        stop(self.context(), &self.name, StopOptions::default())
    }

    pub(super) fn copy(&self, to: &str) -> Result<Vec<CopyDone>, Error> {
        self.copy_with(to, |_| {})
    }

    pub(super) fn copy_with(
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

    pub(super) fn cutover(&self) -> Result<PathBuf, Error> {
        cutover(self.context(), &self.name, CutoverOptions::default())
    }

    pub(super) fn release(&self) -> Result<(), Error> {
        release(self.context(), &self.name, ReleaseOptions::default())
    }

    pub(super) fn state(&self) -> State {
        self.host.store.get(&self.name).unwrap().state
    }

    pub(super) fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    /// A file that makes a program fail.
    pub(super) fn obstacle(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, "").unwrap();
        path
    }

    pub(super) fn machine(&self) -> std::sync::MutexGuard<'_, Machine> {
        self.wire.0.lock().unwrap()
    }

    /// Nothing of ours is on the host, and the old disk cannot be written.
    pub(super) fn assert_clean(&self) {
        assert_eq!(self.file("domains"), "");
        assert_eq!(self.file("dm"), "");
        assert!(!self.machine().writable);
        assert!(!self.machine().reserved);
    }

    pub(super) fn volume(&self, slot: usize) -> Vec<u8> {
        fs::read(
            self.dir
                .path()
                .join(format!("dev/vg/{}-disk{slot}", self.name)),
        )
        .unwrap()
    }
}
