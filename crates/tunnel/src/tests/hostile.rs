//! Peers that mean harm, or are broken: refused, told why, and nobody else is disturbed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::kit::*;
use crate::agents::Ask;
use crate::connect::{Connector, HubUrl, Proxies, Tcp};
use crate::dial::{DialConfig, Tunnels};
use crate::protocol::{TUNNEL_PATH, Timings, UPGRADE};
use crate::serve::Handler;

/// Waits until the agent knows what is wrong.
async fn last_error(tunnels: &crate::Tunnels) -> String {
    loop {
        if let Some((_, error)) = tunnels.states().remove(0).last_error {
            return error;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn strangers_get_no_tunnel() {
    let (ca, other) = (Ca::new(), Ca::new());
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let answers = handler(|path| (200, path.to_owned()));
    let start = |tls| dial(vec![url.clone()], tls, Arc::new(Tcp), Timings::default(), &answers).0;
    let good = start(ca.agent("t/c/good"));
    hub.until_connected(1).await;
    for (name, tls, expected) in [
        ("expired", ca.expired_agent("t/c/a"), "certificateexpired"),
        ("of another authority", other.agent_that_trusts(&ca, "t/c/a"), "fatal alert"),
        ("that trusts another authority", ca.agent_that_trusts(&other, "t/c/a"), "invalid peer certificate"),
        ("without an agent's name", ca.agent("t"), "ask 127.0.0.1"),
    ] {
        let tunnels = start(tls);
        let error = tokio::time::timeout(Duration::from_secs(20), last_error(&tunnels)).await;
        let error = error.expect("an error");
        assert!(error.to_lowercase().contains(&expected.to_lowercase()), "{name}: {error}");
        assert_eq!(tunnels.states()[0].connected_since_ms, None, "{name}");
    }
    assert_eq!(hub.agents.list().len(), 1);
    let said =
        whole(hub.agents.request(&agent("t/c/good"), get("/x"), Ask::scrape(Duration::from_secs(5))).await);
    assert_eq!(said.await, "200 /x");
    drop(good);
}

/// The connection of an agent that has got its tunnel, and now does what it likes with it.
async fn raw_tunnel(url: &HubUrl, tls: Arc<rustls::ClientConfig>) -> hyper::upgrade::Upgraded {
    let stream = Connector::new(Proxies::none()).connect(url, tls).await.expect("a stream");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1");
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(TUNNEL_PATH).header("host", "hub");
    let request = request.header("connection", "upgrade").header("upgrade", UPGRADE);
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request")).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    hyper::upgrade::on(answer).await.expect("a tunnel")
}

#[tokio::test]
async fn an_agent_that_breaks_http2_loses_its_own_tunnel_and_nothing_else() {
    let ca = Ca::new();
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let answers = handler(|path| (200, path.to_owned()));
    let good = dial(vec![url.clone()], ca.agent("t/c/good"), Arc::new(Tcp), Timings::default(), &answers);
    hub.until_connected(1).await;
    let settings: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let empty_data: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 1];
    let reset: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 9, 0, 0, 0, 8];
    for (name, bytes) in [
        ("no HTTP/2", b"SSH-2.0-OpenSSH\r\n and more, to make a frame of it".to_vec()),
        ("a frame of 16 MB", [settings, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], &[0; 64]].concat()),
        ("data nobody asked for", [settings, &empty_data.repeat(500)].concat()),
        ("resets of streams that never were", [settings, &reset.repeat(5000)].concat()),
    ] {
        let mut tunnel = TokioIo::new(raw_tunnel(&url, ca.agent("t/c/evil")).await);
        // It may be cut off in the middle.
        let _ = tunnel.write_all(&bytes).await;
        let ended = async {
            loop {
                let evil = hub.agents.list().into_iter().find(|agent| &*agent.key.agent == "evil");
                if evil.is_some_and(|evil| evil.connections == 0 && evil.last_end.is_some()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
                // Reading lets the hub say goodbye.
                let mut said = [0; 1024];
                let _ = tokio::time::timeout(Duration::from_millis(1), tunnel.read(&mut said)).await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
        assert!(ended.is_ok(), "{name}: {:?}", hub.agents.list());
        let said = whole(
            hub.agents.request(&agent("t/c/good"), get("/x"), Ask::scrape(Duration::from_secs(5))).await,
        );
        assert_eq!(said.await, "200 /x", "{name}");
    }
    assert_eq!(good.0.states()[0].connections, 1);
}

#[tokio::test]
async fn headers_beyond_the_bound_cost_one_request() {
    let ca = Ca::new();
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let answers = Handler::from_fn(|request: Request<crate::Whole>| async move {
        let mut response = Response::new(full(request.uri().path().to_owned()));
        if request.uri().path() == "/wide" {
            let value = http::HeaderValue::from_str(&"x".repeat(40 << 10)).expect("ASCII");
            response.headers_mut().insert("x-wide", value);
        }
        response
    });
    let (tunnels, _renew) = dial(vec![url], ca.agent("t/c/a"), Arc::new(Tcp), Timings::default(), &answers);
    hub.until_connected(1).await;
    let to = agent("t/c/a");
    let ask = Ask::scrape(Duration::from_secs(5));
    let said = whole(hub.agents.request(&to, get("/wide"), ask).await).await;
    assert!(!said.starts_with("200"), "{said}");
    let wide =
        Request::get("/x").header("x-wide", "x".repeat(40 << 10)).body(Bytes::new()).expect("a request");
    let said = whole(hub.agents.request(&to, wide, ask).await).await;
    assert_eq!(said, "431 ");
    assert_eq!(whole(hub.agents.request(&to, get("/x"), ask).await).await, "200 /x");
    assert_eq!(tunnels.states()[0].connections, 1, "the tunnel stands");
}

#[tokio::test]
async fn one_agent_cannot_collect_tunnels() {
    let ca = Ca::new();
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let mut kept = Vec::new();
    for _ in 0..12 {
        kept.push(raw_tunnel(&url, ca.agent("t/c/a")).await);
    }
    let few = async {
        while hub.agents.list().first().is_none_or(|agent| agent.connections != 4) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), few).await.is_ok(), "{:?}", hub.agents.list());
}

#[tokio::test]
async fn through_a_proxy_that_wants_a_password() {
    let ca = Ca::new();
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy_addr = proxy.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = proxy.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap_or(b'\n'));
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            if !head.contains("Proxy-Authorization: Basic dTpw\r\n") {
                let _ = client.write_all(b"HTTP/1.1 407 Who are you\r\n\r\n").await;
                continue;
            }
            let to = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let mut hub = tokio::net::TcpStream::connect(to).await.expect("the hub");
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("write");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut hub).await });
        }
    });
    let answers = handler(|path| (200, path.to_owned()));
    for (user, expected) in [("u:p@", None), ("", Some("407 Who are you"))] {
        let proxies = Proxies::configured(&format!("http://{user}{proxy_addr}"), "");
        let (_renew, tls) = tokio::sync::watch::channel(ca.agent("t/c/a"));
        let config =
            DialConfig { connector: Connector::new(proxies), ..DialConfig::new(vec![url.clone()], tls) };
        let tunnels = Tunnels::start(config, &answers, &stdx::clock::SystemClock::shared());
        match expected {
            None => {
                hub.until_connected(1).await;
                let ask = Ask::scrape(Duration::from_secs(5));
                let said = whole(hub.agents.request(&agent("t/c/a"), get("/x"), ask).await).await;
                assert_eq!(said, "200 /x");
                tunnels.stop().await;
                hub.until_connected(0).await;
            }
            Some(expected) => {
                let error = tokio::time::timeout(Duration::from_secs(10), last_error(&tunnels)).await;
                let error = error.expect("an error");
                assert!(error.contains(expected) && error.contains(&proxy_addr.to_string()), "{error}");
            }
        }
    }
}
