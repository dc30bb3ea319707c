//! How many series ten thousand Services make: as many as the documents say, and none more for a Service more.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use herald_e2e::bench::proxy::scale::Scale;
use herald_e2e::{Lab, Namespace, PodOptions, await_ok};

use super::{ensure_documented, taken_apart};
use crate::order::{config, herald};

const SERVICES: u32 = 10_000;
/// The flags' usual limit.
const LIMIT: usize = 1000;
/// Of what only counts once something has happened: a histogram's buckets.
const FEW: usize = 40;
/// Addresses that RFC 2544 sets aside for benchmarks.
const POOL: &str = "198.18.0.0/15";
/// All are listed, adopted, programmed and announced.
const PATIENCE: Duration = Duration::from_secs(240);

fn scrape(ns: &Namespace) -> Result<String> {
    ns.exec(&["curl", "--silent", "--show-error", "--max-time", "10", "http://127.0.0.1:7472/metrics"])
}

/// How many series each metric has.
fn series(scraped: &str) -> BTreeMap<&str, usize> {
    let mut series = BTreeMap::new();
    let lines = scraped.lines().filter(|line| !line.starts_with('#'));
    for (name, _) in lines.filter_map(taken_apart) {
        *series.entry(name).or_default() += 1;
    }
    series
}

/// The sum of a metric's values.
fn sum(scraped: &str, name: &str) -> f64 {
    let lines = scraped.lines().filter(|line| taken_apart(line).is_some_and(|(of, _)| of == name));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[test]
#[ignore = "needs a network namespace"]
fn ten_thousand_services_make_no_more_series_than_the_limits_allow() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    // Nothing but Herald looks at them.
    lab.stop_controllers()?;
    let node = lab.node(1);
    let pod = lab.pod(node, "web-1", &PodOptions::app("web"))?;
    let mut services = Scale::new(&[SERVICES], vec![(node.name.clone(), pod.ip)]);
    let announced = |count: u32| {
        // Whose scrape costs little: the speaker's is of all Services.
        await_ok(PATIENCE, &format!("{count} addresses"), || {
            let given = sum(&scrape(lab.control_plane_ns())?, "metallb_allocator_addresses_in_use_total");
            ensure!(given == f64::from(count), "{given} are given");
            Ok(())
        })?;
        await_ok(PATIENCE, &format!("{count} addresses to be announced"), || {
            let scraped = scrape(&node.ns)?;
            let announced = sum(&scraped, "metallb_speaker_announced");
            let not = sum(&scraped, "herald_speaker_not_announced");
            ensure!(announced == f64::from(count), "{announced} are, {not} are not");
            Ok(scraped)
        })
    };
    // Nobody watches while they are written: many have one revision, of which a watch may lose some.
    let mut grown = |count: u32| {
        services.grow(&lab, count)?;
        let processes = herald(&lab, &config(POOL), &[])?;
        let scraped = announced(count)?;
        if count == 1 {
            services.with_addresses(&lab)?;
        }
        anyhow::Ok((processes, scraped))
    };
    drop(grown(1)?);
    let (processes, few) = grown(100)?;
    drop(processes);
    let (_processes, many) = grown(SERVICES)?;
    for scraped in [&few, &many, &scrape(lab.control_plane_ns())?] {
        ensure_documented(scraped)?;
    }

    let (few, many, controller) = (series(&few), series(&many), scrape(lab.control_plane_ns())?);
    println!("speaker: {} series, of {} Services", many.values().sum::<usize>(), SERVICES);
    println!("controller: {} series", series(&controller).values().sum::<usize>());
    for (name, count) in &many {
        let most = match *name {
            "metallb_speaker_announced" => LIMIT + 1,
            // Each of those that carried something, and the rest.
            "herald_service_packets_total" | "herald_service_bytes_total" => LIMIT + 1,
            "metallb_layer2_requests_received" | "metallb_layer2_responses_sent" => LIMIT + 1,
            "metallb_layer2_gratuitous_sent" => LIMIT + 1,
            // Of any other metric there are as many as there were.
            name => few.get(name).copied().unwrap_or(FEW),
        };
        ensure!(*count <= most, "{name}: {count} series, {most} at most");
    }
    ensure!(many["metallb_speaker_announced"] == LIMIT + 1, "{many:?}");
    ensure!(many.values().sum::<usize>() < 4 * LIMIT, "{many:?}");
    ensure!(series(&controller).values().sum::<usize>() < 100, "{controller}");
    Ok(())
}
