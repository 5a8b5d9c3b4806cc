//! fio on one of the lab's hosts: every block that it writes tells what belongs there, and is read
//! again.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::shell::Shell;

/// A job: 16 requests at a time, past the page cache.
#[derive(Clone, Debug)]
pub struct Job {
    /// What to write to and read from.
    pub device: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How much of the device it has, in bytes.
    pub size: u64,
    /// fio's other options: what is read and written, and in what blocks.
    pub options: String,
}

/// What fio said of a job.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Bytes read, for the verification too.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// The longest that a write took, in seconds.
    pub longest_write: f64,
}

impl Job {
    /// The command, with the result as JSON on its standard output.
    pub fn command(&self, more: &str) -> String {
        let Job {
            device,
            offset,
            size,
            options,
        } = self;
        // In a directory of its own, because fio leaves its state there. At the first difference it
        // ends, and says which block had what.
        format!(
            "mkdir -p /tmp/fio && cd /tmp/fio && fio --name=job --filename={device} --ioengine=libaio --direct=1 --iodepth=16 \
             --verify=crc32c --verify_fatal=1 --offset={offset} --size={size} {options} {more} --output-format=json"
        )
    }

    /// Writes and verifies.
    ///
    /// # Errors
    /// fio fails, or writes nothing.
    pub fn run(&self, shell: &mut Shell) -> Result<Done> {
        let done = self.read_result(&shell.ok(&self.command(""))?)?;
        ensure!(done.written > 0, "nothing was written by {self:?}");
        Ok(done)
    }

    /// Reads once more what [`Job::run`] wrote.
    ///
    /// # Errors
    /// fio fails, finds a difference, or does not read everything.
    pub fn verify(&self, shell: &mut Shell) -> Result<()> {
        // fio counts what it would have written as written.
        let done = self.read_result(&shell.ok(&self.command("--verify_only"))?)?;
        ensure!(
            done.read >= done.written && done.written > 0,
            "not everything was verified: {done:?} by {self:?}"
        );
        Ok(())
    }

    /// Understands fio's JSON; an error it met is an error.
    ///
    /// # Errors
    /// It is not fio's JSON, or tells of an error.
    pub fn read_result(&self, said: &str) -> Result<Done> {
        // Notes may come before the JSON.
        let json = said.find('{').map_or("", |at| &said[at..]);
        let result: Value =
            serde_json::from_str(json).with_context(|| format!("not fio's JSON: {said}"))?;
        let job = &result["jobs"][0];
        ensure!(job["error"] == 0, "fio met an error in {self:?}: {said}");
        let bytes = |what: &str| job[what]["io_bytes"].as_u64().context("io_bytes");
        Ok(Done {
            read: bytes("read")?,
            written: bytes("write")?,
            longest_write: job["write"]["lat_ns"]["max"].as_f64().context("lat_ns")? / 1e9,
        })
    }
}
