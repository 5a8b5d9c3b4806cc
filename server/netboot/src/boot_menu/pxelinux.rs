//! Menus for PXELINUX and lpxelinux.

use crate::image::Image;

const AGENT: &str = include_str!("../../../../pxelinux/agent.cfg");
const AGENT_HTTP: &str = include_str!("../../../../pxelinux/agent-http.cfg");
const LOCAL_DISK: &str = include_str!("../../../../pxelinux/local-disk.cfg");
const HOLD: &str = include_str!("../../../../pxelinux/hold.cfg");

pub fn agent(append: &str, image: Image, http: Option<&str>) -> String {
    match http {
        Some(host) => AGENT_HTTP.replace("{http}", host),
        None => AGENT.to_owned(),
    }
    .replace("{image}", &image.prefix())
    .replace("{append}", append)
}

pub fn local_disk(why: &[String]) -> String {
    LOCAL_DISK.replace("{why}", &say(why))
}

/// `again`: the name of the menu to ask for once more.
pub fn hold(message: &[String], again: &str) -> String {
    HOLD.replace("{again}", again)
        .replace("{message}", &say(message))
}

fn say(lines: &[String]) -> String {
    let said: Vec<String> = lines.iter().map(|line| format!("SAY   {line}")).collect();
    said.join("\n")
}
