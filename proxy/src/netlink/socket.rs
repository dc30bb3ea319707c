//! The netlink socket: sends whole batches, receives within a deadline.
//!
//! The kernel handles a batch inside `send`, so its answer is there when `send` returns; the deadline of `receive`
//! covers what should not happen.

use std::io;
use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

/// Room for many refusals at once; each takes the kernel less than 1 KiB.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The kernel compares a datagram with the buffer's size less some overhead.
const SEND_OVERHEAD: usize = 4096;

/// A datagram of acknowledgements or a small reply.
const DATAGRAM: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    socket: Socket,
    port: u32,
    send_buffer: usize,
}

impl NetlinkSocket {
    /// A socket of the calling thread's network namespace. Needs CAP_NET_ADMIN there.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        // Refusals carry the header of the refused message, not its 48 KiB.
        socket.set_cap_ack(true)?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        Ok(Self { socket, port, send_buffer: 0 })
    }

    /// Under which the kernel knows this socket.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends one datagram of whatever size.
    pub(crate) fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        let wanted = datagram.len() + SEND_OVERHEAD;
        if wanted > self.send_buffer {
            setsockopt(&self.socket, sockopt::SndBufForce, &wanted)?;
            self.send_buffer = wanted;
        }
        loop {
            match self.socket.send(datagram, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next datagram, or `WouldBlock` at the deadline.
    pub(crate) fn receive(&self, deadline: Instant) -> io::Result<Vec<u8>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero would mean no timeout at all.
            SockRef::from(&self.socket).set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut datagram = Vec::with_capacity(DATAGRAM);
            match self.socket.recv(&mut datagram, 0) {
                Ok(_) => return Ok(datagram),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if deadline <= Instant::now() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }
}
