//! A PushProx client that goes without a word while its poll is held.

use std::time::Duration;

use anyhow::Result;
use testkit::http;
use testkit::net::Net;

use super::{HubAt, PATIENCE, SECRET, sites, until};

const DOOR: &str = "/pushprox/north/lighthouse-keepers";
/// 30 s of silence, three questions 5 s apart, and what a busy machine adds.
const GONE_IN: Duration = Duration::from_secs(55);

#[test]
#[ignore = "waits 45 s for TCP keep-alive"]
fn a_poll_that_nobody_hears_is_let_go() -> Result<()> {
    let Some(mut net) = Net::new()? else { return Ok(()) };
    let all = sites(&mut net, 2)?;
    let at_hub = all[0].clone();
    at_hub.block_on(|| async {
        let directory = tempfile::tempdir()?;
        let doors = "proxy: {pushprox: {doors: [{cluster: north, secret: lighthouse-keepers}]}}\n";
        let hub = HubAt::start_with(directory.path(), &all[0], &[], doors).await?;
        let addr = hub.addr;
        let polling = all[1].clone();
        let held = async move {
            polling.run(async move { http::post(addr, &format!("{DOOR}/poll"), "", "db1.lan").await }).await
        };
        let held = tokio::spawn(held);
        let listed = async || {
            let clients = http::get_as(addr, SECRET, &format!("{DOOR}/clients")).await?;
            Ok(clients.text().contains("db1.lan"))
        };
        until("the client polls", PATIENCE, listed).await?;
        anyhow::ensure!(net.forget_connections(&all[1])? == 1, "one poll is held");
        // The list has whoever holds a poll; for a while it also has who has just held one, so the socket is asked.
        let gone = async || Ok(!is_connected()?);
        let after = until("the hub lets the poll go", GONE_IN, gone).await?;
        eprintln!("the hub let the poll go after {after:?}");
        held.abort();
        Ok(())
    })
}

/// Whether the hub still has a connection from the other site, 10.71.1.2: addresses stand with their last byte
/// first, and 01 is established.
fn is_connected() -> Result<bool> {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    let far = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.len() > 3 && words[2].starts_with("0201470A") && words[3] == "01"
    };
    Ok(table.lines().any(far))
}
