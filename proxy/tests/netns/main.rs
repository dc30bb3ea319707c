//! Tests in network namespaces: the ruleset in a real kernel. They need root and are run by `make test`, which includes
//! ignored ones.

mod bench;
mod kernel;
mod net;
mod packets;
