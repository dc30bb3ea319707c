//! A speaker in what its manifest makes of a container: the arguments, the capabilities, the mounts, a read-only root and a
//! read-only `/proc/sys` are those of the DaemonSet.
//!
//! What is not there is what only a container runtime can do: seccomp, and the file systems of an image.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use herald_e2e::{
    CONTROL_PLANE, Lab, Node, PodOptions, Process, RouterOptions, at, await_ok, herald_program,
};
use serde_json::Value;

use super::{kustomize, the};
use crate::objects::{PASSWORD, bird_password};
use crate::order::{SOON, address, ready, service};

/// A root of its own with the mounts of a Pod: `$1` the root, `$2` the lab's directory, `$3` the node's `/var/lib/herald`, `$4`
/// Herald, `$5` the capabilities; then Herald's arguments.
const CONTAINER: &str = r#"
set -e
root=$1 lab=$2 state=$3 herald=$4 capabilities=$5
shift 5
mount -t tmpfs none "$root"
mkdir -p "$root/proc" "$root/dev" "$root/host/proc/sys/net" "$root/var/lib/herald" "$root/etc/herald/layer2" "$root$lab"
for directory in /usr /bin /lib /lib64; do
  if [ -d "$directory" ]; then mkdir -p "$root$directory"; mount --bind "$directory" "$root$directory"; fi
done
mount --rbind /proc "$root/proc"
mount --bind /proc/sys "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount --bind /proc/sys/net "$root/host/proc/sys/net"
mount --bind "$lab" "$root$lab"
mount --bind "$state" "$root/var/lib/herald"
touch "$root/herald"
mount --bind "$herald" "$root/herald"
mount -o remount,ro "$root"
exec chroot "$root" setpriv --no-new-privs --inh-caps=-all --bounding-set="$capabilities" /herald "$@"
"#;

/// The container of the speakers in one of the manifests' directories.
struct Container(Value);

impl Container {
    fn of(directory: &str) -> Result<Self> {
        let objects = kustomize(directory)?;
        let pod = &the(&objects, "DaemonSet", "herald-speaker")?["spec"]["template"]["spec"];
        Ok(Self(pod["containers"][0].clone()))
    }

    fn words(value: &Value) -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    }

    /// The capabilities that are left.
    fn capabilities(&self) -> Result<Vec<String>> {
        let capabilities = &self.0["securityContext"]["capabilities"];
        ensure!(Self::words(&capabilities["drop"]) == ["ALL"], "not all are dropped: {capabilities}");
        Ok(Self::words(&capabilities["add"]))
    }

    /// Starts it on a node.
    fn start(&self, lab: &Lab, node: &Node, capabilities: &[String]) -> Result<Process> {
        let context = &self.0["securityContext"];
        ensure!(context["readOnlyRootFilesystem"] == true && context["allowPrivilegeEscalation"] == false);
        let (root, state) = (lab.directory().join(format!("root-{}", node.name)), lab.state_directory(node));
        for directory in [&root, &state] {
            std::fs::create_dir_all(directory)?;
        }
        let allowed: Vec<String> = std::iter::once("-all".to_owned())
            .chain(capabilities.iter().map(|name| format!("+{}", name.to_lowercase())))
            .collect();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", CONTAINER, "sh"]);
        command.args([&root, lab.directory(), &state, Path::new(&herald_program()?)]);
        command.arg(allowed.join(",")).args(Self::words(&self.0["args"]));
        let account = lab.directory().join("herald-speaker.kubeconfig");
        command.arg(format!("--kubeconfig={}", account.display()));
        for (name, value) in self.environment(node)? {
            command.env(name, value);
        }
        lab.start_process(&node.ns, &format!("speaker-{}", node.name), command)
    }

    /// What the kubelet would make of `env`.
    fn environment(&self, node: &Node) -> Result<Vec<(String, String)>> {
        let mut environment = Vec::new();
        for variable in self.0["env"].as_array().context("env")? {
            let name = variable["name"].as_str().context("a name")?.to_owned();
            let from = &variable["valueFrom"];
            let value =
                match (from["fieldRef"]["fieldPath"].as_str(), from["configMapKeyRef"]["key"].as_str()) {
                    (Some("spec.nodeName"), None) => node.name.clone(),
                    (Some("metadata.namespace"), None) => herald_e2e::NAMESPACE.to_owned(),
                    (None, Some("api-server")) => format!("https://{CONTROL_PLANE}:6443"),
                    _ => anyhow::bail!("no kubelet here knows {variable}"),
                };
            environment.push((name, value));
        }
        Ok(environment)
    }
}

/// A pool of layer 2, which needs raw sockets.
const SEGMENT: &str = "- {name: segment, protocol: layer2, addresses: [10.0.0.200/32], auto-assign: false}\n";

/// BGP with all that needs the kernel: TCP-MD5, BFD, addresses on lo.
fn configuration(more_pools: &str) -> String {
    format!(
        "peers:\n\
         - {{peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, password: {PASSWORD}, bfd-profile: fast}}\n\
         bfd-profiles: [{{name: fast, receive-interval: 50, transmit-interval: 50}}]\n\
         herald: {{local-addresses: load-balancer}}\n\
         address-pools:\n\
         - {{name: routed, protocol: bgp, addresses: [192.168.10.0/24]}}\n\
         {more_pools}"
    )
}

fn lab(nodes: u8, more_pools: &str) -> Result<Lab> {
    let lab = Lab::builder().nodes(nodes).control_plane().start()?;
    let options = RouterOptions::t4(lab.nodes()).every_peer(&bird_password()).with_bfd(50);
    lab.router().configure(&options)?;
    lab.router().start_bird()?;
    lab.configure_herald(&configuration(more_pools))?;
    Ok(lab)
}

#[test]
#[ignore = "needs a network namespace"]
fn a_speaker_that_is_confined_as_its_manifest_says_does_all_its_work() -> Result<()> {
    let lab = lab(2, SEGMENT)?;
    let container = Container::of("base")?;
    let _controller = lab.controller("controller", &[])?;
    let capabilities = container.capabilities()?;
    let speakers: Vec<Process> =
        lab.nodes().iter().map(|node| container.start(&lab, node, &capabilities)).collect::<Result<_>>()?;
    for (node, speaker) in lab.nodes().iter().zip(&speakers) {
        ready(node).with_context(|| speaker.log_tail())?;
    }
    lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    lab.apply(&service("routed", "web", ""))?;
    lab.apply(&service("segment", "web", "loadBalancerIP: 10.0.0.200"))?;
    for name in ["routed", "segment"] {
        let vip = address(&lab, name)?;
        await_ok(SOON, &format!("the address of {name} to answer"), || {
            lab.client().get(at(&vip.to_string(), 80))
        })
        .with_context(|| speakers[0].log_tail())?;
    }
    for (node, speaker) in lab.nodes().iter().zip(&speakers) {
        let read = |key: &str| {
            let text = node.ns.run(|| std::fs::read_to_string(format!("/proc/sys/net/{key}")))??;
            anyhow::Ok(text.trim().to_owned())
        };
        assert_eq!(read("ipv4/conf/all/arp_ignore")?, "1", "{}", speaker.log_tail());
        await_ok(SOON, "conntrack's settings", || {
            ensure!(read("netfilter/nf_conntrack_tcp_be_liberal")? == "1");
            Ok(())
        })?;
        await_ok(SOON, "a snapshot", || {
            ensure!(std::fs::read_dir(lab.state_directory(node))?.next().is_some());
            Ok(())
        })?;
        let log = speaker.log();
        assert!(log.contains("BFD has a thread of its own priority=\"real time\""), "{log}");
        assert!(log.contains("layer 2 has a thread of its own priority=\"real time\""), "{log}");
        nothing_refused(&log);
    }
    for speaker in speakers {
        ensure!(speaker.terminate(SOON)?.success(), "{}", speaker.log_tail());
    }
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn without_any_one_of_its_capabilities_a_speaker_says_what_it_cannot_do() -> Result<()> {
    let container = Container::of("base")?;
    let all = container.capabilities()?;
    // What the log says without each, in the order of docs/install.md.
    let said = [
        ("NET_ADMIN", "(CAP_NET_ADMIN is needed)"),
        ("NET_RAW", "(CAP_NET_RAW is needed)"),
        ("SYS_NICE", "priority=\"as any other\""),
    ];
    let named: Vec<&str> = said.iter().map(|(name, _)| *name).collect();
    assert_eq!(all, named);
    let lab = lab(u8::try_from(said.len())?, SEGMENT)?;
    for (node, (missing, words)) in lab.nodes().iter().zip(said) {
        let rest: Vec<String> = all.iter().filter(|name| *name != missing).cloned().collect();
        let speaker = container.start(&lab, node, &rest)?;
        speaker.await_log(words, SOON).with_context(|| format!("without {missing}"))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn the_overlay_for_bgp_announces_without_raw_sockets() -> Result<()> {
    let container = Container::of("overlays/bgp")?;
    let capabilities = container.capabilities()?;
    assert_eq!(capabilities, ["NET_ADMIN", "SYS_NICE"]);
    let lab = lab(1, "")?;
    let _controller = lab.controller("controller", &[])?;
    let speaker = container.start(&lab, lab.node(1), &capabilities)?;
    lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    lab.apply(&service("routed", "web", ""))?;
    let vip = address(&lab, "routed")?;
    await_ok(SOON, "the address to answer", || lab.client().get(at(&vip.to_string(), 80)))
        .with_context(|| speaker.log_tail())?;
    nothing_refused(&speaker.log());
    Ok(())
}

fn nothing_refused(log: &str) {
    for refusal in ["not permitted", "ermission denied", "Read-only"] {
        assert!(!log.contains(refusal), "{log}");
    }
}
