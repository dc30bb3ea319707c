//! Messages to bytes and back (RFC 4271 §4): the announcer's subset.
//!
//! Encoding is complete for what Herald says: OPEN with capabilities, UPDATE for IPv4 and IPv6 unicast,
//! NOTIFICATION, KEEPALIVE, ROUTE-REFRESH. Decoding reads OPEN, NOTIFICATION and ROUTE-REFRESH; of an UPDATE it checks
//! the framing of the sections and counts, and never looks into attributes: what is not read cannot be misread.
//!
//! Invariants: no input makes a decoder panic or allocate more than one message; every [`DecodeError`] knows the
//! NOTIFICATION that RFC 4271 §6 asks for; no encoder makes a message longer than [`MAX_MESSAGE`] octets, but UPDATEs of up to
//! [`MAX_EXTENDED`] where RFC 8654 was negotiated.
//!
//! Not here: reading of routes.

mod capability;
mod error;
mod framing;
mod notification;
mod open;
mod refresh;
mod update;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use capability::{Capability, GracefulRestart, Role};
pub use error::DecodeError;
pub use framing::{Decoder, Message};
pub use notification::{Cease, Code, Notification, ShutdownText};
pub use open::{AS_TRANS, Open};
pub use refresh::{RefreshSubtype, RouteRefresh};
pub use update::{
    PathContext, Prefixes, ReceivedUpdate, encode_announcement, encode_end_of_rib, encode_withdrawal,
};

/// RFC 4271 §4.1: the fixed header of marker, length and type.
pub const HEADER: usize = 19;
/// RFC 4271 §4.1: the longest message, header included.
pub const MAX_MESSAGE: usize = 4096;
/// RFC 8654 §3: the longest message, header included, where both sides know extended messages; not for OPEN and KEEPALIVE.
pub const MAX_EXTENDED: usize = 65535;

const MARKER: [u8; 16] = [0xff; 16];

/// Message types of RFC 4271 §4.1 and RFC 2918 §3.
pub(crate) mod kind {
    pub(crate) const OPEN: u8 = 1;
    pub(crate) const UPDATE: u8 = 2;
    pub(crate) const NOTIFICATION: u8 = 3;
    pub(crate) const KEEPALIVE: u8 = 4;
    pub(crate) const ROUTE_REFRESH: u8 = 5;
}

/// Starts a message: the header with the length still open.
fn begin(kind: u8, capacity: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + capacity);
    message.extend_from_slice(&MARKER);
    message.extend_from_slice(&[0, 0, kind]);
    message
}

/// Ends a message: writes its length.
fn finish(mut message: Vec<u8>) -> Vec<u8> {
    debug_assert!((HEADER..=MAX_EXTENDED).contains(&message.len()), "a message of {} octets", message.len());
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    message[16..18].copy_from_slice(&length.to_be_bytes());
    message
}

/// A KEEPALIVE (RFC 4271 §4.4).
pub fn encode_keepalive() -> Vec<u8> {
    finish(begin(kind::KEEPALIVE, 0))
}

/// Splits a big-endian `u16` off the front.
fn take_u16(input: &mut &[u8]) -> Option<u16> {
    let (head, rest) = input.split_first_chunk::<2>()?;
    *input = rest;
    Some(u16::from_be_bytes(*head))
}

/// Splits one octet off the front.
fn take_u8(input: &mut &[u8]) -> Option<u8> {
    let (head, rest) = input.split_first()?;
    *input = rest;
    Some(*head)
}

/// Splits `count` octets off the front.
fn take<'a>(input: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(head)
}
