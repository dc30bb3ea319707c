//! The ruleset: one typed description of tables `ip herald` and `ip6 herald`, rendered to text and to netlink messages.
//!
//! Decides what the kernel does with a packet, given the elements of `element.rs`. The number of tables, chains, sets
//! and rules depends on nothing but [`RulesetConfig`]; Services and endpoints are elements only. Hooks, priorities, maps
//! and a packet's walk stand in `docs/ruleset.md`.
//!
//! Three limits shape it:
//! - `nft` 1.0.6 must be able to load the text and to list what netlink wrote (it aborts on forms that it could not
//!   have written itself). So only statements that both renderings know exist in [`Statement`].
//! - A `goto` in a map element makes the kernel walk all verdict maps of the table at each commit (20 ms at 45,000
//!   Services, and older kernels walk nested maps once per element of the outer). So no element of a Service carries a
//!   verdict: `services` and `picks` map to numbers (of type `classid`), and small constant maps turn the number into a
//!   chain. The number travels in the packet's priority, like the slot that is drawn, and is cleared in postrouting.
//! - The kernel checks the value of a new element against each rule that uses its map. So the maps with most elements
//!   are used by two rules each, not by one per class.
//!
//! Not here: who owns an element (`rules.rs`), how messages reach the kernel (`netlink/`).

mod affinity;
mod build;
mod class;
mod entry;
mod hand_over;
mod model;
mod read;
mod text;

#[cfg(test)]
mod tests;

pub use build::{MasqueradeMode, PROBE_MARK, Ruleset, RulesetConfig};
pub use class::class_for;
pub use hand_over::NODES;
pub use model::{
    Base, CONNECTION, Chain, ChainType, DataType, Expression, FieldType, Hook, IcmpType, Rule, Set, SetName,
    Statement, Table, TcpFlag, Word,
};

pub(crate) use affinity::Timeouts;
pub(crate) use class::is_class;
pub(crate) use entry::{
    Buffer, Data, Entry, FIRST_SLOT, NUMBERS, NUMBERS_MASK, protocol_number, slot_number,
};
pub(crate) use model::fingerprint;
