//! The hub as a proxy: what is a proxy's request and what is its own, and PushProx clients at its port.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use testkit::http as client;

use crate::start_hub;

const CONFIG: &str = "web: {auth: {bearer_tokens: [harbour-secret]}}\n\
    proxy: {pushprox: {doors: [{cluster: north, secret: lighthouse-keepers}]}}\n";
const DOOR: &str = "/pushprox/north/lighthouse-keepers";

async fn ask(addr: SocketAddr, method: Method, uri: &str, credential: &str) -> Result<client::Answer> {
    let mut request = Request::builder().method(method).uri(uri).header("host", "hub");
    if !credential.is_empty() {
        request = request.header("proxy-authorization", credential).header("authorization", credential);
    }
    client::send(addr, request.body(Full::<Bytes>::default())?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_requests_are_never_answered_with_the_hubs_own_pages() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some(CONFIG)).await?;
    let token = "Bearer harbour-secret";
    // basic x:harbour-secret
    let basic = "Basic eDpoYXJib3VyLXNlY3JldA==";
    for (method, uri, credential, status, words) in [
        (Method::GET, "http://node1:9100/metrics", "", 407, "this proxy wants a credential"),
        (Method::GET, "http://node1:9100/metrics", "Bearer wrong", 407, "this proxy wants a credential"),
        (Method::GET, "http://node1:9100/metrics", token, 404, "no PushProx client polls as node1"),
        (Method::GET, "http://node1:9100/metrics", basic, 404, "no PushProx client polls as node1"),
        (Method::GET, "http://a.north.marigraph.internal/metrics", token, 404, "no cluster north"),
        (Method::CONNECT, "a.north.marigraph.internal:443", token, 405, "CONNECT is not offered"),
        (Method::GET, "/sd/v1/targets", token, 200, "[]"),
        (Method::GET, "/sd/v1/targets", "", 401, "unauthorized"),
        (Method::GET, "/sd/v1/targets?cluster=north", token, 404, "no cluster north"),
        (Method::GET, "/sd/v1/pushprox?cluster=north", token, 200, "[]"),
        (Method::GET, "/sd/v1/pushprox", "", 401, "unauthorized"),
        (Method::GET, "/pushprox/north/guessed-guessed-guessed/clients", "", 404, "no such PushProx door"),
        (Method::GET, "/api/v1/query?query=1", token, 200, "success"),
        (Method::GET, "/api/v1/query?query=1", "", 401, "unauthorized"),
    ] {
        let answer = ask(hub.addr(), method.clone(), uri, credential).await?;
        let text = answer.text();
        assert!(answer.status == status && text.contains(words), "{method} {uri}: {} {text}", answer.status);
    }
    let metrics = ask(hub.addr(), Method::GET, "/metrics", token).await?.text();
    assert!(metrics.contains("marigraph_proxy_requests_total{door=\"forward\""), "{metrics}");
    let shown = ask(hub.addr(), Method::GET, "/api/v1/status/config", token).await?.text();
    assert!(!shown.contains("lighthouse-keepers"), "{shown}");
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushprox_client_is_scraped_through_the_hub() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some(CONFIG)).await?;
    let addr = hub.addr();
    let polling = tokio::spawn(async move {
        let request = client::post(addr, &format!("{DOOR}/poll"), "", "db1.lan").await?.text();
        let id = request.lines().find_map(|line| line.strip_prefix("id: ")).context("no id")?;
        let response = format!("HTTP/0.0 500 Internal Server Error\r\nId: {id}\r\n\r\nno such port");
        client::post(addr, &format!("{DOOR}/push"), "", response).await
    });
    let begin = Instant::now();
    let answer = loop {
        let answer = ask(addr, Method::GET, "http://db1.lan:9100/metrics", "Bearer harbour-secret").await?;
        if answer.status != 404 || begin.elapsed() > Duration::from_secs(20) {
            break answer;
        }
    };
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (500, "no such port"));
    assert_eq!(polling.await??.status, 200);
    // A held poll does not hold up the end.
    let held = tokio::spawn(async move { client::post(addr, &format!("{DOOR}/poll"), "", "db1.lan").await });
    tokio::time::timeout(Duration::from_secs(5), async {
        while !client::get(addr, &format!("{DOOR}/clients")).await.is_ok_and(|a| a.text().contains("db1.lan"))
        {
        }
    })
    .await?;
    let begin = Instant::now();
    hub.stop().await?;
    assert!(begin.elapsed() < Duration::from_secs(8), "the stop took {:?}", begin.elapsed());
    assert_eq!(held.await??.status, 408);
    Ok(())
}
