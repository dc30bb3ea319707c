//! Many routes: Services with a thousand addresses each in their status, which no controller has a part in.

use std::net::Ipv4Addr;

use anyhow::Result;
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::bench::proxy::scale;
use crate::lab::Lab;

/// What the pool has.
pub const POOL: &str = "10.128.0.0/15";
/// Of each Service.
const ADDRESSES: u32 = 1000;

/// The address of this number.
pub fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number)
}

/// Makes the Services of routes `from` to `to`, whole thousands.
pub fn make(lab: &Lab, from: u32, to: u32) -> Result<()> {
    lab.block_on(async |client| {
        for number in from / ADDRESSES..to / ADDRESSES {
            let name = format!("routes-{number:03}");
            let addresses = (0..ADDRESSES).map(|n| address(number * ADDRESSES + n));
            service(&client, &name, number).await?;
            assign(&client, &name, addresses).await?;
        }
        Ok(())
    })
}

/// A Service with an endpoint and no address yet.
pub async fn service(client: &Client, name: &str, number: u32) -> Result<()> {
    // An endpoint that is ready is enough to attract; nothing is sent to it.
    let endpoints = scale::real_endpoints(&[("node2".to_owned(), Ipv4Addr::new(10, 245, 0, 1).into())]);
    scale::create(client, "routes", name, scale::spare_ip(number), &endpoints).await
}

/// Gives a Service these addresses, as a controller does.
pub async fn assign(client: &Client, name: &str, addresses: impl Iterator<Item = Ipv4Addr>) -> Result<()> {
    let ingress: Vec<Value> = addresses.map(|ip| json!({ "ip": ip })).collect();
    let status = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
    let services: Api<Service> = Api::default_namespaced(client.clone());
    services.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}
