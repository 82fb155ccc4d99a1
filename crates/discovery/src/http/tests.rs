use super::fake::FakeFetch;
use super::*;

fn discoverer(fetch: &Arc<FakeFetch>) -> HttpDiscoverer {
    HttpDiscoverer::new(HttpConfig {
        url: "http://sd/targets".to_owned(),
        refresh_interval: Duration::from_millis(1500),
        fetch: Arc::clone(fetch) as Arc<dyn HttpFetch>,
    })
}

#[tokio::test]
async fn targets_are_read() {
    let fetch = Arc::new(FakeFetch::default());
    fetch.answer(
        200,
        "application/json; charset=utf-8",
        r#"[{"targets":["a:1"],"labels":{"l":"v"}},{"targets":[]}]"#,
    );
    let groups = discoverer(&fetch).ask().await.unwrap();
    assert_eq!(groups.len(), 2);
    assert_eq!(groups[0].source, "http://sd/targets:0");
    assert_eq!(groups[0].labels.to_string(), r#"{__meta_url="http://sd/targets", l="v"}"#);
    assert_eq!(groups[0].targets, [document::target("a:1")]);
    let asked = fetch.asked.lock().join("\n");
    assert_eq!(
        asked,
        r#"http://sd/targets 1.5s [("accept", "application/json"), ("x-prometheus-refresh-interval-seconds", "1.5")]"#
    );
}

#[tokio::test]
async fn bad_answers_say_why() {
    let json = "application/json";
    for (status, content_type, body, want) in [
        (500, json, "[]", "server returned HTTP status 500"),
        (204, json, "", "server returned HTTP status 204"),
        (200, "", "[]", r#"unsupported content type """#),
        (200, "text/html", "[]", r#"unsupported content type "text/html""#),
        (
            200,
            "application/json; charset=latin1",
            "[]",
            r#"unsupported content type "application/json; charset=latin1""#,
        ),
        (200, json, "", "EOF while parsing a value at line 1 column 0"),
        (200, json, "[null]", "nil target group item found (index 0)"),
        (
            200,
            json,
            r#"[{"targets":"a"}]"#,
            r#"invalid type: string "a", expected a sequence at line 1 column 15"#,
        ),
    ] {
        let fetch = Arc::new(FakeFetch::default());
        fetch.answer(status, content_type, body);
        let error = discoverer(&fetch).ask().await.unwrap_err().to_string();
        assert_eq!(error, format!("get http://sd/targets: {want}"));
    }
    let error = discoverer(&Arc::new(FakeFetch::default())).ask().await.unwrap_err();
    assert_eq!(error.to_string(), "get http://sd/targets: connection refused");
}

#[test]
fn content_types_are_told_apart() {
    for (content_type, want) in [
        ("application/json", true),
        ("Application/JSON;charset=UTF-8", true),
        ("application/json; charset=\"utf-8\"", true),
        ("application/jsonl", false),
        ("application/json; version=1", false),
        ("text/plain", false),
    ] {
        assert_eq!(is_json(content_type), want, "{content_type}");
    }
}
