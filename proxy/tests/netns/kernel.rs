//! The ruleset in a real kernel: what netlink writes is what `nft -f` loads, and transactions are atomic.

use crate::net::Namespace;
use herald_proxy::netlink::{Adopted, KernelError, Subject};
use herald_proxy::ruleset::{Ruleset, RulesetConfig};
use herald_proxy::{Changes, Element, Frontend, Policy, Protocol, Refusal, Scope};

fn config() -> RulesetConfig {
    let cluster_cidrs =
        ["10.244.0.0/15", "10.250.0.0/16", "2001:db8:2::/64"].map(|cidr| cidr.parse().unwrap()).into();
    RulesetConfig { cluster_cidrs, ..RulesetConfig::default() }
}

fn frontend(address: &str, protocol: Protocol, port: u16) -> Frontend {
    Frontend { address: address.parse().unwrap(), protocol, port }
}

/// Elements of every kind in both families.
fn elements() -> Vec<Element> {
    let mut elements = Vec::new();
    for (vip, endpoint, prefixes, sources, everyone) in [
        (
            "192.0.2.1",
            "10.244.0.1:8080",
            ["192.0.2.0/25", "192.0.2.128/25", "255.255.255.0/24"],
            ["203.0.113.0/25", "203.0.113.129/32", "224.0.0.0/3"],
            "0.0.0.0/0",
        ),
        (
            "2001:db8:1::1",
            "[2001:db8:2::1]:8080",
            ["2001:db8:1::/96", "2001:db8:3::1/128", "ff00::/8"],
            ["2001:db8:c::/61", "2001:db8:c:8::1/128", "8000::/1"],
            "::/0",
        ),
    ] {
        let endpoint = endpoint.parse().unwrap();
        for (port, policy) in
            (80..).zip([Policy::Internal, Policy::InternalLocal, Policy::External, Policy::ExternalLocal])
        {
            let http = frontend(vip, Protocol::Tcp, port);
            elements.extend([
                Element::Service { frontend: http, policy },
                Element::Pick { frontend: http, scope: Scope::Cluster, class: 2048 },
                Element::Pick { frontend: http, scope: Scope::Local, class: 1 },
                Element::Endpoint { frontend: http, scope: Scope::Cluster, slot: 2047, endpoint },
                Element::Endpoint { frontend: http, scope: Scope::Local, slot: 0, endpoint },
            ]);
        }
        for (port, scope, timeout) in [(5353, Scope::Cluster, 1), (5354, Scope::Local, 86_400)] {
            let dns = frontend(vip, Protocol::Udp, port);
            elements.extend([
                Element::Affinity { frontend: dns, scope, timeout },
                Element::AffinePick { frontend: dns, scope, class: 2 },
                Element::Slot { frontend: dns, scope, slot: 0, stable: 0 },
                Element::Slot { frontend: dns, scope, slot: 1, stable: 0x7f_ffff },
                Element::StableEndpoint { frontend: dns, scope, stable: 0x7f_ffff, endpoint },
            ]);
        }
        elements.extend([
            Element::Refused { frontend: frontend(vip, Protocol::Udp, 53), refusal: Refusal::Drop },
            Element::Refused { frontend: frontend(vip, Protocol::Sctp, 99), refusal: Refusal::Reject },
            Element::Vip { address: vip.parse().unwrap() },
            Element::Hairpin { endpoint, protocol: Protocol::Tcp },
        ]);
        let [one, two] = [80, 81].map(|port| frontend(vip, Protocol::Tcp, port));
        let source = |frontend, prefix: &str| Element::Source { frontend, prefix: prefix.parse().unwrap() };
        elements.extend(sources.map(|prefix| source(one, prefix)));
        elements.push(source(two, everyone));
        elements.extend([one, two].map(|frontend| Element::Restricted { frontend }));
        elements.push(Element::Counted { frontend: one });
        elements.extend(prefixes.map(|prefix| Element::Announced { prefix: prefix.parse().unwrap() }));
        elements.extend(prefixes.map(|prefix| Element::ServiceCidr { prefix: prefix.parse().unwrap() }));
    }
    elements
}

/// Elements of a listing come in the order of the kernel's hashes: one per line, sorted inside its set.
fn normalised(listing: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut elements: Option<Vec<String>> = None;
    for line in listing.lines() {
        let line = line.trim();
        let inside = line.strip_prefix("elements = {").or_else(|| elements.as_ref().map(|_| line));
        let Some(inside) = inside else {
            out.push(line.to_owned());
            continue;
        };
        let list = elements.get_or_insert_default();
        let parts = inside.trim_end_matches('}').split(',').map(str::trim).filter(|part| !part.is_empty());
        list.extend(parts.map(str::to_owned));
        if inside.ends_with('}') {
            let mut list = elements.take().unwrap();
            list.sort();
            out.extend(list);
        }
    }
    out
}

/// Those that `nft` 1.0.6 can load by text: it cannot write the chains of session affinity in IPv6.
fn loadable() -> Vec<Element> {
    let v6 = |e: &Element| matches!(e, Element::Affinity { frontend, .. } if frontend.address.is_ipv6());
    elements().into_iter().filter(|element| !v6(element)).collect()
}

#[test]
#[ignore = "needs a network namespace"]
fn chains_of_affinity_are_listed_as_they_are_written_in_both_families() {
    let namespace = Namespace::new();
    namespace.kernel().replace(&Ruleset::new(&config()), &elements()).unwrap();
    let listing = normalised(&namespace.list_ruleset().replace("timeout 1d ", "timeout 86400s "));
    let text = Ruleset::new(&config()).text(&elements());
    let written: Vec<&str> = text.lines().map(str::trim).filter(|line| line.contains("@affinity")).collect();
    assert_eq!(written.len(), 2 * 2 * 2 * 3);
    let listed: Vec<&str> =
        listing.iter().map(String::as_str).filter(|line| line.contains("@affinity")).collect();
    assert_eq!(listed, written);
}

#[test]
#[ignore = "needs a network namespace"]
fn text_and_netlink_give_the_same_listing() {
    for (config, elements) in
        [(RulesetConfig::default(), Vec::new()), (config(), Vec::new()), (config(), loadable())]
    {
        let ruleset = Ruleset::new(&config);
        let (by_text, by_netlink) = (Namespace::new(), Namespace::new());
        by_text.nft(&ruleset.text(&elements));
        let mut kernel = by_netlink.kernel();
        kernel.replace(&ruleset, &elements).unwrap();
        let (text, netlink) = (normalised(&by_text.list_ruleset()), normalised(&by_netlink.list_ruleset()));
        assert!(text.len() > 1000);
        for (text, netlink) in text.iter().zip(&netlink) {
            assert_eq!(text, netlink);
        }
        assert_eq!(text.len(), netlink.len());
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_listing_can_be_loaded_again_and_lists_the_same() {
    let (first, second) = (Namespace::new(), Namespace::new());
    first.kernel().replace(&Ruleset::new(&config()), &loadable()).unwrap();
    let listing = first.list_ruleset();
    second.nft(&listing);
    assert_eq!(normalised(&second.list_ruleset()), normalised(&listing));
}

#[test]
#[ignore = "needs a network namespace"]
fn applying_and_undoing_leaves_what_was_there() {
    let namespace = Namespace::new();
    let mut kernel = namespace.kernel();
    kernel.replace(&Ruleset::new(&config()), &[]).unwrap();
    // Chains of timeouts stay after their first use.
    kernel.apply(&Changes { remove: vec![], add: elements() }).unwrap();
    kernel.apply(&Changes { remove: elements(), add: vec![] }).unwrap();
    let before = normalised(&namespace.list_ruleset());
    kernel.apply(&Changes { remove: vec![], add: elements() }).unwrap();
    let with = normalised(&namespace.list_ruleset());
    assert!(with.len() > before.len());
    // To add what is there is no error.
    kernel.apply(&Changes { remove: vec![], add: elements() }).unwrap();
    assert_eq!(normalised(&namespace.list_ruleset()), with);
    kernel.apply(&Changes { remove: elements(), add: vec![] }).unwrap();
    assert_eq!(normalised(&namespace.list_ruleset()), before);
}

#[test]
#[ignore = "needs a network namespace"]
fn a_value_is_replaced_by_removal_and_addition_in_one_transaction() {
    let namespace = Namespace::new();
    let mut kernel = namespace.kernel();
    let frontend = frontend("192.0.2.1", Protocol::Tcp, 80);
    let pick = |class| Element::Pick { frontend, scope: Scope::Cluster, class };
    kernel.replace(&Ruleset::new(&config()), &[pick(2)]).unwrap();
    kernel.apply(&Changes { remove: vec![pick(2)], add: vec![pick(3)] }).unwrap();
    let listing = namespace.list_ruleset();
    assert!(listing.contains("192.0.2.1 . tcp . 80 : fe02:3"), "{listing}");
    assert!(!listing.contains("192.0.2.1 . tcp . 80 : fe02:2"));
}

#[test]
#[ignore = "needs a network namespace"]
fn a_refused_batch_changes_nothing_and_names_the_element() {
    let namespace = Namespace::new();
    let mut kernel = namespace.kernel();
    kernel.replace(&Ruleset::new(&config()), &elements()).unwrap();
    let before = namespace.list_ruleset();
    let missing = Element::Vip { address: "192.0.2.77".parse().unwrap() };
    let address = |last: u8| Element::Vip { address: [192, 0, 2, last].into() };
    // To remove what is not there.
    let changes =
        Changes { remove: vec![address(1), missing, elements()[0]], add: (10..60).map(address).collect() };
    let error = kernel.apply(&changes).unwrap_err();
    assert!(
        matches!(&error, KernelError::Refused { subject: Subject::Removal(element), source, .. }
            if *element == missing && source.raw_os_error() == Some(libc::ENOENT)),
        "{error:?}"
    );
    assert!(!error.is_table_missing());
    assert_eq!(namespace.list_ruleset(), before);
    // To add a key with another value.
    let http = frontend("192.0.2.1", Protocol::Tcp, 80);
    let clash = Element::Service { frontend: http, policy: Policy::External };
    let error = kernel.apply(&Changes { remove: vec![], add: vec![address(20), clash] }).unwrap_err();
    assert!(
        matches!(&error, KernelError::Refused { subject: Subject::Addition(e), .. } if *e == clash),
        "{error:?}"
    );
    assert_eq!(namespace.list_ruleset(), before);
    // The connection is as good as before.
    kernel.apply(&Changes { remove: vec![address(1)], add: vec![address(20)] }).unwrap();
    assert_ne!(namespace.list_ruleset(), before);
}

#[test]
#[ignore = "needs a network namespace"]
fn a_first_load_in_parts_is_what_one_transaction_would_be_and_leaves_nothing_if_a_part_is_refused() {
    let namespace = Namespace::new();
    let mut kernel = namespace.unchecked_kernel();
    let ruleset = Ruleset::new(&config());
    let mut all = elements();
    all.extend((0..20_000u32).map(|n| Element::Vip { address: (0x0a00_0000 + n).to_be_bytes().into() }));
    let http = frontend("192.0.2.1", Protocol::Tcp, 80);
    let clash = Element::Service { frontend: http, policy: Policy::External };
    let refused: Vec<Element> = all.iter().copied().chain([clash]).collect();
    let error = kernel.replace(&ruleset, &refused).unwrap_err();
    assert!(
        matches!(&error, KernelError::Refused { subject: Subject::Addition(e), .. } if *e == clash),
        "{error:?}"
    );
    assert_eq!(namespace.list_ruleset(), "");
    kernel.replace(&ruleset, &all).unwrap();
    assert_eq!(kernel.adopt(&ruleset, &all).unwrap(), Adopted::Unchanged);
}

#[test]
#[ignore = "needs a network namespace"]
fn our_tables_come_and_go_and_others_stay() {
    let namespace = Namespace::new();
    let mut kernel = namespace.kernel();
    namespace.nft("table ip other { set s { type ipv4_addr; elements = { 192.0.2.1 }; }; }");
    let others = namespace.list_ruleset();
    assert!(!kernel.exists().unwrap());
    kernel.remove().unwrap();
    kernel.replace(&Ruleset::new(&config()), &elements()).unwrap();
    assert!(kernel.exists().unwrap());
    kernel.replace(&Ruleset::new(&config()), &[]).unwrap();
    kernel.remove().unwrap();
    assert!(!kernel.exists().unwrap());
    assert_eq!(namespace.list_ruleset(), others);
    let error = kernel.apply(&Changes { remove: vec![], add: elements() }).unwrap_err();
    assert!(error.is_table_missing(), "{error:?}");
}

#[test]
#[ignore = "needs a network namespace"]
fn a_table_of_the_same_layout_is_refilled_and_any_other_is_replaced() {
    let namespace = Namespace::new();
    let mut kernel = namespace.kernel();
    let expected = {
        kernel.replace(&Ruleset::new(&config()), &elements()).unwrap();
        normalised(&namespace.list_ruleset())
    };
    let handles = || {
        let listing = namespace.list(&["-a", "list", "chain", "ip", "herald", "prerouting-dnat"]);
        let line = |word: &str| listing.lines().find(|line| line.contains(word)).unwrap().to_owned();
        (line("chain prerouting-dnat"), line("vmap"))
    };
    let (chain, rule) = handles();
    // What others put into our chains and sets goes; the same elements, and other rules, come.
    namespace.nft("add rule ip herald guard drop; add element ip herald vips { 192.0.2.99 }");
    kernel.replace(&Ruleset::new(&RulesetConfig::default()), &elements()).unwrap();
    assert!(!namespace.list_ruleset().contains("10.250.0.0/16"));
    kernel.replace(&Ruleset::new(&config()), &elements()).unwrap();
    assert_eq!(normalised(&namespace.list_ruleset()), expected);
    assert_eq!(handles().0, chain);
    assert_ne!(handles().1, rule);
    // The table of another version, and one that only claims to be of ours.
    let layout = Ruleset::new(&config()).tables[0].layout();
    for comment in ["something else", &layout] {
        namespace.nft(&format!(
            "delete table ip herald; table ip herald {{ comment \"{comment}\"; chain old {{ }}; }}"
        ));
        kernel.replace(&Ruleset::new(&config()), &elements()).unwrap();
        assert_eq!(normalised(&namespace.list_ruleset()), expected, "{comment}");
    }
}
