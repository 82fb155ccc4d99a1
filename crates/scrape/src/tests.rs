//! Managers against targets in memory: time stands still and jumps from timer to timer, so an hour of
//! scraping takes no time, and every timestamp is known beforehand.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use expect_test::{Expect, expect};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use model::{Labels, TargetGroup, TenantId, is_stale};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use stdx::clock::Clock;
use storage::memory::MemoryStore;
use storage::{Appender, Queryable, Select};
use tokio::time::Instant;

use crate::client::{BoxedStream, Connecting, Connector, Reach};
use crate::config::{ByteSize, HttpClientText, RelabelText, ScrapeConfig, ScrapeConfigText, ScrapeDefaults};
use crate::{Manager, ManagerParts};

mod accounts;
mod cluster;
mod columns;
mod histograms;
mod relay;

/// When every test begins, milliseconds.
const START_MS: i64 = 1_000_000_000_000;
const TEXT: &str = "text/plain; version=0.0.4";

/// Wall time that goes with the runtime's.
#[derive(Debug)]
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    fn now_ms(&self) -> i64 {
        START_MS + self.0.elapsed().as_millis() as i64
    }
}

/// What a target answers with.
#[derive(Debug, Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    delay: Duration,
}

impl Answer {
    fn text(body: &str) -> Answer {
        let headers = vec![("content-type", TEXT.to_owned())];
        Answer { status: 200, headers, body: body.as_bytes().to_vec(), delay: Duration::ZERO }
    }

    fn with(mut self, name: &'static str, value: &str) -> Answer {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// A network of targets: by `host:port`, what each answers. Unknown ones refuse.
#[derive(Debug, Clone, Default)]
pub(crate) struct Network {
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    /// `host:port path header: value; ...` of every request.
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl Network {
    fn set(&self, at: &str, answer: Answer) {
        self.answers.lock().insert(at.to_owned(), answer);
    }

    fn remove(&self, at: &str) {
        self.answers.lock().remove(at);
    }

    async fn answer(
        self,
        at: String,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, io::Error> {
        let mut line = format!("{at} {}", request.uri());
        for (name, value) in request.headers() {
            write!(line, "; {name}: {}", value.to_str().unwrap_or("?")).map_err(io::Error::other)?;
        }
        self.requests.lock().push(line);
        let answer = self.answers.lock().get(&at).cloned().ok_or(io::ErrorKind::ConnectionReset)?;
        tokio::time::sleep(answer.delay).await;
        let mut response = Response::builder().status(answer.status);
        for (name, value) in &answer.headers {
            response = response.header(*name, value);
        }
        response.body(Full::new(Bytes::from(answer.body))).map_err(io::Error::other)
    }
}

impl Connector for Network {
    fn connect<'a>(&'a self, host: &'a str, port: u16, reach: Reach) -> Connecting<'a> {
        Box::pin(async move {
            if let Ok(address) = host.parse() {
                reach.check(address)?;
            }
            let at = format!("{host}:{port}");
            if !self.answers.lock().contains_key(&at) {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
            }
            *self.connections.lock() += 1;
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let network = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| network.clone().answer(at.clone(), request));
                drop(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(theirs), service)
                        .await,
                );
            });
            Ok(Box::new(ours) as BoxedStream)
        })
    }
}

/// A manager, its network and its store.
struct Bench {
    manager: Manager,
    network: Network,
    store: Arc<MemoryStore>,
    started: Instant,
}

impl Bench {
    fn new() -> Bench {
        Bench::stamping(Labels::empty())
    }

    fn stamping(stamped: Labels) -> Bench {
        Bench::over(stamped, |store| store)
    }

    /// A manager whose rows take another way to the store.
    fn over(stamped: Labels, way: impl FnOnce(Arc<MemoryStore>) -> Arc<dyn Appender>) -> Bench {
        let (parts, network, store, started) = Bench::parts(stamped, way);
        let manager = Manager::new(parts, &mut Registry::default());
        Bench { manager, network, store, started }
    }

    fn parts(
        stamped: Labels,
        way: impl FnOnce(Arc<MemoryStore>) -> Arc<dyn Appender>,
    ) -> (ManagerParts, Network, Arc<MemoryStore>, Instant) {
        let (network, store) = (Network::default(), Arc::new(MemoryStore::new()));
        let started = Instant::now();
        let parts = ManagerParts {
            turns: Arc::new(crate::Alone),
            appender: way(store.clone()),
            tenant: TenantId::default(),
            cluster: String::new(),
            stamped,
            clock: Arc::new(RuntimeClock(started)),
            connector: Arc::new(network.clone()),
            clusters: Some(Arc::new(network.clone())),
        };
        (parts, network, store, started)
    }

    fn apply(&self, configs: Vec<ScrapeConfig>) {
        let configs: Vec<Arc<ScrapeConfig>> = configs.into_iter().map(Arc::new).collect();
        self.manager.apply(&configs).expect("a configuration that can be applied");
    }

    fn targets(&self, pool: &str, addresses: &[&str]) {
        let targets = addresses.iter().map(|a| Labels::from_pairs([("__address__", *a)])).collect();
        self.manager
            .update_targets(pool, vec![TargetGroup { source: "0".into(), labels: Labels::empty(), targets }]);
    }

    /// Lets `seconds` pass.
    async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// Every sample as `{labels} value@second ...`, without durations; seconds count from each
    /// target's first scrape, which the hash of its identity decides.
    fn samples(&self) -> String {
        let select = Select {
            tenant: TenantId::default(),
            start_ms: i64::MIN,
            end_ms: i64::MAX,
            matchers: Vec::new(),
        };
        let set = self.store.select(&select).expect("a selection");
        let mut columns = Vec::new();
        set.load(0..set.len(), &mut columns).expect("columns");
        let mut first: HashMap<String, i64> = HashMap::new();
        for (at, column) in columns.iter().enumerate() {
            if set.labels(at).metric_name() == "up" {
                let instance = set.labels(at).get("instance").unwrap_or_default().to_owned();
                let begin = column.times.first().copied().unwrap_or(0);
                first.entry(instance).and_modify(|f| *f = begin.min(*f)).or_insert(begin);
            }
        }
        let mut out = String::new();
        for (at, column) in columns.iter().enumerate() {
            let labels = set.labels(at);
            if labels.metric_name() == "scrape_duration_seconds" {
                continue;
            }
            let begin = labels.get("instance").and_then(|i| first.get(i)).copied().unwrap_or(START_MS);
            write!(out, "{labels}").expect("writing to a string");
            for (time, value) in column.times.iter().zip(&column.values) {
                let seconds = (time - begin) as f64 / 1000.0;
                let value = if is_stale(*value) { "stale".to_owned() } else { value.to_string() };
                write!(out, " {value}@{seconds}").expect("writing to a string");
            }
            out.push('\n');
        }
        out
    }

    /// The samples of metrics that begin with one of `names`.
    fn samples_of(&self, names: &[&str]) -> String {
        let all = self.samples();
        let wanted = |line: &&str| names.iter().any(|name| line.contains(&format!("__name__=\"{name}")));
        all.lines().filter(wanted).map(|line| format!("{line}\n")).collect()
    }

    fn last_error(&self) -> String {
        self.manager.active_targets().first().map(|t| t.last_error.clone()).unwrap_or_default()
    }
}

/// A job of 10 s intervals with a timeout of 5 s.
fn job(change: impl FnOnce(&mut ScrapeConfigText, &mut HttpClientText)) -> ScrapeConfig {
    let mut written = ScrapeConfigText { job_name: Some("j".into()), ..ScrapeConfigText::default() };
    let mut http = HttpClientText::default();
    change(&mut written, &mut http);
    let defaults = ScrapeDefaults {
        scrape_interval: crate::config::ConfigDuration::from_secs(10),
        scrape_timeout: crate::config::ConfigDuration::from_secs(5),
        ..ScrapeDefaults::default()
    };
    written.validate(&http, &defaults, std::path::Path::new("/")).expect("a good job")
}

fn plain() -> ScrapeConfig {
    job(|_, _| {})
}

/// Scrapes one answer once and gives the samples of metrics beginning with `names`.
async fn once(config: ScrapeConfig, answer: Answer, names: &[&str]) -> (Bench, String) {
    let bench = Bench::new();
    bench.apply(vec![config]);
    bench.network.set("a:1", answer);
    bench.targets("j", &["a:1"]);
    bench.pass(10).await;
    let samples = bench.samples_of(names);
    (bench, samples)
}

#[tokio::test(start_paused = true)]
async fn scrapes_become_rows_with_a_report() {
    let bench = Bench::new();
    bench.apply(vec![plain()]);
    bench.network.set("a:1", Answer::text("x{l=\"1\"} 1\nx{l=\"2\"} 2\n"));
    bench.targets("j", &["a:1"]);
    bench.pass(10).await;
    bench.network.set("a:1", Answer::text("x{l=\"1\"} 3\nx{l=\"2\"} 4\n"));
    bench.pass(10).await;
    expect![[r#"
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 2@0 2@10
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 2@0 2@10
        {__name__="scrape_series_added", instance="a:1", job="j"} 2@0 0@10
        {__name__="up", instance="a:1", job="j"} 1@0 1@10
        {__name__="x", instance="a:1", job="j", l="1"} 1@0 3@10
        {__name__="x", instance="a:1", job="j", l="2"} 2@0 4@10
    "#]]
    .assert_eq(&bench.samples());
    assert_eq!(*bench.network.connections.lock(), 1, "the connection is kept");
    let expected = expect![
        "a:1 /metrics; host: a:1; user-agent: marigraph/0.1.0; accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2; accept-encoding: gzip, zstd;q=0.9; x-prometheus-scrape-timeout-seconds: 5"
    ];
    expected.assert_eq(&bench.network.requests.lock()[0]);
}

#[tokio::test(start_paused = true)]
async fn what_vanishes_gets_a_marker_and_may_come_back() {
    let bench = Bench::new();
    bench.apply(vec![plain()]);
    bench.targets("j", &["a:1"]);
    for body in ["a 1\nb 1\n", "a 2\n", "b 3\na 3\n", "nonsense }\n", "a 5\nb 5\n"] {
        bench.network.set("a:1", Answer::text(body));
        bench.pass(10).await;
    }
    expect![[r#"
        {__name__="a", instance="a:1", job="j"} 1@0 2@10 3@20 stale@30 5@40
        {__name__="b", instance="a:1", job="j"} 1@0 stale@10 3@20 stale@30 5@40
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 2@0 1@10 2@20 0@30 2@40
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 2@0 1@10 2@20 0@30 2@40
        {__name__="scrape_series_added", instance="a:1", job="j"} 2@0 0@10 1@20 0@30 0@40
        {__name__="up", instance="a:1", job="j"} 1@0 1@10 1@20 0@30 1@40
    "#]]
    .assert_eq(&bench.samples());
}

#[tokio::test(start_paused = true)]
async fn a_target_that_goes_ends_after_two_intervals() {
    let bench = Bench::new();
    bench.apply(vec![plain()]);
    bench.network.set("a:1", Answer::text("a 1\n"));
    bench.targets("j", &["a:1"]);
    bench.pass(10).await;
    bench.targets("j", &[]);
    bench.pass(10).await;
    let before = bench.samples_of(&["a", "up"]);
    bench.pass(20).await;
    expect![[r#"
        {__name__="a", instance="a:1", job="j"} 1@0
        {__name__="up", instance="a:1", job="j"} 1@0
        --
        {__name__="a", instance="a:1", job="j"} 1@0 stale@10
        {__name__="up", instance="a:1", job="j"} 1@0 stale@10
    "#]]
    .assert_eq(&(before + "--\n" + &bench.samples_of(&["a", "up"])));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_lives_on_elsewhere_is_not_ended() {
    let bench = Bench::new();
    let honoring = |name: &str| {
        let name = name.to_owned();
        job(|job, _| {
            job.job_name = Some(name);
            job.relabel_configs = Some(vec![RelabelText {
                target_label: Some("job".into()),
                replacement: Some("same".into()),
                ..RelabelText::default()
            }]);
        })
    };
    bench.apply(vec![honoring("one"), honoring("two")]);
    bench.network.set("a:1", Answer::text("a 1\n"));
    bench.targets("one", &["a:1"]);
    bench.pass(10).await;
    bench.targets("one", &[]);
    bench.targets("two", &["a:1"]);
    bench.pass(40).await;
    let samples = bench.samples_of(&["a"]);
    assert!(!samples.contains("stale"), "{samples}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_writes_no_markers() {
    let (bench, _) = once(plain(), Answer::text("a 1\n"), &[]).await;
    bench.manager.shutdown().await;
    bench.pass(60).await;
    assert!(!bench.samples().contains("stale"), "{}", bench.samples());
}

#[tokio::test(start_paused = true)]
async fn a_hanging_target_delays_nobody() {
    let bench = Bench::new();
    bench.apply(vec![plain()]);
    let mut slow = Answer::text("a 1\n");
    slow.delay = Duration::from_secs(3600);
    bench.network.set("slow:1", slow);
    bench.network.set("quick:1", Answer::text("a 1\n"));
    bench.targets("j", &["slow:1", "quick:1"]);
    bench.pass(40).await;
    expect![[r#"
        {__name__="up", instance="quick:1", job="j"} 1@0 1@10 1@20 1@30
        {__name__="up", instance="slow:1", job="j"} 0@0 0@10 0@20 0@30
    "#]]
    .assert_eq(&bench.samples_of(&["up"]));
    let errors: Vec<String> = bench.manager.active_targets().into_iter().map(|t| t.last_error).collect();
    expect![[r#"

        Get "http://slow:1/metrics": context deadline exceeded (no whole answer within 5s)"#]]
    .assert_eq(&errors.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn failures_say_why() {
    let gzip = |bytes: &[u8]| {
        use std::io::Write as _;
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).and_then(|()| out.finish()).expect("gzip in memory")
    };
    let text = Answer::text("");
    let packed = |bytes: Vec<u8>| Answer { body: bytes, ..Answer::text("").with("content-encoding", "gzip") };
    let size = |job: &mut ScrapeConfigText, bytes| job.body_size_limit = Some(ByteSize(bytes));
    let cases: Vec<(&str, ScrapeConfig, Answer)> = vec![
        ("status", plain(), Answer { status: 404, ..text.clone() }),
        (
            "no redirect",
            job(|_, h| h.follow_redirects = Some(false)),
            Answer { status: 301, ..text.clone() }.with("location", "/x"),
        ),
        ("redirect loop", plain(), Answer { status: 302, ..text.clone() }.with("location", "/again")),
        ("no content type", plain(), Answer { headers: Vec::new(), ..text.clone() }),
        ("content type", plain(), text.clone().with("content-type", "text/html")),
        (
            "fallback",
            job(|j, _| j.fallback_scrape_protocol = Some("PrometheusText0.0.4".into())),
            text.clone().with("content-type", "text/html"),
        ),
        ("no exposition", plain(), Answer::text("<html>\n")),
        ("bad value", plain(), Answer::text("a 1\nb one\n")),
        (
            "no eof",
            plain(),
            Answer::text("a 1\n").with("content-type", "application/openmetrics-text; version=1.0.0"),
        ),
        ("not gzip", plain(), packed(b"plain".to_vec())),
        ("cut gzip", plain(), packed(gzip(b"a 1\n")[..12].to_vec())),
        ("bomb", job(|j, _| size(j, 1000)), packed(gzip(&vec![b'#'; 1 << 20]))),
        ("large", job(|j, _| size(j, 3)), Answer::text("a 1\n")),
        ("just right", job(|j, _| size(j, 4)), Answer::text("a 1\n")),
        ("encoding", plain(), text.clone().with("content-encoding", "br")),
        ("samples", job(|j, _| j.sample_limit = Some(1)), Answer::text("a 1\nb 1\n")),
        ("labels", job(|j, _| j.label_limit = Some(3)), Answer::text("a 1\nb{x=\"1\"} 1\n")),
        (
            "label name",
            job(|j, _| j.label_name_length_limit = Some(8)),
            Answer::text("b{long_name=\"1\"} 1\n"),
        ),
        (
            "label value",
            job(|j, _| j.label_value_length_limit = Some(5)),
            Answer::text("b{x=\"123456\"} 1\n"),
        ),
        (
            "legacy",
            job(|j, _| j.metric_name_validation_scheme = Some("legacy".into())),
            Answer::text("{\"a.b\"} 1\n"),
        ),
    ];
    let mut report = String::new();
    for (name, config, answer) in cases {
        let (bench, samples) = once(config, answer, &["up", "scrape_samples", "a", "b"]).await;
        writeln!(report, "== {name}: {}\n{samples}", bench.last_error()).expect("writing to a string");
    }
    expect![[r##"
        == status: server returned HTTP status 404 Not Found
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == no redirect: server returned HTTP status 301 Moved Permanently
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == redirect loop: Get "http://a:1/metrics": stopped after 10 redirects
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == no content type: the answer has no Content-Type and no fallback_scrape_protocol is set for the target
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == content type: unsupported Content-Type "text/html" and no fallback_scrape_protocol is set for the target
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == fallback: 
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 1@0

        == no exposition: line 1: expected a metric name, '{' or '#', got "<html>"
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == bad value: line 2: expected a value, got "one"
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == no eof: line 2: expected "# EOF", got the end of the data
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == not gzip: Get "http://a:1/metrics": gzip: incomplete deflate stream
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == cut gzip: Get "http://a:1/metrics": gzip: incomplete deflate stream
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == bomb: body size limit exceeded
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == large: body size limit exceeded
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == just right: 
        {__name__="a", instance="a:1", job="j"} 1@0
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 1@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 1@0
        {__name__="up", instance="a:1", job="j"} 1@0

        == encoding: Get "http://a:1/metrics": content encoding "br" was not asked for
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 0@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == samples: sample limit exceeded
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 2@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 2@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == labels: label_limit exceeded (metric: b, number of labels: 4, limit: 3)
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 2@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == label name: label_name_length_limit exceeded (metric: b, label name: long_name, length: 9, limit: 8)
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 1@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == label value: label_value_length_limit exceeded (metric: b, label name: x, value: "123456", length: 6, limit: 5)
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 1@0
        {__name__="up", instance="a:1", job="j"} 0@0

        == legacy: invalid metric name or label names: {__name__="a.b", instance="a:1", job="j"}
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 0@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 1@0
        {__name__="up", instance="a:1", job="j"} 0@0

    "##]].assert_eq(&report);
}

#[tokio::test(start_paused = true)]
async fn labels_of_scrape_and_target_are_settled() {
    async fn check(honor_labels: bool, want: Expect) {
        let config = job(|job, _| {
            job.honor_labels = Some(honor_labels);
            job.metric_relabel_configs = Some(vec![
                RelabelText {
                    source_labels: Some(vec!["__name__".into()]),
                    regex: Some("unwanted".into()),
                    action: Some("drop".into()),
                    ..RelabelText::default()
                },
                RelabelText {
                    regex: Some("noise".into()),
                    action: Some("labeldrop".into()),
                    ..RelabelText::default()
                },
            ]);
        });
        let body = "a{job=\"x\",instance=\"y\"} 1\nb{exported_job=\"z\",job=\"x\",noise=\"1\"} 1\nunwanted 1\n\
                    b{exported_job=\"z\",job=\"x\",noise=\"2\"} 2\n";
        let (_, samples) = once(config, Answer::text(body), &["a", "b", "unwanted", "scrape_samples"]).await;
        want.assert_eq(&samples);
    }
    check(
        false,
        expect![[r#"
        {__name__="a", exported_instance="y", exported_job="x", instance="a:1", job="j"} 1@0
        {__name__="b", exported_exported_job="x", exported_job="z", instance="a:1", job="j"} 1@0
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 3@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 4@0
    "#]],
    )
    .await;
    check(
        true,
        expect![[r#"
        {__name__="a", instance="y", job="x"} 1@0.896
        {__name__="b", exported_job="z", instance="a:1", job="x"} 1@0
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 3@0
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 4@0
    "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_enrolment_stamped_is_not_for_others_to_say() {
    let bench = Bench::stamping(Labels::from_pairs([("cluster", "here"), ("region", "north")]));
    bench.apply(vec![job(|job, _| {
        job.honor_labels = Some(true);
        job.relabel_configs = Some(vec![RelabelText {
            target_label: Some("region".into()),
            replacement: Some("south".into()),
            ..RelabelText::default()
        }]);
        job.metric_relabel_configs = Some(vec![RelabelText {
            regex: Some("region".into()),
            action: Some("labeldrop".into()),
            ..RelabelText::default()
        }]);
    })]);
    bench.targets("j", &["a:1"]);
    let body = "a 1\na{cluster=\"there\"} 2\na{cluster=\"there\",exported_cluster=\"x\"} 3\n";
    bench.network.set("a:1", Answer::text(body));
    bench.pass(10).await;
    expect![[r#"
        {__name__="a", cluster="here", exported_cluster="there", exported_region="south", instance="a:1", job="j", region="north"} 2@0
        {__name__="a", cluster="here", exported_cluster="x", exported_exported_cluster="there", exported_region="south", instance="a:1", job="j", region="north"} 3@0
        {__name__="a", cluster="here", exported_region="south", instance="a:1", job="j", region="north"} 1@0
        {__name__="up", cluster="here", exported_region="south", instance="a:1", job="j", region="north"} 1@0
    "#]]
    .assert_eq(&bench.samples_of(&["a", "up"]));
}

#[tokio::test(start_paused = true)]
async fn timestamps_of_the_scrape_are_honoured_or_not() {
    async fn check(honor: bool, track: bool, want: Expect) {
        let bench = Bench::new();
        bench.apply(vec![job(|job, _| {
            job.honor_timestamps = Some(honor);
            job.track_timestamps_staleness = Some(track);
        })]);
        bench.targets("j", &["a:1"]);
        let at = |seconds: i64| START_MS + seconds * 1000;
        for (body, seconds) in [("a 1 @\nb 1\n", 1), ("a 2 @\nb 2\n", 2), ("b 3\n", 0), ("a 9 @\n", 4000)] {
            bench.network.set("a:1", Answer::text(&body.replace('@', &at(seconds).to_string())));
            bench.pass(10).await;
        }
        let samples = bench.samples_of(&["a", "b"]);
        let first: i64 = bench.manager.active_targets()[0].last_scrape_ms - 30_000;
        // Own timestamps are shown from the start of the test, the others from the first scrape.
        let shown = ["1", "2"].iter().fold(samples, |text, s| {
            let seconds: i64 = s.parse().expect("a number");
            text.replace(&format!("@{}", (at(seconds) - first) as f64 / 1000.0), &format!("@own{s}"))
        });
        want.assert_eq(&shown);
    }
    check(
        true,
        false,
        expect![[r#"
        {__name__="a", instance="a:1", job="j"} 1@own1 2@own2
        {__name__="b", instance="a:1", job="j"} 1@0 2@10 3@20 stale@30
    "#]],
    )
    .await;
    check(
        true,
        true,
        expect![[r#"
        {__name__="a", instance="a:1", job="j"} 1@own1 2@own2 stale@20
        {__name__="b", instance="a:1", job="j"} 1@0 2@10 3@20 stale@30
    "#]],
    )
    .await;
    check(
        false,
        false,
        expect![[r#"
        {__name__="a", instance="a:1", job="j"} 1@0 2@10 stale@20 9@30
        {__name__="b", instance="a:1", job="j"} 1@0 2@10 3@20 stale@30
    "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_leaves_unchanged_jobs_alone_and_hands_over_changed_ones() {
    let bench = Bench::new();
    let other = || job(|job, _| job.job_name = Some("other".into()));
    bench.apply(vec![plain(), other()]);
    bench.network.set("a:1", Answer::text("a 1\nb 1\n"));
    bench.network.set("b:1", Answer::text("a 1\n"));
    bench.targets("j", &["a:1"]);
    bench.targets("other", &["b:1"]);
    bench.pass(10).await;
    // `j` changes and loses a series meanwhile, `other` stays as it is.
    bench.network.set("a:1", Answer::text("a 2\n"));
    bench.apply(vec![job(|job, _| job.sample_limit = Some(100)), other()]);
    bench.pass(10).await;
    bench.apply(vec![plain()]);
    bench.pass(40).await;
    expect![[r#"
        {__name__="a", instance="a:1", job="j"} 1@0 2@10 2@20 2@30 2@40 2@50
        {__name__="a", instance="b:1", job="other"} 1@0 1@10 stale@20
        {__name__="b", instance="a:1", job="j"} 1@0 stale@10
    "#]]
    .assert_eq(&bench.samples_of(&["a", "b"]));
    assert_eq!(bench.manager.scrape_pools(), ["j"]);
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_cannot_work_changes_nothing() {
    let bench = Bench::new();
    bench.apply(vec![plain()]);
    let broken = job(|job, http| {
        job.job_name = Some("broken".into());
        http.tls_config = Some(crate::config::TlsText {
            ca_file: Some("missing.pem".into()),
            ..crate::config::TlsText::default()
        });
    });
    let error = bench.manager.apply(&[Arc::new(broken)]).expect_err("a missing file");
    expect!["job broken: read /missing.pem: No such file or directory (os error 2)"]
        .assert_eq(&error.to_string());
    assert_eq!(bench.manager.scrape_pools(), ["j"]);
}

#[tokio::test(start_paused = true)]
async fn targets_are_relabelled_limited_and_counted() {
    let bench = Bench::new();
    bench.apply(vec![job(|job, _| {
        job.params = Some([("module".to_owned(), vec!["m n".to_owned()])].into());
        job.target_limit = Some(2);
        job.keep_dropped_targets = Some(1);
        job.relabel_configs = Some(vec![
            RelabelText {
                source_labels: Some(vec!["__address__".into()]),
                regex: Some("drop.*".into()),
                action: Some("drop".into()),
                ..RelabelText::default()
            },
            RelabelText {
                source_labels: Some(vec!["__address__".into()]),
                target_label: Some("__param_target".into()),
                ..RelabelText::default()
            },
        ]);
    })]);
    bench.targets("j", &["a:1", "a:1", "drop:1", "drop:2", "not/an/address", "b"]);
    let show = |bench: &Bench| {
        let mut text = String::new();
        for target in bench.manager.active_targets() {
            writeln!(text, "{} {} from {}", target.labels, target.scrape_url, target.discovered_labels)
                .expect("writing to a string");
        }
        write!(
            text,
            "dropped {:?} of {:?}",
            bench.manager.dropped_targets().len(),
            bench.manager.dropped_counts()
        )
        .expect("writing to a string");
        text
    };
    expect![[r#"
        {instance="a:1", job="j"} http://a:1/metrics?module=m+n&target=a%3A1 from {__address__="a:1", __metrics_path__="/metrics", __param_module="m n", __scheme__="http", __scrape_interval__="10s", __scrape_timeout__="5s", job="j"}
        {instance="b", job="j"} http://b/metrics?module=m+n&target=b from {__address__="b", __metrics_path__="/metrics", __param_module="m n", __scheme__="http", __scrape_interval__="10s", __scrape_timeout__="5s", job="j"}
        dropped 1 of {"j": 2}"#]].assert_eq(&show(&bench));
    bench.targets("j", &["a:1", "b:1", "c:1"]);
    bench.pass(10).await;
    expect!["target_limit exceeded (number of targets: 3, limit: 2)"].assert_eq(&bench.last_error());
}

#[tokio::test(start_paused = true)]
async fn credentials_do_not_follow_to_another_host() {
    let bench = Bench::new();
    bench.apply(vec![job(|_, http| http.bearer_token = Some(crate::config::Secret::new("t0ken")))]);
    bench
        .network
        .set("a:1", Answer { status: 302, ..Answer::text("") }.with("location", "http://b:2/elsewhere"));
    bench.network.set("b:2", Answer::text("a 1\n"));
    bench.targets("j", &["a:1"]);
    bench.pass(10).await;
    let requests = bench.network.requests.lock().clone();
    assert_eq!(bench.last_error(), "");
    assert!(requests[0].starts_with("a:1 /metrics") && requests[0].contains("authorization: Bearer t0ken"));
    assert!(requests[1].starts_with("b:2 /elsewhere") && !requests[1].contains("t0ken"), "{}", requests[1]);
}

#[tokio::test(start_paused = true)]
async fn http_targets_are_asked_through_the_proxy() {
    let bench = Bench::new();
    bench.apply(vec![job(|_, http| http.proxy_url = Some("http://user:pass@proxy:3128".into()))]);
    bench.network.set("proxy:3128", Answer::text("a 1\n"));
    bench.targets("j", &["a:1"]);
    bench.pass(10).await;
    assert_eq!(bench.last_error(), "");
    let request = bench.network.requests.lock()[0].clone();
    assert!(request.starts_with("proxy:3128 http://a:1/metrics; host: a:1"), "{request}");
    assert!(request.contains("proxy-authorization: Basic dXNlcjpwYXNz"), "{request}");
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_that_was_closed_is_opened_again() {
    let bench = Bench::new();
    bench.apply(vec![plain()]);
    bench.network.set("a:1", Answer::text("a 1\n").with("connection", "close"));
    bench.targets("j", &["a:1"]);
    bench.pass(30).await;
    assert_eq!(*bench.network.connections.lock(), 3);
    bench.network.remove("a:1");
    bench.pass(10).await;
    expect![[r#"Get "http://a:1/metrics": connect to a:1: connection refused"#]]
        .assert_eq(&bench.last_error());
}

#[tokio::test(start_paused = true)]
async fn large_answers_get_larger_buffers() {
    let bench = Bench::new();
    bench.apply(vec![plain()]);
    bench.network.set("a:1", Answer::text("a 1\n").with("x-long", &"x".repeat(10_000)));
    bench.targets("j", &["a:1"]);
    bench.pass(20).await;
    assert_eq!(bench.last_error(), "");
    assert_eq!(*bench.network.connections.lock(), 2, "the first was too small, the second is kept");
    let mut body = String::new();
    (0..10_000).for_each(|i| writeln!(body, "series{{i=\"{i}\"}} {i}").expect("writing to a string"));
    bench.network.set("b:1", Answer::text(&body));
    bench.targets("j", &["b:1"]);
    bench.pass(30).await;
    assert_eq!(*bench.network.connections.lock(), 4);
    let scraped = bench.samples_of(&["scrape_samples_scraped"]);
    assert!(scraped.contains("10000@0 10000@10 10000@20"), "{scraped}");
}

#[tokio::test(start_paused = true)]
async fn series_the_store_has_forgotten_are_resolved_again() {
    let bench = Bench::new();
    bench.apply(vec![plain()]);
    bench.network.set("a:1", Answer::text("a 1\nb 1\n"));
    bench.targets("j", &["a:1"]);
    bench.pass(10).await;
    for series in 0..8 {
        bench.store.forget(storage::SeriesRef(series));
    }
    bench.pass(10).await;
    expect![[r#"
        {__name__="a", instance="a:1", job="j"} 1@0
        {__name__="b", instance="a:1", job="j"} 1@0
        {__name__="up", instance="a:1", job="j"} 1@0
    "#]]
    .assert_eq(&bench.samples_of(&["a", "b", "up"]));
}

#[tokio::test(start_paused = true)]
async fn openmetrics_brings_exemplars_metadata_and_start_times() {
    let body = "# TYPE c counter\n# HELP c Some help.\nc_total 5 # {trace_id=\"abc\"} 3\nc_created 1000000000\n# EOF\n";
    let answer_of =
        |body: &str| Answer::text(body).with("content-type", "application/openmetrics-text; version=1.0.0");
    let (bench, samples) = once(plain(), answer_of(body), &["c"]).await;
    expect![[r#"
        {__name__="c_total", instance="a:1", job="j"} 5@0
    "#]]
    .assert_eq(&samples);
    let traces = || {
        let exemplars = bench.store.exemplars(&TenantId::default());
        let all = exemplars.iter().flat_map(|(_, exemplars)| exemplars);
        all.map(|e| e.labels.get("trace_id").unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    bench.pass(20).await;
    assert_eq!(traces(), ["abc"], "an exemplar is told once, however often it is scraped");
    let next = answer_of(&body.replace("abc", "def"));
    bench.network.set("a:1", next);
    bench.pass(20).await;
    assert_eq!(traces(), ["abc", "def"]);
    let metadata = bench.manager.target_metadata(Some("c"));
    assert_eq!(metadata.len(), 1);
    assert_eq!(metadata[0].metadata.help, "Some help.");
    let stored = bench.store.metadata(&TenantId::default(), Some("c")).expect("metadata").values;
    assert_eq!(stored.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn ticks_stand_where_the_clock_says() {
    let (bench, _) = once(plain(), Answer::text("a 1\n"), &[]).await;
    let first = bench.manager.active_targets()[0].last_scrape_ms;
    bench.pass(30).await;
    let later = bench.manager.active_targets()[0].last_scrape_ms;
    assert_eq!(later - first, 30_000);
    assert!(bench.started.elapsed() >= Duration::from_secs(40));
}
