//! What the kernel answers: messages in a datagram, acknowledgements and refusals. Nothing here trusts a length.

use super::attributes::{HEADER, attributes};
use super::wire::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS};

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply<'a> {
    /// Number of the message that it answers.
    pub(crate) sequence: u32,
    /// Type, with its subsystem.
    pub(crate) kind: u16,
    /// Of data, the family of its table.
    pub(crate) family: u8,
    /// A listing of which this is a part was disturbed by somebody's commit.
    pub(crate) interrupted: bool,
    /// For an acknowledgement and the end of a listing 0, for a refusal the error number, `None` for data.
    pub(crate) error: Option<i32>,
    /// For data, what follows `struct nfgenmsg`.
    pub(crate) attributes: &'a [u8],
    /// Words of the kernel.
    pub(crate) reason: Option<String>,
    /// Where in the refused message the cause is.
    pub(crate) offset: Option<u32>,
}

/// The messages of a datagram; ends at the first that is not whole.
pub(crate) fn replies(mut datagram: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(number(datagram, 0)?).ok()?;
        let message = datagram.get(..len).filter(|message| message.len() >= HEADER)?;
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(reply(message))
    })
}

fn reply(message: &[u8]) -> Reply<'_> {
    let half = |at| message.get(at..at + 2).map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let kind = half(4);
    let error = || number(message, HEADER).map_or(0, |error| error.cast_signed().wrapping_neg());
    let bare = Reply {
        sequence: number(message, 8).unwrap_or_default(),
        kind,
        family: message.get(HEADER).copied().unwrap_or_default(),
        interrupted: half(6) & NLM_F_DUMP_INTR != 0,
        error: None,
        attributes: &[],
        reason: None,
        offset: None,
    };
    match kind {
        NLMSG_DONE => Reply { error: Some(error()), ..bare },
        NLMSG_ERROR => {
            // The error number and the header of the refused message (NETLINK_CAP_ACK) stand before the attributes.
            let extended = message.get(HEADER + 4 + HEADER..).unwrap_or_default();
            let find =
                |wanted| attributes(extended).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
            let reason = find(NLMSGERR_ATTR_MSG)
                .map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
                .filter(|text| !text.is_empty());
            let offset = find(NLMSGERR_ATTR_OFFS).and_then(|value| number(value, 0));
            Reply { error: Some(error()), reason, offset, ..bare }
        }
        _ => Reply { attributes: message.get(HEADER + 4..).unwrap_or_default(), ..bare },
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}
