//! `herald doctor node`: is this machine fit for a speaker, and does nothing on it get into the speaker's way?

mod checks;
mod seen;

use std::path::Path;

use self::checks::CHECKS;
use self::seen::NodeSeen;
use super::report::Report;

/// Looks at this machine. It changes nothing. `name`: the Node's.
pub(super) fn report(name: Option<String>, state: Option<&Path>) -> Report {
    let mut seen = NodeSeen::look(Path::new("/"), state);
    // Who may not look is told so by another check.
    seen.forward_drops = herald_speaker::forward_drops().unwrap_or_default();
    seen.drop_rules = herald_speaker::drop_rules().unwrap_or_default();
    Report::of(of(name, &seen), CHECKS, &seen)
}

/// Whose report it is: what Kubernetes calls this machine, as far as anybody here says it.
fn of(name: Option<String>, seen: &NodeSeen) -> String {
    let told = || seen.speaker().and_then(|speaker| checks::flag(speaker, "--node-name"));
    match name.filter(|name| !name.is_empty()).or_else(told) {
        Some(name) => format!("node {name}"),
        None => format!("node {} (its host name; --node-name tells the Node's)", seen.name),
    }
}

/// Each check's id, and what holds where all is well.
#[cfg(test)]
pub(super) fn listed() -> impl Iterator<Item = (&'static str, &'static str)> {
    CHECKS.iter().map(|check| (check.id, check.holds))
}

#[cfg(test)]
mod tests {
    use super::seen::Process;
    use super::*;

    #[test]
    fn the_report_has_the_nodes_name_or_says_that_it_is_the_hosts() {
        let speaker = |arguments: &[&str]| Process {
            id: 7,
            program: "herald".to_owned(),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        };
        let seen = |processes| NodeSeen { name: "host-7".to_owned(), processes, ..NodeSeen::default() };
        let host = "node host-7 (its host name; --node-name tells the Node's)";
        for (name, processes, expected) in [
            (Some("a"), vec![speaker(&["speaker", "--node-name=b"])], "node a"),
            (None, vec![speaker(&["speaker", "--node-name", "b"])], "node b"),
            (Some(""), vec![speaker(&["speaker"])], host),
            (None, Vec::new(), host),
        ] {
            assert_eq!(of(name.map(str::to_owned), &seen(processes)), expected);
        }
    }
}
