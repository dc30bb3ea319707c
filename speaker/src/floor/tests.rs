use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_secs(60);

/// One endpoint of each Service: `r` ready, `n` not ready, `t` terminating, ` ` not listed.
#[derive(Clone)]
struct World {
    states: Vec<Vec<char>>,
}

fn name(n: usize) -> ObjectName {
    ObjectName::new("shop", format!("web-{n:02}"))
}

fn address(n: usize) -> IpAddr {
    IpAddr::from([10, 244, 1, n as u8])
}

fn number(service: &ObjectName) -> usize {
    service.name.trim_start_matches("web-").parse().unwrap()
}

impl Look for World {
    fn usable(&self, service: &ObjectName) -> bool {
        self.states[number(service)].contains(&'r')
    }

    fn waiting(&self, service: &ObjectName) -> BTreeSet<IpAddr> {
        let states = self.states[number(service)].iter().enumerate();
        states.filter(|(_, state)| **state == 'n').map(|(n, _)| address(n)).collect()
    }

    fn count_usable(&self) -> usize {
        self.states.iter().filter(|states| states.contains(&'r')).count()
    }
}

struct Case {
    floor: Floor,
    world: World,
    start: Instant,
    held: BTreeMap<usize, BTreeSet<IpAddr>>,
}

impl Case {
    /// So many Services with these endpoints.
    fn new(services: usize, states: &str) -> Self {
        let world = World { states: vec![states.chars().collect(); services] };
        Self { floor: Floor::default(), world, start: Instant::now(), held: BTreeMap::new() }
    }

    /// At a second, Services become like this, all in one batch; returns how many are held then.
    fn at(&mut self, second: u64, services: impl IntoIterator<Item = usize>, states: &str) -> usize {
        self.step(second, GRACE, services.into_iter().map(|n| (n, states.chars().collect())).collect())
    }

    fn step(&mut self, second: u64, grace: Duration, next: Vec<(usize, Vec<char>)>) -> usize {
        let mut losses = BTreeMap::new();
        let mut touched = BTreeSet::new();
        for (n, states) in next {
            let before = std::mem::replace(&mut self.world.states[n], states);
            let lost: BTreeSet<IpAddr> = (0..before.len())
                .filter(|at| before[*at] == 'r' && self.world.states[n].get(*at) != Some(&'r'))
                .map(address)
                .collect();
            if !lost.is_empty() {
                losses.insert(name(n), lost);
            }
            touched.insert(name(n));
        }
        let now = self.start + Duration::from_secs(second);
        for (service, change) in self.floor.step(now, grace, losses, &touched, &self.world) {
            match change {
                Change::Held(addresses) => {
                    assert!(self.held.insert(number(&service), (*addresses).clone()).is_none());
                }
                Change::Narrowed(addresses) => {
                    let before = self.held.insert(number(&service), (*addresses).clone()).unwrap();
                    assert!(addresses.is_subset(&before) && addresses.len() < before.len());
                }
                Change::Released(_) => assert!(self.held.remove(&number(&service)).is_some()),
            }
        }
        assert_eq!(self.held.len(), self.floor.count());
        self.held.len()
    }
}

#[test]
fn many_that_fall_at_once_are_held_and_few_are_not() {
    for (services, fall, held) in
        [(20, 1, 0), (20, 4, 0), (20, 5, 5), (5, 5, 5), (4, 4, 0), (50, 9, 0), (50, 10, 10)]
    {
        let mut case = Case::new(services, "rr");
        assert_eq!(case.at(0, 0..fall, "nn"), held, "{fall} of {services}");
        assert!(case.held.values().all(|addresses| addresses.len() == 2));
    }
}

#[test]
fn those_that_fell_before_the_threshold_was_reached_are_held_with_the_others() {
    let mut case = Case::new(20, "r");
    for n in 0..4 {
        assert_eq!(case.at(n as u64, [n], "n"), 0);
    }
    assert_eq!(case.at(5, [4], "n"), 5);
    assert_eq!(case.at(9, [5], "n"), 6, "so is the next one");
    assert_eq!(case.at(25, [6], "n"), 6, "one that falls much later is on its own");
}

#[test]
fn falls_that_are_far_apart_are_not_at_once() {
    let mut case = Case::new(20, "r");
    for n in 0..10 {
        assert_eq!(case.at(3 * n as u64, [n], "n"), 0, "at most four within the window");
    }
}

#[test]
fn what_was_lost_bit_by_bit_within_the_window_is_held_together() {
    let mut case = Case::new(5, "rrr");
    case.at(0, 0..5, "nrr");
    case.at(1, 0..5, "nnr");
    assert_eq!(case.at(2, 0..5, "nnn"), 5);
    assert!(case.held.values().all(|addresses| addresses.len() == 3), "{:?}", case.held);
    let mut case = Case::new(5, "rr");
    case.at(0, 0..5, "nr");
    assert_eq!(case.at(12, 0..5, "nn"), 5);
    assert!(case.held.values().all(|addresses| addresses.len() == 1), "the first was lost long before");
}

#[test]
fn what_is_deleted_scaled_to_zero_or_terminating_is_not_held() {
    for states in ["", "  ", "tt", "t "] {
        assert_eq!(Case::new(10, "rr").at(0, 0..10, states), 0, "{states:?}");
    }
    let mut case = Case::new(10, "rr");
    assert_eq!(case.at(0, 0..10, "nn"), 10);
    assert_eq!(case.at(1, 0..5, "n "), 10);
    assert_eq!(case.held[&0].len(), 1);
    assert_eq!(case.at(2, 0..5, "t "), 5);
    assert_eq!(case.at(3, 5..10, ""), 0);
}

#[test]
fn a_usable_endpoint_or_the_end_of_the_grace_releases_and_the_same_loss_is_not_held_again() {
    let mut case = Case::new(10, "r");
    assert_eq!(case.at(0, 0..10, "n"), 10);
    assert_eq!(case.at(7, [0], "r"), 9);
    assert_eq!(case.floor.next_deadline(), Some(case.start + GRACE));
    assert_eq!(case.at(59, [], ""), 9);
    assert_eq!(case.at(60, [], ""), 0);
    assert_eq!(case.floor.next_deadline(), None);
    assert_eq!(case.at(61, 0..10, "n"), 0, "they have been not ready all the time, but for one");
    assert_eq!(case.at(62, 0..10, "r"), 0);
    assert_eq!(case.at(63, 0..10, "n"), 10, "a new incident");

    let mut case = Case::new(10, "r");
    let short = Duration::from_secs(2);
    let all = |state: char| (0..10).map(|n| (n, vec![state])).collect::<Vec<_>>();
    assert_eq!(case.step(0, short, all('n')), 10);
    assert_eq!(case.step(2, short, all('n')), 0, "a grace shorter than the window");
}

#[test]
fn without_grace_nothing_is_held_and_what_was_is_released() {
    let mut case = Case::new(10, "r");
    let all = |state: char| (0..10).map(|n| (n, vec![state])).collect::<Vec<_>>();
    assert_eq!(case.step(0, Duration::ZERO, all('n')), 0);
    case.step(1, GRACE, all('r'));
    assert_eq!(case.step(2, GRACE, all('n')), 10);
    assert_eq!(case.step(3, Duration::ZERO, Vec::new()), 0);
}

proptest! {
    /// Whatever happens: what is held is listed and waits, belongs to a Service without a usable endpoint, and ends by the grace.
    #[test]
    fn only_listed_endpoints_are_held_and_never_beyond_the_grace(
        batches in proptest::collection::vec(
            (0..8u64, proptest::collection::vec((0..12usize, proptest::collection::vec(proptest::sample::select(vec!['r', 'n', 'n', 't', ' ']), 0..3)), 0..14)),
            1..40,
        ),
    ) {
        let grace = Duration::from_secs(20);
        let mut case = Case::new(12, "rrr");
        let mut second = 0;
        let mut since: BTreeMap<usize, u64> = BTreeMap::new();
        for (pause, batch) in batches {
            second += pause;
            case.step(second, grace, batch.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect());
            since.retain(|n, _| case.held.contains_key(n));
            for (n, addresses) in &case.held {
                prop_assert!(!addresses.is_empty() && addresses.is_subset(&case.world.waiting(&name(*n))));
                prop_assert!(!case.world.usable(&name(*n)));
                prop_assert!(second - *since.entry(*n).or_insert(second) < 20);
            }
        }
        prop_assert_eq!(case.step(second + 20, grace, Vec::new()), 0);
    }
}
