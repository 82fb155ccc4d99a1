//! What the program tells of itself: pools, blocks, features, notices, metrics.

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use web::Notice;

use super::fixture::Fixture;

async fn check(cases: &[(&str, &str)]) {
    let fixture = Fixture::new();
    for (what, expected) in cases {
        let answer = fixture.ask(what).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, *expected), "{what}");
    }
}

#[tokio::test]
async fn pools_show_their_configuration_and_their_relabelling() {
    let rules = [
        r#"{"source_labels":["__address__"],"separator":";","regex":"(.*)","target_label":"instance","replacement":"\u003c$1\u003e","action":"replace"}"#,
        r#"{"source_labels":["env","zone"],"separator":"/","regex":"prod/.*","replacement":"$1","action":"keep"}"#,
        r#"{"separator":";","regex":"env","replacement":"$1","action":"labeldrop"}"#,
    ];
    let steps = |steps: [(&str, bool); 3]| {
        let steps: Vec<String> = rules
            .iter()
            .zip(steps)
            .map(|(rule, (output, keep))| format!(r#"{{"rule":{rule},"output":{output},"keep":{keep}}}"#))
            .collect();
        format!(r#"{{"status":"success","data":{{"steps":[{}]}}}}"#, steps.join(","))
    };
    let kept = steps([
        (r#"{"__address__":"h:1","env":"prod","instance":"<h:1>"}"#, true),
        (r#"{"__address__":"h:1","env":"prod","instance":"<h:1>"}"#, true),
        (r#"{"__address__":"h:1","instance":"<h:1>"}"#, true),
    ]);
    let dropped =
        steps([(r#"{"__address__":"h:1","instance":"<h:1>"}"#, true), ("{}", false), ("{}", false)]);
    let path = "/api/v1/targets/relabel_steps?scrapePool=a&labels=";
    check(&[
        (
            "/api/v1/scrape_pools/config?scrapePool=a",
            r#"{"status":"success","data":{"yaml":"job_name: a\n"}}"#,
        ),
        (&format!("{path}%7B%22__address__%22:%22h:1%22,%22env%22:%22prod%22%7D"), &kept),
        (&format!("{path}%7B%22__address__%22:%22h:1%22%7D"), &dropped),
    ])
    .await;
}

#[tokio::test]
async fn blocks_have_the_form_of_prometheus() {
    check(&[(
        "/api/v1/status/tsdb/blocks",
        concat!(
            r#"{"status":"success","data":{"blocks":[{"ulid":"01HF0000000000000000000000","minTime":1000,"maxTime":2001,"#,
            r#""stats":{"numSamples":9,"numFloatSamples":7,"numHistogramSamples":2,"numSeries":3},"compaction":{"level":1},"version":1},"#,
            r#"{"ulid":"01HF0000000000000000000000","minTime":1000,"maxTime":2001,"#,
            r#""stats":{"numSamples":7,"numFloatSamples":7,"numSeries":3},"compaction":{"level":2},"version":1}]}}"#
        ),
    )])
    .await;
}

#[tokio::test]
async fn features_tell_what_is_switched_on() {
    let answer = Fixture::new().ask("/api/v1/features").await;
    let json: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    for (category, name, on) in [
        ("api", "admin", false),
        ("api", "remote_write_receiver", true),
        ("api", "otlp_write_receiver", false),
        ("promql_functions", "rate", true),
        ("promql_functions", "mad_over_time", false),
        ("promql_operators", ">=", true),
        ("promql_operators", "topk", true),
        ("promql_operators", "limitk", false),
        ("promql", "fill", false),
        ("tsdb", "native_histograms", true),
    ] {
        assert_eq!(json["data"][category][name], on, "{category} {name}: {}", answer.body);
    }
    assert!(answer.body.contains(r#""<=":true"#), "operators are not escaped");
}

#[tokio::test]
async fn notices_are_listed_and_followed() {
    let fixture = Fixture::new();
    fixture.notifications.set(Notice::ReloadFailed, true, 1_500);
    let text = r#"{"text":"Configuration reload has failed.","date":"1970-01-01T00:00:01.5Z","active":"#;
    let listed = fixture.ask("/api/v1/notifications").await.body;
    assert_eq!(listed, format!(r#"{{"status":"success","data":[{text}true}}]}}"#));

    let request = Request::get("/api/v1/notifications/live").body(Body::empty()).expect("a request");
    let response = fixture.response(request).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut next = async || {
        let frame = body.frame().await?.expect("a piece");
        Some(String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text"))
    };
    assert_eq!(next().await, Some(format!("data: {text}true}}\n\n")));
    fixture.notifications.set(Notice::ReloadFailed, false, 2_000);
    assert_eq!(next().await, Some(format!("data: {text}false}}\n\n")));
    fixture.notifications.close();
    assert_eq!(next().await, None, "the stream ends with the program");
    assert_eq!(fixture.ask("/api/v1/notifications/live").await.status.as_u16(), 204);
}

#[tokio::test]
async fn metrics_come_as_json_too() {
    let fixture = Fixture::new();
    fixture.ask("/api/v1/query?query=1").await;
    let answer = fixture.ask("/api/v1/status/self_metrics?metric_name_pattern=marigraph_web_req.*").await;
    let json: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let names: Vec<&str> =
        json["data"].as_array().expect("a list").iter().filter_map(|f| f["name"].as_str()).collect();
    assert_eq!(names, ["marigraph_web_request_duration_seconds", "marigraph_web_requests_total"]);
    assert_eq!(json["data"][1]["type"], "COUNTER");
    assert_eq!(json["data"][1]["metric"][0]["counter"]["value"], 1);
    assert_eq!(json["data"][0]["metric"][0]["histogram"]["sampleCount"], "1", "{}", answer.body);
}
