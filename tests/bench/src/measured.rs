//! How a row is measured: its contenders by turns, round after round, and of each the median.

use std::fmt::Debug;

use anyhow::{Context, Result};
use serde::Serialize;

/// What a row came to.
#[derive(Clone, Debug, Serialize)]
pub struct Measured<Row, Contender, Taken> {
    pub row: Row,
    pub name: String,
    /// By each contender what its rounds came to.
    pub results: Vec<(Contender, Taken)>,
}

impl<Row: Clone, Contender: Copy + PartialEq + Debug, Taken> Measured<Row, Contender, Taken> {
    /// Measures so many rounds, the contenders by turns, each by `once`; `settle` makes one of the rounds
    /// of each.
    pub fn by_turns(
        row: &Row,
        name: String,
        contenders: &[Contender],
        rounds: usize,
        mut once: impl FnMut(Contender) -> Result<Taken>,
        settle: impl Fn(Vec<Taken>) -> Taken,
    ) -> Result<Self> {
        let mut taken: Vec<(Contender, Vec<Taken>)> =
            contenders.iter().map(|one| (*one, Vec::new())).collect();
        for _ in 0..rounds {
            for (contender, list) in &mut taken {
                let one = once(*contender).with_context(|| format!("{name}, {contender:?}"))?;
                list.push(one);
            }
        }
        let results = taken
            .into_iter()
            .map(|(contender, list)| (contender, settle(list)))
            .collect();
        Ok(Measured {
            row: row.clone(),
            name,
            results,
        })
    }

    /// What one of them came to, if it took part.
    pub fn of(&self, contender: Contender) -> Option<&Taken> {
        let found = self.results.iter().find(|(one, _)| *one == contender);
        found.map(|(_, taken)| taken)
    }
}

/// The median of some rounds, of which there is at least one, by a figure.
pub fn median<Taken>(mut rounds: Vec<Taken>, figure: impl Fn(&Taken) -> f64) -> Taken {
    rounds.sort_by(|a, b| figure(a).total_cmp(&figure(b)));
    let middle = rounds.len() / 2;
    rounds.swap_remove(middle)
}
