//! The loop's side: answers a question from what the loop holds.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use herald_proxy::{EndpointsView, IpFamily};
use herald_runtime::ObjectName;
use herald_runtime::memory::Memory;
use serde::Serialize;

use super::history::{Clock, history};
use super::packet::{self, Rules};
use super::service::{self, InForce};
use super::{
    Answer, Asked, PacketQuestion, Question, Refusal, Subject, announced, endpoints, overview, status,
};
use crate::bgp::{PeerSettings, Seen};
use crate::conntrack::Room;
use crate::forwarding;
use crate::index::{Index, ServiceObject};
use crate::options::ProxyMode;
use crate::proxy_kernel::ProxyKernel;
use crate::reconcile::Reconciler;
use crate::settings::Settings;

/// Names that are told where a Service is unknown.
const NEAR: usize = 5;
/// Names that are looked at for near ones.
const LOOKED_AT: usize = 20_000;

impl Reconciler {
    /// Answers one question.
    pub(crate) fn answer(&self, asked: Asked) {
        let answer = match &asked.question {
            Question::Service(name) => self.explain_service(name),
            Question::Packet(question, local) => self.explain_packet(question, local),
            Question::Node => self.status_node(),
            Question::Announced => self.announced(),
            Question::Endpoints => self.count_endpoints(),
            Question::Bgp => self.status_bgp(),
            Question::Routes => self.status_routes(),
            Question::History(subject) => self.history(subject),
        };
        // Nobody waits any more: the client is gone.
        let _ = asked.answer.send(answer);
    }

    /// In the families that pods have; IPv4 where that is not known.
    fn forwarding_trouble(&self) -> Option<String> {
        let pods = self.index.pod_cidrs();
        let has =
            |family: &IpFamily| pods.iter().any(|cidr| cidr.addr().is_ipv6() == (*family == IpFamily::V6));
        let families: Vec<IpFamily> = [IpFamily::V4, IpFamily::V6].into_iter().filter(has).collect();
        let families = if families.is_empty() { vec![IpFamily::V4] } else { families };
        forwarding::trouble(&self.not_forwarding, &families)
    }

    fn status_node(&self) -> Answer {
        let settings = self.in_force()?;
        let now = Instant::now();
        let started = self.reporter.history().journal().started;
        let node = overview::Node {
            name: &settings.node.name,
            up: now.saturating_duration_since(started),
            behind: (self.options.proxy != ProxyMode::Off).then(|| self.sync.behind(now)),
            proxy: self.options.proxy.to_string(),
            programmed: self.applier.programmed(),
            contested: self.applier.contested(now),
            refusal: settings.refusal,
            forwarding: self.forwarding_trouble(),
            conntrack: Room::of(&self.options.sysctl_directory),
            memory: Memory::own(),
            drained: self.applier.means().peers.avoided(),
            remembered: self.index.is_remembered(),
            failed: self.applier.failures().collect(),
            held: self.floor.count(),
            silent: self.index.suspects(),
            probes: self.availability.book().map(|book| (book.interval(), book.seen(Instant::now()))),
        };
        let told = self.reporter.told();
        let owned = told.owned();
        let all = told.all();
        let states = all.iter().flat_map(|(_, told)| told.states(&owned));
        json(&overview::overview(&node, self.sessions(settings), states))
    }

    fn announced(&self) -> Answer {
        let settings = self.in_force()?;
        let peers = &self.applier.means().peers;
        let addresses = self.reporter.announced_by_bgp().into_values().flatten().collect();
        let view = self.applier.means().layer2.view();
        let journal = self.reporter.history().journal();
        json(&announced::announced(
            &settings.node.name,
            addresses,
            (&peers.routes(), peers.seen()),
            &view.borrow(),
            (&journal, Instant::now()),
        ))
    }

    fn count_endpoints(&self) -> Answer {
        let node = &self.in_force()?.node.name;
        let services = self.index.services_after(None);
        let of = |service: &ServiceObject| self.index.endpoints(&service.name);
        json(&endpoints::endpoints(node, services, of, self.index.suspects()))
    }

    fn status_bgp(&self) -> Answer {
        let settings = self.in_force()?;
        let avoided = self.applier.means().peers.avoided();
        json(&status::peers(&settings.node.name, avoided, self.sessions(settings), Instant::now()))
    }

    /// Those that there are, and those whose peers have not been found.
    fn sessions<'a>(&'a self, settings: &'a Settings) -> impl Iterator<Item = (&'a PeerSettings, Seen)> {
        let sought = settings.sought.iter().map(|peer| {
            let seen = Seen::nobody(peer.peer.found_on().unwrap_or_default());
            (peer, seen)
        });
        self.applier.means().peers.seen().chain(sought)
    }

    fn status_routes(&self) -> Answer {
        let settings = self.in_force()?;
        let peers = &self.applier.means().peers;
        let announced = self.reporter.announced_by_bgp();
        let (node, config) = (&settings.node.name, settings.view(&self.index, &self.options).config);
        json(&status::routes(node, peers.avoided(), &peers.routes(), &announced, config))
    }

    /// Also before everything has been heard: what happened is known all the same.
    fn history(&self, subject: &Subject) -> Answer {
        let journal = self.reporter.history().journal();
        json(&history(&self.options.node_name, Clock::now(), subject, &journal, self.reporter.told()))
    }

    fn explain_packet(&self, question: &PacketQuestion, local_addresses: &BTreeSet<IpAddr>) -> Answer {
        let settings = self.in_force()?;
        let proxy = self.applier.means().proxy.as_ref();
        let rules = Rules {
            node: &settings.node.name,
            programmed: self.applier.programmed(),
            program: proxy.map(ProxyKernel::program),
            guards: proxy.map(ProxyKernel::guards).unwrap_or_default(),
            cluster_cidrs: &settings.ruleset.cluster_cidrs,
            masquerade: settings.ruleset.masquerade,
            local_addresses,
            index: &self.index,
        };
        json(&packet::explain(&rules, question))
    }

    fn explain_service(&self, name: &ObjectName) -> Answer {
        let settings = self.in_force()?;
        let Some(service) = self.index.service(name) else {
            return Err(Refusal::Unknown(unknown(&self.index, name, &settings.node.name)));
        };
        let programmed = self.applier.programmed();
        let owners = self.applier.means().layer2.view();
        let owners = owners.borrow();
        let in_force = InForce {
            layer2: &owners,
            mode: self.options.proxy,
            programmed: programmed || self.options.proxy == ProxyMode::Off,
            program: self.applier.means().proxy.as_ref().map(ProxyKernel::program),
            cluster_cidrs: &settings.ruleset.cluster_cidrs,
            masquerade: settings.ruleset.masquerade,
            failure: self.applier.failure(name).map(|failure| (failure.reason, failure.error.as_str())),
        };
        let view = settings.view(&self.index, &self.options);
        let none = EndpointsView::default();
        json(&service::explain(&view, in_force, service, self.index.endpoints(name).unwrap_or(&none)))
    }
}

impl Reconciler {
    /// The settings, once everything has been heard.
    fn in_force(&self) -> Result<&Settings, Refusal> {
        self.settings.as_ref().filter(|_| self.index.is_ready()).ok_or(Refusal::NotSynced)
    }
}

fn json(answer: &impl Serialize) -> Answer {
    serde_json::to_vec(answer).map_err(|error| Refusal::Bad(error.to_string()))
}

/// Says that a Service is not known, with names that may have been meant.
fn unknown(index: &Index, name: &ObjectName, node: &str) -> String {
    let near = near(index.service_names(), name);
    let mut text = format!("{node} knows no Service {name}");
    if near.is_empty() {
        text.push_str(
            ": kubectl get services -A (Services with label service.kubernetes.io/service-proxy-name or \
             service.kubernetes.io/headless are left to others and not seen)",
        );
    } else {
        text.push_str("; near are: ");
        text.push_str(&near.join(", "));
    }
    text
}

/// The same name in other namespaces, and names of the same namespace that differ in two letters.
pub(super) fn near<'n>(names: impl Iterator<Item = &'n ObjectName>, wanted: &ObjectName) -> Vec<String> {
    let alike = |name: &ObjectName| {
        let (a, b) = (&*name.name, &*wanted.name);
        if a == b {
            return true;
        }
        // The cheap questions first: this is asked of thousands of names, while the loop waits.
        let long = a.len().max(b.len());
        if long - a.len().min(b.len()) > 2 || name.namespace != wanted.namespace {
            return false;
        }
        let begin = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
        let end = a.bytes().rev().zip(b.bytes().rev()).take_while(|(a, b)| a == b).count();
        begin + end > 0 && begin + end + 2 >= long
    };
    names.take(LOOKED_AT).filter(|name| alike(name)).take(NEAR).map(ToString::to_string).collect()
}
