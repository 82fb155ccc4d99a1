//! What the hub has beside the query API (which `web`'s own test asks): every route, asked by others, shows nothing of
//! a tenant's cluster. The table must name every route there is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ::http::Request;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use testkit::http;

use crate::fleet::start_agent;
use crate::start_hub;

/// The cluster that nobody else may hear of.
const CLUSTER: &str = "secret-harbour";

/// Every route in `crates/marigraph/src/hub/` and `doors.rs`, as it is written there, with what it is asked. A new route is added
/// here with a question that would show the cluster to whoever may see it.
const ROUTES: &[(&str, &[(&str, &str)])] = &[
    ("\"/-/healthy\"", &[("GET", "/-/healthy")]),
    ("path", &[("GET", "/metrics/machine")]),
    (
        "\"/api/v1/admin/tokens\"",
        &[("GET", "/api/v1/admin/tokens"), ("POST", "/api/v1/admin/tokens?kind=join")],
    ),
    ("\"/api/v1/admin/tokens/revoke\"", &[("POST", "/api/v1/admin/tokens/revoke")]),
    ("\"/api/v1/admin/agents\"", &[("GET", "/api/v1/admin/agents")]),
    ("\"/api/v1/admin/agents/revoke\"", &[("POST", "/api/v1/admin/agents/revoke")]),
    ("\"/api/v1/admin/hubs\"", &[("GET", "/api/v1/admin/hubs")]),
    ("\"/api/v1/admin/ca\"", &[("GET", "/api/v1/admin/ca")]),
    ("\"/api/v1/admin/ca/rotate\"", &[("POST", "/api/v1/admin/ca/rotate")]),
    ("\"/api/v1/admin/ca/join\"", &[("POST", "/api/v1/admin/ca/join")]),
    ("\"/sd/v1/targets\"", &[("GET", "/sd/v1/targets"), ("GET", "/sd/v1/targets?cluster=secret-harbour")]),
    ("\"/sd/v1/pushprox\"", &[("GET", "/sd/v1/pushprox")]),
    ("ENROL_PATH", &[("POST", "/fleet/v1/enrol")]),
    ("RENEW_PATH", &[("POST", "/fleet/v1/renew")]),
    ("WHO_PATH", &[("POST", "/fleet/v1/who")]),
    ("JOIN_PATH", &[("POST", "/fleet/v1/join")]),
    ("PULL_PATH", &[("POST", "/fleet/v1/hubs/pull")]),
    ("PUSH_PATH", &[("POST", "/fleet/v1/hubs/push")]),
    ("CLAIM_PATH", &[("POST", "/fleet/v1/hubs/claim")]),
    ("ADMIT_PATH", &[("POST", "/fleet/v1/hubs/admit")]),
    ("HELLO_PATH", &[("POST", "/fleet/v1/rows/hello")]),
    ("BLOCKS_PATH", &[("POST", "/fleet/v1/rows/blocks")]),
    ("PAIR_PATH", &[("POST", "/fleet/v1/pair")]),
    ("TUNNEL_PATH", &[("GET", "/fleet/v1/tunnel")]),
    (
        "\"/cluster/{name}/{*path}\"",
        &[
            ("GET", "/cluster/secret-harbour/api/v1/query?query=up"),
            ("GET", "/cluster/secret-harbour/api/v1/labels"),
            ("GET", "/cluster/secret-harbour/api/v1/series?match[]=up"),
            ("GET", "/cluster/secret-harbour/federate?match[]=up"),
        ],
    ),
    ("\"/api/v1/admin/clusters/pause\"", &[("POST", "/api/v1/admin/clusters/pause")]),
    ("\"/api/v1/admin/clusters/resume\"", &[("POST", "/api/v1/admin/clusters/resume")]),
    ("\"/api/v1/admin/clusters/retire\"", &[("POST", "/api/v1/admin/clusters/retire")]),
    ("\"/api/v1/admin/limits\"", &[("GET", "/api/v1/admin/limits"), ("POST", "/api/v1/admin/limits")]),
    ("\"/api/v1/admin/limits/rollback\"", &[("POST", "/api/v1/admin/limits/rollback")]),
    ("\"/api/v1/fleet/clusters\"", &[("GET", "/api/v1/fleet/clusters")]),
    ("\"/api/v1/fleet/agents\"", &[("GET", "/api/v1/fleet/agents")]),
    ("\"/api/v1/fleet/targets\"", &[("GET", "/api/v1/fleet/targets")]),
    ("\"/api/v1/fleet/alarms\"", &[("GET", "/api/v1/fleet/alarms")]),
    ("EXPLAIN_PATH", &[("GET", "/api/v1/explain/target?cluster=secret-harbour&target=127.0.0.1")]),
    ("\"/api/v1/fleet/pauses\"", &[("GET", "/api/v1/fleet/pauses")]),
    // Of the query API: what speaks of clusters as such, with real ones behind it.
    (
        "web",
        &[("GET", "/api/v1/completeness?by=source"), ("GET", "/federate?match[]=%7Bcluster!%3D%22%22%7D")],
    ),
    ("web", &[("GET", "/api/v1/label/cluster/values"), ("GET", "/api/v1/query?query=up")]),
    ("web", &[("GET", "/api/v1/series?match[]=up"), ("GET", "/metrics")]),
    ("web", &[("GET", "/api/v1/targets"), ("GET", "/api/v1/status/tsdb")]),
    ("web", &[("GET", "/api/v1/status/config"), ("GET", "/api/v1/no-such-page")]),
];

/// The first words of every `.route(…` in the hub's sources.
fn written(directory: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.ends_with("tests.rs") {
            continue;
        }
        if path.is_dir() {
            written(&path, found)?;
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            routes(&path, found)?;
        }
    }
    Ok(())
}

fn routes(source: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    let text = std::fs::read_to_string(source)?;
    for after in text.split(".route(").skip(1) {
        let name = after.trim_start().split([',', ')']).next().unwrap_or_default();
        found.insert(name.trim().rsplit("::").next().unwrap_or_default().to_owned());
    }
    Ok(())
}

#[test]
fn no_route_is_missing_from_the_table() -> Result<()> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hub");
    let mut found = BTreeSet::new();
    written(&sources, &mut found)?;
    routes(&sources.with_file_name("doors.rs"), &mut found)?;
    ensure!(found.len() > 15, "the sources have moved: {found:?}");
    let named: BTreeSet<String> = ROUTES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let missing: Vec<&String> = found.difference(&named).collect();
    assert!(missing.is_empty(), "routes that nobody asks as another tenant; add them to ROUTES: {missing:?}");
    let gone: Vec<&String> = named.difference(&found).filter(|name| *name != "web").collect();
    assert!(gone.is_empty(), "routes of the table that are not there any more: {gone:?}");
    Ok(())
}

async fn ask(addr: SocketAddr, method: &str, path: &str, token: Option<&str>) -> Result<(u16, String)> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
        request = request.header("proxy-authorization", format!("Bearer {token}"));
    }
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let answer = http::send(addr, request.body(Full::new(Bytes::new()))?).await?;
    Ok((answer.status.as_u16(), answer.text()))
}

async fn make(addr: SocketAddr, form: &str) -> Result<String> {
    let request = Request::post("/api/v1/admin/tokens")
        .header("authorization", "Bearer root")
        .header("content-type", "application/x-www-form-urlencoded");
    let answer = http::send(addr, request.body(Full::new(Bytes::from(form.to_owned())))?).await?;
    ensure!(answer.status == 200, "{form}: {}", answer.text());
    Ok(answer.json()?["token"].as_str().context("a token")?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_route_shows_a_cluster_to_others() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some("web: {auth: {bearer_tokens: [root]}}\n")).await?;
    let addr = hub.addr();
    let labels = http::escape("{\"region\":\"north\"}");
    let token = make(addr, &format!("kind=enrol&clusters={CLUSTER}&labels={labels}")).await?;
    let agent = start_agent(directory.path(), &hub, Some(&token)).await?;
    let begin = std::time::Instant::now();
    let list = "/sd/v1/targets";
    let target = loop {
        let (_, body) = ask(addr, "GET", list, Some("root")).await?;
        let found: Value = serde_json::from_str(&body).unwrap_or_default();
        let (_, up) = ask(addr, "GET", "/api/v1/query?query=up", Some("root")).await?;
        if let (Some(address), true) = (found[0]["targets"][0].as_str(), up.contains(CLUSTER)) {
            break format!("http://{address}/metrics/machine");
        }
        ensure!(begin.elapsed() < crate::PATIENCE, "no rows and targets of the agent: {body} {up}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let (_, agents) = ask(addr, "GET", "/api/v1/admin/agents", Some("root")).await?;
    let agents: Value = serde_json::from_str(&agents)?;
    let agent_id = agents[0]["agent_id"].as_str().context("an agent")?.to_owned();

    let callers = [
        ("nobody", None),
        ("an administrator of another tenant", Some(make(addr, "kind=api&role=admin&tenant=acme").await?)),
        ("a reader of another tenant", Some(make(addr, "kind=api&role=read&tenant=acme").await?)),
        ("a writer of another tenant", Some(make(addr, "kind=api&role=write&tenant=acme").await?)),
        ("a reader of another cluster", Some(make(addr, "kind=api&role=read&clusters=elsewhere").await?)),
        ("a writer", Some(make(addr, "kind=api&role=write").await?)),
    ];
    let mut shown = 0;
    let questions = ROUTES.iter().flat_map(|(_, questions)| questions.iter().copied());
    for (method, path) in questions.chain([("GET", target.as_str())]) {
        for (who, token) in &callers {
            let (status, body) = ask(addr, method, path, token.as_deref()).await?;
            // The path may come back in an error, which says nothing new.
            let asked_for = status >= 400 && path.contains(CLUSTER);
            let body = body.replace(path, "").replace(if asked_for { CLUSTER } else { path }, "");
            let secret = [CLUSTER, agent_id.as_str(), "node_cpu_seconds_total"];
            let seen = secret.iter().find(|secret| body.contains(**secret));
            assert!(seen.is_none(), "{method} {path} shows {seen:?} to {who}: {status} {body}");
        }
        if method == "GET" && path != "/metrics/machine" {
            let (_, body) = ask(addr, method, path, Some("root")).await?;
            shown += usize::from(body.contains(CLUSTER) || body.contains("node_cpu_seconds_total"));
        }
    }
    assert!(shown >= 9, "the owner sees the cluster at {shown} places only: the questions are wrong");
    agent.stop().await?;
    hub.stop().await
}
