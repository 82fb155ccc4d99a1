//! Every endpoint against what it cannot understand.

use axum::body::Body;
use http::{Request, StatusCode};

use super::fixture::{Fixture, Setup};

/// Sends each request and compares the status and the `error` of the answer.
async fn check(fixture: &Fixture, cases: &[(&str, u16, &str, &str)]) {
    for (what, status, kind, message) in cases {
        let answer = fixture.ask(what).await;
        let mut expected = String::from("{\"status\":\"error\",\"errorType\":\"");
        expected.push_str(kind);
        expected.push_str("\",\"error\":");
        expected.push_str(
            &serde_json::to_string(message)
                .expect("a string")
                .replace('<', "\\u003c")
                .replace('>', "\\u003e"),
        );
        expected.push('}');
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (*status, expected.as_str()), "{what}");
        assert_eq!(answer.headers["content-type"], "application/json", "{what}");
    }
}

#[tokio::test]
async fn instant_queries() {
    check(
        &Fixture::new(),
        &[
            ("/api/v1/query", 400, "bad_data", r#"invalid parameter "query": unknown position: parse error: no expression found in input"#),
            ("/api/v1/query?query=up&time=x", 400, "bad_data", r#"invalid parameter "time": invalid time value for 'time': cannot parse "x" to a valid timestamp"#),
            ("/api/v1/query?query=up&timeout=x", 400, "bad_data", r#"invalid parameter "timeout": cannot parse "x" to a valid duration"#),
            ("/api/v1/query?query=up&limit=-1", 400, "bad_data", r#"invalid parameter "limit": limit must be non-negative"#),
            ("/api/v1/query?query=up&limit=x", 400, "bad_data", r#"invalid parameter "limit": strconv.Atoi: parsing "x": invalid syntax"#),
            ("/api/v1/query?query=up&lookback_delta=x", 400, "bad_data", r#"error parsing lookback delta duration: cannot parse "x" to a valid duration"#),
            ("POST /api/v1/query query=up&time=1e999", 400, "bad_data", r#"invalid parameter "time": invalid time value for 'time': cannot parse "1e999" to a valid timestamp"#),
            ("/api/v1/query?query=up&timeout=-1", 503, "timeout", "query timed out in expression evaluation"),
        ],
    )
    .await;
}

#[tokio::test]
async fn range_queries() {
    let resolution = "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
    let zero = r#"invalid parameter "step": zero or negative query resolution step widths are not accepted. Try a positive integer"#;
    check(
        &Fixture::new(),
        &[
            (
                "/api/v1/query_range?query=up",
                400,
                "bad_data",
                r#"invalid parameter "start": cannot parse "" to a valid timestamp"#,
            ),
            (
                "/api/v1/query_range?query=up&start=0",
                400,
                "bad_data",
                r#"invalid parameter "end": cannot parse "" to a valid timestamp"#,
            ),
            (
                "/api/v1/query_range?query=up&start=2&end=1&step=1",
                400,
                "bad_data",
                r#"invalid parameter "end": end timestamp must not be before start time"#,
            ),
            (
                "/api/v1/query_range?query=up&start=0&end=1",
                400,
                "bad_data",
                r#"invalid parameter "step": cannot parse "" to a valid duration"#,
            ),
            ("/api/v1/query_range?query=up&start=0&end=1&step=0", 400, "bad_data", zero),
            ("/api/v1/query_range?query=up&start=0&end=1&step=-1", 400, "bad_data", zero),
            (
                "/api/v1/query_range?query=up&start=0&end=1&step=1e99",
                400,
                "bad_data",
                r#"invalid parameter "step": cannot parse "1e99" to a valid duration. It overflows int64"#,
            ),
            ("/api/v1/query_range?query=up&start=0&end=11001&step=1", 400, "bad_data", resolution),
            ("/api/v1/query_range?query=up&start=-1e30&end=1e30&step=1s", 400, "bad_data", resolution),
            (
                "/api/v1/query_range?query=up&start=0&end=1&step=1&timeout=1x",
                400,
                "bad_data",
                r#"invalid parameter "timeout": cannot parse "1x" to a valid duration"#,
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn look_ups() {
    let empty = "match[] must contain at least one non-empty matcher";
    let unclosed = "1:4: parse error: unexpected end of input inside braces";
    let unclosed_match = format!("invalid parameter \"match[]\": {unclosed}");
    check(
        &Fixture::new(),
        &[
            ("/api/v1/series", 400, "bad_data", "no match[] parameter provided"),
            ("POST /api/v1/series match[]=%zz", 400, "bad_data", "error parsing form values: invalid URL escape \"%zz\""),
            ("/api/v1/series?match[]=up&start=x", 400, "bad_data", r#"invalid parameter "start": invalid time value for 'start': cannot parse "x" to a valid timestamp"#),
            ("/api/v1/series?match[]=up&end=x", 400, "bad_data", r#"invalid parameter "end": invalid time value for 'end': cannot parse "x" to a valid timestamp"#),
            ("/api/v1/series?match[]=up&limit=x", 400, "bad_data", r#"invalid parameter "limit": strconv.Atoi: parsing "x": invalid syntax"#),
            ("/api/v1/series?match[]=up%7B", 400, "bad_data", &unclosed_match),
            ("/api/v1/series?match[]=%7Bx%3D%22%22%7D", 400, "bad_data", &format!("invalid parameter \"match[]\": {empty}")),
            ("/api/v1/labels?match[]=up%7B", 400, "bad_data", unclosed),
            ("/api/v1/labels?match[]=up&match[]=%7Bx%3D%22%22%7D", 400, "bad_data", empty),
            ("/api/v1/labels?limit=-3", 400, "bad_data", r#"invalid parameter "limit": limit must be non-negative"#),
            ("/api/v1/label/job/values?start=x", 400, "bad_data", r#"invalid parameter "start": invalid time value for 'start': cannot parse "x" to a valid timestamp"#),
            ("/api/v1/label/job/values?match[]=%7B%7D", 400, "bad_data", empty),
            ("/api/v1/label/U__/values", 400, "bad_data", "invalid label name: \"\""),
            ("/api/v1/metadata?limit=x", 400, "bad_data", "limit must be a number"),
            ("/api/v1/metadata?limit_per_metric=x", 400, "bad_data", "limit_per_metric must be a number"),
            ("/api/v1/targets/metadata?limit=x", 400, "bad_data", "limit must be a number"),
            ("/api/v1/targets/metadata?match_target=up%7B", 400, "bad_data", &format!("invalid parameter \"match_target\": {unclosed}")),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_rest_of_the_api() {
    let nothing = "unknown position: parse error: no expression found in input";
    let query = format!("invalid parameter \"query\": {nothing}");
    check(
        &Fixture::new(),
        &[
            ("/api/v1/format_query", 400, "bad_data", &query),
            ("/api/v1/parse_query", 400, "bad_data", &query),
            ("/api/v1/query_exemplars", 400, "bad_data", nothing),
            ("/api/v1/query_exemplars?query=up&start=2&end=1", 400, "bad_data", "end timestamp must not be before start timestamp"),
            ("/api/v1/status/tsdb?limit=0", 400, "bad_data", "limit must be a positive number"),
            ("/api/v1/status/tsdb?limit=x", 400, "bad_data", "limit must be a positive number"),
            ("/api/v1/status/tsdb?limit=10001", 400, "bad_data", "limit must not exceed 10000"),
            ("/api/v1/status/series?limit=0", 400, "bad_data", "limit must be a positive number"),
            ("/api/v1/status/series?limit=10001", 400, "bad_data", "limit must not exceed 10000"),
            ("/api/v1/rules?type=x", 400, "bad_data", r#"invalid parameter "type": not supported value "x""#),
            ("/api/v1/rules?exclude_alerts=x", 400, "bad_data", r#"invalid parameter "exclude_alerts": error converting exclude_alerts: strconv.ParseBool: parsing "x": invalid syntax"#),
            ("/api/v1/rules?group_limit=0", 400, "bad_data", r#"invalid parameter "group_limit": group_limit needs to be greater than 0"#),
            ("/api/v1/rules?group_limit=x", 400, "bad_data", r#"invalid parameter "group_limit": group_limit needs to be a valid number: strconv.ParseInt: parsing "x": invalid syntax"#),
            ("/api/v1/rules?group_next_token=x", 400, "bad_data", r#"invalid parameter "group_next_token": group_limit needs to be present in order to paginate over the groups"#),
            ("/api/v1/rules?group_limit=1&group_next_token=x", 400, "bad_data", r#"invalid parameter "group_next_token": invalid group_next_token 'x'. were rule groups changed?"#),
            ("POST /api/v1/admin/tsdb/delete_series", 500, "unavailable", "admin APIs disabled"),
            ("PUT /api/v1/admin/tsdb/clean_tombstones", 500, "unavailable", "admin APIs disabled"),
            ("POST /api/v1/admin/tsdb/snapshot?skip_head=x", 500, "unavailable", "admin APIs disabled"),
            ("/api/v1/nothing", 404, "not_found", "no such endpoint: /api/v1/nothing"),
            ("/api/v2/query", 404, "not_found", "no such endpoint: /api/v2/query"),
            ("DELETE /api/v1/query", 405, "method_not_allowed", "DELETE is not allowed for /api/v1/query"),
            ("POST /api/v1/targets", 405, "method_not_allowed", "POST is not allowed for /api/v1/targets"),
        ],
    )
    .await;
}

#[tokio::test]
async fn deletion() {
    let fixture = Fixture::with(Setup { admin: true, ..Setup::default() });
    check(
        &fixture,
        &[
            ("POST /api/v1/admin/tsdb/delete_series", 400, "bad_data", "no match[] parameter provided"),
            ("POST /api/v1/admin/tsdb/delete_series?match[]=up&start=x", 400, "bad_data", r#"invalid parameter "start": invalid time value for 'start': cannot parse "x" to a valid timestamp"#),
            ("POST /api/v1/admin/tsdb/delete_series?match[]=up&match[]=up%7B", 400, "bad_data", "invalid parameter \"match[]\": 1:4: parse error: unexpected end of input inside braces"),
            ("POST /api/v1/admin/tsdb/clean_tombstones", 500, "internal", "the store is read-only: the disk is gone"),
            ("POST /api/v1/admin/tsdb/snapshot?skip_head=x", 400, "bad_data", r#"invalid parameter "skip_head": unable to parse boolean 'skip_head' argument: strconv.ParseBool: parsing "x": invalid syntax"#),
            ("/api/v1/admin/tsdb/snapshot", 405, "method_not_allowed", "GET is not allowed for /api/v1/admin/tsdb/snapshot"),
        ],
    )
    .await;
    assert_eq!(*fixture.program.log.lock().expect("no panic"), Vec::<String>::new(), "nothing was deleted");
}

#[tokio::test]
async fn a_form_has_an_end() {
    let form = format!("query=up&pad={}", "x".repeat(10 << 20));
    let request = Request::post("/api/v1/query").header("content-type", "application/x-www-form-urlencoded");
    let answer = Fixture::new().send(request.body(Body::from(form)).expect("a request")).await;
    let expected = r#"{"status":"error","errorType":"bad_data","error":"error parsing form values: http: request body too large"}"#;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::BAD_REQUEST, expected));
}
