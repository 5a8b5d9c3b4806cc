//! AoE frames in hex, as `lab-guest send` takes them: to the old server's agent and its disk e1.0.

/// The MAC address the agent speaks with: the machine's own, made locally administered. QEMU's is
/// that already, and gets the next bit.
const AGENT: &str = "56:54:00:12:34:56";

fn hex(mac: &str) -> String {
    mac.replace(':', "")
}

/// An AoE request to e1.0 in hex: headers as AoEr11 has them, then `body`.
pub fn aoe(source: &str, command: u8, body: &str) -> String {
    format!(
        "{}{}88a21000000100{command:02x}80112233{body}",
        hex(AGENT),
        hex(source)
    )
}

/// ATA WRITE SECTORS EXT of one sector of 0xEE at `lba`.
pub fn write(source: &str, lba: u8) -> String {
    aoe(
        source,
        0,
        &format!("41000134{lba:02x}00000000000000{}", "ee".repeat(512)),
    )
}

/// ATA READ SECTORS EXT of one sector at 0.
pub fn read(source: &str) -> String {
    aoe(source, 0, "400001240000000000000000")
}

/// Whether `answer` refuses a write: ATA status with the error bit, and the error "abort".
pub fn is_refused(answer: &str) -> bool {
    &answer[50..56] == "040141"
}
