use std::pin::pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

const LINGER: Duration = Duration::from_secs(1);

/// A kernel and a router that obey, except for the Services and addresses they are told to refuse; and that panic
/// when the order is broken.
#[derive(Debug, Default)]
struct World {
    now: Option<Instant>,
    refused: BTreeSet<ObjectName>,
    refused_addresses: BTreeSet<IpAddr>,
    kernel_gone: bool,
    tables_gone: bool,
    tables_lost: bool,
    repairs: usize,
    rules: BTreeMap<ObjectName, u8>,
    lingering: BTreeSet<ObjectName>,
    addresses: BTreeSet<IpAddr>,
    routes: ByPrefix<Arc<Attributes>>,
    offers: BTreeMap<IpAddr, Offered>,
    withdrawn_at: BTreeMap<IpNet, Instant>,
    installs: usize,
    log: Vec<String>,
}

impl World {
    fn refuses<R>(&self, rules: &BTreeMap<ObjectName, R>) -> anyhow::Result<()> {
        anyhow::ensure!(!self.kernel_gone, "no kernel");
        anyhow::ensure!(!rules.keys().any(|service| self.refused.contains(service)), "EINVAL");
        Ok(())
    }
}

impl Effects for World {
    type Rules = u8;

    async fn withdraw(&mut self, prefixes: &BTreeSet<IpNet>) {
        self.log.push(format!("withdraw {prefixes:?}"));
        for prefix in prefixes {
            assert!(self.routes.remove(prefix).is_some(), "withdrew {prefix}, which is not out");
            self.withdrawn_at.insert(*prefix, self.now.unwrap());
        }
    }

    async fn announce(&mut self, routes: &ByPrefix<Arc<Attributes>>) {
        self.log.push(format!("announce {:?}", routes.keys().collect::<Vec<_>>()));
        for prefix in routes.keys() {
            let IpNet::V4(prefix) = prefix else { panic!("only IPv4 here") };
            let n = prefix.addr().octets()[3];
            // Service n holds address n; aggregates of several Services have no rules of their own.
            if prefix.prefix_len() == 32 {
                assert!(self.rules.contains_key(&name(n)), "announced {prefix} before its rules");
            }
        }
        self.routes.append(routes.clone());
    }

    fn retract(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.log.push(format!("retract {addresses:?}"));
        for address in addresses {
            assert!(self.offers.remove(address).is_some(), "retracted {address}, which is not offered");
            self.withdrawn_at.insert((*address).into(), self.now.unwrap());
        }
    }

    fn offer(&mut self, offers: &BTreeMap<IpAddr, Offered>) {
        self.log.push(format!("offer {:?}", offers.keys()));
        for address in offers.keys() {
            let IpAddr::V4(v4) = address else { panic!("only IPv4 here") };
            assert!(self.rules.contains_key(&name(v4.octets()[3])), "offered {address} before its rules");
        }
        self.offers.extend(offers.clone());
    }

    async fn replace(&mut self, rules: &BTreeMap<ObjectName, Option<u8>>) -> anyhow::Result<()> {
        self.installs += 1;
        self.refuses(rules)?;
        self.tables_gone = false;
        self.log.push("replace".to_owned());
        self.rules = rules.iter().filter_map(|(service, rules)| Some((service.clone(), (*rules)?))).collect();
        Ok(())
    }

    async fn settled(&mut self, routes: &ByPrefix<Arc<Attributes>>) {
        assert_eq!(&self.routes, routes);
    }

    async fn install(
        &mut self,
        rules: &BTreeMap<ObjectName, Option<u8>>,
        former: &BTreeMap<ObjectName, u8>,
    ) -> anyhow::Result<()> {
        assert!(former.iter().all(|(service, rules)| self.rules.get(service) == Some(rules)));
        self.installs += 1;
        self.refuses(rules)?;
        self.log.push("install".to_owned());
        for (service, rules) in rules {
            match rules {
                Some(rules) => {
                    self.rules.insert(service.clone(), *rules);
                    self.lingering.remove(service);
                }
                None => {
                    self.lingering.insert(service.clone());
                }
            }
        }
        Ok(())
    }

    async fn intact(&mut self) -> bool {
        !self.tables_gone
    }

    async fn repair(&mut self) -> anyhow::Result<bool> {
        self.repairs += 1;
        anyhow::ensure!(!self.kernel_gone && !self.tables_lost, "no kernel");
        Ok(std::mem::take(&mut self.tables_gone))
    }

    async fn remove(&mut self, services: &BTreeSet<ObjectName>) -> anyhow::Result<()> {
        self.log.push("remove".to_owned());
        let now = self.now.unwrap();
        for service in services {
            if !self.lingering.remove(service) {
                continue;
            }
            let n: u8 = service.name[4..].parse().unwrap();
            let prefix = route(n);
            assert!(!self.routes.contains_key(&prefix), "rules go while {prefix} is out");
            if let Some(at) = self.withdrawn_at.get(&prefix) {
                assert!(now.duration_since(*at) >= LINGER, "rules go within the linger of {prefix}");
            }
            assert!(!self.addresses.contains(&vip(n)), "rules go before the address on lo");
            self.rules.remove(service);
        }
        Ok(())
    }

    async fn add_address(&mut self, address: IpAddr) -> anyhow::Result<()> {
        anyhow::ensure!(!self.refused_addresses.contains(&address), "EACCES");
        self.log.push(format!("add {address}"));
        self.addresses.insert(address);
        Ok(())
    }

    async fn remove_address(&mut self, address: IpAddr) -> anyhow::Result<()> {
        self.log.push(format!("drop {address}"));
        self.addresses.remove(&address);
        Ok(())
    }
}

/// Polls a future that never waits.
fn run<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the recording world never waits"),
    }
}

fn name(n: u8) -> ObjectName {
    ObjectName::new("shop", format!("svc-{n}"))
}

fn vip(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

fn route(n: u8) -> IpNet {
    vip(n).into()
}

fn served(n: u8, rules: u8) -> (ObjectName, Desired<u8>) {
    let claims = Claims {
        routes: [(route(n), Arc::default())].into_iter().collect(),
        addresses: BTreeSet::from([vip(n)]),
        offers: BTreeMap::from([(vip(n), Offered::default())]),
    };
    (name(n), Desired { rules: Some(rules), claims })
}

fn gone(n: u8) -> (ObjectName, Desired<u8>) {
    (name(n), Desired::default())
}

/// A Service that serves less than before is told by a smaller number.
fn applier() -> (Applier<World>, Instant) {
    let now = Instant::now();
    let world = World { now: Some(now), ..World::default() };
    (Applier::new(world, LINGER, &BTreeSet::new()), now)
}

fn expire(applier: &mut Applier<World>, now: Instant) {
    applier.effects.now = Some(now);
    run(applier.expire(now));
}

#[test]
fn the_first_batch_replaces_the_tables_also_when_there_is_no_service() {
    let (mut applier, now) = applier();
    run(applier.apply(now, BTreeMap::new()));
    assert_eq!(applier.effects.log, ["replace"]);
    assert!(applier.programmed());
}

#[test]
fn a_service_goes_up_in_order_and_down_in_order() {
    let (mut applier, now) = applier();
    run(applier.apply(now, BTreeMap::new()));
    run(applier.apply(now, BTreeMap::from([served(1, 0)])));
    run(applier.apply(now, BTreeMap::from([gone(1)])));
    assert_eq!(applier.next_deadline(), Some(now + LINGER));
    expire(&mut applier, now + LINGER);
    let log: Vec<_> = applier.effects.log.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(
        log,
        [
            "replace", "install", "add", "announce", "offer", "withdraw", "retract", "install", "drop",
            "remove",
        ]
    );
    assert_eq!(applier.next_deadline(), None);
}

#[test]
fn tables_that_others_removed_are_put_back_without_a_word_to_the_peers() {
    let (mut applier, now) = applier();
    run(applier.apply(now, BTreeMap::from([served(1, 0)])));
    run(applier.verify(now + VERIFY));
    assert!(applier.programmed());
    applier.effects.tables_gone = true;
    run(applier.verify(now + VERIFY * 3 / 2));
    assert!(applier.programmed(), "asked too often");
    run(applier.verify(now + VERIFY * 2));
    assert!(applier.programmed() && applier.effects.repairs == 1);
    assert_eq!(applier.next_verification(), Some(now + VERIFY * 3));
    assert_eq!(applier.effects.log.last().unwrap(), "offer [192.0.2.1]");
}

#[test]
fn a_suspicion_is_looked_into_at_once_and_what_cannot_be_mended_is_programmed_anew() {
    let (mut applier, now) = applier();
    assert_eq!(run(applier.verify(now)), Look::None, "nothing is programmed");
    run(applier.apply(now, BTreeMap::from([served(1, 0)])));
    let soon = now + VERIFY / 10;
    applier.suspect();
    assert!(applier.next_verification().unwrap() <= soon);
    assert_eq!(run(applier.verify(soon)), Look::Intact);
    assert_eq!(run(applier.verify(soon)), Look::None);
    applier.effects.tables_gone = true;
    applier.suspect();
    assert_eq!(run(applier.verify(soon)), Look::Mended);
    applier.effects.tables_lost = true;
    applier.suspect();
    assert_eq!(run(applier.verify(soon)), Look::Lost);
    assert!(!applier.programmed());
    assert_eq!(applier.next_verification(), None);
    applier.effects.log.clear();
    run(applier.apply(soon, BTreeMap::from([served(1, 0)])));
    assert_eq!(applier.effects.log, ["replace"]);
    assert_eq!(applier.next_verification(), Some(soon + VERIFY));
}

#[test]
fn when_tables_that_others_removed_cannot_be_put_back_everything_is_withdrawn_until_they_can() {
    let (mut applier, now) = applier();
    let all = || BTreeMap::from([served(1, 0), served(2, 0)]);
    run(applier.apply(now, all()));
    (applier.effects.tables_gone, applier.effects.kernel_gone) = (true, true);
    applier.effects.rules.clear();
    applier.effects.now = Some(now + VERIFY);
    run(applier.verify(now + VERIFY));
    run(applier.apply(now + VERIFY, all()));
    assert!(applier.effects.routes.is_empty() && !applier.programmed());
    applier.effects.kernel_gone = false;
    run(applier.apply(now + VERIFY * 2, all()));
    assert!(applier.programmed() && applier.failed() == 0);
    assert_eq!(applier.effects.routes.len(), 2);
    expire(&mut applier, now + VERIFY * 4);
    assert_eq!(applier.effects.addresses, BTreeSet::from([vip(1), vip(2)]));
}

#[test]
fn a_service_that_is_refused_when_the_tables_are_put_back_is_announced_only_after_its_rules_are_there() {
    let (mut applier, now) = applier();
    let all = || BTreeMap::from([served(1, 0), served(2, 0)]);
    run(applier.apply(now, all()));
    (applier.effects.tables_gone, applier.effects.tables_lost) = (true, true);
    applier.effects.rules.clear();
    applier.effects.refused = BTreeSet::from([name(1)]);
    applier.effects.now = Some(now + VERIFY);
    run(applier.verify(now + VERIFY));
    run(applier.apply(now + VERIFY, all()));
    assert_eq!(applier.effects.routes.keys().collect::<Vec<_>>(), [route(2)]);
    applier.effects.refused.clear();
    let again = applier.next_deadline().unwrap();
    assert_eq!(applier.take_due(again), [name(1)]);
    run(applier.apply(again, BTreeMap::from([served(1, 0)])));
    assert_eq!(applier.effects.routes.len(), 2);
}

#[test]
fn a_service_that_comes_back_within_the_linger_keeps_its_rules() {
    let (mut applier, now) = applier();
    run(applier.apply(now, BTreeMap::from([served(1, 0)])));
    run(applier.apply(now, BTreeMap::from([gone(1)])));
    run(applier.apply(now, BTreeMap::from([served(1, 0)])));
    expire(&mut applier, now + LINGER * 2);
    assert!(applier.effects.rules.contains_key(&name(1)));
    assert!(applier.effects.addresses.contains(&vip(1)));
    assert!(applier.effects.routes.contains_key(&route(1)));
}

#[test]
fn one_refused_service_of_many_is_found_and_the_others_are_announced() {
    let (mut applier, now) = applier();
    applier.effects.refused.insert(name(37));
    run(applier.apply(now, (0..100).map(|n| served(n, 0)).collect()));
    assert_eq!(applier.effects.routes.len(), 99);
    assert!(!applier.effects.routes.contains_key(&route(37)));
    assert_eq!(applier.failure(&name(37)).map(|failure| failure.reason), Some(Reason::RulesRefused));
    assert!(applier.effects.installs < 20, "halving takes few tries, not {}", applier.effects.installs);
}

#[test]
fn refused_rules_withdraw_what_is_out_already() {
    let (mut applier, now) = applier();
    run(applier.apply(now, BTreeMap::from([served(1, 0), served(2, 0)])));
    applier.effects.refused.insert(name(1));
    run(applier.apply(now, BTreeMap::from([served(1, 9), served(2, 9)])));
    assert_eq!(applier.effects.routes.keys().collect::<Vec<_>>(), [route(2)]);
    assert_eq!(applier.effects.rules[&name(2)], 9);
}

#[test]
fn a_failed_service_is_tried_again_with_growing_pauses_and_announced_when_it_works() {
    let (mut applier, now) = applier();
    applier.effects.refused.insert(name(1));
    run(applier.apply(now, BTreeMap::from([served(1, 0)])));
    let first = applier.next_deadline().unwrap();
    assert!(applier.take_due(now).is_empty());
    assert_eq!(applier.take_due(first), [name(1)]);
    run(applier.apply(first, BTreeMap::from([served(1, 0)])));
    let second = applier.next_deadline().unwrap();
    assert!(second - first > first - now);
    applier.effects.refused.clear();
    run(applier.apply(second, BTreeMap::from([served(1, 0)])));
    assert!(applier.effects.routes.contains_key(&route(1)));
    assert_eq!(applier.failure(&name(1)), None);
    assert_eq!(applier.next_deadline(), None);
}

#[test]
fn a_kernel_that_refuses_everything_is_not_asked_for_each_service() {
    let (mut applier, now) = applier();
    applier.effects.kernel_gone = true;
    run(applier.apply(now, (0..200).map(|n| served(n, 0)).collect()));
    assert!(applier.effects.routes.is_empty() && !applier.programmed());
    assert!(applier.effects.installs < 60, "{}", applier.effects.installs);
}

#[test]
fn a_refused_local_address_stops_the_announcement_of_its_services_only() {
    let (mut applier, now) = applier();
    applier.effects.refused_addresses.insert(vip(1));
    run(applier.apply(now, BTreeMap::from([served(1, 0), served(2, 0)])));
    assert_eq!(applier.effects.routes.keys().collect::<Vec<_>>(), [route(2)]);
    assert_eq!(applier.failure(&name(1)).map(|failure| failure.reason), Some(Reason::LocalAddressRefused));
}

#[test]
fn an_address_of_two_services_stays_when_one_of_them_goes() {
    let (mut applier, now) = applier();
    let (_, shared) = served(1, 0);
    run(applier.apply(now, BTreeMap::from([(name(1), shared.clone()), (name(2), shared)])));
    run(applier.apply(now, BTreeMap::from([gone(2)])));
    expire(&mut applier, now + LINGER);
    assert!(applier.effects.routes.contains_key(&route(1)) && applier.effects.addresses.contains(&vip(1)));
}

#[test]
fn adopted_addresses_that_nobody_wants_go_after_the_first_batch() {
    let now = Instant::now();
    let world = World { now: Some(now), ..World::default() };
    let mut applier = Applier::new(world, LINGER, &BTreeSet::from([vip(1), vip(2)]));
    run(applier.apply(now, BTreeMap::from([served(1, 0)])));
    expire(&mut applier, now + LINGER);
    assert!(applier.effects.log.contains(&"drop 192.0.2.2".to_owned()));
    assert!(!applier.effects.log.contains(&"drop 192.0.2.1".to_owned()));
}

#[test]
fn stopping_withdraws_everything_and_removes_nothing() {
    let (mut applier, now) = applier();
    run(applier.apply(now, BTreeMap::from([served(1, 0), served(2, 0)])));
    run(applier.withdraw_all(now));
    expire(&mut applier, now + LINGER);
    assert!(applier.effects.routes.is_empty());
    assert_eq!((applier.effects.rules.len(), applier.effects.addresses.len()), (2, 2));
    assert_eq!(applier.next_deadline(), None);
}

/// One thing that happens to a node.
#[derive(Debug, Clone)]
enum Happens {
    Change(BTreeMap<u8, Option<u8>>),
    Refuse(BTreeSet<u8>),
    Wait(u64),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => proptest::collection::btree_map(0u8..5, proptest::option::of(0u8..3), 1..4).prop_map(Happens::Change),
        1 => proptest::collection::btree_set(0u8..5, 0..3).prop_map(Happens::Refuse),
        2 => (1u64..2000).prop_map(Happens::Wait),
    ]
}

proptest! {
    /// The recording world asserts the order of every effect; here: whatever happens, it ends as desired.
    #[test]
    fn whatever_happens_the_order_holds_and_the_node_ends_as_desired(
        story in proptest::collection::vec(happens(), 1..25)
    ) {
        let (mut applier, mut now) = applier();
        let mut wanted: BTreeMap<u8, Option<u8>> = BTreeMap::new();
        run(applier.apply(now, BTreeMap::new()));
        let desired = |n: u8, rules: Option<u8>| rules.map_or_else(|| gone(n), |rules| served(n, rules));
        for event in story {
            match event {
                Happens::Change(changes) => {
                    run(applier.apply(now, changes.iter().map(|(n, rules)| desired(*n, *rules)).collect()));
                    wanted.extend(changes);
                }
                Happens::Refuse(services) => {
                    applier.effects.refused = services.into_iter().map(name).collect();
                }
                Happens::Wait(milliseconds) => {
                    now += Duration::from_millis(milliseconds);
                    expire(&mut applier, now);
                }
            }
            for service in applier.failures.keys() {
                let n: u8 = service.name[4..].parse().unwrap();
                prop_assert!(!applier.effects.routes.contains_key(&route(n)), "a failed Service is announced");
            }
        }
        applier.effects.refused.clear();
        now += RETRY_MAX;
        applier.effects.now = Some(now);
        let due = applier.take_due(now);
        let again = due.iter().map(|service| service.name[4..].parse::<u8>().unwrap());
        run(applier.apply(now, again.map(|n| desired(n, wanted[&n])).collect()));
        now += RETRY_MAX;
        expire(&mut applier, now);
        let expected: BTreeMap<_, _> =
            wanted.iter().filter_map(|(n, rules)| Some((name(*n), (*rules)?))).collect();
        prop_assert_eq!(&applier.effects.rules, &expected);
        prop_assert_eq!(applier.effects.routes.len(), expected.len());
        prop_assert_eq!(applier.effects.addresses.len(), expected.len());
        prop_assert_eq!(&applier.applied.routes, &applier.effects.routes);
        prop_assert_eq!(applier.next_deadline(), None);
    }
}
