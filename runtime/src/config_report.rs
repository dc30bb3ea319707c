//! The ConfigurationState of one component: whether the newest configuration is in force, and if not, why.
//!
//! One task writes it, at most once a second and only when it changed; where the kind is not installed it is tried
//! again from time to time. It is told to people only: nothing depends on it, so a failure is a line in the log.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::{GetParams, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::chain;
use crate::untyped::UntypedKind;

/// At most one write in this time.
const PACE: Duration = Duration::from_secs(1);
/// How long one write may take.
const WRITE: Duration = Duration::from_secs(10);
/// After a failure: twice as long each time, for the kind may be installed any moment or never.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often it is looked for: somebody may delete it.
const LOOK: Duration = Duration::from_secs(15);
/// The longest summary.
const LONGEST: usize = 8 << 10;

const STATE: UntypedKind = UntypedKind {
    group: "metallb.io",
    version: "v1beta1",
    kind: "ConfigurationState",
    plural: "configurationstates",
    fields: None,
};

/// Whose state it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Component {
    /// The controller.
    Controller,
    /// The speaker of a node.
    Speaker(String),
}

impl Component {
    fn name(&self) -> String {
        match self {
            Self::Controller => "controller".to_owned(),
            Self::Speaker(node) => format!("speaker-{node}"),
        }
    }

    fn labels(&self) -> Value {
        match self {
            Self::Controller => json!({ "metallb.io/component-type": "controller" }),
            Self::Speaker(node) => {
                json!({ "metallb.io/component-type": "speaker", "metallb.io/node-name": node })
            }
        }
    }

    fn condition(&self) -> &'static str {
        match self {
            Self::Controller => "poolReconcilerValid",
            Self::Speaker(_) => "configReconcilerValid",
        }
    }
}

/// What is refused of the newest configuration; `None` before there was one.
pub type Refusals = Option<Vec<String>>;

/// Tells the task that writes what is refused by now, if that differs.
pub fn tell(told: &watch::Sender<Refusals>, refusals: &[String]) {
    told.send_if_modified(|told| {
        let differs = told.as_deref() != Some(refusals);
        if differs {
            *told = Some(refusals.to_vec());
        }
        differs
    });
}

/// Writes until the sender is dropped.
pub async fn run(
    client: Client,
    namespace: String,
    component: Component,
    mut refusals: watch::Receiver<Refusals>,
) -> anyhow::Result<()> {
    let api: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &STATE.resource());
    let mut written: Option<Value> = None;
    let mut since = (None, Timestamp::now());
    let mut wait = RETRY.0;
    loop {
        let now = refusals.borrow_and_update().clone();
        let mut retry = None;
        if let Some(refusals) = now {
            if since.0 != Some(refusals.is_empty()) {
                since = (Some(refusals.is_empty()), Timestamp::now());
            }
            let status = status(&component, &refusals, since.1);
            if written.as_ref() != Some(&status) {
                match tokio::time::timeout(WRITE, write(&api, &component, &status)).await {
                    Ok(Ok(())) => {
                        written = Some(status);
                        wait = RETRY.0;
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(error = chain(&error), "the ConfigurationState is not written");
                        retry = Some(wait);
                    }
                    Err(_) => retry = Some(wait),
                }
                if retry.is_some() {
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
        tokio::time::sleep(PACE).await;
        let changed = tokio::time::timeout(retry.unwrap_or(LOOK), refusals.changed()).await;
        match changed {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) if written.is_some() && is_gone(&api, &component).await => written = None,
            Err(_) => {}
        }
    }
}

/// The API server says so, from its own memory: that costs it little, even of a thousand nodes.
async fn is_gone(api: &Api<DynamicObject>, component: &Component) -> bool {
    let (name, any) = (component.name(), GetParams::any());
    let look = api.get_with(&name, &any);
    matches!(tokio::time::timeout(WRITE, look).await, Ok(Err(kube::Error::Api(status))) if status.is_not_found())
}

async fn write(api: &Api<DynamicObject>, component: &Component, status: &Value) -> kube::Result<()> {
    let name = component.name();
    let params = PatchParams::apply("herald").force();
    let object = json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": STATE.kind,
        "metadata": { "name": name, "labels": component.labels() },
    });
    api.patch(&name, &params, &Patch::Apply(&object)).await?;
    let mut object = object;
    object["status"] = status.clone();
    api.patch_status(&name, &params, &Patch::Apply(&object)).await.map(drop)
}

fn status(component: &Component, refusals: &[String], since: Timestamp) -> Value {
    let valid = refusals.is_empty();
    let mut summary = String::new();
    for (index, refusal) in refusals.iter().enumerate() {
        if summary.len() + refusal.len() > LONGEST {
            summary.push_str(&format!("\nand {} more", refusals.len() - index));
            break;
        }
        if index > 0 {
            summary.push('\n');
        }
        summary.push_str(refusal);
    }
    json!({
        "result": if valid { "Valid" } else { "Invalid" },
        "errorSummary": summary,
        "conditions": [{
            "type": component.condition(),
            "status": if valid { "True" } else { "False" },
            "reason": if valid { "Reconciled" } else { "ConfigurationError" },
            "message": summary,
            "lastTransitionTime": since.to_string(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_says_what_is_refused_and_is_bounded() {
        let status_of = |refusals: &[String]| status(&Component::Controller, refusals, Timestamp::UNIX_EPOCH);
        let valid = status_of(&[]);
        assert_eq!((&valid["result"], &valid["errorSummary"]), (&json!("Valid"), &json!("")));
        assert_eq!(valid["conditions"][0]["type"], "poolReconcilerValid");
        let bad = status_of(&["a".to_owned(), "b".to_owned()]);
        assert_eq!((&bad["result"], &bad["errorSummary"]), (&json!("Invalid"), &json!("a\nb")));
        assert_eq!(bad["conditions"][0]["reason"], "ConfigurationError");
        let long = status_of(&vec!["x".repeat(1000); 100]);
        let text = long["errorSummary"].as_str().expect("text");
        assert!(text.len() < LONGEST + 100 && text.ends_with("\nand 92 more"), "{}", text.len());
    }

    #[test]
    fn a_speakers_state_is_named_and_labelled_by_its_node() {
        let speaker = Component::Speaker("n1".to_owned());
        assert_eq!(speaker.name(), "speaker-n1");
        assert_eq!(speaker.labels()["metallb.io/node-name"], "n1");
        assert_eq!(speaker.condition(), "configReconcilerValid");
    }
}
