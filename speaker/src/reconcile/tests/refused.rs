//! One Service that the real kernel refuses: told, counted and tried again, and nobody else's business.

use super::*;

/// A load balancer Service of one port, and its slice.
fn named(name: &str, cluster_ip: &str, vip: &str) -> (ServiceObject, SliceObject) {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": name, "uid": name},
        "spec": {
            "type": "LoadBalancer", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip],
            "ports": [{"port": 80, "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": vip}]}},
    }))
    .unwrap();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.1.5"], "nodeName": "node-1"}],
    }))
    .unwrap();
    let name = ObjectName::new("shop", name);
    (fold_service(&service), SliceObject { name, reading: SliceView::read(&slice, &mut Names::default()) })
}

#[test]
#[ignore = "needs a network namespace"]
fn a_service_that_the_kernel_refuses_is_found_among_others_told_and_tried_again() {
    in_namespace(|| async {
        addresses().await;
        // Nobody notices what others do, or it would be undone before it does harm.
        let lab = Lab::start_with(Bird::start(""), false).await;
        lab.lists(vec![service("192.0.2.1")]).await;
        lab.routed("192.0.2.1").await;
        let failures = |ip_family| lab.failures.get_or_create(&FamilyLabel { ip_family }).get();
        assert_eq!(failures(IpFamily::V4), 0);
        // The key of a Service to come, with another value: the kernel knows no replacement.
        output("nft", &["add element ip herald services { 10.96.0.12 . tcp . 80 : fe01:4 }"]);
        for n in 11..=14 {
            let (service, slice) = named(&format!("s{n}"), &format!("10.96.0.{n}"), &format!("192.0.2.{n}"));
            lab.say(Observed::Slices(WatchEvent::Applied(slice))).await;
            lab.say(Observed::Services(WatchEvent::Applied(service))).await;
        }
        for n in [11, 13, 14] {
            lab.routed(&format!("192.0.2.{n}")).await;
        }
        let shown = || lab.registry.encode().unwrap();
        eventually("the refusal is told", || {
            shown().contains(r#"herald_speaker_not_announced{reason="rulesRefused"} 1"#)
        })
        .await;
        assert!(shown().lines().any(|line| line == "herald_speaker_failed_services 1"), "{}", shown());
        assert!(!rules().contains("192.0.2.12"), "nothing of it is in the kernel: {}", rules());
        assert!(failures(IpFamily::V4) > 0);
        assert_eq!(failures(IpFamily::V6), 0);
        // Tried again with pauses that grow: 200, 400, 800 ms; not in a spin.
        let before = failures(IpFamily::V4);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let again = failures(IpFamily::V4) - before;
        assert!((1..=4).contains(&again), "{again} tries in a second");
        output("nft", &["delete element ip herald services { 10.96.0.12 . tcp . 80 : fe01:4 }"]);
        lab.routed("192.0.2.12").await;
        assert!(shown().lines().any(|line| line == "herald_speaker_failed_services 0"), "{}", shown());
        assert_eq!(lab.bird.established(), 1, "{}", lab.bird.log());
        lab.stop().await;
    });
}
