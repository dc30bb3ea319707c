//! The subjects, which part of one is wanted, and what is told of it. Pure.

use std::net::IpAddr;

use serde::Serialize;

use super::bgp::Bgp;
use super::facts::{Facts, ServiceFact};
use super::judge::{Overview, judge};
use super::layer2::Layer2;
use super::nodes::Nodes;
use super::pools::Pools;
use super::routes::Routes;
use super::services::Services;
use super::sheet::Sheet;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// Everything in short.
    All,
    Services,
    Nodes,
    Pools,
    Bgp,
    Layer2,
    Routes,
}

impl Subject {
    /// In the order in which a live screen has them.
    pub(super) const ALL: [Self; 7] =
        [Self::All, Self::Services, Self::Nodes, Self::Pools, Self::Bgp, Self::Layer2, Self::Routes];

    /// As it is typed; of everything what a live screen calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::All => "overview",
            Self::Services => "services",
            Self::Nodes => "nodes",
            Self::Pools => "pools",
            Self::Bgp => "bgp",
            Self::Layer2 => "layer2",
            Self::Routes => "routes",
        }
    }
}

/// Which of a subject is wanted; nothing said: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Names or addresses, as the subject has them.
    pub(crate) names: Vec<String>,
    /// Services of this namespace alone.
    pub(crate) namespace: Option<String>,
}

impl Wanted {
    /// What was named, for a sentence; `None`: nothing was.
    pub(super) fn names(&self) -> Option<String> {
        match (&self.namespace, self.names.is_empty()) {
            (None, true) => None,
            (None, false) => Some(self.names.join(", ")),
            (Some(namespace), true) => Some(format!("Service of type LoadBalancer in namespace {namespace}")),
            (Some(namespace), false) => Some(format!("{} in namespace {namespace}", self.names.join(", "))),
        }
    }

    fn name(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }

    /// By `NAMESPACE/NAME`, by `NAME` in whatever namespace, or by an address.
    fn service(&self, service: &ServiceFact) -> bool {
        let (namespace, name) = service.parts();
        let named = |wanted: &String| {
            wanted == name
                || *wanted == service.name
                || wanted.parse::<IpAddr>().is_ok_and(|address| service.addresses.contains(&address))
        };
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && (self.names.is_empty() || self.names.iter().any(named))
    }

    /// By itself, or by a Service that has it.
    fn address(&self, address: IpAddr, services: &[String]) -> bool {
        let named = |wanted: &String| {
            wanted.parse() == Ok(address)
                || services.iter().any(|service| {
                    service == wanted || service.split_once('/').is_some_and(|(_, name)| name == wanted)
                })
        };
        self.names.is_empty() || self.names.iter().any(named)
    }
}

/// What is told of a subject.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Told {
    All(Overview),
    Services(Services),
    Nodes(Nodes),
    Pools(Pools),
    Bgp(Bgp),
    Layer2(Layer2),
    Routes(Routes),
}

impl Told {
    /// Judges what is known.
    pub(super) fn of(facts: &Facts, subject: Subject, wanted: &Wanted) -> Self {
        match subject {
            Subject::All => Self::All(judge(facts)),
            Subject::Services => Self::Services(Services::of(facts, |service| wanted.service(service))),
            Subject::Nodes => Self::Nodes(Nodes::of(facts, |node| wanted.name(node))),
            Subject::Pools => Self::Pools(Pools::of(facts, |pool| wanted.name(pool))),
            Subject::Bgp => Self::Bgp(Bgp::of(facts)),
            Subject::Layer2 => Self::Layer2(Layer2::of(facts, |address, of| wanted.address(address, of))),
            Subject::Routes => Self::Routes(Routes::of(facts)),
        }
    }

    pub(super) fn sheet(&self) -> Sheet {
        match self {
            Self::All(told) => told.sheet(),
            Self::Services(told) => told.sheet(),
            Self::Nodes(told) => told.sheet(),
            Self::Pools(told) => told.sheet(),
            Self::Bgp(told) => told.sheet(),
            Self::Layer2(told) => told.sheet(),
            Self::Routes(told) => told.sheet(),
        }
    }

    /// There is nothing of it, or nothing that was wanted.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::All(_) => false,
            Self::Services(told) => told.is_empty(),
            Self::Nodes(told) => told.is_empty(),
            Self::Pools(told) => told.is_empty(),
            Self::Bgp(told) => told.is_empty(),
            Self::Layer2(told) => told.is_empty(),
            Self::Routes(told) => told.is_empty(),
        }
    }

    /// One name a line, as the next command takes it; the wrong ones first.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::All(_) => Vec::new(),
            Self::Services(told) => told.names(),
            Self::Nodes(told) => told.names(),
            Self::Pools(told) => told.names(),
            Self::Bgp(told) => told.names(),
            Self::Layer2(told) => told.names(),
            Self::Routes(told) => told.names(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{ip, service};
    use super::*;

    fn wanted(names: &[&str], namespace: Option<&str>) -> Wanted {
        Wanted {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            namespace: namespace.map(str::to_owned),
        }
    }

    #[test]
    fn a_service_is_wanted_by_its_names_its_namespace_or_its_address() {
        let web = service("shop/web", &["192.0.2.1", "2001:db8:1::1"], None);
        for (names, namespace, is) in [
            (&[][..], None, true),
            (&["shop/web"], None, true),
            (&["web"], None, true),
            (&["dns", "web"], None, true),
            (&["2001:db8:1:0::1"], None, true),
            (&["192.0.2.2"], None, false),
            (&["lab/web"], None, false),
            (&["we"], None, false),
            (&[], Some("shop"), true),
            (&[], Some("lab"), false),
            (&["web"], Some("lab"), false),
        ] {
            assert_eq!(wanted(names, namespace).service(&web), is, "{names:?} {namespace:?}");
        }
    }

    #[test]
    fn an_address_is_wanted_by_itself_or_by_a_service_that_has_it() {
        let services = ["shop/web".to_owned()];
        for (names, is) in [
            (&[][..], true),
            (&["192.0.2.1"], true),
            (&["web"], true),
            (&["shop/web"], true),
            (&["shop"], false),
            (&["192.0.2.9"], false),
        ] {
            assert_eq!(wanted(names, None).address(ip("192.0.2.1"), &services), is, "{names:?}");
        }
    }

    #[test]
    fn what_was_named_is_told_where_there_is_no_such_thing() {
        assert_eq!(wanted(&[], None).names(), None);
        assert_eq!(wanted(&["a", "b"], None).names().as_deref(), Some("a, b"));
        assert_eq!(wanted(&["a"], Some("shop")).names().as_deref(), Some("a in namespace shop"));
    }
}
