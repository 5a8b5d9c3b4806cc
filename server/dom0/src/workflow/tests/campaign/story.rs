//! One server's story: what happens to it, and what must hold all the while.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use p2v_contract::{Address, SECTOR};

use super::boot::{self, Cards, Told, Word};
use super::old_server::{Does, Lets, card, old_disk};
use super::snapshot::Snapshot;
use super::worker::{Command, Outcome, Worker};
use super::world::{self, SECTORS, Trouble, World};
use super::{Chance, Figures};
use crate::{MachineName, Record, Store};

/// What `p2v disarm` has left in a disk's first sector.
fn is_disarmed(disk: &[u8]) -> bool {
    let text = b"p2v rearm";
    disk[..SECTOR as usize]
        .windows(text.len())
        .any(|window| window == text)
}

/// Whether a disk holds what it did, but for a first sector that was put back.
fn is_same(disk: &[u8], before: &[u8]) -> bool {
    let first = SECTOR as usize;
    disk == before || is_disarmed(before) && disk[first..] == before[first..]
}

/// The sector that a running system writes, and the one that it writes when it starts from its own disk.
const WRITTEN: u64 = 60;
const STARTED: u64 = 3;

/// Where the server's truth is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    OldDisks,
    Copies,
}

/// A moment of a story that it can go back to.
#[derive(Clone)]
pub(super) struct Scene {
    pub(super) files: Snapshot,
    cards: Option<Cards>,
    truth: Vec<Vec<u8>>,
    place: Place,
    own_system_ran: bool,
    writes: u64,
}

pub(super) struct Story<'w> {
    dir: tempfile::TempDir,
    worker: &'w mut Worker,
    pub(super) chance: Chance,
    disks: u8,
    pub(super) word: Word,
    /// What the boot service knows of cards.
    cards: Option<Cards>,
    /// What the live copy of each disk holds.
    truth: Vec<Vec<u8>>,
    pub(super) place: Place,
    /// The operator gave up what the moved domain wrote.
    discards: bool,
    /// The old server ran its own system since its disks were copied, or since its domain started.
    pub(super) own_system_ran: bool,
    /// A record that was lost, as it was.
    lost: Option<(MachineName, Vec<u8>)>,
    writes: u64,
    /// Seconds by which the host's clock is off.
    pub(super) clock: i64,
    pub(super) steps: Vec<String>,
    pub(super) figures: Figures,
}

impl<'w> Story<'w> {
    pub(super) fn new(worker: &'w mut Worker, mut chance: Chance) -> Story<'w> {
        let dir = super::directory();
        let disks = if chance.one_in(3) { 2 } else { 1 };
        world::make(dir.path(), disks);
        let mut story = Story {
            dir,
            worker,
            chance,
            disks,
            word: Word::Always,
            cards: None,
            truth: Vec::new(),
            place: Place::OldDisks,
            discards: false,
            own_system_ran: true,
            lost: None,
            writes: 0,
            clock: 0,
            steps: Vec::new(),
            figures: Figures::default(),
        };
        story.truth = (0..disks).map(|slot| story.old_disk(slot)).collect();
        story
    }

    /// All as it is now.
    pub(super) fn keep(&self) -> Scene {
        Scene {
            files: Snapshot::of(self.root()),
            cards: self.cards.clone(),
            truth: self.truth.clone(),
            place: self.place,
            own_system_ran: self.own_system_ran,
            writes: self.writes,
        }
    }

    /// All as it was.
    pub(super) fn back(&mut self, scene: &Scene) {
        scene.files.put_back(self.root());
        self.cards.clone_from(&scene.cards);
        self.truth.clone_from(&scene.truth);
        self.place = scene.place;
        self.own_system_ran = scene.own_system_ran;
        self.writes = scene.writes;
        self.discards = false;
        self.lost = None;
        self.word = Word::Always;
        self.clock = 0;
    }

    /// The boot service is started for the first time.
    pub(super) fn forget_cards(&mut self) {
        self.cards = None;
    }

    /// A command that is killed there.
    pub(super) fn killed_at(&mut self, command: &Command, wanted: &str) {
        let before = self.keep();
        for deadly in 0.. {
            self.back(&before);
            match self.command_with(command, Some(deadly), None) {
                Outcome::Killed(at) if at.starts_with(wanted) => return,
                Outcome::Killed(_) => {}
                other => self.fail(&format!("{command:?} is not killed {wanted}: {other:?}")),
            }
        }
    }

    pub(super) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn world(&self) -> World {
        World::load(self.root())
    }

    pub(super) fn change<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        World::with(self.root(), act)
    }

    fn old_disk(&self, slot: u8) -> Vec<u8> {
        fs::read(self.root().join(format!("disk{slot}"))).unwrap()
    }

    /// As the boot service sees them.
    fn served(&self) -> Store {
        Store::open_for_boot_service(&self.root().join("state")).unwrap()
    }

    /// The records there are.
    pub(super) fn records(&self) -> Vec<Record> {
        self.served().list().unwrap().records
    }

    /// A machine: mostly the one that answers, as far as there is one.
    pub(super) fn some_name(&mut self) -> MachineName {
        let records = self.records();
        let shelf = self.world().old.agent().map(|agent| agent.shelf);
        let answers = records.iter().find(|record| Some(record.shelf) == shelf);
        let other = self.chance.one_in(3);
        match answers.filter(|_| !other) {
            Some(record) => record.name.clone(),
            None if records.is_empty() => "e1".parse().unwrap(),
            None => self.chance.pick(&records).name.clone(),
        }
    }

    fn tell(&mut self, step: String) {
        self.steps.push(step);
    }

    /// A command that nothing happens to.
    pub(super) fn command(&mut self, command: &Command) -> Outcome {
        self.command_with(command, None, None)
    }

    /// A command that is killed at that boundary, if it comes so far.
    pub(super) fn command_killed_at(&mut self, command: &Command, boundary: u64) -> Outcome {
        self.command_with(command, Some(boundary), None)
    }

    /// A command that may be killed, or that something goes wrong with.
    pub(super) fn troubled_command(&mut self, command: &Command) -> Outcome {
        let most = match command.word().as_str() {
            "copy" => 60,
            "start" | "cutover" => 40,
            "stop" | "disarm" | "rearm" => 20,
            _ => 8,
        };
        // The first are reached by more than the last.
        let most = 1 + self.chance.below(most);
        let deadly = self.chance.one_in(2).then(|| self.chance.below(most));
        let how = *self.chance.pick(&[Trouble::Nothing, Trouble::Done]);
        let trouble = self.chance.one_in(8).then(|| (self.chance.below(30), how));
        self.command_with(command, deadly, trouble)
    }

    fn command_with(
        &mut self,
        command: &Command,
        deadly: Option<u64>,
        trouble: Option<(u64, Trouble)>,
    ) -> Outcome {
        if let Command::Start {
            discard_moved: true,
            ..
        } = command
        {
            self.discards = true;
        }
        let root = self.dir.path().to_owned();
        let was_off = self.world().old.does == Does::Off;
        let outcome = self.worker.run(&root, command, deadly, trouble, self.clock);
        let word = command.word();
        self.figures.count("commands");
        match &outcome {
            Outcome::Done(_) => self.figures.count(format!("{word} done")),
            Outcome::Refused(_) => self.figures.count(format!("{word} refused")),
            Outcome::Killed(at) => {
                let at = at.split('/').next().unwrap_or_default().to_owned()
                    + at.split('/').nth(2).unwrap_or_default();
                self.figures.count(format!("killed {at}"));
                self.figures.count("commands killed");
            }
            Outcome::Panicked(text) => panic!("{command:?} panicked: {text}\n{}", self.told()),
        }
        if matches!(outcome, Outcome::Done(_) | Outcome::Refused(_)) {
            self.figures.most(
                format!("boundaries of {word} at most"),
                self.worker.boundaries,
            );
        }
        let trouble = trouble.map_or_else(String::new, |t| format!(" with trouble {t:?}"));
        let text = match &outcome {
            Outcome::Done(text) if text.len() > 99 => "Done".to_owned(),
            outcome => format!("{outcome:?}").replace(root.to_str().unwrap(), ""),
        };
        self.tell(format!("{command:?}{trouble}: {text}"));
        if let (
            Command::Copy {
                precopy: false,
                name,
                ..
            },
            Outcome::Done(_),
        ) = (command, &outcome)
        {
            self.own_system_ran = false;
            self.check_copies(&name.clone());
        }
        if let (Command::Disarm { name } | Command::Rearm { name }, Outcome::Done(_)) =
            (command, &outcome)
        {
            let shelf = self.served().get(name).unwrap().shelf;
            for slot in 0..self.disks {
                if self.world().lets(Address::new(shelf, slot)) != Some(Lets::Read) {
                    self.fail("the old disk can be written after that");
                }
                if is_disarmed(&self.old_disk(slot)) != (word == "disarm") {
                    self.fail("the old disk does not hold what it should");
                }
            }
        }
        if let (Command::Start { .. }, Outcome::Done(_)) = (command, &outcome) {
            self.own_system_ran = false;
        }
        let is_off = self.world().old.does == Does::Off;
        if is_off && !was_off && self.place == Place::OldDisks {
            self.fail("the old server was switched off, and no domain ever ran from the copies");
        }
        self.live_on();
        outcome
    }

    /// The boot decision when the machine asks by one of its cards.
    pub(super) fn told_by(&mut self, n: u8) -> Told {
        boot::told(&self.served(), &mut self.cards, card(n), self.word)
    }

    /// The old server is switched on, or off and on, and boots by one of its cards.
    pub(super) fn power_cycle(&mut self, n: u8) {
        self.boots(n, None);
    }

    /// The same, and the boot service may be killed while it makes the menu.
    pub(super) fn troubled_power_cycle(&mut self, n: u8) {
        let deadly = self.chance.one_in(8).then(|| self.chance.below(4));
        self.boots(n, deadly);
    }

    fn boots(&mut self, n: u8, deadly: Option<u64>) {
        self.change(|world| world.old.does = Does::Off);
        let told = self.told_by(n);
        self.figures.count(format!("boots: {told:?}"));
        self.tell(format!("the old server boots by card {n}: {told:?}"));
        match told {
            Told::Held => self.change(|world| world.old.does = Does::Held),
            // The BIOS finds nothing to start, and asks the network again.
            Told::LocalDisk if is_disarmed(&self.old_disk(0)) => {
                self.change(|world| world.old.does = Does::Held);
            }
            Told::LocalDisk => {
                self.change(|world| world.old.does = Does::OwnSystem);
                self.own_system_ran = true;
            }
            Told::Agent => {
                let menu = Command::Menu { card: card(n) };
                match self.command_with(&menu, deadly, None) {
                    Outcome::Done(text) => {
                        let (shelf, id, waits): (u16, String, bool) =
                            serde_json::from_str(&text).unwrap();
                        let root = self.root().to_owned();
                        self.change(|world| world.old.start_agent(&root, n, shelf, &id, waits));
                    }
                    // The service starts again, and the machine asks again until it is answered.
                    _ => self.change(|world| world.old.does = Does::Held),
                }
            }
        }
        self.live_on();
    }

    /// The host restarts, and does what its units do.
    pub(super) fn host_restarts(&mut self) {
        let root = self.root().to_owned();
        self.change(|world| world.host_restarts(&root));
        self.tell("the host restarts".into());
        self.command(&Command::DevicesUp);
        for entry in fs::read_dir(root.join("xen/auto"))
            .into_iter()
            .flatten()
            .flatten()
        {
            self.xl_create(&entry.path());
        }
    }

    pub(super) fn xl_create(&mut self, config: &Path) {
        let root = self.root().to_owned();
        let config = config.to_str().unwrap();
        let made = self.change(|world| world.xl(&root, &["create", config]));
        let config = config.replace(root.to_str().unwrap(), "");
        self.tell(format!("xl create {config}: {made:?}"));
        self.live_on();
    }

    /// The domain shuts down from inside.
    pub(super) fn domain_ends(&mut self) {
        let root = self.root().to_owned();
        if let Some(domain) = self.world().domains.first() {
            let name = domain.name.clone();
            let _ = self.change(|world| world.xl(&root, &["shutdown", "-F", &name]));
            self.tell(format!("{name} shuts down from inside"));
        }
    }

    /// A record is lost. The operator has it in a backup, if none is lost yet.
    pub(super) fn loses_a_record(&mut self) {
        let name = self.some_name();
        let path = self.served().path(&name);
        if self.lost.is_none()
            && let Ok(text) = fs::read(&path)
        {
            fs::remove_file(&path).unwrap();
            self.tell(format!("the record of {name} is lost"));
            self.lost = Some((name, text));
            self.live_on();
        }
    }

    /// It is put back, and believed.
    pub(super) fn puts_the_record_back(&mut self) -> bool {
        let Some((name, text)) = self.lost.take() else {
            return false;
        };
        fs::write(self.served().path(&name), text).unwrap();
        self.tell(format!("the record of {name} is put back"));
        self.command(&Command::Trust { name });
        true
    }

    /// The operator gives up what he began, while the server is as it was: takes all of it away that `p2v forget` finds, and
    /// forgets it.
    pub(super) fn forgets_all(&mut self) {
        let root = self.root().to_owned();
        if self.place == Place::Copies || !self.world().domains.is_empty() || self.lost.is_some() {
            return;
        }
        let name = self.some_name();
        self.tell(format!("the operator gives {name} up"));
        let its = |text: &str| {
            text.split(['.', '-', '/'])
                .any(|part| part == name.as_str())
        };
        let _ = fs::remove_file(root.join(format!("xen/{name}.cfg")));
        let _ = fs::remove_file(root.join(format!("xen/auto/{name}.cfg")));
        let records = self.records();
        let disks = records
            .iter()
            .filter(|r| r.name != name)
            .flat_map(|r| r.disks.values());
        let mut others = disks.filter_map(|disk| disk.copy.as_ref());
        if !others.any(|copy| copy.destination.path() == root.join("image")) {
            let _ = fs::remove_file(root.join("image"));
        }
        self.change(|world| {
            world.old.does = Does::Off;
            let devices: Vec<String> = world.devices.keys().filter(|d| its(d)).cloned().collect();
            for device in devices {
                world
                    .run(&root, "dmsetup", &["remove", "--retry", &device])
                    .unwrap();
            }
            let volumes = world
                .volumes
                .iter()
                .filter(|v| v.tags.iter().any(|tag| its(tag)));
            let volumes: Vec<String> = volumes.map(|v| format!("{}/{}", v.vg, v.lv)).collect();
            for volume in volumes {
                world.run(&root, "lvremove", &[&volume]).unwrap();
            }
        });
        let forget = Command::Forget { name, gone: true };
        if !matches!(self.troubled_command(&forget), Outcome::Done(_)) {
            // Nothing is left now, of what else answered neither.
            self.change(|world| world.old.stray = None);
            let again = self.command(&forget);
            let gone =
                matches!(&again, Outcome::Refused(text) if text.contains("no machine is called"));
            if !gone && !matches!(again, Outcome::Done(_)) {
                self.fail("a machine of which nothing is left cannot be forgotten");
            }
        }
    }

    pub(super) fn fail(&self, why: &str) -> ! {
        panic!("{why}\n{}", self.told())
    }

    pub(super) fn told(&self) -> String {
        let steps: Vec<String> = self
            .steps
            .iter()
            .enumerate()
            .map(|(n, step)| format!("  {n:>3} {step}"))
            .collect();
        format!("{}\n{:#?}", steps.join("\n"), self.world())
    }

    /// A copy that was called finished is the old disk.
    fn check_copies(&mut self, name: &MachineName) {
        let record = self.served().get(name).unwrap();
        for (slot, disk) in &record.disks {
            let Some(copy) = &disk.copy else { continue };
            let held = self.content(&self.place_of(&copy.destination));
            if held != self.old_disk(*slot) {
                self.fail(&format!("the copy of disk {slot} is not the disk"));
            }
        }
    }

    pub(super) fn place_of(&self, to: &crate::record::Destination) -> PathBuf {
        let path = to.path();
        match path.strip_prefix("/dev") {
            Ok(under) if !path.starts_with(self.root()) => self.root().join("dev").join(under),
            _ => path,
        }
    }

    fn content(&self, path: &Path) -> Vec<u8> {
        let mut data = vec![0; (SECTORS * SECTOR) as usize];
        fs::File::open(path)
            .unwrap()
            .read_exact_at(&mut data, 0)
            .unwrap();
        data
    }

    /// What must hold at every moment; and what runs writes to its disks.
    pub(super) fn live_on(&mut self) {
        let root = self.root().to_owned();
        let world = self.world();
        if let Some(text) = world.violations.first() {
            self.fail(text);
        }
        let own = world.old.does == Does::OwnSystem;
        if usize::from(own) + world.domains.len() > 1 {
            self.fail("there are two live copies of the server");
        }
        let before = self.place;
        if own {
            let fresh = self
                .steps
                .last()
                .is_some_and(|step| step.contains("LocalDisk"));
            for slot in 0..self.disks {
                let is_same = is_same(&self.old_disk(slot), &self.truth[usize::from(slot)]);
                if before == Place::OldDisks && !is_same {
                    self.fail("something wrote to the old disk of a server that was off");
                }
                self.place = Place::OldDisks;
                let path = root.join(format!("disk{slot}"));
                if fresh {
                    self.write(&path, STARTED);
                }
                self.write(&path, WRITTEN);
                self.truth[usize::from(slot)] = self.old_disk(slot);
            }
        }
        for domain in &world.domains {
            for (slot, disk) in domain.disks.iter().enumerate() {
                let old = old_disk(&root, disk);
                let place = match old {
                    Some(_) => Place::OldDisks,
                    None => Place::Copies,
                };
                let held = self.content(disk);
                if !is_same(&held, &self.truth[slot]) {
                    // On the old disk, or on a copy that was made of it since.
                    let is_old = place == Place::OldDisks || held == self.old_disk(slot as u8);
                    let given_up = self.discards && is_old && before == Place::Copies;
                    if !given_up {
                        self.fail(&format!(
                            "disk {slot} of the domain ({}) is not what the server's was",
                            disk.display()
                        ));
                    }
                }
                let writable = old.is_none_or(|address| world.lets(address) == Some(Lets::Write));
                if writable {
                    self.write(disk, WRITTEN);
                }
                self.truth[slot] = self.content(disk);
                if is_disarmed(&self.truth[slot]) {
                    self.fail("a domain has a disk that starts nothing");
                }
                if slot + 1 == usize::from(self.disks) {
                    self.place = place;
                    self.discards = false;
                }
            }
            if domain.disks.len() != usize::from(self.disks) {
                self.fail("the domain has not all of the server's disks");
            }
        }
        // Wherever its domain is, and once it is on copies, the machine does not start its own disk.
        if !world.domains.is_empty() || self.place == Place::Copies && !self.discards {
            for n in 0..3 {
                if self.told_by(n) == Told::LocalDisk {
                    self.fail(&format!("the machine would start its own disk by card {n}"));
                }
            }
        }
    }

    fn write(&mut self, disk: &Path, sector: u64) {
        self.writes += 1;
        let file = fs::File::options().write(true).open(disk).unwrap();
        file.write_all_at(&self.writes.to_le_bytes(), sector * SECTOR)
            .unwrap();
    }

    /// The server serves: a domain has its disks and can write to them, or its own system runs.
    pub(super) fn serves(&self) -> bool {
        let (root, world) = (self.root(), self.world());
        let writable = |disk: &PathBuf| {
            let old = old_disk(root, disk);
            old.is_none_or(|address| world.lets(address) == Some(Lets::Write))
        };
        let mut domains = world.domains.iter();
        domains.any(|domain| domain.disks.iter().all(writable))
    }
}
