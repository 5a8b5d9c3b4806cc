//! TFTP by hand: what a ROM in trouble sends.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use p2v_netboot::{BootDecision, Image, ImageFiles, ImageName, Mode};

use crate::lab::{CLIENT, Lab, SERVER, pattern};

/// Well below the service's own timeout of 1 s: "at once".
const AT_ONCE: Duration = Duration::from_millis(700);

struct Client(UdpSocket);

impl Client {
    fn new(lab: &Lab) -> Client {
        Client(lab.client.udp(SocketAddr::from((CLIENT, 0)), AT_ONCE))
    }

    fn request(&self, opcode: u8, name: &[u8], rest: &[u8]) {
        let bytes = [&[0, opcode], name, b"\0", rest].concat();
        self.0.send_to(&bytes, (SERVER, 69)).unwrap();
    }

    fn read(&self, name: &str, options: &[u8]) {
        self.request(1, name.as_bytes(), &[b"octet\0", options].concat());
    }

    fn try_hear(&self) -> Option<(Vec<u8>, SocketAddr)> {
        let mut buffer = [0; 2048];
        loop {
            match self.0.recv_from(&mut buffer) {
                Ok((len, from)) => return Some((buffer[..len].to_vec(), from)),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return None;
                }
                // A child of another test's has ended: a receive with a time-out is not restarted
                // (signal(7)).
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn hear(&self) -> (Vec<u8>, SocketAddr) {
        self.try_hear().expect("nothing came at once")
    }

    fn ack(&self, to: SocketAddr, block: u16) {
        self.0
            .send_to(&[&[0, 4], &block.to_be_bytes()[..]].concat(), to)
            .unwrap();
    }

    /// The whole file, by 512-byte blocks.
    fn whole(&self, name: &str) -> Vec<u8> {
        self.read(name, b"");
        let (mut file, mut block) = (Vec::new(), 1_u16);
        loop {
            let (packet, from) = self.hear();
            assert_eq!(
                packet[..2],
                [0, 3],
                "{:?}",
                String::from_utf8_lossy(&packet)
            );
            assert_eq!(packet[2..4], block.to_be_bytes());
            file.extend(&packet[4..]);
            self.ack(from, block);
            block = block.wrapping_add(1);
            if packet.len() < 516 {
                return file;
            }
        }
    }

    /// The error code answered at once.
    fn refused(&self) -> u8 {
        let (packet, _) = self.hear();
        assert_eq!(packet[..3], [0, 5, 0], "{packet:?}");
        packet[3]
    }
}

/// Clients in the middle of a file, who take their time for each block.
struct Others {
    gone: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Others {
    /// More than have a thread each in the service.
    const MANY: usize = 8;
    /// Between two blocks: less than the service's time-out.
    const PACE: Duration = Duration::from_millis(300);

    fn new(lab: &Lab) -> Others {
        let clients: Vec<Client> = (0..Others::MANY).map(|_| Client::new(lab)).collect();
        for client in &clients {
            client.read("initrd", b"");
            let (_, from) = client.hear();
            client.ack(from, 1);
        }
        let gone = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&gone);
        let thread = std::thread::spawn(move || {
            for client in &clients {
                client.0.set_nonblocking(true).unwrap();
            }
            let mut blocks = vec![1; Others::MANY];
            let mut rounds = 0;
            while !told.load(Ordering::Relaxed) {
                std::thread::sleep(Others::PACE);
                rounds += 1;
                for (client, block) in clients.iter().zip(&mut blocks) {
                    if let Some((packet, from)) = client.try_hear()
                        && packet[1] == 3
                    {
                        *block = u16::from_be_bytes([packet[2], packet[3]]);
                        client.ack(from, *block);
                    }
                }
            }
            let least = if rounds < 10 { 1 } else { 3 };
            assert!(blocks.iter().all(|block| *block >= least), "{blocks:?}");
        });
        Others {
            gone,
            thread: Some(thread),
        }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

/// The service serves a few otherwise than many.
fn alone_and_among_many(story: impl Fn(&Lab, Client)) {
    for others in [false, true] {
        let lab = Lab::with_address();
        let _service = lab.serve(lab.settings(Mode::Off));
        let _others = others.then(|| Others::new(&lab));
        story(&lab, Client::new(&lab));
    }
}

#[test]
fn a_machine_that_is_power_cycled_in_the_middle_is_served_again_at_once() {
    alone_and_among_many(|lab, client| {
        for _ in 0..3 {
            client.read("vmlinuz", b"");
            let mut old = None;
            for block in 1..=20_u16 {
                let (packet, from) = client.hear();
                assert_eq!(packet[2..4], block.to_be_bytes());
                client.ack(from, block);
                old = Some(from);
            }
            // Block 21 is on its way; the ROM starts anew from the same port, and drops what it does
            // not know.
            client.read("vmlinuz", b"");
            let begun = Instant::now();
            let new = loop {
                let (packet, from) = client.hear();
                if Some(from) != old {
                    assert_eq!(packet[..4], [0, 3, 0, 1]);
                    break from;
                }
            };
            assert!(begun.elapsed() < AT_ONCE);
            client.ack(new, 1);
            let second = loop {
                let (packet, from) = client.hear();
                if from == new {
                    break packet;
                }
            };
            assert_eq!(second[4..], pattern(300_001)[512..1024]);
            client.0.send_to(b"\0\x05\0\0enough\0", new).unwrap();
            while client.try_hear().is_some_and(|(_, from)| from != new) {}
        }
        lab.recorder
            .wait_for("vmlinuz: stopped by the machine after 512 bytes: enough");
        lab.recorder
            .wait_for("vmlinuz: the machine fell silent after 10 kB");
    });
}

#[test]
fn a_machine_that_aborts_in_the_middle_is_served_again_at_once() {
    alone_and_among_many(|lab, client| {
        client.read("vmlinuz", b"");
        for block in 1..20_u16 {
            let (packet, from) = client.hear();
            assert_eq!(packet[2..4], block.to_be_bytes());
            client.ack(from, block);
        }
        let (block, old) = client.hear();
        assert_eq!(block[..4], [0, 3, 0, 20]);
        client.0.send_to(b"\0\x05\0\0enough\0", old).unwrap();
        // From the same port, for the same file.
        client.read("vmlinuz", b"");
        let (block, new) = client.hear();
        assert_eq!((&block[..4], new == old), (&[0, 3, 0, 1][..], false));
        client.ack(new, 1);
        assert_eq!(client.hear().0[4..], pattern(300_001)[512..1024]);
        lab.recorder
            .wait_for("vmlinuz: stopped by the machine after 9728 bytes: enough");
    });
}

#[test]
fn an_aborted_size_probe_leaves_nothing_behind() {
    let lab = Lab::with_address();
    let _service = lab.serve(lab.settings(Mode::Off));
    let client = Client::new(&lab);
    // Nothing here is about how quickly the answers come.
    let patience = Some(Duration::from_secs(10));
    client.0.set_read_timeout(patience).unwrap();
    for _ in 0..3 {
        client.read("vmlinuz", b"tsize\x000\0");
        let (packet, from) = client.hear();
        assert_eq!(packet, b"\0\x06tsize\x00300001\0");
        client.0.send_to(b"\0\x05\0\0TFTP Aborted", from).unwrap();
        client.read("vmlinuz", b"blksize\x001408\0");
        let (packet, second) = client.hear();
        assert_eq!(packet, b"\0\x06blksize\x001408\0");
        client.0.send_to(b"\0\x05\0\0", second).unwrap();
    }
    // The service would send again after 1 s.
    client
        .0
        .set_read_timeout(Some(Duration::from_millis(1500)))
        .unwrap();
    assert_eq!(client.try_hear(), None);
    lab.recorder
        .wait_for("52:54:00:12:34:56: vmlinuz: asked for its size");
}

#[test]
fn a_request_sent_twice_is_one_transfer() {
    let lab = Lab::with_address();
    let _service = lab.serve(lab.settings(Mode::Off));
    let client = Client::new(&lab);
    client.read("initrd", b"");
    let (block, first) = client.hear();
    client.read("initrd", b"");
    assert_eq!(client.hear(), (block, first), "the same answer, once more");
    client.0.send_to(b"\0\x05\0\0\0", first).unwrap();
    client.read("initrd", b"tsize\x000\0");
    assert_ne!(client.hear().1, first);
}

/// Who asks in another's name has that one sent little: what came, three times, or one smallest
/// first block for each request.
#[test]
fn an_address_that_never_answers_is_sent_little() {
    let lab = Lab::with_address();
    let _service = lab.serve(lab.settings(Mode::Off));
    let all = [
        (&b"tsize\x000\0blksize\x001456\0windowsize\x0016\0"[..], 1),
        (b"", 1),
        (b"", 3),
    ];
    let asked = all.map(|(options, requests)| {
        let client = Client::new(&lab);
        for _ in 0..requests {
            client.read("initrd", options);
            client.hear();
        }
        client
    });
    // Until the service has given them up.
    lab.recorder
        .wait_for_lines("initrd: the machine fell silent after 0", all.len());
    for (client, (options, requests)) in asked.iter().zip(all) {
        let bytes_asked = requests * ("..initrd.octet.".len() + options.len());
        let more = std::iter::from_fn(|| client.try_hear()).map(|(packet, _)| packet.len());
        let more: Vec<usize> = more.collect();
        match options {
            b"" => assert!(more.is_empty(), "{more:?}"),
            // The first one has been heard above, and is as long.
            _ => assert!(
                !more.is_empty() && more[0] + more.iter().sum::<usize>() <= 3 * bytes_asked,
                "{more:?} for {bytes_asked}"
            ),
        }
    }
}

#[test]
fn a_client_that_has_closed_its_port_is_not_sent_more() {
    alone_and_among_many(|lab, client| {
        client.read("vmlinuz", b"");
        let (_, from) = client.hear();
        client.ack(from, 1);
        client.hear();
        let begun = Instant::now();
        drop(client);
        // Its kernel says so when the next block comes: after one timeout, not after all of them.
        lab.recorder
            .wait_for("vmlinuz: stopped by the machine after 512 bytes: its port is closed");
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "{:?}",
            begun.elapsed()
        );
    });
}

#[test]
fn a_lost_first_block_of_a_window_is_sent_again_at_once() {
    alone_and_among_many(|_, client| {
        client.read("vmlinuz", b"windowsize\x004\0");
        let (_, from) = client.hear();
        client.ack(from, 0);
        for _ in 0..4 {
            client.hear();
        }
        // As if block 1 had not come.
        client.ack(from, 0);
        for block in 1..=4_u8 {
            assert_eq!(client.hear().0[..4], [0, 3, 0, block]);
        }
        client.ack(from, 4);
        assert_eq!(client.hear().0[..4], [0, 3, 0, 5]);
    });
}

/// A time-out for each; and who comes back after seconds goes on where it was.
#[test]
fn a_block_that_is_lost_is_sent_again() {
    alone_and_among_many(|lab, client| {
        let patience = Some(Duration::from_secs(10));
        client.0.set_read_timeout(patience).unwrap();
        client.read("vmlinuz", b"");
        let (_, from) = client.hear();
        client.ack(from, 1);
        let next = |block: u8| {
            let (packet, again) = client.hear();
            assert_eq!((&packet[..4], again), (&[0, 3, 0, block][..], from));
        };
        next(2);
        let begun = Instant::now();
        next(2);
        assert!(begun.elapsed() > AT_ONCE, "{:?}", begun.elapsed());
        client.ack(from, 2);
        (0..7).for_each(|_| next(3));
        client.ack(from, 3);
        next(4);
        client.0.send_to(b"\0\x05\0\0enough\0", from).unwrap();
        lab.recorder
            .wait_for("vmlinuz: stopped by the machine after 1536 bytes: enough");
    });
}

#[test]
fn a_client_that_stays_silent_is_given_up_after_a_minute() {
    let lab = Lab::with_address();
    let _service = lab.serve(lab.settings(Mode::Off));
    let client = Client::new(&lab);
    client.read("vmlinuz", b"");
    let (_, from) = client.hear();
    client.ack(from, 1);
    let begun = Instant::now();
    lab.recorder
        .wait_for("vmlinuz: the machine fell silent after 512 bytes");
    assert!(begun.elapsed() > Duration::from_secs(60));
}

#[test]
fn only_options_that_were_asked_for_and_within_limits() {
    let lab = Lab::with_address();
    let _service = lab.serve(lab.settings(Mode::Off));
    for (asked, granted) in [
        (
            &b"tsize\x000\0blksize\x001408\0"[..],
            &b"blksize\x001408\0tsize\x00300001\0"[..],
        ),
        (
            b"blksize\x0065464\0windowsize\x0064000\0",
            b"blksize\x001456\0windowsize\x0016\0",
        ),
        (
            b"BLKSIZE\x00512\0timeout\x00255\0x-new\0y\0",
            b"blksize\x00512\0",
        ),
        (b"blksize\x001408\0\0", b"blksize\x001408\0"),
        (b"blksize\x001408\0\xFF\xFEgarbage", b"blksize\x001408\0"),
    ] {
        let client = Client::new(&lab);
        client.read("vmlinuz", asked);
        assert_eq!(client.hear().0, [b"\0\x06", granted].concat(), "{asked:?}");
    }
    // Absurd ones count as not sent.
    for absurd in [
        &b"blksize\x000\0"[..],
        b"blksize\x0099999999999\0",
        b"windowsize\x000\0",
        b"blksize\0-1\0",
        b"blksize",
    ] {
        let client = Client::new(&lab);
        client.read("vmlinuz", absurd);
        let (packet, _) = client.hear();
        assert_eq!(
            (packet.len(), &packet[..4]),
            (516, &[0, 3, 0, 1][..]),
            "{absurd:?}"
        );
    }
}

#[test]
fn nothing_but_the_boot_set_is_there() {
    let lab = Lab::with_address();
    std::fs::write(lab.path("secret"), "x").unwrap();
    let _service = lab.serve(lab.settings(Mode::Off));
    let client = Client::new(&lab);
    let endless = "a/".repeat(1500);
    let absolute = lab.path("vmlinuz");
    for name in [
        "",
        "/",
        ".",
        "..",
        "../secret",
        "secret",
        "/etc/passwd",
        "pxelinux.cfg/../vmlinuz",
        "pxelinux.cfg/../../etc/passwd",
        "..\\vmlinuz",
        "\\vmlinuz",
        "pxelinux.cfg\\default",
        "vmlinuz/",
        "./vmlinuz",
        "%2e%2e/vmlinuz",
        "pxelinux.cfg",
        "leases.json",
        "image/none/vmlinuz",
        "image/../secret",
        &endless,
        absolute.to_str().unwrap(),
        // What PXELINUX looks for before and after its own menu.
        "pxelinux.cfg/4c4c4544-0042-3010-8051-b4c04f4d3232",
        "pxelinux.cfg/C0A80702",
        "pxelinux.cfg/C",
    ] {
        client.read(name, b"");
        assert_eq!(client.refused(), 1, "{name:?}");
    }
    client.request(1, b"\xFF\xFE../x", b"octet\0");
    assert_eq!(client.refused(), 1);
    client.request(2, b"vmlinuz", b"octet\0");
    assert_eq!(client.refused(), 2);
    client.request(1, b"vmlinuz", b"netascii\0");
    assert_eq!(client.refused(), 0);
    client.request(1, b"vmlinuz", b"rot13\0");
    assert_eq!(client.refused(), 4);
    client.0.send_to(b"\0\x01vmlinuz", (SERVER, 69)).unwrap();
    assert_eq!(client.refused(), 4);
    // Not requests: not answered, and no harm done.
    for rubbish in [
        &b""[..],
        b"\0",
        b"\0\x09x\0octet\0",
        &[0xFF; 1400],
        b"\0\x03\0\x01data",
        b"\0\x05\0\0\0",
    ] {
        client.0.send_to(rubbish, (SERVER, 69)).unwrap();
    }
    assert_eq!(
        client.whole("initrd"),
        pattern(1456 * 40),
        "the first answer is to this"
    );
    lab.recorder
        .wait_for("192.168.7.2 asked for ../secret: not served");
    lab.recorder
        .wait_for("192.168.7.2 asked for image/none/vmlinuz: not served");
    lab.recorder
        .wait_for("192.168.7.2 tried to write vmlinuz: refused");
    assert!(
        !lab.recorder
            .lines()
            .iter()
            .any(|line| line.contains("C0A80702")),
        "a miss is no news"
    );
}

#[test]
fn each_machine_gets_its_menu_as_it_is_now() {
    let lab = Lab::with_address();
    let mut settings = lab.settings(Mode::Off);
    settings.allow = vec![crate::lab::MAC.into()];
    let own: ImageName = "own".parse().unwrap();
    let halved: ImageName = "halved".parse().unwrap();
    let image = |kernel| ImageFiles {
        kernel: lab.path(kernel),
        initrd: lab.path("initrd"),
    };
    settings.images.insert(own, image("vmlinuz"));
    settings.images.insert(halved, image("none"));
    let _service = lab.serve(settings);
    let client = Client::new(&lab);
    let own_menu = "pxelinux.cfg/01-52-54-00-12-34-56";
    let menu = |name: &str| String::from_utf8(client.whole(name)).unwrap();
    assert!(menu(own_menu).contains("ttyS0,115200 p2v.shelf=7 p2v.token=secret\n"));
    // The machine is known by its address.
    assert!(menu("pxelinux.cfg/default").contains("p2v.token=secret"));
    let stranger = menu("pxelinux.cfg/01-52-54-00-00-00-09");
    assert!(
        stranger.contains("LOCALBOOT 0") && stranger.contains("Nobody has approved it"),
        "{stranger}"
    );
    assert!(!stranger.contains("token"));
    for (name, files, line) in [
        (
            own,
            "KERNEL image/own/vmlinuz\n  INITRD image/own/initrd\n",
            "menu sent: start the agent (image own)",
        ),
        (
            halved,
            "KERNEL vmlinuz\n  INITRD initrd\n",
            "menu sent: start the agent (the usual image: halved cannot be used)",
        ),
    ] {
        *lab.recorder.decision.lock().unwrap() = BootDecision::Agent {
            append: "p2v.shelf=7".into(),
            image: Image::Named(name),
        };
        let menu = menu(own_menu);
        assert!(menu.contains(files), "{menu}");
        lab.recorder.wait_for(line);
    }
    let warned = lab.recorder.wait_for("an image that the settings name");
    assert!(warned.contains("kernel of the image `halved`"), "{warned}");
    *lab.recorder.decision.lock().unwrap() = BootDecision::Hold {
        message: "It runs on xen1 since Friday.".into(),
    };
    for name in [own_menu, "pxelinux.cfg/default"] {
        // The two menus above taught the service that this address is the stranger's; the wire
        // knows better.
        let held = menu(name);
        assert!(
            held.contains("SAY   It runs on xen1 since Friday."),
            "{held}"
        );
        assert!(!held.contains("LOCALBOOT"), "{held}");
    }
    lab.recorder
        .wait_for("52:54:00:12:34:56: menu sent: start the agent");
    lab.recorder.wait_for("52:54:00:12:34:56: menu sent: wait");
}
