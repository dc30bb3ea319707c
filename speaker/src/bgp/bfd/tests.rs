//! BFD with a real BIRD, and with a neighbour made of packets.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use herald_bfd::{Diagnostic, Packet, State};
use herald_runtime::metrics::Metrics;
use socket2::Socket;

use super::super::sockopt::datagram::sender;
use super::super::tests::{route, settings};
use super::super::{PeerSettings, Peers};
use super::*;
use crate::metrics::SpeakerMetrics;
use crate::testing::bird::{BIRD, BIRD_V6, Bird, NODE, NODE_V6, addresses};
use crate::testing::in_namespace;

/// BIRD sends over several hops with the TTL of the system, 64.
fn profile(milliseconds: u64) -> BfdProfile {
    let interval = Duration::from_millis(milliseconds);
    BfdProfile {
        transmit_interval: interval,
        receive_interval: interval,
        minimum_ttl: 60,
        ..BfdProfile::named("quick")
    }
}

fn with_bfd(milliseconds: u64) -> PeerSettings {
    let mut settings = settings("");
    settings.peer.ebgp_multihop = true;
    settings.bfd = Some(profile(milliseconds));
    settings
}

fn peers() -> Peers {
    Peers::new(SpeakerMetrics::new(&Metrics::new(), "node-1", 1000).bgp, false)
}

async fn up(bird: &Bird) {
    bird.until("show bfd sessions", |answer| {
        answer.lines().any(|line| line.contains(NODE) && line.contains("Up"))
    })
    .await;
}

#[test]
#[ignore = "needs a network namespace"]
fn a_bird_that_hangs_is_seen_within_the_detection_time_and_comes_back() {
    in_namespace(|| async {
        addresses().await;
        for milliseconds in [100, 50] {
            let bird = Bird::start_bfd(milliseconds, "on");
            let mut peers = peers();
            peers.announce(&route("192.0.2.1/32", &[]));
            peers.set(&[with_bfd(milliseconds)]).await;
            up(&bird).await;
            let shown = bird.ask("show bfd sessions").await;
            let interval = format!("{:.3}", Duration::from_millis(milliseconds).as_secs_f64());
            bird.until("show bfd sessions", |answer| answer.contains(&interval)).await;
            assert_eq!(bird.established(), 1, "{shown}");

            bird.freeze(true);
            let frozen = Instant::now();
            let mut status = peers.running[0].status.clone();
            let down = status.wait_for(|status| !status.up);
            tokio::time::timeout(Duration::from_secs(5), down).await.expect("BFD sees it").unwrap();
            let took = frozen.elapsed();
            // Not sooner than the packets that may be missing, and long before the hold timer. A busy machine has other tests.
            assert!(took >= Duration::from_millis(milliseconds * 2), "{took:?}");
            assert!(took < Duration::from_millis(milliseconds * 3 + 250), "{took:?}");
            println!("{milliseconds} ms x 3: seen after {took:?}");
            bird.freeze(false);
            bird.until("show route", |answer| answer.contains("192.0.2.1")).await;
            up(&bird).await;
            peers.stop("test").await;
        }
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn a_planned_end_keeps_the_routes_of_a_restart_where_bird_is_told_to_take_it_so() {
    in_namespace(|| async {
        addresses().await;
        // With plain `bfd on` this release ends BGP even in graceful restart, whatever RFC 5882 says.
        let bird = Bird::start_bfd(100, "graceful");
        let mut graceful = with_bfd(100);
        graceful.peer.graceful_restart = true;
        let mut first = peers();
        first.announce(&route("192.0.2.1/32", &[]));
        first.set(&[graceful.clone()]).await;
        up(&bird).await;
        assert_eq!(first.leave("restart").await, 1);
        bird.until("show protocols all herald", |answer| answer.contains("graceful restart active")).await;
        assert!(bird.ask("show route").await.contains("192.0.2.1"), "{}", bird.log());
        let mut second = Peers::new(SpeakerMetrics::new(&Metrics::new(), "node-1", 1000).bgp, true);
        second.announce(&route("192.0.2.1/32", &[]));
        second.set(&[graceful]).await;
        up(&bird).await;
        bird.up().await;
        second.stop("test").await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn a_neighbour_without_bfd_keeps_its_bgp_session() {
    in_namespace(|| async {
        addresses().await;
        let bird = Bird::start("");
        let mut peers = peers();
        peers.announce(&route("192.0.2.1/32", &[]));
        peers.set(&[with_bfd(50)]).await;
        bird.until("show route", |answer| answer.contains("192.0.2.1")).await;
        // Many times the detection time.
        let down = tokio::time::timeout(Duration::from_secs(1), async {
            let mut status = peers.running[0].status.clone();
            let _ = status.wait_for(|status| !status.up).await;
        });
        assert!(down.await.is_err(), "{}", bird.log());
        peers.stop("test").await;
    });
}

/// A neighbour of one hop made of packets.
struct Neighbour {
    receives: UdpSocket,
    sends: Socket,
    node: SocketAddr,
}

impl Neighbour {
    fn new(own: IpAddr, node: IpAddr) -> Self {
        let receives = UdpSocket::bind((own, 3784)).unwrap();
        receives.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sends = sender(SocketAddr::new(own, 50_000), None).unwrap();
        Self { receives, sends, node: SocketAddr::new(node, 3784) }
    }

    fn heard(&self) -> Packet {
        let mut buffer = [0; 64];
        let count = self.receives.recv(&mut buffer).unwrap();
        Packet::decode(&buffer[..count]).unwrap()
    }

    fn until(&self, expected: impl Fn(&Packet) -> bool) -> Packet {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let packet = self.heard();
            if expected(&packet) {
                return packet;
            }
            assert!(Instant::now() < deadline, "{packet:?}");
        }
    }

    fn says(&self, state: State, ttl: u32, to: &Packet) {
        match self.node {
            SocketAddr::V4(_) => self.sends.set_ttl_v4(ttl).unwrap(),
            SocketAddr::V6(_) => self.sends.set_unicast_hops_v6(ttl).unwrap(),
        }
        let packet = Packet {
            state,
            diagnostic: Diagnostic::NONE,
            poll: false,
            final_: false,
            my_discriminator: NonZeroU32::new(9).unwrap(),
            your_discriminator: Some(to.my_discriminator),
            ..*to
        };
        self.sends.send_to(&packet.encode(), &self.node.into()).unwrap();
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn packets_from_further_away_than_a_neighbour_do_not_count_in_either_family() {
    in_namespace(|| async {
        addresses().await;
        for (own, node) in [(BIRD, NODE), (BIRD_V6, NODE_V6)] {
            let (own, node): (IpAddr, IpAddr) = (own.parse().unwrap(), node.parse().unwrap());
            let neighbour = Neighbour::new(own, node);
            let bfd = Bfd::start().unwrap();
            let target =
                Target { local: node, peer: own, device: None, multihop: false, profile: profile(50) };
            let mut watched = bfd.watch(target, BfdMetrics::default()).await.unwrap();
            let first = neighbour.heard();
            assert_eq!((first.state, first.your_discriminator), (State::Down, None));
            neighbour.says(State::Down, 254, &first);
            // The next one is as if nothing had been said: it comes after what was sent before it.
            assert_eq!(neighbour.heard().state, State::Down);
            neighbour.says(State::Down, 255, &first);
            neighbour.until(|packet| packet.state == State::Init);
            neighbour.says(State::Init, 255, &first);
            assert_eq!(watched.changed().await, Some(Change::Up));
            neighbour.until(|packet| packet.state == State::Up);
            // Silence, then the end of all.
            let Some(Change::Down(Cause::Silence(_))) = watched.changed().await else {
                panic!("it hears nobody")
            };
            watched.end().await;
            neighbour.until(|packet| packet.state == State::AdminDown);
        }
    });
}
