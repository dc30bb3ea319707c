use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use herald_runtime::ObjectName;
use proptest::prelude::*;

use super::wire::{Selection, decode, delete, dump};
use super::*;
use crate::element::{Frontend, Policy, Protocol};
use crate::netlink::attributes::HEADER;
use crate::program::Program;
use crate::rules::{Backends, FrontendKind, FrontendRules, ServiceRules};
use crate::ruleset::protocol_number;
use crate::testing::{ip, socket};

fn backends(serving: &[&str]) -> Arc<Backends> {
    let mut cluster: Vec<SocketAddr> = serving.iter().map(|address| socket(address)).collect();
    cluster.sort_unstable();
    Arc::new(Backends {
        port: "dns".into(),
        has_any: !cluster.is_empty(),
        cluster: cluster.into(),
        ..Backends::default()
    })
}

fn frontend(address: &str, protocol: Protocol, port: u16) -> Frontend {
    Frontend { address: ip(address), protocol, port }
}

fn udp(address: &str) -> Frontend {
    frontend(address, Protocol::Udp, 53)
}

/// A datagram flow of a client to the VIP's port 53.
fn flow(reply_source: &str) -> Flow {
    Flow {
        protocol: Protocol::Udp,
        source: socket("203.0.113.2:40000"),
        destination: socket("192.0.2.1:53"),
        reply_source: socket(reply_source),
        syn_sent: false,
        id: 7,
    }
}

fn view_of(protocol: Protocol, serving: Option<&[&str]>) -> View {
    let mut view = View::default();
    view.set(frontend("192.0.2.1", protocol, 53), serving.map(backends));
    view
}

const POD: &str = "10.244.1.2:5353";
const OTHER_POD: &str = "10.244.2.2:5353";
const VIP: &str = "192.0.2.1:53";

#[test]
fn a_flow_to_a_serving_endpoint_stays() {
    assert_eq!(stale(&flow(POD), &view_of(Protocol::Udp, Some(&[POD, OTHER_POD]))), None);
}

#[test]
fn a_flow_to_an_endpoint_that_serves_but_is_not_chosen_here_stays() {
    let (local, unchosen) = (Box::from([socket(POD)]), Box::from([socket(OTHER_POD)]));
    let backends = Backends { local, unchosen, has_any: true, ..Backends::default() };
    let mut view = View::default();
    view.set(udp("192.0.2.1"), Some(Arc::new(backends)));
    assert_eq!(stale(&flow(POD), &view), None);
    assert_eq!(stale(&flow(OTHER_POD), &view), None);
}

#[test]
fn of_the_flows_to_a_node_that_counts_as_dead_those_without_an_answer_go() {
    let on_dead: Box<[SocketAddr]> = Box::from([socket(OTHER_POD)]);
    let backends = Backends {
        cluster: Box::from([socket(POD)]),
        unchosen: on_dead.clone(),
        silent: on_dead,
        has_any: true,
        ..Backends::default()
    };
    let mut view = View::default();
    view.set(udp("192.0.2.1"), Some(Arc::new(backends.clone())));
    view.set(frontend("192.0.2.1", Protocol::Tcp, 53), Some(Arc::new(backends)));
    let tcp = |reply_source, syn_sent| Flow { protocol: Protocol::Tcp, syn_sent, ..flow(reply_source) };
    assert_eq!(stale(&flow(OTHER_POD), &view), None);
    assert_eq!(stale(&tcp(OTHER_POD, false), &view), None);
    assert_eq!(stale(&tcp(OTHER_POD, true), &view), Some(Reason::NodeSilent));
    assert_eq!(stale(&tcp(POD, true), &view), None);
}

#[test]
fn a_flow_to_an_endpoint_that_is_gone_goes() {
    assert_eq!(stale(&flow(POD), &view_of(Protocol::Udp, Some(&[OTHER_POD]))), Some(Reason::EndpointGone));
}

#[test]
fn a_flow_of_a_frontend_without_any_endpoint_goes() {
    assert_eq!(stale(&flow(POD), &view_of(Protocol::Udp, Some(&[]))), Some(Reason::EndpointGone));
}

#[test]
fn a_flow_to_another_port_of_an_endpoint_goes() {
    let view = view_of(Protocol::Udp, Some(&["10.244.1.2:5354"]));
    assert_eq!(stale(&flow(POD), &view), Some(Reason::EndpointGone));
}

#[test]
fn a_flow_from_before_the_rules_goes() {
    assert_eq!(stale(&flow(VIP), &view_of(Protocol::Udp, Some(&[POD]))), Some(Reason::NotTranslated));
}

#[test]
fn a_flow_to_an_endpoint_that_is_the_frontend_itself_stays() {
    // A hostNetwork endpoint on its own node, behind a node port of the same number.
    assert_eq!(stale(&flow(VIP), &view_of(Protocol::Udp, Some(&[VIP]))), None);
}

#[test]
fn a_flow_of_a_frontend_that_is_gone_goes() {
    assert_eq!(stale(&flow(POD), &view_of(Protocol::Udp, None)), Some(Reason::FrontendGone));
}

#[test]
fn an_untranslated_flow_to_a_frontend_that_is_gone_is_somebody_elses() {
    assert_eq!(stale(&flow(VIP), &view_of(Protocol::Udp, None)), None);
}

#[test]
fn other_ports_and_protocols_of_the_address_stay() {
    let view = view_of(Protocol::Udp, Some(&[OTHER_POD]));
    assert_eq!(stale(&Flow { destination: socket("192.0.2.1:54"), ..flow(POD) }, &view), None);
    assert_eq!(stale(&Flow { protocol: Protocol::Sctp, ..flow(POD) }, &view), None);
    assert_eq!(stale(&Flow { destination: socket("192.0.2.2:53"), ..flow(POD) }, &view), None);
}

#[test]
fn sctp_is_judged_like_udp() {
    let sctp = |reply_source| Flow { protocol: Protocol::Sctp, ..flow(reply_source) };
    let view = view_of(Protocol::Sctp, Some(&[OTHER_POD]));
    assert_eq!(stale(&sctp(POD), &view), Some(Reason::EndpointGone));
    assert_eq!(stale(&sctp(OTHER_POD), &view), None);
    assert_eq!(stale(&sctp(VIP), &view), Some(Reason::NotTranslated));
}

#[test]
fn tcp_goes_in_syn_sent_only() {
    let tcp = |reply_source, syn_sent| Flow { protocol: Protocol::Tcp, syn_sent, ..flow(reply_source) };
    let view = view_of(Protocol::Tcp, Some(&[OTHER_POD]));
    assert_eq!(stale(&tcp(POD, true), &view), Some(Reason::EndpointGone));
    assert_eq!(stale(&tcp(POD, false), &view), None);
    assert_eq!(stale(&tcp(OTHER_POD, true), &view), None);
    assert_eq!(stale(&tcp(VIP, true), &view), Some(Reason::NotTranslated));
    let gone = view_of(Protocol::Tcp, None);
    assert_eq!(stale(&tcp(POD, true), &gone), Some(Reason::FrontendGone));
    assert_eq!(stale(&tcp(POD, false), &gone), None);
}

#[test]
fn of_one_frontend_the_latest_view_holds() {
    let mut pending = view_of(Protocol::Udp, None);
    pending.update(view_of(Protocol::Udp, Some(&[POD])));
    assert_eq!(stale(&flow(POD), &pending), None);
    // What failed is tried again, but never over what was said since.
    pending.restore(view_of(Protocol::Udp, Some(&[OTHER_POD])));
    assert_eq!(stale(&flow(POD), &pending), None);
    let mut nothing = View::default();
    nothing.restore(view_of(Protocol::Udp, None));
    assert_eq!(stale(&flow(POD), &nothing), Some(Reason::FrontendGone));
}

fn service(frontend: Frontend, serving: &[&str], created: i64) -> ServiceRules {
    let rules = FrontendRules {
        frontend,
        kind: FrontendKind::ClusterIp,
        policy: Policy::Internal,
        vip: true,
        sources: None,
        backends: backends(serving),
    };
    ServiceRules { created, frontends: Box::from([rules]), health: None, local_ports: Box::default() }
}

/// What is in question after a change of the program.
fn changed(program: &mut Program, change: impl FnOnce(&mut Program)) -> View {
    let before = Standing::of(program, [udp("192.0.2.1"), udp("192.0.2.2")]);
    change(program);
    before.changed(program)
}

#[test]
fn a_frontend_is_in_question_when_it_comes_when_it_loses_an_endpoint_and_when_it_goes() {
    let (web, vip) = (ObjectName::new("shop", "web"), udp("192.0.2.1"));
    let mut program = Program::new();
    let mut install = |serving: Option<&[&str]>| {
        let rules = serving.map(|serving| service(vip, serving, 1));
        changed(&mut program, |program| {
            program.install(&web, rules);
        })
    };
    assert_eq!(stale(&flow(VIP), &install(Some(&[POD]))), Some(Reason::NotTranslated));
    assert!(install(Some(&[POD])).is_empty());
    assert!(install(Some(&[POD, OTHER_POD])).is_empty());
    assert_eq!(stale(&flow(POD), &install(Some(&[OTHER_POD]))), Some(Reason::EndpointGone));
    assert_eq!(stale(&flow(OTHER_POD), &install(Some(&[]))), Some(Reason::EndpointGone));
    assert!(install(Some(&[POD])).is_empty());
    // It lingers, and serves as before.
    assert!(install(None).is_empty());
    let view = changed(&mut program, |program| {
        program.expire(&web);
    });
    assert_eq!(stale(&flow(POD), &view), Some(Reason::FrontendGone));
}

#[test]
fn a_frontend_is_in_question_when_the_node_of_an_endpoint_comes_to_count_as_dead() {
    let (web, vip) = (ObjectName::new("shop", "web"), frontend("192.0.2.1", Protocol::Tcp, 53));
    let mut program = Program::new();
    let mut install = |silent: &[&str]| {
        let mut service = service(vip, &[POD], 1);
        let endpoints: Box<[SocketAddr]> = silent.iter().map(|address| socket(address)).collect();
        let backends = Arc::make_mut(&mut service.frontends[0].backends);
        (backends.unchosen, backends.silent) = (Box::from([socket(OTHER_POD)]), endpoints);
        let before = Standing::of(&program, [vip]);
        program.install(&web, Some(service));
        before.changed(&program)
    };
    let syn_sent = Flow { protocol: Protocol::Tcp, syn_sent: true, ..flow(OTHER_POD) };
    assert_eq!(stale(&syn_sent, &install(&[])), None);
    assert_eq!(stale(&syn_sent, &install(&[OTHER_POD])), Some(Reason::NodeSilent));
    assert!(install(&[OTHER_POD]).is_empty());
    assert!(install(&[]).is_empty());
}

#[test]
fn of_a_contested_frontend_the_holders_endpoints_count() {
    let (older, newer) = (ObjectName::new("shop", "older"), ObjectName::new("shop", "newer"));
    let vip = udp("192.0.2.1");
    let mut program = Program::new();
    program.set(&older, Some(service(vip, &[POD], 1)));
    let view = changed(&mut program, |program| {
        program.set(&newer, Some(service(vip, &[OTHER_POD], 2)));
    });
    assert!(view.is_empty());
    let view = changed(&mut program, |program| {
        program.set(&older, None);
    });
    assert_eq!(stale(&flow(POD), &view), Some(Reason::EndpointGone));
    assert_eq!(stale(&flow(OTHER_POD), &view), None);
}

#[test]
fn after_a_replacement_everything_is_in_question_and_what_is_gone_too() {
    let mut program = Program::new();
    program.set(&ObjectName::new("shop", "web"), Some(service(udp("192.0.2.1"), &[POD], 1)));
    let view = Standing::of(&program, [udp("192.0.2.1"), udp("192.0.2.2")]).replaced(&program);
    assert_eq!(stale(&flow(POD), &view), None);
    assert_eq!(stale(&flow(VIP), &view), Some(Reason::NotTranslated));
    let other = Flow { destination: socket("192.0.2.2:53"), ..flow(POD) };
    assert_eq!(stale(&other, &view), Some(Reason::FrontendGone));
}

#[test]
fn one_dump_per_family_and_protocol_shows_all_and_is_as_narrow_as_it_can_be() {
    let mut view = View::default();
    assert_eq!(Selection::covering(&view), []);
    view.set(udp("192.0.2.1"), None);
    let one = Selection {
        family: IpFamily::V4,
        protocol: Protocol::Udp,
        address: Some(ip("192.0.2.1")),
        port: Some(53),
    };
    assert_eq!(Selection::covering(&view), [one]);
    view.set(udp("192.0.2.2"), None);
    assert_eq!(Selection::covering(&view), [Selection { address: None, ..one }]);
    view.set(frontend("192.0.2.2", Protocol::Udp, 54), None);
    view.set(udp("2001:db8:1::1"), None);
    view.set(frontend("192.0.2.2", Protocol::Tcp, 80), None);
    let found = Selection::covering(&view);
    assert_eq!(found.len(), 3);
    assert!(found.contains(&Selection { address: None, port: None, ..one }));
}

/// An entry as the kernel writes it.
fn entry(flow: &Flow, extra: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.message(0, 0, 0, 0, 0, |w| {
        for (kind, source, destination) in
            [(1, flow.source, flow.destination), (2, flow.reply_source, flow.source)]
        {
            w.nest(kind, |w| {
                w.nest(1, |w| match (source.ip(), destination.ip()) {
                    (IpAddr::V4(source), IpAddr::V4(destination)) => {
                        w.bytes(1, &source.octets());
                        w.bytes(2, &destination.octets());
                    }
                    (IpAddr::V6(source), IpAddr::V6(destination)) => {
                        w.bytes(3, &source.octets());
                        w.bytes(4, &destination.octets());
                    }
                    _ => unreachable!(),
                });
                w.nest(2, |w| {
                    w.bytes(1, &[protocol_number(flow.protocol)]);
                    w.bytes(2, &source.port().to_be_bytes());
                    w.bytes(3, &destination.port().to_be_bytes());
                });
            });
        }
        w.number(12, flow.id);
        extra(w);
    });
    writer.as_slice()[HEADER + 4..].to_vec()
}

#[test]
fn an_entry_is_read_as_the_kernel_writes_it() {
    let v4 = flow(POD);
    assert_eq!(decode(&entry(&v4, |_| {})), Some(v4));
    let v6 = Flow {
        protocol: Protocol::Tcp,
        source: socket("[2001:db8:c::2]:40000"),
        destination: socket("[2001:db8:1::1]:80"),
        reply_source: socket("[2001:db8:2::2]:8080"),
        syn_sent: true,
        id: u32::MAX,
    };
    let state = |state: u8| move |w: &mut Writer| w.nest(4, |w| w.nest(1, |w| w.bytes(1, &[state])));
    assert_eq!(decode(&entry(&v6, state(1))), Some(v6));
    assert_eq!(decode(&entry(&v6, state(3))), Some(Flow { syn_sent: false, ..v6 }));
}

#[test]
fn an_entry_of_a_zone_or_without_its_parts_is_none_of_ours() {
    assert_eq!(decode(&entry(&flow(POD), |w| w.bytes(18, &[0, 1]))), None);
    let whole = entry(&flow(POD), |_| {});
    for len in 0..whole.len() {
        assert_eq!(decode(&whole[..len]), None, "{len}");
    }
}

#[test]
fn a_filter_names_exactly_what_is_compared() {
    let selection = Selection {
        family: IpFamily::V4,
        protocol: Protocol::Udp,
        address: Some(ip("192.0.2.1")),
        port: Some(53),
    };
    let flags = |selection: &Selection| {
        let mut writer = Writer::default();
        dump(&mut writer, 1, selection, true);
        let bytes = writer.as_slice()[HEADER + 4..].to_vec();
        let filter = wire::find(&bytes, 25).unwrap();
        u32::from_ne_bytes(wire::find(filter, 1).unwrap().try_into().unwrap())
    };
    assert_eq!(flags(&selection), 0b10_1010);
    assert_eq!(flags(&Selection { port: None, ..selection }), 0b1010);
    assert_eq!(flags(&Selection { address: None, port: None, ..selection }), 0b1000);
    let v6 = Selection { family: IpFamily::V6, address: Some(ip("2001:db8:1::1")), ..selection };
    assert_eq!(flags(&v6), 0b10_1000, "no IPv6 address");
    let mut writer = Writer::default();
    dump(&mut writer, 1, &selection, false);
    assert_eq!(writer.len(), HEADER + 4);
}

#[test]
fn a_deletion_names_the_tuple_and_the_id_and_only_the_last_asks_for_an_answer() {
    let mut writer = Writer::default();
    delete(&mut writer, 1, &flow(POD), false);
    let first = writer.len();
    delete(&mut writer, 2, &flow(POD), true);
    let bytes = writer.as_slice();
    assert_eq!((bytes[6] & 4, bytes[first + 6] & 4), (0, 4));
    let attributes = &bytes[HEADER + 4..first];
    let expected = entry(&flow(POD), |_| {});
    assert_eq!(wire::find(attributes, 1), wire::find(&expected, 1));
    assert_eq!(wire::find(attributes, 12), Some(&7u32.to_be_bytes()[..]));
}

proptest! {
    #[test]
    fn whatever_the_kernel_says_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn an_entry_with_any_byte_wrong_does_not_panic(at in 0usize..200, byte in any::<u8>()) {
        let mut bytes = entry(&flow(POD), |w| w.nest(4, |w| w.nest(1, |w| w.bytes(1, &[1]))));
        if let Some(room) = bytes.get_mut(at) {
            *room = byte;
        }
        let _ = decode(&bytes);
    }
}
