//! The node role: programs the proxy, adds local addresses, announces.
