//! Probes that come back to the node that sent them: a router that spreads connections over the nodes may choose that one.
//!
//! Such a packet has an address of this node as its source. By IPv4 the kernel drops it without a word ("martian source"), by IPv6
//! Herald's own guard refuses it; either way it says nothing about the address. A packet socket sees it first. Its filter in the
//! kernel lets pass only the beginnings of TCP connections whose source is an address that probes were sent from, so it costs the
//! node's other packets a dozen instructions each, and a flood of connections wakes nobody.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::Key;
use crate::layer2::register;

/// Own addresses that are looked for in each family: those of the interfaces that probes leave by.
const SOURCES: usize = 16;
/// Packets that are read at a time.
const AT_ONCE: usize = 64;
/// The longest header of IPv4, and the ports of TCP.
const LOOKED_AT: usize = 64;
const TCP: u8 = 6;
/// The octet of TCP's header with the flags, and two of them (RFC 9293 §3.1).
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;
const LOOPBACK: u32 = 1;

/// The two packet sockets.
#[derive(Debug)]
pub(crate) struct Echo {
    /// IPv4 and IPv6.
    sockets: [AsyncFd<Socket>; 2],
    sources: BTreeSet<IpAddr>,
    heard: VecDeque<Key>,
}

impl Echo {
    /// Opens them; nothing is looked for yet.
    pub(crate) fn open() -> io::Result<Self> {
        let open = |ethertype: i32| -> io::Result<AsyncFd<Socket>> {
            let protocol = Protocol::from(i32::from(u16::try_from(ethertype).unwrap_or_default().to_be()));
            let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), Some(protocol))?;
            socket.attach_filter(&[NOTHING])?;
            register(socket)
        };
        Ok(Self {
            sockets: [open(libc::ETH_P_IP)?, open(libc::ETH_P_IPV6)?],
            sources: BTreeSet::new(),
            heard: VecDeque::new(),
        })
    }

    /// Probes are sent from this address of the node.
    pub(crate) fn expect(&mut self, source: IpAddr) {
        let of_family = |other: &&IpAddr| other.is_ipv4() == source.is_ipv4();
        if self.sources.contains(&source) {
            return;
        }
        if self.sources.iter().filter(of_family).count() >= SOURCES {
            // Addresses that change that often are not the node's for long.
            self.sources.retain(|other| other.is_ipv4() != source.is_ipv4());
        }
        self.sources.insert(source);
        let (socket, filter) = match source {
            IpAddr::V4(_) => (&self.sockets[0], filter4(&self.sources)),
            IpAddr::V6(_) => (&self.sockets[1], filter6(&self.sources)),
        };
        if let Err(error) = socket.get_ref().attach_filter(&filter) {
            tracing::warn!(%error, %source, "probes of addresses that come back to this node count as not answered");
        }
    }

    /// Waits until [`Self::take`] may have something.
    pub(crate) async fn readable(&self) {
        let [v4, v6] = &self.sockets;
        let ready = tokio::select! {
            ready = v4.readable() => ready,
            ready = v6.readable() => ready,
        };
        match ready {
            Ok(mut guard) => guard.clear_ready(),
            Err(_) => std::future::pending().await,
        }
    }

    /// A connection whose beginning came back. What has come by now is all taken before there is none.
    pub(crate) fn take(&mut self) -> Option<Key> {
        if self.heard.is_empty() {
            for (socket, read) in self.sockets.iter().zip([read4 as fn(&[u8]) -> Option<Key>, read6]) {
                let mut packet = [0; LOOKED_AT];
                for _ in 0..AT_ONCE {
                    let Ok(length) = socket.get_ref().read(&mut packet) else { break };
                    self.heard.extend(packet.get(..length).and_then(read));
                }
            }
        }
        self.heard.pop_front()
    }
}

fn read4(packet: &[u8]) -> Option<Key> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
    key(packet, header, address(12)?.into(), address(16)?.into())
}

fn read6(packet: &[u8]) -> Option<Key> {
    let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
    key(packet, 40, address(8)?.into(), address(24)?.into())
}

fn key(packet: &[u8], header: usize, from: IpAddr, to: IpAddr) -> Option<Key> {
    let port = |at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk::<2>()?));
    Some((SocketAddr::new(from, port(header)?), SocketAddr::new(to, port(header + 2)?)))
}

const NOTHING: SockFilter = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);

fn statement(code: u32, value: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, value)
}

/// Takes the packet.
fn take() -> SockFilter {
    statement(libc::BPF_RET | libc::BPF_K, LOOKED_AT as u32)
}

/// Ends with the packet unless the test holds.
fn unless(test: u32, value: u32) -> [SockFilter; 2] {
    [SockFilter::new((libc::BPF_JMP | libc::BPF_K | test) as u16, 1, 0, value), NOTHING]
}

/// Ends with the packet if the test holds.
fn when(test: u32, value: u32) -> [SockFilter; 2] {
    [SockFilter::new((libc::BPF_JMP | libc::BPF_K | test) as u16, 0, 1, value), NOTHING]
}

/// An octet of the packet.
fn octet(at: u32) -> SockFilter {
    statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at)
}

fn word(at: u32) -> SockFilter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
}

/// What the node says to itself never left it.
fn not_by_loopback() -> [SockFilter; 3] {
    let interface = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX).cast_unsigned();
    let [test, end] = when(libc::BPF_JEQ, LOOPBACK);
    [word(interface), test, end]
}

/// A connection begins: SYN without ACK.
fn begins(flags: SockFilter) -> [SockFilter; 4] {
    let [test, end] = unless(libc::BPF_JEQ, SYN);
    [flags, statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, SYN | ACK), test, end]
}

/// From the header of IPv4 on, as a cooked packet socket has it.
fn filter4(sources: &BTreeSet<IpAddr>) -> Vec<SockFilter> {
    let mut filter = Vec::from(not_by_loopback());
    filter.push(octet(9));
    filter.extend(unless(libc::BPF_JEQ, u32::from(TCP)));
    // A fragment but the first has no header of TCP.
    filter.push(statement(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 6));
    filter.extend(when(libc::BPF_JSET, 0x1fff));
    // The length of the header.
    filter.push(statement(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0));
    filter.extend(begins(statement(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, FLAGS)));
    filter.push(word(12));
    for source in sources {
        if let IpAddr::V4(source) = source {
            filter.push(SockFilter::new(
                (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
                0,
                1,
                source.to_bits(),
            ));
            filter.push(take());
        }
    }
    filter.push(NOTHING);
    filter
}

/// From the header of IPv6 on; one with extension headers is no probe.
fn filter6(sources: &BTreeSet<IpAddr>) -> Vec<SockFilter> {
    let mut filter = Vec::from(not_by_loopback());
    filter.push(octet(6));
    filter.extend(unless(libc::BPF_JEQ, u32::from(TCP)));
    filter.extend(begins(octet(40 + FLAGS)));
    for source in sources {
        if let IpAddr::V6(source) = source {
            let words = source.to_bits().to_be_bytes();
            for (n, value) in words.chunks_exact(4).enumerate() {
                let value = value.first_chunk().map_or(0, |value| u32::from_be_bytes(*value));
                let n = n as u8;
                filter.push(word(8 + 4 * u32::from(n)));
                // Past the rest of this address.
                filter.push(SockFilter::new(
                    (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
                    0,
                    2 * (3 - n) + 1,
                    value,
                ));
            }
            filter.push(take());
        }
    }
    filter.push(NOTHING);
    filter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::availability::attempt::{Answer, Attempt, Skipped};
    use crate::testing::far::Mirror;
    use crate::testing::in_namespace;

    #[test]
    #[ignore = "needs a network namespace"]
    fn a_probe_that_comes_back_is_seen_from_an_address_that_is_looked_for_and_ends_at_once() {
        in_namespace(|| async {
            let _mirror = Mirror::new();
            let mut echo = Echo::open().unwrap();
            for to in ["192.0.2.1:80", "[2001:db8:1::1]:80"].map(|to| to.parse().unwrap()) {
                let attempt = Attempt::open(to).unwrap();
                assert_eq!(attempt.ends().await.1, Answer::Unanswered, "{to}");
                assert_eq!(echo.take(), None, "nothing is looked for yet");
                let attempt = Attempt::open(to).unwrap();
                let (key, returned) = (attempt.key, attempt.returned.clone());
                echo.expect(key.0.ip());
                let hear = async {
                    echo.readable().await;
                    assert_eq!(echo.take(), Some(key));
                    returned.cancel();
                };
                let begin = std::time::Instant::now();
                let ((_, answer), ()) = tokio::join!(attempt.ends(), hear);
                assert_eq!(answer, Answer::Skipped(Skipped::Returned));
                assert!(
                    begin.elapsed() < std::time::Duration::from_millis(900),
                    "it waited for {:?}",
                    begin.elapsed()
                );
            }
        });
    }
}
