use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::Community;
use crate::wire::Message;
use crate::wire::testing::{PLAIN as EXTERNAL, PeerTable, decode_one, net, nets, view};

fn terms(families: Families) -> Terms {
    let local = LocalAddresses { v4: Some([10, 0, 0, 11].into()), v6: "2001:db8:10::11".parse().ok() };
    Terms { path: EXTERNAL, families, local, extended_next_hop: false, enhanced_refresh: true }
}

fn plain(prefixes: &[&str]) -> Arc<RouteSet> {
    Arc::new(prefixes.iter().map(|prefix| Route::new(net(prefix))).collect())
}

fn tagged(prefix: &str, community: u32) -> Route {
    let communities = [Community(community)].into();
    Route { prefix: net(prefix), attributes: Attributes { communities, ..Attributes::default() } }
}

fn with_next_hop(prefix: &str, next_hop: &str) -> Route {
    let next_hop = Some(next_hop.parse().unwrap());
    Route { prefix: net(prefix), attributes: Attributes { next_hop, ..Attributes::default() } }
}

/// Up, with these routes, everything drawn.
fn settled(families: Families, routes: Arc<RouteSet>) -> (AdjRibOut, PeerTable) {
    let mut rib = AdjRibOut::default();
    rib.set_desired(routes);
    rib.up(terms(families));
    let mut table = PeerTable::new(true);
    drain(&mut rib, &mut table);
    (rib, table)
}

fn drain(rib: &mut AdjRibOut, table: &mut PeerTable) -> Vec<Vec<u8>> {
    let mut updates = Vec::new();
    while let Some(message) = rib.next_message() {
        assert!(updates.len() < 10_000, "never ends");
        let (RibMessage::Update(bytes) | RibMessage::Refresh(bytes)) = message;
        table.apply(&bytes);
        updates.push(bytes);
    }
    assert!(rib.is_settled() && !rib.has_message());
    assert_eq!(rib.pending(), 0);
    for family in Family::ALL {
        let has = table.routes.keys().filter(|prefix| Family::of(prefix) == family).count();
        assert_eq!(rib.advertised(family), has);
    }
    updates
}

#[test]
fn a_new_session_gets_everything_and_one_end_of_rib_per_family() {
    let routes = plain(&["192.0.2.1/32", "192.0.2.2/32", "2001:db8:1::1/128"]);
    for (families, expected, markers) in [
        (Families::BOTH, nets(["192.0.2.1/32", "192.0.2.2/32", "2001:db8:1::1/128"]), Family::ALL.to_vec()),
        (Families::IPV4, nets(["192.0.2.1/32", "192.0.2.2/32"]), vec![Family::Ipv4Unicast]),
        (Families::IPV6, nets(["2001:db8:1::1/128"]), vec![Family::Ipv6Unicast]),
    ] {
        let (rib, table) = settled(families, Arc::clone(&routes));
        assert_eq!(table.prefixes(), expected, "{families}");
        assert_eq!(table.end_of_rib, markers, "{families}");
        assert_eq!(rib.unusable(), 0, "a family that is not negotiated is not wanting");
    }
}

#[test]
fn an_empty_table_ends_with_end_of_rib_too() {
    let (_, table) = settled(Families::BOTH, Arc::default());
    assert_eq!(table.end_of_rib, Family::ALL);
}

#[test]
fn end_of_rib_comes_behind_the_last_route_of_its_family() {
    let mut rib = AdjRibOut::default();
    rib.set_desired(Arc::new((0..2000_u32).map(|n| Route::new(IpNet::from(IpAddr::V4(n.into())))).collect()));
    rib.up(terms(Families::IPV4));
    let mut sizes = Vec::new();
    while let Some(RibMessage::Update(bytes)) = rib.next_message() {
        sizes.push(view(&bytes, true).count);
    }
    assert_eq!(sizes, [810, 810, 380, 0]);
}

#[test]
fn afterwards_only_differences_are_sent_withdrawals_first() {
    let (mut rib, mut table) =
        settled(Families::BOTH, plain(&["192.0.2.1/32", "192.0.2.2/32", "2001:db8:1::1/128"]));
    rib.set_desired(plain(&["192.0.2.2/32", "192.0.2.3/32"]));
    assert!(!rib.is_settled());
    let updates = drain(&mut rib, &mut table);
    let views: Vec<_> = updates.iter().map(|update| view(update, true)).collect();
    assert_eq!(views.len(), 3);
    assert_eq!(views[0].withdrawn, nets(["192.0.2.1/32"]));
    assert_eq!(views[1].withdrawn, nets(["2001:db8:1::1/128"]));
    assert_eq!(views[2].announced, nets(["192.0.2.3/32"]));
    assert_eq!(table.end_of_rib.len(), 2, "no further marker");
}

#[test]
fn a_changed_attribute_replaces_without_withdrawal() {
    let (mut rib, mut table) =
        settled(Families::IPV4, Arc::new([tagged("192.0.2.1/32", 1)].into_iter().collect()));
    rib.set_desired(Arc::new([tagged("192.0.2.1/32", 2)].into_iter().collect()));
    let updates = drain(&mut rib, &mut table);
    assert_eq!(updates.len(), 1);
    let view = view(&updates[0], true);
    assert_eq!((view.announced, view.withdrawn.len()), (nets(["192.0.2.1/32"]), 0));
    assert_eq!(view.communities, [Community(2)]);
}

#[test]
fn a_flap_that_ends_before_it_was_drawn_is_never_sent() {
    let there = plain(&["192.0.2.1/32"]);
    let (mut rib, mut table) = settled(Families::IPV4, Arc::clone(&there));
    for between in [Arc::default(), Arc::new([tagged("192.0.2.1/32", 7)].into_iter().collect())] {
        rib.set_desired(between);
        rib.set_desired(Arc::clone(&there));
        assert_eq!(drain(&mut rib, &mut table), Vec::<Vec<u8>>::new());
    }
    rib.set_desired(plain(&["192.0.2.1/32", "192.0.2.9/32"]));
    rib.set_desired(there);
    assert_eq!(drain(&mut rib, &mut table), Vec::<Vec<u8>>::new());
}

#[test]
fn equal_attributes_share_a_message() {
    let routes = [tagged("192.0.2.1/32", 1), tagged("192.0.2.2/32", 2), tagged("192.0.2.3/32", 1)];
    let (mut rib, mut table) = settled(Families::IPV4, Arc::default());
    rib.set_desired(Arc::new(routes.into_iter().collect()));
    let counts: Vec<_> = drain(&mut rib, &mut table).iter().map(|update| view(update, true).count).collect();
    assert_eq!(counts, [2, 1]);
}

#[test]
fn no_route_leaves_with_a_next_hop_that_peers_refuse() {
    for (prefix, next_hop, sent) in [
        ("192.0.2.1/32", "10.0.0.9", true),
        ("192.0.2.1/32", "0.0.0.0", false),
        ("192.0.2.1/32", "127.0.0.1", false),
        ("192.0.2.1/32", "224.0.0.1", false),
        ("192.0.2.1/32", "255.255.255.255", false),
        ("192.0.2.1/32", "2001:db8:10::9", false),
        ("2001:db8:1::1/128", "2001:db8:10::9", true),
        ("2001:db8:1::1/128", "fe80::9", true),
        ("2001:db8:1::1/128", "::", false),
        ("2001:db8:1::1/128", "::1", false),
        ("2001:db8:1::1/128", "ff02::1", false),
        ("2001:db8:1::1/128", "::ffff:10.0.0.9", false),
        ("2001:db8:1::1/128", "10.0.0.9", false),
    ] {
        let (rib, table) =
            settled(Families::BOTH, Arc::new([with_next_hop(prefix, next_hop)].into_iter().collect()));
        assert_eq!(
            (table.routes.len(), rib.unusable()),
            if sent { (1, 0) } else { (0, 1) },
            "{prefix} {next_hop}"
        );
    }
}

#[test]
fn a_family_without_a_local_address_is_not_announced_unless_routes_name_a_next_hop() {
    let mut rib = AdjRibOut::default();
    let routes = [
        Route::new(net("192.0.2.1/32")),
        Route::new(net("2001:db8:1::1/128")),
        with_next_hop("2001:db8:1::2/128", "2001:db8:10::9"),
    ];
    rib.set_desired(Arc::new(routes.into_iter().collect()));
    rib.up(Terms { local: IpAddr::from([10, 0, 0, 11]).into(), ..terms(Families::BOTH) });
    let mut table = PeerTable::new(true);
    drain(&mut rib, &mut table);
    assert_eq!(table.prefixes(), nets(["192.0.2.1/32", "2001:db8:1::2/128"]));
    assert_eq!(table.routes[&net("192.0.2.1/32")].next_hop, Some([10, 0, 0, 11].into()));
    assert_eq!(rib.unusable(), 1);
}

#[test]
fn a_route_that_becomes_unusable_is_withdrawn() {
    let (mut rib, mut table) = settled(Families::IPV4, plain(&["192.0.2.1/32", "192.0.2.2/32"]));
    let communities = (0..1100).map(Community).collect();
    let huge = Route {
        prefix: net("192.0.2.2/32"),
        attributes: Attributes { communities, ..Attributes::default() },
    };
    rib.set_desired(Arc::new([with_next_hop("192.0.2.1/32", "0.0.0.0"), huge].into_iter().collect()));
    drain(&mut rib, &mut table);
    assert_eq!((table.routes.len(), rib.unusable()), (0, 2));
    rib.set_desired(plain(&["192.0.2.1/32"]));
    drain(&mut rib, &mut table);
    assert_eq!((table.prefixes(), rib.unusable()), (nets(["192.0.2.1/32"]), 0));
}

#[test]
fn of_two_routes_for_a_prefix_the_first_in_order_counts() {
    let set: RouteSet =
        [with_next_hop("192.0.2.77/24", "10.0.0.1"), tagged("192.0.2.0/24", 5), tagged("192.0.2.1/24", 3)]
            .into_iter()
            .collect();
    assert_eq!(set.len(), 1, "host bits do not make another prefix");
    let kept = set.get(&net("192.0.2.9/24")).unwrap();
    assert_eq!(kept, &tagged("192.0.2.0/24", 3).attributes);
}

#[test]
fn a_refresh_sends_the_family_again_between_its_marks() {
    let (mut rib, mut table) = settled(Families::BOTH, plain(&["192.0.2.1/32", "2001:db8:1::1/128"]));
    rib.refresh(Family::Ipv6Unicast);
    rib.refresh(Family::Ipv6Unicast);
    assert!(rib.has_message());
    let messages = drain(&mut rib, &mut table);
    let refresh = |subtype| RouteRefresh::new(Family::Ipv6Unicast, subtype).encode();
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[0], refresh(RefreshSubtype::Begin));
    assert_eq!(view(&messages[1], true).announced, nets(["2001:db8:1::1/128"]));
    assert_eq!(messages[2], refresh(RefreshSubtype::End));
}

#[test]
fn a_plain_refresh_has_no_marks_and_one_of_another_family_no_effect() {
    let mut rib = AdjRibOut::default();
    rib.set_desired(plain(&["192.0.2.1/32"]));
    rib.up(Terms { enhanced_refresh: false, ..terms(Families::IPV4) });
    let mut table = PeerTable::new(true);
    drain(&mut rib, &mut table);
    rib.refresh(Family::Ipv6Unicast);
    assert!(!rib.has_message());
    rib.refresh(Family::Ipv4Unicast);
    let messages = drain(&mut rib, &mut table);
    assert_eq!(messages.len(), 1);
    assert_eq!(view(&messages[0], true).announced, nets(["192.0.2.1/32"]));
}

#[test]
fn a_refresh_before_end_of_rib_waits_for_it() {
    let mut rib = AdjRibOut::default();
    rib.set_desired(plain(&["192.0.2.1/32"]));
    rib.up(terms(Families::IPV4));
    rib.refresh(Family::Ipv4Unicast);
    let kinds: Vec<_> = std::iter::from_fn(|| rib.next_message())
        .map(|message| match message {
            RibMessage::Update(bytes) => match decode_one(&bytes) {
                Message::Update(update) if update.end_of_rib.is_some() => "EoR",
                _ => "UPDATE",
            },
            RibMessage::Refresh(bytes) if bytes[21] == 1 => "BoRR",
            RibMessage::Refresh(_) => "EoRR",
        })
        .collect();
    assert_eq!(kinds, ["UPDATE", "EoR", "BoRR", "UPDATE", "EoRR"]);
}

#[test]
fn a_route_that_flaps_during_a_refresh_still_comes_again_before_its_end() {
    let (one, two) = (plain(&["192.0.2.1/32", "192.0.2.2/32"]), plain(&["192.0.2.2/32"]));
    let (mut rib, mut table) = settled(Families::IPV4, Arc::clone(&one));
    rib.refresh(Family::Ipv4Unicast);
    assert!(matches!(rib.next_message(), Some(RibMessage::Refresh(_))));
    rib.set_desired(two);
    rib.set_desired(one);
    let messages = drain(&mut rib, &mut table);
    assert_eq!(view(&messages[0], true).announced, nets(["192.0.2.1/32", "192.0.2.2/32"]));
}

#[test]
fn a_session_that_went_down_starts_again_from_nothing() {
    let (mut rib, _) = settled(Families::IPV4, plain(&["192.0.2.1/32"]));
    rib.set_desired(plain(&["192.0.2.2/32"]));
    rib.down();
    assert!(rib.is_settled() && !rib.has_message() && rib.next_message().is_none());
    rib.up(terms(Families::IPV4));
    let mut table = PeerTable::new(true);
    drain(&mut rib, &mut table);
    assert_eq!(table.prefixes(), nets(["192.0.2.2/32"]));
}

/// Few prefixes and few attributes, so that changes meet.
fn routes() -> impl Strategy<Value = Vec<Route>> {
    let prefix = prop_oneof![
        (0_u8..12).prop_map(|n| format!("192.0.2.{n}/32")),
        (0_u8..12).prop_map(|n| format!("2001:db8:1::{n:x}/128")),
    ];
    let route = (prefix, 0_u32..3, 0_u8..12).prop_map(|(prefix, community, odd)| match odd {
        0 => with_next_hop(&prefix, "0.0.0.0"),
        1 => {
            let communities = (0..1100).map(Community).collect();
            Route { prefix: net(&prefix), attributes: Attributes { communities, ..Attributes::default() } }
        }
        _ => tagged(&prefix, community),
    });
    proptest::collection::vec(route, 0..16)
}

#[derive(Clone, Debug)]
enum Step {
    Change(Vec<Route>),
    Draw(usize),
    Refresh(Family),
}

proptest! {
    #[test]
    fn whatever_happens_the_peer_ends_with_what_is_desired(
        families in prop_oneof![Just(Families::BOTH), Just(Families::IPV4), Just(Families::IPV6)],
        first in routes(),
        steps in proptest::collection::vec(
            prop_oneof![
                3 => routes().prop_map(Step::Change),
                3 => (1_usize..4).prop_map(Step::Draw),
                1 => prop_oneof![Just(Family::Ipv4Unicast), Just(Family::Ipv6Unicast)].prop_map(Step::Refresh),
            ],
            0..14,
        ),
    ) {
        let mut rib = AdjRibOut::default();
        let mut desired: Vec<Route> = first;
        rib.set_desired(Arc::new(desired.iter().cloned().collect()));
        rib.up(terms(families));
        let mut table = PeerTable::new(true);
        for step in steps {
            match step {
                Step::Change(routes) => {
                    desired = routes;
                    rib.set_desired(Arc::new(desired.iter().cloned().collect()));
                }
                Step::Draw(count) => {
                    for message in (0..count).map_while(|_| rib.next_message()) {
                        let (RibMessage::Update(bytes) | RibMessage::Refresh(bytes)) = message;
                        table.apply(&bytes);
                    }
                }
                Step::Refresh(family) => rib.refresh(family),
            }
        }
        drain(&mut rib, &mut table);
        let set: RouteSet = desired.into_iter().collect();
        let expected: BTreeMap<_, _> = set
            .iter()
            .filter(|(prefix, attributes)| {
                families.contains(Family::of(prefix))
                    && attributes.next_hop.is_none()
                    && attributes.communities.len() < 1000
            })
            .map(|(prefix, attributes)| (prefix, attributes.communities.iter().copied().collect::<Vec<_>>()))
            .collect();
        let has: BTreeMap<_, _> =
            table.routes.iter().map(|(prefix, view)| (*prefix, view.communities.clone())).collect();
        prop_assert_eq!(has, expected);
    }
}

proptest! {
    #[test]
    fn a_set_after_changes_is_the_set_of_what_is_left_and_differs_by_the_changes(
        // Over several chunks, and few enough that changes meet.
        before in proptest::collection::btree_map(0u16..1500, 0u32..3, 0..1400),
        changes in proptest::collection::btree_map(0u16..1500, proptest::option::of(0u32..3), 0..12),
    ) {
        let prefix = |n: u16| format!("192.0.{}.{}/32", n / 256, n % 256);
        let route = |(n, community): (&u16, &u32)| tagged(&prefix(*n), *community);
        let set: RouteSet = before.iter().map(route).collect();
        let mut after = before.clone();
        let mut different = BTreeSet::new();
        for (n, change) in &changes {
            let former = match change {
                Some(community) => after.insert(*n, *community),
                None => after.remove(n),
            };
            if former != *change {
                different.insert(net(&prefix(*n)));
            }
        }
        let said = |community: u32| Arc::new(tagged("192.0.2.0/32", community).attributes);
        let changed: BTreeMap<_, _> =
            changes.iter().map(|(n, change)| (net(&prefix(*n)), change.map(said))).collect();
        let changed = set.with(&changed);
        let expected: RouteSet = after.iter().map(route).collect();
        prop_assert_eq!(&changed, &expected);
        prop_assert_eq!(changed.len(), after.len());
        prop_assert_eq!(changed.iter().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
        let found: BTreeSet<_> = set.differences(&changed).map(|(prefix, ..)| prefix).collect();
        prop_assert_eq!(found, different);
        for n in changes.keys() {
            let prefix = net(&prefix(*n));
            prop_assert_eq!(changed.get(&prefix), expected.iter().find(|(p, _)| *p == prefix).map(|(_, a)| &**a));
        }
    }
}
