//! What the remote-write door costs: requests of known series, in the sender's order, into a store
//! that only counts.
//!
//! CPU time of all threads, so that a busy machine shows in it only a little.
//!
//! `cargo run --release -p receive --example write_cost [-- SERIES]`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use model::Labels;
use receive::{ReceiveConfig, ReceiveMetrics, ReceiveState, router};
use stdx::clock::SystemClock;
use storage::{Appended, Appender, Batch, CommitPosition, SeriesRef, SourceDesc, SourceRef, StoreError};
use tower::ServiceExt;
use wire::remote_write::{EncoderV1, EncoderV2, Sample, SeriesToWrite, snappy_encode};

/// Series in a request, as Prometheus' sender has them by default.
const REQUEST_SERIES: usize = 2000;
const ROUNDS: i64 = 6;

/// A store that gives out numbers and forgets.
#[derive(Default)]
struct Counting(AtomicU64);

impl Appender for Counting {
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        Ok(SourceRef(source.id.0 as u64))
    }

    fn resolve(&self, _: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        Ok(labels.iter().map(|_| Some(SeriesRef(self.0.fetch_add(1, Ordering::Relaxed)))).collect())
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        Ok(Appended { samples: batch.rows.iter().map(|row| row.values.len()).sum(), ..Appended::default() })
    }

    fn wait_durable(&self, _: CommitPosition) -> Result<(), StoreError> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let series: Vec<Labels> = (0..count).map(labels).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for is_v1 in [true, false] {
        let state = ReceiveState {
            appender: Arc::new(Counting::default()),
            clock: SystemClock::shared(),
            config: ReceiveConfig::default(),
            metrics: ReceiveMetrics::default(),
        };
        let router = router(state);
        let version = if is_v1 { "1.0" } else { "2.0" };
        let (mut first, mut best) = (Duration::ZERO, Duration::MAX);
        for round in 0..ROUNDS {
            let bodies: Vec<Vec<u8>> = series
                .chunks(REQUEST_SERIES)
                .map(|chunk| body(chunk, round, is_v1))
                .collect::<Result<_, _>>()?;
            let start = cpu_time()?;
            for body in bodies {
                runtime.block_on(send(&router, body, is_v1))?;
            }
            let spent = cpu_time()? - start;
            if round == 0 {
                first = spent;
            } else {
                best = best.min(spent);
            }
        }
        let per_sample = |spent: Duration| spent.as_nanos() as f64 / count as f64;
        println!(
            "{version}: {count} new series {:.0} ns each, known {:.0} ns a sample",
            per_sample(first),
            per_sample(best)
        );
    }
    Ok(())
}

/// Time on a processor of all threads so far.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let mut spent = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task")? {
        let schedstat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let on_cpu = schedstat.split(' ').next().ok_or("schedstat is empty")?;
        spent += Duration::from_nanos(on_cpu.parse()?);
    }
    Ok(spent)
}

/// Eleven labels, as a Kubernetes target has them; 500 series a target.
fn labels(n: usize) -> Labels {
    let (target, metric) = (n / 500, n % 500);
    Labels::from_pairs([
        ("__name__", format!("container_network_receive_packets_dropped_{metric}_total")),
        ("job", "kubelet-cadvisor".to_owned()),
        ("instance", format!("10.0.{}.{}:10250", target / 250, target % 250)),
        ("namespace", format!("team-{}", target % 17)),
        ("pod", format!("checkout-backend-7f9c6d5b4-{target:05}")),
        ("container", "application-server".to_owned()),
        ("node", format!("ip-10-0-{}-{}.eu-central-1.compute.internal", target / 250, target % 250)),
        ("cluster", "production-europe".to_owned()),
        ("region", "eu-central-1".to_owned()),
        ("image", "registry.example.org/shop/checkout:v2.31.7".to_owned()),
        ("interface", "eth0".to_owned()),
    ])
}

fn body(series: &[Labels], round: i64, is_v1: bool) -> Result<Vec<u8>, Box<dyn Error>> {
    let samples = [Sample {
        timestamp_ms: 1_700_000_000_000 + round * 15_000,
        value: round as f64,
        start_timestamp_ms: 0,
    }];
    let (mut v1, mut v2) = (EncoderV1::default(), EncoderV2::default());
    for labels in series {
        let series = SeriesToWrite::floats(labels, &samples);
        if is_v1 { v1.series(&series) } else { v2.series(&series) }
    }
    Ok(snappy_encode(&if is_v1 { v1.finish() } else { v2.finish() })?)
}

async fn send(router: &Router, body: Vec<u8>, is_v1: bool) -> Result<(), Box<dyn Error>> {
    let message = if is_v1 { "prometheus.WriteRequest" } else { "io.prometheus.write.v2.Request" };
    let request = Request::post("/api/v1/write")
        .header("content-type", format!("application/x-protobuf;proto={message}"));
    let response = router.clone().oneshot(request.body(Body::from(body))?).await?;
    if response.status().is_success() { Ok(()) } else { Err(response.status().to_string().into()) }
}
