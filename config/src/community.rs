//! BGP communities of RFC 1997, written as two 16-bit decimals.
//!
//! Large communities (RFC 8092) are no part of any ConfigMap generation; they are recognised to be refused by name.

use std::fmt;
use std::str::FromStr;

use crate::problem::shown;

/// A community; orders as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community {
    /// The upper half, by custom the AS that defines the meaning.
    pub asn: u16,
    /// The lower half.
    pub value: u16,
}

impl Community {
    /// The four octets as RFC 1997 sends them, as one number.
    pub fn to_u32(self) -> u32 {
        (u32::from(self.asn) << 16) | u32::from(self.value)
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.asn, self.value)
    }
}

/// Why a text is not a community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommunityError {
    /// Not of the form `number:number`.
    #[error("{} is not a community: write two numbers of 0 to 65535, such as 64600:7", shown(.0))]
    Malformed(String),
    /// One of the halves needs more than 16 bits.
    #[error("{} has a half above 65535: write two numbers of 0 to 65535, such as 64600:7", shown(.0))]
    HalfTooLarge(String),
    /// RFC 8092.
    #[error("{} is a large community, which this format does not have: write two numbers such as 64600:7", shown(.0))]
    Large(String),
}

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        if text.starts_with("large:") {
            return Err(CommunityError::Large(text.to_owned()));
        }
        let malformed = || CommunityError::Malformed(text.to_owned());
        let (asn, value) = text.split_once(':').ok_or_else(malformed)?;
        let half = |half: &str| {
            if half.is_empty() || !half.bytes().all(|b| b.is_ascii_digit()) {
                return Err(malformed());
            }
            half.parse().map_err(|_| CommunityError::HalfTooLarge(text.to_owned()))
        };
        Ok(Self { asn: half(asn)?, value: half(value)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_decimals_of_16_bits_are_a_community() {
        let community: Community = "64600:7".parse().expect("a community");
        assert_eq!(community, Community { asn: 64600, value: 7 });
        assert_eq!(community.to_string(), "64600:7");
        assert_eq!(community.to_u32(), 0xfc58_0007);
    }

    #[test]
    fn anything_else_is_refused_by_what_is_wrong_with_it() {
        for (text, error) in [
            ("64600", CommunityError::Malformed("64600".into())),
            ("64600:", CommunityError::Malformed("64600:".into())),
            ("-1:5", CommunityError::Malformed("-1:5".into())),
            ("+1:5", CommunityError::Malformed("+1:5".into())),
            ("1:2:3", CommunityError::Malformed("1:2:3".into())),
            ("65536:1", CommunityError::HalfTooLarge("65536:1".into())),
            ("1:99999999999999999999", CommunityError::HalfTooLarge("1:99999999999999999999".into())),
            ("large:1:2:3", CommunityError::Large("large:1:2:3".into())),
        ] {
            assert_eq!(text.parse::<Community>(), Err(error));
        }
    }
}
