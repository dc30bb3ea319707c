//! A participant's own offers with their history, cut into pages for those who know them up to some version.
//!
//! Each change has the next version, and a page says all that changed between two of them: so pages that are lost, come
//! twice or late do no harm, and whoever missed some is told from where it stands.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::layer2::hello::{OFFERS_BUDGET, Offer, Update, offer_len};

/// Pages sent at a time; more follow soon.
const PAGES: usize = 16;
/// Offers that are gone, of which the others are still told.
const TOMBSTONES: usize = 1024;

/// The offers.
#[derive(Debug, Default)]
pub(super) struct Log {
    offers: BTreeMap<IpAddr, (u32, Option<Offer>)>,
    /// What changed, by version.
    changes: BTreeMap<u32, IpAddr>,
    version: u32,
    floor: u32,
    tombstones: usize,
    /// Up to which version all was sent.
    sent: u32,
    /// The last datagram with offers.
    sent_in: u32,
}

impl Log {
    /// An address is offered like this from now on; `None`: not at all.
    pub(super) fn set(&mut self, address: IpAddr, offer: Option<Offer>) {
        let former = self.offers.get(&address);
        if former.and_then(|(_, offer)| *offer) == offer {
            return;
        }
        if let Some((version, was)) = former {
            self.changes.remove(version);
            self.tombstones -= usize::from(was.is_none());
        }
        self.version += 1;
        self.changes.insert(self.version, address);
        self.offers.insert(address, (self.version, offer));
        self.tombstones += usize::from(offer.is_none());
        if self.tombstones > TOMBSTONES {
            self.forget();
        }
    }

    /// Forgets what is gone; those who do not know it begin anew.
    fn forget(&mut self) {
        let gone: Vec<_> = self
            .offers
            .iter()
            .filter(|(_, (_, offer))| offer.is_none())
            .map(|(a, (v, _))| (*a, *v))
            .collect();
        for (address, version) in gone {
            // The last change must stay: it is the version that everybody has to reach.
            if version < self.version {
                self.offers.remove(&address);
                self.changes.remove(&version);
                self.floor = self.floor.max(version);
                self.tombstones -= 1;
            }
        }
    }

    /// The last change.
    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// Who stands before this version, but not at the beginning, begins anew.
    pub(super) fn floor(&self) -> u32 {
        self.floor
    }

    /// The sequence number of the last datagram that told offers.
    pub(super) fn sent_in(&self) -> u32 {
        self.sent_in
    }

    /// A datagram with this sequence number tells offers.
    pub(super) fn sent(&mut self, sequence: u32) {
        self.sent_in = sequence;
    }

    /// Whether there is something to send.
    pub(super) fn unsent(&self) -> bool {
        self.sent < self.version
    }

    /// Somebody knows the offers only up to this version.
    pub(super) fn send_again(&mut self, version: u32) {
        let version = if version < self.floor { 0 } else { version };
        self.sent = self.sent.min(version);
    }

    /// What is to be sent now.
    pub(super) fn pages(&mut self) -> Vec<Update> {
        let mut pages = Vec::new();
        while self.unsent() && pages.len() < PAGES {
            let base = self.sent;
            let (mut offers, mut left) = (Vec::new(), OFFERS_BUDGET);
            for (version, address) in self.changes.range(base + 1..) {
                let Some(rest) = left.checked_sub(offer_len(*address)) else { break };
                left = rest;
                offers.push((*address, self.offers.get(address).and_then(|(_, offer)| *offer)));
                self.sent = *version;
            }
            pages.push(Update { base, to: self.sent, offers });
        }
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(n: u16) -> IpAddr {
        IpAddr::from([192, 0, (n >> 8) as u8, n as u8])
    }

    fn offer(score: u16) -> Option<Offer> {
        Some(Offer { score, claim: None, leaving: false })
    }

    #[test]
    fn changes_are_told_once_and_again_from_where_somebody_stands() {
        let mut log = Log::default();
        log.set(vip(1), offer(1));
        log.set(vip(2), offer(1));
        assert_eq!(
            log.pages(),
            [Update { base: 0, to: 2, offers: vec![(vip(1), offer(1)), (vip(2), offer(1))] }]
        );
        assert!(log.pages().is_empty());
        log.set(vip(1), offer(1));
        assert!(!log.unsent(), "nothing changed");
        log.set(vip(1), None);
        assert_eq!(log.pages(), [Update { base: 2, to: 3, offers: vec![(vip(1), None)] }]);
        log.send_again(1);
        assert_eq!(
            log.pages(),
            [Update { base: 1, to: 3, offers: vec![(vip(2), offer(1)), (vip(1), None)] }]
        );
    }

    #[test]
    fn many_offers_are_pages_that_follow_each_other() {
        let mut log = Log::default();
        (0..2000).for_each(|n| log.set(vip(n), offer(0)));
        let (mut at, mut told) = (0, 0);
        while log.unsent() {
            let pages = log.pages();
            assert!(pages.len() <= PAGES);
            for page in pages {
                assert_eq!(page.base, at);
                assert!(
                    page.offers.iter().map(|(address, _)| offer_len(*address)).sum::<usize>()
                        <= OFFERS_BUDGET
                );
                (at, told) = (page.to, told + page.offers.len());
            }
        }
        assert_eq!((at, told), (2000, 2000));
    }

    #[test]
    fn what_is_long_gone_is_forgotten_and_those_who_missed_it_begin_anew() {
        let mut log = Log::default();
        log.set(vip(9999), offer(0));
        for n in 0..=1024 {
            log.set(vip(n), offer(0));
            log.set(vip(n), None);
        }
        assert!(log.floor() > 1 && log.floor() < log.version());
        assert!(log.offers.len() <= 3, "{}", log.offers.len());
        while log.unsent() {
            log.pages();
        }
        log.send_again(1);
        let first = log.pages().remove(0);
        assert_eq!((first.base, first.to), (0, log.version()));
    }
}
