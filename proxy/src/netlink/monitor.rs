//! Who else edits our tables: a socket in the group that the kernel tells every change of nf_tables.
//!
//! A filter in the kernel drops what our own transactions caused, so that the socket wakes nobody for them. It cannot
//! spare the kernel the making of those messages, some KiB for each element. So the socket leaves the group during
//! large transactions of ours; that nobody else committed meanwhile is known by the generation.
//!
//! What comes is a hint and no more: somebody touched our tables, or may have. What to do about it is found by comparing
//! ([`super::Kernel::adopt`]).

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use netlink_sys::{AsyncSocket, TokioSocket, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockFilter, SockRef};
use tokio::sync::Notify;

use super::batch::protocol_family;
use super::decode::find;
use super::decode::text;
use super::reply::{Reply, replies};
use super::wire::{NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN};
use crate::family::IpFamily;
use crate::ruleset::Ruleset;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;

/// Some thousand messages. When there are more, that itself is a hint.
const RECEIVE_BUFFER: usize = 1 << 20;

/// A page of messages, as the kernel joins them.
const DATAGRAM: usize = 64 << 10;

/// The attribute that names the table, in messages about tables and about anything in them.
const TABLE: u16 = 1;

/// Waits for others' edits. Clones are the same socket; one of them waits.
#[derive(Clone)]
pub struct Monitor {
    socket: Arc<TokioSocket>,
    /// Something may have been missed.
    missed: Arc<Notify>,
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Monitor")
    }
}

impl Monitor {
    /// In the network namespace of the calling thread and the tokio runtime that it has entered; deaf to transactions of
    /// the socket with port `own`.
    pub(super) fn open(own: u32) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        SockRef::from(socket.socket_ref()).attach_filter(&all_but(own))?;
        setsockopt(socket.socket_ref(), sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        socket.socket_ref().add_membership(GROUP)?;
        Ok(Self { socket: Arc::new(socket), missed: Arc::new(Notify::new()) })
    }

    /// Hears nothing until [`Self::join`].
    pub(super) fn leave(&self) -> io::Result<()> {
        self.socket.socket_ref().drop_membership(GROUP)
    }

    pub(super) fn join(&self) -> io::Result<()> {
        self.socket.socket_ref().add_membership(GROUP)
    }

    /// Wakes who waits as if something had come.
    pub(super) fn suspect(&self) {
        self.missed.notify_one();
    }

    /// Returns when somebody else touched our tables, or may have. All hints that are there by then are one.
    pub async fn changed(&mut self) -> io::Result<()> {
        tokio::select! {
            () = self.missed.notified() => Ok(()),
            heard = poll_fn(|context| self.poll(context)) => heard,
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut touched = false;
        // Until there is nothing more to read; who writes faster than that is heard of all the same.
        for _ in 0..RECEIVE_BUFFER / 256 {
            let mut datagram = Vec::with_capacity(DATAGRAM);
            match self.socket.poll_recv(context, &mut datagram) {
                Poll::Ready(Ok(())) => touched |= replies(&datagram).any(|message| is_ours(&message)),
                // What did not fit the buffer may have been about us.
                Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => touched = true,
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if touched => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The program of a socket filter: messages of a transaction carry the port of the socket that sent it, at offset 12 of
/// their header, and all messages of a datagram are of one transaction.
fn all_but(own: u32) -> [SockFilter; 4] {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // A filter loads words in network order; the port stands in the host's.
    let own = u32::from_be_bytes(own.to_ne_bytes());
    [
        SockFilter::new(LOAD_WORD, 0, 0, 12),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, own),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

fn is_ours(message: &Reply<'_>) -> bool {
    message.kind >> 8 == NFNL_SUBSYS_NFTABLES
        && message.kind & 0xff != NFT_MSG_NEWGEN
        && IpFamily::ALL.map(protocol_family).contains(&message.family)
        && find(message.attributes, TABLE).and_then(text) == Some(Ruleset::TABLE)
}
