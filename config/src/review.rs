//! One change to the configuration, judged before it is made: what an admission webhook answers.
//!
//! Only what the change itself would make worse is refused. An object that is bad already can still be labelled,
//! mended in part or deleted, or nobody could get out of a bad state. Deletions are never refused: their order is
//! nobody's plan, and the last good state stays in force anyway; what they would break is a warning.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::HeraldOptions;
use crate::assemble::{Assembler, Assembly, Secrets};
use crate::document::parse;
use crate::objects::{Object, ObjectKey};
use crate::schema::kinds::Kind;

/// What is told about a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Review {
    /// Why it is refused, one sentence each; empty when it is not.
    pub refused: Vec<String>,
    /// What its author should know.
    pub warnings: Vec<String>,
}

/// Judges a change of one object among all objects of its namespace, those of one kind together, as the API server has
/// them. `after` is the object as it is to be; `None`: it is to be deleted.
pub fn review_object(all: &[(Kind, Vec<Value>)], kind: Kind, name: &str, after: Option<&Value>) -> Review {
    let changed = ObjectKey { kind, name: name.to_owned() };
    let read = |(kind, values): &(Kind, Vec<Value>)| -> Vec<Object> {
        values.iter().map(|value| Object::from_json(*kind, value)).collect()
    };
    let mut objects: Vec<Object> = all.iter().flat_map(read).collect();
    let mut assembler = Assembler::default();
    let mut assemble = |objects: &[Object]| -> Assembly {
        assembler.assemble(objects, Secrets::Unread, &HeraldOptions::default())
    };
    // What was in force before wins over what is new, as it does in a running Herald.
    let known: BTreeSet<String> = assemble(&objects).problems.iter().map(ToString::to_string).collect();
    objects.retain(|object| object.key != changed);
    objects.extend(after.map(|value| Object::from_json(kind, value)));
    let mut review = Review::default();
    for problem in assemble(&objects).problems {
        let text = problem.to_string();
        if known.contains(&text) {
            continue;
        }
        match problem.is_error() && after.is_some() {
            true => review.refused.push(text),
            false => review.warnings.push(text),
        }
    }
    review
}

/// Judges a change of the ConfigMap's document; `None`: it lacks the key.
pub fn review_document(before: Option<&str>, after: Option<&str>) -> Review {
    let mut review = Review::default();
    match after {
        _ if before == after => {}
        None => {
            review.refused.push("the key \"config\" is missing: put the document under data.config".into())
        }
        Some(text) => match parse(text) {
            Ok(parsed) => review.warnings.extend(parsed.warnings.iter().map(ToString::to_string)),
            Err(errors) => {
                review.refused.extend(errors.errors().iter().map(ToString::to_string));
                if errors.unlisted() > 0 {
                    review.refused.push(format!("{} more errors are not listed", errors.unlisted()));
                }
                review.warnings.extend(errors.warnings().iter().map(ToString::to_string));
            }
        },
    }
    review
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(name: &str, addresses: &[&str]) -> Value {
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": { "name": name, "namespace": "metallb-system", "uid": name },
            "spec": { "addresses": addresses },
        })
    }

    fn advertisement(pools: &[&str]) -> Value {
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "BGPAdvertisement",
            "metadata": { "name": "routes", "uid": "routes" }, "spec": { "ipAddressPools": pools },
        })
    }

    fn refused(all: &[(Kind, Vec<Value>)], after: &Value) -> Vec<String> {
        let name = after["metadata"]["name"].as_str().unwrap();
        let kind = Kind::named(after["kind"].as_str().unwrap()).unwrap();
        review_object(all, kind, name, Some(after)).refused
    }

    #[test]
    fn what_a_change_adds_is_refused_with_object_field_and_remedy() {
        let all = [(Kind::IpAddressPool, vec![pool("edge", &["192.0.2.0/25"])])];
        let none: Vec<String> = Vec::new();
        assert_eq!(refused(&all, &pool("more", &["192.0.2.128/25"])), none);
        assert_eq!(
            refused(&all, &pool("more", &["192.0.2.1"])),
            [
                "IPAddressPool more, spec.addresses[0]: 192.0.2.1 has no prefix length: write 192.0.2.1/32 for this one address"
            ]
        );
        assert_eq!(
            refused(&all, &pool("more", &["192.0.2.0/26"])),
            [
                "IPAddressPool more, spec.addresses[0]: 192.0.2.0/26 overlaps 192.0.2.0/25 of pool edge: remove or shorten one of them"
            ]
        );
        // Also where it shows at another object.
        let two = [
            (Kind::IpAddressPool, vec![pool("edge", &["192.0.2.0/25"])]),
            (Kind::BgpAdvertisement, vec![advertisement(&["edge"])]),
        ];
        assert_eq!(refused(&two, &pool("edge", &["nonsense"])).len(), 1);
        assert_eq!(
            refused(&two, &advertisement(&["edge", "nowhere"])),
            [
                "BGPAdvertisement routes, spec.ipAddressPools[1]: no IPAddressPool is called nowhere: create it, or remove this"
            ]
        );
    }

    #[test]
    fn what_was_bad_before_holds_up_no_other_change() {
        let all = [(Kind::IpAddressPool, vec![pool("bad", &["nonsense"]), pool("good", &["192.0.2.0/25"])])];
        let mut labelled = pool("bad", &["nonsense"]);
        labelled["metadata"]["labels"] = json!({ "a": "b" });
        assert_eq!(refused(&all, &labelled), Vec::<String>::new());
        assert_eq!(refused(&all, &pool("good", &["192.0.2.0/24"])), Vec::<String>::new());
        assert_eq!(refused(&all, &pool("bad", &["198.51.100.0/24"])), Vec::<String>::new());
        assert_eq!(refused(&all, &pool("bad", &["other nonsense"])).len(), 1);
    }

    #[test]
    fn a_deletion_is_never_refused_and_tells_what_it_breaks() {
        let all = [
            (Kind::IpAddressPool, vec![pool("edge", &["192.0.2.0/25"])]),
            (Kind::BgpAdvertisement, vec![advertisement(&["edge"])]),
        ];
        let review = review_object(&all, Kind::IpAddressPool, "edge", None);
        assert_eq!(review.refused, Vec::<String>::new());
        assert_eq!(
            review.warnings,
            [
                "BGPAdvertisement routes, spec.ipAddressPools[0]: no IPAddressPool is called edge: create it, or remove this"
            ]
        );
    }

    #[test]
    fn a_document_is_judged_when_it_changes() {
        let good = "address-pools: [{name: a, protocol: bgp, addresses: [192.0.2.0/24]}]";
        let bad = good.replace("/24", "");
        assert_eq!(review_document(None, Some(good)).refused, Vec::<String>::new());
        let review = review_document(Some(good), Some(&bad));
        assert_eq!(review.refused.len(), 1, "{review:?}");
        assert!(review.refused[0].contains("write 192.0.2.0/32"), "{review:?}");
        assert_eq!(review_document(Some(&bad), Some(&bad)), Review::default());
        assert!(review_document(Some(good), None).refused[0].contains("data.config"));
        assert_eq!(review_document(None, None), Review::default());
    }
}
