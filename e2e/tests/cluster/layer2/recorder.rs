//! Who answers for an address on a segment: all ARP and neighbour advertisements that a switch sees.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use herald_e2e::{Namespace, Node};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};

/// Where hellos go.
const HELLO_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 254);
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// A frame that says where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// By the kernel's clock.
    pub(super) at: Duration,
    /// Of what.
    pub(super) address: IpAddr,
    /// Where it is.
    pub(super) mac: Mac,
}

/// A running recorder.
#[derive(Debug)]
pub(super) struct Recorder {
    stop: Arc<AtomicBool>,
    claims: Arc<Mutex<Vec<Claim>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Recorder {
    /// Starts recording in the switch's namespace.
    pub(super) fn start(switch: &Namespace) -> Result<Self> {
        let packets = switch.run(open)??;
        let stop = Arc::new(AtomicBool::new(false));
        let claims = Arc::new(Mutex::new(Vec::new()));
        let thread = std::thread::spawn({
            let (stop, claims) = (Arc::clone(&stop), Arc::clone(&claims));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut readable = [PollFd::new(packets.as_fd(), PollFlags::POLLIN)];
                    match poll(&mut readable, PollTimeout::from(20_u8)) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                    while let Some(seen) = next(&packets)? {
                        claims.lock().unwrap_or_else(PoisonError::into_inner).extend(seen);
                    }
                }
                Ok(())
            }
        });
        Ok(Self { stop, claims, thread: Some(thread) })
    }

    /// Ends recording: what was seen of each address, in order.
    pub(super) fn stop(mut self) -> Result<BTreeMap<IpAddr, Vec<Claim>>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the recorder runs")?;
        thread.join().map_err(|_| anyhow!("the recorder panicked"))??;
        let mut claims = std::mem::take(&mut *self.claims.lock().unwrap_or_else(PoisonError::into_inner));
        claims.sort_by_key(|claim| claim.at);
        let mut by_address: BTreeMap<IpAddr, Vec<Claim>> = BTreeMap::new();
        claims.into_iter().for_each(|claim| by_address.entry(claim.address).or_default().push(claim));
        Ok(by_address)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A hello of somebody else, as it arrives at a node.
pub(super) fn hello(node: &Node, port: u16, patience: Duration) -> Result<Vec<u8>> {
    node.ns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // Beside the speaker's own socket.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        socket.join_multicast_v4(&HELLO_GROUP, &node.ip)?;
        socket.set_read_timeout(Some(patience))?;
        let mut datagram = vec![0; 2048];
        let length = UdpSocket::from(socket).recv(&mut datagram).context("a hello")?;
        datagram.truncate(length);
        Ok(datagram)
    })?
}

/// Who had the address, one after the other. A former owner's frames within `window` after the next one's first are of the
/// take-over; later ones count as another move.
pub(super) fn owners(claims: &[Claim], window: Duration) -> Vec<Mac> {
    let mut owners: Vec<(Mac, Duration)> = Vec::new();
    for claim in claims {
        let former = owners.iter().rev().nth(1).map(|(mac, _)| *mac);
        match owners.last() {
            Some((mac, _)) if *mac == claim.mac => {}
            Some((_, since)) if former == Some(claim.mac) && claim.at <= *since + window => {}
            _ => owners.push((claim.mac, claim.at)),
        }
    }
    owners.into_iter().map(|(mac, _)| mac).collect()
}

fn open() -> Result<OwnedFd> {
    // From the network header on, of all ports of the switch.
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let packets = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)?;
    setsockopt(&packets, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&packets, sockopt::RcvBufForce, &(8 << 20))?;
    Ok(packets)
}

/// The next frame that is there: `None` for no frame, else what it claims.
fn next(packets: &OwnedFd) -> Result<Option<Option<Claim>>> {
    let mut octets = [0; 2048];
    let mut space = cmsg_space!(TimeSpec);
    let mut slices = [IoSliceMut::new(&mut octets)];
    let received =
        recvmsg::<LinkAddr>(packets.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_DONTWAIT);
    let (length, at, from) = match received {
        Ok(message) => {
            let stamp = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                _ => None,
            });
            (message.bytes, stamp.context("a frame without a time stamp")?, message.address)
        }
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let from = from.context("a frame without a link")?;
    let packet = octets.get(..length).unwrap_or_default();
    let claimed = match u16::from_be(from.protocol()) {
        ETH_P_ARP => arp(packet),
        ETH_P_IPV6 => advertised(packet).zip(from.addr()),
        _ => None,
    };
    Ok(Some(claimed.map(|(address, mac)| Claim { at, address, mac })))
}

/// A reply, or a gratuitous request.
fn arp(packet: &[u8]) -> Option<(IpAddr, Mac)> {
    let operation = *packet.get(7)?;
    let mac: Mac = packet.get(8..14)?.try_into().ok()?;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let (sender, target) = (address(14)?, address(24)?);
    (operation == 2 || sender == target).then_some((sender.into(), mac))
}

/// The target of a neighbour advertisement.
fn advertised(packet: &[u8]) -> Option<IpAddr> {
    let is_one = *packet.get(6)? == ICMPV6 && *packet.get(40)? == NEIGHBOR_ADVERTISEMENT;
    let target: [u8; 16] = packet.get(48..64)?.try_into().ok()?;
    is_one.then(|| Ipv6Addr::from(target).into())
}

#[test]
fn two_owners_at_a_time_are_found_and_a_take_over_is_none() {
    let (a, b) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let claims = |seen: &[(u64, Mac)]| -> Vec<Claim> {
        let claim = |(ms, mac): &(u64, Mac)| Claim {
            at: Duration::from_millis(*ms),
            address: Ipv4Addr::new(10, 0, 0, 200).into(),
            mac: *mac,
        };
        seen.iter().map(claim).collect()
    };
    let window = Duration::from_millis(100);
    let found = |seen: &[(u64, Mac)]| owners(&claims(seen), window);
    assert_eq!(found(&[(0, a), (50, a)]), [a]);
    assert_eq!(found(&[(0, a), (50, b), (60, a), (70, b)]), [a, b]);
    assert_eq!(found(&[(0, a), (50, b), (151, a)]), [a, b, a]);
}
