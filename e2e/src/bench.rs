//! What the benchmarks are made of: two systems under test in one lab, one way to measure them, one way to judge.
//!
//! ```text
//!  create::measure ── API thread: creates Services, watches their status ──┐ address
//!                     ├── BIRD thread: asks the control socket for the route ◄─┤
//!                     └── client thread: connects until a byte comes ◄─────────┘
//!  herald::Herald, metallb::MetalLb: the processes; dropping one ends them
//!  bare  : what the programs share that do only what cannot be avoided
//!  report: percentiles, the table, the bars
//!  steal : whether the machine was there all the time
//! ```
//! All times are of one clock of one process, from the moment before the API request is sent. Nothing in here knows which of
//! the two systems it measures.

pub mod bare;
pub mod bgp;
mod bird;
pub mod controller;
pub mod create;
mod first_byte;
pub mod herald;
pub mod layer2;
pub mod metallb;
pub mod proxy;
pub mod report;
pub mod soak;
mod steal;
