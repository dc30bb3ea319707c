//! Local addresses: puts served addresses on `lo` and takes them off again, and never touches another's.
//!
//! Every address is a /32 or /128 (IPv6 without duplicate address detection) with two tags: `IFA_PROTO`
//! [`PROTOCOL`] (kernel 5.18 and newer; older ones ignore it) and the route priority [`PRIORITY`] (kernel 4.18 and
//! newer). An address on `lo` that has either is ours. So a crash leaves nothing that the next start cannot
//! recognise, and no file has to be kept beside the kernel's own state.
//!
//! An address on `lo` must not be answered for by ARP on the node's other interfaces: while at least one is there,
//! `net.ipv4.conf.all.arp_ignore` is at least 1 and `arp_announce` at least 2. The values found are put back when
//! the last one goes. When addresses of an earlier run were adopted the former values are not known and the two
//! stay. A sysctl that cannot be written is a warning.
//!
//! What should be there is not decided here (`plan.rs`), nor when (`steps.rs`). Invariant: an address without one
//! of the tags is neither added to our set nor removed, also when it equals one that we want.

mod sysctl;
pub(crate) mod watch;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
};
use rtnetlink::Handle;

use crate::sysctl::Sysctls;

/// `IFA_PROTO` of Herald's addresses: the letter H. Numbers up to 3 are the kernel's own.
pub(crate) const PROTOCOL: u8 = 0x48;
/// `IFA_RT_PRIORITY` of Herald's addresses: the letters HERA. It is what marks them on kernels before 5.18.
pub(crate) const PRIORITY: u32 = 0x4845_5241;

/// What went wrong with one address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    /// The kernel refused it.
    #[error("cannot {verb} {address} on lo")]
    Refused {
        /// "add" or "remove".
        verb: &'static str,
        /// The address.
        address: IpAddr,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
    /// The list of addresses could not be read.
    #[error("cannot list the addresses of lo")]
    List(#[source] rtnetlink::Error),
    /// There is no `lo`, or no rtnetlink.
    #[error("cannot open rtnetlink")]
    Open(#[source] io::Error),
}

/// The addresses on `lo` that are Herald's.
#[derive(Debug)]
pub(crate) struct LocalAddresses {
    handle: Handle,
    index: u32,
    ours: BTreeSet<IpAddr>,
    sysctls: Sysctls,
    /// They are as addresses on `lo` need them.
    raised: bool,
}

/// Lists the addresses of all interfaces of the node, whosever they are. The default knows none.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddressList(Option<Handle>);

impl AddressList {
    /// All of them, by one dump.
    pub(crate) async fn all(&self) -> Result<BTreeSet<IpAddr>, AddressError> {
        let Some(handle) = &self.0 else { return Ok(BTreeSet::new()) };
        let dump: Vec<AddressMessage> =
            handle.address().get().execute().try_collect().await.map_err(AddressError::List)?;
        Ok(dump.iter().filter_map(address_of).collect())
    }
}

impl LocalAddresses {
    /// Lists the addresses of all interfaces.
    pub(crate) fn list(&self) -> AddressList {
        AddressList(Some(self.handle.clone()))
    }

    /// Opens rtnetlink. The future drives the socket and ends only with it: poll it beside everything else.
    pub(crate) fn open(
        sysctls: Sysctls,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), AddressError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(AddressError::Open)?;
        // Interface 1 is `lo` in every network namespace since the kernel allocates it first.
        let opened = Self { handle, index: 1, ours: BTreeSet::new(), sysctls, raised: false };
        Ok((opened, connection))
    }

    /// Reads which of our addresses an earlier run left, and makes them this run's. Returns all of them.
    pub(crate) async fn adopt(&mut self) -> Result<&BTreeSet<IpAddr>, AddressError> {
        self.ours = self.dump().await?.iter().filter(|m| is_ours(m)).filter_map(address_of).collect();
        if self.ours.iter().any(IpAddr::is_ipv4) {
            self.raise();
        }
        Ok(&self.ours)
    }

    /// Puts an address on `lo`. One that somebody else put there is left as it is, and is not ours afterwards.
    pub(crate) async fn add(&mut self, address: IpAddr) -> Result<(), AddressError> {
        if self.ours.contains(&address) {
            return Ok(());
        }
        if address.is_ipv4() {
            self.raise();
        }
        let mut request = self.handle.address().add(self.index, address, host_prefix(address));
        *request.message_mut() = message(self.index, address);
        match request.execute().await {
            Ok(()) => {
                self.ours.insert(address);
                Ok(())
            }
            Err(error) if os_error(&error) == Some(libc::EEXIST) => {
                tracing::debug!(%address, "is on lo already and not ours: left alone");
                self.restore_if_unused();
                Ok(())
            }
            Err(source) => {
                self.restore_if_unused();
                Err(AddressError::Refused { verb: "add", address, source })
            }
        }
    }

    /// Takes one of our addresses off `lo`; any other is left alone.
    pub(crate) async fn remove(&mut self, address: IpAddr) -> Result<(), AddressError> {
        if !self.ours.contains(&address) {
            return Ok(());
        }
        let removed = self.handle.address().del(message(self.index, address)).execute().await;
        match removed {
            Err(error) if os_error(&error) != Some(libc::EADDRNOTAVAIL) => {
                Err(AddressError::Refused { verb: "remove", address, source: error })
            }
            _ => {
                self.ours.remove(&address);
                self.restore_if_unused();
                Ok(())
            }
        }
    }

    fn raise(&mut self) {
        if !std::mem::replace(&mut self.raised, true) {
            sysctl::raise(&self.sysctls);
        }
    }

    fn restore_if_unused(&mut self) {
        if !self.ours.iter().any(IpAddr::is_ipv4) {
            self.raised = false;
            sysctl::restore(&self.sysctls);
        }
    }

    async fn dump(&self) -> Result<Vec<AddressMessage>, AddressError> {
        let request = self.handle.address().get().set_link_index_filter(self.index);
        request.execute().try_collect().await.map_err(AddressError::List)
    }
}

/// Whether an address is one of Herald's, by its tags.
pub(crate) fn is_ours(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Protocol(protocol) => u8::from(*protocol) == PROTOCOL,
        AddressAttribute::RoutePriority(priority) => *priority == PRIORITY,
        _ => false,
    })
}

/// The address itself: `IFA_LOCAL` where there is one (on point-to-point links `IFA_ADDRESS` is the other end).
pub(crate) fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let attributes = || message.attributes.iter();
    let local = attributes().find_map(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    local.or_else(|| {
        attributes().find_map(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None })
    })
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn message(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.index = index;
    message.header.prefix_len = host_prefix(address);
    // Not to be chosen as a source of what the node sends or masquerades; packets to it are taken all the same.
    message.header.scope = AddressScope::Host;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::RoutePriority(PRIORITY),
        AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)),
    ];
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn os_error(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
