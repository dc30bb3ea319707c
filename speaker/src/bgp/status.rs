//! What is told of a session to people: its state, what was agreed, how it ended last, and what to do about that.
//!
//! A peer's task writes it, `herald status bgp` reads it; nothing is decided by it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use herald_bgp::{DownReason, OpenRefusal, State};
use herald_config::Peer;

/// Who ended a session, or kept it from coming up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// We did.
    Us,
    /// The peer did.
    Peer,
    /// Neither: packets do not arrive.
    Path,
}

impl By {
    /// All, as in [`Seen::ended`].
    pub(crate) const ALL: [Self; 3] = [Self::Us, Self::Peer, Self::Path];

    /// As it is called in answers.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Peer => "the peer",
            Self::Path => "the path",
        }
    }
}

/// An end of a session or of an attempt.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// When.
    pub(crate) at: Instant,
    /// Why, in words.
    pub(crate) text: String,
    /// The likely cause and what to do.
    pub(crate) advice: Option<String>,
}

/// What is seen of a session.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Its state.
    pub(crate) state: State,
    /// Since when.
    pub(crate) since: Instant,
    /// What both agreed on, in words, while it is up.
    pub(crate) negotiated: Option<String>,
    /// Routes that the peer has of us: IPv4, IPv6.
    pub(crate) routes: [usize; 2],
    /// Routes that cannot be sent to it.
    pub(crate) unusable: usize,
    /// The last end by each of [`By::ALL`].
    pub(crate) ended: [Option<Ended>; 3],
}

impl Seen {
    /// Of a peer that is to be found on an interface and has not been.
    pub(crate) fn nobody(device: &str) -> Self {
        let ended = Ended {
            at: Instant::now(),
            text: format!("no router has advertised itself on {device}"),
            advice: Some(format!(
                "let it send router advertisements there (FRR does for “neighbor … interface”, BIRD by protocol radv), and see that {device} is up on this node"
            )),
        };
        Self { ended: [None, None, Some(ended)], ..Self::default() }
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            state: State::Idle,
            since: Instant::now(),
            negotiated: None,
            routes: [0; 2],
            unusable: 0,
            ended: [None, None, None],
        }
    }
}

/// The task's and the reader's hold of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Seen>>);

impl Shared {
    /// To look at or to change; held for as long as that takes and no longer.
    pub(crate) fn get(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the peer would dial is not there.
    pub(crate) fn cannot_listen(&self, error: &io::Error) {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another BGP daemon of this node has the port: end it, or let this node dial (connect: dial)"
            }
            io::ErrorKind::AddrNotAvailable => "sourceAddress is no address of this node",
            io::ErrorKind::PermissionDenied => {
                "port 179 needs the capability NET_BIND_SERVICE: add it to the speaker's container"
            }
            _ => "until then this node takes no connection of the peer",
        };
        let ended = Ended { at: Instant::now(), text: error.to_string(), advice: Some(advice.to_owned()) };
        self.get().ended[0] = Some(ended);
    }

    /// The session, or an attempt at it, ended.
    pub(crate) fn ended(&self, reason: &DownReason, peer: &Peer) {
        let Some(by) = by(reason) else { return };
        let ended = Ended { at: Instant::now(), text: reason.to_string(), advice: advice(reason, peer) };
        if let Some(slot) = By::ALL.iter().position(|one| *one == by) {
            self.get().ended[slot] = Some(ended);
        }
    }
}

/// `None`: it was planned.
fn by(reason: &DownReason) -> Option<By> {
    match reason {
        DownReason::Stopped(_) | DownReason::Restarting => None,
        DownReason::Malformed(_)
        | DownReason::OpenRefused(_)
        | DownReason::UnexpectedMessage { .. }
        | DownReason::PathFailed(_)
        | DownReason::HoldTimerExpired(_) => Some(By::Us),
        DownReason::NotificationReceived(_) | DownReason::Disconnected(None) | DownReason::Replaced => {
            Some(By::Peer)
        }
        DownReason::ConnectFailed(_) | DownReason::ConnectTimedOut(_) | DownReason::Disconnected(Some(_)) => {
            Some(By::Path)
        }
    }
}

/// The likely cause, and what to do; `None` where the reason itself says it.
pub(crate) fn advice(reason: &DownReason, peer: &Peer) -> Option<String> {
    let (ours, address) = (peer.local_asn.unwrap_or(peer.my_asn), peer.address);
    let text = match reason {
        DownReason::NotificationReceived(notification) => {
            let code = notification.code;
            match (code.0, code.1) {
                (2, 2) => format!(
                    "the peer expects another AS than {ours} of this node: compare myASN with the peer's statement for this neighbour"
                ),
                (2, 3) => "the peer refuses our router id: it is its own, or another neighbour's; set routerID".to_owned(),
                (2, 6) => "the peer refuses our hold time: set a longer holdTime".to_owned(),
                (2, 7) => "the peer asks for what we did not offer: see which families it has for this neighbour".to_owned(),
                (2, 11) => "the roles of both sides do not go together (RFC 9234): correct role of herald.bgp-peers, or the peer's".to_owned(),
                (4, 0) => {
                    "the peer heard nothing from this node for its hold time: look for loss on the path, and for a node without CPU".to_owned()
                }
                (6, 1) => "the peer takes fewer prefixes than it gets: raise its limit, or announce aggregates".to_owned(),
                (6, 2) => "its operator shut the session down there".to_owned(),
                (6, 3) => "the peer has no such neighbour any more: configure it there again, or remove the peer here".to_owned(),
                (6, 5) => format!(
                    "the peer has no neighbour with this node's address, or refuses it for a while after an error: look at {address} for the neighbour and its log"
                ),
                (6, 10) => "BFD of the peer heard nothing from this node: look for loss on the path, and for filters on UDP 3784 and 4784".to_owned(),
                _ => return None,
            }
        }
        DownReason::OpenRefused(OpenRefusal::PeerAs { got, .. }) => {
            format!("set peerASN to {got}, or correct the AS of {address}")
        }
        DownReason::OpenRefused(OpenRefusal::RouterId(_)) => {
            "give the peer, or this node by routerID, another router id".to_owned()
        }
        DownReason::OpenRefused(OpenRefusal::Families(_)) => {
            "enable the families of the pools for this neighbour at the peer".to_owned()
        }
        DownReason::HoldTimerExpired(_) => {
            format!("the peer, or the path to it, was silent: look at the log of {address}, and for loss on the path")
        }
        DownReason::PathFailed(_) => {
            format!("BFD heard nothing from the peer: look whether {address} is up, and for filters on UDP 3784 and 4784")
        }
        DownReason::ConnectTimedOut(_) | DownReason::ConnectFailed(_) if peer.password.is_some() => format!(
            "with a password this is how a wrong one looks: compare it with the one of {address}, then the path and its filters"
        ),
        DownReason::ConnectFailed(cause) if cause.contains("refused") => {
            format!(
                "nothing listens for BGP at {address}, or the peer has no neighbour with this node's address"
            )
        }
        DownReason::ConnectTimedOut(_) | DownReason::ConnectFailed(_) => {
            format!("look for the path to {address} and for filters on TCP port {}", peer.port)
        }
        DownReason::Disconnected(None) => {
            "a peer closes at once that has no neighbour with this node's address, or has a session with another BGP speaker at it (a \
             network plugin's): look at its log, and give this session a sourceAddress of its own"
                .to_owned()
        }
        _ => return None,
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use herald_bgp::Notification;
    use herald_bgp::wire::Code;

    use super::super::tests::settings;
    use super::*;

    fn advised(reason: &DownReason, more: &str) -> String {
        advice(reason, &settings(more).peer).unwrap_or_default()
    }

    #[test]
    fn a_refused_open_and_a_wrong_password_are_told_with_their_remedy() {
        let received = |code| DownReason::NotificationReceived(Notification::new(code));
        let refused = |got| DownReason::OpenRefused(OpenRefusal::PeerAs { got, expected: Some(100) });
        let silent = DownReason::ConnectTimedOut(Duration::from_secs(5));
        for (reason, more, words) in [
            (received(Code::BAD_PEER_AS), "", "another AS than 42"),
            (received(Code::CONNECTION_REJECTED), "", "10.0.0.1"),
            (received(Code::MAXIMUM_PREFIXES), "", "limit"),
            (refused(64_501), "", "set peerASN to 64501"),
            (silent.clone(), ", password: x", "wrong one"),
            (silent, "", "TCP port 179"),
            (DownReason::ConnectFailed("Connection refused".to_owned()), "", "nothing listens"),
            (DownReason::Disconnected(None), "", "another BGP speaker"),
        ] {
            let text = advised(&reason, more);
            assert!(text.contains(words), "{reason}: {text}");
        }
        assert_eq!(advice(&DownReason::Restarting, &settings("").peer), None);
    }

    #[test]
    fn each_end_is_kept_by_who_made_it_and_a_planned_one_is_none() {
        let shared = Shared::default();
        let peer = settings("").peer;
        shared.ended(&DownReason::Restarting, &peer);
        assert!(shared.get().ended.iter().all(Option::is_none));
        shared.ended(&DownReason::HoldTimerExpired(Duration::from_secs(9)), &peer);
        shared.ended(&DownReason::Disconnected(None), &peer);
        let seen = shared.get();
        let made: Vec<bool> = seen.ended.iter().map(Option::is_some).collect();
        assert_eq!(made, [true, true, false]);
    }
}
