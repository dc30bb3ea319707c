//! Deleted Services that our finalizer keeps until their addresses are withdrawn everywhere.
//!
//! The speakers withdraw as soon as the status does not show the address: milliseconds after the write, by the watch that
//! they have anyway. Nobody asks them whether they have: that would take an object for each node and Service, written at
//! each announcement of a Service's life so that its last one can be read; and a node that is cut off from the API
//! could not answer, when it matters most. So the finalizer goes a fixed time after the status was seen empty.
//! After a restart that time begins anew: it is bounded by the number of restarts, and a Service never hangs while a controller runs.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use herald_runtime::ObjectName;

#[derive(Debug, Default)]
pub(super) struct Withdrawals {
    /// `None`: the time is over.
    until: HashMap<ObjectName, Option<Instant>>,
}

impl Withdrawals {
    /// The status of the Service is empty; true when that is so for long enough.
    pub(super) fn done(&mut self, service: &ObjectName, wait: Duration, now: Instant) -> bool {
        let until = self.until.entry(service.clone()).or_insert(Some(now + wait));
        if until.is_some_and(|at| at <= now) {
            *until = None;
        }
        until.is_none()
    }

    pub(super) fn forget(&mut self, service: &ObjectName) {
        self.until.remove(service);
    }

    /// Whose time is over; they are told once.
    pub(super) fn due(&mut self, now: Instant) -> Vec<ObjectName> {
        let mut due = Vec::new();
        for (name, until) in &mut self.until {
            if until.is_some_and(|at| at <= now) {
                *until = None;
                due.push(name.clone());
            }
        }
        due
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.until.values().filter_map(|until| *until).min()
    }
}
