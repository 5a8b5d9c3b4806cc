//! How many connections there may be, in all and of one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub in_all: usize,
    pub per_address: usize,
}

/// Who has how many.
#[derive(Debug)]
pub(super) struct Share {
    all: Arc<Semaphore>,
    per_address: usize,
    held: Arc<Mutex<HashMap<IpAddr, Held>>>,
}

/// What an address has.
#[derive(Debug, Default)]
struct Held {
    places: usize,
    /// It was refused one.
    refused: bool,
}

/// An address has all it may have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// Since it last had none it was refused no other.
    pub first: bool,
}

impl Share {
    pub fn new(places: Places) -> Share {
        Share {
            all: Arc::new(Semaphore::new(places.in_all)),
            per_address: places.per_address,
            held: Arc::default(),
        }
    }

    /// Waits until there is room for one more.
    pub async fn room(&self) -> Room<'_> {
        let permit = Arc::clone(&self.all).acquire_owned().await;
        Room {
            share: self,
            permit: permit.ok(),
        }
    }
}

/// Room for one, not yet anybody's.
pub(super) struct Room<'a> {
    share: &'a Share,
    permit: Option<OwnedSemaphorePermit>,
}

impl Room<'_> {
    /// A place for this address.
    pub fn take(self, address: IpAddr) -> Result<Place, Full> {
        let mut held = self
            .share
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let its = held.entry(address).or_default();
        if its.places >= self.share.per_address {
            let first = !std::mem::replace(&mut its.refused, true);
            return Err(Full { first });
        }
        its.places += 1;
        Ok(Place {
            address,
            held: Arc::clone(&self.share.held),
            _permit: self.permit,
        })
    }
}

/// One connection's, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    address: IpAddr,
    held: Arc<Mutex<HashMap<IpAddr, Held>>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(its) = held.get_mut(&self.address) {
            its.places -= 1;
            if its.places == 0 {
                held.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_gets_its_places_and_no_more_until_it_gives_one_back() {
        let share = Share::new(Places {
            in_all: 3,
            per_address: 2,
        });
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = share.room().await.take(one).unwrap();
        let second = share.room().await.take(one).unwrap();
        for first in [true, false] {
            let full = share.room().await.take(one).unwrap_err();
            assert_eq!(full, Full { first });
        }
        let _third = share.room().await.take(other).unwrap();
        assert_eq!(share.all.available_permits(), 0);
        drop(first);
        assert!(share.room().await.take(one).is_ok());
        drop(second);
        assert_eq!(share.held.lock().unwrap().len(), 1);
    }
}
