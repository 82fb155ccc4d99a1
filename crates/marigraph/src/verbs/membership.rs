//! `marigraph token`, `agents`, `ca`, `hub join` and `agent check`: who belongs to the fleet and who may ask it.
//!
//! They ask a running hub as an administrator does, from wherever that is; `ca export` and `ca import` work
//! on the data directory instead, because no request should be able to carry the fleet's root away.

pub mod ca_files;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tenancy::{AgentRecord, Role, TokenKind, TokenRecord};
use tunnel::identity::{Check, Outcome, RootInfo};
use tunnel::{Connector, Proxies};

use crate::cli::{OwnCertificateArgs, parse_duration};
use crate::hub::FleetHub;
use crate::verbs::client::{ClientArgs, Server};
use crate::verbs::terminal::{print, table};

/// How an administrator reaches a hub.
#[derive(Debug, Clone, Args)]
pub struct HubConnection {
    /// The hub, as its administrators reach it
    #[arg(
        long = "url",
        visible_alias = "hub",
        value_name = "URL",
        default_value = "http://127.0.0.1:9190",
        env = "MARIGRAPH_URL"
    )]
    pub hub: String,
    /// Print JSON
    #[arg(long = "json")]
    pub json: bool,
    /// Credentials and TLS.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `marigraph token`
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token: for an agent (--cluster), for callers of the API (--role), or for a hub (--join)
    #[command(after_long_help = "Examples:\n  \
        marigraph token create --cluster eu-1\n  \
        marigraph token create --cluster eu-1 --tenant acme --label env=prod --uses 2 --ttl 1h\n  \
        marigraph token create --role read --cluster eu-1 --cluster eu-2\n  \
        marigraph token create --role admin --ttl 90d\n\n\
        The token is printed once; the hub keeps only a digest of it.")]
    Create(Box<CreateArgs>),
    /// List tokens, without their secrets
    List {
        /// The hub.
        #[command(flatten)]
        hub: HubConnection,
    },
    /// Take a token back; agents that enrolled with it stay
    Revoke {
        /// Its id, as `token list` shows it
        id: String,
        /// The hub.
        #[command(flatten)]
        hub: HubConnection,
    },
}

/// Flags of `marigraph token create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The cluster of the agent; with --role read the clusters that may be seen, several times if need be
    #[arg(long = "cluster", value_name = "NAME", required_unless_present_any = ["role", "join"])]
    pub clusters: Vec<String>,
    /// What a caller of the API may do: read, write or admin
    #[arg(long = "role", value_name = "ROLE", conflicts_with_all = ["join", "labels", "uses"])]
    pub role: Option<Role>,
    /// For a hub that is to join this one's fleet
    #[arg(long = "join", conflicts_with_all = ["clusters", "labels"])]
    pub join: bool,
    /// Whose data; the administrator's own tenant otherwise
    #[arg(long = "tenant", value_name = "NAME")]
    pub tenant: Option<String>,
    /// How long it is good; 24h for agents and hubs, until it is revoked for callers
    #[arg(long = "ttl", value_name = "DURATION", value_parser = parse_duration)]
    pub ttl: Option<Duration>,
    /// How many agents may enrol with it
    #[arg(long = "uses", value_name = "COUNT")]
    pub uses: Option<u32>,
    /// A further label that the agent puts on everything; may be given several times
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// The hub.
    #[command(flatten)]
    pub hub: HubConnection,
}

/// `marigraph agents`
#[derive(Debug, Subcommand)]
pub enum AgentsVerb {
    /// List the agents that have enrolled
    List {
        /// The hub.
        #[command(flatten)]
        hub: HubConnection,
    },
    /// Cut an agent off for good; it can come back with a new token only, or with a certificate of another name
    Revoke {
        /// Its id, as `agents list` shows it, or the name in a certificate of your own authority
        id: String,
        /// Only the certificate with this serial number
        #[arg(long = "serial", value_name = "HEX")]
        serial: Option<String>,
        /// Also an id that this hub has never heard of
        #[arg(long = "force")]
        force: bool,
        /// The hub.
        #[command(flatten)]
        hub: HubConnection,
    },
}

/// `marigraph ca`
#[derive(Debug, Subcommand)]
pub enum CaVerb {
    /// Show the fleet's roots
    Show {
        /// Print their certificates: what people's tools need to trust a hub that has no certificate of another authority
        #[arg(long = "pem", conflicts_with = "json")]
        pem: bool,
        /// The hub.
        #[command(flatten)]
        hub: HubConnection,
    },
    /// Replace the root, in three steps with a renewal of all agents between them
    #[command(after_long_help = "Steps:\n  \
        marigraph ca rotate             a new root is trusted; agents hear of it with their next certificate\n  \
        marigraph ca rotate --switch    the new root signs; refused while a hub does not trust it yet\n  \
        marigraph ca rotate --retire    the old root is forgotten; refused while agents or hubs still need it\n\n\
        The fleet's other hubs follow each step by themselves, within seconds (`marigraph hub list`).")]
    Rotate {
        /// The new root signs from now on
        #[arg(long = "switch")]
        switch: bool,
        /// The old root is forgotten
        #[arg(long = "retire", conflicts_with = "switch")]
        retire: bool,
        /// Do it although hubs or agents are cut off by that
        #[arg(long = "force")]
        force: bool,
        /// The hub.
        #[command(flatten)]
        hub: HubConnection,
    },
    /// Write the roots with their keys to a file: whoever has it can admit hubs and agents
    Export {
        /// The file; must not exist
        file: PathBuf,
        /// The hub's data directory
        #[arg(long = "data", value_name = "DIR", default_value = "./data", env = "MARIGRAPH_DATA")]
        data: PathBuf,
    },
    /// Take over the roots of such a file; the hub must not run
    Import {
        /// The file
        file: PathBuf,
        /// The hub's data directory
        #[arg(long = "data", value_name = "DIR", default_value = "./data", env = "MARIGRAPH_DATA")]
        data: PathBuf,
        /// Also when agents have enrolled here, which are strangers afterwards
        #[arg(long = "force")]
        force: bool,
    },
}

/// `marigraph hub` with a verb.
#[derive(Debug, Subcommand)]
pub enum HubVerb {
    /// List the fleet's hubs, and whether this one reaches them
    List {
        /// The hub.
        #[command(flatten)]
        hub: HubConnection,
    },
    /// Make a running hub one of another's fleet
    Join {
        /// A hub that has the fleet's root, as agents reach it (https://host:port)
        fleet: String,
        /// Token of `marigraph token create --join` there
        #[arg(long = "token", value_name = "TOKEN", env = "MARIGRAPH_TOKEN", hide_env_values = true)]
        token: String,
        /// Also when agents have enrolled here, which are strangers afterwards
        #[arg(long = "force")]
        force: bool,
        /// The hub that joins.
        #[command(flatten)]
        hub: HubConnection,
    },
}

/// `marigraph agent` with a verb.
#[derive(Debug, Subcommand)]
pub enum AgentVerb {
    /// Say why there is no connection to a hub, or what is wrong with the leases of a pair, and what to do about it
    Check {
        /// The hub (https://host:port)
        #[arg(long = "hub", value_name = "URL", env = "MARIGRAPH_HUBS", required_unless_present = "leases")]
        hub: Option<String>,
        /// The directory by which agents share targets
        #[arg(long = "pair.leases", value_name = "DIR", env = "MARIGRAPH_PAIR_LEASES")]
        leases: Option<PathBuf>,
        /// The agent's token, if it has not enrolled yet; it is not redeemed
        #[arg(long = "token", value_name = "TOKEN", env = "MARIGRAPH_TOKEN", hide_env_values = true)]
        token: Option<String>,
        /// The agent's data directory, if it has
        #[arg(long = "data", value_name = "DIR", default_value = "./agent-data", env = "MARIGRAPH_DATA")]
        data: PathBuf,
        /// The agent's own certificates.
        #[command(flatten)]
        own: OwnCertificateArgs,
        /// HTTP proxy on the way; without it HTTPS_PROXY and NO_PROXY count
        #[arg(long = "proxy", value_name = "URL", env = "MARIGRAPH_PROXY")]
        proxy: Option<String>,
        /// Longest a step may take
        #[arg(
            long = "timeout",
            value_name = "DURATION",
            default_value = "10s",
            value_parser = parse_duration
        )]
        timeout: Duration,
    },
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

/// `marigraph token`
///
/// # Errors
/// The hub cannot be reached or refuses.
pub fn token(verb: &TokenVerb) -> Result<()> {
    match verb {
        TokenVerb::Create(args) => create(args),
        TokenVerb::List { hub } => {
            let tokens: Vec<TokenRecord> = ask(hub, Method::GET, "/api/v1/admin/tokens", &[])?;
            show(hub, &tokens, token_table)
        }
        TokenVerb::Revoke { id, hub } => {
            let form = [("id", id.clone())];
            let _: serde_json::Value = ask(hub, Method::POST, "/api/v1/admin/tokens/revoke", &form)?;
            print(&format!("token {id} is revoked\n"))
        }
    }
}

#[derive(Debug, Deserialize)]
struct Created {
    token: String,
    record: TokenRecord,
}

fn create(args: &CreateArgs) -> Result<()> {
    let kind = match (&args.role, args.join) {
        (Some(_), _) => TokenKind::Api,
        (None, true) => TokenKind::Join,
        (None, false) => TokenKind::Enrol,
    };
    let day = Duration::from_secs(24 * 3600);
    let ttl = args.ttl.or(Some(day).filter(|_| kind != TokenKind::Api));
    let labels: BTreeMap<&String, &String> = args.labels.iter().map(|(name, value)| (name, value)).collect();
    let mut form = vec![
        ("kind", kind.name().to_owned()),
        ("clusters", args.clusters.join(",")),
        ("labels", serde_json::to_string(&labels)?),
    ];
    form.extend(args.tenant.clone().map(|tenant| ("tenant", tenant)));
    form.extend(args.role.map(|role| ("role", role.name().to_owned())));
    form.extend(args.uses.map(|uses| ("uses", uses.to_string())));
    form.extend(ttl.map(|ttl| ("ttl_seconds", ttl.as_secs().to_string())));
    let created: Created = ask(&args.hub, Method::POST, "/api/v1/admin/tokens", &form)?;
    if args.hub.json {
        return print(&format!(
            "{}\n",
            serde_json::json!({ "token": created.token, "id": created.record.id })
        ));
    }
    // The token alone on the standard output, for scripts; the rest is for people.
    let until = created
        .record
        .expires_ms
        .map_or("until it is revoked".to_owned(), |ms| format!("until {}", time(ms)));
    let hint = match kind {
        TokenKind::Enrol => {
            "\nenrol an agent with: marigraph agent --hub https://HUB:PORT --token TOKEN".to_owned()
        }
        TokenKind::Join => "\njoin with: marigraph hub join https://THIS-HUB:PORT --token TOKEN".to_owned(),
        TokenKind::Api => "\nsend it as: Authorization: Bearer TOKEN".to_owned(),
    };
    eprintln!("token {} ({}), good {until}; it is not shown again{hint}", created.record.id, kind.name());
    print(&format!("{}\n", created.token))
}

/// `marigraph agents`
///
/// # Errors
/// The hub cannot be reached or refuses.
pub fn agents(verb: &AgentsVerb) -> Result<()> {
    match verb {
        AgentsVerb::List { hub } => {
            let agents: Vec<Agent> = ask(hub, Method::GET, "/api/v1/admin/agents", &[])?;
            show(hub, &agents, agent_table)
        }
        AgentsVerb::Revoke { id, serial, force, hub } => {
            let mut form = vec![("id", id.clone()), ("force", force.to_string())];
            form.extend(serial.clone().map(|serial| ("serial", serial)));
            let said: serde_json::Value = ask(hub, Method::POST, "/api/v1/admin/agents/revoke", &form)?;
            let doubt = match said["known"].as_bool() {
                Some(false) => {
                    "; nobody of that id or name has come here so far: `marigraph agents list` shows who has"
                }
                _ => "",
            };
            print(&format!("agent {id} is revoked{doubt}\n"))
        }
    }
}

/// `marigraph ca`
///
/// # Errors
/// The hub cannot be reached or refuses; a file cannot be read or written.
pub fn ca(verb: &CaVerb) -> Result<()> {
    match verb {
        CaVerb::Show { pem, hub } => {
            let known: Roots = ask(hub, Method::GET, "/api/v1/admin/ca", &[])?;
            if *pem {
                ensure!(!known.pem.is_empty(), "the hub at {} is too old to tell its certificates", hub.hub);
                return print(&known.pem);
            }
            show(hub, &known.roots, root_table)
        }
        CaVerb::Rotate { switch, retire, force, hub } => {
            let step = match (switch, retire) {
                (true, _) => "switch",
                (_, true) => "retire",
                _ => "add",
            };
            let form = [("step", step.to_owned()), ("force", force.to_string())];
            let known: Roots = ask(hub, Method::POST, "/api/v1/admin/ca/rotate", &form)?;
            show(hub, &known.roots, root_table)
        }
        CaVerb::Export { file, data } => ca_files::export(file, data),
        CaVerb::Import { file, data, force } => ca_files::import(file, data, *force),
    }
}

/// `marigraph hub join`
///
/// # Errors
/// A hub cannot be reached or refuses.
pub fn hub(verb: &HubVerb) -> Result<()> {
    let (fleet, token, force, hub) = match verb {
        HubVerb::Join { fleet, token, force, hub } => (fleet, token, force, hub),
        HubVerb::List { hub } => {
            let hubs: Vec<FleetHub> = ask(hub, Method::GET, "/api/v1/admin/hubs", &[])?;
            return show(hub, &hubs, hub_table);
        }
    };
    let form = [("hub", fleet.clone()), ("token", token.clone()), ("force", force.to_string())];
    let known: Roots = ask(hub, Method::POST, "/api/v1/admin/ca/join", &form)?;
    show(hub, &known.roots, root_table)
}

/// `marigraph agent check`
///
/// # Errors
/// There is no connection; what is printed says why.
pub fn agent(verb: &AgentVerb) -> Result<()> {
    let AgentVerb::Check { hub, leases, token, data, own, proxy, timeout } = verb;
    let proxies = match proxy {
        Some(url) => Proxies::configured(url, ""),
        None => Proxies::from_environment(),
    };
    let clock = stdx::clock::SystemClock::shared();
    // Looking for an identity must not make a directory.
    let identity = crate::agent::brought::open(own, data, clock.clone())?;
    let connector = Connector::new(proxies);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut findings = Vec::new();
    if let Some(leases) = leases {
        findings.extend(runtime.block_on(crate::agent::pair_check::run(leases, *timeout, &clock)));
    }
    if let Some(hub) = hub {
        let (token, patience) = (token.as_deref(), *timeout);
        let check = Check { hub, connector: &connector, token, identity: Some(&identity), patience, clock };
        findings.extend(runtime.block_on(check.run()));
    }
    findings.iter().try_for_each(|finding| print(&format!("{finding}\n")))?;
    let bad: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.outcome == Outcome::Bad)
        .map(|finding| finding.step)
        .collect();
    match (bad.as_slice(), hub) {
        ([], _) => Ok(()),
        (["leases"], _) => bail!("agents cannot share targets by these leases"),
        (_, hub) => bail!("an agent here cannot connect to {}", hub.as_deref().unwrap_or_default()),
    }
}

#[derive(Debug, Deserialize)]
struct Roots {
    roots: Vec<RootInfo>,
    #[serde(default)]
    pem: String,
}

#[derive(Debug, Deserialize, serde::Serialize)]
struct Agent {
    #[serde(flatten)]
    record: AgentRecord,
    revoked: bool,
}

pub(super) fn ask<T: DeserializeOwned>(
    hub: &HubConnection,
    method: Method,
    path: &str,
    form: &[(&str, String)],
) -> Result<T> {
    Server::new(&hub.hub, &hub.client)?.json_blocking(method, path, form)
}

fn show<T: serde::Serialize>(
    hub: &HubConnection,
    items: &[T],
    columns: impl Fn(&[T]) -> Vec<Vec<String>>,
) -> Result<()> {
    if hub.json {
        return print(&format!("{}\n", serde_json::to_string_pretty(items)?));
    }
    print(&table(&columns(items)))
}

fn token_table(tokens: &[TokenRecord]) -> Vec<Vec<String>> {
    let head = ["ID", "KIND", "TENANT", "CLUSTERS", "ROLE", "USES", "EXPIRES", "STATE", "BY"];
    let row = |token: &TokenRecord| {
        let expires = token.expires_ms.map_or("never".to_owned(), time);
        let expired = token.expires_ms.is_some_and(|ms| ms <= now_ms());
        let state = match (token.revoked_ms, expired) {
            (Some(_), _) => "revoked",
            (None, true) => "expired",
            (None, false) if token.uses_max > 0 && token.uses > token.uses_max => "overdrawn",
            (None, false) if token.uses_max > 0 && token.uses >= token.uses_max => "used",
            (None, false) => "good",
        };
        let uses =
            if token.uses_max == 0 { "-".into() } else { format!("{}/{}", token.uses, token.uses_max) };
        vec![
            token.id.clone(),
            token.kind.name().to_owned(),
            token.tenant.clone(),
            if token.clusters.is_empty() { "all".to_owned() } else { token.clusters.join(",") },
            token.role.map_or("-".to_owned(), |role| role.name().to_owned()),
            uses,
            expires,
            state.to_owned(),
            token.author.clone(),
        ]
    };
    rows(&head, tokens.iter().map(row))
}

fn agent_table(agents: &[Agent]) -> Vec<Vec<String>> {
    let head =
        ["ID", "TENANT", "CLUSTER", "LABELS", "ENROLLED", "RENEWED", "EXPIRES", "STATE", "CERTIFICATE"];
    let row = |agent: &Agent| {
        let record = &agent.record;
        let labels: Vec<String> =
            record.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let state = match (agent.revoked, record.not_after_ms < now_ms()) {
            (true, _) => "revoked",
            (false, true) => "expired",
            (false, false) => "good",
        };
        vec![
            record.agent_id.clone(),
            record.tenant.clone(),
            record.cluster.clone(),
            if labels.is_empty() { "-".to_owned() } else { labels.join(",") },
            time(record.enrolled_ms),
            time(record.renewed_ms),
            time(record.not_after_ms),
            state.to_owned(),
            if record.brought.is_empty() { "the fleet's".to_owned() } else { record.brought.clone() },
        ]
    };
    rows(&head, agents.iter().map(row))
}

fn hub_table(hubs: &[FleetHub]) -> Vec<Vec<String>> {
    let row = |hub: &FleetHub| {
        let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        vec![
            or_none(&hub.hub_id),
            or_none(&hub.address),
            hub.state.clone(),
            hub.heard_ms.map_or("-".to_owned(), time),
            or_none(&hub.error),
        ]
    };
    rows(&["ID", "ADDRESS", "STATE", "LAST HEARD OF", "ERROR"], hubs.iter().map(row))
}

fn root_table(roots: &[RootInfo]) -> Vec<Vec<String>> {
    let row = |root: &RootInfo| {
        let key = if root.has_key { "here" } else { "elsewhere" };
        vec![root.pin.clone(), root.role.clone(), time(root.made_ms), key.to_owned()]
    };
    rows(&["PIN", "ROLE", "MADE", "KEY"], roots.iter().map(row))
}

fn rows(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<Vec<String>> {
    std::iter::once(head.iter().map(ToString::to_string).collect()).chain(rows).collect()
}

fn time(ms: i64) -> String {
    let whole = jiff::Timestamp::from_second(ms.div_euclid(1000));
    whole.map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

fn now_ms() -> i64 {
    use stdx::clock::Clock;
    stdx::clock::SystemClock.now_ms()
}
