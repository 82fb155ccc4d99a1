//! What hubs may have an agent do. The agent decides, by its own configuration; no hub can widen it.
//!
//! A hub may ask for what the agent has discovered and scrapes itself, by target id; for what the local
//! allow list names; and for the agent's own API. Everything else is answered 403 with the reason, logged
//! and counted. Redirects are never followed, and link-local addresses, where clouds hand out
//! credentials, are never reached: not by name, not by an allow list.

mod fetch;
mod pattern;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use stdx::at_once::{AtOnce, Place};
use url::{Host, Url, form_urlencoded};

pub use pattern::{BadPattern, UrlPattern};

use crate::dial::FromHub;
use crate::protocol::Body;
use crate::serve::{Handler, text};
use crate::whole::Whole;
use fetch::Fetcher;

/// Where a hub asks for a discovered target: the id follows.
pub const SCRAPE_PATH: &str = "/tunnel/v1/scrape/";
/// Where a hub asks for a URL of the allow list: `?url=…`.
pub const FETCH_PATH: &str = "/tunnel/v1/fetch";

/// The agent's own pages that never wait.
const STATUS_PATH: &str = "/tunnel/v1/status";
const LIMITS_PATH: &str = "/tunnel/v1/limits";
const TARGETS_PATH: &str = "/tunnel/v1/targets";

/// The longest target id.
const ID_BYTES_MAX: usize = 128;
/// The longest URL.
const URL_BYTES_MAX: usize = 4096;
/// What a log line shows of a path.
const SHOWN_CHARS_MAX: usize = 200;
/// The time to the head of an answer, where the asker names none.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that an asker may name.
const TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// How an asker says how long it waits, seconds. Source: Prometheus.
const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

/// An answer in the making.
pub type Reaching<'a> = Pin<Box<dyn Future<Output = Result<Response<Body>, ReachError>> + Send + 'a>>;

/// The way to what this agent scrapes.
pub trait Targets: Send + Sync + 'static {
    /// Asks the discovered target `id` at exactly the URL it is scraped at, with its credentials, which
    /// stay here. `headers` are the hub's; only those that negotiate the answer's form go along. Follows
    /// no redirect, and reaches no link-local address.
    fn scrape<'a>(&'a self, id: &'a str, headers: &'a HeaderMap, timeout: Duration) -> Reaching<'a>;
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// There is no such target (any more).
    #[error("no such target is scraped here")]
    Unknown,
    /// It is not allowed.
    #[error("{0}")]
    Forbidden(String),
    /// It did not work.
    #[error("{0}")]
    Failed(String),
    /// It took too long.
    #[error("no answer in {0:?}")]
    Late(Duration),
}

/// What is allowed, as written in the agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Whether hubs may ask for discovered targets.
    pub scrape: bool,
    /// Further URLs that hubs may get, see [`UrlPattern`].
    pub allow_urls: Vec<UrlPattern>,
    /// The agent's own pages that hubs may use.
    pub own: Vec<OwnPath>,
}

impl Default for PolicyConfig {
    /// Discovered targets, and of the agent's own pages the state, the limits, and the query API, its forms
    /// of POST and remote read included.
    fn default() -> PolicyConfig {
        let own = [
            (Method::POST, "/api/v1/format_query"),
            (Method::POST, "/api/v1/labels"),
            (Method::POST, "/api/v1/parse_query"),
            (Method::POST, "/api/v1/query"),
            (Method::POST, "/api/v1/query_exemplars"),
            (Method::POST, "/api/v1/query_range"),
            (Method::POST, "/api/v1/read"),
            (Method::POST, "/api/v1/series"),
            (Method::GET, "/tunnel/v1/targets"),
            (Method::GET, "/tunnel/v1/status"),
            (Method::PUT, "/tunnel/v1/limits"),
            (Method::GET, "/federate"),
            (Method::GET, "/api/v1/*"),
        ];
        let own = own.into_iter().map(|(method, path)| OwnPath { method, path: path.to_owned() });
        PolicyConfig { scrape: true, allow_urls: Vec::new(), own: own.collect() }
    }
}

/// The policy in force; clones are one.
#[derive(Debug, Clone)]
pub struct Policy {
    config: Arc<ArcSwap<PolicyConfig>>,
    at_once: Arc<AtOnce>,
}

impl From<PolicyConfig> for Policy {
    fn from(config: PolicyConfig) -> Policy {
        Policy { config: Arc::new(ArcSwap::from_pointee(config)), at_once: Arc::default() }
    }
}

impl Policy {
    /// Puts `config` in force for requests that come from now on.
    pub fn replace(&self, config: PolicyConfig) {
        self.config.store(Arc::new(config));
    }

    /// At most so many requests of hubs are under way at once, those for the agent's state and limits aside; others wait,
    /// and are answered 503 when their time is over. `None` is no bound.
    pub fn limit_at_once(&self, max: Option<usize>) {
        self.at_once.set(max);
    }
}

/// A page of the agent's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPath {
    /// The method.
    pub method: Method,
    /// The path; with `*` at its end, everything that begins so.
    pub path: String,
}

impl OwnPath {
    fn matches(&self, method: &Method, path: &str) -> bool {
        let same = match self.path.strip_suffix('*') {
            Some(beginning) => path.starts_with(beginning),
            None => path == self.path,
        };
        same && *method == self.method
    }
}

/// Stands between hubs and everything else.
pub struct Gate {
    policy: Policy,
    targets: Arc<dyn Targets>,
    own: Handler,
    fetcher: Fetcher,
    metrics: Metrics,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("policy", &self.policy).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Default)]
struct Metrics {
    refused: Family<Reason, Counter>,
    allowed: Counter,
}

/// Why a request is refused.
struct Refusal {
    reason: &'static str,
    why: String,
}

impl Refusal {
    fn new(reason: &'static str, why: impl Into<String>) -> Refusal {
        Refusal { reason, why: why.into() }
    }
}

impl Gate {
    /// A handler for [`crate::Tunnels`]: `own` answers the agent's own pages. Figures go into `registry`
    /// as `marigraph_tunnel_policy_*`.
    pub fn handler(
        policy: impl Into<Policy>,
        targets: Arc<dyn Targets>,
        own: Handler,
        registry: &mut Registry,
    ) -> Handler {
        let metrics = Metrics::default();
        let registry = registry.sub_registry_with_prefix("marigraph_tunnel_policy");
        registry.register(
            "refused",
            "Requests of hubs that were refused, by reason",
            metrics.refused.clone(),
        );
        registry.register("allowed", "Requests of hubs that were allowed", metrics.allowed.clone());
        let policy = policy.into();
        let gate = Arc::new(Gate { policy, targets, own, fetcher: Fetcher::default(), metrics });
        Handler::from_fn(move |request| Arc::clone(&gate).answer(request))
    }

    async fn answer(self: Arc<Self>, request: Request<Whole>) -> Response<Body> {
        let hub = request.extensions().get::<FromHub>().map(|from| from.0.to_string()).unwrap_or_default();
        let shown: String =
            format!("{} {}", request.method(), request.uri()).chars().take(SHOWN_CHARS_MAX).collect();
        let Some(place) = self.place(&request).await else {
            self.metrics.refused.get_or_create(&Reason { reason: "busy" }).inc();
            let max = self.policy.at_once.max().unwrap_or_default();
            let why = format!("the agent answers {max} requests of hubs at once, and others take long\n");
            return text(StatusCode::SERVICE_UNAVAILABLE, why);
        };
        let refusal = match self.allowed(request).await {
            // Until all of it is sent.
            Ok(response) => {
                return response.map(|body| {
                    body.map_frame(move |frame| {
                        let _ = &place;
                        frame
                    })
                    .boxed_unsync()
                });
            }
            Err(refusal) => refusal,
        };
        self.metrics.refused.get_or_create(&Reason { reason: refusal.reason }).inc();
        tracing::warn!(hub, request = shown, why = refusal.why, "a hub's request is refused");
        text(StatusCode::FORBIDDEN, format!("the agent's policy: {}\n", refusal.why))
    }

    /// A place among the requests that may be under way; none when its time is over.
    async fn place(&self, request: &Request<Whole>) -> Option<Place> {
        let own = [STATUS_PATH, LIMITS_PATH, TARGETS_PATH];
        if own.contains(&request.uri().path()) {
            return Some(Place::beside());
        }
        tokio::time::timeout(timeout(request.headers()), self.policy.at_once.place()).await.ok()
    }

    async fn allowed(&self, request: Request<Whole>) -> Result<Response<Body>, Refusal> {
        let policy = self.policy.config.load_full();
        let path = request.uri().path();
        if let Some(id) = path.strip_prefix(SCRAPE_PATH) {
            get_only(request.method())?;
            if !policy.scrape {
                return Err(Refusal::new("scrape_off", "hubs may not scrape through this agent"));
            }
            if id.is_empty()
                || id.len() > ID_BYTES_MAX
                || !id.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
            {
                return Err(Refusal::new("bad_id", "that is not a target's id"));
            }
            let timeout = timeout(request.headers());
            let reached = self.targets.scrape(id, request.headers(), timeout).await;
            return self.reached(reached);
        }
        if path == FETCH_PATH {
            get_only(request.method())?;
            let url = permitted_url(&policy, request.uri().query().unwrap_or_default())?;
            let reached = self.fetcher.get(&url, request.headers(), timeout(request.headers())).await;
            return self.reached(reached);
        }
        if policy.own.iter().any(|own| own.matches(request.method(), path)) {
            self.metrics.allowed.inc();
            return Ok(self.own.call(request).await);
        }
        if policy.own.iter().any(|own| own.matches(&Method::GET, path)) {
            get_only(request.method())?;
        }
        Err(Refusal::new(
            "path",
            "only discovered targets, allowed URLs and the agent's API can be asked for",
        ))
    }

    fn reached(&self, reached: Result<Response<Body>, ReachError>) -> Result<Response<Body>, Refusal> {
        match reached {
            Ok(response) if leads_elsewhere(response.status()) => {
                let to = response.headers().get(http::header::LOCATION);
                let to = to.and_then(|to| to.to_str().ok()).unwrap_or("somewhere else");
                let to: String = to.chars().take(SHOWN_CHARS_MAX).collect();
                Err(Refusal::new("redirect", format!("it redirects to {to}, which is not followed")))
            }
            Ok(response) => {
                self.metrics.allowed.inc();
                Ok(response)
            }
            Err(ReachError::Forbidden(why)) => Err(Refusal::new("forbidden", why)),
            Err(error @ ReachError::Unknown) => Ok(text(StatusCode::NOT_FOUND, format!("{error}\n"))),
            Err(error @ ReachError::Failed(_)) => Ok(text(StatusCode::BAD_GATEWAY, format!("{error}\n"))),
            Err(error @ ReachError::Late(_)) => Ok(text(StatusCode::GATEWAY_TIMEOUT, format!("{error}\n"))),
        }
    }
}

/// The URL that is asked for, if the allow list has it.
fn permitted_url(policy: &PolicyConfig, query: &str) -> Result<Url, Refusal> {
    let written = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "url");
    let written = written.map(|(_, url)| url.into_owned()).unwrap_or_default();
    let url = Url::parse(&written).ok().filter(|_| written.len() <= URL_BYTES_MAX);
    let url = url.ok_or_else(|| Refusal::new("bad_url", "`url` is not a URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refusal::new("bad_url", "a URL with a user is not asked for"));
    }
    let address = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(_)) | None => None,
    };
    if let Some(address) = address.filter(|address| is_link_local(*address)) {
        return Err(Refusal::new("link_local", format!("{address} is link-local and never reached")));
    }
    if !policy.allow_urls.iter().any(|pattern| pattern.matches(&url)) {
        return Err(Refusal::new("not_listed", format!("{url} is not on the allow list")));
    }
    Ok(url)
}

fn get_only(method: &Method) -> Result<(), Refusal> {
    if method == Method::GET {
        return Ok(());
    }
    Err(Refusal::new("method", format!("{method} is not allowed here, only GET")))
}

fn leads_elsewhere(status: StatusCode) -> bool {
    status.is_redirection() && status != StatusCode::NOT_MODIFIED
}

/// How long the asker waits.
fn timeout(headers: &HeaderMap) -> Duration {
    let named = headers.get(SCRAPE_TIMEOUT).and_then(|seconds| seconds.to_str().ok()?.parse::<f64>().ok());
    let named = named.filter(|seconds| *seconds > 0.0).and_then(|s| Duration::try_from_secs_f64(s).ok());
    named.unwrap_or(TIMEOUT).min(TIMEOUT_MAX)
}

/// Whether an address is link-local, or the one that stands for the metadata service where there is no
/// such thing: `169.254.0.0/16`, `fe80::/10`, `fd00:ec2::254`, also as IPv4 in IPv6.
///
/// Source: RFC 3927, RFC 4291 section 2.5.6; Amazon EC2 user guide, instance metadata over IPv6.
pub fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => {
            let mapped = address.to_ipv4().is_some_and(|address| address.is_link_local());
            let nat64 = address.octets()[..12] == [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]
                && address.octets()[12..14] == [169, 254];
            let metadata = address.segments() == [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254];
            address.is_unicast_link_local() || mapped || nat64 || metadata
        }
    }
}
