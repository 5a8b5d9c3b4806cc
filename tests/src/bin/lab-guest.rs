//! What the lab needs inside its Xen host: the control channel, waiting for a line in a file, raw
//! frames that the product's own programs would never send, and writes that chase each other.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use p2v_lab::control::{Answer, Order};

#[path = "lab-guest/frames.rs"]
mod frames;
#[path = "lab-guest/rewrite.rs"]
mod rewrite;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["serve", port] => serve(port),
        ["wait-line", file, wanted] => wait_line(file, wanted, Duration::from_secs(390)),
        ["send", iface, hex] => frames::send(iface, hex),
        ["capture", iface, file] => frames::capture(iface, file),
        ["replay", iface, file] => frames::replay(iface, file),
        ["rewrite", device, rounds, longest_ms] => rewrite::rewrite(device, rounds, longest_ms),
        _ => Err(anyhow::anyhow!(
            "lab-guest: serve PORT | wait-line FILE TEXT | send|capture|replay IFACE ... | rewrite DEVICE ROUNDS MS"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Carries out orders until the port is closed.
fn serve(port: &str) -> Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(port)
        .with_context(|| format!("cannot open {port}"))?;
    let writer = Mutex::new(file.try_clone()?);
    say(&writer, &Answer::Ready)?;
    for line in BufReader::new(file).lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let status = carry_out(&writer, &order.command)?;
        say(&writer, &Answer::Exit(status))?;
    }
    Ok(())
}

fn say(writer: &Mutex<File>, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut writer = writer
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    Ok(writer.write_all(&line)?)
}

fn carry_out(writer: &Mutex<File>, command: &str) -> Result<i32> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("piped")?;
    let err = child.stderr.take().context("piped")?;
    std::thread::scope(|scope| {
        scope.spawn(|| lines(out, |line| say(writer, &Answer::Out(line))));
        scope.spawn(|| lines(err, |line| say(writer, &Answer::Err(line))));
    });
    let status = child.wait()?;
    Ok(status.code().unwrap_or_else(|| {
        128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0)
    }))
}

fn lines(from: impl Read, each: impl Fn(String) -> Result<()>) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line)
            .trim_end_matches(['\n', '\r'])
            .to_owned();
        if each(text).is_err() {
            return;
        }
        line.clear();
    }
}

/// Prints the first line of `file` with `wanted` in it, as soon as there is one.
fn wait_line(file: &str, wanted: &str, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    loop {
        let text = std::fs::read(file)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        if let Some(line) = text.lines().find(|line| line.contains(wanted)) {
            println!("{line}");
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "{file} has no line with {wanted:?} after {limit:?}; it says:\n{text}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Bytes from hex digits.
fn unhex(text: &str) -> Result<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        bail!("not hex digits: {text:?}");
    }
    (0..text.len())
        .step_by(2)
        .map(|i| Ok(u8::from_str_radix(&text[i..i + 2], 16)?))
        .collect()
}
