//! One try: a TCP connection to the address by the node's own routes, closed at once by a reset.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;

use super::{Key, PROBE_MARK};

/// For the connection to be made.
const WITHIN: Duration = Duration::from_secs(1);

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The connection was made, after this long.
    Answered(Duration),
    /// A reset, or "port unreachable".
    Refused,
    /// Nothing within a second.
    Unanswered,
    /// "Host unreachable", by a router or for want of an answer to ARP or neighbour discovery.
    Unreachable,
    /// It says nothing about the address.
    Skipped(Skipped),
}

/// Why a probe says nothing about the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skipped {
    /// It came back to this node each time.
    Returned,
    /// This node has no route there.
    NoRoute,
    /// This node has the address itself.
    Own,
    /// The address went, or came to this node, while the probe was under way.
    Gone,
    /// The node does not let it out, or has no socket left.
    NotSent,
}

impl Answer {
    /// All words of the metric.
    pub(crate) const WORDS: [&'static str; 4] = ["answered", "refused", "unanswered", "skipped"];

    /// The place of its word.
    pub(crate) fn place(self) -> usize {
        match self {
            Self::Answered(_) => 0,
            Self::Refused => 1,
            Self::Unanswered | Self::Unreachable => 2,
            Self::Skipped(_) => 3,
        }
    }

    /// Whether the address works; `None`: nothing is known.
    pub(crate) fn is_answered(self) -> Option<bool> {
        match self {
            Self::Answered(_) => Some(true),
            Self::Refused | Self::Unanswered | Self::Unreachable => Some(false),
            Self::Skipped(_) => None,
        }
    }

    /// What happened, for people.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Answered(_) => "the connection was made",
            Self::Refused => "the connection was refused",
            Self::Unanswered => "no answer within a second",
            Self::Unreachable => {
                "unreachable: a router on the way has no route, or nobody answers ARP or neighbour discovery"
            }
            Self::Skipped(Skipped::Returned) => {
                "each probe came back to this node, which a router may choose as well: that says nothing"
            }
            Self::Skipped(Skipped::NoRoute) => "this node has no route there",
            Self::Skipped(Skipped::Own) => "this node has the address itself",
            Self::Skipped(Skipped::Gone) => "the address went while it was probed",
            Self::Skipped(Skipped::NotSent) => "this node does not let the probe out (a filter of its own?)",
        }
    }
}

/// A try whose own end is known before anything is sent.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) key: Key,
    /// Cancelled by who has seen it come back.
    pub(crate) returned: CancellationToken,
    socket: TcpSocket,
}

impl Attempt {
    /// Opens the socket; nothing is sent yet.
    pub(crate) fn open(to: SocketAddr) -> Result<Self, Answer> {
        let source = source(to).map_err(|error| Answer::Skipped(unsent(&error, Skipped::NoRoute)))?;
        if source == to.ip() {
            return Err(Answer::Skipped(Skipped::Own));
        }
        let socket = bound(source, to).map_err(|error| Answer::Skipped(unsent(&error, Skipped::NotSent)))?;
        let local = socket.local_addr().map_err(|_| Answer::Skipped(Skipped::NotSent))?;
        Ok(Self { key: (local, to), returned: CancellationToken::new(), socket })
    }

    /// Makes the connection.
    pub(crate) async fn ends(self) -> (Key, Answer) {
        let Self { key, returned, socket } = self;
        let begin = Instant::now();
        let connected = tokio::time::timeout(WITHIN, socket.connect(key.1));
        let answer = tokio::select! {
            () = returned.cancelled() => Answer::Skipped(Skipped::Returned),
            connected = connected => match connected {
                Err(_) => Answer::Unanswered,
                Ok(Ok(_)) => Answer::Answered(begin.elapsed()),
                Ok(Err(error)) => failed(&error),
            },
        };
        (key, answer)
    }
}

/// The address of this node that a packet there has. Sends nothing.
fn source(to: SocketAddr) -> io::Result<IpAddr> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM.cloexec(), None)?;
    socket.set_mark(PROBE_MARK)?;
    socket.connect(&to.into())?;
    let own = socket.local_addr()?.as_socket().map(|own| own.ip());
    own.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn bound(source: IpAddr, to: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    SockRef::from(&socket).set_mark(PROBE_MARK)?;
    // The end is a reset: no socket stays in TIME_WAIT, and conntrack forgets in seconds.
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    socket.bind(SocketAddr::new(source, 0))?;
    Ok(socket)
}

/// Why nothing was sent, as far as the kernel says.
fn unsent(error: &io::Error, otherwise: Skipped) -> Skipped {
    match error.kind() {
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Skipped::NoRoute,
        io::ErrorKind::PermissionDenied => Skipped::NotSent,
        _ => otherwise,
    }
}

fn failed(error: &io::Error) -> Answer {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Answer::Refused,
        // A filter in the node's output hook.
        io::ErrorKind::PermissionDenied => Answer::Skipped(Skipped::NotSent),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => Answer::Skipped(Skipped::NotSent),
        // There was a route of this node, so it is another's word.
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Answer::Unreachable,
        _ => Answer::Unanswered,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::far::Mirror;
    use crate::testing::in_namespace;

    #[test]
    fn each_word_has_its_place() {
        for (answer, word) in [
            (Answer::Answered(WITHIN), "answered"),
            (Answer::Refused, "refused"),
            (Answer::Unanswered, "unanswered"),
            (Answer::Unreachable, "unanswered"),
            (Answer::Skipped(Skipped::Own), "skipped"),
        ] {
            assert_eq!(Answer::WORDS[answer.place()], word);
        }
    }

    #[test]
    #[ignore = "needs a network namespace"]
    fn what_has_no_route_or_is_the_nodes_own_is_skipped_and_what_others_say_is_told_apart() {
        in_namespace(|| async {
            let skipped = |to: &str| match Attempt::open(to.parse().unwrap()) {
                Err(Answer::Skipped(why)) => why,
                other => panic!("{other:?}"),
            };
            assert_eq!(skipped("127.0.0.1:80"), Skipped::Own);
            assert_eq!(skipped("192.0.2.1:80"), Skipped::NoRoute);
            assert_eq!(skipped("[2001:db8:1::1]:80"), Skipped::NoRoute);
            // Another address of the same node, for want of another node.
            let ends = async |to: SocketAddr| Attempt::open_from([127, 0, 0, 2].into(), to).ends().await.1;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            assert!(matches!(ends(listener.local_addr().unwrap()).await, Answer::Answered(_)));
            // One that is bound and does not listen; a closed listener would listen on in a process that another test forks just then.
            let mute = TcpSocket::new_v4().unwrap();
            mute.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            assert_eq!(ends(mute.local_addr().unwrap()).await, Answer::Refused);
            let _router = Mirror::new();
            let attempt = Attempt::open(([192, 0, 2, 9], 80).into()).unwrap();
            assert_eq!(attempt.ends().await.1, Answer::Unreachable);
        });
    }

    impl Attempt {
        fn open_from(source: IpAddr, to: SocketAddr) -> Self {
            let socket = bound(source, to).unwrap();
            let key = (socket.local_addr().unwrap(), to);
            Self { key, returned: CancellationToken::new(), socket }
        }
    }
}
