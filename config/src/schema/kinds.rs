//! The kinds and their fields, as MetalLB 0.16 has them.
//!
//! Both versions of BGPPeer have the same names for the same things, and the older one has fewer; so the API server
//! can turn one into the other by the name of the version alone (`conversion: None`), and no webhook is needed.

use super::{Column, Field, Type, Version};

/// A kind of the group `metallb.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Addresses for Services.
    IpAddressPool,
    /// Names for communities.
    Community,
    /// Timers of BFD sessions.
    BfdProfile,
    /// BGP neighbours.
    BgpPeer,
    /// Which pools become routes.
    BgpAdvertisement,
    /// Which pools are announced by ARP and NDP.
    L2Advertisement,
    /// Which node announces a Service by layer 2.
    ServiceL2Status,
    /// To which peers a node announces a Service.
    ServiceBgpStatus,
    /// Whether a component has taken the configuration.
    ConfigurationState,
}

impl Kind {
    /// All kinds; those that others refer to come first.
    pub const ALL: [Self; 9] = [
        Self::IpAddressPool,
        Self::Community,
        Self::BfdProfile,
        Self::BgpPeer,
        Self::BgpAdvertisement,
        Self::L2Advertisement,
        Self::ServiceL2Status,
        Self::ServiceBgpStatus,
        Self::ConfigurationState,
    ];
    /// The kinds that users write.
    pub const CONFIGURATION: [Self; 6] = [
        Self::IpAddressPool,
        Self::Community,
        Self::BfdProfile,
        Self::BgpPeer,
        Self::BgpAdvertisement,
        Self::L2Advertisement,
    ];

    /// As objects name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::IpAddressPool => "IPAddressPool",
            Self::Community => "Community",
            Self::BfdProfile => "BFDProfile",
            Self::BgpPeer => "BGPPeer",
            Self::BgpAdvertisement => "BGPAdvertisement",
            Self::L2Advertisement => "L2Advertisement",
            Self::ServiceL2Status => "ServiceL2Status",
            Self::ServiceBgpStatus => "ServiceBGPStatus",
            Self::ConfigurationState => "ConfigurationState",
        }
    }

    /// As URLs name it.
    pub fn plural(self) -> &'static str {
        match self {
            Self::IpAddressPool => "ipaddresspools",
            Self::Community => "communities",
            Self::BfdProfile => "bfdprofiles",
            Self::BgpPeer => "bgppeers",
            Self::BgpAdvertisement => "bgpadvertisements",
            Self::L2Advertisement => "l2advertisements",
            Self::ServiceL2Status => "servicel2statuses",
            Self::ServiceBgpStatus => "servicebgpstatuses",
            Self::ConfigurationState => "configurationstates",
        }
    }

    /// The version that is stored, and therefore read.
    pub fn version(self) -> &'static str {
        match self {
            Self::BgpPeer => "v1beta2",
            _ => "v1beta1",
        }
    }

    /// The kind with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::IpAddressPool => "Addresses that are given to Services of type LoadBalancer.",
            Self::Community => "Names for BGP communities, to be used in BGPAdvertisements.",
            Self::BfdProfile => "Timers of BFD sessions, to be used in BGPPeers.",
            Self::BgpPeer => "A BGP neighbour of the nodes.",
            Self::BgpAdvertisement => "Routes for the addresses of pools.",
            Self::L2Advertisement => "Announcement of the addresses of pools by ARP and NDP.",
            Self::ServiceL2Status => {
                "The node that announces a Service by ARP and NDP. Written by the speakers."
            }
            Self::ServiceBgpStatus => {
                "The peers that a node announces a Service to. Written by the speakers."
            }
            Self::ConfigurationState => {
                "Whether a component has taken the configuration, and if not, why. Written by controller and speakers."
            }
        }
    }

    pub(crate) fn versions(self) -> &'static [Version] {
        const fn one(spec: &'static [Field], status: &'static [Field]) -> Version {
            Version { name: "v1beta1", storage: true, spec, status }
        }
        match self {
            Self::IpAddressPool => const { &[one(POOL, POOL_STATUS)] },
            Self::Community => const { &[one(COMMUNITY, &[])] },
            Self::BfdProfile => const { &[one(BFD, &[])] },
            Self::BgpPeer => {
                const {
                    &[
                        Version { name: "v1beta1", storage: false, spec: PEER_V1BETA1, status: &[] },
                        Version { name: "v1beta2", storage: true, spec: PEER, status: &[] },
                    ]
                }
            }
            Self::BgpAdvertisement => const { &[one(BGP, &[])] },
            Self::L2Advertisement => const { &[one(L2, &[])] },
            Self::ServiceL2Status => const { &[one(&[], L2_STATUS)] },
            Self::ServiceBgpStatus => const { &[one(&[], BGP_STATUS)] },
            Self::ConfigurationState => const { &[one(&[], STATE_STATUS)] },
        }
    }

    pub(crate) fn columns(self) -> &'static [Column] {
        const AGE: Column = Column::new("Age", ".metadata.creationTimestamp", "date");
        match self {
            Self::IpAddressPool => {
                const {
                    &[
                        Column::new("Auto Assign", ".spec.autoAssign", "boolean"),
                        Column::new("Avoid Buggy IPs", ".spec.avoidBuggyIPs", "boolean"),
                        Column::new("Addresses", ".spec.addresses", "string"),
                    ]
                }
            }
            Self::Community => const { &[AGE] },
            Self::BfdProfile => {
                const {
                    &[
                        Column::new("Passive Mode", ".spec.passiveMode", "boolean"),
                        Column::new("Transmit Interval", ".spec.transmitInterval", "integer"),
                        Column::new("Receive Interval", ".spec.receiveInterval", "integer"),
                        Column::new("Multiplier", ".spec.detectMultiplier", "integer"),
                    ]
                }
            }
            Self::BgpPeer => {
                const {
                    &[
                        Column::new("Address", ".spec.peerAddress", "string"),
                        Column::new("ASN", ".spec.peerASN", "string"),
                        Column::new("BFD Profile", ".spec.bfdProfile", "string"),
                        Column::new("Multi Hops", ".spec.ebgpMultiHop", "string"),
                    ]
                }
            }
            Self::BgpAdvertisement => {
                const {
                    &[
                        Column::new("IPAddressPools", ".spec.ipAddressPools", "string"),
                        Column::new("IPAddressPool Selectors", ".spec.ipAddressPoolSelectors", "string"),
                        Column::new("Peers", ".spec.peers", "string"),
                        Column::new("Node Selectors", ".spec.nodeSelectors", "string").wide(),
                    ]
                }
            }
            Self::L2Advertisement => {
                const {
                    &[
                        Column::new("IPAddressPools", ".spec.ipAddressPools", "string"),
                        Column::new("IPAddressPool Selectors", ".spec.ipAddressPoolSelectors", "string"),
                        Column::new("Interfaces", ".spec.interfaces", "string"),
                        Column::new("Node Selectors", ".spec.nodeSelectors", "string").wide(),
                    ]
                }
            }
            Self::ServiceL2Status => {
                const {
                    &[
                        Column::new("Allocated Node", ".status.node", "string"),
                        Column::new("Service Name", ".status.serviceName", "string"),
                        Column::new("Service Namespace", ".status.serviceNamespace", "string"),
                    ]
                }
            }
            Self::ServiceBgpStatus => {
                const {
                    &[
                        Column::new("Node", ".status.node", "string"),
                        Column::new("Service Name", ".status.serviceName", "string"),
                        Column::new("Service Namespace", ".status.serviceNamespace", "string"),
                    ]
                }
            }
            Self::ConfigurationState => {
                const {
                    &[
                        Column::new("Result", ".status.result", "string"),
                        Column::new("ErrorSummary", ".status.errorSummary", "string"),
                        AGE,
                    ]
                }
            }
        }
    }
}

const fn list(of: &'static Type) -> Type {
    Type::List { of, min: 0 }
}

const fn number(min: i64, max: i64) -> Type {
    Type::Integer { min: Some(min), max: Some(max) }
}

const TEXTS: Type = list(&Type::Text);
const COUNT: Type = Type::Integer { min: None, max: None };
/// Bounds of an AS number that must be there.
const ASN: Type = number(1, 4_294_967_295);
const IMMUTABLE: &[(&str, &str)] = &[("self == oldSelf", "the value cannot be changed")];

const SELECTOR: Type = Type::Object(&[
    Field::new("matchLabels", Type::Labels, "Labels that must have exactly these values."),
    Field::new(
        "matchExpressions",
        list(&Type::Object(&[
            Field::new("key", Type::Text, "The label.").required(),
            Field::new(
                "operator",
                Type::Text,
                "How the label relates to the values: In, NotIn, Exists or DoesNotExist.",
            )
            .required(),
            Field::new("values", TEXTS, "At least one for In and NotIn, none for the others."),
        ])),
        "Further requirements, all of which must be met.",
    ),
]);
const SELECTORS: Type = list(&SELECTOR);

const POOL: &[Field] = &[
    Field::new(
        "addresses",
        Type::List { of: &Type::Text, min: 1 },
        "CIDRs such as 192.0.2.0/24 and ranges such as 192.0.2.10-192.0.2.20, IPv4 and IPv6. No two of all pools may overlap.",
    )
    .required(),
    Field::new("autoAssign", Type::Boolean, "false: only Services that ask for the pool or for an address of it get one.")
        .default("true"),
    Field::new(
        "avoidBuggyIPs",
        Type::Boolean,
        "true: IPv4 addresses that end in .0 or .255 are never given, even when asked for.",
    )
    .default("false"),
    Field::new(
        "serviceAllocation",
        Type::Object(&[
            Field::new(
                "priority",
                COUNT,
                "Among the pools that a Service matches the lowest number is tried first; 0 comes after all others.",
            )
            .otherwise("0"),
            Field::new("namespaces", TEXTS, "Namespaces by name whose Services may have addresses of the pool.")
                .otherwise("all"),
            Field::new("namespaceSelectors", SELECTORS, "Namespaces by label, beside those by name."),
            Field::new("serviceSelectors", SELECTORS, "Services by label that may have addresses of the pool.")
                .otherwise("all"),
        ]),
        "Which Services the pool is for. Pools that have this are tried before those that have not.",
    )
    .otherwise("all Services"),
];

const POOL_STATUS: &[Field] = &[
    Field::new("assignedIPv4", COUNT, "IPv4 addresses that Services have."),
    Field::new("assignedIPv6", COUNT, "IPv6 addresses that Services have."),
    Field::new("availableIPv4", COUNT, "IPv4 addresses that are left."),
    Field::new("availableIPv6", COUNT, "IPv6 addresses that are left."),
];

const COMMUNITY: &[Field] = &[Field::new(
    "communities",
    list(&Type::Object(&[
        Field::new("name", Type::Text, "The name; unique among all objects of this kind."),
        Field::new("value", Type::Text, "The community: 64600:7, or large:64600:7:1."),
    ])),
    "The names and what they stand for.",
)];

const BFD: &[Field] = &[
    Field::new(
        "receiveInterval",
        number(10, 60_000),
        "Milliseconds between packets that we are able to receive.",
    )
    .otherwise("300"),
    Field::new("transmitInterval", number(10, 60_000), "Milliseconds between packets that we want to send.")
        .otherwise("300"),
    Field::new(
        "detectMultiplier",
        number(2, 255),
        "So many packets may be missing before the path counts as down.",
    )
    .otherwise("3"),
    Field::new("echoInterval", number(10, 60_000), "Milliseconds between echo packets.").otherwise("50"),
    Field::new("echoMode", Type::Boolean, "Whether echo packets are used.").otherwise("false"),
    Field::new("passiveMode", Type::Boolean, "Whether the neighbour is to begin.").otherwise("false"),
    Field::new("minimumTtl", number(1, 254), "The lowest TTL of packets over several hops.").otherwise("254"),
];

const MY_ASN: Field = Field::new("myASN", ASN, "Our AS number.").required();
const PEER_ASN: Type = number(0, 4_294_967_295);
const PEER_PORT: Type = number(0, 65_535);
const SOURCE: Field =
    Field::new("sourceAddress", Type::Text, "The address to dial from, of the family of peerAddress.")
        .otherwise("chosen by the node");
const HOLD: Field = Field::new(
    "holdTime",
    Type::Text,
    "A duration, cut to whole seconds: 0s (no keepalives) or 3s to 65535s.",
)
.otherwise("three times keepaliveTime, else 180s");
const KEEPALIVE: Field = Field::new("keepaliveTime", Type::Text, "A duration of at most holdTime.")
    .otherwise("a third of holdTime");
const ROUTER_ID: Field =
    Field::new("routerID", Type::Text, "The BGP identifier as an IPv4 address, not 0.0.0.0.")
        .otherwise("chosen by the node");
const NODES: Field =
    Field::new("nodeSelectors", SELECTORS, "The nodes that speak to the neighbour.").otherwise("all");
const PASSWORD: Field =
    Field::new("password", Type::Text, "The key for TCP-MD5, up to 80 bytes. Better in a Secret.");
const BFD_PROFILE: Field =
    Field::new("bfdProfile", Type::Text, "The BFDProfile of the session.").otherwise("no BFD");
const MULTI_HOP: Field =
    Field::new("ebgpMultiHop", Type::Boolean, "Whether an external neighbour is more than one hop away.")
        .otherwise("false");

const PEER_V1BETA1: &[Field] = &[
    MY_ASN,
    Field::new("peerASN", ASN, "The neighbour's AS number.").required(),
    Field::new("peerAddress", Type::Text, "The neighbour's IP address.").required(),
    SOURCE,
    Field::new("peerPort", PEER_PORT, "The neighbour's TCP port.").otherwise("179"),
    HOLD,
    KEEPALIVE,
    ROUTER_ID,
    NODES,
    PASSWORD,
    BFD_PROFILE,
    MULTI_HOP,
];

const PEER: &[Field] = &[
    MY_ASN,
    Field::new("peerASN", PEER_ASN, "The neighbour's AS number; this or dynamicASN."),
    Field::new(
        "dynamicASN",
        Type::Word(&["internal", "external"]),
        "In place of peerASN: internal: the neighbour has our AS number; external: it has any other.",
    ),
    Field::new("localASN", ASN, "The AS number that this neighbour sees, in place of myASN."),
    Field::new("peerAddress", Type::Text, "The neighbour's IP address; this or interface."),
    Field::new(
        "interface",
        Type::Text,
        "In place of peerAddress: the interface that the neighbour is found on.",
    ),
    SOURCE,
    Field::new("peerPort", PEER_PORT, "The neighbour's TCP port.").default("179"),
    HOLD,
    KEEPALIVE,
    Field::new(
        "connectTime",
        Type::Text,
        "A duration of whole seconds, 1s to 65535s: the wait between attempts to connect.",
    )
    .rules(&[
        ("duration(self).getSeconds() >= 1 && duration(self).getSeconds() <= 65535", "use 1s to 65535s"),
        ("duration(self).getMilliseconds() % 1000 == 0", "use whole seconds"),
    ]),
    ROUTER_ID,
    NODES,
    PASSWORD,
    Field::new(
        "passwordSecret",
        Type::Object(&[
            Field::new("name", Type::Text, "The Secret."),
            Field::new("namespace", Type::Text, "Its namespace: Herald's own, which it is without this too."),
        ]),
        "In place of password: a Secret of type kubernetes.io/basic-auth with the key password.",
    ),
    BFD_PROFILE,
    Field::new(
        "enableGracefulRestart",
        Type::Boolean,
        "Whether routes stay while the speaker restarts. Cannot be changed.",
    )
    .otherwise("false")
    .rules(IMMUTABLE),
    MULTI_HOP,
    Field::new("vrf", Type::Text, "The VRF of the host that the neighbour is reached in."),
    Field::new("disableMP", Type::Boolean, "Without effect; deprecated.").default("false"),
    Field::new(
        "dualStackAddressFamily",
        Type::Boolean,
        "Whether routes of both families go over the one session.",
    )
    .default("false"),
];

const POOLS_OF: Field =
    Field::new("ipAddressPools", TEXTS, "Pools by name.").otherwise("all, if there are no selectors either");
const POOL_SELECTORS: Field =
    Field::new("ipAddressPoolSelectors", SELECTORS, "Pools by label, beside those by name.");
const SERVICES: Field =
    Field::new("serviceSelectors", SELECTORS, "The Services whose addresses are announced.").otherwise("all");

const BGP: &[Field] = &[
    Field::new(
        "aggregationLength",
        number(1, 32),
        "The prefix length of IPv4 routes; at least that of the pools' ranges.",
    )
    .default("32"),
    Field::new(
        "aggregationLengthV6",
        number(1, 128),
        "The prefix length of IPv6 routes; at least that of the pools' ranges.",
    )
    .default("128"),
    Field::new("localPref", PEER_ASN, "LOCAL_PREF, sent to iBGP peers as it stands.").otherwise("0"),
    Field::new(
        "communities",
        TEXTS,
        "Communities: 64600:7, large:64600:7:1, or a name from a Community object; at most 63.",
    )
    .otherwise("none"),
    POOLS_OF,
    POOL_SELECTORS,
    Field::new("nodeSelectors", SELECTORS, "The nodes that announce the routes.").otherwise("all"),
    Field::new("peers", TEXTS, "The BGPPeers that get the routes.").otherwise("all"),
    SERVICES,
];

const L2: &[Field] = &[
    POOLS_OF,
    POOL_SELECTORS,
    Field::new("nodeSelectors", SELECTORS, "The nodes that may announce.").otherwise("all"),
    Field::new("interfaces", TEXTS, "The interfaces to announce on.").otherwise("all"),
    SERVICES,
    Field::new(
        "preferredNodeSelectors",
        list(&Type::Object(&[
            Field::new("weight", number(1, 100), "How much they are preferred; weights are added.")
                .required(),
            Field::new("preference", SELECTOR, "The nodes.").required(),
        ])),
        "The nodes that are preferred among those that may announce.",
    ),
];

const STATUS_NODE: Field = Field::new("node", Type::Text, "The node.").rules(IMMUTABLE);
const STATUS_SERVICE: Field = Field::new("serviceName", Type::Text, "The Service.").rules(IMMUTABLE);
const STATUS_NAMESPACE: Field =
    Field::new("serviceNamespace", Type::Text, "The Service's namespace.").rules(IMMUTABLE);

const L2_STATUS: &[Field] = &[
    STATUS_NODE,
    STATUS_SERVICE,
    STATUS_NAMESPACE,
    Field::new(
        "interfaces",
        list(&Type::Object(&[Field::new("name", Type::Text, "The interface.")])),
        "The interfaces, where the advertisement names some.",
    ),
];

const BGP_STATUS: &[Field] = &[
    STATUS_NODE,
    STATUS_SERVICE,
    STATUS_NAMESPACE,
    Field::new("peers", TEXTS, "The BGPPeers by configuration, whether their sessions are up or not."),
];

const STATE_STATUS: &[Field] = &[
    Field::new(
        "result",
        Type::Word(&["Valid", "Invalid", "Unknown"]),
        "Whether the newest configuration is in force.",
    ),
    Field::new("errorSummary", Type::Text, "All that was refused; empty when the result is Valid."),
    Field::new(
        "conditions",
        list(&Type::Object(&[
            Field::new("type", Type::Text, "What is told about.").required(),
            Field::new("status", Type::Word(&["True", "False", "Unknown"]), "Whether it holds.").required(),
            Field::new("reason", Type::Text, "Why, in one word.").required(),
            Field::new("message", Type::Text, "Why, in a sentence.").required(),
            Field::new("lastTransitionTime", Type::Time, "Since when.").required(),
            Field::new("observedGeneration", COUNT, "The generation that was judged."),
        ])),
        "The same by condition.",
    ),
];
