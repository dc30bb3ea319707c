//! The controller is killed at any moment and started again: the status of the Services is all that it needs.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use herald_e2e::{Process, await_until};
use serde_json::json;

use crate::services::{History, SOON, addresses_of, all, await_service, create, service};

const ROUNDS: u64 = 12;
const A_ROUND: u64 = 5;

/// Numbers that differ from run to run, and can be had again by their seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A moment of the controller's life: after some milliseconds, or just after it has begun to lead or written this often.
fn await_moment(controller: &Process, dice: &mut Dice) -> Result<()> {
    let (writes, pause) = (dice.below(A_ROUND), Duration::from_millis(dice.below(60)));
    match dice.below(3) {
        0 => {}
        1 => controller.await_log("leading", SOON)?,
        _ => await_until(SOON, "some writes", || {
            (controller.log().matches("written").count() as u64 >= writes).then_some(())
        })?,
    }
    let begin = Instant::now();
    await_until(SOON, "a moment", || (begin.elapsed() >= pause).then_some(()))
}

#[test]
#[ignore = "needs a network namespace"]
fn no_service_changes_its_address_and_none_is_given_twice_however_often_the_controller_is_killed()
-> Result<()> {
    let seed = std::env::var("HERALD_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed: u64 = seed.unwrap_or_else(|| now.subsec_nanos().into());
    eprintln!("HERALD_SEED={seed} has the same moments again");
    let mut dice = Dice(seed);
    let lab = super::lab()?;
    // Tight, so that what is freed is given again, and some have to wait.
    lab.configure_herald("address-pools:\n- {name: p, protocol: bgp, addresses: [192.0.2.0/26]}\n")?;
    // As a container that is restarted in its Pod: it takes its own Lease back at once.
    let start = |round: u64| lab.controller(&format!("controller-{round}"), &["--identity=herald-0"]);
    let (history, ()) = History::during(&lab, || {
        for round in 0..ROUNDS {
            let controller = start(round)?;
            let names = (0..A_ROUND).map(|number| format!("s-{round}-{number}"));
            let services: Vec<_> = names.map(|name| service(&name, json!({}))).collect();
            std::thread::scope(|scope| {
                let creator = scope.spawn(|| create(&lab, services));
                let moment = await_moment(&controller, &mut dice);
                controller.kill();
                creator.join().map_err(|_| anyhow::anyhow!("the creator panicked"))?.and(moment)
            })
            .with_context(|| format!("round {round}, seed {seed}"))?;
            // One of some earlier round goes while nobody looks.
            if round > 2 {
                lab.delete("v1/Service", "default", &format!("s-{}-{}", round - 2, dice.below(A_ROUND)))?;
            }
        }
        let _controller = start(ROUNDS)?;
        for name in all(&lab)?.keys() {
            await_service(&lab, name, SOON, "an address", |service| !addresses_of(service).is_empty())?;
        }
        Ok(())
    })?;
    history.assert_steady();
    let services = all(&lab)?;
    let given: BTreeSet<IpAddr> = services.values().flat_map(addresses_of).collect();
    assert_eq!(services.len() as u64, ROUNDS * A_ROUND - (ROUNDS - 3));
    assert_eq!(given.len(), services.len(), "{given:?}");
    Ok(())
}
