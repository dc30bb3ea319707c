//! What people and scripts read of sessions and routes, as golden files in `testdata/explain` (`UPDATE_GOLDEN=1` writes them anew).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_bgp::{Attributes, Community, Generation, LargeCommunity, Route, State};
use herald_runtime::ObjectName;
use ipnet::IpNet;

use super::status::{BgpAnswer, RoutesAnswer, peers, routes};
use super::tests::golden;
use crate::bgp::{Ended, PeerSettings, Seen, Told, settings};

const CONFIG: &str = "
peers:
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
address-pools:
- {name: default, protocol: bgp, addresses: [192.0.2.0/24]}
";

fn answer() -> BgpAnswer {
    let now = Instant::now();
    let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap_or(now);
    let one = settings("");
    let up = Seen {
        state: State::Established,
        since: ago(7400),
        negotiated: Some(
            "AS 100 (external), router id 10.0.0.1, ipv4, hold time 90 s, 4-octet AS".to_owned(),
        ),
        routes: [12, 3],
        unusable: 2,
        ended: [
            None,
            Some(Ended {
                at: ago(7402),
                text: "peer sent NOTIFICATION 6/2 Cease/Administrative Shutdown".to_owned(),
                advice: Some("its operator shut the session down there".to_owned()),
            }),
            None,
        ],
    };
    let mut other = settings(", password: x");
    other.peer.address = [10, 0, 0, 2].into();
    other.peer.name = "second".to_owned();
    let silent = Seen {
        state: State::Connect,
        since: ago(41),
        ended: [
            None,
            None,
            Some(Ended {
                at: ago(3),
                text: "connect failed: no answer from 10.0.0.2:179 within 4 s".to_owned(),
                advice: Some("with a password this is how a wrong one looks".to_owned()),
            }),
        ],
        ..Seen::default()
    };
    let sessions: [(&PeerSettings, Seen); 2] = [(&other, silent), (&one, up)];
    peers("node-1", false, sessions.into_iter(), now)
}

fn told() -> RoutesAnswer {
    let config = herald_config::parse(CONFIG).expect("valid").config;
    let prefix = |text: &str| text.parse::<IpNet>().expect("a prefix");
    let tagged = Attributes {
        communities: BTreeSet::from([Community::new(64_600, 7)]),
        large_communities: BTreeSet::from([LargeCommunity(64_600, 1, 2)]),
        local_pref: Some(150),
        ..Attributes::default()
    };
    let tagged = Route { prefix: prefix("192.0.2.0/24"), attributes: tagged };
    let to_one = Route::new(prefix("192.0.2.1/32"));
    let only = BTreeMap::from([(to_one.prefix, BTreeSet::from([IpAddr::from([10, 0, 0, 1])]))]);
    let told = Told {
        generation: Generation::default(),
        at: Instant::now(),
        routes: Arc::new([tagged, to_one].into_iter().collect()),
        only: Arc::new(only),
        exports: Arc::default(),
    };
    let vip = |n| IpAddr::from([192, 0, 2, n]);
    let announced = BTreeMap::from([
        (ObjectName::new("shop", "web"), vec![vip(1), vip(2)]),
        (ObjectName::new("shop", "mail"), vec![vip(1)]),
    ]);
    routes("node-1", true, &told, &announced, &config)
}

#[test]
fn sessions_are_told_with_what_is_wrong_first() {
    golden("bgp.txt", &answer().to_string());
    golden("bgp.json", &format!("{:#}\n", serde_json::to_value(answer()).expect("JSON")));
}

#[test]
fn a_node_without_peers_says_so() {
    let none = peers("node-1", false, std::iter::empty(), Instant::now());
    golden("bgp-none.txt", &none.to_string());
}

#[test]
fn routes_are_told_with_the_services_that_make_them() {
    golden("routes.txt", &told().to_string());
    golden("routes.json", &format!("{:#}\n", serde_json::to_value(told()).expect("JSON")));
    let many = RoutesAnswer { total: 1002, ..told() };
    assert!(many.to_string().ends_with("and 1000 more\n"), "{many}");
    let none = RoutesAnswer { routes: Vec::new(), total: 0, drained: false, ..told() };
    golden("routes-none.txt", &none.to_string());
}
