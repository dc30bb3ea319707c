//! The interop matrix: what routers of four makes were seen to do with Herald, in their own words. `docs/interop.md` shows it, and
//! a test fails when the two differ.

use herald_bgp::LargeCommunity;
use herald_runtime::metrics::Metrics;

use super::tests::{route, settings, tagged, ten_thousand};
use super::*;
use crate::metrics::SpeakerMetrics;
use crate::testing::bird::addresses;
use crate::testing::in_namespace;
use crate::testing::routers::{Expects, Make, Question, Router};

const V4: &str = "192.0.2.1/32";
const V6: &str = "2001:db8:1::1/128";
const AGGREGATE: &str = "198.51.100.0/24";
const DOCUMENT: &str = include_str!("../../../docs/interop.md");

fn started(predecessor: bool) -> Peers {
    Peers::new(SpeakerMetrics::new(&Metrics::new(), "node-1").bgp, predecessor)
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
    hangs: "a router that hangs is noticed by the hold time", a_router_that_hangs_is_noticed_by_the_hold_time, except [];
}
