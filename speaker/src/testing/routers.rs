//! Routers of four makes in the test's own network namespace, asked in their own words; both ends have their address on `lo`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::bird::{BIRD as ROUTER, NODE};
use super::far::within;

/// Who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    Bird,
    Frr,
    GoBgp,
    ExaBgp,
}

impl Make {
    pub(crate) const ALL: [Self; 4] = [Self::Bird, Self::Frr, Self::GoBgp, Self::ExaBgp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bird => "BIRD",
            Self::Frr => "FRR",
            Self::GoBgp => "GoBGP",
            Self::ExaBgp => "ExaBGP",
        }
    }

    /// Whether it is installed, as `make setup` does.
    pub(crate) fn is_installed(self) -> bool {
        let program = match self {
            Self::Bird => "/usr/sbin/bird",
            Self::Frr => "/usr/lib/frr/bgpd",
            Self::GoBgp => "/usr/bin/gobgpd",
            Self::ExaBgp => "/usr/sbin/exabgp",
        };
        Path::new(program).exists()
    }
}

/// What a router expects of the node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expects {
    pub(crate) asn: u32,
    pub(crate) password: Option<&'static str>,
    /// Hold time in seconds.
    pub(crate) hold: u16,
    /// It dials, too.
    pub(crate) dials: bool,
    /// GTSM (RFC 5082), over so many hops at most.
    pub(crate) hops: Option<u8>,
    /// It knows its net and not the node.
    pub(crate) range: bool,
    /// The process in whose network namespace it is, if not in the test's own.
    pub(crate) place: Option<u32>,
}

impl Default for Expects {
    fn default() -> Self {
        Self { asn: 42, password: None, hold: 90, dials: false, hops: None, range: false, place: None }
    }
}

/// Writes what ExaBGP tells to a file. A shell's `read` does not bear its pipe, which does not block.
const TELL: &str = r#"
import sys
for line in iter(sys.stdin.readline, ""):
    with open("FILE", "a") as told:
        told.write(line)
"#;

/// A router of AS 100 that waits for the node; it ends with the value.
pub(crate) struct Router {
    pub(crate) make: Make,
    process: Child,
    directory: tempfile::TempDir,
    place: Option<u32>,
}

/// The net that the node is of.
const NET: &str = "10.0.0.0/24";

impl Router {
    pub(crate) fn start(make: Make, expects: Expects) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let file = path.join("router.conf");
        std::fs::write(&file, configuration(make, expects, path)).unwrap();
        if make == Make::ExaBgp {
            let told = path.join("told");
            std::fs::write(path.join("told.py"), TELL.replace("FILE", &told.display().to_string())).unwrap();
        }
        let start = |program, arguments: &[&str]| within(expects.place, program, arguments);
        let mut command = match make {
            Make::Bird => {
                let mut command = start("/usr/sbin/bird", &["-f", "-c"]);
                command.arg(&file).arg("-s").arg(path.join("ctl")).arg("-P").arg(path.join("pid"));
                command
            }
            Make::Frr => {
                let mut command = start("/usr/lib/frr/bgpd", &["-S", "-Z", "-P", "0", "-l", ROUTER, "-f"]);
                command.arg(&file).arg("-i").arg(path.join("pid"));
                command.arg("--vty_socket").arg(path);
                command
            }
            Make::GoBgp => {
                let mut command =
                    start("/usr/bin/gobgpd", &["-t", "toml", "--api-hosts", "127.0.0.1:50051", "-f"]);
                command.arg(&file);
                command
            }
            Make::ExaBgp => {
                let mut command = start("/usr/sbin/exabgp", &[]);
                command.arg(&file).envs([
                    ("exabgp_daemon_user", "root"),
                    ("exabgp_api_cli", "false"),
                    ("exabgp_tcp_bind", ROUTER),
                    ("exabgp_tcp_port", "179"),
                ]);
                command
            }
        };
        let log = std::fs::File::create(path.join("log")).unwrap();
        let output = Stdio::from(log.try_clone().unwrap());
        let process =
            command.stdin(Stdio::null()).stdout(output).stderr(log).spawn().expect("it is installed");
        Self { make, process, directory, place: expects.place }
    }

    /// What it says of a prefix, of all routes, or of the session: its own command line, or of ExaBGP what it was told.
    pub(crate) async fn ask(&self, question: Question) -> String {
        let (make, path, place) = (self.make, self.directory.path().to_owned(), self.place);
        tokio::task::spawn_blocking(move || answer(make, &path, place, question)).await.unwrap()
    }

    pub(crate) async fn until(&self, question: Question, expected: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = self.ask(question).await;
            if expected(&answer) {
                return answer;
            }
            let log = || std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{:?}, {question:?}: {answer}\n{}", self.make, log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether it has a route.
    pub(crate) async fn has(&self, prefix: &'static str) -> bool {
        !self.ask(Question::Route(prefix)).await.is_empty()
    }

    /// Lets it ask the node for all routes again (RFC 2918).
    pub(crate) async fn refresh(&self) {
        let (make, path) = (self.make, self.directory.path().to_owned());
        let asked = tokio::task::spawn_blocking(move || match make {
            Make::Bird => run(birdc(&path).args(["reload", "in", "all"])),
            Make::Frr => vtysh(&path, "clear bgp * soft in"),
            Make::GoBgp | Make::ExaBgp => panic!("{make:?} never asks"),
        });
        asked.await.unwrap();
    }

    /// Lets it hang.
    pub(crate) fn freeze(&self, frozen: bool) {
        use nix::sys::signal::{Signal, kill};
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(nix::unistd::Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a router is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Question {
    /// Of this prefix; an empty answer: there is no route.
    Route(&'static str),
    /// How many IPv4 routes it has of the node; a number.
    Count,
}

fn configuration(make: Make, expects: Expects, directory: &Path) -> String {
    let Expects { asn, password, hold, dials, hops, range, place: _ } = expects;
    let passive = |text: &'static str| if dials { "" } else { text };
    // The lowest TTL that is heard.
    let lowest = hops.map(|hops| u8::MAX - (hops - 1));
    let keyed = |form: &dyn Fn(&str) -> String| password.map(form).unwrap_or_default();
    match make {
        Make::Bird => format!(
            "router id {ROUTER};\nprotocol device {{}}\nprotocol bgp node {{ local {ROUTER} as 100; neighbor {} as {asn};\n\
             strict bind on; multihop {}; {}{} connect delay time 1; hold time {hold}; error wait time 1,1; {}\n\
             ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n",
            if range { format!("range {NET}") } else { NODE.to_owned() },
            hops.unwrap_or(2),
            passive("passive on;"),
            if hops.is_some() { "ttl security on;" } else { "" },
            keyed(&|key| format!("password \"{key}\";"))
        ),
        Make::Frr => {
            // Neighbours that are not known by name are members of a group, and passive.
            let node = if range { "NODES" } else { NODE };
            format!(
                "router bgp 100\n bgp router-id {ROUTER}\n no bgp ebgp-requires-policy\n bgp graceful-restart\n \
                 timers bgp {} {hold}\n{} neighbor {node} remote-as {asn}\n neighbor {node} {}\n{} \
                 neighbor {node} timers connect 1\n \
                 neighbor {node} update-source {ROUTER}\n{}{} address-family ipv6 unicast\n  \
                 neighbor {node} activate\n exit-address-family\n",
                hold / 3,
                if range { " neighbor NODES peer-group\n" } else { "" },
                hops.map_or_else(|| "ebgp-multihop 2".to_owned(), |hops| format!("ttl-security hops {hops}")),
                passive(if range { "" } else { " neighbor 10.0.0.11 passive\n" }),
                keyed(&|key| format!(" neighbor {node} password {key}\n")),
                if range { format!(" bgp listen range {NET} peer-group NODES\n") } else { String::new() },
            )
        }
        Make::GoBgp => {
            let of = if range { "peer-groups" } else { "neighbors" };
            let family = |name: &str| {
                format!(
                    "[[{of}.afi-safis]]\n[{of}.afi-safis.config]\nafi-safi-name = \"{name}\"\n\
                     [{of}.afi-safis.mp-graceful-restart.config]\nenabled = true\n"
                )
            };
            let named = match range {
                true => "peer-group-name = \"nodes\"".to_owned(),
                false => format!("neighbor-address = \"{NODE}\""),
            };
            let listens = format!(
                "[[dynamic-neighbors]]\n[dynamic-neighbors.config]\nprefix = \"{NET}\"\npeer-group = \"nodes\"\n"
            );
            format!(
                "[global.config]\nas = 100\nrouter-id = \"{ROUTER}\"\nlocal-address-list = [\"{ROUTER}\"]\n\
                 [[{of}]]\n[{of}.config]\n{named}\npeer-as = {asn}\n{}\
                 [{of}.transport.config]\npassive-mode = {}\nlocal-address = \"{ROUTER}\"\n\
                 [{of}.timers.config]\nhold-time = {hold}\nconnect-retry = 1\n{}\
                 [{of}.graceful-restart.config]\nenabled = true\nrestart-time = 30\n{}{}{}",
                keyed(&|key| format!("auth-password = \"{key}\"\n")),
                !dials,
                match lowest {
                    Some(lowest) =>
                        format!("[{of}.ttl-security.config]\nenabled = true\nttl-min = {lowest}\n"),
                    None => format!("[{of}.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = 2\n"),
                },
                family("ipv4-unicast"),
                family("ipv6-unicast"),
                if range { listens.as_str() } else { "" },
            )
        }
        Make::ExaBgp => format!(
            "process told {{ run /usr/bin/python3 {}; encoder json; }}\n\
             neighbor {} {{ router-id {ROUTER}; local-address {ROUTER}; local-as 100; peer-as {asn}; {}{}\n\
             hold-time {hold}; {} family {{ ipv4 unicast; ipv6 unicast; }}\n\
             api {{ processes [ told ]; receive {{ parsed; update; }} neighbor-changes; }} }}\n",
            directory.join("told.py").display(),
            if range { NET } else { NODE },
            passive("passive true;"),
            lowest.map(|lowest| format!("incoming-ttl {lowest}; outgoing-ttl 255;")).unwrap_or_default(),
            keyed(&|key| format!("md5-password {key};"))
        ),
    }
}

fn answer(make: Make, directory: &Path, place: Option<u32>, question: Question) -> String {
    match (make, question) {
        (Make::Bird, Question::Route(prefix)) => {
            let text = run(birdc(directory).args(["show", "route", "all", prefix]));
            if text.contains("BGP.next_hop") { text } else { String::new() }
        }
        (Make::Bird, Question::Count) => {
            let text = run(birdc(directory).args(["show", "route", "count", "table", "master4"]));
            text.lines()
                .find_map(|line| line.split_whitespace().next().filter(|word| word.parse::<u32>().is_ok()))
                .unwrap_or("0")
                .to_owned()
        }
        (Make::Frr, Question::Route(prefix)) => {
            let text = vtysh(directory, &format!("show bgp {} unicast {prefix}", family(prefix)));
            if text.contains("Paths:") { text } else { String::new() }
        }
        (Make::Frr, Question::Count) => {
            let text = vtysh(directory, "show bgp ipv4 unicast summary json");
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            json["peers"][NODE]["pfxRcd"].as_u64().unwrap_or_default().to_string()
        }
        (Make::GoBgp, Question::Route(prefix)) => {
            let text = gobgp(place, &["global", "rib", "-a", family(prefix), prefix]);
            if text.contains("Next Hop") { text } else { String::new() }
        }
        (Make::GoBgp, Question::Count) => {
            let text = gobgp(place, &["-j", "neighbor", NODE, "adj-in", "-a", "ipv4"]);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            json.as_object().map_or(0, serde_json::Map::len).to_string()
        }
        (Make::ExaBgp, Question::Route(prefix)) => {
            let told = told(directory);
            let last = told.iter().rev().find(|line| line.contains(prefix) || is_end(line));
            let announced =
                |line: &&String| line.find("\"announce\"").is_some_and(|at| line[at..].contains(prefix));
            last.filter(announced).cloned().unwrap_or_default()
        }
        (Make::ExaBgp, Question::Count) => {
            told(directory).iter().map(|line| line.matches("\"nlri\"").count()).sum::<usize>().to_string()
        }
    }
}

/// The lines that ExaBGP wrote.
fn told(directory: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(directory.join("told")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A session that is down has no routes.
fn is_end(line: &str) -> bool {
    line.contains("\"state\": \"down\"")
}

fn family(prefix: &str) -> &'static str {
    if prefix.contains(':') { "ipv6" } else { "ipv4" }
}

fn birdc(directory: &Path) -> Command {
    let mut command = Command::new("/usr/sbin/birdc");
    command.arg("-s").arg(directory.join("ctl"));
    command
}

fn vtysh(directory: &Path, question: &str) -> String {
    run(Command::new("/usr/bin/vtysh").arg("--vty_socket").arg(directory).arg("-c").arg(question))
}

fn gobgp(place: Option<u32>, arguments: &[&str]) -> String {
    run(within(place, "/usr/bin/gobgp", &["-u", "127.0.0.1", "-p", "50051"]).args(arguments))
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("it is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
