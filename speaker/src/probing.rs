//! The speaker's side of endpoint probes: what it wants probed, what it has heard, and what is news of that.
//!
//! Both directions are `watch` channels to the one task that probes ([`herald_proxy::probe::run`]): the latest counts.
//! What happened between two looks is told as what is different, so an endpoint that failed and came back unseen is no
//! news.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use herald_proxy::probe::{ProbeState, Probes, ServiceProbes, Targets, Verdicts};
use herald_runtime::ObjectName;
use tokio::sync::watch;

/// Endpoints that one Event names; of more the number is told.
const NAMED: usize = 4;

/// The probing task's other ends.
pub(crate) type Ends = (watch::Receiver<Probes>, watch::Sender<Verdicts>);

/// What is wanted and what was heard.
#[derive(Debug)]
pub(crate) struct Probing {
    wanted: watch::Sender<Probes>,
    verdicts: watch::Receiver<Verdicts>,
    heard: Verdicts,
    /// [`Self::changed`] has seen news that [`Self::take`] has not taken.
    unread: bool,
}

/// What changed of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) service: ObjectName,
    /// What its probes say now.
    pub(crate) probes: Option<Arc<ServiceProbes>>,
    /// Endpoints that have begun to fail, in words.
    pub(crate) failed: Option<String>,
    /// Endpoints that pass again, in words.
    pub(crate) recovered: Option<String>,
}

impl Probing {
    /// Nothing is wanted yet.
    pub(crate) fn start() -> (Self, Ends) {
        let (wanted, targets) = watch::channel(Probes::new());
        let (found, verdicts) = watch::channel(Verdicts::new());
        (Self { wanted, verdicts, heard: Verdicts::new(), unread: false }, (targets, found))
    }

    /// Waits for news. Without a task that probes there are none, ever; its end is told by the set it runs in.
    pub(crate) async fn changed(&mut self) {
        if self.verdicts.changed().await.is_err() {
            std::future::pending().await
        }
        self.unread = true;
    }

    /// What has changed since the last call.
    pub(crate) fn take(&mut self) -> Vec<Heard> {
        if !std::mem::take(&mut self.unread) && !self.verdicts.has_changed().unwrap_or(false) {
            return Vec::new();
        }
        let now = self.verdicts.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.heard, now);
        let names: BTreeSet<&ObjectName> = before.keys().chain(self.heard.keys()).collect();
        let differs = |name: &&&ObjectName| before.get(**name) != self.heard.get(**name);
        names
            .iter()
            .filter(differs)
            .map(|name| {
                let (was, is) = (before.get(*name).map(Arc::as_ref), self.heard.get(*name));
                let (failed, recovered) = news(was, is.map(Arc::as_ref));
                Heard { service: (*name).clone(), probes: is.cloned(), failed, recovered }
            })
            .collect()
    }

    /// These Services want this probed, or nothing.
    pub(crate) fn want<'a>(&self, services: impl Iterator<Item = (&'a ObjectName, Option<Targets>)>) {
        self.wanted.send_if_modified(|wanted| {
            let mut changed = false;
            for (name, targets) in services {
                match targets {
                    Some(targets) if wanted.get(name).is_some_and(|now| **now == targets) => {}
                    Some(targets) => {
                        wanted.insert(name.clone(), Arc::new(targets));
                        changed = true;
                    }
                    None => changed |= wanted.remove(name).is_some(),
                }
            }
            changed
        });
    }
}

/// The endpoints that fail and did not, and those that pass and did not, in words.
fn news(was: Option<&ServiceProbes>, is: Option<&ServiceProbes>) -> (Option<String>, Option<String>) {
    let Some(is) = is else { return (None, None) };
    let probed = is.targets.sockets.len();
    let passing = probed - is.failing.len();
    let did_fail = |socket: &SocketAddr| was.is_some_and(|was| was.failing.contains_key(socket));
    let failed: Vec<String> = is
        .failing
        .iter()
        .filter(|(socket, _)| !did_fail(socket))
        .map(|(socket, (state, failure))| match state {
            ProbeState::Unproven => format!("{socket} ({failure}, and it has never passed)"),
            _ => format!("{socket} ({failure})"),
        })
        .collect();
    let recovered: Vec<String> = was
        .into_iter()
        .flat_map(|was| was.failing.keys())
        .filter(|socket| is.targets.sockets.contains(socket) && !is.failing.contains_key(socket))
        .map(SocketAddr::to_string)
        .collect();
    let told = |names: Vec<String>, what: &str| {
        (!names.is_empty())
            .then(|| format!("{} {what}; {passing} of {probed} pass on this node", list(&names)))
    };
    let consequence = match passing {
        0 => "probed and failing, as all of them: rules keep those that were good last",
        _ => "probed and failing: not used on this node",
    };
    (told(failed, consequence), told(recovered, "probed and good again"))
}

fn list(names: &[String]) -> String {
    let named = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use herald_proxy::probe::{Failure, ProbeSpec};

    use super::*;

    fn socket(n: usize) -> SocketAddr {
        SocketAddr::from(([10, 244, 1, n as u8], 8080))
    }

    fn targets(count: usize) -> Targets {
        let spec = Arc::new(ProbeSpec::parse("tcp").unwrap());
        Targets { spec, sockets: (1..=count).map(socket).collect() }
    }

    fn verdict(count: usize, failing: &[(usize, ProbeState)]) -> Arc<ServiceProbes> {
        let failing = failing.iter().map(|(n, state)| (socket(*n), (*state, Failure::Refused)));
        Arc::new(ServiceProbes { targets: Arc::new(targets(count)), failing: failing.collect() })
    }

    fn web() -> ObjectName {
        ObjectName::new("shop", "web")
    }

    #[test]
    fn what_is_different_between_two_looks_is_told_once() {
        let (mut probing, (_targets, found)) = Probing::start();
        let mut say = |verdict: Option<Arc<ServiceProbes>>| {
            found.send_modify(|verdicts| match verdict {
                Some(verdict) => drop(verdicts.insert(web(), verdict)),
                None => drop(verdicts.remove(&web())),
            });
            let heard = probing.take();
            assert!(probing.take().is_empty(), "told once");
            heard.into_iter().map(|heard| (heard.failed, heard.recovered)).collect::<Vec<_>>()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(say(Some(verdict(2, &[]))), [(None, None)]);
        let failed = "10.244.1.1:8080 (connection refused) probed and failing: not used on this node; 1 of 2 pass on this node";
        assert_eq!(say(Some(verdict(2, &[(1, ProbeState::Failed)]))), [(some(failed), None)]);
        assert_eq!(say(Some(verdict(2, &[(1, ProbeState::Failed)]))), []);
        let all = "10.244.1.2:8080 (connection refused, and it has never passed) probed and failing, as all of them: \
                   rules keep those that were good last; 0 of 2 pass on this node";
        let both = [(1, ProbeState::Failed), (2, ProbeState::Unproven)];
        assert_eq!(say(Some(verdict(2, &both))), [(some(all), None)]);
        let back = "10.244.1.1:8080 probed and good again; 1 of 2 pass on this node";
        assert_eq!(say(Some(verdict(2, &[(2, ProbeState::Failed)]))), [(None, some(back))]);
        assert_eq!(say(Some(verdict(1, &[]))), [(None, None)], "gone is not recovered");
        assert_eq!(say(None), [(None, None)]);
    }

    #[tokio::test]
    async fn what_woke_the_loop_is_taken() {
        let (mut probing, (_targets, found)) = Probing::start();
        found.send_modify(|verdicts| drop(verdicts.insert(web(), verdict(1, &[]))));
        tokio::time::timeout(std::time::Duration::from_secs(5), probing.changed()).await.unwrap();
        assert_eq!(probing.take().len(), 1);
        assert!(probing.take().is_empty());
    }

    #[test]
    fn of_many_endpoints_a_few_are_named() {
        let all: Vec<_> = (1..=9).map(|n| (n, ProbeState::LastGood)).collect();
        let (failed, _) = news(None, Some(&verdict(9, &all)));
        let failed = failed.unwrap();
        assert!(failed.contains("10.244.1.4:8080") && failed.contains(" and 5 more "), "{failed}");
        assert!(!failed.contains("10.244.1.5:8080"), "{failed}");
    }

    #[test]
    fn what_is_wanted_is_sent_only_when_it_changes() {
        let (probing, (mut wanted, _found)) = Probing::start();
        let mut want = |targets: Option<Targets>| {
            probing.want([(&web(), targets)].into_iter());
            let changed = wanted.has_changed().unwrap();
            wanted.mark_unchanged();
            changed
        };
        assert!(!want(None));
        assert!(want(Some(targets(1))));
        assert!(!want(Some(targets(1))));
        assert!(want(Some(targets(2))));
        assert!(want(None));
    }
}
