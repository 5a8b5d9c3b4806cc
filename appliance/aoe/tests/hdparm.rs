//! What `hdparm`, with which administrators look at disks, makes of our IDENTIFY data.

use std::io::Write;
use std::process::{Command, Stdio};

use p2v_aoe::ata::Identify;

/// `hdparm --Istdin`: what it says of 256 words in hex.
fn hdparm(identify: &Identify) -> String {
    let words: String = identify
        .to_bytes()
        .chunks(16)
        .map(|line| {
            let words = line.chunks(2).map(|w| format!("{:02x}{:02x}", w[1], w[0]));
            words.collect::<Vec<_>>().join(" ") + "\n"
        })
        .collect();
    let mut child = Command::new("hdparm")
        .arg("--Istdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hdparm is installed");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(words.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The text after a label.
fn field<'a>(said: &'a str, label: &str) -> &'a str {
    let line = said.lines().find(|line| line.trim().starts_with(label));
    let line = line.unwrap_or_else(|| panic!("no {label:?} in:\n{said}"));
    line.trim()[label.len()..].trim()
}

#[test]
fn hdparm_is_content_with_what_we_say_of_a_disk() {
    // 500 GB, as sold: 976773168 sectors; and a small one with sectors of its own size.
    for (sectors, physical_sector) in [(976_773_168, 4096), (614_400, 512)] {
        let said = hdparm(&Identify {
            sectors,
            model: "ST500DM002-1BD142".into(),
            serial: "W2ARK0E6".into(),
            firmware: "0.1.0".into(),
            physical_sector,
        });
        assert_eq!(field(&said, "Model Number:"), "ST500DM002-1BD142");
        assert_eq!(field(&said, "Serial Number:"), "W2ARK0E6");
        assert_eq!(field(&said, "Firmware Revision:"), "0.1.0");
        if physical_sector == 512 {
            assert_eq!(field(&said, "Logical/Physical Sector size:"), "512 bytes");
        } else {
            assert_eq!(field(&said, "Logical  Sector size:"), "512 bytes");
            assert_eq!(field(&said, "Physical Sector size:"), "4096 bytes");
        }
        assert_eq!(
            field(&said, "LBA48  user addressable sectors:"),
            sectors.to_string()
        );
        let lba28 = sectors.min(0x0fff_ffff);
        assert_eq!(
            field(&said, "LBA    user addressable sectors:"),
            lba28.to_string()
        );
        // What is acknowledged is stable: there is no write cache to speak of.
        assert!(!said.contains("Write cache"), "{said}");
        for wanted in [
            "48-bit Address feature set",
            "FLUSH_CACHE_EXT",
            "Checksum: correct",
        ] {
            assert!(said.contains(wanted), "no {wanted:?} in:\n{said}");
        }
    }
}
