//! What a tunnel does, over loopback.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::kit::*;
use crate::agents::{Ask, To};
use crate::connect::Tcp;
use crate::protocol::{SCRAPES_MAX, Timings};
use crate::serve::Handler;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_hub_asks_its_agents() {
    let ca = Ca::new();
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let mut tunnels = Vec::new();
    for name in ["acme/prod/a", "acme/prod/b", "acme/test/a", "other/prod/a"] {
        let answers = handler(move |path| (200, format!("{name} {path}")));
        let dialled = dial(vec![url.clone()], ca.agent(name), Arc::new(Tcp), Timings::default(), &answers);
        tunnels.push(dialled);
    }
    hub.until_connected(4).await;
    let cluster =
        |tenant: &str, cluster: &str| To::Cluster { tenant: tenant.into(), cluster: cluster.into() };
    for (to, expected) in [
        (agent("acme/prod/a"), "200 acme/prod/a /x"),
        (agent("acme/prod/b"), "200 acme/prod/b /x"),
        (agent("other/prod/a"), "200 other/prod/a /x"),
        (agent("other/prod/b"), "agent other/prod/b is not connected"),
        (cluster("acme", "test"), "200 acme/test/a /x"),
        (cluster("other", "prod"), "200 other/prod/a /x"),
        (cluster("acme", "pro"), "cluster acme/pro is not connected"),
    ] {
        let said = whole(hub.agents.request(&to, get("/x"), Ask::scrape(SECOND * 10)).await).await;
        assert_eq!(said, expected, "{to}");
        let said = whole(hub.agents.request(&to, get("/x"), Ask::bulk(SECOND * 10)).await).await;
        assert_eq!(said, expected, "{to}, bulk");
    }
    assert_eq!(hub.agents.of_cluster("acme", "prod").len(), 2);
    let state = hub.agents.list().remove(0);
    assert_eq!((state.version.as_deref(), state.started_ms), (Some("1.2.3"), Some(7)));
    assert_eq!(state.connections, 2, "one for bulk");
    let status = tunnels[0].0.states().remove(0);
    assert!(status.connected_since_ms.is_some() && status.round_trip.is_some(), "{status:?}");
    for (tunnels, _) in tunnels {
        tunnels.stop().await;
    }
    hub.until_connected(0).await;
}

/// Drops counted.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A hub and its agent, which answers `/slow` after a long time, `/endless` with bytes without end,
/// and the rest at once.
async fn pair(ca: &Ca, dropped: &Arc<AtomicUsize>) -> (Arc<TestHub>, To, crate::Tunnels) {
    let hub = TestHub::new(ca, Timings::default());
    let url = hub.listen().await;
    let dropped = Arc::clone(dropped);
    let answers = Handler::from_fn(move |request| {
        let counted = Counted(Arc::clone(&dropped));
        async move {
            match request.uri().path() {
                "/slow" => {
                    tokio::time::sleep(Duration::from_secs(600)).await;
                    drop(counted);
                    Response::new(full("late"))
                }
                "/endless" => Response::new(Endless(counted).boxed_unsync()),
                path => Response::new(full(path.to_owned())),
            }
        }
    });
    let (tunnels, _) = dial(vec![url], ca.agent("t/c/a"), Arc::new(Tcp), Timings::default(), &answers);
    hub.until_connected(1).await;
    (hub, agent("t/c/a"), tunnels)
}

/// A body without end.
struct Endless(#[allow(dead_code, reason = "dropped with the body")] Counted);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = crate::protocol::BoxError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(&[b'x'; 4096])))))
    }
}

/// Waits until `count` is `want`, ten seconds at most.
async fn until(count: &AtomicUsize, want: usize) {
    let end = Instant::now() + SECOND * 10;
    while count.load(Ordering::SeqCst) != want {
        assert!(Instant::now() < end, "{} instead of {want}", count.load(Ordering::SeqCst));
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn whoever_gives_up_ends_it_at_the_agent_too() {
    let (ca, dropped) = (Ca::new(), Arc::new(AtomicUsize::new(0)));
    let (hub, to, _tunnels) = pair(&ca, &dropped).await;
    // The time is over before the answer begins.
    let ask = Ask::scrape(Duration::from_millis(200));
    let said = whole(hub.agents.request(&to, get("/slow"), ask).await).await;
    assert_eq!(said, "agent t/c/a: no answer in 200ms (waiting for the answer to begin)");
    until(&dropped, 1).await;
    // The caller goes.
    let asked = tokio::time::timeout(
        Duration::from_millis(200),
        hub.agents.request(&to, get("/slow"), Ask::scrape(SECOND * 60)),
    );
    assert!(asked.await.is_err());
    until(&dropped, 2).await;
    // The body is dropped half read.
    let mut answer =
        hub.agents.request(&to, get("/endless"), Ask::scrape(SECOND * 60)).await.expect("an answer");
    let frame = answer.body_mut().frame().await.expect("a frame").expect("no error");
    assert!(frame.data_ref().is_some_and(|data| !data.is_empty()));
    drop(answer);
    until(&dropped, 3).await;
    // Nobody reads the body, and nobody drops it: its time is over.
    let mut answer = hub.agents.request(&to, get("/endless"), Ask::scrape(SECOND)).await.expect("an answer");
    until(&dropped, 4).await;
    let error = answer.body_mut().collect().await.expect_err("no whole body");
    assert_eq!(error.to_string(), "the answer did not come whole in time");
    let state = hub.agents.list().remove(0);
    assert_eq!((state.in_flight, state.waiting), (0, 0), "places given back");
}

#[tokio::test]
async fn bodies_that_nobody_reads_stop_only_themselves() {
    let (ca, dropped) = (Ca::new(), Arc::new(AtomicUsize::new(0)));
    let (hub, to, _tunnels) = pair(&ca, &dropped).await;
    let mut unread = Vec::new();
    for _ in 0..SCRAPES_MAX - 1 {
        let asked = hub.agents.request(&to, get("/endless"), Ask::scrape(SECOND * 60)).await;
        unread.push(asked.expect("an answer"));
    }
    for lane in [Ask::scrape(SECOND * 10), Ask::control(SECOND * 10), Ask::bulk(SECOND * 10)] {
        for _ in 0..20 {
            assert_eq!(whole(hub.agents.request(&to, get("/fast"), lane).await).await, "200 /fast");
        }
    }
    // One more takes the last place: scrapes wait in line now, the hub's own requests do not.
    unread.push(hub.agents.request(&to, get("/endless"), Ask::scrape(SECOND * 60)).await.expect("an answer"));
    let said = whole(hub.agents.request(&to, get("/fast"), Ask::scrape(SECOND)).await).await;
    assert_eq!(said, "agent t/c/a: no answer in 1s (waiting for other requests)");
    assert_eq!(
        whole(hub.agents.request(&to, get("/fast"), Ask::control(SECOND * 10)).await).await,
        "200 /fast"
    );
    drop(unread);
    assert_eq!(
        whole(hub.agents.request(&to, get("/fast"), Ask::scrape(SECOND * 10)).await).await,
        "200 /fast"
    );
    until(&dropped, SCRAPES_MAX + 20 * 3 + 2).await;
}

#[tokio::test]
async fn targets_that_keep_silent_do_not_hold_up_others() {
    let (ca, dropped) = (Ca::new(), Arc::new(AtomicUsize::new(0)));
    let (hub, to, _tunnels) = pair(&ca, &dropped).await;
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..SCRAPES_MAX {
        let (agents, to) = (hub.agents.clone(), to.clone());
        slow.spawn(async move { agents.request(&to, get("/slow"), Ask::scrape(SECOND * 60)).await.is_ok() });
    }
    while hub.agents.list()[0].in_flight < SCRAPES_MAX {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    let said = whole(hub.agents.request(&to, get("/fast"), Ask::scrape(SECOND * 20)).await).await;
    assert_eq!(said, "200 /fast");
    assert!(began.elapsed() < SECOND * 10, "{:?}", began.elapsed());
    slow.shutdown().await;
    until(&dropped, SCRAPES_MAX + 1).await;
}

#[tokio::test]
async fn a_dribbling_target_does_not_cost_the_tunnel() {
    // Frames of one byte and empty ones, nobody reading: without coalescing either is fatal.
    let ca = Ca::new();
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let answers = Handler::from_fn(|_| async { Response::new(Dribble(60_000).boxed_unsync()) });
    let (_tunnels, _) = dial(vec![url], ca.agent("t/c/a"), Arc::new(Tcp), Timings::default(), &answers);
    hub.until_connected(1).await;
    let to = agent("t/c/a");
    let unread = hub.agents.request(&to, get("/"), Ask::scrape(SECOND * 60)).await.expect("an answer");
    for _ in 0..5 {
        let answer = hub.agents.request(&to, get("/"), Ask::scrape(SECOND * 20)).await.expect("an answer");
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body.len(), 30_000);
    }
    assert_eq!(unread.into_body().collect().await.expect("a body").to_bytes().len(), 30_000);
    assert!(hub.agents.list()[0].last_end.is_none(), "the tunnel never broke");
}

/// Frames of one byte and of none, by turns.
struct Dribble(usize);

impl http_body::Body for Dribble {
    type Data = Bytes;
    type Error = crate::protocol::BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        if self.0 == 0 {
            return std::task::Poll::Ready(None);
        }
        self.0 -= 1;
        let piece: &[u8] = if self.0.is_multiple_of(2) { b"x" } else { b"" };
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(piece)))))
    }
}

#[tokio::test]
async fn a_renewed_certificate_changes_the_connection_and_fails_no_request() {
    let ca = Ca::new();
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let answers = handler(|path| (200, path.to_owned()));
    let (tunnels, renew) = dial(vec![url], ca.agent("t/c/a"), Arc::new(Tcp), Timings::default(), &answers);
    hub.until_connected(1).await;
    let to = agent("t/c/a");
    for connections in 2..6 {
        renew.send(ca.agent("t/c/a")).expect("an agent");
        while tunnels.states()[0].connections < connections {
            let said = whole(hub.agents.request(&to, get("/x"), Ask::scrape(SECOND * 10)).await).await;
            assert_eq!(said, "200 /x");
        }
    }
    assert_eq!(tunnels.states()[0].last_error, None);
}

#[tokio::test]
async fn a_revoked_agent_is_cut_off_at_once() {
    let ca = Ca::new();
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let answers = handler(|path| (200, path.to_owned()));
    let start =
        |name: &str| dial(vec![url.clone()], ca.agent(name), Arc::new(Tcp), Timings::default(), &answers);
    let (a, b) = (start("t/c/a"), start("t/c/b"));
    hub.until_connected(2).await;
    assert_eq!(hub.agents.close("its certificate is revoked", |peer| peer.agent_id == "a"), 1);
    hub.until_connected(1).await;
    let said = whole(hub.agents.request(&agent("t/c/a"), get("/x"), Ask::scrape(SECOND)).await).await;
    assert_eq!(said, "agent t/c/a is not connected");
    let said = whole(hub.agents.request(&agent("t/c/b"), get("/x"), Ask::scrape(SECOND)).await).await;
    assert_eq!(said, "200 /x");
    let states = hub.agents.list();
    let end = states[0].last_end.as_ref().map(|(_, what)| what.as_str());
    assert_eq!(end, Some("its certificate is revoked"));
    assert!(hub.metrics().contains("marigraph_tunnel_ended_total{kind=\"control\",reason=\"revoked\"} 1"));
    drop((a, b));
}
