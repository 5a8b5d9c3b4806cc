//! From every state, the commands that the tool itself names lead on: an operator who knows no more than what he reads.

use serde_json::Value;

use super::boot::Word;
use super::old_server::{Does, card};
use super::operator::refusal;
use super::story::Story;
use super::worker::{Command, Outcome};
use crate::{MachineName, State};

/// Commands and errands until the server serves, at most.
const STEPS: u32 = 40;

/// What an operator reads that he can do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Advice {
    Command(Command),
    /// `p2v show`
    Show(MachineName),
    /// A command of the host's own.
    Host(Vec<String>),
    /// The old machine is to be looked at, or restarted.
    LookAtTheOldServer,
    EndTheStray,
    PutTheRecordBack,
}

/// What a text tells to do, in its order. `name`: the machine that it is about.
fn advice_in(text: &str, name: &MachineName) -> Vec<Advice> {
    let mut advice = Vec::new();
    let mut quoted = false;
    for part in text.split('`') {
        if quoted {
            advice.extend(of_command(part, name));
        } else {
            if part.contains("Copy to another volume") {
                advice.push(Advice::Command(Command::Copy {
                    name: name.clone(),
                    to: "vg/another".into(),
                    precopy: false,
                    overwrite: false,
                }));
            }
            for (words, what) in [
                ("estart the old machine", Advice::LookAtTheOldServer),
                ("estart it so that it boots", Advice::LookAtTheOldServer),
                ("old machine and boot it again", Advice::LookAtTheOldServer),
                ("look at its screen", Advice::LookAtTheOldServer),
                ("Is the old machine on", Advice::LookAtTheOldServer),
                ("ook at the old machine", Advice::LookAtTheOldServer),
                ("boot the old machine", Advice::LookAtTheOldServer),
                ("Put the right record back", Advice::PutTheRecordBack),
                ("put it back", Advice::PutTheRecordBack),
                ("no machine is called", Advice::PutTheRecordBack),
                ("Switch off all but one", Advice::EndTheStray),
                ("End what answers there", Advice::EndTheStray),
                ("switch off all but one", Advice::EndTheStray),
            ] {
                if part.contains(words) {
                    advice.push(what);
                }
            }
        }
        quoted = !quoted;
    }
    advice
}

fn of_command(text: &str, about: &MachineName) -> Option<Advice> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let has = |flag: &str| words.contains(&flag);
    let named = words.iter().skip(2).find(|word| !word.starts_with('-'));
    let name = named
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| about.clone());
    let command = match *words.get(..2)? {
        ["p2v", "list"] => Command::List,
        ["p2v", "show"] => return Some(Advice::Show(name)),
        ["p2v", "start"] => Command::Start {
            name,
            discard_copy: has("--discard-copy"),
            discard_moved: false,
        },
        ["p2v", "stop"] => Command::Stop {
            name,
            destroy: has("--destroy"),
        },
        ["p2v", "resume"] => Command::Resume {
            name,
            did_not_run: has("--old-system-did-not-run"),
            although_changed: has("--although-changed"),
        },
        ["p2v", "copy"] => Command::Copy {
            name,
            to: "vg".into(),
            precopy: false,
            overwrite: false,
        },
        ["p2v", "cutover"] => Command::Cutover {
            name,
            autostart: false,
            gone: false,
        },
        ["p2v", "disarm"] => Command::Disarm { name },
        ["p2v", "rearm"] => Command::Rearm { name },
        ["p2v", "devices"] if has("up") => Command::DevicesUp,
        ["p2v", "config"] if has("--write") => Command::Config { name },
        ["p2v", "trust"] => Command::Trust { name },
        ["xl" | "dmsetup" | "lvremove" | "rm", _] => {
            return Some(Advice::Host(
                words.iter().map(|word| (*word).to_owned()).collect(),
            ));
        }
        _ => return None,
    };
    Some(Advice::Command(command))
}

/// The steps that `p2v show` lists.
fn next(view: &Value, name: &MachineName) -> Vec<Advice> {
    let steps = view["next"].as_array().unwrap().iter();
    let advice = steps.filter_map(|step| {
        let words: Vec<&str> = step["command"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap())
            .collect();
        match words.is_empty() {
            true => Some(Advice::LookAtTheOldServer),
            false => of_command(&words.join(" "), name),
        }
    });
    advice.collect()
}

/// Follows the tool's words until a domain serves.
pub(super) fn to_a_server_that_serves(story: &mut Story<'_>) {
    story
        .steps
        .push("the operator follows the tool's words".into());
    story.word = Word::Always;
    // Nobody moves a server that runs as it always did, unless he begins by booting the agent.
    if story.world().old.does == Does::OwnSystem {
        story.power_cycle(0);
    }
    let mut ahead: Vec<Advice> = Vec::new();
    for _ in 0..STEPS {
        if story.serves() {
            story.figures.count("led on to a domain that serves");
            return;
        }
        if ahead.is_empty() {
            let name = whose(story);
            ahead.push(Advice::Show(name));
        }
        let advice = ahead.remove(0);
        let mut more = follow(story, advice.clone());
        more.retain(|one| *one != advice);
        // What was read last counts.
        if !more.is_empty() {
            if story.chance.one_in(4) {
                let rotated = story.chance.below(more.len() as u64) as usize;
                more.rotate_left(rotated);
            }
            ahead = more;
        }
    }
    story.fail("no command that the tool names leads on");
}

/// The machine that the operator looks at: the one that is furthest, or answers.
fn whose(story: &mut Story<'_>) -> MachineName {
    let records = story.records();
    let here = |r: &&crate::Record| r.has_domain_on_old_disks() || r.state >= State::Moved;
    let shelf = story.world().old.agent().map(|agent| agent.shelf);
    let mut answers = records.iter().filter(|r| Some(r.shelf) == shelf);
    let first = records.iter().find(here).or_else(|| answers.next());
    match first.or(records.first()) {
        Some(record) => record.name.clone(),
        None => {
            // Nothing is known of it yet.
            story.power_cycle(0);
            story.command(&Command::List);
            "e1".parse().unwrap()
        }
    }
}

fn follow(story: &mut Story<'_>, advice: Advice) -> Vec<Advice> {
    match advice {
        Advice::Command(command) => {
            if let Command::Resume {
                did_not_run: true, ..
            }
            | Command::Resume {
                although_changed: true,
                ..
            } = &command
                && story.own_system_ran
            {
                return Vec::new();
            }
            let name = whose(story);
            let outcome = story.command(&command);
            match refusal(&outcome) {
                Some(text) => advice_in(text, &name),
                None => Vec::new(),
            }
        }
        Advice::Show(name) => {
            let outcome = story.command(&Command::List);
            let Outcome::Done(text) = outcome else {
                return advice_in(refusal(&outcome).unwrap_or_default(), &name);
            };
            let told: Value = serde_json::from_str(&text).unwrap();
            let texts = |of: &Value| -> Vec<String> {
                let all = of.as_array().unwrap().iter();
                all.map(|text| text.as_str().unwrap().to_owned()).collect()
            };
            let mut advice = Vec::new();
            for warning in texts(&told["warnings"]) {
                advice.extend(advice_in(&warning, &name));
                story.steps.push(warning);
            }
            let views = told["views"].as_array().unwrap();
            let Some(view) = views.iter().find(|view| view["name"] == name.to_string()) else {
                // As `p2v show` says then.
                advice.extend(advice_in("no machine is called that", &name));
                return advice;
            };
            let differences = texts(&view["differences"]);
            story
                .steps
                .push(format!("{name}: {differences:?}; next: {}", view["next"]));
            for text in &differences {
                advice.extend(advice_in(text, &name));
            }
            advice.extend(next(view, &name));
            advice
        }
        Advice::Host(words) => {
            host_command(story, &words);
            Vec::new()
        }
        Advice::LookAtTheOldServer => {
            let records = story.records();
            let name = whose(story);
            let boots_by = records.iter().find(|r| r.name == name).map(|r| r.boot_mac);
            let n = (0..2).find(|n| Some(card(*n)) == boots_by).unwrap_or(0);
            let shelf = records.iter().find(|r| r.name == name).map(|r| r.shelf);
            let is_up = story
                .world()
                .old
                .agent()
                .is_some_and(|agent| Some(agent.shelf) == shelf);
            if !(is_up && story.chance.one_in(2)) {
                story.power_cycle(n);
            }
            Vec::new()
        }
        Advice::PutTheRecordBack => {
            story.puts_the_record_back();
            Vec::new()
        }
        Advice::EndTheStray => {
            story.change(|world| world.old.stray = None);
            story.steps.push("the stray export is ended".into());
            Vec::new()
        }
    }
}

fn host_command(story: &mut Story<'_>, words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let root = story.root().to_owned();
    let name = whose(story);
    let run = |program: &str, args: &[&str]| {
        let said = story.change(|world| world.run(&root, program, args));
        format!("{program} {args:?}: {said:?}")
    };
    let said = match words.as_slice() {
        ["xl", "create", ..] => {
            let config = root.join(format!("xen/{name}.cfg"));
            return story.xl_create(&config);
        }
        ["xl", "shutdown", domain] => run("xl", &["shutdown", "-F", domain]),
        ["xl", "unpause"] => run("xl", &["unpause", name.as_str()]),
        ["dmsetup", "remove", device] => run("dmsetup", &["remove", "--retry", device]),
        ["lvremove", volume] => run("lvremove", &[volume]),
        _ => format!("{words:?}: not done"),
    };
    story.steps.push(said);
    story.live_on();
}
