//! The thin pools that a command's copies fill: looked at before, and while they are filled.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::copy::destination::{DestinationError, InPool};
use crate::copy::thin_pool::{self, Room, mib};
use crate::tool::lvm::thin;
use crate::workflow::{Context, Error};

use super::disk::Job;

/// Time between two looks at the pools.
const LOOK: Duration = Duration::from_secs(2);

/// Volume group and name of a pool.
pub(super) type PoolName = (String, String);

/// Makes sure that there is room in the pools of these destinations, to each of which so many bytes may be written, and
/// warns where there may not be enough. Returns the pools.
///
/// # Errors
/// A pool is in danger already.
pub(super) fn check<'p>(
    context: Context<'_>,
    filled: impl IntoIterator<Item = (&'p InPool, u64)>,
) -> Result<BTreeSet<PoolName>, Error> {
    let Context { host, report, .. } = context;
    let mut pools: BTreeMap<PoolName, u64> = BTreeMap::new();
    for (place, bytes) in filled {
        let written = match &place.volume {
            Some(lv) => thin::written(&host.tools, &place.vg, lv)?,
            None => 0,
        };
        let name = (place.vg.clone(), place.pool.clone());
        *pools.entry(name).or_default() += bytes.saturating_sub(written);
    }
    for ((vg, lv), bytes) in &pools {
        let Some(pool) = thin::pool(&host.tools, vg, lv)? else {
            continue;
        };
        match thin_pool::room(&pool, *bytes) {
            Room::Enough => {}
            Room::None(full) => return Err(DestinationError::PoolFull(full).into()),
            Room::UpTo(room) => report.warn(&format!(
                "up to {} MiB may be written to the thin pool {vg}/{lv}, which has room for {} MiB (zeros take none; {} of \
                 its {} MiB are used): the copy stops in order before the pool is full. To have room for all of it: {}",
                mib(*bytes),
                mib(room),
                pool.data,
                mib(pool.size),
                thin_pool::remedy(&pool)
            )),
        }
    }
    Ok(pools.into_keys().collect())
}

/// Looks at the pools until `over` hangs up. Once one is in danger, notes which, and stops the copies.
pub(super) fn watch(job: &Job<'_>, pools: &BTreeSet<PoolName>, over: &Receiver<Infallible>) {
    let Context { host, report, .. } = job.context;
    let stop = job.request.stop;
    let mut warned = false;
    while !pools.is_empty() && !stop.load(Ordering::Relaxed) {
        for (vg, lv) in pools {
            let why = match thin::pool(&host.tools, vg, lv) {
                Ok(Some(pool)) => match thin_pool::full(&pool) {
                    None => continue,
                    Some(full) => {
                        // Before the copies end, which tell why.
                        let _ = job.pool_full.set(full);
                        stop.store(true, Ordering::Release);
                        return;
                    }
                },
                Ok(None) => "LVM does not say how full it is".to_owned(),
                Err(error) => error.to_string(),
            };
            if !std::mem::replace(&mut warned, true) {
                report.warn(&format!(
                    "the thin pool {vg}/{lv} cannot be watched: {why}. See that it does not fill up (`lvs {vg}/{lv}`)"
                ));
            }
        }
        if over.recv_timeout(LOOK) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}
