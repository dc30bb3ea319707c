use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::*;

fn port(local_endpoints: usize) -> HealthPort {
    HealthPort { service: ObjectName::new("shop", "web"), local_endpoints }
}

async fn body(response: Response<Full<Bytes>>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

// Facts 1.11.

#[tokio::test]
async fn the_answer_is_kube_proxys() {
    for (health, proxy_healthy, status, wanted) in [
        (
            Some(port(2)),
            true,
            200,
            json!({"service": {"namespace": "shop", "name": "web"},
                                          "localEndpoints": 2, "serviceProxyHealthy": true}),
        ),
        (
            Some(port(0)),
            true,
            503,
            json!({"service": {"namespace": "shop", "name": "web"},
                                          "localEndpoints": 0, "serviceProxyHealthy": true}),
        ),
        (
            Some(port(2)),
            false,
            503,
            json!({"service": {"namespace": "shop", "name": "web"},
                                           "localEndpoints": 2, "serviceProxyHealthy": false}),
        ),
        (None, true, 503, json!({"service": null, "localEndpoints": 0, "serviceProxyHealthy": true})),
    ] {
        let response = respond(health.as_ref(), proxy_healthy, false);
        assert_eq!(response.status(), status);
        let headers = response.headers();
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let weight = health.map_or(0, |health| health.local_endpoints).to_string();
        assert_eq!(headers["x-load-balancing-endpoint-weight"], *weight);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&body(response).await).unwrap(), wanted);
    }
}

#[tokio::test]
async fn who_asks_for_plain_text_gets_the_old_sentences() {
    for (count, status, wanted) in [
        (0, 503, "No Service Endpoints Found"),
        (1, 200, "1 Service Endpoints found"),
        (3, 200, "3 Service Endpoints found"),
    ] {
        let response = respond(Some(&port(count)), true, true);
        assert_eq!(response.status(), status);
        assert_eq!(body(response).await, wanted);
    }
}

/// What a test starts: the servers in a set that ends with the test, and what they listen to.
struct Lab {
    desired: watch::Sender<HealthPorts>,
    state: watch::Sender<ProxyState>,
    failures: mpsc::Receiver<BindFailure>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn start(ports: BTreeMap<u16, HealthPort>) -> Lab {
    let addresses = [IpAddr::from(Ipv6Addr::UNSPECIFIED)].into();
    let ports = HealthPorts { addresses, ports };
    let (desired, desired_seen) = watch::channel(ports);
    let (state, state_seen) = watch::channel(ProxyState::default());
    let (failed, failures) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_health_ports(desired_seen, state_seen, failed, stop.clone()));
    Lab { desired, state, failures, stop, tasks }
}

/// A listener on a port that was free, on all addresses.
fn taken() -> (tokio::net::TcpListener, u16) {
    let listener = http::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Between two looks at what only the port itself can tell.
const POLL: Duration = Duration::from_millis(5);

/// Asks until the answer is there and begins as wanted.
async fn ask_until(port: u16, request: &str, wanted: &str) -> String {
    let asking = async {
        loop {
            if let Some(answer) = ask(port, request).await
                && answer.starts_with(wanted)
            {
                return answer;
            }
            sleep(POLL).await;
        }
    };
    timeout(Duration::from_secs(20), asking).await.unwrap()
}

async fn ask(port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let request = format!("{request}Host: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

#[tokio::test]
async fn ports_open_answer_change_and_close_live() {
    let (listener, number) = taken();
    drop(listener);
    let mut lab = start([(number, port(1))].into());
    let text = "GET /healthz HTTP/1.1\r\nAccept: text/plain\r\n";
    let answer = ask_until(number, text, "HTTP/1.1 200").await;
    assert!(answer.ends_with("1 Service Endpoints found"), "{answer}");
    let answer = ask_until(number, "POST /any/path HTTP/1.1\r\nContent-Length: 0\r\n", "HTTP/1.1 200").await;
    assert!(answer.contains("\"localEndpoints\":1"), "{answer}");
    lab.desired.send_modify(|desired| {
        desired.ports.insert(number, port(0));
    });
    ask_until(number, "GET / HTTP/1.1\r\n", "HTTP/1.1 503").await;
    lab.desired.send_modify(|desired| desired.ports.clear());
    let closed = async {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, number)).await.is_ok() {
            sleep(POLL).await;
        }
    };
    timeout(Duration::from_secs(20), closed).await.unwrap();
    lab.desired.send_modify(|desired| {
        desired.ports.insert(number, port(1));
    });
    ask_until(number, "GET / HTTP/1.1\r\n", "HTTP/1.1 200").await;
    let since = Instant::now().checked_sub(Duration::from_secs(3600)).unwrap();
    lab.state.send_modify(|state| state.queued(crate::family::IpFamily::V4, since));
    ask_until(number, "GET / HTTP/1.1\r\n", "HTTP/1.1 503").await;
    lab.stop.cancel();
    timeout(Duration::from_secs(20), lab.tasks.join_next()).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, number)).await.is_err());
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_and_opened_when_it_is_free() {
    let (listener, number) = taken();
    let mut lab = start([(number, port(1))].into());
    let failure = timeout(Duration::from_secs(20), lab.failures.recv()).await.unwrap().unwrap();
    assert_eq!(failure.service, Some(ObjectName::new("shop", "web")));
    assert_eq!(failure.address.port(), number);
    assert_eq!(failure.error.kind(), std::io::ErrorKind::AddrInUse);
    drop(listener);
    ask_until(number, "GET / HTTP/1.1\r\n", "HTTP/1.1 200").await;
    lab.stop.cancel();
    timeout(Duration::from_secs(20), lab.tasks.join_next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn only_the_wanted_addresses_answer_and_they_may_change() {
    let (listener, number) = taken();
    drop(listener);
    let one = |last: u8| IpAddr::from([127, 0, 0, last]);
    let ports = BTreeMap::from([(number, port(1))]);
    let mut tasks = JoinSet::new();
    let (desired, seen) = watch::channel(HealthPorts { addresses: [one(1), one(2)].into(), ports });
    let (_state, state) = watch::channel(ProxyState::default());
    let (failures, _failures) = mpsc::channel(8);
    let stop = CancellationToken::new();
    tasks.spawn(serve_health_ports(seen, state, failures, stop.clone()));
    let reaches = |last: u8, wanted: bool| async move {
        let asking = async {
            while TcpStream::connect((one(last), number)).await.is_ok() != wanted {
                sleep(POLL).await;
            }
        };
        timeout(Duration::from_secs(20), asking).await.unwrap();
    };
    reaches(1, true).await;
    reaches(2, true).await;
    assert!(TcpStream::connect((one(3), number)).await.is_err());
    desired.send_modify(|desired| desired.addresses = [one(2), one(3)].into());
    reaches(3, true).await;
    reaches(1, false).await;
    reaches(2, true).await;
    stop.cancel();
    timeout(Duration::from_secs(20), tasks.join_next()).await.unwrap().unwrap().unwrap();
}
