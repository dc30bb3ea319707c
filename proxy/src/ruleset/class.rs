//! How many slots a frontend has in map `endpoints`: its class.
//!
//! Each class has a chain of its own, since the modulus of `numgen random mod M` is part of a rule. Up to 64 endpoints
//! each count has its class and the choice is exactly uniform. Above, a frontend takes a class of at least sixteen slots
//! per endpoint and fills them cyclically, so that no endpoint gets more than 1/16 above its share (up to 1,024
//! endpoints; beyond, the largest class is used and the skew grows).

/// Largest number of endpoints that has a class of exactly its size.
const EXACT: u16 = 64;

/// Classes above [`EXACT`]. (1,024 would never be used: 65 endpoints need 1,040 slots.)
const LARGE: [u16; 4] = [2048, 4096, 8192, 16384];

/// Slots per endpoint at least, in the large classes.
const SLOTS_PER_ENDPOINT: usize = 16;

/// Number of slots for a number of endpoints. No endpoint has no slot: 0.
pub fn class_for(endpoints: usize) -> u16 {
    match u16::try_from(endpoints) {
        Ok(exact) if exact <= EXACT => exact,
        _ => {
            let wanted = endpoints.saturating_mul(SLOTS_PER_ENDPOINT);
            LARGE.into_iter().find(|class| usize::from(*class) >= wanted).unwrap_or(LARGE[LARGE.len() - 1])
        }
    }
}

/// All classes, each of which has its chains.
pub(super) fn classes() -> impl Iterator<Item = u16> {
    (1..=EXACT).chain(LARGE)
}

/// True when the ruleset has chains for this class.
pub(crate) fn is_class(class: u16) -> bool {
    (1..=EXACT).contains(&class) || LARGE.contains(&class)
}
