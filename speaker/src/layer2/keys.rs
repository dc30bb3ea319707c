//! Where the keys of hellos come from: the files of a mounted Secret, and the cluster's own name.
//!
//! The file `secretkey` signs (MetalLB's name for it, so its Secret serves both); every other file beside it is accepted as
//! well. To rotate: add the new key as another file, then exchange the two, then remove the old one; each step may take its
//! time. Without a Secret hellos are signed with the cluster's name, which tells clusters apart and keeps nobody out. An empty
//! directory is what Kubernetes mounts for an optional Secret that is not there, so it counts as none; but not once there were keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use super::hello::Keys;

/// The file with the key that signs.
const SIGNS: &str = "secretkey";
/// How often the files are read again.
const REREAD: Duration = Duration::from_secs(5);
/// How often the API is asked for the cluster's name.
const RETRY: Duration = Duration::from_secs(2);
/// Longest key that is read, in octets.
const MAX_KEY: u64 = 4096;
/// Most keys that are accepted.
const MAX_KEYS: usize = 8;

/// Where keys are.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeySource {
    /// A directory with the files of a Secret.
    pub(crate) directory: Option<PathBuf>,
}

impl KeySource {
    /// The secrets: the one that signs first; none without a Secret. An error says what is wrong and what to do.
    fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        let Some(directory) = &self.directory else { return Ok(Vec::new()) };
        let cannot = |path: &Path, error| format!("cannot read {}: {error}", path.display());
        let entries = std::fs::read_dir(directory).map_err(|error| cannot(directory, error))?;
        let mut files = BTreeMap::new();
        for entry in entries.flatten() {
            let path = entry.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            // A mounted Secret has its versions in directories whose names begin with dots.
            if name.starts_with('.') || !metadata.is_file() {
                continue;
            }
            if metadata.len() > MAX_KEY {
                return Err(format!(
                    "{} has more than {MAX_KEY} octets: a key has 32 or more",
                    path.display()
                ));
            }
            let key = std::fs::read(&path).map_err(|error| cannot(&path, error))?;
            if key.is_empty() {
                return Err(format!("{} is empty: put a random key of 32 octets there", path.display()));
            }
            files.insert(name.to_owned(), key);
        }
        let missing = || format!("{} has no file {SIGNS}: the Secret needs that key", directory.display());
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let signs = files.remove(SIGNS).ok_or_else(missing)?;
        Ok(std::iter::once(signs).chain(files.into_values().take(MAX_KEYS - 1)).collect())
    }
}

/// Publishes the keys, and again when the files change; the last good ones stay in force.
///
/// `cluster` is told the cluster's name as soon as the API tells it; until then what others have told it counts.
pub(crate) async fn follow(
    client: kube::Client,
    source: KeySource,
    cluster: watch::Sender<Option<String>>,
    keys: watch::Sender<Option<Keys>>,
) -> anyhow::Result<()> {
    let mut names = cluster.subscribe();
    let publishing = publish(source, &mut names, keys);
    let asking = async {
        let name = cluster_name(client).await;
        cluster.send_if_modified(|known| known.replace(name.clone()) != Some(name));
        std::future::pending().await
    };
    tokio::select! { ended = publishing => ended, never = asking => never }
}

async fn publish(
    source: KeySource,
    cluster: &mut watch::Receiver<Option<String>>,
    keys: watch::Sender<Option<Keys>>,
) -> anyhow::Result<()> {
    cluster.wait_for(Option::is_some).await?;
    let mut known: Option<(String, Vec<Vec<u8>>)> = None;
    let mut told = None;
    loop {
        let cluster_name = cluster.borrow_and_update().clone().unwrap_or_default();
        let had_keys = known.as_ref().is_some_and(|(_, secrets)| !secrets.is_empty());
        let read = match source.read() {
            Ok(secrets) if secrets.is_empty() && had_keys => {
                Err("the Secret is gone, or has no keys any more: put it back".to_owned())
            }
            read => read.map(|secrets| (cluster_name, secrets)),
        };
        match read {
            Ok(read) if known.as_ref() != Some(&read) => {
                let (cluster, secrets) = &read;
                if secrets.is_empty() {
                    tracing::warn!(
                        "hellos of layer 2 are signed with the cluster's name only: whoever is on the segment can forge \
                         them; mount a Secret and name its directory with --layer2-key-directory"
                    );
                }
                let mut secrets_left = secrets.iter();
                let sign = secrets_left.next().map_or(cluster.as_bytes(), Vec::as_slice);
                let others: Vec<Vec<u8>> = secrets_left.cloned().collect();
                tracing::info!(accepted = 1 + others.len(), "keys of layer 2's hellos are read");
                keys.send_replace(Some(Keys::new(cluster, sign, &others)));
                known = Some(read);
                told = None;
            }
            Ok(_) => {}
            Err(error) if told.as_ref() != Some(&error) => {
                tracing::error!(
                    error,
                    "keys of layer 2's hellos cannot be used; the last good ones, if any, stay in force"
                );
                told = Some(error);
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(REREAD) => {}
            changed = cluster.changed() => changed?,
        }
    }
}

/// A name that no other cluster has, and that never changes: the UID of the namespace `kube-system`.
async fn cluster_name(client: kube::Client) -> String {
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(client);
    let mut told = false;
    loop {
        match namespaces.get_metadata("kube-system").await {
            Ok(namespace) => {
                if let Some(uid) = namespace.metadata.uid {
                    return uid;
                }
            }
            Err(error) if !told => {
                let error = herald_runtime::chain(&error);
                tracing::warn!(
                    error,
                    "layer 2 waits for the name of the cluster, the UID of the namespace kube-system; trying again"
                );
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_file_signs_and_all_others_are_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let source = KeySource { directory: Some(directory.path().to_owned()) };
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        assert_eq!(source.read().unwrap(), Vec::<Vec<u8>>::new());
        write("former", "old");
        assert!(source.read().unwrap_err().contains("has no file secretkey"));
        write("secretkey", "new");
        write("..data", "hidden");
        assert_eq!(source.read().unwrap(), [b"new".to_vec(), b"old".to_vec()]);
        write("former", "");
        assert!(source.read().unwrap_err().contains("is empty"));
        assert_eq!(KeySource::default().read().unwrap(), Vec::<Vec<u8>>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_vanishes_does_not_make_hellos_easy_to_forge() {
        let directory = tempfile::tempdir().unwrap();
        let (file, source) =
            (directory.path().join(SIGNS), KeySource { directory: Some(directory.path().to_owned()) });
        let (_cluster, mut name) = watch::channel(Some("cluster".to_owned()));
        let (keys, mut published) = watch::channel(None);
        let publishing = publish(source, &mut name, keys);
        let watching = async {
            published.changed().await.unwrap();
            std::fs::write(&file, "a key").unwrap();
            published.changed().await.unwrap();
            std::fs::remove_file(&file).unwrap();
            tokio::time::sleep(3 * REREAD).await;
            assert!(!published.has_changed().unwrap(), "the last good key stays in force");
        };
        tokio::select! { _ = publishing => panic!("it never ends"), () = watching => {} }
    }
}
