//! BGP communities of RFC 1997, written as two 16-bit decimals, and large ones of RFC 8092 (`large:a:b:c`).
//!
//! Large communities are no part of any ConfigMap generation, where they are recognised to be refused by name.

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

/// A large community; orders as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// The AS that defines the meaning.
    pub global: u32,
    /// What it means there.
    pub local: [u32; 2],
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "large:{}:{}:{}", self.global, self.local[0], self.local[1])
    }
}

impl FromStr for LargeCommunity {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let malformed = || CommunityError::MalformedLarge(text.to_owned());
        let numbers: Vec<u32> = text
            .strip_prefix("large:")
            .ok_or_else(malformed)?
            .split(':')
            .map(|part| decimal(part).and_then(|part| part.parse().ok()))
            .collect::<Option<_>>()
            .ok_or_else(malformed)?;
        match numbers.as_slice() {
            &[global, a, b] => Ok(Self { global, local: [a, b] }),
            _ => Err(malformed()),
        }
    }
}

/// Digits and nothing else: `parse` alone would take a sign.
fn decimal(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
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
    /// Begins as a large community and is none.
    #[error("{} is not a large community: write three numbers of 0 to 4294967295, such as large:64600:7:1", shown(.0))]
    MalformedLarge(String),
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
            let half = decimal(half).ok_or_else(malformed)?;
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

    #[test]
    fn three_decimals_of_32_bits_are_a_large_community() {
        let community: LargeCommunity = "large:4294967295:0:7".parse().expect("a large community");
        assert_eq!(community, LargeCommunity { global: u32::MAX, local: [0, 7] });
        assert_eq!(community.to_string(), "large:4294967295:0:7");
        for text in
            ["large:1:2", "large:1:2:3:4", "1:2:3", "large:1:-2:3", "large:1::3", "large:4294967296:0:0"]
        {
            let error = text.parse::<LargeCommunity>();
            assert_eq!(error, Err(CommunityError::MalformedLarge(text.to_owned())));
        }
    }
}
