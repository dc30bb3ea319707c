//! What other configuration, or other Services, do to addresses, as people read it.

use std::fmt;

use herald_controller::planner::forecast::{Forecast, Held, Moved};
use herald_speaker::explain::{cells, table};

use super::ROWS;

/// As people read it.
pub(super) struct Screen<'a>(pub(super) &'a Forecast);

fn held(held: &Held) -> String {
    let addresses: Vec<String> = held.addresses.iter().map(ToString::to_string).collect();
    match (&held.pool, addresses.is_empty()) {
        (_, true) => "-".to_owned(),
        (None, _) => addresses.join(", "),
        (Some(pool), _) => format!("{} ({pool})", addresses.join(", ")),
    }
}

impl fmt::Display for Screen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Forecast { services, moved, pools, refused }) = self;
        for text in refused {
            writeln!(f, "! refused, and what is in force stays: {text}")?;
        }
        let gone = moved.iter().filter(|moved| !moved.now.addresses.is_empty()).count();
        match (moved.len(), gone) {
            (0, _) => writeln!(f, "no Service of {services} would have another address")?,
            (some, 0) => {
                let waiting = moved.iter().filter(|moved| moved.then.addresses.is_empty()).count();
                let given = some - waiting;
                let wait = match waiting {
                    0 => String::new(),
                    1 => ", 1 new one would wait".to_owned(),
                    many => format!(", {many} new ones would wait"),
                };
                writeln!(f, "{given} of {services} Services would have an address that have none now{wait}")?
            }
            (some, gone) => writeln!(
                f,
                "{some} of {services} Services would have other addresses; clients of {gone} lose the one that they know"
            )?,
        }
        if !moved.is_empty() {
            let row = |moved: &Moved| {
                let why = moved.then.why.clone().unwrap_or_else(|| "-".to_owned());
                vec![moved.service.clone(), held(&moved.now), held(&moved.then), why]
            };
            let rows: Vec<_> = moved.iter().take(ROWS).map(row).collect();
            table(f, &cells(["Service", "now", "then", "why"]), &rows)?;
            if moved.len() > ROWS {
                writeln!(f, "and {} more (-o json has all)", moved.len() - ROWS)?;
            }
        }
        if !pools.is_empty() {
            let used = |used: Option<(u64, u128)>| {
                used.map_or_else(|| "-".to_owned(), |(used, all)| format!("{used} of {all}"))
            };
            let rows: Vec<_> =
                pools.iter().map(|pool| vec![pool.pool.clone(), used(pool.now), used(pool.then)]).collect();
            table(f, &cells(["Pool", "in use now", "then"]), &rows)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use herald_controller::planner::forecast::PoolUse;

    use super::*;
    use crate::testing::golden;

    fn of(addresses: &[&str], pool: Option<&str>, why: Option<&str>) -> Held {
        Held {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            pool: pool.map(str::to_owned),
            why: why.map(str::to_owned),
        }
    }

    const WAITS: &str = "no IPv4 address is free in edge: add addresses or delete a Service; it is tried again as soon as one frees";

    #[test]
    fn the_screen_is_as_its_golden_file() {
        let moved = |service: &str, now, then| Moved { service: service.to_owned(), now, then };
        let used = |pool: &str, now, then| PoolUse { pool: pool.to_owned(), now, then };
        let changes = Forecast {
            services: 14,
            moved: vec![
                moved("shop/db", of(&["192.0.2.9"], Some("edge"), None), of(&[], None, Some(WAITS))),
                moved(
                    "shop/web",
                    of(&["192.0.2.8", "2001:db8::8"], Some("edge"), None),
                    of(
                        &["198.51.100.1", "2001:db8::8"],
                        Some("new"),
                        Some("192.0.2.8 is in no pool: add it to one or request another"),
                    ),
                ),
                moved("test/waits", of(&[], None, None), of(&["198.51.100.2"], Some("new"), None)),
            ],
            pools: vec![used("edge", Some((14, 16)), Some((12, 12))), used("new", None, Some((2, 254)))],
            refused: Vec::new(),
        };
        let nothing = Forecast {
            services: 1,
            moved: Vec::new(),
            pools: vec![used("edge", Some((1, 16)), Some((1, 16)))],
            refused: vec!["IPAddressPool edge, spec.addresses[0]: 192.0.2.0/33 is no range".to_owned()],
        };
        let new = Forecast {
            services: 16,
            moved: vec![
                moved("shop/first", Held::default(), of(&["192.0.2.15"], Some("edge"), None)),
                moved("shop/second", Held::default(), of(&[], None, Some(WAITS))),
            ],
            pools: vec![used("edge", Some((15, 16)), Some((16, 16)))],
            refused: vec![
                "Service shop/third: Service \"third\" is invalid: spec.ports: Required value".to_owned(),
            ],
        };
        let text = format!(
            "$ herald plan -f pools.yaml\n{}\n$ herald plan -f typo.yaml\n{}\n$ herald plan -f services.yaml\n{}",
            Screen(&changes),
            Screen(&nothing),
            Screen(&new)
        );
        golden("plan.txt", &text);
    }
}
