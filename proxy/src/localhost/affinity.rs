//! Which endpoint the next connection from localhost gets. Pure; time and chance are arguments.
//!
//! Without affinity each connection draws its own. With it the first one draws and the following get the same, until
//! none has come for longer than the timeout, or the endpoint is not usable any more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The endpoint that localhost stays with.
#[derive(Debug, Default)]
pub(super) struct Affinity {
    pinned: Option<(SocketAddr, Instant)>,
}

impl Affinity {
    /// The endpoint for a connection that comes now; `draw` gives a number below its argument.
    pub(super) fn choose(
        &mut self,
        endpoints: &[SocketAddr],
        timeout: Option<Duration>,
        now: Instant,
        draw: impl FnOnce(usize) -> usize,
    ) -> Option<SocketAddr> {
        let drawn = || endpoints.get(draw(endpoints.len().max(1))).copied();
        let Some(timeout) = timeout else {
            self.pinned = None;
            return drawn();
        };
        let pinned = self.pinned.filter(|(endpoint, last)| {
            now.saturating_duration_since(*last) <= timeout && endpoints.contains(endpoint)
        });
        let chosen = pinned.map(|(endpoint, _)| endpoint).or_else(drawn);
        self.pinned = chosen.map(|endpoint| (endpoint, now));
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn endpoints() -> Vec<SocketAddr> {
        (1..=3).map(|n| SocketAddr::from(([10, 244, 0, n], 8080))).collect()
    }

    #[test]
    fn without_affinity_every_connection_draws() {
        let (all, now) = (endpoints(), Instant::now());
        let mut affinity = Affinity::default();
        for n in [2, 0, 1] {
            assert_eq!(affinity.choose(&all, None, now, |_| n), Some(all[n]));
        }
        assert_eq!(affinity.choose(&[], None, now, |_| 0), None);
    }

    #[test]
    fn with_affinity_each_connection_renews_the_stay() {
        let (all, start) = (endpoints(), Instant::now());
        let mut affinity = Affinity::default();
        assert_eq!(affinity.choose(&all, Some(HOUR), start, |_| 1), Some(all[1]));
        assert_eq!(affinity.choose(&all, Some(HOUR), start + HOUR, |_| 0), Some(all[1]));
        assert_eq!(affinity.choose(&all, Some(HOUR), start + HOUR * 2, |_| 0), Some(all[1]));
        let late = start + HOUR * 3 + Duration::from_millis(1);
        assert_eq!(affinity.choose(&all, Some(HOUR), late, |_| 2), Some(all[2]), "idle for too long");
    }

    #[test]
    fn an_endpoint_that_goes_ends_the_stay_and_so_does_the_switch() {
        let (all, now) = (endpoints(), Instant::now());
        let mut affinity = Affinity::default();
        affinity.choose(&all, Some(HOUR), now, |_| 1);
        assert_eq!(affinity.choose(&[all[0], all[2]], Some(HOUR), now, |_| 0), Some(all[0]));
        assert_eq!(affinity.choose(&all, None, now, |_| 2), Some(all[2]));
        assert_eq!(affinity.choose(&all, Some(HOUR), now, |_| 1), Some(all[1]));
    }
}
