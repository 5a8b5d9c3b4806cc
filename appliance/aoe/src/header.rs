//! The AoE header as a `pnet` packet: ten bytes after the Ethernet header (AoEr11, section 2).

// The macro writes a struct and accessors that are not all used; the fields are told of below.
#![allow(missing_docs, dead_code)]

use pnet_macros::packet;
use pnet_macros_support::types::{u4, u16be, u32be};

/// Version and flags share a byte, then error, shelf (major), slot (minor), command and tag.
#[packet]
pub struct Aoe {
    pub version: u4,
    pub flags: u4,
    pub error: u8,
    pub shelf: u16be,
    pub slot: u8,
    pub command: u8,
    pub tag: u32be,
    #[payload]
    pub payload: Vec<u8>,
}
