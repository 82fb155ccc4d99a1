//! Tokens, agents, hubs and roots: the real verbs against real hubs, with an agent's identity beside them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ::http::Request;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use marigraph::hub::Hub;
use model::Labels;
use serde_json::Value;
use stdx::clock::SystemClock;
use stdx::disk::RealDisk;
use testkit::http;
use testkit::push::Push;
use tokio::io::AsyncReadExt;
use tunnel::identity::{AgentIdentity, Alpn};
use tunnel::{Connector, HubUrl, Proxies};

use crate::start_hub;

/// What a verb prints; its error when it fails.
async fn marigraph(hub: &Hub, words: &[&str]) -> Result<String> {
    let hub = format!("--hub=http://{}", hub.addr());
    let mut command = Command::new(env!("CARGO_BIN_EXE_marigraph"));
    command.args(words).arg(hub).env_remove("RUST_BACKTRACE");
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{error}");
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

async fn listed(hub: &Hub, words: &[&str]) -> Result<Vec<Value>> {
    let mut words = words.to_vec();
    words.push("--json");
    Ok(serde_json::from_str(&marigraph(hub, &words).await?)?)
}

fn url(hub: &Hub) -> String {
    format!("https://{}", hub.addr())
}

fn agent(directory: &Path) -> Result<AgentIdentity> {
    Ok(AgentIdentity::open(RealDisk::shared(), directory, None, SystemClock::shared())?)
}

fn reach() -> Connector {
    Connector::new(Proxies::none())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_enrols_with_the_verbs_token_and_is_cut_off_when_it_is_revoked() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), None).await?;
    let create = ["token", "create", "--cluster", "eu", "--tenant", "acme", "--label", "env=prod"];
    let token = marigraph(&hub, &create).await?;
    let home = directory.path().join("agent");
    let identity = agent(&home)?;
    let who = identity.enrol(&reach(), &url(&hub), &token).await?;
    assert_eq!((who.tenant.as_str(), who.cluster.as_str()), ("acme", "eu"));
    let replayed = agent(&directory.path().join("thief"))?.enrol(&reach(), &url(&hub), &token).await;
    let replayed = replayed.expect_err("the token was used").to_string();
    assert!(replayed.contains("the token was used already"), "{replayed}");

    let again = agent(&home)?;
    again.renew(&reach(), &url(&hub)).await.context("renew without the token")?;
    let agents = listed(&hub, &["agents", "list"]).await?;
    assert_eq!(agents.len(), 1, "{agents:?}");
    assert_eq!(agents[0]["labels"]["env"], "prod");
    assert_eq!(listed(&hub, &["token", "list"]).await?[0]["uses"], 1);

    let target = HubUrl::parse(&url(&hub))?;
    let mut open = reach().connect(&target, again.tls().client_config(Alpn::Http1)).await?;
    // A slip of the pen is told, and nothing is done.
    let (last, others) = (&who.agent_id[15..], &who.agent_id[..15]);
    let slip = format!("{others}{}", if last == "0" { "1" } else { "0" });
    for (name, told) in [(slip.as_str(), "did you mean"), ("eu", "it is a cluster, whose agents are")] {
        let said =
            marigraph(&hub, &["agents", "revoke", name]).await.expect_err("nobody of that name").to_string();
        assert!(said.contains(told) && said.contains(&who.agent_id), "{said}");
    }
    marigraph(&hub, &["agents", "revoke", &who.agent_id]).await?;
    let closed = tokio::time::timeout(Duration::from_secs(5), open.read(&mut [0; 16])).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "a connection of a revoked agent lives on: {closed:?}");
    let refused = again.renew(&reach(), &url(&hub)).await.expect_err("revoked").to_string();
    assert!(refused.to_lowercase().contains("revoked"), "{refused}");
    let fresh = marigraph(&hub, &create).await?;
    assert!(again.is_to_enrol(Some(&fresh)));
    let back = again.enrol(&reach(), &url(&hub), &fresh).await?;
    assert_ne!(back.agent_id, who.agent_id);
    hub.stop().await
}

async fn ask(addr: SocketAddr, token: &str, path: &str) -> Result<(u16, String)> {
    let request = Request::get(path).header("authorization", format!("Bearer {token}"));
    let answer = http::send(addr, request.body(Full::new(Bytes::new()))?).await?;
    Ok((answer.status.as_u16(), answer.text()))
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_open_the_api_as_far_as_they_reach() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = "web: {auth: {bearer_tokens: [root]}}\n";
    let hub = start_hub(directory.path(), Some(config)).await?;
    let addr = hub.addr();
    let root = directory.path().join("root");
    std::fs::write(&root, "root")?;
    let root = format!("--bearer-token-file={}", root.display());
    let make = async |words: &[&str]| {
        let words = [&["token", "create", &root], words].concat();
        marigraph(&hub, &words).await
    };
    let reader = make(&["--role", "read", "--cluster", "eu"]).await?;
    let writer = make(&["--role", "write"]).await?;
    let other = make(&["--role", "admin", "--tenant", "acme"]).await?;
    let enrol = make(&["--cluster", "eu"]).await?;
    let mut push = Push::default();
    for cluster in ["eu", "us"] {
        let series = Labels::from_pairs([("__name__", "tide"), ("cluster", cluster)]);
        push.floats(&series, &[(1_700_000_000_000, 1.0)]);
    }
    let answer = push.send_as(addr, &writer).await?;
    ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text());
    let query = "/api/v1/query?query=count(tide)&time=1700000000";
    let one = r#""result":[{"metric":{},"value":[1700000000,"1"]}]"#;
    let two = r#""result":[{"metric":{},"value":[1700000000,"2"]}]"#;
    for (who, token, path, status, text) in [
        ("a reader of one cluster", &reader, query, 200, one),
        ("a reader of one cluster", &reader, "/metrics", 403, ""),
        ("a reader of one cluster", &reader, "/api/v1/admin/tokens", 403, ""),
        ("a writer", &writer, query, 403, ""),
        ("the configuration's", &"root".to_owned(), query, 200, two),
        ("another tenant's", &other, query, 200, r#""result":[]"#),
        ("another tenant's", &other, "/api/v1/admin/ca", 403, ""),
        ("another tenant's", &other, "/api/v1/admin/agents", 200, "[]"),
        ("an agent's", &enrol, query, 401, ""),
        ("nobody's", &"marigraph_api_x".to_owned(), query, 401, ""),
    ] {
        let (answered, body) = ask(addr, token, path).await?;
        assert!(answered == status && body.contains(text), "{who} at {path}: {answered} {body}");
    }
    let own: Vec<Value> = serde_json::from_str(&ask(addr, &other, "/api/v1/admin/tokens").await?.1)?;
    assert_eq!(own.len(), 1, "an administrator sees the tokens of the tenant: {own:?}");

    let id = listed(&hub, &["token", "list", &root]).await?;
    let id = id.iter().find(|token| token["role"] == "read").context("the reader's")?["id"].clone();
    marigraph(&hub, &["token", "revoke", &root, id.as_str().unwrap_or_default()]).await?;
    assert_eq!(ask(addr, &reader, query).await?.0, 401);
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_joins_and_agents_are_at_home_at_both_while_the_root_changes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| -> Result<std::path::PathBuf> {
        let path = directory.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    };
    let (one, two) = (start_hub(&at("one")?, None).await?, start_hub(&at("two")?, None).await?);
    let token = marigraph(&one, &["token", "create", "--join"]).await?;
    let join = ["hub", "join", &url(&one), "--token", &token];
    marigraph(&two, &join).await?;
    let pins = async |hub: &Hub| -> Result<Vec<String>> {
        let roots = listed(hub, &["ca", "show"]).await?;
        Ok(roots.iter().map(|root| format!("{} {}", root["pin"], root["role"])).collect())
    };
    assert_eq!(pins(&one).await?, pins(&two).await?);
    let pem = marigraph(&two, &["ca", "show", "--pem"]).await?;
    assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 1, "{pem}");
    let error = marigraph(&two, &["ca", "rotate"]).await.expect_err("no key there").to_string();
    assert!(error.contains("the key of the fleet's root is not at this hub"), "{error}");

    let identity = agent(&at("agent")?)?;
    let token = marigraph(&one, &["token", "create", "--cluster", "eu"]).await?;
    identity.enrol(&reach(), &url(&one), &token).await?;
    identity.renew(&reach(), &url(&two)).await.context("a certificate holds at every hub")?;

    // The second hub follows each step by itself.
    let alike = async || -> Result<()> {
        let begin = std::time::Instant::now();
        while pins(&one).await? != pins(&two).await? {
            ensure!(begin.elapsed() < crate::PATIENCE, "{:?} {:?}", pins(&one).await?, pins(&two).await?);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    let step = async |words: &[&str]| -> Result<()> {
        let begin = std::time::Instant::now();
        loop {
            match marigraph(&one, words).await {
                Ok(_) => return Ok(()),
                // Until the first hub has heard that the second has followed.
                Err(error) if error.to_string().contains("1 hubs") && begin.elapsed() < crate::PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        }
    };
    marigraph(&one, &["ca", "rotate"]).await?;
    alike().await?;
    identity.renew(&reach(), &url(&one)).await?;
    step(&["ca", "rotate", "--switch"]).await?;
    alike().await?;
    let early = step(&["ca", "rotate", "--retire"]).await.expect_err("too early").to_string();
    assert!(early.contains("1 agents") && early.contains("would be cut off"), "{early}");
    identity.renew(&reach(), &url(&one)).await?;
    step(&["ca", "rotate", "--retire"]).await?;
    alike().await?;
    identity.renew(&reach(), &url(&one)).await?;
    identity.renew(&reach(), &url(&two)).await.context("a hub that has followed")?;

    // The root goes to a third hub in a file.
    let file = directory.path().join("root.json");
    let (data, third) = (directory.path().join("one/data"), directory.path().join("three/data"));
    std::fs::create_dir_all(&third)?;
    let ca = async |verb: &str, data: &Path| -> Result<bool> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_marigraph"));
        command.args(["ca", verb]).arg(&file).arg("--data").arg(data);
        Ok(tokio::task::spawn_blocking(move || command.status()).await??.success())
    };
    assert!(ca("export", &data).await? && !ca("export", &data).await?, "an export overwrites nothing");
    assert!(!ca("import", &data).await?, "into a hub that runs");
    assert!(ca("import", &third).await?);
    let three = start_hub(&directory.path().join("three"), None).await?;
    assert_eq!(pins(&three).await?, pins(&one).await?);
    identity.renew(&reach(), &url(&three)).await?;
    for hub in [one, two, three] {
        hub.stop().await?;
    }
    Ok(())
}
