//! Several hosts, and several stations: config strings, reservations, and one address that two have.
use p2v_contract::operation::Reservation;

use super::*;
use crate::acl::{MacMask, Reserve, reserve};
use crate::config::STRING_MAX;

#[test]
fn config_strings_by_all_five_sub_commands() {
    let bench = Bench::quiet();
    let station = bench.segment.station(HOST);
    let ask = |sub: u8, string: &[u8]| {
        let query = QueryConfig {
            sub,
            string: string.to_vec(),
            ..QueryConfig::default()
        };
        let frame =
            Header::request(HOST, AGENT, E7_0, command::CONFIG, 5).frame(&[&query.to_bytes()]);
        let replies = bench.exchange(&station, &frame);
        replies.first().map(|reply| {
            let (header, body) = frame::parse(reply).unwrap();
            header
                .error
                .map_or_else(|| Ok(QueryConfig::parse(body).unwrap().string), Err)
        })
    };
    assert_eq!(ask(sub::READ, b""), Some(Ok(vec![])));
    assert_eq!(
        ask(sub::SET_IF_EMPTY, b"host a"),
        Some(Ok(b"host a".to_vec()))
    );
    assert_eq!(ask(sub::SET_IF_EMPTY, b"host b"), Some(Err(4)));
    assert_eq!(ask(sub::TEST, b"host"), None);
    assert_eq!(ask(sub::TEST, b"host a"), Some(Ok(b"host a".to_vec())));
    assert_eq!(ask(sub::TEST_PREFIX, b"host"), Some(Ok(b"host a".to_vec())));
    assert_eq!(ask(sub::FORCE_SET, b"host b"), Some(Ok(b"host b".to_vec())));
    assert_eq!(ask(7, b""), Some(Err(2)));
    assert_eq!(ask(sub::READ, b"").unwrap().unwrap(), b"host b");
    assert_eq!(
        ask(sub::FORCE_SET, &[1; STRING_MAX]),
        Some(Ok(vec![1; STRING_MAX]))
    );
}

/// A frame with this command and body, from the host that is on the list; the answer's error and body.
fn ask(bench: &Bench, command: u8, body: &[u8]) -> (Option<u8>, Vec<u8>) {
    let station = bench.segment.station(HOST);
    let frame = Header::request(HOST, AGENT, E7_0, command, 5).frame(&[body]);
    let replies = bench.exchange(&station, &frame);
    let (header, body) = frame::parse(&replies[0]).unwrap();
    (header.error, body.to_vec())
}

fn edit(mac: MacAddr, directive: u8) -> Vec<u8> {
    let edit = MacMask {
        sub: 1,
        error: 0,
        directives: vec![crate::acl::Directive { directive, mac }],
    };
    edit.to_bytes()
}

fn set(sub: u8, macs: &[MacAddr]) -> Vec<u8> {
    let request = Reserve {
        sub,
        macs: macs.to_vec(),
    };
    request.to_bytes()
}

/// Anybody can send a frame with the host's address.
#[test]
fn frames_without_an_order_change_neither_the_list_nor_the_reservation() {
    let bench = Bench::quiet();
    for body in [edit(STRANGER, 1), edit(HOST, 2), edit(HOST, 1)] {
        let (_, answer) = ask(&bench, command::MAC_MASK, &body);
        let list = MacMask::parse(&answer).unwrap();
        assert_eq!(list.error, crate::acl::mask_error::UNSPECIFIED);
        assert_eq!(list.directives.len(), 1);
        assert_eq!(list.directives[0].mac, HOST);
    }
    for sub in [reserve::SET, reserve::FORCE_SET] {
        for macs in [&[][..], &[HOST], &[STRANGER]] {
            let (error, answer) = ask(&bench, command::RESERVE, &set(sub, macs));
            assert_eq!(error, Some(6), "{sub} {macs:?}");
            assert!(Reserve::parse(&answer).unwrap().macs.is_empty());
        }
    }
    let mut session = bench.session();
    assert!(matches!(session.reserve(), Err(Error::Reserved { .. })));
    session
        .reserve_by_order(&key(), 1, Reservation::Take)
        .unwrap();
    let (_, answer) = ask(&bench, command::RESERVE, &set(reserve::FORCE_SET, &[]));
    assert_eq!(Reserve::parse(&answer).unwrap().macs, [HOST]);
    session.read(0, &mut [0; 512]).unwrap();
    session
        .reserve_by_order(&key(), 2, Reservation::End)
        .unwrap();
    let (_, answer) = ask(&bench, command::RESERVE, &set(reserve::READ, &[]));
    assert!(Reserve::parse(&answer).unwrap().macs.is_empty());
}

#[test]
fn a_reservation_by_order_keeps_the_other_host_out() {
    let disk = MemoryDisk::new([]);
    let other = MacAddr(2, 0, 0, 0, 0, 2);
    let both = TargetConfig {
        hosts: vec![HOST, other],
        ..config(disk.clone())
    };
    let bench = Bench::of(both, disk, |_| Fate::Arrives);
    let mut session = bench.session();
    let mut second = bench.initiator(other).attach(E7_0).unwrap();
    session
        .reserve_by_order(&key(), 1, Reservation::Take)
        .unwrap();
    assert!(matches!(
        second.read(0, &mut [0; 512]),
        Err(Error::Reserved { .. })
    ));
    for (reservation, counter) in [(Reservation::Take, 2), (Reservation::End, 3)] {
        assert!(matches!(
            second.reserve_by_order(&key(), counter, reservation),
            Err(Error::Vendor {
                status: Status::Reserved,
                ..
            })
        ));
    }
    session
        .reserve_by_order(&key(), 4, Reservation::End)
        .unwrap();
    second.read(0, &mut [0; 512]).unwrap();
}

/// One that takes no orders and was given no list, as vblade is.
#[test]
fn a_target_without_a_list_does_what_the_standard_says() {
    let disk = MemoryDisk::new([]);
    let open = TargetConfig {
        hosts: vec![],
        keys: vec![],
        ..config(disk.clone())
    };
    let bench = Bench::of(open, disk, |_| Fate::Arrives);
    let other = MacAddr(2, 0, 0, 0, 0, 2);
    for mac in [HOST, other] {
        let (_, answer) = ask(&bench, command::MAC_MASK, &edit(mac, 1));
        assert_eq!(MacMask::parse(&answer).unwrap().error, 0);
    }
    let mut session = bench.session();
    session.reserve().unwrap();
    assert!(matches!(
        bench.initiator(other).attach(E7_0),
        Err(Error::Reserved { .. })
    ));
    session.release().unwrap();
    let mut second = bench.initiator(other).attach(E7_0).unwrap();
    second.reserve().unwrap();
    assert!(matches!(session.reserve(), Err(Error::Reserved { .. })));
    assert!(matches!(session.release(), Err(Error::Reserved { .. })));
    assert!(matches!(
        session.read(0, &mut [0; 512]),
        Err(Error::Reserved { .. })
    ));
}

/// With a list, but without keys: `p2v-agent export --allow`.
#[test]
fn a_list_that_was_given_is_not_edited() {
    let disk = MemoryDisk::new([]);
    let listed = TargetConfig {
        keys: vec![],
        ..config(disk.clone())
    };
    let bench = Bench::of(listed, disk, |_| Fate::Arrives);
    let (_, answer) = ask(&bench, command::MAC_MASK, &edit(STRANGER, 1));
    assert_eq!(
        MacMask::parse(&answer).unwrap().error,
        crate::acl::mask_error::UNSPECIFIED
    );
    let mut session = bench.session();
    session.reserve().unwrap();
    session.release().unwrap();
}

#[test]
fn two_stations_with_one_address_are_refused() {
    let bench = Bench::quiet();
    let wire: Arc<dyn Wire> = bench.segment.station(MacAddr(2, 0, 0, 0, 0, 8));
    let found = conflicts(
        &*wire,
        &[E7_0, Address::new(7, 1)],
        1,
        Duration::from_millis(100),
    )
    .unwrap();
    assert_eq!(
        found,
        [Conflict {
            address: E7_0,
            mac: AGENT
        }]
    );

    let config = TargetConfig {
        exports: vec![Export {
            address: E7_0,
            disk: MemoryDisk::new([]),
            identify: Default::default(),
            access: Access::ReadOnly,
            durability: Durability::Stable,
        }],
        hosts: vec![],
        keys: vec![],
        inventory: vec![],
        boot_id: String::new(),
    };
    let target = Target::new(config, Arc::new(Told::default())).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| target.serve(std::slice::from_ref(&wire), &stop));
        let attached = bench.initiator(HOST).attach(E7_0);
        stop.store(true, Ordering::Release);
        match attached {
            Err(Error::TwoStations { macs, .. }) => assert_eq!(macs.len(), 2),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("attached to one of two"),
        }
    });
}
