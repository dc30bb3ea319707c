//! Labs with a real API server, kernel, BIRD and packets: what users do, and what goes wrong at three in the morning.
//!
//! One binary, so that labs run side by side. Each module is one subject; each test brings up its own lab.

mod availability;
mod bfd;
mod coexistence;
mod conntrack;
mod controller;
mod doctor;
mod explain;
mod faults;
mod footprint;
mod graceful_restart;
mod history;
mod kernel;
mod kube_proxy;
mod layer2;
mod local_addresses;
mod manifests;
mod metallb_switch;
mod monitoring;
mod objects;
mod order;
mod plan;
mod planned_work;
mod probe;
mod rights;
mod routes;
mod runbook;
mod semantics;
mod services;
mod sharing;
mod snapshot;
mod speaker;
mod status;
mod status_subjects;
mod t1_source_ip;
mod t2_external_access;
mod t3_packet_path;
mod t4_metallb_bgp;
mod tutorial;
mod uninstall;
mod unnumbered;
mod upgrade;
mod webhook;
