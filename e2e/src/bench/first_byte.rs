//! When an address begins to answer a client: connections every millisecond, each with a socket of its own.
//!
//! One socket that waits would measure TCP's retransmission: a first SYN that nobody answers is sent again after a whole
//! second. So no attempt waits for its retransmission, and the earliest byte of any attempt counts.
//! Packets get few hops to live. A node that attracts an address before it can serve it sends its packets back to the
//! router, and the copies in the circle would be load on the machine that is measured.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

/// Between two attempts; what the result may be too late by.
const EVERY: Duration = Duration::from_millis(1);
/// For one attempt; shorter than the first retransmission of a SYN (1 s).
const ATTEMPT: Duration = Duration::from_millis(250);
/// So many attempts are under way at most.
const AT_ONCE: usize = 256;
/// client → router → node → node of the pod → pod are four hops.
const HOPS: u32 = 12;

/// What the client saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstByte {
    /// When the first byte was there; `None` when the deadline came first.
    pub(super) at: Option<Instant>,
    /// How many connections were tried.
    pub(super) attempts: u32,
}

/// Runs in the client's namespace.
pub(super) async fn await_first_byte(to: SocketAddr, deadline: Instant) -> FirstByte {
    let mut under_way = JoinSet::new();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut attempts = 0;
    loop {
        tokio::select! {
            biased;
            Some(ended) = under_way.join_next() => {
                if let Ok(Ok(Ok(at))) = ended {
                    return FirstByte { at: Some(at), attempts };
                }
            }
            () = sleep_until(deadline.into()) => return FirstByte { at: None, attempts },
            _ = tick.tick() => {
                if under_way.len() < AT_ONCE {
                    attempts += 1;
                    under_way.spawn(timeout(ATTEMPT, attempt(to)));
                }
            }
        }
    }
}

async fn attempt(to: SocketAddr) -> Result<Instant> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_ttl_v4(HOPS)?;
    // Closed by a reset: nothing of thousands of attempts is left in TIME_WAIT.
    socket.set_linger(Some(Duration::ZERO))?;
    let mut stream = TcpSocket::from_std_stream(socket.into()).connect(to).await?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut buffer = [0; 512];
    let count = stream.read(&mut buffer).await?;
    let at = Instant::now();
    if !buffer[..count].starts_with(b"HTTP/1.1 200") {
        bail!("not a pod's answer");
    }
    Ok(at)
}
