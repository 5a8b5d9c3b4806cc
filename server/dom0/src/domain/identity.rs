//! What the old system may recognise the machine by.
use p2v_contract::MacAddr;

use super::Chosen;

/// UUIDs that board makers left in place of a real one (seen in DMI tables of many machines).
const PLACEHOLDERS: [&str; 3] = [
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
];

/// The domain's UUID: the old machine's own if it has a real one, else one derived from its MAC,
/// so that it is the same each time.
pub(super) fn uuid(dmi: &str, boot_mac: MacAddr) -> Chosen<String> {
    if let Some(text) = own_uuid(dmi) {
        return Chosen::new(
            text,
            "the old machine's own: some software is licensed to it",
        );
    }
    let hash = blake3::derive_key(
        "p2v 2026 domain uuid from boot MAC",
        boot_mac.to_string().as_bytes(),
    );
    let mut b = [0; 16];
    b.copy_from_slice(&hash[..16]);
    // RFC 9562, section 5.8: version 8, made in a way of one's own.
    b[6] = b[6] & 0x0F | 0x80;
    b[8] = b[8] & 0x3F | 0x80;
    let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
    Chosen::new(
        format!(
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        ),
        "made from its MAC address, because the old machine's firmware has none of its own",
    )
}

/// The UUID in lower case, if it is the machine's own.
pub(crate) fn own_uuid(dmi: &str) -> Option<String> {
    let text = dmi.to_ascii_lowercase();
    let is_own = is_uuid(&text)
        && !PLACEHOLDERS.contains(&text.as_str())
        // 0s or Fs but for a digit or two are placeholders as well.
        && digits(&text, |b| b == b'0') < 28
        && digits(&text, |b| b == b'f') < 28;
    is_own.then_some(text)
}

/// Whether a card's address can be one of a domain's: not a group address and not all zero.
pub(super) fn is_station(mac: MacAddr) -> bool {
    mac.0 & 1 == 0 && mac != MacAddr::zero()
}

fn digits(text: &str, test: impl Fn(u8) -> bool) -> usize {
    text.bytes().filter(|b| test(*b)).count()
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_if_it_is_real_and_stable_otherwise() {
        let mac = MacAddr::new(0x52, 0x54, 0, 1, 2, 3);
        let real = "4C4C4544-0046-4A10-8052-B4C04F4E344A";
        assert_eq!(uuid(real, mac).value, real.to_lowercase());
        for junk in [
            "",
            "not-a-uuid",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "03000200-0400-0500-0006-000700080009",
            "4c4c4544-0046-4a10-8052-b4c04f4e344a\"\n",
            "00000000-0000-0000-0000-00000000000é",
        ] {
            let made = uuid(junk, mac).value;
            assert!(is_uuid(&made) && made.as_bytes()[14] == b'8', "{made}");
            assert_eq!(made, uuid("", mac).value);
        }
        assert_ne!(
            uuid("", mac).value,
            uuid("", MacAddr::new(2, 0, 0, 0, 0, 1)).value
        );
    }
}
