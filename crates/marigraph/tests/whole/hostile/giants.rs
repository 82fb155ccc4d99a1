//! Queries that take all they can get, and a small one beside them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use model::Labels;
use testkit::http::{self, escape};
use testkit::push::Push;

use super::{FORM, NO_SCRAPES, start};

const DATA_MS: i64 = 1_700_000_000_000;
const SERIES: usize = 1500;
const SAMPLES: i64 = 120;
/// A dashboard's panel, over more series than one batch has.
const PANEL: &str = "sum by (port) (rate(waves_total[5m]))";
/// How often the panel is asked for.
const ASKED: usize = 9;
/// What the panel may take, by the median, on a machine that is busy with giants and other tests: alone
/// it takes some hundredths of this.
const PATIENCE: Duration = Duration::from_secs(4);

/// Fifteen hundred counters of two hours.
async fn fill(addr: SocketAddr) -> Result<()> {
    for part in 0..10 {
        let mut push = Push::default();
        for buoy in (0..SERIES).filter(|buoy| buoy % 10 == part) {
            let labels = Labels::from_pairs([
                ("__name__", "waves_total".to_owned()),
                ("buoy", format!("b{buoy}")),
                ("port", format!("p{}", buoy % 7)),
            ]);
            let samples: Vec<(i64, f64)> =
                (0..SAMPLES).map(|at| (DATA_MS + at * 60_000, (at * (buoy as i64 % 13)) as f64)).collect();
            push.floats(&labels, &samples);
        }
        let answer = push.send(addr).await?;
        ensure!(answer.status == 204, "{}", answer.text());
    }
    Ok(())
}

/// Paths and forms that keep threads, memory or the parser busy, each for half a second at most.
fn giants() -> Vec<(&'static str, String)> {
    let range = |text: &str, step: &str| {
        let rest = format!("start=1700000000&end=1700007200&step={step}&timeout=500ms");
        ("/api/v1/query_range", format!("query={}&{rest}", escape(text)))
    };
    let instant =
        |text: &str| ("/api/v1/query", format!("query={}&time=1700007000&timeout=500ms", escape(text)));
    vec![
        range("quantile_over_time(0.9, {__name__=~\".+\"}[2h])", "0.7"),
        range("sum(stddev_over_time({__name__=~\".+\"}[2h]))", "0.7"),
        range("count_values(\"v\", {__name__=~\".+\"} * time())", "7"),
        range("topk(1000, label_replace({__name__=~\".+\"}, \"x\", \"$1$1$1$1\", \"buoy\", \"(.*)\"))", "1"),
        range("waves_total * on (port) group_left () sum by (port) (waves_total)", "1"),
        range("quantile(0.5, waves_total)", "0.7"),
        instant("max_over_time(sum(rate(waves_total[1m:1s]))[1d:1s])"),
        instant("sum_over_time(vector(1)[1d:100ms])"),
        instant(&vec!["absent(waves_total{buoy=~\"(x|y)+.*z\"})"; 100].join(" or ")),
        ("/api/v1/format_query", format!("query={}", escape(&vec!["1"; 100_000].join("+")))),
        ("/api/v1/parse_query", format!("query={}", escape(&"-(".repeat(100_000)))),
    ]
}

/// The median of the times that `PANEL` takes.
async fn median(addr: SocketAddr) -> Result<Duration> {
    let path = format!("/api/v1/query?query={}&time=1700006000", escape(PANEL));
    let mut times = Vec::new();
    for _ in 0..ASKED {
        let begin = Instant::now();
        let answer = http::get(addr, &path).await?;
        times.push(begin.elapsed());
        ensure!(answer.status == 200, "{}", answer.text());
        let series = answer.json()?["data"]["result"].as_array().map(Vec::len);
        ensure!(series == Some(7), "{}", answer.text());
    }
    times.sort_unstable();
    Ok(times[ASKED / 2])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_query_stays_fast_beside_giants() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start(directory.path(), NO_SCRAPES, &[]).await?;
    let addr = hub.addr();
    fill(addr).await?;
    let alone = median(addr).await?;

    let (over, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let loops: Vec<_> = giants()
        .into_iter()
        .map(|(path, form)| {
            let (over, ended) = (over.clone(), ended.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let answer = http::post(addr, path, FORM, form.clone()).await;
                    let answer = answer.with_context(|| format!("{form:.100}"))?;
                    let status = answer.status.as_u16();
                    ensure!([200, 400, 422, 503].contains(&status), "{form:.100}: {}", answer.text());
                    ended.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    let beside = median(addr).await;
    over.store(true, Ordering::Relaxed);
    for giant in loops {
        giant.await??;
    }
    let beside = beside?;
    assert!(ended.load(Ordering::Relaxed) >= 11, "the giants were there");
    assert!(beside < PATIENCE, "{beside:?} beside giants, {alone:?} alone");
    hub.stop().await
}
