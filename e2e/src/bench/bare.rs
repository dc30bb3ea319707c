//! What the bare programs have in common, that Herald is compared with.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Objects per page of a list: Herald's.
pub const PAGE: u32 = 500;

/// Where the API server is.
#[derive(Debug, Args)]
pub struct ClientFlags {
    /// The kubeconfig file
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The API server, instead of the kubeconfig's
    #[arg(long)]
    api_server: Option<String>,
}

impl ClientFlags {
    /// A client with nothing around it that Herald's has not.
    pub async fn client(&self) -> Result<Client> {
        let file = Kubeconfig::read_from(&self.kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        if let Some(server) = &self.api_server {
            config.cluster_url = server.parse()?;
        }
        Ok(Client::try_from(config)?)
    }
}
