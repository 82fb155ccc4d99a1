//! Answers of our own, in place of a target's.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, PROXY_AUTHENTICATE, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::ext::ReasonPhrase;

use crate::{Body, FleetError};

/// Longest text in a status line, bytes.
const REASON_BYTES_MAX: usize = 160;

/// Why a request was not passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What kind, for the metrics.
    pub(crate) outcome: &'static str,
    pub(crate) status: StatusCode,
    /// For a person, one line. It stands in the status line, too: that is all of an answer that
    /// Prometheus shows on its target page.
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(outcome: &'static str, status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { outcome, status, message: message.into() }
    }

    /// What became of a fetch from `target` of `cluster`.
    pub(crate) fn of_fleet(error: &FleetError, target: &str, cluster: &str) -> Refusal {
        match error {
            FleetError::UnknownCluster => Refusal::unknown_cluster(cluster),
            FleetError::NotConnected => Refusal::new(
                "not_connected",
                StatusCode::BAD_GATEWAY,
                format!("no agent of cluster {cluster} is connected to this hub"),
            ),
            FleetError::UnknownTarget => Refusal::new(
                "unknown_target",
                StatusCode::NOT_FOUND,
                format!("cluster {cluster} has no target {target}; it has gone, or discovery is behind"),
            ),
            FleetError::Refused(why) => Refusal::new(
                "refused",
                StatusCode::FORBIDDEN,
                format!("the agent of cluster {cluster} refuses target {target}: {why}"),
            ),
            FleetError::Timeout => Refusal::new(
                "timeout",
                StatusCode::GATEWAY_TIMEOUT,
                format!("target {target} of cluster {cluster} did not answer in time"),
            ),
            FleetError::Busy(why) => Refusal::new(
                "busy",
                StatusCode::SERVICE_UNAVAILABLE,
                format!("cluster {cluster} cannot be asked now: {why}"),
            ),
            FleetError::Failed(why) => Refusal::new(
                "failed",
                StatusCode::BAD_GATEWAY,
                format!("target {target} of cluster {cluster}: {why}"),
            ),
        }
    }

    /// The same for a cluster that does not exist and one that the caller may not see.
    pub(crate) fn unknown_cluster(cluster: &str) -> Refusal {
        let message = format!("no cluster {cluster} is enrolled here, or the credential may not see it");
        Refusal::new("unknown_cluster", StatusCode::NOT_FOUND, message)
    }

    /// The answer.
    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = plain(self.status, format!("{}\n", self.message));
        let mut line: Vec<u8> = self.message.bytes().filter(|b| matches!(b, b' '..=b'~')).collect();
        line.truncate(REASON_BYTES_MAX);
        if let Ok(reason) = ReasonPhrase::try_from(line) {
            response.extensions_mut().insert(reason);
        }
        let extra = match self.status {
            StatusCode::METHOD_NOT_ALLOWED => Some((ALLOW, "GET")),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Some((PROXY_AUTHENTICATE, "Basic realm=\"marigraph\", charset=\"UTF-8\""))
            }
            StatusCode::SERVICE_UNAVAILABLE => Some((RETRY_AFTER, "5")),
            _ => None,
        };
        if let Some((name, value)) = extra {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// A text.
pub(crate) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(whole(text));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

/// A body that is all there.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
