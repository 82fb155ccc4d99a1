//! Blocks go both ways between us and the real Prometheus: same samples, same answers.

mod data;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use data::{END_MS, START_MS};
use marigraph::cli::HubArgs;
use marigraph::hub::Hub;
use serde_json::Value;
use testkit::peers::Peer;
use testkit::push::Push;
use testkit::{http, peers};

/// Runs `marigraph tsdb`.
fn tsdb(words: &[&str]) -> Result<Output> {
    let program = env!("CARGO_BIN_EXE_marigraph");
    Command::new(program).arg("tsdb").args(words).output().with_context(|| format!("run {program}"))
}

/// Runs `marigraph tsdb`, which has to succeed; its standard output.
fn tsdb_succeeds(words: &[&str]) -> Result<String> {
    succeeded(tsdb(words)?, &words.join(" "))
}

fn succeeded(output: Output, what: &str) -> Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {}: {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

async fn hub_on(directory: &Path, store: &Path) -> Result<Hub> {
    let config = directory.join("marigraph.yml");
    std::fs::write(&config, "global: {}\n")?;
    let words = [
        "--data",
        text(store),
        "--config",
        text(&config),
        "--listen",
        "127.0.0.1:0",
        "--retention.time",
        "0",
    ];
    Hub::start(HubArgs::parse(words)?).await
}

/// What both have to answer alike: raw samples, so that values are compared bit by bit, and what
/// staleness and histograms mean. No time is on the edge of a window, where Prometheus 3 differs.
const QUERIES: &[&str] = &[
    "{__name__=~\"demo_.+\"}",
    "{__name__=~\"demo_.+\"}[30m]",
    "sum by (job) (rate(demo_requests_total[5m]))",
    "count(demo_gauge)",
    "max_over_time(demo_gauge[17m])",
];

/// Compares the answers of both at times all over the data. How many had something in them.
async fn compare(theirs: SocketAddr, ours: SocketAddr, queries: &[&str]) -> Result<usize> {
    let mut full = 0;
    for query in queries {
        let mut time = START_MS / 1000 + 7;
        while time < END_MS / 1000 + 600 {
            let path = format!("/api/v1/query?query={}&time={time}", http::escape(query));
            let (a, b) = (http::get(theirs, &path).await?.json()?, http::get(ours, &path).await?.json()?);
            ensure!(sorted(&a) == sorted(&b), "{query} at {time}:\n  theirs {a}\n  ours   {b}");
            full += usize::from(sorted(&b).is_some_and(|list| !list.is_empty()));
            time += 613;
        }
    }
    Ok(full)
}

fn sorted(answer: &Value) -> Option<Vec<String>> {
    let mut list: Vec<String> = answer["data"]["result"].as_array()?.iter().map(Value::to_string).collect();
    list.sort();
    Some(list)
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_what_we_export() -> Result<()> {
    let (Some(prometheus), Some(promtool)) = (peers::program("prometheus"), peers::program("promtool"))
    else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let (store, out) = (directory.path().join("store"), directory.path().join("data"));
    data::fill(&store)?;
    let exported = tsdb_succeeds(&["export", "--data", text(&store), "--out", text(&out)])?;
    // Aligned: one block for each two hours that have samples.
    let blocks = END_MS.div_euclid(7_200_000) - START_MS.div_euclid(7_200_000) + 1;
    assert_eq!(exported.lines().count() as i64, blocks, "{exported}");

    // What promtool prints of the blocks is what we print of the store, of the blocks, and what there was.
    std::fs::create_dir_all(out.join("wal"))?;
    let run = |words: &[&str]| -> Result<String> {
        let output = Command::new(&promtool).arg("tsdb").args(words).output()?;
        succeeded(output, &words.join(" "))
    };
    let floats = "{__name__!=\"demo_histogram\"}";
    let theirs = run(&["dump", "--match", floats, text(&out)])?;
    let ours = tsdb_succeeds(&["dump", "--match", floats, text(&store)])?;
    assert_eq!(theirs.lines().count(), data::float_samples());
    assert!(theirs == ours, "the dumps differ");
    assert!(theirs == tsdb_succeeds(&["dump", "--match", floats, text(&out)])?, "the dumps of blocks differ");
    let listed = run(&["list", text(&out)])?;
    let counts = listed.lines().skip(1).filter_map(|line| line.split_whitespace().nth(4));
    let total: usize = counts.filter_map(|count| count.parse::<usize>().ok()).sum();
    assert_eq!(total, data::float_samples() + data::histogram_samples(), "{listed}");
    let analyzed = run(&["analyze", text(&out)])?;
    assert!(analyzed.contains("Highest cardinality metric names"), "{analyzed}");
    let ours = tsdb_succeeds(&["analyze", text(&out)])?;
    for line in ["Label names: 4", "6 __name__=demo_gauge", "Most common label pairs:"] {
        assert!(ours.contains(line), "{ours}");
    }
    std::fs::remove_dir(out.join("wal"))?;

    let peer = Peer::prometheus(&prometheus, directory.path(), "global: {}\n").await?;
    let hub = hub_on(directory.path(), &store).await?;
    let mut queries = QUERIES.to_vec();
    queries.extend(["histogram_count(demo_histogram)", "histogram_sum(rate(demo_histogram[5m]))"]);
    let full = compare(peer.addr, hub.addr(), &queries).await?;
    assert!(full > 100, "{full} answers with something in them");
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn we_take_over_what_prometheus_wrote() -> Result<()> {
    let Some(prometheus) = peers::program("prometheus") else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let peer = Peer::prometheus(&prometheus, directory.path(), "global: {}\n").await?;
    for from in (START_MS..=END_MS).step_by(600_000) {
        let mut request = Push::default();
        for (labels, samples) in data::series() {
            let within: Vec<(i64, f64)> =
                samples.into_iter().filter(|(time, _)| (from..from + 600_000).contains(time)).collect();
            if !within.is_empty() {
                request.floats(&labels, &within);
            }
        }
        let answer = request.send(peer.addr).await?;
        ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
    }
    let gone = "/api/v1/admin/tsdb/delete_series?match[]=demo_gauge{instance=%22i3%22}";
    let answer = http::post(peer.addr, gone, "text/plain", "").await?;
    ensure!(answer.status.is_success(), "{}", answer.text());
    let answer = http::post(peer.addr, "/api/v1/admin/tsdb/snapshot", "text/plain", "").await?.json()?;
    let name = answer["data"]["name"].as_str().with_context(|| answer.to_string())?;
    let snapshot = directory.path().join("data/snapshots").join(name);

    let store = directory.path().join("store");
    let import = || tsdb_succeeds(&["import", "--data", text(&store), text(&snapshot)]);
    let first = import()?;
    assert!(first.lines().count() > 1 && !first.contains(" 0 samples added"), "{first}");
    let again = import()?;
    assert!(again.lines().all(|line| line.contains(" 0 samples added, ")), "{again}");
    let (theirs, ours) =
        (tsdb_succeeds(&["dump", text(&snapshot)])?, tsdb_succeeds(&["dump", text(&store)])?);
    assert!(theirs.lines().count() > 1000 && theirs == ours, "the dumps differ");

    let hub = hub_on(directory.path(), &store).await?;
    let full = compare(peer.addr, hub.addr(), QUERIES).await?;
    assert!(full > 50, "{full} answers with something in them");
    // What a hub has open nobody else reads.
    let refused = tsdb(&["list", text(&store)])?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && why.contains("is in use by process") && why.contains("snapshot"),
        "{why}"
    );
    hub.stop().await
}

#[test]
fn histograms_survive_the_way_out_and_back() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let [store, out, back] = ["store", "out", "back"].map(|name| directory.path().join(name));
    data::fill(&store)?;
    tsdb_succeeds(&["export", "--data", text(&store), "--out", text(&out), "--block-duration", "1d"])?;
    let imported = tsdb_succeeds(&["import", "--data", text(&back), text(&out)])?;
    assert!(imported.contains("samples added, 0 there already"), "{imported}");
    // A store that has part of it takes the rest, and tells what differs.
    let dumps = [&store, &out, &back].map(|dir| tsdb_succeeds(&["dump", text(dir)]));
    let [a, b, c] = dumps;
    let a = a?;
    assert_eq!(a.lines().count(), data::float_samples() + data::histogram_samples());
    assert!(a == b? && a == c?, "the dumps differ");
    let into_itself = tsdb_succeeds(&["import", "--data", text(&store), text(&out)])?;
    assert!(into_itself.contains(" 0 samples added, "), "{into_itself}");
    assert!(!into_itself.contains("differ"), "{into_itself}");

    // A selection: one metric, an hour of it, for Thanos.
    let part = directory.path().join("part");
    let (start, end) = ((START_MS / 1000).to_string(), (START_MS / 1000 + 3599).to_string());
    let words =
        ["export", "--data", text(&store), "--out", text(&part), "--match", "demo_gauge", "--start", &start];
    let words = [&words[..], &["--end", &end, "--external-label", "cluster=eu"]].concat();
    tsdb_succeeds(&words)?;
    let dump = tsdb_succeeds(&["dump", text(&part)])?;
    let inside = |line: &str| {
        let time: i64 = line.rsplit(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0);
        line.starts_with("{__name__=\"demo_gauge\"") && (START_MS..START_MS + 3_600_000).contains(&time)
    };
    assert_eq!(dump.lines().filter(|line| inside(line)).count(), dump.lines().count());
    assert_eq!(dump.lines().count(), a.lines().filter(|line| inside(line)).count());
    // External labels are not lost by accident.
    let refused = tsdb(&["import", "--data", text(&directory.path().join("x")), text(&part)])?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("has external labels cluster=\"eu\""), "{why}");
    let with = directory.path().join("with");
    tsdb_succeeds(&["import", "--data", text(&with), "--external-labels", "add", text(&part)])?;
    let dump = tsdb_succeeds(&["dump", text(&with)])?;
    assert!(dump.lines().all(|line| line.contains("cluster=\"eu\"")), "{dump}");
    Ok(())
}

/// The only file below `dir` with this extension, or this name.
fn find(dir: &Path, wanted: &str) -> Result<PathBuf> {
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == wanted)
                || path.file_name().is_some_and(|n| n == wanted)
            {
                return Ok(path);
            }
        }
    }
    anyhow::bail!("no {wanted} below {}", dir.display())
}

#[test]
fn damage_is_named_and_the_rest_is_done() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let [store, out, back] = ["store", "out", "back"].map(|name| directory.path().join(name));
    data::fill(&store)?;
    let whole = tsdb_succeeds(&["dump", text(&store)])?.lines().count();
    // A block whose chunks are damaged in one place.
    tsdb_succeeds(&["export", "--data", text(&store), "--out", text(&out), "--block-duration", "1d"])?;
    let segment = find(&out, "000001")?;
    let mut bytes = std::fs::read(&segment)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes)?;
    let imported = tsdb(&["import", "--data", text(&back), text(&out)])?;
    let told = String::from_utf8_lossy(&imported.stderr).into_owned();
    assert!(!imported.status.success(), "{told}");
    assert!(told.contains("chunks/000001, byte ") && told.contains("the chunk fails its checksum"), "{told}");
    assert!(told.contains("everything else is done"), "{told}");
    let kept = tsdb_succeeds(&["dump", text(&back)])?.lines().count();
    assert!(kept < whole && kept >= whole - 120, "{kept} of {whole}");
    // A part with a damaged page of values.
    let part = find(&store, "mgp")?;
    let mut bytes = std::fs::read(&part)?;
    bytes[100] ^= 1;
    std::fs::write(&part, bytes)?;
    let again = directory.path().join("again");
    let exported = tsdb(&["export", "--data", text(&store), "--out", text(&again)])?;
    let told = String::from_utf8_lossy(&exported.stderr).into_owned();
    assert!(
        !exported.status.success() && told.contains(text(&part)) && told.contains("section VAL, byte "),
        "{told}"
    );
    assert!(String::from_utf8(exported.stdout)?.lines().count() > 0, "{told}");
    Ok(())
}
