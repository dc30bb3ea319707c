//! Which of two connections between the same speakers survives (RFC 4271 §6.8, RFC 6286 §2.3).
//!
//! The rule itself is a pure function that both sides evaluate to the same connection. When it is applied: as soon as the
//! survivor has proved to live by an OPEN. A living connection never cedes to one that has said nothing yet; it waits for it a
//! short while before it is Established, lest each side kill the connection that the other one keeps.

use std::cmp::Ordering;
use std::net::Ipv4Addr;

use super::Direction;

/// The direction, seen from here, of the connection that survives.
pub(super) fn survivor(local: (Ipv4Addr, u32), remote: (Ipv4Addr, u32)) -> Direction {
    // RFC 4271 §6.8: the connection opened by the speaker with the higher identifier, compared as numbers.
    // RFC 6286 §2.3: with equal identifiers, by the speaker with the higher AS number.
    match local.cmp(&remote) {
        Ordering::Greater => Direction::Outgoing,
        Ordering::Less | Ordering::Equal => Direction::Incoming,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: Ipv4Addr = Ipv4Addr::new(9, 255, 255, 255);
    const HIGH: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    #[test]
    fn the_higher_identifier_decides_and_then_the_higher_as() {
        for (local, remote, expected) in [
            ((HIGH, 1), (LOW, 2), Direction::Outgoing),
            ((LOW, 2), (HIGH, 1), Direction::Incoming),
            ((HIGH, 2), (HIGH, 1), Direction::Outgoing),
            ((HIGH, 1), (HIGH, 2), Direction::Incoming),
        ] {
            assert_eq!(survivor(local, remote), expected, "{local:?} {remote:?}");
        }
    }
}
