//! Bytes of a stream to messages in bounded memory (RFC 4271 §4.1, §6.1).
//!
//! One buffer of one message, which grows once if the peer may send extended messages (RFC 8654). The driver reads into [`Decoder::space`], says how much came, and takes messages until
//! there is none. An error stays: the stream has no next message that could be trusted.

use super::{
    DecodeError, HEADER, MARKER, MAX_EXTENDED, MAX_MESSAGE, Notification, Open, ReceivedUpdate, RouteRefresh,
    kind,
};

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// OPEN.
    Open(Open),
    /// UPDATE: what it held, counted; its routes are discarded.
    Update(ReceivedUpdate),
    /// NOTIFICATION.
    Notification(Notification),
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH.
    RouteRefresh(RouteRefresh),
}

impl Message {
    /// The type code of the header.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Open(_) => kind::OPEN,
            Self::Update(_) => kind::UPDATE,
            Self::Notification(_) => kind::NOTIFICATION,
            Self::Keepalive => kind::KEEPALIVE,
            Self::RouteRefresh(_) => kind::ROUTE_REFRESH,
        }
    }

    /// The RFC's name of the type.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "OPEN",
            Self::Update(_) => "UPDATE",
            Self::Notification(_) => "NOTIFICATION",
            Self::Keepalive => "KEEPALIVE",
            Self::RouteRefresh(_) => "ROUTE-REFRESH",
        }
    }

    /// Reads one whole message whose header was checked.
    fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let body = message.get(HEADER..).unwrap_or_default();
        Ok(match message.get(HEADER - 1).copied().unwrap_or_default() {
            kind::OPEN => Self::Open(Open::decode(body)?),
            kind::UPDATE => Self::Update(ReceivedUpdate::decode(body)?),
            kind::NOTIFICATION => Self::Notification(Notification::decode(body)),
            kind::KEEPALIVE => Self::Keepalive,
            kind::ROUTE_REFRESH => Self::RouteRefresh(RouteRefresh::decode(message)?),
            other => return Err(DecodeError::Type(other)),
        })
    }
}

/// Cuts a stream into messages.
#[derive(Debug)]
pub struct Decoder {
    /// As long as the longest message.
    buffer: Vec<u8>,
    /// Where the next message begins.
    start: usize,
    /// Where the received bytes end.
    end: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// An empty one.
    pub fn new() -> Self {
        Self { buffer: vec![0; MAX_MESSAGE], start: 0, end: 0 }
    }

    /// The peer may send messages of up to [`MAX_EXTENDED`] octets from now on (RFC 8654 §4).
    pub fn extend(&mut self) {
        self.buffer.resize(MAX_EXTENDED, 0);
    }

    /// Where to read into. Never empty once [`Decoder::next_message`] has said `Ok(None)`.
    pub fn space(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..]
    }

    /// Says that the first `count` octets of [`Decoder::space`] have been filled.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
    }

    /// The next message if it is complete. The same error again and again after the first.
    pub fn next_message(&mut self) -> Result<Option<Message>, DecodeError> {
        let pending = &self.buffer[self.start..self.end];
        let Some(length) = message_length(pending, self.buffer.len())? else { return Ok(None) };
        let Some(message) = pending.get(..length) else { return Ok(None) };
        let message = Message::decode(message)?;
        self.start += length;
        Ok(Some(message))
    }
}

/// The length of the message that begins here, as soon as its header is complete; header errors at the first octet that
/// shows them.
fn message_length(pending: &[u8], longest: usize) -> Result<Option<usize>, DecodeError> {
    // RFC 4271 §6.1: the marker first, then the length, then the type.
    if pending.iter().zip(MARKER).any(|(octet, one)| *octet != one) {
        return Err(DecodeError::Marker);
    }
    let Some([.., high, low, kind]) = pending.first_chunk::<HEADER>() else { return Ok(None) };
    let length = u16::from_be_bytes([*high, *low]);
    let bounds = match *kind {
        kind::OPEN => 29..=MAX_MESSAGE,
        kind::UPDATE => 23..=longest,
        kind::NOTIFICATION => 21..=longest,
        kind::KEEPALIVE => HEADER..=HEADER,
        kind::ROUTE_REFRESH => 23..=longest,
        // The type is looked at only if the length is possible for some type.
        _ => HEADER..=longest,
    };
    if !bounds.contains(&usize::from(length)) {
        return Err(DecodeError::Length(length));
    }
    if !(kind::OPEN..=kind::ROUTE_REFRESH).contains(kind) {
        return Err(DecodeError::Type(*kind));
    }
    Ok(Some(usize::from(length)))
}
