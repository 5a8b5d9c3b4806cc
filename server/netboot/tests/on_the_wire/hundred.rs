//! A power cut is over: a hundred machines ask at once.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use p2v_netboot::{Mode, Pool};
use pnet::util::MacAddr;

use crate::dhcp::{broadcast, client_port, message, option, pxe};
use crate::fetch::fetch;
use crate::lab::{CLIENT_END, LIMIT, Lab, SERVER, pattern, run};

const MACHINES: u8 = 100;
/// Before a machine asks again.
const PATIENCE: Duration = Duration::from_secs(2);

fn mac(number: u8) -> MacAddr {
    MacAddr::new(0x52, 0x54, 0, 0x99, 0, number)
}

/// Sends everybody's question until everybody has an answer of this kind.
fn ask_for_all(
    port: &UdpSocket,
    kind: u8,
    question: impl Fn(u8) -> Vec<u8>,
) -> BTreeMap<u8, Ipv4Addr> {
    let mut answers = BTreeMap::new();
    let until = Instant::now() + LIMIT;
    while answers.len() < usize::from(MACHINES) {
        assert!(
            Instant::now() < until,
            "only {} have an answer",
            answers.len()
        );
        for number in (0..MACHINES).filter(|number| !answers.contains_key(number)) {
            broadcast(port, &question(number));
        }
        let mut buffer = [0; 2048];
        while answers.len() < usize::from(MACHINES)
            && let Ok((len, _)) = port.recv_from(&mut buffer)
        {
            let reply = &buffer[..len];
            let address: [u8; 4] = reply[16..20].try_into().unwrap();
            if option(reply, 53) == Some(vec![kind]) && reply[28..33] == mac(0).octets()[..5] {
                answers.insert(reply[33], Ipv4Addr::from(address));
            }
        }
    }
    answers
}

#[test]
fn a_hundred_machines_at_once_all_boot_and_share_fairly() {
    let lab = Lab::with_address();
    let mut settings = lab.settings(Mode::Dhcp);
    settings.pool = Some(Pool {
        start: Ipv4Addr::new(192, 168, 7, 100),
        end: Ipv4Addr::new(192, 168, 7, 199),
    });
    let expected = Arc::new([
        ("pxelinux.0", std::fs::read(&settings.pxelinux).unwrap()),
        ("ldlinux.c32", std::fs::read(&settings.ldlinux).unwrap()),
        ("vmlinuz", pattern(300_001)),
        ("initrd", pattern(1456 * 40)),
    ]);
    let _service = lab.serve(settings);

    let begun = Instant::now();
    let port = client_port(&lab, PATIENCE);
    let class = pxe("PXEClient:Arch:00000:UNDI:002001", 0);
    // 0x80: the answers are broadcast, as to a ROM that cannot hear others.
    let ask = |number, kind, options: &[&[u8]]| {
        message(kind, mac(number), 0x80, Ipv4Addr::UNSPECIFIED, options)
    };
    let offers = ask_for_all(&port, 2, |number| ask(number, 1, &[&class]));
    println!("all have offers after {:?}", begun.elapsed());
    let given = ask_for_all(&port, 5, |number| {
        let wanted = [&[50, 4], &offers[&number].octets()[..]].concat();
        let server = [&[54, 4], &SERVER.octets()[..]].concat();
        ask(number, 3, &[&class, &wanted, &server])
    });
    println!("all have their addresses after {:?}", begun.elapsed());
    let mut addresses: Vec<Ipv4Addr> = given.values().copied().collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(
        addresses.len(),
        usize::from(MACHINES),
        "one each: {given:?}"
    );

    let batch: String = addresses
        .iter()
        .map(|address| format!("addr add {address}/24 dev {CLIENT_END}\n"))
        .collect();
    std::fs::write(lab.path("addresses"), batch).unwrap();
    run(Command::new("ip")
        .args(["-n", &lab.client.0, "-batch"])
        .arg(lab.path("addresses")));

    let start = Arc::new(Barrier::new(given.len()));
    let machines: Vec<_> = given
        .into_iter()
        .map(|(number, address)| {
            let socket = lab.client.udp((address, 0).into(), PATIENCE);
            let (start, expected) = (Arc::clone(&start), Arc::clone(&expected));
            std::thread::spawn(move || {
                start.wait();
                let begun = Instant::now();
                let whole = |(name, bytes): &(&str, Vec<u8>)| {
                    assert!(fetch(&socket, SERVER, name).as_ref() == Ok(bytes), "{name}");
                };
                expected[..2].iter().for_each(whole);
                let uuid = "pxelinux.cfg/4c4c4544-0042-3010-8051-b4c04f4d3232";
                assert_eq!(fetch(&socket, SERVER, uuid), Err(1));
                let own = mac(number).to_string().replace(':', "-");
                let menu = fetch(&socket, SERVER, &format!("pxelinux.cfg/01-{own}")).unwrap();
                assert!(
                    String::from_utf8(menu)
                        .unwrap()
                        .contains("p2v.token=secret")
                );
                expected[2..].iter().for_each(whole);
                begun.elapsed()
            })
        })
        .collect();
    let mut times: Vec<Duration> = machines.into_iter().map(|m| m.join().unwrap()).collect();
    times.sort();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("median {median:?}, longest {longest:?}");
    assert!(longest < 2 * median, "{times:?}");
    for number in 0..MACHINES {
        let lines = lab.recorder.lines();
        let of = |part: &str| {
            let line = format!("{}: {part}", mac(number));
            lines.iter().any(|l| l.starts_with(&line))
        };
        assert!(
            of("given 192.168.7.1") && of("menu sent: start the agent"),
            "{number}"
        );
    }
}
