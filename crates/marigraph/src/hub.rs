//! The hub role, from first stage to last: discovery and scraping, the push doors, the store, the
//! query engine, the HTTP side.

mod admin;
pub(crate) mod central;
mod cluster;
mod enrol;
mod explain;
mod fleet;
mod fleet_api;
mod incarnations;
mod known;
mod ledger;
mod lifecycle;
mod limits;
mod page;
mod pair_words;
mod presence;
mod proxy;
mod rows;
mod settle;
mod stores;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use axum::middleware;
use model::{Labels, TenantId};
use prometheus_client::registry::Registry;
use promql::engine::{Engine, EngineOptions};
use receive::ReceiveState;
use stdx::clock::{Clock, SystemClock};
use storage::Queryable;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tunnel::identity::PeerIdentity;
use web::{ActiveQueries, Auth, Caller, Endpoint, Role, WebMetrics, WebState, Work};

use self::central::Central;
use self::cluster::Clusters;
use self::ledger::Accounts;
pub(crate) use self::ledger::DIRECTORY as LEDGER_DIRECTORY;
use crate::cli::{HubArgs, PlaintextFor};
use crate::config::{Config, ProxyConfig};
use crate::credentials::{auth, require_credential};
use crate::doors;
use crate::explain::Own;
use crate::front::{Front, Plaintext};
use crate::owner::require_own;
use crate::program::{Beginning, ConfigSource, Program, Reloads, build_info, query_log};
use crate::pull::{Pull, PullParts};
use crate::store::Store;
use ::proxy::{Proxy, ProxyMetrics};
use enrol::Identity;
pub(crate) use enrol::files::{check as check_fleet_files, read as read_certificates};
pub(crate) use enrol::{FLEET_DIRECTORY, FleetHub};
use explain::Explain;
use fleet::{Fleet, FleetParts};
use fleet_api::FleetApi;
use limits::AgentLimits;
use presence::Presence;
use rows::Rows;
use stores::Stores;

/// Where the queries under way stand, in the data directory. Source: Prometheus.
const ACTIVE_QUERIES: &str = "queries.active";
/// Who has the data directory, within it.
const STORE_LOCK: &str = "LOCK";
/// What a backup takes of [`FLEET_DIRECTORY`]; all else there comes back by itself.
pub(crate) const FLEET_FILES: [&str; 4] =
    [tunnel::identity::AUTHORITY_FILE, tenancy::REGISTRY_FILE, limits::FILE, stores::FILE];

/// A hub at work.
pub struct Hub {
    stages: Arc<Stages>,
    tasks: [JoinHandle<()>; 4],
}

/// The stages, and what a reload makes the router of.
struct Stages {
    front: Front,
    pull: Arc<Pull>,
    rows: Arc<Rows>,
    program: Arc<Program>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    web: WebState,
    receive: ReceiveState,
    proxy: Arc<Proxy>,
    /// What the proxy was made with.
    proxy_options: ::proxy::Options,
    identity: Arc<Identity>,
    fleet: Fleet,
    /// Limits for agents.
    limits: Arc<AgentLimits>,
    /// What tells of them.
    fleet_api: FleetApi,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hub({})", self.addr())
    }
}

impl Hub {
    /// Starts a hub; when it returns, the hub takes writes, scrapes and answers.
    ///
    /// The address is bound and probes are answered before the store is open, which takes a runtime of several threads.
    ///
    /// # Errors
    /// The address cannot be had, the configuration is wrong, nothing guards an address off loopback,
    /// or the data directory cannot be opened.
    pub async fn start(args: HubArgs) -> Result<Hub> {
        let clock: Arc<dyn Clock> = SystemClock::shared();
        let Beginning { bound, source, config, auth } =
            Beginning::of(&args.listen, args.config.as_deref()).await?;
        let addr = bound.addr;
        require_own(&args.data, STORE_LOCK)?;
        let front = bound.serve(doors::starting());

        let mut registry = Registry::default();
        front.register_metrics(&mut registry);
        let rows = Arc::new(Rows::open(&args, &config.storage, &clock, &mut registry).await?);
        let identity = Identity::open(&args, addr, SystemClock::shared())?;
        identity.register_metrics(&mut registry);
        let fleet = fleet(&args, &rows, &identity, &clock, &mut registry);
        let limits = AgentLimits::open(&args.data.join(FLEET_DIRECTORY), &fleet, Arc::clone(&clock))?;
        let pull = Arc::new(pull(&rows, &fleet, &clock, &mut registry));
        let admin = Arc::new(Store(Arc::clone(&rows.store)));
        let (program, reloads) =
            Program::new(source, admin.clone(), rows.retention.shown(), Arc::clone(&clock), &mut registry);
        let proxy_options = config.proxy.options.clone();
        let proxy = Proxy::new(
            proxy_options.clone(),
            Arc::new(fleet.clone()),
            Arc::new(proxy::Readers(Arc::default())),
            ProxyMetrics::register(&mut registry),
        );
        let receive = doors::receive(Arc::clone(&rows.appender), &clock, &mut registry);
        let store = gathered(&args, rows.store.clone(), &fleet, &clock, &mut registry);
        let web = web_state(&args, addr, (&rows, store, admin), (&pull, &program), (&clock, registry))?;
        let fleet_api = FleetApi::new(fleet.clone(), Arc::clone(&rows.ledger), Arc::clone(&clock));
        let stages = Arc::new(Stages {
            front,
            pull,
            rows,
            program,
            reloading: tokio::sync::Mutex::new(()),
            web,
            receive,
            proxy: Arc::new(proxy),
            proxy_options,
            identity,
            fleet,
            limits,
            fleet_api,
        });
        // Before the first row comes in.
        stages.rows.apply(&config)?;
        stages.identity.apply_own(stages.identity.read_own(&config.fleet)?);
        stages.apply(&config, auth)?;
        stages.front.secure(stages.identity.tls(), plaintext(args.plaintext));
        let tasks = stages.keep_going(reloads, &clock);
        Ok(Hub { stages, tasks })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.stages.front.addr
    }

    /// Tells where to look: in the log, and, without a configuration file, a person with what to try.
    pub fn greet(&self) {
        let addr = self.addr();
        if matches!(self.stages.program.source, ConfigSource::File(_)) {
            return tracing::info!("ready at http://{addr}");
        }
        // Nobody may be there to read it.
        let _ = writeln!(
            std::io::stderr(),
            "\n  marigraph is at http://{addr}\n\n  try\n    \
             sum by (mode) (rate(node_cpu_seconds_total{{mode!=\"idle\"}}[1m]))\n    \
             1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes\n    \
             rate(marigraph_scrape_samples_total[1m])\n"
        );
    }

    /// Reads the configuration again, all or nothing; the log says what became of it.
    pub async fn reload(&self) {
        // The log has told what became of it.
        let _ = self.stages.reload().await;
    }

    /// Waits until somebody asks the program to end over HTTP.
    pub async fn quit_requested(&self) {
        self.stages.program.quit.notified().await;
    }

    /// Stops in the order data flows: scraping, the doors, remote write, then the store, whose log is synced.
    ///
    /// # Errors
    /// The store could not be closed cleanly.
    pub async fn stop(self) -> Result<()> {
        self.tasks.iter().for_each(JoinHandle::abort);
        let stages = self.stages;
        stages.identity.stop();
        stages.program.stopping();
        stages.pull.stop().await;
        stages.proxy.stop();
        stages.front.stop().await;
        Arc::clone(&stages.rows).stop().await
    }
}

impl Stages {
    /// Starts what goes on beside requests: reloads that are asked for over HTTP, the hub's certificate and
    /// what others revoke, agents' limits, and telling the ledger who is connected.
    fn keep_going(self: &Arc<Self>, reloads: Reloads, clock: &Arc<dyn Clock>) -> [JoinHandle<()>; 4] {
        let (ledger, fleet) = (Arc::clone(&self.rows.ledger), self.fleet.clone());
        let presence = Presence { ledger, fleet, clock: Arc::clone(clock) };
        [
            tokio::spawn(serve_reloads(Arc::clone(self), reloads)),
            tokio::spawn(keep_identity(Arc::clone(self))),
            tokio::spawn(Arc::clone(&self.limits).keep_brought()),
            tokio::spawn(presence.keep()),
        ]
    }

    /// What `web` answers to this hub itself.
    fn reader(&self, web: &WebState) -> WebState {
        let reader = Caller::new(TenantId::default(), Role::Read);
        WebState { auth: Arc::new(Auth::everybody(reader)), ..web.clone() }
    }

    /// What tells why a target is not scraped.
    fn explain(&self, web: &WebState) -> axum::Router {
        let (own, pull) = (Own(web::router(self.reader(web))), Arc::clone(&self.pull));
        Explain { api: self.fleet_api.clone(), own, pull }.router()
    }

    /// Puts a checked configuration in force: scraping, then who may call and what answers.
    fn apply(&self, config: &Config, auth: Auth) -> Result<()> {
        let query_log = query_log(config)?;
        let pushprox = pushprox_doors(&config.proxy)?;
        self.rows.check(config)?;
        self.pull.apply(config)?;
        self.rows.apply(config)?;
        self.web.query_log.install(query_log);
        let machine = config.machine.as_ref().map(|machine| machine.path.as_str());
        let external_labels = config.global.external_labels.clone();
        let auth = Arc::new(auth.with_tokens(self.identity.tokens()));
        self.proxy.install(Arc::new(proxy::Readers(Arc::clone(&auth))), pushprox);
        let web = WebState { auth, external_labels, ..self.web.clone() };
        let doors = doors::router(self.receive.clone(), machine)
            .merge(proxy::lists(&self.proxy))
            .merge(self.identity.admin())
            .merge(self.limits.router())
            .merge(self.explain(&web))
            .merge(self.fleet_api.clone().router())
            .merge(lifecycle::router(Arc::clone(&self.rows.ledger), Arc::clone(&self.web.clock)))
            .merge(Clusters::new(self.fleet.clone(), web.clone(), self.rows.store.clone()).doors());
        // What is nobody's door is web's, so that unknown paths want a credential too.
        let meet = middleware::from_fn_with_state(Arc::clone(&self.identity), enrol::meet);
        let fleet = self.identity.doors().merge(self.fleet.doors()).layer(meet);
        let router = fleet.fallback_service(web::router_with(web, doors));
        self.front.replace(proxy::in_front(Arc::clone(&self.proxy), router));
        self.program.in_force(config);
        Ok(())
    }

    /// Closes the connections of agents that bring certificates: those that are believed still come back at once.
    fn close_brought(&self) {
        let which = enrol::files::is_brought;
        let closed = self.front.close(which) + self.fleet.agents().close("authorities changed", which);
        tracing::info!(closed, "authorities of agents' certificates changed: connections were closed");
    }

    /// Reads the configuration again. After an error the old one stays in force; the error tells what
    /// is wrong with the new one, with file, line and column.
    async fn reload(&self) -> Result<()> {
        let _one_at_a_time = self.reloading.lock().await;
        let read = || {
            let config = self.program.source.load()?;
            let auth = auth(&config.web_auth)?;
            require_credential(self.front.addr, &auth)?;
            if config.proxy.options != self.proxy_options {
                tracing::warn!("proxy: what has changed beside `doors` takes effect with the next start");
            }
            // With everything else or not at all.
            let own = self.identity.read_own(&config.fleet)?;
            self.apply(&config, auth)?;
            if self.identity.apply_own(own) {
                self.close_brought();
            }
            Ok(())
        };
        let outcome = read();
        self.program.reloaded(&outcome);
        outcome
    }
}

/// Renews the hub's certificate, and closes the connections of those that are revoked.
async fn keep_identity(stages: Arc<Stages>) {
    let identity = &stages.identity;
    let close = || {
        let revoked = |peer: &PeerIdentity| identity.is_revoked(peer);
        let closed = stages.front.close(revoked) + stages.fleet.agents().close("revoked", revoked);
        tracing::info!(closed, "revocations changed: connections were closed");
    };
    let doubted = || stages.close_brought();
    tokio::join!(
        identity.keep_shown(),
        identity.on_revocation(close),
        identity.keep_fellows(),
        identity.keep_own(doubted)
    );
}

async fn serve_reloads(stages: Arc<Stages>, mut reloads: Reloads) {
    while let Some(reply) = reloads.recv().await {
        let outcome = stages.reload().await.map_err(|error| format!("{error:#}"));
        // The client that asked may have gone.
        let _ = reply.send(outcome);
    }
}

/// The agents that dial in, and what they bring.
fn fleet(
    args: &HubArgs,
    rows: &Rows,
    identity: &Identity,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
) -> Fleet {
    let parts = FleetParts {
        registry: Arc::clone(identity.registry()),
        appender: Arc::clone(&rows.appender),
        data: &args.data,
        retention: rows.retention.time,
        on_lost: Some(ledger::book_losses(Arc::clone(&rows.ledger))),
        clock: Arc::clone(clock),
    };
    Fleet::new(parts, registry)
}

/// Discovery and scraping, of targets in clusters too.
fn pull(rows: &Rows, fleet: &Fleet, clock: &Arc<dyn Clock>, registry: &mut Registry) -> Pull {
    let parts = PullParts {
        turns: Arc::new(scrape::Alone),
        appender: Arc::clone(&rows.appender),
        tenant: TenantId::default(),
        cluster: String::new(),
        stamped: Labels::empty(),
        central: Some(Arc::new(Central::new(fleet.clone()))),
        clock: Arc::clone(clock),
    };
    Pull::new(parts, registry)
}

fn engine(args: &HubArgs) -> Result<Engine> {
    Ok(Engine::new(EngineOptions {
        lookback_ms: i64::try_from(args.query_lookback.as_millis())?,
        timeout: args.query_timeout,
        max_samples: args.query_max_samples,
        ..EngineOptions::default()
    }))
}

/// The store with those of agents that keep data of their own.
fn gathered(
    args: &HubArgs,
    store: Arc<dyn Queryable>,
    fleet: &Fleet,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
) -> Arc<dyn Queryable> {
    let stores = Stores::follow(
        fleet.agents().clone(),
        fleet.registry(),
        Arc::clone(clock),
        args.query_agent_timeout,
        args.data.join(FLEET_DIRECTORY).join(stores::FILE),
    );
    let options =
        gather::Options { patience: args.query_agent_timeout, bytes_max: args.query_agent_bytes_max };
    let metrics = gather::Metrics::register(registry);
    Arc::new(gather::Gather::new(store, Arc::new(stores), Handle::current(), options, metrics))
}

/// The file of the queries under way; what the process before this one left in it is told in the log.
fn active_queries(args: &HubArgs) -> ActiveQueries {
    let path = args.data.join(ACTIVE_QUERIES);
    match ActiveQueries::open(&path, args.query_max_concurrency) {
        Ok((queries, unfinished)) => {
            if !unfinished.is_empty() {
                let queries = unfinished.join(",");
                tracing::warn!(queries, "these queries had not finished when the program last ended");
            }
            queries
        }
        Err(error) => {
            tracing::error!(%error, "open {}: queries under way are not written down", path.display());
            ActiveQueries::default()
        }
    }
}

fn plaintext(whom: PlaintextFor) -> Plaintext {
    match whom {
        PlaintextFor::Loopback => Plaintext::Loopback,
        PlaintextFor::Everywhere => Plaintext::Everywhere,
        PlaintextFor::Never => Plaintext::Never,
    }
}

/// What the API works with; who may call is settled when a configuration is put in force.
///
/// # Errors
/// A flag is out of bounds.
fn web_state(
    args: &HubArgs,
    addr: SocketAddr,
    (rows, store, admin): (&Rows, Arc<dyn Queryable>, Arc<Store>),
    (pull, program): (&Arc<Pull>, &Arc<Program>),
    (clock, mut registry): (&Arc<dyn Clock>, Registry),
) -> Result<WebState> {
    let metrics = WebMetrics::register(&mut registry);
    Ok(WebState {
        engine: Arc::new(engine(args)?),
        store,
        admin,
        targets: pull.clone(),
        lifecycle: program.clone(),
        clock: Arc::clone(clock),
        registry: Arc::new(registry),
        metrics,
        auth: Arc::new(Auth::default()),
        work: Work::new(args.query_max_concurrency, args.read_concurrent_limit),
        external_labels: Labels::empty(),
        query_log: Arc::default(),
        active_queries: Arc::new(active_queries(args)),
        completeness: Some(Arc::new(Accounts(Arc::clone(&rows.ledger)))),
        notifications: Arc::clone(&program.notifications),
        options: Arc::new(web_options(args, addr)),
    })
}

/// The doors for PushProx clients, secrets read.
pub(crate) fn pushprox_doors(written: &ProxyConfig) -> Result<Vec<::proxy::Door>> {
    written.doors.iter().map(|door| door.open().map_err(anyhow::Error::msg)).collect()
}

fn web_options(args: &HubArgs, addr: SocketAddr) -> web::Options {
    web::Options {
        enable_admin_api: args.enable_admin_api,
        enable_lifecycle: args.enable_lifecycle,
        read_sample_limit: args.read_sample_limit,
        read_frame_bytes_max: args.read_max_bytes_in_frame,
        doors: vec![Endpoint { path: "/api/v1/write".to_owned(), methods: vec!["POST"] }],
        listen_address: addr.to_string(),
        flags: args.shown().into_iter().collect::<BTreeMap<String, String>>(),
        build: build_info(),
    }
}
