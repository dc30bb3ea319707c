//! One TCP connection of a session: dialled, read, written, and ended in good order.

use std::io;
use std::time::Duration;

use herald_bgp::{ConnId, Decoder, Families, LocalAddresses};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest, Ready};
use tokio::net::TcpStream;

use super::next_hop;
use super::outbox::Outbox;
use super::sockopt::{DialError, DialOptions, dial};

/// How long a connection that ends may take to hand over what is written and to see the peer's end of it.
const CLOSE: Duration = Duration::from_millis(500);
/// A connection that is up: what is read and what waits to be written.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    pub(super) stream: TcpStream,
    pub(super) decoder: Decoder,
    pub(super) outbox: Outbox,
}

/// Dials, and finds the next hops of the session.
pub(super) async fn connect(
    options: DialOptions,
    families: Families,
    within: Duration,
) -> Result<(TcpStream, LocalAddresses), DialError> {
    let stream = dial(&options, within).await?;
    let local = addresses(&stream, families).await;
    Ok((stream, local.map_err(|error| DialError::Connect(options.peer, error))?))
}

/// The next hops of a session over this connection.
pub(super) async fn addresses(stream: &TcpStream, families: Families) -> io::Result<LocalAddresses> {
    let bound = stream.local_addr()?.ip();
    let one = if bound.is_ipv4() { Families::IPV4 } else { Families::IPV6 };
    Ok(next_hop::local_addresses(bound, families != one).await)
}

/// Waits until one of the connections can be read, or written if there is something to write.
pub(super) async fn ready(connections: &[Connection]) -> (ConnId, io::Result<Ready>) {
    match connections {
        [] => std::future::pending().await,
        [one] => one.ready().await,
        [one, other, ..] => tokio::select! {
            ready = one.ready() => ready,
            ready = other.ready() => ready,
        },
    }
}

impl Connection {
    async fn ready(&self) -> (ConnId, io::Result<Ready>) {
        let write = !self.outbox.is_empty();
        let interest = if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        (self.id, self.stream.ready(interest).await)
    }

    /// Writes what is still to be written, ends our side, and waits for the peer's end: closing with unread input would
    /// make the kernel send a reset, which can overtake the NOTIFICATION. A peer of whom nothing comes is sent one, lest it keep
    /// its half, and refuse the next connection, until its hold time is over.
    pub(super) async fn close(&mut self) -> bool {
        let orderly = async {
            loop {
                let chunk = self.outbox.chunk();
                if chunk.is_empty() {
                    break;
                }
                let count = self.stream.write(chunk).await?;
                self.outbox.advance(count);
            }
            self.stream.shutdown().await?;
            let mut rest = [0; 4096];
            while self.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        let ended = matches!(tokio::time::timeout(CLOSE, orderly).await, Ok(Ok(())));
        if !ended && let Err(error) = self.stream.set_zero_linger() {
            tracing::debug!(%error, "a connection cannot be reset");
        }
        ended
    }
}
