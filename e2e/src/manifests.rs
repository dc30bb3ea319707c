//! Herald as its users have it: the image, and the manifests applied as docs/install.md says, to nodes with real kubelets
//! ([`crate::ControlPlaneOptions::kubelets`]).

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::control_plane::programs;
use crate::herald::{NAMESPACE, program as herald_program};
use crate::lab::Lab;
use crate::topology::CONTROL_PLANE;

/// The directory of the manifests.
pub const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests");
/// Pods are started, probed and ended meanwhile, on a machine that may be busy.
const ROLLED_OUT: &str = "--timeout=240s";

/// Which of the manifests' overlays, with the sample of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// Addresses by ARP and NDP.
    Layer2,
    /// Addresses by BGP.
    Bgp,
}

impl Overlay {
    fn name(self) -> &'static str {
        match self {
            Self::Layer2 => "layer2",
            Self::Bgp => "bgp",
        }
    }
}

/// The image's file, which whoever runs such a test has made: `HERALD_IMAGE`.
pub fn herald_image() -> Result<PathBuf> {
    let image = std::env::var_os("HERALD_IMAGE").context("HERALD_IMAGE: run it by its make target")?;
    ensure!(Path::new(&image).is_file(), "{}: no such file", image.display());
    Ok(image.into())
}

/// A phase of a test, told with its time.
pub fn phase<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let done = work().with_context(|| name.to_owned())?;
    eprintln!("{:6.1} s  {name}", begin.elapsed().as_secs_f64());
    Ok(done)
}

/// The first block of commands of a document after these words.
pub fn commands_after<'a>(document: &'a str, words: &str) -> Result<Vec<&'a str>> {
    let (_, text) = document.split_once(words).with_context(|| words.to_owned())?;
    let lines = text.lines().skip_while(|line| !line.starts_with("    "));
    let commands: Vec<&str> = lines.map_while(|line| line.strip_prefix("    ")).collect();
    ensure!(!commands.is_empty(), "no commands after {words}");
    Ok(commands)
}

impl Lab {
    /// Types lines as a person does who has kubectl and herald and stands where the repository begins; the first that fails ends it.
    pub fn type_lines(&self, lines: &[impl AsRef<str>]) -> Result<String> {
        let herald = herald_program()?;
        let herald = herald.parent().context("a directory")?.display();
        let path = format!("PATH={}:{herald}:/usr/bin:/bin", programs()?.display());
        let kubeconfig = format!("KUBECONFIG={}", self.kubeconfig().display());
        let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
        let script = format!("cd {MANIFESTS}/..\n{}", lines.join("\n"));
        self.control_plane_ns().exec(&["env", &path, &kubeconfig, "sh", "-exc", &script])
    }

    /// What `kubectl get` says of objects.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&[&["get", "-o", "json"], arguments].concat())?)?)
    }

    /// Waits until a Deployment or DaemonSet is as it is wanted.
    pub fn rolled_out(&self, namespace: &str, object: &str) -> Result<()> {
        self.kubectl(&["rollout", "status", "-n", namespace, object, ROLLED_OUT]).map(drop)
    }

    /// Waits until all of Herald runs as its manifests say.
    pub fn herald_rolled_out(&self) -> Result<()> {
        ["daemonset/herald-speaker", "deployment/herald-controller"]
            .iter()
            .try_for_each(|object| self.rolled_out(NAMESPACE, object))
    }

    /// As docs/install.md says.
    pub fn install(&self, overlay: Overlay) -> Result<()> {
        let server = format!("--from-literal=api-server=https://{CONTROL_PLANE}:6443");
        self.kubectl(&["apply", "-f", &format!("{MANIFESTS}/base/namespace.yaml")])?;
        self.kubectl(&["create", "configmap", "-n", NAMESPACE, "herald", &server])?;
        let key = "--from-literal=secretkey=a-key-of-the-labs-own";
        self.kubectl(&["create", "secret", "generic", "-n", NAMESPACE, "memberlist", key])?;
        let name = overlay.name();
        let overlay = format!("{MANIFESTS}/overlays/{name}");
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &overlay])?;
        self.herald_rolled_out()?;
        self.kubectl(&["apply", "-f", &format!("{MANIFESTS}/samples/{name}.yaml")]).map(drop)
    }
}
