//! Programs beside the speaker, and the ports that they have.

use herald_speaker::DropRule;

use super::super::seen::{NodeSeen, Process, Socket};
use super::{Verdict, one};
use crate::doctor::report::Trouble;

/// A speaker runs here whose proxy does everything.
pub(super) fn proxies(seen: &NodeSeen) -> bool {
    seen.speaker().is_some_and(|speaker| flag(speaker, "--proxy").is_none_or(|mode| mode == "full"))
}

/// What a process was given by a flag: `--flag=value` or `--flag value`.
pub(in crate::doctor::node) fn flag(process: &Process, name: &str) -> Option<String> {
    let mut words = process.arguments.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix(name) {
            Some("") => return words.next().cloned(),
            Some(rest) => match rest.strip_prefix('=') {
                Some(value) => return Some(value.to_owned()),
                None => continue,
            },
            None => continue,
        }
    }
    None
}

pub(super) fn kube_proxy(seen: &NodeSeen) -> Verdict {
    let Some(process) = seen.process("kube-proxy") else { return Ok(Vec::new()) };
    let (id, remedy) = (
        process.id,
        "stop kube-proxy (its DaemonSet in kube-system), or run the speakers with --proxy=external",
    );
    one(match seen.speaker() {
        Some(_) if proxies(seen) => Some(Trouble::error(
            format!(
                "kube-proxy runs here (process {id}) and so does Herald's proxy: both translate the same connections"
            ),
            remedy,
        )),
        Some(_) => None,
        None => Some(Trouble::warning(
            format!("kube-proxy runs here (process {id}); a speaker that replaces it must not run beside it"),
            remedy,
        )),
    })
}

pub(super) fn kube_proxy_rules(seen: &NodeSeen) -> Verdict {
    if seen.process("kube-proxy").is_some() {
        return Ok(Vec::new());
    }
    let remedy = "run the speaker once with --take-over (manifests/components/take-over), or reboot the node";
    let mut troubles = Vec::new();
    if seen.ipvs_servers > 0 || seen.interfaces.contains_key("kube-ipvs0") {
        troubles.push(Trouble::error(
            format!(
                "IPVS has {} virtual servers and nobody keeps them: they catch Services' connections",
                seen.ipvs_servers
            ),
            remedy,
        ));
    }
    if seen.legacy_tables.iter().any(|table| table == "nat") {
        troubles.push(Trouble::warning(
            "iptables-legacy has a nat table: a former kube-proxy's rules may be in it",
            "iptables-legacy -t nat -S | grep KUBE-, and remove what is found, or reboot the node",
        ));
    }
    Ok(troubles)
}

pub(super) fn second_announcer(seen: &NodeSeen) -> Verdict {
    // MetalLB's program is named `speaker` like Herald's role, which is a word behind `herald`.
    const ANNOUNCERS: [(&str, &str); 6] = [
        ("speaker", "MetalLB's speaker"),
        ("kube-vip", "kube-vip"),
        ("lbnodeagent", "PureLB"),
        ("openelb-speaker", "OpenELB"),
        ("kube-router", "kube-router"),
        ("keepalived", "keepalived"),
    ];
    let found = ANNOUNCERS.iter().filter_map(|(program, name)| Some((seen.process(program)?, name)));
    let trouble = |(process, name): (&Process, &&str)| {
        Trouble::warning(
            format!(
                "{name} runs here (process {}): an address that it announces too has two owners",
                process.id
            ),
            "make sure that its addresses lie in none of Herald's pools, or remove it",
        )
    };
    Ok(found.map(trouble).collect())
}

pub(super) fn second_speaker(seen: &NodeSeen) -> Verdict {
    let speakers: Vec<String> = seen
        .processes
        .iter()
        .filter(|process| {
            process.program == "herald" && process.arguments.iter().any(|word| word == "speaker")
        })
        .map(|process| process.id.to_string())
        .collect();
    one((speakers.len() > 1).then(|| {
        Trouble::error(
            format!(
                "{} speakers run here (processes {}): each undoes the other's rules",
                speakers.len(),
                speakers.join(", ")
            ),
            "kubectl get pods -A -l app.kubernetes.io/component=speaker -o wide, and remove one installation",
        )
    }))
}

/// A socket of this port that is not Herald's.
fn other<'a>(seen: &'a NodeSeen, protocol: &str, number: u16) -> Option<&'a Socket> {
    let here = |socket: &&Socket| socket.protocol == protocol && socket.port == number;
    let ours = |socket: &Socket| socket.program.as_deref() == Some("herald");
    seen.sockets.iter().filter(here).find(|socket| !ours(socket))
}

fn holder(socket: &Socket) -> &str {
    socket.program.as_deref().unwrap_or("a program that only root may see")
}

pub(super) fn port(seen: &NodeSeen, protocol: &str, number: u16, comes: &str) -> Verdict {
    one(other(seen, protocol, number)
        .filter(|socket| socket.program.is_some() || seen.speaker().is_none())
        .map(|socket| {
            Trouble::error(
                format!("{} has {protocol} port {number}: {comes}", holder(socket)),
                format!("ss -lnp 'sport = {number}', and give it another port"),
            )
        }))
}

pub(super) fn health_ports(seen: &NodeSeen) -> Verdict {
    // Beside kube-proxy they are its own, and that both run is told by another check.
    if seen.process("kube-proxy").is_some() {
        return Ok(Vec::new());
    }
    let mut troubles = Vec::new();
    for number in [10_249, 10_256] {
        troubles.extend(port(
            seen,
            "tcp",
            number,
            "health checks and metrics that replace kube-proxy's are not served (--proxy=full)",
        )?);
    }
    Ok(troubles)
}

pub(super) fn bgp_port(seen: &NodeSeen) -> Verdict {
    one(other(seen, "tcp", 179).filter(|socket| socket.program.is_some() || seen.speaker().is_none()).map(|socket| {
        Trouble::warning(
            format!(
                "{} listens at port 179: peers reach it and not the speaker, which can only dial; two BGP speakers with one address \
                 cannot both have a session with the same peer",
                holder(socket)
            ),
            "docs/bgp.md tells how to live beside a network plugin's BGP: peer with another router, or from another address",
        )
    }))
}

pub(super) fn firewall(seen: &NodeSeen) -> Verdict {
    let mut troubles = Vec::new();
    let ports = "let pass: TCP 179 from peers, UDP 3784 and 4784 (BFD), UDP 7947 between nodes (layer 2), and what Services serve";
    if let Some(process) = seen.process("firewalld").or_else(|| {
        seen.processes
            .iter()
            .find(|process| process.arguments.iter().any(|word| word.ends_with("/firewalld")))
    }) {
        troubles.push(Trouble::warning(
            format!("firewalld runs here (process {}): its chains come after the translation and may reject forwarded connections", process.id),
            ports,
        ));
    }
    if seen.ufw {
        troubles.push(Trouble::warning("ufw is switched on: by default it drops what is forwarded", ports));
    }
    Ok(troubles)
}

pub(super) fn forward_policy(seen: &NodeSeen) -> Verdict {
    let trouble = |chain: &String| {
        Trouble::warning(
            format!(
                "chain {chain} drops what is forwarded unless a rule of its own accepts it, and packets to Services come to it with the \
                 address of an endpoint"
            ),
            format!(
                "nft list chain {chain}, and let the pods' network pass there, both ways (docs/install.md, \"firewalld, ufw and \
                 nftables.service\")"
            ),
        )
    };
    Ok(seen.forward_drops.iter().map(trouble).collect())
}

/// Addresses that are named in a trouble.
const NAMED: usize = 3;

pub(super) fn drop_rules(seen: &NodeSeen) -> Verdict {
    let trouble = |rule: &DropRule| {
        let DropRule { family, table, chain, handle, hook, addresses } = rule;
        let named: Vec<String> = addresses.iter().take(NAMED).map(ToString::to_string).collect();
        let what = match addresses.len().saturating_sub(NAMED) {
            _ if addresses.is_empty() => {
                "whatever no rule before it accepts, packets to Services among it".to_owned()
            }
            0 => format!("packets of what is served: {}", named.join(", ")),
            more => format!("packets of what is served: {} and {more} more", named.join(", ")),
        };
        Trouble::warning(
            format!("a rule of chain {family} {table} {chain} (handle {handle}, hook {hook}) drops {what}"),
            format!(
                "nft -a list chain {family} {table} {chain}; nft delete rule {family} {table} {chain} handle {handle}, or let whoever wrote it \
                 accept the pods' network before it"
            ),
        )
    };
    let unfinished = |chain: &String| {
        Trouble::warning(
            format!(
                "chain {chain} leads to more rules than can be followed: that none of them drops packets of Services is not known"
            ),
            format!("nft list chain {chain}, and look for what drops the pods' network"),
        )
    };
    let rules = &seen.drop_rules;
    Ok(rules.found.iter().map(trouble).chain(rules.unfinished.iter().map(unfinished)).collect())
}

pub(super) fn state_directory(seen: &NodeSeen) -> Verdict {
    let Some(state) = &seen.state else { return Ok(Vec::new()) };
    let path = state.path.display();
    one((state.mode & 0o077 != 0 || state.owner != 0).then(|| {
        Trouble::warning(
            format!("others than root may look into {path} (owner {}, mode {:o}): passwords of BGP sessions are in there", state.owner, state.mode),
            format!("chown root {path} && chmod 700 {path}"),
        )
    }))
}
