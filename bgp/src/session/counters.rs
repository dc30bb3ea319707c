//! What a session counts, for metrics. Counters only grow.

/// Counters since the session was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Dials begun.
    pub connect_attempts: u64,
    /// Times that the session became Established.
    pub established: u64,
    /// Connections closed because another one won.
    pub collisions: u64,
    /// OPENs sent.
    pub opens_sent: u64,
    /// OPENs received.
    pub opens_received: u64,
    /// KEEPALIVEs sent.
    pub keepalives_sent: u64,
    /// KEEPALIVEs received.
    pub keepalives_received: u64,
    /// NOTIFICATIONs sent.
    pub notifications_sent: u64,
    /// NOTIFICATIONs received.
    pub notifications_received: u64,
    /// UPDATEs drawn, End-of-RIB included.
    pub updates_sent: u64,
    /// UPDATEs received and discarded.
    pub updates_received_discarded: u64,
    /// IPv4 prefixes in the bodies of those.
    pub prefixes_received_discarded: u64,
    /// BoRR and EoRR drawn.
    pub route_refreshes_sent: u64,
    /// ROUTE-REFRESHes received.
    pub route_refreshes_received: u64,
}
