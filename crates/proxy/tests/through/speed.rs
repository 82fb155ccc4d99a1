//! How many scrapes pass in a second of CPU time. Not a test of correctness: run it with
//! `cargo test --release -p proxy --test through -- --ignored --nocapture speed`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use proxy::Options;
use tokio::net::TcpStream;

use crate::fixture::{Setup, page, setup, target};

const URL: &str = "http://a.north.marigraph.internal:80/metrics";
const BODY_BYTES: usize = 16 << 10;
const SCRAPES: u32 = 50_000;
const CONNECTIONS: u32 = 16;

fn one_target() -> Setup {
    let setup = setup(Options::default());
    setup.fleet.set("default", "north", true, vec![target("a", "https://10.0.0.1/metrics", &[])]);
    let body = Bytes::from(vec![b'#'; BODY_BYTES]);
    setup.fleet.fetch_by(move |_| std::future::ready(Ok(page(body.clone()))));
    setup
}

/// CPU time of this process, in clock ticks of 10 ms.
fn cpu() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("a name")?.1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn tell(what: &str, begin: Instant, cpu_begin: Duration) -> Result<()> {
    let used = cpu()?.saturating_sub(cpu_begin);
    let (cpu, wall) =
        (f64::from(SCRAPES) / used.as_secs_f64(), f64::from(SCRAPES) / begin.elapsed().as_secs_f64());
    eprintln!("{what}: {cpu:.0} scrapes per second of CPU, {wall:.0} per second");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark, for release builds"]
async fn speed_of_the_proxy_itself() -> Result<()> {
    let setup = one_target();
    let (begin, used) = (Instant::now(), cpu()?);
    for _ in 0..SCRAPES {
        let answer =
            setup.ask(URL, &[("proxy-authorization", "Bearer t-all"), ("accept", "text/plain")]).await;
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body.len(), BODY_BYTES);
    }
    tell("by direct calls", begin, used)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark, for release builds"]
async fn speed_over_loopback_clients_included() -> Result<()> {
    let setup = one_target();
    let server = setup.serve().await?;
    let (begin, used) = (Instant::now(), cpu()?);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let addr = server.addr;
        clients.spawn(async move {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let driver = tokio::spawn(connection);
            let mut slowest = Duration::ZERO;
            for _ in 0..SCRAPES / CONNECTIONS {
                let request = Request::builder()
                    .uri(URL)
                    .header("host", "a.north.marigraph.internal:80")
                    .header("proxy-authorization", "Bearer t-all")
                    .header("x-prometheus-scrape-timeout-seconds", "10")
                    .body(Full::<Bytes>::default())?;
                let asked = Instant::now();
                let answer = sender.send_request(request).await?;
                anyhow::ensure!(answer.into_body().collect().await?.to_bytes().len() == BODY_BYTES);
                slowest = slowest.max(asked.elapsed());
            }
            driver.abort();
            Ok(slowest)
        });
    }
    let mut slowest = Duration::ZERO;
    while let Some(client) = clients.join_next().await {
        slowest = slowest.max(client??);
    }
    tell("over loopback, clients included", begin, used)?;
    eprintln!("slowest of all: {slowest:?}");
    Ok(())
}
