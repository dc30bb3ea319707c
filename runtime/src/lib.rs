//! What both roles need around their decisions: the shells that talk to the API server, to Prometheus
//! and to the process' own life.
//!
//! ```text
//!   client ──> Watch::run ──(bounded mpsc)──> the role's loop          1x per kind
//!        └───> lease::run ──(watch channel: leading?)──> controller    1x
//!        └───> EventRecorder::run <──(bounded mpsc, drops)── anyone    1x
//!   AdminServer::run: /livez /readyz /metrics                          1x
//!   memory::watch: a word when the memory limit is near                1x
//!   shutdown::signals: SIGTERM/SIGINT -> CancellationToken             1x
//!   Tasks: the one JoinSet of a role; a task that ends, ends the role
//! ```
//!
//! Nothing in here decides what Herald does; the one decision it contains, who leads, is the pure state
//! machine [`lease::Election`]. No task is detached, every queue has a bound, every wait a deadline.

pub mod accept;
pub mod admin;
pub mod client;
mod complaint;
pub mod config_report;
mod deadline;
pub mod events;
pub mod fetch;
pub mod lease;
pub mod memory;
pub mod metrics;
mod name;
pub mod protobuf;
pub mod readiness;
pub mod shutdown;
mod tasks;
pub mod untyped;
pub mod watch;

use kube::core::Status;

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
    let mut out = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let (text, cause) = match error.downcast_ref::<kube::Error>() {
            // Its own text is the whole object, twice.
            Some(kube::Error::Api(status)) => (answered(status), None),
            // Its own text says no more than its cause.
            Some(kube::Error::Service(_)) => (String::new(), error.source()),
            _ => (error.to_string(), error.source()),
        };
        // Many errors repeat their cause in their own text.
        if !out.contains(&text) {
            if !out.is_empty() {
                out.push_str(": ");
            }
            out.push_str(&text);
        }
        next = cause;
    }
    out
}

/// A refusal of the API server in one line.
fn answered(status: &Status) -> String {
    let Status { code, reason, message, .. } = status;
    match (reason.as_str(), message.as_str()) {
        ("", message) => format!("the API server answers {code}: {message}"),
        (reason, message) if message.is_empty() || message == reason => {
            format!("the API server answers {code} ({reason})")
        }
        (reason, message) => format!("the API server answers {code} ({reason}): {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_causes_once_and_a_refusal_in_the_servers_words() {
        let refused = |code, reason, message| {
            kube::Error::Api(Status::failure(message, reason).with_code(code).boxed())
        };
        let away = kube::Error::Service(Box::new(std::io::Error::other("connection refused")));
        for (error, text) in [
            (
                refused(429, "TooManyRequests", "slow down"),
                "the API server answers 429 (TooManyRequests): slow down",
            ),
            (refused(401, "Unauthorized", "Unauthorized"), "the API server answers 401 (Unauthorized)"),
            (refused(502, "", "bad gateway"), "the API server answers 502: bad gateway"),
            (away, "connection refused"),
        ] {
            assert_eq!(chain(&error), text);
        }
        let wrapped =
            anyhow::Error::from(refused(403, "Forbidden", "no")).context("Services cannot be listed");
        assert_eq!(
            chain(wrapped.as_ref()),
            "Services cannot be listed: the API server answers 403 (Forbidden): no"
        );
    }
}
