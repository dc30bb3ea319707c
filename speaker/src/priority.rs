//! The priority of threads that nothing may keep waiting: those of layer 2's hellos and of BFD.
#![allow(unsafe_code, reason = "no safe function gives a thread its priority")]

use std::mem::zeroed;

/// Among real-time threads: below what kernels use themselves.
const PRIORITY: libc::c_int = 10;
/// Where real time is not allowed.
const NICE: libc::c_int = -10;

/// Lets the calling thread go before all others of the machine that are not real-time, or as far before them as is allowed
/// (`CAP_SYS_NICE`); in words what it got.
pub(crate) fn raise_priority() -> &'static str {
    // SAFETY: all fields of the struct are plain integers, for which all-zero bytes are a valid value.
    let mut parameters: libc::sched_param = unsafe { zeroed() };
    parameters.sched_priority = PRIORITY;
    // musl's `sched_setscheduler` refuses everything: it is about processes there.
    // SAFETY: the pointer is to a struct that lives until the call returns; nothing but this thread's scheduling changes.
    let refused =
        unsafe { libc::pthread_setschedparam(libc::pthread_self(), libc::SCHED_RR, &raw const parameters) };
    if refused == 0 {
        return "real time";
    }
    // SAFETY: no pointers; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } {
        0 => "nice -10",
        _ => "as any other",
    }
}
