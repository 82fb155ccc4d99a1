//! What thousands of agents cost a hub: memory of each, requests a second, latency the tunnel adds.
//!
//! ```text
//! cargo run --release -p tunnel --example many_agents -- [agents, 2000]
//! ```
//!
//! Two processes over loopback, so that each end's memory and CPU is its own: this one is the hub, and
//! starts the other, which is all agents. Every agent has a tunnel and an HTTP/1.1 connection to the hub, as it
//! has for shipping rows, both over TLS 1.3 with client certificates. "After use": each tunnel has carried an
//! answer of 64 KiB, each other connection a request of 64 KiB.
//!
//! The hub process listens as the hub's front does (`crates/marigraph/src/front.rs`), without its
//! limits. Each open connection takes a file descriptor at each end: `ulimit -n` above twice the agents.

use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use stdx::clock::{Clock, SystemClock};
use stdx::disk::{Disk, RealDisk};
use tenancy::TenantId;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tunnel::identity::{
    AgentTls, Alpn, Authority, AuthorityOptions, HubTls, LocalKey, OwnCertificate, PeerIdentity, ServerTrust,
    Subject,
};
use tunnel::{
    AgentKey, Agents, Ask, Connector, DialConfig, Handler, HubUrl, Proxies, TUNNEL_PATH, Timings, To, Tunnels,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The body of a scrape: a node exporter's, packed.
const SCRAPE_BYTES: usize = 11 << 10;
const LARGE_BYTES: usize = 64 << 10;
/// As in the hub's front.
const PEER_BUFFER_BYTES: usize = 8 << 10;
const MEASURE: Duration = Duration::from_secs(8);

fn main() -> Result<(), Failure> {
    stdx::memory::keep_little(); // as the program does
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match arguments.get(1).map(String::as_str) {
        Some("agents") => runtime.block_on(agents(&arguments[2], &arguments[3], arguments[4].parse()?)),
        count => runtime.block_on(hub(count.unwrap_or("2000").parse()?)),
    }
}

fn authority(directory: &Path) -> Result<Authority, Failure> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let clock: Arc<dyn Clock> = SystemClock::shared();
    Ok(Authority::open_or_create(disk, directory, clock, AuthorityOptions::default())?)
}

/// All agents; says "ready", and runs until the hub has gone.
async fn agents(directory: &str, hub: &str, count: usize) -> Result<(), Failure> {
    let authority = authority(Path::new(directory))?;
    let clock: Arc<dyn Clock> = SystemClock::shared();
    let url = HubUrl::parse(hub)?;
    let handler = Handler::from_fn(|request: Request<tunnel::Whole>| async move {
        let bytes = if request.uri().path() == "/large" { LARGE_BYTES } else { SCRAPE_BYTES };
        Response::new(
            Full::new(Bytes::from(vec![b'x'; bytes])).map_err(|never| match never {}).boxed_unsync(),
        )
    });
    let connector = Connector::new(Proxies::none());
    let before = rss_kib();
    let mut kept: Vec<(Tunnels, _, _)> = Vec::new();
    for number in 0..count {
        let subject = Subject {
            tenant: TenantId::default(),
            cluster: "bench".to_owned(),
            agent_id: format!("{number:016x}"),
            labels: Default::default(),
        };
        let key = LocalKey::generate()?;
        let issued = authority.issue_agent(&subject, &key.request()?)?;
        let certificate = OwnCertificate::from_pem(&issued.chain_pem, &key.to_pem())?;
        let trust = ServerTrust::Fleet(authority.bundle()?);
        let tls = AgentTls::new(trust, Some(certificate), Arc::clone(&clock))?;
        let (renew, config) = tokio::sync::watch::channel(tls.client_config(Alpn::Http1));
        let config =
            DialConfig { connector: connector.clone(), ..DialConfig::new(vec![url.clone()], config) };
        let tunnels = Tunnels::start(config, &handler, &clock);
        let stream = connector.connect(&url, tls.client_config(Alpn::Http1)).await?;
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.read_buf_exact_size(Some(4 << 10));
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = Full::new(Bytes::from(vec![b'r'; LARGE_BYTES]));
        let answer = sender.send_request(Request::post("/rows").header("host", "hub").body(body)?).await?;
        answer.into_body().collect().await?;
        kept.push((tunnels, renew, sender));
        if number % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let per_agent = (rss_kib() - before) as f64 / count as f64;
    say(&format!("ready; the agents' end: {per_agent:.0} KiB each\n"))?;
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    drop(kept);
    Ok(())
}

/// The hub, and what is measured.
async fn hub(count: usize) -> Result<(), Failure> {
    let directory = std::env::temp_dir().join(format!("many-agents-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let authority = authority(&directory)?;
    let clock: Arc<dyn Clock> = SystemClock::shared();
    let certificate = authority.issue_server(&["127.0.0.1".to_owned()])?;
    let tls = HubTls::new(certificate, &authority.bundle()?, Arc::new(|_| false), Arc::clone(&clock))?;
    let agents = Agents::new(Timings::default(), clock, &mut Registry::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", listener.local_addr()?);
    let others = Arc::new(AtomicUsize::new(0));
    tokio::spawn(accept(
        listener,
        TlsAcceptor::from(tls.server_config()),
        agents.clone(),
        Arc::clone(&others),
    ));
    let before = rss_kib();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["agents", &directory.display().to_string(), &url, &count.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let began = Instant::now();
    let ready = tokio::task::spawn_blocking(move || BufReader::new(output).lines().next()).await?;
    let ready = ready.transpose()?.unwrap_or_default();
    while agents.list().iter().filter(|agent| agent.connections > 0).count() < count {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (seconds, others) = (began.elapsed().as_secs_f64(), others.load(Ordering::Relaxed));
    say(&format!(
        "{count} agents with a tunnel, {others} further connections, in {seconds:.1} s; {ready}\n"
    ))?;
    let each = |rss: u64| (rss - before) as f64 / count as f64;
    say(&format!("hub, connected: {:.1} KiB an agent\n", each(rss_kib())))?;
    let keys: Vec<AgentKey> = agents.list().into_iter().map(|agent| agent.key).collect();
    for key in &keys {
        ask(&agents, key, "/large").await?;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    say(&format!("hub, after use: {:.1} KiB an agent\n", each(rss_kib())))?;
    for in_flight in [1, 8, 64] {
        let (requests, latencies, cpu) = load(&agents, &keys, in_flight).await?;
        let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
        say(&format!(
            "{in_flight} in flight: {:.0} requests/s, {:.0} per CPU-second of the hub, {:?} median, {:?} p99\n",
            requests as f64 / MEASURE.as_secs_f64(),
            requests as f64 / cpu,
            at(0.5),
            at(0.99),
        ))?;
    }
    say(&format!("hub, after load: {:.1} KiB an agent\n", each(rss_kib())))?;
    child.kill()?;
    child.wait()?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, agents: Agents, others: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, agents, others) = (tls.clone(), agents.clone(), Arc::clone(&others));
        // A connection that fails shows in the counts.
        tokio::spawn(async move { drop(serve(stream, tls, agents, others).await) });
    }
}

async fn serve(
    stream: TcpStream,
    tls: TlsAcceptor,
    agents: Agents,
    others: Arc<AtomicUsize>,
) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let remote = stream.peer_addr()?;
    let stream = Box::new(tls.accept(stream).await?);
    let session = stream.get_ref().1;
    let shown = session.peer_certificates().and_then(<[_]>::first).ok_or("no certificate")?;
    let peer = PeerIdentity::of_certificate(shown)?;
    let service = service_fn(move |mut request: Request<Incoming>| {
        let others = Arc::clone(&others);
        let accepted =
            (request.uri().path() == TUNNEL_PATH).then(|| agents.accept(&mut request, &peer, remote));
        async move {
            if let Some(accepted) = accepted {
                return Ok::<_, Infallible>(accepted);
            }
            others.fetch_add(1, Ordering::Relaxed);
            let read = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
            Ok(Response::new(format!("{read}\n")))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(90));
    builder.max_buf_size(PEER_BUFFER_BYTES);
    Box::pin(builder.serve_connection(TokioIo::new(stream), service).with_upgrades()).await?;
    Ok(())
}

/// One request, its answer read whole.
async fn ask(agents: &Agents, key: &AgentKey, path: &'static str) -> Result<usize, Failure> {
    let request = Request::get(path).body(Bytes::new())?;
    let answer =
        agents.request(&To::Agent(key.clone()), request, Ask::scrape(Duration::from_secs(30))).await?;
    let mut body = answer.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(bytes)
}

/// Asks agents in turn for a while: how many answers, their latencies in order, CPU-seconds of this process.
async fn load(
    agents: &Agents,
    keys: &[AgentKey],
    in_flight: usize,
) -> Result<(usize, Vec<Duration>, f64), Failure> {
    let (cpu, end) = (cpu_seconds(), Instant::now() + MEASURE);
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..in_flight {
        let (agents, keys) = (agents.clone(), keys.to_vec());
        workers.spawn(async move {
            let mut latencies = Vec::new();
            for key in keys.iter().cycle().skip(worker * 7) {
                let began = Instant::now();
                if began >= end {
                    break;
                }
                assert_eq!(ask(&agents, key, "/").await?, SCRAPE_BYTES);
                latencies.push(began.elapsed());
            }
            Ok::<_, Failure>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = workers.join_next().await {
        latencies.extend(done??);
    }
    latencies.sort();
    Ok((latencies.len(), latencies, cpu_seconds() - cpu))
}

/// Resident memory of this process.
fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// User and system time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}
