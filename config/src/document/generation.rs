//! Which generation of the format a document is written in.
//!
//! 0.2 had no `protocol`, every later release requires it. So one `protocol` anywhere makes a document a later
//! one, and a document without any is of 0.2 when it shows a key that only 0.2 had.

use crate::read::reader::Value;

/// What missing keys mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// 0.2: every pool is BGP and IPv4, and silent without advertisements.
    V0_2,
    /// 0.3 to 0.12: every pool names its protocol, and is announced by one host route unless it says otherwise.
    Later,
}

/// Keys of a pool that 0.2 had and later releases renamed.
const V0_2_POOL_KEYS: [&str; 2] = ["cidr", "advertisements"];
/// Their later names.
const LATER_POOL_KEYS: [&str; 2] = ["addresses", "bgp-advertisements"];

impl Generation {
    /// The generation of a whole document.
    pub(super) fn of(root: &Value<'_>) -> Self {
        let mut v0_2 = root.has("communities");
        for pool in root.peek("address-pools").iter().flat_map(Value::peek_items) {
            if pool.has("protocol") {
                return Self::Later;
            }
            v0_2 |= V0_2_POOL_KEYS.iter().any(|key| pool.has(key));
        }
        if v0_2 { Self::V0_2 } else { Self::Later }
    }

    /// The generation of one pool in a document of this one; none when only a `protocol` could tell.
    pub(super) fn of_pool(self, pool: &Value<'_>) -> Option<Self> {
        let has = |keys: [&str; 2]| keys.iter().any(|key| pool.has(key));
        if pool.has("protocol") {
            Some(Self::Later)
        } else if self == Self::V0_2 && (has(V0_2_POOL_KEYS) || !has(LATER_POOL_KEYS)) {
            Some(Self::V0_2)
        } else {
            None
        }
    }
}
