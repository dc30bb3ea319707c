//! Who owns an address: a pure function of what the nodes say of themselves.
//!
//! Among the participants that are alive and offer an address, a claim wins, of several the one with the highest number,
//! so an owner stays owner while it is healthy. Between equals, and without any claim, the preference of the
//! configuration decides, then the rendezvous hash. That hash is MetalLB's own (SHA-256 of `node#address`, lowest first):
//! addresses spread evenly, a node that goes moves only its own, and a cluster that comes from MetalLB moves none.

use std::cmp::Reverse;
use std::net::IpAddr;

use ring::digest;

use super::hello::{Offer, Participant, first_octets};

/// The rendezvous hash; the lowest wins.
pub(crate) fn rank(node: &str, address: IpAddr) -> u64 {
    let text = format!("{node}#{address}");
    first_octets(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

/// What a participant says of an address, and how it ranks there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Who.
    pub(crate) participant: Participant,
    /// What it says.
    pub(crate) offer: Offer,
    /// Its [`rank`] for the address.
    pub(crate) rank: u64,
}

impl Candidate {
    /// What decides between two of them; the highest wins.
    pub(crate) fn standing(&self) -> impl Ord + use<> {
        (self.offer.claim, self.offer.score, Reverse(self.rank), Reverse(self.participant))
    }
}

/// The one that should own the address; those that leave are no candidates.
pub(crate) fn winner(candidates: impl Iterator<Item = Candidate>) -> Option<Candidate> {
    candidates.filter(|candidate| !candidate.offer.leaving).max_by_key(Candidate::standing)
}

/// What decided that one stands before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// There is no other.
    Alone,
    /// The higher number of its claim.
    Claim,
    /// The higher preference of the configuration.
    Preference,
    /// The lower hash of node and address.
    Hash,
}

impl By {
    /// Why a winner stands before the best of the others.
    pub(crate) fn of(winner: &Candidate, other: Option<&Candidate>) -> Self {
        match other {
            None => Self::Alone,
            Some(other) if winner.offer.claim != other.offer.claim => Self::Claim,
            Some(other) if winner.offer.score != other.offer.score => Self::Preference,
            Some(_) => Self::Hash,
        }
    }

    /// The words.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Alone => "no other node offers it",
            Self::Claim => "its claim is the latest",
            Self::Preference => "it is preferred",
            Self::Hash => "lowest hash",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(participant: u64, rank: u64, claim: Option<u32>, score: u16) -> Candidate {
        let offer = Offer { score, claim, leaving: false };
        Candidate { participant: Participant(participant), offer, rank }
    }

    #[test]
    fn claims_come_first_then_preference_then_the_hash() {
        let leaving = |mut candidate: Candidate| {
            candidate.offer.leaving = true;
            candidate
        };
        for (what, candidates, expected) in [
            ("nobody", vec![], None),
            ("the lowest hash", vec![candidate(1, 9, None, 0), candidate(2, 3, None, 0)], Some(2)),
            ("preference", vec![candidate(1, 9, None, 5), candidate(2, 3, None, 0)], Some(1)),
            ("a claim", vec![candidate(1, 9, Some(1), 0), candidate(2, 3, None, 7)], Some(1)),
            ("the latest claim", vec![candidate(1, 3, Some(1), 9), candidate(2, 9, Some(2), 0)], Some(2)),
            ("equal claims", vec![candidate(1, 3, Some(2), 0), candidate(2, 9, Some(2), 0)], Some(1)),
            ("leaving", vec![leaving(candidate(1, 3, Some(2), 0)), candidate(2, 9, None, 0)], Some(2)),
            ("only leaving", vec![leaving(candidate(1, 3, Some(2), 0))], None),
            ("equal hashes", vec![candidate(2, 3, None, 0), candidate(1, 3, None, 0)], Some(1)),
        ] {
            let forth = winner(candidates.iter().copied()).map(|winner| winner.participant.0);
            let back = winner(candidates.iter().rev().copied()).map(|winner| winner.participant.0);
            assert_eq!((forth, back), (expected, expected), "{what}");
        }
    }

    #[test]
    fn what_decides_is_told() {
        let winner = candidate(1, 3, Some(2), 5);
        for (other, by) in [
            (None, By::Alone),
            (Some(candidate(2, 1, Some(1), 9)), By::Claim),
            (Some(candidate(2, 1, None, 9)), By::Claim),
            (Some(candidate(2, 1, Some(2), 4)), By::Preference),
            (Some(candidate(2, 9, Some(2), 5)), By::Hash),
        ] {
            assert_eq!(By::of(&winner, other.as_ref()), by, "{other:?}");
        }
    }

    /// Computed with `printf 'node-1#192.0.2.1' | sha256sum`, as MetalLB 0.16 sorts.
    #[test]
    fn the_hash_is_that_of_metallb() {
        let vip = "192.0.2.1".parse().unwrap();
        assert_eq!(rank("node-1", vip), RANK_1);
        assert_eq!(rank("node-2", vip), RANK_2);
        assert_eq!(rank("node-1", "2001:db8:1::1".parse().unwrap()), RANK_6);
    }

    const RANK_1: u64 = 0x1299_c740_3f8d_376f;
    const RANK_2: u64 = 0x8006_4378_cd7b_449c;
    const RANK_6: u64 = 0xfebc_c770_3150_7f0a;

    #[test]
    fn addresses_spread_evenly() {
        let mut owned = [0u32; 5];
        for last in 0..=255u8 {
            let address = IpAddr::from([192, 0, 2, last]);
            let ranks = (0..5).map(|node| rank(&format!("node-{node}"), address));
            let (node, _) = ranks.enumerate().min_by_key(|(_, rank)| *rank).unwrap();
            owned[node] += 1;
        }
        assert!(owned.iter().all(|count| (35..=70).contains(count)), "{owned:?}");
    }
}
