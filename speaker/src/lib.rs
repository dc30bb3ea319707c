//! The node role.

mod addresses;
mod apply;
mod ledger;
mod reason;
#[path = "bgp/sockopt.rs"]
mod sockopt;
mod steps;
#[cfg(test)]
mod testing;
