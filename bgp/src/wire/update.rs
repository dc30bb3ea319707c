//! The UPDATE message (RFC 4271 §4.3, RFC 4760): complete to send, counted when received.
//!
//! Sending is exact, for peers differ in what they forgive: each attribute once, with its exact flags, in order
//! of type after MP_REACH_NLRI or MP_UNREACH_NLRI, which come first (RFC 7606 §5.1); the extended length only where it is
//! needed; no NEXT_HOP beside MP_REACH_NLRI. One call fills one message with as many prefixes as it holds.
//!
//! Receiving checks that the sections add up and counts. Attributes are not read: Herald uses no routes, so it cannot be
//! made to reset a session by one (RFC 7606 §2).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{AS_TRANS, DecodeError, HEADER, begin, finish, kind, take, take_u8, take_u16};
use crate::{Attributes, Family};

/// RFC 4271 §4.3: header and the two section lengths.
const FIXED: usize = HEADER + 4;

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const EXTENDED_LENGTH: u8 = 0x10;

const ORIGIN: u8 = 1;
const AS_PATH: u8 = 2;
const NEXT_HOP: u8 = 3;
const MULTI_EXIT_DISC: u8 = 4;
const LOCAL_PREF: u8 = 5;
const COMMUNITIES: u8 = 8;
const MP_REACH_NLRI: u8 = 14;
const MP_UNREACH_NLRI: u8 = 15;
const EXTENDED_COMMUNITIES: u8 = 16;
const AS4_PATH: u8 = 17;
const LARGE_COMMUNITY: u8 = 32;

const AS_SEQUENCE: u8 = 2;

/// RFC 4271 §5.1.5 leaves the value to us; 100 is what every implementation assumes.
const DEFAULT_LOCAL_PREF: u32 = 100;

/// What of a session decides how its UPDATEs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathContext {
    /// The announcing AS.
    pub local_as: u32,
    /// The AS behind it, where the peer is shown another one than ours: it stands in the path too.
    pub behind_as: Option<u32>,
    /// The longest message: `MAX_MESSAGE`, or `MAX_EXTENDED` where RFC 8654 was negotiated.
    pub max_message: usize,
    /// Whether the peer is in the same AS.
    pub internal: bool,
    /// Whether AS numbers take four octets (RFC 6793, by the *peer's* capability).
    pub four_octet_as: bool,
}

/// Writes one attribute with the extended length exactly where it is needed (RFC 4271 §4.3).
fn push_attribute(out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(length) => out.extend_from_slice(&[flags, code, length]),
        Err(_) => {
            let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
            out.extend_from_slice(&[flags | EXTENDED_LENGTH, code, high, low]);
        }
    }
    out.extend_from_slice(value);
}

/// The attributes other than MP_REACH_NLRI, in order of type.
fn encode_attributes(context: &PathContext, next_hop: Option<IpAddr>, attributes: &Attributes) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    // RFC 4271 §5.1.1: IGP, the route is interior to the announcing AS.
    push_attribute(&mut out, TRANSITIVE, ORIGIN, &[0]);

    let path = as_path(context, attributes);
    let two_octets = |asn: u32| u16::try_from(asn);
    let value = if context.four_octet_as {
        segment(&path, |asn| asn.to_be_bytes())
    } else {
        // RFC 6793 §4.2.2: AS_TRANS for what two octets cannot hold.
        segment(&path, |asn| two_octets(asn).unwrap_or(AS_TRANS).to_be_bytes())
    };
    push_attribute(&mut out, TRANSITIVE, AS_PATH, &value);

    // RFC 4760 §3: with MP_REACH_NLRI alone there is no NEXT_HOP.
    if let Some(IpAddr::V4(next_hop)) = next_hop {
        push_attribute(&mut out, TRANSITIVE, NEXT_HOP, &next_hop.octets());
    }
    if let Some(med) = attributes.med {
        push_attribute(&mut out, OPTIONAL, MULTI_EXIT_DISC, &med.to_be_bytes());
    }
    // RFC 4271 §5.1.5: to internal peers always, to external ones never.
    if context.internal {
        let preference = attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF);
        push_attribute(&mut out, TRANSITIVE, LOCAL_PREF, &preference.to_be_bytes());
    }
    if !attributes.communities.is_empty() {
        let value: Vec<u8> = attributes.communities.iter().flat_map(|c| c.0.to_be_bytes()).collect();
        push_attribute(&mut out, OPTIONAL | TRANSITIVE, COMMUNITIES, &value);
    }
    if !attributes.extended_communities.is_empty() {
        let value: Vec<u8> = attributes.extended_communities.iter().flat_map(|c| c.0).collect();
        push_attribute(&mut out, OPTIONAL | TRANSITIVE, EXTENDED_COMMUNITIES, &value);
    }
    // RFC 6793 §4.2.2: the true path beside the AS_TRANS.
    if !context.four_octet_as && path.iter().any(|asn| two_octets(*asn).is_err()) {
        push_attribute(&mut out, OPTIONAL | TRANSITIVE, AS4_PATH, &segment(&path, |asn| asn.to_be_bytes()));
    }
    if !attributes.large_communities.is_empty() {
        let value: Vec<u8> = attributes
            .large_communities
            .iter()
            .flat_map(|c| [c.0, c.1, c.2])
            .flat_map(u32::to_be_bytes)
            .collect();
        push_attribute(&mut out, OPTIONAL | TRANSITIVE, LARGE_COMMUNITY, &value);
    }
    out
}

/// RFC 4271 §5.1.2: our own AS to external peers, more often to be less preferred; an empty path to internal ones.
fn as_path(context: &PathContext, attributes: &Attributes) -> Vec<u32> {
    if context.internal {
        return Vec::new();
    }
    let mut path = vec![context.local_as; 1 + usize::from(attributes.prepend)];
    path.extend(context.behind_as);
    // RFC 4271 §4.3: the count of a segment has one octet.
    path.truncate(usize::from(u8::MAX));
    path
}

/// One AS_SEQUENCE; nothing for an empty path.
fn segment<const N: usize>(path: &[u32], octets: impl Fn(u32) -> [u8; N]) -> Vec<u8> {
    let mut value = Vec::with_capacity(2 + N * path.len());
    if !path.is_empty() {
        value.extend_from_slice(&[AS_SEQUENCE, u8::try_from(path.len()).unwrap_or(u8::MAX)]);
        value.extend(path.iter().copied().flat_map(octets));
    }
    value
}

/// Prefixes to be put into messages, one after the other.
pub trait Prefixes {
    /// How many there are.
    fn count(&self) -> usize;
    /// The next one.
    fn first(&mut self) -> Option<IpNet>;
    /// Takes the next one.
    fn pop_first(&mut self) -> Option<IpNet>;
}

impl Prefixes for BTreeSet<IpNet> {
    fn count(&self) -> usize {
        self.len()
    }

    fn first(&mut self) -> Option<IpNet> {
        Self::first(self).copied()
    }

    fn pop_first(&mut self) -> Option<IpNet> {
        Self::pop_first(self)
    }
}

/// Takes prefixes from the front as long as they fit into `room` octets of NLRI (RFC 4271 §4.3, length and prefix).
fn fill(room: usize, prefixes: &mut impl Prefixes, taken: &mut Vec<IpNet>) -> Vec<u8> {
    let mut nlri = Vec::with_capacity(room.min(prefixes.count() * 17));
    while let Some(prefix) = prefixes.first() {
        let length = prefix.prefix_len();
        let octets = usize::from(length.div_ceil(8));
        if nlri.len() + 1 + octets > room {
            break;
        }
        nlri.push(length);
        match prefix.network() {
            IpAddr::V4(network) => nlri.extend_from_slice(&network.octets()[..octets]),
            IpAddr::V6(network) => nlri.extend_from_slice(&network.octets()[..octets]),
        }
        taken.extend(prefixes.pop_first());
    }
    nlri
}

/// Frames withdrawn routes, attributes and NLRI.
fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut message = begin(kind::UPDATE, 4 + withdrawn.len() + attributes.len() + nlri.len());
    message.extend_from_slice(&u16::try_from(withdrawn.len()).unwrap_or(u16::MAX).to_be_bytes());
    message.extend_from_slice(withdrawn);
    message.extend_from_slice(&u16::try_from(attributes.len()).unwrap_or(u16::MAX).to_be_bytes());
    message.extend_from_slice(attributes);
    message.extend_from_slice(nlri);
    finish(message)
}

/// One message that announces as many of the prefixes as it holds, all of one family; these move from `prefixes` to `taken`. An
/// IPv4 prefix may have an IPv6 next hop (RFC 8950), not the other way round. `None` if the attributes leave no room for
/// a single prefix.
pub fn encode_announcement(
    context: &PathContext,
    family: Family,
    next_hop: IpAddr,
    attributes: &Attributes,
    prefixes: &mut impl Prefixes,
    taken: &mut Vec<IpNet>,
) -> Option<Vec<u8>> {
    let room = context.max_message - FIXED;
    match next_hop {
        IpAddr::V4(_) => {
            let shared = encode_attributes(context, Some(next_hop), attributes);
            let nlri = fill(room.checked_sub(shared.len())?, prefixes, taken);
            (!nlri.is_empty()).then(|| update(&[], &shared, &nlri))
        }
        IpAddr::V6(next_hop) => {
            let shared = encode_attributes(context, None, attributes);
            // RFC 4760 §3: AFI, SAFI, next hop with its length, a reserved octet, NLRI. RFC 2545 §3, RFC 8950 §3: sixteen octets.
            let mut value = family.afi().to_be_bytes().to_vec();
            value.extend_from_slice(&[Family::SAFI, 16]);
            value.extend_from_slice(&next_hop.octets());
            value.push(0);
            let nlri = fill(room.checked_sub(shared.len() + 4 + value.len())?, prefixes, taken);
            if nlri.is_empty() {
                return None;
            }
            value.extend_from_slice(&nlri);
            let mut all = Vec::with_capacity(4 + value.len() + shared.len());
            push_attribute(&mut all, OPTIONAL, MP_REACH_NLRI, &value);
            all.extend_from_slice(&shared);
            Some(update(&[], &all, &[]))
        }
    }
}

/// One message that withdraws as many of the prefixes as it holds, all of one family; these move to `taken`.
pub fn encode_withdrawal(
    context: &PathContext,
    family: Family,
    prefixes: &mut impl Prefixes,
    taken: &mut Vec<IpNet>,
) -> Vec<u8> {
    let room = context.max_message - FIXED;
    match family {
        Family::Ipv4Unicast => update(&fill(room, prefixes, taken), &[], &[]),
        Family::Ipv6Unicast => {
            let mut value = mp_unreach_head();
            value.extend_from_slice(&fill(room - 4 - value.len(), prefixes, taken));
            let mut attributes = Vec::with_capacity(4 + value.len());
            push_attribute(&mut attributes, OPTIONAL, MP_UNREACH_NLRI, &value);
            update(&[], &attributes, &[])
        }
    }
}

/// The End-of-RIB marker of a family (RFC 4724 §2).
pub fn encode_end_of_rib(family: Family) -> Vec<u8> {
    match family {
        Family::Ipv4Unicast => update(&[], &[], &[]),
        Family::Ipv6Unicast => {
            let mut attributes = Vec::new();
            push_attribute(&mut attributes, OPTIONAL, MP_UNREACH_NLRI, &mp_unreach_head());
            update(&[], &attributes, &[])
        }
    }
}

fn mp_unreach_head() -> Vec<u8> {
    let [high, low] = Family::Ipv6Unicast.afi().to_be_bytes();
    vec![high, low, Family::SAFI]
}

/// What a received UPDATE held; the routes themselves are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceivedUpdate {
    /// IPv4 prefixes in the withdrawn section, up to the first that is malformed.
    pub withdrawn: u32,
    /// Octets of path attributes.
    pub attribute_octets: u32,
    /// IPv4 prefixes in the NLRI section, up to the first that is malformed.
    pub announced: u32,
    /// Whether this is an End-of-RIB marker, and of which family.
    pub end_of_rib: Option<Family>,
}

impl ReceivedUpdate {
    pub(super) fn decode(mut body: &[u8]) -> Result<Self, DecodeError> {
        // RFC 4271 §6.3: the two lengths must fit into the message.
        let length = take_u16(&mut body).ok_or(DecodeError::Update)?;
        let withdrawn = take(&mut body, usize::from(length)).ok_or(DecodeError::Update)?;
        let length = take_u16(&mut body).ok_or(DecodeError::Update)?;
        let attributes = take(&mut body, usize::from(length)).ok_or(DecodeError::Update)?;
        // RFC 4724 §2: an empty UPDATE, or one with nothing but an empty MP_UNREACH_NLRI.
        let end_of_rib = match (withdrawn, attributes, body) {
            ([], [], []) => Some(Family::Ipv4Unicast),
            (
                [],
                [_, MP_UNREACH_NLRI, 3, high, low, safi] | [_, MP_UNREACH_NLRI, 0, 3, high, low, safi],
                [],
            ) => Family::from_codes(u16::from_be_bytes([*high, *low]), *safi),
            _ => None,
        };
        Ok(Self {
            withdrawn: count_prefixes(withdrawn),
            attribute_octets: u32::try_from(attributes.len()).unwrap_or(u32::MAX),
            announced: count_prefixes(body),
            end_of_rib,
        })
    }
}

/// Counts IPv4 prefixes; for a figure, not for a verdict, so it just stops where they stop making sense.
fn count_prefixes(mut section: &[u8]) -> u32 {
    let mut count = 0;
    while let Some(length) = take_u8(&mut section) {
        if length > 32 || take(&mut section, usize::from(length.div_ceil(8))).is_none() {
            break;
        }
        count += 1;
    }
    count
}
