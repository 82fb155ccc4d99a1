//! Agents and a hub's desk, over TLS in memory: enrolment, renewal, hostile callers.

use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use stdx::clock::FakeClock;
use stdx::disk::{FakeDisk, Survivors};
use tenancy::{Registry, TenantId, TokenSpec};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::identity::exchange::{Reaching, Refused};
use crate::identity::{Authority, AuthorityOptions, Denied, Desk, HubTls};

const NOW_MS: i64 = 1_790_000_000_000;
const DAY_MS: i64 = 24 * 3600 * 1000;
const HUB: &str = "https://hub.example:9443";

/// A hub that does nothing but give certificates.
struct Hub {
    desk: Arc<Desk>,
    tls: Arc<HubTls>,
    /// Loses answers after they were made.
    loses: std::sync::atomic::AtomicUsize,
}

impl Hub {
    fn new(clock: &Arc<FakeClock>) -> Arc<Hub> {
        let disk = FakeDisk::new(Path::new("/hub"));
        let directory = Path::new("/hub/fleet");
        let options = AuthorityOptions::default();
        let authority = Authority::open_or_create(disk.shared(), directory, clock.clone(), options);
        let registry = Registry::open(disk.shared(), directory, clock.clone()).expect("a registry");
        let desk = Arc::new(Desk::new(authority.expect("an authority"), Arc::new(registry), clock.clone()));
        let asked = Arc::clone(&desk);
        let tls = HubTls::new(
            desk.authority.issue_server(&[]).expect("a certificate"),
            &desk.authority.bundle().expect("a bundle"),
            Arc::new(move |peer| asked.is_revoked(peer)),
            clock.clone(),
        );
        Arc::new(Hub { desk, tls: Arc::new(tls.expect("TLS")), loses: 0.into() })
    }

    fn token(&self, uses: u32) -> String {
        let spec = TokenSpec {
            kind: TokenKind::Enrol,
            tenant: TenantId::new("acme").expect("a tenant"),
            clusters: vec!["eu".into()],
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            role: None,
            uses,
            ttl: Some(Duration::from_secs(3600)),
            pin: Some(self.desk.authority.pin().expect("a pin").0),
            hub: HUB.into(),
            author: "ann".into(),
        };
        self.desk.registry.create_token(spec).expect("a token").0.to_string()
    }
}

impl Reach for Arc<Hub> {
    fn reach<'a>(&'a self, hub: &'a str, tls: Arc<rustls::ClientConfig>) -> Reaching<'a> {
        Box::pin(async move {
            assert_eq!(hub, HUB);
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let this = Arc::clone(self);
            tokio::spawn(async move {
                let acceptor = TlsAcceptor::from(this.tls.server_config());
                let Ok(stream) = acceptor.accept(theirs).await else { return };
                let peer = this.tls.peer(stream.get_ref().1.peer_certificates()).expect("an identity");
                let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                    let (this, peer) = (Arc::clone(&this), peer.clone());
                    async move {
                        let path = request.uri().path().to_owned();
                        let body =
                            request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
                        let answer = answer(&this.desk, peer.as_ref(), &path, &body);
                        let (status, body) = match answer {
                            Ok(body) => (200, body),
                            Err(denied) => (
                                denied.status,
                                serde_json::to_vec(&Refused { error: denied.message }).expect("JSON"),
                            ),
                        };
                        let lost = std::sync::atomic::Ordering::SeqCst;
                        if this.loses.fetch_update(lost, lost, |left| left.checked_sub(1)).is_ok() {
                            return Err(std::io::Error::other("lost"));
                        }
                        let mut response = Response::new(Full::new(bytes::Bytes::from(body)));
                        *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
                        Ok(response)
                    }
                });
                _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
            let name = rustls_pki_types::ServerName::try_from("hub.example").expect("a name");
            let stream = TlsConnector::from(tls).connect(name, ours).await;
            Ok(Box::new(stream.map_err(|error| error.to_string())?) as _)
        })
    }
}

fn answer(desk: &Desk, peer: Option<&PeerIdentity>, path: &str, body: &[u8]) -> Result<Vec<u8>, Denied> {
    let bad = |error: serde_json::Error| Denied { status: 400, message: error.to_string() };
    let answer = match path {
        ENROL_PATH => desk.enrol(&serde_json::from_slice(body).map_err(bad)?)?,
        RENEW_PATH => desk.renew(peer, &serde_json::from_slice(body).map_err(bad)?)?,
        _ => return Err(Denied { status: 404, message: "no such door".into() }),
    };
    serde_json::to_vec(&answer).map_err(bad)
}

fn disk() -> FakeDisk {
    FakeDisk::new(Path::new("/agent"))
}

fn agent(disk: &FakeDisk, clock: &Arc<FakeClock>) -> AgentIdentity {
    AgentIdentity::open(disk.shared(), Path::new("/agent/data"), None, clock.clone()).expect("opened")
}

#[tokio::test]
async fn an_agent_enrols_restarts_without_the_token_and_renews_past_its_expiry() {
    let clock = FakeClock::at(NOW_MS);
    let hub = Hub::new(&clock);
    let (disk, token) = (disk(), hub.token(1));
    let first = agent(&disk, &clock);
    assert!(first.is_to_enrol(None) && first.renewal_due_ms().is_none());
    let enrolled = first.enrol(&hub, HUB, &token).await.expect("enrolled");
    assert_eq!((enrolled.tenant.as_str(), enrolled.cluster.as_str()), ("acme", "eu"));
    assert_eq!(enrolled.labels.get("env").map(String::as_str), Some("prod"));
    let due_ms = first.renewal_due_ms().expect("due") - NOW_MS;
    assert!((18 * DAY_MS..22 * DAY_MS).contains(&due_ms), "{due_ms}");

    let again = agent(&disk.after_power_cut(Survivors::Nothing), &clock);
    assert_eq!(again.current(), Some(enrolled.clone()));
    assert_eq!(again.renewal_due_ms(), first.renewal_due_ms(), "no new jitter with a restart");
    assert!(!again.is_to_enrol(None) && !again.is_to_enrol(Some(&token)));
    assert!(again.is_to_enrol(Some(&hub.token(1))), "another token is there to be used");
    for (days, renews) in [(20, true), (20 + 30 + 89, true), (20 + 30 + 89 + 30 + 91, false)] {
        clock.set_ms(NOW_MS + days * DAY_MS);
        let server = hub.desk.authority.issue_server(&[]).expect("issued");
        hub.tls.replace_certificate(server).expect("replaced");
        let before = again.current();
        let outcome = again.renew(&hub, HUB).await;
        assert_eq!(outcome.is_ok(), renews, "after {days} days: {outcome:?}");
        assert_eq!(again.current() != before, renews, "after {days} days");
        assert_eq!(again.current().map(|it| it.uri()), Some(enrolled.uri()));
    }
    assert!(again.is_to_enrol(None));
    let agents = hub.desk.registry.agents();
    assert_eq!((agents.len(), agents[0].serial.clone()), (1, again.current().expect("one").serial));
}

#[tokio::test]
async fn hostile_enrolments_are_refused_and_cost_no_token() {
    let clock = FakeClock::at(NOW_MS);
    let (hub, other) = (Hub::new(&clock), Hub::new(&clock));
    let used = hub.token(1);
    agent(&disk(), &clock).enrol(&hub, HUB, &used).await.expect("enrolled");
    let revoked = hub.token(1);
    let id = revoked.parse::<Token>().expect("a token").id();
    hub.desk.registry.revoke_token(&id, "ann").expect("revoked");
    let stranger = other.token(1);
    let damaged = hub.token(1).replace("marigraph_enrol_A", "marigraph_enrol_B");
    for (what, token, says) in [
        ("replayed", &used, "https://hub.example:9443 refuses: the token was used already"),
        ("revoked", &revoked, "https://hub.example:9443 refuses: the token was revoked"),
        ("of another root", &stranger, "https://hub.example:9443: invalid peer certificate: UnknownIssuer"),
        ("damaged", &damaged, "the token is damaged"),
        ("not a token", &"hunter2".to_owned(), "this is no token of Marigraph"),
    ] {
        let disk = disk();
        let victim = agent(&disk, &clock);
        let error = victim.enrol(&hub, HUB, token).await.expect_err(what).to_string();
        assert!(error.starts_with(says), "{what}: {error}");
        assert!(agent(&disk, &clock).is_to_enrol(None), "{what}");
    }
    // What is wrong with the request is told before the token is touched.
    let good = hub.token(1);
    let ask = |request: String| hub.desk.enrol(&EnrolRequest { token: good.clone(), request });
    let long = ask("x".repeat(20_000)).expect_err("too long");
    assert_eq!(long.status, 413);
    assert_eq!(ask("nothing".into()).expect_err("no request").status, 400);
    ask(LocalKey::generate().and_then(|key| key.request()).expect("a request")).expect("enrolled");
    let expired = hub.token(1);
    clock.advance_ms(3_600_000);
    let error = agent(&disk(), &clock).enrol(&hub, HUB, &expired).await.expect_err("expired").to_string();
    assert!(error.contains("the token has expired"), "{error}");
    assert!(hub.desk.renew(None, &RenewRequest { request: String::new() }).is_err_and(|it| it.status == 401));
}

#[tokio::test]
async fn an_answer_that_is_lost_does_not_cost_the_token() {
    let clock = FakeClock::at(NOW_MS);
    let hub = Hub::new(&clock);
    let (disk, token) = (disk(), hub.token(1));
    hub.loses.store(2, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..2 {
        let outcome = agent(&disk, &clock).enrol(&hub, HUB, &token).await;
        assert!(matches!(outcome, Err(ExchangeError::Unreachable { .. })), "{outcome:?}");
    }
    agent(&disk, &clock).enrol(&hub, HUB, &token).await.expect("the same key comes again");
    assert_eq!(hub.desk.registry.tokens()[0].uses, 1);
    assert_eq!(hub.desk.registry.agents().len(), 1);
    let thief = agent(&self::disk(), &clock).enrol(&hub, HUB, &token).await;
    assert!(matches!(thief, Err(ExchangeError::Refused { .. })), "{thief:?}");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_kept_renewed_and_a_revoked_one_is_not() {
    let clock = FakeClock::at(NOW_MS);
    let hub = Hub::new(&clock);
    let identity = Arc::new(agent(&disk(), &clock));
    let first = identity.enrol(&hub, HUB, &hub.token(1)).await.expect("enrolled");
    let (keeper, reach) = (Arc::clone(&identity), Arc::clone(&hub));
    let keeping = tokio::spawn(async move { keeper.keep_renewed(&reach, &[HUB.to_owned()]).await });
    let mut changes = identity.changes();
    clock.set_ms(identity.renewal_due_ms().expect("due") - 1000);
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(!changes.has_changed().expect("open"), "too early");
    clock.advance_ms(2000);
    changes.changed().await.expect("renewed");
    let second = identity.current().expect("one");
    assert!(second.serial != first.serial && second.uri() == first.uri());

    hub.desk.registry.revoke_agent(&first.agent_id, None, "ann").expect("revoked");
    clock.set_ms(identity.renewal_due_ms().expect("due") + 1000);
    tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
    assert_eq!(identity.current(), Some(second));
    keeping.abort();
}

#[tokio::test]
async fn a_new_root_reaches_agents_with_their_next_certificate() {
    let clock = FakeClock::at(NOW_MS);
    let hub = Hub::new(&clock);
    let identity = agent(&disk(), &clock);
    identity.enrol(&hub, HUB, &hub.token(1)).await.expect("enrolled");
    let show = || {
        hub.tls.replace_trusted(&hub.desk.authority.bundle()?)?;
        hub.tls.replace_certificate(hub.desk.authority.issue_server(&[])?)
    };
    hub.desk.authority.add_root().expect("a next root");
    show().expect("shown");
    identity.renew(&hub, HUB).await.expect("with both roots");
    hub.desk.authority.switch_root().expect("switched");
    show().expect("shown");
    let early = hub.desk.retire_root(false).expect_err("the agent's certificate is the old root's");
    assert!(early.to_string().starts_with("1 agents have no certificate under the new root yet"), "{early}");
    identity.renew(&hub, HUB).await.expect("the hub shows the new root already");
    hub.desk.retire_root(false).expect("nobody needs the old root");
    show().expect("shown");
    identity.renew(&hub, HUB).await.expect("without the old root");
}

#[test]
fn the_file_survives_a_power_cut_at_any_moment() {
    let clock = FakeClock::at(NOW_MS);
    let hub = Hub::new(&clock);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for dies_at in 0..14 {
        let (disk, token) = (disk(), hub.token(1));
        disk.die_at(disk.operations() + dies_at);
        let opened = AgentIdentity::open(disk.shared(), Path::new("/agent/data"), None, clock.clone());
        let opened = opened.expect("reading is not changing");
        _ = runtime.block_on(opened.enrol(&hub, HUB, &token));
        let disk = disk.after_power_cut(Survivors::Nothing);
        let again = agent(&disk, &clock);
        if again.is_to_enrol(Some(&token)) {
            runtime.block_on(again.enrol(&hub, HUB, &token)).expect("the token was not spent on another key");
        }
        assert_eq!(agent(&disk, &clock).current(), again.current(), "{dies_at}");
    }
}
