//! Time is paused in these tests: it jumps to the next timer whenever everybody waits.

use std::path::PathBuf;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::*;
use crate::config::{DnsConfig, DnsRecordType, FileConfig, HttpConfig};
use crate::dns::DnsRecord;
use crate::document;
use crate::http::fake::FakeFetch;
use crate::{BoxFuture, HttpFetch};

/// Never answers.
struct SilentResolver;

impl Resolve for SilentResolver {
    fn lookup<'a>(
        &'a self,
        _name: &'a str,
        _record: DnsRecordType,
    ) -> BoxFuture<'a, Result<Vec<DnsRecord>, String>> {
        Box::pin(std::future::pending())
    }
}

fn manager() -> (Manager, mpsc::Receiver<PoolTargets>) {
    Manager::new(Options::default(), Metrics::default(), Arc::new(SilentResolver), CancellationToken::new())
}

fn fixed(address: &str) -> Source {
    let targets = vec![document::target(address)];
    Source::Static(vec![TargetGroup { source: "0".to_owned(), targets, ..TargetGroup::default() }])
}

fn http(fetch: &Arc<FakeFetch>, seconds: u64) -> Source {
    Source::Http(HttpConfig {
        url: "http://sd".to_owned(),
        refresh_interval: Duration::from_secs(seconds),
        fetch: Arc::clone(fetch) as Arc<dyn HttpFetch>,
    })
}

fn silent() -> Source {
    let (names, refresh_interval) = (vec!["a".to_owned()], Duration::from_secs(30));
    Source::Dns(DnsConfig { names, record: DnsRecordType::A, port: 1, refresh_interval })
}

fn pool(name: &str, sources: Vec<Source>) -> PoolConfig {
    PoolConfig { name: name.to_owned(), sources }
}

/// The next telling as `pool: address address`, and how many seconds after `start` it came.
async fn next(receiver: &mut mpsc::Receiver<PoolTargets>, start: Instant) -> (String, u64) {
    let told = receiver.recv().await.expect("a telling");
    let targets = told.groups.iter().flat_map(|group| &group.targets);
    let addresses: Vec<&str> = targets.filter_map(|target| target.get("__address__")).collect();
    (format!("{}: {}", told.pool, addresses.join(" ")), start.elapsed().as_secs())
}

fn answer(fetch: &FakeFetch, address: &str) {
    fetch.answer(200, "application/json", &format!(r#"[{{"targets":["{address}"]}}]"#));
}

#[tokio::test(start_paused = true)]
async fn pools_are_told_at_once_when_all_have_answered() {
    let (manager, mut receiver) = manager();
    let start = Instant::now();
    manager.apply(vec![pool("a", vec![fixed("a:1"), fixed("a:2")]), pool("b", vec![])]);
    let mut told = [next(&mut receiver, start).await, next(&mut receiver, start).await];
    told.sort();
    assert_eq!(told, [("a: a:1 a:2".to_owned(), 0), ("b: ".to_owned(), 0)]);
    manager.shutdown().await;
    assert_eq!(receiver.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_pool_does_not_wait_for_ever_for_a_slow_source() {
    let (manager, mut receiver) = manager();
    let start = Instant::now();
    manager.apply(vec![pool("a", vec![fixed("a:1"), silent()])]);
    assert_eq!(next(&mut receiver, start).await, ("a: a:1".to_owned(), 5));
    let status = manager.status();
    let reported: Vec<bool> = status[0].providers.iter().map(|provider| provider.reported).collect();
    assert_eq!(reported, [true, false]);
}

#[tokio::test(start_paused = true)]
async fn changes_are_collected_and_repeats_not_told() {
    let (manager, mut receiver) = manager();
    let fetch = Arc::new(FakeFetch::default());
    for address in ["a:0", "a:1", "a:2", "a:2", "a:2", "a:2", "a:2", "a:2", "a:2", "a:2", "a:3"] {
        answer(&fetch, address);
    }
    let start = Instant::now();
    manager.apply(vec![pool("a", vec![http(&fetch, 1)])]);
    assert_eq!(next(&mut receiver, start).await, ("a: a:0".to_owned(), 0));
    assert_eq!(next(&mut receiver, start).await, ("a: a:2".to_owned(), 5));
    assert_eq!(next(&mut receiver, start).await, ("a: a:3".to_owned(), 10));
}

#[tokio::test(start_paused = true)]
async fn failures_keep_targets_and_show_in_status() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let stop = CancellationToken::new();
    let (manager, mut receiver) =
        Manager::new(Options::default(), metrics, Arc::new(SilentResolver), stop.clone());
    let fetch = Arc::new(FakeFetch::default());
    answer(&fetch, "a:1");
    fetch.answer(503, "", "");
    let start = Instant::now();
    manager.apply(vec![pool("a", vec![http(&fetch, 60)])]);
    assert_eq!(next(&mut receiver, start).await, ("a: a:1".to_owned(), 0));
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(receiver.try_recv().is_err(), "nothing has changed");
    let provider = &manager.status()[0].providers[0];
    assert_eq!((provider.mechanism, provider.targets), ("http", 1));
    assert_eq!(provider.last_error, "get http://sd: server returned HTTP status 503");

    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    for line in [
        r#"marigraph_discovery_refreshes_total{mechanism="http"} 1"#,
        r#"marigraph_discovery_failures_total{mechanism="http"} 1"#,
        r#"marigraph_discovery_targets{scrape_pool="a"} 1"#,
        r#"marigraph_discovery_updates_total{scrape_pool="a"} 1"#,
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    manager.apply(Vec::new());
    text.clear();
    encode(&mut text, &registry).unwrap();
    assert!(!text.contains("scrape_pool"), "a pool that is gone has no metrics\n{text}");
    manager.shutdown().await;
    assert!(!stop.is_cancelled(), "only what the manager started is stopped");
}

#[tokio::test(start_paused = true)]
async fn a_reload_leaves_alone_what_stays() {
    let (manager, mut receiver) = manager();
    let fetch = Arc::new(FakeFetch::default());
    answer(&fetch, "a:1");
    let start = Instant::now();
    manager.apply(vec![pool("a", vec![http(&fetch, 60)]), pool("gone", vec![silent()])]);
    assert_eq!(next(&mut receiver, start).await, ("a: a:1".to_owned(), 0));
    manager.apply(vec![pool("a", vec![fixed("b:1"), http(&fetch, 60)])]);
    assert_eq!(
        next(&mut receiver, start).await,
        ("a: b:1 a:1".to_owned(), 0),
        "told anew, with all it knows"
    );
    assert_eq!(fetch.asked.lock().len(), 1, "the URL was not asked again");
    assert_eq!(manager.status().len(), 1);

    // Another interval is another source: it is asked, fails, and then the pool is told without it.
    manager.apply(vec![pool("a", vec![fixed("b:1"), http(&fetch, 30)])]);
    assert_eq!(next(&mut receiver, start).await, ("a: b:1".to_owned(), 0));
    assert_eq!(fetch.asked.lock().len(), 2);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(fetch.asked.lock().len(), 3, "the source before it has stopped");
}

#[tokio::test(start_paused = true)]
async fn files_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("targets.json");
    std::fs::write(&path, r#"[{"targets":["a:1"]}]"#).unwrap();
    let (manager, mut receiver) = manager();
    let start = Instant::now();
    let refresh_interval = Duration::from_secs(300);
    let source = Source::File(FileConfig { files: vec![path.clone()], refresh_interval });
    manager.apply(vec![pool("a", vec![source])]);
    assert_eq!(next(&mut receiver, start).await.0, "a: a:1");
    std::fs::write(&path, r#"[{"targets":["a:1","a:22"]}]"#).unwrap();
    assert_eq!(next(&mut receiver, start).await.0, "a: a:1 a:22");
    drop(receiver);
    manager.tasks.close();
    manager.tasks.wait().await;
}
