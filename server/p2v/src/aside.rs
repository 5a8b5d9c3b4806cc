//! Work that may have to wait for somebody else, by a thread of its own: whoever gives it never waits.

use std::io;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What there is to do, and the thread that does it. `T` takes in whatever comes while the thread waits, and so is
/// to be bounded by those who add to it.
#[derive(Debug)]
pub struct Aside<T> {
    waiting: Mutex<Waiting<T>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting<T> {
    /// `None`: nothing.
    work: Option<T>,
    /// Some is being done at this moment.
    is_at_work: bool,
}

impl<T: Default + Send + 'static> Aside<T> {
    /// Starts the thread. Threads of before the service gave root up would keep it.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(name: &str, work: impl Fn(T) + Send + 'static) -> io::Result<&'static Aside<T>> {
        let aside: &'static Aside<T> = Box::leak(Box::new(Aside {
            waiting: Mutex::default(),
            changed: Condvar::new(),
        }));
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || aside.work_on(work))?;
        Ok(aside)
    }

    /// Adds to what there is to do.
    pub fn add(&self, add: impl FnOnce(&mut T)) {
        add(self.lock().work.get_or_insert_default());
        self.changed.notify_all();
    }

    /// Waits until all is done, or for so long.
    pub fn wait(&self, limit: Duration) {
        let is_left = |waiting: &mut Waiting<T>| waiting.is_at_work || waiting.work.is_some();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, is_left);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        // What is added is whole at every moment.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work_on(&self, work: impl Fn(T)) -> ! {
        let mut waiting = self.lock();
        loop {
            let Some(now) = mem::take(&mut waiting.work) else {
                let woken = self.changed.wait(waiting);
                waiting = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            waiting.is_at_work = true;
            drop(waiting);
            work(now);
            waiting = self.lock();
            waiting.is_at_work = false;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn who_adds_never_waits_and_what_was_added_meanwhile_is_done_at_once() {
        let ((began, begins), (go, goes)) = (mpsc::channel(), mpsc::channel::<()>());
        let aside = Aside::start("test", move |work: Vec<u32>| {
            began.send(work).unwrap();
            goes.recv().unwrap();
        });
        let aside = aside.unwrap();
        aside.add(|work| work.push(1));
        assert_eq!(begins.recv().unwrap(), [1]);
        (2..5).for_each(|n| aside.add(|work| work.push(n)));
        aside.wait(Duration::from_millis(1));
        assert!(begins.try_recv().is_err());
        go.send(()).unwrap();
        assert_eq!(begins.recv().unwrap(), [2, 3, 4]);
        go.send(()).unwrap();
        aside.wait(Duration::from_secs(60));
        let waiting = aside.lock();
        assert!(waiting.work.is_none() && !waiting.is_at_work);
    }
}
