//! When a kernel's IPv4 routes changed, by the clock that polls are told by.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use herald_e2e::{Namespace, PollReport};
use netlink_sys::SocketAddr as NetlinkAddr;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const NETLINK_ROUTE: isize = 0;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
/// A notification is read so much later than its change at most, on a machine that has other tests to run.
const LATE: Duration = Duration::from_millis(50);
/// A connection and its answer take so long at most where nothing is in the way.
const ALIVE: Duration = Duration::from_millis(300);

/// A running recorder.
#[derive(Debug)]
pub(crate) struct RouteChanges {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Instant>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl RouteChanges {
    /// Records from now on.
    pub(crate) fn record(namespace: &Namespace) -> Result<Self> {
        // A socket belongs to the namespace in which it is opened, wherever it is read.
        let socket = namespace.run(|| -> Result<_> {
            let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
            socket.bind(&NetlinkAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            socket.add_membership(RTNLGRP_IPV4_ROUTE)?;
            Ok(socket)
        })??;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let thread = std::thread::spawn({
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut readable = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                    match poll(&mut readable, PollTimeout::from(20_u8)) {
                        Ok(0) | Err(Errno::EINTR) => continue,
                        Ok(_) => {}
                        Err(error) => return Err(error.into()),
                    }
                    socket.recv_from_full().context("notifications of routes")?;
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                }
                Ok(())
            }
        });
        Ok(Self { stop, seen, thread: Some(thread) })
    }

    /// Ends recording; all changes in their order.
    pub(crate) fn stop(mut self) -> Result<Vec<Instant>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the recorder runs")?;
        thread.join().map_err(|_| anyhow!("the recorder panicked"))??;
        Ok(self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for RouteChanges {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Failures of connections that were not under way when a route changed: a router that has other next hops sends the rest of
/// a connection to another node, and nothing else is to end one.
pub(crate) fn unexplained(report: &PollReport, changes: &[Instant]) -> Vec<String> {
    let cut = |at: Instant| changes.iter().any(|change| at < *change && *change < at + ALIVE + LATE);
    let failures = report.failures.iter().filter(|failure| !cut(failure.at));
    failures
        .map(|failure| {
            let nearest = changes.iter().map(|change| signed(failure.at, *change));
            let nearest = nearest.min_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(f64::INFINITY);
            let at = (failure.at - report.begin).as_secs_f64();
            format!("at {at:.3} s: {}, {nearest:+.3} s from a change of routes", failure.error)
        })
        .collect()
}

/// Seconds from `to` to `at`.
fn signed(at: Instant, to: Instant) -> f64 {
    if at >= to { (at - to).as_secs_f64() } else { -(to - at).as_secs_f64() }
}
