//! Campaign: sequences of all commands, killed at every boundary between record, tag, device and `xl`, while the host and the
//! old server restart. What must hold is in [`Story::live_on`]; at the end, the tool's own words lead on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::boot::Word;
use super::lead_on;
use super::old_server::Does;
use super::story::{Place, Story};
use super::worker::{Command, Outcome, Worker};
use super::{Chance, Figures, number, seed};
use crate::State;

/// Sequences of a short run.
const SHORT: u64 = 50;
/// Steps of a sequence at most.
const STEPS: u64 = 40;
/// Sequences at a time.
const THREADS: usize = 2;

#[test]
fn whatever_the_operator_does_one_server_lives() {
    let (seed, count) = (seed(), number("P2V_CAMPAIGN").unwrap_or(SHORT));
    println!("operator campaign: P2V_CAMPAIGN_SEED={seed} P2V_CAMPAIGN={count}");
    if let Some(one) = number("P2V_CAMPAIGN_ONE") {
        let mut worker = Worker::start();
        let story = sequence(&mut worker, seed, one);
        println!("{}", story.told());
        return;
    }
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let all = Mutex::new(Figures::default());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut worker = Worker::start();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count || failed.load(Ordering::Relaxed) != u64::MAX {
                        return;
                    }
                    let figures = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        sequence(&mut worker, seed, number).figures
                    }));
                    match figures {
                        Ok(figures) => all.lock().unwrap().take_in(figures),
                        Err(_) => failed.store(number, Ordering::Relaxed),
                    }
                }
            });
        }
    });
    let figures = all.into_inner().unwrap();
    println!(
        "operator campaign: {count} sequences in {:.1?}{figures}",
        began.elapsed()
    );
    let failed = failed.into_inner();
    assert!(
        failed == u64::MAX,
        "sequence {failed} failed: P2V_CAMPAIGN_SEED={seed} P2V_CAMPAIGN_ONE={failed} does it again"
    );
}

fn sequence(worker: &mut Worker, seed: u64, number: u64) -> Story<'_> {
    let mut story = Story::new(worker, Chance::of(seed, number));
    // Most begin where there is something to do.
    if !story.chance.one_in(8) {
        story.power_cycle(0);
        story.command(&Command::List);
    }
    for _ in 0..2 + story.chance.below(STEPS) {
        step(&mut story);
    }
    lead_on::to_a_server_that_serves(&mut story);
    story.figures.count("sequences");
    story
}

/// Something happens.
fn step(story: &mut Story<'_>) {
    match story.chance.below(100) {
        0..6 => {
            let card = u8::from(story.chance.one_in(2));
            story.troubled_power_cycle(card);
        }
        6..8 => {
            story.change(|world| world.old.does = Does::Off);
            story.steps.push("the old server is switched off".into());
            story.live_on();
        }
        8..11 => story.host_restarts(),
        11..14 => story.domain_ends(),
        14..16 => {
            story.word = *story
                .chance
                .pick(&[Word::None, Word::Always, Word::Revoked]);
            story
                .steps
                .push(format!("the operator's word: {:?}", story.word));
            story.live_on();
        }
        16..18 => {
            let stray = (!story.chance.one_in(3)).then(|| 1 + story.chance.below(2) as u16);
            story.change(|world| world.old.stray = stray);
            story.steps.push(format!("a stray export: {stray:?}"));
        }
        18 => story.loses_a_record(),
        19 => story.forgets_all(),
        20..22 => {
            let name = story.some_name();
            let config = story.root().join(format!("xen/{name}.cfg"));
            // As `p2v show` says for a moved machine.
            if story.place == Place::Copies && config.exists() {
                story.xl_create(&config);
            }
        }
        _ => {
            let command = command(story);
            story.troubled_command(&command);
        }
    }
}

/// A command as an operator who does not lie may type it.
fn command(story: &mut Story<'_>) -> Command {
    let name = story.some_name();
    let own_system_ran = story.own_system_ran;
    let state = story.records().into_iter().find(|r| r.name == name);
    let state = state.map(|record| record.state);
    let is_off = story.world().old.does == Does::Off;
    let image = story.root().join("image").to_str().unwrap().to_owned();
    let kept = format!("state/copies/{name}-disk0.disarmed.json");
    let is_disarmed = story.root().join(kept).exists();
    let chance = &mut story.chance;
    match chance.below(32) {
        // What comes next, so that all states are come to.
        _ if chance.one_in(2) => match state {
            Some(State::Seen) | None => Command::List,
            Some(State::Exported) if chance.one_in(2) => Command::Start {
                name,
                discard_copy: false,
                discard_moved: false,
            },
            Some(State::Exported | State::Copying) => Command::Copy {
                name,
                to: "vg".into(),
                precopy: false,
                overwrite: false,
            },
            Some(State::Copied) => Command::Cutover {
                name,
                autostart: chance.one_in(2),
                gone: is_off && !own_system_ran,
            },
            Some(State::Running) => Command::Stop {
                name,
                destroy: false,
            },
            Some(State::Moved) if is_disarmed && chance.one_in(2) => match chance.one_in(3) {
                true => Command::Start {
                    name,
                    discard_copy: false,
                    discard_moved: true,
                },
                false => Command::Rearm { name },
            },
            Some(State::Moved) if chance.one_in(2) => Command::Release { name, off: false },
            Some(State::Moved) if chance.one_in(2) => Command::Disarm { name },
            Some(State::Moved | State::Released) => Command::List,
        },
        0..5 => Command::Start {
            name,
            discard_copy: chance.one_in(4),
            discard_moved: chance.one_in(10),
        },
        5..9 => Command::Stop {
            name,
            destroy: chance.one_in(3),
        },
        9..14 => Command::Copy {
            name,
            to: chance
                .pick(&["vg", "vg", "vg", "vg", "vg/other", &image])
                .to_string(),
            precopy: chance.one_in(6),
            overwrite: chance.one_in(5),
        },
        14..18 => Command::Cutover {
            name,
            autostart: chance.one_in(2),
            gone: is_off && !own_system_ran && chance.one_in(2),
        },
        18 | 19 => Command::Release {
            name,
            off: is_off && chance.one_in(2),
        },
        20 | 21 => Command::Resume {
            name,
            did_not_run: !own_system_ran && chance.one_in(2),
            although_changed: false,
        },
        22 => Command::Forget { name, gone: false },
        23 => match chance.one_in(2) {
            true => Command::DevicesUp,
            false => Command::DevicesDown,
        },
        24 => Command::Watch,
        25 => Command::Config { name },
        26 => Command::Verify {
            name,
            from_certificate: chance.one_in(2),
        },
        27 => Command::PlanCopy {
            name,
            to: "vg".into(),
        },
        28 => Command::Trust { name },
        29 => Command::Disarm { name },
        30 => Command::Rearm { name },
        _ => Command::List,
    }
}

/// A command's text, if it was refused.
pub(super) fn refusal(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Refused(text) => Some(text),
        _ => None,
    }
}
