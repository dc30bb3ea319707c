//! The ROUTE-REFRESH message (RFC 2918) with the subtypes of enhanced route refresh (RFC 7313).

use super::{DecodeError, HEADER, begin, finish, kind};
use crate::Family;

/// What a ROUTE-REFRESH says (RFC 7313 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshSubtype {
    /// Please send the family again.
    Request,
    /// Begin of route refresh: what follows replaces what you have.
    Begin,
    /// End of route refresh: what did not come again is gone.
    End,
    /// Not known: to be ignored.
    Unknown(u8),
}

impl RefreshSubtype {
    const fn code(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Begin => 1,
            Self::End => 2,
            Self::Unknown(code) => code,
        }
    }
}

/// A ROUTE-REFRESH message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
    /// What it says.
    pub subtype: RefreshSubtype,
}

impl RouteRefresh {
    /// About one of Herald's families.
    pub const fn new(family: Family, subtype: RefreshSubtype) -> Self {
        Self { afi: family.afi(), safi: Family::SAFI, subtype }
    }

    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = begin(kind::ROUTE_REFRESH, 4);
        message.extend_from_slice(&self.afi.to_be_bytes());
        message.extend_from_slice(&[self.subtype.code(), self.safi]);
        finish(message)
    }

    /// Reads a whole message, header included.
    pub(super) fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        match message.get(HEADER..) {
            Some([high, low, subtype, safi]) => Ok(Self {
                afi: u16::from_be_bytes([*high, *low]),
                safi: *safi,
                subtype: match subtype {
                    0 => RefreshSubtype::Request,
                    1 => RefreshSubtype::Begin,
                    2 => RefreshSubtype::End,
                    other => RefreshSubtype::Unknown(*other),
                },
            }),
            // RFC 7313 §5: BoRR and EoRR of another length have a NOTIFICATION of their own.
            Some([_, _, 1 | 2, ..]) => Err(DecodeError::Refresh(message.to_vec())),
            _ => Err(DecodeError::Length(u16::try_from(message.len()).unwrap_or(u16::MAX))),
        }
    }
}
