//! The values that a snapshot is made of, field by field. Whoever changes one of them changes [`super::image::VERSION`].

use herald_proxy::probe::{ProbeKind, ProbeSpec};
use herald_proxy::{
    Hints, IpFamily, Protocol, ServicePort, ServiceType, ServiceView, SliceEndpoint, SlicePort, SliceView,
};

use super::codec::{Damaged, Field, Reader, choice, record};
use crate::configured::ConfigObject;
use crate::node::{NodeObject, OwnNode};
use crate::service_cidrs::ServiceCidrObject;

choice!(Protocol { Tcp = 6, Udp = 17, Sctp = 132 });
choice!(IpFamily { V4 = 4, V6 = 6 });
choice!(ServiceType { ClusterIp = 0, NodePort = 1, LoadBalancer = 2 });

record!(ServicePort { name, protocol, number, node_port });
record!(ServiceView {
    created,
    service_type,
    ports,
    cluster_ips,
    external_ips,
    load_balancer_ips,
    source_ranges,
    affinity,
    internal_local,
    external_local,
    health_check_node_port,
    probe,
});
record!(ProbeSpec { kind, port, interval, timeout, fail, pass });
record!(SlicePort { name, protocol, number });
record!(Hints { zones, nodes });
record!(SliceEndpoint { address, ready, serving, terminating, node, hints });
record!(SliceView { family, ports, endpoints });
record!(NodeObject { name, addresses, pod_cidrs, own });
record!(OwnNode { labels, internal_ips, network_unavailable, cordoned, eligible });
record!(ServiceCidrObject { name, cidrs });

impl Field for ConfigObject {
    fn put(&self, to: &mut Vec<u8>) {
        self.0.put(to);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Field::take(from).map(Self)
    }
}

impl Field for ProbeKind {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Tcp => to.push(0),
            Self::Http { path } => {
                to.push(1);
                path.put(to);
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        match u8::take(from)? {
            0 => Ok(Self::Tcp),
            1 => Ok(Self::Http { path: Field::take(from)? }),
            _ => Err(Damaged),
        }
    }
}
