//! The NOTIFICATION message (RFC 4271 §4.5) in code and in words.
//!
//! Code points come from the IANA registry (RFC 4271 §6, 4486, 6608, 7313, 8203, 8538, 9234, 9384, 9687). The text of an
//! administrative shutdown or reset (RFC 9003) is read with strict bounds, and shown escaped: it is the peer's, not ours.

use std::fmt;
use std::net::Ipv4Addr;

use super::{Capability, MAX_MESSAGE, begin, finish, kind};
use crate::Family;

/// Error code and subcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u8, pub u8);

/// Declares the code points once: constant, numbers, names.
macro_rules! codes {
    ($($(#[$doc:meta])* $constant:ident = $code:literal / $subcode:literal, $group:literal, $name:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $constant: Self = Self($code, $subcode);)*

            /// The registry's names of code and subcode.
            pub const fn names(self) -> Option<(&'static str, &'static str)> {
                match (self.0, self.1) {
                    $(($code, $subcode) => Some(($group, $name)),)*
                    _ => None,
                }
            }

            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$constant),*];
        }
    };
}

codes! {
    /// RFC 4271 §6.1.
    NOT_SYNCHRONISED = 1/1, "Message Header Error", "Connection Not Synchronized";
    /// RFC 4271 §6.1.
    BAD_MESSAGE_LENGTH = 1/2, "Message Header Error", "Bad Message Length";
    /// RFC 4271 §6.1.
    BAD_MESSAGE_TYPE = 1/3, "Message Header Error", "Bad Message Type";
    /// RFC 4271 §6.2: malformed without a subcode of its own.
    OPEN_UNSPECIFIC = 2/0, "OPEN Message Error", "Unspecific";
    /// RFC 4271 §6.2.
    UNSUPPORTED_VERSION = 2/1, "OPEN Message Error", "Unsupported Version Number";
    /// RFC 4271 §6.2.
    BAD_PEER_AS = 2/2, "OPEN Message Error", "Bad Peer AS";
    /// RFC 4271 §6.2.
    BAD_IDENTIFIER = 2/3, "OPEN Message Error", "Bad BGP Identifier";
    /// RFC 4271 §6.2.
    UNSUPPORTED_OPTIONAL_PARAMETER = 2/4, "OPEN Message Error", "Unsupported Optional Parameter";
    /// RFC 4271 §6.2.
    UNACCEPTABLE_HOLD_TIME = 2/6, "OPEN Message Error", "Unacceptable Hold Time";
    /// RFC 5492 §5.
    UNSUPPORTED_CAPABILITY = 2/7, "OPEN Message Error", "Unsupported Capability";
    /// RFC 9234 §4.2.
    ROLE_MISMATCH = 2/11, "OPEN Message Error", "Role Mismatch";
    /// RFC 4271 §6.3.
    MALFORMED_ATTRIBUTE_LIST = 3/1, "UPDATE Message Error", "Malformed Attribute List";
    /// RFC 4271 §6.3.
    UNRECOGNISED_ATTRIBUTE = 3/2, "UPDATE Message Error", "Unrecognized Well-known Attribute";
    /// RFC 4271 §6.3.
    MISSING_ATTRIBUTE = 3/3, "UPDATE Message Error", "Missing Well-known Attribute";
    /// RFC 4271 §6.3.
    ATTRIBUTE_FLAGS = 3/4, "UPDATE Message Error", "Attribute Flags Error";
    /// RFC 4271 §6.3.
    ATTRIBUTE_LENGTH = 3/5, "UPDATE Message Error", "Attribute Length Error";
    /// RFC 4271 §6.3.
    INVALID_ORIGIN = 3/6, "UPDATE Message Error", "Invalid ORIGIN Attribute";
    /// RFC 4271 §6.3.
    INVALID_NEXT_HOP = 3/8, "UPDATE Message Error", "Invalid NEXT_HOP Attribute";
    /// RFC 4271 §6.3.
    OPTIONAL_ATTRIBUTE = 3/9, "UPDATE Message Error", "Optional Attribute Error";
    /// RFC 4271 §6.3.
    INVALID_NETWORK_FIELD = 3/10, "UPDATE Message Error", "Invalid Network Field";
    /// RFC 4271 §6.3.
    MALFORMED_AS_PATH = 3/11, "UPDATE Message Error", "Malformed AS_PATH";
    /// RFC 4271 §6.5.
    HOLD_TIMER_EXPIRED = 4/0, "Hold Timer Expired", "";
    /// RFC 4271 §6.6.
    FSM_UNSPECIFIED = 5/0, "Finite State Machine Error", "Unspecified Error";
    /// RFC 6608 §3.
    FSM_OPEN_SENT = 5/1, "Finite State Machine Error", "Receive Unexpected Message in OpenSent State";
    /// RFC 6608 §3.
    FSM_OPEN_CONFIRM = 5/2, "Finite State Machine Error", "Receive Unexpected Message in OpenConfirm State";
    /// RFC 6608 §3.
    FSM_ESTABLISHED = 5/3, "Finite State Machine Error", "Receive Unexpected Message in Established State";
    /// RFC 4486 §4.
    MAXIMUM_PREFIXES = 6/1, "Cease", "Maximum Number of Prefixes Reached";
    /// RFC 9003 §2.
    ADMINISTRATIVE_SHUTDOWN = 6/2, "Cease", "Administrative Shutdown";
    /// RFC 4486 §4.
    PEER_DECONFIGURED = 6/3, "Cease", "Peer De-configured";
    /// RFC 9003 §2.
    ADMINISTRATIVE_RESET = 6/4, "Cease", "Administrative Reset";
    /// RFC 4486 §4.
    CONNECTION_REJECTED = 6/5, "Cease", "Connection Rejected";
    /// RFC 4486 §4.
    OTHER_CONFIGURATION_CHANGE = 6/6, "Cease", "Other Configuration Change";
    /// RFC 4486 §4.
    COLLISION_RESOLUTION = 6/7, "Cease", "Connection Collision Resolution";
    /// RFC 4486 §4.
    OUT_OF_RESOURCES = 6/8, "Cease", "Out of Resources";
    /// RFC 8538 §3.
    HARD_RESET = 6/9, "Cease", "Hard Reset";
    /// RFC 9384 §3.
    BFD_DOWN = 6/10, "Cease", "BFD Down";
    /// RFC 7313 §5.
    REFRESH_INVALID_LENGTH = 7/1, "ROUTE-REFRESH Message Error", "Invalid Message Length";
    /// RFC 9687 §4.
    SEND_HOLD_TIMER_EXPIRED = 8/0, "Send Hold Timer Expired", "";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)?;
        match self.names() {
            Some((group, "")) => write!(f, " {group}"),
            Some((group, name)) => write!(f, " {group}/{name}"),
            None => Ok(()),
        }
    }
}

/// A NOTIFICATION message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Error code and subcode.
    pub code: Code,
    /// What the code defines to follow.
    pub data: Vec<u8>,
}

impl Notification {
    /// Without data.
    pub const fn new(code: Code) -> Self {
        Self { code, data: Vec::new() }
    }

    /// With data.
    pub fn with_data(code: Code, data: &[u8]) -> Self {
        Self { code, data: data.to_vec() }
    }

    /// The message; data beyond the longest message is cut off.
    pub fn encode(&self) -> Vec<u8> {
        let data = &self.data[..self.data.len().min(MAX_MESSAGE - 21)];
        let mut message = begin(kind::NOTIFICATION, 2 + data.len());
        message.extend_from_slice(&[self.code.0, self.code.1]);
        message.extend_from_slice(data);
        finish(message)
    }

    /// Reads what follows the header; the framing has made sure of two octets.
    pub(super) fn decode(body: &[u8]) -> Self {
        match body {
            [code, subcode, data @ ..] => Self::with_data(Code(*code, *subcode), data),
            _ => Self::new(Code(0, 0)),
        }
    }

    /// The text of a shutdown or reset, if there is one and it is well-formed.
    pub fn text(&self) -> Option<&str> {
        // RFC 9003 §2: only these two subcodes carry a text.
        if self.code != Code::ADMINISTRATIVE_SHUTDOWN && self.code != Code::ADMINISTRATIVE_RESET {
            return None;
        }
        // RFC 9003 §2: one octet of length, then that much UTF-8, and nothing more.
        let (length, text) = self.data.split_first()?;
        if text.is_empty() || text.len() != usize::from(*length) {
            return None;
        }
        std::str::from_utf8(text).ok()
    }
}

impl Notification {
    /// The data in words, where the code says what it is, and it is that.
    fn words(&self) -> Option<String> {
        let words = match (self.code, &*self.data) {
            // RFC 4271 §6.1: the field that is wrong.
            (Code::BAD_MESSAGE_LENGTH, [a, b]) => format!("length {}", u16::from_be_bytes([*a, *b])),
            (Code::BAD_MESSAGE_TYPE, [kind]) => format!("type {kind}"),
            // RFC 4271 §6.2: the newest version that the sender speaks.
            (Code::UNSUPPORTED_VERSION, [a, b]) => format!("version {}", u16::from_be_bytes([*a, *b])),
            // No RFC gives these data; who sends some sends the field of the OPEN that it refuses.
            (Code::BAD_PEER_AS, [a, b]) => format!("AS {}", u16::from_be_bytes([*a, *b])),
            (Code::BAD_PEER_AS, [a, b, c, d]) => format!("AS {}", u32::from_be_bytes([*a, *b, *c, *d])),
            (Code::BAD_IDENTIFIER, [a, b, c, d]) => format!("router id {}", Ipv4Addr::new(*a, *b, *c, *d)),
            (Code::UNACCEPTABLE_HOLD_TIME, [a, b]) => format!("hold time {} s", u16::from_be_bytes([*a, *b])),
            // RFC 5492 §5: those that are asked for.
            (Code::UNSUPPORTED_CAPABILITY, list) => {
                let list = Capability::decode_list(list).ok().filter(|list| !list.is_empty())?;
                list.iter().take(8).map(Capability::name).collect::<Vec<_>>().join(", ")
            }
            // RFC 4486 §4: which family, and the limit.
            (Code::MAXIMUM_PREFIXES, [a, b, safi, c, d, e, f]) => {
                let family = Family::from_codes(u16::from_be_bytes([*a, *b]), *safi)?;
                format!("{family}: at most {}", u32::from_be_bytes([*c, *d, *e, *f]))
            }
            // RFC 6608 §3: what came.
            (Code::FSM_OPEN_SENT | Code::FSM_OPEN_CONFIRM | Code::FSM_ESTABLISHED, [kind]) => {
                format!("message of type {kind}")
            }
            // RFC 8538 §3.1: the true cause, once and not inside itself.
            (Code::HARD_RESET, [code, subcode, data @ ..]) if Code(*code, *subcode) != Code::HARD_RESET => {
                Self::with_data(Code(*code, *subcode), data).to_string()
            }
            _ => return None,
        };
        Some(words)
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(text) = self.text() {
            // RFC 9003 §4: it may hold anything, also what forges log lines.
            return write!(f, ": \"{}\"", text.escape_debug());
        }
        if let Some(words) = self.words() {
            return write!(f, " ({words})");
        }
        if !self.data.is_empty() {
            f.write_str(" (data ")?;
            for octet in self.data.iter().take(32) {
                write!(f, "{octet:02x}")?;
            }
            f.write_str(if self.data.len() > 32 { "...)" } else { ")" })?;
        }
        Ok(())
    }
}

/// A text for the peer's operator (RFC 9003): UTF-8 of at most 255 octets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShutdownText(String);

impl ShutdownText {
    /// Cuts at the last character that fits.
    pub fn new(text: &str) -> Self {
        Self(text[..text.floor_char_boundary(255)].to_owned())
    }
}

impl From<&str> for ShutdownText {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// Why we end a session that was fine (RFC 4486). An empty text is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cease {
    /// The node drains or the speaker stops.
    AdministrativeShutdown(ShutdownText),
    /// The peer is gone from the configuration.
    PeerDeconfigured,
    /// Someone asked for a reset.
    AdministrativeReset(ShutdownText),
    /// Something of the configuration changed that needs a new session.
    OtherConfigurationChange,
    /// The node is short of something.
    OutOfResources,
    /// BFD says that the path is down.
    BfdDown,
}

impl Cease {
    /// The message to send.
    pub fn notification(&self) -> Notification {
        let with_text = |code, text: &ShutdownText| {
            let mut notification = Notification::new(code);
            if let (Ok(length @ 1..), octets) = (u8::try_from(text.0.len()), text.0.as_bytes()) {
                notification.data.push(length);
                notification.data.extend_from_slice(octets);
            }
            notification
        };
        match self {
            Self::AdministrativeShutdown(text) => with_text(Code::ADMINISTRATIVE_SHUTDOWN, text),
            Self::AdministrativeReset(text) => with_text(Code::ADMINISTRATIVE_RESET, text),
            Self::PeerDeconfigured => Notification::new(Code::PEER_DECONFIGURED),
            Self::OtherConfigurationChange => Notification::new(Code::OTHER_CONFIGURATION_CHANGE),
            Self::OutOfResources => Notification::new(Code::OUT_OF_RESOURCES),
            Self::BfdDown => Notification::new(Code::BFD_DOWN),
        }
    }
}
