//! Every endpoint, asked by another tenant and by a reader of some clusters, shows nothing of
//! the others.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use http::{Method, Request};
use model::{Exemplar, Labels, MatchOp, Matcher, Metadata, MetricType, SourceId, TenantId};
use storage::{Appender, Batch, MemoryStore, MetadataEntry, Policy, Row, SourceDesc};
use web::{Auth, Caller, Credential, Role};
use wire::remote_read::{ReadQuery, ReadRequest};
use wire::remote_write::{snappy_decode, snappy_encode};

use super::fixture::{FIRST_MS, Fixture, Setup};

/// The tenants and clusters; what belongs to one says so: `owned_by_acme_eu`.
const OWNERS: [(&str, &str); 5] =
    [("default", "eu"), ("default", "us"), ("default", ""), ("acme", "eu"), ("acme", "us")];

fn mark(tenant: &str, cluster: &str) -> String {
    format!("owned_by_{tenant}_{}", if cluster.is_empty() { "nobody" } else { cluster })
}

fn store() -> MemoryStore {
    let store = MemoryStore::new();
    for (at, (tenant, cluster)) in OWNERS.into_iter().enumerate() {
        let mark = mark(tenant, cluster);
        let desc = SourceDesc {
            tenant: TenantId::new(tenant).expect("a tenant"),
            id: SourceId(at as u128),
            labels: Labels::empty(),
        };
        let source = store.open_source(&desc).expect("open");
        let mut pairs =
            vec![("__name__", mark.as_str()), ("job", mark.as_str()), (mark.as_str(), mark.as_str())];
        if !cluster.is_empty() {
            pairs.push(("cluster", cluster));
        }
        let series = store.resolve(source, &[Labels::from_pairs(pairs)]).expect("resolve")[0];
        let series = series.expect("a series");
        let labels = Labels::from_pairs([("trace_id", mark.as_str())]);
        let exemplars = [(series, Exemplar { labels, value: 1.0, timestamp_ms: FIRST_MS })];
        let metadata = Metadata { metric_type: MetricType::Gauge, unit: String::new(), help: mark.clone() };
        let entries = [MetadataEntry { source, metric: &mark, metadata: &metadata }];
        let row = Row {
            exemplars: &exemplars,
            ..Row::floats(source, FIRST_MS, std::slice::from_ref(&series), &[1.0])
        };
        store.append(&Batch { metadata: &entries, ..Batch::rows(&[row], Policy::SCRAPE) }).expect("append");
    }
    store
}

/// Who asks, and whose marks they may see.
struct Reader {
    token: &'static str,
    tenant: &'static str,
    clusters: &'static [&'static str],
}

const READERS: [Reader; 5] = [
    Reader { token: "all", tenant: "default", clusters: &[] },
    Reader { token: "eu", tenant: "default", clusters: &["eu"] },
    Reader { token: "none", tenant: "default", clusters: &["elsewhere"] },
    Reader { token: "other", tenant: "acme", clusters: &[] },
    Reader { token: "other-us", tenant: "acme", clusters: &["us"] },
];

impl Reader {
    fn may_see(&self, tenant: &str, cluster: &str) -> bool {
        self.tenant == tenant && (self.clusters.is_empty() || self.clusters.contains(&cluster))
    }

    fn credential(&self) -> (Credential, Caller) {
        let tenant = TenantId::new(self.tenant).expect("a tenant");
        let clusters: Vec<String> = self.clusters.iter().map(ToString::to_string).collect();
        let caller = Caller { clusters: clusters.into(), ..Caller::new(tenant, Role::Read) };
        (Credential::Bearer(self.token.into()), caller)
    }
}

fn fixture() -> Fixture {
    let auth = Auth::new(READERS.iter().map(Reader::credential).collect());
    Fixture::over(Arc::new(store()), Setup { auth, lifecycle: true, admin: true, ..Setup::default() })
}

/// Asks with everything that any endpoint might take: status and body.
async fn ask(fixture: &Fixture, token: &str, method: &str, path: &str, body: Vec<u8>) -> (u16, String) {
    // `{__name__=~".+"}`
    let all = "%7B__name__%3D~%22.%2B%22%7D";
    let uri = format!(
        "{path}?query={all}&match%5B%5D={all}&start=0&end=2000&time=1000&step=100&scrapePool=a&labels=%7B%7D"
    );
    let request = Request::builder().method(method).uri(uri);
    let request = request.header("authorization", format!("Bearer {token}"));
    let response = fixture.response(request.body(Body::from(body)).expect("a request")).await;
    let status = response.status().as_u16();
    if path.ends_with("/live") && status == 200 {
        return (status, String::new());
    }
    let bytes = to_bytes(response.into_body(), usize::MAX).await.expect("the body arrives");
    let mut plain = Vec::new();
    if path == "/api/v1/read" && status == 200 {
        snappy_decode(&bytes, 1 << 20, &mut plain).expect("snappy");
    } else {
        plain = bytes.to_vec();
    }
    (status, String::from_utf8_lossy(&plain).into_owned())
}

/// A remote read of everything.
fn read_all() -> Vec<u8> {
    let matcher = Matcher::new(MatchOp::Regex, "__name__", ".+").expect("a matcher");
    let query = ReadQuery { start_ms: 0, end_ms: 2 * FIRST_MS, matchers: vec![matcher], hints: None };
    let request = ReadRequest { queries: vec![query], ..ReadRequest::default() };
    snappy_encode(&request.encode()).expect("snappy")
}

/// Where each reader sees what is theirs: where there are series.
const SERIES: [&str; 9] = [
    "/api/v1/query",
    "/api/v1/query_range",
    "/api/v1/query_exemplars",
    "/api/v1/series",
    "/api/v1/labels",
    "/api/v1/label/job/values",
    "/api/v1/metadata",
    "/api/v1/read",
    "/federate",
];

#[tokio::test]
async fn no_endpoint_shows_what_belongs_to_others() {
    let fixture = fixture();
    let mut met = 0;
    for endpoint in &fixture.endpoints {
        let path = endpoint.path.replace("{name}", "job").replace("{*path}", "x");
        let path = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
        let path = path.collect::<Vec<_>>().join("/");
        met += usize::from(SERIES.contains(&path.as_str()));
        for method in &endpoint.methods {
            let form = *method == Method::POST.as_str() && path != "/api/v1/read";
            for reader in &READERS {
                let body = if form { Vec::new() } else { read_all() };
                let (status, body) = ask(&fixture, reader.token, method, &path, body).await;
                for (tenant, cluster) in OWNERS {
                    let (mark, may_see) = (mark(tenant, cluster), reader.may_see(tenant, cluster));
                    let shown = body.contains(&mark);
                    assert!(may_see || !shown, "{method} {path} shows {mark} to {}: {body}", reader.token);
                    let must = SERIES.contains(&path.as_str()) && may_see && !form;
                    assert!(
                        shown || !must,
                        "{method} {path} hides {mark} from {}: {status} {body}",
                        reader.token
                    );
                }
            }
        }
    }
    assert_eq!(met, SERIES.len(), "an endpoint with series has gone, or has another name");
}

#[tokio::test]
async fn what_is_not_about_series_is_refused_to_readers_of_clusters() {
    let fixture = fixture();
    // (path, all, clusters, another tenant)
    for (path, all, clusters, other) in [
        ("/api/v1/targets", 200, 403, 200),
        ("/api/v1/targets/metadata", 200, 403, 200),
        ("/api/v1/scrape_pools", 200, 403, 200),
        ("/api/v1/status/tsdb", 200, 403, 200),
        ("/api/v1/status/series", 200, 403, 200),
        ("/api/v1/status/config", 200, 403, 403),
        ("/api/v1/status/flags", 200, 403, 403),
        ("/api/v1/status/runtimeinfo", 200, 403, 403),
        ("/api/v1/status/self_metrics", 200, 403, 403),
        ("/api/v1/notifications", 200, 403, 403),
        ("/metrics", 200, 403, 403),
        ("/api/v1/status/buildinfo", 200, 200, 200),
        ("/api/v1/format_query", 200, 200, 200),
        ("/-/ready", 200, 200, 200),
    ] {
        for (token, expected) in [("all", all), ("eu", clusters), ("other", other), ("other-us", clusters)] {
            let (status, body) = ask(&fixture, token, "GET", path, Vec::new()).await;
            assert_eq!(status, expected, "{path} for {token}: {body}");
        }
    }
}

#[tokio::test]
async fn other_tenants_see_nothing_of_what_is_scraped() {
    let fixture = fixture();
    for path in
        ["/api/v1/targets", "/api/v1/targets/metadata", "/api/v1/scrape_pools", "/api/v1/status/series"]
    {
        let (_, ours) = ask(&fixture, "all", "GET", path, Vec::new()).await;
        let (status, theirs) = ask(&fixture, "other", "GET", path, Vec::new()).await;
        assert!(status == 200 && theirs.len() < ours.len(), "{path}: {theirs}");
        assert!(!theirs.contains("10.0.0.1") && !theirs.contains("\"a\""), "{path}: {theirs}");
    }
}

#[tokio::test]
async fn a_matcher_of_the_readers_own_does_not_widen_the_view() {
    let fixture = fixture();
    for query in [
        "%7Bcluster%3D%22us%22%7D",
        "%7Bcluster%3D~%22.%2A%22%2C__name__%3D~%22.%2B%22%7D",
        "%7Bcluster%21%3D%22eu%22%2C__name__%3D~%22.%2B%22%7D",
        "label_replace%28%7B__name__%3D~%22.%2B%22%7D%2C%22x%22%2C%22y%22%2C%22%22%2C%22%22%29",
        "count%28%7B__name__%3D~%22.%2B%22%7D%29",
        "absent%28%7Bcluster%3D%22us%22%7D%29",
    ] {
        let request = Request::builder()
            .uri(format!("/api/v1/query?time=1000&query={query}"))
            .header("authorization", "Bearer eu")
            .body(Body::empty());
        let answer = fixture.send(request.expect("a request")).await;
        assert_eq!(answer.status.as_u16(), 200, "{query}: {}", answer.body);
        assert!(!answer.body.contains("_us") && !answer.body.contains("nobody"), "{query}: {}", answer.body);
        if query.starts_with("count") {
            assert!(answer.body.contains("\"1\""), "{query}: {}", answer.body);
        }
    }
}
