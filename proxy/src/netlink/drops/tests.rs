use super::*;

const ENDPOINT: &str = "10.244.1.5";
const OTHER: &str = "10.244.2.5";
const VIP: &str = "2001:db8:1::1";

fn addresses() -> BTreeSet<IpAddr> {
    [ENDPOINT, OTHER, VIP].map(|text| text.parse().unwrap()).into()
}

fn rule(handle: u64, tests: Vec<Test>, fate: Fate) -> Rule {
    Rule { handle, tests, v6: None, narrow: false, open: false, fate }
}

fn test(side: Side, with: With) -> Test {
    Test { side, offset: 0, mask: Vec::new(), with }
}

/// To 10.244.1.5, or whatever octets are given of the destination.
fn to(octets: &[u8]) -> Test {
    test(Side::Destination, With::Equal(octets.to_vec()))
}

fn from(octets: &[u8]) -> Test {
    test(Side::Source, With::Equal(octets.to_vec()))
}

/// What is found in a table whose chain `base` is in the hook.
fn walked(hook: &'static str, chains: &[(&str, Vec<Rule>)], sets: &[(&str, Members)]) -> DropRules {
    let ruleset = Ruleset {
        chains: chains.iter().map(|(name, rules)| ((*name).to_owned(), rules.clone())).collect(),
        hooked: vec![("base".to_owned(), hook)],
        sets: sets.iter().map(|(name, members)| ((*name).to_owned(), members.clone())).collect(),
    };
    let mut all = DropRules::default();
    ruleset.drops(("inet", "firewall"), &addresses(), &mut all);
    all
}

/// The same of one that is looked at to its end, as `chain handle addresses`.
fn told(hook: &'static str, chains: &[(&str, Vec<Rule>)], sets: &[(&str, Members)]) -> Vec<String> {
    let all = walked(hook, chains, sets);
    assert_eq!(all.unfinished, [""; 0]);
    let line = |drop: &DropRule| {
        assert_eq!((drop.family, &*drop.table, drop.hook), ("inet", "firewall", hook));
        let addresses: Vec<String> = drop.addresses.iter().map(ToString::to_string).collect();
        format!("{} {} {}", drop.chain, drop.handle, addresses.join("+"))
    };
    all.found.iter().map(line).collect()
}

fn unfinished() -> DropRules {
    DropRules { found: Vec::new(), unfinished: vec!["inet firewall base".to_owned()] }
}

fn one(rules: Vec<Rule>) -> Vec<String> {
    told("forward", &[("base", rules)], &[])
}

#[test]
fn a_rule_is_told_if_it_drops_an_endpoints_packets_by_their_address() {
    let pods = [10, 244];
    let v6 =
        Rule { v6: Some(true), ..rule(7, vec![test(Side::Source, With::NotEqual(vec![0xfd]))], Fate::Drop) };
    let with = |with| rule(7, vec![test(Side::Destination, with)], Fate::Drop);
    let range = |inside| With::Range { first: vec![10, 244, 2, 0], last: vec![10, 244, 2, 9], inside };
    let masked = Test { mask: vec![255, 255, 255, 0], ..to(&[10, 244, 1, 0]) };
    let third = Test { offset: 2, ..to(&[2]) };
    let cases: [(&str, Rule, &[&str]); 12] = [
        ("to it", rule(7, vec![to(&[10, 244, 1, 5])], Fate::Drop), &["base 7 10.244.1.5"]),
        ("its answers", rule(7, vec![from(&[10, 244, 1, 5])], Fate::Drop), &["base 7 10.244.1.5"]),
        ("a shortened prefix", rule(7, vec![to(&pods)], Fate::Drop), &["base 7 10.244.1.5+10.244.2.5"]),
        ("a masked one", rule(7, vec![masked], Fate::Drop), &["base 7 10.244.1.5"]),
        ("octets within", rule(7, vec![third], Fate::Drop), &["base 7 10.244.2.5"]),
        ("a range", with(range(true)), &["base 7 10.244.2.5"]),
        ("beside a range", Rule { v6: Some(false), ..with(range(false)) }, &["base 7 10.244.1.5"]),
        (
            "of some clients",
            rule(7, vec![to(&pods), from(&[203])], Fate::Drop),
            &["base 7 10.244.1.5+10.244.2.5"],
        ),
        ("of one family", v6, &["base 7 2001:db8:1::1"]),
        ("of others alone", rule(7, vec![to(&[192, 168])], Fate::Drop), &[]),
        ("clients, whoever serves them", rule(7, vec![from(&[203])], Fate::Drop), &[]),
        ("accepted", rule(7, vec![to(&pods)], Fate::Accept), &[]),
    ];
    for (what, rule, expected) in cases {
        assert_eq!(one(vec![rule]), expected, "{what}");
    }
}

#[test]
fn ports_and_interfaces_are_no_excuse_and_what_is_not_known_is() {
    let by_port = Rule { narrow: true, ..rule(7, vec![to(&[10, 244])], Fate::Drop) };
    assert_eq!(one(vec![by_port.clone()]).len(), 1);
    assert_eq!(one(vec![Rule { open: true, ..by_port }]), [""; 0]);
}

#[test]
fn the_rest_of_what_is_forwarded_is_told_and_of_what_comes_in_it_is_a_firewalls_business() {
    let rest = || vec![rule(7, Vec::new(), Fate::Drop)];
    assert_eq!(one(rest()), ["base 7 "]);
    assert_eq!(told("input", &[("base", rest())], &[]), [""; 0]);
    assert_eq!(told("input", &[("base", vec![rule(7, vec![to(&[10])], Fate::Drop)])], &[]).len(), 1);
    let invalid = Rule { open: true, ..rule(7, Vec::new(), Fate::Drop) };
    let telnet = Rule { narrow: true, ..rule(7, Vec::new(), Fate::Drop) };
    assert_eq!(one(vec![invalid, telnet]), [""; 0], "no address, and not all");
}

#[test]
fn what_a_rule_before_it_accepts_comes_to_no_drop() {
    let pods = |fate| rule(1, vec![to(&[10, 244])], fate);
    let answers = |fate| rule(2, vec![from(&[10, 244])], fate);
    let v6 = Rule { v6: Some(true), ..rule(3, Vec::new(), Fate::Accept) };
    let rest = || rule(7, Vec::new(), Fate::Drop);
    assert_eq!(one(vec![pods(Fate::Accept), answers(Fate::Accept), v6.clone(), rest()]), [""; 0]);
    assert_eq!(one(vec![pods(Fate::Accept), v6.clone(), rest()]), ["base 7 "], "answers do");
    let new = Rule { open: true, ..pods(Fate::Accept) };
    assert_eq!(one(vec![new, answers(Fate::Accept), v6.clone(), rest()]), ["base 7 "], "not surely accepted");
    let some = rule(1, vec![to(&[10, 244]), from(&[203])], Fate::Accept);
    assert_eq!(one(vec![some, answers(Fate::Accept), v6, rest()]), ["base 7 "], "not from everybody");
}

#[test]
fn chains_are_followed_with_what_the_way_to_them_asks() {
    let to_pods = |fate| rule(1, vec![to(&[10, 244, 1])], fate);
    let rest = || vec![rule(7, Vec::new(), Fate::Drop)];
    let jump = || Fate::Jump("pods".to_owned());
    let way = |rule: Rule, pods: Vec<Rule>| told("forward", &[("base", vec![rule]), ("pods", pods)], &[]);
    assert_eq!(way(to_pods(jump()), rest()), ["pods 7 10.244.1.5"]);
    assert_eq!(way(to_pods(Fate::Goto("pods".to_owned())), rest()), ["pods 7 10.244.1.5"]);
    assert_eq!(way(Rule { open: true, ..to_pods(jump()) }, rest()), [""; 0]);
    let accepts = vec![rule(5, vec![to(&[10, 244, 1, 5])], Fate::Return), rest()[0].clone()];
    assert_eq!(way(to_pods(jump()), accepts), [""; 0], "it returned");
    // What returns goes on behind the jump; a chain that leads to itself ends the walk.
    let chains = [
        ("base", vec![to_pods(jump()), rule(8, vec![to(&[10, 244, 1])], Fate::Drop)]),
        ("pods", vec![rule(6, Vec::new(), Fate::Return)]),
    ];
    assert_eq!(told("forward", &chains, &[]), ["base 8 10.244.1.5"]);
    let chains = [
        ("base", vec![to_pods(jump()), rule(8, Vec::new(), Fate::Drop)]),
        ("pods", vec![rule(6, Vec::new(), Fate::Return)]),
    ];
    assert_eq!(told("forward", &chains, &[]), ["base 8 "], "what was asked there is forgotten");
    let itself =
        [("base", vec![rule(1, Vec::new(), Fate::Jump("base".to_owned())), rule(2, Vec::new(), Fate::Drop)])];
    assert_eq!(walked("forward", &itself, &[]), unfinished());
}

#[test]
fn sets_are_looked_into_and_one_that_is_not_there_says_nothing() {
    let blocked = |inside| {
        let with = With::Set { name: "blocked".to_owned(), inside };
        vec![Rule { v6: Some(false), ..rule(7, vec![test(Side::Destination, with)], Fate::Drop) }]
    };
    let keys = Members::Keys([vec![10, 244, 1, 5]].into());
    let intervals = Members::Intervals([(vec![10, 244, 2, 0], true), (vec![10, 244, 3, 0], false)].into());
    let ask = |inside, members| told("forward", &[("base", blocked(inside))], &[("blocked", members)]);
    assert_eq!(ask(true, keys.clone()), ["base 7 10.244.1.5"]);
    assert_eq!(ask(false, keys), ["base 7 10.244.2.5"]);
    assert_eq!(ask(true, intervals), ["base 7 10.244.2.5"]);
    assert_eq!(told("forward", &[("base", blocked(false))], &[]), [""; 0]);
}

#[test]
fn more_ways_than_can_be_followed_come_to_an_end_that_is_told() {
    // Ten from each chain to the next, for addresses that nobody has.
    let nobody = [203, 0, 113, 9];
    let jumps =
        |next: usize| vec![rule(1, vec![to(&nobody), from(&nobody)], Fate::Jump(format!("chain{next}"))); 10];
    let mut chains: Vec<(String, Vec<Rule>)> = (1..15).map(|n| (format!("chain{n}"), jumps(n + 1))).collect();
    chains.push(("base".to_owned(), jumps(1)));
    let chains: Vec<(&str, Vec<Rule>)> =
        chains.iter().map(|(name, rules)| (&**name, rules.clone())).collect();
    assert_eq!(walked("forward", &chains, &[]), unfinished());
}
