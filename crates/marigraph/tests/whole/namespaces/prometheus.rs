//! An unmodified Prometheus far from the clusters scrapes 200 targets, 100 in each of two, at the same addresses:
//! discovery from the hub, and the hub as `proxy_url`. It gets what a Prometheus in the cluster gets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::http;
use testkit::net::{Cut, Net, Site};
use testkit::peers::{Peer, program};

use super::{Cluster, HubAt, PATIENCE, Plan, SECRET, sites, until};

const CLUSTERS: [&str; 2] = ["east", "west"];
const TARGETS: u8 = 100;
/// A path, a parameter, a label by relabelling: all have to arrive.
const JOB: &str = "  metrics_path: /tide\n  params: {unit: [m]}\n  relabel_configs:\n  - {source_labels: \
                   [__address__], regex: '10\\.96\\.0\\.(.*):9100', target_label: pier}\n";
/// Everything but what is another number at every scrape.
const EVERYTHING: &str = "{job=\"piers\",__name__!~\"scrape_duration_seconds|scrape_series_added\"}";

/// Its own `cluster` gives way to the target's, in place and from afar.
fn body(cluster: &str, number: u8) -> String {
    let east = f64::from(u8::from(cluster == "east"));
    let mut out = "# TYPE depth_meters gauge\n".to_owned();
    for buoy in 0..8 {
        let depth = f64::from(number) * 1.25 + f64::from(buoy) + east * 0.1;
        out += &format!("depth_meters{{buoy=\"{buoy}\",cluster=\"drawn\"}} {depth}\n");
    }
    out + &format!("keeper_info{{name=\"{cluster} {number}\"}} 1\n")
}

#[test]
fn prometheus_scrapes_200_targets_of_two_clusters_through_the_hub() -> Result<()> {
    let Some(program) = program("prometheus") else { return Ok(()) };
    let Some(mut net) = Net::new()? else { return Ok(()) };
    let all = sites(&mut net, 4)?;
    let at_hub = all[0].clone();
    at_hub.block_on(|| async {
        let [hub_site, office, east, west] = &all[..] else { unreachable!("four sites") };
        let directory = tempfile::tempdir()?;
        let hub = HubAt::start(directory.path(), hub_site, &[]).await?;
        let mut clusters = Vec::new();
        let mut in_place = Vec::new();
        for (name, site) in CLUSTERS.into_iter().zip([east, west]) {
            let plan = Plan { name, targets: TARGETS, interval: "5s", job: JOB, body, hub: hub.addr };
            let token = hub.token(name).await?;
            clusters.push(Cluster::start(directory.path(), &plan, site.clone(), &token).await?);
            let config = plan.config(&format!(", cluster: {name}"));
            in_place.push(prometheus(&program, &directory.path().join(name), site, &config).await?);
        }
        let config = format!(
            "scrape_configs:\n- job_name: fleet\n  proxy_url: http://prometheus:{SECRET}@{hub}\n  http_sd_configs:\n  \
             - url: http://{hub}/sd/v1/targets\n    refresh_interval: 1s\n    authorization: {{type: Bearer, \
             credentials: {SECRET}}}\n",
            hub = hub.addr
        );
        let central = prometheus(&program, &directory.path().join("office"), office, &config).await?;
        let addr = central.addr;
        let up = async || Ok(query(addr, "up{job=\"piers\"} == 1").await?.len() == 200);
        until("200 targets are up", PATIENCE, up).await?;
        every_target_is_one_of_its_own(addr).await?;

        for (name, inside) in CLUSTERS.into_iter().zip(&in_place) {
            let of_cluster = format!("{},cluster=\"{name}\"}}", EVERYTHING.trim_end_matches('}'));
            let through = contents(query(addr, &of_cluster).await?)?;
            let (inside, site) = (inside.addr, if name == "east" { east } else { west });
            let direct = async move || site.run(query(inside, EVERYTHING)).await;
            until("all are up in place", PATIENCE, async || {
                Ok(contents(direct().await?)? .len() == through.len())
            })
            .await?;
            // up, samples scraped and kept, and the nine of the page.
            ensure!(through.len() == usize::from(TARGETS) * 12, "{} series of {name}", through.len());
            let direct = contents(direct().await?)?;
            ensure!(through == direct, "{name}: {:?}", through.symmetric_difference(&direct).next());
            let shipped = async || Ok(contents(hub.query(&of_cluster, None).await?)? == direct);
            until(&format!("the rows of {name} at the hub are the same"), PATIENCE, shipped).await?;
        }

        // A cluster that is away is down, and nothing else is.
        net.cut(east, Cut::Silent)?;
        let down = async || Ok(query(addr, "up{cluster=\"east\"} == 0").await?.len() == 100);
        until("the east is down", PATIENCE, down).await?;
        let told = async || {
            let why = targets(addr).await?;
            Ok(why.iter().any(|target| text(target, "lastError").contains("no agent of cluster east")))
        };
        until("the reason is told", PATIENCE, told).await?;
        ensure!(query(addr, "up{cluster=\"west\"} == 1").await?.len() == 100, "the west is down, too");
        Ok(())
    })
}

/// Starts one at `site`; back when it is ready.
async fn prometheus(program: &Path, directory: &Path, site: &Site, config: &str) -> Result<Peer> {
    std::fs::create_dir_all(directory)?;
    let file = directory.join("prometheus.yml");
    std::fs::write(&file, config)?;
    let addr = SocketAddr::new(site.addr(), 9090);
    let args = vec![
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", directory.join("tsdb").display()),
        format!("--web.listen-address={addr}"),
        "--log.level=error".to_owned(),
    ];
    let program: PathBuf = program.to_owned();
    site.run(async move { Peer::start(&program, &args, addr, "/-/ready").await }).await
}

async fn query(addr: SocketAddr, query: &str) -> Result<Vec<Value>> {
    crate::query(addr, query).await
}

/// Labels and values.
fn contents(result: Vec<Value>) -> Result<BTreeSet<String>> {
    let one = |sample: Value| {
        Ok(format!("{} {}", sample["metric"], sample["value"][1].as_str().context("a value")?))
    };
    result.into_iter().map(one).collect()
}

async fn targets(addr: SocketAddr) -> Result<Vec<Value>> {
    let mut list = http::get(addr, "/api/v1/targets?state=active").await?.json()?;
    match list["data"]["activeTargets"].take() {
        Value::Array(targets) => Ok(targets),
        other => anyhow::bail!("no list of targets: {other}"),
    }
}

fn text<'a>(target: &'a Value, field: &str) -> &'a str {
    target[field].as_str().unwrap_or_default()
}

/// 200 targets with 200 addresses, all healthy, 100 instances that are there twice.
async fn every_target_is_one_of_its_own(addr: SocketAddr) -> Result<()> {
    let targets = targets(addr).await?;
    let distinct = |of: &dyn Fn(&Value) -> String| targets.iter().map(of).collect::<BTreeSet<String>>().len();
    let addresses = distinct(&|target| target["discoveredLabels"]["__address__"].to_string());
    let instances = distinct(&|target| target["labels"]["instance"].to_string());
    ensure!((targets.len(), addresses, instances) == (200, 200, 100), "{addresses} {instances} {targets:?}");
    for target in &targets {
        ensure!(text(target, "health") == "up" && text(target, "scrapeInterval") == "5s", "{target}");
    }
    Ok(())
}
