//! The cluster role: gives addresses to Services.
