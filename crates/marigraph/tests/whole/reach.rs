//! Queries over hub and agents that keep their data, and a cluster's own view.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use marigraph::agent::Agent;
use marigraph::cli::{AgentArgs, HubArgs};
use marigraph::hub::Hub;
use model::Labels;
use serde_json::Value;
use testkit::http::{self, Answer, escape};
use testkit::peers::{self, Peer};
use testkit::push::Push;
use testkit::relay::Relay;

use crate::fleet::token;
use crate::{PATIENCE, query, start_hub, value};

async fn start(directory: &Path, flags: &[&str]) -> Result<Hub> {
    let data = format!("--data={}", directory.join("hub").display());
    let config = directory.join("hub.yml");
    std::fs::create_dir_all(directory)?;
    std::fs::write(&config, "global: {}\n")?;
    let mut words = vec![data, "--listen=127.0.0.1:0".to_owned(), format!("--config={}", config.display())];
    words.extend(flags.iter().map(ToString::to_string));
    Hub::start(HubArgs::parse(words)?).await
}

/// An agent of `cluster` that dials `hub`, with a store or without.
async fn agent(directory: &Path, cluster: &str, hub: SocketAddr, token: &str, store: bool) -> Result<Agent> {
    let directory = directory.join(cluster);
    std::fs::create_dir_all(&directory)?;
    let file = directory.join("agent.yml");
    // Scrapes nobody, so that what is pushed is all there is.
    std::fs::write(&file, if store { "storage: {local: {}}\n" } else { "global: {}\n" })?;
    let words = vec![
        format!("--hub=https://{hub}"),
        format!("--data={}", directory.join("data").display()),
        "--listen=127.0.0.1:0".to_owned(),
        format!("--config={}", file.display()),
        format!("--token={token}"),
    ];
    Agent::start(AgentArgs::parse(words)?).await
}

fn now_ms() -> Result<i64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64)
}

/// The series `depth` of a place, with `further` labels.
fn depth(place: usize, further: &[(&str, &str)]) -> Labels {
    let place = format!("p{place}");
    let own = [("__name__", "depth_total"), ("job", "sea"), ("place", place.as_str())];
    Labels::from_pairs(own.into_iter().chain(further.iter().copied()))
}

/// Pushes a sample each second from `from_s` to `to_s` for three places.
async fn push(addr: SocketAddr, range_s: std::ops::Range<i64>, further: &[(&str, &str)]) -> Result<()> {
    let mut request = Push::default();
    for place in 0..3 {
        let at = |second: i64| (second * 1000, (second % 1_000_000) as f64 * (place + 1) as f64);
        let samples: Vec<(i64, f64)> = range_s.clone().map(at).collect();
        request.floats(&depth(place, further), &samples);
    }
    let answer = request.send(addr).await?;
    ensure!(answer.status == 204, "{}", answer.text());
    Ok(())
}

/// Asks until `enough` likes the answer.
async fn until(addr: SocketAddr, path: &str, enough: impl Fn(&Answer) -> bool) -> Result<Answer> {
    let begin = Instant::now();
    loop {
        let answer = http::get(addr, path).await?;
        if enough(&answer) {
            return Ok(answer);
        }
        ensure!(begin.elapsed() < PATIENCE, "{path}: still {} {}", answer.status, answer.text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn warnings(answer: &Answer) -> Result<Vec<String>> {
    let said = answer.json()?["warnings"].as_array().cloned().unwrap_or_default();
    Ok(said.iter().filter_map(|warning| warning.as_str().map(str::to_owned)).collect())
}

/// A hub, and agents of `alpha` and `beta` that keep three minutes of three series each; of `alpha` the hub has
/// the first two minutes, and its agent the last two.
struct Coast {
    hub: Hub,
    alpha: Agent,
    beta: Agent,
    begin_s: i64,
    /// What all have, in one store.
    whole: Hub,
}

const ALPHA: [(&str, &str); 2] = [("cluster", "alpha"), ("region", "north")];
const BETA: [(&str, &str); 2] = [("cluster", "beta"), ("region", "north")];

async fn coast(directory: &Path, flags: &[&str]) -> Result<Coast> {
    let hub = start(&directory.join("one"), flags).await?;
    let whole = start_hub(directory, Some("global: {}\n")).await?;
    let enrol = [token(&hub, "alpha").await?, token(&hub, "beta").await?];
    let alpha = agent(directory, "alpha", hub.addr(), &enrol[0], true).await?;
    let beta = agent(directory, "beta", hub.addr(), &enrol[1], true).await?;
    let begin_s = now_ms()? / 1000 - 200;
    let of = |from: i64, to: i64| begin_s + from..begin_s + to;
    push(hub.addr(), of(0, 120), &ALPHA).await?;
    push(alpha.addr(), of(60, 180), &[]).await?;
    push(beta.addr(), of(0, 180), &[]).await?;
    push(whole.addr(), of(0, 180), &ALPHA).await?;
    push(whole.addr(), of(0, 180), &BETA).await?;
    let both = "/api/v1/query?query=count(count%20by%20(cluster)%20(count_over_time(depth_total[10m])))";
    until(hub.addr(), both, |answer| answer.text().contains("\"2\"")).await?;
    Ok(Coast { hub, alpha, beta, begin_s, whole })
}

impl Coast {
    fn range(&self, text: &str) -> String {
        let (start, end) = (self.begin_s, self.begin_s + 185);
        format!("/api/v1/query_range?query={}&start={start}&end={end}&step=7", escape(text))
    }

    fn at_end(&self, text: &str) -> String {
        format!("/api/v1/query?query={}&time={}", escape(text), self.begin_s + 180)
    }

    async fn stop(self) -> Result<()> {
        self.alpha.stop().await?;
        self.beta.stop().await?;
        self.hub.stop().await?;
        self.whole.stop().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hub_and_agents_answer_as_one_store_with_everything() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let coast = coast(directory.path(), &[]).await?;
    let bounds = format!("start={}&end={}", coast.begin_s, coast.begin_s + 200);
    for path in [
        coast.range("depth_total"),
        // Windows that lie partly in the hub and partly in the agent.
        coast.range("rate(depth_total[70s])"),
        coast.range("sum by (cluster) (rate(depth_total{place!=\"p1\"}[2m]))"),
        coast.range("depth_total{cluster=\"beta\"} - on (place) depth_total{cluster=\"alpha\"}"),
        coast.at_end("max_over_time(deriv(depth_total[1m])[2m:10s])"),
        coast.at_end("depth_total offset 150s"),
        // Several selections, which go out together, one of them twice.
        coast.range(
            "sum(rate(depth_total[70s])) / on () count(depth_total) + on () sum(rate(depth_total[70s])) \
             - on () max(depth_total{cluster=\"beta\"}) * on () min(depth_total offset 30s)",
        ),
        format!("/api/v1/series?match[]=depth_total&{bounds}"),
        format!("/api/v1/labels?match[]=depth_total&{bounds}"),
        format!("/api/v1/label/cluster/values?match[]=depth_total&{bounds}"),
        format!("/api/v1/label/place/values?match[]={}&{bounds}", escape("{cluster=\"beta\"}")),
    ] {
        let ours = http::get(coast.hub.addr(), &path).await?.json()?;
        let theirs = http::get(coast.whole.addr(), &path).await?.json()?;
        assert!(theirs["data"].to_string().len() > 40 || path.contains("/label"), "{path}: {theirs}");
        assert_eq!(ours["data"], theirs["data"], "{path}");
    }
    // The agents' stores are as old as this test, and the hub says so.
    let said = warnings(&http::get(coast.hub.addr(), &coast.range("depth_total")).await?)?;
    assert!(
        said.iter().any(|said| said.starts_with("cluster \"beta\" keeps nothing older than")),
        "{said:?}"
    );

    // The same for a reader of one cluster, who sees that one only.
    let form = "kind=api&role=read&clusters=alpha".to_owned();
    let made =
        http::post(coast.hub.addr(), "/api/v1/admin/tokens", "application/x-www-form-urlencoded", form);
    let made = made.await?.json()?;
    let reader = made["data"]["token"].as_str().or(made["token"].as_str()).context("a token")?.to_owned();
    let mine =
        http::get_as(coast.hub.addr(), &reader, &coast.at_end("count by (cluster) (depth_total)")).await?;
    assert!(mine.text().contains("alpha") && !mine.text().contains("beta"), "{}", mine.text());
    for (path, status, has, has_not) in [
        ("/api/v1/labels", 200, "place", "beta"),
        ("/api/v1/label/cluster/values", 200, "alpha", "beta"),
        ("/cluster/alpha/api/v1/labels", 200, "place", "beta"),
        ("/cluster/beta/api/v1/labels", 404, "no cluster \\\"beta\\\"; there are alpha\"", "place"),
        ("/cluster/alpha/api/v1/status/config", 403, "forbidden", "storage"),
    ] {
        let answer = http::get_as(coast.hub.addr(), &reader, path).await?;
        let text = answer.text();
        assert!(answer.status == status && text.contains(has) && !text.contains(has_not), "{path}: {text}");
    }
    coast.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_answers_as_its_own_prometheus() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let coast = coast(directory.path(), &[]).await?;
    let hub = coast.hub.addr();
    // A third cluster ships what it has.
    let enrol = token(&coast.hub, "gamma").await?;
    let gamma = agent(directory.path(), "gamma", hub, &enrol, false).await?;
    push(gamma.addr(), coast.begin_s..coast.begin_s + 180, &[]).await?;
    let all = "/cluster/gamma/api/v1/query?query=count_over_time(depth_total[10m])";
    until(hub, all, |answer| answer.text().contains("\"180\"")).await?;

    // A Prometheus in the cluster has the series without what enrolment stamps.
    let within = directory.path().join("own");
    std::fs::create_dir_all(&within)?;
    let own = start_hub(&within, Some("global: {}\n")).await?;
    push(own.addr(), coast.begin_s..coast.begin_s + 180, &[]).await?;
    for cluster in ["alpha", "beta", "gamma"] {
        for path in [
            coast.range("depth_total"),
            coast.range("rate(depth_total{cluster=\"\"}[70s])"),
            coast.at_end("count(depth_total{cluster=\"alpha\"}) or vector(7)"),
            coast.at_end("sum without (place) (depth_total)"),
            "/api/v1/series?match[]=depth_total".to_owned(),
            "/api/v1/labels?match[]=depth_total".to_owned(),
            "/api/v1/label/cluster/values".to_owned(),
        ] {
            let ours = http::get(hub, &format!("/cluster/{cluster}{path}")).await?.json()?;
            let theirs = http::get(own.addr(), &path).await?.json()?;
            assert_eq!(ours["data"], theirs["data"], "{cluster} {path}: {ours}");
        }
        let targets = http::get(hub, &format!("/cluster/{cluster}/api/v1/targets")).await?;
        assert_eq!(targets.json()?["data"]["activeTargets"], Value::Array(Vec::new()), "{}", targets.text());
    }
    let none = http::get(hub, "/cluster/delta/api/v1/query?query=up").await?;
    assert_eq!(none.status, 404);
    let why = "no cluster \"delta\"; there are alpha, beta, gamma";
    assert_eq!(none.json()?["error"], why, "{}", none.text());

    // Federation adds what tells clusters apart, as external labels do.
    push(coast.beta.addr(), now_ms()? / 1000 - 1..now_ms()? / 1000, &[]).await?;
    let page = until(hub, "/cluster/beta/federate?match[]=depth_total", |answer| {
        answer.text().contains("depth_total{")
    });
    let page = page.await?.text();
    assert!(page.contains("cluster=\"beta\"") && page.contains("region=\"north\""), "{page}");

    // Who is away is named, with since when. What is here goes on.
    coast.beta.stop().await?;
    gamma.stop().await?;
    for (path, status) in [
        ("/cluster/beta/api/v1/query?query=depth_total", 503),
        ("/cluster/beta/api/v1/targets", 503),
        ("/cluster/gamma/api/v1/targets", 503),
        ("/cluster/gamma/api/v1/query?query=count_over_time(depth_total[10m])", 200),
        ("/cluster/beta/api/v1/parse_query?query=up", 200),
        ("/cluster/beta/api/v1/status/buildinfo", 200),
    ] {
        let answer = until(hub, path, |answer| answer.status == status).await?;
        let told = answer.text().contains("its agent is not connected since 2");
        assert_eq!(told, status == 503, "{path}: {}", answer.text());
    }
    coast.alpha.stop().await?;
    own.stop().await?;
    coast.whole.stop().await?;
    coast.hub.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_that_is_gone_or_silent_costs_its_part_and_nobody_elses_time() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start(&directory.path().join("one"), &["--query.agent-timeout=2s"]).await?;
    let addr = hub.addr();
    let relay = Relay::start("127.0.0.1:0".parse()?, addr, Duration::ZERO).await?;
    let enrol = [token(&hub, "alpha").await?, token(&hub, "beta").await?];
    let alpha = agent(directory.path(), "alpha", addr, &enrol[0], true).await?;
    let beta = agent(directory.path(), "beta", relay.addr, &enrol[1], true).await?;
    let now_s = now_ms()? / 1000;
    push(alpha.addr(), now_s - 20..now_s, &[]).await?;
    push(beta.addr(), now_s - 20..now_s, &[]).await?;
    let range = "count by (cluster) (count_over_time(depth_total[10m]))";
    let both = format!("/api/v1/query?query={}", escape(range));
    until(addr, &both, |answer| answer.text().contains("alpha") && answer.text().contains("beta")).await?;

    // The line to one of them carries nothing any more, and nobody has noticed yet.
    relay.forget_connections();
    let begin = Instant::now();
    let waiting: Vec<_> = (0..12)
        .map(|_| {
            tokio::spawn({
                let both = both.clone();
                async move { http::get(addr, &both).await }
            })
        })
        .collect();
    let other = format!(
        "/api/v1/query?query={}",
        escape("count(count_over_time(depth_total{cluster=\"alpha\"}[10m]))")
    );
    let answer = http::get(addr, &other).await?;
    let took = begin.elapsed();
    assert!(
        answer.text().contains("\"3\"") && took < Duration::from_millis(1500),
        "{took:?} {}",
        answer.text()
    );
    for answer in waiting {
        let answer = answer.await??;
        assert!(answer.text().contains("alpha"), "{}", answer.text());
        let said = warnings(&answer)?.join("; ");
        assert!(said.contains("cluster \"beta\" did not answer: "), "{said}");
    }
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "two seconds are the bound, and it took {took:?}");
    // From now on nobody waits for it, though it is not known to be gone.
    let begin = Instant::now();
    let answer = http::get(addr, &both).await?;
    assert!(warnings(&answer)?.join("").contains("cluster \"beta\" did not answer: "), "{}", answer.text());
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());

    // All or nothing, for those who want it; who does not ask beta does not notice.
    let answer = http::get(addr, &format!("{both}&partial_response=false")).await?;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(
        answer.text().contains("the answer would be incomplete: cluster \\\"beta\\\" did not"),
        "{}",
        answer.text()
    );
    let wrong = http::get(addr, "/api/v1/query?query=1&partial_response=maybe").await?;
    assert_eq!(wrong.status, 400, "{}", wrong.text());

    // Stopping in order would wait for the silent line.
    drop((alpha, beta, hub, relay));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hub_that_has_just_started_knows_whose_part_it_lacks() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start(&directory.path().join("one"), &[]).await?;
    let now_s = now_ms()? / 1000;
    for cluster in ["alpha", "beta"] {
        let enrol = token(&hub, cluster).await?;
        let agent = agent(directory.path(), cluster, hub.addr(), &enrol, true).await?;
        push(agent.addr(), now_s - 20..now_s, &[]).await?;
        let one = format!("count(count_over_time(depth_total{{cluster=\"{cluster}\"}}[10m]))");
        crate::eventually(hub.addr(), &one, |found| found.len() == 1).await?;
        agent.stop().await?;
    }
    hub.stop().await?;
    let hub = start(&directory.path().join("one"), &[]).await?;
    let begin = Instant::now();
    for (selector, named) in [
        ("depth_total", &["alpha", "beta"][..]),
        ("depth_total{cluster=\"alpha\"}", &["alpha"]),
        ("depth_total{cluster!~\"alpha|beta\"}", &[]),
        ("depth_total{region=\"south\"}", &[]),
    ] {
        let path = format!("/api/v1/query?query={}", escape(selector));
        let said = warnings(&http::get(hub.addr(), &path).await?)?.join("; ");
        for cluster in ["alpha", "beta"] {
            let why = format!("cluster \"{cluster}\" did not answer: its agent is not connected since 2");
            assert_eq!(said.contains(&why), named.contains(&cluster), "{selector}: {said}");
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(3), "nobody is waited for");
    // So do metadata and exemplars, which have no other place to say it.
    for path in ["/api/v1/metadata?metric=depth_total", "/api/v1/query_exemplars?query=depth_total"] {
        let said = warnings(&http::get(hub.addr(), path).await?)?.join("; ");
        for cluster in ["alpha", "beta"] {
            let why = format!("cluster \"{cluster}\" did not answer: its agent is not connected since 2");
            assert!(said.contains(&why), "{path}: {said}");
        }
        let strict = http::get(hub.addr(), &format!("{path}&partial_response=false")).await?;
        assert_eq!(strict.status, 503, "{path}: {}", strict.text());
        let of_cluster = http::get(hub.addr(), &format!("/cluster/alpha{path}")).await?;
        assert_eq!(of_cluster.status, 503, "{path}: {}", of_cluster.text());
    }
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn prometheus_federates_from_the_hub_and_from_a_cluster() -> Result<()> {
    let Some(program) = peers::program("prometheus") else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let hub = start(&directory.path().join("one"), &[]).await?;
    let enrol = token(&hub, "alpha").await?;
    let alpha = agent(directory.path(), "alpha", hub.addr(), &enrol, true).await?;
    let pushing = alpha.addr();
    let sea = tokio::spawn(async move {
        loop {
            let now_s = now_ms()? / 1000;
            push(pushing, now_s..now_s + 1, &[]).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        #[allow(unreachable_code)]
        anyhow::Ok(())
    });
    let job = |name: &str, path: &str| {
        format!(
            "- job_name: {name}\n  honor_labels: true\n  metrics_path: {path}\n  params: {{'match[]': ['{{job=\"sea\"}}']}}\n  \
             metric_relabel_configs: [{{target_label: way, replacement: {name}}}]\n  static_configs: [{{targets: ['{}']}}]\n",
            hub.addr()
        )
    };
    let jobs = job("hub", "/federate") + &job("cluster", "/cluster/alpha/federate");
    let config =
        format!("global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\nscrape_configs:\n{jobs}");
    std::fs::create_dir_all(directory.path().join("theirs"))?;
    let theirs = Peer::prometheus(&program, &directory.path().join("theirs"), &config).await?;
    // The hub scrapes the cluster's page like any other target.
    let scraping = directory.path().join("scraping");
    std::fs::create_dir_all(&scraping)?;
    let ours = start_hub(&scraping, Some(&config)).await?;
    for addr in [theirs.addr, ours.addr()] {
        let found = crate::eventually(addr, "depth_total{place=\"p2\"}", |found| found.len() == 2).await?;
        for series in &found {
            assert_eq!(series["metric"]["cluster"], "alpha", "{series}");
            assert_eq!(series["metric"]["region"], "north", "{series}");
            assert_eq!(series["metric"]["job"], "sea", "{series}");
        }
        let failing = query(addr, "up == 0").await?;
        assert!(failing.is_empty(), "{failing:?}");
        let ways = query(addr, "count(count by (way) (depth_total))").await?;
        assert_eq!(value(ways.first().context("a count")?)?, 2.0);
    }
    sea.abort();
    theirs.terminate()?;
    ours.stop().await?;
    alpha.stop().await?;
    hub.stop().await
}
