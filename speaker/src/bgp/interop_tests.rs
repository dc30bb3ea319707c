//! The interop matrix: what routers of four makes were seen to do with Herald, in their own words. `docs/interop.md` shows it, and
//! a test fails when the two differ.

use herald_bgp::LargeCommunity;
use herald_config::Peer;
use herald_runtime::metrics::Metrics;

use super::tests::{route, settings, tagged, ten_thousand};
use super::*;
use crate::metrics::SpeakerMetrics;
use crate::testing::bird::addresses;
use crate::testing::far::Far;
use crate::testing::in_namespace;
use crate::testing::routers::{Expects, Make, Question, Router};

const V4: &str = "192.0.2.1/32";
const V6: &str = "2001:db8:1::1/128";
const AGGREGATE: &str = "198.51.100.0/24";
const DOCUMENT: &str = include_str!("../../../docs/interop.md");

fn started(predecessor: bool) -> Peers {
    Peers::new(SpeakerMetrics::new(&Metrics::new(), "node-1", 1000).bgp, predecessor)
}

/// The words by which each make shows a community, a large community, and a path of these two AS numbers.
fn words(make: Make) -> [&'static str; 3] {
    match make {
        Make::Bird => ["(64600,7)", "(64600, 7, 4000000000)", "42 4200000001"],
        Make::Frr => ["64600:7", "64600:7:4000000000", "42 4200000001"],
        Make::GoBgp => ["64600:7", "64600:7:4000000000", "42 4200000001"],
        Make::ExaBgp => ["[ 64600, 7 ]", "[ 64600, 7 , 4000000000 ]", "42, 4200000001"],
    }
}

/// No blanks: makes differ in them.
fn contains(answer: &str, words: &str) -> bool {
    let plain = |text: &str| text.replace([' ', '\n'], "");
    plain(answer).contains(&plain(words))
}

async fn both_families_and_all_communities(make: Make) {
    let router = Router::start(make, Expects::default());
    let mut peers = started(false);
    peers.announce(&tagged(V4, &[64600 << 16 | 7], &[LargeCommunity(64600, 7, 4_000_000_000)]));
    peers.announce(&route(V6, &[]));
    peers.announce(&route(AGGREGATE, &[]));
    peers.set(&[settings("")]).await;
    let [community, large, _] = words(make);
    router.until(Question::Route(V4), |a| contains(a, community) && contains(a, large)).await;
    router.until(Question::Route(V6), |answer| answer.contains("2001:db8:10::11")).await;
    router.until(Question::Route(AGGREGATE), |answer| !answer.is_empty()).await;
    peers.stop("test").await;
}

async fn a_change_and_a_withdrawal_without_a_reset(make: Make) {
    let router = Router::start(make, Expects::default());
    let mut peers = started(false);
    peers.announce(&route(V4, &[64600 << 16 | 7]));
    peers.announce(&route(V6, &[]));
    peers.set(&[settings("")]).await;
    router.until(Question::Route(V4), |answer| contains(answer, words(make)[0])).await;
    peers.announce(&route(V4, &[]));
    router.until(Question::Route(V4), |answer| !answer.is_empty() && !contains(answer, words(make)[0])).await;
    peers.withdraw(&[V4.parse().unwrap()].into()).await;
    router.until(Question::Route(V4), str::is_empty).await;
    assert!(router.has(V6).await);
    assert!(peers.running[0].status.borrow().up);
    peers.stop("test").await;
    router.until(Question::Route(V6), str::is_empty).await;
}

async fn four_octet_as_numbers_and_a_local_as(make: Make) {
    let router = Router::start(make, Expects::default());
    let mut peers = started(false);
    let mut local = settings("");
    (local.peer.my_asn, local.peer.local_asn) = (4_200_000_001, Some(42));
    peers.announce(&route(V4, &[]));
    peers.set(&[local]).await;
    router.until(Question::Route(V4), |answer| contains(answer, words(make)[2])).await;
    peers.stop("test").await;
    drop(router);
    let router = Router::start(make, Expects { asn: 4_200_000_001, ..Expects::default() });
    let mut peers = started(false);
    let mut big = settings("");
    big.peer.my_asn = 4_200_000_001;
    peers.announce(&route(V4, &[]));
    peers.set(&[big]).await;
    router.until(Question::Route(V4), |answer| answer.contains("4200000001")).await;
    peers.stop("test").await;
}

async fn tcp_md5_with_the_right_key_and_never_with_a_wrong_one(make: Make) {
    let router = Router::start(make, Expects { password: Some("s3cr3t"), ..Expects::default() });
    let mut peers = started(false);
    peers.announce(&route(V4, &[]));
    peers.set(&[settings(", password: wr0ng")]).await;
    // One dial's time, and the words of it.
    let mut status = peers.running[0].status.clone();
    let up = tokio::time::timeout(Duration::from_secs(5), status.wait_for(|status| status.up)).await;
    assert!(up.is_err(), "{make:?} takes a wrong key");
    peers.set(&[settings(", password: s3cr3t")]).await;
    router.until(Question::Route(V4), |answer| !answer.is_empty()).await;
    peers.stop("test").await;
}

async fn a_wrong_as_is_refused_and_the_right_one_taken_after_it(make: Make) {
    let router = Router::start(make, Expects::default());
    let mut peers = started(false);
    peers.announce(&route(V4, &[]));
    let mut wrong = settings("");
    wrong.peer.my_asn = 43;
    peers.set(&[wrong]).await;
    let mut status = peers.running[0].status.clone();
    let up = tokio::time::timeout(Duration::from_secs(2), status.wait_for(|status| status.up)).await;
    assert!(up.is_err(), "{make:?} takes a wrong AS");
    peers.set(&[settings("")]).await;
    router.until(Question::Route(V4), |answer| !answer.is_empty()).await;
    peers.stop("test").await;
}

async fn a_restart_with_graceful_restart_loses_no_route(make: Make) {
    let router = Router::start(make, Expects::default());
    let mut graceful = settings("");
    graceful.peer.graceful_restart = true;
    let mut peers = started(false);
    peers.announce(&route(V4, &[]));
    peers.announce(&route(V6, &[]));
    peers.set(&[graceful.clone()]).await;
    router.until(Question::Route(V4), |answer| !answer.is_empty()).await;
    router.until(Question::Route(V6), |answer| !answer.is_empty()).await;
    assert_eq!(peers.leave("restart").await, 1);
    drop(peers);
    for _ in 0..10 {
        assert!(router.has(V4).await && router.has(V6).await, "gone while there is no speaker");
    }
    let mut peers = started(true);
    peers.announce(&route(V6, &[]));
    peers.set(&[graceful]).await;
    // What is not told again goes, what is told again never was away.
    let deadline = Instant::now() + Duration::from_secs(30);
    while router.has(V4).await {
        assert!(router.has(V6).await, "gone while the speaker came back");
        assert!(Instant::now() < deadline, "the End-of-RIB does not count");
    }
    assert!(router.has(V6).await);
    peers.stop("test").await;
}

async fn ten_thousand_routes(make: Make) {
    let router = Router::start(make, Expects::default());
    let mut peers = started(false);
    peers.announce(&ten_thousand());
    peers.set(&[settings("")]).await;
    router.until(Question::Count, |answer| answer == "10000").await;
    peers.stop("test").await;
}

async fn a_router_that_hangs_is_noticed_by_the_hold_time(make: Make) {
    let router = Router::start(make, Expects { hold: 3, ..Expects::default() });
    let mut peers = started(false);
    peers.announce(&route(V4, &[]));
    peers.set(&[settings("")]).await;
    router.until(Question::Route(V4), |answer| !answer.is_empty()).await;
    router.freeze(true);
    let begun = Instant::now();
    let mut status = peers.running[0].status.clone();
    status.wait_for(|status| !status.up).await.unwrap();
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
    router.freeze(false);
    peers.stop("test").await;
}

async fn the_routers_hops_are_counted(make: Make) {
    let router = Router::start(make, Expects { hops: Some(1), ..Expects::default() });
    let mut peers = started(false);
    peers.announce(&route(V4, &[]));
    let mut near = settings("");
    near.ttl_security = Some(1);
    peers.set(&[near.clone()]).await;
    router.until(Question::Route(V4), |answer| !answer.is_empty()).await;
    // Sent with the system's 64: from too far away for all that the router knows. Last, for what the router then has half
    // open stays until its hold time, the end of it being unheard as well.
    peers.set(&[PeerSettings { ttl_security: None, ..near }]).await;
    router.until(Question::Route(V4), str::is_empty).await;
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert!(!router.has(V4).await, "{make:?} counts no hops");
    }
    peers.stop("test").await;
}

async fn a_router_behind_another_one_is_not_near(make: Make) {
    let far = Far::new();
    // What ExaBGP accepts it answers with the system's TTL.
    let (dials, connect) = match make {
        Make::ExaBgp => (true, Connect::Accept),
        Make::Bird | Make::Frr | Make::GoBgp => (false, Connect::Dial),
    };
    let expects = Expects { hops: Some(2), dials, place: Some(far.place()), ..Expects::default() };
    let router = Router::start(make, expects);
    let mut peers = started(false);
    peers.announce(&route(V4, &[]));
    let mut near = settings("");
    (near.ttl_security, near.connect) = (Some(1), connect);
    peers.set(&[near.clone()]).await;
    let mut status = peers.running[0].status.clone();
    let up = tokio::time::timeout(Duration::from_secs(3), status.wait_for(|status| status.up)).await;
    assert!(up.is_err(), "the node counts no hops");
    peers.set(&[PeerSettings { ttl_security: Some(2), ..near }]).await;
    router.until(Question::Route(V4), |answer| !answer.is_empty()).await;
    peers.stop("test").await;
}

async fn the_router_knows_the_net_and_not_the_node(make: Make) {
    let router = Router::start(make, Expects { range: true, ..Expects::default() });
    let mut peers = started(false);
    peers.announce(&route(V4, &[]));
    peers.set(&[settings("")]).await;
    router.until(Question::Route(V4), |answer| !answer.is_empty()).await;
    peers.stop("test").await;
}

async fn all_routes_are_told_again_when_asked_for(make: Make) {
    let router = Router::start(make, Expects::default());
    let metrics = Metrics::new();
    let mut peers = Peers::new(SpeakerMetrics::new(&metrics, "node-1", 1000).bgp, false);
    peers.announce(&route(V4, &[]));
    peers.set(&[settings("")]).await;
    router.until(Question::Route(V4), |answer| !answer.is_empty()).await;
    let told = || {
        let text = metrics.encode().unwrap();
        let line = text.lines().find(|line| line.starts_with("metallb_bgp_updates_total{")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    // The End-of-RIB of each family is told last.
    let mut status = peers.running[0].status.clone();
    status.wait_for(|status| status.synced > Generation::default()).await.unwrap();
    let before = told();
    router.refresh().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while told() <= before {
        assert!(Instant::now() < deadline, "{make:?} asked, and nothing was told again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(router.has(V4).await && peers.running[0].status.borrow().up);
    peers.stop("test").await;
}

async fn the_router_dials_and_the_node_does_not(make: Make) {
    let router = Router::start(make, Expects { dials: true, password: Some("s3cr3t"), ..Expects::default() });
    let mut peers = started(false);
    peers.announce(&route(V4, &[]));
    let mut accepting = settings(", password: s3cr3t");
    accepting.connect = Connect::Accept;
    peers.set(&[accepting]).await;
    router.until(Question::Route(V4), |answer| !answer.is_empty()).await;
    // And nobody else's: a connection that no session takes is closed at once.
    peers.stop("test").await;
    router.until(Question::Route(V4), str::is_empty).await;
}

async fn the_node_knows_the_net_and_not_the_router(make: Make) {
    let router = Router::start(make, Expects { dials: true, password: Some("s3cr3t"), ..Expects::default() });
    let mut peers = started(false);
    peers.announce(&route(V4, &[]));
    let like = settings(", password: s3cr3t");
    let key = like.key();
    let like = like.peer;
    let range = |key| Range {
        network: "10.0.0.0/24".parse().unwrap(),
        key,
        source: like.source_address,
        device: None,
    };
    let mut met = peers.met();
    if make == Make::Bird {
        peers.accept_from(&[range(settings(", password: wr0ng").key())]);
        let came = tokio::time::timeout(Duration::from_secs(3), met.wait_for(|met| !met.is_empty())).await;
        assert!(came.is_err(), "met without the network's key");
    }
    peers.accept_from(&[range(key)]);
    let came = tokio::time::timeout(Duration::from_secs(30), met.wait_for(|met| !met.is_empty())).await;
    let address = *came.expect("nobody was met").unwrap().first().unwrap();
    let dials = Peer { address, ..like };
    peers.set(&[PeerSettings { peer: dials, connect: Connect::Accept, ..settings("") }]).await;
    router.until(Question::Route(V4), |answer| !answer.is_empty()).await;
    peers.set(&[]).await;
    peers.accept_from(&[]);
    assert!(met.borrow().is_empty(), "remembered without a network to be of");
    router.until(Question::Route(V4), str::is_empty).await;
    peers.stop("test").await;
}

async fn both_dial_and_one_session_stays(make: Make) {
    let router = Router::start(make, Expects { dials: true, ..Expects::default() });
    let mut peers = started(false);
    peers.announce(&route(V4, &[]));
    let mut both = settings("");
    both.connect = Connect::Both;
    peers.set(&[both]).await;
    router.until(Question::Route(V4), |answer| !answer.is_empty()).await;
    let mut status = peers.running[0].status.clone();
    let down = tokio::time::timeout(Duration::from_secs(4), status.wait_for(|status| !status.up)).await;
    assert!(down.is_err() && router.has(V4).await, "{make:?}: the session did not stay");
    peers.stop("test").await;
}

/// Whether the document says of a row what was seen.
fn documented(row: &str, make: Make) -> bool {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut lines = DOCUMENT.lines().filter(|line| line.starts_with('|')).map(cells);
    let head = lines.next().unwrap_or_default();
    let column = head.iter().position(|cell| cell.starts_with(make.name()));
    let line = lines.find(|cells| cells.get(1).is_some_and(|cell| cell == row));
    line.zip(column).is_some_and(|(cells, column)| cells.get(column).is_some_and(|cell| cell == "yes"))
}

macro_rules! matrix {
    ($($name:ident: $row:literal, $check:ident, except $except:expr;)*) => {
        $(
            #[test]
            #[ignore = "needs a network namespace"]
            fn $name() {
                for make in Make::ALL {
                    assert!(make.is_installed(), "{} is not installed: make setup", make.name());
                    let except: &[Make] = &$except;
                    assert_eq!(documented($row, make), !except.contains(&make), "docs/interop.md: {}, {}", $row, make.name());
                    if except.contains(&make) {
                        continue;
                    }
                    in_namespace(move || async move {
                        addresses().await;
                        $check(make).await;
                    });
                    println!("| {} | {} | yes |", $row, make.name());
                }
            }
        )*
    };
}

matrix! {
    routes_of_both_families_with_communities: "IPv4, IPv6, an aggregate, communities, large communities", both_families_and_all_communities, except [];
    changes_and_withdrawals: "a change and a withdrawal without a reset", a_change_and_a_withdrawal_without_a_reset, except [];
    as_numbers: "four-octet AS numbers, local AS", four_octet_as_numbers_and_a_local_as, except [];
    keys: "TCP-MD5: right key taken, wrong key not", tcp_md5_with_the_right_key_and_never_with_a_wrong_one, except [];
    refusals: "a wrong AS is refused, the right one taken after it", a_wrong_as_is_refused_and_the_right_one_taken_after_it, except [];
    restarts: "graceful restart: no route missing", a_restart_with_graceful_restart_loses_no_route, except [Make::ExaBgp];
    many: "10,000 routes", ten_thousand_routes, except [];
    hops: "GTSM: a session only with it", the_routers_hops_are_counted, except [Make::ExaBgp];
    far: "two hops away: with GTSM for two hops and not for one", a_router_behind_another_one_is_not_near, except [];
    ranges: "the router knows the nodes' net and none of them (dynamic neighbours)", the_router_knows_the_net_and_not_the_node, except [];
    neighbours: "the node knows the router's net and not the router, with TCP-MD5", the_node_knows_the_net_and_not_the_router, except [];
    refreshes: "all routes again when the router asks (RFC 2918)", all_routes_are_told_again_when_asked_for, except [Make::GoBgp, Make::ExaBgp];
    accepts: "the router dials, with TCP-MD5, and the node does not", the_router_dials_and_the_node_does_not, except [];
    collides: "both dial: one session, which stays", both_dial_and_one_session_stays, except [];
    hangs: "a router that hangs is noticed by the hold time", a_router_that_hangs_is_noticed_by_the_hold_time, except [];
}
