//! Getting a URL of the allow list: no redirect, no link-local address, no credentials.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Position, Url};

use super::{ReachError, is_link_local};
use crate::connect::BoxedStream;
use crate::protocol::Body;

/// Headers of the asker that go along.
const PASSED_ON: [HeaderName; 3] = [ACCEPT, ACCEPT_ENCODING, USER_AGENT];

/// Gets URLs.
#[derive(Default)]
pub(super) struct Fetcher {
    /// TLS with the system's roots; made when it is first needed.
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Fetcher {
    /// Gets `url`; the timeout is for the head of the answer.
    pub(super) async fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
        timeout: Duration,
    ) -> Result<Response<Body>, ReachError> {
        match tokio::time::timeout(timeout, self.get_in_time(url, headers)).await {
            Ok(answer) => Ok(answer?.map(|body| body.map_err(Into::into).boxed_unsync())),
            Err(_) => Err(ReachError::Late(timeout)),
        }
    }

    async fn get_in_time(&self, url: &Url, headers: &HeaderMap) -> Result<Response<Incoming>, ReachError> {
        let failed = |what: String| ReachError::Failed(format!("get {url}: {what}"));
        let host = url.host_str().unwrap_or_default();
        let bare_host = host.trim_matches(['[', ']']);
        let port = url.port_or_known_default().unwrap_or(80);
        let resolved = tokio::net::lookup_host((bare_host, port)).await;
        let stream = dial(resolved.map_err(|error| failed(error.to_string()))?, &failed).await?;
        let stream: BoxedStream = if url.scheme() == "https" {
            let name =
                ServerName::try_from(bare_host.to_owned()).map_err(|error| failed(error.to_string()))?;
            let tls = TlsConnector::from(self.tls()).connect(name, stream).await;
            Box::new(tls.map_err(|error| failed(error.to_string()))?)
        } else {
            Box::new(stream)
        };
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| failed(error.to_string()))?;
        // Ends with the answer, or when its body is dropped.
        tokio::spawn(connection);
        let request = request(url, headers).map_err(|error| failed(error.to_string()))?;
        sender.send_request(request).await.map_err(|error| failed(crate::dial::chain(&error)))
    }

    fn tls(&self) -> Arc<ClientConfig> {
        let made = self.tls.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
        });
        Arc::clone(made)
    }
}

/// Connects to the first address that answers, of those that may be reached.
async fn dial(
    addresses: impl Iterator<Item = SocketAddr>,
    failed: &impl Fn(String) -> ReachError,
) -> Result<TcpStream, ReachError> {
    let mut last = failed("the name has no address".to_owned());
    for address in addresses {
        if is_link_local(address.ip()) {
            let why = format!("{} is link-local and never reached", address.ip());
            last = ReachError::Forbidden(why);
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = failed(format!("{address}: {error}")),
        }
    }
    Err(last)
}

fn request(url: &Url, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::get(&url[Position::BeforePath..Position::AfterQuery]).body(Empty::new())?;
    request
        .headers_mut()
        .insert(HOST, HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort])?);
    for name in PASSED_ON {
        if let Some(value) = headers.get(&name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    Ok(request)
}
