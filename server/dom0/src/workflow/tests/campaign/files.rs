//! Campaign: each file under the state directory cut off or with a bit turned, and the clock ten years off. A machine that is
//! moved is held by all its cards, and `copy` and `cutover` are right or refuse.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::boot::Word;
use super::story::{Scene, Story};
use super::worker::{Command, Outcome, Worker};
use super::{Chance, Figures, number, seed};
use crate::MachineName;

/// Bits of a short run that are turned, and places where a file is cut off.
const SHORT: u64 = 80;
/// From so many bits on, files are cut off wherever they can be.
const ALL: u64 = 10_000;
/// A longer file is cut off at so many places.
const CUTS: u64 = 4096;
/// Ten years.
const YEARS: i64 = 10 * 365 * 24 * 3600;
/// Damages at a time.
const THREADS: usize = 2;

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// Only so many bytes of it are left.
    CutOff(u64),
    /// This bit is the other one.
    Bit(u64),
    Removed,
    /// Nothing, and the clock is so many seconds off.
    Clock(i64),
}

/// States of a machine by the commands that lead to them, the last of which is killed where a number stands.
fn scenes(story: &mut Story<'_>) -> Vec<(&'static str, Scene)> {
    let name = || -> MachineName { "e1".parse().unwrap() };
    let start = || Command::Start {
        name: name(),
        discard_copy: false,
        discard_moved: false,
    };
    let stop = || Command::Stop {
        name: name(),
        destroy: false,
    };
    let copy = |precopy| Command::Copy {
        name: name(),
        to: "vg".into(),
        precopy,
        overwrite: false,
    };
    let cutover = || Command::Cutover {
        name: name(),
        autostart: true,
        gone: false,
    };
    let release = || Command::Release {
        name: name(),
        off: false,
    };
    let mut scenes = Vec::new();
    let first = story.keep();
    for (what, commands, killed_at) in [
        ("running", vec![start()], None),
        ("precopied", vec![start(), copy(true)], None),
        ("stopped", vec![start(), stop()], None),
        ("copying", vec![copy(false)], Some("after journal")),
        ("copied", vec![start(), stop(), copy(false)], None),
        (
            "cut off in cutover",
            vec![copy(false), cutover()],
            Some("before xl create"),
        ),
        ("moved", vec![copy(false), cutover()], None),
        (
            "released",
            vec![start(), stop(), copy(false), cutover(), release()],
            None,
        ),
    ] {
        story.back(&first);
        story.power_cycle(0);
        story.command(&Command::List);
        let (last, before) = commands.split_last().unwrap();
        for command in before {
            assert!(matches!(story.command(command), Outcome::Done(_)));
        }
        match killed_at {
            None => assert!(matches!(story.command(last), Outcome::Done(_))),
            Some(wanted) => story.killed_at(last, wanted),
        }
        scenes.push((what, story.keep()));
        if what == "stopped" {
            story.forgets_all();
            story.power_cycle(0);
            story.command(&Command::List);
            scenes.push(("forgotten and back", story.keep()));
        }
    }
    scenes
}

/// Every damage there is to be, and to which file of which scene.
fn damages(scenes: &[(&str, Scene)], seed: u64, bits: u64) -> Vec<(usize, String, Damage)> {
    let mut chance = Chance::of(seed, u64::MAX);
    let mut all = Vec::new();
    for (at, (_, scene)) in scenes.iter().enumerate() {
        for (file, bytes) in scene.files.state_files() {
            let length = bytes.len() as u64;
            let cuts = match length < CUTS {
                true => (0..length).collect::<BTreeSet<u64>>(),
                false => (0..CUTS).map(|n| n * length / CUTS).collect(),
            };
            all.extend(
                cuts.into_iter()
                    .map(|cut| (at, file.clone(), Damage::CutOff(cut))),
            );
        }
    }
    if bits < ALL {
        let keep = |all: &mut Vec<_>, chance: &mut Chance| {
            while all.len() as u64 > bits {
                let at = chance.below(all.len() as u64) as usize;
                all.swap_remove(at);
            }
        };
        keep(&mut all, &mut chance);
    }
    for _ in 0..bits {
        let at = chance.below(scenes.len() as u64) as usize;
        let files = scenes[at].1.files.state_files();
        // The same chance for each file, however small; but the record and what is noted of it decide.
        let decides = chance.one_in(2);
        let files: Vec<_> = files
            .iter()
            .filter(|(file, bytes)| !bytes.is_empty() && (file.contains("/e1.json") || !decides))
            .collect();
        let (file, bytes) = *chance.pick(&files);
        let bit = chance.below(bytes.len() as u64 * 8);
        all.push((at, file.clone(), Damage::Bit(bit)));
    }
    for (at, (_, scene)) in scenes.iter().enumerate() {
        for (file, _) in scene.files.state_files() {
            all.push((at, file, Damage::Removed));
        }
        for years in [-YEARS, YEARS] {
            all.push((at, "clock".into(), Damage::Clock(years)));
        }
    }
    all
}

#[test]
fn a_damaged_file_makes_no_second_server_and_no_wrong_copy() {
    let (seed, bits) = (seed(), number("P2V_CAMPAIGN").unwrap_or(SHORT));
    println!("files campaign: P2V_CAMPAIGN_SEED={seed} P2V_CAMPAIGN={bits}");
    let one = number("P2V_CAMPAIGN_ONE");
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let all = Mutex::new(Figures::default());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut worker = Worker::start();
                let mut story = Story::new(&mut worker, Chance::of(seed, 0));
                let scenes = scenes(&mut story);
                let damages = damages(&scenes, seed, bits);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((at, file, damage)) = damages.get(number as usize) else {
                        break;
                    };
                    if failed.load(Ordering::Relaxed) != u64::MAX {
                        break;
                    }
                    if one.is_some_and(|one| one != number) {
                        continue;
                    }
                    let (what, scene) = &scenes[*at];
                    story.back(scene);
                    story.chance = Chance::of(seed, number);
                    story.steps = vec![format!("{what}: {file}: {damage:?}")];
                    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        hit(&mut story, file, *damage);
                    }));
                    if tried.is_err() {
                        failed.store(number, Ordering::Relaxed);
                    }
                    if one.is_some() {
                        println!("{}", story.told());
                    }
                }
                all.lock()
                    .unwrap()
                    .take_in(std::mem::take(&mut story.figures));
            });
        }
    });
    let figures = all.into_inner().unwrap();
    println!("files campaign: {:.1?}{figures}", began.elapsed());
    let failed = failed.into_inner();
    assert!(
        failed == u64::MAX,
        "damage {failed} was not survived: P2V_CAMPAIGN_SEED={seed} P2V_CAMPAIGN={bits} P2V_CAMPAIGN_ONE={failed} does it again"
    );
}

/// Does the damage, and then what an operator who knows nothing of it may do.
fn hit(story: &mut Story<'_>, file: &str, damage: Damage) {
    let path = story.root().join(file);
    story.clock = 0;
    story.change(|world| world.forgives_counters = true);
    match damage {
        Damage::CutOff(bytes) => fs::File::options()
            .write(true)
            .open(path)
            .and_then(|file| file.set_len(bytes))
            .unwrap(),
        Damage::Bit(bit) => {
            let mut bytes = fs::read(&path).unwrap();
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
        }
        Damage::Removed => fs::remove_file(path).unwrap(),
        Damage::Clock(seconds) => story.clock = seconds,
    }
    let kind = format!("{damage:?}");
    story
        .figures
        .count(format!("damage: {}", kind.split('(').next().unwrap()));
    if story.chance.one_in(10) {
        story.clock = *story.chance.pick(&[-YEARS, YEARS]);
    }
    // Also a service that never ran before knows no cards.
    let first_start = story.chance.one_in(2);
    for word in [Word::None, Word::Always, Word::Revoked] {
        story.word = word;
        if first_start {
            story.forget_cards();
        }
        story.live_on();
    }
    for _ in 0..3 {
        let (name, coin) = (story.some_name(), story.chance.one_in(2));
        match story.chance.below(8) {
            0 => {
                story.word = *story
                    .chance
                    .pick(&[Word::None, Word::Always, Word::Revoked]);
                let card = story.chance.below(2) as u8;
                story.troubled_power_cycle(card);
            }
            1 | 2 => {
                story.command(&Command::Copy {
                    name,
                    to: "vg".into(),
                    precopy: false,
                    overwrite: false,
                });
            }
            3 | 4 => {
                story.command(&Command::Cutover {
                    name,
                    autostart: false,
                    gone: false,
                });
            }
            5 => {
                story.command(&Command::Start {
                    name,
                    discard_copy: coin,
                    discard_moved: false,
                });
            }
            6 => {
                story.command(&Command::Stop {
                    name,
                    destroy: false,
                });
            }
            _ => {
                story.command(&Command::List);
            }
        }
        // The clock is set right some time.
        if story.clock != 0 && story.chance.one_in(2) {
            story.clock = 0;
        }
    }
}
