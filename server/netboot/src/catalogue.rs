//! What a client gets for a name, over TFTP and HTTP alike: a file of the boot set, or a menu made
//! for that machine at that moment.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use pnet::util::MacAddr;

use crate::boot_decision::BootDecision;
use crate::boot_menu::MenuKind;
use crate::boot_menu::{self, BootFile, MenuFormat, Reader, Wanted};
use crate::boot_set::BootSet;
use crate::event::{BootEvent, Notice};
use crate::machines::Machines;
use crate::peers::Peers;
use crate::settings::Settings;

/// Everything that has a name.
pub(crate) struct Catalogue {
    pub set: BootSet,
    pub settings: Arc<Settings>,
    pub machines: Arc<dyn Machines>,
    pub peers: Arc<Peers>,
    /// What stands in URLs, where HTTP is served.
    pub http: Option<String>,
}

impl Catalogue {
    /// The contents of `name` for `peer`; `None`: there is no such thing (which is logged, unless
    /// boot loaders are known to try that name).
    pub async fn find(&self, peer: IpAddr, name: &str) -> Option<Bytes> {
        match Wanted::parse(name) {
            Some(Wanted::File(file)) => self.file(peer, file).await,
            Some(Wanted::Script(script)) => Some(Bytes::from_static(script.text().as_bytes())),
            Some(Wanted::Menu(format, mac, mut id)) => {
                if let IpAddr::V4(address) = peer {
                    self.peers.learn(address, mac);
                    id = id.or_else(|| self.peers.id(address));
                }
                if let Some(id) = id {
                    self.machines.identified(mac, id);
                }
                Some(self.menu(format, peer, Some(mac)).await)
            }
            // PXELINUX asks for this one when it got no answer about its own: the same decision.
            Some(Wanted::DefaultMenu) => {
                let mac = self.peers.find(peer);
                Some(self.menu(MenuFormat::Pxelinux, peer, mac).await)
            }
            Some(Wanted::MenuOf(id)) => {
                if let IpAddr::V4(address) = peer {
                    self.peers.learn_id(address, id);
                }
                None
            }
            Some(Wanted::NotThere) => None,
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

    /// A file of the boot set. A UEFI machine that shall go on with its own disk is refused its boot
    /// loader: only a loader that could not be loaded makes all firmware try the next boot entry.
    async fn file(&self, peer: IpAddr, file: BootFile) -> Option<Bytes> {
        if file.is_uefi_program()
            && let Some(mac) = self.peers.find(peer)
            && let BootDecision::LocalDisk { why } | BootDecision::Ignore { why } =
                self.decide(mac, false).await
        {
            self.machines.seen(mac, &BootEvent::SentToItsDisk { why });
            return None;
        }
        let contents = self.set.contents(file);
        if contents.is_none() {
            let name = file.name().into_owned();
            self.machines.noticed(&Notice::NotFound { peer, name });
        }
        contents
    }

    /// What this machine shall do now.
    async fn decide(&self, mac: MacAddr, for_its_menu: bool) -> BootDecision {
        let (machines, listed) = (Arc::clone(&self.machines), self.settings.allows(mac));
        let decided = tokio::task::spawn_blocking(move || match (for_its_menu, listed) {
            (false, _) => machines.boot_at_first(mac, listed),
            (true, true) => Some(machines.boot(mac)),
            (true, false) => machines.boot_unlisted(mac),
        });
        match decided.await {
            Ok(Some(decision)) => decision,
            Ok(None) if self.settings.denies(mac) => BootDecision::LocalDisk {
                why: format!("{mac} is one of those that p2v does not boot (deny)."),
            },
            Ok(None) => BootDecision::LocalDisk {
                why: format!(
                    "Nobody has approved it. On the Xen host, `p2v approve {mac}` lets p2v boot it."
                ),
            },
            Err(e) => {
                let why = format!("{mac}: no decision, the machine is held: {e}");
                self.machines.noticed(&Notice::Failed { why });
                BootDecision::Hold {
                    message: "p2v could not decide what this machine shall do; see its log on the \
                              Xen host."
                        .to_owned(),
                }
            }
        }
    }

    /// The menu for a machine; made anew each time, so that it says what holds now.
    async fn menu(&self, format: MenuFormat, peer: IpAddr, mac: Option<MacAddr>) -> Bytes {
        let decision = match mac {
            None => BootDecision::Hold {
                message: "The boot loader did not say which machine this is.".to_owned(),
            },
            Some(mac) => self.decide(mac, true).await,
        };
        let decision = match decision {
            BootDecision::Agent { append, image } => BootDecision::Agent {
                append,
                image: self.set.image(image),
            },
            other => other,
        };
        // Debian's signed GRUB has no module for HTTP.
        let has_http = format != MenuFormat::Grub || !self.settings.signed_grub();
        let reader = Reader {
            mac,
            http: self.http.as_deref().filter(|_| has_http),
        };
        let (kind, menu): (MenuKind, String) = boot_menu::render(format, reader, &decision);
        match mac {
            Some(mac) => self.machines.seen(mac, &BootEvent::Menu { kind }),
            None => self.tell(peer, BootEvent::Menu { kind }),
        }
        Bytes::from(menu)
    }
}
