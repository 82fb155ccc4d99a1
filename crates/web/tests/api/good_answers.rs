//! Answers byte for byte, as Prometheus gives them for the same data.

use super::fixture::{Fixture, Setup};

async fn check(fixture: &Fixture, cases: &[(&str, &str)]) {
    for (what, expected) in cases {
        let answer = fixture.ask(what).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, *expected), "{what}");
        assert_eq!(answer.headers["content-type"], "application/json", "{what}");
    }
}

#[tokio::test]
async fn instant_queries() {
    let up = concat!(
        r#"{"status":"success","data":{"resultType":"vector","result":["#,
        r#"{"metric":{"__name__":"up","instance":"x","job":"a<b"},"value":[1000.500,"1"]},"#,
        r#"{"metric":{"__name__":"up","instance":"y","job":"a<b"},"value":[1000.500,"1"]}]}}"#
    );
    check(
        &Fixture::new(),
        &[
            ("/api/v1/query?query=up&time=1000.5", up),
            ("POST /api/v1/query query=up&time=1000.5", up),
            ("POST /api/v1/query?time=1 query=up&time=1000.5", up),
            ("/api/v1/query?query=up&time=1970-01-01T00:16:40.5Z", up),
            ("/api/v1/query?query=odd", r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"odd","http.status":"200"},"value":[1060,"1e-07"]}]}}"#),
            ("/api/v1/query?query=absent_metric", r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#),
            ("/api/v1/query?query=1e21&time=0.05", r#"{"status":"success","data":{"resultType":"scalar","result":[0.05,"1000000000000000000000"]}}"#),
            ("/api/v1/query?query=%22a%3Cb%22&time=7", r#"{"status":"success","data":{"resultType":"string","result":[7,"a\u003cb"]}}"#),
            (
                "/api/v1/query?query=up&time=1000.5&limit=1",
                concat!(
                    r#"{"status":"success","data":{"resultType":"vector","result":["#,
                    r#"{"metric":{"__name__":"up","instance":"x","job":"a<b"},"value":[1000.500,"1"]}]},"#,
                    r#""warnings":["results truncated due to limit"]}"#
                ),
            ),
            (
                "/api/v1/query?query=requests_total%7Binstance%3D%22y%22%7D%5B20s%5D&time=1045",
                concat!(
                    r#"{"status":"success","data":{"resultType":"matrix","result":["#,
                    r#"{"metric":{"__name__":"requests_total","instance":"y","job":"a<b"},"values":[[1030,"60.25"],[1045,"90.25"]]}]}}"#
                ),
            ),
            ("/api/v1/query?query=up&time=1060.001&lookback_delta=1ms", r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#),
        ],
    )
    .await;
}

#[tokio::test]
async fn range_queries() {
    let sum = concat!(
        r#"{"status":"success","data":{"resultType":"matrix","result":["#,
        r#"{"metric":{},"values":[[1000,"0.25"],[1020.500,"60.25"],[1041,"120.25"]]}]}}"#
    );
    check(
        &Fixture::new(),
        &[
            ("/api/v1/query_range?query=sum(requests_total)&start=1000&end=1041&step=20.5", sum),
            ("POST /api/v1/query_range query=sum(requests_total)&start=1000&end=1041&step=20s500ms", sum),
            ("/api/v1/query_range?query=2&start=0&end=1&step=1", r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[0,"2"],[1,"2"]]}]}}"#),
            ("/api/v1/query_range?query=up&start=0&end=1&step=1", r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#),
        ],
    )
    .await;
}

#[tokio::test]
async fn annotations_and_statistics() {
    let fixture = Fixture::new();
    let info = concat!(
        r#""infos":["PromQL info: metric might not be a counter, "#,
        r#"name does not end in _total/_sum/_count/_bucket: \"up\" (1:6)"]}"#
    );
    let answer = fixture.ask("/api/v1/query?query=rate(up%5B1m%5D)").await;
    assert!(answer.body.ends_with(info), "{}", answer.body);

    let answer = fixture.ask("/api/v1/query?query=up&stats=yes").await;
    let json: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let warning = r#"value "yes" for parameter "stats" is deprecated and will be rejected in the next major release, use "true" or "all""#;
    assert_eq!(json["warnings"], serde_json::json!([warning]));
    assert!(json["data"]["stats"]["timings"]["execTotalTime"].is_number(), "{}", answer.body);
    assert!(json["data"]["stats"]["samples"]["peakSamples"].is_u64(), "{}", answer.body);

    let answer = fixture.ask("/api/v1/query_range?query=vector(1)&start=1.5&end=3&step=1&stats=all").await;
    let samples = concat!(
        r#""samples":{"totalQueryableSamplesPerStep":[[1.5,0],[2.5,0]],"totalQueryableSamples":0,"#,
        r#""samplesReadPerStep":[[1.5,0],[2.5,0]],"samplesRead":0,"peakSamples":"#
    );
    assert!(answer.body.contains(samples), "{}", answer.body);
}

#[tokio::test]
async fn look_ups() {
    check(
        &Fixture::new(),
        &[
            ("/api/v1/labels", r#"{"status":"success","data":["__name__","http.status","instance","job"]}"#),
            ("POST /api/v1/labels match[]=odd&match[]=up", r#"{"status":"success","data":["__name__","http.status","instance","job"]}"#),
            ("/api/v1/labels?match[]=odd", r#"{"status":"success","data":["__name__","http.status"]}"#),
            ("/api/v1/labels?limit=2", r#"{"status":"success","data":["__name__","http.status"],"warnings":["results truncated due to limit"]}"#),
            ("/api/v1/labels?limit=4", r#"{"status":"success","data":["__name__","http.status","instance","job"]}"#),
            ("/api/v1/label/job/values", r#"{"status":"success","data":["a\u003cb"]}"#),
            ("/api/v1/label/U__http_2e_status/values", r#"{"status":"success","data":["200"]}"#),
            ("/api/v1/label/http.status/values", r#"{"status":"success","data":["200"]}"#),
            ("/api/v1/label/nothing/values", r#"{"status":"success","data":[]}"#),
            ("/api/v1/label/__name__/values?match[]=up&match[]=odd", r#"{"status":"success","data":["odd","up"]}"#),
            ("/api/v1/label/instance/values?start=-292273086-05-16T16:47:06Z&end=292277025-08-18T07:12:54.999999999Z", r#"{"status":"success","data":["x","y"]}"#),
            (
                "/api/v1/series?match[]=up&match[]=%7Binstance%3D%22x%22%2C__name__%3D%22up%22%7D",
                concat!(
                    r#"{"status":"success","data":[{"__name__":"up","instance":"x","job":"a<b"},"#,
                    r#"{"__name__":"up","instance":"y","job":"a<b"}]}"#
                ),
            ),
            ("/api/v1/series?match[]=up&limit=1", r#"{"status":"success","data":[{"__name__":"up","instance":"x","job":"a<b"}],"warnings":["results truncated due to limit"]}"#),
            ("/api/v1/series?match[]=nothing", r#"{"status":"success","data":[]}"#),
        ],
    )
    .await;
}

#[tokio::test]
async fn metadata() {
    let up = r#""up":[{"type":"gauge","unit":"","help":"Whether it is."}]"#;
    let requests = r#""requests_total":[{"type":"counter","unit":"","help":"Requests."},{"type":"counter","unit":"","help":"All \"requests\"."}]"#;
    let of = |target: &str, metric: &str| {
        let metric = if metric.is_empty() { String::new() } else { format!(r#""metric":"{metric}","#) };
        format!(
            r#"{{"target":{{"job":"{target}"}},{metric}"type":"gauge","help":"Help \u003cof it\u003e.","unit":""}}"#
        )
    };
    check(
        &Fixture::new(),
        &[
            ("/api/v1/metadata", &format!(r#"{{"status":"success","data":{{{requests},{up}}}}}"#)),
            ("/api/v1/metadata?limit=-1", &format!(r#"{{"status":"success","data":{{{requests},{up}}}}}"#)),
            ("/api/v1/metadata?limit=0", r#"{"status":"success","data":{}}"#),
            ("/api/v1/metadata?metric=up", &format!(r#"{{"status":"success","data":{{{up}}}}}"#)),
            ("/api/v1/metadata?limit=1&limit_per_metric=1", r#"{"status":"success","data":{"requests_total":[{"type":"counter","unit":"","help":"Requests."}]}}"#),
            ("/api/v1/targets/metadata?match_target=%7Bjob%3D%22a%22%7D", &format!(r#"{{"status":"success","data":[{},{}]}}"#, of("a", "up"), of("a", "other"))),
            ("/api/v1/targets/metadata?metric=up", &format!(r#"{{"status":"success","data":[{},{}]}}"#, of("a", ""), of("b", ""))),
            ("/api/v1/targets/metadata?limit=1", &format!(r#"{{"status":"success","data":[{},{}]}}"#, of("a", "up"), of("a", "other"))),
            ("/api/v1/targets/metadata?limit=0", r#"{"status":"success","data":[]}"#),
        ],
    )
    .await;
}

#[tokio::test]
async fn targets() {
    let active = |job: &str, error: &str, scraped: &str, health: &str| {
        format!(
            concat!(
                r#"{{"discoveredLabels":{{"__address__":"10.0.0.1:80","job":"{}"}},"labels":{{"instance":"10.0.0.1:80","job":"{}"}},"#,
                r#""scrapePool":"{}","scrapeUrl":"http://10.0.0.1:80/metrics","globalUrl":"http://10.0.0.1:80/metrics","#,
                r#""lastError":"{}","lastScrape":"{}","lastScrapeDuration":0.0125,"health":"{}","#,
                r#""scrapeInterval":"15s","scrapeTimeout":"10s"}}"#
            ),
            job, job, job, error, scraped, health
        )
    };
    let a = active("a", "", "2015-07-01T20:10:30.78Z", "up");
    let b = active("b", r#"connection \"refused\""#, "0001-01-01T00:00:00Z", "down");
    let dropped = r#"[{"discoveredLabels":{"job":"b"},"scrapePool":"b"}]"#;
    let of = |active: &str, dropped: &str, counts: &str| {
        format!(
            r#"{{"status":"success","data":{{"activeTargets":[{active}],"droppedTargets":{dropped},"droppedTargetCounts":{counts}}}}}"#
        )
    };
    let counts = r#"{"a":0,"b":1}"#;
    check(
        &Fixture::new(),
        &[
            ("/api/v1/targets", &of(&format!("{a},{b}"), dropped, counts)),
            ("/api/v1/targets?state=Any&scrapePool=a", &of(&a, "[]", counts)),
            ("/api/v1/targets?state=active&scrapePool=b", &of(&b, "[]", "null")),
            ("/api/v1/targets?state=dropped", &of("", dropped, counts)),
            ("/api/v1/scrape_pools", r#"{"status":"success","data":{"scrapePools":["a","b"]}}"#),
        ],
    )
    .await;
}

#[tokio::test]
async fn status_pages() {
    check(
        &Fixture::new(),
        &[
            ("/api/v1/status/config", r#"{"status":"success","data":{"yaml":"global:\n  scrape_interval: 15s\n"}}"#),
            ("/api/v1/status/flags", r#"{"status":"success","data":{"retention.time":"15d","storage.path":"./data"}}"#),
            ("/api/v1/status/buildinfo", r#"{"status":"success","data":{"version":"1.2.3","revision":"","branch":"","buildUser":"","buildDate":"","goVersion":"rustc"}}"#),
            ("/api/v1/status/walreplay", r#"{"status":"success","data":{"min":0,"max":0,"current":0}}"#),
            (
                "/api/v1/status/tsdb?limit=1",
                concat!(
                    r#"{"status":"success","data":{"headStats":{"numSeries":5,"numLabelPairs":7,"chunkCount":1,"minTime":1000000,"maxTime":1060000},"#,
                    r#""seriesCountByMetricName":[{"name":"up","value":2}],"labelValueCountByLabelName":[],"#,
                    r#""memoryInBytesByLabelName":[],"seriesCountByLabelValuePair":[]}}"#
                ),
            ),
            (
                "/api/v1/status/series?limit=1",
                concat!(
                    r#"{"status":"success","data":{"series":5,"limits":{"tenant":100,"source":4,"job":0},"#,
                    r#""sources":[{"labels":{"job":"a"},"series":2,"refused":1}],"jobs":[{"labels":{"job":"a"},"series":2,"refused":1}]}}"#
                ),
            ),
            ("/api/v1/rules?type=alert&exclude_alerts=true&group_limit=5", r#"{"status":"success","data":{"groups":[]}}"#),
            ("/api/v1/parse_query?query=1e3", r#"{"status":"success","data":{"type":"numberLiteral","val":"1000"}}"#),
            ("/api/v1/alerts", r#"{"status":"success","data":{"alerts":[]}}"#),
            ("/api/v1/alertmanagers", r#"{"status":"success","data":{"activeAlertmanagers":[],"droppedAlertmanagers":[]}}"#),
            ("/api/v1/notifications", r#"{"status":"success","data":[]}"#),
            ("/api/v1/query_exemplars?query=up", r#"{"status":"success","data":[]}"#),
            ("POST /api/v1/format_query query=sum(up)by(job)", r#"{"status":"success","data":"sum by (job) (up)"}"#),
        ],
    )
    .await;
    let answer = Fixture::new().ask("/api/v1/status/runtimeinfo").await;
    let json: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let data = &json["data"];
    for (field, expected) in [
        ("startTime", "1970-01-01T00:00:01Z".into()),
        ("serverTime", "1970-01-01T00:17:40Z".into()),
        ("lastConfigTime", "1970-01-01T00:00:02.5Z".into()),
        ("reloadConfigSuccess", serde_json::Value::Bool(true)),
        ("corruptionCount", 0.into()),
        ("storageRetention", "15d".into()),
    ] {
        assert_eq!(data[field], expected, "{field}");
    }
}

#[tokio::test]
async fn exemplars_of_no_series_are_no_content() {
    let fixture = Fixture::new();
    for (query, status) in
        [("1", 204), ("vector(1)%2B(2)", 204), ("sum(rate(up%5B5m%5D))", 200), ("2*-up", 200)]
    {
        let answer = fixture.ask(&format!("/api/v1/query_exemplars?query={query}")).await;
        assert_eq!(answer.status.as_u16(), status, "{query}");
    }
}

#[tokio::test]
async fn a_snapshot_has_a_name() {
    let fixture = Fixture::with(Setup { admin: true, ..Setup::default() });
    for what in [
        "POST /api/v1/admin/tsdb/snapshot",
        "PUT /api/v1/admin/tsdb/snapshot?skip_head=T",
        "POST /api/v1/admin/tsdb/snapshot skip_head=false",
    ] {
        let answer = fixture.ask(what).await;
        let name = r#"{"status":"success","data":{"name":"20260102T030405Z-00000000000000ff"}}"#;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, name), "{what}");
    }
    let log = fixture.program.log.lock().expect("no panic").clone();
    assert_eq!(log, ["snapshot, skip_head false", "snapshot, skip_head true", "snapshot, skip_head false"]);
}

#[tokio::test]
async fn deletion_names_its_tenant_times_and_matchers() {
    let fixture = Fixture::with(Setup { admin: true, ..Setup::default() });
    let form =
        "POST /api/v1/admin/tsdb/delete_series match[]=up&match[]=%7Bjob%3D~%22a.*%22%7D&start=1&end=2.5";
    for what in [form, "PUT /api/v1/admin/tsdb/delete_series?match[]=odd"] {
        let answer = fixture.ask(what).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (204, ""), "{what}");
    }
    let log = fixture.program.log.lock().expect("no panic").clone();
    assert_eq!(
        log,
        [
            "delete default 1000..=2500 __name__=\"up\"",
            "delete default 1000..=2500 job=~\"a.*\"",
            "delete default -9223309901257974000..=9223309901257974999 __name__=\"odd\"",
        ]
    );
}
