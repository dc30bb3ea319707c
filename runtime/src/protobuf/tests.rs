use k8s_openapi::api::core::v1::Service;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// A name, protobuf, JSON: the API server's own answers to the same request.
const RECORDED: [(&str, &[u8], &[u8]); 4] = [
    ("services", include_bytes!("testdata/services.protobuf"), include_bytes!("testdata/services.json")),
    ("slices", include_bytes!("testdata/slices.protobuf"), include_bytes!("testdata/slices.json")),
    ("page", include_bytes!("testdata/page.protobuf"), include_bytes!("testdata/page.json")),
    ("refused", include_bytes!("testdata/refused.protobuf"), include_bytes!("testdata/refused.json")),
];

/// Without what protobuf cannot say (`null` and `[]`), the document's own kind, and these fields.
fn normal(mut json: Value, without: &str) -> Value {
    fn walk(json: &mut Value, without: &str) {
        match json {
            Value::Object(fields) => {
                fields.remove(without);
                fields.values_mut().for_each(|value| walk(value, without));
                fields.retain(|_, value| {
                    !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty())
                });
            }
            Value::Array(list) => list.iter_mut().for_each(|value| walk(value, without)),
            _ => {}
        }
    }
    walk(&mut json, without);
    for field in ["kind", "apiVersion"] {
        json.as_object_mut().unwrap().remove(field);
    }
    json
}

#[test]
fn both_forms_of_an_answer_say_the_same() {
    for (name, protobuf, json) in RECORDED {
        for (managed_fields, without) in [(true, ""), (false, "managedFields")] {
            let read = to_json(Bytes::from_static(protobuf), managed_fields).unwrap();
            let read = normal(serde_json::from_slice(&read).unwrap(), "");
            assert_eq!(read, normal(serde_json::from_slice(json).unwrap(), without), "{name}");
        }
    }
}

fn response(content: &'static str, body: &'static [u8]) -> Response<Full<Bytes>> {
    Response::builder().header(CONTENT_TYPE, content).body(Full::from(body)).unwrap()
}

fn asks(protobuf: &Protobuf, method: Method, uri: &str) -> bool {
    let mut request = Request::builder().method(method).uri(uri).body(()).unwrap();
    protobuf.ask(&mut request);
    request.headers().get(ACCEPT) == Some(&PROTOBUF_OR_JSON)
}

const SERVICES: &str = "https://10.0.0.10:6443/api/v1/services?limit=500";

#[test]
fn only_the_long_lists_are_asked_for_in_protobuf() {
    let protobuf = Protobuf::new(true);
    for (method, path, asked) in [
        (Method::GET, "/api/v1/services?limit=500", true),
        (Method::GET, "/api/v1/namespaces/a/services", true),
        (Method::GET, "/apis/discovery.k8s.io/v1/endpointslices?&limit=500&labelSelector=watch%3Da", true),
        (Method::GET, "/api/v1/services?watch=true&resourceVersion=7", false),
        (Method::GET, "/api/v1/services?timeoutSeconds=290&watch=true", false),
        (Method::GET, "/api/v1/namespaces/a/services/nginx", false),
        (Method::POST, "/api/v1/namespaces/a/services", false),
        (Method::GET, "/api/v1/nodes", false),
    ] {
        assert_eq!(asks(&protobuf, method, path), asked, "{path}");
    }
}

#[tokio::test]
async fn an_answer_in_protobuf_becomes_json_and_any_other_stays_as_it_is() {
    let client = Protobuf::new(true);
    let (_, protobuf, json) = RECORDED[0];
    let read = client.answer(response(PROTOBUF, protobuf)).await.unwrap();
    assert_eq!(read.headers()[CONTENT_TYPE], JSON);
    let read: kube::core::ObjectList<Service> =
        serde_json::from_slice(&read.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(read.items.len(), 3);
    let same = client.answer(response("application/json", json)).await.unwrap();
    assert_eq!(same.into_body().collect().await.unwrap().to_bytes(), json);
}

#[tokio::test]
async fn after_an_answer_that_cannot_be_read_json_is_asked_for() {
    let client = Protobuf::new(true);
    assert!(asks(&client, Method::GET, SERVICES));
    let error = client.answer(response(PROTOBUF, b"{}")).await.unwrap_err().to_string();
    assert!(error.contains("JSON is asked for from now on: it does not begin with"), "{error}");
    assert!(!asks(&client, Method::GET, SERVICES));
}

proptest! {
    #[test]
    fn damaged_answers_are_errors_or_json(of in 0..4_usize, at in 0..2400_usize, byte: u8, cut in 0..4800_usize, managed: bool) {
        let mut damaged = RECORDED[of].1.to_vec();
        let at = at % damaged.len();
        damaged[at] = byte;
        damaged.truncate(cut.max(MAGIC.len()));
        if let Ok(json) = to_json(damaged.into(), managed) {
            serde_json::from_slice::<Value>(&json).unwrap();
        }
    }
}
