//! The promises of leases, one by one and at random.

use super::*;
use proptest::prelude::*;

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 7, last)
}

fn mac(last: u8) -> MacAddr {
    MacAddr::new(0x52, 0x54, 0, 0, 0, last)
}

fn range() -> Range {
    Range {
        pool: Some((ip(10), ip(13))),
        reserved: [ip(12)].into(),
        fixed: [(mac(1), ip(11)), (mac(2), ip(50))].into(),
        lease_seconds: 600,
    }
}

#[test]
fn fixed_addresses_go_to_their_machine_only() {
    let (range, mut leases) = (range(), Leases::default());
    assert_eq!(leases.offer(&range, mac(1), None, 0), Ok(ip(11)));
    assert_eq!(leases.offer(&range, mac(2), Some(ip(10)), 0), Ok(ip(50)));
    assert_eq!(leases.offer(&range, mac(3), Some(ip(11)), 0), Ok(ip(10)));
    assert_eq!(leases.offer(&range, mac(4), Some(ip(12)), 0), Ok(ip(13)));
    assert_eq!(
        leases.offer(&range, mac(5), None, 0),
        Err(NoAddress::PoolUsedUp)
    );
}

#[test]
fn a_machine_gets_the_same_address_again_and_a_dead_lease_is_reused_last() {
    let (range, mut leases) = (range(), Leases::default());
    assert_eq!(leases.offer(&range, mac(3), None, 0), Ok(ip(10)));
    assert_eq!(
        leases.request(&range, mac(3), ip(10), true, 0),
        Requested::Granted(ip(10))
    );
    assert_eq!(
        leases.offer(&range, mac(4), None, 700),
        Ok(ip(13)),
        "a fresh one first"
    );
    assert_eq!(leases.offer(&range, mac(3), None, 800), Ok(ip(10)));
    leases.request(&range, mac(3), ip(10), true, 800);
    assert_eq!(
        leases.offer(&range, mac(5), None, 1000),
        Ok(ip(13)),
        "the offer ran out"
    );
    assert_eq!(
        leases.request(&range, mac(4), ip(13), true, 1000),
        Requested::Refused
    );
}

#[test]
fn an_offer_does_not_shorten_a_lease() {
    let (range, mut leases) = (range(), Leases::default());
    leases.offer(&range, mac(3), None, 0).unwrap();
    leases.request(&range, mac(3), ip(10), true, 0);
    leases.offer(&range, mac(3), None, 100).unwrap();
    assert_eq!(leases.iter().next().unwrap().1.until, 600);
}

#[test]
fn a_client_of_another_server_is_left_alone() {
    let (range, mut leases) = (range(), Leases::default());
    assert_eq!(
        leases.request(&range, mac(3), ip(10), false, 0),
        Requested::NotOurs
    );
    assert_eq!(
        leases.request(&range, mac(3), ip(10), true, 0),
        Requested::Refused
    );
}

#[test]
fn a_declined_address_is_left_alone_and_strangers_cannot_decline() {
    let (range, mut leases) = (range(), Leases::default());
    leases.offer(&range, mac(3), None, 0).unwrap();
    assert!(!leases.decline(mac(4), ip(10), 0));
    assert!(leases.decline(mac(3), ip(10), 0));
    assert_eq!(leases.offer(&range, mac(3), None, 0), Ok(ip(13)));
    leases.offer(&range, mac(1), None, 0).unwrap();
    assert!(leases.decline(mac(1), ip(11), 0));
    // One of the pool has to do meanwhile, and it can be had.
    assert_eq!(leases.offer(&range, mac(2), None, 9), Ok(ip(50)));
    leases.found_in_use(ip(50), 200);
    assert_eq!(leases.offer(&range, mac(2), None, 200), Ok(ip(13)));
    assert_eq!(
        leases.request(&range, mac(2), ip(13), true, 200),
        Requested::Granted(ip(13))
    );
    let no_pool = Range {
        pool: None,
        ..range.clone()
    };
    assert_eq!(
        leases.offer(&no_pool, mac(1), None, 9),
        Err(NoAddress::FixedInUse(ip(11)))
    );
    assert_eq!(leases.offer(&range, mac(1), None, 4000), Ok(ip(11)));
}

#[test]
fn leases_survive_being_written_down() {
    let (range, mut leases) = (range(), Leases::default());
    leases.offer(&range, mac(3), None, 5).unwrap();
    leases.request(&range, mac(3), ip(10), true, 5);
    let text = serde_json::to_string(&leases).unwrap();
    let mut again: Leases = serde_json::from_str(&text).unwrap();
    assert_eq!(again, leases);
    assert_eq!(again.offer(&range, mac(4), None, 6), Ok(ip(13)));
}

proptest! {
    /// Whatever machines do, in whatever order: no address is held by two, none is given that
    /// is reserved or another's, and a granted one stays its machine's until it runs out.
    #[test]
    fn no_address_is_given_twice(
        steps in proptest::collection::vec((0u8..4, 0u8..8, 8u8..16, 0u64..400), 1..80)
    ) {
        let (range, mut leases) = (range(), Leases::default());
        let mut granted: BTreeMap<Ipv4Addr, (MacAddr, u64)> = BTreeMap::new();
        let mut now = 0;
        for (what, who, address, passed) in steps {
            now += passed;
            let (who, address) = (mac(who), ip(address));
            let given = match what {
                0 => leases.offer(&range, who, Some(address), now).ok(),
                1 => match leases.request(&range, who, address, true, now) {
                    Requested::Granted(address) => {
                        granted.insert(address, (who, now + range.lease_seconds));
                        Some(address)
                    }
                    _ => None,
                },
                2 => { leases.release(who, now); granted.retain(|_, g| g.0 != who); None }
                _ => {
                    if leases.decline(who, address, now) { granted.remove(&address); }
                    None
                }
            };
            if let Some(given) = given {
                prop_assert!(!range.reserved.contains(&given));
                match range.fixed.get(&who) {
                    Some(&fixed) if fixed == given => {}
                    // Its own was declined.
                    _ => prop_assert!(range.is_free_for_all(given)),
                }
                if let Some(&(owner, until)) = granted.get(&given) {
                    prop_assert!(owner == who || until <= now, "{} is {}'s", given, owner);
                }
            }
            let held: Vec<_> = leases.iter().map(|(_, lease)| lease.address).collect();
            let distinct: BTreeSet<_> = held.iter().collect();
            prop_assert_eq!(held.len(), distinct.len());
        }
    }
}
