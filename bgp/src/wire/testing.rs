//! What tests of this crate share: reading our own messages with somebody else's eyes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rustbgpd_wire::{AsPathSegment, PathAttribute, Prefix, UpdateMessage};

use super::{DecodeError, Decoder, HEADER, MAX_MESSAGE, Message, PathContext, RefreshSubtype, RouteRefresh};
use crate::{Community, ExtendedCommunity, Family, LargeCommunity};

/// An external session with four-octet AS numbers and plain messages.
pub(crate) const PLAIN: PathContext = PathContext {
    local_as: 64500,
    behind_as: None,
    max_message: MAX_MESSAGE,
    internal: false,
    four_octet_as: true,
};

/// Cuts a stream into messages.
pub(crate) fn decode_all(stream: &[u8]) -> Result<Vec<Message>, DecodeError> {
    decode_by(Decoder::new(), stream)
}

fn decode_by(mut decoder: Decoder, mut stream: &[u8]) -> Result<Vec<Message>, DecodeError> {
    let mut messages = Vec::new();
    loop {
        while let Some(message) = decoder.next_message()? {
            messages.push(message);
        }
        if stream.is_empty() {
            return Ok(messages);
        }
        let space = decoder.space();
        let count = space.len().min(stream.len());
        space[..count].copy_from_slice(&stream[..count]);
        stream = &stream[count..];
        decoder.filled(count);
    }
}

/// The one message that these bytes are; it may be an extended one.
pub(crate) fn decode_one(bytes: &[u8]) -> Message {
    let mut decoder = Decoder::new();
    if bytes.len() > MAX_MESSAGE {
        decoder.extend();
    }
    let mut messages = decode_by(decoder, bytes).unwrap();
    assert_eq!(messages.len(), 1, "{bytes:02x?}");
    messages.remove(0)
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn nets<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeSet<IpNet> {
    texts.into_iter().map(net).collect()
}

/// An UPDATE as the oracle understands it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) announced: BTreeSet<IpNet>,
    pub(crate) withdrawn: BTreeSet<IpNet>,
    pub(crate) next_hop: Option<IpAddr>,
    pub(crate) as_path: Vec<u32>,
    pub(crate) med: Option<u32>,
    pub(crate) local_pref: Option<u32>,
    pub(crate) communities: Vec<Community>,
    pub(crate) extended_communities: Vec<ExtendedCommunity>,
    pub(crate) large_communities: Vec<LargeCommunity>,
    /// Of all prefixes in the order of the message.
    pub(crate) count: usize,
}

fn from_prefix(prefix: Prefix) -> IpNet {
    match prefix {
        Prefix::V4(p) => IpNet::new(p.addr.into(), p.len).unwrap(),
        Prefix::V6(p) => IpNet::new(p.addr.into(), p.len).unwrap(),
    }
}

/// Reads an UPDATE by rustbgpd-wire, every attribute of which must be known.
pub(crate) fn view(message: &[u8], four_octet_as: bool) -> View {
    let mut body = &message[HEADER..];
    let length = body.len();
    let raw = UpdateMessage::decode(&mut body, length).unwrap();
    let parsed = raw.parse(four_octet_as, false, &[]).unwrap();
    let mut view = View::default();
    view.announced.extend(parsed.announced.iter().map(|entry| from_prefix(Prefix::V4(entry.prefix))));
    view.withdrawn.extend(parsed.withdrawn.iter().map(|entry| from_prefix(Prefix::V4(entry.prefix))));
    view.count = parsed.announced.len() + parsed.withdrawn.len();
    for attribute in parsed.attributes {
        match attribute {
            PathAttribute::Origin(origin) => assert_eq!(origin, rustbgpd_wire::Origin::Igp),
            PathAttribute::AsPath(path) => {
                for segment in path.segments {
                    let AsPathSegment::AsSequence(numbers) = segment else { panic!("AS_SET") };
                    view.as_path.extend(numbers);
                }
            }
            PathAttribute::NextHop(next_hop) => assert_eq!(view.next_hop.replace(next_hop.into()), None),
            PathAttribute::Med(med) => view.med = Some(med),
            PathAttribute::ExtendedCommunities(list) => view
                .extended_communities
                .extend(list.iter().map(|c| ExtendedCommunity(c.as_u64().to_be_bytes()))),
            PathAttribute::LocalPref(preference) => view.local_pref = Some(preference),
            PathAttribute::Communities(list) => view.communities.extend(list.into_iter().map(Community)),
            PathAttribute::LargeCommunities(list) => view
                .large_communities
                .extend(list.iter().map(|c| LargeCommunity(c.global_admin, c.local_data1, c.local_data2))),
            PathAttribute::MpReachNlri(reach) => {
                assert_eq!(reach.link_local_next_hop, None);
                assert_eq!(view.next_hop.replace(reach.next_hop), None);
                view.count += reach.announced.len();
                view.announced.extend(reach.announced.iter().map(|entry| from_prefix(entry.prefix)));
            }
            PathAttribute::MpUnreachNlri(unreach) => {
                view.count += unreach.withdrawn.len();
                view.withdrawn.extend(unreach.withdrawn.iter().map(|entry| from_prefix(entry.prefix)));
            }
            other => panic!("an attribute that we do not send: {other:?}"),
        }
    }
    view
}

/// The attribute codes of an UPDATE in their order, with their flags.
pub(crate) fn attribute_codes(message: &[u8]) -> Vec<(u8, u8)> {
    let withdrawn = usize::from(u16::from_be_bytes([message[19], message[20]]));
    let at = 21 + withdrawn;
    let length = usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    let mut rest = &message[at + 2..at + 2 + length];
    let mut codes = Vec::new();
    while let [flags, code, ..] = *rest {
        let skip = if flags & 0x10 == 0 {
            3 + usize::from(rest[2])
        } else {
            4 + usize::from(u16::from_be_bytes([rest[2], rest[3]]))
        };
        codes.push((flags, code));
        rest = &rest[skip..];
    }
    codes
}

/// A peer's table: what it has after a stream of UPDATEs, and which markers came.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerTable {
    pub(crate) routes: BTreeMap<IpNet, View>,
    pub(crate) end_of_rib: Vec<Family>,
    pub(crate) four_octet_as: bool,
    /// RFC 7313 §4: what was there at the BoRR and did not come again.
    stale: BTreeSet<IpNet>,
}

impl PeerTable {
    pub(crate) fn new(four_octet_as: bool) -> Self {
        Self { four_octet_as, ..Self::default() }
    }

    pub(crate) fn apply(&mut self, message: &[u8]) {
        let update = match decode_one(message) {
            Message::Update(update) => update,
            Message::RouteRefresh(refresh) => return self.refresh(refresh),
            other => panic!("{other:?}"),
        };
        self.end_of_rib.extend(update.end_of_rib);
        let view = view(message, self.four_octet_as);
        for prefix in &view.withdrawn {
            assert!(self.routes.remove(prefix).is_some(), "withdrew {prefix}, which was not announced");
        }
        let bare = View { announced: BTreeSet::new(), count: 0, ..view.clone() };
        for prefix in view.announced {
            self.stale.remove(&prefix);
            self.routes.insert(prefix, bare.clone());
        }
    }

    fn refresh(&mut self, refresh: RouteRefresh) {
        let family = Family::from_codes(refresh.afi, refresh.safi).unwrap();
        match refresh.subtype {
            RefreshSubtype::Begin => {
                self.stale.extend(self.routes.keys().filter(|prefix| Family::of(prefix) == family));
            }
            RefreshSubtype::End => {
                let gone = std::mem::take(&mut self.stale);
                let (gone, kept) = gone.into_iter().partition::<BTreeSet<_>, _>(|p| Family::of(p) == family);
                self.routes.retain(|prefix, _| !gone.contains(prefix));
                self.stale = kept;
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn prefixes(&self) -> BTreeSet<IpNet> {
        self.routes.keys().copied().collect()
    }
}
