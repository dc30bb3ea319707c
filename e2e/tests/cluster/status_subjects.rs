//! `herald status SUBJECT` from outside: each subject in each form, and the live view on a terminal of its own.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use herald_e2e::{Lab, PodOptions, await_ok, await_until, herald_program};
use serde_json::{Value, json};

use crate::objects::{install, object, pool};
use crate::services::{SOON, await_address, create, service};

/// From the key to the end of the live view.
const ENDS: Duration = Duration::from_secs(5);

/// A lab with one Service by BGP and one by layer 2, and whoever asks about it.
struct Asking {
    lab: Lab,
}

impl Asking {
    fn command(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let (program, kubeconfig) = (herald_program()?, self.lab.kubeconfig());
        let begin = [program.display().to_string(), "status".to_owned()];
        let end = ["--kubeconfig".to_owned(), kubeconfig.display().to_string()];
        Ok(begin.into_iter().chain(arguments.iter().map(ToString::to_string)).chain(end).collect())
    }

    /// What `herald status ARGUMENTS` prints outside the nodes.
    fn status(&self, arguments: &[&str]) -> Result<String> {
        let command = self.command(arguments)?;
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let text = self.lab.control_plane_ns().exec(&command)?;
        println!("$ herald status {}\n{text}", arguments.join(" "));
        Ok(text)
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.status(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).context("JSON")
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn each_subject_is_told_in_each_form_and_looked_at_live() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    install(&lab)?;
    let objects = [
        pool("edge", &["192.0.2.0/28"]),
        object(
            "IPAddressPool",
            "v1beta1",
            "lan",
            &json!({"addresses": ["10.0.0.200-10.0.0.203"], "autoAssign": false}),
        ),
        object("BGPPeer", "v1beta2", "tor", &json!({"myASN": 42, "peerASN": 100, "peerAddress": "10.0.0.1"})),
        object("BGPAdvertisement", "v1beta1", "edge", &json!({"ipAddressPools": ["edge"]})),
        object("L2Advertisement", "v1beta1", "lan", &json!({"ipAddressPools": ["lan"]})),
    ];
    lab.apply(&objects.join("\n---\n"))?;
    let _controller = lab.controller("controller", &[])?;
    let first = lab.speaker(lab.node(1), &[])?;
    let _second = lab.speaker(lab.node(2), &[])?;
    let _pod = lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let from_lan = json!({"metadata": {"annotations": {"metallb.io/address-pool": "lan"}}});
    let dark = json!({"spec": {"selector": {"app": "nobody"}}});
    create(&lab, [service("web", json!({})), service("dns", from_lan), service("dark", dark)])?;
    let (web, dns) = (await_address(&lab, "web")?, await_address(&lab, "dns")?);
    await_address(&lab, "dark")?;
    let asking = Asking { lab };

    // What the speakers say of the ways has to come to rest first.
    await_ok(SOON, "both Services to be announced", || {
        let services = asking.json(&["services", "web", "dns"])?;
        let of = |name: &str| {
            let rows = services["services"].as_array().into_iter().flatten();
            rows.into_iter().find(|row| row["service"] == name).cloned().unwrap_or_default()
        };
        let (web, dns) = (of("default/web"), of("default/dns"));
        ensure!(
            web["bgp"] == json!(["node1", "node2"]) && web["peers"] == json!(["10.0.0.1:179"]),
            "{web:#}"
        );
        ensure!(web["state"] == "ok" && web["endpointsReady"] == 1 && web["pool"] == "edge", "{web:#}");
        let owner = &dns["layer2"][0];
        ensure!(
            owner["interface"] == "eth0" && owner["mac"].as_str().is_some_and(|mac| mac.len() == 17),
            "{dns:#}"
        );
        Ok(())
    })
    .with_context(|| first.log_tail())?;
    let text = asking.status(&["services"])?;
    ensure!(text.starts_with("1 of 3 Services in trouble\n! "), "{text}");
    ensure!(text.contains("herald explain service default/dark --node node1"), "{text}");
    ensure!(asking.status(&["services", "-o", "wide"])?.contains(" on eth0 "), "the MAC is told");
    ensure!(asking.status(&["services", "-o", "name"])? == "default/dark\ndefault/dns\ndefault/web\n");
    ensure!(asking.status(&["services", "-n", "default", "web", "-o", "name"])? == "default/web\n");
    let none = asking.status(&["services", "-n", "shop"]).err().map(|error| format!("{error:#}"));
    ensure!(
        none.as_ref()
            .is_some_and(|none| none.contains("there is no Service of type LoadBalancer in namespace shop")),
        "{none:?}"
    );

    let nodes = asking.json(&["nodes"])?;
    ensure!(nodes["nodes"][0]["programmed"] == true && nodes["nodes"][0]["state"] == "ok", "{nodes:#}");
    ensure!(asking.status(&["nodes"])?.starts_with("all is well on 2 nodes\n"));
    ensure!(asking.status(&["nodes", "node2", "-o", "name"])? == "node/node2\n");

    await_ok(SOON, "the pools to be counted", || {
        let pools = asking.status(&["pools"])?;
        ensure!(pools.contains("2 of 16") && pools.contains("1 of 4"), "{pools}");
        Ok(())
    })?;
    let names = asking.status(&["pools", "-o", "name"])?;
    for name in names.lines() {
        asking.lab.kubectl(&["-n", "metallb-system", "get", name])?;
    }
    ensure!(names.lines().count() == 2, "{names}");

    let bgp = asking.json(&["bgp"])?;
    ensure!(bgp["sessions"].as_array().is_some_and(|all| all.len() == 2), "{bgp:#}");
    ensure!(asking.status(&["bgp"])?.starts_with("2 of 2 BGP sessions up, on 2 nodes\n"));
    ensure!(asking.status(&["bgp", "-o", "name"])? == "10.0.0.1:179\n");
    let routes = asking.status(&["routes"])?;
    ensure!(routes.contains(&format!("{web}/32")) && routes.contains("node1, node2"), "{routes}");

    let layer2 = asking.json(&["layer2", "dns"])?;
    let held = &layer2["layer2"][0];
    ensure!(held["address"] == dns.to_string() && held["services"] == json!(["default/dns"]), "{layer2:#}");
    ensure!(held["state"] == "ok" && held["next"].is_string() && held["seconds"].is_u64(), "{layer2:#}");
    ensure!(asking.status(&["layer2", "-o", "name"])? == format!("{dns}\n"));
    ensure!(asking.status(&["layer2"])?.starts_with("all is well with 1 address announced by ARP or NDP\n"));

    live(&asking)
}

/// The live view turns to the nodes, tells of an API server that is away, and leaves the terminal as it was.
fn live(asking: &Asking) -> Result<()> {
    let command = asking.command(&["services", "--watch"])?;
    let refused = asking
        .lab
        .control_plane_ns()
        .run(|| Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).output())??;
    let error = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(2) && error.contains("there is none"), "{refused:?}");

    let mut terminal = Terminal::start(asking, &command)?;
    terminal.shows("default/dark")?;
    terminal.type_in("\t")?;
    // In the heading of the nodes alone.
    terminal.shows("up for")?;
    asking.lab.stop_api()?;
    terminal.shows("old:")?;
    asking.lab.start_api()?;
    terminal.type_in("q")?;
    let code = terminal.end()?;
    ensure!(code == Some(0), "{code:?}: {}", terminal.screen());
    ensure!(terminal.is_left(), "{:?}", terminal.screen());

    // Ctrl-C ends it as well, and so does a signal.
    let mut terminal = Terminal::start(asking, &command)?;
    terminal.shows("default/dark")?;
    terminal.type_in("\x03")?;
    ensure!(terminal.end()? == Some(0) && terminal.is_left(), "{:?}", terminal.screen());
    let ended = ["timeout", "--foreground", "-s", "TERM", "3"].map(str::to_owned);
    let mut terminal = Terminal::start(asking, &[&ended[..], &command].concat())?;
    terminal.shows("default/dark")?;
    ensure!(terminal.end()? == Some(124) && terminal.is_left(), "{:?}", terminal.screen());
    Ok(())
}

/// A terminal of script(1), which is on every Debian machine.
struct Terminal {
    script: Child,
    written: std::path::PathBuf,
}

impl Terminal {
    fn start(asking: &Asking, command: &[String]) -> Result<Self> {
        let written = asking.lab.directory().join("typescript");
        fs::write(&written, "")?;
        // 24 lines of 100: a terminal whose size nobody has set has none.
        let line = format!("stty rows 24 cols 100; exec {}", command.join(" "));
        let script = asking.lab.control_plane_ns().run(|| {
            Command::new("script")
                .args(["-q", "-e", "-f", "-c", &line])
                .arg(&written)
                .env("TERM", "xterm")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
        })??;
        Ok(Self { script, written })
    }

    fn screen(&self) -> String {
        fs::read(&self.written).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn shows(&self, text: &str) -> Result<()> {
        await_until(SOON, &format!("“{text}” on the screen"), || {
            self.screen().contains(text).then_some(())
        })
        .with_context(|| format!("{:?}", self.screen()))
    }

    /// The other screen is left, and the cursor is back.
    fn is_left(&self) -> bool {
        let screen = self.screen();
        let taken = screen.rfind("\x1b[?1049h");
        ["\x1b[?1049l", "\x1b[?25h"].iter().all(|left| screen.rfind(left) > taken)
    }

    fn type_in(&mut self, keys: &str) -> Result<()> {
        let Some(stdin) = self.script.stdin.as_mut() else { bail!("script has no standard input") };
        stdin.write_all(keys.as_bytes())?;
        Ok(stdin.flush()?)
    }

    fn end(&mut self) -> Result<Option<i32>> {
        let status = await_until(ENDS, "the live view to end", || self.script.try_wait().ok().flatten())
            .with_context(|| format!("{:?}", self.screen()))?;
        Ok(status.code())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}
