//! BGP-4 without IO: wire format, session state machine, Adj-RIB-Out.
