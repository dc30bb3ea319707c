//! Why a session or an attempt ended, in words that a log line and an operator can use.

use std::fmt;
use std::time::Duration;

use super::State;
use super::negotiation::OpenRefusal;
use crate::wire::{Code, DecodeError, Notification};

/// The cause of an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// We were told to stop, and said so.
    Stopped(Notification),
    /// We were told to restart, and the peer keeps our routes until we are back.
    Restarting,
    /// The dial failed.
    ConnectFailed(String),
    /// The dial took longer than this.
    ConnectTimedOut(Duration),
    /// The connection ended, by the peer (`None`) or by an error.
    Disconnected(Option<String>),
    /// The peer ended it.
    NotificationReceived(Notification),
    /// The peer sent something unreadable.
    Malformed(DecodeError),
    /// The peer's OPEN is not acceptable.
    OpenRefused(OpenRefusal),
    /// A message came that has no place in the state.
    UnexpectedMessage {
        /// The message's name.
        message: &'static str,
        /// Our state.
        state: State,
    },
    /// What watches the path says that it is dead.
    PathFailed(String),
    /// The peer was silent for this long.
    HoldTimerExpired(Duration),
    /// The peer opened another connection: before it said anything on this one, or because it restarted (RFC 4724 §4.2).
    Replaced,
}

impl DownReason {
    /// Whether the peer closed a connection in favour of another.
    pub(super) fn is_collision(&self) -> bool {
        matches!(self, Self::NotificationReceived(n) if n.code == Code::COLLISION_RESOLUTION)
    }
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped(notification) => write!(f, "stopped, sent NOTIFICATION {notification}"),
            Self::Restarting => f.write_str("restarting, the peer keeps the routes"),
            Self::ConnectFailed(cause) => write!(f, "connect failed: {cause}"),
            Self::ConnectTimedOut(after) => write!(f, "connect timed out after {} s", after.as_secs_f32()),
            Self::Disconnected(None) => f.write_str("peer closed the connection"),
            Self::Disconnected(Some(cause)) => write!(f, "connection lost: {cause}"),
            Self::NotificationReceived(notification) => write!(f, "peer sent NOTIFICATION {notification}"),
            Self::Malformed(error) => write!(f, "{error}; sent NOTIFICATION {}", error.notification()),
            Self::OpenRefused(refusal) => {
                write!(f, "{refusal}; sent NOTIFICATION {}", refusal.notification())
            }
            Self::UnexpectedMessage { message, state } => write!(f, "peer sent {message} in state {state}"),
            Self::PathFailed(why) => f.write_str(why),
            Self::HoldTimerExpired(after) => write!(f, "hold timer expired after {} s", after.as_secs()),
            Self::Replaced => f.write_str("peer opened another connection instead"),
        }
    }
}
