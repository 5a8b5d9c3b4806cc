//! Several hosts, and several stations: config strings, reservations, and one address that two have.

use super::*;
use crate::acl::MacMask;
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

#[test]
fn a_reservation_keeps_the_other_host_out() {
    let bench = Bench::quiet();
    let other = MacAddr(2, 0, 0, 0, 0, 2);
    let mut session = bench.session();
    session.reserve().unwrap();
    let edit = MacMask {
        sub: 1,
        error: 0,
        directives: vec![crate::acl::Directive {
            directive: 1,
            mac: other,
        }],
    };
    let station = bench.segment.station(HOST);
    let frame = Header::request(HOST, AGENT, E7_0, command::MAC_MASK, 5).frame(&[&edit.to_bytes()]);
    let reply = bench.exchange(&station, &frame);
    let list = MacMask::parse(frame::parse(&reply[0]).unwrap().1).unwrap();
    assert_eq!(
        list.directives.iter().map(|d| d.mac).collect::<Vec<_>>(),
        [HOST, other]
    );

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
        token: None,
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
