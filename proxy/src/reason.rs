//! Why a new connection is refused: the closed lists that the tracer's verdict, `herald explain` and the counters of
//! dropped packets share, so that a word means the same in all of them.

/// Why a packet gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// `loadBalancerSourceRanges` do not contain the source.
    SourceNotAllowed,
    /// Endpoints exist, but the traffic policy is `Local` and none of them is on this node.
    NoLocalEndpoint,
    /// The address lies in a prefix that this node announces, no rule takes it, and it would be routed on.
    RoutedBack,
    /// The destination is a ClusterIP that no Service has.
    UnallocatedClusterIp,
}

/// Why a packet is answered with port unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// The Service has no endpoint that could be used anywhere.
    NoEndpoint,
    /// The address is a Service's, and the port is none of its ports.
    UnservedPort,
}

impl DropReason {
    /// All.
    pub const ALL: [Self; 4] =
        [Self::SourceNotAllowed, Self::NoLocalEndpoint, Self::RoutedBack, Self::UnallocatedClusterIp];

    /// The word for metrics and `explain`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::SourceNotAllowed => "SourceNotAllowed",
            Self::NoLocalEndpoint => "NoLocalEndpoint",
            Self::RoutedBack => "RoutedBack",
            Self::UnallocatedClusterIp => "UnallocatedClusterIP",
        }
    }
}

impl DropReason {
    /// What it means.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::SourceNotAllowed => "loadBalancerSourceRanges do not contain the source",
            Self::NoLocalEndpoint => "the traffic policy is Local and no endpoint of this node is usable",
            Self::RoutedBack => {
                "this node announces the prefix of the address, and no Service has the address: it would be routed back"
            }
            Self::UnallocatedClusterIp => "the address is in a network of ClusterIPs, and no Service has it",
        }
    }
}

impl RejectReason {
    /// What it means.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no endpoint is usable anywhere",
            Self::UnservedPort => "the address is a Service's, and this is none of its ports",
        }
    }
}

impl RejectReason {
    /// All.
    pub const ALL: [Self; 2] = [Self::NoEndpoint, Self::UnservedPort];

    /// The word for metrics and `explain`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoEndpoint => "NoEndpoint",
            Self::UnservedPort => "UnservedPort",
        }
    }
}

/// What the packets that a rule ends are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndReason {
    /// They get no answer.
    Drop(DropReason),
    /// They are answered with port unreachable.
    Reject(RejectReason),
    /// They get no answer, for conntrack cannot place them and a reset would cut a living connection.
    Invalid,
}

impl EndReason {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::Drop(DropReason::SourceNotAllowed),
        Self::Drop(DropReason::NoLocalEndpoint),
        Self::Drop(DropReason::RoutedBack),
        Self::Drop(DropReason::UnallocatedClusterIp),
        Self::Reject(RejectReason::NoEndpoint),
        Self::Reject(RejectReason::UnservedPort),
        Self::Invalid,
    ];

    /// The word for metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Drop(reason) => reason.word(),
            Self::Reject(reason) => reason.word(),
            Self::Invalid => "Invalid",
        }
    }

    /// The name of the counter in the kernel.
    pub const fn counter(self) -> &'static str {
        match self {
            Self::Drop(DropReason::SourceNotAllowed) => "source-not-allowed",
            Self::Drop(DropReason::NoLocalEndpoint) => "no-local-endpoint",
            Self::Drop(DropReason::RoutedBack) => "routed-back",
            Self::Drop(DropReason::UnallocatedClusterIp) => "unallocated-cluster-ip",
            Self::Reject(RejectReason::NoEndpoint) => "no-endpoint",
            Self::Reject(RejectReason::UnservedPort) => "unserved-port",
            Self::Invalid => "invalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_all_of_them() {
        let dropped = DropReason::ALL.map(|reason| (reason.word(), reason.sentence(), "no answer"));
        let refused = RejectReason::ALL.map(|reason| (reason.word(), reason.sentence(), "refused"));
        let row =
            |(word, sentence, seen): (&str, &str, &str)| format!("| `{word}` | {sentence} | {seen} |\n");
        let rows: String = dropped.into_iter().chain(refused).map(row).collect();
        assert!(
            include_str!("../../docs/reasons.md").contains(&rows),
            "docs/reasons.md should have:\n{rows}"
        );
    }
}
