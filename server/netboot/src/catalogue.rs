//! What a client gets for a name, over TFTP and HTTP alike: a file of the boot set, or a menu made
//! for that machine at that moment.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use pnet::util::MacAddr;

use crate::boot_menu::{self, Wanted};
use crate::boot_set::BootSet;
use crate::event::{BootEvent, MenuKind, Notice};
use crate::machines::{BootDecision, Machines};
use crate::peers::Peers;
use crate::settings::Settings;

/// Everything that has a name.
pub(crate) struct Catalogue {
    pub set: BootSet,
    pub settings: Arc<Settings>,
    pub machines: Arc<dyn Machines>,
    pub peers: Arc<Peers>,
}

impl Catalogue {
    /// The contents of `name` for `peer`; `None`: there is no such thing (which is logged, unless
    /// boot loaders are known to try that name).
    pub async fn find(&self, peer: IpAddr, name: &str) -> Option<Bytes> {
        match Wanted::parse(name) {
            Some(Wanted::File(file)) => Some(self.set.contents(file)),
            Some(Wanted::Menu(mac)) => {
                if let IpAddr::V4(address) = peer {
                    self.peers.learn(address, mac);
                }
                Some(self.menu(peer, Some(mac)).await)
            }
            // PXELINUX asks for this one when it got no answer about its own: the same decision.
            Some(Wanted::DefaultMenu) => Some(self.menu(peer, self.peers.find(peer)).await),
            Some(Wanted::NoSuchMenu) => None,
            None => {
                self.machines.noticed(&Notice::NotFound {
                    peer,
                    name: name.to_owned(),
                });
                None
            }
        }
    }

    /// Tells what was seen of the machine that has this address.
    pub fn tell(&self, peer: IpAddr, event: BootEvent) {
        match self.peers.find(peer) {
            Some(mac) => self.machines.seen(mac, &event),
            None => self.machines.noticed(&Notice::Transfer { peer, event }),
        }
    }

    /// The menu for a machine; made anew each time, so that it says what holds now.
    async fn menu(&self, peer: IpAddr, mac: Option<MacAddr>) -> Bytes {
        let decision = match mac {
            None => BootDecision::Hold {
                message: "The boot loader did not say which machine this is.".to_owned(),
            },
            Some(mac) if !self.settings.allows(mac) => BootDecision::LocalDisk {
                why: format!("{mac} is not on the list of machines that p2v serves."),
            },
            Some(mac) => {
                let machines = Arc::clone(&self.machines);
                tokio::task::spawn_blocking(move || machines.boot(mac))
                    .await
                    .unwrap_or_else(|e| {
                        let why = format!("{mac}: no decision, the machine is held: {e}");
                        self.machines.noticed(&Notice::Failed { why });
                        BootDecision::Hold {
                            message:
                                "p2v could not decide what this machine shall do; see its log on \
                                  the Xen host."
                                    .to_owned(),
                        }
                    })
            }
        };
        let (kind, menu): (MenuKind, String) = boot_menu::render(mac, &decision);
        match mac {
            Some(mac) => self.machines.seen(mac, &BootEvent::Menu { kind }),
            None => self.tell(peer, BootEvent::Menu { kind }),
        }
        Bytes::from(menu)
    }
}
