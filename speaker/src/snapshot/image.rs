//! From the index to the octets of a snapshot, a part at a time, and back.
//!
//! ```text
//! "herald snapshot\n" · version u32 · node, namespace, boot of the node · UID of kube-system
//! nodes · ServiceCIDRs · ConfigMap · objects of metallb.io and Secrets as JSON
//! (1 · Service · its slices) × n · 0 · SHA-256 over all of it
//! ```
//!
//! The parts are taken one after the other while the index goes on changing: every Service in it is as it was at some
//! moment, and whatever changed meanwhile makes the next snapshot due. Services that are not proxied are left out, and slices of
//! none. Of the Secrets only those that a BGPPeer names are in it.

use std::collections::BTreeSet;

use herald_proxy::{SliceReading, SliceView};
use herald_runtime::ObjectName;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde_json::Value;

use super::codec::{Damaged, Field, Reader, put_all, put_count, put_text};
use super::{Identity, Remembered, Unusable};
use crate::configured::watched;
use crate::index::{Index, ServiceObject, SliceObject};

const MAGIC: &[u8; 16] = b"herald snapshot\n";
/// Of the layout. Any change of what is written is another one: a snapshot of another release is not read.
pub(super) const VERSION: u32 = 1;
/// What the others ask Secrets for.
const PEER: &str = "BGPPeer";
const SECRET: &str = "Secret";

/// The begin of a snapshot: all but the Services.
pub(super) fn begin(identity: &Identity, cluster: Option<&str>, index: &Index, to: &mut Vec<u8>) {
    to.extend_from_slice(MAGIC);
    VERSION.put(to);
    let Identity { node, namespace, boot } = identity;
    [node, namespace, boot].into_iter().for_each(|text| text.put(to));
    cluster.map(str::to_owned).put(to);
    let nodes: Vec<_> = index.all_nodes().collect();
    put_all(nodes.into_iter(), to);
    index.service_cidr_objects().put(to);
    let written = index.configured.written();
    written.document().cloned().flatten().put(to);
    let peers = written.objects().get(PEER).into_iter().flat_map(|peers| peers.values());
    let named: BTreeSet<&str> =
        peers.filter_map(|peer| peer["spec"]["passwordSecret"]["name"].as_str()).collect();
    put_count(written.objects().len(), to);
    for (kind, objects) in written.objects() {
        put_text(kind, to);
        let kept = objects.iter().filter(|(name, _)| *kind != SECRET || named.contains(&***name));
        let kept: Vec<String> = kept.map(|(_, object)| object.to_string()).collect();
        kept.put(to);
    }
}

/// The Services behind `last` until there are `enough` octets. True: these were all, and only the checksum is missing.
pub(super) fn services(
    index: &Index,
    last: &mut Option<ObjectName>,
    to: &mut Vec<u8>,
    enough: usize,
) -> bool {
    let before = last.clone();
    for service in index.services_after(before.as_ref()) {
        if to.len() >= enough {
            return false;
        }
        *last = Some(service.name.clone());
        let Ok((view, _)) = &service.view else { continue };
        true.put(to);
        service.name.put(to);
        service.uid.put(to);
        service.class.put(to);
        service.labels.put(to);
        view.put(to);
        let slices = index.endpoints(&service.name).into_iter().flat_map(|endpoints| endpoints.slices());
        let slices: Vec<(&str, &SliceView)> = slices.collect();
        put_count(slices.len(), to);
        for (name, slice) in slices {
            put_text(name, to);
            slice.put(to);
        }
    }
    false.put(to);
    true
}

/// Reads a whole snapshot that was made for `identity`.
pub(super) fn read(octets: &[u8], identity: &Identity) -> Result<Remembered, Unusable> {
    let rest = octets.strip_prefix(MAGIC).ok_or(Unusable::Foreign)?;
    let version = u32::take(&mut Reader::new(rest)).map_err(|Damaged| Unusable::Foreign)?;
    if version != VERSION {
        return Err(Unusable::Version(version));
    }
    let (content, checksum) = octets.split_last_chunk::<SHA256_OUTPUT_LEN>().ok_or(Unusable::Damaged)?;
    if digest(&SHA256, content).as_ref() != checksum {
        return Err(Unusable::Damaged);
    }
    let body = content.get(MAGIC.len() + size_of::<u32>()..).ok_or(Unusable::Damaged)?;
    let mut reader = Reader::new(body);
    let mut text = || String::take(&mut reader).map_err(|Damaged| Unusable::Damaged);
    let (node, namespace, boot) = (text()?, text()?, text()?);
    if node != identity.node {
        return Err(Unusable::OtherNode(node));
    }
    if namespace != identity.namespace {
        return Err(Unusable::OtherNamespace(namespace));
    }
    let mut remembered = content_of(reader).map_err(|Damaged| Unusable::Damaged)?;
    if boot != identity.boot {
        remembered.forget_pods_of(&node);
    }
    Ok(remembered)
}

/// All behind the names.
pub(super) fn content_of(mut from: Reader<'_>) -> Result<Remembered, Damaged> {
    let mut remembered = Remembered {
        cluster: Field::take(&mut from)?,
        nodes: Field::take(&mut from)?,
        service_cidrs: Field::take(&mut from)?,
        document: Field::take(&mut from)?,
        ..Remembered::default()
    };
    let known = watched();
    for (kind, objects) in Vec::<(String, Vec<String>)>::take(&mut from)? {
        let kind = known.iter().find(|known| known.kind == kind).ok_or(Damaged)?.kind;
        let objects: Result<Vec<Value>, _> = objects.iter().map(|json| serde_json::from_str(json)).collect();
        remembered.objects.push((kind, objects.map_err(|_| Damaged)?));
    }
    while bool::take(&mut from)? {
        let name = ObjectName::take(&mut from)?;
        let service = ServiceObject {
            name: name.clone(),
            uid: Field::take(&mut from)?,
            class: Field::take(&mut from)?,
            labels: Field::take(&mut from)?,
            view: Ok((Field::take(&mut from)?, Vec::new())),
        };
        remembered.services.push(service);
        for (slice, view) in Vec::<(Box<str>, SliceView)>::take(&mut from)? {
            let service = name.name.to_string();
            remembered.slices.push(SliceObject {
                name: ObjectName::new(name.namespace.clone(), slice),
                reading: Ok(SliceReading { service, view, triggered: None, notes: Vec::new() }),
            });
        }
    }
    from.end()?;
    Ok(remembered)
}
