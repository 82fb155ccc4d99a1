//! What the query log says of requests.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use model::TenantId;
use web::{Auth, Caller, ClientAddress, QueryLog, Role, Tokens};

use super::fixture::{Fixture, Setup};

/// Knows one token.
struct Elsewhere;

impl Tokens for Elsewhere {
    fn caller(&self, _: &str) -> Option<Caller> {
        Some(Caller::new(TenantId::default(), Role::Read))
    }

    fn claims(&self, token: &str) -> bool {
        token == "elsewhere"
    }
}

#[tokio::test]
async fn every_evaluated_query_has_a_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("query.log");
    // From elsewhere nobody is let in without a credential.
    let auth = Auth::default().with_tokens(Arc::new(Elsewhere));
    let fixture = Fixture::with(Setup { auth, ..Setup::default() });
    fixture.ask("/api/v1/query?query=before").await;
    fixture.query_log.install(Some(QueryLog::open(&path).expect("open")));
    let request = Request::get("/api/v1/query?query=up&time=1000")
        .header("authorization", "Bearer elsewhere")
        .extension(ClientAddress([10, 0, 0, 7].into()));
    fixture.send(request.body(Body::empty()).expect("a request")).await;
    fixture.ask("POST /api/v1/query_range query=up%2B1&start=0&end=60&step=15").await;
    fixture.ask("/api/v1/query?query=up%7B").await;
    fixture.ask("/api/v1/query?query=up&timeout=-1").await;
    fixture.ask("/api/v1/labels").await;
    let text = std::fs::read_to_string(&path).expect("a log");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let shown: Vec<[String; 6]> = lines
        .iter()
        .map(|line| {
            let params = &line["params"];
            let request = &line["httpRequest"];
            [
                &params["query"],
                &params["end"],
                &params["step"],
                &request["method"],
                &request["path"],
                &line["error"],
            ]
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        })
        .collect();
    let timeout = "query timed out in expression evaluation";
    let expected = [
        ["up", "1970-01-01T00:16:40.000Z", "0", "GET", "/api/v1/query", "null"],
        ["up+1", "1970-01-01T00:01:00.000Z", "15", "POST", "/api/v1/query_range", "null"],
        ["up", "1970-01-01T00:17:40.000Z", "0", "GET", "/api/v1/query", timeout],
    ];
    assert_eq!(shown, expected.map(|line| line.map(str::to_owned)), "{text}");
    assert_eq!(lines[0]["httpRequest"]["clientIP"], "10.0.0.7");
    assert_eq!(lines[0]["stats"]["samples"]["totalQueryableSamples"], 2, "{text}");
}
