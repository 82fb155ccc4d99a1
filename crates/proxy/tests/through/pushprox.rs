//! PushProx clients, imitated byte by byte as Go writes them, and a Prometheus that scrapes through them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use model::TenantId;
use proxy::{Door, Options, PushProxOptions};
use testkit::http as client;
use testkit::peers::{self, Peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::fixture::{Server, Setup, Tokens, all, body, empty, setup, text};

const NORTH: &str = "/pushprox/north/s3cret";
const SOUTH: &str = "/pushprox/south/0ther";

fn door(tenant: &str, cluster: &str, secret: &str) -> Door {
    let tenant = TenantId::new(tenant).expect("a tenant");
    Door { tenant, cluster: cluster.to_owned(), secret: secret.to_owned() }
}

fn doors() -> Vec<Door> {
    vec![door("default", "north", "s3cret"), door("default", "south", "0ther"), door("other", "east", "3ast")]
}

fn open() -> Setup {
    with(PushProxOptions::default())
}

fn with(pushprox: PushProxOptions) -> Setup {
    let setup = setup(Options { pushprox, ..Options::default() });
    setup.proxy.install(Arc::new(Tokens), doors());
    setup
}

/// Sends a request as Go's client does (`Content-Type` present and empty), and reads the answer.
async fn exchange(addr: SocketAddr, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(addr).await?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {}\r\n\
         Content-Type: \r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await?;
    let end = said.windows(4).position(|w| w == b"\r\n\r\n").context("no head")?;
    let status = std::str::from_utf8(&said[..end])?.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, said.split_off(end + 4)))
}

/// How an imitated client answers.
#[derive(Clone, Copy)]
enum Answer {
    /// With a page of this text, its length stated.
    Length(&'static str),
    /// With a page of this text, in chunks.
    Chunked(&'static str),
    /// With a page of this text, to the end of the push.
    ToEnd(&'static str),
}

/// A client: polls, answers, polls again. Refuses what is not for it, and what has no timeout, as the real
/// one does.
struct Client(JoinHandle<()>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    fn start(server: &Server, door: &'static str, fqdn: &'static str, answer: Answer) -> Client {
        let addr = server.addr;
        Client(tokio::spawn(async move {
            loop {
                let polled = exchange(addr, &format!("{door}/poll"), fqdn.as_bytes()).await;
                let Ok((200, request)) = polled else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                tokio::spawn(async move {
                    let response = respond(&request, fqdn, answer);
                    let _ = exchange(addr, &format!("{door}/push"), &response).await;
                });
            }
        }))
    }
}

/// The serialised response to a serialised request.
fn respond(request: &[u8], fqdn: &str, answer: Answer) -> Vec<u8> {
    let text = String::from_utf8_lossy(request);
    let header = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    let id = header("Id").unwrap_or_default();
    let fails =
        |why: &str| format!("HTTP/0.0 500 Internal Server Error\r\nId: {id}\r\n\r\n{why}").into_bytes();
    let Some(timeout) = header("X-Prometheus-Scrape-Timeout-Seconds").and_then(|t| t.parse::<f64>().ok())
    else {
        return fails("failed to extract timeout");
    };
    let url = text.split(' ').nth(1).unwrap_or_default();
    let host = url.strip_prefix("http://").and_then(|rest| rest.split(['/', ':']).next()).unwrap_or_default();
    if host != fqdn {
        return fails("scrape target doesn't match client fqdn");
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nId: {id}\r\n\
         X-Prometheus-Scrape-Timeout: {timeout:.6}\r\n"
    );
    let page = match answer {
        Answer::Length(page) => format!("{head}Content-Length: {}\r\n\r\n{page}", page.len()),
        Answer::Chunked(page) => {
            let (one, two) = page.split_at(page.len() / 2);
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n",
                one.len(),
                two.len()
            )
        }
        Answer::ToEnd(page) => format!("{head}Connection: close\r\n\r\n{page}"),
    };
    page.into_bytes()
}

/// Scrapes `url` as Prometheus does.
async fn scrape(server: &Server, url: &str, timeout: &str) -> Result<client::Answer> {
    let request = Request::builder()
        .uri(url)
        .header("host", "ignored")
        .header("proxy-authorization", "Bearer t-all")
        .header("x-prometheus-scrape-timeout-seconds", timeout)
        .body(Full::<Bytes>::default())?;
    client::send(server.addr, request).await
}

/// Scrapes until the client's first poll has come.
async fn scrape_once_known(server: &Server, url: &str) -> Result<client::Answer> {
    for _ in 0..100 {
        let answer = scrape(server, url, "5").await?;
        if answer.status != StatusCode::NOT_FOUND {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("{url} is never known")
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapes_through_clients_in_every_framing() -> Result<()> {
    let setup = open();
    let server = setup.serve().await?;
    for (fqdn, url, answer, page) in [
        ("db1.lan", "http://db1.lan:9100/metrics", Answer::Length("length 1\n"), "length 1\n"),
        ("DB2.lan", "http://db2.lan:9100/metrics?x=1", Answer::Chunked("chunked 1\n"), "chunked 1\n"),
        ("10.0.0.3", "http://10.0.0.3/metrics", Answer::ToEnd("to_end 1\n"), "to_end 1\n"),
    ] {
        let _client = Client::start(&server, NORTH, fqdn, answer);
        for _ in 0..3 {
            let answer = scrape_once_known(&server, url).await?;
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, page), "{url}");
            let leaked = ["id", "x-prometheus-scrape-timeout", "x-prometheus-scrape-timeout-seconds"];
            assert!(leaked.iter().all(|name| !answer.headers.contains_key(*name)), "{:?}", answer.headers);
        }
    }
    let metrics = setup.metrics();
    assert!(metrics.contains(r#"pushproxy_proxied_requests_total{code="200"} 9"#), "{metrics}");
    assert!(metrics.contains(r#"pushprox_http_requests_total{code="200",path="/push"} "#), "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_error_is_passed_on() -> Result<()> {
    let setup = open();
    let server = setup.serve().await?;
    let addr = server.addr;
    let polling = tokio::spawn(async move { exchange(addr, &format!("{NORTH}/poll"), b"db1.lan\n").await });
    let answering = async {
        let (status, request) = polling.await??;
        anyhow::ensure!(status == 200, "{status}");
        // A client that goes by another name, as one behind a wrong --fqdn does.
        let response = respond(&request, "db9.lan", Answer::Length(""));
        exchange(addr, &format!("{NORTH}/push"), &response).await
    };
    let (answer, pushed) = tokio::join!(scrape_once_known(&server, "http://db1.lan:9100/metrics"), answering);
    let answer = answer?;
    assert_eq!(answer.status, 500);
    assert_eq!(answer.text(), "scrape target doesn't match client fqdn");
    assert_eq!(pushed?.0, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_two_clusters_has_to_be_qualified() -> Result<()> {
    let setup = open();
    let server = setup.serve().await?;
    let _north = Client::start(&server, NORTH, "db1.lan", Answer::Length("north 1\n"));
    assert_eq!(scrape_once_known(&server, "http://db1.lan/metrics").await?.text(), "north 1\n");
    let _south = Client::start(&server, SOUTH, "db1.lan", Answer::Length("south 1\n"));
    let (north, south) =
        ("db1.lan.north.pushprox.marigraph.internal", "db1.lan.south.pushprox.marigraph.internal");
    for (host, page) in [(south, "south 1\n"), (north, "north 1\n")] {
        assert_eq!(scrape_once_known(&server, &format!("http://{host}:9100/metrics")).await?.text(), page);
    }
    let answer = scrape(&server, "http://db1.lan/metrics", "5").await?;
    let text = answer.text();
    assert!(answer.status == 409 && text.contains(north) && text.contains(south), "{} {text}", answer.status);
    // Lists: PushProx' own behind the door, the labelled one for readers.
    let plain = client::get(server.addr, &format!("{SOUTH}/clients")).await?;
    assert_eq!(plain.text(), "[{\"labels\":null,\"targets\":[\"db1.lan\"]}]\n");
    assert_eq!(plain.headers["content-type"], "application/json");
    let (status, listed) = text_of(&setup, "cluster=south").await;
    let expected = serde_json::json!([{
        "targets": [south],
        "labels": {"__meta_pushprox_client": "db1.lan", "cluster": "south"},
    }]);
    assert_eq!((status, client::json(listed.as_bytes())?), (200, expected));
    assert_eq!(text_of(&setup, "cluster=east").await.0, 404);
    Ok(())
}

async fn text_of(setup: &Setup, query: &str) -> (u16, String) {
    text(setup.proxy.pushprox_clients(&all(), query)).await
}

/// A request straight to the proxy.
async fn post(setup: &Setup, path: impl Into<String>, text_sent: impl Into<Bytes>) -> (u16, String) {
    let path: String = path.into();
    let request = Request::post(&path).body(body(text_sent)).expect("a request");
    assert!(setup.proxy.claims(&request), "{path}");
    text(setup.proxy.answer(request).await).await
}

#[tokio::test(start_paused = true)]
async fn a_newer_poll_takes_the_place_of_an_older_one() {
    let setup = open();
    let (old, ()) = tokio::join!(post(&setup, format!("{NORTH}/poll"), "db1"), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let newer =
            tokio::time::timeout(Duration::from_secs(1), post(&setup, format!("{NORTH}/poll"), "db1"));
        assert!(newer.await.is_err(), "the newer poll is answered");
    });
    assert_eq!(old, (408, "Error WaitForScrapeInstruction: request is expired\n".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn held_polls_end_before_long_and_keep_their_client_listed() {
    let setup = open();
    let begin = tokio::time::Instant::now();
    let (held, ()) = tokio::join!(post(&setup, format!("{NORTH}/poll"), "db1"), async {
        tokio::time::sleep(Duration::from_secs(235)).await;
        let (_, listed) = text_of(&setup, "").await;
        assert!(listed.contains("db1"), "{listed}");
    });
    assert_eq!(held.0, 408);
    assert!((240..=300).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    tokio::time::sleep(Duration::from_secs(301)).await;
    assert_eq!(text_of(&setup, "").await.1, "[]\n");
}

#[tokio::test(start_paused = true)]
async fn scrapes_wait_in_line_for_the_next_poll() {
    let setup = open();
    // A poll that is given up leaves the client known.
    let poll = post(&setup, format!("{NORTH}/poll"), "db1");
    assert!(tokio::time::timeout(Duration::from_secs(1), poll).await.is_err());
    let ((status, page), ()) = tokio::join!(setup.get("http://db1:9100/metrics"), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (status, request) = post(&setup, format!("{NORTH}/poll"), "db1").await;
        assert!(
            status == 200 && request.contains("X-Prometheus-Scrape-Timeout-Seconds: 11.750")
                || request.contains("x-prometheus-scrape-timeout-seconds: 11.750"),
            "{status} {request}"
        );
        let response = respond(request.as_bytes(), "db1", Answer::Length("late 1\n"));
        assert_eq!(post(&setup, format!("{NORTH}/push"), response).await.0, 200);
    });
    assert_eq!((status, page.as_str()), (200, "late 1\n"));
    // Nobody polls: the scrape runs out, and is not handed to the poll that comes too late.
    let (status, why) = setup.get("http://db1:9100/metrics").await;
    assert!(status == 504 && why.contains("did not poll in time"), "{status} {why}");
    let poll = post(&setup, format!("{NORTH}/poll"), "db1");
    assert!(tokio::time::timeout(Duration::from_secs(1), poll).await.is_err(), "a scrape nobody waits for");
    // Taken and not answered.
    let ((status, why), taken) =
        tokio::join!(setup.get("http://db1:9100/metrics"), post(&setup, format!("{NORTH}/poll"), "db1"));
    assert_eq!(taken.0, 200);
    assert!(status == 504 && why.contains("did not answer in time"), "{status} {why}");
}

#[tokio::test(start_paused = true)]
async fn answers_are_taken_from_their_own_door_only_and_once() {
    let setup = open();
    let ((status, page), ()) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            setup.get("http://db1:9100/metrics").await
        },
        async {
            let (_, request) = post(&setup, format!("{NORTH}/poll"), "db1").await;
            let forged = respond(request.as_bytes(), "db1", Answer::Length("forged 1\n"));
            let (status, why) = post(&setup, format!("{SOUTH}/push"), forged).await;
            assert!(status == 500 && why.contains("nobody waits for this answer"), "{status} {why}");
            let own = respond(request.as_bytes(), "db1", Answer::Length("own 1\n"));
            assert_eq!(post(&setup, format!("{NORTH}/push"), own.clone()).await.0, 200);
            assert_eq!(post(&setup, format!("{NORTH}/push"), own).await.0, 500);
        }
    );
    assert_eq!((status, page.as_str()), (200, "own 1\n"));
}

#[tokio::test(start_paused = true)]
async fn what_clients_and_strangers_get_wrong() {
    let setup = with(PushProxOptions { clients_max: 1, ..PushProxOptions::default() });
    let long = "x".repeat(600);
    for (path, text_sent, status, words) in [
        (format!("{NORTH}/poll"), "", 400, "host name"),
        (format!("{NORTH}/poll"), "a b", 400, "host name"),
        (format!("{NORTH}/poll"), &long, 400, "more than 253"),
        (format!("{NORTH}/push"), "GET / HTTP/1.1\r\n\r\n", 500, "Error pushing: the first line"),
        (format!("{NORTH}/push"), "HTTP/1.1 200 OK\r\n\r\n", 500, "Error pushing: the answer has no Id"),
        (format!("{NORTH}/push"), "HTTP/1.1 200 OK\r\nId: 1\r\n\r\n", 500, "Error pushing: nobody waits"),
        (format!("{NORTH}/push"), "HTTP/1.1 200 OK\r\n", 500, "Error pushing: it ends too early"),
        ("/pushprox/north/wrong/poll".into(), "db1", 404, "no such PushProx door"),
        ("/pushprox/north/0ther/poll".into(), "db1", 404, "no such PushProx door"),
        ("/pushprox/nowhere/s3cret/poll".into(), "db1", 404, "no such PushProx door"),
        (format!("{NORTH}/other"), "db1", 404, "no such PushProx door"),
        ("/pushprox/".into(), "db1", 404, "no such PushProx door"),
    ] {
        let (found, body) = post(&setup, path.as_str(), text_sent.to_owned()).await;
        assert!(found == status && body.contains(words), "{path} {text_sent:?}: {found} {body}");
    }
    let first = post(&setup, format!("{NORTH}//poll"), "db1");
    assert!(tokio::time::timeout(Duration::from_secs(1), first).await.is_err());
    let (status, why) = post(&setup, format!("{NORTH}/poll"), "db2").await;
    assert!(status == 503 && why.contains("takes no more"), "{status} {why}");
    assert_eq!(setup.get("http://db9:9100/metrics").await.0, 404);
    let other = setup.ask("http://db1:9100/metrics", &[("authorization", "Bearer t-other")]).await;
    assert_eq!(other.status(), 404);
}

#[tokio::test(start_paused = true)]
async fn a_stop_and_a_closed_door_let_polls_go() {
    let setup = open();
    let (north, south, ()) = tokio::join!(
        post(&setup, format!("{NORTH}/poll"), "db1"),
        post(&setup, format!("{SOUTH}/poll"), "db1"),
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            setup.proxy.install(Arc::new(Tokens), vec![door("default", "south", "0ther")]);
            tokio::time::sleep(Duration::from_secs(1)).await;
            setup.proxy.stop();
        }
    );
    assert_eq!((north.0, south.0), (408, 408));
    setup.proxy.install(Arc::new(Tokens), vec![]);
    let request = Request::post(format!("{SOUTH}/poll")).body(empty()).expect("a request");
    assert!(!setup.proxy.claims(&request));
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_through_clients() -> Result<()> {
    let Some(program) = peers::program("prometheus") else { return Ok(()) };
    let setup = open();
    let server = setup.serve().await?;
    let hub = server.addr;
    let _clients = [
        Client::start(&server, NORTH, "db1.lan", Answer::Chunked("seen_at 1\n")),
        Client::start(&server, SOUTH, "db1.lan", Answer::ToEnd("seen_at 2\n")),
        Client::start(&server, SOUTH, "web.lan", Answer::Length("seen_at 3\n")),
    ];
    let config = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs:\n\
         - job_name: listed\n  \
           proxy_url: http://x:t-all@{hub}\n  \
           http_sd_configs:\n  \
           - url: http://{hub}/sd/v1/pushprox\n    \
             refresh_interval: 1s\n    \
             authorization: {{type: Bearer, credentials: t-all}}\n\
         - job_name: static\n  \
           proxy_url: http://x:t-all@{hub}\n  \
           static_configs: [{{targets: ['web.lan:9100']}}]\n"
    );
    let directory = tempfile::tempdir()?;
    let prometheus = Peer::prometheus(&program, directory.path(), &config).await?;
    let path = "/api/v1/query?query=sum%20by%20(job)%20(seen_at)";
    let begin = std::time::Instant::now();
    loop {
        let found = client::get(prometheus.addr, path).await?.json()?["data"]["result"].to_string();
        if found.contains("\"6\"") && found.contains("\"3\"") {
            return Ok(());
        }
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(30), "{found}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
