//! Sessions with a real BIRD, each test in a network namespace of its own; both ends have their address on `lo`.

use std::time::Instant;

use herald_bgp::LargeCommunity;
use herald_config::{TcpAo, TcpAoAlgorithm};
use herald_runtime::metrics::Metrics;

use super::*;
use crate::metrics::SpeakerMetrics;
use crate::testing::bird::{BIRD, BIRD_V6, Bird, NODE, addresses};
use crate::testing::in_namespace;

pub(crate) fn settings(more: &str) -> PeerSettings {
    let document = format!(
        "peers:\n- {{peer-address: {BIRD}, peer-asn: 100, my-asn: 42, source-address: {NODE}{more}}}\n"
    );
    let config = herald_config::parse(&document).unwrap().config;
    PeerSettings {
        peer: config.peers[0].clone(),
        router_id: NODE.parse().unwrap(),
        families: Families::BOTH,
        bfd: None,
        ttl_security: None,
        tcp_ao: None,
        role: None,
        connect: Connect::Dial,
    }
}

fn peers(registry: &Metrics) -> Peers {
    Peers::new(SpeakerMetrics::new(registry, "node-1", 1000).bgp, false)
}

pub(super) fn route(prefix: &str, communities: &[u32]) -> ByPrefix<Arc<Attributes>> {
    tagged(prefix, communities, &[])
}

pub(super) fn tagged(
    prefix: &str,
    communities: &[u32],
    large: &[LargeCommunity],
) -> ByPrefix<Arc<Attributes>> {
    let said = herald_bgp::Attributes {
        communities: communities.iter().copied().map(Community).collect(),
        large_communities: large.iter().copied().collect(),
        ..herald_bgp::Attributes::default()
    };
    let attributes = Attributes { said: Arc::new(said), peers: None };
    [(prefix.parse().unwrap(), Arc::new(attributes))].into_iter().collect()
}

/// Ten thousand of one address each.
pub(super) fn ten_thousand() -> ByPrefix<Arc<Attributes>> {
    let attributes = Arc::new(Attributes::default());
    let prefix = |n: u32| IpNet::from(IpAddr::from((0x0a80_0000 + n).to_be_bytes()));
    (0..10_000).map(|n| (prefix(n), Arc::clone(&attributes))).collect()
}

fn prefix(prefix: &str) -> BTreeSet<IpNet> {
    BTreeSet::from([prefix.parse().unwrap()])
}

#[test]
#[ignore = "needs a network namespace"]
fn a_route_appears_changes_without_a_reset_and_is_withdrawn() {
    in_namespace(|| async {
        addresses().await;
        let bird = Bird::start("");
        let registry = Metrics::new();
        let mut peers = peers(&registry);
        peers.set(&[settings("")]).await;
        peers.announce(&route("192.0.2.1/32", &[64600 << 16 | 7]));
        let shown = bird.until("show route all 192.0.2.1/32", |answer| answer.contains("BGP.next_hop")).await;
        assert!(shown.contains("BGP.next_hop: 10.0.0.11") && shown.contains("(64600,7)"), "{shown}");
        assert!(shown.contains("BGP.as_path: 42"), "{shown}");

        peers.announce(&route("192.0.2.1/32", &[64600 << 16 | 9]));
        bird.until("show route all 192.0.2.1/32", |answer| answer.contains("(64600,9)")).await;
        peers.announce(&route("2001:db8:1::1/128", &[]));
        bird.until("show route all 2001:db8:1::1/128", |answer| answer.contains("2001:db8:10::11")).await;
        let up = r#"metallb_bgp_session_up{peer="10.0.0.1:179"} 1"#;
        let text = registry.encode().unwrap();
        assert!(text.contains(up), "{text}");
        assert!(text.contains(r#"metallb_bgp_announced_prefixes_total{peer="10.0.0.1:179"} 2"#), "{text}");

        peers.withdraw(&prefix("192.0.2.1/32")).await;
        bird.until("show route", |answer| !answer.contains("192.0.2.1") && answer.contains("2001:db8:1::1"))
            .await;
        assert_eq!(bird.established(), 1, "{}", bird.log());
        peers.stop("test").await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn stopping_ends_the_session_with_a_cease_that_says_why() {
    in_namespace(|| async {
        addresses().await;
        let bird = Bird::start("");
        let mut peers = peers(&Metrics::new());
        peers.set(&[settings("")]).await;
        peers.announce(&route("192.0.2.1/32", &[]));
        bird.until("show route", |answer| answer.contains("192.0.2.1")).await;
        peers.withdraw(&prefix("192.0.2.1/32")).await;
        let started = Instant::now();
        peers.stop("node-1 stops").await;
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        bird.until("show protocols all herald", |answer| answer.contains("Administrative shutdown")).await;
        assert!(bird.log().contains("node-1 stops"), "{}", bird.log());
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn a_session_comes_back_after_the_router_was_restarted() {
    in_namespace(|| async {
        addresses().await;
        let mut bird = Bird::start("");
        let mut peers = peers(&Metrics::new());
        peers.set(&[settings("")]).await;
        peers.announce(&route("192.0.2.1/32", &[]));
        bird.until("show route", |answer| answer.contains("192.0.2.1")).await;
        bird.kill();
        // Changes while the session is down are told when it is up again, and nobody waits for it meanwhile.
        peers.announce(&route("192.0.2.2/32", &[]));
        let started = Instant::now();
        peers.withdraw(&prefix("192.0.2.1/32")).await;
        assert!(started.elapsed() < WITHDRAW, "{:?}", started.elapsed());
        bird.restart("");
        bird.until("show route", |answer| answer.contains("192.0.2.2") && !answer.contains("192.0.2.1/"))
            .await;
        peers.stop("test").await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn a_change_of_the_configuration_leaves_unaffected_sessions_alone() {
    in_namespace(|| async {
        addresses().await;
        let bird = Bird::start("");
        let mut peers = peers(&Metrics::new());
        peers.set(&[settings("")]).await;
        bird.up().await;
        let mut other = settings("");
        other.peer.address = "10.0.0.99".parse().unwrap();
        peers.set(&[other, settings("")]).await;
        peers.set(&[settings("")]).await;
        peers.announce(&route("192.0.2.1/32", &[]));
        bird.until("show route", |answer| answer.contains("192.0.2.1")).await;
        assert_eq!(bird.established(), 1, "{}", bird.log());

        peers.set(&[settings(", hold-time: 30s")]).await;
        bird.until("show protocols all herald", |answer| answer.contains("/30")).await;
        bird.until("show route", |answer| answer.contains("192.0.2.1")).await;
        assert_eq!(bird.established(), 2, "{}", bird.log());
        peers.set(&[]).await;
        bird.until("show protocols all herald", |answer| answer.contains("Peer de-configured")).await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn a_port_that_is_not_listened_at_any_more_is_no_failure() {
    in_namespace(|| async {
        let mut peers = peers(&Metrics::new());
        let network = "10.0.0.0/24".parse().unwrap();
        peers.accept_from(&[Range { network, key: None, source: None, device: None }]);
        peers.accept_from(&[]);
        let failed = tokio::time::timeout(Duration::from_millis(200), peers.failed()).await;
        assert!(failed.is_err(), "{failed:?}");
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn a_session_with_a_password_comes_up() {
    in_namespace(|| async {
        addresses().await;
        let bird = Bird::start("password \"s3cr3t\";");
        let mut peers = peers(&Metrics::new());
        peers.set(&[settings(", password: s3cr3t")]).await;
        bird.up().await;
        peers.stop("test").await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn with_tcp_ao_nothing_is_sent_where_the_kernel_has_none() {
    in_namespace(|| async {
        addresses().await;
        let router = tokio::net::TcpListener::bind((BIRD, 179)).await.unwrap();
        let mut peers = peers(&Metrics::new());
        let ao = TcpAo { send_id: 1, receive_id: 1, algorithm: TcpAoAlgorithm::HmacSha1 };
        peers.set(&[PeerSettings { tcp_ao: Some(ao), ..settings(", password: s3cr3t") }]).await;
        let deadline = Instant::now() + Duration::from_secs(10);
        let said = loop {
            let said =
                peers.seen().find_map(|(_, seen)| Some(seen.ended.iter().flatten().next()?.text.clone()));
            match said {
                Some(said) => break said,
                None => assert!(Instant::now() < deadline, "nothing is said of it"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        // A kernel that has it signs, and a router without the key does not answer.
        assert!(said.contains("this kernel has no TCP-AO") || said.contains("no answer"), "{said}");
        let came = tokio::time::timeout(Duration::from_millis(200), router.accept()).await;
        assert!(came.is_err(), "a connection without a key: {came:?}");
        peers.stop("test").await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn communities_of_both_kinds_the_as_shown_and_the_timers_are_what_bird_sees() {
    in_namespace(|| async {
        addresses().await;
        let bird = Bird::start("enable extended messages on;");
        let mut peers = peers(&Metrics::new());
        let mut told = settings("");
        // BIRD expects AS 42, which is not ours.
        told.peer.my_asn = 4_200_000_001;
        told.peer.local_asn = Some(42);
        told.peer.keepalive_time = Some(Duration::from_secs(1));
        let large = LargeCommunity(64600, 7, 4_000_000_000);
        peers.announce(&tagged("192.0.2.1/32", &[64600 << 16 | 7], &[large]));
        peers.set(&[told]).await;
        let shown = bird.until("show route all 192.0.2.1/32", |answer| answer.contains("BGP.next_hop")).await;
        assert!(shown.contains("BGP.large_community: (64600, 7, 4000000000)"), "{shown}");
        assert!(shown.contains("BGP.community: (64600,7)"), "{shown}");
        assert!(shown.contains("BGP.as_path: 42 4200000001"), "{shown}");
        let shown = bird.ask("show protocols all herald").await;
        assert_eq!(shown.matches("Extended message").count(), 2, "{shown}");
        peers.stop("test").await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn ipv4_routes_over_an_ipv6_session_have_its_address_as_next_hop_where_bird_takes_that() {
    in_namespace(|| async {
        addresses().await;
        let bird = Bird::start_v6("extended next hop on;");
        let mut peers = peers(&Metrics::new());
        let mut told = settings("");
        told.peer.address = BIRD_V6.parse().unwrap();
        told.peer.source_address = Some("2001:db8:10::11".parse().unwrap());
        peers.announce(&route("192.0.2.1/32", &[]));
        peers.announce(&route("2001:db8:1::1/128", &[]));
        peers.set(&[told]).await;
        for prefix in ["192.0.2.1/32", "2001:db8:1::1/128"] {
            let question = format!("show route all {prefix}");
            let shown = bird.until(&question, |answer| answer.contains("BGP.next_hop")).await;
            assert!(shown.contains("BGP.next_hop: 2001:db8:10::11"), "{shown}");
        }
        peers.withdraw(&prefix("192.0.2.1/32")).await;
        bird.until("show route", |answer| !answer.contains("192.0.2.1/32")).await;
        peers.stop("test").await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn ten_thousand_routes_arrive_and_the_last_withdrawal_waits_for_its_socket() {
    in_namespace(|| async {
        addresses().await;
        let bird = Bird::start("");
        let mut peers = peers(&Metrics::new());
        peers.set(&[settings("")]).await;
        let routes = ten_thousand();
        peers.announce(&routes);
        bird.until("show route count", |answer| answer.contains("10000 of 10000")).await;
        peers.withdraw(&routes.keys().collect()).await;
        bird.until("show route count", |answer| {
            answer.contains("0 of 0 routes for 0 networks in table master4")
        })
        .await;
        peers.stop("test").await;
    });
}
