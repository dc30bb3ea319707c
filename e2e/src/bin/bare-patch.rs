//! `bare-patch`: writes the statuses that Herald's controller would write, by the library that it uses, and decides nothing.
//!
//! The yardstick of ten thousand Services that wait: one list in Herald's pages, then one server-side apply for each
//! Service, with Herald's field manager, fields and fence, and as many at a time. The answer is decoded and dropped. It has Herald's
//! allocator, too.

use std::net::Ipv4Addr;

use anyhow::Result;
use clap::Parser;
use futures::TryStreamExt;
use herald_e2e::bench::bare::{ClientFlags, PAGE};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Herald's writes at a time.
const IN_FLIGHT: usize = 16;
/// Herald's field manager.
const MANAGER: &str = "herald-controller";

#[derive(Parser)]
#[command(name = "bare-patch", about = "Writes the statuses that Herald's controller would write")]
struct Arguments {
    #[command(flatten)]
    client: ClientFlags,
    /// Writes at a time
    #[arg(long, default_value_t = IN_FLIGHT)]
    in_flight: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let client = arguments.client.client().await?;
    let (all, mut parameters) = (Api::<Service>::all(client.clone()), ListParams::default().limit(PAGE));
    let mut bodies = Vec::new();
    loop {
        let page = all.list(&parameters).await?;
        for service in page.items {
            let number = u32::try_from(bodies.len())?;
            let is_balancer =
                service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
            if is_balancer {
                bodies.push(body(&service, Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number)));
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => break,
        }
    }
    let count = bodies.len();
    futures::stream::iter(bodies.into_iter().map(Ok))
        .try_for_each_concurrent(arguments.in_flight, |(namespace, name, body)| {
            let api: Api<Service> = Api::namespaced(client.clone(), &namespace);
            async move {
                let by = PatchParams::apply(MANAGER).force();
                api.patch_status(&name, &by, &Patch::Apply(body)).await.map(drop)
            }
        })
        .await?;
    println!("{count} statuses");
    Ok(())
}

fn body(service: &Service, address: Ipv4Addr) -> (String, String, Value) {
    let meta = &service.metadata;
    let (namespace, name) =
        (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    let body = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": namespace, "uid": meta.uid, "resourceVersion": meta.resource_version,
            "annotations": { "metallb.io/ip-allocated-from-pool": "bench" },
        },
        "status": {
            "loadBalancer": { "ingress": [{ "ip": address }] },
            "conditions": [{
                "type": "herald.io/AddressAssigned", "status": "True", "reason": "Assigned",
                "message": format!("{address} from pool bench"), "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    });
    (namespace, name, body)
}
