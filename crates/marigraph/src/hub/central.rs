//! Scraping through agents' tunnels by the hub itself: what a job with `cluster` needs.
//!
//! Such a job scrapes as any other, with another way to its targets ([`scrape::Clusters`]): the scraper's HTTP client
//! speaks to a small server in this process, which has the cluster's agent get the page. The agent decides what may be
//! had: a URL that it has discovered itself is asked for by the target's id, with the TLS and the credentials of its
//! own job; any other has to be on its allow list. Without a discovery of its own the job's targets are what the agent
//! has discovered, under the labels they have there and the hub's `job`.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use discovery::{HttpConfig, HttpFetch, HttpRequest, HttpResponse};
use http::header::{ACCEPT, ACCEPT_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use model::TenantId;
use parking_lot::Mutex;
use proxy::{Body, BoxFuture, FleetError, FleetTarget};
use scrape::client::{BoxedStream, Connecting, Connector, Reach};
use serde_json::json;
use tokio::time::Instant;
use tunnel::policy::{FETCH_PATH, SCRAPE_PATH};
use url::Url;
use url::form_urlencoded::byte_serialize;

use super::fleet::Fleet;

/// How often agents are asked for their targets.
const REFRESH: Duration = Duration::from_secs(30);
/// A list in which a URL is missed may be this old before it is asked for again.
const MISSED_AGE: Duration = Duration::from_secs(5);
/// Between attempts at a list of an agent that is not there.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes between the scraper and the server here.
const PIPE_BYTES: usize = 16 << 10;
/// The time for a page, where the scraper names none.
const PATIENCE: Duration = Duration::from_secs(30);
/// How the scraper says how long it waits, seconds. Source: Prometheus.
const SCRAPE_TIMEOUT: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");
/// What of the scraper's headers goes along.
const PASSED_ON: [HeaderName; 4] = [ACCEPT, ACCEPT_ENCODING, USER_AGENT, SCRAPE_TIMEOUT];
/// The longest reason in a status line, bytes.
const REASON_BYTES_MAX: usize = 160;

/// The clusters that jobs name.
pub(crate) struct Central {
    fleet: Fleet,
    /// As many as the configuration has named.
    clusters: Mutex<HashMap<String, Arc<Cluster>>>,
}

/// One of them: the way there, and its targets as last heard.
struct Cluster {
    name: String,
    tenant: TenantId,
    fleet: Fleet,
    known: Mutex<Known>,
    /// One asks, the others wait.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    heard: Option<Instant>,
    /// The id of a target by its URL. Of several at one URL any will do.
    ids: HashMap<String, String>,
}

impl Central {
    /// Over `fleet`'s tunnels, for the hub's own tenant.
    pub(super) fn new(fleet: Fleet) -> Central {
        Central { fleet, clusters: Mutex::default() }
    }

    /// What the agent of `cluster` has discovered, as discovery.
    pub(crate) fn discovery(&self, cluster: &str) -> HttpConfig {
        let fetch = self.cluster(cluster);
        HttpConfig { url: format!("agent of cluster {cluster}"), refresh_interval: REFRESH, fetch }
    }

    fn cluster(&self, name: &str) -> Arc<Cluster> {
        let make = || {
            Arc::new(Cluster {
                name: name.to_owned(),
                tenant: TenantId::default(),
                fleet: self.fleet.clone(),
                known: Mutex::default(),
                asking: tokio::sync::Mutex::default(),
            })
        };
        Arc::clone(self.clusters.lock().entry(name.to_owned()).or_insert_with(make))
    }
}

impl scrape::Clusters for Central {
    fn connector(&self, cluster: &str) -> Arc<dyn Connector> {
        Arc::new(Way(self.cluster(cluster)))
    }
}

/// The way to targets of a cluster.
struct Way(Arc<Cluster>);

impl Connector for Way {
    fn connect<'a>(&'a self, _host: &'a str, _port: u16, _reach: Reach) -> Connecting<'a> {
        Box::pin(async move {
            let cluster = Arc::clone(&self.0);
            if !cluster.fleet.is_connected(&cluster.tenant, &cluster.name) {
                let why = format!("no agent of cluster {} is connected to this hub", cluster.name);
                return Err(io::Error::new(io::ErrorKind::NotConnected, why));
            }
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            let service = service_fn(move |request| Arc::clone(&cluster).answer(request));
            let serving = http1::Builder::new().serve_connection(TokioIo::new(far), service);
            // Ends with the scraper's end; what broke has been told there.
            tokio::spawn(async move { drop(serving.await) });
            Ok(Box::new(near) as BoxedStream)
        })
    }

    fn takes_urls(&self) -> bool {
        true
    }
}

impl Cluster {
    /// Answers the scraper. Where the agent has gone meanwhile the connection ends, and opening the next one says why.
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, FleetError> {
        let url = request.uri().to_string();
        let mut headers = HeaderMap::new();
        for name in PASSED_ON {
            if let Some(value) = request.headers().get(&name) {
                headers.insert(name, value.clone());
            }
        }
        match self.page(&url, headers).await {
            Ok(mut page) => {
                *page.version_mut() = Version::HTTP_11;
                Ok(page)
            }
            Err(FleetError::NotConnected) => Err(FleetError::NotConnected),
            Err(error) => Ok(self.refusal(&error)),
        }
    }

    async fn page(&self, url: &str, headers: HeaderMap) -> Result<Response<Body>, FleetError> {
        let seconds = headers.get(SCRAPE_TIMEOUT).and_then(|value| value.to_str().ok()?.parse().ok());
        let patience = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or(PATIENCE);
        let until = Instant::now() + patience;
        let known = tokio::time::timeout_at(until, self.id_of(url)).await;
        let path = match known.unwrap_or(Err(FleetError::Timeout))? {
            Some(id) => format!("{SCRAPE_PATH}{id}"),
            None => format!("{FETCH_PATH}?url={}", byte_serialize(url.as_bytes()).collect::<String>()),
        };
        let left = until.saturating_duration_since(Instant::now());
        let page = self.fleet.page((&self.tenant, &self.name), &path, headers, left).await;
        if page.as_ref().is_err_and(|error| *error == FleetError::UnknownTarget) {
            *self.known.lock() = Known::default();
        }
        page
    }

    /// The id of the discovered target at `url`; the agent is asked again when none is known.
    async fn id_of(&self, url: &str) -> Result<Option<String>, FleetError> {
        let look = || {
            let known = self.known.lock();
            let fresh = known.heard.is_some_and(|heard| heard.elapsed() < MISSED_AGE);
            (known.ids.get(url).cloned(), fresh)
        };
        if let (Some(id), _) = look() {
            return Ok(Some(id));
        }
        let _asking = self.asking.lock().await;
        match look() {
            (Some(id), _) => Ok(Some(id)),
            (None, true) => Ok(None),
            (None, false) => {
                self.targets().await?;
                Ok(look().0)
            }
        }
    }

    /// Asks the agent for its targets, and remembers their ids.
    async fn targets(&self) -> Result<Vec<FleetTarget>, FleetError> {
        let targets = proxy::Fleet::targets(&self.fleet, &self.tenant, &self.name).await?;
        let ids = targets.iter().map(|target| (target.state.scrape_url.clone(), target.id.clone())).collect();
        *self.known.lock() = Known { heard: Some(Instant::now()), ids };
        Ok(targets)
    }

    /// An answer that says why there is none, where the page of targets shows it: in the status line.
    fn refusal(&self, error: &FleetError) -> Response<Body> {
        let cluster = &self.name;
        let (status, why) = match error {
            FleetError::UnknownTarget => {
                (StatusCode::NOT_FOUND, format!("the agent of cluster {cluster} has no such target any more"))
            }
            FleetError::Refused(why) => (StatusCode::FORBIDDEN, format!("cluster {cluster}: {why}")),
            FleetError::Timeout => {
                (StatusCode::GATEWAY_TIMEOUT, format!("no answer in time from cluster {cluster}"))
            }
            FleetError::Busy(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("cluster {cluster}: {why}")),
            FleetError::UnknownCluster | FleetError::NotConnected | FleetError::Failed(_) => {
                (StatusCode::BAD_GATEWAY, format!("cluster {cluster}: {error}"))
            }
        };
        let mut response =
            Response::new(Full::<Bytes>::default().map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = status;
        let line: Vec<u8> =
            why.bytes().filter(|b| *b == b' ' || b.is_ascii_graphic()).take(REASON_BYTES_MAX).collect();
        if let Ok(reason) = ReasonPhrase::try_from(line) {
            response.extensions_mut().insert(reason);
        }
        response
    }
}

impl HttpFetch for Cluster {
    fn fetch<'a>(&'a self, request: HttpRequest<'a>) -> BoxFuture<'a, Result<HttpResponse, String>> {
        Box::pin(async move {
            let until = Instant::now() + request.timeout;
            loop {
                match self.targets().await {
                    Ok(targets) => {
                        let groups: Vec<_> = targets.iter().filter_map(group).collect();
                        let body = json!(groups).to_string().into();
                        let content_type = "application/json".to_owned();
                        return Ok(HttpResponse { status: 200, content_type, body });
                    }
                    // Agents come back within seconds of a hub's start.
                    Err(FleetError::NotConnected) if Instant::now() + RETRY < until => {
                        tokio::time::sleep(RETRY).await;
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
        })
    }
}

/// A target as discovery tells of it: address and path of its URL, the labels it has at the agent.
fn group(target: &FleetTarget) -> Option<serde_json::Value> {
    let state = &target.state;
    let url = Url::parse(&state.scrape_url).ok()?;
    let address = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    let discovered = state.discovered_labels.iter().filter(|(name, _)| name.starts_with("__meta_"));
    for (name, value) in discovered.chain(state.labels.iter()) {
        // Cluster and job are the hub's to say.
        let name = if name == "job" { "__meta_marigraph_job" } else { name };
        labels.insert(name.to_owned(), value.to_owned());
    }
    labels.remove("cluster");
    labels.insert("__meta_marigraph_target_id".to_owned(), target.id.clone());
    labels.insert("__scheme__".to_owned(), url.scheme().to_owned());
    labels.insert("__metrics_path__".to_owned(), url.path().to_owned());
    for (name, value) in url.query_pairs() {
        // Of several values discovery has a place for the first.
        labels.entry(format!("__param_{name}")).or_insert_with(|| value.into_owned());
    }
    Some(json!({"targets": [address], "labels": labels}))
}
