//! A node whose hellos are those of another release: on their way through the switch, both ways, they are written anew.
//!
//! The switch itself lets no hello of this node through. A thread takes each from the port that it came in by, changes it, signs it
//! again, and puts it out at the ports where it would have gone. So a real speaker takes part in the segment as one of another
//! release, as far as the wire can tell.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use herald_e2e::{Lab, Node};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, sendto, setsockopt, socket,
    sockopt,
};
use ring::hmac;

/// The version of the hellos of this release.
pub(super) const OURS: u8 = 1;
/// An element that no release knows.
const UNKNOWN: [u8; 8] = [0xee, 0, 5, b'n', b'e', b'w', b'e', b'r'];
const HELLO: [u8; 2] = 7947_u16.to_be_bytes();
const HMAC_LEN: usize = 32;
/// Of Ethernet, IPv4 without options, and UDP.
const ETHERNET: usize = 14;
const UDP: usize = ETHERNET + 20;
const PAYLOAD: usize = UDP + 8;
/// `PACKET_OUTGOING`: what is sent at a port, by ourselves as well.
const OUTGOING: u8 = 4;

/// The translator of one node. Dropping it ends it, and its hellos then reach nobody.
#[derive(Debug)]
pub(super) struct Translator {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    version: AtomicU8,
    /// Hellos that went out: from the node, to the node.
    translated: [AtomicUsize; 2],
    failed: Mutex<Option<String>>,
}

impl Translator {
    /// Begins. The hellos of the node, and those to it, have one element more, until [`Self::set_version`] says more.
    pub(super) fn start(lab: &Lab, node: &Node) -> Result<Self> {
        let key = lab.kubectl(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"])?;
        let drop_at = |direction: &str| format!("{direction} \"{}\" udp dport 7947 drop", node.name);
        lab.lan().exec(&[
            "nft",
            &format!(
                "add table bridge hellos; add chain bridge hellos wall {{ type filter hook forward priority 0; }}; \
                 add rule bridge hellos wall {}; add rule bridge hellos wall {}",
                drop_at("iifname"),
                drop_at("oifname")
            ),
        ])?;
        let index = |node: &Node| -> Result<usize> {
            let link = lab.lan().exec(&["ip", "-o", "link", "show", "dev", &node.name])?;
            link.split(':').next().context("its index")?.trim().parse().context("its index")
        };
        let own = index(node)?;
        let others = lab.nodes().iter().filter(|other| other.index != node.index);
        let others = others.map(index).collect::<Result<Vec<_>>>()?;
        let frames = lab.lan().run(open)??;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            version: AtomicU8::new(OURS),
            translated: [const { AtomicUsize::new(0) }; 2],
            failed: Mutex::new(None),
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
            move || {
                let ended = Relay { frames, own, others, ports: BTreeMap::new(), key }.run(&shared);
                if let Err(error) = &ended {
                    let text = format!("{error:#}");
                    shared.failed.lock().unwrap_or_else(PoisonError::into_inner).replace(text);
                }
                ended
            }
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What they say from now on of their version.
    pub(super) fn set_version(&self, version: u8) {
        self.shared.version.store(version, Ordering::Relaxed);
    }

    /// Hellos that were written anew so far: from the node, to the node.
    pub(super) fn translated(&self) -> Result<[usize; 2]> {
        let failed = self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure!(failed.is_none(), "the translator has ended: {}", failed.unwrap_or_default());
        Ok(self.shared.translated.each_ref().map(|count| count.load(Ordering::Relaxed)))
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Relay {
    frames: OwnedFd,
    own: usize,
    others: Vec<usize>,
    /// Ports as the kernel has named them, by index: where frames came in, frames can be put out.
    ports: BTreeMap<usize, LinkAddr>,
    key: hmac::Key,
}

impl Relay {
    fn run(mut self, shared: &Shared) -> Result<()> {
        let mut octets = [0; 2048];
        while !shared.stop.load(Ordering::Relaxed) {
            let mut readable = [PollFd::new(self.frames.as_fd(), PollFlags::POLLIN)];
            match poll(&mut readable, PollTimeout::from(20_u8)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            while let Some((length, from)) = next(&self.frames, &mut octets)? {
                self.frame(octets.get(..length).unwrap_or_default(), from, shared)?;
            }
        }
        Ok(())
    }

    fn frame(&mut self, frame: &[u8], from: LinkAddr, shared: &Shared) -> Result<()> {
        let at = from.ifindex();
        if from.pkttype() == OUTGOING || (at != self.own && !self.others.contains(&at)) {
            return Ok(());
        }
        self.ports.insert(at, from);
        let Some(hello) = hello(frame) else { return Ok(()) };
        let written = written_anew(frame, hello, shared.version.load(Ordering::Relaxed), &self.key);
        let (out, count) = match at == self.own {
            true => (self.others.as_slice(), &shared.translated[0]),
            false => (std::slice::from_ref(&self.own), &shared.translated[1]),
        };
        for port in out.iter().filter_map(|port| self.ports.get(port)) {
            match sendto(self.frames.as_raw_fd(), &written, port, MsgFlags::MSG_DONTWAIT) {
                // The next one follows soon.
                Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENETDOWN) => {}
                Err(error) => return Err(error).context("a frame is put out"),
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn open() -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let frames = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    setsockopt(&frames, sockopt::RcvBufForce, &(8 << 20))?;
    Ok(frames)
}

/// The next frame that is there, and the port.
fn next(frames: &OwnedFd, octets: &mut [u8]) -> Result<Option<(usize, LinkAddr)>> {
    let mut slices = [IoSliceMut::new(octets)];
    match recvmsg::<LinkAddr>(frames.as_raw_fd(), &mut slices, None, MsgFlags::MSG_DONTWAIT) {
        Ok(message) => Ok(Some((message.bytes, message.address.context("a frame without a port")?))),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The datagram of a hello over IPv4.
fn hello(frame: &[u8]) -> Option<&[u8]> {
    let is = |at: usize, wanted: &[u8]| frame.get(at..at + wanted.len()) == Some(wanted);
    // IPv4, no options; UDP; the port.
    if !is(12, &[0x08, 0, 0x45]) || !is(ETHERNET + 9, &[17]) || !is(UDP + 2, &HELLO) {
        return None;
    }
    let length = usize::from(u16::from_be_bytes(frame.get(UDP + 4..UDP + 6)?.try_into().ok()?));
    frame.get(PAYLOAD..UDP + length).filter(|hello| hello.len() > HMAC_LEN)
}

/// The frame with a hello of this version, which has an element more, signed again.
fn written_anew(frame: &[u8], hello: &[u8], version: u8, key: &hmac::Key) -> Vec<u8> {
    let mut said = hello[..hello.len() - HMAC_LEN].to_vec();
    said[4] = version;
    said.extend(UNKNOWN);
    let code = hmac::sign(key, &said);
    let mut out = frame[..PAYLOAD].to_vec();
    out.extend(said);
    out.extend(code.as_ref());
    let length = |of: usize| u16::try_from(of).unwrap_or(u16::MAX).to_be_bytes();
    let (ip, udp) = (length(out.len() - ETHERNET), length(out.len() - UDP));
    out[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&ip);
    out[UDP + 4..UDP + 6].copy_from_slice(&udp);
    // RFC 768: none.
    out[UDP + 6..PAYLOAD].fill(0);
    out[ETHERNET + 10..ETHERNET + 12].fill(0);
    let words = out[ETHERNET..UDP].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX);
    out[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());
    out
}
