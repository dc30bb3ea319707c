//! The API client of tests: it lives in the control plane's namespace, so it runs on a thread there.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config};

use crate::await_until::await_ok;
use crate::control_plane::programs;
use crate::lab::Lab;
use crate::namespace::Namespace;

/// Who the lab's own writes are by.
const FIELD_MANAGER: &str = "lab";

impl Lab {
    /// Runs `work` with a client of the API server, on a thread in the control plane's namespace with a runtime of its own.
    /// What is awaited inside must have an end: requests have a deadline of ten seconds.
    pub fn block_on<T: Send>(&self, work: impl AsyncFnOnce(Client) -> Result<T> + Send) -> Result<T> {
        block_on(self.control_plane_ns(), &self.kubeconfig(), work)
    }

    /// Runs the real kubectl with the lab's kubeconfig; what it prints.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let program = programs()?.join("kubectl").display().to_string();
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig().display());
        let mut command = vec![program.as_str(), kubeconfig.as_str()];
        command.extend(arguments);
        self.control_plane_ns().exec(&command)
    }

    /// [`Self::kubectl`] with text at its standard input: `kubectl apply -f -`.
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        use std::io::Write;
        let mut command = Command::new(programs()?.join("kubectl"));
        command.arg(format!("--kubeconfig={}", self.kubeconfig().display())).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.control_plane_ns().run(move || -> Result<_> {
            let mut child = command.spawn()?;
            // kubectl may refuse before it has read everything; its status tells.
            let _ = child.stdin.take().context("kubectl has no standard input")?.write_all(input.as_bytes());
            Ok(child.wait_with_output()?)
        })??;
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies one or more YAML documents server-side (forced), some milliseconds each. Namespaced objects without a
    /// namespace go to `default`. Returns what the server made of them.
    pub fn apply(&self, yaml: &str) -> Result<Vec<DynamicObject>> {
        let documents: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(yaml).map_err(|error| anyhow!("the YAML to apply: {error}"))?;
        self.block_on(async move |client| {
            let mut applied = Vec::new();
            for document in documents.into_iter().filter(|document| !document.is_null()) {
                applied.push(apply(&client, document).await?);
            }
            Ok(applied)
        })
    }

    /// Deletes an object by kind (`v1/Service`, `apps/v1/Deployment`), namespace and name. No error when it is gone already.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let (api_version, kind) = kind.rsplit_once('/').context("the kind has the form v1/Service")?;
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        self.block_on(async move |client| {
            let api = dynamic(&client, &gvk, namespace).await?;
            match api.delete(name, &kube::api::DeleteParams::default()).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
    }
}

async fn dynamic(client: &Client, gvk: &GroupVersionKind, namespace: &str) -> Result<Api<DynamicObject>> {
    let (resource, capabilities) = kube::discovery::pinned_kind(client, gvk).await?;
    Ok(match capabilities.scope {
        kube::discovery::Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
        kube::discovery::Scope::Cluster => Api::all_with(client.clone(), &resource),
    })
}

async fn apply(client: &Client, document: serde_json::Value) -> Result<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(document).context("an object of Kubernetes")?;
    let types = object.types.clone().context("apiVersion and kind")?;
    let gvk = GroupVersionKind::try_from(&types).map_err(|error| anyhow!("{error}"))?;
    let name = object.metadata.name.clone().context("metadata.name")?;
    let namespace = object.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let api = dynamic(client, &gvk, &namespace).await?;
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &parameters, &Patch::Apply(&object))
        .await
        .with_context(|| format!("apply {} {namespace}/{name}", types.kind))
}

pub(crate) fn block_on<T: Send>(
    namespace: &Namespace,
    kubeconfig: &Path,
    work: impl AsyncFnOnce(Client) -> Result<T> + Send,
) -> Result<T> {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let client = client(kubeconfig).await?;
            work(client).await
        })
    })?
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(2));
    config.read_timeout = Some(Duration::from_secs(10));
    config.write_timeout = Some(Duration::from_secs(10));
    Ok(Client::try_from(config)?)
}

/// Waits until the API server calls itself ready and the namespace `default` exists.
pub(crate) fn await_ready(
    namespace: &Namespace,
    kubeconfig: &Path,
    deadline: Duration,
    running: &(dyn Fn() -> bool + Sync),
) -> Result<()> {
    let listens =
        || namespace.run(|| std::net::TcpStream::connect(("127.0.0.1", 6443)))?.context("port 6443");
    await_ok(deadline, "the API server to listen", || if running() { listens().map(drop) } else { Ok(()) })?;
    block_on(namespace, kubeconfig, async |client| {
        let begin = std::time::Instant::now();
        loop {
            let outcome = ask_ready(&client).await;
            let Err(error) = outcome else { return Ok(()) };
            if !running() {
                bail!("the API server ended");
            }
            if begin.elapsed() > deadline {
                return Err(error.context("the API server is not ready"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

async fn ask_ready(client: &Client) -> Result<()> {
    client.request_text(Request::new("/readyz").list(&ListParams::default())?).await?;
    Api::<k8s_openapi::api::core::v1::Namespace>::all(client.clone()).get("default").await?;
    Ok(())
}
