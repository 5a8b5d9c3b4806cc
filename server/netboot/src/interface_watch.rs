//! Whether the interface is still the one that the sockets are bound to.
//!
//! A bridge that is taken down and made again (`ifdown`, `ifup`) has its old name and a new index.
//! Sockets stay bound to the old index, and are told nothing: they would be deaf for ever.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::interface::{Interface, InterfaceError};

/// A machine's ROM asks for a minute or so: enough for a restart in between.
const EVERY: Duration = Duration::from_secs(2);

/// Looks in a row that do not find it as it was. One alone may be the kernel's list cut short, or
/// addresses set anew, and each restart is time in which a machine that asks gets no answer.
const LOOKS: u32 = 3;

/// What became of the interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceLost {
    /// Another one has its name now.
    #[error(
        "interface `{name}` was made again (its index was {was} and is {is}), and what was opened on the old one hears \
         nothing: p2v serve has to be started again (its systemd unit does that)"
    )]
    MadeAgain {
        /// The interface.
        name: String,
        /// Its index at the start.
        was: u32,
        /// Its index now.
        is: u32,
    },
    /// It is not as it was.
    #[error(
        "interface `{name}` cannot be served any more: {why}; p2v serve has to be started again once it can be"
    )]
    Gone {
        /// The interface.
        name: String,
        /// What is wrong.
        why: InterfaceError,
    },
}

/// Returns when what was opened on `interface`, as `address`, is of no use any more.
pub(crate) async fn lost(interface: &Interface, address: Ipv4Addr) -> InterfaceLost {
    let mut ticks = tokio::time::interval(EVERY);
    // Looks that were missed are not made up for all at once.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut misses = Misses::default();
    loop {
        ticks.tick().await;
        let found = compare(interface, address, Interface::find(&interface.name));
        if let Some(lost) = misses.count(found) {
            return lost;
        }
    }
}

/// How often in a row it was not as it was.
#[derive(Debug, Default)]
struct Misses(u32);

impl Misses {
    /// Takes down a look; returns what is certain by now.
    fn count(&mut self, found: Result<(), InterfaceLost>) -> Option<InterfaceLost> {
        match found {
            Ok(()) => {
                self.0 = 0;
                None
            }
            Err(lost @ InterfaceLost::MadeAgain { .. }) => Some(lost),
            // Not even the loopback: the list could not be read, which says nothing.
            Err(InterfaceLost::Gone {
                why: InterfaceError::NotFound { others, .. },
                ..
            }) if others.is_empty() => None,
            Err(lost) => {
                self.0 += 1;
                (self.0 >= LOOKS).then_some(lost)
            }
        }
    }
}

fn compare(
    before: &Interface,
    address: Ipv4Addr,
    now: Result<Interface, InterfaceError>,
) -> Result<(), InterfaceLost> {
    let name = &before.name;
    let gone = |why| InterfaceLost::Gone {
        name: name.clone(),
        why,
    };
    let now = now.map_err(gone)?;
    if now.index != before.index {
        return Err(InterfaceLost::MadeAgain {
            name: name.clone(),
            was: before.index,
            is: now.index,
        });
    }
    now.address(Some(address)).map(drop).map_err(gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subnet::Subnet;
    use pnet::util::MacAddr;

    #[test]
    fn only_a_new_index_is_certain_at_once() {
        let name = || "xenbr0".to_owned();
        let missing = |others| {
            Err(InterfaceLost::Gone {
                name: name(),
                why: InterfaceError::NotFound {
                    name: name(),
                    others,
                },
            })
        };
        let gone = || missing(vec!["lo".to_owned()]);
        let mut misses = Misses::default();
        for found in [gone(), gone(), Ok(()), gone(), missing(vec![]), gone()] {
            assert_eq!(misses.count(found), None);
        }
        assert_eq!(misses.count(gone()), gone().err());
        let mut misses = Misses::default();
        for _ in 0..9 {
            assert_eq!(misses.count(missing(vec![])), None);
        }
        let made_again = InterfaceLost::MadeAgain {
            name: name(),
            was: 3,
            is: 9,
        };
        assert_eq!(
            Misses::default().count(Err(made_again.clone())),
            Some(made_again)
        );
    }

    #[test]
    fn its_index_and_its_address_matter_and_nothing_else() {
        let address = |last| Ipv4Addr::new(192, 168, 7, last);
        let subnet = Subnet::new(address(1), Ipv4Addr::new(255, 255, 255, 0)).unwrap();
        let interface = |index, addresses: &[u8]| Interface {
            name: "xenbr0".into(),
            index,
            mac: MacAddr::new(2, 0, 0, 0, 0, 1),
            addresses: addresses.iter().map(|n| (address(*n), subnet)).collect(),
        };
        let before = interface(3, &[1]);
        let after = |now| compare(&before, address(1), now).map_err(|lost| lost.to_string());
        assert_eq!(after(Ok(before.clone())), Ok(()));
        assert_eq!(after(Ok(interface(3, &[2, 1]))), Ok(()));
        let made_again = after(Ok(interface(9, &[1]))).unwrap_err();
        assert!(
            made_again.contains("`xenbr0` was made again"),
            "{made_again}"
        );
        for now in [
            Ok(interface(3, &[])),
            Ok(interface(3, &[2])),
            Err(InterfaceError::NotEthernet("xenbr0".into())),
        ] {
            let gone = after(now).unwrap_err();
            assert!(gone.contains("any more"), "{gone}");
        }
    }
}
