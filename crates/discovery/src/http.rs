//! HTTP discovery: target groups as JSON from a URL.
//!
//! Source: Prometheus `discovery/http/http.go` and `docs/http_sd.md`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::TargetGroup;
use tokio_util::sync::CancellationToken;

use crate::BoxFuture;
use crate::config::HttpConfig;
use crate::document::{self, DocumentError, Format};
use crate::provider::{Discoverer, Updates, ticks};

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

/// The label that holds the URL a target came from.
pub const URL_LABEL: &str = "__meta_url";
/// Largest answer, bytes, unpacked.
pub const BODY_BYTES_MAX: u64 = 64 << 20;

/// Makes one GET request. The wiring implements it with the client of the configuration.
pub trait HttpFetch: Send + Sync {
    /// Asks, following redirects if so configured.
    ///
    /// # Errors
    /// Why there is no answer, or none within the bounds of the request, in one sentence.
    fn fetch<'a>(&'a self, request: HttpRequest<'a>) -> BoxFuture<'a, Result<HttpResponse, String>>;
}

/// What to ask for.
#[derive(Debug, Clone, Copy)]
pub struct HttpRequest<'a> {
    /// The URL.
    pub url: &'a str,
    /// Headers to send beside the client's own; names in lower case.
    pub headers: &'a [(&'static str, String)],
    /// How long all of it may take.
    pub timeout: Duration,
    /// The largest body, bytes, unpacked.
    pub body_bytes_max: u64,
}

/// The answer.
#[derive(Debug, Clone, Default)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The `Content-Type` header; empty when absent.
    pub content_type: String,
    /// The body.
    pub body: Bytes,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum HttpError {
    #[error("get {url}: {reason}")]
    Fetch { url: String, reason: String },
    #[error("get {url}: server returned HTTP status {status}")]
    Status { url: String, status: u16 },
    #[error("get {url}: unsupported content type {content_type:?}")]
    ContentType { url: String, content_type: String },
    #[error("get {url}: answer larger than {max} bytes")]
    TooLarge { url: String, max: u64 },
    #[error("get {url}: {source}")]
    Document { url: String, source: DocumentError },
}

/// Asks one URL again and again.
pub struct HttpDiscoverer {
    url: String,
    refresh_interval: Duration,
    fetch: Arc<dyn HttpFetch>,
    headers: [(&'static str, String); 2],
}

impl HttpDiscoverer {
    /// A discoverer for `config`; asks nothing yet.
    pub fn new(config: HttpConfig) -> HttpDiscoverer {
        let HttpConfig { url, refresh_interval, fetch } = config;
        let seconds = model::number::format_float(refresh_interval.as_secs_f64());
        let headers =
            [("accept", "application/json".to_owned()), ("x-prometheus-refresh-interval-seconds", seconds)];
        HttpDiscoverer { url, refresh_interval, fetch, headers }
    }

    async fn ask(&self) -> Result<Vec<TargetGroup>, HttpError> {
        let url = || self.url.clone();
        let request = HttpRequest {
            url: &self.url,
            headers: &self.headers,
            timeout: self.refresh_interval,
            body_bytes_max: BODY_BYTES_MAX,
        };
        let answer =
            self.fetch.fetch(request).await.map_err(|reason| HttpError::Fetch { url: url(), reason })?;
        if answer.status != 200 {
            return Err(HttpError::Status { url: url(), status: answer.status });
        }
        if !is_json(&answer.content_type) {
            return Err(HttpError::ContentType { url: url(), content_type: answer.content_type });
        }
        if answer.body.len() as u64 > BODY_BYTES_MAX {
            return Err(HttpError::TooLarge { url: url(), max: BODY_BYTES_MAX });
        }
        document::parse(&answer.body, Format::Json, &self.url, URL_LABEL)
            .map_err(|source| HttpError::Document { url: url(), source })
    }
}

impl Discoverer for HttpDiscoverer {
    fn run(self: Box<Self>, updates: Updates, stop: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let rounds = async {
                let mut ticks = ticks(self.refresh_interval);
                loop {
                    ticks.tick().await;
                    match self.ask().await {
                        Ok(groups) => updates.set(groups),
                        Err(error) => updates.failed(error.to_string()),
                    }
                }
            };
            stop.run_until_cancelled(rounds).await;
        })
    }
}

/// `application/json`, alone or with the charset UTF-8, in any case.
fn is_json(content_type: &str) -> bool {
    let lower = content_type.trim().to_ascii_lowercase();
    let Some(rest) = lower.strip_prefix("application/json") else { return false };
    let parameter = rest.strip_prefix(';').map(str::trim_start);
    rest.is_empty() || matches!(parameter, Some("charset=utf-8" | "charset=\"utf-8\""))
}
