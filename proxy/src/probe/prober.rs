//! All probes of a node: which are due, and what their outcomes make of each Service. Pure.
//!
//! Each socket begins at its own point of the interval, drawn from a hash of its address, so that a thousand of them do
//! not begin in one millisecond; from then on each keeps its own beat. One probe at a time per socket, [`IN_FLIGHT`]
//! in all: more than that many sockets that hang are probed less often, and nothing is queued beyond its own deadline.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_runtime::ObjectName;

use super::attempt::Outcome;
use super::endpoint::{Endpoint, Transition};
use super::spec::ProbeSpec;
use super::state::{LastGood, Probed, ServiceProbes};
use super::targets::Targets;

/// Probes at the same time.
pub(super) const IN_FLIGHT: usize = 512;

/// A probe to make.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// To be handed back with the outcome.
    pub id: u64,
    /// How.
    pub spec: Arc<ProbeSpec>,
    /// Where.
    pub to: SocketAddr,
}

#[derive(Debug)]
struct Service {
    targets: Arc<Targets>,
    endpoints: BTreeMap<SocketAddr, (u64, Endpoint)>,
    last_good: LastGood,
    told: Option<Arc<ServiceProbes>>,
}

/// All probes of a node.
#[derive(Debug, Default)]
pub struct Prober {
    services: BTreeMap<ObjectName, Service>,
    sockets: HashMap<u64, (ObjectName, SocketAddr)>,
    due: BTreeSet<(Instant, u64)>,
    last_id: u64,
    in_flight: usize,
    transitions: [u64; 2],
}

impl Prober {
    /// From now on these are probed and no others; returns the Services whose verdict changed by that. What is probed as
    /// before keeps its state.
    pub fn set(&mut self, now: Instant, desired: &BTreeMap<ObjectName, Arc<Targets>>) -> Vec<ObjectName> {
        let mut changed = Vec::new();
        let gone: Vec<_> = self.services.keys().filter(|name| !desired.contains_key(name)).cloned().collect();
        for name in gone {
            if let Some(service) = self.services.remove(&name) {
                service.endpoints.values().for_each(|(id, endpoint)| self.forget(*id, endpoint));
                changed.push(name);
            }
        }
        for (name, targets) in desired {
            if self.services.get(name).is_some_and(|service| Arc::ptr_eq(&service.targets, targets)) {
                continue;
            }
            self.set_service(now, name, targets);
            if self.judge(name) {
                changed.push(name.clone());
            }
        }
        changed
    }

    fn set_service(&mut self, now: Instant, name: &ObjectName, targets: &Arc<Targets>) {
        let former = self.services.remove(name);
        let (mut last_good, mut told, mut endpoints) = (LastGood::default(), None, BTreeMap::new());
        if let Some(former) = former {
            told = former.told;
            let kept = former.targets.spec == targets.spec;
            for (socket, (id, endpoint)) in former.endpoints {
                if kept && targets.sockets.contains(&socket) {
                    endpoints.insert(socket, (id, endpoint));
                } else {
                    self.forget(id, &endpoint);
                }
            }
            if kept {
                last_good = former.last_good;
            }
        }
        for &socket in &targets.sockets {
            endpoints.entry(socket).or_insert_with(|| {
                self.last_id += 1;
                let id = self.last_id;
                let first = now + phase(name, socket, targets.spec.interval);
                self.sockets.insert(id, (name.clone(), socket));
                self.due.insert((first, id));
                (id, Endpoint::new(first))
            });
        }
        self.services
            .insert(name.clone(), Service { targets: Arc::clone(targets), endpoints, last_good, told });
    }

    fn forget(&mut self, id: u64, endpoint: &Endpoint) {
        self.sockets.remove(&id);
        if let Some(next) = endpoint.next_deadline() {
            self.due.remove(&(next, id));
        }
    }

    /// The probes that are to begin now; each is to be answered by [`Self::handle`].
    pub fn due(&mut self, now: Instant) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        while self.in_flight < IN_FLIGHT {
            let Some(&(next, id)) = self.due.first().filter(|(next, _)| *next <= now) else { break };
            self.due.remove(&(next, id));
            let Some((name, socket)) = self.sockets.get(&id) else { continue };
            let Some(service) = self.services.get_mut(name) else { continue };
            let Some((_, endpoint)) = service.endpoints.get_mut(socket) else { continue };
            endpoint.begin(now);
            self.in_flight += 1;
            attempts.push(Attempt { id, spec: Arc::clone(&service.targets.spec), to: *socket });
        }
        attempts
    }

    /// A probe has ended; returns the Service whose verdict changed by that.
    pub fn handle(&mut self, now: Instant, id: u64, outcome: Outcome) -> Option<ObjectName> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let (name, socket) = self.sockets.get(&id)?;
        let service = self.services.get_mut(name)?;
        let (_, endpoint) = service.endpoints.get_mut(socket)?;
        let proven = endpoint.proven;
        let transition = endpoint.handle(now, &service.targets.spec, outcome);
        self.due.extend(endpoint.next_deadline().map(|next| (next, id)));
        match transition {
            Some(Transition::Failed) => self.transitions[0] += 1,
            Some(Transition::Recovered) => self.transitions[1] += 1,
            None if proven == endpoint.proven => return None,
            None => {}
        }
        let name = name.clone();
        self.judge(&name).then_some(name)
    }

    /// When [`Self::due`] has something again; `None` while there is no room for it either.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (next, _) = self.due.first().filter(|_| self.in_flight < IN_FLIGHT)?;
        Some(*next)
    }

    /// What the probes say about a Service; `None` when it is not probed.
    pub fn verdict(&self, service: &ObjectName) -> Option<&Arc<ServiceProbes>> {
        self.services.get(service)?.told.as_ref()
    }

    /// Sockets that are probed, and those of them that fail.
    pub fn counts(&self) -> (usize, usize) {
        let failing = self
            .services
            .values()
            .filter_map(|service| service.told.as_ref())
            .map(|told| told.failing.len())
            .sum();
        (self.sockets.len(), failing)
    }

    /// How often an endpoint has failed and recovered so far.
    pub fn transitions(&self) -> [u64; 2] {
        self.transitions
    }

    /// Makes a Service's verdict anew; true when it is another one.
    fn judge(&mut self, name: &ObjectName) -> bool {
        let Some(service) = self.services.get_mut(name) else { return false };
        let probed =
            |(_, endpoint): &(u64, Endpoint)| Probed { failing: endpoint.failing, proven: endpoint.proven };
        let sockets = service.endpoints.iter().map(|(socket, state)| (*socket, probed(state))).collect();
        let verdict = ServiceProbes {
            targets: Arc::clone(&service.targets),
            failing: service.last_good.stand(&sockets),
        };
        let changed = service.told.as_deref() != Some(&verdict);
        if changed {
            service.told = Some(Arc::new(verdict));
        }
        changed
    }
}

/// Where in the interval a socket has its beat.
fn phase(service: &ObjectName, socket: SocketAddr, interval: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    (&service.namespace, &service.name, socket).hash(&mut hasher);
    interval.mul_f64((hasher.finish() >> 32) as f64 / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::attempt::Failure;
    use crate::probe::state::ProbeState;
    use crate::testing::socket;

    const MS: Duration = Duration::from_millis(1);
    const REFUSED: Outcome = Outcome::Failed(Failure::Refused);

    fn web() -> ObjectName {
        ObjectName::new("shop", "web")
    }

    fn targets(spec: &str, sockets: &[&str]) -> BTreeMap<ObjectName, Arc<Targets>> {
        let spec = Arc::new(ProbeSpec::parse(spec).unwrap());
        [(web(), Arc::new(Targets { spec, sockets: sockets.iter().map(|at| socket(at)).collect() }))].into()
    }

    /// Runs until then; the sockets of `dead` refuse. Returns every verdict with its time.
    fn run(
        prober: &mut Prober,
        (from, until): (Instant, Instant),
        dead: &[&str],
    ) -> Vec<(Duration, Arc<ServiceProbes>)> {
        let dead: Vec<SocketAddr> = dead.iter().map(|at| socket(at)).collect();
        let mut verdicts = Vec::new();
        while let Some(now) = prober.next_deadline().filter(|next| *next < until) {
            for attempt in prober.due(now.max(from)) {
                let outcome = if dead.contains(&attempt.to) { REFUSED } else { Outcome::Passed };
                if let Some(name) = prober.handle(now.max(from), attempt.id, outcome) {
                    verdicts.push((now - from, prober.verdict(&name).unwrap().clone()));
                }
            }
        }
        verdicts
    }

    #[test]
    fn a_failing_endpoint_is_told_once_and_its_return_too() {
        let (a, b) = ("10.244.1.1:8080", "10.244.1.2:8080");
        let start = Instant::now();
        let mut prober = Prober::default();
        assert_eq!(prober.set(start, &targets("tcp interval=100ms", &[a, b])), [web()]);
        let at = |n: u32| start + MS * 1000 * n;
        assert!(run(&mut prober, (at(0), at(1)), &[]).is_empty(), "all is well");
        let verdicts = run(&mut prober, (at(1), at(2)), &[b]);
        let [(when, verdict)] = verdicts.as_slice() else { panic!("{verdicts:?}") };
        assert!(*when <= 300 * MS, "{when:?}");
        assert_eq!(verdict.failing, [(socket(b), (ProbeState::Failed, Failure::Refused))].into());
        assert_eq!(prober.counts(), (2, 1));
        let verdicts = run(&mut prober, (at(2), at(3)), &[]);
        let [(when, verdict)] = verdicts.as_slice() else { panic!("{verdicts:?}") };
        assert!(*when <= 200 * MS && verdict.failing.is_empty(), "{when:?}");
        assert_eq!(prober.transitions(), [1, 1]);
    }

    #[test]
    fn what_is_probed_as_before_keeps_its_state_and_a_new_spec_begins_anew() {
        let (a, b, c) = ("10.244.1.1:8080", "10.244.1.2:8080", "10.244.1.3:8080");
        let start = Instant::now();
        let mut prober = Prober::default();
        prober.set(start, &targets("tcp interval=100ms", &[a, b]));
        run(&mut prober, (start, start + MS * 500), &[]);
        run(&mut prober, (start + MS * 500, start + MS * 1000), &[b]);
        let later = start + MS * 1000;
        prober.set(later, &targets("tcp interval=100ms", &[b, c]));
        let verdict = prober.verdict(&web()).unwrap();
        assert!(verdict.failing.contains_key(&socket(b)) && verdict.failing.len() == 1, "{verdict:?}");
        prober.set(later, &targets("tcp interval=200ms", &[b, c]));
        assert!(prober.verdict(&web()).unwrap().failing.is_empty());
        assert_eq!(prober.set(later, &BTreeMap::new()), [web()]);
        assert_eq!((prober.next_deadline(), prober.counts()), (None, (0, 0)));
        assert!(prober.sockets.is_empty() && prober.due.is_empty());
    }

    #[test]
    fn an_outcome_of_what_is_not_probed_any_more_says_nothing_and_frees_its_place() {
        let start = Instant::now();
        let mut prober = Prober::default();
        prober.set(start, &targets("tcp fail=1", &["10.244.1.1:8080"]));
        let attempts = prober.due(start + MS * 1000);
        prober.set(start, &BTreeMap::new());
        assert_eq!(prober.handle(start, attempts[0].id, REFUSED), None);
        assert_eq!(prober.in_flight, 0);
    }

    #[test]
    fn a_thousand_sockets_are_spread_over_the_interval_and_no_more_than_the_bound_are_under_way() {
        let at: Vec<String> = (0..1000).map(|n| format!("10.244.{}.{}:80", n / 250, n % 250)).collect();
        let at: Vec<&str> = at.iter().map(String::as_str).collect();
        let start = Instant::now();
        let mut prober = Prober::default();
        prober.set(start, &targets("tcp interval=100ms", &at));
        let mut most = 0;
        let mut due = 0;
        for n in 0..100 {
            let attempts = prober.due(start + MS * n);
            most = most.max(attempts.len());
            due += attempts.len();
            attempts
                .iter()
                .for_each(|attempt| drop(prober.handle(start + MS * n, attempt.id, Outcome::Passed)));
        }
        assert!(most <= 40 && due >= 950, "at most {most} of {due} in one millisecond");
        let hanging = prober.due(start + MS * 1000);
        assert_eq!((hanging.len(), prober.next_deadline()), (IN_FLIGHT, None));
        prober.handle(start + MS * 1000, hanging[0].id, Outcome::Passed);
        assert_eq!(prober.due(start + MS * 1000).len(), 1);
    }
}
