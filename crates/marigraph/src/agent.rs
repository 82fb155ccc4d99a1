//! The agent role, from first stage to last: who it is, where rows are kept, discovery and scraping, the
//! push doors, the tunnels.

pub(crate) mod brought;
mod enrolment;
mod explain;
pub(crate) mod home;
mod incarnation;
mod keep;
mod limits;
mod local;
mod nothing;
mod pair;
pub(crate) mod pair_check;
pub(crate) mod reach;
mod ship;
mod stamp;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use hyper_util::service::TowerToHyperService;
use model::{Labels, TenantId};
use prometheus_client::registry::Registry;
use promql::engine::{Engine, EngineOptions};
use receive::ReceiveState;
use stdx::clock::{Clock, SystemClock};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tunnel::identity::{AgentIdentity, Alpn};
use tunnel::policy::{Gate, Policy};
use tunnel::{Connector, DialConfig, DialMetrics, Handler, Hello, HubUrl, OnLost, Proxies, Tunnels};
use web::{ActiveQueries, Auth, Caller, Endpoint, Role, WebMetrics, WebState, Work};

use crate::cli::AgentArgs;
use crate::config::{Config, StorageConfig};
use crate::credentials::{auth, require_credential};
use crate::doors;
use crate::explain::{Found, Own};
use crate::front::Front;
use crate::owner::require_own;
use crate::program::{Beginning, Program, Reloads, build_info, query_log};
use crate::pull::{Pull, PullParts};
use enrolment::{Way, Who};
use explain::Explain;
use home::{Home, HomeMetrics};
use keep::Keep;
use limits::{CentralLimits, Limited};
use pair::{Sharer, Sharing};
use reach::Scraped;
use stamp::Stamping;

/// Held as long as the agent runs, within the data directory.
const LOCK: &str = "lock";
/// Queries of the agent's own API that run at once.
const QUERIES_MAX: usize = 4;

/// An agent at work.
pub struct Agent {
    stages: Arc<Stages>,
    outward: Outward,
    /// Carries out the reloads that are asked for over HTTP.
    reloader: JoinHandle<()>,
    _lock: File,
}

/// What goes out of the cluster: nothing, for an agent without a hub.
struct Outward {
    /// Where there is a queue.
    home: Option<Home>,
    tunnels: Option<Tunnels>,
    /// Keeps the certificate renewed, and tells the tunnels.
    keeping: Option<JoinHandle<()>>,
}

/// Its figures.
struct OutwardMetrics {
    home: HomeMetrics,
    dial: DialMetrics,
}

/// The stages, and what a reload makes the router of.
struct Stages {
    front: Front,
    pull: Arc<Pull>,
    /// As hubs know it.
    name: Found,
    keep: Arc<Keep>,
    storage: StorageConfig,
    /// What hubs may ask for.
    policy: Policy,
    /// What hubs limit.
    limits: Arc<CentralLimits>,
    /// Which building of its cluster it belongs to.
    incarnation: String,
    program: Arc<Program>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    web: WebState,
    receive: ReceiveState,
    /// Answers hubs, as far as the policy allows.
    gate: Handler,
    /// What is behind it.
    pages: Arc<OnceLock<Handler>>,
    /// Whether it shares its targets with others.
    is_paired: bool,
    /// One of several agents that share the targets.
    sharer: OnceLock<Sharer>,
    /// Told when hubs take it for another.
    somebody_else: Notify,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Agent({})", self.addr())
    }
}

impl Agent {
    /// Starts an agent; when it returns, it scrapes and takes pushes. A hub need not be there, unless the
    /// agent has to enrol first.
    ///
    /// # Errors
    /// The address cannot be had, the configuration or a hub's URL is wrong, the token is refused, another
    /// process has the data directory, or its files cannot be read.
    pub async fn start(args: AgentArgs) -> Result<Agent> {
        let clock: Arc<dyn Clock> = SystemClock::shared();
        args.hubs.iter().try_for_each(|url| HubUrl::parse(url).map(drop))?;
        let Beginning { bound, source, config, auth } =
            Beginning::of(&args.listen, args.config.as_deref()).await?;
        let addr = bound.addr;
        warn_of_what_hubs_act_on(&config);
        let front = bound.serve(doors::starting());

        let lock = lock(&args.data)?;
        let connector = Connector::new(match &args.proxy {
            Some(url) => Proxies::configured(url, ""),
            None => Proxies::from_environment(),
        });
        let way = Way(connector);
        let who = Who::of(&args, &way, Arc::clone(&clock)).await?;

        let mut registry = Registry::default();
        front.register_metrics(&mut registry);
        let keep = Arc::new(Keep::open(&args, &config, &who.cluster, &clock, &mut registry).await?);
        let sharing = Sharing::of(&args, who.identity.as_ref(), &config, &mut registry)?;
        let scraping = PullParts {
            turns: pair::turns(sharing.as_ref()),
            appender: Arc::clone(&keep.scraped),
            tenant: TenantId::default(),
            cluster: who.cluster.clone(),
            stamped: who.stamped.clone(),
            central: None,
            clock: Arc::clone(&clock),
        };
        let pull = Arc::new(Pull::new(scraping, &mut registry));
        let policy = Policy::from(config.tunnel.clone());
        let queue = keep.shipping().map(|encoder| encoder.queue().clone());
        let limited = Limited { pull: Arc::clone(&pull), policy: policy.clone(), queue };
        let limits = CentralLimits::open(&args.data, limited);
        let incarnation = incarnation::of(&args)?;
        let (program, reloads) =
            Program::new(source, keep.keeper(), keep.retention(), Arc::clone(&clock), &mut registry);
        let stamping = Stamping::new(Arc::clone(&keep.pushed), who.stamped);
        let receive = doors::receive(Arc::new(stamping), &clock, &mut registry);
        let pages: Arc<OnceLock<Handler>> = Arc::default();
        let targets = Arc::new(Scraped(pull.scraper()));
        let gate = Gate::handler(policy.clone(), targets, behind(&pages), &mut registry);
        let outward =
            OutwardMetrics { home: home::metrics(&mut registry), dial: DialMetrics::register(&mut registry) };
        let web = web_state(&keep, &pull, &program, (clock, registry), web_options(&args, addr));
        let stages = Arc::new(Stages {
            front,
            pull,
            name: named(&who.cluster, who.identity.as_ref()),
            is_paired: sharing.is_some(),
            keep,
            storage: config.storage.clone(),
            policy,
            limits,
            incarnation,
            program,
            reloading: tokio::sync::Mutex::new(()),
            web,
            receive,
            gate,
            pages,
            sharer: OnceLock::new(),
            somebody_else: Notify::new(),
        });
        // Before the first row comes in.
        stages.keep.apply(&config)?;
        stages.apply(&config, auth)?;
        if let Some(sharing) = sharing {
            // Set once.
            let _ = stages
                .sharer
                .set(sharing.start(&stages.pull, pair::lines(&args.hubs, &way.0, who.identity.as_ref())));
        }

        let outward = stages.go_out(&args, way, who.identity, outward)?;
        let reloader = tokio::spawn(serve_reloads(Arc::clone(&stages), reloads));
        Ok(Agent { stages, outward, reloader, _lock: lock })
    }

    /// Where its own API listens.
    pub fn addr(&self) -> SocketAddr {
        self.stages.front.addr
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

    /// Waits until the hubs say that this agent's own certificate is another cluster's now. What it stamps on series is
    /// settled at its start: it is to be stopped and started again, with the same arguments.
    pub async fn is_somebody_else(&self) {
        self.stages.somebody_else.notified().await;
    }

    /// Stops in the order data flows: scraping, the doors, then the queue, whose last block is written and
    /// synced, and the store; what hubs have not taken yet waits in the queue for the next start.
    ///
    /// # Errors
    /// The last rows could not be written.
    pub async fn stop(self) -> Result<()> {
        self.reloader.abort();
        let Outward { home, tunnels, keeping } = self.outward;
        keeping.iter().for_each(JoinHandle::abort);
        let stages = self.stages;
        stages.program.stopping();
        if let Some(sharer) = stages.sharer.get() {
            sharer.leave(&stages.pull).await;
        }
        stages.pull.stop().await;
        stages.front.stop().await;
        let kept = stages.keep.stop().await;
        if let Some(home) = home {
            home.stop().await;
        }
        if let Some(tunnels) = tunnels {
            tunnels.stop().await;
        }
        kept
    }
}

impl Stages {
    /// Puts a checked configuration in force: scraping, then who may call and what answers.
    fn apply(&self, config: &Config, auth: Auth) -> Result<()> {
        let query_log = query_log(config)?;
        self.keep.check(config)?;
        self.pull.apply(config)?;
        self.keep.apply(config)?;
        self.web.query_log.install(query_log);
        self.policy.replace(config.tunnel.clone());
        let machine = config.machine.as_ref().map(|machine| machine.path.as_str());
        let doors = doors::router(self.receive.clone(), machine).merge(self.explain().router());
        let external_labels = config.global.external_labels.clone();
        let web = WebState { auth: Arc::new(auth), external_labels, ..self.web.clone() };
        self.front.replace(web::router_with(web, doors));
        self.program.in_force(config);
        Ok(())
    }

    /// What answers hubs, which are readers here, whoever else may call. What they add to series, they add themselves.
    fn for_readers(&self) -> axum::Router {
        let reader = Caller::new(TenantId::default(), Role::Read);
        web::router(WebState { auth: Arc::new(Auth::everybody(reader)), ..self.web.clone() })
    }

    /// What tells why a target is not scraped.
    fn explain(&self) -> Explain {
        Explain {
            name: self.name.clone(),
            own: Own(self.for_readers()),
            pull: Arc::clone(&self.pull),
            keep: Arc::clone(&self.keep),
            is_paired: self.is_paired,
            clock: Arc::clone(&self.web.clock),
        }
    }

    /// Reads the configuration again; after an error the old one stays in force.
    async fn reload(&self) -> Result<()> {
        let _one_at_a_time = self.reloading.lock().await;
        let read = || {
            let config = self.program.source.load()?;
            let auth = auth(&config.web_auth)?;
            require_credential(self.front.addr, &auth)?;
            if config.storage.until_restart() != self.storage.until_restart() {
                tracing::warn!("storage: what has changed takes effect with the next start");
            }
            self.apply(&config, auth)
        };
        let outcome = read();
        self.program.reloaded(&outcome);
        outcome
    }

    /// Starts what brings rows home, and opens the tunnels.
    fn go_out(
        self: &Arc<Self>,
        args: &AgentArgs,
        way: Way,
        identity: Option<Arc<AgentIdentity>>,
        metrics: OutwardMetrics,
    ) -> Result<Outward> {
        let clock = &self.web.clock;
        let args = args.clone();
        let urls = args.hubs.iter().map(|url| HubUrl::parse(url)).collect::<Result<Vec<HubUrl>, _>>()?;
        let connector = way.0.clone();
        let start = |encoder| Home::start(metrics.home, encoder, &urls, &connector, identity.as_ref(), clock);
        let home = self.keep.shipping().map(start).transpose()?;
        let Some(identity) = identity else { return Ok(Outward { home, tunnels: None, keeping: None }) };
        let (lines, lost) = (home.as_ref().map(Home::on_tunnel_lost), Arc::new(Notify::new()));
        let heard = Arc::clone(&lost);
        let on_lost = OnLost::new(move |hub| {
            lines.iter().for_each(|told| told(hub));
            heard.notify_one();
        });
        let tunnels = self.dial(urls, &connector, &identity, (metrics.dial, on_lost));
        let stages = Arc::downgrade(self);
        let keeping = tokio::spawn(async move {
            // Where there is something to keep, until this agent is somebody else.
            let own = async {
                if args.own.ca_file.is_some() {
                    brought::keep(&args, &identity, &way, &lost).await;
                    stages.upgrade().iter().for_each(|stages| stages.somebody_else.notify_one());
                }
            };
            tokio::join!(identity.keep_renewed(&way, &args.hubs), own);
        });
        Ok(Outward { home, tunnels: Some(tunnels), keeping: Some(keeping) })
    }

    /// Opens the tunnels; through them hubs see what [`reach`] lists.
    fn dial(
        self: &Arc<Self>,
        hubs: Vec<HubUrl>,
        connector: &Connector,
        identity: &Arc<AgentIdentity>,
        (metrics, lost): (DialMetrics, OnLost),
    ) -> Tunnels {
        let clock = &self.web.clock;
        let started_ms = clock.now_ms();
        let stages = Arc::downgrade(self);
        let status = Arc::new(move || {
            let mut status = serde_json::Map::new();
            status.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
            status.insert("started_ms".to_owned(), started_ms.into());
            if let Some(stages) = stages.upgrade() {
                stages.keep.status(&mut status);
                status.insert("troubles".to_owned(), stages.pull.troubles().into());
                status.insert("incarnation".to_owned(), stages.incarnation.as_str().into());
                status.insert("targets".to_owned(), reach::target_counts(&stages.pull.scraper()));
                status.insert("limits".to_owned(), stages.limits.status());
                if let Some(sharer) = stages.sharer.get() {
                    status.insert("pair".to_owned(), sharer.status());
                }
            }
            status.into()
        });
        let api = self.for_readers();
        let pages = reach::pages(self.pull.scraper(), status, api).merge(self.limits.door());
        let own = Handler::new(TowerToHyperService::new(pages));
        let handler = self.gate.clone();
        // Set once: there is one agent.
        let _ = self.pages.set(own);
        let mut config = DialConfig::new(hubs, follow(identity));
        config.connector = connector.clone();
        config.metrics = metrics;
        config.lost = lost;
        let (version, incarnation) = (env!("CARGO_PKG_VERSION").to_owned(), self.incarnation.clone());
        config.hello = Hello { version, started_ms, incarnation };
        Tunnels::start(config, &handler, clock)
    }
}

/// What of a configuration is passed over here.
fn warn_of_what_hubs_act_on(config: &Config) {
    if !config.fleet.client_authorities.is_empty() {
        tracing::warn!("fleet: is for hubs; an agent does not act on it");
    }
    if !config.proxy.doors.is_empty() {
        tracing::warn!("proxy: is for hubs; an agent does not act on it");
    }
}

/// What the API works with; who may call is settled when a configuration is put in force.
fn web_state(
    keep: &Keep,
    pull: &Arc<Pull>,
    program: &Arc<Program>,
    (clock, mut registry): (Arc<dyn Clock>, Registry),
    options: web::Options,
) -> WebState {
    let metrics = WebMetrics::register(&mut registry);
    WebState {
        engine: Arc::new(Engine::new(EngineOptions::default())),
        store: keep.queryable(),
        admin: keep.admin(),
        targets: pull.clone(),
        lifecycle: program.clone(),
        clock,
        registry: Arc::new(registry),
        metrics,
        auth: Arc::new(Auth::default()),
        work: Work::new(QUERIES_MAX, QUERIES_MAX),
        external_labels: Labels::empty(),
        query_log: Arc::default(),
        active_queries: Arc::new(ActiveQueries::default()),
        completeness: None,
        notifications: Arc::clone(&program.notifications),
        options: Arc::new(options),
    }
}

/// Cluster and agent as the certificate says, or the cluster that was given and this machine's name.
fn named(cluster: &str, identity: Option<&Arc<AgentIdentity>>) -> Found {
    let enrolled = identity.and_then(|identity| identity.current()).map(|who| who.agent_id);
    Found { cluster: cluster.to_owned(), agent: enrolled.unwrap_or_else(pair::hostname) }
}

/// The agent's own pages, once they are there.
fn behind(pages: &Arc<OnceLock<Handler>>) -> Handler {
    let pages = Arc::clone(pages);
    Handler::from_fn(move |request| {
        let pages = pages.get().cloned();
        async move {
            match pages {
                Some(pages) => pages.call(request).await,
                // Tunnels are dialled after the pages are there.
                None => http::Response::default()
                    .map(|()| http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()),
            }
        }
    })
}

/// The TLS configuration of tunnels, again with each new certificate.
fn follow(identity: &Arc<AgentIdentity>) -> watch::Receiver<Arc<rustls::ClientConfig>> {
    let config = |identity: &AgentIdentity| identity.tls().client_config(Alpn::Http1);
    let (sender, receiver) = watch::channel(config(identity));
    let (identity, mut changes) = (Arc::clone(identity), identity.changes());
    tokio::spawn(async move {
        while changes.changed().await.is_ok() && sender.send(config(&identity)).is_ok() {}
    });
    receiver
}

/// One process for a data directory.
fn lock(data: &Path) -> Result<File> {
    require_own(data, LOCK)?;
    let path = data.join(LOCK);
    std::fs::create_dir_all(data).with_context(|| format!("make {}", data.display()))?;
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("{} is in use by another agent", data.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

async fn serve_reloads(stages: Arc<Stages>, mut reloads: Reloads) {
    while let Some(reply) = reloads.recv().await {
        let outcome = stages.reload().await.map_err(|error| format!("{error:#}"));
        // The client that asked may have gone.
        let _ = reply.send(outcome);
    }
}

fn web_options(args: &AgentArgs, addr: SocketAddr) -> web::Options {
    web::Options {
        enable_lifecycle: true,
        doors: vec![Endpoint { path: "/api/v1/write".to_owned(), methods: vec!["POST"] }],
        listen_address: addr.to_string(),
        flags: args.shown().into_iter().collect::<BTreeMap<String, String>>(),
        build: build_info(),
        ..web::Options::default()
    }
}
