//! What was done and how to take it back, last first.

use crate::report::Report;

type Step<'a> = (String, Box<dyn FnOnce() -> Result<(), String> + 'a>);

/// A list of ways back. If it is not [`Undo::keep`]ed, [`Undo::run`] (or dropping it, as on a
/// panic) takes everything back, last first; a way back that fails is reported and the rest still run.
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
        self.steps
            .push((what.into(), Box::new(|| back().map_err(|e| e.to_string()))));
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
        while let Some((what, back)) = self.steps.pop() {
            self.report.step(&format!("undoing: {what}"));
            if let Err(why) = back() {
                let text = format!("could not undo `{what}`: {why}");
                self.report.warn(&text);
                failed.push(text);
            }
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
