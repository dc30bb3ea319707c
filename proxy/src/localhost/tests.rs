//! Real sockets on 127.0.0.1; endpoints are listeners on other addresses of 127/8.

use std::net::{IpAddr, Ipv4Addr};

use herald_runtime::events::EventReason;
use herald_runtime::metrics::Metrics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::*;

const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(20);

struct Lab {
    address: SocketAddr,
    desired: watch::Sender<LocalPorts>,
    failures: mpsc::Receiver<BindFailure>,
    registry: Metrics,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// An endpoint that answers each connection with its name, then echoes, then ends when the client has ended.
struct Endpoint {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

async fn endpoint(name: &'static str) -> Endpoint {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let _ = stream.write_all(name.as_bytes()).await;
                let mut said = Vec::new();
                // Only when the client's half has ended there is an answer.
                let _ = stream.read_to_end(&mut said).await;
                let _ = stream.write_all(&said).await;
            });
        }
    });
    Endpoint { address, _tasks: tasks }
}

fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn port(endpoints: &[SocketAddr], affinity: Option<Duration>) -> LocalPort {
    LocalPort { service: ObjectName::new("shop", "web"), endpoints: endpoints.into(), affinity }
}

fn start(address: SocketAddr, port: LocalPort) -> Lab {
    let (desired, seen) = watch::channel(LocalPorts::from([(address, port)]));
    let (failed, failures) = mpsc::channel(8);
    let registry = Metrics::new();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_local_ports(seen, ProxyMetrics::new(&registry), failed, stop.clone()));
    Lab { address, desired, failures, registry, stop, tasks }
}

impl Lab {
    async fn connect(&self) -> TcpStream {
        let connecting = async {
            loop {
                match TcpStream::connect(self.address).await {
                    Ok(stream) => return stream,
                    Err(_) => sleep(POLL).await,
                }
            }
        };
        timeout(PATIENCE, connecting).await.unwrap()
    }

    /// Who answers a new connection.
    async fn name(&self) -> (String, TcpStream) {
        let mut stream = self.connect().await;
        let mut name = [0; 1];
        timeout(PATIENCE, stream.read_exact(&mut name)).await.unwrap().unwrap();
        (String::from_utf8(name.into()).unwrap(), stream)
    }

    async fn refused(&self) {
        let asking = async {
            while TcpStream::connect(self.address).await.is_ok() {
                sleep(POLL).await;
            }
        };
        timeout(PATIENCE, asking).await.unwrap();
    }

    async fn end(mut self) {
        self.stop.cancel();
        timeout(PATIENCE, self.tasks.join_next()).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn connections_spread_and_the_end_of_one_half_is_passed_on() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let lab = start(free_port(), port(&[a.address, b.address], None));
    let mut names = BTreeSet::new();
    // All alike would be chance once in 2^63.
    for _ in 0..64 {
        names.insert(lab.name().await.0);
    }
    assert_eq!(names, ["a".to_owned(), "b".to_owned()].into());
    let (_, mut stream) = lab.name().await;
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(echoed, "hello", "what comes after our half has ended still arrives");
    let line = r#"kubeproxy_localhost_nodeport_listeners{ip_family="IPv4"} 1"#;
    assert!(lab.registry.encode().unwrap().contains(line));
    lab.end().await;
}

#[tokio::test]
async fn with_affinity_localhost_stays_with_one_endpoint() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let lab = start(free_port(), port(&[a.address, b.address], Some(Duration::from_secs(3600))));
    let (first, _) = lab.name().await;
    for _ in 0..32 {
        assert_eq!(lab.name().await.0, first);
    }
    lab.end().await;
}

#[tokio::test]
async fn a_port_that_goes_cuts_its_connections_and_one_without_endpoints_refuses_new_ones() {
    let a = endpoint("a").await;
    let lab = start(free_port(), port(&[a.address], None));
    let (_, mut standing) = lab.name().await;
    lab.desired.send_modify(|ports| {
        ports.insert(lab.address, port(&[], None));
    });
    lab.refused().await;
    lab.desired.send_modify(|ports| {
        ports.insert(lab.address, port(&[a.address], None));
    });
    lab.name().await;
    standing.write_all(b"x").await.unwrap();
    standing.shutdown().await.unwrap();
    let mut echoed = String::new();
    timeout(PATIENCE, standing.read_to_string(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(echoed, "x", "it outlived the time without endpoints");

    let (_, mut cut) = lab.name().await;
    lab.desired.send_modify(BTreeMap::clear);
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, cut.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err() || rest.is_empty());
    lab.refused().await;
    lab.end().await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_ends_the_connection_at_once() {
    let nobody = free_port();
    let lab = start(free_port(), port(&[nobody], None));
    let mut stream = lab.connect().await;
    let mut rest = Vec::new();
    let _ = timeout(DIAL, stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    lab.end().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_counted_and_opened_when_it_is_free() {
    let a = endpoint("a").await;
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut lab = start(taken.local_addr().unwrap(), port(&[a.address], None));
    let failure = timeout(PATIENCE, lab.failures.recv()).await.unwrap().unwrap();
    assert_eq!(failure.reason, EventReason::LocalhostPortFailed);
    assert_eq!(failure.service, Some(ObjectName::new("shop", "web")));
    assert_eq!(failure.address.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
    let line = r#"kubeproxy_localhost_nodeport_listener_failures_total{ip_family="IPv4"} 1"#;
    assert!(lab.registry.encode().unwrap().contains(line));
    drop(taken);
    lab.name().await;
    lab.end().await;
}
