//! Sending a body, for what pushes to others. Redirects are not followed: the answer to one is the answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use url::Url;

use super::{Authority, FetchError, HttpClient, Reach, Slot, USER_AGENT, authority, text_header, value};

/// Bytes of an answer that are read: it says what was wrong, and the connection can be kept.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What to send, and within which bounds.
#[derive(Debug, Clone)]
pub struct Post<'a> {
    /// To where.
    pub url: &'a Url,
    /// Headers to send beside those of the configuration; names in lower case.
    pub headers: &'a [(&'static str, &'a str)],
    /// The body.
    pub body: Bytes,
    /// The time for all of it: connecting, sending, the answer.
    pub timeout: Duration,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The beginning of the body, 64 KiB at most.
    pub body: Vec<u8>,
}

impl Posted {
    /// The value of a header (name in lower case), when it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Slot {
    /// Sends a body. On a kept connection that turns out to be closed, it is sent again on a new one.
    ///
    /// # Errors
    /// See [`FetchError`]: there was no answer. The receiver may have taken the body all the same. The
    /// connection is closed.
    pub async fn post(&mut self, client: &HttpClient, post: &Post<'_>) -> Result<Posted, FetchError> {
        let outcome = match tokio::time::timeout(post.timeout, self.post_again(client, post)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(FetchError::Deadline(post.timeout)),
        };
        if outcome.is_err() {
            self.open = None;
        }
        outcome
    }

    async fn post_again(&mut self, client: &HttpClient, post: &Post<'_>) -> Result<Posted, FetchError> {
        let to = authority(post.url)?;
        drop(self.open.take_if(|open| open.to != to || open.sender.is_closed()));
        let reused = self.open.is_some();
        match self.post_once(client, post, &to).await {
            Err(FetchError::Transfer(_)) if reused => {
                self.open = None;
                self.post_once(client, post, &to).await
            }
            outcome => outcome,
        }
    }

    async fn post_once(
        &mut self,
        client: &HttpClient,
        post: &Post<'_>,
        to: &Authority,
    ) -> Result<Posted, FetchError> {
        let open = match &mut self.open {
            Some(open) => open,
            empty => empty.insert(client.open(to, true, Reach::Anywhere).await?),
        };
        let http2 = open.sender.is_http2();
        let headers = client.post_headers(post).await?;
        let mut request = client.request(post.url, http2, headers, post.body.clone())?;
        *request.method_mut() = Method::POST;
        let response = open.sender.send(request).await?;
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED
            && let Some(tokens) = &client.tokens
        {
            tokens.forget().await;
        }
        let closes = text_header(response.headers(), header::CONNECTION)
            .is_some_and(|text| text.eq_ignore_ascii_case("close"));
        let (parts, mut incoming) = response.into_parts();
        let mut body = Vec::new();
        let mut is_whole = true;
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.map_err(FetchError::transfer)?.into_data() else { continue };
            let room = ANSWER_BYTES_MAX - body.len();
            body.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                is_whole = false;
                break;
            }
        }
        if closes || !is_whole {
            self.open = None;
        }
        Ok(Posted { status, headers: parts.headers, body })
    }
}

impl HttpClient {
    async fn post_headers(&self, post: &Post<'_>) -> Result<HeaderMap, FetchError> {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        for (name, text) in post.headers {
            headers.insert(HeaderName::from_static(name), value(text)?);
        }
        self.add_own_headers(&mut headers, true).await?;
        Ok(headers)
    }
}

#[cfg(test)]
mod tests;
