//! The Herald binary.
fn main() {}
