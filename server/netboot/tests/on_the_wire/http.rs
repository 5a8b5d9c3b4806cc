//! HTTP: by curl, and by hand for what no well-behaved client sends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use p2v_netboot::{BootDecision, Mode};

use crate::lab::{CLIENT_END, LIMIT, Lab, SERVER, SERVER_END, pattern, run};

/// Well below every time limit of the service.
const AT_ONCE: Duration = Duration::from_secs(5);

fn connect(lab: &Lab) -> TcpStream {
    let stream = lab
        .client
        .enter(|| TcpStream::connect((SERVER, 80)).unwrap())
        .join()
        .unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// All that comes until the service closes the connection; nothing if it closed it with a reset.
fn rest(mut stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Err(e) if e.kind() != ErrorKind::ConnectionReset => panic!("{e}"),
        _ => all,
    }
}

/// The status and all that came for a request made by hand.
fn answer(lab: &Lab, request: &[u8]) -> (u16, String) {
    let mut stream = connect(lab);
    // It may be refused before it is all sent.
    let _ = stream.write_all(request);
    let text = String::from_utf8_lossy(&rest(&stream)).into_owned();
    let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    (status.unwrap_or(0), text)
}

fn curl(lab: &Lab, arguments: &[&str]) -> Vec<u8> {
    let mut curl = lab.client.command("curl");
    run(curl.args(["-sS", "-m", "60"]).args(arguments)).stdout
}

#[test]
fn curl_gets_files_parts_heads_and_menus() {
    let lab = Lab::with_address();
    let _service = lab.serve(lab.settings(Mode::Off));
    let kernel = pattern(300_001);
    let url = "http://192.168.7.1/vmlinuz";
    for version in ["--http1.0", "--http1.1"] {
        assert!(curl(&lab, &[version, url]) == kernel, "{version}");
        for (range, part, shown) in [
            ("0-0", &kernel[..1], "0-0/300001"),
            ("1000-1999", &kernel[1000..2000], "1000-1999/300001"),
            ("300000-", &kernel[300_000..], "300000-300000/300001"),
            ("-7", &kernel[299_994..], "299994-300000/300001"),
            ("299990-999999", &kernel[299_990..], "299990-300000/300001"),
        ] {
            let format = "%{stderr}%{http_code}";
            let got = curl(&lab, &[version, "-D-", "-w", format, "-r", range, url]);
            let end = got.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
            let head = String::from_utf8_lossy(&got[..end]).to_lowercase();
            assert!(got[end + 4..] == *part, "{range}");
            assert!(head.contains(" 206 "), "{head}");
            assert!(
                head.contains(&format!("content-range: bytes {shown}")),
                "{head}"
            );
            assert!(
                head.contains(&format!("content-length: {}", part.len())),
                "{head}"
            );
        }
        let several = curl(&lab, &[version, "-r", "0-1,5-6", url]);
        assert!(several == kernel, "several parts at once are the whole");
        let head = curl(&lab, &[version, "-I", url]);
        let head = String::from_utf8_lossy(&head).into_owned();
        // In this case: GRUB knows no other.
        assert!(head.contains("Content-Length: 300001\r\n"), "{head}");
        let head = head.to_lowercase();
        assert!(
            head.contains(" 200 ok") && head.contains("content-length: 300001"),
            "{head}"
        );
        assert!(head.contains("accept-ranges: bytes"), "{head}");
        let past = curl(
            &lab,
            &[version, "-D-", "-o", "/dev/null", "-r", "300001-", url],
        );
        let past = String::from_utf8_lossy(&past).to_lowercase();
        assert!(
            past.contains(" 416 ") && past.contains("content-range: bytes */300001"),
            "{past}"
        );
    }
    // Three requests, one connection.
    let used = curl(
        &lab,
        &[
            "-w",
            "%{num_connects}\n",
            "-o",
            "/dev/null",
            "-o",
            "/dev/null",
            "-o",
            "/dev/null",
            url,
            "http://192.168.7.1/initrd",
            "http://192.168.7.1/no-such-file",
        ],
    );
    assert_eq!(String::from_utf8_lossy(&used), "1\n0\n0\n");
    let own = "http://192.168.7.1/pxelinux.cfg/01-52-54-00-12-34-56";
    let menu = String::from_utf8(curl(&lab, &[own])).unwrap();
    assert!(menu.contains("p2v.token=secret"), "{menu}");
    *lab.recorder.decision.lock().unwrap() = BootDecision::Hold {
        message: "It runs on xen1.".into(),
    };
    let menu = String::from_utf8(curl(&lab, &[own])).unwrap();
    assert!(menu.contains("SAY   It runs on xen1."), "{menu}");
    for line in [
        "52:54:00:12:34:56: vmlinuz 300 kB in ",
        "52:54:00:12:34:56: initrd 58 kB in ",
        "52:54:00:12:34:56: vmlinuz: asked for its size",
        "52:54:00:12:34:56: menu sent: wait",
        "192.168.7.2 asked for no-such-file: not served",
    ] {
        lab.recorder.wait_for(line);
    }
    // Two whole ones by each version of HTTP, and one by the single connection: no lone part counts.
    let whole = |line: &&String| line.contains(": vmlinuz 300 kB in ");
    assert_eq!(lab.recorder.lines().iter().filter(whole).count(), 5);
}

#[test]
fn a_file_that_comes_in_parts_is_one_line() {
    let lab = Lab::with_address();
    let _service = lab.serve(lab.settings(Mode::Off));
    let kernel = "http://192.168.7.1/vmlinuz";
    for range in ["100000-199999", "0-99999", "200000-"] {
        curl(&lab, &["-o", "/dev/null", "-r", range, kernel]);
    }
    lab.recorder
        .wait_for("52:54:00:12:34:56: vmlinuz 300 kB in ");
    // After it, in the order of requests.
    curl(&lab, &["-o", "/dev/null", "http://192.168.7.1/initrd"]);
    lab.recorder.wait_for("52:54:00:12:34:56: initrd 58 kB in ");
    let of_the_kernel = |line: &&String| line.contains("vmlinuz");
    let lines = lab.recorder.lines();
    assert_eq!(lines.iter().filter(of_the_kernel).count(), 1, "{lines:#?}");
}

#[test]
fn nothing_but_the_boot_set_is_there() {
    let lab = Lab::with_address();
    std::fs::write(lab.path("secret"), "top secret").unwrap();
    std::fs::write(lab.path("own"), "its own").unwrap();
    let mut settings = lab.settings(Mode::Off);
    settings
        .images
        .insert("old".parse().unwrap(), lab.own_image());
    let _service = lab.serve(settings);
    let absolute = lab.path("vmlinuz");
    for target in [
        "/",
        "//",
        "/.",
        "/..",
        "/../secret",
        "/secret",
        "//etc/passwd",
        "/pxelinux.cfg/../vmlinuz",
        "/./vmlinuz",
        "/vmlinuz/",
        "/vmlinuz?",
        "/vmlinuz?x=1",
        "/%2e%2e/secret",
        "/%252e%252e/secret",
        "/%76mlinuz",
        "/vmlinuz%00",
        "/pxelinux.cfg/C0A80702",
        "/image/none/vmlinuz",
        "/image/old/",
        "/image/old/own",
        "/image/old/../old/vmlinuz",
        "/image/old/%76mlinuz",
        "http://192.168.7.1/../secret",
        "http://example.net/etc/passwd",
        absolute.to_str().unwrap(),
    ] {
        for version in ["1.0", "1.1"] {
            let request =
                format!("GET {target} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n");
            let (status, text) = answer(&lab, request.as_bytes());
            assert_eq!(status, 404, "{target}: {text}");
        }
    }
    // RFC 9112, 3.2.2: as proxies ask; and as shim does, which joins its own directory and a name.
    for target in ["http://192.168.7.1/vmlinuz", "//vmlinuz"] {
        let request = format!("GET {target} HTTP/1.0\r\n\r\n");
        assert_eq!(answer(&lab, request.as_bytes()).0, 200, "{target}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "X"] {
        let request = format!("{method} /vmlinuz HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
        let (status, text) = answer(&lab, request.as_bytes());
        assert_eq!(status, 405, "{method}");
        assert!(text.to_lowercase().contains("allow: get, head"), "{text}");
    }
    let endless = [b"GET /", &[b'a'; 100_000][..], b" HTTP/1.1\r\n\r\n"].concat();
    let many = [
        b"GET /vmlinuz HTTP/1.1\r\n".to_vec(),
        b"a: b\r\n".repeat(100),
        b"\r\n".to_vec(),
    ]
    .concat();
    let long = [
        b"GET /vmlinuz HTTP/1.1\r\na: ".to_vec(),
        vec![b'b'; 100_000],
        b"\r\n\r\n".to_vec(),
    ]
    .concat();
    for (request, refusals) in [
        (&endless[..], &[0, 414, 431][..]),
        (&many, &[431]),
        (&long, &[0, 431]),
        (b"GET /\\vmlinuz HTTP/1.0\r\n\r\n", &[400, 404]),
        (b"GET /\x00vmlinuz HTTP/1.0\r\n\r\n", &[400]),
        (b"GET /vm\xFFlinuz HTTP/1.0\r\n\r\n", &[400, 404]),
        (b"GET ../secret HTTP/1.0\r\n\r\n", &[400]),
        (b"GET /vmlinuz HTTP/9.9\r\n\r\n", &[400]),
        (b"GET /vmlinuz\r\n\r\n", &[400]),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            &[400],
        ),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0, 400]),
    ] {
        let (status, text) = answer(&lab, request);
        let start = String::from_utf8_lossy(&request[..request.len().min(40)]).into_owned();
        assert!(refusals.contains(&status), "{start}: {status} {text}");
        assert!(!text.contains("top secret"));
    }
    assert!(curl(&lab, &["http://192.168.7.1/image/old/vmlinuz"]) == b"its own");
    assert!(curl(&lab, &["http://192.168.7.1/image/old/initrd"]) == pattern(1456 * 40));
    lab.recorder
        .wait_for("52:54:00:12:34:56: image/old/initrd 58 kB in ");
    assert!(curl(&lab, &["http://192.168.7.1/vmlinuz"]) == pattern(300_001));
    lab.recorder
        .wait_for("192.168.7.2 asked for ../secret: not served");
    let news = |part: &str| lab.recorder.lines().iter().any(|line| line.contains(part));
    assert!(!news("C0A80702"), "a miss is no news");
}

/// They hold their places for as long as they may, and no more places than one address has.
#[test]
fn slow_clients_harm_nobody_else_and_are_cut_off() {
    let lab = Lab::with_address();
    let initrd = pattern(16 << 20);
    std::fs::write(lab.path("initrd"), &initrd).unwrap();
    let c = &lab.client.0;
    let add = format!("-n {c} addr add 192.168.7.3/24 dev {CLIENT_END}");
    run(Command::new("ip").args(add.split_whitespace()));
    let _service = lab.serve(lab.settings(Mode::Off));
    // Nothing, half a request, one that never ends, and one that takes no answer: 16 in all.
    let mut slow = Vec::new();
    for number in 0..16 {
        let mut stream = connect(&lab);
        match number % 4 {
            0 => {}
            1 => stream.write_all(b"GET /vmlinuz HTT").unwrap(),
            2 => stream
                .write_all(b"GET /vmlinuz HTTP/1.1\r\nHost: x\r\n")
                .unwrap(),
            _ => stream
                .write_all(b"GET /initrd HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap(),
        }
        slow.push(stream);
    }
    let begun = Instant::now();
    assert_eq!(rest(&connect(&lab)), b"", "a 17th of one address is closed");
    let full = "192.168.7.2 has 16 connections by HTTP";
    lab.recorder.wait_for(full);
    let other = ["--interface", "192.168.7.3", "http://192.168.7.1/initrd"];
    assert!(curl(&lab, &other) == initrd);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    // One line more each time is not enough to stay.
    let dripping: Vec<_> = slow
        .iter()
        .skip(2)
        .step_by(4)
        .map(|s| s.try_clone().unwrap())
        .collect();
    let drip = std::thread::spawn(move || {
        for mut stream in dripping {
            stream
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            let until = Instant::now() + LIMIT;
            let mut buffer = [0; 512];
            // Reads end with a timeout until the service closes or resets the connection.
            while Instant::now() < until {
                let _ = stream.write_all(b"a: b\r\n");
                match stream.read(&mut buffer) {
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Ok(1..) => {}
                    _ => break,
                }
            }
            assert!(Instant::now() < until, "it was let go on");
        }
    });
    for stream in slow.iter().step_by(4).chain(slow.iter().skip(1).step_by(4)) {
        rest(stream);
    }
    drip.join().unwrap();
    let cut = begun.elapsed();
    assert!(cut < Duration::from_secs(30), "{cut:?}");
    // Those that took nothing. Before all four are given up, reading from one would save it.
    let silent = "52:54:00:12:34:56: initrd: the machine fell silent after ";
    lab.recorder.wait_for_lines(silent, 4);
    for stream in slow.iter().skip(3).step_by(4) {
        assert!(rest(stream).len() < initrd.len());
    }
    assert!(curl(&lab, &["http://192.168.7.1/initrd"]) == initrd);
}

#[test]
fn a_client_that_aborts_is_served_again_at_once_also_by_a_service_that_restarts() {
    let lab = Lab::with_address();
    let initrd = pattern(16 << 20);
    std::fs::write(lab.path("initrd"), &initrd).unwrap();
    let service = lab.serve(lab.settings(Mode::Off));
    for _ in 0..3 {
        let mut stream = connect(&lab);
        stream.write_all(b"GET /initrd HTTP/1.0\r\n\r\n").unwrap();
        let mut some = [0; 100_000];
        stream.read_exact(&mut some).unwrap();
        drop(stream);
        let begun = Instant::now();
        let mut stream = connect(&lab);
        stream.write_all(b"GET /initrd HTTP/1.0\r\n\r\n").unwrap();
        stream.read_exact(&mut some[..1]).unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
        assert!(rest(&stream).ends_with(&initrd[1000..]));
    }
    let line = lab
        .recorder
        .wait_for("initrd: stopped by the machine after ");
    assert!(line.ends_with(": it closed the connection"), "{line}");
    lab.recorder
        .wait_for("52:54:00:12:34:56: initrd 16.8 MB in ");
    // In the middle of a file, with connections that were closed before still known to the kernel.
    let mut stream = connect(&lab);
    stream.write_all(b"GET /initrd HTTP/1.0\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    service.end().unwrap();
    lab.recorder
        .wait_for("initrd: not sent to its end: the service was stopped");
    let _service = lab.serve(lab.settings(Mode::Off));
    assert!(curl(&lab, &["http://192.168.7.1/initrd"]) == initrd);
}

#[test]
fn a_hundred_machines_at_once_get_it_all() {
    let lab = Lab::with_address();
    let initrd = pattern(1_000_003);
    std::fs::write(lab.path("initrd"), &initrd).unwrap();
    let c = &lab.client.0;
    for number in 100..200 {
        let add = format!("-n {c} addr add 192.168.7.{number}/24 dev {CLIENT_END}");
        run(Command::new("ip").args(add.split_whitespace()));
    }
    let _service = lab.serve(lab.settings(Mode::Off));
    let script = format!(
        "cd {}; for n in $(seq 100 199); do \
         curl -sS -m 60 --interface 192.168.7.$n -o got.$n http://192.168.7.1/initrd & done; wait",
        lab.dir.path().display()
    );
    run(lab.client.command("sh").args(["-c", &script]));
    for number in 100..200 {
        let got = std::fs::read(lab.path(&format!("got.{number}"))).unwrap();
        assert!(got == initrd, "{number}");
    }
}

#[test]
fn only_the_address_and_the_port_that_are_set() {
    let lab = Lab::with_address();
    let other = Ipv4Addr::new(192, 168, 7, 9);
    let add = format!("-n {} addr add {other}/24 dev {SERVER_END}", lab.server.0);
    run(Command::new("ip").args(add.split_whitespace()));
    let mut settings = lab.settings(Mode::Off);
    settings.http_port = 8080;
    let service = lab.serve(settings.clone());
    assert!(curl(&lab, &["http://192.168.7.1:8080/vmlinuz"]) == pattern(300_001));
    let refused = |address, port| {
        let tried = lab
            .client
            .enter(move || TcpStream::connect((address, port)));
        let error = tried.join().unwrap().unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionRefused,
            "{address}:{port}"
        );
    };
    refused(other, 8080);
    refused(SERVER, 80);
    service.end().unwrap();
    settings.http_port = 0;
    let service = lab.serve(settings.clone());
    refused(SERVER, 8080);
    refused(SERVER, 80);
    service.end().unwrap();
    settings.http_port = 80;
    let holder = lab
        .server
        .enter(|| TcpListener::bind("0.0.0.0:80").unwrap());
    let _holder = holder.join().unwrap();
    let error = lab.start(settings).failure().to_string();
    for part in [
        "TCP port 80 (HTTP)",
        &format!("(pid {})", std::process::id()),
        "http_port",
    ] {
        assert!(error.contains(part), "{error}");
    }
}
