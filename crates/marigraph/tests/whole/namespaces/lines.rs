//! Lines between agents and their hub that are cut, pulled, forgotten and slow, at the same time for a cluster
//! each: a dead tunnel is known at both ends in about ten seconds, and afterwards every row is home, once.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::http;
use testkit::net::{Cut, Net};
use testkit::relay::Relay;

use super::{Cluster, HubAt, PATIENCE, Plan, SECRET, now_s, sites, until};

const TARGETS: u8 = 3;
const INTERVAL_S: u64 = 2;
/// Pings every 5 s, dead after another 5 s, and what a busy machine adds.
const KNOWN_IN: Duration = Duration::from_secs(13);
/// One way, on the slow line.
const DELAY: Duration = Duration::from_millis(150);

/// What happens to a cluster's line.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Line {
    Cut(Cut),
    Forgotten,
    Slow,
    Undisturbed,
}

const LINES: [(&str, Line); 5] = [
    ("cut", Line::Cut(Cut::Silent)),
    ("pulled", Line::Cut(Cut::Unplugged)),
    ("forgotten", Line::Forgotten),
    ("slow", Line::Slow),
    ("calm", Line::Undisturbed),
];

fn body(cluster: &str, number: u8) -> String {
    format!("depth_meters{{basin=\"{cluster}\"}} {number}\n")
}

#[test]
fn lines_that_fail_are_known_to_fail_and_cost_no_row() -> Result<()> {
    let Some(mut net) = Net::new()? else { return Ok(()) };
    let mut all = sites(&mut net, LINES.len() + 1)?;
    let hub_site = all.remove(0);
    let at_hub = hub_site.clone();
    hub_site.block_on(|| async {
        let directory = tempfile::tempdir()?;
        let bent: SocketAddr = (net.router_at(&all[3])?, 9999).into();
        let hub = HubAt::start(directory.path(), &at_hub, &[bent.ip()]).await?;
        let to = hub.addr;
        let _relay = net.router().run(async move { Relay::start(bent, to, DELAY).await }).await?;
        let mut clusters = Vec::new();
        for ((name, line), site) in LINES.into_iter().zip(all) {
            let reached = if line == Line::Slow { bent } else { hub.addr };
            let plan = Plan { name, targets: TARGETS, interval: "2s", job: "", body, hub: reached };
            if line == Line::Slow {
                net.throttle(&site, 512)?;
            }
            let token = hub.token(name).await?;
            clusters.push(Cluster::start(directory.path(), &plan, site, &token).await?);
        }
        until("all send", PATIENCE, async || {
            Ok(hub.query("count by (cluster) (up == 1)", None).await?.len() == LINES.len())
        })
        .await?;
        until("all tunnels are there", PATIENCE, async || Ok(tunnels(&hub).await? == LINES.len())).await?;
        for (name, _) in LINES {
            let through = async || Ok(scrape(&hub, name).await?.contains(&body(name, 1)));
            until(&format!("{name} is scraped through its tunnel"), PATIENCE, through).await?;
        }
        // What comes before this second is not counted.
        let from = now_s()? + 1;

        let mut forgotten = 0;
        for ((_, line), cluster) in LINES.iter().zip(&clusters) {
            match line {
                Line::Cut(how) => net.cut(&cluster.site, *how)?,
                Line::Forgotten => forgotten += net.forget_connections(&cluster.site)?,
                Line::Slow | Line::Undisturbed => {}
            }
        }
        ensure!(forgotten >= 2, "an agent has a connection for rows and a tunnel, found {forgotten}");
        // The forgotten one may come back by itself before the others are known to be gone.
        let known = until("the hub knows", KNOWN_IN, async || Ok(ended(&hub).await? >= 3.0)).await?;
        eprintln!("the hub knew of the last dead tunnel after {known:?}");
        for ((_, line), cluster) in LINES.iter().zip(&clusters) {
            let lost = cluster.own("marigraph_tunnel_lost_total").await?;
            let disturbed = !matches!(line, Line::Slow | Line::Undisturbed);
            if disturbed {
                // Both ends asked for signs of life at about the same time.
                let rest = KNOWN_IN.saturating_sub(known).max(Duration::from_secs(1));
                let lost = async || Ok(cluster.own("marigraph_tunnel_lost_total").await? == 1.0);
                until(&format!("{} knows", cluster.name), rest, lost).await?;
            } else {
                ensure!(lost == 0.0, "the tunnel of {} was lost", cluster.name);
            }
        }
        let away = ["cut", "pulled"];
        for name in away {
            let down = format!("marigraph_cluster_up{{cluster=\"{name}\"}} 0");
            until(&down, PATIENCE, async || Ok(hub.get("/metrics").await?.text().contains(&down))).await?;
            let page = scrape(&hub, name).await?;
            ensure!(page.starts_with("502") && page.contains(name), "{page}");
        }
        for name in ["slow", "calm", "forgotten"] {
            let through = async || Ok(scrape(&hub, name).await?.contains(&body(name, 1)));
            until(&format!("{name} is scraped through its tunnel"), PATIENCE, through).await?;
        }

        for ((_, line), cluster) in LINES.iter().zip(&clusters) {
            if let Line::Cut(how) = line {
                net.mend(&cluster.site, *how)?;
            }
        }
        let back = until("all tunnels are back", PATIENCE, async || Ok(tunnels(&hub).await? == LINES.len()));
        eprintln!("all tunnels were back {:?} after the lines", back.await?);
        let to = now_s()?;
        for (name, _) in LINES {
            every_row_is_there_once(&hub, name, from, to).await?;
        }
        for cluster in clusters {
            cluster.agent.terminate()?;
        }
        Ok(())
    })
}

/// The connection for rows dies by itself, and the tunnel beside it lives.
#[test]
fn rows_do_not_wait_for_a_dead_connection_of_their_own() -> Result<()> {
    let Some(mut net) = Net::new()? else { return Ok(()) };
    let mut all = sites(&mut net, 2)?;
    let site = all.pop().context("two sites")?;
    let hub_site = all.pop().context("two sites")?;
    let at_hub = hub_site.clone();
    hub_site.block_on(|| async {
        let directory = tempfile::tempdir()?;
        let hub = HubAt::start(directory.path(), &at_hub, &[]).await?;
        let plan = Plan { name: "forgotten", targets: TARGETS, interval: "1s", job: "", body, hub: hub.addr };
        let token = hub.token("forgotten").await?;
        let cluster = Cluster::start(directory.path(), &plan, site, &token).await?;
        let up = "count(up == 1) == 3";
        until("rows come", PATIENCE, async || Ok(!hub.query(up, None).await?.is_empty())).await?;
        until("the tunnel is there", PATIENCE, async || Ok(tunnels(&hub).await? == 1)).await?;
        let agents = hub.json("/api/v1/fleet/agents").await?;
        let tunnel = agents["data"]["agents"][0]["remote"].as_str().or(agents["data"][0]["remote"].as_str());
        let tunnel: SocketAddr = tunnel.with_context(|| agents.to_string())?.parse()?;
        let forgotten = net.forget_connections_but(&cluster.site, &[tunnel.port()])?;
        ensure!(forgotten >= 1, "an agent has a connection for rows");
        let newest = async || -> Result<f64> {
            let found = hub.query("max(timestamp(up))", None).await?;
            let at = found.first().and_then(|one| one["value"][1].as_str()).context("rows")?;
            Ok(at.parse()?)
        };
        let before = newest().await?;
        let known = until("rows come again", KNOWN_IN, async || Ok(newest().await? > before + 2.0)).await?;
        eprintln!("rows came {known:?} after their connection had died");
        ensure!(cluster.own("marigraph_tunnel_lost_total").await? == 0.0, "the tunnel was lost, too");
        cluster.agent.terminate()?;
        Ok(())
    })
}

async fn tunnels(hub: &HubAt) -> Result<usize> {
    Ok(hub.own("marigraph_tunnel_connections{kind=\"control\"").await? as usize)
}

/// Tunnels that ended at the hub.
async fn ended(hub: &HubAt) -> Result<f64> {
    hub.own("marigraph_tunnel_ended_total{kind=\"control\"").await
}

/// Status and body of the first target of a cluster, through its tunnel; why there is no such target.
async fn scrape(hub: &HubAt, cluster: &str) -> Result<String> {
    let list = hub.get(&format!("/sd/v1/targets?cluster={cluster}")).await?;
    if list.status != 200 {
        return Ok(format!("{} {}", list.status.as_u16(), list.text()));
    }
    let list = list.json()?;
    let groups = list.as_array().context("a list")?;
    let first = groups.iter().find(|group| group["labels"]["instance"] == "10.96.0.1:9100");
    let target = first.and_then(|group| group["targets"][0].as_str()).context("the first target")?;
    let answer = http::get_as(hub.addr, SECRET, &format!("http://{target}/metrics")).await?;
    Ok(format!("{} {}", answer.status.as_u16(), answer.text()))
}

/// The ledger says so, and the samples themselves.
async fn every_row_is_there_once(hub: &HubAt, cluster: &str, from: u64, to: u64) -> Result<()> {
    let path = format!("/api/v1/completeness?cluster={cluster}&start={from}&end={to}");
    let ticks = (to - from) / INTERVAL_S * u64::from(TARGETS);
    let complete = async || {
        let total = hub.json(&path).await?["data"]["total"].take();
        let expected = total["expected"].as_u64().unwrap_or(0);
        Ok(expected >= ticks && total["stored"] == total["expected"] && total["percent"] == 100.0)
    };
    if let Err(error) = until("complete", PATIENCE, complete).await {
        return Err(error.context(format!("{cluster}: {}", hub.json(&path).await?)));
    }
    let samples = hub.query(&format!("up{{cluster=\"{cluster}\"}}[{}s]", to - from), Some(to)).await?;
    ensure!(samples.len() == usize::from(TARGETS), "{cluster}: {samples:?}");
    for series in &samples {
        let values = series["values"].as_array().context("a matrix")?;
        let times: Vec<f64> = values.iter().filter_map(|pair| pair[0].as_f64()).collect();
        ensure!(values.iter().all(|pair| pair[1] == "1"), "{cluster}: {series}");
        ensure!(times.len() as u64 + 1 >= (to - from) / INTERVAL_S, "{cluster}: {series}");
        let interval = INTERVAL_S as f64;
        let even = times.windows(2).all(|pair| ((pair[1] - pair[0]) - interval).abs() < interval / 2.0);
        ensure!(even, "{cluster}: rows are missing or stand twice: {series}");
    }
    Ok(())
}
