//! The HTTP client of scraping: one slot for each target.
//!
//! A shared pool of connections fits scraping badly: every target has its own TLS settings, proxy,
//! deadline and limit, and wants one connection, open between scrapes only when they are frequent.
//! So a target has a [`Slot`] that holds at most one connection, and a job has an [`HttpClient`]
//! that knows how to open one. The byte stream comes from a [`Connector`], which may lead anywhere.
//!
//! A request follows redirects, retries once when a kept connection turns out to be closed,
//! unpacks gzip and zstd while they arrive, and stops at the limit of the *unpacked* size.

mod body;
mod connect;
mod error;
mod oauth2;
mod post;
mod proxy;
mod relay;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{HeaderName, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use url::Url;

pub use connect::{BoxedStream, Connecting, Connector, Reach, Stream, TcpConnector};
pub use error::FetchError;
pub use post::{Post, Posted};
pub(crate) use relay::{Kept, Relay};
pub use tls::TlsConfigs;

use crate::config::{Auth, HttpClientConfig, Source};
use oauth2::Tokens;
use proxy::ProxyChoice;

/// Redirects followed before giving up. Source: Go `net/http`.
const REDIRECTS_MAX: usize = 10;
/// The largest unpacked body where the configuration sets no limit.
const BODY_BYTES_MAX: u64 = 1 << 30;
/// Bytes of an HTTP/1 connection's read buffer: small, because every target has one.
const READ_BUFFER_BYTES: usize = 4096;
/// A target with a body above this, packed as it comes, gets a connection with a larger buffer: reading would
/// take too many calls.
const SMALL_BODY_BYTES: usize = 64 << 10;
/// How we introduce ourselves.
const USER_AGENT: &str = concat!("marigraph/", env!("CARGO_PKG_VERSION"));

/// The encodings that are unpacked. gzip before zstd: everybody knows it, and packing it costs a target
/// less memory.
const COMPRESSED: &str = "gzip, zstd;q=0.9";

const SCRAPE_TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// Makes requests as one configuration says. Cheap to share, keeps no connections.
pub struct HttpClient {
    config: HttpClientConfig,
    proxy: ProxyChoice,
    connector: Arc<dyn Connector>,
    tls: Arc<TlsConfigs>,
    /// The token of all requests, where one is needed.
    tokens: Option<Tokens>,
}

/// A place for one connection. Not shared: one request at a time.
#[derive(Default)]
pub struct Slot {
    open: Option<Open>,
    /// Whether connections get a large read buffer.
    wide: bool,
    /// Bytes of the last body, packed as it came.
    came: usize,
}

/// What to get and within which bounds.
#[derive(Debug, Clone)]
pub struct Fetch<'a> {
    /// From where.
    pub url: &'a Url,
    /// The `Accept` header.
    pub accept: &'a str,
    /// Whether a compressed answer is asked for.
    pub gzip: bool,
    /// The time for all of it: connecting, redirects, the whole body.
    pub timeout: Duration,
    /// Told to the target in `X-Prometheus-Scrape-Timeout-Seconds`.
    pub announce_timeout: bool,
    /// Headers to send beside those of the configuration and of these fields; names in lower case.
    pub headers: &'a [(&'static str, String)],
    /// The largest unpacked body, bytes; 0 for the built-in limit of 1 GiB.
    pub body_bytes_max: u64,
    /// Whether the connection is kept for the next request.
    pub keep_alive: bool,
}

/// A successful answer; its body is in the buffer that was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// The `Content-Type` header.
    pub content_type: Option<String>,
}

/// An open connection and where it leads.
struct Open {
    to: Authority,
    sender: Sender,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority {
    tls: bool,
    host: String,
    port: u16,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl HttpClient {
    /// A client for `config`. Reads its TLS files once, so that a wrong one shows here.
    ///
    /// # Errors
    /// A TLS file that cannot be read or used; the message names it.
    pub fn new(
        config: &HttpClientConfig,
        connector: Arc<dyn Connector>,
        tls: Arc<TlsConfigs>,
    ) -> Result<HttpClient, String> {
        tls.get(&config.tls, config.enable_http2)?;
        let tokens = match &config.auth {
            Auth::OAuth2(oauth2) => Some(Tokens::new(oauth2, &connector, &tls)?),
            _ => None,
        };
        Ok(HttpClient {
            config: config.clone(),
            proxy: ProxyChoice::new(&config.proxy),
            connector,
            tls,
            tokens,
        })
    }

    /// One request on a connection of its own, for callers that ask rarely (HTTP discovery).
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn get(&self, fetch: &Fetch<'_>) -> Result<(Fetched, Vec<u8>), FetchError> {
        let mut body = Vec::new();
        let fetched = Slot::default().fetch(self, fetch, &mut body).await?;
        Ok((fetched, body))
    }

    /// Opens a connection to `to`, through the proxy where there is one; `wide` gives it a large buffer.
    async fn open(&self, to: &Authority, wide: bool, reach: Reach) -> Result<Open, FetchError> {
        let stream = self.stream(to, reach).await?;
        let (stream, http2) = if to.tls && !self.connector.takes_urls() {
            let config =
                self.tls.get(&self.config.tls, self.config.enable_http2).map_err(FetchError::Setup)?;
            let name = self.config.tls.server_name.as_deref().unwrap_or(&to.host);
            connect::tls(stream, config, name).await.map_err(|e| FetchError::connect(&to.host, to.port, e))?
        } else {
            (stream, false)
        };
        let io = TokioIo::new(stream);
        let sender = if http2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), io).await.map_err(FetchError::transfer)?;
            tokio::spawn(async move { drop(connection.await) });
            Sender::Http2(sender)
        } else {
            let mut builder = http1::Builder::new();
            if !wide {
                builder.read_buf_exact_size(Some(READ_BUFFER_BYTES));
            }
            let (sender, connection) = builder.handshake(io).await.map_err(FetchError::transfer)?;
            tokio::spawn(async move { drop(connection.await) });
            Sender::Http1(sender)
        };
        Ok(Open { to: to.clone(), sender })
    }

    /// A byte stream to `to`, or to the proxy that forwards to it.
    async fn stream(&self, to: &Authority, reach: Reach) -> Result<BoxedStream, FetchError> {
        let own_way = self.connector.takes_urls();
        let Some(proxy) = self.proxy.of(to.tls, &to.host, to.port).filter(|_| !own_way) else {
            return self.dial(&to.host, to.port, reach).await;
        };
        // The proxy resolves names; what is no name is seen here.
        reach.check_literal(&to.host).map_err(|e| FetchError::connect(&to.host, to.port, e))?;
        let stream = self.dial(&proxy.host, proxy.port, Reach::Anywhere).await?;
        let failed = |e| FetchError::connect(&proxy.host, proxy.port, e);
        let stream = if proxy.tls {
            let config = self.tls.get(&self.config.tls, false).map_err(FetchError::Setup)?;
            connect::tls(stream, config, &proxy.host).await.map_err(failed)?.0
        } else {
            stream
        };
        if !to.tls {
            return Ok(stream); // the request itself names the target
        }
        let headers = proxy.connect_headers(&self.config.proxy.connect_headers);
        connect::tunnel(stream, &to.host, to.port, &headers).await.map_err(failed)
    }

    async fn dial(&self, host: &str, port: u16, reach: Reach) -> Result<BoxedStream, FetchError> {
        self.connector.connect(host, port, reach).await.map_err(|e| FetchError::connect(host, port, e))
    }

    fn request(
        &self,
        url: &Url,
        http2: bool,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, FetchError> {
        let to = authority(url)?;
        let through = if to.tls { None } else { self.proxy.of(false, &to.host, to.port) };
        let uri = if http2 || through.is_some() || self.connector.takes_urls() {
            &url[..url::Position::AfterQuery]
        } else {
            &url[url::Position::BeforePath..url::Position::AfterQuery]
        };
        let uri: Uri = uri.parse().map_err(|e| FetchError::Url(format!("{e}")))?;
        let mut request = Request::new(Full::new(body));
        *request.uri_mut() = uri;
        let all = request.headers_mut();
        if !http2 {
            let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
            all.insert(header::HOST, value(host)?);
        }
        if let Some(authorization) = through.as_ref().and_then(|proxy| proxy.authorization()) {
            all.insert(header::PROXY_AUTHORIZATION, authorization);
        }
        all.extend(headers);
        Ok(request)
    }

    /// The headers of a request; those that carry credentials only go to the host that was asked first.
    async fn headers(
        &self,
        fetch: &Fetch<'_>,
        same_host: bool,
        http2: bool,
    ) -> Result<HeaderMap, FetchError> {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::ACCEPT, value(fetch.accept)?);
        let encoding = if fetch.gzip { COMPRESSED } else { "identity" };
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(encoding));
        if fetch.announce_timeout {
            headers.insert(SCRAPE_TIMEOUT_HEADER, value(&fetch.timeout.as_secs_f64().to_string())?);
        }
        for (name, text) in fetch.headers {
            headers.insert(header::HeaderName::from_static(name), value(text)?);
        }
        self.add_own_headers(&mut headers, same_host).await?;
        if !fetch.keep_alive && !http2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(headers)
    }

    /// Adds what the configuration says; `Authorization` where `credentials` says so.
    async fn add_own_headers(&self, headers: &mut HeaderMap, credentials: bool) -> Result<(), FetchError> {
        for (name, sources) in &self.config.headers {
            for source in sources {
                headers.append(name, secret(source.read().map_err(FetchError::Setup)?.reveal())?);
            }
        }
        if credentials && let Some(authorization) = self.authorization().await? {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        Ok(())
    }

    /// The `Authorization` header; files are read each time, so that they may change.
    async fn authorization(&self) -> Result<Option<HeaderValue>, FetchError> {
        if let Some(tokens) = &self.tokens {
            return tokens.get().await.map(Some);
        }
        let read = |source: &Option<Source>| match source {
            Some(source) => source.read().map_err(FetchError::Setup),
            None => Ok(crate::config::Secret::default()),
        };
        let text = match &self.config.auth {
            Auth::None | Auth::OAuth2(_) => return Ok(None),
            Auth::Basic { username, password } => {
                let pair = format!("{}:{}", read(username)?.reveal(), read(password)?.reveal());
                format!("Basic {}", BASE64.encode(pair))
            }
            Auth::Scheme { scheme, credentials } => format!("{scheme} {}", read(credentials)?.reveal()),
        };
        secret(&text).map(Some)
    }
}

impl Slot {
    /// Gets `fetch.url` into `body` (emptied first).
    ///
    /// # Errors
    /// See [`FetchError`]; `body` is then of no use. The connection is closed.
    pub async fn fetch(
        &mut self,
        client: &HttpClient,
        fetch: &Fetch<'_>,
        body: &mut Vec<u8>,
    ) -> Result<Fetched, FetchError> {
        self.came = 0;
        let whole = self.follow(client, fetch, body);
        let outcome = match tokio::time::timeout(fetch.timeout, whole).await {
            Ok(outcome) => outcome,
            Err(_) => Err(FetchError::Deadline(fetch.timeout)),
        };
        let outgrown = !self.wide && self.came > SMALL_BODY_BYTES;
        self.wide |= outgrown;
        if outcome.is_err() || outgrown || !fetch.keep_alive {
            self.open = None;
        }
        outcome
    }

    /// Follows redirects to the answer.
    async fn follow(
        &mut self,
        client: &HttpClient,
        fetch: &Fetch<'_>,
        body: &mut Vec<u8>,
    ) -> Result<Fetched, FetchError> {
        let origin = authority(fetch.url)?;
        let mut url = fetch.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let to = authority(&url)?;
            let same_host = to == origin;
            let response = self.send(client, fetch, &url, &to, same_host).await?;
            let status = response.status();
            if status == StatusCode::OK {
                let content_type = text_header(response.headers(), header::CONTENT_TYPE);
                let limit = if fetch.body_bytes_max == 0 { BODY_BYTES_MAX } else { fetch.body_bytes_max };
                self.came = body::read(response, limit, body).await?;
                return Ok(Fetched { content_type });
            }
            if status == StatusCode::UNAUTHORIZED
                && same_host
                && let Some(tokens) = &client.tokens
            {
                tokens.forget().await;
            }
            // The rest of the answer is not worth reading, and the connection is not clean without.
            self.open = None;
            let location = text_header(response.headers(), header::LOCATION);
            let redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            match location {
                Some(location) if redirect && client.config.follow_redirects => {
                    url = url.join(&location).map_err(|e| FetchError::Url(format!("redirect: {e}")))?;
                }
                _ => return Err(FetchError::status(&response)),
            }
        }
        Err(FetchError::Redirects(REDIRECTS_MAX))
    }

    /// Sends one request; again when a connection kept from before has been closed, or its buffer
    /// is too small for the headers.
    async fn send(
        &mut self,
        client: &HttpClient,
        fetch: &Fetch<'_>,
        url: &Url,
        to: &Authority,
        same_host: bool,
    ) -> Result<http::Response<Incoming>, FetchError> {
        let kept = self.open.take_if(|open| open.to != *to || open.sender.is_closed());
        drop(kept);
        let reused = self.open.is_some();
        match self.send_once(client, fetch, url, to, same_host).await {
            Err(FetchError::Transfer(_)) if reused => {
                self.open = None;
                self.send_once(client, fetch, url, to, same_host).await
            }
            Err(FetchError::HeadTooLarge) if !self.wide => {
                self.open = None;
                self.wide = true;
                self.send_once(client, fetch, url, to, same_host).await
            }
            outcome => outcome,
        }
    }

    async fn send_once(
        &mut self,
        client: &HttpClient,
        fetch: &Fetch<'_>,
        url: &Url,
        to: &Authority,
        same_host: bool,
    ) -> Result<http::Response<Incoming>, FetchError> {
        let open = match &mut self.open {
            Some(open) => open,
            empty => empty.insert(client.open(to, self.wide || !fetch.keep_alive, Reach::Anywhere).await?),
        };
        let http2 = open.sender.is_http2();
        let headers = client.headers(fetch, same_host, http2).await?;
        let request = client.request(url, http2, headers, Bytes::new())?;
        open.sender.send(request).await
    }
}

impl Sender {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<http::Response<Incoming>, FetchError> {
        match self {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(FetchError::transfer)?;
                sender.send_request(request).await.map_err(FetchError::transfer)
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(FetchError::transfer)?;
                sender.send_request(request).await.map_err(FetchError::transfer)
            }
        }
    }

    fn is_http2(&self) -> bool {
        matches!(self, Sender::Http2(_))
    }

    fn is_closed(&self) -> bool {
        match self {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }
}

fn authority(url: &Url) -> Result<Authority, FetchError> {
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        other => return Err(FetchError::Url(format!("unsupported protocol scheme {other:?}"))),
    };
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(FetchError::Url("no host in the URL".to_owned()));
    };
    // `[::1]` in a URL, `::1` for everything else.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok(Authority { tls, host: host.to_owned(), port })
}

fn text_header(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn value(text: &str) -> Result<HeaderValue, FetchError> {
    HeaderValue::from_str(text)
        .map_err(|_| FetchError::Setup("a header value holds odd characters".to_owned()))
}

fn secret(text: &str) -> Result<HeaderValue, FetchError> {
    let mut value = value(text)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
