//! A request in absolute form becomes a fetch by an agent.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::Body;
use crate::bodies::{Held, Passing};
use crate::directory::Directory;
use crate::fleet::{Caller, FetchRequest, FleetError, FleetTarget};
use crate::headers::{SCRAPE_TIMEOUT, for_agent, strip_hop_by_hop};
use crate::metrics::ProxyMetrics;
use crate::refusal::Refusal;
use crate::sd::first_values;

/// A list in which a target is missed may be this old before it is asked for again.
const MISSED_AGE: Duration = Duration::from_secs(1);

/// A request for a target.
pub(crate) struct Scrape {
    /// Its head.
    pub(crate) request: Parts,
    /// When the answer has to be through.
    pub(crate) deadline: Instant,
    /// What it holds until its body has ended.
    pub(crate) held: Held,
}

/// Has the target fetched, and passes its answer on.
pub(crate) async fn fetch(
    directory: &Arc<Directory>,
    metrics: &ProxyMetrics,
    caller: &Caller,
    (target, cluster): (String, String),
    Scrape { request, deadline, held }: Scrape,
) -> Result<Response<Body>, Refusal> {
    if request.method != Method::GET {
        let message = format!("{} is not passed on to targets: they are scraped by GET", request.method);
        return Err(Refusal::new("method", StatusCode::METHOD_NOT_ALLOWED, message));
    }
    if !caller.clusters.contains(&cluster) {
        return Err(Refusal::unknown_cluster(&cluster));
    }
    let known = timeout_at(deadline, find(directory, caller, &cluster, &target)).await;
    let known = known
        .unwrap_or(Err(FleetError::Timeout))
        .map_err(|error| Refusal::of_fleet(&error, &target, &cluster))?;
    require_own_url(&known, &request, &cluster)?;
    let mut headers = for_agent(request.headers);
    let left = deadline.saturating_duration_since(Instant::now()).as_secs_f64();
    if let Ok(left) = HeaderValue::from_str(&format!("{left:.3}")) {
        headers.insert(SCRAPE_TIMEOUT, left);
    }
    let fetch = FetchRequest {
        tenant: caller.tenant.clone(),
        cluster: cluster.clone(),
        target: target.clone(),
        headers,
        deadline,
    };
    let fetched = timeout_at(deadline, directory.fleet().fetch(fetch)).await;
    let mut response = fetched
        .unwrap_or(Err(FleetError::Timeout))
        .map_err(|error| Refusal::of_fleet(&error, &target, &cluster))?;
    strip_hop_by_hop(response.headers_mut());
    let bytes = metrics.body_bytes.clone();
    Ok(response.map(|body| Passing::new(body, deadline, bytes, held).boxed_unsync()))
}

/// The target as last heard; the cluster is asked when it is not known.
async fn find(
    directory: &Directory,
    caller: &Caller,
    cluster: &str,
    target: &str,
) -> Result<Arc<FleetTarget>, FleetError> {
    let known = directory.last(&caller.tenant, cluster);
    if let Some(known) = known.as_ref().and_then(|list| list.get(target)) {
        return Ok(Arc::clone(known));
    }
    // Strangers' names must not become entries of the directory.
    if known.is_none() {
        let clusters = directory.fleet().clusters(&caller.tenant);
        let state = clusters.iter().find(|state| state.name == cluster);
        if !state.ok_or(FleetError::UnknownCluster)?.connected {
            return Err(FleetError::NotConnected);
        }
    }
    let list = directory.list(&caller.tenant, cluster, MISSED_AGE).await?;
    list.get(target).cloned().ok_or(FleetError::UnknownTarget)
}

/// An address stands for one URL: path and parameters have to be that URL's, or somebody would get
/// something else than asked for.
fn require_own_url(target: &FleetTarget, request: &Parts, cluster: &str) -> Result<(), Refusal> {
    let Ok(url) = Url::parse(&target.state.scrape_url) else { return Ok(()) };
    let asked = first_values(request.uri.query().unwrap_or_default());
    if request.uri.path() == url.path() && asked == first_values(url.query().unwrap_or_default()) {
        return Ok(());
    }
    let own = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let message = format!(
        "target {} of cluster {cluster} is {own} and nothing else; leave __metrics_path__ and __param_* as discovered",
        target.id
    );
    Err(Refusal::new("refused", StatusCode::FORBIDDEN, message))
}
