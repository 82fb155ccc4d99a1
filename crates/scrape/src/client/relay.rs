//! Requests passed on: with this client's credentials and TLS, with the asker's wishes, body and all.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response, header};
use hyper::body::Incoming;
use parking_lot::Mutex;
use url::Url;

use super::{
    Authority, Fetch, FetchError, HttpClient, Open, Reach, SCRAPE_TIMEOUT_HEADER, Sender, authority,
};

/// Headers of the asker that go along.
const PASSED_ON: [HeaderName; 4] =
    [header::ACCEPT, header::ACCEPT_ENCODING, header::USER_AGENT, SCRAPE_TIMEOUT_HEADER];

/// A request to pass on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Relay<'a> {
    /// From where.
    pub(crate) url: &'a Url,
    /// The asker's headers.
    pub(crate) headers: &'a HeaderMap,
    /// The time to the head of the answer.
    pub(crate) timeout: Duration,
}

/// A connection left open for the next request.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Option<Open>>);

impl HttpClient {
    /// Asks for somebody else. No redirect is followed: it could lead anywhere.
    ///
    /// # Errors
    /// See [`FetchError`]; a status other than 200 is an answer like any other, but for redirects.
    pub(crate) async fn relay(
        &self,
        relay: &Relay<'_>,
        kept: &Kept,
    ) -> Result<Response<Incoming>, FetchError> {
        let answer = tokio::time::timeout(relay.timeout, self.relay_in_time(relay, kept)).await;
        let response = answer.unwrap_or(Err(FetchError::Deadline(relay.timeout)))?;
        if response.status().is_redirection() {
            return Err(FetchError::status(&response));
        }
        Ok(response)
    }

    async fn relay_in_time(&self, relay: &Relay<'_>, kept: &Kept) -> Result<Response<Incoming>, FetchError> {
        let to = authority(relay.url)?;
        let idle = kept.0.lock().take_if(|open| open.sender.is_idle());
        if let Some(mut open) = idle.filter(|open| open.to == to)
            && let Ok(response) = self.relay_on(&mut open, relay).await
        {
            *kept.0.lock() = Some(open);
            return Ok(response);
        }
        // There was none, or the target has closed it meanwhile: GET may be sent again.
        let mut open = self.open_for(&to).await?;
        let response = self.relay_on(&mut open, relay).await?;
        *kept.0.lock() = Some(open);
        Ok(response)
    }

    async fn open_for(&self, to: &Authority) -> Result<Open, FetchError> {
        self.open(to, true, Reach::BeyondTheLink).await
    }

    async fn relay_on(&self, open: &mut Open, relay: &Relay<'_>) -> Result<Response<Incoming>, FetchError> {
        let http2 = open.sender.is_http2();
        let fetch = Fetch {
            url: relay.url,
            accept: "*/*",
            gzip: false,
            timeout: relay.timeout,
            announce_timeout: true,
            headers: &[],
            body_bytes_max: 0,
            keep_alive: true,
        };
        let mut headers = self.headers(&fetch, true, http2).await?;
        for name in PASSED_ON {
            if let Some(value) = relay.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let request = self.request(relay.url, http2, headers, Bytes::new())?;
        open.sender.send(request).await
    }
}

impl Sender {
    /// Whether the next request would go out at once.
    fn is_idle(&self) -> bool {
        match self {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(sender) => sender.is_ready(),
        }
    }
}
