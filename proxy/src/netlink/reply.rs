//! What the kernel answers: messages in a datagram, acknowledgements and refusals. Nothing here trusts a length.

use super::attributes::{HEADER, attributes};
use super::wire::{NLMSG_ERROR, NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS};

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    /// Number of the message that it answers.
    pub(super) sequence: u32,
    /// For an acknowledgement 0, for a refusal the error number, `None` for data.
    pub(super) error: Option<i32>,
    /// For data, what follows `struct nfgenmsg`.
    pub(super) attributes: &'a [u8],
    /// Words of the kernel.
    pub(super) reason: Option<String>,
    /// Where in the refused message the cause is.
    pub(super) offset: Option<u32>,
}

/// The messages of a datagram; ends at the first that is not whole.
pub(super) fn replies(mut datagram: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(number(datagram, 0)?).ok()?;
        let message = datagram.get(..len).filter(|message| message.len() >= HEADER)?;
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(reply(message))
    })
}

fn reply(message: &[u8]) -> Reply<'_> {
    let sequence = number(message, 8).unwrap_or_default();
    let kind = message.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    if kind != Some(NLMSG_ERROR) {
        let attributes = message.get(HEADER + 4..).unwrap_or_default();
        return Reply { sequence, error: None, attributes, reason: None, offset: None };
    }
    let error = number(message, HEADER).map_or(0, |error| error.cast_signed().wrapping_neg());
    // The error number and the header of the refused message (NETLINK_CAP_ACK) stand before the attributes.
    let extended = message.get(HEADER + 4 + HEADER..).unwrap_or_default();
    let find = |wanted| attributes(extended).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let reason = find(NLMSGERR_ATTR_MSG)
        .map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
        .filter(|text| !text.is_empty());
    let offset = find(NLMSGERR_ATTR_OFFS).and_then(|value| number(value, 0));
    Reply { sequence, error: Some(error), attributes: &[], reason, offset }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}
