//! One service proxy on one node: Herald, or kube-proxy in nftables mode.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::await_until::pause;
use crate::bench::metallb::start_kube_proxy;
use crate::client::HttpOptions;
use crate::lab::{Lab, at};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::topology::Node;

/// What Herald writes when everything is in the kernel.
const PROGRAMMED: &str = "all rules are in the kernel";
/// Of the unit in which Linux counts CPU time (USER_HZ).
const TICK: Duration = Duration::from_millis(10);
/// Where Herald serves its metrics on each node.
const ADMIN: u16 = 7472;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `herald speaker --proxy=full`.
    Herald,
    /// `kube-proxy`, `mode: nftables`, all else as by default.
    KubeProxy,
}

impl Kind {
    /// As it is called in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Herald => "herald",
            Self::KubeProxy => "kube-proxy",
        }
    }
}

/// A proxy that runs; dropping it kills it.
#[derive(Debug)]
pub struct System {
    kind: Kind,
    node: Node,
    process: Process,
    /// Just before its process was started.
    pub begin: Instant,
    /// What its log had by then.
    logged: usize,
}

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident memory in bytes.
    pub resident: u64,
    /// The most that it ever was.
    pub peak: u64,
    /// On all cores.
    pub cpu: Duration,
}

impl System {
    /// Starts one; it is not ready yet.
    pub fn start(lab: &Lab, kind: Kind, node: &Node) -> Result<Self> {
        let log = lab.directory().join("log").join(format!("speaker-{}.log", node.name));
        let logged = std::fs::metadata(log).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(0));
        let begin = Instant::now();
        let process = match kind {
            Kind::Herald => lab.speaker(node, &[])?,
            Kind::KubeProxy => start_kube_proxy(lab, node)?,
        };
        Ok(Self { kind, node: node.clone(), process, begin, logged })
    }

    /// Waits until Herald says that the kernel has everything; how long that took from its start.
    pub fn await_programmed(&self, patience: Duration) -> Result<Duration> {
        loop {
            if self.process.log().get(self.logged..).is_some_and(|log| log.contains(PROGRAMMED)) {
                return Ok(self.begin.elapsed());
            }
            self.check(self.begin + patience)?;
            pause(Duration::from_millis(2));
        }
    }

    /// Fails when it has ended, or when it is too late.
    pub fn check(&self, deadline: Instant) -> Result<()> {
        if !self.process.is_running() {
            bail!("{} has ended:\n{}", self.kind.name(), self.process.log_tail());
        }
        if Instant::now() > deadline {
            bail!("{} took too long:\n{}", self.kind.name(), self.process.log_tail());
        }
        Ok(())
    }

    /// What it has used by now.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(&self.process)
    }

    /// Herald's metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::of(&self.node.ns)
    }

    /// Ends it; its rules stay.
    pub fn stop(self) -> Result<()> {
        self.process.terminate(Duration::from_secs(20)).map(drop)
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

impl Usage {
    /// What a process has used by now.
    pub fn of(process: &Process) -> Result<Self> {
        let pid = process.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        usage(&status, &stat).with_context(|| format!("the usage of process {pid}"))
    }
}

fn usage(status: &str, stat: &str) -> Option<Usage> {
    let kibibytes = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    // Fields 14 and 15, counted behind the name, which may have spaces and brackets.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
    Some(Usage { resident: kibibytes("VmRSS")? * 1024, peak: kibibytes("VmHWM")? * 1024, cpu: TICK * ticks })
}

/// Metrics as text, at one moment.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Those of the Herald that runs in this namespace.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        let options = HttpOptions::default().path("/metrics").timeout(Duration::from_secs(5));
        Ok(Self(namespace.http(at("127.0.0.1", ADMIN), &options)?.body))
    }

    /// The one series of this name, with these labels as they are written.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Whether there is a series with these labels as they are written.
    pub fn has(&self, labels: &str) -> bool {
        self.0.lines().any(|line| !line.starts_with('#') && line.contains(labels))
    }

    /// A histogram without labels: upper bounds and how many are at or below each.
    pub fn histogram(&self, name: &str) -> Vec<(f64, f64)> {
        let prefix = format!("{name}_bucket{{le=\"");
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            Some((bound.replace("+Inf", "inf").parse().ok()?, count.parse().ok()?))
        };
        self.0.lines().filter_map(bucket).collect()
    }

    /// What was observed since an earlier moment: how many, and the upper bounds of percentiles (the bucket's, so that no
    /// value is told better than it was), in milliseconds.
    pub fn since(&self, earlier: &Self, name: &str, percents: &[f64]) -> (f64, Vec<f64>) {
        let before = earlier.histogram(name);
        let new: Vec<(f64, f64)> = self
            .histogram(name)
            .into_iter()
            .enumerate()
            .map(|(n, (bound, count))| (bound, count - before.get(n).map_or(0.0, |(_, count)| *count)))
            .collect();
        let total = new.last().map_or(0.0, |(_, count)| *count);
        let at = |percent: f64| {
            let rank = (total * percent / 100.0).ceil().max(1.0);
            new.iter().find(|(_, count)| *count >= rank).map_or(f64::INFINITY, |(bound, _)| bound * 1000.0)
        };
        (total, percents.iter().map(|percent| at(*percent)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_behind_a_name_with_brackets() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let stat = "1 (a) b) S 0 0 0 0 0 0 0 0 0 0 12 3 0 0 20";
        let usage = usage(status, stat).unwrap();
        assert_eq!((usage.resident, usage.peak), (1024 * 1024, 2048 * 1024));
        assert_eq!(usage.cpu, Duration::from_millis(150));
    }

    #[test]
    fn percentiles_of_a_histogram_are_the_bounds_of_what_came_since() {
        let text = |counts: [u32; 3]| {
            let [a, b, c] = counts;
            Metrics(format!(
                "x_bucket{{le=\"0.001\"}} {a}\nx_bucket{{le=\"0.005\"}} {b}\nx_bucket{{le=\"+Inf\"}} {c}\n"
            ))
        };
        let (total, at) = text([100, 199, 200]).since(&text([0, 0, 0]), "x", &[50.0, 99.0, 100.0]);
        assert_eq!((total, at), (200.0, vec![1.0, 5.0, f64::INFINITY]));
        let (total, at) = text([100, 199, 200]).since(&text([100, 100, 100]), "x", &[50.0]);
        assert_eq!((total, at), (100.0, vec![5.0]));
    }
}
