//! What an operator can do next with a machine.

use std::fmt;
use std::path::Path;

use p2v_contract::Address;
use serde::Serialize;

use super::MachineView;
use crate::record::{CopyRecord, Destination, DiskRecord, State};

/// A step that an operator may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    /// The command and its arguments; what is in capitals is for the operator to fill in. Empty: something to do at
    /// the old machine.
    pub command: Vec<String>,
    /// Why, or when.
    pub why: Why,
    /// It loses something for good.
    pub destructive: bool,
}

/// Why, or when, a step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // Said by its text.
pub enum Why {
    NoRecord,
    NotHeard,
    HowFar,
    NoAnswer,
    Start,
    Preview,
    FailingDisk,
    CableOut,
    Restarted,
    GiveUp,
    StartAgain,
    CopyOnly,
    ShutDown,
    CopyThen,
    ReadAgain,
    LeaveUnread,
    ResumeCopy,
    Cutover,
    MakeDevices,
    StartMoved,
    Release,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::NoRecord => {
                "it answers and has no record here: restart it so that it boots from `p2v serve` on this host"
            }
            Why::NotHeard => "its agent was not heard yet: look at its screen",
            Why::HowFar => "shows how far it came over the network",
            Why::NoAnswer => {
                "its agent does not answer: look at its screen and its cable, or restart it from the network"
            }
            Why::Start => "runs it as a domain",
            Why::Preview => "shows how that domain would be configured",
            Why::FailingDisk => "first, if its disk is failing",
            Why::CableOut => "if only its cable was out: nothing to do, once it is back",
            Why::Restarted => "if the old machine was restarted",
            Why::GiveUp => "gives up: what the domain had not written yet is lost",
            Why::StartAgain => "it does not run: starts it again",
            Why::CopyOnly => "copies its disk",
            Why::ShutDown => "when it suits; or shut it down from inside",
            Why::CopyThen => "then, copies its disk",
            Why::ReadAgain => "tries once more what could not be read",
            Why::LeaveUnread => {
                "continues without them: check the file systems in the domain (fsck, chkdsk)"
            }
            Why::ResumeCopy => "resumes the copy",
            Why::Cutover => "runs it from the copy",
            Why::MakeDevices => "it does not run: makes its disks' devices",
            Why::StartMoved => "then, starts it. Do not release the old machine before it runs",
            Why::Release => "when you are content with it: switches the old machine off",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.command.is_empty() {
            true => self.why.fmt(f),
            false => write!(f, "`{}`: {}", self.command.join(" "), self.why),
        }
    }
}

fn at_the_old_machine(why: Why) -> Action {
    Action {
        command: Vec::new(),
        why,
        destructive: false,
    }
}

fn command(words: &[&str], why: Why) -> Action {
    Action {
        command: words.iter().map(|&word| word.to_owned()).collect(),
        ..at_the_old_machine(why)
    }
}

/// What comes next, the likely step first. `config`: the domain's.
pub(super) fn of(view: &MachineView, config: &Path) -> Vec<Action> {
    let name = view.name.as_ref().map_or("NAME", |name| name.as_str());
    let p2v = |words: &[&str], why| command(&[&["p2v"], words].concat(), why);
    let copy = |why| p2v(&["copy", name, "--to", "VG"], why);
    let again = |why| {
        let copies = || {
            let copy = |(slot, disk): (&u8, &DiskRecord)| Some((*slot, disk.copy.clone()?));
            view.disks.iter().filter_map(copy)
        };
        // One that is finished is not made again.
        let is_open = |(_, copy): &(u8, CopyRecord)| {
            copy.verified()
                .is_none_or(|verified| !verified.unreadable.is_empty())
        };
        let without = || view.disks.iter().find(|(_, disk)| disk.copy.is_none());
        let (what, to) = match (copies().find(is_open), copies().next()) {
            (Some((slot, begun)), _) => as_before(view, slot, &begun),
            (None, Some((slot, done))) => match (as_before(view, slot, &done), without()) {
                // A destination for all: the rest go there too.
                ((what, to), _) if what == name => (what, to),
                (_, Some((slot, _))) => {
                    (Address::new(view.shelf, *slot).to_string(), "VG".to_owned())
                }
                (done, None) => done,
            },
            (None, None) => (name.to_owned(), "VG".to_owned()),
        };
        p2v(&["copy", &what, "--to", &to], why)
    };
    let runs = view.domain.is_some();
    let mut unread = view.disks.values().filter_map(|disk| disk.copy.as_ref());
    match view.state {
        None => vec![at_the_old_machine(Why::NoRecord)],
        Some(_) if view.waits => vec![
            at_the_old_machine(Why::CableOut),
            p2v(&["resume", name], Why::Restarted),
            Action {
                destructive: true,
                ..p2v(&["stop", name, "--destroy"], Why::GiveUp)
            },
        ],
        Some(State::Seen) => vec![
            at_the_old_machine(Why::NotHeard),
            p2v(&["list", "--boot"], Why::HowFar),
        ],
        Some(State::Exported) if view.answers.is_empty() => vec![at_the_old_machine(Why::NoAnswer)],
        Some(State::Exported) => vec![
            p2v(&["start", name], Why::Start),
            p2v(&["config", name], Why::Preview),
            copy(Why::FailingDisk),
        ],
        Some(State::Running) if !runs => {
            vec![p2v(&["start", name], Why::StartAgain), copy(Why::CopyOnly)]
        }
        Some(State::Running) => vec![p2v(&["stop", name], Why::ShutDown), copy(Why::CopyThen)],
        Some(State::Copying) if unread.any(|copy| copy.unreadable() > 0) => vec![
            again(Why::ReadAgain),
            p2v(&["cutover", name, "--accept-unreadable"], Why::LeaveUnread),
        ],
        Some(State::Copying) => vec![again(Why::ResumeCopy)],
        Some(State::Copied) => vec![p2v(&["cutover", name], Why::Cutover)],
        Some(State::Moved) if !runs => vec![
            p2v(&["devices", "up"], Why::MakeDevices),
            command(
                &["xl", "create", &config.display().to_string()],
                Why::StartMoved,
            ),
        ],
        Some(State::Moved) => vec![p2v(&["release", name], Why::Release)],
        Some(State::Released) => Vec::new(),
    }
}

/// The copy that was begun, as it is asked for: all disks of a machine if the volume's name is p2v's own.
fn as_before(view: &MachineView, slot: u8, begun: &CopyRecord) -> (String, String) {
    match (&begun.destination, &view.name) {
        (Destination::Volume { vg, lv, .. }, Some(name))
            if *lv == name.volume_name(slot.into()) =>
        {
            (name.to_string(), vg.clone())
        }
        (other, _) => (Address::new(view.shelf, slot).to_string(), other.name()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Timestamp;
    use crate::record::{DiskRecord, Stage, Verified};
    use p2v_copy::Verify;

    fn view(state: Option<State>, runs: bool, answers: bool) -> MachineView {
        let mac = p2v_contract::MacAddr::new(2, 0, 0, 0, 0, 1);
        MachineView {
            name: Some("e1".parse().unwrap()),
            shelf: 1,
            boot_mac: Some(mac),
            state,
            answers: answers
                .then(|| (Address::new(1, 0), vec![mac]))
                .into_iter()
                .collect(),
            inventory: None,
            inventory_read: None,
            disks: BTreeMap::new(),
            disarmed: BTreeMap::new(),
            domain: runs.then_some(3),
            waits: false,
            shared_cards: Vec::new(),
            differences: Vec::new(),
            next: Vec::new(),
            history: Vec::new(),
        }
    }

    fn steps(view: &MachineView) -> Vec<String> {
        let steps = of(view, Path::new("/etc/xen/e1.cfg")).into_iter();
        steps.map(|action| action.command.join(" ")).collect()
    }

    #[test]
    fn what_comes_next_depends_on_what_is_there() {
        let steps = |state, runs, answers| steps(&view(state, runs, answers));
        for (state, runs, answers, first) in [
            (None, false, true, ""),
            (Some(State::Seen), false, false, ""),
            (Some(State::Exported), false, true, "p2v start e1"),
            (Some(State::Exported), false, false, ""),
            (Some(State::Running), true, true, "p2v stop e1"),
            (Some(State::Running), false, true, "p2v start e1"),
            (Some(State::Copied), false, true, "p2v cutover e1"),
            (Some(State::Moved), true, true, "p2v release e1"),
        ] {
            assert_eq!(steps(state, runs, answers)[0], first, "{state:?}");
        }
        let down = steps(Some(State::Moved), false, true);
        assert_eq!(down, ["p2v devices up", "xl create /etc/xen/e1.cfg"]);
        assert!(steps(Some(State::Released), true, false).is_empty());
    }

    #[test]
    fn only_to_give_up_loses_something() {
        let mut waits = view(Some(State::Running), true, false);
        waits.waits = true;
        let steps = of(&waits, Path::new(""));
        let destructive = steps.iter().filter(|action| action.destructive);
        let destructive: Vec<Why> = destructive.map(|action| action.why).collect();
        assert_eq!(destructive, [Why::GiveUp]);
        assert_eq!(
            serde_json::to_value(&steps[2]).unwrap(),
            serde_json::json!({"command": ["p2v", "stop", "e1", "--destroy"], "why": "give-up", "destructive": true})
        );
    }

    #[test]
    fn a_copy_is_resumed_as_it_was_begun() {
        let begun = |destination, unreadable: &[(u64, u64)]| {
            let mut view = view(Some(State::Copying), false, true);
            let mut copy = CopyRecord {
                destination,
                begun: Timestamp::from_unix(0),
                unguarded: false,
                stage: Stage::Begun {
                    journal: None,
                    fresh: false,
                },
            };
            if !unreadable.is_empty() {
                copy.verify(Verified {
                    at: Timestamp::from_unix(1),
                    boot_id: String::new(),
                    unreadable: unreadable.to_vec(),
                    how: Verify::Both,
                    spots: Vec::new(),
                });
            }
            let disk = DiskRecord {
                sectors: 9,
                model: String::new(),
                serial: String::new(),
                table_id: String::new(),
                mapping: None,
                copy: Some(copy),
            };
            view.disks.insert(1, disk);
            steps(&view)
        };
        let volume = |lv: &str| Destination::Volume {
            vg: "vg0".into(),
            lv: lv.into(),
            uuid: "u".into(),
        };
        assert_eq!(begun(volume("e1-disk1"), &[]), ["p2v copy e1 --to vg0"]);
        assert_eq!(begun(volume("x"), &[]), ["p2v copy e1.1 --to vg0/x"]);
        let unread = begun(volume("e1-disk1"), &[(7, 1)]);
        assert_eq!(unread[1], "p2v cutover e1 --accept-unreadable");
    }

    #[test]
    fn a_disk_that_is_copied_is_not_copied_again_for_another() {
        let disk = |copy| DiskRecord {
            sectors: 9,
            model: String::new(),
            serial: String::new(),
            table_id: String::new(),
            mapping: None,
            copy,
        };
        let copy = |path: &str, is_done: bool| {
            let mut copy = CopyRecord {
                destination: Destination::File {
                    path: path.into(),
                    identity: "1".into(),
                },
                begun: Timestamp::from_unix(0),
                unguarded: false,
                stage: Stage::Begun {
                    journal: None,
                    fresh: false,
                },
            };
            if is_done {
                copy.verify(Verified {
                    at: Timestamp::from_unix(1),
                    boot_id: String::new(),
                    unreadable: Vec::new(),
                    how: Verify::Both,
                    spots: Vec::new(),
                });
            }
            copy
        };
        for (second, step) in [
            (Some(copy("/srv/b", false)), "p2v copy e1.1 --to /srv/b"),
            (None, "p2v copy e1.1 --to VG"),
        ] {
            let mut view = view(Some(State::Copying), false, true);
            view.disks.insert(0, disk(Some(copy("/srv/a", true))));
            view.disks.insert(1, disk(second));
            assert_eq!(steps(&view), [step]);
        }
    }
}
