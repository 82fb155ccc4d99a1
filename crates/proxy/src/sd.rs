//! `GET /sd/v1/targets`: every target of every cluster for Prometheus' `http_sd_configs`.
//!
//! Each target is a group of its own. Its labels are what the agent found after relabelling (`job`,
//! `instance` and the others), the cluster's name, and what discovery knew (`__meta_*`); its address is
//! its host name below the proxy's suffix, and `__scheme__`, `__metrics_path__`, `__param_*`,
//! `__scrape_interval__` and `__scrape_timeout__` make Prometheus ask as the agent would.
//!
//! Prometheus forgets what a list lacks and keeps its last one on errors. So a cluster that is away keeps
//! its last known targets, and shortly after our own start, while clusters are still dialling home, the
//! answer is 503 instead of a list with holes.
//!
//! Source: Prometheus `docs/http_sd.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use model::{LabelsBuilder, MatchOp, Matcher, TenantId};
use serde::Serializer;
use serde::ser::SerializeMap;
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use crate::directory::{Directory, List};
use crate::fleet::{Caller, FleetTarget};
use crate::refusal::Refusal;
use crate::{Body, BoxError, names};

/// A list for discovery may be this old.
const AGE_MAX: Duration = Duration::from_secs(5);
/// How long clusters have after our start to dial home before a list goes out without them. Agents are
/// all back within 30 s.
const DIALLING: Duration = Duration::from_secs(60);
/// Longest query string, bytes.
const QUERY_BYTES_MAX: usize = 16 << 10;

/// What is asked for.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    clusters: BTreeSet<String>,
    jobs: BTreeSet<String>,
    selectors: Vec<Matcher>,
}

impl Filter {
    /// Reads `cluster`, `job` and `selector`, each any number of times.
    pub(crate) fn read(query: &str) -> Result<Filter, Refusal> {
        let bad = |message: String| Refusal::new("bad_request", StatusCode::BAD_REQUEST, message);
        if query.len() > QUERY_BYTES_MAX {
            return Err(bad(format!(
                "the query has {} bytes, at most {QUERY_BYTES_MAX} are read",
                query.len()
            )));
        }
        let mut filter = Filter::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "cluster" => drop(filter.clusters.insert(value.into_owned())),
                "job" => drop(filter.jobs.insert(value.into_owned())),
                "selector" => filter.selectors.push(selector(&value).map_err(bad)?),
                other => {
                    return Err(bad(format!(
                        "unknown parameter `{other}`; there are cluster, job and selector"
                    )));
                }
            }
        }
        Ok(filter)
    }

    pub(crate) fn has_cluster(&self, cluster: &str) -> bool {
        self.clusters.is_empty() || self.clusters.contains(cluster)
    }

    pub(crate) fn matches(&self, labels: &LabelsBuilder) -> bool {
        let value = |name: &str| labels.get(name).unwrap_or_default();
        (self.jobs.is_empty() || self.jobs.contains(value("job")))
            && self.selectors.iter().all(|matcher| matcher.matches(value(&matcher.name)))
    }

    /// The first named cluster that is none of `known`.
    pub(crate) fn unknown<'a>(&'a self, known: &[String]) -> Option<&'a String> {
        self.clusters.iter().find(|name| !known.contains(name))
    }
}

/// `name=value`, `name!=value`, `name=~pattern`, `name!~pattern`.
fn selector(text: &str) -> Result<Matcher, String> {
    let wrong = || {
        format!(
            "selector `{text}` is not of the form name=value, name!=value, name=~pattern or name!~pattern"
        )
    };
    let at = text.find(['=', '!']).filter(|at| *at > 0).ok_or_else(wrong)?;
    let (name, rest) = text.split_at(at);
    let operators =
        [("=~", MatchOp::Regex), ("!~", MatchOp::NotRegex), ("!=", MatchOp::NotEqual), ("=", MatchOp::Equal)];
    let found = operators.iter().find_map(|(sign, op)| rest.strip_prefix(sign).map(|value| (*op, value)));
    let (op, value) = found.ok_or_else(wrong)?;
    Matcher::new(op, name.trim(), value).map_err(|error| format!("selector `{text}`: {error}"))
}

/// What all lists share.
#[derive(Debug, Clone)]
pub(crate) struct Naming {
    /// What all host names end in.
    pub(crate) suffix: Arc<str>,
    /// The label that holds the cluster's name.
    pub(crate) cluster_label: Arc<str>,
}

/// The answer to `query` for `caller`; `started` is when this hub did.
pub(crate) async fn targets(
    directory: &Arc<Directory>,
    naming: &Naming,
    caller: &Caller,
    query: &str,
    started: Instant,
) -> Result<Response<Body>, Refusal> {
    let filter = Filter::read(query)?;
    let mut known = directory.names(caller);
    if let Some(name) = filter.unknown(&known) {
        return Err(Refusal::unknown_cluster(name));
    }
    known.retain(|name| filter.has_cluster(name));
    let (lists, missing) = collect(directory, &caller.tenant, known).await;
    if let Some(cluster) = missing.first()
        && started.elapsed() < DIALLING
    {
        let message = format!(
            "this hub started {}s ago and has not heard from cluster {cluster} yet; keep the list you have",
            started.elapsed().as_secs()
        );
        return Err(Refusal::new("starting", StatusCode::SERVICE_UNAVAILABLE, message));
    }
    let body = Lists { lists: lists.into_iter(), naming: naming.clone(), filter, state: State::Begin };
    Ok(json(body.boxed_unsync()))
}

/// The lists of `clusters`, by name, and the clusters that have never told theirs.
async fn collect(
    directory: &Arc<Directory>,
    tenant: &TenantId,
    clusters: Vec<String>,
) -> (BTreeMap<String, Arc<List>>, Vec<String>) {
    let mut asked = JoinSet::new();
    for cluster in clusters {
        let (directory, tenant) = (Arc::clone(directory), tenant.clone());
        asked.spawn(async move {
            let list = match directory.list(&tenant, &cluster, AGE_MAX).await {
                Ok(list) => Some(list),
                Err(error) => {
                    tracing::debug!(%tenant, cluster, %error, "list targets: the last known ones are given");
                    directory.last(&tenant, &cluster)
                }
            };
            (cluster, list)
        });
    }
    let (mut lists, mut missing) = (BTreeMap::new(), Vec::new());
    while let Some(joined) = asked.join_next().await {
        match joined {
            Ok((cluster, Some(list))) => drop(lists.insert(cluster, list)),
            Ok((cluster, None)) => missing.push(cluster),
            Err(error) => tracing::error!(%error, "list targets: a task ended badly"),
        }
    }
    missing.sort();
    (lists, missing)
}

/// A JSON answer as Prometheus' HTTP discovery takes it.
pub(crate) fn json(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The lists as JSON, a cluster at a time.
struct Lists {
    lists: std::collections::btree_map::IntoIter<String, Arc<List>>,
    naming: Naming,
    filter: Filter,
    state: State,
}

#[derive(PartialEq)]
enum State {
    /// Nothing is written yet.
    Begin,
    /// The bracket is open.
    Empty,
    /// A group is written.
    Going,
    End,
}

impl HttpBody for Lists {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut out = Vec::new();
        if self.state == State::Begin {
            out.push(b'[');
            self.state = State::Empty;
        }
        while out.len() <= 1 && self.state != State::End {
            let Some((cluster, list)) = self.lists.next() else {
                out.extend_from_slice(b"]\n");
                self.state = State::End;
                break;
            };
            for target in list.iter() {
                let labels = labels(target, &cluster, &self.naming);
                if !self.filter.matches(&labels) {
                    continue;
                }
                if self.state == State::Going {
                    out.push(b',');
                }
                self.state = State::Going;
                let host = names::target_host(&target.id, &cluster, &self.naming.suffix);
                group(&mut out, &format!("{host}:80"), &labels);
            }
        }
        match out.is_empty() {
            true => Poll::Ready(None),
            false => Poll::Ready(Some(Ok(Frame::data(out.into())))),
        }
    }
}

/// One group with one target.
pub(crate) fn group(out: &mut Vec<u8>, address: &str, labels: &LabelsBuilder) {
    let write = |out: &mut Vec<u8>| -> serde_json::Result<()> {
        out.extend_from_slice(b"{\"targets\":[");
        serde_json::to_writer(&mut *out, address)?;
        out.extend_from_slice(b"],\"labels\":");
        let mut writer = serde_json::Serializer::new(&mut *out);
        let mut map = writer.serialize_map(None)?;
        for (name, value) in labels.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()?;
        out.push(b'}');
        Ok(())
    };
    // Strings into memory: there is nothing to go wrong.
    if let Err(error) = write(out) {
        tracing::error!(%error, address, "write a target group");
    }
}

/// All labels of a target, as its own Prometheus would have them before relabelling.
fn labels(target: &FleetTarget, cluster: &str, naming: &Naming) -> LabelsBuilder {
    let state = &target.state;
    let mut labels = LabelsBuilder::default();
    for (name, value) in state.discovered_labels.iter().filter(|(name, _)| name.starts_with("__meta_")) {
        labels.set(name, value);
    }
    for (name, value) in state.labels.iter().filter(|(name, _)| !name.starts_with("__")) {
        labels.set(name, value);
    }
    if labels.get("job").is_none() {
        labels.set("job", &state.scrape_pool);
    }
    labels.set(&naming.cluster_label, cluster);
    labels.set("__scheme__", "http");
    if let Ok(url) = Url::parse(&state.scrape_url) {
        if labels.get("instance").is_none() {
            labels.set("instance", &instance(&url));
        }
        labels.set("__metrics_path__", url.path());
        for (name, value) in first_values(url.query().unwrap_or_default()) {
            labels.set(&format!("__param_{name}"), &value);
        }
    }
    for (name, ms) in
        [("__scrape_interval__", state.scrape_interval_ms), ("__scrape_timeout__", state.scrape_timeout_ms)]
    {
        if ms > 0 {
            labels.set(name, &model::duration::format(ms));
        }
    }
    labels.set("__meta_marigraph_target_id", &target.id);
    labels.set("__meta_marigraph_target_url", &state.scrape_url);
    labels
}

/// Host and port as Prometheus makes `instance` of an address.
fn instance(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The parameters by name; of several values the first, which is all that labels can say.
pub(crate) fn first_values(query: &str) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        values.entry(name.into_owned()).or_insert_with(|| value.into_owned());
    }
    values
}
