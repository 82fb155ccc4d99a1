//! What holds for every endpoint there is, from the router's own list.

use std::collections::BTreeSet;

use axum::body::Body;
use http::Request;
use model::TenantId;
use web::{Auth, Caller, Credential, Endpoint, Role};

use super::fixture::{Fixture, Setup};

/// A path that the endpoint answers to.
fn example(endpoint: &Endpoint) -> String {
    let segments = endpoint.path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
    segments.collect::<Vec<_>>().join("/")
}

fn guarded() -> Fixture {
    let caller = |role| Caller::new(TenantId::default(), role);
    Fixture::with(Setup {
        admin: true,
        lifecycle: true,
        auth: Auth::new(vec![
            (Credential::Bearer("writer".into()), caller(Role::Write)),
            (Credential::Bearer("reader".into()), caller(Role::Read)),
            (Credential::Bearer("root".into()), caller(Role::Admin)),
        ]),
        ..Setup::default()
    })
}

async fn status(fixture: &Fixture, method: &str, path: &str, token: &str) -> u16 {
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    fixture.head(request.body(Body::empty()).expect("a request")).await.as_u16()
}

#[tokio::test]
async fn nothing_but_health_answers_without_a_credential() {
    let fixture = guarded();
    assert!(fixture.endpoints.len() > 40, "{} endpoints", fixture.endpoints.len());
    for endpoint in &fixture.endpoints {
        let path = example(endpoint);
        let open = ["/-/healthy", "/-/ready"].contains(&path.as_str());
        for method in endpoint.methods.iter().copied().chain(["HEAD", "DELETE", "PATCH"]) {
            for token in ["", "nobody"] {
                let answered = status(&fixture, method, &path, token).await;
                assert_eq!(answered != 401, open, "{method} {path} with {token:?}: {answered}");
            }
        }
    }
}

/// What a writer may see: the page itself, and that the program is there.
const FOR_EVERYBODY: [&str; 9] =
    ["/-/healthy", "/-/ready", "/version", "/", "/query", "/graph", "/targets", "/assets/x", "/favicon.svg"];

#[tokio::test]
async fn roles_reach_what_is_theirs() {
    let fixture = guarded();
    for endpoint in &fixture.endpoints {
        let path = example(endpoint);
        let changes = path.starts_with("/api/v1/admin/") || ["/-/reload", "/-/quit"].contains(&path.as_str());
        for method in &endpoint.methods {
            // asking `GET` of what changes something tells how to do it
            let told = *method == "GET" && changes;
            let may_write = told || FOR_EVERYBODY.contains(&path.as_str());
            let forbidden = |status: u16| status == 403;
            assert_eq!(
                !forbidden(status(&fixture, method, &path, "writer").await),
                may_write,
                "{method} {path}"
            );
            assert_eq!(
                !forbidden(status(&fixture, method, &path, "reader").await),
                told || !changes,
                "{method} {path}"
            );
            assert!(!forbidden(status(&fixture, method, &path, "root").await), "{method} {path}");
        }
    }
}

/// What is wrong with each endpoint's input when there is none, or when it makes no sense: the query string,
/// the status, and what the answer says.
const BAD_INPUT: &[(&str, &str, u16, &str)] = &[
    ("/api/v1/query", "query=up%7B", 400, "unexpected end of input"),
    ("/api/v1/query_range", "query=up&start=x", 400, "cannot parse \\\"x\\\" to a valid timestamp"),
    ("/api/v1/query_exemplars", "query=(", 400, "parse error"),
    ("/api/v1/format_query", "query=(", 400, "parse error"),
    ("/api/v1/parse_query", "query=(", 400, "parse error"),
    ("/api/v1/labels", "start=x", 400, "invalid parameter \\\"start\\\""),
    ("/api/v1/label/{name}/values", "limit=x", 400, "invalid parameter \\\"limit\\\""),
    ("/api/v1/series", "", 400, "no match[] parameter provided"),
    ("/api/v1/metadata", "limit=x", 400, "limit must be a number"),
    ("/api/v1/targets/metadata", "limit=x", 400, "limit must be a number"),
    ("/api/v1/targets/relabel_steps", "scrapePool=a&labels=x", 400, "error parsing labels"),
    ("/api/v1/completeness", "by=x", 400, "is not cluster, job or source"),
    ("/api/v1/scrape_pools/config", "scrapePool=x", 400, "scrape pool \\\"x\\\" not found"),
    ("/api/v1/rules", "type=x", 400, "not supported value"),
    ("/api/v1/status/self_metrics", "metric_name_pattern=(", 400, "invalid metric_name_pattern"),
    ("/api/v1/status/tsdb", "limit=0", 400, "limit must be a positive number"),
    ("/api/v1/status/series", "limit=0", 400, "limit must be a positive number"),
    ("/api/v1/admin/tsdb/delete_series", "", 400, "no match[] parameter provided"),
    ("/api/v1/admin/tsdb/clean_tombstones", "", 500, "read-only"),
    ("/api/v1/admin/tsdb/snapshot", "skip_head=x", 400, "unable to parse boolean"),
    ("/api/v1/read", "", 400, "snappy"),
    ("/federate", "match[]=up%7B", 400, "1:4: parse error: unexpected end of input inside braces\n"),
];

/// What takes no parameters, or any.
const NOTHING_TO_GET_WRONG: [&str; 15] = [
    "/api/v1/targets",
    "/api/v1/scrape_pools",
    "/api/v1/alerts",
    "/api/v1/alertmanagers",
    "/api/v1/notifications",
    "/api/v1/notifications/live",
    "/api/v1/features",
    "/api/v1/openapi.yaml",
    "/api/v1/status/config",
    "/api/v1/status/flags",
    "/api/v1/status/buildinfo",
    "/api/v1/status/runtimeinfo",
    "/api/v1/status/tsdb/blocks",
    "/api/v1/status/walreplay",
    "/metrics",
];

#[tokio::test]
async fn bad_input_is_told_in_the_form_of_the_endpoint() {
    let fixture = Fixture::with(Setup { admin: true, ..Setup::default() });
    for (path, query, status, message) in BAD_INPUT {
        let endpoint = fixture.endpoints.iter().find(|e| e.path == *path).expect(path);
        for method in &endpoint.methods {
            let answer = fixture.ask(&format!("{method} {}?{query}", example(endpoint))).await;
            assert_eq!(answer.status.as_u16(), *status, "{method} {path}: {}", answer.body);
            assert!(answer.body.contains(message), "{method} {path}: {}", answer.body);
            let plain = ["/api/v1/read", "/federate"].contains(path);
            let json: Result<serde_json::Value, _> = serde_json::from_str(&answer.body);
            assert_eq!(json.is_err(), plain, "{method} {path}: {}", answer.body);
            assert!(json.map_or(true, |json| json["status"] == "error"), "{method} {path}: {}", answer.body);
        }
    }
    let listed: BTreeSet<&str> = fixture.endpoints.iter().map(|endpoint| endpoint.path.as_str()).collect();
    let tried = BAD_INPUT.iter().map(|case| case.0);
    let known: BTreeSet<&str> = tried.chain(NOTHING_TO_GET_WRONG).chain(["/-/reload", "/-/quit"]).collect();
    let forgotten: Vec<&&str> = listed
        .difference(&known)
        .filter(|path| !FOR_EVERYBODY.contains(path) && !path.contains("{*"))
        .collect();
    assert!(forgotten.is_empty(), "no bad input is tried on {forgotten:?}");
    let gone: Vec<&&str> = known.difference(&listed).collect();
    assert!(gone.is_empty(), "there is no {gone:?}");
}

#[tokio::test]
async fn the_document_describes_every_endpoint() {
    let fixture = Fixture::new();
    let answer = fixture.ask("/api/v1/openapi.yaml").await;
    assert_eq!(answer.headers["content-type"], "application/yaml; charset=utf-8");
    assert!(answer.body.starts_with("openapi: 3.1.0\n"), "{}", answer.body);
    let mut paths: BTreeSet<&str> =
        fixture.endpoints.iter().filter_map(|e| e.path.strip_prefix("/api/v1")).collect();
    paths.insert("/write");
    let described: BTreeSet<&str> = answer
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':').filter(|path| path.starts_with('/')))
        .collect();
    assert_eq!(described, paths);
    assert!(!answer.body.contains("tags: [other]"), "{}", answer.body);
}
