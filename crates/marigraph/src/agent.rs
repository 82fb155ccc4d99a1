//! The agent role, from first stage to last: who it is, the queue, discovery and scraping, the push
//! doors, the tunnels.

mod enrolment;
mod home;
mod nothing;
pub(crate) mod reach;
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
use queue::Queue;
use receive::{ReceiveConfig, ReceiveMetrics, ReceiveState};
use remote::{Encoder, EncoderConfig, EncoderMetrics, Prompt};
use stdx::clock::{Clock, SystemClock};
use stdx::disk::RealDisk;
use storage::Appender;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tunnel::identity::{AgentIdentity, Alpn, PeerIdentity};
use tunnel::policy::{Gate, PolicyConfig};
use tunnel::{Connector, DialConfig, DialMetrics, Handler, Hello, HubUrl, Proxies, Tunnels};
use web::{ActiveQueries, Auth, Caller, Endpoint, Role, WebMetrics, WebState, Work};

use crate::cli::AgentArgs;
use crate::config::Config;
use crate::hub::front::{Bound, Front};
use crate::hub::{auth, doors, require_credential};
use crate::program::{ConfigSource, Program, Reloads, build_info};
use crate::pull::{Pull, PullParts};
use crate::remote_writes::RemoteWrites;
use enrolment::Way;
use home::Home;
use nothing::Nothing;
use reach::Scraped;
use stamp::Stamping;

/// The queue, within the data directory.
const QUEUE: &str = "queue";
/// Held as long as the agent runs, within the data directory.
const LOCK: &str = "lock";
/// Queries of the agent's own API that run at once.
const QUERIES_MAX: usize = 4;

/// An agent at work.
pub struct Agent {
    stages: Arc<Stages>,
    tunnels: Tunnels,
    home: Home,
    /// Keeps the certificate renewed, and tells the tunnels.
    keeping: Vec<JoinHandle<()>>,
    /// Carries out the reloads that are asked for over HTTP.
    reloader: JoinHandle<()>,
    _lock: File,
}

/// The stages, and what a reload makes the router of.
struct Stages {
    front: Front,
    pull: Arc<Pull>,
    encoder: Arc<Encoder>,
    remote_writes: RemoteWrites,
    program: Arc<Program>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    web: WebState,
    receive: ReceiveState,
    /// Answers hubs, as far as the policy allows.
    gate: Handler,
    /// What is behind it.
    pages: Arc<OnceLock<Handler>>,
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
        let hubs = args.hubs.iter().map(|url| HubUrl::parse(url)).collect::<Result<Vec<HubUrl>, _>>()?;
        let bound = Bound::to(&args.listen).await?;
        let addr = bound.addr;
        let source = match &args.config {
            Some(path) => ConfigSource::File(path.clone()),
            None => ConfigSource::Embedded(addr),
        };
        let config = source.load()?;
        let auth = auth(&config.web_auth)?;
        require_credential(addr, &auth)?;
        let front = bound.serve(doors::starting());

        let lock = lock(&args.data)?;
        let connector = Connector::new(match &args.proxy {
            Some(url) => Proxies::configured(url, ""),
            None => Proxies::from_environment(),
        });
        let way = Way(connector.clone());
        let (identity, who) = enrolment::identity(&args, &way, Arc::clone(&clock)).await?;
        let stamped = stamped(&who);
        tracing::info!(cluster = who.cluster, agent = who.agent_id, labels = %stamped, "this agent");

        let mut registry = Registry::default();
        let encoder = open_queue(&args, &who.cluster, &clock, &mut registry).await?;
        let remote_writes = RemoteWrites::over(encoder.queue().clone(), Arc::clone(&clock), &mut registry);
        let scraping = PullParts {
            appender: Arc::clone(&encoder) as Arc<dyn Appender>,
            tenant: TenantId::default(),
            cluster: who.cluster.clone(),
            stamped: stamped.clone(),
            clock: Arc::clone(&clock),
        };
        let pull = Arc::new(Pull::new(scraping, &mut registry));
        let (program, reloads) = Program::new(
            source,
            Arc::new(nothing::Keeping(encoder.queue().clone())),
            String::new(),
            Arc::clone(&clock),
            &mut registry,
        );
        let receive_metrics = ReceiveMetrics::default();
        receive_metrics.register(&mut registry);
        let receive = ReceiveState {
            appender: Arc::new(Stamping::new(Arc::new(Prompt(Arc::clone(&encoder))), stamped)),
            clock: Arc::clone(&clock),
            config: ReceiveConfig::default(),
            metrics: receive_metrics,
        };
        let pages: Arc<OnceLock<Handler>> = Arc::default();
        let targets = Arc::new(Scraped(pull.scraper()));
        let gate = Gate::handler(PolicyConfig::default(), targets, behind(&pages), &mut registry);
        let home = home::metrics(&mut registry);
        let tunnel_metrics = DialMetrics::register(&mut registry);
        let web_metrics = WebMetrics::register(&mut registry);
        let web = WebState {
            engine: Arc::new(Engine::new(EngineOptions::default())),
            store: Arc::new(Nothing),
            admin: Arc::new(Nothing),
            targets: pull.clone(),
            lifecycle: program.clone(),
            clock: Arc::clone(&clock),
            registry: Arc::new(registry),
            metrics: web_metrics,
            auth: Arc::new(Auth::default()),
            work: Work::new(QUERIES_MAX, QUERIES_MAX),
            external_labels: Labels::empty(),
            query_log: Arc::default(),
            active_queries: Arc::new(ActiveQueries::default()),
            completeness: None,
            notifications: Arc::clone(&program.notifications),
            options: Arc::new(web_options(&args, addr)),
        };
        let stages = Arc::new(Stages {
            front,
            pull,
            encoder,
            remote_writes,
            program,
            reloading: tokio::sync::Mutex::new(()),
            web,
            receive,
            gate,
            pages,
        });
        // Before the first row comes in.
        stages.remote_writes.apply(&config.remote_writes)?;
        stages.apply(&config, auth)?;

        let home = Home::start(home, &stages.encoder, &hubs, &connector, &identity, &clock)?;
        let tunnels = stages.dial(hubs, &connector, &identity, tunnel_metrics);
        let hub_urls = args.hubs.clone();
        let renewing = Arc::clone(&identity);
        let keeping = vec![tokio::spawn(async move { renewing.keep_renewed(&way, &hub_urls).await })];
        let reloader = tokio::spawn(serve_reloads(Arc::clone(&stages), reloads));
        Ok(Agent { stages, tunnels, home, keeping, reloader, _lock: lock })
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

    /// Stops in the order data flows: scraping, the doors, then the queue, whose last block is written and
    /// synced; what hubs have not taken yet waits there for the next start.
    ///
    /// # Errors
    /// The last block could not be written.
    pub async fn stop(self) -> Result<()> {
        self.reloader.abort();
        self.keeping.iter().for_each(JoinHandle::abort);
        let stages = self.stages;
        stages.program.stopping();
        stages.pull.stop().await;
        stages.front.stop().await;
        let encoder = Arc::clone(&stages.encoder);
        let flushed = tokio::task::spawn_blocking(move || encoder.flush()).await?;
        stages.remote_writes.stop().await;
        self.home.stop().await;
        self.tunnels.stop().await;
        flushed.context("write the last block to the queue")
    }
}

impl Stages {
    /// Puts a checked configuration in force: scraping, then who may call and what answers.
    fn apply(&self, config: &Config, auth: Auth) -> Result<()> {
        self.remote_writes.clients(&config.remote_writes)?;
        self.pull.apply(config)?;
        self.remote_writes.apply(&config.remote_writes)?;
        let machine = config.machine.as_ref().map(|machine| machine.path.as_str());
        let doors = doors::router(self.receive.clone(), machine);
        let web = WebState { auth: Arc::new(auth), ..self.web.clone() };
        self.front.replace(web::router_with(web, doors));
        self.program.in_force(config);
        Ok(())
    }

    /// Reads the configuration again; after an error the old one stays in force.
    async fn reload(&self) -> Result<()> {
        let _one_at_a_time = self.reloading.lock().await;
        let read = || {
            let config = self.program.source.load()?;
            let auth = auth(&config.web_auth)?;
            require_credential(self.front.addr, &auth)?;
            self.apply(&config, auth)
        };
        let outcome = read();
        self.program.reloaded(outcome.is_ok());
        match &outcome {
            Ok(()) => tracing::info!("configuration reloaded"),
            Err(error) => {
                tracing::error!("reload failed, the last good configuration stays in force: {error:#}")
            }
        }
        outcome
    }

    /// Opens the tunnels; through them hubs see what [`reach`] lists.
    fn dial(
        &self,
        hubs: Vec<HubUrl>,
        connector: &Connector,
        identity: &Arc<AgentIdentity>,
        metrics: DialMetrics,
    ) -> Tunnels {
        let clock = &self.web.clock;
        let queue = self.encoder.queue().clone();
        let started_ms = clock.now_ms();
        let status = Arc::new(move || status(&queue, started_ms));
        // Hubs are readers here, whoever else may call.
        let reader = Caller::new(TenantId::default(), Role::Read);
        let api = web::router(WebState { auth: Arc::new(Auth::everybody(reader)), ..self.web.clone() });
        let pages = reach::pages(self.pull.scraper(), status, api);
        let own = Handler::new(TowerToHyperService::new(pages));
        let handler = self.gate.clone();
        // Set once: there is one agent.
        let _ = self.pages.set(own);
        let mut config = DialConfig::new(hubs, follow(identity));
        config.connector = connector.clone();
        config.metrics = metrics;
        config.hello = Hello { version: env!("CARGO_PKG_VERSION").to_owned(), started_ms };
        Tunnels::start(config, &handler, clock)
    }
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

/// What every series of this agent carries.
fn stamped(who: &PeerIdentity) -> Labels {
    let further = who.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Labels::from_pairs(further.chain([("cluster", who.cluster.as_str())]))
}

/// One process for a data directory.
fn lock(data: &Path) -> Result<File> {
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

async fn open_queue(
    args: &AgentArgs,
    cluster: &str,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
) -> Result<Arc<Encoder>> {
    let options = queue::Options {
        bytes_max: args.queue_bytes_max,
        age_max: args.queue_age_max,
        ..queue::Options::default()
    };
    let (directory, opening) = (args.data.join(QUEUE), Arc::clone(clock));
    let shown = directory.display().to_string();
    let open = move || queue::open(RealDisk::shared(), &directory, opening, options);
    let opened =
        tokio::task::spawn_blocking(open).await?.with_context(|| format!("open the queue in {shown}"))?;
    let metrics = EncoderMetrics::default();
    metrics.register(registry);
    let config = EncoderConfig { cluster: cluster.to_owned(), ..EncoderConfig::default() };
    Ok(Encoder::new(opened.writer, Arc::clone(clock), config, metrics))
}

fn status(queue: &Queue, started_ms: i64) -> serde_json::Value {
    let stats = queue.stats();
    serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started_ms": started_ms,
        "queue": { "segments": stats.segments, "bytes": stats.bytes },
    })
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
