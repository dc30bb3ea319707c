//! The OPEN message (RFC 4271 §4.2) with capabilities (RFC 5492) and extended parameters on receipt (RFC 9072).
//!
//! Herald sends all capabilities in one parameter. It accepts any number of parameters of any mix, as old and odd peers
//! send them. Whether the content is acceptable (AS, identifier, hold time) is the session's to decide.

use std::net::Ipv4Addr;

use super::{Capability, DecodeError, begin, finish, kind, take, take_u8, take_u16};

/// RFC 6793 §9: stands where two octets cannot hold the AS number.
pub const AS_TRANS: u16 = 23456;

const VERSION: u8 = 4;
const PARAMETER_CAPABILITIES: u8 = 2;
const PARAMETER_EXTENDED: u8 = 255;

/// An OPEN message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// My Autonomous System: two octets, [`AS_TRANS`] if they do not suffice.
    pub my_as: u16,
    /// Proposed hold time in seconds.
    pub hold_time: u16,
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// All capabilities of all parameters in order.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// The sender's AS number: the capability's, or else the two octets (RFC 6793 §4.1).
    pub fn asn(&self) -> u32 {
        self.four_octet_as().unwrap_or_else(|| u32::from(self.my_as))
    }

    /// The AS number of the four-octet capability.
    pub fn four_octet_as(&self) -> Option<u32> {
        self.capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        })
    }

    /// The message. Capabilities beyond the 253 octets that one plain parameter holds are left out: Herald has
    /// some twenty, and some peers refuse the extended form (RFC 9072).
    pub fn encode(&self) -> Vec<u8> {
        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            let mut encoded = Vec::new();
            capability.encode(&mut encoded);
            if capabilities.len() + encoded.len() <= 253 {
                capabilities.append(&mut encoded);
            }
        }
        let mut message = begin(kind::OPEN, 12 + capabilities.len());
        message.push(VERSION);
        message.extend_from_slice(&self.my_as.to_be_bytes());
        message.extend_from_slice(&self.hold_time.to_be_bytes());
        message.extend_from_slice(&self.router_id.octets());
        // RFC 5492 §4: all capabilities in one parameter; none at all if there is nothing to say.
        let length = u8::try_from(capabilities.len()).unwrap_or(253);
        if length == 0 {
            message.push(0);
        } else {
            message.extend_from_slice(&[length + 2, PARAMETER_CAPABILITIES, length]);
            message.append(&mut capabilities);
        }
        finish(message)
    }

    /// Reads what follows the header.
    pub(super) fn decode(mut body: &[u8]) -> Result<Self, DecodeError> {
        const SHORT: DecodeError = DecodeError::Open("shorter than its fixed part");
        let version = take_u8(&mut body).ok_or(SHORT)?;
        // RFC 4271 §6.2: the version first; what follows may mean something else in another one.
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let my_as = take_u16(&mut body).ok_or(SHORT)?;
        let hold_time = take_u16(&mut body).ok_or(SHORT)?;
        let router_id = *body.first_chunk::<4>().ok_or(SHORT)?;
        body = body.get(4..).ok_or(SHORT)?;
        let length = take_u8(&mut body).ok_or(SHORT)?;
        let capabilities = match (length, body) {
            (0, []) => Vec::new(),
            // RFC 9072 §2: the type octet 255 tells the extended form; the plain length must not be 0 then, and is
            // otherwise ignored.
            (1.., [PARAMETER_EXTENDED, rest @ ..]) => {
                let mut rest = rest;
                let length = take_u16(&mut rest).ok_or(DecodeError::Open("no extended parameter length"))?;
                Self::decode_parameters(rest, usize::from(length), true)?
            }
            (length, body) => Self::decode_parameters(body, usize::from(length), false)?,
        };
        Ok(Self { my_as, hold_time, router_id: router_id.into(), capabilities })
    }

    fn decode_parameters(
        mut input: &[u8],
        length: usize,
        extended: bool,
    ) -> Result<Vec<Capability>, DecodeError> {
        const SHORT: DecodeError = DecodeError::Open("a parameter exceeds the message");
        if input.len() != length {
            return Err(DecodeError::Open("the parameters do not fill the message"));
        }
        let mut capabilities = Vec::new();
        while !input.is_empty() {
            let kind = take_u8(&mut input).ok_or(SHORT)?;
            let length = if extended {
                usize::from(take_u16(&mut input).ok_or(SHORT)?)
            } else {
                usize::from(take_u8(&mut input).ok_or(SHORT)?)
            };
            let value = take(&mut input, length).ok_or(SHORT)?;
            // RFC 4271 §6.2: a parameter that is not recognised is an error, unlike a capability.
            if kind != PARAMETER_CAPABILITIES {
                return Err(DecodeError::Parameter(kind));
            }
            capabilities.append(&mut Capability::decode_list(value)?);
        }
        Ok(capabilities)
    }
}
