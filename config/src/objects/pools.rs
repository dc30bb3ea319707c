//! IPAddressPool.

use std::collections::BTreeSet;

use super::At;
use crate::address_range::{AddressRange, overlapping};
use crate::pool::ServiceAllocation;
use crate::problem::shown;
use crate::read::ranges::range;
use crate::read::reader::Value;
use crate::read::selectors::{CAMEL, selectors};
use crate::selector::LabelSelector;

/// What a pool says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PoolContent {
    pub(crate) ranges: Vec<At<AddressRange>>,
    pub(crate) auto_assign: bool,
    pub(crate) avoid_buggy_ips: bool,
    pub(crate) allocation: Option<ServiceAllocation>,
}

pub(super) fn read(spec: &Value<'_>) -> Option<PoolContent> {
    let mut complete = true;
    let mut ranges = Vec::new();
    for item in spec.list("addresses") {
        match range(&item) {
            Some(range) => ranges.push(At::new(range, &item)),
            None => complete = false,
        }
    }
    let bare: Vec<AddressRange> = ranges.iter().map(|at| at.value).collect();
    for (first, second) in overlapping(&bare) {
        let (first, second) = (&ranges[first], &ranges[second]);
        let message =
            format!("overlaps {} of {}: remove or shorten one of them", first.value, first.place.path);
        let items = spec.list("addresses");
        let at = items.iter().find(|item| item.path() == second.place.path).unwrap_or(spec);
        complete = at.fail::<()>(format!("{} {message}", second.value)).is_some();
    }
    let allocation = spec.given("serviceAllocation").map(|value| allocation(&value));
    let allocation = match allocation {
        Some(None) => {
            complete = false;
            None
        }
        read => read.flatten(),
    };
    complete.then(|| PoolContent {
        ranges,
        auto_assign: spec.flag("autoAssign", true),
        avoid_buggy_ips: spec.flag("avoidBuggyIPs", false),
        allocation,
    })
}

fn allocation(value: &Value<'_>) -> Option<ServiceAllocation> {
    let priority =
        match value.given("priority").and_then(|priority| Some((priority.peek_text()?.parse(), priority))) {
            None => Some(0),
            Some((Ok(number), _)) => Some(number),
            Some((Err(_), at)) => at.fail("the priority is out of range: use -2147483648 to 2147483647"),
        };
    let namespaces =
        distinct_words(value, "namespaces").map(|words| words.into_iter().map(|at| at.value).collect());
    let namespace_selectors = distinct_selectors(value, "namespaceSelectors");
    let service_selectors = distinct_selectors(value, "serviceSelectors");
    Some(ServiceAllocation {
        priority: priority?,
        namespaces: namespaces?,
        namespace_selectors: namespace_selectors?,
        service_selectors: service_selectors?,
    })
}

/// A list of names, where one that stands twice is refused.
pub(super) fn distinct_words(of: &Value<'_>, key: &str) -> Option<Vec<At<String>>> {
    let mut seen = BTreeSet::new();
    let mut words = Vec::new();
    let mut complete = true;
    for item in of.list(key) {
        let text = item.peek_text().unwrap_or_default();
        if text.is_empty() {
            complete = item.fail::<()>("the name is empty: write one").is_some();
        } else if !seen.insert(text) {
            complete =
                item.fail::<()>(format!("{} stands in this list already: remove one", shown(text))).is_some();
        } else {
            words.push(At::new(text.to_owned(), &item));
        }
    }
    complete.then_some(words)
}

/// A list of selectors, where one that stands twice is refused.
pub(super) fn distinct_selectors(of: &Value<'_>, key: &str) -> Option<Vec<LabelSelector>> {
    let Some(list) = of.given(key) else { return Some(Vec::new()) };
    let read = selectors(&list, &CAMEL)?;
    for (index, selector) in read.iter().enumerate() {
        if read[..index].contains(selector) {
            let items = list.peek_items();
            return items.get(index)?.fail("the same selector stands in this list already: remove one");
        }
    }
    Some(read)
}
