use std::path::Path;

use axum::Extension;
use axum::routing::{get, post};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn;
use stdx::clock::{Clock, SystemClock};
use stdx::disk::FakeDisk;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tunnel::identity::{
    AgentTls, Alpn, Authority, AuthorityOptions, LocalKey, OwnCertificate, ServerTrust, Subject,
};
use tunnel::{Agents, Ask, Connector, DialConfig, Handler, HubUrl, Proxies, Timings, To, Tunnels};

use super::*;

/// Sends the parts with `pause` before each, and gives what comes back until the end.
async fn talk(addr: SocketAddr, pause: Duration, parts: &[&str]) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    for part in parts {
        tokio::time::sleep(pause).await;
        // What comes too late finds the connection closed.
        if stream.write_all(part.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut said = Vec::new();
    _ = stream.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).lines().map(str::to_owned).collect::<Vec<_>>().join("|")
}

#[tokio::test]
async fn slow_clients_are_let_go() {
    let router = Router::new().route("/", post(|body: String| async move { body }));
    let ms = Duration::from_millis;
    let deadlines = Deadlines { head: ms(300), handshake: ms(300), piece: ms(300), body: ms(600) };
    let front = Bound::to("127.0.0.1:0").await.expect("a port").serve_within(deadlines, router);
    let head = "POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: 9\r\n\r\n";
    let slow = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let cases: &[(&str, Duration, Vec<&str>, &str)] = &[
        ("silence", ms(0), vec![], ""),
        ("one byte", ms(0), vec!["P"], ""),
        ("half a head", ms(0), vec!["POST / HTTP/1.1\r\nhost:"], ""),
        ("a body in time", ms(20), [&[head][..], &slow].concat(), "200 abcdefghi"),
        ("a body that stops", ms(0), vec![head, "abc"], "400"),
        ("a body drop by drop", ms(150), [&[head][..], &slow].concat(), "400"),
    ];
    for (name, pause, parts, expected) in cases {
        let began = Instant::now();
        let said = talk(front.addr, *pause, parts).await;
        let status = said.split(' ').nth(1).unwrap_or_default();
        let body = said.split("||").nth(1).filter(|_| status == "200");
        let shown = [Some(status), body].into_iter().flatten().collect::<Vec<_>>().join(" ");
        assert_eq!(shown, *expected, "{name}: {said}");
        assert!(began.elapsed() < Duration::from_secs(20), "{name} took {:?}", began.elapsed());
    }
    front.stop().await;
}
/// Tells when it is dropped.
struct Dropped(Option<tokio::sync::oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.take().map(|told| told.send(()));
    }
}

#[tokio::test]
async fn a_client_that_leaves_behind_more_bytes_ends_its_request() {
    let (told, gone) = tokio::sync::oneshot::channel();
    let (started, running) = tokio::sync::oneshot::channel();
    let both = Arc::new(Mutex::new(Some((told, started))));
    let handler = move || {
        let (told, started) = both.lock().take().expect("one request");
        async move {
            let _dropped = Dropped(Some(told));
            let _ = started.send(());
            std::future::pending::<()>().await;
        }
    };
    let router = Router::new().route("/", axum::routing::get(handler));
    let front = Bound::to("127.0.0.1:0").await.expect("a port").serve(router);
    let mut client = TcpStream::connect(front.addr).await.expect("a connection");
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("send");
    running.await.expect("the request runs");
    client.write_all(&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100)).await.expect("send more");
    drop(client);
    let ended = tokio::time::timeout(Duration::from_secs(20), gone).await;
    assert!(ended.is_ok(), "the request runs on without a client");
    front.stop().await;
}

/// A fleet of a hub and its agents.
struct Fleet {
    clock: Arc<dyn Clock>,
    authority: Authority,
}

impl Fleet {
    fn new() -> Fleet {
        let clock: Arc<dyn Clock> = SystemClock::shared();
        let disk = FakeDisk::new(Path::new("/data")).shared();
        let options = AuthorityOptions::default();
        let authority =
            Authority::open_or_create(disk, Path::new("/data/fleet"), Arc::clone(&clock), options);
        Fleet { clock, authority: authority.expect("an authority") }
    }

    fn hub(&self) -> Arc<HubTls> {
        let certificate = self.authority.issue_server(&["127.0.0.1".to_owned()]).expect("a certificate");
        let bundle = self.authority.bundle().expect("a bundle");
        let tls = HubTls::new(certificate, &bundle, Arc::new(|_| false), Arc::clone(&self.clock));
        Arc::new(tls.expect("TLS"))
    }

    /// TLS of an agent, or of a caller without a certificate.
    fn agent(&self, id: Option<&str>) -> AgentTls {
        let certificate = id.map(|id| {
            let subject = Subject {
                tenant: model::TenantId::default(),
                cluster: "prod".to_owned(),
                agent_id: id.to_owned(),
                labels: Default::default(),
            };
            let key = LocalKey::generate().expect("a key");
            let issued = self.authority.issue_agent(&subject, &key.request().expect("a request"));
            OwnCertificate::from_pem(&issued.expect("issued").chain_pem, &key.to_pem()).expect("a pair")
        });
        let trust = ServerTrust::Fleet(self.authority.bundle().expect("a bundle"));
        AgentTls::new(trust, certificate, Arc::clone(&self.clock)).expect("TLS")
    }
}

/// Tells who the caller is.
async fn who(peer: Option<Extension<PeerIdentity>>) -> String {
    peer.map_or("a stranger".to_owned(), |Extension(peer)| peer.agent_id)
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "hub").body(Empty::new()).expect("a request")
}

/// What `/who` answers over TLS.
async fn ask_who(addr: SocketAddr, tls: &AgentTls, alpn: Alpn) -> String {
    let url = HubUrl::parse(&format!("https://{addr}")).expect("a URL");
    let stream = Connector::new(Proxies::none()).connect(&url, tls.client_config(alpn)).await;
    let io = TokioIo::new(stream.expect("a stream"));
    let answer = match alpn {
        Alpn::Http1 => {
            let (mut sender, connection) = conn::http1::handshake(io).await.expect("HTTP/1");
            tokio::spawn(connection);
            sender.send_request(request("/who")).await
        }
        Alpn::Http2 => {
            let (mut sender, connection) =
                conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
            tokio::spawn(connection);
            sender.send_request(request("https://hub/who")).await
        }
    };
    let body = answer.expect("an answer").into_body().collect().await.expect("a body");
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}

#[tokio::test]
async fn one_port_speaks_tls_and_plaintext() {
    let fleet = Fleet::new();
    let front = Bound::to("127.0.0.1:0").await.expect("a port").serve(Router::new().route("/who", get(who)));
    let plain = "GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(talk(front.addr, Duration::ZERO, &[plain]).await.ends_with("||a stranger"));
    for (plaintext, expected) in [
        (Plaintext::Loopback, "||a stranger"),
        (Plaintext::Everywhere, "||a stranger"),
        (Plaintext::Never, "||this address speaks TLS; use https://"),
    ] {
        front.secure(&fleet.hub(), plaintext);
        let said = talk(front.addr, Duration::ZERO, &[plain]).await;
        assert!(said.ends_with(expected), "{plaintext:?}: {said}");
        for alpn in [Alpn::Http1, Alpn::Http2] {
            assert_eq!(ask_who(front.addr, &fleet.agent(None), alpn).await, "a stranger", "{alpn:?}");
            assert_eq!(ask_who(front.addr, &fleet.agent(Some("a1")), alpn).await, "a1", "{alpn:?}");
        }
    }
    let mut registry = Registry::default();
    front.register_metrics(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    assert!(text.contains("marigraph_front_refused_total{reason=\"plaintext\"} 1"), "{text}");
    front.stop().await;
}

#[tokio::test]
async fn handshakes_that_dawdle_are_cut_and_others_served() {
    let fleet = Fleet::new();
    let ms = Duration::from_millis;
    let deadlines = Deadlines { head: ms(300), handshake: ms(300), piece: ms(300), body: ms(600) };
    let router = Router::new().route("/who", get(who));
    let front = Bound::to("127.0.0.1:0").await.expect("a port").serve_within(deadlines, router);
    front.secure(&fleet.hub(), Plaintext::Never);
    for (name, parts) in [
        ("silence", &[][..]),
        ("a record that never ends", &["\u{16}\u{3}\u{1}\u{2}", "x", "x", "x", "x"]),
        ("no TLS at all", &["\u{16}nonsense, and a lot of it, so that a record is complete"]),
    ] {
        let began = Instant::now();
        let said = talk(front.addr, ms(150), parts).await;
        assert!(!said.contains("HTTP"), "{name}: {said}");
        assert!(began.elapsed() < Duration::from_secs(20), "{name}");
        assert_eq!(ask_who(front.addr, &fleet.agent(Some("a1")), Alpn::Http1).await, "a1", "{name}");
    }
    front.stop().await;
}

#[tokio::test]
async fn an_agent_gets_its_tunnel_and_revocation_closes_its_connections() {
    let fleet = Fleet::new();
    let mut registry = Registry::default();
    let agents = Agents::new(Timings::default(), Arc::clone(&fleet.clock), &mut registry);
    let door = {
        let agents = agents.clone();
        move |ConnectInfo(remote): ConnectInfo<SocketAddr>,
              Extension(peer): Extension<PeerIdentity>,
              mut request: axum::extract::Request| async move {
            agents.accept(&mut request, &peer, remote)
        }
    };
    let router = Router::new().route(tunnel::TUNNEL_PATH, get(door)).route("/who", get(who));
    let front = Bound::to("127.0.0.1:0").await.expect("a port").serve(router);
    front.secure(&fleet.hub(), Plaintext::default());
    let hub = HubUrl::parse(&format!("https://{}", front.addr)).expect("a URL");
    let tls = fleet.agent(Some("a1"));
    let (_renew, config) = tokio::sync::watch::channel(tls.client_config(Alpn::Http1));
    let answers = Router::new().route("/x", get(|| async { "from afar" }));
    let handler = Handler::new(hyper_util::service::TowerToHyperService::new(answers));
    let config = DialConfig {
        connector: Connector::new(Proxies::none()),
        ..DialConfig::new(vec![hub.clone()], config)
    };
    let tunnels = Tunnels::start(config, &handler, &fleet.clock);
    let mut changes = agents.changes();
    changes.changed().await.expect("an agent");
    let to = To::Cluster { tenant: "default".into(), cluster: "prod".into() };
    let ask = Ask::scrape(Duration::from_secs(10));
    let asked = Request::get("/x").body(Bytes::new()).expect("a request");
    let answer = agents.request(&to, asked, ask).await.expect("an answer");
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "from afar");
    // Another connection of the agent, idle between two requests.
    let stream = Connector::new(Proxies::none()).connect(&hub, tls.client_config(Alpn::Http2)).await;
    let (mut sender, connection) =
        conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream.expect("a stream")))
            .await
            .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    sender.send_request(request("https://hub/who")).await.expect("an answer");
    assert_eq!(front.close(|peer| peer.agent_id == "a2"), 0);
    assert_eq!(front.close(|peer| peer.agent_id == "a1"), 1, "the tunnel is not the front's any more");
    // However it ends.
    let _ = tokio::time::timeout(Duration::from_secs(10), connection).await.expect("it ends");
    assert_eq!(agents.close("revoked", |peer| peer.agent_id == "a1"), 1);
    front.stop().await;
    drop(tunnels);
}
