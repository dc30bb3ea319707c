use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::sysctl::{SYSCTLS, Sysctls};
use crate::testing::in_namespace;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn arp() -> (String, String) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap().trim().to_owned();
    (read("/proc/sys/net/ipv4/conf/all/arp_ignore"), read("/proc/sys/net/ipv4/conf/all/arp_announce"))
}

fn open() -> LocalAddresses {
    open_with(Path::new(SYSCTLS))
}

fn open_with(sysctls: &Path) -> LocalAddresses {
    let (addresses, connection) = LocalAddresses::open(Sysctls::new(sysctls, None)).unwrap();
    tokio::task::spawn_local(connection);
    addresses
}

/// An address as somebody else would add it.
async fn foreign(addresses: &LocalAddresses, address: IpAddr) {
    let prefix = host_prefix(address);
    addresses.handle.address().add(1, address, prefix).execute().await.unwrap();
}

#[test]
#[ignore = "needs a network namespace"]
fn both_families_are_added_with_our_tags_and_removed() {
    in_namespace(|| async {
        let mut addresses = open();
        for address in [ip("192.0.2.1"), ip("2001:db8:1::1")] {
            addresses.add(address).await.unwrap();
            let dump = addresses.dump().await.unwrap();
            let added = dump.iter().find(|m| address_of(m) == Some(address)).expect("on lo");
            assert!(is_ours(added), "{added:?}");
            assert!(added.attributes.contains(&AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL))));
            assert!(added.attributes.contains(&AddressAttribute::RoutePriority(PRIORITY)), "{added:?}");
            assert_eq!(added.header.prefix_len, host_prefix(address));
            // IPv6 has a scope for each address, whatever is asked for.
            assert!(address.is_ipv6() || added.header.scope == AddressScope::Host, "{added:?}");
            addresses.remove(address).await.unwrap();
            let dump = addresses.dump().await.unwrap();
            assert!(!dump.iter().any(|m| address_of(m) == Some(address)));
        }
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn an_address_of_somebody_else_is_neither_adopted_nor_removed() {
    in_namespace(|| async {
        let mut addresses = open();
        foreign(&addresses, ip("192.0.2.1")).await;
        assert!(addresses.adopt().await.unwrap().is_empty());
        addresses.add(ip("192.0.2.1")).await.unwrap();
        addresses.remove(ip("192.0.2.1")).await.unwrap();
        let dump = addresses.dump().await.unwrap();
        assert!(dump.iter().any(|m| address_of(m) == Some(ip("192.0.2.1"))));
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn a_second_run_adopts_what_the_first_left() {
    in_namespace(|| async {
        let mut first = open();
        first.add(ip("192.0.2.1")).await.unwrap();
        first.add(ip("2001:db8:1::1")).await.unwrap();
        drop(first);
        let mut second = open();
        let adopted = second.adopt().await.unwrap().clone();
        assert_eq!(adopted, BTreeSet::from([ip("192.0.2.1"), ip("2001:db8:1::1")]));
        for address in adopted {
            second.remove(address).await.unwrap();
        }
        assert!(second.adopt().await.unwrap().is_empty());
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn arp_settings_are_raised_for_the_first_address_and_put_back_after_the_last() {
    in_namespace(|| async {
        let before = arp();
        let mut addresses = open();
        addresses.add(ip("192.0.2.1")).await.unwrap();
        addresses.add(ip("192.0.2.2")).await.unwrap();
        assert_eq!(arp(), ("1".to_owned(), "2".to_owned()));
        addresses.remove(ip("192.0.2.1")).await.unwrap();
        assert_eq!(arp(), ("1".to_owned(), "2".to_owned()));
        addresses.remove(ip("192.0.2.2")).await.unwrap();
        assert_eq!(arp(), before);
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn arp_settings_that_were_higher_are_not_lowered() {
    in_namespace(|| async {
        std::fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "2").unwrap();
        let mut addresses = open();
        addresses.add(ip("192.0.2.1")).await.unwrap();
        assert_eq!(arp().0, "2");
        addresses.remove(ip("192.0.2.1")).await.unwrap();
        assert_eq!(arp().0, "2");
    });
}

/// As in a container: `/proc/sys` is read-only, and the node's `/proc/sys/net` is mounted elsewhere.
#[test]
#[ignore = "needs a network namespace"]
fn arp_settings_are_written_where_a_container_has_them() {
    in_namespace(|| async {
        let elsewhere = tempfile::tempdir().unwrap();
        let net = elsewhere.path().join("net");
        std::fs::create_dir(&net).unwrap();
        let none = None::<&str>;
        let bind = |from: &str, to: &Path| mount(Some(from), to, none, MsFlags::MS_BIND, none).unwrap();
        // The mounts are this thread's own and vanish with it.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        bind("/proc/sys/net", &net);
        bind(SYSCTLS, Path::new(SYSCTLS));
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, SYSCTLS, none, read_only, none).unwrap();

        let before = arp();
        let mut refused = open();
        refused.add(ip("192.0.2.1")).await.unwrap();
        assert_eq!(arp(), before);
        refused.remove(ip("192.0.2.1")).await.unwrap();
        let mut addresses = open_with(elsewhere.path());
        addresses.add(ip("192.0.2.1")).await.unwrap();
        assert_eq!(arp(), ("1".to_owned(), "2".to_owned()));
        addresses.remove(ip("192.0.2.1")).await.unwrap();
        assert_eq!(arp(), before);
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn node_addresses_are_followed_and_served_ones_are_not_among_them() {
    in_namespace(|| async {
        let (sender, mut seen) = tokio::sync::watch::channel(None);
        let follower = tokio::task::spawn_local(watch::follow(sender));
        let mut addresses = open();
        addresses.add(ip("192.0.2.1")).await.unwrap();
        foreign(&addresses, ip("10.0.0.9")).await;
        let found =
            |set: &Option<BTreeSet<IpAddr>>| set.as_ref().is_some_and(|set| set.contains(&ip("10.0.0.9")));
        let deadline = std::time::Duration::from_secs(5);
        let set =
            tokio::time::timeout(deadline, seen.wait_for(found)).await.unwrap().unwrap().clone().unwrap();
        assert_eq!(set, BTreeSet::from([ip("10.0.0.9")]));
        follower.abort();
    });
}
