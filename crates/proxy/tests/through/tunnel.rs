//! What becomes of requests for targets.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper::ext::ReasonPhrase;
use proxy::{Body, BoxError, FleetError, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::fixture::{Setup, empty, page, setup, target, text};

const URL: &str = "http://a.north.marigraph.internal:80/metrics";

fn north() -> Setup {
    with(Options::default())
}

fn with(options: Options) -> Setup {
    let setup = setup(options);
    let url = "https://10.0.0.1:9100/metrics";
    setup.fleet.set("default", "north", true, vec![target("a", url, &[("job", "node")])]);
    setup.fleet.set("default", "away", false, vec![]);
    setup
}

/// A body that somebody else fills.
struct Piecewise(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Piecewise {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[tokio::test(start_paused = true)]
async fn each_failure_has_a_status_and_says_why() {
    let setup = north();
    let fails = |error: FleetError| setup.fleet.fetch_by(move |_| std::future::ready(Err(error.clone())));
    let cases: Vec<(Option<FleetError>, &str, u16, &str)> = vec![
        (None, "http://a.south.marigraph.internal/metrics", 404, "no cluster south is enrolled here"),
        (None, "http://a.away.marigraph.internal/metrics", 502, "no agent of cluster away is connected"),
        (None, "http://b.north.marigraph.internal/metrics", 404, "cluster north has no target b"),
        (None, "http://node1:9100/metrics", 404, "node1 is not a target behind this hub"),
        (None, "http://a.north.marigraph.internal/other", 403, "is /metrics and nothing else"),
        (None, "http://a.north.marigraph.internal/metrics?x=1", 403, "is /metrics and nothing else"),
        (Some(FleetError::NotConnected), URL, 502, "no agent of cluster north is connected"),
        (Some(FleetError::UnknownTarget), URL, 404, "cluster north has no target a"),
        (Some(FleetError::Refused("link-local".into())), URL, 403, "refuses target a: link-local"),
        (Some(FleetError::Timeout), URL, 504, "target a of cluster north did not answer in time"),
        (Some(FleetError::Busy("32 streams".into())), URL, 503, "cannot be asked now: 32 streams"),
        (
            Some(FleetError::Failed("connection refused".into())),
            URL,
            502,
            "a of cluster north: connection refused",
        ),
    ];
    for (error, uri, status, words) in cases {
        if let Some(error) = error {
            fails(error);
        }
        let response = setup.ask(uri, &[("authorization", "Bearer t-all")]).await;
        let reason =
            response.extensions().get::<ReasonPhrase>().map(|r| r.as_bytes().to_vec()).unwrap_or_default();
        let (found, body) = text(response).await;
        assert_eq!(found, status, "{uri}: {body}");
        assert!(body.contains(words), "{uri}: {body}");
        assert!(String::from_utf8_lossy(&reason).contains(words), "{uri}: {reason:?}");
    }
    setup.fleet.fetch_by(|_| std::future::pending());
    let begin = Instant::now();
    let response = setup
        .ask(URL, &[("authorization", "Bearer t-all"), ("x-prometheus-scrape-timeout-seconds", "4")])
        .await;
    assert_eq!(text(response).await.0, 504);
    assert_eq!(begin.elapsed(), Duration::from_millis(3750));
    let metrics = setup.metrics();
    assert!(
        metrics.contains(r#"marigraph_proxy_requests_total{door="forward",outcome="timeout"} 2"#),
        "{metrics}"
    );
    assert!(metrics.contains("marigraph_proxy_in_flight_requests 0"), "{metrics}");
}

#[tokio::test]
async fn only_get_and_never_connect() {
    let setup = north();
    for (method, uri) in
        [(Method::POST, URL), (Method::DELETE, URL), (Method::CONNECT, "a.north.marigraph.internal:443")]
    {
        let request =
            Request::builder().method(method.clone()).uri(uri).header("authorization", "Bearer t-all");
        let request = request.body(empty()).expect("a request");
        assert!(setup.proxy.claims(&request), "{method}");
        let response = setup.proxy.answer(request).await;
        assert_eq!(response.headers().get("allow").map(|value| value.as_bytes()), Some(&b"GET"[..]));
        let (status, body) = text(response).await;
        assert!(status == 405 && body.contains(method.as_str()), "{method}: {status} {body}");
    }
    let own = Request::builder().uri("/api/v1/query?query=1").body(empty()).expect("a request");
    assert!(!setup.proxy.claims(&own));
}

#[tokio::test]
async fn over_http_2_a_proxys_requests_are_told_from_the_hubs_own() {
    let setup = north();
    for (uri, header, claimed) in [
        (URL, "accept", true),
        ("http://node1:9100/metrics", "proxy-authorization", true),
        ("https://hub:9190/api/v1/query", "accept", false),
    ] {
        let request =
            Request::builder().version(http::Version::HTTP_2).uri(uri).header(header, "Bearer t-all");
        let request = request.body(empty()).expect("a request");
        assert_eq!(setup.proxy.claims(&request), claimed, "{uri}");
    }
}

#[tokio::test]
async fn what_goes_to_the_agent_and_what_comes_back() {
    let setup = north();
    let seen = Arc::new(parking_lot::Mutex::new(None));
    let sees = Arc::clone(&seen);
    setup.fleet.fetch_by(move |request| {
        *sees.lock() = Some(request.clone());
        let mut response: Response<Body> = page(&b"\x1f\x8bpacked"[..]);
        for (name, value) in [
            ("content-encoding", "gzip"),
            ("connection", "x-mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=1"),
        ] {
            response.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        *response.status_mut() = http::StatusCode::ACCEPTED;
        std::future::ready(Ok(response))
    });
    let headers = [
        ("proxy-authorization", "Basic eDp0LWFsbA=="),
        ("authorization", "Bearer for-the-target"),
        ("accept-encoding", "gzip"),
        ("accept", "text/plain"),
        ("x-prometheus-scrape-timeout-seconds", "10"),
        ("connection", "x-private"),
        ("x-private", "1"),
    ];
    let response = setup.ask(URL, &headers).await;
    assert_eq!(response.status(), 202);
    let mut names: Vec<&str> = response.headers().keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-encoding", "content-type"]);
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(body, &b"\x1f\x8bpacked"[..]);
    let request = seen.lock().take().expect("a fetch");
    assert_eq!((request.cluster.as_str(), request.target.as_str()), ("north", "a"));
    let mut names: Vec<&str> = request.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "accept-encoding", "x-prometheus-scrape-timeout-seconds"]);
    let told = request.headers["x-prometheus-scrape-timeout-seconds"].to_str().expect("text");
    let told: f64 = told.parse().expect("a number");
    assert!((9.0..=9.75).contains(&told), "{told}");
    assert!(setup.metrics().contains("marigraph_proxy_body_bytes_total 8"), "{}", setup.metrics());
}

#[tokio::test(start_paused = true)]
async fn bodies_stream_and_break_off_at_the_deadline() {
    let setup = north();
    let (pieces, body) = mpsc::channel(1);
    let body = Arc::new(parking_lot::Mutex::new(Some(Piecewise(body).boxed_unsync())));
    setup
        .fleet
        .fetch_by(move |_| std::future::ready(Ok(Response::new(body.lock().take().expect("one fetch")))));
    let response = setup.ask(URL, &[("authorization", "Bearer t-all")]).await;
    let mut body = response.into_body();
    for text in ["first", "second"] {
        pieces.send(text.into()).await.expect("somebody reads");
        let frame = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), text);
    }
    assert!(setup.metrics().contains("marigraph_proxy_in_flight_requests 1"), "{}", setup.metrics());
    let begin = Instant::now();
    assert!(body.frame().await.expect("an end").is_err());
    assert_eq!(begin.elapsed(), Duration::from_millis(14750));
    drop(body);
    assert!(pieces.is_closed(), "the fetch goes on without a reader");
    assert!(setup.metrics().contains("marigraph_proxy_in_flight_requests 0"), "{}", setup.metrics());
}

#[tokio::test(start_paused = true)]
async fn a_caller_has_so_many_requests_under_way_and_no_more() {
    let setup = with(Options { requests_per_caller: 2, ..Options::default() });
    setup.fleet.fetch_by(|_| async {
        let (sender, pieces) = mpsc::channel(1);
        std::mem::forget(sender);
        Ok(Response::new(Piecewise(pieces).boxed_unsync()))
    });
    let ask = async |token: &str| {
        setup.ask(URL, &[("authorization", token), ("x-prometheus-scrape-timeout-seconds", "2")]).await
    };
    let first = ask("Bearer t-all").await;
    let second = ask("Bearer t-all").await;
    assert!(first.status() == 200 && second.status() == 200);
    let (status, body) = text(ask("Bearer t-all").await).await;
    assert!(status == 503 && body.contains("2 requests"), "{status} {body}");
    assert_eq!(ask("Bearer t-north").await.status(), 200);
    drop(first);
    assert_eq!(ask("Bearer t-all").await.status(), 200);
}

#[tokio::test]
async fn the_status_line_tells_why_over_the_wire() -> anyhow::Result<()> {
    let setup = north();
    let server = setup.serve().await?;
    for (request, line) in [
        (
            "GET http://b.north.marigraph.internal:80/metrics HTTP/1.1\r\nHost: b.north.marigraph.internal:80\r\n\
             Proxy-Authorization: Bearer t-all\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 404 cluster north has no target b; it has gone, or discovery is behind",
        ),
        (
            "CONNECT a.north.marigraph.internal:443 HTTP/1.1\r\nHost: a.north.marigraph.internal:443\r\n\r\n",
            "HTTP/1.1 405 CONNECT is not offered: ask for targets as \
             http://TARGET.CLUSTER.marigraph.internal/PATH, TLS is the agent's part",
        ),
        (
            "GET http://a.north.marigraph.internal:80/metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 407 this proxy wants a credential: proxy_url http://x:TOKEN@HUB, or authorization on the job",
        ),
    ] {
        let mut stream = tokio::net::TcpStream::connect(server.addr).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut said = vec![0; line.len()];
        stream.read_exact(&mut said).await?;
        assert_eq!(String::from_utf8_lossy(&said), line);
    }
    Ok(())
}

#[tokio::test]
async fn a_target_that_is_new_is_found_at_once() {
    let setup = north();
    assert_eq!(setup.get(URL).await.0, 200);
    let new = target("new", "http://10.0.0.2/metrics", &[]);
    setup.fleet.set("default", "north", true, vec![new]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(setup.get("http://new.north.marigraph.internal:80/metrics").await.0, 200);
}
