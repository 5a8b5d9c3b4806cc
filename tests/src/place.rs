//! How many stories run at a time while something else does beside them. `make test` sets both variables.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::Duration;

use anyhow::Result;

/// So many at a time ...
const STORIES: &str = "P2V_STORIES_AT_FIRST";
/// ... until this file is there; then as many as there are threads for them.
const ALONE: &str = "P2V_ALONE";

/// How often it is looked whether one is free: a story takes minutes.
const LOOK: Duration = Duration::from_millis(500);

thread_local! {
    static HELD: RefCell<Weak<File>> = const { RefCell::new(Weak::new()) };
}

/// A story's place, if there are only so many; free again when the last of it in its thread is dropped.
pub struct Place {
    _lock: Option<Rc<File>>,
}

impl Place {
    /// Waits for one.
    ///
    /// # Errors
    /// `lab` cannot be written to.
    pub fn take(lab: &Path) -> Result<Place> {
        if let Some(held) = HELD.with_borrow(Weak::upgrade) {
            return Ok(Place { _lock: Some(held) });
        }
        let (Ok(places), Some(alone)) = (std::env::var(STORIES), std::env::var_os(ALONE)) else {
            return Ok(Place { _lock: None });
        };
        let places: usize = places.parse()?;
        let directory = lab.join("places");
        fs::create_dir_all(&directory)?;
        // One looks at a time, so that who has waited longest is next.
        let turn = File::create(directory.join("turn"))?;
        turn.lock()?;
        loop {
            if Path::new(&alone).exists() {
                return Ok(Place { _lock: None });
            }
            for place in 0..places {
                let lock = File::create(directory.join(place.to_string()))?;
                if lock.try_lock().is_ok() {
                    let lock = Rc::new(lock);
                    HELD.set(Rc::downgrade(&lock));
                    return Ok(Place { _lock: Some(lock) });
                }
            }
            std::thread::sleep(LOOK);
        }
    }
}
