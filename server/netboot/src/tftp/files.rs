//! What is served: the [`Catalogue`], through the [`Handler`] that the published server takes too.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_tftp::packet::Error;
use async_tftp::server::Handler;
use bytes::Bytes;
use futures_lite::io::{Cursor, Sink};

use super::conversation::{Ended, Outcome};
use super::listener::Source;
use crate::boot_menu::Wanted;
use crate::catalogue::Catalogue;
use crate::event::{BootEvent, Notice};

/// Answers requests by name.
#[derive(Clone)]
pub(crate) struct Files(pub Arc<Catalogue>);

impl Handler for Files {
    type Reader = Cursor<Bytes>;
    type Writer = Sink;

    async fn read_req_open(
        &mut self,
        client: &SocketAddr,
        path: &Path,
    ) -> Result<(Self::Reader, Option<u64>), Error> {
        let name = path.to_str().unwrap_or_default();
        let found = self.0.find(client.ip(), name).await;
        let contents = found.ok_or(Error::FileNotFound)?;
        let size = contents.len() as u64;
        Ok((Cursor::new(contents), Some(size)))
    }

    async fn write_req_open(
        &mut self,
        client: &SocketAddr,
        path: &Path,
        _size: Option<u64>,
    ) -> Result<Self::Writer, Error> {
        self.0.machines.noticed(&Notice::WriteRefused {
            peer: client.ip(),
            name: path.to_string_lossy().into_owned(),
        });
        Err(Error::PermissionDenied)
    }
}

impl Source for Files {
    fn ended(&self, end: Ended) {
        let is_menu = !matches!(Wanted::parse(&end.name), Some(Wanted::File(_)));
        let file = end.name.trim_start_matches('/').to_owned();
        let bytes = end.bytes;
        let event = match end.outcome {
            // That a menu was sent is said when it is made.
            Outcome::Complete | Outcome::EndUnacknowledged if is_menu => return,
            Outcome::Complete => BootEvent::Fetched {
                file,
                bytes,
                elapsed: Some(end.elapsed),
            },
            Outcome::EndUnacknowledged => BootEvent::Fetched {
                file,
                bytes,
                elapsed: None,
            },
            Outcome::Stopped(_) if bytes == 0 => BootEvent::SizeAsked { file },
            Outcome::Stopped(why) => BootEvent::Aborted { file, bytes, why },
            Outcome::Silent => BootEvent::Silent { file, bytes },
            Outcome::Failed(why) => BootEvent::Failed { file, why },
        };
        self.0.tell(end.peer.ip(), event);
    }
}
