//! A thousand Services that go at once: all of it is taken back, and who stays does not notice.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use herald_e2e::await_ok;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use super::{CONFIG, Served, WEB};
use crate::services::{SOON, addresses_of, all, create, service};

const MANY: usize = 1000;
/// For each half of it; the API server is the slowest part.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
#[ignore = "needs a network namespace"]
fn a_thousand_services_that_are_deleted_at_once_are_withdrawn_and_nobody_else_is_touched() -> Result<()> {
    let served = Served::start()?;
    let lab = &served.lab;
    lab.configure_herald(&CONFIG.replace("192.0.2.0/28", "192.0.2.0/28, 198.18.0.0/22"))?;
    let poller = served.poll()?;
    let labelled =
        |n: usize| service(&format!("many-{n}"), json!({ "metadata": { "labels": { "of": "many" } } }));
    create(lab, (0..MANY).map(labelled))?;
    let routes = |count: usize| {
        await_ok(PATIENCE, &format!("{count} routes at the router"), || {
            let routes = lab.router().birdc("show route count")?;
            ensure!(routes.contains(&format!("{count} of")), "{routes}");
            Ok(())
        })
    };
    routes(2 * (MANY + 1))?;
    let begin = Instant::now();
    lab.block_on(async |client| {
        let services: &Api<Service> = &Api::default_namespaced(client);
        let delete = |n: usize| async move {
            services.delete(&format!("many-{n}"), &DeleteParams::default()).await.map(drop)
        };
        let deleted = stream::iter(0..MANY).map(delete).buffer_unordered(64).try_collect::<()>().await;
        Ok(deleted?)
    })?;
    let asked = begin.elapsed();
    routes(2)?;
    let withdrawn = begin.elapsed();
    await_ok(PATIENCE, "all to be gone", || {
        let left = all(lab)?;
        ensure!(left.keys().all(|name| !name.starts_with("many-")), "{} are left", left.len());
        Ok(())
    })?;
    eprintln!("{MANY} deleted in {asked:?}, withdrawn after {withdrawn:?}, gone after {:?}", begin.elapsed());
    ensure!(addresses_of(&all(lab)?["web"]).len() == 1);
    ensure!(lab.router().next_hops(WEB)? == served.hops());
    poller.await_answers(10, SOON)?;
    poller.stop()?.assert_no_loss();
    Ok(())
}
