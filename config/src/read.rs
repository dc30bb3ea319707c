//! Reading what users write: from text (or JSON of the API server) to located nodes, and from those to values.
//!
//! Knows no format: which keys there are is the business of [`crate::document`] and [`crate::objects`]. Every error
//! and warning is born here, with line, column and path, so that a ConfigMap and an object are told about alike.

mod checked;
mod json;
pub(crate) mod nearest;
pub(crate) mod peers;
pub(crate) mod ranges;
pub(crate) mod reader;
pub(crate) mod scalars;
pub(crate) mod selectors;
pub(crate) mod tree;
