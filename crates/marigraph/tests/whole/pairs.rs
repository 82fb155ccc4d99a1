//! Two real agents share the targets of a cluster, and one of them joins, stops, dies and is frozen.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use marigraph::hub::Hub;
use testkit::http;
use testkit::peers::free_addr;
use testkit::target::FakeTarget;

use crate::{eventually, fleet, start_hub_at, value};

const TARGETS: usize = 8;
/// Longest time between two rows of a target while nothing happens that nobody could announce: a busy machine skips
/// a tick now and then.
const CALM: f64 = 3.5;

/// A running agent; killed when dropped.
struct Running {
    child: Child,
    listen: std::net::SocketAddr,
}

impl Running {
    async fn start(root: &Path, hub: &Hub, name: &str) -> Result<Running> {
        Running::start_at(root, hub, name, &root.join("leases")).await
    }

    async fn start_at(root: &Path, hub: &Hub, name: &str, leases: &Path) -> Result<Running> {
        let listen = free_addr()?;
        let data = root.join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_marigraph"));
        command.arg("agent").args([
            format!("--hub=https://{}", hub.addr()),
            format!("--data={}", data.display()),
            format!("--listen={listen}"),
            format!("--config={}", root.join("agent.yml").display()),
            format!("--pair.leases={}", leases.display()),
            format!("--pair.name={name}"),
            "--pair.lease-duration=3s".to_owned(),
            "--log.level=warn".to_owned(),
        ]);
        if !data.exists() {
            command.arg(format!("--token={}", fleet::token(hub, "alpha").await?));
        }
        let child = command.stdout(Stdio::null()).spawn()?;
        let running = Running { child, listen };
        let begin = Instant::now();
        while http::get(listen, "/-/ready").await.map_or(true, |answer| answer.status != 200) {
            ensure!(begin.elapsed() < crate::PATIENCE, "agent {name} does not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(running)
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status()?;
        ensure!(done.success(), "kill {signal}: {done}");
        Ok(())
    }

    /// How many targets it scrapes itself.
    async fn own(&self) -> Result<usize> {
        let answer = http::get(self.listen, "/api/v1/targets?state=active").await?.json()?;
        let targets = answer["data"]["activeTargets"].as_array().context("targets")?;
        ensure!(targets.len() == TARGETS, "all targets are listed: {targets:?}");
        Ok(targets.iter().filter(|target| target["health"] == "up").count())
    }

    async fn owns(&self, enough: impl Fn(usize) -> bool) -> Result<()> {
        let begin = Instant::now();
        loop {
            let own = self.own().await?;
            if enough(own) {
                return Ok(());
            }
            ensure!(begin.elapsed() < crate::PATIENCE, "still {own} targets at {}", self.listen);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The times between rows of each target in the last `seconds`: the shortest and the longest.
async fn gaps(hub: &Hub, seconds: u64) -> Result<(f64, f64)> {
    let series = crate::query(hub.addr(), &format!("up{{cluster=\"alpha\"}}[{seconds}s]")).await?;
    ensure!(series.len() == TARGETS, "one series for each target: {series:?}");
    let (mut shortest, mut longest) = (f64::MAX, 0.0_f64);
    for one in &series {
        let values = one["values"].as_array().context("values")?;
        let times: Vec<f64> = values.iter().filter_map(|value| value[0].as_f64()).collect();
        for pair in times.windows(2) {
            (shortest, longest) = (shortest.min(pair[1] - pair[0]), longest.max(pair[1] - pair[0]));
        }
    }
    Ok((shortest, longest))
}

const GLOBAL: &str =
    "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: buoys\n";

/// Targets, as an entry of `static_configs` or of a file has them.
fn groups(target: &FakeTarget, count: usize) -> String {
    let group = |n: usize| format!("  - {{targets: [\"{}\"], labels: {{buoy: \"{n}\"}}}}\n", target.addr);
    (0..count).map(group).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn agents_share_targets_and_take_over() -> Result<()> {
    let root = tempfile::tempdir()?;
    let target = FakeTarget::start("tide_metres 3.5\n").await?;
    let config = format!("{GLOBAL}  static_configs:\n{}", groups(&target, TARGETS));
    std::fs::write(root.path().join("agent.yml"), config)?;
    std::fs::create_dir(root.path().join("leases"))?;
    let hub = start_hub_at(root.path(), None, "127.0.0.1:0").await?;
    let first = Running::start(root.path(), &hub, "first").await?;
    first.owns(|own| own == TARGETS).await?;
    let everything = format!("count(up{{cluster=\"alpha\"}}) == {TARGETS}");
    eventually(hub.addr(), &everything, |result| !result.is_empty()).await?;
    let begun = Instant::now();

    // One joins, and leaves again.
    let second = Running::start(root.path(), &hub, "second").await?;
    first.owns(|own| own < TARGETS).await?;
    second.owns(|own| own > 0).await?;
    both_explain(&first, &second).await?;
    second.signal("-TERM")?;
    first.owns(|own| own == TARGETS).await?;
    drop(second);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let calm = gaps(&hub, 60).await?;
    ensure!(calm.0 > 0.1 && calm.1 < CALM, "planned changes of hands: {calm:?}");

    // It joins again, and its partner is frozen, wakes, and is killed.
    let second = Running::start(root.path(), &hub, "second").await?;
    second.owns(|own| own > 0).await?;
    first.signal("-STOP")?;
    second.owns(|own| own == TARGETS).await?;
    first.signal("-CONT")?;
    second.owns(|own| own < TARGETS).await?;
    drop(first);
    second.owns(|own| own == TARGETS).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let all = gaps(&hub, 120).await?;
    ensure!(all.0 > 0.1 && all.1 < 3.0 * 1.2 + 2.0 + CALM, "freeze and death: {all:?}");

    // Nothing was given an end: all targets have `up` at each second since all had.
    let since = begun.elapsed().as_secs();
    let whole = crate::query(hub.addr(), &format!("count_over_time(({everything})[{since}s:1s])")).await?;
    let seconds = value(whole.first().context("no answer")?)?;
    ensure!(seconds >= since as f64 - 1.0, "holes of staleness: {seconds} of {since} seconds");
    let ended = "marigraph_scrape_stale_markers_total";
    let page = http::get(second.listen, "/metrics").await?.text();
    ensure!(page.lines().any(|line| line == format!("{ended} 0")), "{page}");
    let one = eventually(hub.addr(), "count(up{cluster=\"alpha\"})", |result| !result.is_empty()).await?;
    ensure!((value(&one[0])? - TARGETS as f64).abs() < 0.5, "{one:?}");
    drop(second);
    hub.stop().await
}

/// Each tells of all targets, and of those of the other whose they are.
async fn both_explain(first: &Running, second: &Running) -> Result<()> {
    for (agent, other) in [(first, "second"), (second, "first")] {
        let path = "/api/v1/explain/target?target=buoys/127.0.0.1";
        let answer = http::get(agent.listen, path).await?.json()?;
        let found = answer["data"]["found"].as_array().context("a list")?;
        ensure!(found.len() == TARGETS, "{answer}");
        let of_other: Vec<_> =
            found.iter().filter(|one| one["verdict"] == "another of its pair scrapes it").collect();
        ensure!(!of_other.is_empty() && of_other.len() < TARGETS, "{answer}");
        let told = of_other[0]["steps"][2]["what"].as_str().unwrap_or_default();
        ensure!(told.contains(&format!("in the share of {other},")), "{answer}");
    }
    Ok(())
}

/// The leases are away for one of two alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_that_cannot_read_the_leases_goes_on_only_if_the_other_hears_of_it() -> Result<()> {
    let root = tempfile::tempdir()?;
    let target = FakeTarget::start("tide_metres 3.5\n").await?;
    let config = format!("{GLOBAL}  static_configs:\n{}", groups(&target, TARGETS));
    std::fs::write(root.path().join("agent.yml"), config)?;
    let (leases, link) = (root.path().join("leases"), root.path().join("link"));
    std::fs::create_dir(&leases)?;
    std::os::unix::fs::symlink(&leases, &link)?;
    let hub = start_hub_at(root.path(), None, "127.0.0.1:0").await?;
    let address = hub.addr().to_string();
    let first = Running::start_at(root.path(), &hub, "first", &link).await?;
    let second = Running::start(root.path(), &hub, "second").await?;
    second.owns(|own| own > 0).await?;
    first.owns(|own| own > 0 && own < TARGETS).await?;
    // Changes of hands take a lead of less than a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let shares = (first.own().await?, second.own().await?);
    ensure!(shares.0 + shares.1 == TARGETS, "{shares:?} of {TARGETS}");
    eventually(hub.addr(), &format!("count(up{{cluster=\"alpha\"}}) == {TARGETS}"), |result| {
        !result.is_empty()
    })
    .await?;

    // The other one hears of it at the hub: it goes on, for longer than its lease lasts, and so when they are back.
    std::fs::remove_file(&link)?;
    becomes(&first, "marigraph_pairs_keeps_share", 1.0).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let now = (first.own().await?, second.own().await?);
    ensure!(now == shares, "nobody has taken anything over: {shares:?}, {now:?}");
    std::os::unix::fs::symlink(&leases, &link)?;
    becomes(&first, "marigraph_pairs_keeps_share", 0.0).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(metric(&first, "marigraph_pairs_lapses_total").await?.abs() < 0.1, "its lease has not run out");
    let calm = gaps(&hub, 60).await?;
    ensure!(calm.0 > 0.1 && calm.1 < CALM, "away for one, and heard of: {calm:?}");

    // Nor can the hub be asked: it stops in time, and the other one takes over.
    hub.stop().await?;
    std::fs::remove_file(&link)?;
    second.owns(|own| own == TARGETS).await?;
    becomes(&first, "marigraph_pairs_lapses_total", 1.0).await?;
    becomes(&first, "marigraph_pairs_members", 0.0).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let hub = start_hub_at(root.path(), None, &address).await?;
    std::os::unix::fs::symlink(&leases, &link)?;
    becomes(&first, "marigraph_pairs_members", 2.0).await?;
    second.owns(|own| own < TARGETS).await?;
    let fresh = format!("count(up{{cluster=\"alpha\"}} offset 1s) == {TARGETS}");
    eventually(hub.addr(), &fresh, |result| !result.is_empty()).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let all = gaps(&hub, 120).await?;
    ensure!(all.0 > 0.1 && all.1 < 3.0 * 1.2 + 2.0 + CALM, "away for one, and not heard of: {all:?}");
    drop((first, second));
    hub.stop().await
}

async fn metric(agent: &Running, name: &str) -> Result<f64> {
    let page = http::get(agent.listen, "/metrics").await?.text();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name} at {}", agent.listen))?.parse()?)
}

async fn becomes(agent: &Running, name: &str, wanted: f64) -> Result<()> {
    let begin = Instant::now();
    while (metric(agent, name).await? - wanted).abs() > 0.1 {
        ensure!(begin.elapsed() < crate::PATIENCE, "{name} is not {wanted} at {}", agent.listen);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pair_accounts_writes_out_ends_series_once_and_goes_on_without_its_leases() -> Result<()> {
    let root = tempfile::tempdir()?;
    let target = FakeTarget::start("tide_metres 3.5\n").await?;
    let (hub_root, far_root) = (root.path().join("near"), root.path().join("far"));
    std::fs::create_dir_all(&hub_root)?;
    std::fs::create_dir_all(&far_root)?;
    let hub = start_hub_at(&hub_root, None, "127.0.0.1:0").await?;
    let far = start_hub_at(&far_root, Some("global: {}\n"), "127.0.0.1:0").await?;
    let list = root.path().join("buoys.yml");
    std::fs::write(&list, groups(&target, TARGETS).replace("  - ", "- "))?;
    let config = format!(
        "{GLOBAL}  file_sd_configs: [{{files: [buoys.yml], refresh_interval: 1s}}]\nremote_write:\n- name: far\n  url: \
         http://{}/api/v1/write\n  queue_config: {{batch_send_deadline: 200ms}}\n",
        far.addr()
    );
    std::fs::write(root.path().join("agent.yml"), config)?;
    let leases = root.path().join("leases");
    std::fs::create_dir(&leases)?;
    let first = Running::start(root.path(), &hub, "first").await?;
    let second = Running::start(root.path(), &hub, "second").await?;
    second.owns(|own| own > 0).await?;
    first.owns(|own| own > 0 && own < TARGETS).await?;
    let begun_ms = stdx::clock::SystemClock::shared().now_ms() + 1_000;

    // The leases are away for both: each goes on with what it has, for longer than a lease lasts.
    let away = root.path().join("away");
    std::fs::rename(&leases, &away)?;
    for agent in [&first, &second] {
        becomes(agent, "marigraph_pairs_keeps_share", 1.0).await?;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (first_own, second_own) = (first.own().await?, second.own().await?);
    ensure!(first_own + second_own == TARGETS, "{first_own} and {second_own} of {TARGETS}");
    let without = gaps(&hub, 5).await?;
    ensure!(without.0 > 0.1 && without.1 < CALM, "without leases: {without:?}");
    std::fs::rename(&away, &leases)?;
    for agent in [&first, &second] {
        becomes(agent, "marigraph_pairs_keeps_share", 0.0).await?;
        becomes(agent, "marigraph_pairs_members", 2.0).await?;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let all = gaps(&hub, 60).await?;
    ensure!(all.0 > 0.1, "twice, when the leases were back: {all:?}");

    // What was due is what both have scraped together: the account knows no second agent's rows.
    let until_ms = stdx::clock::SystemClock::shared().now_ms() - 2_000;
    let span = format!("start={}&end={}", begun_ms as f64 / 1000.0, until_ms as f64 / 1000.0);
    let path = format!("/api/v1/completeness?{span}&by=job&cluster=alpha");
    let account = http::get(hub.addr(), &path).await?.json()?;
    let total = &account["data"]["total"];
    let number = |name: &str| total[name].as_f64().with_context(|| format!("no {name} in {account}"));
    ensure!(number("sources")? as usize == TARGETS, "each target once: {account}");
    let due = (until_ms - begun_ms) as f64 / 1000.0 * TARGETS as f64;
    ensure!(
        number("stored")? <= due + TARGETS as f64 && number("stored")? > due * 0.6,
        "{due} due: {account}"
    );
    ensure!(number("stored")? + number("missing")? + number("unknown")? == number("expected")?, "{account}");

    // The receiver of remote write has the same rows, each once.
    let at = until_ms as f64 / 1000.0;
    let rows = format!(
        "/api/v1/query?query={}&time={at}",
        http::escape("sum by (buoy) (count_over_time(up{cluster=\"alpha\"}[8s]))")
    );
    let near = http::get(hub.addr(), &rows).await?.json()?["data"]["result"].clone();
    let begin = Instant::now();
    loop {
        let far = http::get(far.addr(), &rows).await?.json()?["data"]["result"].clone();
        if far == near && far.as_array().map(Vec::len) == Some(TARGETS) {
            break;
        }
        ensure!(begin.elapsed() < crate::PATIENCE, "the receiver has {far}, the hub {near}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // A target vanishes: its series end, once, by the agent that had it.
    let series = crate::query(hub.addr(), "count({buoy=\"3\"})").await?;
    let series = value(series.first().context("the target's series")?)?;
    let ended = async || -> Result<f64> {
        let name = "marigraph_scrape_stale_markers_total";
        Ok(metric(&first, name).await? + metric(&second, name).await?)
    };
    let before = ended().await?;
    let others = groups(&target, TARGETS).replace("  - ", "- ");
    let others: String =
        others.lines().filter(|line| !line.contains("\"3\"")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&list, others)?;
    eventually(hub.addr(), "absent({buoy=\"3\"})", |found| !found.is_empty()).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let markers = ended().await? - before;
    ensure!((markers - series).abs() < 0.1, "{markers} markers for {series} series");
    ensure!(crate::query(hub.addr(), "count(up{cluster=\"alpha\"}) == 7").await?.len() == 1);
    drop((first, second));
    far.stop().await?;
    hub.stop().await
}
