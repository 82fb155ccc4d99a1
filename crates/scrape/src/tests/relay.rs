//! Requests of others, passed on to targets.

use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use model::SourceId;

use super::*;

async fn relayed(bench: &Bench, id: SourceId, headers: &HeaderMap) -> String {
    match bench.manager.relay(id, headers, Duration::from_secs(3)).await {
        Err(error) => error.to_string(),
        Ok(response) => {
            let status = response.status().as_u16();
            let encoding = response.headers().get("content-encoding").cloned();
            let body = response.into_body().collect().await.expect("a body").to_bytes();
            let encoding = encoding.map(|e| format!(" {}", e.to_str().unwrap_or("?"))).unwrap_or_default();
            format!("{status}{encoding} {}", String::from_utf8_lossy(&body))
        }
    }
}

#[tokio::test(start_paused = true)]
async fn targets_are_asked_for_others_with_what_their_job_knows() {
    let bench = Bench::new();
    bench.apply(vec![job(|_, http| {
        http.authorization = Some(crate::config::AuthorizationText {
            credentials: Some(crate::config::Secret::new("secret")),
            ..Default::default()
        });
        http.follow_redirects = Some(true);
    })]);
    bench.targets("j", &["a:1", "169.254.169.254:80", "gone:1"]);
    bench.network.set("169.254.169.254:80", Answer::text("keys 1\n"));
    bench.network.set("a:1", Answer::text("a 1\n").with("content-encoding", "gzip"));
    let targets = bench.manager.active_targets();
    let id = |instance: &str| {
        let target = targets.iter().find(|target| target.labels.get("instance") == Some(instance));
        target.expect("a target").id
    };
    let mut headers = HeaderMap::new();
    headers.insert("accept-encoding", HeaderValue::from_static("gzip"));
    headers.insert("authorization", HeaderValue::from_static("Bearer the-asker"));
    headers.insert("x-other", HeaderValue::from_static("1"));
    assert_eq!(relayed(&bench, id("a:1"), &headers).await, "200 gzip a 1\n");
    assert_eq!(relayed(&bench, id("a:1"), &headers).await, "200 gzip a 1\n");
    let seen = bench.network.requests.lock().clone();
    let request = "a:1 /metrics; host: a:1; user-agent: marigraph/0.1.0; accept: */*; accept-encoding: gzip; \
                   x-prometheus-scrape-timeout-seconds: 3; authorization: Bearer secret";
    assert_eq!(seen, [request, request]);
    assert_eq!(*bench.network.connections.lock(), 1, "the connection is kept");

    bench
        .network
        .set("a:1", Answer { status: 302, ..Answer::text("") }.with("location", "http://elsewhere/"));
    for (what, id, expected) in [
        ("a redirect", id("a:1"), "get http://a:1/metrics: server returned HTTP status 302 Found"),
        (
            "a link-local address",
            id("169.254.169.254:80"),
            "get http://169.254.169.254/metrics: connect to 169.254.169.254:80: 169.254.169.254 is a \
             link-local address, which nobody may ask for from afar",
        ),
        ("nobody there", id("gone:1"), "get http://gone:1/metrics: connect to gone:1: connection refused"),
        (
            "a target that is not scraped",
            SourceId(7),
            "no target 00000000000000000000000000000007 is scraped here",
        ),
    ] {
        assert_eq!(relayed(&bench, id, &headers).await, expected, "{what}");
    }
    bench.network.set("a:1", Answer { status: 500, ..Answer::text("broken") });
    assert_eq!(relayed(&bench, id("a:1"), &headers).await, "500 broken");
    bench.network.set("a:1", Answer { delay: Duration::from_secs(60), ..Answer::text("late") });
    let late = "get http://a:1/metrics: context deadline exceeded (no whole answer within 3s)";
    assert_eq!(relayed(&bench, id("a:1"), &headers).await, late);
}
