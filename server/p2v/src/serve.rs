//! `p2v serve`: the netboot service, with the machine records as its policy.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use p2v_aoe::MacAddr;
use p2v_aoe::cmdline::BootArgs;
use p2v_dom0::store::StoreError;
use p2v_dom0::{Record, Store, Timestamp};
use p2v_netboot::{BootDecision, BootEvent, Machines, Notice};
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::ServeOptions;
use crate::boot_policy::{self, Facts, Rules, Verdict};
use crate::boots::Boots;
use crate::network_cards::{LastKnown, not_by_this_card, second_card_of};
use crate::settings::{Machine, Settings};
use crate::{descriptors, privileges, service_manager};

/// The machine records, asked by the netboot service.
struct Records {
    store: Store,
    /// Addresses that the agents shall answer.
    hosts: Vec<MacAddr>,
    known: BTreeMap<MacAddr, Machine>,
    /// `allow` and `deny`.
    lists: p2v_netboot::Settings,
    boots: Boots,
    /// Each machine boots the agent one time.
    once: bool,
    /// For when a record cannot be read.
    last_known: Mutex<LastKnown>,
}

/// Whose card asks.
enum Asks {
    Stranger,
    Machine {
        record: Box<Record>,
        /// A machine has a record for each card that it has booted from. This is the one by another
        /// card, if its server is on this host.
        here: Option<Box<Record>>,
    },
    /// By another card than it boots from.
    SecondCard(Box<Record>),
}

/// Why there is no decision.
struct Undecided {
    error: StoreError,
    /// The machine is one that p2v knows, or may be.
    ours: bool,
}

impl Records {
    fn whose(&self, mac: MacAddr) -> Result<Asks, Undecided> {
        // What it holds is whole at every moment.
        let mut last_known = self
            .last_known
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut listing = self.store.list().map_err(|error| Undecided {
            error,
            ours: last_known.hides(&self.store, None, mac),
        })?;
        last_known.learn(&self.store, &listing);
        let has_record = listing.records.iter().any(|record| record.boot_mac == mac);
        let other = second_card_of(&listing.records, mac, |card| self.rules(card, None))
            .map(|record| Box::new(record.clone()));
        let here = match other {
            Some(other) if !has_record => return Ok(Asks::SecondCard(other)),
            other => other.filter(|record| Facts::of(record).server_is_here()),
        };
        let may_be_ours = has_record
            || last_known.hides(&self.store, Some(&listing), mac)
            || listing.names_in_unreadable(mac);
        match listing.by_mac(mac) {
            Ok(Some(record)) => Ok(Asks::Machine {
                record: Box::new(record),
                here,
            }),
            Ok(None) => Ok(Asks::Stranger),
            Err(error) => Err(Undecided {
                error,
                ours: may_be_ours,
            }),
        }
    }

    /// What the settings say of a card; `listed`: if that is known.
    fn rules(&self, mac: MacAddr, listed: Option<bool>) -> Rules {
        Rules {
            wish: self.known.get(&mac).and_then(|machine| machine.boot),
            listed: listed.unwrap_or_else(|| self.lists.allows(mac)),
            once: self.once,
        }
    }

    /// `listed`: `allow` and `deny` let the machine be booted. `None`: it is not one of ours.
    fn decide(&self, mac: MacAddr, listed: bool) -> Result<Option<BootDecision>, Undecided> {
        let hold = |message| Ok(Some(BootDecision::Hold { message }));
        let (record, here) = match self.whose(mac)? {
            Asks::Stranger => (None, None),
            Asks::Machine { record, here } => (Some(record), here),
            Asks::SecondCard(record) => return hold(not_by_this_card(&record, mac)),
        };
        let settings = self.known.get(&mac);
        let name = record
            .as_ref()
            .map_or_else(String::new, |record| record.name.to_string());
        let local = |why: &str| {
            Ok(Some(BootDecision::LocalDisk {
                why: why.to_owned(),
            }))
        };
        let rules = self.rules(mac, Some(listed));
        let verdict = boot_policy::decide(record.as_deref().map(Facts::of), rules);
        if verdict.leaves_it_to_its_disk()
            && let Some(here) = here
        {
            return hold(not_by_this_card(&here, mac));
        }
        match verdict {
            Verdict::Agent => match self.agent(mac, settings) {
                Ok(agent) => Ok(Some(agent)),
                // Unlisted, it is here only because its server is.
                Err(error) => Err(Undecided { error, ours: true }),
            },
            Verdict::HoldReleased => hold(format!(
                "This machine's server ({name}) runs on the Xen host now. Switch this machine off: its old disk must \
                 not start a second one."
            )),
            Verdict::HoldMoved => hold(format!(
                "This machine's server ({name}) was moved to the Xen host and runs from its copy there. Switch this \
                 machine off: its old disk must not start a second one. (To have the old disk on the wire again, \
                 read-only, say boot = \"agent\" for it under [machines] in p2v.toml.)"
            )),
            Verdict::Local => local("The Xen host's settings say so (boot = local)."),
            Verdict::LocalAfterOnce => local(
                "The Xen host has booted it once, and serves with --once. To boot it again, say boot = agent for it \
                 under [machines] in p2v.toml.",
            ),
            Verdict::Ignore => Ok(Some(BootDecision::Ignore {
                why: "the settings say boot = \"ignore\"".to_owned(),
            })),
            Verdict::NotOurs => Ok(None),
        }
    }

    fn agent(&self, mac: MacAddr, settings: Option<&Machine>) -> Result<BootDecision, StoreError> {
        let wanted = settings.and_then(|machine| machine.name.as_ref());
        let facts = self
            .store
            .menu(mac, wanted, Timestamp::now())
            .or_else(|error| match self.store.last_menu(mac) {
                Ok(Some(facts)) => {
                    // The file system is full, or cannot be written. An older token is as good.
                    eprintln!("{mac}: given the token it had before: {error}");
                    Ok(facts)
                }
                _ => Err(error),
            })?;
        let ours = BootArgs::render(facts.shelf, &self.hosts, &facts.token);
        let append = match settings.map(Machine::kernel_arguments) {
            Some(theirs) if !theirs.is_empty() => format!("{theirs} {ours}"),
            _ => ours,
        };
        Ok(BootDecision::Agent { append })
    }

    /// What to say of a machine that is not answered, and so will start its own disk, although its
    /// server is here.
    fn warning(&self, mac: MacAddr, event: &BootEvent) -> Option<String> {
        if !matches!(
            event,
            BootEvent::NotServed { .. } | BootEvent::NoAddress { .. } | BootEvent::Relayed
        ) {
            return None;
        }
        let if_here = |record: &Record| {
            let here = Facts::of(record).server_is_here();
            here.then(|| record.name.to_string())
        };
        let whose = match self.whose(mac) {
            Ok(Asks::Machine { record, here }) => {
                if_here(&record).or_else(|| here.map(|record| record.name.to_string()))
            }
            // A server whose disks were only copied may start.
            Ok(Asks::SecondCard(record)) => if_here(&record),
            Ok(Asks::Stranger) => None,
            Err(undecided) => undecided
                .ours
                .then(|| "its record cannot be read".to_owned()),
        }?;
        Some(format!(
            "WARNING: this machine's server is on the Xen host ({whose}), and as it gets no answer, it will start its \
             own disk, a second copy of that server. Switch it off"
        ))
    }

    /// It has the whole initial RAM disk: that was its one boot.
    fn note_the_one_boot(&self, mac: MacAddr) {
        let noted = self.store.by_mac(mac).and_then(|record| match record {
            Some(record) if record.booted_once.is_none() => {
                self.store.update(&record.name, |record| {
                    let now = Timestamp::now();
                    record.booted_once = Some(now);
                    record.note(now, "booted once, as p2v serve --once does");
                    Ok(())
                })
            }
            _ => Ok(()),
        });
        if let Err(error) = noted {
            eprintln!(
                "{mac}: it may be booted a second time, because that it was cannot be noted: {error}"
            );
        }
    }
}

fn held(mac: MacAddr, error: &StoreError) -> BootDecision {
    eprintln!("{mac}: held, because its record cannot be used: {error}");
    BootDecision::Hold {
        message: format!(
            "The Xen host cannot use its record of this machine, and its server may be running there, so its disk is \
             not started.\n{error}"
        ),
    }
}

impl Machines for Records {
    fn boot(&self, mac: MacAddr) -> BootDecision {
        match self.decide(mac, true) {
            Ok(Some(decision)) => decision,
            Ok(None) => BootDecision::Ignore {
                why: "it is not on the list".to_owned(),
            },
            // Its disk must not be started because of our trouble: its server may run as a domain.
            Err(undecided) => held(mac, &undecided.error),
        }
    }

    fn boot_unlisted(&self, mac: MacAddr) -> Option<BootDecision> {
        match self.decide(mac, false) {
            Ok(decision) => {
                if decision.is_some() {
                    eprintln!(
                        "{mac}: `allow` or `deny` leave it out. It is answered: its server is on this host, or its disks were copied"
                    );
                }
                decision
            }
            // Other people's machines are not held up by a broken record, unless it is of them.
            Err(undecided) => undecided.ours.then(|| held(mac, &undecided.error)),
        }
    }

    fn seen(&self, mac: MacAddr, event: &BootEvent) {
        eprintln!("{mac}: {event}");
        if let Some(warning) = self.warning(mac, event) {
            eprintln!("{mac}: {warning}");
        }
        if let Some(boot) = self.boots.seen(mac, event) {
            eprintln!("{mac}: has booted: {boot}");
        }
        service_manager::status(&format!("last: {mac}: {event}"));
        if self.once
            && let BootEvent::Fetched { file, .. } = event
            && file == "initrd"
        {
            self.note_the_one_boot(mac);
        }
    }

    fn noticed(&self, notice: &Notice) {
        eprintln!("p2v serve: {notice}");
        if let Notice::Serving { .. } = notice {
            service_manager::ready(&notice.to_string());
        }
    }
}

/// Serves until SIGINT or SIGTERM.
pub fn run(settings: Settings, options: &ServeOptions) -> Result<()> {
    if let Err(error) = descriptors::allow_all() {
        eprintln!(
            "p2v serve: cannot raise the limit of open files (fewer machines boot at a time): {error}"
        );
    }
    let store = Store::open_for_boot_service(&settings.state)?;
    let hosts = hosts(&settings)?;
    let as_user = privileges::user(settings.serve.user.as_deref())?;
    if let Some(user) = &as_user {
        let leases = &settings.serve.state_dir;
        fs::create_dir_all(leases).with_context(|| format!("cannot make {}", leases.display()))?;
        privileges::give(leases, user)?;
        privileges::give(store.machines(), user)?;
        privileges::go_on_as(user)?;
        fs::read_dir(store.machines()).with_context(|| {
            format!(
                "the user {} cannot use {}: let it pass, with `chmod o+x` on each directory above",
                user.name,
                store.machines().display()
            )
        })?;
    }
    let mut last_known = LastKnown::default();
    match store.list() {
        Ok(listing) => {
            last_known.learn(&store, &listing);
            for error in &listing.unreadable {
                eprintln!("p2v serve: {error}");
            }
        }
        // Served all the same: machines are held, rather than left to their own disks.
        Err(error) => eprintln!("p2v serve: {error}"),
    }
    let machines = Arc::new(Records {
        store,
        hosts,
        known: settings.machines,
        lists: settings.serve.clone(),
        boots: Boots::keep(&settings.serve.state_dir),
        once: options.once,
        last_known: Mutex::new(last_known),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stopped = async {
            // Without signals it serves until it is killed.
            if signalled().await.is_err() {
                std::future::pending::<()>().await;
            }
            service_manager::stopping();
        };
        tokio::select! {
            end = p2v_netboot::serve(settings.serve, machines, stopped) => end,
            () = service_manager::keep_alive() => Ok(()),
        }
    })?;
    eprintln!("p2v serve: stopped");
    Ok(())
}

/// The addresses that agents answer: this host's, and those of the settings.
pub fn hosts(settings: &Settings) -> Result<Vec<MacAddr>> {
    let mut hosts = Vec::new();
    for iface in std::iter::once(&settings.iface).chain(&settings.more_ifaces) {
        hosts.push(mac_of(iface)?);
    }
    for mac in &settings.hosts {
        if !hosts.contains(mac) {
            hosts.push(*mac);
        }
    }
    Ok(hosts)
}

/// Returns on SIGINT or SIGTERM.
pub async fn signalled() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The MAC address of an interface: what its AoE frames come from.
fn mac_of(iface: &str) -> Result<MacAddr> {
    if iface.contains('/') {
        bail!("`{iface}` is not the name of a network interface");
    }
    let path = format!("/sys/class/net/{iface}/address");
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "there is no network interface {iface} (`ip link` lists them; --iface names another)"
        )
    })?;
    text.trim()
        .parse()
        .with_context(|| format!("{path} holds no MAC address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_dom0::State;
    use std::path::PathBuf;

    fn records() -> (tempfile::TempDir, Records) {
        let dir = tempfile::tempdir().unwrap();
        let records = Records {
            store: Store::open(dir.path()).unwrap(),
            hosts: vec![mac(0xaa)],
            known: BTreeMap::new(),
            lists: Default::default(),
            boots: Boots::keep(dir.path()),
            once: false,
            last_known: Mutex::default(),
        };
        (dir, records)
    }

    fn mac(n: u8) -> MacAddr {
        MacAddr::new(0x52, 0x54, 0, 0, 0, n)
    }

    fn record(dir: &tempfile::TempDir, name: &str) -> PathBuf {
        dir.path().join(format!("machines/{name}.json"))
    }

    fn append(decision: BootDecision) -> String {
        match decision {
            BootDecision::Agent { append } => append,
            other => panic!("{other:?}"),
        }
    }

    fn held(decision: BootDecision) -> String {
        match decision {
            BootDecision::Hold { message } => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bad_record_holds_its_machine_and_no_other() {
        let (dir, records) = records();
        for n in 1..=4 {
            append(records.boot(mac(n)));
        }
        fs::write(record(&dir, "e2"), "{").unwrap();
        let text = fs::read_to_string(record(&dir, "e4")).unwrap();
        let shared = text.replace("\"shelf\": 4", "\"shelf\": 3");
        fs::write(record(&dir, "e4"), shared).unwrap();
        assert!(append(records.boot(mac(1))).contains("p2v.shelf=1 "));
        assert!(held(records.boot(mac(2))).contains("e2.json"));
        for n in [3, 4] {
            assert!(held(records.boot(mac(n))).contains("shelf 3"));
        }
    }

    #[test]
    fn a_host_that_cannot_write_gives_the_token_again() {
        let (dir, records) = records();
        let before = append(records.boot(mac(1)));
        // As with a full file system, every write fails: root may write anywhere else.
        let lock = dir.path().join("machines/.lock");
        fs::remove_file(&lock).unwrap();
        fs::create_dir(&lock).unwrap();
        assert_eq!(append(records.boot(mac(1))), before);
        assert!(held(records.boot(mac(2))).contains(".lock"));
    }

    fn set_state(records: &Records, name: &str, state: State) {
        let name = name.parse().unwrap();
        let changed = records.store.update(&name, |record| {
            record.state = state;
            Ok::<_, StoreError>(())
        });
        changed.unwrap();
    }

    #[test]
    fn a_machine_whose_server_is_here_stays_where_it_is_whatever_the_lists_say() {
        let (dir, records) = records();
        append(records.boot(mac(1)));
        for (state, words) in [
            (State::Released, "Switch this machine off"),
            (State::Moved, "was moved to the Xen host"),
        ] {
            set_state(&records, "e1", state);
            assert!(held(records.boot(mac(1))).contains(words));
            assert!(held(records.boot_unlisted(mac(1)).unwrap()).contains(words));
        }
        set_state(&records, "e1", State::Running);
        append(records.boot_unlisted(mac(1)).unwrap());
        set_state(&records, "e1", State::Exported);
        assert_eq!(records.boot_unlisted(mac(1)), None);
        // Its record is broken, so nobody knows; a stranger is none of our business.
        let text = fs::read_to_string(record(&dir, "e1")).unwrap();
        fs::write(record(&dir, "e1"), &text[..text.len() / 2]).unwrap();
        assert!(held(records.boot_unlisted(mac(1)).unwrap()).contains("e1.json"));
        assert_eq!(records.boot_unlisted(mac(9)), None);
    }

    /// Machine `n` with a second card, `10 + n`.
    fn with_second_card(records: &Records, n: u8, state: State) {
        append(records.boot(mac(n)));
        let inventory = serde_json::json!({
            "nics": [{"name": "eth0", "mac": mac(n)}, {"name": "eth1", "mac": mac(10 + n)}],
        });
        let name = format!("e{n}").parse().unwrap();
        let changed = records.store.update(&name, |record| {
            record.state = state;
            record.inventory = Some(serde_json::from_value(inventory).unwrap());
            Ok::<_, StoreError>(())
        });
        changed.unwrap();
    }

    #[test]
    fn a_machine_whose_server_is_here_is_held_by_its_other_card() {
        let (dir, records) = records();
        with_second_card(&records, 1, State::Exported);
        assert_eq!(records.boot_unlisted(mac(11)), None);
        for state in [State::Running, State::Copied, State::Moved, State::Released] {
            set_state(&records, "e1", state);
            for decision in [
                records.boot(mac(11)),
                records.boot_unlisted(mac(11)).unwrap(),
            ] {
                let message = held(decision);
                assert!(message.contains("This is e1") && message.contains(&mac(1).to_string()));
            }
        }
        assert!(!record(&dir, "e2").exists());
        // Also while another record is broken.
        fs::write(record(&dir, "e3"), "{").unwrap();
        assert!(held(records.boot_unlisted(mac(11)).unwrap()).contains("This is e1"));
        assert_eq!(records.boot_unlisted(mac(9)), None);
    }

    #[test]
    fn a_machine_with_a_record_for_each_card_is_held_where_one_would_let_it_go() {
        let (_dir, mut records) = records();
        // e1 by eth0, e2 by eth1, of one machine.
        append(records.boot(mac(1)));
        append(records.boot(mac(11)));
        with_second_card(&records, 1, State::Exported);
        let not_served = BootEvent::Relayed;
        assert_eq!(records.boot_unlisted(mac(11)), None);
        assert_eq!(records.warning(mac(11), &not_served), None);
        for state in [State::Running, State::Moved, State::Released] {
            set_state(&records, "e1", state);
            let message = held(records.boot_unlisted(mac(11)).unwrap());
            assert!(message.contains("This is e1, whose server is on the Xen host"));
            let warning = records.warning(mac(11), &not_served).unwrap();
            assert!(warning.contains("(e1)"), "{warning}");
            // The agent exports read-only, and takes orders of its own record.
            append(records.boot(mac(11)));
            for wish in [boot_policy::Wish::Local, boot_policy::Wish::Ignore] {
                let machine = Machine {
                    boot: Some(wish),
                    ..Machine::default()
                };
                records.known.insert(mac(11), machine);
                assert!(held(records.boot(mac(11))).contains("This is e1"));
            }
            records.known.clear();
        }
        records.once = true;
        records.note_the_one_boot(mac(11));
        assert!(held(records.boot(mac(11))).contains("This is e1"));
        // Its server runs on its own disks, wherever they were copied to.
        set_state(&records, "e1", State::Copied);
        assert_eq!(records.boot_unlisted(mac(11)), None);
        assert_eq!(records.warning(mac(11), &not_served), None);
        // Its own server is here, too.
        set_state(&records, "e1", State::Running);
        set_state(&records, "e2", State::Moved);
        assert!(held(records.boot_unlisted(mac(11)).unwrap()).contains("(e2) was moved"));
    }

    #[test]
    fn a_server_that_was_copied_on_trial_is_held_only_where_its_first_card_starts_the_agent() {
        let (_dir, mut records) = records();
        let machine = |text: &str| toml::from_str::<Machine>(text).unwrap();
        for (state, words) in [
            (State::Copying, "whose disks are being copied"),
            (State::Copied, "whose disks were copied"),
        ] {
            with_second_card(&records, 1, state);
            assert!(held(records.boot_unlisted(mac(11)).unwrap()).contains(words));
            assert_eq!(records.warning(mac(11), &BootEvent::Relayed), None);
            for wish in ["boot='local'", "boot='ignore'"] {
                records.known.insert(mac(1), machine(wish));
                assert_eq!(records.boot_unlisted(mac(11)), None);
            }
            records.known.clear();
            records.lists.deny = vec![mac(1).to_string().parse().unwrap()];
            assert_eq!(records.boot_unlisted(mac(11)), None);
            // One whose server is here is held whatever the settings say.
            set_state(&records, "e1", State::Running);
            records.known.insert(mac(1), machine("boot='local'"));
            assert!(held(records.boot_unlisted(mac(11)).unwrap()).contains("server is on"));
            assert!(records.warning(mac(11), &BootEvent::Relayed).is_some());
            records.known.clear();
            records.lists.deny.clear();
        }
    }

    #[test]
    fn records_that_cannot_be_read_let_no_machine_of_theirs_go() {
        let (dir, records) = records();
        for n in [1, 2, 3] {
            with_second_card(&records, n, State::Running);
        }
        let whole = fs::read_to_string(record(&dir, "e3")).unwrap();
        let mine = |n| held(records.boot_unlisted(mac(n)).unwrap());
        let strangers_go = || assert_eq!(records.boot_unlisted(mac(9)), None);
        strangers_go();
        // One shelf, or one address, in two records.
        fs::write(
            record(&dir, "e3"),
            whole.replace("\"shelf\": 3", "\"shelf\": 2"),
        )
        .unwrap();
        assert!(mine(3).contains("shelf 2"));
        let (theirs, ours) = (mac(3).to_string(), mac(2).to_string());
        fs::write(record(&dir, "e3"), whole.replace(&theirs, &ours)).unwrap();
        assert!(mine(2).contains(&ours));
        fs::write(record(&dir, "e3"), &whole).unwrap();
        strangers_go();
        // Nothing is left in the text, or there is no text to read.
        fs::write(record(&dir, "e1"), "").unwrap();
        fs::remove_file(record(&dir, "e2")).unwrap();
        fs::create_dir(record(&dir, "e2")).unwrap();
        for n in [1, 11, 2, 12] {
            assert!(mine(n).contains("machine record"));
        }
        strangers_go();
        // Nothing can be listed.
        let aside = dir.path().join("aside");
        fs::rename(dir.path().join("machines"), &aside).unwrap();
        for n in [1, 11, 2, 12, 3, 13] {
            assert!(mine(n).contains("machines"));
        }
        strangers_go();
        fs::rename(&aside, dir.path().join("machines")).unwrap();
        // What was moved away is a stranger.
        fs::remove_file(record(&dir, "e1")).unwrap();
        fs::remove_dir(record(&dir, "e2")).unwrap();
        assert_eq!(records.boot_unlisted(mac(1)), None);
    }

    #[test]
    fn a_machine_whose_server_is_here_and_that_cannot_be_given_a_menu_is_held() {
        let (dir, records) = records();
        let name = "web".parse().unwrap();
        let mut known = Record::new(name, mac(1), 1);
        known.state = State::Running;
        let text = serde_json::to_vec(&known).unwrap();
        fs::write(record(&dir, "web"), text).unwrap();
        fs::create_dir(dir.path().join("machines/.lock")).unwrap();
        assert!(held(records.boot_unlisted(mac(1)).unwrap()).contains(".lock"));
    }

    #[test]
    fn a_machine_that_is_not_answered_although_its_server_is_here_is_warned_of() {
        let (dir, records) = records();
        with_second_card(&records, 1, State::Exported);
        let not_served = BootEvent::NotServed {
            client: p2v_netboot::ClientKind::HttpBoot(0x10),
            why: "no loader".to_owned(),
        };
        let warned = |n| records.warning(mac(n), &not_served);
        assert_eq!((warned(1), warned(11), warned(9)), (None, None, None));
        set_state(&records, "e1", State::Moved);
        for n in [1, 11] {
            assert!(warned(n).unwrap().contains("(e1)"));
        }
        assert!(records.warning(mac(1), &BootEvent::Relayed).is_some());
        assert_eq!(records.warning(mac(1), &BootEvent::Released), None);
        fs::write(record(&dir, "e1"), "{").unwrap();
        assert!(warned(11).unwrap().contains("cannot be read"));
        assert_eq!(warned(9), None);
    }

    #[test]
    fn a_strangers_name_is_not_taken_down() {
        let (dir, records) = records();
        assert_eq!(records.boot_unlisted(mac(1)), None);
        assert!(!record(&dir, "e1").exists());
    }

    #[test]
    fn once_is_once_also_after_a_restart() {
        let (dir, mut first) = records();
        first.once = true;
        append(first.boot(mac(1)));
        append(first.boot(mac(1)));
        let fetched = |file: &str| BootEvent::Fetched {
            file: file.into(),
            bytes: 1,
            elapsed: Default::default(),
        };
        first.seen(mac(1), &fetched("vmlinuz"));
        append(first.boot(mac(1)));
        first.seen(mac(1), &fetched("initrd"));
        let again = Records {
            store: Store::open(dir.path()).unwrap(),
            hosts: vec![mac(0xaa)],
            known: BTreeMap::new(),
            lists: Default::default(),
            boots: Boots::keep(dir.path()),
            once: true,
            last_known: Mutex::default(),
        };
        for records in [&first, &again] {
            assert!(matches!(
                records.boot(mac(1)),
                BootDecision::LocalDisk { .. }
            ));
            append(records.boot(mac(2)));
        }
        set_state(&again, "e1", State::Running);
        append(again.boot(mac(1)));
    }

    #[test]
    fn a_machines_own_settings() {
        let (_dir, mut records) = records();
        let machine = |text: &str| toml::from_str::<Machine>(text).unwrap();
        let known = [
            (mac(1), machine("boot='local'")),
            (mac(2), machine("boot='ignore'")),
            (
                mac(3),
                machine("console=['ttyS1,9600']\nappend='noapic'\nname='web'"),
            ),
        ];
        records.known.extend(known);
        assert!(matches!(
            records.boot(mac(1)),
            BootDecision::LocalDisk { .. }
        ));
        assert!(matches!(records.boot(mac(2)), BootDecision::Ignore { .. }));
        assert!(append(records.boot(mac(3))).starts_with("console=ttyS1,9600 noapic p2v.shelf=1 "));
        // An operator's line does not outweigh what is running.
        append(records.boot(mac(3)));
        set_state(&records, "web", State::Moved);
        let settings = records.known.get_mut(&mac(3)).unwrap();
        settings.boot = Some(boot_policy::Wish::Local);
        held(records.boot(mac(3)));
    }
}
