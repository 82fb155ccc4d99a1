//! The command line. Flags are for what cannot be reloaded; each is also an environment variable.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tunnel::HubUrl;

use crate::verbs::backup::{BackupArgs, RestoreArgs};
use crate::verbs::check::{MetricsArgs, ProbeArgs};
use crate::verbs::fleet::FleetArgs;
use crate::verbs::fleet::listing::ExplainVerb;
use crate::verbs::ledger::{DrillVerb, LedgerVerb};
use crate::verbs::limits::LimitsVerb;
use crate::verbs::membership::{AgentVerb, AgentsVerb, CaVerb, HubVerb, TokenVerb};
use crate::verbs::promql::PromqlVerb;
use crate::verbs::push::PushVerb;
use crate::verbs::query::QueryArgs;
use crate::verbs::tsdb::TsdbVerb;

/// The program's arguments.
#[derive(Debug, Parser)]
#[command(
    name = "marigraph",
    version,
    about = "Metrics of many clusters, home without a gap",
    long_about = "Marigraph scrapes, receives, stores and answers metrics the way Prometheus does: it takes \
                  prometheus.yml as it is and speaks Prometheus' HTTP API, so Grafana, promtool and remote-write \
                  senders work unchanged.\n\nOne scrape is one row, from target to disk: that is why it is small \
                  and why no gap goes unnoticed.",
    after_long_help = "Examples:\n  \
        marigraph hub                                  this machine's metrics on http://127.0.0.1:9190\n  \
        marigraph hub --config prometheus.yml --data /var/lib/marigraph --retention.time 90d\n  \
        marigraph check config prometheus.yml          errors with file, line and column, without starting\n  \
        marigraph tsdb import --data data /var/lib/prometheus    takes over what Prometheus has\n  \
        marigraph query instant http://127.0.0.1:9190 'up == 0'\n  \
        marigraph fleet gaps --since 6h                what is missing, where, and why\n  \
        marigraph backup /backups --url http://127.0.0.1:9190 --keep 7\n  \
        marigraph restore /backups --data /var/lib/marigraph\n\n\
        Signals:\n  \
        SIGHUP reloads the configuration (all or nothing); SIGTERM and SIGINT stop when the log is on the disk."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Scrape, receive, store and answer
    Hub(Box<HubCommand>),
    /// Scrape and receive in a cluster; queue on disk and send to hubs and receivers, or keep the data there
    Agent(Box<AgentCommand>),
    /// Make, list and revoke tokens: of agents, of callers, of hubs
    Token {
        /// What to do.
        #[command(subcommand)]
        verb: TokenVerb,
    },
    /// List and revoke agents
    Agents {
        /// What to do.
        #[command(subcommand)]
        verb: AgentsVerb,
    },
    /// Limits for the agents of a cluster, given by a hub
    Limits {
        /// What to do.
        #[command(subcommand)]
        verb: LimitsVerb,
    },
    /// The fleet's roots: show, replace, export, import
    Ca {
        /// What to do.
        #[command(subcommand)]
        verb: CaVerb,
    },
    /// Look into stores and Prometheus' blocks; export to them, import from them
    Tsdb {
        /// What to do.
        #[command(subcommand)]
        verb: TsdbVerb,
    },
    /// Say what is wrong, without starting anything
    Check {
        /// What to check.
        #[command(subcommand)]
        what: Check,
    },
    /// Ask a Prometheus-compatible server from the terminal
    Query(QueryArgs),
    /// Format and change queries, without a server
    Promql {
        /// What to do.
        #[command(subcommand)]
        verb: PromqlVerb,
    },
    /// Send metrics to a receiver of remote write
    Push {
        /// What to send.
        #[command(subcommand)]
        verb: PushVerb,
    },
    /// Show clusters and gaps: what was due, what is stored, what is missing and why
    Fleet(Box<FleetArgs>),
    /// Say what happens to a target, step by step
    Explain {
        /// What to explain.
        #[command(subcommand)]
        verb: ExplainVerb,
    },
    /// Check what the ledger says
    Ledger {
        /// What to do.
        #[command(subcommand)]
        verb: LedgerVerb,
    },
    /// Break something on purpose, to see that it shows
    Drill {
        /// What to break.
        #[command(subcommand)]
        verb: DrillVerb,
    },
    /// Copy the store, while the hub runs or not
    Backup(BackupArgs),
    /// Put a backup into a new data directory
    Restore(RestoreArgs),
}

/// What can be checked.
#[derive(Debug, Subcommand)]
pub enum Check {
    /// A configuration file, as `hub --config` would read it
    Config {
        /// The file (prometheus.yml, as it is, plus our own sections)
        file: PathBuf,
    },
    /// An exposition: whether it can be read, and whether its metrics are named as people expect
    Metrics(MetricsArgs),
    /// Whether a server is alive
    Healthy(ProbeArgs),
    /// Whether a server is ready to answer
    Ready(ProbeArgs),
}

/// `marigraph hub`, or a verb about a running one.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct HubCommand {
    /// What to do instead of running.
    #[command(subcommand)]
    pub verb: Option<HubVerb>,
    /// How to run.
    #[command(flatten)]
    pub run: HubArgs,
}

/// Who may speak plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlaintextFor {
    /// Callers on this machine
    Loopback,
    /// Everybody
    Everywhere,
    /// Nobody
    Never,
}

/// Flags of `marigraph hub`.
#[derive(Debug, Clone, Args)]
pub struct HubArgs {
    /// Configuration file; without it the hub scrapes itself and this machine
    #[arg(long = "config", value_name = "FILE", env = "MARIGRAPH_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where the store lives; made when it is not there
    #[arg(long = "data", value_name = "DIR", default_value = "./data", env = "MARIGRAPH_DATA")]
    pub data: PathBuf,
    /// Address of the HTTP API, the page and the push doors; off loopback the configuration must
    /// have a credential (`web: auth:`)
    #[arg(
        long = "listen",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9190",
        value_parser = parse_listen,
        env = "MARIGRAPH_LISTEN"
    )]
    pub listen: String,
    /// Who may speak plaintext on that address, where agents and everybody else speak TLS
    #[arg(
        long = "tls.plaintext",
        value_name = "WHO",
        default_value = "loopback",
        env = "MARIGRAPH_TLS_PLAINTEXT"
    )]
    pub plaintext: PlaintextFor,
    /// A further name or address of this hub, for its certificate; may be given several times
    #[arg(long = "tls.name", value_name = "NAME", env = "MARIGRAPH_TLS_NAMES", value_delimiter = ',')]
    pub names: Vec<String>,
    /// Certificate of your own authority, PEM, for everybody but agents without --hub.ca-file; read again when it changes
    #[arg(
        long = "tls.cert-file",
        value_name = "FILE",
        requires = "tls_key_file",
        env = "MARIGRAPH_TLS_CERT_FILE"
    )]
    pub tls_cert_file: Option<PathBuf>,
    /// The key of that certificate, PEM
    #[arg(
        long = "tls.key-file",
        value_name = "FILE",
        requires = "tls_cert_file",
        env = "MARIGRAPH_TLS_KEY_FILE"
    )]
    pub tls_key_file: Option<PathBuf>,
    /// Where agents reach this hub (https://host:port); goes into their tokens
    #[arg(
        long = "advertise",
        value_name = "URL",
        default_value = "",
        hide_default_value = true,
        value_parser = parse_advertised,
        env = "MARIGRAPH_ADVERTISE"
    )]
    pub advertise: String,
    /// Another hub of the fleet (https://host:port), if neither joined the other; may be given several times
    #[arg(
        long = "peer",
        value_name = "URL",
        value_parser = parse_hub_url,
        env = "MARIGRAPH_PEERS",
        value_delimiter = ','
    )]
    pub peers: Vec<String>,
    /// How long samples are kept (30d, 1y, ...); 0 keeps them for ever
    #[arg(
        long = "retention.time",
        value_name = "DURATION",
        default_value = "15d",
        value_parser = parse_duration,
        env = "MARIGRAPH_RETENTION_TIME"
    )]
    pub retention_time: Duration,
    /// How many bytes the store may take (512MB, 50GB, ...); 0 sets no limit
    #[arg(
        long = "retention.size",
        value_name = "BYTES",
        default_value = "0",
        value_parser = parse_size,
        env = "MARIGRAPH_RETENTION_SIZE"
    )]
    pub retention_size: u64,
    /// Time between a write and its fdatasync: what a power cut may cost at a push door; 0 syncs at once
    #[arg(
        long = "commit.interval",
        value_name = "DURATION",
        default_value = "200ms",
        value_parser = parse_duration,
        env = "MARIGRAPH_COMMIT_INTERVAL"
    )]
    pub commit_interval: Duration,
    /// Let /api/v1/admin/* delete series and make snapshots
    #[arg(long = "web.enable-admin-api", env = "MARIGRAPH_WEB_ENABLE_ADMIN_API")]
    pub enable_admin_api: bool,
    /// Let POST /-/reload and /-/quit act (SIGHUP and SIGTERM always do)
    #[arg(
        long = "web.enable-lifecycle",
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set,
        env = "MARIGRAPH_WEB_ENABLE_LIFECYCLE"
    )]
    pub enable_lifecycle: bool,
    /// Longest a query may run
    #[arg(
        long = "query.timeout",
        value_name = "DURATION",
        default_value = "2m",
        value_parser = parse_duration,
        env = "MARIGRAPH_QUERY_TIMEOUT"
    )]
    pub query_timeout: Duration,
    /// Most samples a query may hold in memory
    #[arg(
        long = "query.max-samples",
        value_name = "COUNT",
        default_value_t = 50_000_000,
        env = "MARIGRAPH_QUERY_MAX_SAMPLES"
    )]
    pub query_max_samples: u64,
    /// Most queries that run at once
    #[arg(
        long = "query.max-concurrency",
        value_name = "COUNT",
        default_value_t = 20,
        env = "MARIGRAPH_QUERY_MAX_CONCURRENCY"
    )]
    pub query_max_concurrency: usize,
    /// Longest an agent that keeps data of its own may take for its part of a query
    #[arg(
        long = "query.agent-timeout",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = parse_duration,
        env = "MARIGRAPH_QUERY_AGENT_TIMEOUT"
    )]
    pub query_agent_timeout: Duration,
    /// Most bytes that agents' parts of one query may take in memory
    #[arg(
        long = "query.agent-max-bytes",
        value_name = "BYTES",
        default_value = "512MB",
        value_parser = parse_size_in_memory,
        env = "MARIGRAPH_QUERY_AGENT_MAX_BYTES"
    )]
    pub query_agent_bytes_max: usize,
    /// How far back an instant selector looks for a sample
    #[arg(
        long = "query.lookback-delta",
        value_name = "DURATION",
        default_value = "5m",
        value_parser = parse_duration,
        env = "MARIGRAPH_QUERY_LOOKBACK_DELTA"
    )]
    pub query_lookback: Duration,
    /// Most samples of a remote read that is not a stream; 0 sets no limit
    #[arg(
        long = "storage.remote.read-sample-limit",
        value_name = "COUNT",
        default_value_t = 50_000_000,
        env = "MARIGRAPH_STORAGE_REMOTE_READ_SAMPLE_LIMIT"
    )]
    pub read_sample_limit: u64,
    /// Most remote reads that are answered at once
    #[arg(
        long = "storage.remote.read-concurrent-limit",
        value_name = "COUNT",
        default_value_t = 10,
        env = "MARIGRAPH_STORAGE_REMOTE_READ_CONCURRENT_LIMIT"
    )]
    pub read_concurrent_limit: usize,
    /// About how many bytes a frame of a streamed remote read has
    #[arg(
        long = "storage.remote.read-max-bytes-in-frame",
        value_name = "BYTES",
        default_value_t = 1 << 20,
        env = "MARIGRAPH_STORAGE_REMOTE_READ_MAX_BYTES_IN_FRAME"
    )]
    pub read_max_bytes_in_frame: usize,
}

/// `marigraph agent`, or a verb about one.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct AgentCommand {
    /// What to do instead of running.
    #[command(subcommand)]
    pub verb: Option<AgentVerb>,
    /// How to run.
    #[command(flatten)]
    pub run: AgentArgs,
}

/// Flags of `marigraph agent`.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// A hub to send to (https://host:port); may be given several times: each gets everything. Without one, rows
    /// go to the receivers of `remote_write` and to a store of the agent's own (`storage: local`)
    #[arg(long = "hub", value_name = "URL", env = "MARIGRAPH_HUBS", value_delimiter = ',')]
    pub hubs: Vec<String>,
    /// Without a hub: the cluster this agent stands in, a label of all its series. With one, the certificate
    /// says so
    #[arg(long = "cluster", value_name = "NAME", conflicts_with = "hubs", env = "MARIGRAPH_CLUSTER")]
    pub cluster: Option<String>,
    /// Token of `marigraph token create`, needed once: afterwards the agent has a certificate that it
    /// renews itself
    #[arg(
        long = "token",
        value_name = "TOKEN",
        requires = "hubs",
        env = "MARIGRAPH_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
    /// File with the token
    #[arg(
        long = "token-file",
        value_name = "FILE",
        conflicts_with = "token",
        requires = "hubs",
        env = "MARIGRAPH_TOKEN_FILE"
    )]
    pub token_file: Option<PathBuf>,
    /// The agent's own certificates.
    #[command(flatten)]
    pub own: OwnCertificateArgs,
    /// Configuration file; without it the agent scrapes itself and this machine
    #[arg(long = "config", value_name = "FILE", env = "MARIGRAPH_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where identity, queue and store live; made when it is not there
    #[arg(long = "data", value_name = "DIR", default_value = "./agent-data", env = "MARIGRAPH_DATA")]
    pub data: PathBuf,
    /// Address of the agent's own API and push doors
    #[arg(
        long = "listen",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9191",
        value_parser = parse_listen,
        env = "MARIGRAPH_LISTEN"
    )]
    pub listen: String,
    /// HTTP proxy on the way to hubs (http://user:password@host:port); without it HTTPS_PROXY and
    /// NO_PROXY count
    #[arg(long = "proxy", value_name = "URL", env = "MARIGRAPH_PROXY")]
    pub proxy: Option<String>,
    /// How many bytes may wait for hubs that do not answer; past it the oldest are dropped, and accounted for
    #[arg(
        long = "queue.max-bytes",
        value_name = "BYTES",
        default_value = "8GB",
        value_parser = parse_size,
        env = "MARIGRAPH_QUEUE_MAX_BYTES"
    )]
    pub queue_bytes_max: u64,
    /// How long rows may wait; older ones are dropped, and accounted for
    #[arg(
        long = "queue.max-age",
        value_name = "DURATION",
        default_value = "7d",
        value_parser = parse_duration,
        env = "MARIGRAPH_QUEUE_MAX_AGE"
    )]
    pub queue_age_max: Duration,
    /// Share the targets with other agents of the cluster, by leases in this directory, which all of them have
    #[arg(long = "pair.leases", value_name = "DIR", env = "MARIGRAPH_PAIR_LEASES")]
    pub pair_leases: Option<PathBuf>,
    /// This agent's name among them, its own and always the same; without it that of its certificate, or the host's
    #[arg(long = "pair.name", value_name = "NAME", requires = "pair_leases", env = "MARIGRAPH_PAIR_NAME")]
    pub pair_name: Option<String>,
    /// An agent that has not renewed its lease for this long is gone, and others take its targets over
    #[arg(
        long = "pair.lease-duration",
        value_name = "DURATION",
        default_value = "8s",
        value_parser = parse_lease_duration,
        env = "MARIGRAPH_PAIR_LEASE_DURATION"
    )]
    pub pair_duration: Duration,
    /// Which building of its cluster this agent belongs to, for agents that stand side by side without leases: hubs
    /// raise an alarm when two are there at once. Without it a random name, kept with the leases or the data
    #[arg(long = "incarnation", value_name = "NAME", env = "MARIGRAPH_INCARNATION")]
    pub incarnation: Option<String>,
    /// While the leases cannot be read an agent goes on with the targets it had for this long, as long as the others
    /// say by way of a hub that they know; 0 stops with its lease
    #[arg(
        long = "pair.keep-share",
        value_name = "DURATION",
        default_value = "15m",
        value_parser = parse_duration,
        env = "MARIGRAPH_PAIR_KEEP_SHARE"
    )]
    pub pair_keep: Duration,
}

/// Certificates of your own authorities, between agent and hub; read again when the files change.
#[derive(Debug, Clone, Default, Args)]
pub struct OwnCertificateArgs {
    /// Authority that hubs' certificates may be from, PEM, beside the fleet's root: for hubs with --tls.cert-file. The
    /// name in --hub has to be in the hub's certificate then
    #[arg(long = "hub.ca-file", value_name = "FILE", env = "MARIGRAPH_HUB_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// Client certificate of an authority that the hubs' configuration names (`fleet: client_authorities`), PEM; no token
    /// is needed then
    #[arg(
        long = "hub.cert-file",
        value_name = "FILE",
        requires_all = ["key_file", "ca_file"],
        env = "MARIGRAPH_HUB_CERT_FILE"
    )]
    pub cert_file: Option<PathBuf>,
    /// The key of that certificate, PEM
    #[arg(
        long = "hub.key-file",
        value_name = "FILE",
        requires = "cert_file",
        env = "MARIGRAPH_HUB_KEY_FILE"
    )]
    pub key_file: Option<PathBuf>,
}

/// Logging flags.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Least severity that is logged, or a filter such as `info,tsdb=debug`
    #[arg(
        long = "log.level",
        value_name = "LEVEL",
        default_value = "info",
        global = true,
        env = "MARIGRAPH_LOG_LEVEL"
    )]
    pub level: String,
    /// Form of a log line
    #[arg(
        long = "log.format",
        value_name = "FORMAT",
        default_value = "text",
        global = true,
        env = "MARIGRAPH_LOG_FORMAT"
    )]
    pub format: LogFormat,
}

/// Forms of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// For machines
    Json,
}

impl AgentArgs {
    /// The flags of `marigraph agent` from words, as a command line has them after `agent`.
    ///
    /// # Errors
    /// A flag is missing or unknown, or its value cannot be used.
    pub fn parse<I, T>(words: I) -> Result<AgentArgs, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        #[derive(Debug, Parser)]
        #[command(no_binary_name = true)]
        struct Flags {
            #[command(flatten)]
            agent: AgentArgs,
        }
        Flags::try_parse_from(words).map(|flags| flags.agent)
    }

    /// The flags by name, as `/api/v1/status/flags` shows them; no secrets.
    pub fn shown(&self) -> Vec<(String, String)> {
        let duration =
            |d: Duration| model::duration::format(i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        let file =
            |path: &Option<PathBuf>| path.as_ref().map(|it| it.display().to_string()).unwrap_or_default();
        [
            ("cluster", self.cluster.clone().unwrap_or_default()),
            ("config", file(&self.config)),
            ("data", self.data.display().to_string()),
            ("hub", self.hubs.join(",")),
            ("hub.ca-file", file(&self.own.ca_file)),
            ("hub.cert-file", file(&self.own.cert_file)),
            ("hub.key-file", file(&self.own.key_file)),
            ("incarnation", self.incarnation.clone().unwrap_or_default()),
            ("listen", self.listen.clone()),
            ("pair.keep-share", duration(self.pair_keep)),
            ("pair.lease-duration", duration(self.pair_duration)),
            ("pair.leases", file(&self.pair_leases)),
            ("pair.name", self.pair_name.clone().unwrap_or_default()),
            ("proxy", self.proxy.as_deref().map(without_password).unwrap_or_default()),
            ("queue.max-age", duration(self.queue_age_max)),
            ("queue.max-bytes", self.queue_bytes_max.to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

impl HubArgs {
    /// The flags of `marigraph hub` from words, as a command line has them after `hub`.
    ///
    /// # Errors
    /// A flag is unknown or its value cannot be used.
    pub fn parse<I, T>(words: I) -> Result<HubArgs, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        #[derive(Debug, Parser)]
        #[command(no_binary_name = true)]
        struct Flags {
            #[command(flatten)]
            hub: HubArgs,
        }
        Flags::try_parse_from(words).map(|flags| flags.hub)
    }

    /// The flags by name, as `/api/v1/status/flags` shows them.
    pub fn shown(&self) -> Vec<(String, String)> {
        let duration =
            |d: Duration| model::duration::format(i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        let config = self.config.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let file =
            |path: &Option<PathBuf>| path.as_ref().map(|it| it.display().to_string()).unwrap_or_default();
        [
            ("advertise", self.advertise.clone()),
            ("commit.interval", duration(self.commit_interval)),
            ("config", config),
            ("data", self.data.display().to_string()),
            ("listen", self.listen.clone()),
            ("peer", self.peers.join(",")),
            ("query.agent-max-bytes", self.query_agent_bytes_max.to_string()),
            ("query.agent-timeout", duration(self.query_agent_timeout)),
            ("query.lookback-delta", duration(self.query_lookback)),
            ("query.max-concurrency", self.query_max_concurrency.to_string()),
            ("query.max-samples", self.query_max_samples.to_string()),
            ("query.timeout", duration(self.query_timeout)),
            ("retention.size", self.retention_size.to_string()),
            ("retention.time", duration(self.retention_time)),
            ("storage.remote.read-concurrent-limit", self.read_concurrent_limit.to_string()),
            ("storage.remote.read-max-bytes-in-frame", self.read_max_bytes_in_frame.to_string()),
            ("storage.remote.read-sample-limit", self.read_sample_limit.to_string()),
            ("tls.cert-file", file(&self.tls_cert_file)),
            ("tls.key-file", file(&self.tls_key_file)),
            ("tls.name", self.names.join(",")),
            ("tls.plaintext", format!("{:?}", self.plaintext).to_lowercase()),
            ("web.enable-admin-api", self.enable_admin_api.to_string()),
            ("web.enable-lifecycle", self.enable_lifecycle.to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

/// A proxy's URL for people: its password is nobody's business.
fn without_password(proxy: &str) -> String {
    let (scheme, rest) = proxy.split_once("://").unwrap_or(("http", proxy));
    let split = rest.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host)));
    split.map_or_else(|| proxy.to_owned(), |(user, host)| format!("{scheme}://{user}:xxxxx@{host}"))
}

/// `host:port`, both there.
fn parse_listen(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("write HOST:PORT, such as 127.0.0.1:9190, or 0.0.0.0:9190 for all addresses".to_owned()),
    }
}

/// Where a hub is reached: `https://host:port`.
fn parse_hub_url(text: &str) -> Result<String, String> {
    HubUrl::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// The same, or nothing.
fn parse_advertised(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { parse_hub_url(text) }
}

/// Shorter leases run out by themselves on a busy machine; of longer ones nobody would notice the end.
fn parse_lease_duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    match (Duration::from_secs(1)..=Duration::from_secs(300)).contains(&duration) {
        true => Ok(duration),
        false => Err("a lease lasts between 1s and 5m".to_owned()),
    }
}

/// Prometheus' durations: `15d`, `1h30m`, `0`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let ms = model::duration::parse(text).map_err(|error| format!("{error}; write it as 15d or 1h30m"))?;
    let ms = u64::try_from(ms).map_err(|_| "a duration cannot be negative".to_owned())?;
    Ok(Duration::from_millis(ms))
}

/// Prometheus' sizes, units of 1024: `0`, `1024`, `512MB`, `50GB`, `1.5TB`, also `KiB` and so on.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "B" => 1u64,
        "KB" | "KiB" => 1 << 10,
        "MB" | "MiB" => 1 << 20,
        "GB" | "GiB" => 1 << 30,
        "TB" | "TiB" => 1 << 40,
        "PB" | "PiB" => 1 << 50,
        unit => return Err(format!("unknown unit {unit:?}; use B, KB, MB, GB, TB or PB")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{digits:?} is not a number"))?;
    if !(0.0..=8.0e18).contains(&(number * factor as f64)) {
        return Err("out of range".to_owned());
    }
    Ok((number * factor as f64) as u64)
}

/// A size of something that has to be in memory.
fn parse_size_in_memory(text: &str) -> Result<usize, String> {
    usize::try_from(parse_size(text)?).map_err(|_| "out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_proxys_password_is_not_shown() {
        for (proxy, shown) in [
            ("http://proxy:3128", "http://proxy:3128"),
            ("http://me@proxy:3128", "http://me@proxy:3128"),
            ("http://me:secret@proxy:3128", "http://me:xxxxx@proxy:3128"),
            ("me:secret@proxy:3128", "http://me:xxxxx@proxy:3128"),
            ("http://me:se#c@ret@proxy:3128", "http://me:xxxxx@proxy:3128"),
        ] {
            let args = AgentArgs::parse(["--hub=https://hub:1", "--proxy", proxy]).expect("flags");
            let flags = args.shown();
            let flag = flags.iter().find(|(name, _)| name == "proxy").map(|(_, value)| value.as_str());
            assert_eq!(flag, Some(shown));
        }
    }

    #[test]
    fn sizes_have_units_of_1024() {
        let check = |text: &str, want: Result<u64, &str>| {
            assert_eq!(parse_size(text), want.map_err(str::to_owned), "{text}");
        };
        check("0", Ok(0));
        check("512MB", Ok(512 << 20));
        check("1.5GiB", Ok(3 << 29));
        check("5XB", Err("unknown unit \"XB\"; use B, KB, MB, GB, TB or PB"));
        check("MB", Err("\"\" is not a number"));
    }

    #[test]
    fn an_address_has_host_and_port() {
        for (text, good) in [
            ("127.0.0.1:0", true),
            ("[::1]:9190", true),
            ("localhost:9190", true),
            (":9190", false),
            ("9190", false),
            ("localhost", false),
            ("localhost:http", false),
        ] {
            assert_eq!(parse_listen(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn retention_zero_keeps_for_ever() {
        let cli = Cli::parse_from(["marigraph", "hub", "--retention.time", "0"]);
        let Command::Hub(hub) = cli.command else { panic!("hub") };
        assert_eq!(hub.run.retention_time, Duration::ZERO);
    }
}
