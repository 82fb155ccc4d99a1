//! The drill: backups of a hub under load, the hub killed, a restore elsewhere; and what cannot be
//! restored.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use anyhow::{Context, Result};
use model::{Labels, SourceId, TenantId};
use serde_json::Value;
use storage::{Appender, Batch, Policy, Row, SourceDesc};
use testkit::peers::{Peer, free_addr};
use testkit::push::Push;
use testkit::target::FakeTarget;

use crate::{eventually, query};

const SERIES: usize = 30;
/// The first row that is pushed; the part that is there before has rows before it.
const FIRST_MS: i64 = 1_700_000_000_000;
const ROWS_BEFORE: i64 = 500;

fn marigraph(args: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_marigraph")).args(args).env_remove("RUST_BACKTRACE").output()?)
}

/// What a command said that has to succeed.
fn succeeds(args: &[&str]) -> Result<String> {
    let output = marigraph(args)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

/// What a command complained of that has to fail.
fn fails(args: &[&str]) -> Result<String> {
    let output = marigraph(args)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(!output.status.success(), "{args:?} went well: {said}");
    Ok(said + &String::from_utf8_lossy(&output.stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary directory has a plain name")
}

async fn start(data: &Path, config: &str) -> Result<Peer> {
    let addr = free_addr()?;
    let file = data.with_extension("yml");
    std::fs::write(&file, config)?;
    let args = [
        "hub".to_owned(),
        format!("--data={}", data.display()),
        format!("--config={}", file.display()),
        format!("--listen={addr}"),
        "--retention.time=0".to_owned(),
        "--log.level=warn".to_owned(),
        "--web.enable-admin-api".to_owned(),
    ];
    Peer::start(Path::new(env!("CARGO_BIN_EXE_marigraph")), &args, addr, "/-/ready").await
}

/// A hub with an agent is backed up, lost, and restored: the agent goes on, and the account is the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_goes_on_against_a_restored_hub() -> Result<()> {
    use crate::fleet::{start_agent, token};
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir()?;
    let start = async |name: &str, listen: &str| {
        let words = [
            format!("--data={}", directory.path().join(name).display()),
            format!("--listen={listen}"),
            "--retention.time=0".to_owned(),
            "--web.enable-admin-api".to_owned(),
        ];
        marigraph::hub::Hub::start(marigraph::cli::HubArgs::parse(words.to_vec())?).await
    };
    let hub = start("data", "127.0.0.1:0").await?;
    let addr = hub.addr();
    let token = token(&hub, "alpha").await?;
    let agent = start_agent(directory.path(), &hub, Some(&token)).await?;
    let rows = "count_over_time(up{cluster=\"alpha\",job=\"node\"}[10m])";
    let count = |result: &[Value]| result.first().and_then(|one| crate::value(one).ok()).unwrap_or(0.0);
    eventually(addr, rows, |result| count(result) >= 10.0).await?;
    // What was due by now, seen once all of it is there.
    let (begin, end) = (jiff::Timestamp::now().as_second() - 600, jiff::Timestamp::now().as_second());
    let account = async || -> Result<(u64, u64)> {
        let path = format!("/api/v1/completeness?start={begin}&end={end}&cluster=alpha");
        let json = testkit::http::get(addr, &path).await?.json()?;
        let total = &json["data"]["total"];
        Ok((total["expected"].as_u64().context("expected")?, total["stored"].as_u64().context("stored")?))
    };
    let mut before = account().await?;
    while before.0 != before.1 || before.0 < 5 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        before = account().await?;
    }
    // The ledger's marks of what is durable are made every second.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    // All of that time has been told of by now.
    before = account().await?;
    let (backups, url) = (directory.path().join("backups"), format!("http://{addr}"));
    let make = {
        let (backups, url) = (backups.clone(), url.clone());
        move || {
            succeeds(&["limits", "set", "alpha", "label_limit=60", "--reason", "drill", "--url", &url])?;
            succeeds(&["backup", text(&backups), "--url", &url])
        }
    };
    tokio::task::spawn_blocking(make).await??;
    succeeds(&["backup", "verify", text(&backups)])?;
    hub.stop().await?;

    let restored = directory.path().join("restored");
    succeeds(&["restore", text(&backups), "--data", text(&restored)])?;
    for name in ["authority.json", "registry.jsonl", "limits.json"] {
        let mode = std::fs::metadata(restored.join("fleet").join(name))?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let hub = start("restored", &addr.to_string()).await?;
    assert_eq!(account().await?, before, "the account of what was before the backup");
    let stored = count(&query(addr, rows).await?);
    eventually(addr, rows, |result| count(result) >= stored + 5.0).await?;
    // The agent never saw that it is another: its certificate, its queue and its places are the same.
    let agents = testkit::http::get(addr, "/api/v1/admin/agents").await?.json()?;
    assert_eq!(agents.as_array().map(Vec::len), Some(1), "{agents}");
    assert_eq!(account().await?, before);
    agent.stop().await?;
    hub.stop().await?;

    // Without keys, where they are not to go.
    let bare = directory.path().join("bare");
    succeeds(&["backup", text(&bare), "--data", text(&restored), "--without-fleet"])?;
    let one = std::fs::read_dir(&bare)?.flatten().map(|entry| entry.path()).find(|path| path.is_dir());
    let one = one.context("a backup")?;
    assert!(one.join("ledger").is_dir() && !one.join("fleet").exists());
    Ok(())
}

fn labels(series: usize) -> Labels {
    Labels::from_pairs([("__name__", "tide"), ("buoy", &series.to_string()), ("job", "drill")])
}

fn value(series: usize, row: i64) -> f64 {
    (row * 7 + series as i64) as f64 / 8.0
}

/// A store whose oldest rows are in a part already.
fn prepare(data: &Path) -> Result<()> {
    let mut config = tsdb::Config::new(data);
    (config.background, config.retention, config.small_tenant_samples) = (false, None, 0);
    let db = tsdb::Db::open(config)?;
    let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(9), labels: Labels::empty() };
    let source = db.open_source(&desc)?;
    let names: Vec<Labels> = (0..SERIES).map(labels).collect();
    let series: Vec<_> =
        db.resolve(source, &names)?.into_iter().collect::<Option<_>>().context("no limit")?;
    for row in -ROWS_BEFORE..0 {
        let values: Vec<f64> = (0..SERIES).map(|series| value(series, row)).collect();
        let rows = [Row::floats(source, FIRST_MS + row * 1000, &series, &values)];
        db.append(&Batch::rows(&rows, Policy::REMOTE_WRITE))?;
    }
    db.flush()?;
    Ok(db.close()?)
}

/// How many rows have been sent and acknowledged.
#[derive(Default)]
struct Pushed {
    sent: AtomicI64,
    acknowledged: AtomicI64,
    stop: AtomicBool,
}

async fn push(addr: SocketAddr, pushed: Arc<Pushed>) -> Result<()> {
    while !pushed.stop.load(Ordering::SeqCst) {
        let row = pushed.sent.fetch_add(1, Ordering::SeqCst);
        let mut request = Push::default();
        for series in 0..SERIES {
            request.floats(&labels(series), &[(FIRST_MS + row * 1000, value(series, row))]);
        }
        match request.send(addr).await {
            Ok(answer) => anyhow::ensure!(answer.status == 204, "{} {}", answer.status, answer.text()),
            Err(_) => return Ok(()), // killed
        }
        pushed.acknowledged.store(row + 1, Ordering::SeqCst);
    }
    Ok(())
}

/// All samples of `selector` up to `end_s`, by labels.
async fn samples(addr: SocketAddr, selector: &str, end_s: i64) -> Result<BTreeMap<String, Vec<(i64, f64)>>> {
    let mut found = BTreeMap::new();
    for series in query(addr, &format!("{selector}[100y] @ {end_s}")).await? {
        let points = series["values"].as_array().context("values")?.iter().map(|point| {
            let time_ms = (point[0].as_f64().context("a time")? * 1000.0).round() as i64;
            Ok((time_ms, point[1].as_str().context("a value")?.parse()?))
        });
        found.insert(series["metric"].to_string(), points.collect::<Result<_>>()?);
    }
    Ok(found)
}

/// Rows of the drill's series at `addr`: each value as it was sent, without a gap; how many.
async fn rows(addr: SocketAddr, pushed: &Pushed) -> Result<i64> {
    let found = samples(addr, "tide", FIRST_MS / 1000 + 1_000_000).await?;
    anyhow::ensure!(found.len() == SERIES, "{} series", found.len());
    let mut counts = Vec::new();
    for (metric, points) in &found {
        let metric: Value = serde_json::from_str(metric)?;
        let series: usize = metric["buoy"].as_str().context("a buoy")?.parse()?;
        for (at, (time_ms, found)) in points.iter().enumerate() {
            let row = at as i64 - ROWS_BEFORE;
            anyhow::ensure!(*time_ms == FIRST_MS + row * 1000, "{metric}: row {row} is at {time_ms}");
            anyhow::ensure!(*found == value(series, row), "{metric}: row {row} is {found}");
        }
        counts.push(points.len() as i64 - ROWS_BEFORE);
    }
    let (least, most) = (counts.iter().min().copied(), counts.iter().max().copied());
    anyhow::ensure!(least == most, "rows are whole: {counts:?}");
    let rows = least.unwrap_or(0);
    anyhow::ensure!(rows <= pushed.sent.load(Ordering::SeqCst), "{rows} rows, more than were sent");
    Ok(rows)
}

/// The backups in a directory, oldest first.
fn backups(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    found.retain(|path| path.join("BACKUP").exists());
    found.sort();
    Ok(found)
}

fn part_of(store: &Path) -> Result<PathBuf> {
    let parts = store.join("tenant/default/parts");
    let first = std::fs::read_dir(&parts)?.next().context("a part")??;
    Ok(first.path())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drill() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (data, destination) = (directory.path().join("data"), directory.path().join("backups"));
    prepare(&data)?;
    let target = FakeTarget::start("# TYPE fish gauge\nfish 1\n").await?;
    let config = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\n\
         scrape_configs: [{{job_name: sea, static_configs: [{{targets: ['{}']}}]}}]\n",
        target.addr
    );
    let hub = start(&data, &config).await?;
    let addr = hub.addr;
    let url = format!("http://{addr}");
    let pushed = Arc::new(Pushed::default());
    let pushing = tokio::spawn(push(addr, pushed.clone()));
    eventually(addr, "count_over_time(fish[1m])", |r| r.len() == 1).await?;

    // Twice, while both doors are busy; the second shares the part with the first.
    let mut acknowledged = 0;
    let mut scraped = BTreeMap::new();
    for number in 1..=2 {
        target.set_body(format!("# TYPE fish gauge\nfish {number}\n"));
        let next = acknowledged + 20;
        while pushed.acknowledged.load(Ordering::SeqCst) < next {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let now_s = jiff::Timestamp::now().as_second() + 1;
        scraped = samples(addr, "fish", now_s).await?;
        acknowledged = pushed.acknowledged.load(Ordering::SeqCst);
        let destination = destination.clone();
        let url = url.clone();
        let said =
            tokio::task::spawn_blocking(move || succeeds(&["backup", text(&destination), "--url", &url]))
                .await??;
        anyhow::ensure!(said.contains("1 part and"), "{said}");
    }
    drop(hub); // SIGKILL, in mid-stream
    pushing.await??;

    let made = backups(&destination)?;
    assert_eq!(made.len(), 2);
    assert_eq!(std::fs::read_dir(data.join("snapshots"))?.count(), 0, "no snapshot is left");
    let inode = |store: &Path| Ok::<_, anyhow::Error>(std::fs::metadata(part_of(store)?)?.ino());
    assert_eq!(inode(&made[0])?, inode(&made[1])?, "a part that is there is not copied again");
    let sound = succeeds(&["backup", "verify", text(&destination)])?;
    assert_eq!(sound.matches(": sound;").count(), 2, "{sound}");

    let elsewhere = directory.path().join("elsewhere");
    let said = succeeds(&["restore", text(&destination), "--data", text(&elsewhere)])?;
    assert!(said.contains(env!("CARGO_PKG_VERSION")) && said.contains(text(&made[1])), "{said}");
    let hub = start(&elsewhere, "global: {}\n").await?;
    let found = rows(hub.addr, &pushed).await?;
    assert!(found >= acknowledged, "{found} rows, {acknowledged} had been acknowledged");
    let now_s = jiff::Timestamp::now().as_second() + 1;
    let restored = samples(hub.addr, "fish", now_s).await?;
    assert_eq!(scraped.len(), 1);
    for (metric, points) in &scraped {
        let restored = restored.get(metric).map(|points| &points[..]).unwrap_or_default();
        assert!(restored.starts_with(points), "{metric}: {points:?} and now {restored:?}");
        assert!(restored.iter().all(|(_, value)| *value == 1.0 || *value == 2.0), "{restored:?}");
    }
    hub.terminate()?;

    // The store that was killed has no less, and the restored one is a store like any other.
    let again = start(&data, "global: {}\n").await?;
    assert!(rows(again.addr, &pushed).await? >= pushed.acknowledged.load(Ordering::SeqCst));
    again.terminate()?;
    let closed = directory.path().join("closed");
    succeeds(&["backup", text(&closed), "--data", text(&elsewhere)])?;
    succeeds(&["backup", "verify", text(&closed)])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_trusted_is_not_restored() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dir = directory.path();
    let (data, destination, target) = (dir.join("data"), dir.join("backups"), dir.join("target"));
    let refused = |want: &str| -> Result<()> {
        let said = fails(&["restore", text(&destination), "--data", text(&target)])?;
        anyhow::ensure!(said.contains(want), "{said:?} lacks {want:?}");
        anyhow::ensure!(!target.join("FORMAT").exists(), "nothing is written");
        Ok(())
    };
    prepare(&data)?;
    std::fs::create_dir(&destination)?;
    refused("is not a backup, and has none in it")?;
    // What a backup that was interrupted has left is none.
    std::fs::create_dir(destination.join("20200101T000000Z.tmp"))?;
    succeeds(&["backup", text(&destination), "--data", text(&data), "--copy"])?;
    assert!(!destination.join("20200101T000000Z.tmp").exists());
    let backup = backups(&destination)?.pop().context("a backup")?;

    std::fs::create_dir(&target)?;
    std::fs::write(target.join("mine"), "x")?;
    refused("is not empty (it has mine): name a new directory, or move it away first")?;
    std::fs::remove_file(target.join("mine"))?;

    // A byte of a part.
    let part = part_of(&backup)?;
    let sound = std::fs::read(&part)?;
    let mut bytes = sound.clone();
    bytes[sound.len() / 2] ^= 1;
    std::fs::write(&part, &bytes)?;
    refused("is damaged: tenant/default/parts/")?;
    let said = fails(&["backup", "verify", text(&destination)])?;
    assert!(said.contains("checksum is") && said.contains("1 of 1 backup cannot be trusted"), "{said}");
    assert!(said.contains("section "), "the page is named: {said}");
    std::fs::write(&part, &sound[..sound.len() - 1])?;
    refused(&format!("has {} bytes, not {}", sound.len() - 1, sound.len()))?;
    std::fs::write(&part, &sound)?;

    // The catalog.
    let catalog = backup.join("BACKUP");
    let good = std::fs::read_to_string(&catalog)?;
    std::fs::write(&catalog, good.replace("made-ms 1", "made-ms 2"))?;
    refused("the catalog fails its checksum")?;
    let newer = good
        .replace("marigraph-backup 1.0", "marigraph-backup 2.0")
        .replace("made-by 0.1.0", "made-by 9.0.0");
    std::fs::write(&catalog, newer)?;
    refused("install marigraph 9.0.0 and run its `marigraph restore`")?;
    std::fs::write(&catalog, &good)?;

    // Whole again, it is restored; and what an interrupted restore left is no store.
    std::fs::write(target.join("FORMAT"), "incomplete restore; remove this directory and restore again\n")?;
    let said = fails(&["hub", "--data", text(&target), "--listen", "127.0.0.1:0"])?;
    assert!(said.contains("incomplete restore; remove this directory and restore again"), "{said}");
    std::fs::remove_dir_all(&target)?;
    succeeds(&["restore", text(&backup), "--data", text(&target)])?;
    let hub = start(&target, "global: {}\n").await?;
    assert_eq!(rows(hub.addr, &Pushed::default()).await?, 0, "all that was before the first push");

    // A running store is not copied behind the hub's back.
    let said = fails(&["backup", text(&destination), "--data", text(&target)])?;
    assert!(said.contains(&format!("process {} has", hub.id())) && said.contains("--url"), "{said}");
    hub.terminate()
}

#[tokio::test(flavor = "multi_thread")]
async fn old_backups_go_and_a_hub_without_the_door_says_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dir = directory.path();
    let (data, destination) = (dir.join("data"), dir.join("backups"));
    prepare(&data)?;
    for _ in 0..4 {
        succeeds(&["backup", text(&destination), "--data", text(&data), "--keep", "2"])?;
    }
    assert_eq!(backups(&destination)?.len(), 2);
    succeeds(&["backup", "verify", text(&destination)])?;

    let hub = crate::start_hub(dir, Some("global: {}\n")).await?;
    let url = format!("http://{}", hub.addr());
    let said = {
        let destination = destination.clone();
        tokio::task::spawn_blocking(move || fails(&["backup", text(&destination), "--url", &url])).await??
    };
    assert!(said.contains("start the hub with --web.enable-admin-api"), "{said}");
    assert_eq!(backups(&destination)?.len(), 2);
    hub.stop().await
}
