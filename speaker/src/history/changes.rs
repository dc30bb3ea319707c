//! From what was to what is: the transitions of one address, in the order in which they take effect, each with its reason. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{What, Why};
use crate::plan::Verdict;
use crate::reason::Reason;

/// What a Service has of one of its addresses on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Local {
    /// Whether it is announced.
    pub(crate) verdict: Verdict,
    /// The Service's rules are in the kernel as they should be.
    pub(crate) programmed: bool,
}

impl Local {
    /// Announced by BGP; offered by layer 2.
    fn out(self) -> [bool; 2] {
        match self.verdict {
            Verdict::Announce => [true, false],
            Verdict::Offer { bgp } => [bgp, true],
            Verdict::Skip(_) => [false, false],
        }
    }

    fn reason(self) -> Option<Reason> {
        match self.verdict {
            Verdict::Skip(reason) => Some(reason),
            Verdict::Announce | Verdict::Offer { .. } => None,
        }
    }
}

/// What became of an address of a Service. `first`: it was not looked at before, for the speaker has just begun.
pub(crate) fn of_service(was: Option<Local>, is: Option<Local>, first: bool) -> Vec<(What, Why)> {
    let out = |local: Option<Local>| local.map(Local::out).unwrap_or_default();
    let ([bgp_was, offered_was], [bgp_is, offered_is]) = (out(was), out(is));
    let programmed = |local: Option<Local>| local.is_some_and(|local| local.programmed);
    let up = match was {
        None if first => Why::Began,
        None => Why::Given,
        Some(was) => was.reason().map_or(Why::Configured, Why::Over),
    };
    let down = match is {
        None => Why::Gone,
        Some(is) => is.reason().map_or(Why::Configured, Why::Refused),
    };
    let mut changes = Vec::new();
    // As they happen: withdrawn before the rules go, announced after they are there.
    let withdrawn = [(bgp_was && !bgp_is, What::Withdrawn), (offered_was && !offered_is, What::Retracted)];
    changes.extend(withdrawn.into_iter().filter(|(is, _)| *is).map(|(_, what)| (what, down.clone())));
    let told = !changes.is_empty();
    match (programmed(was), programmed(is)) {
        // What follows says it, and a start has enough to say.
        (false, true) if first => {}
        (false, true) => changes.push((What::Programmed, up.clone())),
        (true, false) if is.is_some() => changes.push((What::NotProgrammed, down.clone())),
        _ => {}
    }
    let announced = [(!bgp_was && bgp_is, What::Announced), (!offered_was && offered_is, What::Offered)];
    changes.extend(announced.into_iter().filter(|(is, _)| *is).map(|(_, what)| (what, up.clone())));
    match is {
        Some(is) if !told && is.reason().is_some() && was.and_then(Local::reason) != is.reason() => {
            changes.push((What::NotAnnounced, down));
        }
        None if !told && was.is_some() => changes.push((What::Gone, down)),
        _ => {}
    }
    changes
}

/// Who owns an address on a segment, as this node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Nobody: `None`.
    pub(crate) node: Option<Arc<str>>,
    /// The number of its claim.
    pub(crate) claim: Option<u32>,
}

/// What became of the ownership of an address on one interface. `None`: this node neither offers nor owns it there. `heard` are the nodes that
/// are heard there now; `attached`: it is still announced on.
pub(crate) fn of_owner(
    me: &str,
    was: Option<&Owner>,
    is: Option<&Owner>,
    heard: &BTreeSet<Box<str>>,
    attached: bool,
) -> Option<(What, Why)> {
    let node = |owner: Option<&Owner>| owner.and_then(|owner| owner.node.clone());
    let (before, now) = (node(was), node(is));
    let mine = |node: &Option<Arc<str>>| node.as_deref() == Some(me);
    let claim = is.and_then(|owner| owner.claim);
    let left_by = |owner: &Option<Arc<str>>| match owner {
        None => Why::Unclaimed,
        Some(owner) if heard.contains(&**owner) => Why::Left(Arc::clone(owner)),
        Some(owner) => Why::Silent(Arc::clone(owner)),
    };
    match (mine(&before), mine(&now)) {
        (true, true) => None,
        (false, true) => Some((What::Owned { claim }, left_by(&before))),
        (true, false) => {
            let why = match (&now, is) {
                _ if !attached => Why::NoInterface,
                (Some(owner), _) => Why::Claimed(Arc::clone(owner)),
                (None, _) => Why::GivenUp,
            };
            Some((What::Released, why))
        }
        (false, false) => {
            let is = is?;
            let why = match (was, &before) {
                // What was not looked at has not changed.
                (None, _) if now.is_none() => return None,
                (None, _) => Why::Found,
                // Only the number of its claim is another: it began anew.
                _ if before == now => match was.is_some_and(|was| was.claim == is.claim) {
                    true => return None,
                    false => Why::Again,
                },
                _ => left_by(&before),
            };
            Some((What::Seen { owner: now, claim }, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNOUNCE: Verdict = Verdict::Announce;
    const OFFER: Verdict = Verdict::Offer { bgp: false };
    const BOTH: Verdict = Verdict::Offer { bgp: true };
    const EMPTY: Verdict = Verdict::Skip(Reason::NoEndpoints);
    const CORDONED: Verdict = Verdict::Skip(Reason::NodeCordoned);
    const REFUSED: Verdict = Verdict::Skip(Reason::RulesRefused);

    fn told(changes: Vec<(What, Why)>) -> Vec<String> {
        changes.into_iter().map(|(what, why)| format!("{} {}", what.word(), why.word())).collect()
    }

    #[test]
    fn each_change_of_an_address_is_told_in_the_order_in_which_it_takes_effect() {
        let there = |verdict| Some(Local { verdict, programmed: true });
        let bare = |verdict| Some(Local { verdict, programmed: false });
        for (was, is, first, expected) in [
            (None, there(ANNOUNCE), true, &["announced speakerStarted"][..]),
            (None, there(OFFER), true, &["offered speakerStarted"]),
            (None, there(EMPTY), true, &["notAnnounced noEndpoints"]),
            (None, there(ANNOUNCE), false, &["programmed addressGiven", "announced addressGiven"]),
            (None, bare(BOTH), false, &["announced addressGiven", "offered addressGiven"]),
            (None, there(EMPTY), false, &["programmed addressGiven", "notAnnounced noEndpoints"]),
            (there(EMPTY), there(ANNOUNCE), false, &["announced over"]),
            (there(ANNOUNCE), there(EMPTY), false, &["withdrawn noEndpoints"]),
            (there(EMPTY), there(CORDONED), false, &["notAnnounced nodeCordoned"]),
            (there(BOTH), there(CORDONED), false, &["withdrawn nodeCordoned", "retracted nodeCordoned"]),
            (there(OFFER), there(BOTH), false, &["announced configured"]),
            (there(BOTH), there(OFFER), false, &["withdrawn configured"]),
            (there(BOTH), there(ANNOUNCE), false, &["retracted configured"]),
            (
                there(ANNOUNCE),
                bare(REFUSED),
                false,
                &["withdrawn rulesRefused", "notProgrammed rulesRefused"],
            ),
            (bare(REFUSED), there(ANNOUNCE), false, &["programmed over", "announced over"]),
            (there(ANNOUNCE), None, false, &["withdrawn addressGone"]),
            (there(EMPTY), None, false, &["gone addressGone"]),
            (there(ANNOUNCE), there(ANNOUNCE), false, &[]),
            (None, None, true, &[]),
        ] {
            assert_eq!(told(of_service(was, is, first)), expected, "{was:?} -> {is:?}");
        }
    }

    #[test]
    fn a_change_of_owner_says_what_became_of_the_one_before() {
        let by = |node: &str, claim| Some(Owner { node: Some(node.into()), claim: Some(claim) });
        let nobody = || Some(Owner::default());
        for (was, is, heard, attached, expected) in [
            (None, by("node-1", 1), "", true, "owned 1 unclaimed"),
            (nobody(), by("node-1", 1), "node-2", true, "owned 1 unclaimed"),
            (by("node-2", 1), by("node-1", 2), "node-2", true, "owned 2 ownerLeft node-2"),
            (by("node-2", 1), by("node-1", 2), "node-3", true, "owned 2 ownerSilent node-2"),
            (by("node-1", 2), by("node-1", 3), "", true, "-"),
            (by("node-1", 2), by("node-2", 3), "node-2", true, "released claimedByOther node-2"),
            (by("node-1", 2), nobody(), "", true, "released givenUp"),
            (by("node-1", 2), None, "", true, "released givenUp"),
            (by("node-1", 2), None, "", false, "released noInterface"),
            (None, by("node-2", 4), "node-2", true, "seen node-2 4 found"),
            (by("node-2", 4), by("node-3", 5), "node-3", true, "seen node-3 5 ownerSilent node-2"),
            (by("node-2", 4), nobody(), "node-2", true, "seen - ownerLeft node-2"),
            (by("node-2", 4), by("node-2", 5), "node-2", true, "seen node-2 5 claimedAgain"),
            (by("node-2", 4), by("node-2", 4), "", true, "-"),
            (by("node-2", 4), None, "", true, "-"),
            (None, nobody(), "", true, "-"),
            (None, None, "", false, "-"),
        ] {
            let heard = BTreeSet::from([heard.into()]);
            let change = of_owner("node-1", was.as_ref(), is.as_ref(), &heard, attached);
            let told = change.map_or_else(
                || "-".to_owned(),
                |(what, why)| {
                    let (owner, claim) = (what.owner(), what.claim().map(|claim| claim.to_string()));
                    let owner = matches!(what, What::Seen { .. }).then(|| owner.unwrap_or("-").to_owned());
                    let parts = [Some(what.word().to_owned()), owner, claim, Some(why.word().to_owned())];
                    let parts = parts.into_iter().chain([why.other().map(str::to_owned)]);
                    parts.flatten().collect::<Vec<_>>().join(" ")
                },
            );
            assert_eq!(told, expected, "{was:?} -> {is:?}");
        }
    }
}
