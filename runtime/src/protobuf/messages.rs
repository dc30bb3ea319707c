//! The messages of Services and EndpointSlices, by the numbers of the `generated.proto` files of `k8s.io/api` and
//! `k8s.io/apimachinery`, and how they are read as the types of `k8s-openapi`.
//!
//! Every field is here: what is not listed is skipped. What JSON leaves out when it is empty has
//! no other form in protobuf.

mod meta;
mod service;
mod slice;

pub(super) use meta::{List, Unknown};
pub(super) use service::Service;
pub(super) use slice::EndpointSlice;

/// What is empty is not there.
fn some<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

fn all<T, K>(values: Vec<T>, read: impl FnMut(T) -> K) -> Vec<K> {
    values.into_iter().map(read).collect()
}
