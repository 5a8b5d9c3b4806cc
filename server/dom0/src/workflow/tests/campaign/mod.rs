//! Campaigns: what the operator's commands, killed anywhere, and damaged files may do to a server that is moved.
//!
//! `P2V_CAMPAIGN` is how many sequences or bit flips there are, `P2V_CAMPAIGN_SEED` where chance begins: the same seed gives
//! the same run. `P2V_CAMPAIGN_ONE` does one sequence of it and tells all its steps.

use std::collections::BTreeMap;
use std::fmt;

mod boot;
mod files;
mod forgets;
mod lead_on;
mod old_server;
mod operator;
mod snapshot;
mod story;
mod worker;
mod world;

/// Chance that can be had again: SplitMix64 (G. L. Steele, D. Lea, C. H. Flood: Fast splittable pseudorandom number
/// generators, 2014).
#[derive(Clone, Debug)]
struct Chance(u64);

impl Chance {
    /// That of the sequence of this number.
    fn of(seed: u64, number: u64) -> Chance {
        let mut chance = Chance(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        chance.next();
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// How many things of each kind there were.
#[derive(Clone, Debug, Default)]
struct Figures(BTreeMap<String, u64>);

impl Figures {
    fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// The greatest of a kind.
    fn most(&mut self, what: String, count: u64) {
        let most = self.0.entry(what).or_default();
        *most = count.max(*most);
    }

    fn take_in(&mut self, other: Figures) {
        for (what, count) in other.0 {
            match what.ends_with(" at most") {
                true => self.most(what, count),
                false => *self.0.entry(what).or_default() += count,
            }
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in &self.0 {
            write!(f, "\n  {count:>8} {what}")?;
        }
        Ok(())
    }
}

/// A number from the environment.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

/// Where chance begins.
fn seed() -> u64 {
    number("P2V_CAMPAIGN_SEED").unwrap_or_else(|| {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).unwrap();
        u32::from_le_bytes(bytes).into()
    })
}

/// A directory in memory, where there is one: what is synced there costs nothing.
fn directory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = tempfile::tempdir_in(memory);
    made.or_else(|_| tempfile::tempdir()).unwrap()
}
