//! What was done and how to take it back, last first.

use crate::report::Report;

struct Step<'a> {
    what: String,
    back: Box<dyn FnOnce() -> Result<(), String> + 'a>,
    /// The steps before it stand under it: if it cannot be taken back, they stay.
    carried: bool,
}

/// A list of ways back. If it is not [`Undo::keep`]ed, [`Undo::run`] (or dropping it, as on a
/// panic) takes everything back, last first; a way back that fails is reported and the rest still
/// run, unless the failed one stands on them ([`Undo::push_carried`]).
pub struct Undo<'a> {
    report: &'a dyn Report,
    steps: Vec<Step<'a>>,
}

impl<'a> Undo<'a> {
    /// Nothing done yet.
    pub fn new(report: &'a dyn Report) -> Undo<'a> {
        Undo {
            report,
            steps: Vec::new(),
        }
    }

    /// Notes how to take back what was just done (or is about to be, if half of it may happen).
    pub fn push<E: std::fmt::Display>(
        &mut self,
        what: impl Into<String>,
        back: impl FnOnce() -> Result<(), E> + 'a,
    ) {
        self.step(what.into(), back, false);
    }

    /// The same for what everything noted before carries, such as a domain its disks: if it cannot
    /// be taken back, that is all left as it is.
    pub fn push_carried<E: std::fmt::Display>(
        &mut self,
        what: impl Into<String>,
        back: impl FnOnce() -> Result<(), E> + 'a,
    ) {
        self.step(what.into(), back, true);
    }

    fn step<E: std::fmt::Display>(
        &mut self,
        what: String,
        back: impl FnOnce() -> Result<(), E> + 'a,
        carried: bool,
    ) {
        self.steps.push(Step {
            what,
            back: Box::new(|| back().map_err(|e| e.to_string())),
            carried,
        });
    }

    /// All went well: nothing is taken back.
    pub fn keep(mut self) {
        self.steps.clear();
    }

    /// Takes everything back. Returns what could not be taken back, for the error message.
    pub fn run(mut self) -> Vec<String> {
        self.take_back()
    }

    fn take_back(&mut self) -> Vec<String> {
        let mut failed = Vec::new();
        while let Some(Step {
            what,
            back,
            carried,
        }) = self.steps.pop()
        {
            self.report.step(&format!("undoing: {what}"));
            let Err(why) = back() else { continue };
            let mut text = format!("could not undo `{what}`: {why}");
            if carried {
                let left: Vec<String> = self.steps.drain(..).rev().map(|s| s.what).collect();
                if !left.is_empty() {
                    text += &format!(" (so these were left as they are: {})", left.join(", "));
                }
            }
            self.report.warn(&text);
            failed.push(text);
        }
        failed
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        self.take_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Silent;
    use std::cell::RefCell;

    #[test]
    fn last_first_and_a_failure_does_not_stop_the_rest() {
        let order = RefCell::new(Vec::new());
        let mut undo = Undo::new(&Silent);
        for i in 0..3 {
            let order = &order;
            undo.push(format!("step {i}"), move || {
                order.borrow_mut().push(i);
                if i == 1 { Err("stuck") } else { Ok(()) }
            });
        }
        let failed = undo.run();
        assert_eq!(*order.borrow(), [2, 1, 0]);
        assert_eq!(failed, ["could not undo `step 1`: stuck"]);
    }

    #[test]
    fn what_carries_a_step_that_stays_is_left() {
        let order = RefCell::new(Vec::new());
        let mut undo = Undo::new(&Silent);
        for i in 0..4 {
            let order = &order;
            let back = move || {
                order.borrow_mut().push(i);
                if i == 2 { Err("stuck") } else { Ok(()) }
            };
            if i == 2 {
                undo.push_carried(format!("step {i}"), back);
            } else {
                undo.push(format!("step {i}"), back);
            }
        }
        let failed = undo.run();
        assert_eq!(*order.borrow(), [3, 2]);
        assert_eq!(
            failed,
            ["could not undo `step 2`: stuck (so these were left as they are: step 1, step 0)"]
        );
    }

    #[test]
    fn kept_is_kept_and_dropped_is_undone() {
        let count = RefCell::new(0);
        let mut undo = Undo::new(&Silent);
        undo.push("a", || -> Result<(), String> {
            *count.borrow_mut() += 1;
            Ok(())
        });
        undo.keep();
        assert_eq!(*count.borrow(), 0);
        let mut undo = Undo::new(&Silent);
        undo.push("a", || -> Result<(), String> {
            *count.borrow_mut() += 1;
            Ok(())
        });
        drop(undo);
        assert_eq!(*count.borrow(), 1);
    }
}
