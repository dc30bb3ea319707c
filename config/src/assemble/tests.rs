//! What objects mean together, and what stays in force when one of them is bad.

use proptest::prelude::*;

use super::*;
use crate::manifests;
use crate::overlapping;

/// Objects in short: `KIND NAME SPEC`, one a line; the uid is the name.
fn objects(text: &str) -> Vec<Object> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(object).collect()
}

fn object(line: &str) -> Object {
    let mut words = line.splitn(3, ' ');
    let (kind, name, spec) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let kind = match kind {
        "pool" => Kind::IpAddressPool,
        "names" => Kind::Community,
        "bfd" => Kind::BfdProfile,
        "peer" => Kind::BgpPeer,
        "bgp" => Kind::BgpAdvertisement,
        "l2" => Kind::L2Advertisement,
        other => panic!("{other}"),
    };
    let (name, zone) = name.split_once('/').unwrap_or((name, "none"));
    let text = format!(
        "apiVersion: metallb.io/{}\nkind: {}\nmetadata: {{name: {name}, uid: {name}, namespace: metallb-system, labels: {{zone: {zone}}}}}\nspec: {spec}\n",
        kind.version(),
        kind.name()
    );
    let mut contents = manifests::read(&text);
    assert_eq!(contents.errors, [], "{text}");
    contents.objects.remove(0)
}

fn assemble(assembler: &mut Assembler, text: &str) -> Assembly {
    assembler.assemble(&objects(text), Secrets::Unread, &HeraldOptions::default())
}

/// The errors, without their lines.
fn errors(assembly: &Assembly) -> Vec<String> {
    let errors = assembly.problems.iter().filter(|problem| problem.is_error());
    errors
        .map(|problem| {
            let mut problem = problem.clone();
            problem.error.line = 0;
            format!("{:?}: {problem}", problem.severity)
        })
        .collect()
}

fn pools(assembly: &Assembly) -> Vec<String> {
    assembly.config.pools.iter().map(|pool| format!("{} {}", pool.name, pool.ranges[0])).collect()
}

#[test]
fn a_new_pool_that_overlaps_is_refused_and_the_old_one_stays() {
    let mut assembler = Assembler::default();
    assemble(&mut assembler, "pool zoo {addresses: [192.0.2.0/24]}");
    // The newer one is the first by name.
    let assembly = assemble(
        &mut assembler,
        "pool ant {addresses: [192.0.2.128/25]}
         pool zoo {addresses: [192.0.2.0/24]}",
    );
    assert_eq!(pools(&assembly), ["zoo 192.0.2.0/24"]);
    assert_eq!(assembly.config.refused_pools, ["ant"]);
    assert_eq!(
        errors(&assembly),
        [
            "Refused: IPAddressPool ant, spec.addresses[0]: 192.0.2.128/25 overlaps 192.0.2.0/24 of pool zoo: remove or shorten one of them"
        ]
    );
    // As soon as there is room for it, it is taken.
    let assembly = assemble(
        &mut assembler,
        "pool ant {addresses: [192.0.2.128/25]}
         pool zoo {addresses: [192.0.2.0/25]}",
    );
    assert_eq!((pools(&assembly).len(), errors(&assembly).len()), (2, 0));
    assert!(assembly.config.refused_pools.is_empty());
}

#[test]
fn the_last_good_state_of_a_pool_stays_in_force_until_it_is_good_again_or_gone() {
    let mut assembler = Assembler::default();
    assemble(&mut assembler, "pool a {addresses: [192.0.2.0/25]}");
    let assembly = assemble(&mut assembler, "pool a {addresses: [nonsense]}");
    assert_eq!(pools(&assembly), ["a 192.0.2.0/25"]);
    assert!(
        errors(&assembly)[0].starts_with("Kept: IPAddressPool a, spec.addresses[0]: nonsense is no range")
    );
    // It still counts against others.
    let both = "pool a {addresses: [nonsense]}
                pool b {addresses: [192.0.2.0/26]}";
    let assembly = assemble(&mut assembler, both);
    assert_eq!(pools(&assembly), ["a 192.0.2.0/25"]);
    let assembly = assemble(&mut assembler, "pool b {addresses: [192.0.2.0/26]}");
    assert_eq!(pools(&assembly), ["b 192.0.2.0/26"]);
    // A pool of the same name is not the same pool.
    let mut other = objects("pool b {addresses: [nonsense]}");
    other[0].uid = "another".to_owned();
    let assembly = assembler.assemble(&other, Secrets::Unread, &HeraldOptions::default());
    assert_eq!(
        (pools(&assembly).len(), assembly.config.refused_pools.as_slice()),
        (0, &["b".to_owned()][..])
    );
}

#[test]
fn two_pools_may_change_places_in_one_step() {
    let mut assembler = Assembler::default();
    assemble(
        &mut assembler,
        "pool a {addresses: [192.0.2.0/25]}
         pool b {addresses: [192.0.2.128/25]}",
    );
    let assembly = assemble(
        &mut assembler,
        "pool a {addresses: [192.0.2.128/25]}
         pool b {addresses: [192.0.2.0/25]}",
    );
    assert_eq!((pools(&assembly).len(), errors(&assembly).len()), (2, 0));
}

#[test]
fn an_advertisement_is_for_pools_by_name_by_label_or_for_all() {
    let assembly = assemble(
        &mut Assembler::default(),
        "pool a/x {addresses: [192.0.2.0/26]}
         pool b/w {addresses: [192.0.2.64/26]}
         pool c/w {addresses: [192.0.2.128/26]}
         bgp all {localPref: 1}
         bgp named {ipAddressPools: [a], aggregationLength: 31}
         bgp both {ipAddressPools: [a], ipAddressPoolSelectors: [{matchLabels: {zone: w}}], aggregationLength: 30}
         l2 arp {ipAddressPoolSelectors: [{matchExpressions: [{key: zone, operator: NotIn, values: [w]}]}]}",
    );
    assert_eq!(errors(&assembly), Vec::<String>::new());
    let lengths = |index: usize| -> Vec<u8> {
        assembly.config.pools[index].advertisements.iter().map(|ad| ad.aggregation_length).collect()
    };
    // In the order of the objects' names.
    assert_eq!([lengths(0), lengths(1), lengths(2)], [vec![32, 30, 31], vec![32, 30], vec![32, 30]]);
    let layer2: Vec<usize> = assembly.config.pools.iter().map(|pool| pool.layer2.len()).collect();
    assert_eq!(layer2, [1, 0, 0], "one pool may be announced both ways");
}

#[test]
fn what_does_not_go_together_is_refused_by_object_and_field() {
    let base = "pool a {addresses: [192.0.2.0/26, '2001:db8::/64']}
                bgp first {ipAddressPools: [a], localPref: 100}\n";
    for (more, expected) in [
        (
            "bgp twin {ipAddressPools: [a], localPref: 100}",
            "Refused: BGPAdvertisement twin, spec: says the same for pool a as first: remove one of the two",
        ),
        (
            "bgp other {localPref: 50}",
            "Refused: BGPAdvertisement other, spec.localPref: 50 contradicts 100 of first, which announces pool a by the \
             same /32: use one localPref or another aggregation length",
        ),
        (
            "bgp wide {aggregationLength: 25, localPref: 100}",
            "Refused: BGPAdvertisement wide, spec.aggregationLength: pool a: 25 is shorter than 192.0.2.0/26: use 26 to 32",
        ),
        (
            "bgp wide {aggregationLengthV6: 48, aggregationLength: 26}",
            "Refused: BGPAdvertisement wide, spec.aggregationLengthV6: pool a: 48 is shorter than 2001:db8::/64: use 64 to 128",
        ),
        (
            "bgp lost {ipAddressPools: [b], aggregationLength: 30}",
            "Partly: BGPAdvertisement lost, spec.ipAddressPools[0]: no IPAddressPool is called b: did you mean a?",
        ),
        (
            "bgp blue {communities: [blu], aggregationLength: 30, aggregationLengthV6: 127}\nnames n {communities: [{name: blue, value: '1:2'}]}",
            "Refused: BGPAdvertisement blue, spec.communities[0]: no community is called blu: did you mean blue?",
        ),
        (
            "names m {communities: [{name: blue, value: '1:2'}]}\nnames n {communities: [{name: blue, value: '1:2'}]}",
            "Refused: Community n, spec.communities[0].name: blue is also a name of Community m: rename one",
        ),
        (
            "l2 one {ipAddressPools: [a]}\nl2 two {}",
            "Refused: L2Advertisement two, spec: says the same for pool a as one: remove one of the two",
        ),
        (
            "peer p {myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, bfdProfile: quik}\nbfd quick {}",
            "Refused: BGPPeer p, spec.bfdProfile: no BFDProfile is called quik: did you mean quick?",
        ),
        (
            "peer p {myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, passwordSecret: {name: s, namespace: other}}",
            "Refused: BGPPeer p, spec.passwordSecret.name: Secrets are read in metallb-system only, not in other: create it there",
        ),
    ] {
        let assembly = assemble(&mut Assembler::default(), &format!("{base}{more}"));
        assert_eq!(errors(&assembly), [expected], "{more}");
        assert_eq!(assembly.config.pools[0].advertisements[0].local_pref, 100, "the others are in force");
    }
}

#[test]
fn preferences_may_differ_where_the_routes_never_meet() {
    for more in [
        "bgp b {localPref: 2, aggregationLength: 31, aggregationLengthV6: 127}",
        "bgp b {localPref: 2, peers: [q]}",
        "bgp b {localPref: 2, nodeSelectors: [{matchLabels: {rack: r2}}]}",
        "bgp b {localPref: 2, ipAddressPools: [other]}",
    ] {
        let text = format!(
            "pool a {{addresses: [192.0.2.0/26]}}
             pool other {{addresses: [192.0.2.64/26]}}
             peer p {{myASN: 1, peerASN: 2, peerAddress: 10.0.0.1}}
             peer q {{myASN: 1, peerASN: 2, peerAddress: 10.0.0.2}}
             bgp a {{localPref: 1, ipAddressPools: [a], peers: [p], nodeSelectors: [{{matchLabels: {{rack: r1}}}}]}}
             {more}"
        );
        assert_eq!(errors(&assemble(&mut Assembler::default(), &text)), Vec::<String>::new(), "{more}");
    }
}

#[test]
fn a_pool_that_shrinks_does_not_end_the_routes_of_its_aggregate() {
    let mut assembler = Assembler::default();
    let advertisement = "bgp wide {aggregationLength: 24}";
    assemble(&mut assembler, &format!("pool a {{addresses: [192.0.2.0/24]}}\n{advertisement}"));
    let assembly =
        assemble(&mut assembler, &format!("pool a {{addresses: [192.0.2.0/25]}}\n{advertisement}"));
    assert!(
        errors(&assembly)[0].starts_with("Kept: BGPAdvertisement wide, spec.aggregationLength: pool a: 24")
    );
    assert_eq!(assembly.config.pools[0].advertisements[0].aggregation_length, 24);
}

#[test]
fn a_refused_pool_does_not_stop_the_advertisement_of_another() {
    let assembly = assemble(
        &mut Assembler::default(),
        "pool a {addresses: [192.0.2.0/24]}
         pool b {addresses: [nonsense]}
         bgp both {ipAddressPools: [a, b]}",
    );
    assert_eq!(assembly.config.pools[0].advertisements.len(), 1);
    assert_eq!(
        errors(&assembly)[1],
        "Partly: BGPAdvertisement both, spec.ipAddressPools[1]: pool b is refused: correct it"
    );
}

fn secrets(of_type: &str, password: Option<&str>) -> BTreeMap<String, Secret> {
    let password = password.map(|password| password.as_bytes().to_vec());
    BTreeMap::from([("tor".to_owned(), Secret { of_type: of_type.to_owned(), password })])
}

#[test]
fn a_password_comes_from_a_secret_and_stays_when_that_is_gone() {
    let mut assembler = Assembler::default();
    let peer = objects("peer p {myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, passwordSecret: {name: tor}}");
    let herald = HeraldOptions::default();
    let good = secrets("kubernetes.io/basic-auth", Some("s3cr3t"));
    let none = BTreeMap::new();
    let refused = assembler.assemble(&peer, Secrets::Read(&none), &herald);
    assert_eq!(refused.config.peers, []);
    assert_eq!(
        errors(&refused),
        [
            "Refused: BGPPeer p, spec.passwordSecret.name: there is no Secret tor: create it, of type kubernetes.io/basic-auth"
        ]
    );
    let password = |assembly: &Assembly| -> Option<String> {
        assembly.config.peers[0].password.as_ref()?.expose().map(str::to_owned)
    };
    let taken = assembler.assemble(&peer, Secrets::Read(&good), &herald);
    assert_eq!(password(&taken).as_deref(), Some("s3cr3t"));
    assert!(!format!("{taken:?} {good:?}").contains("s3cr3t"), "{taken:?}");
    let kept = assembler.assemble(&peer, Secrets::Read(&none), &herald);
    assert_eq!(password(&kept).as_deref(), Some("s3cr3t"), "the session does not end");
    assert!(errors(&kept)[0].starts_with("Kept: "));
    let again = assembler.assemble(&peer, Secrets::Read(&none), &herald);
    assert_eq!(password(&again).as_deref(), Some("s3cr3t"), "and not later");
    let rotated = secrets("kubernetes.io/basic-auth", Some("n3w"));
    assert_eq!(
        password(&assembler.assemble(&peer, Secrets::Read(&rotated), &herald)).as_deref(),
        Some("n3w")
    );
}

#[test]
fn a_secret_is_refused_by_what_is_wrong_with_it() {
    let peer = objects("peer p {myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, passwordSecret: {name: tor}}");
    let long = "s3cr3t".repeat(20);
    for (secrets, expected) in [
        (
            secrets("Opaque", Some("s3cr3t")),
            "Secret tor is of type Opaque: create it of type kubernetes.io/basic-auth",
        ),
        (secrets("kubernetes.io/basic-auth", None), "Secret tor has no key password: add it"),
        (secrets("kubernetes.io/basic-auth", Some("")), "the password of Secret tor is empty: write one"),
        (
            secrets("kubernetes.io/basic-auth", Some(&long)),
            "Secret tor: the password has 120 bytes: TCP-MD5 takes at most 80",
        ),
    ] {
        let assembly =
            Assembler::default().assemble(&peer, Secrets::Read(&secrets), &HeraldOptions::default());
        assert_eq!(errors(&assembly), [format!("Refused: BGPPeer p, spec.passwordSecret.name: {expected}")]);
    }
}

#[test]
fn what_is_odd_is_a_warning() {
    let assembly = assemble(
        &mut Assembler::default(),
        "pool a {addresses: ['2001:db8::/64']}
         bgp routes {}
         bfd echo {echoMode: true}
         peer a {myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, bfdProfile: echo}
         peer b {myASN: 1, peerASN: 2, peerAddress: 10.0.0.1}
         peer c {myASN: 1, peerASN: 2, peerAddress: 10.0.0.3, vrf: red, myASNs: 1}",
    );
    assert_eq!(errors(&assembly), Vec::<String>::new());
    let told: Vec<String> = assembly.problems.iter().map(|problem| problem.error.message.clone()).collect();
    assert_eq!(
        told,
        [
            "no echo packets are sent: control packets alone watch the path, as often as the profile says",
            "echo mode is for IPv4, and pool a has IPv6 addresses: use a profile without echoMode",
            "the same neighbour as a on the same nodes: routers keep only one of two such sessions",
            "unknown field, ignored: did you mean myASN?",
        ]
    );
}

/// Good and bad objects that often meet.
fn line() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(vec!["a", "b", "c"]);
    let range = proptest::sample::select(vec![
        "192.0.2.0/25",
        "192.0.2.128/25",
        "192.0.2.64/26",
        "nonsense",
        "2001:db8::/64",
    ]);
    let pool = (name.clone(), proptest::collection::vec(range, 1..3))
        .prop_map(|(name, ranges)| format!("pool {name} {{addresses: ['{}']}}", ranges.join("', '")));
    let bgp = (name.clone(), name.clone(), 24..=33_u8, 0..3_u8).prop_map(|(name, pool, length, pref)| {
        format!("bgp {name} {{ipAddressPools: [{pool}], aggregationLength: {length}, localPref: {pref}}}")
    });
    let l2 = (name.clone(), name.clone())
        .prop_map(|(name, pool)| format!("l2 {name} {{ipAddressPools: [{pool}]}}"));
    let peer = (name.clone(), name.clone(), 0..3_u8).prop_map(|(name, bfd, asn)| {
        format!("peer {name} {{myASN: 1, peerASN: {asn}, peerAddress: 10.0.0.1, bfdProfile: {bfd}}}")
    });
    let bfd = name.prop_map(|name| format!("bfd {name} {{}}"));
    prop_oneof![pool.clone(), pool, bgp, l2, peer, bfd]
}

fn keeps_its_promises(config: &Config) {
    let ranges: Vec<_> = config.pools.iter().flat_map(|pool| pool.ranges.clone()).collect();
    assert_eq!(overlapping(&ranges), []);
    assert!(config.pools.is_sorted_by(|a, b| a.name < b.name));
    for peer in &config.peers {
        assert!(peer.my_asn != 0 && peer.asn != Some(0));
        let profile = peer.bfd_profile.as_ref();
        assert!(profile.is_none_or(|name| config.bfd_profiles.iter().any(|of| of.name == *name)));
    }
}

proptest! {
    #[test]
    fn whatever_the_history_the_promises_are_kept_and_the_order_of_objects_is_nothing(
        steps in proptest::collection::vec(proptest::collection::btree_map("[a-z]{1,2}", line(), 0..8), 1..5),
    ) {
        let mut assembler = Assembler::default();
        for step in steps {
            let mut objects: Vec<Object> = Vec::new();
            for line in step.values() {
                let object = object(line);
                if !objects.iter().any(|known| known.key == object.key) {
                    objects.push(object);
                }
            }
            let mut backwards = assembler.clone();
            let assembly = assembler.assemble(&objects, Secrets::Unread, &HeraldOptions::default());
            keeps_its_promises(&assembly.config);
            objects.reverse();
            let other = backwards.assemble(&objects, Secrets::Unread, &HeraldOptions::default());
            prop_assert_eq!(&other, &assembly);
            // What is told as refused is told with something to correct.
            for problem in &assembly.problems {
                prop_assert!(problem.error.message.contains(": "), "{}", problem);
            }
            // Again with nothing changed: the same in force.
            let again = assembler.clone().assemble(&objects, Secrets::Unread, &HeraldOptions::default());
            prop_assert_eq!(again.config, assembly.config);
        }
    }
}
