//! Probes, reload, authentication, gzip, `/metrics`, pages.

use std::io::Read;

use axum::body::Body;
use http::Request;
use model::TenantId;
use tower::ServiceExt;
use web::{Auth, Caller, Credential, Readiness, Role};

use super::fixture::{Fixture, Setup};

#[tokio::test]
async fn probes_tell_what_is_wrong() {
    let fixture = Fixture::new();
    let cases = [
        (Readiness::Ready, 200, "Marigraph is Ready.\n", 200),
        (
            Readiness::Starting("replaying segment 3".into()),
            503,
            "Service Unavailable: starting: replaying segment 3\n",
            503,
        ),
        (
            Readiness::ReadOnly("fsync failed".into()),
            503,
            "Service Unavailable: the store is read-only: fsync failed\n",
            200,
        ),
        (Readiness::Stopping, 503, "Service Unavailable: stopping\n", 503),
    ];
    for (readiness, status, body, queries) in cases {
        *fixture.program.readiness.lock().expect("no panic") = Some(readiness.clone());
        let answer = fixture.ask("/-/ready").await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (status, body));
        let answer = fixture.ask("/api/v1/labels").await;
        assert_eq!(answer.status.as_u16(), queries, "queries when {readiness:?}");
        let answer = fixture.ask("/-/healthy").await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "Marigraph is Healthy.\n"));
        assert_eq!(fixture.ask("HEAD /-/healthy").await.status.as_u16(), 200);
    }
}

#[tokio::test]
async fn reload_and_quit() {
    let off = Fixture::new();
    let answer = off.ask("POST /-/reload").await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (403, "Lifecycle API is not enabled."));
    assert_eq!(off.ask("PUT /-/quit").await.status.as_u16(), 403);

    let fixture = Fixture::with(Setup { lifecycle: true, ..Setup::default() });
    let answer = fixture.ask("/-/reload").await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (405, "Only POST or PUT requests allowed"));
    assert_eq!(fixture.ask("POST /-/reload").await.status.as_u16(), 200);
    *fixture.program.reload_error.lock().expect("no panic") = Some("a.yml:3:1: unknown key".into());
    let answer = fixture.ask("PUT /-/reload").await;
    assert_eq!(
        (answer.status.as_u16(), answer.body.as_str()),
        (500, "failed to reload config: a.yml:3:1: unknown key\n")
    );
    let answer = fixture.ask("POST /-/quit").await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "Requesting termination... Goodbye!"));
    assert_eq!(*fixture.program.log.lock().expect("no panic"), ["reload", "reload", "quit"]);
}

#[tokio::test]
async fn only_known_callers_get_answers() {
    let caller = |role| Caller::new(TenantId::default(), role);
    let fixture = Fixture::with(Setup {
        admin: true,
        lifecycle: true,
        auth: Auth::new(vec![
            (Credential::Bearer("reader".into()), caller(Role::Read)),
            (Credential::Bearer("writer".into()), caller(Role::Write)),
            (Credential::Basic { user: "root".into(), password: "pw".into() }, caller(Role::Admin)),
        ]),
        ..Setup::default()
    });
    let root = "Basic cm9vdDpwdw==";
    let cases = [
        ("GET /-/healthy", "", 200),
        ("GET /-/ready", "", 200),
        ("OPTIONS /api/v1/query", "", 204),
        ("GET /", "", 401),
        ("GET /assets/x.js", "", 401),
        ("GET /metrics", "", 401),
        ("GET /version", "", 401),
        ("GET /api/v1/query?query=1", "", 401),
        ("GET /api/v1/nothing", "", 401),
        ("GET /nothing", "", 401),
        ("POST /-/quit", "", 401),
        ("GET /api/v1/query?query=1", "Bearer nobody", 401),
        ("GET /api/v1/query?query=1", "Bearer reader", 200),
        ("GET /api/v1/query?query=1", "Bearer writer", 403),
        ("GET /metrics", "Bearer reader", 200),
        ("GET /metrics", "Bearer writer", 403),
        ("POST /-/reload", "Bearer reader", 403),
        ("POST /-/quit", "Bearer writer", 403),
        ("POST /api/v1/admin/tsdb/delete_series?match[]=up", "Bearer reader", 403),
        ("POST /api/v1/admin/tsdb/snapshot", "Bearer reader", 403),
        ("POST /api/v1/admin/tsdb/snapshot", "Bearer writer", 403),
        ("POST /api/v1/admin/tsdb/delete_series?match[]=up", root, 204),
        ("GET /api/v1/query?query=1", root, 200),
    ];
    for (what, credential, status) in cases {
        let (method, path) = what.split_once(' ').expect("method and path");
        let mut request = Request::builder().method(method).uri(path);
        if !credential.is_empty() {
            request = request.header("authorization", credential);
        }
        let answer = fixture.send(request.body(Body::empty()).expect("a request")).await;
        assert_eq!(answer.status.as_u16(), status, "{what} with {credential:?}");
        if status == 401 {
            assert!(answer.headers.contains_key("www-authenticate"), "{what}");
            assert!(answer.body.starts_with("unauthorized: "), "{what}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn pages_of_other_sites_change_nothing() {
    let fixture = Fixture::with(Setup { admin: true, lifecycle: true, ..Setup::default() });
    for (path, site, status) in [
        ("/-/reload", "cross-site", 403),
        ("/-/quit", "cross-site", 403),
        ("/api/v1/admin/tsdb/delete_series?match[]=up", "cross-site", 403),
        ("/api/v1/admin/tsdb/snapshot", "cross-site", 403),
        ("/api/v1/query?query=1", "cross-site", 200),
        ("/-/reload", "same-origin", 200),
    ] {
        let request = Request::post(path).header("sec-fetch-site", site);
        let answer = fixture.send(request.body(Body::empty()).expect("a request")).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {site}");
    }
    assert_eq!(*fixture.program.log.lock().expect("no panic"), ["reload"]);
}

#[tokio::test]
async fn other_doors_stand_behind_the_same_gate() {
    use axum::extract::Extension;
    use axum::routing::post;
    let door = axum::Router::new().route(
        "/api/v1/write",
        post(async |Extension(caller): Extension<Caller>| format!("{:?}", caller.role)),
    );
    let auth =
        Auth::new(vec![(Credential::Bearer("writer".into()), Caller::new(TenantId::default(), Role::Write))]);
    let fixture = Fixture::with_doors(Setup { auth, ..Setup::default() }, door);
    assert_eq!(fixture.ask("POST /api/v1/write").await.status.as_u16(), 401);
    let request = Request::post("/api/v1/write").header("authorization", "Bearer writer");
    let answer = fixture.send(request.body(Body::empty()).expect("a request")).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "Write"));
}

#[tokio::test]
async fn pages_elsewhere_may_read() {
    let request = Request::get("/api/v1/query?query=1&time=0").header("origin", "http://grafana");
    let answer = Fixture::new().send(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert_eq!(answer.headers["access-control-allow-methods"], "GET, POST, OPTIONS");
    assert_eq!(answer.headers["access-control-allow-headers"], "Accept, Authorization, Content-Type, Origin");
    assert_eq!(answer.headers["access-control-expose-headers"], "Date");
    let answer = Fixture::new().ask("/api/v1/query?query=1&time=0").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_ask() {
    let fixture = Fixture::new();
    let request = Request::get("/api/v1/labels").header("accept-encoding", "gzip");
    let response = fixture
        .router
        .clone()
        .oneshot(request.body(Body::empty()).expect("a request"))
        .await
        .expect("an answer");
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let packed = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).expect("gzip");
    assert_eq!(text, fixture.ask("/api/v1/labels").await.body);
}

#[tokio::test]
async fn zstd_is_liked_best() {
    let fixture = Fixture::new();
    let request = Request::get("/api/v1/labels").header("accept-encoding", "gzip, zstd");
    let response = fixture.response(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(response.headers()["content-encoding"], "zstd");
    let packed = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    let text = zstd::decode_all(&packed[..]).expect("zstd");
    assert_eq!(String::from_utf8_lossy(&text), fixture.ask("/api/v1/labels").await.body);
}

#[tokio::test]
async fn metrics_about_ourselves() {
    let fixture = Fixture::new();
    fixture.ask("/api/v1/query?query=1").await;
    fixture.ask("/api/v1/label/a/values").await;
    fixture.ask("/nowhere").await;
    let answer = fixture.ask("/metrics").await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "# TYPE marigraph_web_requests_total counter\n",
        "marigraph_web_requests_total{handler=\"/api/v1/query\",code=\"200\"} 1\n",
        "marigraph_web_requests_total{handler=\"/api/v1/label/{name}/values\",code=\"200\"} 1\n",
        "marigraph_web_requests_total{handler=\"unmatched\",code=\"404\"} 1\n",
        "# TYPE process_cpu_seconds_total counter\n",
        "# TYPE process_resident_memory_bytes gauge\n",
        "# TYPE process_start_time_seconds gauge\n",
    ] {
        assert!(answer.body.contains(line), "{line} in {}", answer.body);
    }
    let request =
        Request::get("/metrics").header("accept", "application/openmetrics-text;version=1.0.0,*/*;q=0.1");
    let answer = fixture.send(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(answer.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
}

#[tokio::test]
async fn there_is_a_page_with_or_without_a_build_of_it() {
    let fixture = Fixture::new();
    for path in ["/", "/query", "/graph", "/targets"] {
        let answer = fixture.ask(path).await;
        assert_eq!(answer.status.as_u16(), 200, "{path}");
        assert!(answer.body.contains("<title>Marigraph</title>"), "{path}: {}", answer.body);
    }
    assert_eq!(fixture.ask("/assets/none.js").await.status.as_u16(), 404);
    assert_eq!(
        fixture.ask("/version").await.body,
        "{\"version\":\"1.2.3\",\"revision\":\"\",\"branch\":\"\",\"buildUser\":\"\",\"buildDate\":\"\",\"goVersion\":\"rustc\"}\n"
    );
}
