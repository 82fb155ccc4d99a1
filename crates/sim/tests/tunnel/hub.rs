//! A hub that only has tunnels. Real is `tunnel::Agents`; what stands before it in the program (the listener, TLS, the
//! question whether an agent is revoked) is made here, as it is there.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use sim::{Arrived, Lines};
use stdx::clock::Clock;
use tokio_util::sync::CancellationToken;
use tunnel::identity::{PeerIdentity, PeerKind};
use tunnel::{AgentKey, Agents, TUNNEL_PATH, Timings};

/// How long a caller has for the head of its request.
const HEAD: Duration = Duration::from_secs(10);

/// Which agents are revoked, at all hubs.
pub(crate) type Revoked = Arc<Mutex<BTreeSet<usize>>>;

pub(crate) struct Hub {
    pub(crate) agents: Agents,
    shared: Arc<Shared>,
}

struct Shared {
    agents: Agents,
    revoked: Revoked,
    /// Connections that are no tunnels yet.
    live: Mutex<Vec<(usize, CancellationToken)>>,
    kill: CancellationToken,
}

impl Hub {
    pub(crate) fn start(number: usize, lines: &Lines, revoked: &Revoked, clock: Arc<dyn Clock>) -> Hub {
        let agents = Agents::new(Timings::default(), clock, &mut Registry::default());
        let asked = Arc::clone(revoked);
        agents.keep_out(move |peer| number_of(peer).is_some_and(|agent| asked.lock().contains(&agent)));
        let shared = Arc::new(Shared {
            agents: agents.clone(),
            revoked: Arc::clone(revoked),
            live: Mutex::default(),
            kill: CancellationToken::new(),
        });
        let mut arrivals = lines.listen(number);
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = accepting.kill.cancelled() => return,
                    Some(arrived) = arrivals.recv() => {
                        tokio::spawn(talk(Arc::clone(&accepting), arrived));
                    }
                }
            }
        });
        Hub { agents, shared }
    }

    /// Those who are revoked lose what they have.
    pub(crate) fn close_revoked(&self) {
        let revoked = self.shared.revoked.lock().clone();
        let live = self.shared.live.lock();
        live.iter().filter(|(agent, _)| revoked.contains(agent)).for_each(|(_, closing)| closing.cancel());
        self.agents.close("revoked", |peer| number_of(peer).is_some_and(|agent| revoked.contains(&agent)));
    }

    /// The process ends.
    pub(crate) fn kill(&self) {
        self.shared.kill.cancel();
        self.agents.close("the hub ends", |_| true);
    }
}

/// A connection from its first byte until it ends or becomes a tunnel.
async fn talk(shared: Arc<Shared>, arrived: Arrived) {
    let Arrived { agent, stream } = arrived;
    if shared.revoked.lock().contains(&agent) {
        return;
    }
    let closing = CancellationToken::new();
    {
        let mut live = shared.live.lock();
        live.retain(|(_, closing)| !closing.is_cancelled());
        live.push((agent, closing.clone()));
    }
    let _done = closing.clone().drop_guard();
    let of = Arc::clone(&shared);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let refused = |status| {
            let mut response = Response::new(String::new());
            *response.status_mut() = status;
            response
        };
        let answer = if of.revoked.lock().contains(&agent) {
            refused(StatusCode::FORBIDDEN)
        } else if request.uri().path() == TUNNEL_PATH {
            of.agents.accept(&mut request, &peer(agent), SocketAddr::from(([127, 0, 0, 1], 1)))
        } else {
            refused(StatusCode::NOT_FOUND)
        };
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let served = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::select! {
        biased;
        () = shared.kill.cancelled() => {}
        () = closing.cancelled() => {}
        _ = served => {}
    }
}

/// Two agents of each cluster.
pub(crate) fn peer(agent: usize) -> PeerIdentity {
    PeerIdentity {
        kind: PeerKind::Agent,
        tenant: Default::default(),
        cluster: format!("c{}", agent / 2),
        agent_id: format!("a{agent}"),
        labels: Default::default(),
        serial: "01".to_owned(),
        not_before_ms: 0,
        not_after_ms: i64::MAX,
        brought: None,
    }
}

pub(crate) fn key(agent: usize) -> AgentKey {
    AgentKey::from(&peer(agent))
}

fn number_of(peer: &PeerIdentity) -> Option<usize> {
    peer.agent_id.strip_prefix('a')?.parse().ok()
}
