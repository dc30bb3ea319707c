//! One direction of a BGP connection, read off the wire: segments to messages to what they say.

use super::recorder::What;

const HEADER: usize = 19;
const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const COMMUNITIES: u8 = 8;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;

/// What a connection has carried so far.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// The sequence number that is expected next.
    next: Option<u32>,
    bytes: Vec<u8>,
}

impl Stream {
    /// Takes a TCP segment, header and all; what its messages say.
    pub(super) fn segment(&mut self, segment: &[u8]) -> Vec<What> {
        let Some(header) = segment.first_chunk::<20>() else { return Vec::new() };
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let data = segment.get(usize::from(header[12] >> 4) * 4..).unwrap_or_default();
        let flags = header[13];
        if flags & SYN != 0 {
            *self = Self { next: Some(sequence.wrapping_add(1)), bytes: Vec::new() };
            return Vec::new();
        }
        // A connection that is older than the recorder begins with whatever message comes first.
        let next = *self.next.get_or_insert(sequence);
        // Segments leave a host in order; what comes again is a repetition.
        let known = next.wrapping_sub(sequence) as usize;
        let Some(new) = data.get(known..) else { return Vec::new() };
        self.next = Some(next.wrapping_add(u32::try_from(new.len()).unwrap_or_default()));
        self.bytes.extend_from_slice(new);
        let mut seen = self.messages();
        if flags & FIN != 0 {
            seen.push(What::Fin);
        }
        seen
    }

    fn messages(&mut self) -> Vec<What> {
        let mut seen = Vec::new();
        while let Some(header) = self.bytes.first_chunk::<HEADER>() {
            let length = usize::from(u16::from_be_bytes([header[16], header[17]])).max(HEADER);
            if self.bytes.len() < length {
                break;
            }
            let message: Vec<u8> = self.bytes.drain(..length).collect();
            let body = &message[HEADER..];
            match message[18] {
                OPEN => seen.push(What::Open),
                UPDATE => seen.extend(update(body).unwrap_or_default()),
                NOTIFICATION => seen.extend(body.first_chunk().map(|[a, b]| What::Notification(*a, *b))),
                _ => {}
            }
        }
        seen
    }
}

/// RFC 4271 §4.3: withdrawn routes, path attributes, announced routes.
fn update(body: &[u8]) -> Option<Vec<What>> {
    let (withdrawn, rest) = counted(body)?;
    let (attributes, announced) = counted(rest)?;
    let communities = communities(attributes);
    let mut seen: Vec<What> = prefixes(withdrawn).into_iter().map(What::Withdrawn).collect();
    seen.extend(prefixes(announced).into_iter().map(|prefix| What::Announced(prefix, communities.clone())));
    Some(seen)
}

fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn prefixes(mut bytes: &[u8]) -> Vec<String> {
    let mut prefixes = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let count = usize::from(length.div_ceil(8));
        let Some((octets, rest)) = rest.split_at_checked(count) else { break };
        let digit = |at: usize| octets.get(at).copied().unwrap_or_default();
        prefixes.push(format!("{}.{}.{}.{}/{length}", digit(0), digit(1), digit(2), digit(3)));
        bytes = rest;
    }
    prefixes
}

fn communities(mut attributes: &[u8]) -> Vec<String> {
    while let Some(([flags, kind], rest)) = attributes.split_first_chunk::<2>() {
        let extended = flags & 0x10 != 0;
        let split = if extended {
            counted(rest)
        } else {
            rest.split_first().and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)))
        };
        let Some((value, rest)) = split else { break };
        if *kind == COMMUNITIES {
            let pair = |c: &[u8]| {
                format!("{}:{}", u16::from_be_bytes([c[0], c[1]]), u16::from_be_bytes([c[2], c[3]]))
            };
            return value.chunks_exact(4).map(pair).collect();
        }
        attributes = rest;
    }
    Vec::new()
}
