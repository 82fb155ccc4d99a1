//! What agents and hubs say to each other about certificates (`docs/formats/certificates.md`), and one
//! request over a TLS stream.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::authority::Admission;

/// Where an agent enrols.
pub const ENROL_PATH: &str = "/fleet/v1/enrol";
/// Where an agent renews its certificate.
pub const RENEW_PATH: &str = "/fleet/v1/renew";
/// Where an agent with a certificate of the user's asks who it is.
pub const WHO_PATH: &str = "/fleet/v1/who";
/// Where a hub joins.
pub const JOIN_PATH: &str = "/fleet/v1/join";
/// Largest request or answer, bytes.
pub const EXCHANGE_BYTES_MAX: usize = 256 << 10;
/// Longest an exchange may take, dialling included.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent enrols.
#[derive(Serialize, Deserialize)]
pub struct EnrolRequest {
    /// As printed.
    pub token: String,
    /// PKCS #10, PEM.
    pub request: String,
}

/// An agent renews.
#[derive(Debug, Serialize, Deserialize)]
pub struct RenewRequest {
    /// PKCS #10, PEM.
    pub request: String,
}

/// A certificate, for either.
#[derive(Debug, Serialize, Deserialize)]
pub struct CertificateAnswer {
    /// The certificate and its intermediate, PEM.
    pub chain: String,
    /// The roots that are trusted now, PEM.
    pub bundle: String,
    /// Whose data.
    pub tenant: String,
    /// The cluster.
    pub cluster: String,
    /// The agent's id.
    pub agent_id: String,
    /// Further labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Last moment the certificate is valid, milliseconds since the epoch.
    pub not_after_ms: i64,
}

/// Who an agent is, to a hub that believes its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAnswer {
    /// Whose data.
    pub tenant: String,
    /// The cluster.
    pub cluster: String,
    /// The agent's id.
    pub agent_id: String,
    /// Further labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A hub joins.
#[derive(Serialize, Deserialize)]
pub struct JoinRequest {
    /// As printed.
    pub token: String,
    /// 16 hexadecimal digits.
    pub hub_id: String,
    /// PKCS #10, PEM.
    pub request: String,
    /// Where it is reached; may be empty.
    #[serde(default)]
    pub address: String,
}

/// What a hub gets that joins.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// Its intermediate and the roots.
    pub admission: Admission,
    /// What has been revoked so far.
    pub revocations: Vec<tenancy::Revocation>,
    /// The hub that admits.
    #[serde(default)]
    pub hub_id: String,
}

/// What a hub answers that does not do it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub error: String,
}

/// A TLS stream.
pub trait TlsStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> TlsStream for T {}

/// A TLS stream in the making.
pub type Reaching<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn TlsStream>, String>> + Send + 'a>>;

/// Opens TLS streams to hubs, through whatever proxy lies between.
pub trait Reach: Send + Sync {
    /// A stream to `hub` (`https://host:port`), checked as `tls` says. The error says what failed.
    fn reach<'a>(&'a self, hub: &'a str, tls: Arc<ClientConfig>) -> Reaching<'a>;
}

/// Why a hub gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// It cannot be reached or does not answer; later may be better.
    #[error("{hub}: {what}")]
    Unreachable {
        /// The hub.
        hub: String,
        /// What failed.
        what: String,
    },
    /// It refuses; asking again does not help.
    #[error("{hub} refuses: {what}")]
    Refused {
        /// The hub.
        hub: String,
        /// Why, in its words.
        what: String,
    },
    /// What it sent, or what we have, cannot be used.
    #[error(transparent)]
    Identity(#[from] super::IdentityError),
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] tenancy::BadToken),
}

impl Reach for crate::Connector {
    fn reach<'a>(&'a self, hub: &'a str, tls: Arc<ClientConfig>) -> Reaching<'a> {
        Box::pin(async move {
            let hub = crate::HubUrl::parse(hub).map_err(|error| error.to_string())?;
            let stream = self.connect(&hub, tls).await.map_err(|error| error.to_string())?;
            Ok(Box::new(stream) as Box<dyn TlsStream>)
        })
    }
}

/// Asks `hub` (`https://host:port`) to admit another.
///
/// # Errors
/// See [`ExchangeError`].
pub async fn join_at(
    reach: &dyn Reach,
    hub: &str,
    tls: Arc<ClientConfig>,
    message: &JoinRequest,
) -> Result<JoinAnswer, ExchangeError> {
    post(reach, hub, tls, JOIN_PATH, message).await
}

/// Posts `message` to `path` of `hub` and reads the answer.
pub(super) async fn post<A: DeserializeOwned>(
    reach: &dyn Reach,
    hub: &str,
    tls: Arc<ClientConfig>,
    path: &str,
    message: &impl Serialize,
) -> Result<A, ExchangeError> {
    let unreachable = |what: String| ExchangeError::Unreachable { hub: hub.to_owned(), what };
    let body = serde_json::to_vec(message).map_err(|error| unreachable(error.to_string()))?;
    let exchange = async {
        let stream = reach.reach(hub, tls).await?;
        send(stream, hub, path, body).await.map_err(|error| crate::dial::chain(&*error))
    };
    let answered = tokio::time::timeout(PATIENCE, exchange).await;
    let (status, body) = answered
        .map_err(|_| unreachable(format!("no answer to {path} in {PATIENCE:?}")))?
        .map_err(unreachable)?;
    if status.is_success() {
        return serde_json::from_slice(&body)
            .map_err(|error| unreachable(format!("its answer to {path} cannot be read: {error}")));
    }
    let what = match serde_json::from_slice::<Refused>(&body) {
        Ok(refused) => refused.error,
        Err(_) => format!("{path} answers {status}; is this a Marigraph hub?"),
    };
    match status.as_u16() {
        408 | 429 | 500.. => Err(unreachable(what)),
        _ => Err(ExchangeError::Refused { hub: hub.to_owned(), what }),
    }
}

async fn send(
    stream: Box<dyn TlsStream>,
    hub: &str,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut request = Request::post(path).body(Full::new(Bytes::from(body)))?;
    let host = hub.trim_start_matches("https://").trim_end_matches('/');
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(host)?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("marigraph/", env!("CARGO_PKG_VERSION"))));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let sent = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), EXCHANGE_BYTES_MAX).collect().await?.to_bytes();
        Ok((status, body))
    };
    let outcome = sent.await;
    driver.abort();
    outcome
}
