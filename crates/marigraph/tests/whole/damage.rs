//! What a damaged disk costs the people in front of the program.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use model::{Labels, SourceId, TenantId};
use storage::{Appender, Batch, Policy, Row, SourceDesc};
use testkit::http;
use testkit::push::Push;
use tsdb::{Config, Db};

use crate::{query, start_hub};

const NO_SCRAPES: &str = "global: {}\n";

fn now_ms() -> Result<i64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64)
}

/// Data of two tenants, two parts each.
fn fill(data: &Path) -> Result<()> {
    let mut config = Config::new(data);
    config.background = false;
    config.small_tenant_samples = 0;
    let db = Db::open(config)?;
    let now_ms = now_ms()?;
    for minute in [3, 2] {
        for name in ["default", "other"] {
            let (tenant, labels) = (TenantId::new(name)?, Labels::from_pairs([("__name__", "tide")]));
            let source = db.open_source(&SourceDesc { tenant, id: SourceId(1), labels: Labels::empty() })?;
            let series = db.resolve(source, &[labels])?[0].context("no limit")?;
            // Nothing that could be stored as a constant.
            let values: Vec<f64> = (0..50).map(|row| f64::from(row * row) / 7.0).collect();
            let rows: Vec<Row<'_>> = (0..50)
                .map(|row| {
                    let time = now_ms - minute * 60_000 + row as i64;
                    Row::floats(source, time, std::slice::from_ref(&series), &values[row..=row])
                })
                .collect();
            db.append(&Batch::rows(&rows, Policy::REMOTE_WRITE))?;
        }
        db.flush()?;
    }
    Ok(db.close()?)
}

fn flip(path: &Path, at: usize) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    bytes[at] ^= 0x40;
    Ok(std::fs::write(path, bytes)?)
}

async fn push(addr: std::net::SocketAddr, number: f64) -> Result<http::Answer> {
    let mut request = Push::default();
    request.floats(&Labels::from_pairs([("__name__", "tide")]), &[(now_ms()?, number)]);
    request.send(addr).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_costs_its_tenant_and_nobody_else() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    fill(&data)?;
    let manifest = |tenant: &str| data.join("tenant").join(tenant).join("MANIFEST");

    // Somebody else's: this tenant does not notice, but whoever asks is told.
    flip(&manifest("other"), 20)?;
    let hub = start_hub(directory.path(), Some(NO_SCRAPES)).await?;
    let ready = http::get(hub.addr(), "/-/ready").await?;
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains("1 tenant is refused"), "{}", ready.text());
    assert!(!ready.text().contains("other"), "health is open to everybody: {}", ready.text());
    let metrics = http::get(hub.addr(), "/metrics").await?.text();
    assert!(metrics.contains("marigraph_tsdb_tenant_refused{tenant=\"other\"} 1\n"), "{metrics}");
    assert_eq!(push(hub.addr(), 7.5).await?.status, 204);
    assert_eq!(query(hub.addr(), "count_over_time(tide[1h])").await?[0]["value"][1], "101");
    hub.stop().await?;

    // Its own: it is told what is wrong, and may try again.
    flip(&manifest("other"), 20)?;
    flip(&manifest("default"), 20)?;
    let hub = start_hub(directory.path(), Some(NO_SCRAPES)).await?;
    let place = format!("tenant default is refused: manifest {}, byte ", manifest("default").display());
    for path in ["query?query=tide", "labels", "series?match[]=tide", "metadata"] {
        let answer = http::get(hub.addr(), &format!("/api/v1/{path}")).await?;
        assert!(answer.status.is_server_error(), "{path}: {} {}", answer.status, answer.text());
        let text = answer.json()?["error"].as_str().unwrap_or_default().to_owned();
        assert!(text.contains(&place), "{path}: {text}");
    }
    let answer = push(hub.addr(), 8.5).await?;
    assert!(
        answer.status.is_server_error() && answer.text().contains(&place),
        "{} {}",
        answer.status,
        answer.text()
    );
    hub.stop().await?;

    // Mended: parts and what the log had of it are there.
    flip(&manifest("default"), 20)?;
    let hub = start_hub(directory.path(), Some(NO_SCRAPES)).await?;
    assert_eq!(http::get(hub.addr(), "/-/ready").await?.text(), "Marigraph is Ready.\n");
    assert_eq!(push(hub.addr(), 9.5).await?.status, 204);
    assert_eq!(query(hub.addr(), "count_over_time(tide[1h])").await?[0]["value"][1], "102");
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_a_warning_beside_what_can_be_read() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    fill(&data)?;
    let parts = std::fs::read_dir(data.join("tenant/default/parts"))?;
    let mut parts: Vec<_> = parts.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    parts.sort();
    assert_eq!(parts.len(), 2);
    flip(&parts[0], 70)?; // a byte of the values
    let hub = start_hub(directory.path(), Some(NO_SCRAPES)).await?;
    let now_s = now_ms()? / 1000;
    let range = format!("start={}&end={now_s}&step=1", now_s - 600);
    for path in [
        "query?query=count_over_time(tide[1h])".to_owned(),
        "query?query=tide[1h]".to_owned(),
        format!("query_range?query=tide&{range}"),
        format!("query_range?query=sum(rate(tide[5m]))&{range}"),
        "query?query=max_over_time(tide[1h:1s])".to_owned(),
    ] {
        let path = path.replace('[', "%5B").replace(']', "%5D");
        let answer = http::get(hub.addr(), &format!("/api/v1/{path}")).await?;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let answer = answer.json()?;
        let warnings = answer["warnings"].to_string();
        let place = format!("part {}, section VAL, byte ", parts[0].display());
        assert!(warnings.contains(&place), "{path}: {answer}");
        assert_eq!(answer["warnings"].as_array().map(Vec::len), Some(1), "{path}: {answer}");
        assert!(answer["data"]["result"].as_array().is_some_and(|found| !found.is_empty()), "{path}");
    }
    assert_eq!(query(hub.addr(), "count_over_time(tide[1h])").await?[0]["value"][1], "50");
    let metrics = http::get(hub.addr(), "/metrics").await?.text();
    assert!(metrics.contains("marigraph_tsdb_part_damaged_places_total 1\n"), "{metrics}");
    hub.stop().await
}

/// Only an administrator of the machine can make files of another user.
#[test]
fn a_data_directory_of_another_user_is_one_clear_error() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        eprintln!("skipped: only root can run the program as somebody else");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
    let program = directory.path().join("marigraph");
    std::fs::copy(env!("CARGO_BIN_EXE_marigraph"), &program)?;
    let data = directory.path().join("data");
    fill(&data)?;
    std::fs::create_dir_all(data.join("fleet"))?;
    std::fs::write(data.join("lock"), "")?;
    let roles: [&[&str]; 2] = [&["hub"], &["agent", "--cluster=a"]];
    for (words, mode) in roles.into_iter().flat_map(|words| [(words, 0o755), (words, 0o700)]) {
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(mode))?;
        let mut command = std::process::Command::new(&program);
        command.args(words).arg(format!("--data={}", data.display())).arg("--listen=127.0.0.1:0");
        let output = command.env_remove("RUST_BACKTRACE").uid(65534).gid(65534).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let clear = "belongs to user 0, and this runs as user 65534, who may not write to it";
        assert!(!output.status.success() && said.contains(clear), "{words:?} {mode:o}: {said}");
        assert_eq!(said.lines().count(), 1, "{words:?} {mode:o}: {said}");
    }
    Ok(())
}
