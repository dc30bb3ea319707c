//! The BFD session of one BGP session, if its peer has a profile: from Established to its end.
//!
//! It begins when BGP is up and not before: some neighbours make theirs anew at that moment. It ends with BGP, switched off and
//! told; in a planned end after it. A session that never came up ends nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use herald_bfd::Change;
use herald_config::BfdProfile;

use super::bfd::{Bfd, Target, Watched, ends_bgp, words};
use super::next_hop;
use super::peer::PeerSettings;
use crate::metrics::BfdMetrics;

/// What watches the path to a peer.
#[derive(Debug)]
pub(super) struct Path {
    with: Option<((Bfd, BfdMetrics), BfdProfile)>,
    peer: IpAddr,
    device: Option<String>,
    /// Routers may stand between.
    multihop: bool,
    /// Within one AS routers may stand between, too: then the addresses of this node tell.
    internal: bool,
    watched: Option<(Watched, Instant)>,
}

impl Path {
    /// Watches nothing before [`Path::begin`], and nothing at all without a thread or a profile.
    pub(super) fn new(bfd: Option<(Bfd, BfdMetrics)>, settings: &PeerSettings) -> Self {
        let peer = &settings.peer;
        Self {
            with: bfd.zip(settings.bfd.clone()),
            peer: peer.address,
            device: peer.device.clone(),
            multihop: peer.ebgp_multihop,
            internal: peer.asn == Some(peer.local_asn.unwrap_or(peer.my_asn)),
            watched: None,
        }
    }

    /// The BGP session is up, over a socket with this address of ours.
    pub(super) async fn begin(&mut self, local: Option<SocketAddr>) {
        let (Some(((bfd, metrics), profile)), Some(local)) = (&self.with, local) else { return };
        let multihop = self.multihop || (self.internal && !next_hop::is_neighbour(self.peer).await);
        let (local, device, profile) = (local.ip(), self.device.clone(), profile.clone());
        let target = Target { local, peer: self.peer, device, multihop, profile };
        match bfd.watch(target, metrics.clone()).await {
            Ok(watched) => self.watched = Some((watched, Instant::now())),
            Err(error) => {
                tracing::error!(peer = %self.peer, %error, "no BFD: only the hold timer watches this session");
            }
        }
    }

    /// Waits until BGP has to end, and tells why.
    pub(super) async fn failed(&mut self) -> String {
        loop {
            let Some((watched, since)) = &mut self.watched else { return std::future::pending().await };
            match watched.changed().await {
                Some(Change::Up) => tracing::info!(peer = %self.peer, "BFD up"),
                Some(Change::Down(cause)) if ends_bgp(cause, since.elapsed()) => return words(cause),
                Some(Change::Down(cause)) => {
                    tracing::info!(peer = %self.peer, %cause, "BFD down, BGP goes on");
                }
                // The thread is gone, which ends the role.
                None => self.watched = None,
            }
        }
    }

    /// Switches it off.
    pub(super) async fn end(&mut self) {
        if let Some((watched, _)) = self.watched.take() {
            watched.end().await;
        }
    }
}
