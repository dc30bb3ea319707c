use http_body_util::BodyExt as _;

use super::*;

async fn body(response: Response<Full<Bytes>>) -> (u16, String) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn the_diagnostic_port_answers_its_paths_and_no_other() {
    let registry = Metrics::new();
    for (path, wanted) in [
        ("/proxyMode", (200, "nftables")),
        ("/healthz", (200, "ok")),
        ("/", (404, "404 page not found\n")),
        ("/proxyMode/x", (404, "404 page not found\n")),
    ] {
        let (status, text) = body(diagnostics(path, None, &registry)).await;
        assert_eq!((status, &*text), wanted, "{path}");
    }
    let answer = diagnostics("/metrics", None, &registry);
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(body(answer).await.1.contains("process_resident_memory_bytes"));
    let answer = diagnostics("/metrics", Some("application/openmetrics-text"), &registry);
    assert!(body(answer).await.1.ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_health_port_tells_eligibility_by_path_and_counts_its_answers() {
    let registry = Metrics::new();
    let metrics = ProxyMetrics::new(&registry);
    let time = Timestamp::from_second(1_800_000_000).unwrap();
    let state = ProxyState::default();
    let ask = |path: &str| health(path, &state, &metrics, Instant::now(), time);
    assert_eq!(ask("/healthz").status(), 503);
    assert_eq!(ask("/livez").status(), 200);
    assert_eq!(ask("/metrics").status(), 404);
    assert_eq!(ask("/livez").headers()["content-type"], "application/json");
    let (_, text) = body(ask("/healthz")).await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["nodeEligible"], false);
    let text = registry.encode().unwrap();
    assert!(text.contains("kubeproxy_proxy_healthz_total{code=\"503\"} 2"), "{text}");
    assert!(text.contains("kubeproxy_proxy_livez_total{code=\"200\"} 2"), "{text}");
}
