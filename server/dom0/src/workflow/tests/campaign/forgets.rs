//! `p2v forget`, killed at every step: the same command finishes it, and until then the old machine is held.

use std::fs;

use super::boot::{Told, Word};
use super::story::Story;
use super::worker::{Command, Outcome, Worker};
use super::{Chance, seed};
use crate::MachineName;

#[test]
fn a_forget_that_is_killed_anywhere_is_finished_by_the_next_one() {
    let mut worker = Worker::start();
    let mut story = Story::new(&mut worker, Chance::of(seed(), 0));
    let name: MachineName = "e1".parse().unwrap();
    released(&mut story, &name);
    nothing_is_left_of(&mut story, &name);
    let before = story.keep();
    let (mut killed, mut is_held) = (Vec::new(), Vec::new());
    for deadly in 0.. {
        story.back(&before);
        let forget = Command::Forget {
            name: name.clone(),
            gone: true,
        };
        let outcome = story.command_killed_at(&forget, deadly);
        let is_over = matches!(outcome, Outcome::Done(_));
        // By each of its cards, one that its agent never saw among them, and though nobody approved it.
        story.word = Word::Revoked;
        let held = (0..3).all(|n| story.told_by(n) == Told::Held);
        story.word = Word::Always;
        if !is_over {
            let Outcome::Killed(at) = outcome else {
                story.fail(&format!("{outcome:?}"));
            };
            let is_last = at.contains("after /state/names");
            assert_eq!(held, !is_last, "{at}\n{}", story.told());
            let again = story.command(&forget);
            let unknown =
                matches!(&again, Outcome::Refused(text) if text.contains("no machine is called"));
            let done = matches!(again, Outcome::Done(_));
            assert!(done || is_last && unknown, "{at}: {again:?}");
            killed.push(at);
        }
        is_held.push(held);
        is_forgotten(&story, &name);
        if is_over {
            break;
        }
    }
    assert!(killed.len() >= 6, "{killed:?}");
    for part in ["retired", "copies", "machines", "names"] {
        assert!(
            killed.iter().any(|at| at.contains(part)),
            "{part} {killed:?}"
        );
    }
    assert!(is_held.is_sorted_by(|a, b| a >= b), "{is_held:?}");
}

/// Its server was moved, and the old machine switched off.
fn released(story: &mut Story<'_>, name: &MachineName) {
    story.power_cycle(0);
    for command in [
        Command::List,
        Command::Copy {
            name: name.clone(),
            to: "vg".into(),
            precopy: false,
            overwrite: false,
        },
        Command::Cutover {
            name: name.clone(),
            autostart: false,
            gone: false,
        },
        Command::Release {
            name: name.clone(),
            off: false,
        },
    ] {
        let outcome = story.command(&command);
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }
}

/// Its domain, devices, config and volumes go.
fn nothing_is_left_of(story: &mut Story<'_>, name: &MachineName) {
    let root = story.root().to_owned();
    story.domain_ends();
    fs::remove_file(root.join(format!("xen/{name}.cfg"))).unwrap();
    story.change(|world| {
        world.devices.clear();
        world.volumes.clear();
    });
}

/// Nothing of it is where it was, and its history and all that was noted of its copies are kept.
fn is_forgotten(story: &Story<'_>, name: &MachineName) {
    let state = story.root().join("state");
    let files = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(state.join(dir)).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        names
            .filter(|file| file.starts_with(name.as_str()))
            .collect()
    };
    for dir in ["machines", "names", "copies"] {
        assert_eq!(files(dir), Vec::<String>::new(), "{dir}\n{}", story.told());
    }
    let (mut histories, mut certificates) = (0, 0);
    for away in files("retired") {
        let away = state.join("retired").join(away);
        let record = fs::read_to_string(away.join("record.json")).unwrap_or_default();
        histories += usize::from(record.contains("\"released\""));
        let kept = fs::read_dir(&away).unwrap().flatten();
        let kept = kept.filter(|e| e.file_name().to_string_lossy().contains("certificate"));
        certificates += kept.count();
    }
    assert!(histories > 0 && certificates > 0, "{}", story.told());
}
