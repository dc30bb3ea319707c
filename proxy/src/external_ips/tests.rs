use serde_json::json;

use super::*;
use crate::testing::{ip, net, view};

fn name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

fn holders() -> Holders {
    let mut holders = Holders::default();
    holders.replace(
        &name("other"),
        None,
        Some(&view(json!({"type": "LoadBalancer", "clusterIP": "10.96.0.20"}), &["192.0.2.1"])),
    );
    holders
}

#[test]
fn everything_is_served_but_what_belongs_to_somebody() {
    let holders = holders();
    let nodes = [ip("10.0.0.2")].into();
    let pods = [net("10.244.0.0/16")];
    let services = [net("10.96.0.0/12")];
    let reserved = [(ip("10.0.9.1"), Reserved::Peer), (ip("10.0.9.2"), Reserved::ApiServer)].into();
    let open = Context {
        node_addresses: &nodes,
        pod_cidrs: &pods,
        service_cidrs: &services,
        reserved: &reserved,
        allowed: None,
        holders: &holders,
    };
    let allowed = [net("192.0.2.0/28"), net("10.0.0.0/8")];
    let listed = Context { allowed: Some(&allowed), ..open };
    for (address, in_open, in_listed) in [
        ("169.10.10.1", None, Some("ExternalIPNotAllowed")),
        ("192.0.2.2", None, None),
        ("192.0.2.99", None, Some("ExternalIPNotAllowed")),
        ("192.0.2.1", Some("ExternalIPHeldByService"), Some("ExternalIPHeldByService")),
        ("10.0.0.2", Some("ExternalIPIsNodeAddress"), Some("ExternalIPIsNodeAddress")),
        ("10.0.9.1", Some("ExternalIPIsPeerAddress"), Some("ExternalIPIsPeerAddress")),
        ("10.0.9.2", Some("ExternalIPIsAPIServerAddress"), Some("ExternalIPIsAPIServerAddress")),
        ("10.244.7.7", Some("ExternalIPInPodNetwork"), Some("ExternalIPInPodNetwork")),
        ("10.96.0.99", Some("ExternalIPInServiceNetwork"), Some("ExternalIPInServiceNetwork")),
    ] {
        for (context, wanted) in [(&open, in_open), (&listed, in_listed)] {
            let found = judge(ip(address), &name("web"), context).err();
            assert_eq!(found.as_ref().map(|refused| refused.reason().word()), wanted, "{address}");
        }
    }
    assert_eq!(judge(ip("192.0.2.1"), &name("other"), &open), Ok(()), "its own address");
    let nothing = Context { allowed: Some(&[]), ..open };
    assert_eq!(
        judge(ip("192.0.2.2"), &name("web"), &nothing),
        Err(Refused::NotAllowed { ip: ip("192.0.2.2") })
    );
    let held = judge(ip("192.0.2.1"), &name("web"), &open).unwrap_err();
    assert_eq!(
        held.to_string(),
        "externalIP 192.0.2.1 is not served: it is the address of Service shop/other"
    );
}

#[test]
fn a_refused_address_leaves_the_rest_of_the_service() {
    let holders = holders();
    let nodes = [ip("10.0.0.2")].into();
    let context = Context {
        node_addresses: &nodes,
        pod_cidrs: &[],
        service_cidrs: &[],
        reserved: &BTreeMap::new(),
        allowed: None,
        holders: &holders,
    };
    let web = view(json!({"clusterIP": "10.96.0.10", "externalIPs": ["10.0.0.2", "192.0.2.7"]}), &[]);
    let (admitted, refused) = admit(&name("web"), &web, &context);
    assert_eq!(*admitted.external_ips, [ip("192.0.2.7")]);
    assert_eq!(admitted.cluster_ips, web.cluster_ips);
    assert_eq!(refused, [Refused::NodeAddress { ip: ip("10.0.0.2") }]);
    let fine = view(json!({"clusterIP": "10.96.0.10", "externalIPs": ["192.0.2.7"]}), &[]);
    assert!(
        matches!(admit(&name("web"), &fine, &context), (Cow::Borrowed(_), refused) if refused.is_empty())
    );
}

#[test]
fn holders_tell_which_addresses_changed_hands() {
    let mut holders = Holders::default();
    let with = |ingress: &str| view(json!({"type": "LoadBalancer", "clusterIP": "10.96.0.20"}), &[ingress]);
    let (one, two) = (with("192.0.2.1"), with("192.0.2.2"));
    let mut x = |before, now| holders.replace(&name("x"), before, now);
    assert_eq!(x(None, Some(&one)), [ip("10.96.0.20"), ip("192.0.2.1")].into());
    assert_eq!(x(Some(&one), Some(&one)), [].into());
    assert_eq!(x(Some(&one), Some(&two)), [ip("192.0.2.1"), ip("192.0.2.2")].into());
    holders.replace(&name("y"), None, Some(&two));
    assert_eq!(holders.of(ip("192.0.2.2"), &name("x")), (true, Some(&name("y"))));
    holders.replace(&name("y"), Some(&two), None);
    assert_eq!(holders.of(ip("192.0.2.2"), &name("z")), (false, Some(&name("x"))));
    assert_eq!(holders.of(ip("192.0.2.1"), &name("z")), (false, None));
    holders.replace(&name("x"), Some(&two), None);
    assert_eq!(holders.of(ip("192.0.2.2"), &name("z")), (false, None));
}
