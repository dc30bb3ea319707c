//! A small network in namespaces of the test's own: client – node – two pods, in both families.
//!
//! Each namespace is a thread that has unshared its network; the kernel removes it when the last thread and socket in
//! it are gone, so nothing is left behind, after a panic neither.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use herald_proxy::netlink::Kernel;
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};

use crate::checked::CheckedKernel;

/// How long a client waits for what should come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// How long a client waits to believe that nothing comes.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
pub(crate) struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    path: String,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, path) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            ready
                .send(format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid()))
                .unwrap();
            for job in queue {
                job();
            }
        });
        let path = path.recv().unwrap();
        let namespace = Self { jobs: Some(jobs), path, thread: Some(thread) };
        namespace.ip(&["link set lo up"]);
        namespace
    }

    /// The file that names it.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Runs something in the namespace and waits for it.
    pub(crate) fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (done, result) = mpsc::channel();
        let job = move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let _ = done.send(result);
        };
        self.jobs.as_ref().unwrap().send(Box::new(job)).unwrap();
        match result.recv().unwrap() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts something in the namespace that ends by itself.
    pub(crate) fn spawn<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
        self.run(move || std::thread::spawn(job))
    }

    /// Runs lines of `ip -batch`.
    pub(crate) fn ip(&self, lines: &[&str]) {
        let input = lines.join("\n");
        let (ok, output) = self.run(move || command("ip", &["-batch", "-"], &input));
        assert!(ok, "{output}");
    }

    /// Loads a text by `nft -f`.
    pub(crate) fn nft(&self, text: &str) {
        let text = text.to_owned();
        let (ok, output) = self.run(move || command("nft", &["-f", "-"], &text));
        assert!(ok, "{output}");
    }

    /// `nft list ruleset`; fails the test when nft does.
    pub(crate) fn list_ruleset(&self) -> String {
        self.list(&["list", "ruleset"])
    }

    /// What `nft` prints.
    pub(crate) fn list(&self, arguments: &'static [&'static str]) -> String {
        let (ok, output) = self.run(|| command("nft", arguments, ""));
        assert!(ok, "{output}");
        output
    }

    /// One of this namespace's settings under /proc/sys/net.
    pub(crate) fn sysctl(&self, name: &str, value: &'static str) {
        let path = format!("/proc/sys/net/{name}");
        self.run(move || std::fs::write(path, value)).unwrap();
    }

    /// Writes to this namespace's nf_tables, and is dumped after each batch.
    pub(crate) fn kernel(&self) -> CheckedKernel {
        CheckedKernel::new(self.unchecked_kernel())
    }

    /// The same without dumps.
    pub(crate) fn unchecked_kernel(&self) -> Kernel {
        self.run(Kernel::open).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Success, and what was printed.
fn command(program: &str, arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

/// Client 203.0.113.2 – node 203.0.113.1, 10.0.0.1 – pods 10.244.1.2 and 10.244.1.3; the same in IPv6.
pub(crate) struct Network {
    pub(crate) client: Namespace,
    pub(crate) node: Namespace,
    pub(crate) pods: [Namespace; 2],
}

pub(crate) const NODE: [&str; 2] = ["10.0.0.1", "2001:db8:10::1"];
pub(crate) const CLIENT: [&str; 2] = ["203.0.113.2", "2001:db8:cb::2"];
pub(crate) const PODS: [[&str; 2]; 2] =
    [["10.244.1.2", "2001:db8:2:1::2"], ["10.244.2.2", "2001:db8:2:2::2"]];
/// The node's addresses towards each pod: what the pod sees of a masqueraded connection.
pub(crate) const GATEWAYS: [[&str; 2]; 2] =
    [["10.244.1.1", "2001:db8:2:1::1"], ["10.244.2.1", "2001:db8:2:2::1"]];

impl Network {
    pub(crate) fn new() -> Self {
        let (client, node) = (Namespace::new(), Namespace::new());
        let pods = [Namespace::new(), Namespace::new()];
        node.sysctl("ipv4/ip_forward", "1");
        node.sysctl("ipv6/conf/all/forwarding", "1");
        let mut lines = vec![
            // The way to everywhere else, where nobody answers.
            "link add uplink type veth peer name nobody".to_owned(),
            "link set nobody up".to_owned(),
            "addr add 10.0.0.1/24 dev uplink".to_owned(),
            "addr add 2001:db8:10::1/64 dev uplink nodad".to_owned(),
            "link set uplink up".to_owned(),
            format!("link add client type veth peer name eth0 netns {}", client.path),
            "addr add 203.0.113.1/24 dev client".to_owned(),
            "addr add 2001:db8:cb::1/64 dev client nodad".to_owned(),
            "link set client up".to_owned(),
            "route add default via 10.0.0.254".to_owned(),
            "route add ::/0 via 2001:db8:10::fe".to_owned(),
        ];
        for (index, pod) in pods.iter().enumerate() {
            let [v4, v6] = GATEWAYS[index];
            lines.push(format!("link add pod{index} type veth peer name eth0 netns {}", pod.path));
            lines.push(format!("addr add {v4}/24 dev pod{index}"));
            lines.push(format!("addr add {v6}/64 dev pod{index} nodad"));
            lines.push(format!("link set pod{index} up"));
        }
        node.ip(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        client.ip(&[
            "addr add 203.0.113.2/24 dev eth0",
            "addr add 2001:db8:cb::2/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 203.0.113.1",
            "route add ::/0 via 2001:db8:cb::1",
        ]);
        for (index, pod) in pods.iter().enumerate() {
            let [v4, v6] = PODS[index];
            let [gateway4, gateway6] = GATEWAYS[index];
            pod.ip(&[
                &format!("addr add {v4}/24 dev eth0"),
                &format!("addr add {v6}/64 dev eth0 nodad"),
                "link set eth0 up",
                &format!("route add default via {gateway4}"),
                &format!("route add ::/0 via {gateway6}"),
            ]);
        }
        Self { client, node, pods }
    }
}

/// A server that answers each connection or datagram with its name and the client's address, until it is dropped.
pub(crate) struct Server {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn tcp(namespace: &Namespace, name: &'static str, address: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        Self::start(namespace, async move |ready: mpsc::Sender<()>| {
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            ready.send(()).unwrap();
            loop {
                let Ok((stream, peer)) = listener.accept().await else { continue };
                let answer = format!("{name} {}", peer.ip());
                let mut stream = stream.into_std().unwrap();
                let _ = stream.write_all(answer.as_bytes());
            }
        })
    }

    pub(crate) fn udp(namespace: &Namespace, name: &'static str, address: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        Self::start(namespace, async move |ready: mpsc::Sender<()>| {
            let socket = tokio::net::UdpSocket::bind(address).await.unwrap();
            ready.send(()).unwrap();
            let mut datagram = [0; 16];
            loop {
                let Ok((_, peer)) = socket.recv_from(&mut datagram).await else { continue };
                let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer).await;
            }
        })
    }

    pub(crate) fn start<F>(
        namespace: &Namespace,
        serve: impl FnOnce(mpsc::Sender<()>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()>,
    {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = namespace.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(ready) => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The server's name and the source address that it saw.
    Answer(String),
    /// Port unreachable, or a reset.
    Refused,
    /// Nothing.
    Silence,
}

impl Seen {
    pub(crate) fn answer(name: &str, source: &str) -> Self {
        Self::Answer(format!("{name} {source}"))
    }

    pub(crate) fn from_error(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => Self::Silence,
            std::io::ErrorKind::ConnectionRefused => Self::Refused,
            other => panic!("{other:?}: {error}"),
        }
    }
}

/// Connects and reads to the end.
pub(crate) fn tcp(from: &Namespace, to: &str, patience: Duration) -> Seen {
    let to: SocketAddr = to.parse().unwrap();
    from.run(move || tcp_here(to, patience))
}

/// The same from the calling thread.
pub(crate) fn tcp_here(to: SocketAddr, patience: Duration) -> Seen {
    let mut stream = match TcpStream::connect_timeout(&to, patience) {
        Ok(stream) => stream,
        Err(error) => return Seen::from_error(&error),
    };
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Ok(_) => Seen::Answer(answer),
        Err(error) => Seen::from_error(&error),
    }
}

/// Sends a datagram and reads the answer.
pub(crate) fn udp(from: &Namespace, to: &str, patience: Duration) -> Seen {
    let to: SocketAddr = to.parse().unwrap();
    from.run(move || {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.connect(to).unwrap();
        // A sender on the rejecting node itself learns it from `send`.
        match socket.send(b"?") {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Seen::Refused,
            sent => assert_eq!(sent.unwrap(), 1),
        }
        let mut datagram = [0; 128];
        match socket.recv(&mut datagram) {
            Ok(len) => Seen::Answer(String::from_utf8_lossy(&datagram[..len]).into_owned()),
            Err(error) => Seen::from_error(&error),
        }
    })
}

/// True when a ping is answered.
pub(crate) fn ping(from: &Namespace, to: &str) -> bool {
    let to: IpAddr = to.parse().unwrap();
    from.sysctl("ipv4/ping_group_range", "0 0");
    from.run(move || {
        let (domain, protocol, request) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(protocol)).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        socket.connect(&SocketAddr::new(to, 0).into()).unwrap();
        // The kernel fills in identifier and checksum.
        (&socket).write_all(&[request, 0, 0, 0, 0, 0, 0, 1]).is_ok() && (&socket).read(&mut [0; 64]).is_ok()
    })
}
