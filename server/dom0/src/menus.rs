//! Which boot menus a machine may have been started by.
//!
//! Each menu of ours has an id, which the agent tells in its inventory: so the host knows that a machine was started by
//! one of its own menus, and by which. It is no secret. A ROM may fetch its menu several times within one boot, and a
//! stranger may fetch it at any time, so a new id never makes an older one worthless: the host keeps many.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// An id this young is given out again rather than replaced: a ROM that retries, or a boot
/// loader that asks for `01-<mac>` twice, is one boot.
pub const REUSE: Duration = Duration::from_secs(120);

/// How many are kept, besides the one that was heard of. Many, because menus fetched by
/// others must not push out the one of a machine that is booting or was not asked yet.
pub const KEPT: usize = 64;

/// One menu that was given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Menu {
    /// 32 random hex digits.
    pub id: String,
    /// When it was made.
    pub issued: Timestamp,
}

/// The menus of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Menus {
    /// The one that its agent was last known to be started by.
    pub heard: Option<Menu>,
    /// The one in files for a server or a medium without p2v, which stay where they are.
    pub in_files: Option<Menu>,
    /// Given out, newest last.
    pub issued: Vec<Menu>,
}

impl Menus {
    /// The id for a menu asked for `now`: the newest if it is younger than [`REUSE`], else a
    /// new one from `make`, which must be random. A clock that was set back makes a new one.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn issue<E>(
        &mut self,
        now: Timestamp,
        make: impl FnOnce() -> Result<String, E>,
    ) -> Result<String, E> {
        if let Some(newest) = self.issued.last()
            && newest.issued.age_at(now).is_some_and(|age| age < REUSE)
        {
            return Ok(newest.id.clone());
        }
        let id = make()?;
        self.issued.push(Menu {
            id: id.clone(),
            issued: now,
        });
        let surplus = self.issued.len().saturating_sub(KEPT);
        self.issued.drain(..surplus);
        Ok(id)
    }

    /// The id for files, made once.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn for_files<E>(
        &mut self,
        now: Timestamp,
        make: impl FnOnce() -> Result<String, E>,
    ) -> Result<String, E> {
        if let Some(menu) = &self.in_files {
            return Ok(menu.id.clone());
        }
        let id = make()?;
        self.in_files = Some(Menu {
            id: id.clone(),
            issued: now,
        });
        Ok(id)
    }

    /// The newest that was given out.
    pub fn last(&self) -> Option<&str> {
        let newest = self.issued.last().or(self.heard.as_ref())?;
        Some(&newest.id)
    }

    fn find(&self, id: &str) -> Option<&Menu> {
        let all = self.issued.iter().rev();
        let mut all = all.chain(&self.in_files).chain(&self.heard);
        all.find(|menu| menu.id == id)
    }

    /// Whether this is one of them.
    pub fn know(&self, id: &str) -> bool {
        self.find(id).is_some()
    }

    /// An agent tells that it was started by this one, which is kept from now on until another is heard of. One that is
    /// not known changes nothing.
    pub fn hear(&mut self, id: &str) {
        if let Some(menu) = self.find(id).cloned() {
            self.heard = Some(menu);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn make(n: u64) -> impl FnOnce() -> Result<String, Infallible> {
        move || Ok(format!("{n:032x}"))
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(1_000_000 + seconds)
    }

    #[test]
    fn one_boot_has_one_id() {
        let mut menus = Menus::default();
        let first = menus.issue(at(0), make(1)).unwrap();
        assert_eq!(menus.issue(at(119), make(2)).unwrap(), first);
        assert_ne!(menus.issue(at(120), make(3)).unwrap(), first);
        // The clock was set back: one from the future is not reused.
        let early = menus.issue(at(10), make(4)).unwrap();
        assert_eq!(early, make(4)().unwrap());
    }

    #[test]
    fn strangers_cannot_push_out_the_running_boots_menu_or_that_of_a_medium() {
        let mut menus = Menus::default();
        let mine = menus.issue(at(0), make(0)).unwrap();
        let medium = menus.for_files(at(0), make(7777)).unwrap();
        assert_eq!(menus.for_files(at(9), make(7778)).unwrap(), medium);
        menus.hear(&mine);
        for n in 1..1000 {
            menus.issue(at(n * 121), make(n)).unwrap();
        }
        assert_eq!(menus.issued.len(), KEPT);
        assert!(menus.know(&mine) && menus.know(&medium));
        // A newer boot is heard of; a claim we know nothing of changes nothing.
        let newer = make(999)().unwrap();
        menus.hear("0123456789abcdef");
        assert_eq!(menus.heard.as_ref().unwrap().id, mine);
        menus.hear(&newer);
        assert_eq!(menus.heard.as_ref().unwrap().id, newer);
        assert!(!menus.know(&mine) && !menus.know(""));
    }

    #[test]
    fn not_yet_heard_of_survives_many_fetches() {
        let mut menus = Menus::default();
        let mine = menus.issue(at(0), make(0)).unwrap();
        for n in 1..KEPT as u64 {
            menus.issue(at(n * 121), make(n)).unwrap();
        }
        assert!(menus.know(&mine));
    }
}
