//! Gives back to the system what the process has freed.
//!
//! The allocator does so a second after it was freed, but looks only when it is asked for more: a speaker that has read ten
//! thousand Services and has nothing to do would keep what reading them took for as long as nothing changes. And each thread
//! holds empty pages ready for itself, which no other can give back: the runtime's workers look at their own before they wait.
#![allow(unsafe_code, reason = "the allocator's one call for it, which its crate does not wrap")]

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// How often each is made to look.
const LOOK: Duration = Duration::from_secs(2);
/// More than it needs.
const STACK: usize = 128 * 1024;

unsafe extern "C" {
    /// mimalloc: gives back what is due, of all threads; what the calling thread holds ready for itself only when forced.
    fn mi_collect(force: bool);
}

/// Starts the thread that does it for all; it has nothing of its own and ends with the process. Without it the process is larger, no more.
pub(crate) fn give_back() {
    let looking = || {
        loop {
            thread::park_timeout(LOOK);
            // SAFETY: it may be called at any time and from any thread; nothing that is in use is touched.
            unsafe { mi_collect(false) };
        }
    };
    if let Err(error) = thread::Builder::new().name("memory".to_owned()).stack_size(STACK).spawn(looking) {
        tracing::debug!(%error, "freed memory is given back only when more is asked for");
    }
}

thread_local! {
    /// When this thread looked last.
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The same for what the calling thread holds ready; for a thread that is about to wait.
pub(crate) fn give_back_own() {
    let now = Instant::now();
    LOOKED.with(|looked| {
        if looked.get().is_none_or(|at| now.duration_since(at) >= LOOK) {
            looked.set(Some(now));
            // SAFETY: as above.
            unsafe { mi_collect(false) };
        }
    });
}
