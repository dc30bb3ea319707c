//! What becomes of the first packet of a connection on this node, by the tracer.
//!
//! Pure. The tracer reads the elements that the packet can meet, out of the program: what is in the kernel, lingering
//! frontends included, not what should be there.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use herald_proxy::ruleset::MasqueradeMode;
use herald_proxy::{
    DropReason, Element, Frontend, Hook, Packet, Program, Protocol, RejectReason, Share, Tracer, Verdict,
};
use herald_runtime::ObjectName;
use ipnet::IpNet;

use super::advice::{arguments, look_at_slices};
use super::model::{PacketAnswer, Said, StepAnswer, TargetAnswer};
use super::service::{policy_word, said};
use crate::index::Index;

/// Endpoints that the one line names; the rest is counted.
const NAMED: usize = 6;

/// Which packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketQuestion {
    /// Source address.
    pub from: IpAddr,
    /// Destination address, port and protocol.
    pub to: Frontend,
}

impl PacketQuestion {
    /// Reads `--from A` and `--to B:PORT[/PROTOCOL]`.
    pub fn parse(from: &str, to: &str) -> Result<Self, String> {
        let from: IpAddr = from
            .trim()
            .parse()
            .map_err(|_| format!("--from {from:?} is no IP address like 10.244.1.5 or 2001:db8:2::5"))?;
        let (address, protocol) = match to.trim().split_once('/') {
            None => (to.trim(), Protocol::Tcp),
            Some((address, protocol)) => (
                address,
                Protocol::from_str(protocol)
                    .map_err(|_| format!("--to {to:?}: {protocol:?} is none of tcp, udp, sctp"))?,
            ),
        };
        let socket: SocketAddr = address.parse().map_err(|_| {
            format!("--to {to:?} is no address and port like 10.96.0.10:80, 192.0.2.1:53/udp or [2001:db8:1::1]:80")
        })?;
        if socket.port() == 0 {
            return Err(format!("--to {to:?}: no connection goes to port 0"));
        }
        if socket.is_ipv4() != from.is_ipv4() {
            return Err(format!("--from {from} and --to {} are of different IP families", socket.ip()));
        }
        Ok(Self { from, to: Frontend { address: socket.ip(), protocol, port: socket.port() } })
    }
}

/// What is in force on the node.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) node: &'a str,
    /// Whether the kernel holds this run's rules.
    pub(crate) programmed: bool,
    /// What it holds; `None` when nothing is programmed on this node.
    pub(crate) program: Option<&'a Program>,
    /// Prefixes that are no Service's: announced ones, and networks of ClusterIPs.
    pub(crate) guards: Vec<Element>,
    /// Where pods have their addresses.
    pub(crate) cluster_cidrs: &'a [IpNet],
    /// Which marked connections are masqueraded.
    pub(crate) masquerade: MasqueradeMode,
    /// The node's own addresses, all of them.
    pub(crate) local_addresses: &'a BTreeSet<IpAddr>,
    /// For the names of Services.
    pub(crate) index: &'a Index,
}

/// Explains one packet.
pub(crate) fn explain(rules: &Rules<'_>, question: &PacketQuestion) -> PacketAnswer {
    let PacketQuestion { from, to } = *question;
    let hook = if rules.local_addresses.contains(&from) { Hook::Output } else { Hook::Prerouting };
    let met = rules.program.map(|program| program.met_by(&to)).unwrap_or_default();
    let guards = rules.guards.iter().copied();
    let cidrs = rules.cluster_cidrs.iter().copied();
    let local = rules.local_addresses.iter().copied();
    let tracer = Tracer::new(met.into_iter().chain(guards), cidrs, local);
    let tracer = tracer.with_masquerade(rules.masquerade);
    let (verdict, steps) = tracer.walk(&Packet { hook, source: from, destination: to });

    let holder = rules.program.and_then(|program| program.holder(&to));
    let service = holder
        .map(|holder| ObjectName::clone(holder.service))
        .or_else(|| rules.index.has_address(to.address));
    let mut answer = PacketAnswer {
        node: rules.node.to_owned(),
        from: from.to_string(),
        to: to.to_string(),
        verdict: String::new(),
        reason: None,
        service: service.as_ref().map(ToString::to_string),
        kind: holder.map(|holder| holder.rules.kind.word().to_owned()),
        policy: holder.map(|holder| policy_word(holder.rules.policy).to_owned()),
        endpoints: Vec::new(),
        affinity_seconds: None,
        summary: String::new(),
        walk: steps.into_iter().map(|step| StepAnswer { at: step.at.to_owned(), text: step.text }).collect(),
        advice: advice(rules, &verdict, service.as_ref(), holder.is_some_and(|holder| holder.lingering)),
    };
    let (word, fate) = match verdict {
        Verdict::Dnat { class, shares, affinity } => {
            answer.affinity_seconds = affinity;
            answer.endpoints = shares.iter().map(|share| target(class, share)).collect();
            ("Dnat", dnat(class, &shares, affinity))
        }
        Verdict::Drop(reason) => {
            answer.reason = Some(Said::new(reason.word(), reason.sentence()));
            ("Drop", format!("dropped without an answer: {}", reason.sentence()))
        }
        Verdict::Reject(reason) => {
            answer.reason = Some(Said::new(reason.word(), reason.sentence()));
            ("Reject", format!("refused (port unreachable): {}", reason.sentence()))
        }
        Verdict::Pass if hook == Hook::Prerouting && rules.local_addresses.contains(&to.address) => {
            ("Pass", "not Herald's: it reaches this node itself".to_owned())
        }
        Verdict::Pass => ("Pass", "not Herald's: it is routed as if Herald were not there".to_owned()),
    };
    answer.verdict = word.to_owned();
    answer.summary = format!("{from} -> {to}: {fate}");
    answer
}

fn target(class: u16, share: &Share) -> TargetAnswer {
    TargetAnswer {
        address: share.endpoint.to_string(),
        slots: share.slots,
        of: class,
        masquerade: share.masquerade.map(said),
    }
}

/// `DNAT to A (1/3), B (2/3); source kept`.
fn dnat(class: u16, shares: &[Share], affinity: Option<u32>) -> String {
    let mut named: Vec<String> = shares
        .iter()
        .take(NAMED)
        .map(|share| format!("{} ({}/{class})", share.endpoint, share.slots))
        .collect();
    if shares.len() > NAMED {
        named.push(format!("and {} more", shares.len() - NAMED));
    }
    let masqueraded: Vec<_> = shares.iter().filter_map(|share| share.masquerade).collect();
    let source = match masqueraded.first() {
        None => "source kept".to_owned(),
        Some(why) if masqueraded.len() == shares.len() => format!("masqueraded ({})", why.word()),
        Some(why) => format!(
            "masqueraded towards {} of {} endpoints ({}), else source kept",
            masqueraded.len(),
            shares.len(),
            why.word()
        ),
    };
    let kept = affinity.map(|seconds| format!("; kept for {seconds} s")).unwrap_or_default();
    format!("DNAT to {}; {source}{kept}", named.join(", "))
}

fn advice(
    rules: &Rules<'_>,
    verdict: &Verdict,
    service: Option<&ObjectName>,
    lingering: bool,
) -> Vec<String> {
    let mut advice = Vec::new();
    if rules.program.is_none() {
        advice.push("this speaker programs no rules (--proxy=off): ask the node's own proxy".to_owned());
    } else if !rules.programmed {
        advice.push(
            "the kernel does not have the rules of this speaker yet: look at its log and /readyz".to_owned(),
        );
    }
    if lingering {
        advice.push(
            "the Service does not want this frontend any more: its rules go within the linger".to_owned(),
        );
    }
    if let (Verdict::Drop(DropReason::RoutedBack), None) = (verdict, service) {
        advice.push("no Service has the address, or has it any more: kubectl get services -A".to_owned());
    }
    if let (Verdict::Drop(_) | Verdict::Reject(_), Some(service)) = (verdict, service) {
        advice.push(format!("herald explain service {service}"));
        advice.push(match verdict {
            Verdict::Reject(RejectReason::UnservedPort) => {
                format!("kubectl get service {}", arguments(&service.to_string()))
            }
            Verdict::Drop(DropReason::SourceNotAllowed) => {
                format!(
                    "kubectl get service {} -o yaml | grep -A9 loadBalancerSourceRanges",
                    arguments(&service.to_string())
                )
            }
            _ => look_at_slices(service),
        });
    }
    advice
}
