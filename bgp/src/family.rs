//! The address families that Herald announces: IPv4 and IPv6 unicast (RFC 4760 §3).

use std::fmt;

use ipnet::IpNet;

/// One address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
}

impl Family {
    /// Both, in wire order.
    pub const ALL: [Self; 2] = [Self::Ipv4Unicast, Self::Ipv6Unicast];
    /// The SAFI of both.
    pub const SAFI: u8 = 1;

    /// The address family identifier.
    pub const fn afi(self) -> u16 {
        match self {
            Self::Ipv4Unicast => 1,
            Self::Ipv6Unicast => 2,
        }
    }

    /// The family of these code points, if Herald knows it.
    pub const fn from_codes(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, 1) => Some(Self::Ipv4Unicast),
            (2, 1) => Some(Self::Ipv6Unicast),
            _ => None,
        }
    }

    /// The family that carries a prefix.
    pub const fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4Unicast,
            IpNet::V6(_) => Self::Ipv6Unicast,
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Ipv4Unicast => 0,
            Self::Ipv6Unicast => 1,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Unicast => "ipv4",
            Self::Ipv6Unicast => "ipv6",
        })
    }
}

/// A set of families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families([bool; 2]);

impl Families {
    /// IPv4 unicast alone: what a peer without the multiprotocol capability speaks.
    pub const IPV4: Self = Self([true, false]);
    /// IPv6 unicast alone.
    pub const IPV6: Self = Self([false, true]);
    /// Both.
    pub const BOTH: Self = Self([true, true]);

    /// Whether the family is in the set.
    pub const fn contains(self, family: Family) -> bool {
        self.0[family.index()]
    }

    /// Whether no family is in the set.
    pub const fn is_empty(self) -> bool {
        !self.0[0] && !self.0[1]
    }

    /// The families that are in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self([self.0[0] && other.0[0], self.0[1] && other.0[1]])
    }

    /// The members in wire order.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        let mut set = Self::default();
        for family in families {
            set.0[family.index()] = true;
        }
        set
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, family) in self.iter().enumerate() {
            write!(f, "{}{family}", if n == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}
