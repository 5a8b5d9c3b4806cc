//! One boot of one machine over the network, in a line: pure.

use std::fmt;
use std::net::Ipv4Addr;

use p2v_dom0::Timestamp;
use p2v_netboot::{BootEvent, MachineId};
use serde::{Deserialize, Serialize};

/// Steps that are remembered at most: a boot has about six, one that goes round in circles has no end.
const STEPS_MAX: usize = 12;
/// Seconds of silence after which a question is another boot's.
const PAUSE: u64 = 60;
/// Bytes from which on it is of interest how long a file took.
const LARGE: u64 = 1_000_000;

/// What a machine did, from its ROM's first question on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// When it began.
    pub began: Timestamp,
    /// When something was seen of it last.
    pub last: Timestamp,
    /// How often it was not answered, told once a minute at most.
    #[serde(default)]
    pub refusals: u32,
    /// The SMBIOS UUID that it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MachineId>,
    /// What asked; empty if the machine came with an address and a file name of the site's own server.
    pub client: String,
    /// The address that it was given here.
    pub address: Option<Ipv4Addr>,
    /// What it fetched and what became of that, each a few words.
    pub steps: Vec<String>,
    /// It has all that it was told to fetch.
    pub complete: bool,
    /// The last that was seen of it: its question was not answered.
    #[serde(default)]
    refused: bool,
    /// DHCP transaction number of its question.
    #[serde(skip)]
    xid: Option<u32>,
}

impl Boot {
    /// One that begins now.
    pub fn new(now: Timestamp) -> Boot {
        Boot {
            began: now,
            last: now,
            refusals: 0,
            uuid: None,
            client: String::new(),
            address: None,
            steps: Vec::new(),
            complete: false,
            refused: false,
            xid: None,
        }
    }

    /// Its last question was not answered: there is least to know of it.
    pub fn was_refused(&self) -> bool {
        self.refused
    }

    /// Whether `event` is of another boot: ROMs repeat a question, also with a new number, and boot
    /// loaders may ask once more.
    pub fn is_over_at(&self, event: &BootEvent, now: Timestamp) -> bool {
        let paused = self
            .last
            .age_at(now)
            .is_none_or(|age| age.as_secs() >= PAUSE);
        match event {
            // It is answered now: the settings were changed meanwhile.
            BootEvent::Asked { .. } if self.refused => true,
            BootEvent::Asked { xid, .. } => {
                self.xid != Some(*xid) && (self.complete || (paused && !self.steps.is_empty()))
            }
            // Where the site's own server answers DHCP, this is the first that is seen.
            BootEvent::Fetched { .. } | BootEvent::Menu { .. } => self.complete && paused,
            // It is left to its disk now.
            BootEvent::Ignored { .. } => !self.refused,
            _ => false,
        }
    }

    /// Takes in what was seen.
    pub fn take(&mut self, event: &BootEvent, now: Timestamp) {
        // That it fell silent is news of a while ago.
        if !matches!(event, BootEvent::Silent { .. }) {
            self.last = now;
        }
        self.refused = matches!(
            event,
            BootEvent::Ignored { .. }
                | BootEvent::NotServed { .. }
                | BootEvent::NoAddress { .. }
                | BootEvent::Relayed
        );
        if self.refused {
            self.refusals = self.refusals.saturating_add(1);
        }
        if let BootEvent::Ignored { client, .. } | BootEvent::NotServed { client, .. } = event {
            self.client = client.to_string();
        }
        let step = match event {
            BootEvent::Asked { client, xid, .. } => {
                self.client = client.to_string();
                self.xid = Some(*xid);
                return;
            }
            BootEvent::Given { address } => {
                self.address = Some(*address);
                return;
            }
            BootEvent::SizeAsked { .. } | BootEvent::ProxyAnswered | BootEvent::Released => return,
            BootEvent::Menu { kind } => format!("menu: {kind}"),
            BootEvent::Fetched { file, bytes, .. } => {
                self.complete |= event.is_last_of_boot();
                match *bytes < LARGE {
                    true => file.clone(),
                    false => event.to_string(),
                }
            }
            other => other.to_string(),
        };
        // Also asked for twice, it is one step.
        if self.steps.last() != Some(&step) && self.steps.len() < STEPS_MAX {
            self.steps.push(step);
        }
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.client.is_empty() {
            parts.push(self.client.clone());
        }
        parts.extend(self.address.map(|address| format!("got {address}")));
        parts.extend(self.steps.iter().cloned());
        if parts.is_empty() {
            parts.push("nothing seen".into());
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_netboot::{ClientKind, Image, MenuKind};
    use std::time::Duration;

    fn asked(xid: u32) -> BootEvent {
        BootEvent::Asked {
            client: ClientKind::Bios { ipxe: false },
            xid,
            offered: None,
            loader: None,
        }
    }

    fn fetched(file: &str, bytes: u64, millis: u64) -> BootEvent {
        BootEvent::Fetched {
            file: file.into(),
            bytes,
            elapsed: Some(Duration::from_millis(millis)),
        }
    }

    #[test]
    fn what_is_answered_after_a_refusal_is_another_boot() {
        let now = Timestamp::from_unix(1000);
        let mut boot = Boot::new(now);
        let why = "nobody has approved it".to_owned();
        let client = ClientKind::Bios { ipxe: false };
        boot.take(&BootEvent::Ignored { client, why }, now);
        assert_eq!((boot.client.as_str(), boot.refusals), ("BIOS", 1));
        assert!(boot.to_string().contains("not answered"), "{boot}");
        assert!(boot.is_over_at(&asked(7), now));
        let mut boot = Boot::new(now);
        boot.take(&asked(7), now);
        assert!(!boot.is_over_at(&asked(7), now) && !boot.is_over_at(&asked(8), now));
    }

    #[test]
    fn a_boot_is_one_line() {
        let now = Timestamp::from_unix(1000);
        let mut boot = Boot::new(now);
        for event in [
            asked(1),
            asked(2),
            BootEvent::Given {
                address: Ipv4Addr::new(192, 168, 7, 200),
            },
            fetched("pxelinux.0", 42_000, 10),
            BootEvent::SizeAsked { file: "x".into() },
            BootEvent::Menu {
                kind: MenuKind::Agent {
                    image: Image::Usual,
                },
            },
            BootEvent::Menu {
                kind: MenuKind::Agent {
                    image: Image::Usual,
                },
            },
            fetched("vmlinuz", 8_200_000, 1100),
        ] {
            assert!(!boot.is_over_at(&event, now));
            boot.take(&event, now);
        }
        assert!(!boot.complete);
        boot.take(&fetched("initrd", 14_000_000, 1900), now);
        assert!(boot.complete);
        assert_eq!(
            boot.to_string(),
            "BIOS, got 192.168.7.200, pxelinux.0, menu: start the agent, vmlinuz 8.2 MB in 1.1 s, initrd 14.0 MB in 1.9 s"
        );
        // The same question, late; then the next boot's.
        assert!(!boot.is_over_at(&asked(2), now));
        assert!(boot.is_over_at(&asked(3), now));
        assert!(!boot.is_over_at(&fetched("initrd", 1, 1), now));
        assert!(boot.is_over_at(&fetched("pxelinux.0", 1, 1), Timestamp::from_unix(5000)));
    }

    #[test]
    fn an_image_of_its_own_is_named() {
        let now = Timestamp::from_unix(1000);
        let mut boot = Boot::new(now);
        let image = Image::Named("old".parse().unwrap());
        let kind = MenuKind::Agent { image };
        boot.take(&BootEvent::Menu { kind }, now);
        boot.take(&fetched("image/old/vmlinuz", 8_200_000, 1100), now);
        assert!(!boot.complete);
        boot.take(&fetched("image/old/initrd", 14_000_000, 1900), now);
        assert!(boot.complete);
        assert_eq!(
            boot.to_string(),
            "menu: start the agent (image old), image/old/vmlinuz 8.2 MB in 1.1 s, image/old/initrd 14.0 MB in 1.9 s"
        );
    }

    #[test]
    fn a_boot_that_came_to_nothing_is_over_when_it_was_silent_for_long() {
        let begun = Timestamp::from_unix(1000);
        let mut boot = Boot::new(begun);
        boot.take(&asked(1), begun);
        let later = Timestamp::from_unix(1000 + PAUSE);
        // It had no answer yet: one that asks for long is one boot.
        assert!(!boot.is_over_at(&asked(2), later));
        boot.take(&fetched("pxelinux.0", 42_000, 10), begun);
        assert!(!boot.is_over_at(&asked(2), begun));
        assert!(boot.is_over_at(&asked(2), later));
        // The clock was set back.
        assert!(boot.is_over_at(&asked(2), Timestamp::from_unix(1)));
    }

    #[test]
    fn a_machine_that_goes_round_does_not_fill_the_memory() {
        let now = Timestamp::from_unix(0);
        let mut boot = Boot::new(now);
        for n in 0..1000 {
            boot.take(&fetched(&format!("file{n}"), 1, 1), now);
        }
        assert_eq!(boot.steps.len(), STEPS_MAX);
    }
}
