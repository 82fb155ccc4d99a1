//! Every way that a connection can fail, on loopback.

use std::path::Path;

use rustls::ServerConfig;
use rustls::server::ServerSessionMemoryCache;
use stdx::clock::FakeClock;
use stdx::disk::FakeDisk;
use tenancy::{Registry, TenantId, TokenSpec};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::connect::Proxies;
use crate::identity::{Authority, AuthorityOptions, Desk, HubTls, Reach, Reaching};

const NOW_MS: i64 = 1_790_000_000_000;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// What answers.
#[derive(Clone)]
enum Server {
    Hub { tls: Arc<ServerConfig>, says: String },
    Plain,
    Silent,
    Cuts,
}

async fn serve(server: Server) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            match server.clone() {
                Server::Hub { tls, says } => {
                    tokio::spawn(async move {
                        let Ok(mut stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
                        let mut request = [0; 1024];
                        _ = stream.read(&mut request).await;
                        _ = stream.write_all(says.as_bytes()).await;
                        _ = stream.shutdown().await;
                    });
                }
                Server::Plain => _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await,
                Server::Silent => held.push(stream),
                Server::Cuts => drop(stream),
            }
        }
    });
    format!("https://{address}")
}

struct Fleet {
    clock: Arc<FakeClock>,
    desk: Arc<Desk>,
}

impl Fleet {
    fn new() -> Fleet {
        let clock = FakeClock::at(NOW_MS);
        let disk = FakeDisk::new(Path::new("/hub"));
        let options = AuthorityOptions::default();
        let authority =
            Authority::open_or_create(disk.shared(), Path::new("/hub/fleet"), clock.clone(), options);
        let registry = Registry::open(disk.shared(), Path::new("/hub/fleet"), clock.clone()).expect("opened");
        let desk = Desk::new(authority.expect("an authority"), Arc::new(registry), clock.clone());
        Fleet { clock, desk: Arc::new(desk) }
    }

    fn hub(&self) -> Server {
        self.hub_that_says("HTTP/1.1 200 OK\r\nDate: Mon, 21 Sep 2026 14:13:20 GMT\r\n\r\n")
    }

    fn hub_that_says(&self, says: &str) -> Server {
        let desk = Arc::clone(&self.desk);
        let tls = HubTls::new(
            desk.authority.issue_server(&[]).expect("issued"),
            &desk.authority.bundle().expect("a bundle"),
            Arc::new(move |peer| desk.is_revoked(peer)),
            self.clock.clone(),
        );
        Server::Hub { tls: tls.expect("TLS").server_config(), says: says.to_owned() }
    }

    fn token(&self, kind: TokenKind) -> String {
        let spec = TokenSpec {
            kind,
            tenant: TenantId::default(),
            clusters: vec!["eu".into()],
            labels: Default::default(),
            role: None,
            uses: 1,
            ttl: None,
            pin: Some(self.desk.authority.pin().expect("a pin").0),
            hub: String::new(),
            author: "ann".into(),
        };
        self.desk.registry.create_token(spec).expect("made").0.to_string()
    }

    async fn agent(&self) -> AgentIdentity {
        let disk = FakeDisk::new(Path::new("/agent"));
        let identity = AgentIdentity::open(disk.shared(), Path::new("/agent/data"), None, self.clock.clone())
            .expect("opened");
        let hub = serve_desk(self).await;
        identity.enrol(&hub, "https://hub:1", &self.token(TokenKind::Enrol)).await.expect("enrolled");
        identity
    }
}

/// A certificate of nobody's fleet, as something in between shows it.
fn interceptor() -> Server {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("names");
    params.distinguished_name.push(rcgen::DnType::CommonName, "Inspecting Proxy");
    let certificate = params.self_signed(&key).expect("signed");
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into());
    let mut config = config.expect("a pair");
    config.session_storage = ServerSessionMemoryCache::new(1);
    Server::Hub { tls: Arc::new(config), says: String::new() }
}

/// Answers an enrolment without a network.
async fn serve_desk(fleet: &Fleet) -> impl Reach + use<> {
    struct Direct(Server, Arc<Desk>);
    impl Reach for Direct {
        fn reach<'a>(&'a self, _: &'a str, tls: Arc<ClientConfig>) -> Reaching<'a> {
            Box::pin(async move {
                let (ours, theirs) = tokio::io::duplex(64 << 10);
                let (Server::Hub { tls: server, .. }, desk) = (self.0.clone(), Arc::clone(&self.1)) else {
                    return Err("no hub".into());
                };
                tokio::spawn(async move {
                    let mut stream = TlsAcceptor::from(server).accept(theirs).await.expect("TLS");
                    let mut request = Vec::new();
                    while !request.ends_with(b"}") {
                        let mut piece = [0; 4096];
                        let read = stream.read(&mut piece).await.expect("a request");
                        request.extend_from_slice(&piece[..read]);
                    }
                    let body = request.iter().position(|byte| *byte == b'{').expect("JSON");
                    let message = serde_json::from_slice(&request[body..]).expect("a message");
                    let answer = desk.enrol(&message).expect("enrolled");
                    let answer = serde_json::to_string(&answer).expect("JSON");
                    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
                    stream.write_all(text.as_bytes()).await.expect("sent");
                    stream.flush().await.expect("sent");
                });
                let name = ServerName::try_from("hub").map_err(|error| error.to_string())?;
                let stream = TlsConnector::from(tls).connect(name, ours).await;
                Ok(Box::new(stream.map_err(|error| error.to_string())?) as _)
            })
        }
    }
    Direct(fleet.hub(), Arc::clone(&fleet.desk))
}

async fn findings(
    hub: &str,
    token: Option<&str>,
    identity: Option<&AgentIdentity>,
    clock: Arc<FakeClock>,
    proxies: Proxies,
) -> String {
    let connector = Connector::new(proxies);
    let patience = Duration::from_millis(500);
    let check = Check { hub, connector: &connector, token, identity, patience, clock };
    check.run().await.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn each_failure_has_its_sentence() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let token = fleet.token(TokenKind::Enrol);
    let (join, stranger) = (fleet.token(TokenKind::Join), other.token(TokenKind::Enrol));
    let hub = serve(fleet.hub()).await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        format!("https://{}", listener.local_addr().expect("an address"))
    };
    let (silent, plain) = (serve(Server::Silent).await, serve(Server::Plain).await);
    let (cuts, between) = (serve(Server::Cuts).await, serve(interceptor()).await);
    let starting = serve(fleet.hub_that_says("HTTP/1.1 503 Service Unavailable\r\n\r\n")).await;
    let proxy = plain.replace("https", "http");
    let (proxy, none) = (Proxies::configured(&proxy, ""), Proxies::none());
    let at = |days: i64| FakeClock::at(NOW_MS + days * DAY_MS);
    // (address, token, days this machine is ahead, proxies, the last finding)
    let cases = [
        (&hub, &token, 0, &none, "ok    hub: it answers"),
        (&hub, &stranger, 0, &none, "FAIL  certificate: this is a hub of another fleet"),
        (&hub, &join, 0, &none, "FAIL  token: it is for join, agents need one for enrol"),
        (&hub, &token[..40].to_owned(), 0, &none, "FAIL  token: the token is damaged"),
        (
            &hub,
            &token,
            -3,
            &none,
            "FAIL  clock: the hub's certificate is not valid yet by this machine's clock",
        ),
        (&hub, &token, 100, &none, "FAIL  clock: the hub's certificate has expired by this machine's clock"),
        (&hub, &token, 0, &proxy, "FAIL  proxy: proxy 127.0.0.1:"),
        (&closed, &token, 0, &none, "FAIL  TCP: connect to 127.0.0.1:"),
        (&silent, &token, 0, &none, "FAIL  TLS: no answer in 500ms"),
        (&plain, &token, 0, &none, "FAIL  TLS: received corrupt message"),
        (&cuts, &token, 0, &none, "FAIL  TLS: "),
        (
            &between,
            &token,
            0,
            &none,
            "FAIL  certificate: the certificate shown is no hub's: for \"CN=Inspecting Proxy\"",
        ),
        (&starting, &token, 0, &none, "FAIL  hub: it answers \"HTTP/1.1 503 Service Unavailable\""),
        (&"https://no.such.host.invalid:1".to_owned(), &token, 0, &none, "FAIL  name: "),
        (
            &"http://hub:1".to_owned(),
            &token,
            0,
            &none,
            "FAIL  address: hub URL `http://hub:1`: agents reach hubs over https only",
        ),
    ];
    for (address, token, days, proxies, last) in cases {
        let text = findings(address, Some(token), None, at(days), proxies.clone()).await;
        let line = text.lines().rfind(|line| !line.starts_with("      ->")).unwrap_or_default();
        assert!(line.starts_with(last), "{address} {days}: {text}");
        let fails = text.matches("FAIL").count();
        assert_eq!(fails, usize::from(last.starts_with("FAIL")), "{text}");
        assert!(!line.starts_with("FAIL") || text.lines().last().is_some_and(|l| l.contains("->")), "{text}");
    }
}

#[tokio::test]
async fn the_agents_own_certificate_is_looked_at() {
    let fleet = Fleet::new();
    let identity = fleet.agent().await;
    let who = identity.current().expect("one");
    let check = async |days: i64| {
        fleet.clock.set_ms(NOW_MS + days * DAY_MS);
        let hub = serve(fleet.hub()).await;
        findings(&hub, None, Some(&identity), Arc::clone(&fleet.clock), Proxies::none()).await
    };
    let text = check(0).await;
    assert!(text.contains("for 30 days more") && text.ends_with("hub: it answers"), "{text}");
    let text = check(35).await;
    assert!(text.contains("expired 5 days ago") && text.contains("look  clock: this machine's is"), "{text}");
    let text = check(125).await;
    assert!(text.contains("which is more than 90"), "{text}");
    fleet.desk.registry.revoke_agent(&who.agent_id, None, "ann").expect("revoked");
    let text = check(0).await;
    assert!(text.contains("FAIL  hub: the hub says that this agent was revoked"), "{text}");
}

#[test]
fn dates_of_http() {
    for (text, ms) in [
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777_000)),
        ("Mon, 21 Sep 2026 14:13:20 GMT", Some(NOW_MS)),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("yesterday", None),
    ] {
        assert_eq!(http_date_ms(text), ms, "{text}");
    }
}
