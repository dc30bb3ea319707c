//! A real BIRD as the router of a test, in the test's own network namespace; both ends have their address on `lo`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The router's address.
pub(crate) const BIRD: &str = "10.0.0.1";
/// The router's address of the other family.
pub(crate) const BIRD_V6: &str = "2001:db8:10::1";
/// The node's address.
pub(crate) const NODE: &str = "10.0.0.11";
/// The node's address of the other family.
pub(crate) const NODE_V6: &str = "2001:db8:10::11";

/// How a BIRD is started.
struct Options {
    /// Its address and the node's.
    ends: (&'static str, &'static str),
    /// Of the session.
    options: String,
    /// Of the session's IPv4 routes.
    of_ipv4: String,
    /// Other protocols.
    more: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { ends: (BIRD, NODE), options: String::new(), of_ipv4: String::new(), more: String::new() }
    }
}

impl Options {
    fn of(options: &str) -> Self {
        Self { options: options.to_owned(), ..Self::default() }
    }
}

/// A BIRD that ends with the value.
pub(crate) struct Bird {
    process: Child,
    directory: tempfile::TempDir,
}

impl Bird {
    pub(crate) fn start(options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { process: Self::spawn(&directory, &Options::of(options)), directory }
    }

    /// One with BFD over several hops, its intervals in milliseconds; `mode` is `on` or `graceful`.
    pub(crate) fn start_bfd(milliseconds: u64, mode: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let timers = format!("interval {milliseconds} ms; multiplier 3; idle tx interval 1 s;");
        let options = format!("bfd {mode}; error wait time 1,1;");
        let more = format!("protocol bfd {{ multihop {{ {timers} }}; }}\n");
        Self { process: Self::spawn(&directory, &Options { options, more, ..Options::default() }), directory }
    }

    /// Lets it hang: its connections stay, it neither reads nor writes.
    pub(crate) fn freeze(&self, frozen: bool) {
        use nix::sys::signal::{Signal, kill};
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(nix::unistd::Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }

    /// One that peers over IPv6; the options are those of its IPv4 routes.
    pub(crate) fn start_v6(of_ipv4: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { ends: (BIRD_V6, NODE_V6), of_ipv4: of_ipv4.to_owned(), ..Options::default() };
        Self { process: Self::spawn(&directory, &options), directory }
    }

    fn spawn(directory: &tempfile::TempDir, with: &Options) -> Child {
        let Options { ends: (local, neighbour), options, of_ipv4, more } = with;
        let path = directory.path();
        let config = format!(
            "log \"{}\" all;\nrouter id {BIRD};\nprotocol device {{}}\n{more}\
             protocol bgp herald {{ debug {{ states }}; local {local} as 100; neighbor {neighbour} as 42; multihop; passive on; \
             {options} ipv4 {{ {of_ipv4} import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n",
            path.join("log").display(),
        );
        std::fs::write(path.join("bird.conf"), config).unwrap();
        Command::new("bird")
            .arg("-f")
            .args(["-c".as_ref(), path.join("bird.conf").as_os_str()])
            .args(["-s".as_ref(), path.join("ctl").as_os_str()])
            .args(["-P".as_ref(), path.join("pid").as_os_str()])
            .stdin(Stdio::null())
            .spawn()
            .expect("bird is installed")
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let _ = std::fs::remove_file(self.directory.path().join("ctl"));
    }

    pub(crate) fn restart(&mut self, options: &str) {
        self.process = Self::spawn(&self.directory, &Options::of(options));
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// How often the session has come up.
    pub(crate) fn established(&self) -> usize {
        self.log().matches("State changed to up").count()
    }

    pub(crate) async fn ask(&self, question: &str) -> String {
        self.try_ask(question).await.unwrap_or_default()
    }

    async fn try_ask(&self, question: &str) -> std::io::Result<String> {
        let path: PathBuf = self.directory.path().join("ctl");
        let mut socket = UnixStream::connect(path).await?;
        socket.write_all(format!("{question}\n").as_bytes()).await?;
        let mut answer = String::new();
        let mut buffer = [0; 8192];
        // A reply ends with a line whose code begins with 0, 8 or 9; the greeting is one as well.
        let ends =
            |line: &str| line.len() > 4 && line.as_bytes()[4] == b' ' && b"089".contains(&line.as_bytes()[0]);
        while answer.lines().filter(|line| ends(line)).count() < 2 {
            let count = socket.read(&mut buffer).await?;
            if count == 0 {
                break;
            }
            answer.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        Ok(answer)
    }

    /// Asks until the answer is as expected.
    pub(crate) async fn until(&self, question: &str, expected: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.ask(question).await;
            if expected(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{question}: {answer}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn up(&self) {
        self.until("show protocols", |answer| answer.contains("Established")).await;
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Puts the addresses of both ends on `lo`.
pub(crate) async fn addresses() {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    let driver = tokio::task::spawn_local(connection);
    for address in [BIRD, BIRD_V6, NODE, NODE_V6] {
        let address: std::net::IpAddr = address.parse().unwrap();
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        handle.address().add(1, address, prefix).execute().await.unwrap();
    }
    driver.abort();
}
