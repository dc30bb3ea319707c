//! The lab: network namespaces, a real API server, BIRD; and the suites.
