//! The one description of the ruleset. Everything that a packet meets stands in this file.

use ipnet::IpNet;

use super::class::classes;
use super::entry::{Data, Entry, class_number, policy_number};
use super::model::{
    Base, Chain, ChainType, Expression, Hook, IcmpType, Rule, Set, SetName, Statement, Table,
};
use super::{affinity, hand_over};
use crate::element::Policy;
use crate::family::IpFamily;
use crate::reason::{DropReason, EndReason, RejectReason};

/// Before the translation, which hides where the packet wanted to go.
const SOURCES_PRIORITY: i32 = -110;

/// Before everyone who translates at `dstnat` (-100): the first binding of a connection wins.
const DNAT_PRIORITY: i32 = -105;

/// After the translation and just before the host's own filters (0).
const FILTER_PRIORITY: i32 = -5;

/// Before everyone who masquerades at `srcnat` (100).
const MASQUERADE_PRIORITY: i32 = 95;

/// The mark (`SO_MARK`) of Herald's own availability probes: they go where the node's routes lead, as a client's packets do,
/// and not to an endpoint that this node chooses. Bits that no network plugin known to us takes for itself.
pub const PROBE_MARK: u32 = 0x48;

/// A frontend: address, protocol, port.
pub(super) const FRONTEND: [Expression; 3] =
    [Expression::DestinationAddress, Expression::Protocol, Expression::DestinationPort];

/// What the constant part of the ruleset depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesetConfig {
    /// Where pods have their addresses. A family without one has no detector: connections to its ClusterIPs are never
    /// masqueraded and pods get no short circuit.
    pub cluster_cidrs: Vec<IpNet>,
    /// Bit 0 to 31 of the packet mark that says "to be masqueraded" between the hooks of one packet.
    pub mark_bit: u8,
    /// Whether the client's address stays where the endpoint is on this node.
    pub masquerade: MasqueradeMode,
    /// Connections that began with another node are passed on to it. Needs the kernel's `nft_dup_ipv4`, `nft_dup_ipv6` and
    /// `nft_limit`.
    pub hand_over: bool,
    /// Packets are counted by frontend. Costs each packet, of foreign connections as well, one lookup.
    pub count_traffic: bool,
    /// What this node sends with [`PROBE_MARK`] is neither translated nor refused.
    pub probes_pass: bool,
}

/// Which marked connections are masqueraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MasqueradeMode {
    /// All, as by kube-proxy.
    #[default]
    Always,
    /// Those whose endpoint is on another node. Replies of an endpoint of this node pass it anyway, so the endpoint may see
    /// the client's address.
    Remote,
}

impl Default for RulesetConfig {
    /// No detector; kube-proxy's bit.
    fn default() -> Self {
        Self {
            cluster_cidrs: Vec::new(),
            mark_bit: 14,
            masquerade: MasqueradeMode::Always,
            hand_over: true,
            count_traffic: true,
            probes_pass: false,
        }
    }
}

/// Both tables. Equal configurations give equal rulesets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// `ip herald`, then `ip6 herald`.
    pub tables: [Table; 2],
}

impl Ruleset {
    /// Name of both tables.
    pub const TABLE: &'static str = "herald";

    /// The ruleset for a configuration.
    pub fn new(config: &RulesetConfig) -> Self {
        Self { tables: IpFamily::ALL.map(|family| table(family, config)) }
    }
}

fn table(family: IpFamily, config: &RulesetConfig) -> Table {
    let mark = 1u32.wrapping_shl(u32::from(config.mark_bit));
    let pods: Vec<IpNet> = config
        .cluster_cidrs
        .iter()
        .filter(|cidr| IpFamily::of(cidr.network()) == family)
        .map(IpNet::trunc)
        .collect();
    let mut chains = vec![
        base(
            "prerouting-sources",
            ChainType::Filter,
            Hook::Prerouting,
            SOURCES_PRIORITY,
            handed_over(config, hand_over::arriving).chain(first_look(config)).collect(),
        ),
        base(
            "output-sources",
            ChainType::Filter,
            Hook::Output,
            SOURCES_PRIORITY,
            handed_over(config, || [hand_over::passing()]).chain(first_look(config)).collect(),
        ),
        base("prerouting-dnat", ChainType::Nat, Hook::Prerouting, DNAT_PRIORITY, vec![dispatch_service()]),
        base(
            "output-dnat",
            ChainType::Nat,
            Hook::Output,
            DNAT_PRIORITY,
            probes(config).chain([dispatch_service()]).collect(),
        ),
        base("input-guard", ChainType::Filter, Hook::Input, FILTER_PRIORITY, vec![guard()]),
        base("forward-guard", ChainType::Filter, Hook::Forward, FILTER_PRIORITY, forward_guard()),
        base("output-guard", ChainType::Filter, Hook::Output, FILTER_PRIORITY, output_guard(config)),
        base(
            "postrouting-masquerade",
            ChainType::Nat,
            Hook::Postrouting,
            MASQUERADE_PRIORITY,
            masquerade(mark, config.masquerade),
        ),
    ];
    chains.extend(policies(&pods, mark));
    chains.push(chain("guard", refuse()));
    chains.push(chain("unserved", unserved(family)));
    for class in classes() {
        chains.push(chain(draw_chain(class), vec![vec![draw(class)]]));
        chains.push(chain(pick_chain(class), vec![vec![draw(class), Statement::Goto("translate")]]));
        let local = vec![draw(class), Statement::Goto("local-translate")];
        chains.push(chain(local_pick_chain(class), vec![local]));
    }
    chains.push(chain("translate", translate("endpoint")));
    chains.push(chain("local-translate", translate("local-endpoint")));
    chains.push(chain("endpoint", endpoint(SetName::Endpoints)));
    chains.push(chain("local-endpoint", endpoint(SetName::LocalEndpoints)));
    chains.extend(affinity::common());
    chains.extend(handed_over(config, || hand_over::chains(mark)));
    let sets = SetName::ALL.map(|name| Set { name, elements: constants(family, name) }).into();
    Table { family, sets, chains }
}

fn base(name: &str, kind: ChainType, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), base: Some(Base { kind, hook, priority }), rules }
}

pub(super) fn chain(name: impl Into<String>, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), base: None, rules }
}

fn pick_chain(class: u16) -> String {
    format!("pick-{class}")
}

fn draw_chain(class: u16) -> String {
    format!("draw-{class}")
}

fn local_pick_chain(class: u16) -> String {
    format!("local-pick-{class}")
}

fn policy_chain(policy: Policy) -> &'static str {
    match policy {
        Policy::Internal => "internal",
        Policy::InternalLocal => "internal-local",
        Policy::External => "external",
        Policy::ExternalLocal => "external-local",
    }
}

/// Elements of the constant maps: numbers to chains.
fn constants(family: IpFamily, set: SetName) -> Vec<Entry> {
    let to_chains = |verdict: fn(u16) -> Data| {
        classes().map(|c| Entry::dispatch(family, set, class_number(c), verdict(c))).collect()
    };
    match set {
        SetName::Policies => {
            [Policy::Internal, Policy::InternalLocal, Policy::External, Policy::ExternalLocal]
                .map(|policy| {
                    let verdict = Data::Goto(policy_chain(policy).to_owned());
                    Entry::dispatch(family, set, policy_number(policy), verdict)
                })
                .into()
        }
        SetName::Classes => to_chains(|class| Data::Goto(pick_chain(class))),
        SetName::LocalClasses => to_chains(|class| Data::Goto(local_pick_chain(class))),
        SetName::Draws => to_chains(|class| Data::Jump(draw_chain(class))),
        _ => Vec::new(),
    }
}

/// What must be done while a packet still says which frontend it is for.
fn first_look(config: &RulesetConfig) -> Vec<Rule> {
    let count = vec![Statement::InSet(FRONTEND.into(), SetName::Traffic)];
    config.count_traffic.then_some(count).into_iter().chain([sources()]).collect()
}

/// What hands connections over, if the kernel can.
fn handed_over<T, const N: usize>(
    config: &RulesetConfig,
    what: impl FnOnce() -> [T; N],
) -> impl Iterator<Item = T> {
    config.hand_over.then(what).into_iter().flatten()
}

/// Who is in no source range of a frontend that has some.
fn sources() -> Rule {
    let mut source = Vec::from(FRONTEND);
    source.push(Expression::SourceAddress);
    vec![
        Statement::StateNew,
        Statement::InSet(FRONTEND.into(), SetName::Restricted),
        Statement::NotInSet(source, SetName::Sources),
        Statement::Count(EndReason::Drop(DropReason::SourceNotAllowed)),
        Statement::Drop,
    ]
}

/// The only rule that a packet of somebody else's connection meets: one lookup.
fn dispatch_service() -> Rule {
    vec![
        Statement::SetPriority(FRONTEND.into(), SetName::Services),
        Statement::DispatchPriority(SetName::Policies),
    ]
}

/// One chain per policy, and `cluster` for those who are served cluster-wide and keep their address.
fn policies(pods: &[IpNet], mark: u32) -> Vec<Chain> {
    let pick = || {
        vec![
            Statement::SetPriority(FRONTEND.into(), SetName::Picks),
            Statement::DispatchPriority(SetName::Classes),
        ]
    };
    let local_pick = || {
        vec![
            Statement::SetPriority(FRONTEND.into(), SetName::LocalPicks),
            Statement::DispatchPriority(SetName::LocalClasses),
        ]
    };
    // Who is no pod is masqueraded, so that the reply comes back through this node.
    let mark_strangers = || {
        let mut rule: Rule = pods.iter().copied().map(Statement::SourceNotIn).collect();
        rule.push(Statement::SetMark(mark));
        rule
    };
    let detected = |rules: [Rule; 2]| -> Vec<Rule> {
        let skip = usize::from(pods.is_empty());
        rules.into_iter().skip(skip).collect()
    };
    // Who is inside reaches all endpoints, as if it had gone out to the load balancer and back.
    let mut external_local: Vec<Rule> =
        pods.iter().map(|pods| vec![Statement::SourceIn(*pods), Statement::Goto("cluster")]).collect();
    external_local.push(vec![Statement::SourceIsLocal, Statement::Goto("external")]);
    external_local.push(local_pick());
    vec![
        chain("internal", detected([mark_strangers(), pick()])),
        chain("internal-local", detected([mark_strangers(), local_pick()])),
        chain("external", vec![vec![Statement::SetMark(mark)], pick()]),
        chain("external-local", external_local),
        chain("cluster", vec![pick()]),
    ]
}

/// Draws a slot.
fn draw(class: u16) -> Statement {
    if class == 1 { Statement::Slot(0) } else { Statement::DrawSlot(class) }
}

/// Translates to the endpoint in the drawn slot. The slot may be missing for a packet that looked up its class just
/// before a transaction and its slot just after; then the first slot takes it.
fn translate(endpoint: &'static str) -> Vec<Rule> {
    vec![vec![Statement::Jump(endpoint)], vec![Statement::Slot(0), Statement::Goto(endpoint)]]
}

/// The only rule that looks into a map of endpoints: the kernel checks the value of each new element once per rule that
/// uses its map. Comes back if there is none.
fn endpoint(map: SetName) -> Vec<Rule> {
    let mut key = Vec::from(FRONTEND);
    key.push(Expression::Priority);
    vec![vec![Statement::Dnat(key, map)]]
}

/// What probes an address on another node leaves this one as it is.
fn probes(config: &RulesetConfig) -> impl Iterator<Item = Rule> {
    config.probes_pass.then(|| vec![Statement::MarkIs(PROBE_MARK), Statement::Accept]).into_iter()
}

/// Packets of known connections pass: replies, and what was translated before.
fn guard() -> Rule {
    vec![Statement::StateNotKnown, Statement::Jump("guard")]
}

/// Only what would be routed on meets the announced prefixes: the node's own addresses, and its own way to its routers,
/// may well lie inside them.
fn forward_guard() -> Vec<Rule> {
    vec![
        guard(),
        vec![
            Statement::StateNotKnown,
            Statement::InSet(vec![Expression::DestinationAddress], SetName::Announced),
            Statement::Count(EndReason::Drop(DropReason::RoutedBack)),
            Statement::Drop,
        ],
        unallocated(),
    ]
}

fn output_guard(config: &RulesetConfig) -> Vec<Rule> {
    let leaving = handed_over(config, || [hand_over::leaving()]);
    leaving.chain(probes(config)).chain([guard(), unallocated()]).collect()
}

/// ClusterIPs that no Service has: those that one has were translated, or refused by the guard before. Not in input: an
/// address that this node has is the node's, wherever it lies.
fn unallocated() -> Rule {
    vec![
        Statement::StateNotKnown,
        Statement::InSet(vec![Expression::DestinationAddress], SetName::ServiceCidrs),
        Statement::Count(EndReason::Drop(DropReason::UnallocatedClusterIp)),
        Statement::Drop,
    ]
}

/// What no translation took: frontends without endpoints, then all else that Services' addresses are asked for.
fn refuse() -> Vec<Rule> {
    vec![
        vec![
            Statement::StateNew,
            Statement::InSet(FRONTEND.into(), SetName::Dropped),
            Statement::Count(EndReason::Drop(DropReason::NoLocalEndpoint)),
            Statement::Drop,
        ],
        vec![
            Statement::StateNew,
            Statement::InSet(FRONTEND.into(), SetName::Rejected),
            Statement::Count(EndReason::Reject(RejectReason::NoEndpoint)),
            Statement::Reject,
        ],
        vec![
            Statement::InSet(vec![Expression::DestinationAddress], SetName::Vips),
            Statement::Goto("unserved"),
        ],
    ]
}

/// A packet for a Service's address that no rule took never reaches this node's sockets and is never routed on.
/// What keeps the address itself alive passes: ping where this node holds it, and neighbour discovery. So does what another
/// program serves on this node in the Service's place.
fn unserved(family: IpFamily) -> Vec<Rule> {
    let neighbours = match family {
        IpFamily::V4 => Vec::new(),
        IpFamily::V6 => [IcmpType::NeighborSolicitation, IcmpType::NeighborAdvertisement]
            .map(|kind| vec![Statement::Icmp(kind), Statement::Accept])
            .into(),
    };
    let mut rules = neighbours;
    rules.extend([
        // A reset for a packet that conntrack merely failed to place would cut a living connection.
        vec![Statement::StateInvalid, Statement::Count(EndReason::Invalid), Statement::Drop],
        vec![Statement::Icmp(IcmpType::EchoRequest), Statement::DestinationIsLocal, Statement::Accept],
        // Who takes packets out of tracking wants them untranslated, for a socket of this node: NodeLocal DNS does.
        vec![Statement::StateUntracked, Statement::DestinationIsLocal, Statement::Accept],
        vec![Statement::Count(EndReason::Reject(RejectReason::UnservedPort)), Statement::Reject],
    ]);
    rules
}

fn masquerade(mark: u32, mode: MasqueradeMode) -> Vec<Rule> {
    let from = |source: Expression| {
        vec![source, Expression::DestinationAddress, Expression::Protocol, Expression::DestinationPort]
    };
    let hairpin = || from(Expression::SourceAddress);
    let local = || from(Expression::DestinationAddress);
    let mut rules = vec![vec![Statement::ClearNumber]];
    if mode == MasqueradeMode::Remote {
        rules.push(vec![
            Statement::MarkHas(mark),
            Statement::InSet(local(), SetName::Hairpin),
            Statement::NotInSet(hairpin(), SetName::Hairpin),
            Statement::ClearMark(mark),
            Statement::Accept,
        ]);
    }
    rules.extend([
        vec![Statement::MarkHas(mark), Statement::ClearMark(mark), Statement::Masquerade],
        vec![Statement::StatusDnat, Statement::InSet(hairpin(), SetName::Hairpin), Statement::Masquerade],
    ]);
    rules
}
