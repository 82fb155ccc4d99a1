//! Two hubs of one fleet: what one learns of tokens, agents and revocations, the other acts on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use marigraph::cli::HubArgs;
use marigraph::hub::Hub;
use serde_json::Value;
use stdx::clock::SystemClock;
use stdx::disk::RealDisk;
use testkit::http;
use tokio::io::{AsyncRead, AsyncReadExt};
use tunnel::identity::{AgentIdentity, Alpn};
use tunnel::{Connector, HubUrl, Proxies};

use crate::PATIENCE;

/// A hub that can be stopped and started in its place.
struct Place {
    directory: PathBuf,
    addr: SocketAddr,
}

impl Place {
    fn new(directory: &Path, name: &str) -> Result<Place> {
        let addr = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Ok(Place { directory: directory.join(name), addr })
    }

    async fn start(&self) -> Result<Hub> {
        let (data, addr) = (self.directory.join("data"), self.addr);
        let words = [
            format!("--data={}", data.display()),
            format!("--listen={addr}"),
            format!("--advertise=https://{addr}"),
        ];
        Hub::start(HubArgs::parse(words.to_vec())?).await
    }

    async fn post(&self, path: &str, form: &str) -> Result<Value> {
        let kind = "application/x-www-form-urlencoded";
        let answer = http::post(self.addr, path, kind, form.to_owned()).await?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
        answer.json()
    }

    async fn get(&self, path: &str) -> Result<Vec<Value>> {
        let answer = http::get(self.addr, path).await?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
        Ok(answer.json()?.as_array().context("a list")?.clone())
    }

    async fn token(&self, form: &str) -> Result<String> {
        let made = self.post("/api/v1/admin/tokens", form).await?;
        Ok(made["token"].as_str().context("a token")?.to_owned())
    }

    async fn enrol(&self, home: &Path, token: &str) -> Result<AgentIdentity> {
        let identity = AgentIdentity::open(RealDisk::shared(), home, None, SystemClock::shared())?;
        identity.enrol(&reach(), &format!("https://{}", self.addr), token).await?;
        Ok(identity)
    }

    /// A connection of the agent, which ends when the agent is revoked.
    async fn connect(&self, identity: &AgentIdentity) -> Result<impl AsyncRead + Unpin + use<>> {
        let hub = HubUrl::parse(&format!("https://{}", self.addr))?;
        Ok(reach().connect(&hub, identity.tls().client_config(Alpn::Http1)).await?)
    }
}

fn reach() -> Connector {
    Connector::new(Proxies::none())
}

/// A fleet of two: `b` has joined `a`.
async fn fleet(directory: &Path) -> Result<((Place, Hub), (Place, Hub))> {
    let (a, b) = (Place::new(directory, "a")?, Place::new(directory, "b")?);
    let (hub_a, hub_b) = (a.start().await?, b.start().await?);
    let token = a.token("kind=join").await?;
    b.post("/api/v1/admin/ca/join", &format!("hub=https://{}&token={token}", a.addr)).await?;
    Ok(((a, hub_a), (b, hub_b)))
}

/// Waits until a list has what it should.
async fn until(place: &Place, path: &str, good: impl Fn(&[Value]) -> bool) -> Result<Duration> {
    let begin = Instant::now();
    loop {
        let list = place.get(path).await?;
        if good(&list) {
            return Ok(begin.elapsed());
        }
        ensure!(begin.elapsed() < PATIENCE, "{path} at {}: still {list:#?}", place.addr);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A connection that the hub closes within seconds.
async fn closed(connection: &mut (impl AsyncRead + Unpin)) -> Result<()> {
    let ended = tokio::time::timeout(Duration::from_secs(8), connection.read(&mut [0; 16])).await;
    ensure!(matches!(ended, Ok(Ok(0) | Err(_))), "a connection of a revoked agent lives on: {ended:?}");
    Ok(())
}

const AGENTS: &str = "/api/v1/admin/agents";
const TOKENS: &str = "/api/v1/admin/tokens";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_revoked_at_one_hub_is_cut_at_the_other() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let ((a, hub_a), (b, hub_b)) = fleet(directory.path()).await?;
    let token = a.token("kind=enrol&clusters=eu&uses=2").await?;
    let first = a.enrol(&directory.path().join("first"), &token).await?;
    let second = a.enrol(&directory.path().join("second"), &token).await?;
    let id = |identity: &AgentIdentity| identity.current().map(|who| who.agent_id).unwrap_or_default();
    until(&b, AGENTS, |agents| agents.len() == 2).await?;
    until(&b, "/api/v1/admin/hubs", |hubs| {
        hubs.len() == 2 && hubs.iter().all(|hub| hub["state"] == "linked" || hub["state"] == "this one")
    })
    .await?;

    let mut open = b.connect(&first).await?;
    let mut other = b.connect(&second).await?;
    a.post("/api/v1/admin/agents/revoke", &format!("id={}", id(&first))).await?;
    closed(&mut open).await?;
    until(&b, AGENTS, |agents| agents.iter().filter(|agent| agent["revoked"] == true).count() == 1).await?;
    let spared = tokio::time::timeout(Duration::from_millis(300), other.read(&mut [0; 16])).await;
    assert!(spared.is_err(), "a connection of another agent ended: {spared:?}");

    // b is away while the second is revoked, and cuts it off when it is back.
    hub_b.stop().await?;
    a.post("/api/v1/admin/agents/revoke", &format!("id={}", id(&second))).await?;
    let hub_b = b.start().await?;
    if let Ok(mut open) = b.connect(&second).await {
        closed(&mut open).await?;
    }
    until(&b, AGENTS, |agents| agents.iter().all(|agent| agent["revoked"] == true)).await?;
    // On a busy machine a reset may overtake the alert that says why.
    let mut said = String::new();
    for _ in 0..10 {
        let refused = second.renew(&reach(), &format!("https://{}", b.addr)).await;
        said = refused.err().context("a revoked agent renewed its certificate")?.to_string().to_lowercase();
        if said.contains("revoked") {
            break;
        }
    }
    assert!(said.contains("revoked"), "{said}");
    // And the other way round: what b revokes, a knows.
    b.post("/api/v1/admin/agents/revoke", "id=feedfeedfeedfeed&serial=0a&force=true").await?;
    let hub_a_record = |hubs: &[Value]| hubs.iter().any(|hub| hub["state"] == "linked");
    until(&a, "/api/v1/admin/hubs", hub_a_record).await?;
    hub_a.stop().await?;
    hub_b.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_opens_every_hub_and_is_used_up_at_all() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let ((a, hub_a), (b, hub_b)) = fleet(directory.path()).await?;
    let at = |name: &str| directory.path().join(name);
    // Redeemed at b at once, whether or not b has heard of it.
    let token = a.token("kind=enrol&clusters=eu").await?;
    b.enrol(&at("one"), &token).await.context("a token of the other hub")?;
    for place in [&a, &b] {
        let again = place.enrol(&at("thief"), &token).await.expect_err("used up").to_string();
        assert!(again.contains("the token was used already"), "{again}");
    }
    until(&a, AGENTS, |agents| agents.len() == 1).await?;

    // A reader's token is everybody's, until it is revoked anywhere.
    let made = b.post(TOKENS, "kind=api&role=read").await?;
    let id = made["record"]["id"].as_str().context("an id")?.to_owned();
    until(&a, TOKENS, |tokens| tokens.iter().any(|token| token["id"] == *id)).await?;
    a.post("/api/v1/admin/tokens/revoke", &format!("id={id}")).await?;
    until(&b, TOKENS, |tokens| {
        tokens.iter().any(|token| token["id"] == *id && token["revoked_ms"].is_number())
    })
    .await?;

    // A split: both redeem a token that is good once, and say so when they meet.
    let token = a.token("kind=enrol&clusters=us").await?;
    let made = a.get(TOKENS).await?.len();
    until(&b, TOKENS, |tokens| tokens.len() == made).await?;
    hub_a.stop().await?;
    b.enrol(&at("two"), &token).await.context("its home is out of reach")?;
    hub_b.stop().await?;
    let hub_a = a.start().await?;
    a.enrol(&at("three"), &token).await.context("what the other has done is not known")?;
    let hub_b = b.start().await?;
    for place in [&a, &b] {
        until(place, TOKENS, |tokens| {
            tokens.iter().any(|token| token["uses"] == 2 && token["uses_max"] == 1)
        })
        .await?;
        let metrics = http::get(place.addr, "/metrics").await?.text();
        assert!(metrics.contains("marigraph_hubs_overdrawn_tokens 1"), "{}", place.addr);
    }
    hub_a.stop().await?;
    hub_b.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doors_of_hubs_are_for_hubs() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let place = Place::new(directory.path(), "a")?;
    let hub = place.start().await?;
    for (path, body) in [
        ("pull", r#"{"epoch":0,"revision":0}"#),
        ("push", r#"{"records":[{"record":"revoked","agent_id":"x","at_ms":0,"author":"y"}]}"#),
        ("claim", r#"{"id":"a","kind":"enrol","digest":"b","key":"c"}"#),
        ("admit", r#"{"request":"x"}"#),
    ] {
        let path = format!("/fleet/v1/hubs/{path}");
        let answer = http::post(place.addr, &path, "application/json", body.to_owned()).await?;
        assert!(
            answer.status == 403 && answer.text().contains("for the fleet's hubs"),
            "{path}: {}",
            answer.text()
        );
    }
    hub.stop().await
}
