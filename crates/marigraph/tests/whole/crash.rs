//! `kill -9` of the real process in mid-stream: whatever was acknowledged is there afterwards.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use model::Labels;
use testkit::peers::{Peer, free_addr};
use testkit::push::Push;

use crate::query;

const SERIES: usize = 50;
const ROUNDS: usize = 3;

async fn start(data: &Path) -> Result<Peer> {
    let addr = free_addr()?;
    let config = data.with_extension("yml");
    std::fs::write(&config, "global: {}\n")?;
    let args = [
        "hub".to_owned(),
        format!("--data={}", data.display()),
        format!("--config={}", config.display()),
        format!("--listen={addr}"),
        "--retention.time=0".to_owned(),
        "--log.level=warn".to_owned(),
    ];
    Peer::start(Path::new(env!("CARGO_BIN_EXE_marigraph")), &args, addr, "/-/ready").await
}

/// Pushes rows until the process is killed under it; the number of acknowledged rows.
async fn push_until_killed(addr: SocketAddr, first_ms: i64, peer: Peer) -> Result<i64> {
    let killer = tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        drop(peer); // SIGKILL
    });
    let mut acknowledged = 0;
    loop {
        let mut request = Push::default();
        for series in 0..SERIES {
            let labels =
                Labels::from_pairs([("__name__", "tide"), ("buoy", &series.to_string()), ("job", "crash")]);
            request.floats(
                &labels,
                &[(first_ms + acknowledged * 1000, (acknowledged * 7 + series as i64) as f64)],
            );
        }
        let sent = request.send(addr).await;
        match sent {
            Ok(answer) => {
                assert_eq!(answer.status, 204, "{}", answer.text());
                acknowledged += 1;
            }
            Err(_) => break,
        }
    }
    killer.await?;
    Ok(acknowledged)
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_samples_survive_kill_9() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let mut first_ms = 1_700_000_000_000;
    let mut total = 0;
    for round in 0..ROUNDS {
        let peer = start(&data).await?;
        let addr = peer.addr;
        let acknowledged = push_until_killed(addr, first_ms, peer).await?;
        assert!(acknowledged > 0, "round {round} pushed nothing");
        total += acknowledged;

        let peer = start(&data).await?;
        let end_s = first_ms / 1000 + acknowledged + 10;
        let text = format!("count_over_time(tide[10y] @ {end_s})");
        let counts = query(peer.addr, &text).await?;
        assert_eq!(counts.len(), SERIES, "round {round}");
        for count in &counts {
            let found = crate::value(count)? as i64;
            // The row in flight when the process died may be there too: written, not yet acknowledged.
            let range = total..=total + 1 + i64::try_from(round)?;
            assert!(range.contains(&found), "round {round}: {found} rows, {total} acknowledged");
        }
        let last =
            query(peer.addr, &format!("tide{{buoy=\"7\"}} @ {}", first_ms / 1000 + acknowledged - 1)).await?;
        assert_eq!(crate::value(&last[0])?, ((acknowledged - 1) * 7 + 7) as f64);
        first_ms += (acknowledged + 100) * 1000;
    }
    Ok(())
}

/// A query that takes longer than this test.
const ENDLESS: &str = "max_over_time(max_over_time(vector(1)[30d:1s])[1d:1s])";

#[tokio::test(flavor = "multi_thread")]
async fn the_next_start_names_the_queries_that_were_under_way() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let peer = start(&data).await?;
    let path = format!("/api/v1/query?query={}", testkit::http::escape(ENDLESS));
    let addr = peer.addr;
    let asking = tokio::spawn(async move { testkit::http::get(addr, &path).await });
    let active = data.join("queries.active");
    let begin = std::time::Instant::now();
    while !std::fs::read(&active)?.windows(ENDLESS.len()).any(|text| text == ENDLESS.as_bytes()) {
        anyhow::ensure!(!asking.is_finished(), "the query was answered: {:?}", asking.await);
        anyhow::ensure!(begin.elapsed() < crate::PATIENCE, "the query is not written down");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(peer); // SIGKILL
    assert!(asking.await?.is_err(), "nobody is left to answer");

    let addr = free_addr()?;
    let log = directory.path().join("log");
    let args = [
        format!("--data={}", data.display()),
        format!("--config={}", data.with_extension("yml").display()),
        format!("--listen={addr}"),
        "--log.level=warn".to_owned(),
    ];
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_marigraph"))
        .arg("hub")
        .args(args)
        .stdout(std::fs::File::create(&log)?)
        .stderr(std::fs::OpenOptions::new().append(true).open(&log)?)
        .spawn()?;
    let begin = std::time::Instant::now();
    let told = loop {
        let text = std::fs::read_to_string(&log)?;
        if text.contains("had not finished") || begin.elapsed() > crate::PATIENCE {
            break text;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    child.kill()?;
    child.wait()?;
    assert!(told.contains("had not finished when the program last ended"), "{told}");
    assert!(told.contains(ENDLESS), "{told}");
    Ok(())
}
