//! Lines for the table at the end of `make test`: see `tests/times`.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

/// Notes how long a part of the end-to-end tests took, if a table is kept.
pub fn note(what: &str, took: Duration) {
    let Some(table) = std::env::var_os("P2V_TIMES") else {
        return;
    };
    if let Ok(mut table) = OpenOptions::new().append(true).open(table) {
        // One write, so that lines of two stories do not mix.
        let line = format!("{:5.0} s    {what}\n", took.as_secs_f32());
        let _ = table.write_all(line.as_bytes());
    }
}
