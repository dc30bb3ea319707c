//! Hand-over: a TCP connection goes on with the node that knows it, whichever node its packets come to.
//!
//! A router that loses or gains a next hop sends connections that are under way to other nodes, and a layer-2 address moves with
//! all that is addressed to it. The node that began a connection has it in its connection tracking, and where it
//! masqueraded, the endpoint knows the connection by that node. So a packet in the middle of a connection that this node does not
//! know is not taken for the beginning of one: all other nodes of the segment get a copy.
//!
//! ```text
//! this node                                          another one
//! does not know it: Whose? to all   ------------->   does not know it either: drops it
//!                                   ------------->   knows it: serves it, and says Mine to all
//! notes it as `elsewhere`           <-------------
//! passes on what follows, without waiting            serves it
//! ```
//!
//! When nobody has answered after [`ASKING`], the node that knew the connection is gone, and the next packet is treated as one
//! of a connection that nobody knows: the endpoint's reset tells the client at its first retransmission, which comes after 200 ms or more
//! (RFC 6298 §2 has a second, Linux 200 ms).
//!
//! A client uses its ports again: what connection tracking knows may be a former connection that is over. The last packet of a
//! connection marks it as such, and what comes for a marked one is not known either. Which packet is the last one is seen by the time
//! that the kernel gives to each state of TCP (`nf_conntrack_tcp_timeout_*`).
//!
//! No packet goes round: copies say a [`Word`], and none of those is ever passed on. All that packets can
//! fill is bounded, and so is how many connections a second are asked for ([`ASKED_A_SECOND`]); beyond that they are treated as if this were
//! not here.

use std::time::Duration;

use super::build::chain;
use super::model::{CONNECTION, Chain, Expression, Rule, SetName, Statement, TcpFlag, Word};

/// How many other nodes are asked.
pub const NODES: u16 = 32;
/// How long an answer may take. Whole ticks at 100, 250, 300 and 1,000 Hz, so that each kernel lists it as it was written.
const ASKING: Duration = Duration::from_millis(160);
/// How long nobody is asked again.
const ASKED: Duration = Duration::from_secs(2);
/// How long packets are passed on without another answer: some are lost.
const ELSEWHERE: Duration = Duration::from_secs(30);
/// How often a node says that it knows a connection.
const TOLD: Duration = Duration::from_secs(1);
/// For how many connections a second the others are asked.
const ASKED_A_SECOND: u32 = 10_000;

/// For how long connections are kept that were reset: 10 s.
const RESET: Duration = Duration::from_secs(11);
/// Where both ends have said that they end: 30 s.
const LAST_ACK: Duration = Duration::from_secs(31);
/// Where one end has said so, if nobody has raised it: 60 s.
const HALF_CLOSED: Duration = Duration::from_secs(61);
/// After the end: 120 s. One that is open has hours.
const OVER: Duration = Duration::from_secs(121);

/// What a packet that arrives meets first.
pub(super) fn arriving() -> [Rule; 3] {
    let for_service = || Statement::InSet(vec![Expression::DestinationAddress], SetName::Vips);
    [
        vec![
            Statement::ExpiresWithin(OVER),
            Statement::StateEstablished,
            Statement::TcpWithout(&[TcpFlag::Syn, TcpFlag::Rst]),
            for_service(),
            Statement::Jump("ending"),
        ],
        vec![Statement::UnknownTcp, for_service(), Statement::Jump("unknown")],
        vec![
            Statement::Says(Word::Whose),
            Statement::Tcp,
            Statement::StateEstablished,
            for_service(),
            Statement::Jump("known"),
        ],
    ]
}

/// A copy is out of tracking, and leaves by the hook of this node's own packets. It was counted when it arrived elsewhere.
pub(super) fn passing() -> Rule {
    vec![
        Statement::StateUntracked,
        Statement::InSet(vec![Expression::Priority], SetName::Nodes),
        Statement::Accept,
    ]
}

/// The same behind the counters. The slot has served.
pub(super) fn leaving() -> Rule {
    vec![Statement::StateUntracked, Statement::ClearNumber, Statement::Accept]
}

/// The chains that [`arriving`] leads to. `mark`: the bit that connections have which are over.
pub(super) fn chains(mark: u32) -> [Chain; 5] {
    let ending = vec![
        vec![Statement::ExpiresWithin(RESET), Statement::Goto("unknown")],
        vec![Statement::ConnectionMarkHas(mark), Statement::Goto("unknown")],
        vec![Statement::ExpiresWithin(LAST_ACK), Statement::SetConnectionMark(mark), Statement::Return],
        vec![Statement::ExpiresWithin(HALF_CLOSED), Statement::Return],
        // With FIN it is the first end's.
        vec![Statement::TcpWithout(&[TcpFlag::Fin]), Statement::SetConnectionMark(mark)],
    ];
    let connection = |set| Statement::InSet(CONNECTION.into(), set);
    let unknown = vec![
        vec![Statement::Says(Word::Whose), Statement::Drop],
        vec![Statement::Says(Word::Mine), Statement::Note(SetName::Elsewhere, ELSEWHERE)],
        vec![Statement::Says(Word::Mine), Statement::Drop],
        vec![connection(SetName::Elsewhere), Statement::Goto("pass-on")],
        // What is looked up first is noted last: another packet of the connection, on another processor, finds both or neither.
        vec![
            Statement::NotInSet(CONNECTION.into(), SetName::Asked),
            Statement::Slot(0),
            Statement::InSet(vec![Expression::Priority], SetName::Nodes),
            Statement::Limit(ASKED_A_SECOND),
            Statement::Note(SetName::Asking, ASKING),
            Statement::Note(SetName::Asked, ASKED),
            Statement::Goto("pass-on"),
        ],
        vec![connection(SetName::Asking), Statement::Goto("pass-on")],
    ];
    let known = vec![
        vec![connection(SetName::Told), Statement::Return],
        vec![Statement::Note(SetName::Told, TOLD), Statement::Say(Word::Mine), Statement::Goto("to-nodes")],
    ];
    // The first slot that is free ends its rule, and so do all that follow.
    let to_nodes =
        (0..NODES).map(|slot| vec![Statement::Slot(slot), Statement::PassOn(SetName::Nodes)]).collect();
    [
        chain("ending", ending),
        chain("unknown", unknown),
        chain("known", known),
        chain(
            "pass-on",
            vec![vec![Statement::Say(Word::Whose), Statement::Jump("to-nodes")], vec![Statement::Drop]],
        ),
        chain("to-nodes", to_nodes),
    ]
}
