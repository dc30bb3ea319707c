use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::client::Body;

use super::*;
use crate::readiness::Readiness;

/// What the API server is asked, in order: a word of the URL and of `Accept`, and the answer.
type Script = Vec<(&'static str, &'static str, u16, Vec<u8>)>;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON: &str = "";
const PAGE_IN_PROTOBUF: &[u8] = include_bytes!("../protobuf/testdata/services.protobuf");

/// Watches against an API server that follows a script; after it, a watch is silent. What is told, until `count` events.
async fn told(script: Script, count: usize) -> Vec<WatchEvent<String>> {
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    let rest = Arc::clone(&script);
    let server = tower::service_fn(move |request: Request<Body>| {
        let next = script.lock().unwrap().pop_front();
        async move {
            let Some((url, accept, code, body)) = next else {
                assert!(request.uri().to_string().contains("watch=true"), "{}", request.uri());
                std::future::pending::<()>().await;
                unreachable!();
            };
            assert!(request.uri().to_string().contains(url), "{url} is not in {}", request.uri());
            let asked = request.headers().get(http::header::ACCEPT).map(|accept| accept.to_str().unwrap());
            assert!(asked.unwrap_or_default().contains(accept), "{asked:?} for {url}");
            let content = if body.starts_with(b"k8s") { PROTOBUF } else { "application/json" };
            let answer = Response::builder().status(code).header(http::header::CONTENT_TYPE, content);
            Ok::<_, tower::BoxError>(answer.body(Body::from(body)).unwrap())
        }
    });
    let client = Client::new(server, "default");
    let (events, mut received) = mpsc::channel(16);
    let listed = Readiness::default().handle("services");
    let fold = |service: Service| {
        assert!(service.managed_fields().is_empty(), "managedFields are removed before fold");
        service.name_any()
    };
    let watch = Watch::<Service>::all(client).in_protobuf().optional();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(watch.run(fold, |event| event, events, listed.clone()));
    let mut told = Vec::new();
    while told.len() < count {
        told.push(timeout(Duration::from_secs(10), received.recv()).await.expect("an event").unwrap());
    }
    assert!(listed.is_ready());
    // The script's end is seen, too.
    timeout(Duration::from_secs(10), async {
        while !rest.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the whole script");
    told
}

fn object(name: &str, version: &str) -> String {
    format!(
        r#"{{"metadata":{{"namespace":"default","name":"{name}","resourceVersion":"{version}","managedFields":[{{"manager":"kubectl"}}]}}}}"#
    )
}

fn list(more: &str, objects: &[String]) -> Vec<u8> {
    let objects = objects.join(",");
    format!(r#"{{"kind":"ServiceList","apiVersion":"v1","metadata":{{"resourceVersion":"7","continue":"{more}"}},"items":[{objects}]}}"#)
        .into_bytes()
}

fn events(of: &[(&str, String)]) -> Vec<u8> {
    let lines = of.iter().map(|(kind, object)| format!(r#"{{"type":"{kind}","object":{object}}}"#) + "\n");
    lines.collect::<String>().into_bytes()
}

fn refused(code: u16) -> String {
    format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"no","reason":"Refused","code":{code}}}"#
    )
}

fn reset(names: &[&str]) -> WatchEvent<String> {
    WatchEvent::Reset(names.iter().map(|name| (*name).to_owned()).collect())
}

fn applied(name: &str) -> WatchEvent<String> {
    WatchEvent::Applied(name.to_owned())
}

#[tokio::test(start_paused = true)]
async fn pages_arrive_as_one_reset_and_changes_singly_from_the_lists_version_on() {
    let bookmark = r#"{"kind":"Service","apiVersion":"v1","metadata":{"resourceVersion":"20"}}"#;
    let script: Script = vec![
        ("limit=500", PROTOBUF, 200, list("next", &[object("a", "1")])),
        ("continue=next", PROTOBUF, 200, list("", &[object("b", "2")])),
        (
            "resourceVersion=7",
            JSON,
            200,
            events(&[
                ("MODIFIED", object("a", "8")),
                ("ADDED", object("c", "9")),
                ("DELETED", object("b", "10")),
            ]),
        ),
        ("resourceVersion=10", JSON, 200, events(&[("BOOKMARK", bookmark.to_owned())])),
        ("resourceVersion=20", JSON, 200, events(&[("MODIFIED", object("a", "21"))])),
    ];
    let deleted = WatchEvent::Deleted(ObjectName::new("default", "b"));
    assert_eq!(
        told(script, 5).await,
        [reset(&["a", "b"]), applied("a"), applied("c"), deleted, applied("a")]
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_that_broke_off_leaves_nothing_in_the_next_one() {
    let script: Script = vec![
        ("limit=500", PROTOBUF, 200, list("next", &[object("old", "1")])),
        ("continue=next", PROTOBUF, 410, refused(410).into_bytes()),
        ("continue=next", JSON, 410, refused(410).into_bytes()),
        ("limit=500", PROTOBUF, 200, list("", &[object("new", "2")])),
    ];
    assert_eq!(told(script, 1).await, [reset(&["new"])]);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_gone_is_listed_anew_and_any_other_failure_goes_on_from_there() {
    let script: Script = vec![
        ("limit=500", PROTOBUF, 200, list("", &[object("a", "1")])),
        ("resourceVersion=7", JSON, 500, refused(500).into_bytes()),
        ("resourceVersion=7", JSON, 200, events(&[("MODIFIED", object("a", "8")), ("ERROR", refused(500))])),
        ("resourceVersion=8", JSON, 200, events(&[("ERROR", refused(410))])),
        ("limit=500", JSON, 200, list("", &[object("b", "9")])),
        ("resourceVersion=7", JSON, 410, refused(410).into_bytes()),
        ("limit=500", JSON, 200, list("", &[])),
    ];
    assert_eq!(told(script, 4).await, [reset(&["a"]), applied("a"), reset(&["b"]), reset(&[])]);
}

#[tokio::test(start_paused = true)]
async fn a_page_in_protobuf_is_read_and_a_damaged_one_is_asked_for_in_json_from_then_on() {
    let damaged = PAGE_IN_PROTOBUF[..99].to_vec();
    let script: Script = vec![
        ("limit=500", PROTOBUF, 200, PAGE_IN_PROTOBUF.to_vec()),
        ("watch=true", JSON, 410, refused(410).into_bytes()),
        ("limit=500", PROTOBUF, 200, damaged),
        ("limit=500", JSON, 200, list("", &[object("a", "1")])),
    ];
    let told = told(script, 2).await;
    assert!(matches!(&told[0], WatchEvent::Reset(names) if names.len() == 3), "{told:?}");
    assert_eq!(told[1], reset(&["a"]));
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_shown_is_an_empty_list_and_is_asked_for_again() {
    let script: Script = vec![
        ("limit=500", PROTOBUF, 404, b"404 page not found".to_vec()),
        ("limit=500", JSON, 404, b"404 page not found".to_vec()),
        ("limit=500", PROTOBUF, 200, PAGE_IN_PROTOBUF.to_vec()),
    ];
    let told = told(script, 2).await;
    assert_eq!(told[0], reset(&[]));
    assert!(matches!(&told[1], WatchEvent::Reset(names) if names.len() == 3), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn one_object_that_cannot_be_decoded_does_not_hurt_the_others() {
    let bad = r#"{"metadata":{"namespace":"default","name":"bad","resourceVersion":"8"},"spec":{"ports":"nonsense"}}"#;
    let script: Script = vec![
        ("limit=500", PROTOBUF, 200, list("", &[object("good", "1"), bad.to_owned()])),
        (
            "resourceVersion=7",
            JSON,
            200,
            events(&[("MODIFIED", bad.to_owned()), ("DELETED", bad.to_owned())]),
        ),
    ];
    let deleted = WatchEvent::Deleted(ObjectName::new("default", "bad"));
    assert_eq!(told(script, 2).await, [reset(&["good"]), deleted]);
}
