//! What can be wrong with received bytes, and the NOTIFICATION that says so (RFC 4271 §6.1–6.3, RFC 7313 §5).
//!
//! Only errors of form. Whether a well-formed OPEN is acceptable, the session decides.

use thiserror::Error;

use super::{Code, Notification};

/// A message that cannot be read; the connection must end with [`DecodeError::notification`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The sixteen octets before the length are not all ones.
    #[error("the message does not begin with the marker")]
    Marker,
    /// The length is outside of what its type allows.
    #[error("message length {0} is not possible for its type")]
    Length(u16),
    /// A type that is not known or not negotiated.
    #[error("message type {0} is unknown")]
    Type(u8),
    /// An OPEN of another BGP version.
    #[error("BGP version {0} is not supported")]
    Version(u8),
    /// An OPEN whose optional parameters or capabilities do not add up.
    #[error("malformed OPEN: {0}")]
    Open(&'static str),
    /// An OPEN with an optional parameter that is not "capabilities".
    #[error("optional parameter {0} is not supported")]
    Parameter(u8),
    /// An UPDATE whose sections do not add up.
    #[error("malformed UPDATE: the lengths of its sections exceed the message")]
    Update,
    /// A ROUTE-REFRESH of the wrong length: the whole message.
    #[error("ROUTE-REFRESH of {} octets", .0.len())]
    Refresh(Vec<u8>),
}

impl DecodeError {
    /// What the peer must be told.
    pub fn notification(&self) -> Notification {
        match self {
            // RFC 4271 §6.1: not synchronised.
            Self::Marker => Notification::new(Code::NOT_SYNCHRONISED),
            // RFC 4271 §6.1: the data is the erroneous length field.
            Self::Length(length) => Notification::with_data(Code::BAD_MESSAGE_LENGTH, &length.to_be_bytes()),
            // RFC 4271 §6.1: the data is the erroneous type field.
            Self::Type(kind) => Notification::with_data(Code::BAD_MESSAGE_TYPE, &[*kind]),
            // RFC 4271 §6.2: the data is the largest version supported.
            Self::Version(_) => Notification::with_data(Code::UNSUPPORTED_VERSION, &4_u16.to_be_bytes()),
            // RFC 4271 §6.2: recognised but malformed: unspecific.
            Self::Open(_) => Notification::new(Code::OPEN_UNSPECIFIC),
            Self::Parameter(_) => Notification::new(Code::UNSUPPORTED_OPTIONAL_PARAMETER),
            // RFC 4271 §6.3: lengths that exceed the message.
            Self::Update => Notification::new(Code::MALFORMED_ATTRIBUTE_LIST),
            // RFC 7313 §5: the data is the complete message.
            Self::Refresh(message) => Notification::with_data(Code::REFRESH_INVALID_LENGTH, message),
        }
    }
}
