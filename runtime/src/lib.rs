//! What both roles need: client, watches, lease, events, metrics, admin server, shutdown.

mod name;

pub use name::ObjectName;
