//! Requests of others to targets that are scraped here: through a tunnel, by a hub or its users.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Response};
use hyper::body::Incoming;
use model::SourceId;

use crate::client::{FetchError, HttpClient, Kept, Relay};
use crate::target::Target;

/// Why there is no answer to pass on.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// No such target is scraped here (any more).
    #[error("no target {0} is scraped here")]
    UnknownTarget(SourceId),
    /// It could not be asked.
    #[error("get {url}: {source}")]
    Fetch {
        /// The target's URL.
        url: String,
        /// What failed.
        source: FetchError,
    },
}

/// A target, and the way to it.
pub(crate) struct Relayed {
    pub(crate) client: Arc<HttpClient>,
    pub(crate) target: Arc<Target>,
    pub(crate) kept: Arc<Kept>,
}

impl Relayed {
    /// Gets the head of the answer within the timeout, which is also the target's; the body streams.
    pub(crate) async fn get(
        &self,
        headers: &HeaderMap,
        timeout: Duration,
    ) -> Result<Response<Incoming>, RelayError> {
        let timeout = timeout.min(self.target.timeout);
        let relay = Relay { url: &self.target.url, headers, timeout };
        self.client.relay(&relay, &self.kept).await.map_err(|source| {
            let mut url = self.target.url.clone();
            // Only what cannot hold a URL without user refuses.
            let _ = (url.set_username(""), url.set_password(None));
            RelayError::Fetch { url: url.into(), source }
        })
    }
}
