//! Any request that comes to the TFTP port, and any answers to the transfer it begins: what is sent is the file, in
//! order, within what was granted.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use p2v_netboot::boot_menu::Wanted;
use p2v_netboot::tftp::options::Limits;
use p2v_netboot::tftp::packet::Request;
use p2v_netboot::tftp::transfer::{Header, Heard, Late, Transfer};

const LIMITS: Limits = Limits { block_size: 1456, window: 16 };

fuzz_target!(|bytes: &[u8]| {
    let Some((&[high, low, len], rest)) = bytes.split_first_chunk::<3>() else { return };
    let (request, mut answers) = rest.split_at(rest.len().min(len.into()));
    let Ok(request) = Request::parse(request) else { return };
    assert!(request.name.len() <= 3 * usize::from(len), "at most a replacement character for each byte");
    let _ = Wanted::parse(&request.name);

    let file: Vec<u8> = (0..u16::from_be_bytes([high, low])).map(|at| (at ^ (at >> 8)) as u8).collect();
    let granted = request.options.grant(LIMITS, file.len());
    let size = usize::from(granted.block_size());
    assert!((1..=1456).contains(&size) && (1..=16).contains(&granted.window()));
    let mut transfer = Transfer::new(Bytes::from(file.clone()), &granted);
    let mut late = 0;
    let mut before = 0;
    while let Some((&step, rest)) = answers.split_first() {
        let last = in_flight(&transfer, &file, size, granted.window());
        let (datagram, rest) = match step {
            0xFF => {
                late += 1;
                assert!(transfer.late() != Late::GiveUp || late > 5, "five times at least");
                (Vec::new(), rest)
            }
            // The right answer, which would seldom be found.
            0xFE => ([&[0, 4], &last.to_be_bytes()[..]].concat(), rest),
            len => {
                let (datagram, rest) = rest.split_at(rest.len().min(len.into()));
                (datagram.to_vec(), rest)
            }
        };
        answers = rest;
        match transfer.hear(&datagram) {
            Heard::Done => return assert_eq!(transfer.bytes_acked(), file.len() as u64),
            Heard::Stopped(_) => return,
            Heard::Send | Heard::Nothing => {}
        }
        assert!(transfer.bytes_acked() >= before && transfer.bytes_acked() <= file.len() as u64);
        before = transfer.bytes_acked();
    }
});

/// Looks at what is sent; the number of the last packet.
fn in_flight(transfer: &Transfer, file: &[u8], size: usize, window: u16) -> u16 {
    let mut at = transfer.bytes_acked() as usize;
    let mut number = (at / size) as u16;
    let mut count = 0;
    for (header, data) in transfer.packets() {
        count += 1;
        match header {
            Header::Options(packet) => {
                assert!(packet.starts_with(b"\0\x06") && data.is_empty() && at == 0);
            }
            Header::Data(header) => {
                number = number.wrapping_add(1);
                assert_eq!(header, [0, 3, (number >> 8) as u8, number as u8]);
                assert_eq!(data, &file[at..file.len().min(at + size)]);
                at += data.len();
            }
        }
    }
    assert!(count > 0 && count <= window);
    number
}
