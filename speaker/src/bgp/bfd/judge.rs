//! What a BFD session that went down means for its BGP session.

use std::time::Duration;

use herald_bfd::{Cause, Diagnostic};

/// How long after Established a neighbour may begin its BFD session anew: FRR deletes and makes it again when BGP comes up.
const SETTLING: Duration = Duration::from_secs(5);

/// Whether BGP ends with it.
pub(in crate::bgp) fn ends_bgp(cause: Cause, established_for: Duration) -> bool {
    match cause {
        Cause::Silence(_) => true,
        // RFC 5882 §3.2: switched off is not failed.
        Cause::NeighborAdminDown => false,
        // It hears nothing of us: the path is dead, new or not.
        Cause::Neighbor(Diagnostic::DETECTION_TIME_EXPIRED) => true,
        Cause::Neighbor(_) => established_for >= SETTLING,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bgp_ends_when_the_path_is_dead_and_not_when_the_neighbour_begins_anew_or_is_switched_off() {
        let (young, old) = (SETTLING - Duration::from_millis(1), SETTLING);
        for (cause, established_for, expected) in [
            (Cause::Silence(Duration::from_millis(300)), young, true),
            (Cause::Silence(Duration::from_millis(300)), old, true),
            (Cause::NeighborAdminDown, young, false),
            (Cause::NeighborAdminDown, old, false),
            (Cause::Neighbor(Diagnostic::DETECTION_TIME_EXPIRED), young, true),
            (Cause::Neighbor(Diagnostic::NONE), young, false),
            (Cause::Neighbor(Diagnostic::NONE), old, true),
            (Cause::Neighbor(Diagnostic::NEIGHBOR_SIGNALED_DOWN), young, false),
        ] {
            assert_eq!(ends_bgp(cause, established_for), expected, "{cause} after {established_for:?}");
        }
    }
}
