//! What there is to see of a machine, read below `/proc` and `/sys`. Nothing is judged here, and nothing that is missing is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use herald_speaker::DropRules;

/// Bytes of a file below `/proc` that are read at most.
const MAX_FILE: usize = 1 << 20;

/// A machine, as its checks need it.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeSeen {
    pub(super) name: String,
    /// All processes and sockets can be seen.
    pub(super) root: bool,
    /// As `uname -r` has it.
    pub(super) kernel: String,
    pub(super) cores: usize,
    /// By name, below `/proc/sys/net`; those of an interface as `ipv4/conf/eth0/rp_filter`.
    pub(super) settings: BTreeMap<String, String>,
    pub(super) interfaces: BTreeMap<String, Interface>,
    pub(super) processes: Vec<Process>,
    pub(super) sockets: Vec<Socket>,
    /// Tables of iptables-legacy that exist.
    pub(super) legacy_tables: Vec<String>,
    /// Virtual servers of IPVS.
    pub(super) ipvs_servers: usize,
    /// Entries of the ARP table.
    pub(super) neighbours: usize,
    /// The interface of the IPv4 default route.
    pub(super) uplink: Option<String>,
    /// `None`: it does not exist.
    pub(super) state: Option<StateDirectory>,
    /// Its ufw is switched on.
    pub(super) ufw: bool,
    /// Others' chains of nftables that drop what is forwarded and not accepted: `ip filter FORWARD`.
    pub(super) forward_drops: Vec<String>,
    /// Others' rules of nftables that drop what is served.
    pub(super) drop_rules: DropRules,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) mtu: u32,
    pub(super) up: bool,
    /// It is what it says, or an overlay: `bridge`, `vxlan`; empty for others.
    pub(super) kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) id: u32,
    /// Its program's name, without the directory.
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
}

/// A TCP socket that listens, or a UDP socket that is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) protocol: &'static str,
    pub(super) port: u16,
    /// The program that has it; unknown to who is not root.
    pub(super) program: Option<String>,
}

/// Where a speaker keeps its snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StateDirectory {
    pub(super) path: PathBuf,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) owner: u32,
}

impl NodeSeen {
    /// Looks below a root directory.
    pub(super) fn look(root: &Path, state: Option<&Path>) -> Self {
        let proc = root.join("proc");
        let (processes, owners) = processes(&proc);
        let mut sockets = Vec::new();
        for (file, protocol, state) in
            [("tcp", "tcp", "0A"), ("tcp6", "tcp", "0A"), ("udp", "udp", "07"), ("udp6", "udp", "07")]
        {
            sockets.extend(sockets_of(&text(&proc.join("net").join(file)), protocol, state, &owners));
        }
        let line = |path: &str| text(&proc.join(path)).trim().to_owned();
        Self {
            name: line("sys/kernel/hostname"),
            root: fs::metadata(proc.join("self")).is_ok_and(|of| of.uid() == 0),
            kernel: line("sys/kernel/osrelease"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            settings: settings(&proc.join("sys/net")),
            interfaces: interfaces(&root.join("sys/class/net")),
            processes,
            sockets,
            legacy_tables: line("net/ip_tables_names").lines().map(str::to_owned).collect(),
            ipvs_servers: ipvs_servers(&text(&proc.join("net/ip_vs"))),
            neighbours: text(&proc.join("net/arp")).lines().skip(1).count(),
            uplink: uplink(&text(&proc.join("net/route"))),
            state: state.and_then(|path| {
                let metadata = fs::metadata(path).ok()?;
                Some(StateDirectory {
                    path: path.to_owned(),
                    mode: metadata.mode() & 0o777,
                    owner: metadata.uid(),
                })
            }),
            ufw: text(&root.join("etc/ufw/ufw.conf")).lines().any(|line| line.trim() == "ENABLED=yes"),
            forward_drops: Vec::new(),
            drop_rules: DropRules::default(),
        }
    }

    /// A setting of the network that is a number.
    pub(super) fn setting(&self, name: &str) -> Option<u64> {
        self.settings.get(name)?.parse().ok()
    }

    /// A running program of this name.
    pub(super) fn process(&self, program: &str) -> Option<&Process> {
        self.processes.iter().find(|process| process.program == program)
    }

    /// A speaker of Herald.
    pub(super) fn speaker(&self) -> Option<&Process> {
        self.processes.iter().find(|process| {
            process.program == "herald" && process.arguments.iter().any(|word| word == "speaker")
        })
    }
}

/// Empty, where it cannot be read.
fn text(path: &Path) -> String {
    let mut bytes = fs::read(path).unwrap_or_default();
    bytes.truncate(MAX_FILE);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn entries(path: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

/// Those that a check asks for.
fn settings(net: &Path) -> BTreeMap<String, String> {
    let mut names: Vec<String> = [
        "ipv4/ip_forward",
        "ipv4/ip_local_port_range",
        "ipv4/neigh/default/gc_thresh3",
        "ipv6/conf/all/forwarding",
        "ipv6/conf/all/disable_ipv6",
        "netfilter/nf_conntrack_count",
        "netfilter/nf_conntrack_max",
        "netfilter/nf_conntrack_tcp_be_liberal",
        "bridge/bridge-nf-call-iptables",
    ]
    .map(str::to_owned)
    .to_vec();
    for (interface, _) in entries(&net.join("ipv4/conf")) {
        for name in ["rp_filter", "arp_ignore", "arp_announce", "route_localnet"] {
            names.push(format!("ipv4/conf/{interface}/{name}"));
        }
    }
    let read = |name: String| {
        let value = fs::read_to_string(net.join(&name)).ok()?;
        Some((name, value.trim().to_owned()))
    };
    names.into_iter().filter_map(read).collect()
}

fn interfaces(class: &Path) -> BTreeMap<String, Interface> {
    let of = |(name, path): (String, PathBuf)| {
        let devtype = text(&path.join("uevent"));
        let kind = devtype.lines().find_map(|line| line.strip_prefix("DEVTYPE=")).unwrap_or_default();
        let interface = Interface {
            mtu: text(&path.join("mtu")).trim().parse().ok()?,
            up: text(&path.join("carrier")).trim() == "1",
            kind: kind.to_owned(),
        };
        Some((name, interface))
    };
    entries(class).filter_map(of).collect()
}

/// The processes of this network namespace, and which program of any has the socket with an inode. What runs in another one (the pods, the
/// nodes of a kind cluster) has rules of its own. A process whose namespace cannot be read counts as one of this.
fn processes(proc: &Path) -> (Vec<Process>, BTreeMap<u64, String>) {
    let namespace = |process: &Path| fs::read_link(process.join("ns/net")).ok();
    let here = namespace(&proc.join("self"));
    let (mut processes, mut owners) = (Vec::new(), BTreeMap::new());
    for (name, path) in entries(proc) {
        let Ok(id) = name.parse() else { continue };
        let line = text(&path.join("cmdline"));
        let mut words = line.split('\0').filter(|word| !word.is_empty()).map(str::to_owned);
        // Threads of the kernel have none.
        let Some(first) = words.next() else { continue };
        let program = first.rsplit('/').next().unwrap_or(&first).trim_end_matches(':').to_owned();
        for (_, descriptor) in entries(&path.join("fd")) {
            let target = fs::read_link(descriptor).unwrap_or_default();
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
            owners.extend(inode.map(|inode: u64| (inode, program.clone())));
        }
        if here.is_none() || namespace(&path).is_none_or(|of| here == Some(of)) {
            processes.push(Process { id, program, arguments: words.collect() });
        }
    }
    processes.sort_by_key(|process| process.id);
    (processes, owners)
}

/// The sockets in a table of `/proc/net` that are in a state, once for each port and program.
fn sockets_of(
    table: &str,
    protocol: &'static str,
    state: &str,
    owners: &BTreeMap<u64, String>,
) -> Vec<Socket> {
    let of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (local, found, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        let owner = owners.get(&inode.parse().ok()?).cloned();
        (*found == state).then_some((port, owner))
    };
    let found: BTreeSet<_> = table.lines().skip(1).filter_map(of).collect();
    found.into_iter().map(|(port, program)| Socket { protocol, port, program }).collect()
}

/// Lines of virtual servers, which begin with their protocol.
fn ipvs_servers(table: &str) -> usize {
    let server = |line: &&str| ["TCP ", "UDP ", "SCTP ", "FWM "].iter().any(|word| line.starts_with(word));
    table.lines().filter(server).count()
}

/// The interface of the route to everywhere with the least metric.
fn uplink(routes: &str) -> Option<String> {
    let of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let everywhere = *words.get(1)? == "00000000" && *words.get(7)? == "00000000";
        everywhere.then_some((words.get(6)?.parse::<u32>().ok()?, (*words.first()?).to_owned()))
    };
    routes.lines().skip(1).filter_map(of).min().map(|(_, interface)| interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_proc_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1D30 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n   \
            1: 0100007F:1D31 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n   \
            2: broken\n";
        let owners = BTreeMap::from([(4711, "herald".to_owned())]);
        let expected = Socket { protocol: "tcp", port: 7472, program: Some("herald".to_owned()) };
        assert_eq!(sockets_of(table, "tcp", "0A", &owners), [expected]);

        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            wlan0\t00000000\t0100000A\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(uplink(routes), Some("eth0".to_owned()));

        let ipvs = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  \
            -> RemoteAddress:Port Forward Weight ActiveConn InActConn\nTCP  0A60000A:0035 rr\n  -> 0AF40002:0035 Masq 1 0 0\n";
        assert_eq!((ipvs_servers(ipvs), ipvs_servers("")), (1, 0));
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let seen = NodeSeen::look(Path::new("/"), None);
        assert!(!seen.kernel.is_empty() && seen.interfaces.contains_key("lo"), "{seen:?}");
        let own = std::process::id();
        assert!(seen.processes.iter().any(|process| process.id == own));
    }
}
