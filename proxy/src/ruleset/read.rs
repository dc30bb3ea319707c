//! The inverse of `entry.rs`: the bytes of a set element as the [`Element`] that they stand for.
//!
//! Reading is loose and then checked by writing: what is read must give the same bytes again. So padding, unknown
//! numbers and lengths need no rule of their own, and nothing that Herald would not have written is ever an element.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::affinity::MAX_TIMEOUT;
use super::class::is_class;
use super::entry::{
    Buffer, Data, Entry, FIRST_SLOT, class_number, policy_number, stable_number, timeout_number,
};
use super::model::SetName;
use crate::element::{Element, Frontend, Policy, Protocol, Refusal, Scope};
use crate::family::IpFamily;

impl Entry {
    /// What was read: a key that is no interval.
    pub(crate) fn read(family: IpFamily, set: SetName, key: Buffer, data: Data) -> Self {
        Self { family, set, key, prefix: None, data }
    }

    /// What was read: a range of keys that differ in their last field, an address.
    pub(crate) fn read_range(family: IpFamily, set: SetName, key: Buffer, last: Buffer) -> Option<Self> {
        let fixed = key.as_slice().len().checked_sub(if family == IpFamily::V4 { 4 } else { 16 })?;
        let (start, end) =
            (key.as_slice().split_at_checked(fixed)?, last.as_slice().split_at_checked(fixed)?);
        let address = |rest| Fields { family, rest }.address();
        let prefix = prefix(address(start.1)?, address(end.1)?).filter(|_| start.0 == end.0)?;
        Some(Self { family, set, key, prefix: Some(prefix), data: Data::None })
    }

    /// The element that these bytes stand for; `None`: none that Herald writes.
    pub(crate) fn element(&self) -> Option<Element> {
        let mut key = Fields { family: self.family, rest: self.key.as_slice() };
        let mut value = Fields { family: self.family, rest: self.value() };
        let element = match self.set {
            SetName::Services => Element::Service { frontend: key.frontend()?, policy: value.policy()? },
            SetName::Picks => key.pick(Scope::Cluster, &mut value)?,
            SetName::LocalPicks => key.pick(Scope::Local, &mut value)?,
            SetName::Endpoints => key.endpoint(Scope::Cluster, &mut value)?,
            SetName::LocalEndpoints => key.endpoint(Scope::Local, &mut value)?,
            SetName::Dropped => Element::Refused { frontend: key.frontend()?, refusal: Refusal::Drop },
            SetName::Rejected => Element::Refused { frontend: key.frontend()?, refusal: Refusal::Reject },
            SetName::Restricted => Element::Restricted { frontend: key.frontend()? },
            SetName::Sources => Element::Source { frontend: key.frontend()?, prefix: self.prefix? },
            SetName::Traffic => Element::Counted { frontend: key.frontend()? },
            SetName::Vips => Element::Vip { address: key.address()? },
            SetName::Announced => Element::Announced { prefix: self.prefix? },
            SetName::ServiceCidrs => Element::ServiceCidr { prefix: self.prefix? },
            SetName::Nodes => {
                let slot = u16::try_from(key.number()?.wrapping_sub(FIRST_SLOT)).ok()?;
                Element::Node { slot, address: value.address()? }
            }
            SetName::Hairpin => {
                let address = key.address()?;
                let frontend = key.frontend()?;
                let endpoint = SocketAddr::new(address, frontend.port);
                Element::Hairpin { endpoint, protocol: frontend.protocol }
            }
            SetName::AffinePicks => key.affine_pick(Scope::Cluster, &mut value)?,
            SetName::LocalAffinePicks => key.affine_pick(Scope::Local, &mut value)?,
            SetName::Slots => key.slot(Scope::Cluster, &mut value)?,
            SetName::LocalSlots => key.slot(Scope::Local, &mut value)?,
            SetName::Affinity
            | SetName::Asking
            | SetName::Asked
            | SetName::Elsewhere
            | SetName::Told
            | SetName::Policies
            | SetName::Classes
            | SetName::LocalClasses
            | SetName::Draws => return None,
        };
        (Self::from(&element) == *self).then_some(element)
    }

    fn value(&self) -> &[u8] {
        match &self.data {
            Data::Value(value) => value.as_slice(),
            Data::None | Data::Goto(_) | Data::Jump(_) => &[],
        }
    }
}

/// The prefix from its first to its last address.
fn prefix(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let host_bits = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (u32::from(first) ^ u32::from(last)).count_ones(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (u128::from(first) ^ u128::from(last)).count_ones(),
        _ => return None,
    };
    let max = IpNet::from(first).max_prefix_len();
    let prefix = IpNet::new(first, max.checked_sub(u8::try_from(host_bits).ok()?)?).ok()?;
    (prefix.network() == first && prefix.broadcast() == last).then_some(prefix)
}

/// Fields of a key or value, from the front.
struct Fields<'a> {
    family: IpFamily,
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let field = *self.rest.first_chunk()?;
        self.rest = self.rest.get(N.next_multiple_of(4)..)?;
        Some(field)
    }

    fn address(&mut self) -> Option<IpAddr> {
        Some(match self.family {
            IpFamily::V4 => Ipv4Addr::from(self.take::<4>()?).into(),
            IpFamily::V6 => Ipv6Addr::from(self.take::<16>()?).into(),
        })
    }

    fn port(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn protocol(&mut self) -> Option<Protocol> {
        match self.take::<1>()? {
            [6] => Some(Protocol::Tcp),
            [17] => Some(Protocol::Udp),
            [132] => Some(Protocol::Sctp),
            _ => None,
        }
    }

    fn frontend(&mut self) -> Option<Frontend> {
        Some(Frontend { address: self.address()?, protocol: self.protocol()?, port: self.port()? })
    }

    fn policy(&mut self) -> Option<Policy> {
        let number = self.number()?;
        [Policy::Internal, Policy::InternalLocal, Policy::External, Policy::ExternalLocal]
            .into_iter()
            .find(|policy| policy_number(*policy) == number)
    }

    fn class(&mut self) -> Option<u16> {
        u16::try_from(self.number()?.wrapping_sub(class_number(0))).ok().filter(|class| is_class(*class))
    }

    fn pick(&mut self, scope: Scope, value: &mut Self) -> Option<Element> {
        let frontend = self.frontend()?;
        let number = Self { family: value.family, rest: value.rest }.number()?;
        let timeout = number.wrapping_sub(timeout_number(0));
        if (1..=MAX_TIMEOUT).contains(&timeout) {
            return Some(Element::Affinity { frontend, scope, timeout });
        }
        Some(Element::Pick { frontend, scope, class: value.class()? })
    }

    fn affine_pick(&mut self, scope: Scope, value: &mut Self) -> Option<Element> {
        Some(Element::AffinePick { frontend: self.frontend()?, scope, class: value.class()? })
    }

    fn slot(&mut self, scope: Scope, value: &mut Self) -> Option<Element> {
        let frontend = self.frontend()?;
        let slot = u16::try_from(self.number()?.wrapping_sub(FIRST_SLOT)).ok()?;
        let stable = value.number()?.wrapping_sub(stable_number(0));
        Some(Element::Slot { frontend, scope, slot, stable })
    }

    fn endpoint(&mut self, scope: Scope, value: &mut Self) -> Option<Element> {
        let frontend = self.frontend()?;
        let number = self.number()?;
        let endpoint = SocketAddr::new(value.address()?, value.port()?);
        Some(match u16::try_from(number.wrapping_sub(FIRST_SLOT)) {
            Ok(slot) => Element::Endpoint { frontend, scope, slot, endpoint },
            Err(_) => {
                let stable = number.wrapping_sub(stable_number(0));
                Element::StableEndpoint { frontend, scope, stable, endpoint }
            }
        })
    }
}
