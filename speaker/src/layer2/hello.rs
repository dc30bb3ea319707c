//! The hello: what one node tells the others on a segment, and its form on the wire.
//!
//! One datagram of at most [`MAX_LEN`] octets. A fixed header, elements of type, length and value, and an HMAC-SHA256
//! over all of it:
//!
//! ```text
//! "HRLD" · version 1 · 3 x reserved · cluster u64 · boot u64 · sequence u32                    28 octets
//! 1 SENDER   interface u32 · hardware address 6 · node name                                    always
//! 2 STATE    flags u8 · interval u16 (ms) · version u32 · floor u32                            always
//! 3 HEARD    (participant u64 · boot u64 · sequence u32 · version u32) x n, n <= 32            in each regular hello
//! 4 OFFERS   base u32 · to u32 · (flags u8 · score u16 · epoch u32 · address 4 or 16) x n       after changes, paged
//! 6 ALONE    u32: bit n for entry n of HEARD, who is heard by copies only                       beside HEARD, if there is one
//! HMAC-SHA256                                                                                  32 octets
//! ```
//!
//! Numbers are big-endian. Elements that are not known are skipped, so that later versions may say more; type 5 is free.
//! A datagram of another cluster, without a valid code, or malformed is dropped and counted, and
//! nothing in it is believed. What is fresh and what is a replay is decided by `segment.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ring::{digest, hmac};

use super::frame::Mac;

/// Longest datagram, in octets.
pub(crate) const MAX_LEN: usize = 1200;
/// Most participants that one hello lists as heard; more take turns.
pub(crate) const MAX_HEARD: usize = 32;
/// Octets of offers in one datagram, beside the longest name that a node may have.
pub(crate) const OFFERS_BUDGET: usize = 800;

const MAGIC: &[u8; 4] = b"HRLD";
/// Of what is sent, and the only one that is read.
pub(super) const VERSION: u8 = 1;
const HMAC_LEN: usize = 32;
const SENDER: u8 = 1;
const STATE: u8 = 2;
const HEARD: u8 = 3;
const OFFERS: u8 = 4;
const ALONE: u8 = 6;
const STATE_STOPPING: u8 = 1;
const STATE_ALONE: u8 = 2;
const OFFER_V6: u8 = 1;
const OFFER_GONE: u8 = 2;
const OFFER_CLAIMED: u8 = 4;
const OFFER_LEAVING: u8 = 8;
/// RFC 1123: the longest name of a Node object.
const MAX_NAME: usize = 253;

/// One interface of one node: what takes part in the elections of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Participant(pub(crate) u64);

impl Participant {
    /// From what a hello says of its sender.
    fn of(node: &str, interface: u32) -> Self {
        let mut text = node.as_bytes().to_vec();
        text.push(b'%');
        text.extend(interface.to_be_bytes());
        Self(first_octets(digest::digest(&digest::SHA256, &text).as_ref()))
    }
}

/// The first eight octets of a hash as a number.
pub(crate) fn first_octets(hash: &[u8]) -> u64 {
    hash.first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first))
}

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sender {
    /// The Node's name.
    pub(crate) node: Box<str>,
    /// The interface's index on it.
    pub(crate) interface: u32,
    /// The interface's hardware address.
    pub(crate) mac: Mac,
    /// What follows from the first two.
    pub(crate) participant: Participant,
}

impl Sender {
    /// An interface of a node.
    pub(crate) fn new(node: Box<str>, interface: u32, mac: Mac) -> Self {
        let participant = Participant::of(&node, interface);
        Self { node, interface, mac, participant }
    }
}

/// A participant that the sender hears, and how much of its offers it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeardPeer {
    /// Who.
    pub(crate) participant: Participant,
    /// Which run of it.
    pub(crate) boot: u64,
    /// The last hello of it.
    pub(crate) sequence: u32,
    /// Its offers are known up to this version.
    pub(crate) version: u32,
    /// Only copies for the sender alone are heard of it: it is to go on with them.
    pub(crate) alone: bool,
}

/// A node may own an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Preference of the configuration; the highest wins.
    pub(crate) score: u16,
    /// The node owns the address: the number of this ownership, counted over all nodes.
    pub(crate) claim: Option<u32>,
    /// It lets go as soon as another one has taken the address.
    pub(crate) leaving: bool,
}

/// Changes of offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Update {
    /// For those who know the offers up to this version.
    pub(crate) base: u32,
    /// Who applies it knows them up to this one.
    pub(crate) to: u32,
    /// `None`: not offered any more.
    pub(crate) offers: Vec<(IpAddr, Option<Offer>)>,
}

/// A hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Who sends it.
    pub(crate) sender: Sender,
    /// Its run, by a random number.
    pub(crate) boot: u64,
    /// Counts the datagrams of a run.
    pub(crate) sequence: u32,
    /// The speaker stops, the node does not.
    pub(crate) stopping: bool,
    /// It is a copy for the receiver alone, whom multicast may not reach.
    pub(crate) alone: bool,
    /// How often it sends, in milliseconds.
    pub(crate) interval: u16,
    /// The version of its offers.
    pub(crate) version: u32,
    /// What changed before this version is only in an update from version 0.
    pub(crate) floor: u32,
    /// Whom it hears; not in datagrams that are sent for their offers.
    pub(crate) heard: Vec<HeardPeer>,
    /// Changes of its offers.
    pub(crate) update: Option<Update>,
}

/// Why a datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum Refused {
    /// It is no hello.
    #[error("not a hello")]
    Foreign,
    /// A speaker of this cluster said it in a version that is not known.
    #[error("of version {0}, and this speaker knows version {VERSION} alone")]
    OtherVersion(u8),
    /// It is of another cluster.
    #[error("of another cluster")]
    OtherCluster,
    /// No accepted key gives its code.
    #[error("not signed with an accepted key")]
    Unauthenticated,
    /// It was signed, and its elements are broken.
    #[error("malformed")]
    Malformed,
}

/// What hellos are signed with, and whose are accepted.
#[derive(Clone)]
pub(crate) struct Keys {
    cluster: u64,
    sign: hmac::Key,
    accept: Vec<hmac::Key>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("accepted", &self.accept.len()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Signs with the first secret and accepts all; `cluster` is any name that no other cluster has.
    pub(crate) fn new(cluster: &str, sign: &[u8], others: &[Vec<u8>]) -> Self {
        let key = |secret: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, secret);
        let accept = std::iter::once(key(sign)).chain(others.iter().map(|secret| key(secret))).collect();
        let cluster = first_octets(digest::digest(&digest::SHA256, cluster.as_bytes()).as_ref());
        Self { cluster, sign: key(sign), accept }
    }

    /// The datagram of a hello.
    pub(crate) fn encode(&self, hello: &Hello) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_LEN);
        out.extend(MAGIC);
        out.extend([VERSION, 0, 0, 0]);
        out.extend(self.cluster.to_be_bytes());
        out.extend(hello.boot.to_be_bytes());
        out.extend(hello.sequence.to_be_bytes());
        element(&mut out, SENDER, |out| {
            out.extend(hello.sender.interface.to_be_bytes());
            out.extend(hello.sender.mac);
            out.extend(hello.sender.node.as_bytes().iter().take(MAX_NAME));
        });
        element(&mut out, STATE, |out| {
            let flags = [(hello.stopping, STATE_STOPPING), (hello.alone, STATE_ALONE)];
            out.push(flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag));
            out.extend(hello.interval.to_be_bytes());
            out.extend(hello.version.to_be_bytes());
            out.extend(hello.floor.to_be_bytes());
        });
        if !hello.heard.is_empty() {
            element(&mut out, HEARD, |out| hello.heard.iter().for_each(|heard| put_heard(out, heard)));
        }
        let entries = hello.heard.iter().take(MAX_HEARD).enumerate();
        let alone = entries.fold(0u32, |all, (n, heard)| all | u32::from(heard.alone) << n);
        if alone != 0 {
            element(&mut out, ALONE, |out| out.extend(alone.to_be_bytes()));
        }
        if let Some(update) = &hello.update {
            element(&mut out, OFFERS, |out| {
                out.extend(update.base.to_be_bytes());
                out.extend(update.to.to_be_bytes());
                update.offers.iter().for_each(|(address, offer)| put_offer(out, *address, *offer));
            });
        }
        let code = hmac::sign(&self.sign, &out);
        out.extend(code.as_ref());
        out
    }

    /// Reads a datagram.
    pub(crate) fn decode(&self, datagram: &[u8]) -> Result<Hello, Refused> {
        let mut fields = Fields(datagram);
        let (magic, version) = (fields.array::<4>(), fields.array::<4>());
        let [version, ..] = version.filter(|_| magic.as_ref() == Some(MAGIC)).ok_or(Refused::Foreign)?;
        if fields.u64().ok_or(Refused::Foreign)? != self.cluster {
            return Err(Refused::OtherCluster);
        }
        let length = datagram.len().checked_sub(HMAC_LEN).ok_or(Refused::Foreign)?;
        let (signed, code) = datagram.split_at_checked(length).ok_or(Refused::Foreign)?;
        if datagram.len() > MAX_LEN || !self.accept.iter().any(|key| hmac::verify(key, signed, code).is_ok())
        {
            return Err(Refused::Unauthenticated);
        }
        if version != VERSION {
            return Err(Refused::OtherVersion(version));
        }
        let signed = signed.get(16..).ok_or(Refused::Malformed)?;
        read(Fields(signed)).ok_or(Refused::Malformed)
    }
}

/// Octets that an offer takes.
pub(crate) fn offer_len(address: IpAddr) -> usize {
    7 + if address.is_ipv4() { 4 } else { 16 }
}

fn element(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend([kind, 0, 0]);
    let begin = out.len();
    write(out);
    let length = u16::try_from(out.len() - begin).unwrap_or(u16::MAX);
    if let Some(place) = out.get_mut(begin - 2..begin) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

fn put_heard(out: &mut Vec<u8>, heard: &HeardPeer) {
    out.extend(heard.participant.0.to_be_bytes());
    out.extend(heard.boot.to_be_bytes());
    out.extend(heard.sequence.to_be_bytes());
    out.extend(heard.version.to_be_bytes());
}

fn put_offer(out: &mut Vec<u8>, address: IpAddr, offer: Option<Offer>) {
    let mut flags = if address.is_ipv6() { OFFER_V6 } else { 0 };
    let Offer { score, claim, leaving } = offer.unwrap_or(Offer { score: 0, claim: None, leaving: false });
    for (set, flag) in
        [(offer.is_none(), OFFER_GONE), (claim.is_some(), OFFER_CLAIMED), (leaving, OFFER_LEAVING)]
    {
        flags |= if set { flag } else { 0 };
    }
    out.push(flags);
    out.extend(score.to_be_bytes());
    out.extend(claim.unwrap_or(0).to_be_bytes());
    match address {
        IpAddr::V4(v4) => out.extend(v4.octets()),
        IpAddr::V6(v6) => out.extend(v6.octets()),
    }
}

/// Octets that are read from the front; `None` when they end too early.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, length: usize) -> Option<Self> {
        let (first, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Self(first))
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[octet]| octet)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn more(&self) -> bool {
        !self.0.is_empty()
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Reads what comes after the cluster.
fn read(mut fields: Fields<'_>) -> Option<Hello> {
    let (boot, sequence) = (fields.u64()?, fields.u32()?);
    let (mut sender, mut state, mut heard, mut alone, mut update) = (None, None, Vec::new(), 0, None);
    while fields.more() {
        let (kind, length) = (fields.u8()?, fields.u16()?);
        let mut value = fields.take(length.into())?;
        match kind {
            SENDER => sender = Some(read_sender(&mut value)?),
            STATE => state = Some((value.u8()?, value.u16()?, value.u32()?, value.u32()?)),
            HEARD => {
                while value.more() {
                    heard.push(HeardPeer {
                        participant: Participant(value.u64()?),
                        boot: value.u64()?,
                        sequence: value.u32()?,
                        version: value.u32()?,
                        alone: false,
                    });
                }
            }
            ALONE => alone = value.u32()?,
            OFFERS => update = Some(read_update(&mut value)?),
            _ => {}
        }
    }
    for (n, heard) in heard.iter_mut().take(MAX_HEARD).enumerate() {
        heard.alone = alone & 1 << n != 0;
    }
    let (flags, interval, version, floor) = state?;
    Some(Hello {
        sender: sender?,
        boot,
        sequence,
        stopping: flags & STATE_STOPPING != 0,
        alone: flags & STATE_ALONE != 0,
        interval,
        version,
        floor,
        heard,
        update,
    })
}

fn read_sender(value: &mut Fields<'_>) -> Option<Sender> {
    let (interface, mac) = (value.u32()?, value.array()?);
    let node = std::str::from_utf8(value.rest()).ok()?;
    (!node.is_empty() && node.len() <= MAX_NAME).then(|| Sender::new(node.into(), interface, mac))
}

fn read_update(value: &mut Fields<'_>) -> Option<Update> {
    let (base, to) = (value.u32()?, value.u32()?);
    let mut offers = Vec::new();
    while value.more() {
        let (flags, score, epoch) = (value.u8()?, value.u16()?, value.u32()?);
        let address = match flags & OFFER_V6 {
            0 => Ipv4Addr::from(value.array::<4>()?).into(),
            _ => Ipv6Addr::from(value.array::<16>()?).into(),
        };
        let offer = Offer {
            score,
            claim: (flags & OFFER_CLAIMED != 0).then_some(epoch),
            leaving: flags & OFFER_LEAVING != 0,
        };
        offers.push((address, (flags & OFFER_GONE == 0).then_some(offer)));
    }
    (base < to).then_some(Update { base, to, offers })
}

#[cfg(test)]
mod tests;
