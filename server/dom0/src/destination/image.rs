//! A copy in a qcow2 image: made, gone on with, or refused, and shown as the raw disk that the copy writes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use p2v_contract::SECTOR;
use p2v_copy::{FileSink, Sink};

use super::error::{DestinationError, io_error};
use super::file::{image as image_destination, refuse_other};
use super::marks::Seen;
use super::place::Place;
use super::request::{MayGo, Prepared, Request, refuse_domains_disk};
use crate::host::Host;
use crate::name::MachineName;
use crate::record::Destination;
use crate::tool::qemu_storage_daemon::{self, Shown};
use crate::tool::{ToolError, blkid, qemu_img};

/// Time that the daemon of a run that was killed may take to close the image.
const CLOSE_LIMIT: Duration = Duration::from_secs(15);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// What a file is to hold, by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Raw,
    Qcow2,
    /// A format that is not written.
    Other(&'static str),
}

impl Format {
    pub(super) fn of(path: &Path) -> Format {
        let ending = path.extension().unwrap_or_default();
        if ending.eq_ignore_ascii_case("qcow2") {
            return Format::Qcow2;
        }
        // By qemu-img's names: `vpc` is what it calls VHD.
        let others = [
            ("vmdk", "vmdk"),
            ("vdi", "vdi"),
            ("vhd", "vpc"),
            ("vhdx", "vhdx"),
            ("qed", "qed"),
        ];
        others
            .iter()
            .find(|(other, _)| ending.eq_ignore_ascii_case(other))
            .map_or(Format::Raw, |(_, name)| Format::Other(name))
    }
}

/// The image at `path`, as it is (`there`), or that one can be made.
pub(super) fn find(
    host: &Host,
    path: PathBuf,
    there: Option<&fs::Metadata>,
    request: Request<'_>,
) -> Result<Place, DestinationError> {
    let Some(there) = there else {
        return Ok(Place::NewImage(path));
    };
    refuse_domains_disk(host, &path)?;
    if there.len() > 0 {
        wait_until_closed(&path)?;
    }
    // What is asked for now, and looked at again before it goes.
    let over = Seen::at(&path)?;
    if there.len() > 0 {
        let ours = request.before == Some(&destination(&path)?);
        let fault = match ours {
            true => qemu_img::info(&host.tools, &path)?.fault(request.sectors * SECTOR),
            false => None,
        };
        if ours && fault.is_none() {
            return Ok(Place::Image { path, over: None });
        }
        may_go(host, &path, fault, request.may_go)?;
    }
    Ok(Place::Image {
        path,
        over: Some(over),
    })
}

/// Makes the image and opens it.
pub(super) fn make_new(
    host: &Host,
    path: PathBuf,
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    make(host, &path, request.sectors * SECTOR, false)?;
    let opened = open(host, path.clone(), request, true);
    opened.inspect_err(|_| {
        // It is empty, and would be a stranger's to the next run. The error is what must be seen.
        let _ = fs::remove_file(&path);
    })
}

/// Opens the image that was found; one that is not this disk's (`over`) is replaced.
pub(super) fn open_found(
    host: &Host,
    path: PathBuf,
    over: Option<Seen>,
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    if let Some(then) = over {
        // The operator may have taken long to answer.
        refuse_domains_disk(host, &path)?;
        wait_until_closed(&path)?;
        if Seen::at(&path)? != then {
            return Err(DestinationError::Changed(path));
        }
        make(host, &path, request.sectors * SECTOR, true)?;
    }
    open(host, path, request, over.is_some())
}

/// Refuses what is there, unless the operator says that it may go.
fn may_go(
    host: &Host,
    path: &Path,
    fault: Option<String>,
    may_go: MayGo<'_>,
) -> Result<(), DestinationError> {
    let holds_what = match qemu_img::disk_bytes(path).map_err(|e| io_error("read", path, e))? {
        Some(bytes) => Some(format!("a qcow2 image of a disk of {bytes} bytes")),
        None => blkid::content(&host.tools, path),
    };
    if may_go(&path.display().to_string(), holds_what.as_deref()) {
        return Ok(());
    }
    let path = path.to_owned();
    Err(match fault {
        Some(why) => DestinationError::Image { path, why },
        None => DestinationError::Holds { path, holds_what },
    })
}

/// Makes a new image under another name, and gives it its own when it is whole.
fn make(host: &Host, path: &Path, bytes: u64, over: bool) -> Result<(), DestinationError> {
    let error = |e| io_error("create", path, e);
    // What a link leads to is replaced, not the link.
    let path = match over {
        true => fs::canonicalize(path).map_err(error)?,
        false => path.to_owned(),
    };
    let dir = path.parent().unwrap_or(Path::new("/"));
    // Readable by root only, like every file that is made here.
    let new = tempfile::Builder::new()
        .prefix(".p2v-")
        .suffix(".qcow2")
        .tempfile_in(dir)
        .map_err(error)?;
    qemu_img::create(&host.tools, new.path(), bytes)?;
    new.as_file().sync_all().map_err(error)?;
    let named = match over {
        true => new.persist(&path),
        false => new.persist_noclobber(&path),
    };
    named.map_err(|e| error(e.error))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(error)
}

fn open(
    host: &Host,
    path: PathBuf,
    request: Request<'_>,
    fresh: bool,
) -> Result<Prepared, DestinationError> {
    let (sink, image) = show(host, request.name, request.slot, &path, true)?;
    if sink.bytes() != request.sectors * SECTOR {
        return Err(DestinationError::Image {
            why: format!("QEMU shows it as a disk of {} bytes", sink.bytes()),
            path,
        });
    }
    Ok(Prepared {
        ours: true,
        destination: destination(&path)?,
        sink,
        in_pool: None,
        image: Some(image),
        fresh,
        blank: fresh,
    })
}

fn show(
    host: &Host,
    name: &MachineName,
    slot: u8,
    image: &Path,
    writable: bool,
) -> Result<(FileSink, Shown), DestinationError> {
    let at = host.store.copy_file(name, slot, "raw");
    let shown = qemu_storage_daemon::show(&host.tools, image, &at, writable)?;
    let sink = FileSink::open_image(&at).map_err(|e| io_error("open", &at, e))?;
    Ok((sink, shown))
}

/// The image of a copy that was made before, shown to be read only. It is the one that was copied to, and a disk of
/// `sectors` sectors, or refused.
pub(super) fn show_again(
    host: &Host,
    name: &MachineName,
    slot: u8,
    (before, path): (&Destination, &Path),
    sectors: u64,
) -> Result<(FileSink, Shown), DestinationError> {
    is_as_copied(host, before, path, sectors)?;
    show(host, name, slot, path, false)
}

/// Makes sure that the image is the one that was copied to and stands for itself: a disk of `sectors`
/// sectors, that no QEMU program has open.
///
/// # Errors
/// What is wrong with it.
pub fn is_as_copied(
    host: &Host,
    before: &Destination,
    path: &Path,
    sectors: u64,
) -> Result<(), DestinationError> {
    let metadata = fs::metadata(path).map_err(|e| io_error("look at", path, e))?;
    refuse_other(before, &metadata)?;
    whole(host, path, sectors)
}

fn whole(host: &Host, path: &Path, sectors: u64) -> Result<(), DestinationError> {
    wait_until_closed(path)?;
    match qemu_img::info(&host.tools, path)?.fault(sectors * SECTOR) {
        None => Ok(()),
        Some(why) => Err(DestinationError::Image {
            path: path.to_owned(),
            why,
        }),
    }
}

fn destination(path: &Path) -> Result<Destination, DestinationError> {
    let metadata = fs::metadata(path).map_err(|e| io_error("look at", path, e))?;
    Ok(image_destination(path, &metadata))
}

/// The daemon of a run that was killed ends with it, which takes a moment.
fn wait_until_closed(path: &Path) -> Result<(), DestinationError> {
    let until = Instant::now() + CLOSE_LIMIT;
    while qemu_img::is_open(path).map_err(|e| io_error("look at the locks of", path, e))? {
        if Instant::now() > until {
            return Err(DestinationError::Busy(path.to_owned()));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

impl Prepared {
    /// Has an image closed, which is all there then; anything else is kept open.
    ///
    /// # Errors
    /// It was not closed as it should.
    pub fn close_image(mut self) -> Result<Option<Prepared>, ToolError> {
        match self.image.take() {
            None => Ok(Some(self)),
            Some(image) => {
                drop(self);
                image.end()?;
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::{Wanted, prepare, reopen};
    use super::*;

    #[test]
    fn the_ending_says_what_a_file_becomes() {
        for (name, format) in [
            ("/x/a.qcow2", Format::Qcow2),
            ("/x/a.QCOW2", Format::Qcow2),
            ("/x/a.img", Format::Raw),
            ("/x/a", Format::Raw),
            ("/x/qcow2", Format::Raw),
            ("/x/a.qcow2.old", Format::Raw),
            ("/x/a.vmdk", Format::Other("vmdk")),
            ("/x/a.vhd", Format::Other("vpc")),
            ("/x/a.VDI", Format::Other("vdi")),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }

    #[test]
    fn an_image_of_ones_own_is_gone_on_with_and_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut host = Host::open(crate::Settings::default(), "lo", &dir.join("state")).unwrap();
        host.paths = crate::Paths::under(dir);
        let name: MachineName = "web".parse().unwrap();
        let no: MayGo<'_> = &|_, _| false;
        let request = |before, may_go| Request {
            name: &name,
            slot: 0,
            tag: "p2v.web.0.00",
            sectors: 2049,
            before,
            may_go,
        };
        let path = dir.join("disk.qcow2");
        let wanted = Wanted::Path(path.clone());
        let get = |request| super::super::prepare(&host, &wanted, request);
        let first = prepare(&host, &wanted, request(None, no)).unwrap();
        assert!(first.fresh && first.blank);
        assert_eq!(first.sink.bytes(), 2049 * 512);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        first.sink.write_at(512, &[7; 512]).unwrap();
        let ours = first.destination.clone();
        assert!(first.close_image().unwrap().is_none());
        let sector = |sink: &FileSink| {
            let mut back = [0; 512];
            sink.read_back(512, &mut back).unwrap();
            back[0]
        };

        let again = get(request(Some(&ours), no)).unwrap();
        assert!(!again.fresh && !again.blank && again.destination == ours);
        assert_eq!(sector(&again.sink), 7);
        drop(again);
        let read = reopen(&host, &name, 0, &ours, &path, 2049).unwrap();
        assert_eq!(sector(read.sink()), 7);
        drop(read);
        assert!(is_as_copied(&host, &ours, &path, 2049).is_ok());
        assert!(is_as_copied(&host, &ours, &path, 2050).is_err());

        let text = |result: Result<Prepared, DestinationError>| result.unwrap_err().to_string();
        let error = text(get(request(None, no)));
        assert!(
            error.contains("a qcow2 image of a disk of 1049088 bytes"),
            "{error}"
        );
        let raw = Destination::File {
            path: path.clone(),
            identity: match &ours {
                Destination::Qcow2 { identity, .. } => identity.clone(),
                other => panic!("{other}"),
            },
        };
        assert!(get(request(Some(&raw), no)).is_err());
        // Ours, with a snapshot that somebody took.
        let image = path.to_str().unwrap();
        host.tools
            .run("qemu-img", ["snapshot", "-c", "s", image])
            .unwrap();
        let error = text(get(request(Some(&ours), no)));
        assert!(error.contains("1 snapshots"), "{error}");
        assert!(is_as_copied(&host, &ours, &path, 2049).is_err());
        host.tools
            .run("qemu-img", ["snapshot", "-d", "s", image])
            .unwrap();
        drop(get(request(Some(&ours), no)).unwrap());
        // Another one of that name, over a file that it hides.
        let base = dir.join("base.qcow2");
        fs::rename(&path, &base).unwrap();
        let base = base.to_str().unwrap();
        let over = [
            "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, image,
        ];
        host.tools.run("qemu-img", over).unwrap();
        let stranger = fs::read(&path).unwrap();
        assert!(get(request(Some(&ours), no)).is_err());
        assert!(is_as_copied(&host, &ours, &path, 2049).is_err());
        assert!(reopen(&host, &name, 0, &ours, &path, 2049).is_err());
        assert!(fs::read(&path).unwrap() == stranger);
        // What became another file while the operator was asked stays.
        let too_late: MayGo<'_> = &|_, _| fs::write(&path, "someone else").is_ok();
        let error = get(request(Some(&ours), too_late)).unwrap_err();
        assert!(matches!(error, DestinationError::Changed(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"someone else");
        fs::write(&path, &stranger).unwrap();
        // By the operator's word it is made anew, and nothing of it is left; through a link, the link stays.
        let link = dir.join("link.qcow2");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let yes: MayGo<'_> = &|name, holds| {
            name.ends_with("link.qcow2") && holds.is_some_and(|what| what.contains("qcow2"))
        };
        let anew = Wanted::Path(link.clone());
        let anew = prepare(&host, &anew, request(Some(&ours), yes)).unwrap();
        assert!(anew.fresh && anew.blank && anew.destination != ours);
        assert_eq!(sector(&anew.sink), 0);
        drop(anew);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            qemu_img::info(&host.tools, &path)
                .unwrap()
                .fault(2049 * 512),
            None
        );

        // An empty file holds nothing; one that cannot be made leaves nothing.
        fs::write(&path, "").unwrap();
        drop(get(request(None, no)).unwrap());
        let nowhere = Wanted::Path(dir.join("none/x.qcow2"));
        assert!(prepare(&host, &nowhere, request(None, no)).is_err());
        let tools = std::mem::replace(&mut host.tools, crate::tool::Tools::in_dir(dir));
        let new = Wanted::Path(dir.join("new.qcow2"));
        let error = text(prepare(&host, &new, request(None, no)));
        assert!(error.contains("apt install qemu-utils"), "{error}");
        // The other programs are not there: what was made is no obstacle to the next run.
        std::os::unix::fs::symlink("/usr/bin/qemu-img", dir.join("qemu-img")).unwrap();
        let error = text(prepare(&host, &new, request(None, no)));
        assert!(error.contains("apt install util-linux"), "{error}");
        assert!(!dir.join("new.qcow2").exists());
        host.tools = tools;
        for name in ["x.vmdk", "x.vhdx"] {
            let other = Wanted::Path(dir.join(name));
            let error = text(prepare(&host, &other, request(None, no)));
            assert!(error.contains("qemu-img convert"), "{error}");
            assert!(!dir.join(name).exists());
        }
        let names = fs::read_dir(dir).unwrap();
        let names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
        assert!(
            !names
                .iter()
                .any(|n| n.as_encoded_bytes().starts_with(b".p2v")),
            "{names:?}"
        );
    }
}
