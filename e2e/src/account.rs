//! Herald's own ServiceAccounts: what a lab's controllers and speakers log in as, with the rights of `manifests/` and no others.

use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;

use crate::control_plane::kubeconfig_text;
use crate::herald::NAMESPACE;
use crate::lab::Lab;

/// As the manifests have them.
const MANIFESTS: [&str; 2] =
    [include_str!("../../manifests/base/namespace.yaml"), include_str!("../../manifests/base/rights.yaml")];
/// What the controllers log in as.
pub(crate) const CONTROLLER: &str = "herald-controller";
/// What the speakers log in as.
pub(crate) const SPEAKER: &str = "herald-speaker";
/// A lab that stays may stay for long, and nobody renews its tokens.
const DAYS_30: i64 = 30 * 24 * 3600;

impl Lab {
    /// The kubeconfig of one of Herald's ServiceAccounts, with its own token.
    pub(crate) fn account_kubeconfig(&self, name: &str) -> PathBuf {
        self.directory().join(format!("{name}.kubeconfig"))
    }

    /// Makes Herald's namespace, its ServiceAccounts with their rights, and the kubeconfigs.
    pub(crate) fn make_accounts(&self) -> Result<()> {
        for manifest in MANIFESTS {
            self.apply(manifest)?;
        }
        [CONTROLLER, SPEAKER].iter().try_for_each(|name| self.log_in(name).map(drop))
    }

    /// The kubeconfig, just made, of a ServiceAccount in Herald's namespace.
    pub fn log_in(&self, name: &str) -> Result<PathBuf> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(DAYS_30), ..TokenRequestSpec::default() }),
            ..TokenRequest::default()
        };
        let granted = self.block_on(async |client| {
            let api: Api<ServiceAccount> = Api::namespaced(client, NAMESPACE);
            Ok(api.create_token_request(name, &PostParams::default(), &request).await?)
        })?;
        let token = granted.status.and_then(|status| status.token);
        let token = token.with_context(|| format!("no token for {name}"))?;
        let path = self.account_kubeconfig(name);
        std::fs::write(&path, kubeconfig_text(&self.directory().join("pki/ca.crt"), &token))?;
        Ok(path)
    }
}
