//! Gives back to the system what the process has freed.
//!
//! The allocator does so a second after it was freed, but looks only when it is asked for more: a speaker that has read ten
//! thousand Services and has nothing to do would keep what reading them took for as long as nothing changes.
#![allow(unsafe_code, reason = "the allocator's one call for it, which its crate does not wrap")]

use std::thread;
use std::time::Duration;

/// How often it is made to look.
const LOOK: Duration = Duration::from_secs(2);
/// More than it needs.
const STACK: usize = 128 * 1024;

unsafe extern "C" {
    /// mimalloc: gives back what is due, of all threads; what the calling thread holds ready for itself only when forced.
    fn mi_collect(force: bool);
}

/// Starts the thread that does it; it has nothing of its own and ends with the process. Without it the process is larger, no more.
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
