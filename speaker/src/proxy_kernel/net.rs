//! Several changes as one.

use std::collections::HashMap;

use herald_proxy::{Changes, Element};

/// Several changes as one: what comes and goes again, or goes and comes again, is not in it.
#[derive(Debug, Default)]
pub(super) struct Net {
    /// +1: to be added, -1: to be removed.
    elements: HashMap<Element, i32>,
    /// In the order in which they came.
    order: Vec<Element>,
}

impl Net {
    pub(super) fn add(&mut self, changes: Changes) {
        for (element, by) in
            changes.remove.into_iter().map(|e| (e, -1)).chain(changes.add.into_iter().map(|e| (e, 1)))
        {
            *self.elements.entry(element).or_insert_with(|| {
                self.order.push(element);
                0
            }) += by;
        }
    }

    pub(super) fn changes(&self) -> Changes {
        let of_sign = |sign: i32| {
            let count = |element: &Element| self.elements.get(element).copied().unwrap_or_default();
            self.order.iter().filter(|element| count(element).signum() == sign).copied().collect()
        };
        Changes { remove: of_sign(-1), add: of_sign(1) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn vip(n: u8) -> Element {
        Element::Vip { address: IpAddr::from([192, 0, 2, n]) }
    }

    #[test]
    fn what_comes_and_goes_within_a_batch_never_reaches_the_kernel() {
        let mut net = Net::default();
        net.add(Changes { remove: vec![vip(1)], add: vec![vip(2), vip(3)] });
        net.add(Changes { remove: vec![vip(2)], add: vec![vip(1), vip(4)] });
        assert_eq!(net.changes(), Changes { remove: vec![], add: vec![vip(3), vip(4)] });
    }
}
