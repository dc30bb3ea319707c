//! How wide the routes of a pool may be.
//!
//! An aggregate must not reach beyond the pool: it may not be wider than any CIDR of the pool in its family, where the
//! largest of the blocks that make up a range stands for the range.

use crate::address_range::AddressRange;

/// The shortest aggregation length that a pool allows in one family, and the range that forbids a shorter one.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) length: u8,
    pub(crate) because: String,
}

/// The bounds of a pool; none for a family that it has no addresses of.
#[derive(Debug)]
pub(crate) struct Bounds {
    pub(crate) v4: Option<Bound>,
    pub(crate) v6: Option<Bound>,
}

impl Bounds {
    pub(crate) fn of(ranges: &[AddressRange]) -> Self {
        let bound = |v4: bool| {
            let of_family = ranges.iter().filter(|range| range.is_ipv4() == v4);
            let blocks = of_family.filter_map(|range| Some((largest_block(range)?, range)));
            let ((length, block), range) = blocks.rev().max_by_key(|((length, _), _)| *length)?;
            let because = match range.to_string() {
                text if text == block => block,
                text => format!("{block}, the largest block of {text}"),
            };
            Some(Bound { length, because })
        };
        Self { v4: bound(true), v6: bound(false) }
    }
}

impl Bound {
    /// What is wrong with a length, if anything; `width` is that of the family.
    pub(crate) fn refuses(&self, written: u8, width: u8) -> Option<String> {
        let Self { length, because } = self;
        let lowest = (*length).max(1);
        (written < *length).then(|| format!("{written} is shorter than {because}: use {lowest} to {width}"))
    }
}

/// The largest CIDR of those that make up a range.
fn largest_block(range: &AddressRange) -> Option<(u8, String)> {
    let cidrs = range.to_cidrs();
    let largest = cidrs.iter().min_by_key(|cidr| cidr.prefix_len())?;
    Some((largest.prefix_len(), largest.to_string()))
}
