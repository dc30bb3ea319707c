//! What a namespace knows of its neighbours: forgotten one by one, asked, and read.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const RTM_DELNEIGH: u16 = 29;
const NLM_F_REQUEST: u16 = 1;
const NDA_DST: u16 = 1;
/// Header, `ndmsg`, one attribute with an IPv4 address.
const LENGTH: usize = 16 + 12 + 8;
/// Nobody listens there (RFC 863).
const DISCARD: u16 = 9;

/// The neighbour table of one interface in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Neighbours {
    netlink: OwnedFd,
    udp: UdpSocket,
    interface: u32,
}

impl Neighbours {
    /// That of an interface, by name.
    pub(super) fn open(interface: &str) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)
            .context("netlink")?;
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("a socket to ask with")?;
        Ok(Self { netlink, udp, interface: if_nametoindex(interface).context("the interface")? })
    }

    /// Forgets where an address is; with it goes what waits to be sent there.
    pub(super) fn forget(&self, address: Ipv4Addr) -> Result<()> {
        let mut message = Vec::with_capacity(LENGTH);
        message.extend_from_slice(&(LENGTH as u32).to_ne_bytes());
        message.extend_from_slice(&RTM_DELNEIGH.to_ne_bytes());
        message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(&(AddressFamily::Inet as u32).to_ne_bytes());
        message.extend_from_slice(&self.interface.to_ne_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(&8u16.to_ne_bytes());
        message.extend_from_slice(&NDA_DST.to_ne_bytes());
        message.extend_from_slice(&address.octets());
        // The kernel does it before the call returns.
        send(self.netlink.as_raw_fd(), &message, MsgFlags::empty()).context("forget a neighbour")?;
        // "It is not known" is an answer, and needs no room.
        let _ = recv(self.netlink.as_raw_fd(), &mut [0; 256], MsgFlags::MSG_DONTWAIT);
        Ok(())
    }

    /// Has the kernel ask where an address is, if it does not know.
    pub(super) fn ask(&self, address: Ipv4Addr) {
        // An address that nobody has is no failure of the question.
        let _ = self.udp.send_to(&[0], (address, DISCARD));
    }
}

/// All that is known in the namespace of this thread: addresses, and hardware addresses as text.
pub(super) fn known() -> Result<BTreeMap<Ipv4Addr, String>> {
    Ok(parse(&std::fs::read_to_string("/proc/thread-self/net/arp")?))
}

fn parse(table: &str) -> BTreeMap<Ipv4Addr, String> {
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let complete = *fields.get(2)? != "0x0";
        complete.then_some((fields.first()?.parse().ok()?, (*fields.get(3)?).to_owned()))
    };
    table.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_entries_are_known() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.0.0.200       0x1         0x2         02:00:00:00:00:01     *        lan\n\
                     10.0.0.201       0x1         0x0         00:00:00:00:00:00     *        lan\n";
        let known = parse(table);
        assert_eq!(known.len(), 1);
        assert_eq!(known[&Ipv4Addr::new(10, 0, 0, 200)], "02:00:00:00:00:01");
    }
}
