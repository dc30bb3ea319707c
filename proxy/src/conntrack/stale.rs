//! Which conntrack entries are stale. Pure.
//!
//! An entry is judged by the frontend that its client sent to:
//!
//! | frontend                  | answers come from (after translation)     | UDP, SCTP | TCP in SYN_SENT |
//! |---------------------------|-------------------------------------------|-----------|-----------------|
//! | not in the view           |                                           | stays     | stays           |
//! | has rules                 | a serving endpoint, address and port      | stays     | stays           |
//! | has rules                 | the same, on a node that counts as dead   | stays     | goes            |
//! | has rules                 | the frontend itself: never translated     | goes      | goes            |
//! | has rules                 | anything else                             | goes      | goes            |
//! | is gone                   | the frontend itself: somebody else's now  | stays     | stays           |
//! | is gone                   | anything else                             | goes      | goes            |
//!
//! Serving is every endpoint that is ready or serves while it terminates, wherever it runs: traffic policies and
//! topology choose for new flows only, and live ones are not cut. TCP that has got beyond SYN_SENT always stays: its two ends
//! find out themselves. SYN_SENT does not: such an entry catches every new connection from its port for two minutes.
//! Other ports of a frontend's address are other keys, and never in question.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::element::{Frontend, Protocol};
use crate::rules::Backends;

/// What matters of one conntrack entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Who began.
    pub source: SocketAddr,
    /// Whom it addressed.
    pub destination: SocketAddr,
    /// Who answers, as the kernel expects it: the endpoint, once translated.
    pub reply_source: SocketAddr,
    /// TCP of which nothing but SYNs was seen.
    pub syn_sent: bool,
    /// The kernel's id of the entry.
    pub id: u32,
}

/// Why an entry has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It leads to an endpoint that does not serve the frontend any more.
    EndpointGone,
    /// It leads to an endpoint whose node counts as dead.
    NodeSilent,
    /// It began before the frontend had rules.
    NotTranslated,
    /// The frontend has no rules any more.
    FrontendGone,
}

/// Frontends whose entries are in question, and who serves them.
#[derive(Debug, Clone, Default)]
pub struct View {
    frontends: HashMap<Frontend, Option<Arc<Backends>>>,
}

impl View {
    /// Puts a frontend in question; `None`: it is gone. What was known of it before is replaced.
    pub fn set(&mut self, frontend: Frontend, backends: Option<Arc<Backends>>) {
        self.frontends.insert(frontend, backends);
    }

    /// Adds what a later view knows; of the same frontend the later holds.
    pub fn update(&mut self, later: Self) {
        self.frontends.extend(later.frontends);
    }

    /// Adds what an earlier view asked for; of the same frontend this one holds.
    pub fn restore(&mut self, earlier: Self) {
        for (frontend, backends) in earlier.frontends {
            if let Entry::Vacant(vacant) = self.frontends.entry(frontend) {
                vacant.insert(backends);
            }
        }
    }

    /// Splits off the TCP frontends.
    pub fn split_tcp(mut self) -> (Self, Self) {
        let tcp = self.frontends.extract_if(|frontend, _| frontend.protocol == Protocol::Tcp).collect();
        (self, Self { frontends: tcp })
    }

    /// Nothing is in question.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
    }

    /// Everything in question.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.frontends.keys()
    }
}

/// Judges one entry; `None`: it stays.
pub fn stale(flow: &Flow, view: &View) -> Option<Reason> {
    let Flow { protocol, destination, reply_source, syn_sent, .. } = *flow;
    if protocol == Protocol::Tcp && !syn_sent {
        return None;
    }
    let frontend = Frontend { address: destination.ip(), protocol, port: destination.port() };
    let translated = reply_source != destination;
    match view.frontends.get(&frontend)? {
        Some(backends) if syn_sent && backends.is_silent(&reply_source) => Some(Reason::NodeSilent),
        Some(backends) if backends.serves(&reply_source) => None,
        Some(_) if translated => Some(Reason::EndpointGone),
        Some(_) => Some(Reason::NotTranslated),
        None => translated.then_some(Reason::FrontendGone),
    }
}
