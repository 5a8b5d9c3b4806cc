//! Frames as they come, in memory that the kernel and we share (`PACKET_RX_RING`, `TPACKET_V2`):
//! receiving takes no system call and no copy of ours. V3 would hand out frames in blocks, and keep the
//! last ones of a burst back for a millisecond.

use std::io;
use std::mem;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::frame::ETHERNET_LEN;

/// Bytes of memory that the kernel allocates in one piece.
const BLOCK: usize = 64 << 10;
/// Room for the kernel's own header of a frame, with the alignment of what follows it
/// (`TPACKET2_HDRLEN` and the 16 bytes that the kernel keeps in front of a frame).
const HEADER_ROOM: usize = 128;
/// Bytes of all slots together with ordinary frames: 512 of them, the windows of eight hosts.
const MEMORY: usize = 1 << 20;
/// The same with jumbo frames: 256 slots.
const MEMORY_JUMBO: usize = 4 << 20;

/// The shared memory.
pub(super) struct Ring {
    memory: NonNull<libc::c_void>,
    bytes: usize,
    slot: usize,
    slots: usize,
    next: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Has the kernel put what comes to `socket` into slots that hold frames of an interface with
    /// this MTU. The socket must not be bound yet, so that nothing goes to its queue instead.
    pub(super) fn new(socket: &OwnedFd, mtu: usize) -> io::Result<Ring> {
        // Slots must not cross blocks, so their size is a power of two.
        let slot = (mtu + ETHERNET_LEN + HEADER_ROOM)
            .next_power_of_two()
            .clamp(2048, BLOCK);
        let bytes = if slot > 2048 { MEMORY_JUMBO } else { MEMORY };
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        set(socket, libc::PACKET_VERSION, &version)?;
        let slots = bytes / slot;
        set(
            socket,
            libc::PACKET_RX_RING,
            &libc::tpacket_req {
                tp_block_size: BLOCK as libc::c_uint,
                tp_block_nr: (bytes / BLOCK) as libc::c_uint,
                tp_frame_size: slot as libc::c_uint,
                tp_frame_nr: slots as libc::c_uint,
            },
        )?;
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping of memory that the kernel has for this socket, at an address of its
        // choice.
        let memory = unsafe {
            mmap(
                None,
                length,
                protection,
                MapFlags::MAP_SHARED,
                socket.as_fd(),
                0,
            )
        };
        let memory = memory.inspect_err(|_| {
            // Frames would go on to a ring that nobody sees: without one they go to the socket's queue.
            let none = libc::tpacket_req {
                tp_block_size: 0,
                tp_block_nr: 0,
                tp_frame_size: 0,
                tp_frame_nr: 0,
            };
            let _ = set(socket, libc::PACKET_RX_RING, &none);
        })?;
        Ok(Ring {
            memory,
            bytes,
            slot,
            slots,
            next: 0,
        })
    }

    /// Whether frames of an interface with this MTU fit the slots.
    pub(super) fn fits(&self, mtu: usize) -> bool {
        mtu + ETHERNET_LEN + HEADER_ROOM <= self.slot
    }

    fn next(&self) -> NonNull<libc::c_void> {
        // SAFETY: `next` is less than `slots`, so this is within the mapping.
        unsafe { self.memory.byte_add(self.next * self.slot) }
    }

    /// Looks until there is a frame, and no longer than `until`; says whether there is one.
    pub(super) fn look_until(&self, until: Instant) -> bool {
        // SAFETY: a slot begins with its status, which the kernel changes at any time; it is only used
        // through the atomic, and the mapping outlives it.
        let status = unsafe { AtomicU32::from_ptr(self.next().cast().as_ptr()) };
        loop {
            // The clock is asked now and then only.
            for _ in 0..16 {
                if status.load(Ordering::Acquire) & libc::TP_STATUS_USER != 0 {
                    return true;
                }
                std::hint::spin_loop();
            }
            if Instant::now() >= until {
                return false;
            }
        }
    }

    /// Hands at most `most` frames to `each`; returns how many there were.
    pub(super) fn receive(&mut self, most: usize, each: &mut dyn FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < most {
            let slot = self.next();
            let header: NonNull<libc::tpacket2_hdr> = slot.cast();
            // SAFETY: a slot begins with this header; its first word is changed by the kernel at any
            // time, and is only used through the atomic.
            let status = unsafe { AtomicU32::from_ptr(slot.cast().as_ptr()) };
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                break;
            }
            // SAFETY: the slot is ours until the status is given back, so nobody changes it.
            let (length, kept, from) = unsafe {
                let header = header.as_ref();
                (
                    header.tp_len as usize,
                    header.tp_snaplen as usize,
                    usize::from(header.tp_mac),
                )
            };
            // One that did not fit is passed over, as is one of nonsense.
            if length == kept && from + kept <= self.slot {
                // SAFETY: the kernel has written that many bytes there, within the slot, and does not
                // touch them until it gets the slot back below.
                let frame = unsafe {
                    std::slice::from_raw_parts(slot.byte_add(from).cast().as_ptr(), kept)
                };
                each(frame);
            }
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % self.slots;
            count += 1;
        }
        count
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` and nothing borrows from it.
        let _ = unsafe { munmap(self.memory, self.bytes) };
    }
}

/// Sets an option of the packet socket.
pub(super) fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is valid for reading for its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const *value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
