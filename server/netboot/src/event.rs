//! What happened, each in one line for a person: to one machine here, and the rest as [`Notice`].

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use pnet::util::MacAddr;

use crate::boot_menu::{BootFile, MenuKind, Wanted};
use crate::client::ClientKind;
use crate::image::Image;
use crate::lease::NoAddress;
use words::{Reason, Size, Text};

mod notice;
mod words;

pub use notice::Notice;

/// What one machine did on its way up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootEvent {
    /// Its ROM asks for a boot file, and is answered. Repeated questions have the same number.
    Asked {
        /// What kind of ROM.
        client: ClientKind,
        /// DHCP transaction number.
        xid: u32,
        /// The address offered; `None` from a proxy.
        offered: Option<Ipv4Addr>,
        /// What it is told to fetch: a loader's name, or its URL.
        loader: Option<String>,
    },
    /// It took our address.
    Given {
        /// The address.
        address: Ipv4Addr,
    },
    /// It asked for an address it cannot have.
    Refused {
        /// The address.
        wanted: Ipv4Addr,
    },
    /// It asked port 4011 and was answered.
    ProxyAnswered,
    /// It asks for a kind of boot that is not served; not answered.
    NotServed {
        /// What kind of ROM.
        client: ClientKind,
        /// The reason.
        why: String,
    },
    /// It was not given its loader: its firmware goes on to the next boot entry.
    SentToItsDisk {
        /// The reason.
        why: String,
    },
    /// Not answered, by decision.
    Ignored {
        /// What kind of ROM.
        client: ClientKind,
        /// The reason.
        why: String,
    },
    /// Not answered: nothing to give.
    NoAddress {
        /// The reason.
        why: NoAddress,
    },
    /// It found its address in use by somebody else.
    Declined {
        /// The address.
        address: Ipv4Addr,
    },
    /// Its address is in use by somebody else, who answered by ARP.
    InUse {
        /// The address.
        address: Ipv4Addr,
        /// Who.
        by: MacAddr,
        /// It is offered all the same, for want of another.
        offered: bool,
    },
    /// It gave its address back.
    Released,
    /// It asked through a DHCP relay; not answered.
    Relayed,
    /// It fetches its menu.
    Menu {
        /// What the menu tells it to do.
        kind: MenuKind,
    },
    /// It has a whole file.
    Fetched {
        /// The file's name.
        file: String,
        /// Its size.
        bytes: u64,
        /// From the request to the last acknowledgement (over HTTP: until the kernel had taken all of it).
        /// `None`: all was sent, and the end was not acknowledged.
        elapsed: Option<Duration>,
    },
    /// It asked for a file's size only, as ROMs do before they fetch it.
    SizeAsked {
        /// The file's name.
        file: String,
    },
    /// It stopped a transfer with an error.
    Aborted {
        /// The file's name.
        file: String,
        /// Bytes it has.
        bytes: u64,
        /// Its words.
        why: String,
    },
    /// It fell silent in the middle of a transfer.
    Silent {
        /// The file's name.
        file: String,
        /// Bytes it has.
        bytes: u64,
    },
    /// A transfer failed here.
    Failed {
        /// The file's name.
        file: String,
        /// The reason.
        why: String,
    },
}

impl BootEvent {
    /// What kind of thing happened, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            BootEvent::Asked { .. } => "asks for boot",
            BootEvent::Given { .. } => "given an address",
            BootEvent::Refused { .. } => "told to ask anew",
            BootEvent::ProxyAnswered => "answered on port 4011",
            BootEvent::NotServed { .. } => "asks for what is not served",
            BootEvent::SentToItsDisk { .. } => "sent to its own disk",
            BootEvent::Ignored { .. } => "not answered",
            BootEvent::NoAddress { .. } => "no address for it",
            BootEvent::Declined { .. } => "address declined",
            BootEvent::InUse { .. } => "address in use",
            BootEvent::Released => "address given back",
            BootEvent::Relayed => "asks through a relay",
            BootEvent::Menu { .. } => "menu sent",
            BootEvent::Fetched { .. } => "file fetched",
            BootEvent::SizeAsked { .. } => "size asked",
            BootEvent::Aborted { .. } => "transfer stopped",
            BootEvent::Silent { .. } => "transfer fell silent",
            BootEvent::Failed { .. } => "transfer failed",
        }
    }

    /// The machine has a whole initial RAM disk, the last of what it is told to fetch.
    pub fn is_last_of_boot(&self) -> bool {
        self.booted_image().is_some()
    }

    /// The image whose initial RAM disk the machine now has, as far as the file's name says: never
    /// [`Image::UsualFor`].
    pub fn booted_image(&self) -> Option<Image> {
        match self {
            BootEvent::Fetched { file, .. } => match Wanted::parse(file)? {
                Wanted::File(BootFile::Initrd) => Some(Image::Usual),
                Wanted::File(BootFile::InitrdOf(name)) => Some(Image::Named(name)),
                _ => None,
            },
            _ => None,
        }
    }
}

impl fmt::Display for BootEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootEvent::Asked {
                client,
                offered,
                loader,
                ..
            } => {
                write!(f, "{client}, asks for boot, ")?;
                match offered {
                    Some(address) => write!(f, "offered {address}")?,
                    None => f.write_str("told to boot from here")?,
                }
                match loader {
                    Some(loader) => write!(f, ", {loader}"),
                    None => Ok(()),
                }
            }
            BootEvent::Given { address } => write!(f, "given {address}"),
            BootEvent::Refused { wanted } => write!(f, "cannot have {wanted}, told to ask anew"),
            BootEvent::ProxyAnswered => f.write_str("told to boot from here (port 4011)"),
            BootEvent::NotServed { client, why } => {
                write!(f, "{client}, asks for boot: not answered, {why}")
            }
            BootEvent::SentToItsDisk { why } => write!(
                f,
                "not given its boot loader, so that it boots its own disk: {}",
                Reason(why)
            ),
            BootEvent::Ignored { why, .. } => {
                write!(f, "asks for boot: not answered, {}", Reason(why))
            }
            BootEvent::NoAddress { why } => write!(f, "asks for boot: not answered, {why}"),
            BootEvent::Declined { address } => {
                write!(
                    f,
                    "found {address} in use by another machine; not given again for an hour"
                )
            }
            BootEvent::InUse {
                address,
                by,
                offered: false,
            } => write!(
                f,
                "not offered {address}, which {by} has; not given for an hour"
            ),
            BootEvent::InUse {
                address,
                by,
                offered: true,
            } => write!(
                f,
                "offered {address}, its address in `fixed`, although {by} has it: there is no `pool` for another"
            ),
            BootEvent::Released => f.write_str("gave its address back"),
            BootEvent::Relayed => f.write_str(
                "asks for boot through a DHCP relay: not answered, only this network is served",
            ),
            BootEvent::Menu { kind } => write!(f, "menu sent: {kind}"),
            BootEvent::Fetched {
                file,
                bytes,
                elapsed: Some(elapsed),
            } => {
                write!(
                    f,
                    "{file} {} in {:.1} s",
                    Size(*bytes),
                    elapsed.as_secs_f64()
                )
            }
            BootEvent::Fetched {
                file,
                bytes,
                elapsed: None,
            } => write!(
                f,
                "{file} {} (the machine did not acknowledge the end)",
                Size(*bytes)
            ),
            BootEvent::SizeAsked { file } => write!(f, "{file}: asked for its size"),
            BootEvent::Aborted { file, bytes, why } => {
                write!(
                    f,
                    "{file}: stopped by the machine after {}: {}",
                    Size(*bytes),
                    Text(why)
                )
            }
            BootEvent::Silent { file, bytes } => {
                write!(f, "{file}: the machine fell silent after {}", Size(*bytes))
            }
            BootEvent::Failed { file, why } => write!(f, "{file}: {}", Reason(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_readable() {
        let fetched = BootEvent::Fetched {
            file: "vmlinuz".into(),
            bytes: 8_200_000,
            elapsed: Some(Duration::from_millis(1130)),
        };
        assert_eq!(fetched.to_string(), "vmlinuz 8.2 MB in 1.1 s");
        let fetched = BootEvent::Fetched {
            file: "initrd".into(),
            bytes: 14_800_000,
            elapsed: None,
        };
        assert_eq!(
            fetched.to_string(),
            "initrd 14.8 MB (the machine did not acknowledge the end)"
        );
    }

    #[test]
    fn a_boot_ends_with_the_initial_ram_disk_of_whatever_image() {
        let fetched = |file: &str| BootEvent::Fetched {
            file: file.into(),
            bytes: 1,
            elapsed: Some(Duration::ZERO),
        };
        let last = |file: &str| fetched(file).is_last_of_boot();
        let old = Image::Named("old".parse().unwrap());
        assert_eq!(fetched("initrd").booted_image(), Some(Image::Usual));
        assert_eq!(fetched("image/old/initrd").booted_image(), Some(old));
        assert!(last("initrd") && last("image/old/initrd"));
        assert!(!last("vmlinuz") && !last("image/old/vmlinuz") && !last("x/initrd"));
        let file = "initrd".to_owned();
        assert!(!BootEvent::SizeAsked { file }.is_last_of_boot());
    }
}
