use serde_json::json;

use super::*;
use crate::testing::{ip, read_slice, slice, slice_of};

fn ignored(slice: &EndpointSlice) -> SliceIgnored {
    SliceView::read(slice, &mut Names::default()).unwrap_err()
}

#[test]
fn a_slice_without_a_service_or_for_another_proxy_or_of_names_is_ignored() {
    let good = || slice("IPv4", json!([]));
    let label = |key: &str, value: &str| {
        let mut slice = good();
        slice.metadata.labels.as_mut().unwrap().insert(key.to_owned(), value.to_owned());
        slice
    };
    assert_eq!(read_slice(&good()).service, "web");
    assert_eq!(ignored(&label(LABEL_SERVICE_NAME, "")), SliceIgnored::NoService);
    let mut bare = good();
    bare.metadata.labels = None;
    assert_eq!(ignored(&bare), SliceIgnored::NoService);
    assert_eq!(ignored(&label(LABEL_PROXY_NAME, "")), SliceIgnored::OtherProxy);
    assert_eq!(ignored(&label(LABEL_HEADLESS, "")), SliceIgnored::HeadlessLabel);
    assert_eq!(ignored(&slice("FQDN", json!([]))), SliceIgnored::AddressType);
}

#[test]
fn only_the_first_address_counts_and_conditions_have_defaults() {
    let reading = read_slice(&slice(
        "IPv4",
        json!([
            {"addresses": ["10.244.1.2", "10.244.1.3"], "nodeName": "a"},
            {"addresses": ["10.244.1.4"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.244.1.5"], "conditions": {}},
            {"addresses": []},
        ]),
    ));
    assert_eq!(reading.notes, []);
    let read: Vec<_> =
        reading.view.endpoints.iter().map(|e| (e.address, e.ready, e.serving, e.terminating)).collect();
    let wanted = [
        (ip("10.244.1.2"), true, true, false),
        (ip("10.244.1.4"), false, true, true),
        (ip("10.244.1.5"), true, true, false),
    ];
    assert_eq!(read, wanted);
    assert_eq!(reading.view.endpoints[0].node.as_deref(), Some("a"));
    assert_eq!(reading.view.endpoints[1].node, None);
}

#[test]
fn ports_without_name_or_number_are_ignored_and_the_empty_name_is_a_name() {
    let reading = read_slice(&slice_of(json!({
        "addressType": "IPv4", "endpoints": [],
        "ports": [
            {"name": "", "port": 80}, {"port": 81}, {"name": "none"}, {"name": "zero", "port": 0},
            {"name": "large", "port": 65536}, {"name": "odd", "port": 1, "protocol": "QUIC"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ],
    })));
    let ports: Vec<_> = reading.view.ports.iter().map(|p| (&*p.name, p.protocol, p.number)).collect();
    assert_eq!(ports, [("", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)]);
    let reasons: Vec<_> = reading.notes.iter().map(|note| note.reason().word()).collect();
    assert_eq!(reasons, ["InvalidPort", "UnknownProtocol"]);
}

#[test]
fn addresses_that_cannot_be_reached_are_dropped_one_by_one() {
    let reading = read_slice(&slice(
        "IPv6",
        json!([
            {"addresses": ["2001:db8:2::5"]}, {"addresses": ["10.244.1.2"]}, {"addresses": ["::1"]},
            {"addresses": ["pod-5"]},
        ]),
    ));
    assert_eq!(reading.view.endpoints.len(), 1);
    assert_eq!(reading.notes.len(), 3);
    assert_eq!(reading.notes[0], Note::WrongFamily { address: ip("10.244.1.2") });
}

#[test]
fn hints_and_the_trigger_time_are_read() {
    let mut slice = slice(
        "IPv4",
        json!([{"addresses": ["10.244.1.2"],
            "hints": {"forZones": [{"name": "west"}], "forNodes": [{"name": "a"}, {"name": "b"}]}}]),
    );
    slice.metadata.annotations =
        Some([(ANNOTATION_TRIGGER_TIME.to_owned(), "2026-01-02T03:04:05.678Z".to_owned())].into());
    let reading = read_slice(&slice);
    let hints = reading.view.endpoints[0].hints.as_ref().unwrap();
    assert_eq!(hints.zones.iter().map(|z| &**z).collect::<Vec<_>>(), ["west"]);
    assert_eq!(hints.nodes.iter().map(|n| &**n).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(reading.triggered, Some("2026-01-02T03:04:05.678Z".parse().unwrap()));
    slice.metadata.annotations = Some([(ANNOTATION_TRIGGER_TIME.to_owned(), "yesterday".to_owned())].into());
    assert_eq!(read_slice(&slice).triggered, None);
}

#[test]
fn names_are_shared_and_forgotten_when_nobody_uses_them() {
    let mut names = Names::default();
    let kept = names.share("a");
    assert!(Arc::ptr_eq(&kept, &names.share("a")));
    for i in 0..5000 {
        names.share(&format!("gone-{i}"));
    }
    assert!(names.known.len() <= 1024, "{}", names.known.len());
    assert!(Arc::ptr_eq(&kept, &names.share("a")));
}
