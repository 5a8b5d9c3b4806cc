//! A logical volume as destination: made, gone on with, or refused.

use std::fs;
use std::os::unix::fs::MetadataExt;

use p2v_contract::SECTOR;

use super::device;
use super::error::DestinationError;
use super::place::Place;
use super::request::{InPool, Prepared, Request, refuse_domains_disk};
use super::thin_pool;
use crate::host::Host;
use crate::record::Destination;
use crate::tool::lvm::{self, Volume};
use crate::tool::{ToolError, blkid};

/// The volume `vg/lv`, as it is, or room to make it: in the thin pool, if there is one.
pub(super) fn find(
    host: &Host,
    vg: &str,
    lv: &str,
    pool: Option<Volume>,
    request: Request<'_>,
) -> Result<Place, DestinationError> {
    let lv = lvm::check_name(lv)?;
    let need = request.sectors * SECTOR;
    if let Some(volume) = lvm::volume(&host.tools, vg, lv)? {
        let ours = is_ours(&volume, request.tag)?;
        refuse_domains_disk(host, &host.paths.dev.join(vg).join(lv))?;
        if volume.size < need {
            return Err(DestinationError::Short {
                what: format!("volume {vg}/{lv}"),
                have: volume.size,
                need,
            });
        }
        if let Some(pool) = &volume.pool {
            refuse_full(host, vg, pool)?;
        }
        if !ours {
            ask_for(host, &volume, request)?;
        }
        return Ok(Place::Volume { volume, ours });
    }
    let groups = lvm::groups(&host.tools)?;
    let Some(group) = groups.iter().find(|g| g.name == vg) else {
        let names: Vec<&str> = groups.iter().map(|g| &*g.name).collect();
        let names = match names.is_empty() {
            true => "none".into(),
            false => names.join(", "),
        };
        return Err(DestinationError::NoGroup(vg.to_owned(), names));
    };
    if let Some(pool) = &pool {
        refuse_full(host, vg, &pool.lv)?;
    }
    // How much room a thin volume will need is not known before.
    if pool.is_none() && group.free < need {
        return Err(DestinationError::NoRoom {
            vg: vg.to_owned(),
            free: group.free,
            need,
        });
    }
    let (vg, lv) = (vg.to_owned(), lv.to_owned());
    Ok(Place::NewVolume { vg, lv, pool })
}

/// Refuses a thin pool that has no room as it is.
fn refuse_full(host: &Host, vg: &str, pool: &str) -> Result<(), DestinationError> {
    // Of one that is not active nothing is known yet.
    let pool = lvm::thin::pool(&host.tools, vg, pool)?;
    match pool.as_ref().and_then(|pool| thin_pool::full(pool, 0)) {
        None => Ok(()),
        Some(full) => Err(DestinationError::PoolFull(Box::new(full))),
    }
}

/// Makes the volume and opens it.
pub(super) fn make(
    host: &Host,
    vg: String,
    lv: String,
    pool: Option<Volume>,
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    let need = request.sectors * SECTOR;
    let tags = [request.tag, lvm::TAG_COPYING];
    match &pool {
        Some(pool) => lvm::create_thin(&host.tools, &vg, &pool.lv, &lv, need, &tags)?,
        None => lvm::create(&host.tools, &vg, &lv, need, &tags)?,
    }
    let sink = device::open(host, &host.paths.dev.join(&vg).join(&lv), need)?;
    let made = lvm::volume(&host.tools, &vg, &lv)?.ok_or_else(|| {
        ToolError::NotDone(format!("{vg}/{lv} was made, and lvs does not list it"))
    })?;
    let in_pool = pool.as_ref().map(|pool| InPool {
        vg: vg.clone(),
        pool: pool.lv.clone(),
        volume: Some(lv.clone()),
    });
    Ok(Prepared {
        destination: Destination::Volume {
            vg,
            lv,
            uuid: made.uuid,
        },
        sink,
        in_pool,
        image: None,
        fresh: true,
        blank: pool.is_some_and(|pool| pool.zeroes),
        ours: true,
    })
}

/// Opens the volume and marks it as this disk's copy.
pub(super) fn open(
    host: &Host,
    volume: Volume,
    ours: bool,
    request: Request<'_>,
) -> Result<Prepared, DestinationError> {
    let Volume {
        vg, lv, uuid, pool, ..
    } = volume;
    if !volume.active {
        lvm::activate(&host.tools, &vg, &lv)?;
    }
    let path = host.paths.dev.join(&vg).join(&lv);
    let sink = device::open(host, &path, request.sectors * SECTOR)?;
    // The operator may have taken long to answer, and nobody held it meanwhile: that it has become another
    // volume, or a moved system's disk, must be seen.
    let now = lvm::volume(&host.tools, &vg, &lv)?;
    if now.is_none_or(|now| now.uuid != uuid || now.tags != volume.tags) {
        return Err(DestinationError::Changed(path));
    }
    // Only now, that nobody else has it. Whose copy it was, it is no more.
    let tags = [request.tag, lvm::TAG_COPYING];
    let others: Vec<&str> = volume
        .tags
        .iter()
        .map(String::as_str)
        .filter(|t| t.starts_with(lvm::TAG_PREFIX) && !tags.contains(t))
        .collect();
    lvm::retag(&host.tools, &vg, &lv, &tags, &others)?;
    let in_pool = pool.map(|pool| InPool {
        vg: vg.clone(),
        pool,
        volume: Some(lv.clone()),
    });
    Ok(Prepared {
        destination: Destination::Volume { vg, lv, uuid },
        sink,
        in_pool,
        image: None,
        fresh: false,
        blank: false,
        ours,
    })
}

/// Whether the volume is the copy of the disk that `tag` stands for. What a domain was switched to has newer
/// data than the old disk: not even by force.
fn is_ours(volume: &Volume, tag: &str) -> Result<bool, DestinationError> {
    if volume.has_tag(lvm::TAG_MOVED) {
        return Err(DestinationError::Moved(
            volume.vg.clone(),
            volume.lv.clone(),
        ));
    }
    Ok(volume.has_tag(tag))
}

/// Refuses a volume that is not this disk's copy, unless the operator says that what it holds may go.
fn ask_for(host: &Host, volume: &Volume, request: Request<'_>) -> Result<(), DestinationError> {
    let name = format!("{}/{}", volume.vg, volume.lv);
    let holds_what = blkid::content(&host.tools, &host.paths.dev.join(&name));
    if (request.may_go)(&name, holds_what.as_deref()) {
        return Ok(());
    }
    Err(DestinationError::Foreign {
        vg: volume.vg.clone(),
        lv: volume.lv.clone(),
        tag: request.tag.to_owned(),
        holds_what,
    })
}

/// The volume that has this device number: its tags say whose it is, by whatever path it was named.
pub(super) fn at(host: &Host, rdev: u64) -> Result<Option<(String, String)>, DestinationError> {
    let volumes = match lvm::volumes(&host.tools) {
        Err(ToolError::Missing { .. }) => return Ok(None),
        other => other?,
    };
    Ok(volumes
        .into_iter()
        .find(|v| {
            fs::metadata(host.paths.dev.join(&v.vg).join(&v.lv)).is_ok_and(|m| m.rdev() == rdev)
        })
        .map(|v| (v.vg, v.lv)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_ours_by_its_tag_only() {
        let volume = |tags: &[&str]| Volume {
            vg: "vg".into(),
            lv: "lv".into(),
            uuid: "u".into(),
            vg_uuid: "v".into(),
            size: 1,
            tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            active: true,
            is_thin_pool: false,
            pool: None,
            zeroes: false,
        };
        let ours = |tags| is_ours(&volume(tags), "p2v.web.0.aa");
        assert!(ours(&["p2v.web.0.aa", "p2v.copying"]).unwrap());
        for tags in [
            &[][..],
            &["p2v.web.1.aa"],
            &["p2v.copying"],
            // A machine that was called web before.
            &["p2v.web.0.bb"],
            &["p2v.web.0"],
        ] {
            assert!(!ours(tags).unwrap(), "{tags:?}");
        }
        for tags in [&["p2v.web.0.aa", lvm::TAG_MOVED][..], &[lvm::TAG_MOVED]] {
            assert!(matches!(ours(tags), Err(DestinationError::Moved(..))));
        }
    }
}
