//! `herald cleanup --cluster`: takes Herald's finalizer off all Services, so that none hangs after Herald is gone.
//!
//! Only what Herald's field manager put there goes; another controller's finalizer of the same name stays. A controller that
//! runs with the finalizer configured would add it again: it is to be stopped, or told not to, before.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::plan::{Action, Change, Target};
use crate::planner::Outcome;
use crate::service::ServiceView;
use crate::writer;

/// Objects per page of a list.
const PAGE: u32 = 500;
/// Writes on their way at a time.
const IN_FLIGHT: usize = 16;
/// How long one write may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// So often it is looked again after writes that somebody else's changes made fail.
const ROUNDS: usize = 5;

/// Removes the finalizers; returns how many.
pub async fn finalizers(client: Client) -> anyhow::Result<usize> {
    let mut removed = 0;
    for _ in 0..ROUNDS {
        let found = owned(client.clone()).await?;
        let writes = found.iter().map(|action| writer::perform(client.clone(), action, DEADLINE));
        let outcomes: Vec<Outcome> =
            futures::stream::iter(writes).buffer_unordered(IN_FLIGHT).collect().await;
        let done = |outcome: &&Outcome| matches!(outcome, Outcome::Written(_) | Outcome::Gone);
        removed += outcomes.iter().filter(done).count();
        if outcomes.iter().all(|outcome| done(&outcome)) {
            return Ok(removed);
        }
    }
    anyhow::bail!(
        "{removed} finalizers are removed, but not all: is a controller running that adds them again?"
    )
}

async fn owned(client: Client) -> anyhow::Result<Vec<Action>> {
    let api: Api<Service> = Api::all(client);
    let mut actions = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        let views = list.items.into_iter().map(ServiceView::new);
        actions.extend(views.filter(|view| view.finalizer_owned).map(|view| Action {
            target: Target { name: view.name, uid: view.uid, version: view.version },
            change: Change::ReleaseFinalizer,
            then: Vec::new(),
        }));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(actions),
        }
    }
}
