//! TFTP by the clients people have.

use std::process::Command;

use p2v_netboot::Mode;

use crate::lab::{Lab, pattern, run};

#[test]
fn curl_atftp_and_tftp_hpa_get_the_same_bytes() {
    let lab = Lab::with_address();
    let own = pattern(1408 * 30 + 7);
    std::fs::write(lab.path("own"), &own).unwrap();
    let mut settings = lab.settings(Mode::Off);
    settings
        .images
        .insert("old".parse().unwrap(), lab.own_image());
    let _service = lab.serve(settings);
    let to = lab.path("got");
    let got = |command: &mut Command| {
        let _ = std::fs::remove_file(&to);
        run(command);
        std::fs::read(&to).unwrap()
    };
    let mut files = vec![
        ("vmlinuz", pattern(300_001)),
        ("initrd", pattern(1456 * 40)),
        ("image/old/vmlinuz", own),
    ];
    for (name, path) in [
        ("pxelinux.0", "/usr/lib/PXELINUX/pxelinux.0"),
        ("ldlinux.c32", "/usr/lib/syslinux/modules/bios/ldlinux.c32"),
    ] {
        files.push((name, std::fs::read(path).unwrap()));
    }
    for (name, bytes) in files {
        let url = format!("tftp://192.168.7.1/{name}");
        for size in ["512", "1408", "1456", "8192"] {
            let mut curl = lab.client.command("curl");
            curl.args(["-sS", "-m", "60", "--tftp-blksize", size, &url, "-o"])
                .arg(&to);
            assert_eq!(got(&mut curl), bytes, "curl {name} {size}");
        }
        let mut curl = lab.client.command("curl");
        curl.args(["-sS", "-m", "60", "--tftp-no-options", &url, "-o"])
            .arg(&to);
        assert_eq!(got(&mut curl), bytes, "curl {name} without options");
        for options in [
            &["blksize 1408"][..],
            &["blksize 1456", "windowsize 16"],
            &["tsize", "timeout 3"],
        ] {
            let mut atftp = lab.client.command("atftp");
            for option in options {
                atftp.args(["--option", option]);
            }
            atftp
                .args(["-g", "-r", name, "-l"])
                .arg(&to)
                .arg("192.168.7.1");
            assert_eq!(got(&mut atftp), bytes, "atftp {name} {options:?}");
        }
        let mut hpa = lab.client.command("tftp");
        hpa.args(["-m", "binary", "192.168.7.1", "-c", "get", name])
            .arg(&to);
        assert_eq!(got(&mut hpa), bytes, "tftp-hpa {name}");
    }
    let line = lab
        .recorder
        .wait_for("52:54:00:12:34:56: vmlinuz 300 kB in ");
    assert!(line.ends_with(" s"), "{line}");
}

#[test]
fn a_file_of_more_blocks_than_there_are_numbers() {
    let lab = Lab::with_address();
    let bytes = pattern(512 * 65_700 + 9);
    std::fs::write(lab.path("initrd"), &bytes).unwrap();
    let _service = lab.serve(lab.settings(Mode::Off));
    let to = lab.path("got");
    let mut curl = lab.client.command("curl");
    run(curl
        .args([
            "-sS",
            "-m",
            "300",
            "--tftp-no-options",
            "tftp://192.168.7.1/initrd",
            "-o",
        ])
        .arg(&to));
    assert!(std::fs::read(&to).unwrap() == bytes);
}
