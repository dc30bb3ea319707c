use super::*;
use crate::probe::ProbeState;
use crate::testing::{node, socket};

const BOTH: Uses = Uses { cluster: true, local: true };

/// `r` ready, `t` serving while terminating, `x` neither; then `l` makes it local, and `s` puts it on a node that counts as dead.
fn endpoints(states: &[&'static str]) -> Vec<Endpoint<'static>> {
    let build = |(i, state): (usize, &&str)| Endpoint {
        address: socket(&format!("10.244.1.{}:80", i + 1)),
        ready: state.starts_with('r'),
        serving_terminating: state.starts_with('t'),
        local: state.ends_with('l'),
        probes: ProbeState::Passing,
        suspect: state.ends_with('s'),
        node: None,
        zones: Vec::new(),
        nodes: Vec::new(),
    };
    states.iter().enumerate().map(build).collect()
}

fn zoned(zones: &[&'static [&'static str]]) -> Vec<Endpoint<'static>> {
    let mut endpoints = endpoints(&vec!["r"; zones.len()]);
    endpoints.iter_mut().zip(zones).for_each(|(endpoint, zones)| endpoint.zones = zones.to_vec());
    endpoints
}

/// Positions (from 1) of the chosen: cluster, local; and whether there is any.
fn chosen(uses: Uses, endpoints: &[Endpoint<'_>]) -> (Vec<u8>, Vec<u8>, bool) {
    let choice = choose(uses, endpoints, &node());
    let positions = |chosen: &[&Endpoint<'_>]| {
        let last = |endpoint: &&Endpoint<'_>| match endpoint.address.ip() {
            std::net::IpAddr::V4(v4) => v4.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        chosen.iter().map(last).collect()
    };
    (positions(&choice.cluster), positions(&choice.local), choice.has_any)
}

// Facts 1.4.

#[test]
fn ready_endpoints_are_used_before_terminating_ones_in_each_set_by_itself() {
    for (states, cluster, local, has_any) in [
        (&["r", "r", "rl"][..], &[1, 2, 3][..], &[3][..], true),
        (&["r", "t", "tl", "x", "xl"], &[1], &[3], true),
        (&["t", "t", "tl", "x"], &[1, 2, 3], &[3], true),
        (&["r", "rl", "tl"], &[1, 2], &[2], true),
        (&["r"], &[1], &[], true),
        (&["x", "xl"], &[], &[], false),
        (&[], &[], &[], false),
    ] {
        let found = chosen(BOTH, &endpoints(states));
        assert_eq!(found, (cluster.to_vec(), local.to_vec(), has_any), "{states:?}");
    }
}

#[test]
fn endpoints_on_dead_nodes_are_passed_over_where_there_are_others_that_are_ready() {
    for (states, cluster) in [
        (&["r", "rs", "r"][..], &[1, 3][..]),
        (&["rs", "rs"], &[1, 2]),
        (&["rs"], &[1]),
        (&["rs", "t", "x"], &[1]),
        (&["ts", "t"], &[1, 2]),
    ] {
        assert_eq!(chosen(BOTH, &endpoints(states)).0, cluster, "{states:?}");
    }
    let mut some = endpoints(&["rl", "rs"]);
    some[0].probes = ProbeState::Failed;
    assert_eq!(chosen(BOTH, &some).0, [1], "a pod that fails a probe is nearer to life than a dead node");
    let judged = |states: &[&'static str]| {
        let all = endpoints(states);
        let (node, last) = (node(), all.last().unwrap());
        Selector::cluster(&all, &node).judge(last)
    };
    assert_eq!(judged(&["r", "rs"]), Standing::NodeSilent);
    assert_eq!(judged(&["rs", "rs"]), Standing::AllNodesSilent);
    assert_eq!(judged(&["rs", "r"]), Standing::Ready);
}

#[test]
fn a_set_that_no_policy_needs_is_empty_and_still_tells_whether_there_is_any() {
    let all = endpoints(&["r", "rl"]);
    assert_eq!(chosen(Uses { cluster: true, local: false }, &all), (vec![1, 2], vec![], true));
    assert_eq!(chosen(Uses { cluster: false, local: true }, &all), (vec![], vec![2], true));
    assert_eq!(chosen(Uses { cluster: false, local: true }, &endpoints(&["r"])), (vec![], vec![], true));
}

#[test]
fn zone_hints_count_when_every_ready_endpoint_has_one_and_one_is_of_this_zone() {
    let found = |zones| chosen(BOTH, &zoned(zones)).0;
    assert_eq!(found(&[&["west"], &["east"]]), [1]);
    assert_eq!(found(&[&["west", "east"], &["east"]]), [1]);
    assert_eq!(found(&[&["west"], &[]]), [1, 2], "one has no hint");
    assert_eq!(found(&[&["east"], &["east"]]), [1, 2], "none is of this zone");
}

#[test]
fn hints_of_endpoints_that_are_not_ready_do_not_count() {
    let mut all = zoned(&[&["west"], &["east"], &[]]);
    all[2].ready = false;
    assert_eq!(chosen(BOTH, &all).0, [1]);
    all[0].ready = false;
    all[0].serving_terminating = true;
    assert_eq!(chosen(BOTH, &all).0, [2], "the only hint for this zone is of one that is not ready");
    all[1].ready = false;
    all[1].serving_terminating = true;
    assert_eq!(chosen(BOTH, &all).0, [1, 2], "the fallback knows no topology");
}

#[test]
fn node_hints_go_before_zone_hints() {
    let mut all = zoned(&[&["west"], &["west"]]);
    all[0].nodes = vec!["b"];
    all[1].nodes = vec!["a", "b"];
    assert_eq!(chosen(BOTH, &all).0, [2]);
    all[0].nodes = vec![];
    assert_eq!(chosen(BOTH, &all).0, [1, 2], "not every one has a node hint");
}

#[test]
fn a_node_without_a_zone_has_no_zone_preference() {
    let all = zoned(&[&["west"], &["east"]]);
    for zone in [None, Some(String::new())] {
        let node = NodeView { zone, ..node() };
        assert_eq!(choose(BOTH, &all, &node).cluster.len(), 2);
    }
}

#[test]
fn topology_does_not_touch_the_local_set() {
    let mut all = zoned(&[&["east"], &["west"]]);
    all[0].local = true;
    assert_eq!(chosen(BOTH, &all), (vec![2], vec![1], true));
}

#[test]
fn each_endpoint_has_the_reason_why_it_is_in_or_out() {
    use Standing::{NotLocal, NotReady, OtherNode, OtherZone, Ready, ServingTerminating, Terminating};
    let node = node();
    let reasons = |all: &[Endpoint<'_>]| {
        let (cluster, local) = (Selector::cluster(all, &node), Selector::local(all));
        all.iter().map(|e| (cluster.judge(e), local.judge(e))).collect::<Vec<_>>()
    };
    let mixed =
        [(Ready, NotLocal), (Terminating, NotLocal), (Terminating, ServingTerminating), (NotReady, NotReady)];
    assert_eq!(reasons(&endpoints(&["r", "t", "tl", "xl"])), mixed);
    assert_eq!(reasons(&endpoints(&["t", "x"])), [(ServingTerminating, NotLocal), (NotReady, NotLocal)]);
    let zones = [(Standing::ThisZone, NotLocal), (OtherZone, NotLocal)];
    assert_eq!(reasons(&zoned(&[&["west"], &["east"]])), zones);
    let mut hinted = zoned(&[&[], &[]]);
    (hinted[0].nodes, hinted[1].nodes) = (vec!["a"], vec!["b"]);
    assert_eq!(reasons(&hinted), [(Standing::ThisNode, NotLocal), (OtherNode, NotLocal)]);
}

#[test]
fn every_standing_has_a_word_and_a_sentence_of_its_own() {
    let words: std::collections::BTreeSet<_> = Standing::ALL.iter().map(|standing| standing.word()).collect();
    let sentences: std::collections::BTreeSet<_> = Standing::ALL.iter().map(|s| s.sentence()).collect();
    assert_eq!((words.len(), sentences.len()), (Standing::ALL.len(), Standing::ALL.len()));
}

#[test]
fn the_reason_tells_whether_probes_leave_an_endpoint_out_or_all_of_them_fail() {
    let reasons = |states: &[&'static str]| -> Vec<Standing> {
        let all = probed(states);
        let selector = Selector::local(&all);
        all.iter().map(|endpoint| selector.judge(endpoint)).collect()
    };
    assert_eq!(reasons(&["rl", "rlf"]), [Standing::Ready, Standing::ProbeFailed]);
    assert_eq!(reasons(&["rlg", "rlf"]), [Standing::AllProbesFail, Standing::ProbeFailed]);
}

/// As [`endpoints`]; a letter more tells what its probes say: `u` unproven, `g` last good, `f` failed.
fn probed(states: &[&'static str]) -> Vec<Endpoint<'static>> {
    let mut endpoints =
        endpoints(&states.iter().map(|state| state.trim_end_matches(['u', 'g', 'f'])).collect::<Vec<_>>());
    for (endpoint, state) in endpoints.iter_mut().zip(states) {
        endpoint.probes = match state.chars().last() {
            Some('u') => ProbeState::Unproven,
            Some('g') => ProbeState::LastGood,
            Some('f') => ProbeState::Failed,
            _ => ProbeState::Passing,
        };
    }
    endpoints
}

#[test]
fn endpoints_that_fail_their_probes_are_left_out_of_each_set_unless_none_would_be_left_in_it() {
    for (states, cluster, local) in [
        (&["r", "rl", "rlf"][..], &[1, 2][..], &[2][..]),
        (&["r", "rlu", "rl"], &[1, 3], &[3]),
        (&["r", "rlf", "rlg"], &[1], &[3]),
        (&["r", "rlf", "rlf"], &[1], &[2, 3]),
        (&["rlf", "rlg", "rlu"], &[2, 3], &[2, 3]),
        (&["rlf", "rlf"], &[1, 2], &[1, 2]),
        (&["t", "tl", "rlf"], &[3], &[3]),
        (&["x", "xl", "rlf"], &[3], &[3]),
    ] {
        let found = chosen(BOTH, &probed(states));
        assert_eq!(found, (cluster.to_vec(), local.to_vec(), true), "{states:?}");
    }
}

#[test]
fn hints_are_judged_among_the_endpoints_that_pass() {
    let mut all = zoned(&[&["east"], &["west"], &["east"]]);
    assert_eq!(chosen(BOTH, &all).0, [2], "the node's own zone");
    (all[1].local, all[1].probes) = (true, ProbeState::Failed);
    assert_eq!(chosen(BOTH, &all).0, [1, 3], "nothing in the zone passes");
}

proptest::proptest! {
    #[test]
    fn probes_narrow_what_is_used_and_never_to_nothing(
        states in proptest::collection::vec(proptest::sample::select(vec!["r", "rl", "rlu", "rlg", "rlf", "t", "tl", "x", "xl"]), 0..8),
    ) {
        let with = probed(&states);
        let mut without = with.clone();
        without.iter_mut().for_each(|endpoint| endpoint.probes = ProbeState::Passing);
        let (with, without) = (chosen(BOTH, &with), chosen(BOTH, &without));
        for (narrowed, all) in [(&with.0, &without.0), (&with.1, &without.1)] {
            proptest::prop_assert!(narrowed.iter().all(|endpoint| all.contains(endpoint)));
            proptest::prop_assert_eq!(narrowed.is_empty(), all.is_empty());
        }
        proptest::prop_assert_eq!(with.2, without.2);
    }
}
