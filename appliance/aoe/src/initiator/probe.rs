//! How many sectors a frame may have on the way to a target. What a target says of itself is no proof: a
//! switch between may drop long frames in silence, and then everything stalls.

use std::time::Duration;

use p2v_contract::address::SECTOR;
use p2v_contract::operation::{Probe, Reply, Request};

use super::Error;
use super::exchange::{Ask, Exchange, no_data};
use crate::ata::{ATA_LEN, Registers, STATUS_FAILED};
use crate::frame::command;

/// Silence after which long frames count as lost on their way: three tries at the first time-out.
const PATIENCE: Duration = Duration::from_millis(1700);

/// Sectors in a frame that every Ethernet carries.
pub(super) const ALWAYS_FITS: u8 = 2;

/// Sectors that make it in one frame both ways: `most` if long frames arrive, otherwise as many as
/// every Ethernet carries. `offered` is what the target says it takes.
pub(super) fn sectors(
    exchange: &mut Exchange,
    path: usize,
    most: u8,
    offered: u8,
) -> Result<u8, Error> {
    if most <= ALWAYS_FITS {
        return Ok(most.min(offered.max(1)));
    }
    let mut ask = |body: &dyn Fn(usize, &mut Vec<u8>), command| {
        let ask = Ask {
            what: "answer a long frame",
            command,
            count: 1,
            body,
            data: &no_data,
            slow: Duration::ZERO,
            path: Some(path),
        };
        let mut answer = None;
        let result = exchange.trial(PATIENCE, path, &ask, &mut |_, body| {
            answer = Some(body.to_vec());
            Ok(())
        });
        match result {
            Ok(()) => Ok(answer),
            // Lost on its way, or a target that does not know the question.
            Err(Error::Silent { .. } | Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let length = (ATA_LEN + usize::from(most) * SECTOR as usize) as u16;
    let mut probe = |probe: Probe| -> Result<Option<Probe>, Error> {
        let request = Request::Probe(probe).to_bytes();
        let body = ask(&|_, body| body.extend_from_slice(&request), command::P2V)?;
        Ok(match body.as_deref().map(Reply::parse) {
            Some(Ok(Reply::Probe(answer))) => Some(answer),
            _ => None,
        })
    };
    let question = Probe {
        confirm: false,
        length,
        word: 0,
    };
    if let Some(answer) = probe(question)? {
        let confirm = Probe {
            confirm: true,
            ..answer
        };
        return Ok(if probe(confirm)?.is_some() {
            most
        } else {
            ALWAYS_FITS
        });
    }
    let most = most.min(offered);
    if most <= ALWAYS_FITS {
        return Ok(ALWAYS_FITS.min(offered.max(1)));
    }
    // A foreign target that offers long frames: a read whose request is as long as its answer.
    let length = ATA_LEN + usize::from(most) * SECTOR as usize;
    let registers = Registers::transfer(false, 0, most).to_bytes();
    let answer = ask(
        &|_, body| {
            let from = body.len();
            body.extend_from_slice(&registers);
            body.resize(from + length, 0);
        },
        command::ATA,
    )?;
    let arrived = answer.is_some_and(|body| {
        let read = Registers::parse(&body);
        body.len() >= length && read.is_ok_and(|(r, _)| r.command & STATUS_FAILED == 0)
    });
    Ok(if arrived { most } else { ALWAYS_FITS })
}
