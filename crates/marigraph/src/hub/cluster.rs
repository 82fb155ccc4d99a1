//! `/cluster/<name>/…`: a cluster as its own Prometheus would answer.
//!
//! Questions about data are answered here, from what this hub stores and what the cluster's agents keep,
//! whichever it is: one meaning wherever the rows are. The labels that tell clusters apart are not there, as they
//! are not at a Prometheus in the cluster; `/federate` and remote read add them, as its `external_labels`
//! would. What is about targets, rules and the agent itself goes through the tunnel to the agent.
//!
//! `docs/design/reach.md` has the reasons.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use gather::OfCluster;
use http::{Method, StatusCode, Uri, header};
use model::{Labels, Matcher, TenantId};
use parking_lot::Mutex;
use serde_json::json;
use storage::{Queryable, Select};
use tower::ServiceExt;
use tunnel::{Ask, RequestError};
use web::{
    Auth, Caller, ClientAddress, Completeness, CompletenessAsk, CompletenessReport, IncompleteTime, Role,
    WebState,
};

use super::fleet::{CLUSTER_LABEL, Fleet};
use super::stores::away;

/// How long an agent may take to answer what goes through to it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Clusters whose views are kept ready.
const VIEWS_MAX: usize = 1024;
/// Clusters that an error names.
const NAMED_MAX: usize = 50;

/// Answered here.
const OF_DATA: [&str; 10] = [
    "federate",
    "api/v1/query",
    "api/v1/query_range",
    "api/v1/query_exemplars",
    "api/v1/format_query",
    "api/v1/parse_query",
    "api/v1/series",
    "api/v1/labels",
    "api/v1/metadata",
    "api/v1/read",
];
/// Answered here: what Grafana asks to learn what it may ask. The engine is the hub's.
const OF_ENGINE: [&str; 2] = ["api/v1/status/buildinfo", "api/v1/features"];
/// Answered by the agent.
const OF_AGENT: [&str; 12] = [
    "api/v1/targets",
    "api/v1/targets/metadata",
    "api/v1/targets/relabel_steps",
    "api/v1/scrape_pools",
    "api/v1/scrape_pools/config",
    "api/v1/rules",
    "api/v1/alerts",
    "api/v1/alertmanagers",
    "api/v1/status/tsdb",
    "api/v1/status/tsdb/blocks",
    "api/v1/status/series",
    "api/v1/status/walreplay",
];
/// Answered by the agent, for those whom the program concerns.
const OF_PROGRAM: [&str; 4] = [
    "api/v1/status/config",
    "api/v1/status/flags",
    "api/v1/status/runtimeinfo",
    "api/v1/status/self_metrics",
];

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Here,
    Agent,
    AgentToFew,
    Nobody,
}

fn answers(path: &str) -> Answers {
    let values = path.strip_prefix("api/v1/label/").and_then(|rest| rest.strip_suffix("/values"));
    match path {
        _ if OF_DATA.contains(&path) || OF_ENGINE.contains(&path) => Answers::Here,
        _ if values.is_some_and(|name| !name.is_empty() && !name.contains('/')) => Answers::Here,
        _ if OF_AGENT.contains(&path) => Answers::Agent,
        _ if OF_PROGRAM.contains(&path) => Answers::AgentToFew,
        _ => Answers::Nobody,
    }
}

/// The doors below `/cluster/`.
#[derive(Clone)]
pub(super) struct Clusters(Arc<Shared>);

struct Shared {
    fleet: Fleet,
    web: WebState,
    /// The rows that are here, for names of clusters that no agent is enrolled for (any more).
    stored: Arc<dyn Queryable>,
    views: Mutex<HashMap<(TenantId, String, Labels), Router>>,
}

impl Clusters {
    /// Answers with what `web` answers with.
    pub(super) fn new(fleet: Fleet, web: WebState, stored: Arc<dyn Queryable>) -> Clusters {
        Clusters(Arc::new(Shared { fleet, web, stored, views: Mutex::default() }))
    }

    /// For the router that wants a credential.
    pub(super) fn doors(self) -> Router {
        Router::new().route("/cluster/{name}/{*path}", any(answer)).with_state(self)
    }
}

async fn answer(
    State(Clusters(shared)): State<Clusters>,
    caller: Caller,
    Path((cluster, path)): Path<(String, String)>,
    request: Request,
) -> Response {
    if !caller.role.allows(Role::Read) {
        return refusal(
            StatusCode::FORBIDDEN,
            "forbidden",
            "the credential does not have the role this needs",
        );
    }
    if let Err(response) = shared.find(&caller, &cluster).await {
        return *response;
    }
    match answers(&path) {
        Answers::Here => shared.here(&caller, &cluster, request).await,
        Answers::AgentToFew if !caller.sees_program() => {
            let why = "this is about the program, which belongs to the default tenant";
            refusal(StatusCode::FORBIDDEN, "forbidden", why)
        }
        Answers::Agent | Answers::AgentToFew => shared.through(&caller, &cluster, request).await,
        Answers::Nobody => {
            let why = format!("no such endpoint: {}", request.uri().path());
            refusal(StatusCode::NOT_FOUND, "not_found", &why)
        }
    }
}

impl Shared {
    /// Whether there is such a cluster for this caller.
    async fn find(&self, caller: &Caller, cluster: &str) -> Result<(), Box<Response>> {
        let enrolled = proxy::Fleet::clusters(&self.fleet, &caller.tenant);
        if caller.sees_cluster(cluster) && enrolled.iter().any(|one| one.name == cluster) {
            return Ok(());
        }
        let (view, tenant) = (caller.view(&self.stored), caller.tenant.clone());
        let look = move || {
            let (start_ms, end_ms) = (i64::MIN / 2, i64::MAX / 2);
            let everything = Select { tenant, start_ms, end_ms, matchers: Vec::new() };
            view.label_values(CLUSTER_LABEL, &everything).map(|listed| listed.values)
        };
        let stored = match tokio::task::spawn_blocking(look).await {
            Ok(Ok(stored)) => stored,
            Ok(Err(error)) => return Err(Box::new(internal(&error.to_string()))),
            Err(_) => return Err(Box::new(internal("the look-up panicked; the log has more"))),
        };
        if stored.iter().any(|name| name == cluster) {
            return Ok(());
        }
        let mut known: BTreeSet<String> = enrolled.into_iter().map(|one| one.name).collect();
        known.retain(|name| caller.sees_cluster(name));
        known.extend(stored);
        let more = known.len().saturating_sub(NAMED_MAX);
        let mut named: Vec<String> = known.into_iter().take(NAMED_MAX).collect();
        if more > 0 {
            named.push(format!("{more} more"));
        }
        let there_are = match named.is_empty() {
            true => "there are none".to_owned(),
            false => format!("there are {}", named.join(", ")),
        };
        let why = format!("no cluster {cluster:?}; {there_are}");
        Err(Box::new(refusal(StatusCode::NOT_FOUND, "not_found", &why)))
    }

    /// Answers from the data.
    async fn here(&self, caller: &Caller, cluster: &str, request: Request) -> Response {
        let (mut head, body) = request.into_parts();
        head.uri = match Uri::try_from(below(&head.uri)) {
            Ok(uri) => uri,
            Err(error) => return refusal(StatusCode::BAD_REQUEST, "bad_data", &error.to_string()),
        };
        // The inner router finds path and caller itself.
        let client = head.extensions.remove::<ClientAddress>();
        head.extensions.clear();
        client.and_then(|client| head.extensions.insert(client));
        let router = self.view(&caller.tenant, cluster);
        router.oneshot(Request::from_parts(head, body)).await.unwrap_or_else(|never| match never {})
    }

    /// A router whose store is the cluster's.
    fn view(&self, tenant: &TenantId, cluster: &str) -> Router {
        let stamped = self.fleet.stamped(tenant, cluster);
        let key = (tenant.clone(), cluster.to_owned(), stamped.clone());
        let mut views = self.views.lock();
        if let Some(router) = views.get(&key) {
            return router.clone();
        }
        let mut reader = Caller::new(tenant.clone(), Role::Read);
        reader.clusters = Arc::from([cluster.to_owned()]);
        let store = Arc::new(OfCluster::new(reader.view(&self.web.store), stamped.clone()));
        let account = self.web.completeness.clone().map(|account| {
            let store = Arc::clone(&store);
            Arc::new(OwnAccount { account, store, cluster: cluster.to_owned() }) as Arc<dyn Completeness>
        });
        let router = web::router(WebState {
            store,
            completeness: account,
            external_labels: stamped,
            auth: Arc::new(Auth::everybody(Caller::new(tenant.clone(), Role::Read))),
            ..self.web.clone()
        });
        if views.len() >= VIEWS_MAX {
            views.clear();
        }
        views.insert(key, router.clone());
        router
    }

    /// Lets the agent answer.
    async fn through(&self, caller: &Caller, cluster: &str, request: Request) -> Response {
        if request.method() != Method::GET {
            let why = format!("{} is not allowed for {}", request.method(), request.uri().path());
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &why);
        }
        let mut asked = http::Request::get(below(request.uri()));
        for name in [header::ACCEPT, header::ACCEPT_ENCODING] {
            if let Some(value) = request.headers().get(&name) {
                asked = asked.header(name, value);
            }
        }
        let asked = match asked.body(Bytes::new()) {
            Ok(asked) => asked,
            Err(error) => return refusal(StatusCode::BAD_REQUEST, "bad_data", &error.to_string()),
        };
        let to = Fleet::cluster(&caller.tenant, cluster);
        let answer = match self.fleet.agents().request(&to, asked, Ask::scrape(PATIENCE)).await {
            Ok(answer) => answer,
            Err(error) => return self.unanswered(caller, cluster, &error),
        };
        let (head, body) = answer.into_parts();
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = head.status;
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::VARY] {
            if let Some(value) = head.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        response
    }

    fn unanswered(&self, caller: &Caller, cluster: &str, error: &RequestError) -> Response {
        let why = match error {
            RequestError::NotConnected(_) => away(self.fleet.last_seen_ms(&caller.tenant, cluster)),
            other => other.to_string(),
        };
        let why = format!("cluster {cluster:?} did not answer: {why}");
        let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &why);
        response.headers_mut().insert(header::RETRY_AFTER, http::HeaderValue::from_static("5"));
        response
    }
}

/// What follows `/cluster/<name>`, as it was written.
fn below(uri: &Uri) -> String {
    let path = uri.path().splitn(4, '/').nth(3).unwrap_or_default();
    uri.query().map_or_else(|| format!("/{path}"), |query| format!("/{path}?{query}"))
}

/// An error in the words of the Prometheus API.
fn refusal(status: StatusCode, kind: &str, why: &str) -> Response {
    (status, axum::Json(json!({"status": "error", "errorType": kind, "error": why}))).into_response()
}

fn internal(why: &str) -> Response {
    refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", why)
}

/// What is missing, as far as it is the cluster's.
struct OwnAccount {
    account: Arc<dyn Completeness>,
    store: Arc<OfCluster>,
    cluster: String,
}

impl Completeness for OwnAccount {
    fn report(&self, tenant: &TenantId, ask: &CompletenessAsk) -> CompletenessReport {
        let ask = CompletenessAsk { cluster: Some(self.cluster.clone()), ..ask.clone() };
        self.account.report(tenant, &ask)
    }

    fn has_gaps(&self, tenant: &TenantId) -> bool {
        self.account.has_gaps(tenant)
    }

    fn touched(&self, tenant: &TenantId, selections: &[Select]) -> Vec<IncompleteTime> {
        let at_store = selections.iter().filter_map(|select| {
            let mut select = self.store.at_store(select)?;
            select.matchers.push(Matcher::equal(CLUSTER_LABEL, self.cluster.as_str()));
            Some(select)
        });
        let mut touched = self.account.touched(tenant, &at_store.collect::<Vec<Select>>());
        touched.retain(|time| time.cluster == self.cluster);
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_cluster_stays_as_it_was_written() {
        for (uri, expected) in [
            ("/cluster/a/api/v1/query?query=up%7B%7D", "/api/v1/query?query=up%7B%7D"),
            ("/cluster/b%2Fc/api/v1/label/U__a%3Fb/values", "/api/v1/label/U__a%3Fb/values"),
            ("/cluster/a/federate", "/federate"),
        ] {
            assert_eq!(below(&Uri::from_static(uri)), expected);
        }
    }

    #[test]
    fn every_endpoint_has_somebody_who_answers() {
        for (path, expected) in [
            ("federate", Answers::Here),
            ("api/v1/query", Answers::Here),
            ("api/v1/label/job/values", Answers::Here),
            ("api/v1/label//values", Answers::Nobody),
            ("api/v1/label/a/b/values", Answers::Nobody),
            ("api/v1/targets", Answers::Agent),
            ("api/v1/status/config", Answers::AgentToFew),
            ("api/v1/admin/tsdb/delete_series", Answers::Nobody),
            ("api/v1/write", Answers::Nobody),
            ("api/v1/query/", Answers::Nobody),
            ("../api/v1/status/config", Answers::Nobody),
            ("-/reload", Answers::Nobody),
            ("metrics", Answers::Nobody),
        ] {
            assert_eq!(answers(path), expected, "{path}");
        }
    }
}
