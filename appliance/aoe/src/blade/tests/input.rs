//! Frames that no initiator sends, and frames of a host that is not on the list.

use proptest::prelude::*;

use super::*;

#[test]
fn a_stranger_sees_that_it_is_there_and_nothing_more() {
    let bench = Bench::quiet();
    let before = bench.disk.data.lock().unwrap().clone();
    assert!(matches!(
        bench.initiator(STRANGER).attach(E7_0),
        Err(Error::NotOnList { own: STRANGER, .. })
    ));
    let station = bench.segment.station(STRANGER);
    for command in [
        command::ATA,
        command::MAC_MASK,
        command::RESERVE,
        command::P2V,
        77,
    ] {
        let frame = Header::request(STRANGER, AGENT, E7_0, command, 5).frame(&[&[0; 32]]);
        assert_eq!(
            bench.exchange(&station, &frame),
            Vec::<Vec<u8>>::new(),
            "command {command}"
        );
    }
    let set = QueryConfig {
        sub: sub::FORCE_SET,
        string: b"mine".to_vec(),
        ..QueryConfig::default()
    };
    let frame =
        Header::request(STRANGER, AGENT, E7_0, command::CONFIG, 5).frame(&[&set.to_bytes()]);
    assert!(bench.exchange(&station, &frame).is_empty());
    assert_eq!(*bench.disk.data.lock().unwrap(), before);
    assert!(bench.target.status()[0].stats.get("strangers").unwrap() >= 5);
}

#[test]
fn bad_input_gets_the_protocols_error_and_changes_nothing() {
    let bench = Bench::quiet();
    bench
        .session()
        .access(&key(), 1, Access::ReadWrite)
        .unwrap();
    let before = bench.disk.data.lock().unwrap().clone();
    let station = bench.segment.station(HOST);
    let status = |registers: Registers, data: &[u8]| {
        let replies = bench.exchange(&station, &ata(E7_0, registers, data));
        assert_eq!(replies.len(), 1, "{registers:?}");
        let answer = registers_of(&replies[0]);
        (answer.command, answer.feature)
    };
    // LBA past the end, by one and by much; wrap-around.
    for lba in [SECTORS, SECTORS - 1, (1 << 48) - 1] {
        assert_eq!(
            status(Registers::transfer(false, lba, 2), &[]),
            (0x41, ata::ERROR_ID_NOT_FOUND)
        );
        assert_eq!(
            status(Registers::transfer(true, lba, 2), &[7; 1024]),
            (0x41, ata::ERROR_ID_NOT_FOUND)
        );
    }
    // No sectors; more than a frame holds; less data than sectors.
    assert_eq!(
        status(Registers::transfer(false, 0, 0), &[]),
        (0x41, ata::ERROR_ABORT)
    );
    assert_eq!(
        status(Registers::transfer(false, 0, 255), &[]),
        (0x41, ata::ERROR_ABORT)
    );
    assert_eq!(
        status(Registers::transfer(true, 0, 2), &[7; 1023]),
        (0x41, ata::ERROR_ABORT)
    );
    // A command that does not exist, or that we do not do: SECURITY ERASE, TRIM.
    for command in [0xff, 0xf4, 0x06] {
        assert_eq!(
            status(
                Registers {
                    command,
                    ..Registers::default()
                },
                &[]
            ),
            (0x41, ata::ERROR_ABORT)
        );
    }
    let error = |frame: &[u8]| {
        frame::parse(&bench.exchange(&station, frame)[0])
            .unwrap()
            .0
            .error
    };
    assert_eq!(
        error(&Header::request(HOST, AGENT, E7_0, 9, 5).frame(&[])),
        Some(1)
    );
    let mut version = ata(E7_0, Registers::transfer(true, 0, 1), &[7; 512]);
    version[14] = 0x20;
    let replies = {
        station.send(&[version.clone()]).unwrap();
        bench.exchange(&station, &version)
    };
    assert!(
        replies.iter().all(|r| r[15] == 5 && r[14] & 0x0c == 0x0c),
        "{replies:?}"
    );
    // Truncated anywhere: an error, silence, but never a change.
    let whole = ata(E7_0, Registers::transfer(true, 0, 2), &[7; 1024]);
    for length in (0..36).chain([60, 1000, whole.len() - 1]) {
        bench.exchange(&station, &whole[..length.max(14)]);
    }
    // Writes for "all" are for nobody.
    for address in [Address::ALL, Address::new(7, 0xff), Address::new(0xffff, 0)] {
        assert!(
            bench
                .exchange(
                    &station,
                    &ata(address, Registers::transfer(true, 0, 1), &[7; 512])
                )
                .is_empty()
        );
    }
    // A response is never answered.
    let mut response = whole.clone();
    response[14] |= 8;
    assert!(bench.exchange(&station, &response).is_empty());
    assert_eq!(*bench.disk.data.lock().unwrap(), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Any frame whatever from a host on the list, while read-only: no panic, no change.
    #[test]
    fn any_frame_is_survived(
        command in prop_oneof![0u8..4, Just(command::P2V), any::<u8>()],
        body in proptest::collection::vec(any::<u8>(), 0..1400), flags in 0u8..16,
    ) {
        let bench = Bench::quiet();
        let before = bench.disk.data.lock().unwrap().clone();
        let station = bench.segment.station(HOST);
        let mut frame = Header::request(HOST, AGENT, E7_0, command, 5).frame(&[&body]);
        frame[14] = 0x10 | flags;
        bench.exchange(&station, &frame);
        prop_assert!(*bench.disk.data.lock().unwrap() == before);
    }
}
