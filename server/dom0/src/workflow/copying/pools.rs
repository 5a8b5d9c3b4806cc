//! The thin pools that a command's copies fill: looked at before, and while they are filled.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use p2v_copy::Allowance;

use crate::destination::thin_pool::{self, Room, mib};
use crate::destination::{DestinationError, InPool};
use crate::tool::lvm::thin;
use crate::workflow::{Context, Error};

use super::disk::Job;

/// Time between two looks at the pools.
const LOOK: Duration = Duration::from_secs(2);

/// Volume group and name of a pool.
pub(super) type PoolName = (String, String);

/// Makes sure that there is room in the pools of these destinations, to each of which so many bytes may be written, and
/// warns where there may not be enough. Returns the pools, and what may be written to each.
///
/// # Errors
/// A pool is in danger already.
pub(super) fn check<'p>(
    context: Context<'_>,
    filled: impl IntoIterator<Item = (&'p InPool, u64)>,
) -> Result<BTreeMap<PoolName, Allowance>, Error> {
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
    let mut allowances = BTreeMap::new();
    for ((vg, lv), bytes) in pools {
        let Some(pool) = thin::pool(&host.tools, &vg, &lv)? else {
            allowances.insert((vg, lv), Allowance::new(None));
            continue;
        };
        match thin_pool::room(&pool, bytes) {
            Room::Enough => {}
            Room::None(full) => return Err(DestinationError::PoolFull(full).into()),
            Room::UpTo(room) => report.warn(&format!(
                "up to {} MiB may be written to the thin pool {vg}/{lv}, which has room for {} MiB (zeros take none; {} of \
                 its {} MiB are used): the copy stops in order before the pool is full. To have room for all of it: {}",
                mib(bytes),
                mib(room),
                pool.data,
                mib(pool.size),
                thin_pool::remedy(&pool)
            )),
        }
        allowances.insert((vg, lv), Allowance::new(thin_pool::left(&pool)));
    }
    Ok(allowances)
}

/// Looks at the pools until `over` hangs up, and gives them what they have room for. Once one is in danger, notes which, and
/// stops the copies.
pub(super) fn watch(
    job: &Job<'_>,
    pools: &BTreeMap<PoolName, Allowance>,
    over: &Receiver<Infallible>,
) {
    let Context { host, report, .. } = job.context;
    let stop = job.request.stop;
    let mut warned = false;
    // What was written before the last look: the kernel's figures may be a second old.
    let mut before: Vec<u64> = vec![0; pools.len()];
    while !pools.is_empty() && !stop.load(Ordering::Relaxed) {
        for (((vg, lv), allowance), before) in pools.iter().zip(&mut before) {
            let written = allowance.written();
            let why = match thin::pool(&host.tools, vg, lv) {
                Ok(Some(pool)) => {
                    let wanted = allowance.looked(*before, thin_pool::left(&pool));
                    *before = written;
                    match thin_pool::full(&pool, wanted.unwrap_or(0)) {
                        None => continue,
                        Some(full) => {
                            // Before the copies end, which tell why.
                            let _ = job.pool_full.set(full);
                            stop.store(true, Ordering::Release);
                            return;
                        }
                    }
                }
                Ok(None) => "LVM does not say how full it is".to_owned(),
                Err(error) => error.to_string(),
            };
            allowance.looked(*before, None);
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
