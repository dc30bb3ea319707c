//! Others' chains that drop whatever is forwarded and no rule of theirs accepts, as firewalls have them.
//!
//! A drop in any chain of a hook is the end of a packet, whoever accepts it elsewhere. So packets to Services pass such a node
//! only if the chain's own rules let endpoints through; what the rules say is `drops.rs`' to look at.

use super::decode::{find, number, text};
use super::dump::Listing;
use super::objects::hook_number;
use super::wire::*;
use super::{ATTEMPTS, Kernel, KernelError};
use crate::ruleset::{Hook, Ruleset};

/// Families that forwarded packets of IPv4 and IPv6 pass: numbers in `struct nfgenmsg`, and names.
pub(super) const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];

impl Kernel {
    /// Chains of others in the forward hook whose policy is drop, as `nft` names them: `ip filter FORWARD`. None of
    /// iptables-legacy's, which is no part of nf_tables.
    pub fn forward_drops(&mut self) -> Result<Vec<String>, KernelError> {
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            let mut whole = true;
            for (number, family) in FAMILIES {
                let listing = self.list_in(
                    NFT_MSG_GETCHAIN,
                    number,
                    |_| {},
                    |chain| found.extend(dropping(chain).map(|chain| format!("{family} {chain}"))),
                )?;
                whole &= listing != Listing::Disturbed;
            }
            if whole {
                return Ok(found);
            }
        }
        Err(KernelError::Unsettled)
    }
}

/// Table and name of a chain that drops what is forwarded.
fn dropping(chain: &[u8]) -> Option<String> {
    let hook = find(find(chain, NFTA_CHAIN_HOOK)?, NFTA_HOOK_HOOKNUM).and_then(number)?;
    let policy = find(chain, NFTA_CHAIN_POLICY).and_then(number)?;
    let table = find(chain, NFTA_CHAIN_TABLE).and_then(text)?;
    let name = find(chain, NFTA_CHAIN_NAME).and_then(text)?;
    let drops = hook == hook_number(Hook::Forward) && policy == NF_DROP && table != Ruleset::TABLE;
    drops.then(|| format!("{table} {name}"))
}
