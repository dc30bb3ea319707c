//! Why the kernel's ruleset is not as wanted.

use std::io;
use std::time::Duration;

use thiserror::Error;

use super::batch::Subject;
use crate::element::Element;
use crate::family::IpFamily;
use crate::ruleset::Entry;

/// Why the kernel's ruleset is not as wanted.
#[derive(Debug, Error)]
pub enum KernelError {
    /// No socket: no permission, or no nf_tables.
    #[error("cannot open a netlink socket for nf_tables (CAP_NET_ADMIN is needed)")]
    Open(#[source] io::Error),
    /// The batch did not reach the kernel; nothing changed.
    #[error("cannot send a transaction of {bytes} bytes")]
    Send {
        /// Its size.
        bytes: usize,
        /// Cause.
        source: io::Error,
    },
    /// The answer cannot be read.
    #[error("cannot read the kernel's answer")]
    Receive(#[source] io::Error),
    /// No answer came; what is in force is unknown.
    #[error("the kernel did not answer within {0:?}")]
    Timeout(Duration),
    /// The answer did not fit the socket's buffer; what is in force is unknown.
    #[error("the kernel's answer was lost for want of buffer space")]
    Lost,
    /// The kernel refused; nothing changed.
    #[error("the kernel refused {subject}: {source}{}", reason.as_deref().map(|r| format!(" ({r})")).unwrap_or_default())]
    Refused {
        /// What it refused.
        subject: Subject,
        /// Its error number.
        source: io::Error,
        /// Its words, if any.
        reason: Option<String>,
    },
    /// An element asks for a class that the ruleset has no chain for; nothing was sent.
    #[error("there is no chain for the class in {0:?}")]
    UnknownClass(Element),
    /// Somebody edited the tables.
    #[error("Herald's tables are not as it left them: {0}")]
    Foreign(String),
    /// No listing came to its end without somebody's commit in between.
    #[error("others changed nftables each time it was listed")]
    Unsettled,
}

impl KernelError {
    /// The families that it is about: that of a refused element, else both.
    pub fn families(&self) -> Vec<IpFamily> {
        match self {
            Self::Refused { subject: Subject::Addition(element) | Subject::Removal(element), .. }
            | Self::UnknownClass(element) => vec![Entry::from(element).family],
            _ => IpFamily::ALL.to_vec(),
        }
    }

    /// True when the tables themselves are missing, for instance after somebody's `nft flush ruleset`: only
    /// [`super::Kernel::replace`] helps.
    pub fn is_table_missing(&self) -> bool {
        self.lacks_something()
    }

    /// True when what an object names is not there: a table, or where tables were to be made, an expression that the kernel has
    /// not.
    pub fn lacks_something(&self) -> bool {
        matches!(self, Self::Refused { subject: Subject::Object(_), source, .. }
            if source.raw_os_error() == Some(libc::ENOENT))
    }
}
