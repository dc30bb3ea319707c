use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::core::{ObjectList, Status};

use super::*;

fn service(name: &str) -> Lenient<Service, false> {
    let text = format!(
        r#"{{"metadata":{{"namespace":"default","name":"{name}","managedFields":[{{"manager":"kubectl"}}]}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn collector() -> Collector<impl Fn(Service) -> String, String> {
    let fold = |service: Service| {
        assert!(service.managed_fields().is_empty(), "managedFields are removed before fold");
        service.name_any()
    };
    Collector { fold, kind: "Service".to_owned(), listing: Vec::new() }
}

#[test]
fn a_list_arrives_as_one_reset_when_it_is_complete() {
    let mut collector = collector();
    assert_eq!(collector.collect(watcher::Event::<Lenient<Service, false>>::Init), None);
    assert_eq!(collector.collect(watcher::Event::InitApply(service("a"))), None);
    assert_eq!(collector.collect(watcher::Event::InitApply(service("b"))), None);
    let done = collector.collect(watcher::Event::<Lenient<Service, false>>::InitDone);
    assert_eq!(done, Some(WatchEvent::Reset(vec!["a".to_owned(), "b".to_owned()])));
}

#[test]
fn a_list_that_broke_off_leaves_nothing_in_the_next_one() {
    let mut collector = collector();
    collector.collect(watcher::Event::<Lenient<Service, false>>::Init);
    collector.collect(watcher::Event::InitApply(service("old")));
    collector.collect(watcher::Event::<Lenient<Service, false>>::Init);
    collector.collect(watcher::Event::InitApply(service("new")));
    let done = collector.collect(watcher::Event::<Lenient<Service, false>>::InitDone);
    assert_eq!(done, Some(WatchEvent::Reset(vec!["new".to_owned()])));
}

#[test]
fn changes_and_deletions_arrive_singly() {
    let mut collector = collector();
    assert_eq!(
        collector.collect(watcher::Event::Apply(service("a"))),
        Some(WatchEvent::Applied("a".to_owned()))
    );
    assert_eq!(
        collector.collect(watcher::Event::Delete(service("a"))),
        Some(WatchEvent::Deleted(ObjectName::new("default", "a")))
    );
}

#[test]
fn one_object_that_cannot_be_decoded_does_not_hurt_the_list() {
    let text = r#"{"apiVersion":"v1","kind":"ServiceList","metadata":{"resourceVersion":"7"},"items":[
        {"metadata":{"namespace":"default","name":"good"}},
        {"metadata":{"namespace":"default","name":"bad"},"spec":{"ports":"nonsense"}}]}"#;
    let list: ObjectList<Lenient<Service, false>> = serde_json::from_str(text).unwrap();
    let mut collector = collector();
    for object in list.items {
        collector.collect(watcher::Event::InitApply(object));
    }
    let done = collector.collect(watcher::Event::<Lenient<Service, false>>::InitDone);
    assert_eq!(done, Some(WatchEvent::Reset(vec!["good".to_owned()])));
}

#[test]
fn an_object_that_became_unreadable_can_still_be_deleted() {
    let text =
        r#"{"type":"DELETED","object":{"metadata":{"namespace":"default","name":"bad"},"spec":{"ports":1}}}"#;
    let event: kube::core::WatchEvent<Lenient<Service, false>> = serde_json::from_str(text).unwrap();
    let kube::core::WatchEvent::Deleted(object) = event else { panic!("not a deletion") };
    assert_eq!(
        collector().collect(watcher::Event::Delete(object)),
        Some(WatchEvent::Deleted(ObjectName::new("default", "bad")))
    );
}

#[test]
fn waits_grow_to_two_seconds_and_start_again_after_a_success() {
    let mut outage = Outage::default();
    let start = Instant::now();
    let error = watcher::Error::NoResourceVersion;
    let waits: Vec<u64> = (0..10)
        .map(|n| outage.failed("Service", &error, start + LONGEST_WAIT * n).as_millis() as u64)
        .collect();
    assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000, 2000, 2000]);
    assert!(outage.quiet_until().is_some());
    outage.over("Service", start + Duration::from_secs(60));
    assert!(outage.quiet_until().is_none());
    assert_eq!(outage.failed("Service", &error, start + Duration::from_secs(61)), FIRST_WAIT);
}

#[test]
fn an_outage_of_a_minute_is_told_once() {
    let mut outage = Outage::default();
    let start = Instant::now();
    let error = watcher::Error::NoResourceVersion;
    let mut told = Vec::new();
    for second in (0..60).step_by(2) {
        outage.failed("Service", &error, start + Duration::from_secs(second));
        told.push(outage.told);
    }
    told.dedup();
    assert_eq!(told, [Some(start)]);
}

#[test]
fn an_expired_resource_version_is_no_outage_worth_telling() {
    let mut outage = Outage::default();
    let status = Status::failure("too old resource version", "Expired").with_code(410);
    outage.failed("Service", &watcher::Error::WatchError(status.boxed()), Instant::now());
    assert_eq!(outage.told, None);
}
