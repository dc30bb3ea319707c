//! Probes of many endpoints on real sockets: what they cost, and how soon they see an endpoint die and return.
//!
//! The figures are printed: `cargo test --release -p herald-proxy --test netns -- --ignored --nocapture probes`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_proxy::probe::{self, ProbeMetrics, ProbeSpec, ProbeState, Probes, Targets, Verdicts};
use herald_runtime::ObjectName;
use herald_runtime::metrics::Metrics;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::net::{Namespace, PATIENCE};

const ENDPOINTS: usize = 200;
const INTERVAL: Duration = Duration::from_millis(100);
/// The test's own share of the time, on a machine that is busy.
const MARGIN: Duration = Duration::from_millis(500);

fn endpoint(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 244, 1, n as u8 + 1], 8080))
}

/// Applications, and how often each was connected to.
struct Servers {
    tasks: JoinSet<()>,
    accepted: watch::Sender<Vec<u32>>,
}

impl Servers {
    fn new() -> Self {
        Self { tasks: JoinSet::new(), accepted: watch::Sender::new(vec![0; ENDPOINTS]) }
    }

    /// Accepts whatever comes, as an application would.
    fn listen(&mut self, n: usize) -> AbortHandle {
        let listener = std::net::TcpListener::bind(endpoint(n)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (listener, accepted) = (TcpListener::from_std(listener).unwrap(), self.accepted.clone());
        self.tasks.spawn(async move {
            loop {
                if listener.accept().await.is_ok() {
                    accepted.send_modify(|accepted| accepted[n] += 1);
                }
            }
        })
    }

    /// Every one was probed three times more: twice is what passing takes.
    async fn all_probed(&self) {
        let mut accepted = self.accepted.subscribe();
        let before = accepted.borrow().clone();
        let probed = accepted.wait_for(|now| now.iter().zip(&before).all(|(now, before)| now - before >= 3));
        timeout(PATIENCE, probed).await.unwrap().unwrap();
    }
}

/// CPU time of the calling thread, the kernel's part for it included.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// The prober on a thread of its own, so that its cost can be told; returns the thread's CPU time and lifetime.
fn start_prober(
    wanted: watch::Receiver<Probes>,
    verdicts: watch::Sender<Verdicts>,
    metrics: ProbeMetrics,
) -> std::thread::JoinHandle<(Duration, Duration)> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (begin, before) = (Instant::now(), cpu());
        runtime.block_on(probe::run(wanted, verdicts, metrics));
        (cpu() - before, begin.elapsed())
    })
}

#[test]
#[ignore = "needs a network namespace"]
fn probes_of_200_endpoints_each_100_ms_are_cheap_and_see_each_change_in_time() {
    let namespace = Namespace::new();
    let lines: Vec<String> =
        (0..ENDPOINTS).map(|n| format!("addr add {}/32 dev lo", endpoint(n).ip())).collect();
    namespace.ip(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let text = namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(probing())
    });
    println!("{text}");
}

async fn probing() -> String {
    let mut servers = Servers::new();
    let mut handles: Vec<AbortHandle> = (0..ENDPOINTS).map(|n| servers.listen(n)).collect();
    let web = ObjectName::new("shop", "web");
    let spec = Arc::new(ProbeSpec::parse("tcp interval=100ms timeout=50ms fail=3 pass=2").unwrap());
    let targets = Arc::new(Targets { spec, sockets: (0..ENDPOINTS).map(endpoint).collect() });
    let (wanted, receiver) = watch::channel(Probes::from([(web.clone(), targets)]));
    wanted.send_modify(|_| {});
    let (found, mut verdicts) = watch::channel(Verdicts::new());
    let registry = Metrics::new();
    let prober = start_prober(receiver, found, ProbeMetrics::new(&registry));

    let mut lines = String::new();
    for round in 0..3 {
        servers.all_probed().await;
        let dead = round * 7;
        let failing =
            |verdicts: &Verdicts| verdicts.get(&web).map(|probes| probes.failing.clone()).unwrap_or_default();
        assert!(failing(&verdicts.borrow()).is_empty(), "{:?}", failing(&verdicts.borrow()));
        handles[dead].abort();
        let begin = Instant::now();
        let seen = verdicts.wait_for(|verdicts| !failing(verdicts).is_empty());
        let seen = failing(&timeout(PATIENCE, seen).await.unwrap().unwrap());
        let died = begin.elapsed();
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [endpoint(dead)]);
        assert_eq!(seen[&endpoint(dead)].0, ProbeState::Failed);
        handles[dead] = servers.listen(dead);
        let begin = Instant::now();
        timeout(PATIENCE, verdicts.wait_for(|verdicts| failing(verdicts).is_empty())).await.unwrap().unwrap();
        let returned = begin.elapsed();
        lines += &format!("endpoint {dead}: out after {died:?}, back after {returned:?}\n");
        assert!(died < INTERVAL * 3 + MARGIN && returned < INTERVAL * 2 + MARGIN, "{lines}");
    }
    drop(wanted);
    let (cost, lived) = tokio::task::spawn_blocking(move || prober.join().unwrap()).await.unwrap();
    let share = cost.as_secs_f64() / lived.as_secs_f64();
    let encoded = registry.encode().unwrap();
    let passed =
        encoded.lines().find(|line| line.starts_with("herald_probe_attempts_total{outcome=\"passed\"}"));
    let passed: f64 = passed.and_then(|line| line.split_whitespace().last()).unwrap().parse().unwrap();
    let rate = passed / lived.as_secs_f64();
    lines += &format!(
        "{ENDPOINTS} endpoints each {INTERVAL:?}: {rate:.0} probes/s, {:.1} % of a core, {:.0} us each",
        share * 100.0,
        cost.as_secs_f64() / passed * 1e6
    );
    // Loose enough for a busy machine and a build without optimization.
    assert!(rate > 500.0 && share < 0.6, "{lines}");
    let in_time_wait = std::fs::read_to_string("/proc/thread-self/net/tcp")
        .unwrap()
        .lines()
        .filter(|line| line.split_whitespace().nth(3) == Some("06"))
        .count();
    assert_eq!(in_time_wait, 0, "sockets are left in TIME_WAIT");
    lines
}
