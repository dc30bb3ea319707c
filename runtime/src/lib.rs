//! What both roles need around their decisions: the shells that talk to the API server, to Prometheus
//! and to the process' own life.
//!
//! ```text
//!   client ──> Watch::run ──(bounded mpsc)──> the role's loop          1x per kind
//!        └───> lease::run ──(watch channel: leading?)──> controller    1x
//!        └───> EventRecorder::run <──(bounded mpsc, drops)── anyone    1x
//!   AdminServer::run: /livez /readyz /metrics                          1x
//!   shutdown::signals: SIGTERM/SIGINT -> CancellationToken             1x
//!   Tasks: the one JoinSet of a role; a task that ends, ends the role
//! ```
//!
//! Nothing in here decides what Herald does; the one decision it contains, who leads, is the pure state
//! machine [`lease::Election`]. No task is detached, every queue has a bound, every wait a deadline.

pub mod accept;
pub mod admin;
pub mod client;
pub mod config_report;
mod deadline;
pub mod events;
pub mod fetch;
pub mod lease;
pub mod metrics;
mod name;
pub mod protobuf;
pub mod readiness;
pub mod shutdown;
mod tasks;
pub mod untyped;
pub mod watch;

pub use deadline::sleep_until;
pub use name::ObjectName;
pub use tasks::Tasks;

/// Why the API server did not do something: its own words where it has any.
pub fn said(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        error => chain(&error),
    }
}

/// An error with all its causes in one line, for logs: kube's errors alone say only "client error (Connect)".
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Many errors repeat their cause in their own text.
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        cause = error.source();
    }
    out
}
