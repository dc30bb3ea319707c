//! Totals by frontend, within a bound on the number of series.
//!
//! A frontend gets a series of its own when it has carried packets and there is room; of several, the busiest since the
//! last look. It keeps the series as long as it is there, and all others together are one more series. So no series
//! ever goes back, whoever is busiest now. A frontend that goes and comes again goes on from where it was, for as many
//! of those as may have series.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use herald_proxy::netlink::Count;
use herald_proxy::{Frontend, Program};
use herald_runtime::ObjectName;

/// A counter in the kernel, as last seen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    table: u64,
    count: Count,
}

impl Seen {
    /// What was counted since. With another table counting began anew; so it did if somebody reset the counter.
    pub(crate) fn since(&mut self, table: u64, now: Count) -> Count {
        let Self { table: former, count } = *self;
        *self = Self { table, count: now };
        if table != former || now.packets < count.packets || now.bytes < count.bytes {
            return now;
        }
        Count { packets: now.packets - count.packets, bytes: now.bytes - count.bytes }
    }
}

/// Adds to a total.
pub(crate) fn add(total: &mut Count, more: Count) {
    total.packets = total.packets.saturating_add(more.packets);
    total.bytes = total.bytes.saturating_add(more.bytes);
}

/// Totals of all frontends.
#[derive(Debug)]
pub(crate) struct Traffic {
    limit: usize,
    seen: HashMap<Frontend, Seen>,
    own: BTreeMap<Frontend, Count>,
    others: Count,
    /// Of frontends that had a series; at most `limit`, further ones are forgotten.
    gone: HashMap<Frontend, Count>,
}

impl Traffic {
    /// Nothing was seen; at most `limit` frontends get series of their own.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            seen: HashMap::new(),
            own: BTreeMap::new(),
            others: Count::default(),
            gone: HashMap::new(),
        }
    }

    /// All counters that there are.
    pub(crate) fn saw(&mut self, reading: &[(Frontend, u64, Count)]) {
        let mut former = std::mem::take(&mut self.seen);
        let mut waiting = Vec::new();
        for &(frontend, table, count) in reading {
            let mut seen = former.remove(&frontend).unwrap_or_default();
            let more = seen.since(table, count);
            self.seen.insert(frontend, seen);
            match self.own.get_mut(&frontend) {
                Some(total) => add(total, more),
                None if more.packets > 0 => waiting.push((frontend, more)),
                None => {}
            }
        }
        for frontend in former.into_keys() {
            if let Some(total) = self.own.remove(&frontend)
                && self.gone.len() < self.limit
            {
                self.gone.insert(frontend, total);
            }
        }
        waiting.sort_unstable_by_key(|&(frontend, more)| (Reverse(more.bytes), frontend));
        for (frontend, more) in waiting {
            if self.own.len() < self.limit {
                let total = self
                    .own
                    .entry(frontend)
                    .or_insert_with(|| self.gone.remove(&frontend).unwrap_or_default());
                add(total, more);
            } else {
                add(&mut self.others, more);
            }
        }
    }

    /// Those with series of their own.
    pub(crate) fn own(&self) -> &BTreeMap<Frontend, Count> {
        &self.own
    }

    /// All others together.
    pub(crate) fn others(&self) -> Count {
        self.others
    }
}

/// Which Service each frontend is; kept by who programs them, read by who shows them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(Arc<Mutex<HashMap<Frontend, Arc<ObjectName>>>>);

impl Names {
    /// These frontends may have come, gone, or gone over to another Service.
    pub(crate) fn changed(&self, frontends: impl IntoIterator<Item = Frontend>, program: &Program) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for frontend in frontends {
            match program.holder(&frontend) {
                None => names.remove(&frontend),
                Some(holder) => names.insert(frontend, Arc::clone(holder.service)),
            };
        }
    }

    /// These are all frontends.
    pub(crate) fn all(&self, program: &Program) {
        let all =
            program.holders().map(|(frontend, holder)| (frontend, Arc::clone(holder.service))).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    pub(crate) fn of(&self, frontend: &Frontend) -> Option<Arc<ObjectName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(frontend).cloned()
    }
}

#[cfg(test)]
mod tests {
    use herald_proxy::Protocol;

    use super::*;

    fn frontend(n: u8) -> Frontend {
        Frontend { address: [192, 0, 2, n].into(), protocol: Protocol::Tcp, port: 80 }
    }

    /// Frontend and packets of table 1.
    fn reading(counts: &[(u8, u64)]) -> Vec<(Frontend, u64, Count)> {
        counts.iter().map(|&(n, packets)| (frontend(n), 1, Count { packets, bytes: packets * 60 })).collect()
    }

    fn shown(traffic: &Traffic) -> (Vec<(u8, u64)>, u64) {
        let last = |frontend: &Frontend| match frontend.address {
            std::net::IpAddr::V4(address) => address.octets()[3],
            std::net::IpAddr::V6(_) => unreachable!(),
        };
        let own = traffic.own().iter().map(|(frontend, count)| (last(frontend), count.packets)).collect();
        (own, traffic.others().packets)
    }

    #[test]
    fn a_counter_that_began_anew_is_added_whole() {
        let mut seen = Seen::default();
        let count = |packets| Count { packets, bytes: packets * 60 };
        for (table, now, more) in
            [(7, 3, 3), (7, 3, 0), (7, 10, 7), (7, 4, 4), (7, 0, 0), (8, 1, 1), (9, 1, 1), (9, 1, 0)]
        {
            assert_eq!(seen.since(table, count(now)), count(more), "at {now}");
        }
    }

    #[test]
    fn the_busiest_get_series_and_keep_them_and_the_rest_is_one() {
        let mut traffic = Traffic::new(2);
        traffic.saw(&reading(&[(1, 5), (2, 0), (3, 50), (4, 7)]));
        assert_eq!(shown(&traffic), (vec![(3, 50), (4, 7)], 5));
        // Another one is busier now: no series goes back.
        traffic.saw(&reading(&[(1, 500), (2, 1), (3, 51), (4, 7)]));
        assert_eq!(shown(&traffic), (vec![(3, 51), (4, 7)], 5 + 495 + 1));
        // There is room again: what comes from now on is its own.
        traffic.saw(&reading(&[(1, 510), (2, 1), (3, 52)]));
        assert_eq!(shown(&traffic), (vec![(1, 10), (3, 52)], 501));
        // One that comes again, from zero in the kernel, goes on.
        traffic.saw(&reading(&[(1, 510)]));
        traffic.saw(&reading(&[(1, 510), (3, 2)]));
        assert_eq!(shown(&traffic), (vec![(1, 10), (3, 54)], 501));
    }

    #[test]
    fn what_carried_nothing_has_no_series_and_a_limit_of_none_gives_the_sum() {
        let mut traffic = Traffic::new(10);
        traffic.saw(&reading(&[(1, 0), (2, 1)]));
        assert_eq!(shown(&traffic), (vec![(2, 1)], 0));
        let mut traffic = Traffic::new(0);
        traffic.saw(&reading(&[(1, 3), (2, 1)]));
        assert_eq!(shown(&traffic), (vec![], 4));
    }
}
