//! Tunnels over a network that is slow, cut, silent, and healed; time is simulated.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use turmoil::{Builder, Sim};

use super::kit::*;
use crate::agents::Ask;
use crate::connect::{BoxedStream, Connect, Connecting, HubUrl};
use crate::protocol::Timings;

const SECOND: Duration = Duration::from_secs(1);
const PORT: u16 = 443;

/// The simulated network.
struct Simulated;

impl Connect for Simulated {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        Box::pin(async move {
            let stream = turmoil::net::TcpStream::connect((host, port)).await?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}

fn network() -> Sim<'static> {
    let mut builder = Builder::new();
    builder
        .rng_seed(1)
        .simulation_duration(SECOND * 600)
        .tick_duration(Duration::from_millis(20))
        .tcp_capacity(4096)
        .min_message_latency(Duration::from_millis(20))
        .max_message_latency(Duration::from_millis(80));
    builder.build()
}

/// Runs a hub on the host of that name. When it is killed (`TestHub::kill`), the port is closed for `down`,
/// and a new one takes its place. The one that runs is in `made`.
fn host_hub(sim: &mut Sim<'static>, ca: &Arc<Ca>, down: Duration, made: &Arc<Mutex<Option<Arc<TestHub>>>>) {
    let (ca, made) = (Arc::clone(ca), Arc::clone(made));
    sim.host("hub", move || {
        let (ca, made) = (Arc::clone(&ca), Arc::clone(&made));
        async move {
            loop {
                let hub = TestHub::new(&ca, Timings::default());
                *made.lock() = Some(Arc::clone(&hub));
                let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
                loop {
                    let (stream, from) = tokio::select! {
                        () = hub.kill.cancelled() => break,
                        accepted = listener.accept() => accepted?,
                    };
                    hub.serve(Box::new(stream), from);
                }
                hub.agents.close("the hub ends", |_| true);
                drop(listener);
                tokio::time::sleep(down).await;
            }
        }
    });
}

/// Ends when `what` holds; panics after `within`.
async fn eventually(within: Duration, name: &str, what: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !what() {
        assert!(began.elapsed() < within, "{name}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

fn hub_url() -> HubUrl {
    HubUrl::parse("https://hub").expect("a URL")
}

/// How a link dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Death {
    /// Nothing passes in either direction.
    Cut,
    /// What the agent sends disappears: a NAT has forgotten the connection.
    NothingToTheHub,
    /// What the hub sends disappears.
    NothingToTheAgent,
}

#[test]
fn a_link_that_dies_silently_is_known_on_both_sides_in_about_ten_seconds() {
    for death in [Death::Cut, Death::NothingToTheHub, Death::NothingToTheAgent] {
        let mut sim = network();
        let ca = Arc::new(Ca::new());
        let tls = ca.agent("t/c/a");
        let made: Arc<Mutex<Option<Arc<TestHub>>>> = Arc::default();
        host_hub(&mut sim, &ca, SECOND, &made);
        sim.client("agent", async move {
            let answers = handler(|path| (200, path.to_owned()));
            let (tunnels, _renew) =
                dial(vec![hub_url()], tls, Arc::new(Simulated), Timings::default(), &answers);
            let connected = || tunnels.states()[0].connected_since_ms.is_some();
            eventually(SECOND * 10, "the tunnel", connected).await;
            let hub = made.lock().clone().expect("a hub");
            let at_hub = || hub.agents.list().iter().any(|agent| agent.connections > 0);
            eventually(SECOND * 10, "the hub sees it", at_hub).await;
            // Idle for long: pings keep it, also through a NAT that forgets after half a minute.
            tokio::time::sleep(SECOND * 40).await;
            assert!(connected() && at_hub());
            assert_eq!(tunnels.states()[0].connections, 1);
            let measured = hub.agents.list()[0].measured.expect("a measurement");
            let round_trip = measured.round_trip;
            assert!((40..=250).contains(&round_trip.as_millis()), "{round_trip:?}");
            match death {
                Death::Cut => turmoil::partition("agent", "hub"),
                Death::NothingToTheHub => turmoil::partition_oneway("agent", "hub"),
                Death::NothingToTheAgent => turmoil::partition_oneway("hub", "agent"),
            }
            let both = || !connected() && !at_hub();
            let known = eventually(SECOND * 13, "both sides know", both).await;
            assert!(known > SECOND * 4, "{death:?}: known after {known:?}?");
            let (_, error) = tunnels.states()[0].last_error.clone().expect("an error");
            let told = ["tunnel lost", "no answer from", "the hub closed the tunnel"];
            assert!(told.iter().any(|what| error.contains(what)), "{death:?}: {error}");
            // Requests meanwhile end at once, and say why.
            let asked = Instant::now();
            let said = whole(hub.agents.request(&agent("t/c/a"), get("/x"), Ask::scrape(SECOND * 30)).await);
            assert_eq!(said.await, "agent t/c/a is not connected");
            assert!(asked.elapsed() < SECOND);
            tokio::time::sleep(SECOND * if death == Death::Cut { 120 } else { 30 }).await;
            match death {
                Death::Cut => turmoil::repair("agent", "hub"),
                Death::NothingToTheHub => turmoil::repair_oneway("agent", "hub"),
                Death::NothingToTheAgent => turmoil::repair_oneway("hub", "agent"),
            }
            eventually(SECOND * 30, "it is back", || connected() && at_hub()).await;
            let said =
                whole(hub.agents.request(&agent("t/c/a"), get("/x"), Ask::scrape(SECOND * 5)).await).await;
            assert_eq!(said, "200 /x", "{death:?}");
            Ok(())
        });
        sim.run().expect("the simulation");
    }
}

/// How many agents restart with their hub: 60, or what `MARIGRAPH_SIM_AGENTS` says.
fn agents() -> usize {
    std::env::var("MARIGRAPH_SIM_AGENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

#[test]
fn agents_come_back_after_a_restart_of_the_hub_and_not_at_once() {
    let mut sim = network();
    let ca = Arc::new(Ca::new());
    let names: Vec<String> = (0..agents()).map(|n| format!("t/c/a{n}")).collect();
    let tls: Vec<_> = names.iter().map(|name| ca.agent(name)).collect();
    let made: Arc<Mutex<Option<Arc<TestHub>>>> = Arc::default();
    host_hub(&mut sim, &ca, SECOND * 20, &made);
    sim.client("agents", async move {
        let answers = handler(|path| (200, path.to_owned()));
        let _tunnels: Vec<_> = (0u64..)
            .zip(tls)
            .map(|(seed, tls)| {
                dial_as(seed, vec![hub_url()], tls, Arc::new(Simulated), Timings::default(), &answers)
            })
            .collect();
        std::future::pending::<()>().await;
        Ok(())
    });
    let until = |sim: &mut Sim<'static>, at: Duration| {
        while sim.elapsed() < at {
            sim.step().expect("a step");
        }
    };
    let all = names.len();
    let since = |made: &Mutex<Option<Arc<TestHub>>>| -> Vec<i64> {
        let Some(hub) = made.lock().clone() else { return Vec::new() };
        hub.agents.list().iter().filter_map(|agent| agent.connected_since_ms).collect()
    };
    until(&mut sim, SECOND * 30);
    assert_eq!(since(&made).len(), all, "all connected");
    made.lock().take().expect("a hub").kill.cancel();
    until(&mut sim, SECOND * 50);
    let mut back = Vec::new();
    for second in 51..=80 {
        until(&mut sim, SECOND * second);
        back.push(since(&made).len());
    }
    assert_eq!(back.last(), Some(&all), "all are back within 30 s: {back:?}");
    let most = back.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    assert!(most <= all / 3, "a stampede: {back:?}");
}
