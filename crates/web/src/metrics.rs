//! `/metrics` about ourselves, and the figures of this crate.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::App;
use crate::auth::{Caller, Role};
use crate::process::ProcessCollector;
use crate::reply::CLIENT_CLOSED_REQUEST;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The handler of what matches no route.
const UNMATCHED: &str = "unmatched";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    handler: String,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandlerLabels {
    handler: String,
}

/// Requests by handler.
#[derive(Debug, Clone)]
pub struct WebMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<HandlerLabels, Histogram>,
}

impl WebMetrics {
    /// Registers `marigraph_web_*` and `process_*`.
    pub fn register(registry: &mut Registry) -> WebMetrics {
        let buckets = || Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]);
        let metrics = WebMetrics {
            requests: Family::default(),
            seconds: Family::new_with_constructor(buckets as fn() -> Histogram),
        };
        registry.register(
            "marigraph_web_requests",
            "HTTP requests by handler and status",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "marigraph_web_request_duration",
            "Time from a request's head to its answer's head by handler",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register_collector(Box::new(ProcessCollector));
        metrics
    }
}

/// Middleware that counts requests and times them; those whose client left count as 499.
pub(crate) async fn count(State(metrics): State<WebMetrics>, request: Request, next: Next) -> Response {
    // the pattern, not the path: strangers must not be able to make series
    let pattern = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let handler = pattern.unwrap_or_else(|| UNMATCHED.into());
    let mut outcome = Outcome { metrics, handler, begin: Instant::now(), code: CLIENT_CLOSED_REQUEST };
    let response = next.run(request).await;
    outcome.code = response.status().as_u16();
    response
}

/// Is counted when it is dropped: after the answer, or in the middle when the client has gone.
struct Outcome {
    metrics: WebMetrics,
    handler: String,
    begin: Instant,
    code: u16,
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let handler = std::mem::take(&mut self.handler);
        let seconds = self.begin.elapsed().as_secs_f64();
        self.metrics.seconds.get_or_create(&HandlerLabels { handler: handler.clone() }).observe(seconds);
        self.metrics.requests.get_or_create(&RequestLabels { handler, code: self.code }).inc();
    }
}

/// `/metrics`: OpenMetrics for those who ask for it, the classic text format for all others.
pub(crate) async fn expose(State(app): State<App>, caller: Caller, headers: HeaderMap) -> Response {
    let allowed = caller.require(Role::Read).and_then(|()| caller.require_sight("/metrics"));
    if let Err(error) = allowed {
        return error.into_response();
    }
    let wants_openmetrics = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text")));
    let registry = app.state.registry.clone();
    let run = move || {
        let mut text = String::with_capacity(64 << 10);
        Ok(encode(&mut text, &registry).map(|()| text))
    };
    match app.work.lookup(run).await {
        Ok(Ok(text)) if wants_openmetrics => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, PLAIN)], classic(&text)).into_response(),
        Ok(Err(_)) => (StatusCode::INTERNAL_SERVER_ERROR, "a metric could not be written").into_response(),
        Err(error) => error.into_response(),
    }
}

/// What `/metrics` says in text format 0.0.4; none when a metric cannot be written.
pub(crate) fn classic_text(registry: &Registry) -> Option<String> {
    let mut text = String::with_capacity(64 << 10);
    encode(&mut text, registry).ok().map(|()| classic(&text))
}

/// OpenMetrics as text format 0.0.4: families of counters are named like their samples, types that
/// are unknown there become known ones, and units, exemplars and the end mark go.
fn classic(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len());
    let mut help = "";
    for line in openmetrics.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = text;
        } else if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.rsplit_once(' ').unwrap_or((family, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" | "gaugehistogram" => ("", "untyped"),
                other => ("", other),
            };
            if let Some(help) = help.strip_prefix(name).and_then(|help| help.strip_prefix(' ')) {
                out.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            out.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with("# ") {
            out.extend([without_exemplar(line), "\n"]);
        }
    }
    out
}

/// A sample line up to its exemplar. Label values may hold ` # `, too, so the quotes are followed.
fn without_exemplar(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line[..at].trim_end(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_format_has_its_own_names() {
        let openmetrics = concat!(
            "# HELP a_requests Requests.\n# TYPE a_requests counter\n",
            "a_requests_total{path=\"x # \\\" {\"} 3 # {id=\"1\"} 1.0\n",
            "# HELP b_seconds Time.\n# TYPE b_seconds histogram\n# UNIT b_seconds seconds\n",
            "b_seconds_sum 1.5\nb_seconds_count 2\nb_seconds_bucket{le=\"+Inf\"} 2\n",
            "# TYPE c info\nc_info{v=\"1\"} 1\n# TYPE d unknown\nd 1\n# EOF\n",
        );
        let expected = concat!(
            "# HELP a_requests_total Requests.\n# TYPE a_requests_total counter\n",
            "a_requests_total{path=\"x # \\\" {\"} 3\n",
            "# HELP b_seconds Time.\n# TYPE b_seconds histogram\n",
            "b_seconds_sum 1.5\nb_seconds_count 2\nb_seconds_bucket{le=\"+Inf\"} 2\n",
            "# TYPE c_info gauge\nc_info{v=\"1\"} 1\n# TYPE d untyped\nd 1\n",
        );
        assert_eq!(classic(openmetrics), expected);
    }
}
