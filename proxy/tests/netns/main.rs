//! Tests in network namespaces: the ruleset in a real kernel. They need root and are run by `make test`, which includes
//! ignored ones.

#![allow(clippy::unwrap_used, reason = "what a test's helper cannot do fails the test")]

mod adopt;
mod affinity;
mod bench;
mod checked;
mod conntrack;
mod counters;
mod flows;
mod hand_over;
mod kernel;
mod marked;
mod neighbours;
mod net;
mod packets;
mod probes;
mod sample;
