//! The road as it is in the program: `tunnel::Line` at the agent, HTTP/1.1 on streams of [`Lines`], a server with the
//! program's limits at the hub. TLS is left out; who calls, the line knows.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use remote::ship::{Peer, Request as Asked, message};
use rustls::{ClientConfig, RootCertStore};
use sim::{Arrived, Dice, Lines, Packet, Way};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunnel::connect::{Connector, HubUrl, Proxies};
use tunnel::line::{Caller, Line};

use crate::road::{Got, Road};

const HELLO: &str = "/fleet/v1/rows/hello";
const BLOCKS: &str = "/fleet/v1/rows/blocks";
/// As the hub's front has them.
const HEAD: Duration = Duration::from_secs(90);
const BUFFER_BYTES: usize = 8 << 10;

pub(crate) struct Http {
    runtime: Runtime,
    lines: Lines,
    faults: u64,
    hubs: Vec<CancellationToken>,
    /// The processes of agents so far.
    lives: Vec<Life>,
    shared: Arc<Shared>,
}

/// A process of an agent; it has one number on the lines.
struct Life {
    agent: usize,
    epoch: u64,
    lines: BTreeMap<usize, Arc<Line>>,
    has_died: CancellationToken,
}

#[derive(Default)]
struct Shared {
    arrived: Mutex<VecDeque<Got>>,
    /// Requests that a hub has not answered yet, by the number they have in `Packet::id` meanwhile.
    open: Mutex<HashMap<u64, Open>>,
    /// Who calls on the lines, by number.
    callers: Mutex<Vec<(usize, u64, Peer)>>,
}

struct Open {
    answer: oneshot::Sender<Option<Vec<u8>>>,
}

/// Whoever it is: there is no TLS.
struct Nobody(Arc<ClientConfig>);

impl Caller for Nobody {
    fn certificate(&self) -> u64 {
        0
    }

    fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

impl Road for Http {
    /// The line has a patience of its own.
    const PATIENCE_MS: i64 = 80_000;

    fn new(seed: u64, hubs: usize, faults: u64) -> Http {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let lines = {
            let _in = runtime.enter();
            Lines::new(seed)
        };
        let (hubs_gone, lives) = (vec![CancellationToken::new(); hubs], Vec::new());
        let mut http = Http { runtime, lines, faults, hubs: hubs_gone, lives, shared: Arc::default() };
        (0..hubs).for_each(|hub| http.start_hub(hub));
        http
    }

    fn ask(&mut self, packet: Packet, _now_ms: i64, dice: &mut Dice) {
        let _in = self.runtime.enter();
        let number = self.life(&packet);
        if dice.below(100) < self.faults {
            self.hurt(number, packet.hub, dice);
        }
        let life = &mut self.lives[number];
        let url = HubUrl::parse(&format!("https://hub-{}", packet.hub)).expect("a URL");
        let connector = || Connector::over(self.lines.dialler(number), Proxies::none());
        let line = life.lines.entry(packet.hub);
        let line = line.or_insert_with(|| Arc::new(Line::new(url, connector(), Arc::new(Nobody(no_tls())))));
        let (line, has_died) = (Arc::clone(line), life.has_died.clone());
        let (shared, mut packet) = (Arc::clone(&self.shared), packet);
        self.runtime.spawn(async move {
            let path = match packet.request {
                Asked::Hello => HELLO,
                Asked::Blocks => BLOCKS,
            };
            let body = std::mem::take(&mut packet.body);
            let answer = tokio::select! {
                biased;
                () = has_died.cancelled() => return,
                answer = line.post(path, body) => answer,
            };
            packet.is_answer = true;
            let got = match answer {
                Ok(body) => Got::Packet(Packet { body, ..packet }),
                Err(_) => Got::Failed(packet),
            };
            shared.arrived.lock().push_back(got);
        });
    }

    fn answer(&mut self, packet: Packet, body: Option<Vec<u8>>, _now_ms: i64, _dice: &mut Dice) {
        let open = self.shared.open.lock().remove(&packet.id);
        if let Some(open) = open {
            // Whoever asked may have gone.
            let _ = open.answer.send(body);
        }
    }

    fn next(&mut self, _now_ms: i64) -> Option<Got> {
        self.shared.arrived.lock().pop_front()
    }

    fn advance(&mut self, ms: i64) {
        let pause = Duration::from_millis(ms.unsigned_abs());
        self.runtime.block_on(async { tokio::time::sleep(pause).await });
    }

    fn cut(&mut self, hub: usize, _now_ms: i64, ms: i64, dice: &mut Dice) {
        let _in = self.runtime.enter();
        let until = Instant::now() + Duration::from_millis(ms.unsigned_abs());
        let way = [Way::Both, Way::ToHub, Way::ToAgent][dice.below(3) as usize];
        for number in 0..self.lives.len() {
            self.lines.stall(number, hub, way, until);
        }
    }

    fn heal(&mut self) {
        let _in = self.runtime.enter();
        self.faults = 0;
        self.lines.heal();
    }

    fn agent_died(&mut self, agent: usize) {
        let _in = self.runtime.enter();
        for number in 0..self.lives.len() {
            let life = &mut self.lives[number];
            if life.agent == agent && !life.has_died.is_cancelled() {
                life.has_died.cancel();
                life.lines.clear();
                (0..self.hubs.len()).for_each(|hub| self.lines.cut(number, hub));
            }
        }
    }

    fn hub_died(&mut self, hub: usize) {
        let _in = self.runtime.enter();
        self.hubs[hub].cancel();
        (0..self.lives.len()).for_each(|number| self.lines.cut(number, hub));
        let here = |got: &Got| !matches!(got, Got::Packet(packet) if packet.hub == hub && !packet.is_answer);
        self.shared.arrived.lock().retain(here);
        self.start_hub(hub);
    }
}

impl Http {
    /// The number of the agent's process on the lines.
    fn life(&mut self, packet: &Packet) -> usize {
        let is_it = |life: &Life| (life.agent, life.epoch) == (packet.agent, packet.epoch);
        if let Some(number) = self.lives.iter().position(is_it) {
            return number;
        }
        let (agent, epoch, peer) = (packet.agent, packet.epoch, packet.peer.clone());
        self.shared.callers.lock().push((agent, epoch, peer));
        let (lines, has_died) = (BTreeMap::new(), CancellationToken::new());
        self.lives.push(Life { agent, epoch, lines, has_died });
        self.lives.len() - 1
    }

    fn hurt(&mut self, number: usize, hub: usize, dice: &mut Dice) {
        let way = [Way::Both, Way::ToHub, Way::ToAgent][dice.below(3) as usize];
        match dice.below(3) {
            0 => self.lines.forget(number, hub, way),
            1 => self.lines.cut(number, hub),
            _ => {
                let until = Instant::now() + Duration::from_millis(dice.below(20_000));
                self.lines.stall(number, hub, way, until);
            }
        }
    }

    fn start_hub(&mut self, hub: usize) {
        let _in = self.runtime.enter();
        let ends = CancellationToken::new();
        self.hubs[hub] = ends.clone();
        let mut arrivals = self.lines.listen(hub);
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = ends.cancelled() => return,
                    Some(arrived) = arrivals.recv() => {
                        let (shared, ends) = (Arc::clone(&shared), ends.clone());
                        tokio::spawn(async move {
                            tokio::select! {
                                biased;
                                () = ends.cancelled() => {}
                                () = serve(shared, hub, arrived) => {}
                            }
                        });
                    }
                }
            }
        });
    }
}

async fn serve(shared: Arc<Shared>, hub: usize, arrived: Arrived) {
    let Arrived { agent: number, stream } = arrived;
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(at_the_door(&shared, hub, number, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER_BYTES);
    // A line that breaks off is the agent's business.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// Hands a request to the world, and waits for its answer.
async fn at_the_door(
    shared: &Shared,
    hub: usize,
    number: usize,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let said = |status, body: Vec<u8>| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response
    };
    let asked = match request.uri().path() {
        HELLO => Asked::Hello,
        BLOCKS => Asked::Blocks,
        _ => return said(StatusCode::NOT_FOUND, Vec::new()),
    };
    let body = Limited::new(request.into_body(), message::BATCH_BYTES_MAX).collect().await;
    let Ok(body) = body else { return said(StatusCode::BAD_REQUEST, Vec::new()) };
    let (agent, epoch, peer) = shared.callers.lock()[number].clone();
    let (answer, answered) = oneshot::channel();
    let id = {
        let mut open = shared.open.lock();
        let id = open.keys().max().map_or(1, |last| last + 1);
        open.insert(id, Open { answer });
        id
    };
    let body = body.to_bytes().to_vec();
    let packet = Packet { agent, hub, epoch, peer, id, request: asked, is_answer: false, body };
    shared.arrived.lock().push_back(Got::Packet(packet));
    match answered.await {
        Ok(Some(body)) => said(StatusCode::OK, body),
        _ => said(StatusCode::SERVICE_UNAVAILABLE, Vec::new()),
    }
}

fn no_tls() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(RootCertStore::empty());
    Arc::new(config.with_no_client_auth())
}
