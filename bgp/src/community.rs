//! Route tags: communities (RFC 1997) and large communities (RFC 8092).
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

/// A large community of RFC 8092: an AS of four octets and two values of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}
