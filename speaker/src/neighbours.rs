//! kube-proxy on the same node: whether it is there, and `--take-over`.
//!
//! Two proxies that serve the same Services would each translate some packets and undo none of the other's. So full mode
//! refuses to start beside kube-proxy's rules, and says what to do; with `--take-over` it removes them once its own are
//! in force, so that no packet is without any. Removed are kube-proxy's nftables tables, its chains of iptables-nft, and
//! the interface of its IPVS mode; what cannot be seen or removed from here is said.
//!
//! A kube-proxy that still runs puts its rules back. Herald does not fight it, whose chains come before: it says so, once
//! each time.

use std::fmt::Write as _;

use futures::TryStreamExt;
use herald_proxy::netlink::{Kernel, KubeProxy};

use crate::kernel::{CallError, KernelThread};

/// The interface that holds the ClusterIPs of the IPVS mode.
const IPVS_INTERFACE: &str = "kube-ipvs0";
/// How many of the looks at Herald's own tables pass between two for kube-proxy's.
const EVERY: u32 = 10;

/// What of kube-proxy's is on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// In nf_tables.
    rules: KubeProxy,
    /// The interface of the IPVS mode.
    ipvs: bool,
    /// iptables-legacy has rules, and what they are is not known.
    legacy: bool,
}

impl Found {
    /// Looks.
    pub(crate) async fn look(kernel: &KernelThread) -> Result<Self, CallError> {
        // The files of the calling thread's network namespace.
        let lines =
            |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        Ok(Self {
            rules: kernel.call(Kernel::kube_proxy).await?,
            ipvs: lines("dev")
                .lines()
                .any(|line| line.trim_start().starts_with(&format!("{IPVS_INTERFACE}:"))),
            legacy: ["ip_tables_names", "ip6_tables_names"]
                .iter()
                .any(|file| lines(file).lines().any(|table| table == "nat")),
        })
    }

    /// Whether full mode may start; the error says what is in the way and what to do.
    pub(crate) fn judge(&self, take_over: bool) -> Result<(), String> {
        let modes = [
            (self.rules.tables, "nftables tables `kube-proxy`"),
            (self.rules.chains, "iptables chains `KUBE-SERVICES`"),
            (self.ipvs, "the IPVS interface `kube-ipvs0`"),
        ];
        let there: Vec<&str> = modes.iter().filter(|(there, _)| *there).map(|(_, what)| *what).collect();
        if there.is_empty() || take_over {
            return Ok(());
        }
        let mut text = format!(
            "rules of kube-proxy are in force on this node ({}), and --proxy=full would serve the same Services beside them; \
             stop kube-proxy and start with --take-over",
            there.join(", ")
        );
        // Writing to a String cannot fail.
        let _ = write!(text, " to have them removed, or start with --proxy=external");
        Err(text)
    }

    /// What cannot be judged from here.
    pub(crate) fn doubt(&self) -> Option<&'static str> {
        self.legacy.then_some(
            "iptables-legacy has a nat table on this node, which cannot be read from here: if \
             `iptables-legacy-save | grep KUBE-` shows chains of kube-proxy, stop it and run `kube-proxy --cleanup`",
        )
    }
}

/// The removal of kube-proxy's rules, and the look-out for their return.
#[derive(Debug, Default)]
pub(crate) enum TakeOver {
    /// Nothing to remove.
    #[default]
    No,
    /// To be removed once Herald's rules are in force.
    Wanted,
    /// Removed; `told` is that they are back.
    Done {
        /// Calls of [`Self::look_out`].
        calls: u32,
        /// They are back, and the log says so.
        told: bool,
    },
}

impl TakeOver {
    /// Herald's rules are in force. A failure is no reason to stop serving: Herald's chains come before kube-proxy's.
    pub(crate) async fn in_force(&mut self, kernel: &KernelThread) {
        if !matches!(self, Self::Wanted) {
            return;
        }
        *self = Self::Done { calls: 0, told: false };
        match kernel.call(Kernel::remove_kube_proxy).await {
            Ok(()) => tracing::info!("kube-proxy's rules are removed; Herald's are in force"),
            Err(error) => {
                tracing::error!(
                    error = %herald_runtime::chain(&error),
                    "kube-proxy's rules could not be removed: run `kube-proxy --cleanup`, or reboot the node"
                )
            }
        }
        if let Err(error) = remove_ipvs_interface().await {
            let error = herald_runtime::chain(&error);
            tracing::error!(
                error,
                "{IPVS_INTERFACE} could not be removed: run `ip link delete {IPVS_INTERFACE}`"
            );
        }
    }

    /// Looks from time to time whether kube-proxy has put its rules back.
    pub(crate) async fn look_out(&mut self, kernel: &KernelThread) {
        let Self::Done { calls, told } = self else { return };
        *calls = calls.wrapping_add(1);
        if !calls.is_multiple_of(EVERY) {
            return;
        }
        let Ok(found) = Found::look(kernel).await else { return };
        let back = found.rules.is_there() || found.ipvs;
        if back && !*told {
            tracing::warn!(
                "kube-proxy has put its rules back: it still runs on this node; stop it \
                 (`kubectl -n kube-system delete daemonset kube-proxy`) and restart this speaker"
            );
        }
        *told = back;
    }
}

/// The virtual servers themselves stay in the kernel until `ipvsadm --clear`; without the interface no packet gets to them.
async fn remove_ipvs_interface() -> Result<(), rtnetlink::Error> {
    let Ok((connection, handle, _)) = rtnetlink::new_connection() else { return Ok(()) };
    let remove = async {
        let mut links = handle.link().get().match_name(IPVS_INTERFACE.to_owned()).execute();
        // A link that is not there is an error of the kernel's, and none of ours.
        let Ok(Some(link)) = links.try_next().await else { return Ok(()) };
        handle.link().del(link.header.index).execute().await?;
        tracing::info!("{IPVS_INTERFACE} is removed; `ipvsadm --clear` removes what IPVS still holds");
        Ok(())
    };
    tokio::select! {
        () = connection => Ok(()),
        removed = remove => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(tables: bool, chains: bool) -> Found {
        Found { rules: KubeProxy { tables, chains }, ..Found::default() }
    }

    #[test]
    fn full_mode_starts_alone_or_when_told_to_take_over() {
        let ipvs = Found { ipvs: true, ..Found::default() };
        assert_eq!(Found::default().judge(false), Ok(()));
        for (found, names) in [
            (rules(true, false), "tables `kube-proxy`"),
            (rules(false, true), "KUBE-SERVICES"),
            (ipvs, "kube-ipvs0"),
        ] {
            let told = found.judge(false).unwrap_err();
            for words in [names, "--proxy=full", "--take-over", "--proxy=external"] {
                assert!(told.contains(words), "{words} in {told}");
            }
            assert_eq!(found.judge(true), Ok(()));
        }
    }

    #[test]
    fn legacy_rules_are_a_doubt_and_no_refusal() {
        let legacy = Found { legacy: true, ..Found::default() };
        assert_eq!(legacy.judge(false), Ok(()));
        assert!(legacy.doubt().unwrap().contains("iptables-legacy-save"));
        assert_eq!(Found::default().doubt(), None);
    }
}
