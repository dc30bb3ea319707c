use super::*;
use crate::manifests;

const DOCUMENT: &str =
    "address-pools:\n- {name: old, protocol: bgp, addresses: [192.0.2.0/25]}\nherald: {cool-down: 7s}\n";

fn text(document: &str) -> Document {
    Document::Text(document.to_owned())
}

fn pool(name: &str, range: &str) -> Object {
    let text = format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: {name}, uid: {name}}}\nspec: {{addresses: ['{range}']}}\n"
    );
    manifests::read(&text).objects.remove(0)
}

/// A cluster that has this ConfigMap and no objects.
fn sources(document: Document) -> Sources {
    let mut sources = Sources::new(true);
    sources.set_document(document);
    for kind in Kind::CONFIGURATION {
        sources.set_objects(kind, Vec::new());
    }
    sources
}

fn pools(sources: &Sources) -> Vec<&str> {
    sources
        .in_force()
        .map(|config| config.pools.iter().map(|pool| pool.name.as_str()).collect())
        .unwrap_or_default()
}

fn reasons(outcome: &Outcome) -> Vec<NoticeReason> {
    outcome.notices.iter().map(|notice| notice.reason).collect()
}

#[test]
fn nothing_is_in_force_before_everything_was_told_once() {
    let mut sources = Sources::new(true);
    sources.set_document(text(DOCUMENT));
    assert_eq!(sources.settle(), Outcome::default());
    assert_eq!(sources.in_force(), None);
    for kind in Kind::CONFIGURATION {
        sources.set_objects(kind, Vec::new());
    }
    assert!(sources.settle().changed);
    assert_eq!(pools(&sources), ["old"]);
}

#[test]
fn one_pool_object_and_the_configmap_is_ignored_but_for_heralds_keys() {
    let mut sources = sources(text(DOCUMENT));
    sources.settle();
    sources.apply(pool("new", "198.51.100.0/24"));
    let outcome = sources.settle();
    assert_eq!(
        (pools(&sources), reasons(&outcome), outcome.changed),
        (vec!["new"], vec![NoticeReason::Ignored], true)
    );
    assert!(sources.from_objects());
    let herald = |sources: &Sources| sources.in_force().map(|config| config.herald.cool_down.as_secs());
    assert_eq!(herald(&sources), Some(7));
    sources.set_document(text("herald: {cool-down: 9s}\n"));
    let outcome = sources.settle();
    assert_eq!((herald(&sources), reasons(&outcome)), (Some(9), vec![]), "nothing is ignored any more");
    sources.set_document(text("herald: {cool-down: 9}\n"));
    let outcome = sources.settle();
    assert_eq!((herald(&sources), reasons(&outcome)), (Some(9), vec![NoticeReason::Rejected]));
    assert_eq!(pools(&sources), ["new"]);
}

#[test]
fn objects_that_are_no_pool_and_no_peer_do_not_count() {
    let mut sources = sources(text(DOCUMENT));
    let routes = "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: r}\nspec: {}\n";
    sources.apply(manifests::read(routes).objects.remove(0));
    sources.settle();
    assert_eq!(pools(&sources), ["old"]);
}

#[test]
fn when_all_objects_are_gone_the_last_state_stays_until_somebody_decides() {
    let mut sources = sources(text(DOCUMENT));
    sources.apply(pool("new", "198.51.100.0/24"));
    sources.settle();
    sources.delete(&pool("new", "198.51.100.0/24").key);
    let outcome = sources.settle();
    assert_eq!(
        (pools(&sources), reasons(&outcome), outcome.changed),
        (vec!["new"], vec![NoticeReason::Deleted], false)
    );
    assert_eq!(sources.refusals().len(), 1);
    assert_eq!(sources.settle(), Outcome::default(), "told once");
    // The same ConfigMap is no decision; another one is.
    sources.set_document(text(DOCUMENT));
    assert_eq!(sources.settle(), Outcome::default());
    sources.set_document(text(&DOCUMENT.replace("7s", "8s")));
    assert!(sources.settle().changed);
    assert_eq!((pools(&sources), sources.refusals().len()), (vec!["old"], 0));
    // And objects count again at once.
    sources.apply(pool("newer", "198.51.100.0/24"));
    sources.settle();
    assert_eq!(pools(&sources), ["newer"]);
}

#[test]
fn an_object_again_after_all_were_gone_is_in_force_alone() {
    let mut sources = sources(Document::Gone);
    sources.apply(pool("new", "198.51.100.0/24"));
    sources.settle();
    sources.set_objects(Kind::IpAddressPool, Vec::new());
    sources.settle();
    sources.apply(pool("newer", "192.0.2.0/24"));
    let outcome = sources.settle();
    assert_eq!((pools(&sources), outcome.changed, sources.refusals().len()), (vec!["newer"], true, 0));
}

#[test]
fn a_refused_object_is_told_once_and_again_when_it_is_back() {
    let mut sources = sources(Document::Gone);
    sources.apply(pool("good", "192.0.2.0/25"));
    sources.apply(pool("bad", "192.0.2.1"));
    let outcome = sources.settle();
    assert_eq!(reasons(&outcome), [NoticeReason::Rejected]);
    let expected = "spec.addresses[0]: 192.0.2.1 has no prefix length: write 192.0.2.1/32 for this one address\n(the object is not in force)";
    assert_eq!(outcome.notices[0].text, expected);
    assert_eq!(outcome.notices[0].about, Subject::Object(pool("bad", "x").key, "bad".to_owned()));
    assert_eq!(sources.refusals().len(), 1);
    assert_eq!(reasons(&sources.settle()), []);
    sources.apply(pool("bad", "192.0.2.128/25"));
    assert!(sources.settle().changed && sources.refusals().is_empty());
    sources.apply(pool("bad", "192.0.2.1"));
    let outcome = sources.settle();
    assert_eq!((reasons(&outcome), pools(&sources)), (vec![NoticeReason::Rejected], vec!["bad", "good"]));
    assert!(outcome.notices[0].text.ends_with("(its last good state stays in force)"));
}

#[test]
fn a_password_in_a_secret_is_waited_for() {
    let mut sources = sources(Document::Gone);
    let peer = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: tor}\nspec: {myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, passwordSecret: {name: s}}\n";
    sources.apply(manifests::read(peer).objects.remove(0));
    assert!(sources.needs_secrets() && !sources.ready());
    assert_eq!(sources.settle(), Outcome::default());
    let of_type = "kubernetes.io/basic-auth".to_owned();
    sources
        .set_secrets(BTreeMap::from([("s".to_owned(), Secret { of_type, password: Some(b"k3y".to_vec()) })]));
    assert!(sources.settle().changed);
    let password = |sources: &Sources| -> Option<String> {
        sources.in_force()?.peers[0].password.as_ref()?.expose().map(str::to_owned)
    };
    assert_eq!(password(&sources).as_deref(), Some("k3y"));
    sources.set_secret("s", None);
    let outcome = sources.settle();
    assert_eq!(
        (reasons(&outcome), password(&sources).as_deref()),
        (vec![NoticeReason::Rejected], Some("k3y"))
    );
    let mut unread = Sources::new(false);
    unread.set_objects(Kind::BgpPeer, vec![manifests::read(peer).objects.remove(0)]);
    assert!(!unread.needs_secrets(), "the controller reads no Secrets");
}

#[test]
fn a_document_is_judged_as_before_where_there_are_no_objects() {
    let mut sources = sources(text("address-pools: 7\n"));
    let outcome = sources.settle();
    assert_eq!((reasons(&outcome), sources.in_force()), (vec![NoticeReason::Rejected], None));
    assert!(outcome.notices[0].text.ends_with("(nothing is done yet)"));
    sources.set_document(text(DOCUMENT));
    assert!(sources.settle().changed);
    sources.set_document(Document::NoKey);
    assert_eq!((reasons(&sources.settle()), pools(&sources)), (vec![NoticeReason::Rejected], vec!["old"]));
    sources.set_document(Document::Gone);
    assert_eq!((reasons(&sources.settle()), pools(&sources)), (vec![NoticeReason::Deleted], vec!["old"]));
    sources.set_document(text(DOCUMENT));
    let outcome = sources.settle();
    assert_eq!((outcome.changed, sources.refusals().len()), (false, 0), "the same one again");
}

#[test]
fn secrets_and_objects_are_taken_as_the_api_server_sends_them() {
    let mut sources = sources(Document::Gone);
    let peer = serde_json::json!({ "metadata": { "name": "tor", "uid": "u" }, "spec":
        { "myASN": 1, "peerASN": 2, "peerAddress": "10.0.0.1", "passwordSecret": { "name": "s" } } });
    let secret = serde_json::json!({ "metadata": { "name": "s" }, "type": "kubernetes.io/basic-auth",
        "data": { "password": "czNjcjN0" } });
    sources.reset_json("BGPPeer", &[peer]);
    sources.reset_json("Secret", &[secret]);
    assert!(sources.settle().changed);
    let peer = &sources.in_force().expect("a configuration").peers[0];
    assert_eq!(peer.password.as_ref().and_then(|password| password.expose()), Some("s3cr3t"));
    sources.delete_named("Secret", "s");
    assert_eq!(sources.settle().notices.len(), 1);
    sources.delete_named("BGPPeer", "tor");
    assert_eq!(reasons(&sources.settle()), [NoticeReason::Deleted]);
    assert!(sources.watched().iter().any(|watched| watched.plural == "secrets"));
}

#[test]
fn base64_is_read_as_the_api_server_writes_it() {
    for (text, bytes) in
        [("", &b""[..]), ("Zg==", b"f"), ("Zm8=", b"fo"), ("Zm9v", b"foo"), ("+/+/", &[0xfb, 0xff, 0xbf])]
    {
        assert_eq!(from_base64(text).as_deref(), Some(bytes), "{text}");
    }
    assert_eq!(from_base64("a b"), None);
}
