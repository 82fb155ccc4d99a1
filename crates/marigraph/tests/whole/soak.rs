//! `kill -9` again and again, at random moments, under remote write and scraping at once: nothing that was
//! acknowledged or seen is lost, nothing is there that nobody sent.
//!
//! A few kills by default. `MARIGRAPH_KILLS=100 cargo test -p marigraph --test whole soak -- --nocapture`
//! is the long run; `MARIGRAPH_KILLS_SEED` repeats one's moments.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use model::Labels;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use testkit::peers::{Peer, free_addr};
use testkit::push::Push;
use testkit::target::FakeTarget;

use crate::query;

/// Kills when nobody asks for more.
const KILLS: usize = 5;
/// Senders at once.
const SENDERS: usize = 2;
/// Series of each sender.
const SERIES: usize = 20;
/// Time of a sender's first row; later ones follow by the second.
const FIRST_MS: i64 = 1_700_000_000_000;

/// One row of a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    /// Sent, and nothing heard.
    Sent,
    /// Taken, or seen after a start: it must stay.
    Acknowledged,
    /// Not there after a start: it must not come later.
    Lost,
}

/// What has been sent, for each sender.
type Sent = Arc<Mutex<Vec<Vec<Row>>>>;

fn value(sender: usize, series: usize, row: usize) -> f64 {
    (row * 31 + series * 7 + sender) as f64 / 4.0
}

fn arguments(data: &Path, target: SocketAddr, addr: SocketAddr) -> Result<Vec<String>> {
    let config = data.with_extension("yml");
    let text = format!(
        "global: {{scrape_interval: 100ms, scrape_timeout: 100ms}}\n\
         scrape_configs: [{{job_name: sea, static_configs: [{{targets: ['{target}']}}]}}]\n"
    );
    std::fs::write(&config, text)?;
    Ok(vec![
        "hub".to_owned(),
        format!("--data={}", data.display()),
        format!("--config={}", config.display()),
        format!("--listen={addr}"),
        "--retention.time=0".to_owned(),
        "--log.level=error".to_owned(),
    ])
}

/// Kills a hub that has hardly begun.
async fn kill_at_start(data: &Path, target: SocketAddr, after: Duration) -> Result<()> {
    let args = arguments(data, target, free_addr()?)?;
    let mut child = Command::new(env!("CARGO_BIN_EXE_marigraph"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    tokio::time::sleep(after).await;
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Sends rows until the hub is gone.
async fn send(addr: SocketAddr, sender: usize, sent: Sent) -> Result<()> {
    loop {
        let row = {
            let mut sent = sent.lock();
            sent[sender].push(Row::Sent);
            sent[sender].len() - 1
        };
        let mut request = Push::default();
        let job = format!("sender{sender}");
        for series in 0..SERIES {
            let buoy = series.to_string();
            let labels = Labels::from_pairs([("__name__", "tide"), ("buoy", &buoy), ("job", &job)]);
            request.floats(&labels, &[(FIRST_MS + row as i64 * 1000, value(sender, series, row))]);
        }
        match request.send(addr).await {
            Ok(answer) => {
                ensure!(answer.status == 204, "{} {}", answer.status, answer.text());
                sent.lock()[sender][row] = Row::Acknowledged;
            }
            Err(_) => return Ok(()),
        }
    }
}

/// The samples of the scraped series, by time.
async fn scraped(addr: SocketAddr) -> Result<BTreeMap<i64, f64>> {
    let mut found = BTreeMap::new();
    for series in query(addr, "fish[1y]").await? {
        for point in series["values"].as_array().context("values")? {
            found.insert(time_ms(point)?, number(point)?);
        }
    }
    Ok(found)
}

fn time_ms(point: &Value) -> Result<i64> {
    Ok((point[0].as_f64().context("a time")? * 1000.0).round() as i64)
}

fn number(point: &Value) -> Result<f64> {
    Ok(point[1].as_str().context("a value")?.parse()?)
}

/// Compares everything that was pushed from `first` on with what is there, and settles it.
async fn settle(addr: SocketAddr, sent: &Sent, first: usize) -> Result<usize> {
    let rows = sent.lock().iter().map(Vec::len).max().unwrap_or(0);
    let (end_s, range_s) = (FIRST_MS / 1000 + rows as i64, rows.saturating_sub(first) + 1);
    let mut found = vec![vec![0usize; rows + 1]; SENDERS];
    for series in query(addr, &format!("tide[{range_s}s] @ {end_s}")).await? {
        let label = |name: &str| series["metric"][name].as_str().context("a label");
        let buoy: usize = label("buoy")?.parse()?;
        let sender: usize = label("job")?.trim_start_matches("sender").parse()?;
        for point in series["values"].as_array().context("values")? {
            let since_first = time_ms(point)? - FIRST_MS;
            ensure!(since_first >= 0 && since_first % 1000 == 0, "nobody sent a row at {since_first} ms");
            let row = (since_first / 1000) as usize;
            ensure!(number(point)? == value(sender, buoy, row), "sender {sender}, row {row}: {point}");
            *found.get_mut(sender).and_then(|rows| rows.get_mut(row)).context("nobody sent that")? += 1;
        }
    }
    let mut sent = sent.lock();
    let mut checked = 0;
    for (sender, rows) in sent.iter_mut().enumerate() {
        for (row, state) in rows.iter_mut().enumerate().skip(first) {
            let count = found[sender][row];
            ensure!(count == 0 || count == SERIES, "sender {sender}, row {row}: {count} of {SERIES} samples");
            match (*state, count > 0) {
                (Row::Acknowledged, false) => anyhow::bail!("sender {sender}: row {row} is lost"),
                (Row::Lost, true) => anyhow::bail!("sender {sender}: row {row} came from nowhere"),
                (_, there) => *state = if there { Row::Acknowledged } else { Row::Lost },
            }
            checked += count;
        }
    }
    Ok(checked)
}

/// A life of the hub under load, to its sudden end. Gives what was scraped and seen.
async fn live(
    peer: Peer,
    sent: &Sent,
    target: &FakeTarget,
    served: &AtomicU64,
    life: Duration,
) -> Result<BTreeMap<i64, f64>> {
    let addr = peer.addr;
    let senders: Vec<_> = (0..SENDERS).map(|sender| tokio::spawn(send(addr, sender, sent.clone()))).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut seen = BTreeMap::new();
            while !stop.load(Ordering::SeqCst)
                && let Ok(found) = scraped(addr).await
            {
                seen = found;
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            seen
        }
    });
    let end = tokio::time::Instant::now() + life;
    while tokio::time::Instant::now() < end {
        let number = served.fetch_add(1, Ordering::SeqCst) + 1;
        target.set_body(format!("# TYPE fish counter\nfish {number}\n"));
        tokio::time::sleep_until(end.min(tokio::time::Instant::now() + Duration::from_millis(20))).await;
    }
    drop(peer); // SIGKILL
    stop.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.await??;
    }
    Ok(watching.await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_nothing_is_lost_or_invented() -> Result<()> {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = setting("MARIGRAPH_KILLS").map_or(KILLS, |kills| kills as usize);
    let seed = setting("MARIGRAPH_KILLS_SEED").unwrap_or_else(rand::random);
    eprintln!("{kills} kills, MARIGRAPH_KILLS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let target = FakeTarget::start("# TYPE fish counter\nfish 0\n").await?;
    let served = AtomicU64::new(0);
    let sent: Sent = Arc::new(Mutex::new(vec![Vec::new(); SENDERS]));
    let mut seen = BTreeMap::new();
    let mut settled = 0;
    let start = async || {
        let addr = free_addr()?;
        let args = arguments(&data, target.addr, addr)?;
        Peer::start(Path::new(env!("CARGO_BIN_EXE_marigraph")), &args, addr, "/-/ready").await
    };
    for kill in 0..kills {
        if random.random_range(0..4) == 0 {
            kill_at_start(&data, target.addr, Duration::from_millis(random.random_range(0..150))).await?;
        }
        let peer = start().await.with_context(|| format!("start after {kill} kills"))?;
        check_scraped(peer.addr, &seen, &served).await.with_context(|| format!("after {kill} kills"))?;
        settle(peer.addr, &sent, settled).await.with_context(|| format!("after {kill} kills"))?;
        settled = sent.lock().iter().map(Vec::len).min().unwrap_or(0);
        let life = Duration::from_millis(random.random_range(10..700));
        let found = live(peer, &sent, &target, &served, life).await?;
        if !found.is_empty() {
            seen = found;
        }
    }
    let peer = start().await?;
    check_scraped(peer.addr, &seen, &served).await?;
    let samples = settle(peer.addr, &sent, 0).await?;
    let rows: usize = sent.lock().iter().map(Vec::len).sum();
    let found = scraped(peer.addr).await?.len();
    eprintln!(
        "{kills} kills, {rows} rows sent, {samples} samples there, {found} scrapes there: nothing lost, nothing invented"
    );
    ensure!(samples > 0, "nothing was pushed");
    Ok(())
}

/// What was seen of the scraped series is there, and nothing that the target did not serve.
async fn check_scraped(addr: SocketAddr, seen: &BTreeMap<i64, f64>, served: &AtomicU64) -> Result<()> {
    let found = scraped(addr).await?;
    for (time_ms, value) in seen {
        ensure!(
            found.get(time_ms) == Some(value),
            "the scrape at {time_ms} was {value}, now {:?}",
            found.get(time_ms)
        );
    }
    let most = served.load(Ordering::SeqCst) as f64;
    let mut last = 0.0;
    for (time_ms, value) in &found {
        ensure!(value.fract() == 0.0 && (last..=most).contains(value), "the scrape at {time_ms} is {value}");
        last = *value;
    }
    Ok(())
}
