//! The optional admission webhook (`--webhook`): the configuration is judged before it is stored.
//!
//! ```text
//!  API server ──HTTPS: AdmissionReview──> server ──> Reviewer::answer ──lists the objects──> API server
//!                                                        └─ herald_config::review_object, review_document
//! ```
//!
//! It says earlier what Herald says anyway, to whoever runs `kubectl apply`; Herald is right without it. So each replica
//! answers, leader or not, nothing is remembered between two questions, and whatever it cannot judge it allows, with a
//! warning. Passwords are not looked at: whether a Secret is there is no matter of the object that names it.

mod server;

use std::time::Duration;

use anyhow::Context;
use futures::future::try_join_all;
use herald_config::{Kind, Review, Sources, Watched, review_document, review_object};
use herald_runtime::chain;
use kube::Client;
use serde_json::{Value, json};

pub(crate) use server::Server;
pub use server::WebhookOptions;

/// How long the lists may take; the API server waits 10 s for the whole answer unless told otherwise.
const LISTS: Duration = Duration::from_secs(5);
/// RFC 9110 §15.5.21: what was sent is understood and not acceptable.
const UNPROCESSABLE: u16 = 422;

/// Judges changes of the configuration in one namespace.
#[derive(Clone)]
pub(crate) struct Reviewer {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) config_map: String,
}

/// The question, as far as it matters (`admission.k8s.io/v1`, AdmissionRequest).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Question<'a> {
    kind: &'a str,
    group: &'a str,
    name: &'a str,
    namespace: &'a str,
    before: Option<&'a Value>,
    after: Option<&'a Value>,
}

impl<'a> Question<'a> {
    fn read(request: &'a Value) -> Self {
        let text = |value: &'a Value| value.as_str().unwrap_or_default();
        let object = |key: &str| request.get(key).filter(|object| object.is_object());
        let (before, after) = (object("oldObject"), object("object"));
        // A name that the API server has made up stands only in the object.
        let named = after.or(before).map(|object| text(&object["metadata"]["name"])).unwrap_or_default();
        Self {
            kind: text(&request["kind"]["kind"]),
            group: text(&request["kind"]["group"]),
            name: if named.is_empty() { text(&request["name"]) } else { named },
            namespace: text(&request["namespace"]),
            before,
            after: after.filter(|_| request["operation"] != "DELETE"),
        }
    }

    /// The document of the ConfigMap, before and after.
    fn documents(&self) -> [Option<&'a str>; 2] {
        [self.before, self.after].map(|object| object.and_then(|object| object["data"]["config"].as_str()))
    }
}

impl Reviewer {
    /// Answers an AdmissionReview; an error: it is none.
    pub(crate) async fn answer(&self, review: &Value) -> Result<Value, String> {
        let request = review.get("request").filter(|request| request["uid"].is_string());
        let request = request.ok_or("no AdmissionReview: request.uid is missing")?;
        let question = Question::read(request);
        let review = self.review(&question).await;
        if !review.refused.is_empty() {
            let Question { kind, name, .. } = question;
            // One line in the log.
            let error = review.refused.join("; ").replace('\n', "; ");
            tracing::info!(kind, name, error, "a change is refused before it is stored");
        }
        Ok(answer(request, review))
    }

    async fn review(&self, question: &Question<'_>) -> Review {
        if question.namespace != self.namespace {
            return Review::default();
        }
        match question.group {
            "" if question.kind == "ConfigMap" && question.name == self.config_map => {
                let [before, after] = question.documents();
                // One that is deleted is no document that could be wrong.
                if question.after.is_some() { review_document(before, after) } else { Review::default() }
            }
            "metallb.io" => {
                let configures = |kind: &Kind| Kind::CONFIGURATION.contains(kind);
                let Some(kind) = Kind::named(question.kind).filter(configures) else {
                    return Review::default();
                };
                match self.objects().await {
                    Ok(all) => review_object(&all, kind, question.name, question.after),
                    Err(error) => {
                        let error = chain(&*error);
                        let (kind, name) = (question.kind, question.name);
                        tracing::warn!(
                            kind,
                            name,
                            error,
                            "a change is allowed unseen: the other objects cannot be read"
                        );
                        Review {
                            warnings: vec![
                                "not judged by Herald: it could not read the other objects".into(),
                            ],
                            ..Review::default()
                        }
                    }
                }
            }
            _ => Review::default(),
        }
    }

    async fn objects(&self) -> anyhow::Result<Vec<(Kind, Vec<Value>)>> {
        let watched = Sources::new(false).watched();
        let lists = try_join_all(watched.iter().map(|watched| self.list(watched)));
        let lists = tokio::time::timeout(LISTS, lists).await.context("no answer in time")??;
        let kinds = watched.iter().filter_map(|watched| Kind::named(watched.kind));
        Ok(kinds.zip(lists).collect())
    }

    async fn list(&self, of: &Watched) -> anyhow::Result<Vec<Value>> {
        let Watched { group, version, plural, .. } = of;
        let url = format!("/apis/{group}/{version}/namespaces/{}/{plural}", self.namespace);
        let mut list: Value = match self.client.request(http::Request::get(url).body(Vec::new())?).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(Vec::new()),
            answer => answer?,
        };
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => anyhow::bail!("the list of {plural} has no items"),
        }
    }
}

/// The AdmissionReview that goes back.
fn answer(request: &Value, review: Review) -> Value {
    let Review { refused, warnings } = review;
    let mut response = json!({ "uid": request["uid"], "allowed": refused.is_empty() });
    if !refused.is_empty() {
        response["status"] = json!({ "code": UNPROCESSABLE, "message": refused.join("\n") });
    }
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_with_the_name_that_the_object_has() {
        let object = json!({ "metadata": { "name": "made-up" } });
        let request = json!({
            "uid": "1", "operation": "CREATE", "namespace": "n", "object": object, "oldObject": null,
            "kind": { "group": "metallb.io", "version": "v1beta1", "kind": "IPAddressPool" },
        });
        let question = Question::read(&request);
        assert_eq!((question.kind, question.group, question.namespace), ("IPAddressPool", "metallb.io", "n"));
        assert_eq!((question.name, question.before, question.after), ("made-up", None, Some(&object)));
        let deleted = json!({ "operation": "DELETE", "name": "edge", "oldObject": object, "object": null });
        let question = Question::read(&deleted);
        assert_eq!((question.name, question.before, question.after), ("made-up", Some(&object), None));
        assert_eq!(Question::read(&json!({ "name": "edge" })).name, "edge");
        assert_eq!(Question::read(&json!("nonsense")).kind, "");
    }

    #[test]
    fn an_answer_has_the_uid_and_refuses_only_with_a_reason() {
        let request = json!({ "uid": "1" });
        let warned = Review { warnings: vec!["w".to_owned()], ..Review::default() };
        assert_eq!(
            answer(&request, warned)["response"],
            json!({ "uid": "1", "allowed": true, "warnings": ["w"] })
        );
        let refused = Review { refused: vec!["a".to_owned(), "b".to_owned()], ..Review::default() };
        let answer = answer(&request, refused);
        assert_eq!(
            (&answer["kind"], &answer["apiVersion"]),
            (&json!("AdmissionReview"), &json!("admission.k8s.io/v1"))
        );
        assert_eq!(
            answer["response"],
            json!({ "uid": "1", "allowed": false, "status": { "code": 422, "message": "a\nb" } })
        );
    }
}
