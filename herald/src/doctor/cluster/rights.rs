//! What Herald's accounts must be allowed, asked of the API server for each: a SubjectAccessReview tells without trying.

use futures::StreamExt;
use herald_runtime::said;
use kube::Client;
use serde_json::{Value, json};

/// Reviews at a time.
const AT_ONCE: usize = 8;
const CONFIGURATION: &str =
    "ipaddresspools,l2advertisements,bgpadvertisements,bgppeers,bfdprofiles,communities";

/// As `manifests/base/rights.yaml` grants it: account, in Herald's namespace alone, group, resources, verbs.
const RIGHTS: &[(&str, bool, &str, &str, &str)] = &[
    ("herald-controller", false, "", "services", "list,watch,patch"),
    ("herald-controller", false, "", "services/status", "patch"),
    ("herald-controller", false, "", "namespaces", "list,watch"),
    ("herald-controller", false, "", "events", "create,patch"),
    ("herald-controller", true, "coordination.k8s.io", "leases", "get,create,update"),
    ("herald-controller", true, "", "configmaps", "list,watch"),
    ("herald-controller", true, "metallb.io", CONFIGURATION, "list,watch"),
    ("herald-controller", true, "metallb.io", "ipaddresspools/status", "patch"),
    ("herald-controller", true, "metallb.io", "configurationstates", "get,create,patch"),
    ("herald-controller", true, "metallb.io", "configurationstates/status", "patch"),
    ("herald-speaker", false, "", "services,nodes", "list,watch"),
    ("herald-speaker", false, "discovery.k8s.io", "endpointslices", "list,watch"),
    ("herald-speaker", false, "networking.k8s.io", "servicecidrs", "list,watch"),
    ("herald-speaker", false, "", "namespaces:kube-system", "get"),
    ("herald-speaker", false, "", "events", "create,patch"),
    ("herald-speaker", true, "", "configmaps", "list,watch"),
    ("herald-speaker", true, "", "secrets", "list,watch"),
    ("herald-speaker", true, "metallb.io", CONFIGURATION, "list,watch"),
    ("herald-speaker", true, "metallb.io", "configurationstates", "get,create,patch"),
    ("herald-speaker", true, "metallb.io", "configurationstates/status", "patch"),
    (
        "herald-speaker",
        true,
        "metallb.io",
        "servicel2statuses,servicebgpstatuses",
        "list,create,patch,deletecollection",
    ),
    ("herald-speaker", true, "metallb.io", "servicel2statuses/status,servicebgpstatuses/status", "patch"),
];

/// One right: who, and what is asked of the API server.
struct Right {
    account: &'static str,
    /// As it is told: `patch services/status`.
    what: String,
    attributes: Value,
}

fn rights(namespace: &str) -> Vec<Right> {
    let mut all = Vec::new();
    for &(account, ours, group, resources, verbs) in RIGHTS {
        for (resource, verb) in
            resources.split(',').flat_map(|resource| verbs.split(',').map(move |verb| (resource, verb)))
        {
            let (named, name) = resource.split_once(':').unwrap_or((resource, ""));
            let (plural, sub) = named.split_once('/').unwrap_or((named, ""));
            let mut attributes = json!({ "group": group, "resource": plural, "verb": verb });
            for (key, text) in
                [("subresource", sub), ("name", name), ("namespace", if ours { namespace } else { "" })]
            {
                if !text.is_empty() {
                    attributes[key] = text.into();
                }
            }
            all.push(Right { account, what: format!("{verb} {named}"), attributes });
        }
    }
    all
}

/// Those that Herald's accounts lack.
pub(super) async fn denied(client: &Client, namespace: &str) -> Result<Vec<String>, String> {
    let reviews = rights(namespace).into_iter().map(|right| async move {
        let allowed = review(client, namespace, &right).await.map_err(said)?;
        Ok((!allowed).then(|| format!("{}: {}", right.account, right.what)))
    });
    let answers: Vec<Result<Option<String>, String>> =
        futures::stream::iter(reviews).buffered(AT_ONCE).collect().await;
    let lacking: Result<Vec<Option<String>>, String> = answers.into_iter().collect();
    Ok(lacking?.into_iter().flatten().collect())
}

async fn review(client: &Client, namespace: &str, right: &Right) -> kube::Result<bool> {
    let account = right.account;
    let groups = [
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".to_owned(),
    ];
    let body = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:{namespace}:{account}"),
            "groups": groups,
            "resourceAttributes": right.attributes,
        },
    });
    let request = http::Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    let answer: Value = client.request(request).await?;
    Ok(answer["status"]["allowed"] == true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// One word of each right, whoever says it.
    type Said = BTreeSet<(String, bool, String, String, String)>;

    #[test]
    fn the_table_says_what_the_manifest_grants() {
        let text = include_str!("../../../../manifests/base/rights.yaml");
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        let mut granted = Said::new();
        let words = |value: &Value| {
            value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for role in documents.iter().filter(|object| object["rules"].is_array()) {
            for rule in role["rules"].as_array().unwrap() {
                for (resource, verb) in words(&rule["resources"])
                    .iter()
                    .flat_map(|r| words(&rule["verbs"]).into_iter().map(move |v| (r.clone(), v)))
                {
                    let resource = match rule["resourceNames"][0].as_str() {
                        Some(name) => format!("{resource}:{name}"),
                        None => resource,
                    };
                    granted.insert((
                        role["metadata"]["name"].as_str().unwrap().to_owned(),
                        role["kind"] == "Role",
                        rule["apiGroups"][0].as_str().unwrap().to_owned(),
                        resource,
                        verb,
                    ));
                }
            }
        }
        let mut said = Said::new();
        for &(account, ours, group, resources, verbs) in RIGHTS {
            for resource in resources.split(',') {
                for verb in verbs.split(',') {
                    said.insert((
                        account.to_owned(),
                        ours,
                        group.to_owned(),
                        resource.to_owned(),
                        verb.to_owned(),
                    ));
                }
            }
        }
        assert_eq!(said, granted);
    }

    #[test]
    fn a_review_asks_for_subresource_name_and_namespace() {
        let all = rights("metallb-system");
        let of = |what: &str| all.iter().find(|right| right.what == what).unwrap().attributes.clone();
        assert_eq!(
            of("patch services/status"),
            json!({ "group": "", "resource": "services", "subresource": "status", "verb": "patch" })
        );
        assert_eq!(
            of("get namespaces"),
            json!({ "group": "", "resource": "namespaces", "name": "kube-system", "verb": "get" })
        );
        assert_eq!(of("list secrets")["namespace"], "metallb-system");
    }
}
