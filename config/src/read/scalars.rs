//! Single values: numbers, booleans, addresses, durations.
//!
//! As liberal as the meaning is clear: YAML 1.1's `yes` and `off` are booleans where one is wanted, and a number
//! may stand in quotes. What could mean two things is refused.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::nearest::nearest;
use super::reader::Value;
use crate::duration::parse_duration;
use crate::problem::shown;

/// A type whose own error says what to write.
pub(crate) fn from_text<T: FromStr<Err: Display>>(value: &Value<'_>) -> Option<T> {
    value.text()?.trim().parse().or_else(|error| value.fail(error).ok_or(())).ok()
}

/// A text that must not be empty; `what` names it in the message.
pub(crate) fn nonempty<'a>(value: &Value<'a>, what: &str) -> Option<&'a str> {
    let text = value.text()?;
    if text.is_empty() { value.fail(format!("{what} is empty: write one")) } else { Some(text) }
}

/// A decimal number within bounds.
pub(crate) fn number<T: TryFrom<u64>>(value: &Value<'_>, bounds: RangeInclusive<u64>) -> Option<T> {
    let text = value.text()?;
    let (low, high) = (bounds.start(), bounds.end());
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return value.fail(format!("{} is not a whole number: use {low} to {high}", shown(text)));
    }
    if digits.len() > 1 && digits.starts_with('0') {
        // YAML 1.1 reads it as octal, YAML 1.2 as decimal.
        return value.fail(format!("{} has a leading zero: write the number without it", shown(text)));
    }
    match text
        .parse()
        .ok()
        .filter(|number| bounds.contains(number))
        .and_then(|number| T::try_from(number).ok())
    {
        Some(number) => Some(number),
        None => value.fail(format!("{} is out of range: use {low} to {high}", shown(text))),
    }
}

/// A decimal number within bounds that may be open, and below zero.
pub(crate) fn whole_number(value: &Value<'_>, min: Option<i64>, max: Option<i64>) -> Option<i64> {
    let text = value.text()?;
    let bounds = || match (min, max) {
        (Some(min), Some(max)) => format!("use {min} to {max}"),
        _ => "write a whole number".to_owned(),
    };
    match text.parse::<i64>() {
        Err(_) => value.fail(format!("{} is not a whole number: {}", shown(text), bounds())),
        Ok(number) if min.is_some_and(|min| number < min) || max.is_some_and(|max| number > max) => {
            value.fail(format!("{} is out of range: {}", shown(text), bounds()))
        }
        Ok(number) => Some(number),
    }
}

/// A boolean of YAML 1.1.
pub(crate) fn boolean(value: &Value<'_>) -> Option<bool> {
    let text = value.text()?;
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => value.fail(format!("{} is neither true nor false: write true or false", shown(text))),
    }
}

/// One of a few words, in any case.
pub(crate) fn one_of<T: Copy>(value: &Value<'_>, words: &[(&str, T)]) -> Option<T> {
    let text = value.text()?;
    if let Some((_, meaning)) = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
        return Some(*meaning);
    }
    let hint = match nearest(text, words.iter().map(|(word, _)| *word)) {
        Some(near) if near.likely => format!("write {}", near.word),
        _ => format!("use {}", words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")),
    };
    value.fail(format!("{} is not known here: {hint}", shown(text)))
}

/// An address that one host can have.
pub(crate) fn host(value: &Value<'_>) -> Option<IpAddr> {
    let text = value.text()?;
    let Ok(address) = text.trim().parse::<IpAddr>() else {
        return match text.trim().split_once('/').map(|(address, _)| address.parse::<IpAddr>()) {
            Some(Ok(address)) => value.fail(format!("{} has a prefix length: write {address}", shown(text))),
            _ => value.fail(format!("{} is not an IP address: write one such as 10.0.0.1", shown(text))),
        };
    };
    let address = address.to_canonical();
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return value.fail(format!("{address} is not the address of one host: write one such as 10.0.0.1"));
    }
    if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return value.fail(format!("{address} is link-local and names no interface: use a global address"));
    }
    Some(address)
}

/// A duration in Go's notation.
pub(crate) fn duration(value: &Value<'_>) -> Option<Duration> {
    parse_duration(value.text()?).or_else(|error| value.fail(error).ok_or(())).ok()
}
