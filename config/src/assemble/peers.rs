//! Peers: their BFD profiles, and their keys from Secrets.

use std::collections::{BTreeMap, HashMap};

use super::pools::Pools;
use super::{Problem, Round, Severity};
use crate::bfd::BfdProfile;
use crate::objects::{At, Content, Key, Object, PeerContent};
use crate::peer::{Password, Peer};
use crate::problem::{ConfigError, shown};
use crate::read::nearest::nearest;
use crate::schema::kinds::Kind;

/// What matters of a Secret; `Debug` does not print the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its `type`.
    pub of_type: String,
    /// The value of its key `password`.
    pub password: Option<Vec<u8>>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("of_type", &self.of_type).finish_non_exhaustive()
    }
}

/// Where passwords come from.
#[derive(Debug, Clone, Copy)]
pub enum Secrets<'a> {
    /// Nobody reads them: peers keep the name of their Secret.
    Unread,
    /// Those of Herald's namespace, by name.
    Read(&'a BTreeMap<String, Secret>),
}

const BASIC_AUTH: &str = "kubernetes.io/basic-auth";

pub(super) fn admit_profiles(round: &mut Round<'_>) -> Vec<BfdProfile> {
    let mut profiles = Vec::new();
    round.admit(
        Kind::BfdProfile,
        |_, content, _| {
            let Content::Bfd(profile) = content else { return Err(Vec::new()) };
            profiles.push(profile.clone());
            Ok(Vec::new())
        },
        |_, _| false,
    );
    profiles
}

pub(super) fn admit(
    round: &mut Round<'_>,
    profiles: &mut Vec<BfdProfile>,
    secrets: Secrets<'_>,
) -> Vec<Peer> {
    let known = profiles.clone();
    let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
    let mut kept: BTreeMap<String, (Peer, Option<BfdProfile>)> = BTreeMap::new();
    round.admit(
        Kind::BgpPeer,
        |object, content, _| {
            let Content::Peer(content) = content else { return Err(Vec::new()) };
            let name = object.key.name.clone();
            let (profile, password) = (profile(content, &known), password(content, object, secrets));
            match (profile, password) {
                (Ok(bfd_profile), Ok(password)) => {
                    let peer = Peer { name: name.clone(), bfd_profile, password, ..content.peer.clone() };
                    peers.insert(name, peer);
                }
                (profile, password) => {
                    return Err(profile.err().into_iter().chain(password.err()).collect());
                }
            }
            Ok(Vec::new())
        },
        |object, former| {
            // Its Secret or its profile is gone; the session does not need them again.
            let peer = former.peer.clone();
            kept.extend(peer.map(|peer| (object.key.name.clone(), peer)));
            former.peer.is_some()
        },
    );
    for (name, (peer, profile)) in kept {
        peers.insert(name, peer);
        profiles.extend(profile.filter(|profile| !profiles.iter().any(|known| known.name == profile.name)));
    }
    profiles.sort_by(|a, b| a.name.cmp(&b.name));
    for (key, in_force) in &mut round.next {
        let Some(peer) = peers.get(&key.name).filter(|_| key.kind == Kind::BgpPeer) else { continue };
        let profile = profiles.iter().find(|profile| Some(&profile.name) == peer.bfd_profile.as_ref());
        in_force.peer = Some((peer.clone(), profile.cloned()));
    }
    warn_of_twins(round, &peers);
    peers.into_values().collect()
}

fn profile(content: &PeerContent, profiles: &[BfdProfile]) -> Result<Option<String>, ConfigError> {
    let Some(At { value: name, place }) = &content.bfd_profile else { return Ok(None) };
    if profiles.iter().any(|profile| profile.name == *name) {
        return Ok(Some(name.clone()));
    }
    let hint = match nearest(name, profiles.iter().map(|profile| profile.name.as_str())) {
        Some(near) if near.likely => format!("did you mean {}?", shown(near.word)),
        _ => "create it, or remove this".to_owned(),
    };
    Err(place.error(format!("no BFDProfile is called {}: {hint}", shown(name))))
}

fn password(
    content: &PeerContent,
    object: &Object,
    secrets: Secrets<'_>,
) -> Result<Option<Password>, ConfigError> {
    let (name, namespace) = match &content.key {
        Key::None => return Ok(None),
        Key::Written(password) => return Ok(Some(password.clone())),
        Key::InSecret { name, namespace } => (name, namespace),
    };
    let At { value: secret, place } = name;
    if let (Some(other), Some(own)) = (namespace, &object.namespace)
        && other != own
    {
        return Err(place.error(format!(
            "Secrets are read in {} only, not in {}: create it there",
            shown(own),
            shown(other)
        )));
    }
    let Secrets::Read(secrets) = secrets else { return Ok(Some(Password::in_secret(secret))) };
    let name = shown(secret);
    let Some(secret) = secrets.get(secret) else {
        return Err(place.error(format!("there is no Secret {name}: create it, of type {BASIC_AUTH}")));
    };
    if secret.of_type != BASIC_AUTH {
        let written = shown(&secret.of_type);
        return Err(
            place.error(format!("Secret {name} is of type {written}: create it of type {BASIC_AUTH}"))
        );
    }
    let text = secret.password.as_deref().map(std::str::from_utf8);
    match text {
        Some(Ok(text)) => match Password::new(text) {
            Ok(Some(password)) => Ok(Some(password)),
            Ok(None) => Err(place.error(format!("the password of Secret {name} is empty: write one"))),
            Err(error) => Err(place.error(format!("Secret {name}: {error}"))),
        },
        Some(Err(_)) => Err(place.error(format!("the password of Secret {name} is no text: write UTF-8"))),
        None => Err(place.error(format!("Secret {name} has no key password: add it"))),
    }
}

fn warn(round: &mut Round<'_>, peer: &str, error: ConfigError) {
    if let Some(object) =
        round.objects.iter().find(|object| object.key.kind == Kind::BgpPeer && object.key.name == peer)
    {
        round.tell(object, Severity::Warning, vec![error]);
    }
}

fn warn_of_twins(round: &mut Round<'_>, peers: &BTreeMap<String, Peer>) {
    let mut seen = HashMap::new();
    for (name, peer) in peers {
        let neighbour = (peer.address, peer.port, &peer.device, &peer.node_selectors);
        if let Some(first) = seen.insert(neighbour, name) {
            let message = format!(
                "the same neighbour as {} on the same nodes: routers keep only one of two such sessions",
                shown(first)
            );
            let error = ConfigError { line: 0, column: 0, path: "spec.peerAddress".to_owned(), message };
            warn(round, name, error);
        }
    }
}

/// Echo packets are for IPv4 only.
pub(super) fn warn_of_echo(round: &mut Round<'_>, pools: &Pools, peers: &[Peer], profiles: &[BfdProfile]) {
    for peer in peers {
        let echo = profiles.iter().any(|of| Some(&of.name) == peer.bfd_profile.as_ref() && of.echo_mode);
        let v6 = pools.values().find(|of| {
            let told =
                of.pool.advertisements.iter().any(|ad| ad.peers.is_empty() || ad.peers.contains(&peer.name));
            told && of.pool.ranges.iter().any(|range| !range.is_ipv4())
        });
        if let (true, Some(pool)) = (echo, v6) {
            let message = format!(
                "echo mode is for IPv4, and pool {} has IPv6 addresses: use a profile without echoMode",
                shown(&pool.pool.name)
            );
            warn(
                round,
                &peer.name,
                ConfigError { line: 0, column: 0, path: "spec.bfdProfile".to_owned(), message },
            );
        }
    }
}

impl Problem {
    /// Whether the object is not in force as it stands.
    pub fn is_error(&self) -> bool {
        self.severity != Severity::Warning
    }
}
