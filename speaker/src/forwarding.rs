//! Whether the kernel passes packets on at all: a node that does not reaches nobody's endpoints, and nobody reaches its pods. So
//! such a node announces no address that leads to a pod.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use herald_proxy::IpFamily;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use tokio::sync::watch;

/// `RTNLGRP_IPV4_NETCONF` and `RTNLGRP_IPV6_NETCONF`.
const GROUPS: [u32; 2] = [24, 25];
/// What the messages say is found by looking; so much of one is read.
const DATAGRAM: usize = 512;

/// Follows the families in which nothing is passed on, for as long as anybody wants to know. The settings are those below a
/// directory that has what `/proc/sys` has.
pub(crate) async fn follow(sysctls: PathBuf, off: watch::Sender<BTreeSet<IpFamily>>) -> anyhow::Result<()> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE).context("cannot ask whether the node forwards")?;
    socket.socket_mut().bind_auto()?;
    for group in GROUPS {
        socket.socket_ref().add_membership(group)?;
    }
    let mut datagram = Vec::with_capacity(DATAGRAM);
    loop {
        let now = off_in(&sysctls);
        off.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        datagram.clear();
        // Some may have been lost (ENOBUFS), which is a reason to look as well.
        match socket.recv(&mut datagram).await {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => {
                return Err(error).context("the socket that tells whether the node forwards");
            }
            _ => {}
        }
    }
}

/// The families in which no interface passes anything on. What cannot be read is not known to be off.
pub(crate) fn off_in(sysctls: &Path) -> BTreeSet<IpFamily> {
    IpFamily::ALL.into_iter().filter(|family| is_off(sysctls, *family)).collect()
}

/// The kernel asks the interface that a packet comes in by; the one setting that people know sets all of them, and may be
/// overruled for some.
fn is_off(sysctls: &Path, family: IpFamily) -> bool {
    let interfaces = match family {
        IpFamily::V4 => "net/ipv4/conf",
        IpFamily::V6 => "net/ipv6/conf",
    };
    let is = |of: &Path, value: &str| {
        std::fs::read_to_string(of.join("forwarding")).is_ok_and(|text| text.trim() == value)
    };
    let directory = sysctls.join(interfaces);
    let Ok(mut entries) = std::fs::read_dir(&directory) else { return false };
    let counts = |name: &std::ffi::OsStr| name != "all" && name != "default" && name != "lo";
    is(&directory.join("all"), "0")
        && !entries.any(|entry| entry.is_ok_and(|entry| counts(&entry.file_name()) && is(&entry.path(), "1")))
}

/// What is wrong with it in one of these families, in words.
pub(crate) fn trouble(off: &BTreeSet<IpFamily>, families: &[IpFamily]) -> Option<String> {
    let family = families.iter().find(|family| off.contains(family))?;
    Some(format!(
        "{} is 0, so it passes nothing on: addresses that lead to pods are not announced from here, and its own pods are reached \
         from it alone",
        setting(*family)
    ))
}

/// Its name, as `sysctl` has it.
pub(crate) fn setting(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "net.ipv4.ip_forward",
        IpFamily::V6 => "net.ipv6.conf.all.forwarding",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_off_where_no_interface_passes_on_and_that_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &str| {
            let path = directory.path().join("net").join(name).join("forwarding");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, value).unwrap();
        };
        let off = || off_in(directory.path()).into_iter().collect::<Vec<_>>();
        assert_eq!(off(), [], "what cannot be read is not known");
        write("ipv4/conf/all", "1\n");
        write("ipv4/conf/eth0", "1\n");
        write("ipv6/conf/all", "0\n");
        write("ipv6/conf/default", "1\n");
        write("ipv6/conf/lo", "1\n");
        write("ipv6/conf/eth0", "0\n");
        assert_eq!(off(), [IpFamily::V6]);
        write("ipv4/conf/all", "0\n");
        assert_eq!(off(), [IpFamily::V6], "one interface passes on");
        write("ipv4/conf/eth0", "0\n");
        assert_eq!(off(), [IpFamily::V4, IpFamily::V6]);
        write("ipv6/conf/cni0", "1\n");
        assert_eq!(off(), [IpFamily::V4]);
    }

    #[test]
    fn it_is_told_in_the_families_that_pods_have() {
        let off = BTreeSet::from([IpFamily::V6]);
        assert_eq!(trouble(&off, &[IpFamily::V4]), None);
        let told = trouble(&off, &IpFamily::ALL).unwrap();
        assert!(told.starts_with("net.ipv6.conf.all.forwarding is 0, so it passes nothing on"), "{told}");
    }
}
