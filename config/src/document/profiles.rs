//! The list `bfd-profiles`.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::bfd::BfdProfile;
use crate::problem::shown;
use crate::read::reader::Value;
use crate::read::scalars::{boolean, nonempty, number};

const KEYS: &[&str] = &[
    "name",
    "receive-interval",
    "transmit-interval",
    "detect-multiplier",
    "echo-interval",
    "echo-mode",
    "passive-mode",
    "minimum-ttl",
];

/// All profiles that could be read.
pub(super) fn read(value: &Value<'_>) -> Vec<BfdProfile> {
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut profiles = Vec::new();
    for item in value.items().unwrap_or_default() {
        profiles.extend(read_profile(&item, &mut names));
    }
    profiles
}

fn read_profile(item: &Value<'_>, names: &mut HashMap<String, usize>) -> Option<BfdProfile> {
    let fields = item.fields(KEYS)?;
    let name = fields.required("name", "quick").and_then(|value| {
        let name = nonempty(&value, "the name")?;
        match names.insert(name.to_owned(), value.place().0) {
            Some(line) => {
                value.fail(format!("{} is also the profile of line {line}: rename one", shown(name)))
            }
            None => Some(name),
        }
    });
    let default = BfdProfile::named("");
    let time = |key, default| {
        let milliseconds = |value: Value<'_>| number(&value, BfdProfile::INTERVAL).map(Duration::from_millis);
        fields.get(key).map_or(Some(default), milliseconds)
    };
    let byte = |key, default, bounds: RangeInclusive<u64>| {
        fields.get(key).map_or(Some(default), |value| number(&value, bounds))
    };
    let flag = |key| fields.get(key).map_or(Some(false), |value| boolean(&value));
    let receive_interval = time("receive-interval", default.receive_interval);
    let transmit_interval = time("transmit-interval", default.transmit_interval);
    let echo_interval = time("echo-interval", default.echo_interval);
    let detect_multiplier = byte("detect-multiplier", default.detect_multiplier, BfdProfile::MULTIPLIER);
    let minimum_ttl = byte("minimum-ttl", default.minimum_ttl, BfdProfile::TTL);
    let (echo_mode, passive_mode) = (flag("echo-mode"), flag("passive-mode"));
    if let (Some(true), Some(value)) = (echo_mode, fields.get("echo-mode")) {
        value.warn(BfdProfile::NO_ECHO);
    }
    Some(BfdProfile {
        name: name?.to_owned(),
        receive_interval: receive_interval?,
        transmit_interval: transmit_interval?,
        detect_multiplier: detect_multiplier?,
        echo_interval: echo_interval?,
        echo_mode: echo_mode?,
        passive_mode: passive_mode?,
        minimum_ttl: minimum_ttl?,
    })
}
