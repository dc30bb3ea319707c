//! What a BGP neighbour's fields may hold, wherever they are written.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::reader::Value;
use super::scalars::{duration, host, number};
use crate::peer::{BGP_PORT, Password};
use crate::problem::shown;

/// 0 is BGP's own port.
pub(crate) fn port(value: &Value<'_>) -> Option<u16> {
    number(value, 0..=u16::MAX.into()).map(|port| if port == 0 { BGP_PORT } else { port })
}

/// Cut to whole seconds.
pub(crate) fn hold_time(value: &Value<'_>) -> Option<Duration> {
    let seconds = duration(value)?.as_secs();
    let written = shown(value.text()?);
    // RFC 4271 §4.2: zero or at least three seconds, in 16 bits.
    match seconds {
        1 | 2 => {
            value.fail(format!("{written} is too short: use 3s or more, or 0s for no keepalives at all"))
        }
        65536.. => value.fail(format!("{written} is too long: use at most 65535s")),
        _ => Some(Duration::from_secs(seconds)),
    }
}

/// A BGP identifier.
pub(crate) fn router_id(value: &Value<'_>) -> Option<Ipv4Addr> {
    let text = value.text()?;
    match text.parse() {
        // RFC 6286: any number but zero.
        Ok(id) if id != Ipv4Addr::UNSPECIFIED => Some(id),
        _ => value
            .fail(format!("{} is not a router id: write an IPv4 address other than 0.0.0.0", shown(text))),
    }
}

/// An address of the family of the peer's.
pub(crate) fn source_address(value: &Value<'_>, peer: Option<IpAddr>) -> Option<IpAddr> {
    let address = host(value)?;
    match peer {
        Some(peer) if peer.is_ipv4() != address.is_ipv4() => {
            let family = if peer.is_ipv4() { "IPv4" } else { "IPv6" };
            value.fail(format!("{address} cannot reach {peer}: use an {family} address of the node"))
        }
        _ => Some(address),
    }
}

/// Cut to whole seconds, and no longer than the hold time where that is known.
pub(crate) fn keepalive_time(value: &Value<'_>, hold_time: Option<Duration>) -> Option<Duration> {
    let time = Duration::from_secs(duration(value)?.as_secs());
    match hold_time {
        Some(hold) if time > hold => {
            let (written, hold) = (shown(value.text()?), hold.as_secs());
            value
                .fail(format!("{written} is longer than the hold time of {hold}s: use at most a third of it"))
        }
        _ => Some(time),
    }
}

/// None for the empty password, which MetalLB takes as no password.
pub(crate) fn password(value: &Value<'_>) -> Option<Option<Password>> {
    Password::new(value.text()?).or_else(|error| value.fail(error).ok_or(())).ok()
}

/// RFC 4271 knows hops only between different AS numbers.
pub(crate) fn multihop(
    value: &Value<'_>,
    wanted: bool,
    my_asn: Option<u32>,
    asn: Option<u32>,
) -> Option<bool> {
    match (my_asn, asn) {
        (Some(mine), Some(other)) if wanted && mine == other => value.fail(format!(
            "both sides are AS {mine}, which is not external: remove this, or correct an AS number"
        )),
        _ => Some(wanted),
    }
}
