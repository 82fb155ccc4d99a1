//! The gate, asked by a hub through a tunnel.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use super::*;
use crate::Ask;
use crate::connect::Tcp;
use crate::protocol::Timings;
use crate::tests::kit::{Ca, TestHub, agent, dial, full, handler, whole};

#[test]
fn patterns() {
    for (pattern, url, expected) in [
        ("http://h/metrics", "http://h/metrics", true),
        ("http://h/metrics", "http://h/metrics/x", false),
        ("http://h/metrics", "http://h:81/metrics", false),
        ("http://h/metrics", "https://h/metrics", false),
        ("http://h/metrics", "http://h/metrics?a=b", false),
        ("http://h/metrics?*", "http://h/metrics?a=b", true),
        ("http://h/metrics?a=*", "http://h/metrics?b=b", false),
        ("http://*.svc:9100/metrics", "http://a.b.svc:9100/metrics", true),
        ("http://*.svc:9100/metrics", "http://a.b.svc.evil:9100/metrics", false),
        ("http://*.svc:9100/metrics", "http://evil:9100/.svc:9100/metrics", false),
        ("http://10.0.0.*:9100/*", "http://10.0.0.7:9100/a/b", true),
        ("http://[fd00::1]:9100/*", "http://[fd00::1]:9100/", true),
        ("https://h/a*b*c", "https://h/a-b-b-c", true),
        ("https://h/a*b*c", "https://h/a-c-b", false),
    ] {
        let read: UrlPattern = pattern.parse().expect(pattern);
        assert_eq!(read.matches(&Url::parse(url).expect(url)), expected, "{pattern} {url}");
    }
    for (pattern, expected) in [
        ("h/metrics", "URL pattern `h/metrics`: has no scheme"),
        ("ftp://h/", "URL pattern `ftp://h/`: its scheme is neither http nor https"),
        ("http://h", "URL pattern `http://h`: has no path; `/*` is any path"),
        ("http://:80/", "URL pattern `http://:80/`: has no host"),
        ("http://h:x/", "URL pattern `http://h:x/`: its port is not a number"),
        ("http://u@h/", "URL pattern `http://u@h/`: has a user"),
    ] {
        assert_eq!(pattern.parse::<UrlPattern>().map_err(|e| e.to_string()), Err(expected.to_owned()));
    }
}

#[test]
fn link_local_addresses() {
    for (address, expected) in [
        ("169.254.169.254", true),
        ("169.254.0.1", true),
        ("169.253.255.255", false),
        ("10.0.0.1", false),
        ("127.0.0.1", false),
        ("fe80::1", true),
        ("febf::1", true),
        ("fec0::1", false),
        ("fd00:ec2::254", true),
        ("fd00:ec2::253", false),
        ("::ffff:169.254.169.254", true),
        ("::169.254.169.254", true),
        ("64:ff9b::a9fe:a9fe", true),
        ("::1", false),
    ] {
        assert_eq!(is_link_local(address.parse().expect(address)), expected, "{address}");
    }
}

/// Scrapes one target.
struct OneTarget(Mutex<Vec<String>>);

impl Targets for OneTarget {
    fn scrape<'a>(&'a self, id: &'a str, _: &'a HeaderMap, timeout: Duration) -> Reaching<'a> {
        self.0.lock().push(format!("{id} {timeout:?}"));
        Box::pin(async move {
            match id {
                "t1" => Ok(Response::new(full("up 1\n"))),
                "moved" => {
                    let mut response = Response::new(full(""));
                    *response.status_mut() = StatusCode::FOUND;
                    let to = http::HeaderValue::from_static("http://169.254.169.254/latest");
                    response.headers_mut().insert(http::header::LOCATION, to);
                    Ok(response)
                }
                "linked" => Err(ReachError::Forbidden("169.254.1.1 is link-local and never reached".into())),
                "slow" => Err(ReachError::Late(timeout)),
                "stuck" => std::future::pending().await,
                "down" => Err(ReachError::Failed("connection refused".into())),
                _ => Err(ReachError::Unknown),
            }
        })
    }
}

/// A target that answers every connection with `answer`.
async fn serve(answer: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    addr
}

#[tokio::test]
async fn what_a_hub_may_ask_for() {
    let listed = serve("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nlisted").await;
    let moved = serve("HTTP/1.1 301 Moved\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n").await;
    let allow = |pattern: String| pattern.parse::<UrlPattern>().expect("a pattern");
    let policy = PolicyConfig {
        allow_urls: vec![
            allow(format!("http://{listed}/metrics")),
            allow(format!("http://{moved}/*")),
            allow("http://169.254.169.254/*".to_owned()),
            allow("http://nowhere.invalid/*".to_owned()),
        ],
        ..PolicyConfig::default()
    };
    let targets = Arc::new(OneTarget(Mutex::default()));
    let mut registry = Registry::default();
    let own = handler(|path| (200, format!("own {path}")));
    let gate = Gate::handler(policy, Arc::clone(&targets) as Arc<dyn Targets>, own, &mut registry);
    let ca = Ca::new();
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let (_tunnels, _) = dial(vec![url], ca.agent("t/c/a"), Arc::new(Tcp), Timings::default(), &gate);
    hub.until_connected(1).await;
    let fetch = |url: &str| {
        let query: String = form_urlencoded::byte_serialize(url.as_bytes()).collect();
        format!("/tunnel/v1/fetch?url={query}")
    };
    let elsewhere = format!("http://{listed}/other");
    let cases = [
        ("GET", "/tunnel/v1/scrape/t1".to_owned(), "200 up 1\n"),
        ("GET", "/tunnel/v1/scrape/t2".to_owned(), "404 no such target"),
        ("GET", "/tunnel/v1/scrape/down".to_owned(), "502 connection refused"),
        ("GET", "/tunnel/v1/scrape/slow".to_owned(), "504 no answer in 7s"),
        ("GET", "/tunnel/v1/scrape/moved".to_owned(), "403 the agent's policy: it redirects to http://169"),
        ("GET", "/tunnel/v1/scrape/linked".to_owned(), "403 the agent's policy: 169.254.1.1 is link-local"),
        ("GET", "/tunnel/v1/scrape/".to_owned(), "403 the agent's policy: that is not a target's id"),
        ("GET", "/tunnel/v1/scrape/a/b".to_owned(), "403 the agent's policy: that is not a target's id"),
        ("POST", "/tunnel/v1/scrape/t1".to_owned(), "403 the agent's policy: POST is not allowed here"),
        ("DELETE", "/tunnel/v1/scrape/t1".to_owned(), "403 the agent's policy: DELETE is not allowed here"),
        ("GET", fetch(&format!("http://{listed}/metrics")), "200 listed"),
        ("GET", fetch(&elsewhere), "403 the agent's policy: http://127"),
        ("GET", fetch(&format!("http://{moved}/")), "403 the agent's policy: it redirects to http://x/"),
        (
            "GET",
            fetch("http://169.254.169.254/latest"),
            "403 the agent's policy: 169.254.169.254 is link-local",
        ),
        (
            "GET",
            fetch("http://[::ffff:a9fe:a9fe]/"),
            "403 the agent's policy: ::ffff:169.254.169.254 is link",
        ),
        ("GET", fetch("http://0xa9fea9fe/"), "403 the agent's policy: 169.254.169.254 is link-local"),
        ("GET", fetch("http://nowhere.invalid/"), "502 get http://nowhere.invalid/"),
        (
            "GET",
            fetch("file:///etc/passwd"),
            "403 the agent's policy: file:///etc/passwd is not on the allow list",
        ),
        ("GET", fetch("http://u:p@nowhere.invalid/"), "403 the agent's policy: a URL with a user"),
        ("GET", "/tunnel/v1/fetch".to_owned(), "403 the agent's policy: `url` is not a URL"),
        ("POST", fetch(&elsewhere), "403 the agent's policy: POST is not allowed here"),
        ("GET", "/api/v1/query".to_owned(), "200 own /api/v1/query"),
        ("POST", "/api/v1/query_range".to_owned(), "200 own /api/v1/query_range"),
        ("POST", "/api/v1/read".to_owned(), "200 own /api/v1/read"),
        ("POST", "/api/v1/admin/tsdb/snapshot".to_owned(), "403 the agent's policy: POST is not allowed"),
        ("PUT", "/api/v1/query".to_owned(), "403 the agent's policy: PUT is not allowed"),
        ("POST", "/api/v1/write".to_owned(), "403 the agent's policy: POST is not allowed here"),
        ("PUT", "/tunnel/v1/limits".to_owned(), "200 own /tunnel/v1/limits"),
        ("GET", "/tunnel/v1/limits".to_owned(), "403 the agent's policy: only discovered"),
        ("GET", "/-/quit".to_owned(), "403 the agent's policy: only discovered"),
        ("GET", "/".to_owned(), "403 the agent's policy: only discovered"),
    ];
    let mut forbidden = 0;
    for (method, path, expected) in cases {
        let request = Request::builder().method(method).uri(&path);
        let request = request.header(SCRAPE_TIMEOUT, "7").body(Bytes::new()).expect("a request");
        let ask = Ask::scrape(Duration::from_secs(20));
        let said = whole(hub.agents.request(&agent("t/c/a"), request, ask).await).await;
        assert!(said.starts_with(expected), "{method} {path}: {said}");
        forbidden += usize::from(said.starts_with("403"));
    }
    assert!(targets.0.lock().iter().all(|asked| asked.ends_with(" 7s")));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    let counted = text.lines().filter_map(|line| line.strip_prefix("marigraph_tunnel_policy_refused_total"));
    let counted: usize = counted.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
    assert_eq!(counted, forbidden, "{text}");
}

#[tokio::test]
async fn no_more_requests_at_once_than_allowed() {
    let policy = Policy::from(PolicyConfig::default());
    let targets = Arc::new(OneTarget(Mutex::default()));
    let mut registry = Registry::default();
    let own = handler(|path| (200, format!("own {path}")));
    let gate = Gate::handler(policy.clone(), targets as Arc<dyn Targets>, own, &mut registry);
    let ca = Ca::new();
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let (_tunnels, _) = dial(vec![url], ca.agent("t/c/a"), Arc::new(Tcp), Timings::default(), &gate);
    hub.until_connected(1).await;
    let ask = async |path: &str, patience_ms: u64| {
        let seconds = format!("{}", patience_ms as f64 / 1000.0);
        let request = Request::builder().uri(path).header(SCRAPE_TIMEOUT, seconds);
        let request = request.body(Bytes::new()).expect("a request");
        let ask = Ask::scrape(Duration::from_millis(patience_ms + 500));
        whole(hub.agents.request(&agent("t/c/a"), request, ask).await).await
    };
    let scrape = "/tunnel/v1/scrape/t1";
    policy.limit_at_once(Some(1));
    let stuck = ask("/tunnel/v1/scrape/stuck", 2_000);
    let others = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let refused = ask(scrape, 100).await;
        assert!(refused.starts_with("503 the agent answers 1 requests of hubs at once"), "{refused}");
        let refused = ask("/api/v1/query", 100).await;
        assert!(refused.starts_with("503"), "{refused}");
        // Of itself it tells at any time.
        assert_eq!(ask("/tunnel/v1/status", 100).await, "200 own /tunnel/v1/status");
        policy.limit_at_once(Some(2));
        let (first, second) = tokio::join!(ask(scrape, 1_000), ask(scrape, 1_000));
        assert_eq!((first.as_str(), second.as_str()), ("200 up 1\n", "200 up 1\n"));
    };
    tokio::select! {
        said = stuck => panic!("{said}"),
        () = others => {}
    }
    // What is given up makes room.
    policy.limit_at_once(Some(1));
    assert_eq!(ask(scrape, 1_000).await, "200 up 1\n");
    assert_eq!(ask(scrape, 1_000).await, "200 up 1\n");
}
