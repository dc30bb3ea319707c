//! The lab: network namespaces, a real API server, BIRD; and the suites.
//!
//! A [`Lab`] is a small cluster on one machine: nodes, a router, a client behind it and pods are network namespaces; etcd,
//! kube-apiserver and kube-controller-manager are the real programs; so is BIRD, and so is Herald. Only kubelet and
//! scheduler are played by [`Lab::settle`], unless nodes are booted with real ones ([`Lab::boot`]). What a test does not
//! make itself is made by nobody.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use herald_e2e::{Lab, PodOptions};
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
//! let pod = lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
//! let answer = lab.node(2).ns.get(pod.at(8080))?;
//! assert_eq!((answer.pod.as_str(), answer.client.map(|c| c.ip())), ("web-1", Some(lab.node(2).ip.into())));
//! # Ok(()) }
//! ```
//!
//! Any number of labs run side by side. A lab is removed when its value is dropped, also by a panic; processes die with
//! their owner even if that is killed, and what is left of a killed owner is removed by the next lab of anyone.
//! All calls block; run no runtime around them. Everything needs root.

mod account;
mod api;
mod await_until;
mod beat;
pub mod bench;
mod certificates;
mod client;
mod clock;
mod control_plane;
pub mod demo;
mod faulty_api;
mod herald;
mod kubelet;
mod lab;
mod machine;
mod manifests;
mod namespace;
mod noise;
mod pod;
mod poller;
mod process;
pub mod registry;
mod router;
mod sandbox;
pub mod serve;
mod spawn;
mod stamp;
mod topology;

pub use await_until::{await_ok, await_until, holds_for};
pub use client::{Answer, ClientError, Connection, HttpOptions};
pub use clock::Clock;
pub use control_plane::{ControlPlaneOptions, e2e_suite, programs, tools};
pub use faulty_api::{Fault, FaultyApi};
pub use herald::{NAMESPACE, program as herald_program};
pub use kubelet::Settled;
pub use lab::{Lab, LabBuilder, at};
pub use machine::{Machine, SANDBOX_IMAGE, node_programs};
pub use manifests::{MANIFESTS, Overlay, commands_after, herald_image, phase};
pub use namespace::{Namespace, list as namespaces};
pub use nix::sys::signal::Signal;
pub use pod::{Pod, PodOptions};
pub use poller::{Failure, PollOptions, PollReport, Poller};
pub use process::Process;
pub use router::{BirdPeer, Router, RouterOptions, Routes, bird_program};
pub use sandbox::Port;
pub use topology::{CLIENT, CLIENT6, CLUSTER_CIDR, CLUSTER_DNS, CONTROL_PLANE, Node, ROUTER, SERVICE_CIDR};
