//! Scripts for iPXE.

use super::{Reader, boot_interface};
use crate::image::Image;

const AGENT: &str = include_str!("../../../../pxelinux/ipxe/agent.ipxe");
const LOCAL_DISK: &str = include_str!("../../../../pxelinux/ipxe/local-disk.ipxe");
const HOLD: &str = include_str!("../../../../pxelinux/ipxe/hold.ipxe");

pub fn agent(append: &str, image: Image, reader: Reader<'_>) -> String {
    // The script is in a folder of its own: a name without a host is taken from where the script is.
    let from = reader
        .http
        .map_or_else(|| "/".to_owned(), |host| format!("http://{host}/"));
    let append = format!("{append}{}", boot_interface(reader));
    AGENT
        .replace("{from}", &from)
        .replace("{image}", &image.prefix())
        .replace("{append}", &append)
}

pub fn local_disk(why: &[String]) -> String {
    LOCAL_DISK.replace("{why}", &echo(why))
}

pub fn hold(message: &[String]) -> String {
    HOLD.replace("{message}", &echo(message))
}

fn echo(lines: &[String]) -> String {
    let said: Vec<String> = lines.iter().map(|line| format!("echo   {line}")).collect();
    said.join("\n")
}
