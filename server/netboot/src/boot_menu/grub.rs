//! Menus for GRUB. They are sourced by `start.cfg`, which asks again when one comes to its end.

use super::{Reader, boot_interface};
use crate::image::Image;

const AGENT: &str = include_str!("../../../../pxelinux/grub/agent.cfg");
const AGENT_TFTP: &str = include_str!("../../../../pxelinux/grub/agent-tftp.cfg");
const LOCAL_DISK: &str = include_str!("../../../../pxelinux/grub/local-disk.cfg");
const HOLD: &str = include_str!("../../../../pxelinux/grub/hold.cfg");

pub fn agent(append: &str, image: Image, reader: Reader<'_>) -> String {
    // Each argument in single quotes: to GRUB nothing in them is special (arguments have none).
    let arguments = format!("{append}{}", boot_interface(reader));
    let quoted: Vec<String> = arguments
        .split(' ')
        .filter(|argument| !argument.is_empty())
        .map(|argument| format!("'{argument}'"))
        .collect();
    // A name without a device is where GRUB itself is from: TFTP.
    let (from, again) = match reader.http {
        Some(host) => (format!("(http,{host})"), AGENT_TFTP),
        None => (String::new(), ""),
    };
    AGENT
        .replace("{from}", &from)
        .replace("{again}", again)
        .replace("{image}", &image.prefix())
        .replace("{append}", &quoted.join(" "))
}

pub fn local_disk(why: &[String]) -> String {
    LOCAL_DISK.replace("{why}", &echo(why))
}

pub fn hold(message: &[String]) -> String {
    HOLD.replace("{message}", &echo(message))
}

fn echo(lines: &[String]) -> String {
    let said: Vec<String> = lines
        .iter()
        .map(|line| format!("echo '  {line}'"))
        .collect();
    said.join("\n")
}
