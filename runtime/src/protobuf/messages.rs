//! The messages of Services, EndpointSlices and refusals, by the numbers of the `generated.proto` files of
//! `k8s.io/api` and `k8s.io/apimachinery`, serialized as the JSON of the same API.
//!
//! Every field is here: what is not listed is skipped. What JSON leaves out when it is empty has
//! no other form in protobuf.

mod meta;
mod service;
mod slice;

pub(super) use meta::{List, ObjectMeta, Status, Unknown};
pub(super) use service::Service;
pub(super) use slice::EndpointSlice;

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}
