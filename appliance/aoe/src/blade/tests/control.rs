//! Who may make the disk writable and end the machine.

use std::os::fd::BorrowedFd;

use p2v_contract::operation::{Control, Order, Reply, op};

use super::*;
use crate::ata::opcode;
use crate::frame::HEADER_LEN;

/// A control request of the host, signed as it should be.
fn signed(operation: u8, argument: u8, counter: u64) -> Control {
    let order = Order {
        boot_id: "this start",
        sender: HOST,
        target: E7_0,
        operation,
        argument,
        counter,
        stations: &[],
    };
    order.signed(&key())
}

/// The frame in which it comes.
fn order(request: &Request) -> Vec<u8> {
    Header::request(HOST, AGENT, E7_0, command::P2V, 5).frame(&[&request.to_bytes()])
}

#[test]
fn read_only_until_authorised_and_again_after() {
    let bench = Bench::quiet();
    let before = bench.disk.data.lock().unwrap().clone();
    let mut session = bench.session();
    assert!(matches!(
        session.write(0, &[1; 512]),
        Err(Error::Ata {
            error: ata::ERROR_ABORT,
            ..
        })
    ));
    let wrong = SecretKey::from_bytes(&[1; 32]);
    let refused = session.access(&wrong, 1, Access::ReadWrite);
    assert!(matches!(
        refused,
        Err(Error::Vendor {
            status: Status::NotAuthorised,
            ..
        })
    ));
    assert!(matches!(
        session.write(0, &[1; 512]),
        Err(Error::Ata { .. })
    ));
    assert_eq!(*bench.disk.data.lock().unwrap(), before);

    session.access(&key(), 5, Access::ReadWrite).unwrap();
    session.access(&key(), 6, Access::ReadOnly).unwrap();
    assert!(matches!(
        session.write(0, &[1; 512]),
        Err(Error::Ata { .. })
    ));
    assert!(!bench.disk.writable.load(Ordering::Relaxed));
    assert_eq!(*bench.disk.data.lock().unwrap(), before);
    assert_eq!(bench.target.status()[0].access, Access::ReadOnly);
}

/// A domain runs on the disk: its requests are kept by who gets no answer, and lost by who gets an error.
#[test]
fn one_that_waits_is_silent_to_reads_and_writes_until_it_is_told() {
    let disk = MemoryDisk::new([]);
    let mut waiting = config(disk.clone());
    waiting.exports[0].access = Access::Waiting;
    let bench = Bench::of(waiting, disk, |_| Fate::Arrives);
    let station = bench.segment.station(HOST);
    let data = [7; 512];
    let with = |command, registers: Registers| Registers {
        command,
        ..registers
    };
    let (read, write) = (
        Registers::transfer(false, 5, 1),
        Registers::transfer(true, 5, 1),
    );
    for (registers, sent) in [
        (with(opcode::READ, read), &[][..]),
        (with(opcode::READ_EXT, read), &[]),
        (with(opcode::WRITE, write), &data),
        (with(opcode::WRITE_EXT, write), &data),
        (with(opcode::FLUSH, read), &[]),
        (with(opcode::FLUSH_EXT, read), &[]),
    ] {
        let replies = bench.exchange(&station, &ata(E7_0, registers, sent));
        assert!(replies.is_empty(), "{registers:?}: {replies:x?}");
    }
    // Everything that p2v asks for is answered.
    let mut session = bench.session();
    assert_eq!(session.sectors(), SECTORS);
    assert_eq!(session.inventory().unwrap().boot_id, "this start");
    assert_eq!(session.stats().unwrap().get("read_write"), Some(2));
    session.digest(0, 8).unwrap();
    assert!(
        session.reserve().is_err(),
        "a reservation would take the disk from the domain"
    );
    let ended = session.finish(&key(), 1, Finish::Restart);
    assert!(matches!(
        ended,
        Err(Error::Vendor {
            status: Status::StillWritable,
            ..
        })
    ));
    session.access(&key(), 2, Access::ReadWrite).unwrap();
    session.write(5, &data).unwrap();
    let mut back = [0; 512];
    session.read(5, &mut back).unwrap();
    assert_eq!(back, data);
    // Nobody orders it to wait.
    let order = order(&Request::Access(signed(
        op::ACCESS,
        Access::Waiting as u8,
        3,
    )));
    let reply = &bench.exchange(&station, &order)[0];
    assert!(matches!(
        Reply::parse(frame::parse(reply).unwrap().1).unwrap(),
        Reply::Refused {
            status: Status::BadArgument,
            ..
        }
    ));
    assert_eq!(bench.target.status()[0].access, Access::ReadWrite);
}

#[test]
fn a_recorded_control_frame_does_not_work_again() {
    let bench = Bench::quiet();
    let station = bench.segment.station(HOST);
    let frame =
        |argument: u8, counter: u64| order(&Request::Access(signed(op::ACCESS, argument, counter)));
    let status = |reply: &[u8]| Reply::parse(frame::parse(reply).unwrap().1).unwrap();
    let recorded = frame(2, 1);
    let first = bench.exchange(&station, &recorded);
    assert!(matches!(status(&first[0]), Reply::Done { counter: 1, .. }));
    // A retransmission is answered the same and does nothing.
    assert_eq!(bench.exchange(&station, &recorded), first);
    bench.exchange(&station, &frame(1, 2));
    let replayed = bench.exchange(&station, &recorded);
    assert!(matches!(
        status(&replayed[0]),
        Reply::Refused {
            status: Status::Replayed,
            ..
        }
    ));
    assert_eq!(bench.target.status()[0].access, Access::ReadOnly);
    assert_eq!(
        bench
            .told
            .0
            .lock()
            .unwrap()
            .iter()
            .filter(|e| matches!(e, Event::Access { .. }))
            .count(),
        2
    );
    // One altered bit anywhere in what is signed: argument, counter, signature.
    for bit in (0..8).chain(64..80 * 8).step_by(5) {
        let mut altered = frame(2, 3);
        altered[HEADER_LEN + 4 + bit / 8] ^= 1 << (bit % 8);
        bench.exchange(&station, &altered);
        assert_eq!(
            bench.target.status()[0].access,
            Access::ReadOnly,
            "bit {bit}"
        );
    }
}

#[test]
fn the_machine_ends_only_when_nothing_is_writable() {
    let bench = Bench::quiet();
    let mut session = bench.session();
    session.access(&key(), 1, Access::ReadWrite).unwrap();
    let refused = session.finish(&key(), 2, Finish::PowerOff);
    assert!(matches!(
        refused,
        Err(Error::Vendor {
            status: Status::StillWritable,
            ..
        })
    ));
    session.access(&key(), 3, Access::ReadOnly).unwrap();
    session.finish(&key(), 4, Finish::PowerOff).unwrap();
    // The event is told after the reply was sent, and before the next request is looked at.
    session.stats().unwrap();
    let events = bench.told.0.lock().unwrap().clone();
    assert_eq!(
        events
            .iter()
            .filter(|e| matches!(e, Event::Finish { .. }))
            .count(),
        1
    );
}

/// A wire that carries what comes, and fails at what is sent.
struct Broken(Arc<Station>);

impl Wire for Broken {
    fn mac(&self) -> MacAddr {
        self.0.mac()
    }

    fn mtu(&self) -> usize {
        self.0.mtu()
    }

    fn receive(&self, timeout: Duration, each: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        self.0.receive(timeout, each)
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.0.readiness()
    }

    fn send_parts(&self, _: &[[&[u8]; 2]]) -> io::Result<()> {
        Err(io::Error::other("the wire has failed"))
    }
}

#[test]
fn an_order_to_end_is_carried_out_though_its_answer_cannot_be_sent() {
    let segment = Segment::new(|_| Fate::Arrives);
    let told = Arc::new(Told::default());
    let target = Target::new(config(MemoryDisk::new([])), told.clone()).unwrap();
    let wire: Arc<dyn Wire> = Arc::new(Broken(segment.station(AGENT)));
    let finish = Request::Finish(signed(op::FINISH, Finish::PowerOff as u8, 1));
    segment.station(HOST).send(&[order(&finish)]).unwrap();
    let served = target.serve(&[wire], &AtomicBool::new(false));
    assert!(served.is_err(), "the wire's failure is told as well");
    // The same order, sent again on a wire that works, would be answered as done.
    assert_eq!(
        *told.0.lock().unwrap(),
        [Event::Finish {
            finish: Finish::PowerOff,
            by: HOST
        }]
    );
}
