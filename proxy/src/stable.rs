//! The numbers of endpoints under session affinity: what the kernel remembers of a client.
//!
//! A number comes from the endpoint's address and port alone. So an endpoint keeps its number while others come and go,
//! on every node and over restarts, and nothing has to be remembered or recovered in user space. Where two endpoints of
//! one frontend hash to the same number, the one that sorts later takes the next free one: with 100 endpoints that
//! happens to one frontend in 1,700, and only then may a change of endpoints move clients of another.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::ruleset::fingerprint;

/// How many numbers there are. They share a packet's priority with the numbers of `ruleset/entry.rs`.
pub(crate) const NUMBERS: u32 = 1 << 23;

/// The endpoints of one frontend, in their order, each with its number. The result does not depend on the order.
pub(crate) fn numbers(endpoints: &[SocketAddr]) -> Vec<(u32, SocketAddr)> {
    let mut sorted = endpoints.to_vec();
    sorted.sort_unstable();
    let (mut taken, mut numbers) = (BTreeMap::new(), BTreeMap::new());
    for endpoint in sorted {
        let mut number = number(&endpoint);
        while taken.get(&number).is_some_and(|holder| *holder != endpoint) {
            number = (number + 1) % NUMBERS;
        }
        taken.insert(number, endpoint);
        numbers.insert(endpoint, number);
    }
    endpoints.iter().filter_map(|endpoint| Some((*numbers.get(endpoint)?, *endpoint))).collect()
}

/// Hash of address and port, folded. Never to be changed: what a running kernel remembers is read by the next version.
fn number(endpoint: &SocketAddr) -> u32 {
    let (v4, v6);
    let address: &[u8] = match endpoint.ip() {
        IpAddr::V4(address) => {
            v4 = address.octets();
            &v4
        }
        IpAddr::V6(address) => {
            v6 = address.octets();
            &v6
        }
    };
    let bytes = address.iter().copied().chain(endpoint.port().to_be_bytes());
    let [a, b, c, d, e, f, g, h] = fingerprint(bytes).to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]) ^ u32::from_be_bytes([e, f, g, h])) % NUMBERS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(count: u32) -> Vec<SocketAddr> {
        (0..count).map(|i| SocketAddr::from((std::net::Ipv4Addr::from(0x0af4_0000 + i), 8080))).collect()
    }

    #[test]
    fn an_endpoint_keeps_its_number_while_others_come_and_go() {
        let all = pods(100);
        let before: BTreeMap<SocketAddr, u32> = numbers(&all).into_iter().map(|(n, e)| (e, n)).collect();
        for gone in 0..all.len() {
            let mut left = all.clone();
            left.swap_remove(gone);
            assert!(numbers(&left).iter().all(|(number, endpoint)| before[endpoint] == *number));
        }
    }

    #[test]
    fn no_two_endpoints_have_one_number_and_every_number_is_small_enough() {
        let all = pods(20_000);
        let mut found: Vec<u32> = numbers(&all).into_iter().map(|(number, _)| number).collect();
        assert!(found.iter().all(|number| *number < NUMBERS));
        let collisions = all.iter().map(number).collect::<std::collections::BTreeSet<_>>().len();
        assert!(collisions < all.len(), "20,000 of 8 million: some hash alike");
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), all.len());
    }

    #[test]
    fn the_order_does_not_matter_and_the_hash_never_changes() {
        let all = pods(3000);
        let mut turned: Vec<SocketAddr> = all.iter().rev().copied().collect();
        let mut found = numbers(&turned);
        found.reverse();
        assert_eq!(found, numbers(&all));
        turned.truncate(1);
        assert_eq!(number(&"10.244.0.1:8080".parse().unwrap()), 7_242_304);
        assert_eq!(number(&"[2001:db8:2::1]:8080".parse().unwrap()), 4_718_374);
    }
}
