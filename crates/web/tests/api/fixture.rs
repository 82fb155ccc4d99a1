//! A router over a small store: two targets, scraped every 15 s from 1000 s on, five times.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::response::Response;
use http::{HeaderMap, Request, StatusCode};
use model::relabel::{Action, NameScheme, Rule, RuleSpec};
use model::status::{ActiveTarget, DroppedTarget, TargetHealth, TargetMetadata};
use model::{Labels, Matcher, Metadata, MetricType, SourceId, TenantId};
use prometheus_client::registry::Registry;
use promql::engine::{Engine, EngineOptions};
use stdx::clock::FakeClock;
use storage::memory::MemoryStore;
use storage::{Appender, Batch, MetadataEntry, Policy, Queryable, Row, SourceDesc, StoreError};
use tower::ServiceExt;
use web::{
    Auth, BlockInfo, BuildInfo, Endpoint, Lifecycle, Notifications, Options, PoolConfig, QueryLog, Readiness,
    RuntimeInfo, SeriesMaker, SeriesUsage, StoreAdmin, TargetStatus, TsdbStatus, WebMetrics, WebState, Work,
};

pub(crate) const FIRST_MS: i64 = 1_000_000;
pub(crate) const INTERVAL_MS: i64 = 15_000;
pub(crate) const SCRAPES: i64 = 5;

/// What the fakes answer, and what they were asked.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) readiness: Mutex<Option<Readiness>>,
    pub(crate) reload_error: Mutex<Option<String>>,
    pub(crate) log: Mutex<Vec<String>>,
}

impl Program {
    fn note(&self, what: String) {
        self.log.lock().expect("no panic").push(what);
    }
}

impl Lifecycle for Program {
    fn readiness(&self) -> Readiness {
        self.readiness.lock().expect("no panic").clone().unwrap_or(Readiness::Ready)
    }

    fn reload(&self) -> Result<(), String> {
        self.note("reload".into());
        self.reload_error.lock().expect("no panic").clone().map_or(Ok(()), Err)
    }

    fn quit(&self) {
        self.note("quit".into());
    }

    fn config_yaml(&self) -> String {
        "global:\n  scrape_interval: 15s\n".into()
    }

    fn runtime(&self) -> RuntimeInfo {
        RuntimeInfo {
            start_ms: 1_000,
            reload_succeeded: true,
            last_config_ms: 2_500,
            corruptions: 0,
            retention: "15d".into(),
        }
    }
}

impl StoreAdmin for Program {
    fn delete_series(
        &self,
        tenant: &TenantId,
        start_ms: i64,
        end_ms: i64,
        matchers: &[Matcher],
    ) -> Result<(), StoreError> {
        let matchers: Vec<String> = matchers.iter().map(ToString::to_string).collect();
        self.note(format!("delete {tenant} {start_ms}..={end_ms} {}", matchers.join(",")));
        Ok(())
    }

    fn clean_tombstones(&self, _: &TenantId) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly { reason: "the disk is gone".into() })
    }

    fn snapshot(&self, _: &TenantId, skip_head: bool) -> Result<String, StoreError> {
        self.note(format!("snapshot, skip_head {skip_head}"));
        Ok("20260102T030405Z-00000000000000ff".into())
    }

    fn tsdb_status(&self, tenant: &TenantId, limit: usize) -> Result<TsdbStatus, StoreError> {
        if *tenant != TenantId::default() {
            return Ok(TsdbStatus::default());
        }
        Ok(TsdbStatus {
            series: 5,
            label_pairs: 7,
            tiles: 1,
            min_time_ms: 1_000_000,
            max_time_ms: 1_060_000,
            series_by_metric_name: [("up".to_owned(), 2), ("b".to_owned(), 1)]
                .into_iter()
                .take(limit)
                .collect(),
            ..TsdbStatus::default()
        })
    }

    fn blocks(&self, tenant: &TenantId) -> Result<Vec<BlockInfo>, StoreError> {
        if *tenant != TenantId::default() {
            return Ok(Vec::new());
        }
        let block = BlockInfo {
            ulid: "01HF0000000000000000000000".into(),
            min_ms: 1_000,
            end_ms: 2_001,
            floats: 7,
            histograms: 2,
            series: 3,
            level: 1,
        };
        Ok(vec![block.clone(), BlockInfo { histograms: 0, level: 2, ..block }])
    }

    fn series_usage(&self, tenant: &TenantId, limit: usize) -> SeriesUsage {
        if *tenant != TenantId::default() {
            return SeriesUsage::default();
        }
        let maker = |job: &str, series, refused| SeriesMaker {
            labels: Labels::from_pairs([("job", job)]),
            series,
            refused,
        };
        let makers = || [maker("a", 2, 1), maker("b", 3, 0)].into_iter().take(limit).collect();
        SeriesUsage {
            series: 5,
            tenant_max: 100,
            source_max: Some(4),
            job_max: None,
            sources: makers(),
            jobs: makers(),
        }
    }
}

impl TargetStatus for Program {
    fn active(&self, tenant: &TenantId) -> Vec<ActiveTarget> {
        if *tenant != TenantId::default() {
            return Vec::new();
        }
        let target = |job: &str, last_scrape_ms, health, last_error: &str| ActiveTarget {
            id: SourceId(1),
            scrape_pool: job.into(),
            scraped_by: None,
            discovered_labels: Labels::from_pairs([("__address__", "10.0.0.1:80"), ("job", job)]),
            labels: Labels::from_pairs([("instance", "10.0.0.1:80"), ("job", job)]),
            scrape_url: "http://10.0.0.1:80/metrics".into(),
            last_error: last_error.into(),
            last_scrape_ms,
            last_scrape_duration_seconds: 0.0125,
            health,
            scrape_interval_ms: 15_000,
            scrape_timeout_ms: 10_000,
        };
        vec![
            target("a", 1_435_781_430_780, TargetHealth::Up, ""),
            target("b", 0, TargetHealth::Down, "connection \"refused\""),
        ]
    }

    fn dropped(&self, tenant: &TenantId) -> Vec<DroppedTarget> {
        if *tenant != TenantId::default() {
            return Vec::new();
        }
        vec![DroppedTarget { scrape_pool: "b".into(), discovered_labels: Labels::from_pairs([("job", "b")]) }]
    }

    fn dropped_counts(&self, tenant: &TenantId) -> BTreeMap<String, usize> {
        if *tenant != TenantId::default() {
            return BTreeMap::new();
        }
        BTreeMap::from([("a".into(), 0), ("b".into(), 1)])
    }

    fn scrape_pools(&self, tenant: &TenantId) -> Vec<String> {
        if *tenant != TenantId::default() {
            return Vec::new();
        }
        vec!["a".into(), "b".into()]
    }

    fn pool_config(&self, tenant: &TenantId, pool: &str) -> Option<PoolConfig> {
        if *tenant != TenantId::default() {
            return None;
        }
        let rule = |spec| Rule::new(spec, NameScheme::Utf8).expect("a rule");
        let relabel = vec![
            rule(RuleSpec {
                source_labels: vec!["__address__".into()],
                target_label: "instance".into(),
                replacement: "<$1>".into(),
                ..RuleSpec::default()
            }),
            rule(RuleSpec {
                source_labels: vec!["env".into(), "zone".into()],
                separator: "/".into(),
                regex: Some("prod/.*".into()),
                action: Action::Keep,
                ..RuleSpec::default()
            }),
            rule(RuleSpec { regex: Some("env".into()), action: Action::LabelDrop, ..RuleSpec::default() }),
        ];
        (pool == "a").then(|| PoolConfig { yaml: "job_name: a\n".into(), relabel })
    }

    fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Vec<TargetMetadata> {
        if *tenant != TenantId::default() {
            return Vec::new();
        }
        let entry = |job: &str, metric: &str| TargetMetadata {
            target: Labels::from_pairs([("job", job)]),
            metric: metric.into(),
            metadata: Metadata {
                metric_type: MetricType::Gauge,
                unit: String::new(),
                help: "Help <of it>.".into(),
            },
        };
        let mut all = vec![entry("a", "up"), entry("a", "other"), entry("b", "up")];
        all.retain(|entry| metric.is_none_or(|metric| entry.metric == metric));
        all
    }
}

/// What is not as usual.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) admin: bool,
    pub(crate) lifecycle: bool,
    pub(crate) auth: Auth,
    pub(crate) external_labels: Labels,
    /// 0 for the usual limit.
    pub(crate) read_sample_limit: u64,
    pub(crate) completeness: Option<Arc<dyn web::Completeness>>,
}

pub(crate) struct Fixture {
    pub(crate) router: Router,
    pub(crate) program: Arc<Program>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) query_log: Arc<QueryLog>,
    pub(crate) notifications: Arc<Notifications>,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        Fixture::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup) -> Fixture {
        Fixture::with_doors(setup, Router::new())
    }

    pub(crate) fn with_doors(setup: Setup, doors: Router) -> Fixture {
        Fixture::build(Arc::new(sample_store()), setup, doors)
    }

    pub(crate) fn over(store: Arc<dyn Queryable>, setup: Setup) -> Fixture {
        Fixture::build(store, setup, Router::new())
    }

    fn build(store: Arc<dyn Queryable>, setup: Setup, doors: Router) -> Fixture {
        let program = Arc::new(Program::default());
        let mut registry = Registry::default();
        let metrics = WebMetrics::register(&mut registry);
        let engine = EngineOptions { threads: 1, ..EngineOptions::default() };
        let options = Options {
            enable_admin_api: setup.admin,
            enable_lifecycle: setup.lifecycle,
            listen_address: "127.0.0.1:9190".into(),
            flags: BTreeMap::from([
                ("storage.path".into(), "./data".into()),
                ("retention.time".into(), "15d".into()),
            ]),
            read_sample_limit: match setup.read_sample_limit {
                0 => Options::default().read_sample_limit,
                limit => limit,
            },
            read_frame_bytes_max: 64,
            doors: vec![Endpoint { path: "/api/v1/write".into(), methods: vec!["POST"] }],
            build: BuildInfo { version: "1.2.3".into(), compiler: "rustc".into(), ..BuildInfo::default() },
        };
        let (query_log, notifications) = (Arc::<QueryLog>::default(), Arc::<Notifications>::default());
        let state = WebState {
            engine: Arc::new(Engine::new(engine)),
            store,
            admin: program.clone(),
            targets: program.clone(),
            lifecycle: program.clone(),
            clock: FakeClock::at(FIRST_MS + (SCRAPES - 1) * INTERVAL_MS),
            registry: Arc::new(registry),
            metrics,
            auth: Arc::new(setup.auth),
            work: Work::new(20, 2),
            external_labels: setup.external_labels,
            query_log: query_log.clone(),
            active_queries: Arc::default(),
            completeness: setup.completeness,
            notifications: notifications.clone(),
            options: Arc::new(options),
        };
        let endpoints = web::endpoints(state.clone());
        Fixture { router: web::router_with(state, doors), program, endpoints, query_log, notifications }
    }

    /// Sends `request` and waits for the head of the answer.
    pub(crate) async fn response(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.expect("the router answers")
    }

    /// The status that `request` is answered with; the body may never end.
    pub(crate) async fn head(&self, request: Request<Body>) -> StatusCode {
        self.response(request).await.status()
    }

    /// Sends `request` and waits for the whole answer.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.response(request).await;
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("the body arrives");
        let body = String::from_utf8_lossy(&body).into_owned();
        Answer { status: head.status, headers: head.headers, body }
    }

    /// `METHOD /path`, or `/path` for GET; a form behind a blank is sent as the body.
    pub(crate) async fn ask(&self, what: &str) -> Answer {
        let (method, rest) =
            if what.starts_with('/') { ("GET", what) } else { what.split_once(' ').expect("a path") };
        let (path, form) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut request = Request::builder().method(method).uri(path);
        if !form.is_empty() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        self.send(request.body(Body::from(form.to_owned())).expect("a request")).await
    }
}

fn sample_store() -> MemoryStore {
    let store = MemoryStore::new();
    for (at, instance) in ["x", "y"].into_iter().enumerate() {
        let labels =
            |name: &str| Labels::from_pairs([("__name__", name), ("instance", instance), ("job", "a<b")]);
        let desc = SourceDesc {
            tenant: TenantId::default(),
            id: SourceId(at as u128),
            labels: Labels::from_pairs([("instance", instance), ("job", "a<b")]),
        };
        let source = store.open_source(&desc).expect("open");
        let mut names = vec![labels("up"), labels("requests_total")];
        if at == 0 {
            names.push(Labels::from_pairs([("__name__", "odd"), ("http.status", "200")]));
        }
        let series: Vec<_> = store.resolve(source, &names).expect("resolve").into_iter().flatten().collect();
        for scrape in 0..SCRAPES {
            let values = [1.0, (scrape * 30) as f64 + at as f64 / 4.0, 1e-7];
            let row = Row::floats(source, FIRST_MS + scrape * INTERVAL_MS, &series, &values[..series.len()]);
            store.append(&Batch::rows(&[row], Policy::SCRAPE)).expect("append");
        }
        let metadata = [
            ("requests_total", MetricType::Counter, if at == 0 { "Requests." } else { "All \"requests\"." }),
            ("up", MetricType::Gauge, "Whether it is."),
        ]
        .map(|(name, metric_type, help)| {
            (name, Metadata { metric_type, unit: String::new(), help: help.into() })
        });
        let entries: Vec<_> =
            metadata.iter().map(|(metric, metadata)| MetadataEntry { source, metric, metadata }).collect();
        let batch = Batch { metadata: &entries, ..Batch::rows(&[], Policy::SCRAPE) };
        store.append(&batch).expect("append metadata");
    }
    store
}
