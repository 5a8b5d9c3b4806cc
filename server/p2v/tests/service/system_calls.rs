//! What a block of TFTP costs.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::wire::{LIMIT, Service, Wire, run};

/// Blocks of the file.
const BLOCKS: usize = 2000;
/// What a thread does before its first block, and after its last.
const AROUND: usize = 40;

#[test]
fn a_block_for_a_machine_alone_is_two_system_calls() {
    let (dir, wire) = (tempfile::tempdir().unwrap(), Wire::new());
    let (config, trace) = (dir.path().join("p2v.toml"), dir.path().join("trace"));
    let file = dir.path().join("vmlinuz");
    fs::write(&file, vec![7; BLOCKS * 1408 - 1]).unwrap();
    let state = dir.path().join("state");
    let text = format!(
        "iface = \"p2vs\"\nstate = {state:?}\n[serve]\nmode = \"off\"\nuser = \"root\"\n\
         kernel = {file:?}\ninitrd = {file:?}\n"
    );
    fs::write(&config, text).unwrap();
    // `-D`: what is ended is p2v, and not its tracer.
    let mut command = wire.on_host("strace");
    command.args(["-D", "-f", "-o"]).arg(&trace);
    command
        .arg(env!("CARGO_BIN_EXE_p2v"))
        .arg("--config")
        .arg(&config)
        .arg("serve");
    let mut service = Service(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(service.0.stderr.take().unwrap()).lines();
    let serving = log.find(|line| line.as_ref().unwrap().contains("serving"));
    assert!(serving.is_some(), "it has ended");

    let curl = [
        "netns",
        "exec",
        &wire.machine,
        "curl",
        "-sS",
        "-m",
        "50",
        "--tftp-blksize",
        "1408",
    ];
    let got = run(Command::new("ip")
        .args(curl)
        .arg("tftp://192.168.7.1/vmlinuz"));
    assert_eq!(got.len(), BLOCKS * 1408 - 1);
    let process = service.0.id();
    run(Command::new("kill").arg(process.to_string()));
    service.0.wait().unwrap();
    let until = Instant::now() + LIMIT;
    let ended = |line: &str| line.starts_with(&process.to_string()) && line.contains(" +++ ");
    let text = loop {
        let text = fs::read_to_string(&trace).unwrap();
        if text.lines().any(ended) {
            break text;
        }
        assert!(Instant::now() < until, "the trace has no end");
        std::thread::yield_now();
    };

    let mut calls: HashMap<&str, (usize, usize)> = HashMap::new();
    // A call that another thread's interrupts has two lines.
    for line in text.lines().filter(|line| !line.contains(" resumed>")) {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let (all, blocks) = calls.entry(thread).or_default();
        *all += 1;
        *blocks += usize::from(call.contains(r#""\0\3"#));
    }
    let (all, blocks) = calls.values().max_by_key(|(_, blocks)| *blocks).unwrap();
    assert!(*blocks >= BLOCKS - 2, "{calls:?}");
    assert!(*all <= 2 * BLOCKS + AROUND, "{calls:?}");
}
