//! Route tags: communities (RFC 1997), extended communities (RFC 4360) and large communities (RFC 8092).
//!
//! Values only; their order is the order on the wire (RFC 8092 §5 asks for none, but sorted and without duplicates
//! equal sets are equal bytes).

use std::fmt;

/// A community of RFC 1997: the upper half names an AS, the lower half is that AS's to define.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// RFC 8326: the route is about to go, prefer any other.
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// RFC 1997: keep inside the confederation or AS.
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// RFC 1997: keep to yourself.
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);

    /// `asn:value`.
    pub const fn new(asn: u16, value: u16) -> Self {
        Self((asn as u32) << 16 | value as u32)
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// An extended community of RFC 4360: eight octets, the first of which (or two) are its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity(pub [u8; 8]);

impl ExtendedCommunity {
    const ROUTE_TARGET: u8 = 2;
    const ROUTE_ORIGIN: u8 = 3;

    /// `rt:asn:value`: who shall import the route (RFC 4360 §4; RFC 5668 for an AS number of four octets, whose value has
    /// sixteen bits). `None` if the value does not fit beside the AS number.
    pub fn route_target(asn: u32, value: u32) -> Option<Self> {
        Self::specific(Self::ROUTE_TARGET, asn, value)
    }

    /// `soo:asn:value`: where the route came from (RFC 4360 §5, RFC 5668).
    pub fn route_origin(asn: u32, value: u32) -> Option<Self> {
        Self::specific(Self::ROUTE_ORIGIN, asn, value)
    }

    fn specific(subtype: u8, asn: u32, value: u32) -> Option<Self> {
        let ([a, b, c, d], [e, f, g, h]) = (asn.to_be_bytes(), value.to_be_bytes());
        match (u16::try_from(asn), u16::try_from(value)) {
            (Ok(_), _) => Some(Self([0, subtype, c, d, e, f, g, h])),
            (Err(_), Ok(_)) => Some(Self([2, subtype, a, b, c, d, g, h])),
            (Err(_), Err(_)) => None,
        }
    }
}

/// A large community of RFC 8092: an AS of four octets and two values of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_target_has_the_form_that_its_as_number_needs() {
        for (asn, value, expected) in [
            (65001, 77, Some([0, 2, 0xfd, 0xe9, 0, 0, 0, 77])),
            (65001, u32::MAX, Some([0, 2, 0xfd, 0xe9, 255, 255, 255, 255])),
            (65536, 77, Some([2, 2, 0, 1, 0, 0, 0, 77])),
            (65536, 65536, None),
        ] {
            let target = ExtendedCommunity::route_target(asn, value);
            assert_eq!(target, expected.map(ExtendedCommunity), "{asn}:{value}");
        }
        assert_eq!(ExtendedCommunity::route_origin(1, 2), Some(ExtendedCommunity([0, 3, 0, 1, 0, 0, 0, 2])));
    }
}
