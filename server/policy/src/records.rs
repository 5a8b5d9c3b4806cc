//! What each machine is told when it asks: its record, and the settings, as the netboot service's policy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2v_contract::MacAddr;
use p2v_contract::cmdline::{BootArgs, Hosts};
use p2v_dom0::store::{Listing, StoreError};
use p2v_dom0::{MachineName, Record, State, Store, Timestamp};
use p2v_netboot::{BootDecision, BootEvent, Image, MachineId, Machines, Notice};
use tracing::{info, warn};

use crate::Machine;
use crate::approvals::{Approval, Approvals, Word};
use crate::boot_policy::{self, Facts, Grounds, Rules, Verdict};
use crate::boots::Boots;
use crate::last_known::LastKnown;
use crate::lines::{Kind, Line, Lines, Whose};
use crate::network_cards::{cards, ids_of, not_by_this_card, other_that_decides, second_card_of};

#[cfg(test)]
mod tests;

/// What the service manager is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Machines are answered from now on; in words.
    Serving(String),
    /// What was done last, in words.
    Status(String),
}

/// What the settings and the command line say, for [`Records::open`].
pub struct Policy {
    /// Whom the agents answer and whose orders they take.
    pub hosts: Hosts,
    /// What is known beforehand of some machines.
    pub machines: BTreeMap<MacAddr, Machine>,
    /// `allow` and `deny`.
    pub lists: p2v_netboot::Settings,
    /// SMBIOS UUIDs that several machines have.
    pub shared_uuids: Vec<MachineId>,
    /// Each machine boots the agent one time.
    pub once: bool,
}

/// The machine records, asked by the netboot service.
pub struct Records {
    store: Store,
    policy: Policy,
    /// What the operator approved by hand.
    approvals: Approvals,
    boots: Boots,
    /// For when a record cannot be read.
    last_known: Mutex<LastKnown>,
    /// SMBIOS UUIDs that machines told, by the card that asked.
    ids: Mutex<BTreeMap<MacAddr, Vec<MachineId>>>,
    /// The cards of machines that have booted the agent.
    met: Mutex<BTreeSet<MacAddr>>,
    /// Whose a card is, for the log. Held for a moment only: lines are logged while anything else is.
    names: Mutex<BTreeMap<MacAddr, MachineName>>,
    lines: Lines,
    news: Box<dyn Fn(News) + Send + Sync>,
}

/// Cards whose UUIDs are remembered at most.
const IDS_MAX: usize = 4096;
/// UUIDs of one card at most, the newest first.
const IDS_OF_ONE: usize = 8;

/// Whose card asks.
enum Asks {
    Stranger,
    Machine {
        record: Box<Record>,
        /// A machine has a record for each card that it has booted from. This is the one by another
        /// card, if its server is on this host.
        here: Option<Box<Record>>,
        /// There may be such a one that cannot be read.
        doubtful: bool,
    },
    /// By another card than it boots from.
    SecondCard(Box<Record>),
    /// Its disks were copied, and its record is lost.
    Lost(MachineName),
    /// A record that cannot be read may be its.
    Doubtful,
}

/// Why there is no decision.
struct Undecided {
    error: StoreError,
    /// The machine is one that p2v knows, or may be.
    ours: bool,
}

impl Records {
    /// Those of `store`. Approvals are in `state`, and what is seen is kept in `kept`, which is the service's own. `news` is
    /// called from the threads that answer machines, and must not wait.
    pub fn open(
        store: Store,
        state: &Path,
        kept: &Path,
        policy: Policy,
        news: impl Fn(News) + Send + Sync + 'static,
    ) -> Records {
        let mut last_known = LastKnown::keep(kept);
        let mut met = BTreeSet::new();
        match store.list() {
            Ok(listing) => {
                met.extend(self::met(&listing));
                last_known.learn(&store, &listing);
                for error in &listing.unreadable {
                    warn!("{error}");
                }
            }
            // Served all the same: machines are held, rather than left to their own disks.
            Err(error) => warn!("{error}"),
        }
        Records {
            approvals: Approvals::of(state),
            boots: Boots::keep(kept),
            last_known: Mutex::new(last_known),
            ids: Mutex::default(),
            met: Mutex::new(met),
            names: Mutex::default(),
            lines: Lines::default(),
            news: Box::new(news),
            store,
            policy,
        }
    }

    /// Logs how many lines were left out since it was logged last, if any were. To be called every minute or so.
    pub fn tell_left_out(&self) {
        self.lines.tell_left_out();
    }

    fn whose(&self, mac: MacAddr) -> Result<Asks, Undecided> {
        let mut last_known = self.lock_last_known();
        let mut listing = self.store.list().map_err(|error| Undecided {
            error,
            ours: last_known.hides(&self.store, None, mac),
        })?;
        last_known.learn(&self.store, &listing);
        let is_hidden = last_known.hides(&self.store, Some(&listing), mac);
        // What comes next may have something to log.
        drop(last_known);
        self.lock_met().extend(met(&listing));
        self.learn_names(&listing);
        let has_record = listing.records.iter().any(|record| record.boot_mac == mac);
        // One that booted by this card has told its agent's own UUID, which counts more than what asks now.
        let own = listing.records.iter().find(|record| record.boot_mac == mac);
        let told = self.ids_of(mac);
        let ids = match own.map(|record| ids_of(record).collect::<Vec<_>>()) {
            Some(own) if !own.is_empty() => own,
            _ => told,
        };
        let rules = |record: &Record| {
            let mac = record.boot_mac;
            self.rules(mac, Some(record), self.policy.lists.allows(mac))
        };
        let other = second_card_of(&listing.records, mac, &ids, rules)
            .map(|record| Box::new(record.clone()));
        let here = match other {
            Some(other) if !has_record => return Ok(Asks::SecondCard(other)),
            other => other.filter(|record| Facts::of(record).server_is_here()),
        };
        let doubtful = is_hidden
            || listing.names_in_unreadable(mac)
            || ids
                .iter()
                .any(|id| listing.names_id_in_unreadable(&id.texts()));
        match listing.by_mac(mac) {
            Ok(Some(record)) => Ok(Asks::Machine {
                record: Box::new(record),
                here,
                doubtful,
            }),
            // Its record is lost; what was noted for it is not.
            Ok(None) => match self.store.copied_by_mac(mac) {
                Ok(Some(name)) => {
                    self.lock_met().insert(mac);
                    Ok(Asks::Lost(name))
                }
                Ok(None) if doubtful && !ids.is_empty() => Ok(Asks::Doubtful),
                Ok(None) => Ok(Asks::Stranger),
                Err(error) => Err(Undecided {
                    error,
                    ours: doubtful,
                }),
            },
            Err(error) => Err(Undecided {
                error,
                ours: has_record || doubtful,
            }),
        }
    }

    /// The SMBIOS UUIDs that were told with this card, but for those that several machines have.
    fn ids_of(&self, mac: MacAddr) -> Vec<MachineId> {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let told = ids.get(&mac).into_iter().flatten().copied();
        told.filter(|id| !self.policy.shared_uuids.contains(id))
            .collect()
    }

    /// The SMBIOS UUID that the machine with this card told last.
    fn told_id(&self, mac: MacAddr) -> Option<MachineId> {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.get(&mac)?.first().copied()
    }

    /// What the operator said of a machine. What cannot be read approves nobody.
    fn approval(&self, mac: MacAddr) -> Option<Approval> {
        self.approvals.get(mac).unwrap_or_else(|error| {
            self.warn(mac, "approval cannot be read", format_args!("{error:#}"));
            None
        })
    }

    /// What the settings and the operator say of a machine. `allowed`: `allow` names it, and `deny` does not.
    fn rules(&self, mac: MacAddr, record: Option<&Record>, allowed: bool) -> Rules {
        let wish = self
            .policy
            .machines
            .get(&mac)
            .and_then(|machine| machine.boot);
        let grounds = Grounds {
            allowed,
            ..Grounds::new(&self.policy.lists, mac, wish, self.approval(mac), record)
        };
        Rules {
            wish,
            approved: grounds.approve(),
            once: self.policy.once,
        }
    }

    /// `listed`: `allow` and `deny` let the machine be booted. `for_its_menu`: else nothing is made for it.
    /// `None`: it is not one of ours.
    fn decide(
        &self,
        mac: MacAddr,
        listed: bool,
        for_its_menu: bool,
    ) -> Result<Option<BootDecision>, Undecided> {
        let asks = self.whose(mac)?;
        let record = match &asks {
            Asks::Machine { record, .. } => Some(record.as_ref()),
            Asks::Stranger | Asks::SecondCard(_) | Asks::Lost(_) | Asks::Doubtful => None,
        };
        let rules = self.rules(mac, record, listed);
        let decision = self.decide_of(mac, asks, rules, for_its_menu)?;
        if decision.is_some() && !rules.approved {
            let line = format_args!(
                "nobody has approved it, or `deny` leaves it out. It is answered: its server is on this host, or its disks \
                 were copied"
            );
            self.say(mac, "answered without approval", line);
        }
        Ok(decision)
    }

    fn decide_of(
        &self,
        mac: MacAddr,
        asks: Asks,
        rules: Rules,
        for_its_menu: bool,
    ) -> Result<Option<BootDecision>, Undecided> {
        let hold = |message| Ok(Some(BootDecision::Hold { message }));
        let (record, here, doubtful) = match asks {
            Asks::Stranger => (None, None, false),
            Asks::Machine {
                record,
                here,
                doubtful,
            } => (Some(record), here, doubtful),
            Asks::SecondCard(record) => return hold(not_by_this_card(&record, mac)),
            Asks::Lost(name) => {
                return hold(format!(
                    "This machine was copied to the Xen host as {name}, whose record is lost. Its server may run there. Put \
                     the record back (`p2v trust {name}`), or `p2v forget {name}` if nothing of it is left."
                ));
            }
            Asks::Doubtful => {
                return hold(format!(
                    "The Xen host cannot read a record that has this machine's SMBIOS UUID ({mac} asks), and its server may \
                     be there now. `p2v list` names that record."
                ));
            }
        };
        let settings = self.policy.machines.get(&mac);
        let name = record
            .as_ref()
            .map_or_else(String::new, |record| record.name.to_string());
        let local = |why: &str| {
            Ok(Some(BootDecision::LocalDisk {
                why: why.to_owned(),
            }))
        };
        let verdict = boot_policy::decide(record.as_deref().map(Facts::of), rules);
        let waits = record
            .as_deref()
            .is_some_and(Record::has_domain_on_old_disks);
        let own = record.is_some().then_some(verdict);
        if let Some(other) = other_that_decides(own, here.as_deref()) {
            return hold(not_by_this_card(other, mac));
        }
        if doubtful && verdict.leaves_it_to_its_disk() {
            return hold(format!(
                "The Xen host cannot read a record that has this machine's network card {mac}, and its server may be \
                 there now. `p2v list` names that record."
            ));
        }
        match verdict {
            Verdict::Agent if !for_its_menu => Ok(Some(BootDecision::Agent {
                append: String::new(),
                image: Image::Usual,
            })),
            Verdict::Agent => match self.agent(mac, settings, waits) {
                Ok(agent) => Ok(Some(agent)),
                Err(error @ StoreError::TooManySeen { .. }) => {
                    self.warn(mac, "no shelf for it", format_args!("held: {error}"));
                    hold(format!("The Xen host does not know this machine.\n{error}"))
                }
                // If it is not approved, it is here only because its server is.
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

    /// `waits`: a domain runs on the machine's disks.
    fn agent(
        &self,
        mac: MacAddr,
        settings: Option<&Machine>,
        waits: bool,
    ) -> Result<BootDecision, StoreError> {
        let wanted = settings.and_then(|machine| machine.name.as_ref());
        let by_hand = self.approval(mac);
        let is_named = settings.is_some()
            || self.policy.lists.names(mac)
            || by_hand.is_some_and(|approval| approval.word != Word::Revoked);
        let seen_max = (!is_named).then_some(self.policy.lists.seen_max);
        let facts = self
            .store
            .menu_within(mac, wanted, seen_max, Timestamp::now())
            .or_else(|error| match self.store.last_menu(mac) {
                Ok(Some(facts)) => {
                    // The file system is full, or cannot be written. An older one is as good.
                    let line = format_args!("given the boot id it had before: {error}");
                    self.warn(mac, "earlier boot id", line);
                    Ok(facts)
                }
                _ => Err(error),
            })?;
        let ours = BootArgs::render(facts.shelf, &self.policy.hosts, &facts.menu_id, waits);
        Ok(BootDecision::Agent {
            append: Machine::with_kernel_arguments(settings, ours),
            image: Machine::image(settings),
        })
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
            Ok(Asks::Machine {
                record,
                here,
                doubtful,
            }) => if_here(&record)
                .or_else(|| here.map(|record| record.name.to_string()))
                .or_else(|| doubtful.then(|| "a record cannot be read".to_owned())),
            // A server whose disks were only copied may start.
            Ok(Asks::SecondCard(record)) => if_here(&record),
            Ok(Asks::Lost(name)) => Some(name.to_string()),
            Ok(Asks::Doubtful) => Some("a record cannot be read".to_owned()),
            Ok(Asks::Stranger) => None,
            Err(undecided) => undecided
                .ours
                .then(|| "its record cannot be read".to_owned()),
        }?;
        Some(format!(
            "this machine's server is on the Xen host ({whose}), and as it gets no answer, it will start its \
             own disk, a second copy of that server. Switch it off"
        ))
    }

    fn has_own_image(&self, mac: MacAddr) -> bool {
        let machine = self.policy.machines.get(&mac);
        machine.is_some_and(|machine| machine.image.is_some())
    }

    /// It has the whole initial RAM disk: that was its one boot. `approved`: the one it was approved for then; `None`: the
    /// one of `--once`.
    fn note_the_one_boot(&self, mac: MacAddr, approved: Option<Timestamp>) {
        let is_noted = |record: &Record| record.booted_once.is_some_and(|at| Some(at) >= approved);
        let noted = self.store.by_mac(mac).and_then(|record| match record {
            Some(record) if !is_noted(&record) => self.store.update(&record.name, |record| {
                let now = Timestamp::now();
                record.booted_once = Some(now);
                let why = match approved {
                    Some(_) => "booted once, as it was approved",
                    None => "booted once, as p2v serve --once does",
                };
                record.note(now, why);
                Ok(())
            }),
            _ => Ok(()),
        });
        if let Err(error) = noted {
            let line = format_args!(
                "it may be booted a second time, because that it was cannot be noted: {error}"
            );
            self.warn(mac, "boot cannot be noted", line);
        }
    }

    fn of_listed(&self, mac: MacAddr, for_its_menu: bool) -> BootDecision {
        match self.decide(mac, true, for_its_menu) {
            Ok(Some(decision)) => decision,
            Ok(None) => BootDecision::Ignore {
                why: "nobody has approved it".to_owned(),
            },
            // Its disk must not be started because of our trouble: its server may run as a domain.
            Err(undecided) => self.held(mac, &undecided.error),
        }
    }

    fn of_unlisted(&self, mac: MacAddr, for_its_menu: bool) -> Option<BootDecision> {
        match self.decide(mac, false, for_its_menu) {
            Ok(decision) => decision,
            // Other people's machines are not held up by a broken record, unless it is of them.
            Err(undecided) => {
                let is_wanted = undecided.ours || self.rules(mac, None, false).approved;
                is_wanted.then(|| self.held(mac, &undecided.error))
            }
        }
    }

    fn held(&self, mac: MacAddr, error: &StoreError) -> BootDecision {
        let line = format_args!("held, because its record cannot be used: {error}");
        self.warn(mac, "held for its record", line);
        BootDecision::Hold {
            message: format!(
                "The Xen host cannot use its record of this machine, and its server may be running there, so its disk \
                 is not started.\n{error}"
            ),
        }
    }

    /// Whom lines about `mac` are about. A word that cannot be read names nobody: none might be readable.
    fn whose_lines(&self, mac: MacAddr) -> Whose {
        let is_met = || self.lock_met().contains(&mac);
        let is_named = self.policy.machines.contains_key(&mac) || self.policy.lists.names(mac);
        match is_named || is_met() || matches!(self.approvals.get(mac), Ok(Some(_))) {
            true => Whose::Machine(mac),
            false => Whose::Stranger,
        }
    }

    /// Logs a line about a machine, if there is room for one more of its kind. Whether there was.
    fn say(&self, mac: MacAddr, event: Kind, text: fmt::Arguments<'_>) -> bool {
        self.say_at(mac, event, false, text)
    }

    /// The same of what the operator is to do something about.
    fn warn(&self, mac: MacAddr, event: Kind, text: fmt::Arguments<'_>) {
        self.say_at(mac, event, true, text);
    }

    fn say_at(&self, mac: MacAddr, event: Kind, warning: bool, text: fmt::Arguments<'_>) -> bool {
        let line = Line {
            mac: Some(mac),
            event,
            warning,
        };
        let machine = || self.lock_names().get(&mac).cloned();
        self.lines.say(self.whose_lines(mac), line, machine, text)
    }

    fn lock_names(&self) -> MutexGuard<'_, BTreeMap<MacAddr, MachineName>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn_names(&self, listing: &Listing) {
        let of = |record: &Record| {
            let name = record.name.clone();
            let cards: Vec<MacAddr> = cards(record).collect();
            cards.into_iter().map(move |mac| (mac, name.clone()))
        };
        *self.lock_names() = listing.records.iter().flat_map(of).collect();
    }

    fn lock_last_known(&self) -> MutexGuard<'_, LastKnown> {
        // What it holds is whole at every moment.
        let last_known = self.last_known.lock();
        last_known.unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_met(&self) -> MutexGuard<'_, BTreeSet<MacAddr>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cards of machines that have booted the agent: a record that is no more than seen may be anybody's.
fn met(listing: &Listing) -> impl Iterator<Item = MacAddr> {
    let met = listing.records.iter();
    met.filter(|record| record.state != State::Seen)
        .flat_map(cards)
}

impl Machines for Records {
    fn boot(&self, mac: MacAddr) -> BootDecision {
        self.of_listed(mac, true)
    }

    fn boot_unlisted(&self, mac: MacAddr) -> Option<BootDecision> {
        self.of_unlisted(mac, true)
    }

    fn boot_at_first(&self, mac: MacAddr, listed: bool) -> Option<BootDecision> {
        match listed {
            true => Some(self.of_listed(mac, false)),
            false => self.of_unlisted(mac, false),
        }
    }

    fn identified(&self, mac: MacAddr, id: MachineId) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() >= IDS_MAX && !ids.contains_key(&mac) {
            ids.pop_first();
        }
        // Anybody can tell one in a machine's place: it does not take the machine's own away.
        let told = ids.entry(mac).or_default();
        if !told.contains(&id) {
            told.truncate(IDS_OF_ONE - 1);
            told.insert(0, id);
        }
    }

    fn seen(&self, mac: MacAddr, event: &BootEvent) {
        let is_said = self.say(mac, event.kind(), format_args!("{event}"));
        if let Some(warning) = self.warning(mac, event) {
            self.warn(mac, "second copy may start", format_args!("{warning}"));
        }
        if let Some(boot) = self.boots.seen(mac, self.told_id(mac), event) {
            self.say(mac, "has booted", format_args!("has booted: {boot}"));
        }
        if is_said {
            (self.news)(News::Status(format!("last: {mac}: {event}")));
        }
        let Some(image) = event.booted_image() else {
            return;
        };
        let by_hand = self.approval(mac).filter(|said| said.word == Word::Once);
        if by_hand.is_none() && !self.policy.once {
            return;
        }
        // One that was to suit the machine was not there: this may have got it nowhere.
        if image == Image::Usual && self.has_own_image(mac) {
            let line = format_args!(
                "this does not count as its one boot: it was started with the usual image, in the place of its own"
            );
            self.say(mac, "not its one boot", line);
        } else {
            self.note_the_one_boot(mac, by_hand.map(|said| said.at));
        }
    }

    fn noticed(&self, notice: &Notice) {
        let (text, is_warning) = (format_args!("{notice}"), notice.is_warning());
        match notice.strangers_kind() {
            None if is_warning => warn!("{text}"),
            None => info!("{text}"),
            Some(event) => {
                let line = Line {
                    mac: None,
                    event,
                    warning: is_warning,
                };
                self.lines.say(Whose::Stranger, line, || None, text);
            }
        }
        if let Notice::Serving { .. } = notice {
            (self.news)(News::Serving(notice.to_string()));
        }
    }
}
