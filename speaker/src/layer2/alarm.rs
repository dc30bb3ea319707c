//! The moment at which the thread looks again, by a timer of the kernel.
//!
//! The thread sets it some ten times a second and for as long as the node runs. The runtime's own timers cost three
//! system calls each time instead of one, and wake it once more on the way when a deadline is more than 64 ms away.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use super::sockets::register;

/// It rings once for each moment that was set.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: AsyncFd<Timer>,
    at: Option<Instant>,
}

/// With what the runtime asks of a descriptor.
#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    /// One that is not set.
    pub(super) fn new() -> io::Result<Self> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        Ok(Self { timer: register(Timer(timer))?, at: None })
    }

    /// Sets it; a moment that is over rings at once.
    pub(super) fn set(&mut self, at: Instant) -> io::Result<()> {
        if self.at == Some(at) {
            return Ok(());
        }
        // Zero would switch it off.
        let wait = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let once = Expiration::OneShot(TimeSpec::from_duration(wait));
        self.timer.get_ref().0.set(once, TimerSetTimeFlags::empty())?;
        self.at = Some(at);
        Ok(())
    }

    /// Waits until it rings. Cancel-safe.
    pub(super) async fn rung(&mut self) -> io::Result<()> {
        // What it counts is not read: to set it again clears it.
        self.timer.readable().await?.clear_ready();
        self.at = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_rings_at_the_moment_that_was_set_last_and_again_when_it_is_set_again() {
        let mut alarm = Alarm::new().unwrap();
        let start = Instant::now();
        alarm.set(start + Duration::from_secs(600)).unwrap();
        alarm.set(start + Duration::from_millis(20)).unwrap();
        let soon = Duration::from_secs(10);
        tokio::time::timeout(soon, alarm.rung()).await.unwrap().unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20));
        for over in [start, start + Duration::from_millis(1)] {
            alarm.set(over).unwrap();
            tokio::time::timeout(soon, alarm.rung()).await.unwrap().unwrap();
        }
        assert!(tokio::time::timeout(Duration::from_millis(20), alarm.rung()).await.is_err());
    }
}
