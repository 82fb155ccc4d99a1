//! From a hub's URL to a TLS stream: dialling, the proxy in between, the handshake.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// Silence after which the system asks for a sign of life, and between two such questions.
const PROBE_EVERY: Duration = Duration::from_secs(3);
/// For how long a sent byte, or such a question, may be unacknowledged.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// The longest answer of a proxy to CONNECT.
const PROXY_ANSWER_BYTES_MAX: usize = 16 << 10;
/// What is shown of a proxy's status line.
const PROXY_STATUS_BYTES_MAX: usize = 100;

/// What a tunnel travels on.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A stream of any kind.
pub type BoxedStream = Box<dyn Stream>;

/// A connection in the making.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<BoxedStream>> + Send + 'a>>;

/// Opens byte streams: TCP, or a simulated network.
pub trait Connect: Send + Sync + 'static {
    /// Connects to `port` of `host`, a name or an address (IPv6 without brackets). Dropped when its time
    /// is over.
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a>;

    /// Speaks TLS with `hub` on a stream, its certificate checked as `tls` says. Only a network that is all within
    /// one process has a reason to do anything else.
    fn secure<'a>(&'a self, stream: BoxedStream, hub: &'a HubUrl, tls: Arc<ClientConfig>) -> Connecting<'a> {
        Box::pin(async move {
            let name = ServerName::try_from(hub.host.clone())
                .map_err(|_| io::Error::other("the host is neither a DNS name nor an address"))?;
            let stream = TlsConnector::from(tls).connect(name, stream).await?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}

/// Has the system end a connection on which nothing is acknowledged any more: bytes that were sent, and while there are
/// none, its own questions. Tunnels have pings beside that; a connection for rows that dies by itself has only this.
///
/// Source: `docs/design/tunnel.md` for the times; RFC 5482 and `tcp(7)`, `TCP_USER_TIMEOUT`.
fn watch(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PROBE_EVERY)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, u32::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// Connects over TCP; names are resolved by the system.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tcp;

impl Connect for Tcp {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            watch(&stream)?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}

/// A hub's address: `https://host` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HubUrl {
    host: String,
    port: u16,
}

/// A hub's address that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("hub URL `{url}`: {what}")]
pub struct BadHubUrl {
    url: String,
    what: &'static str,
}

impl HubUrl {
    /// Reads a URL. The port is 443 unless it says otherwise.
    ///
    /// # Errors
    /// [`BadHubUrl`] for another scheme than https, and for what a hub's address has no place for: a user,
    /// a path, a query.
    pub fn parse(text: &str) -> Result<HubUrl, BadHubUrl> {
        let bad = |what| BadHubUrl { url: text.to_owned(), what };
        let url = Url::parse(text).map_err(|_| bad("is not a URL; write https://host:port"))?;
        if url.scheme() != "https" {
            return Err(bad("agents reach hubs over https only"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("has a user; agents identify themselves by certificate"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(bad("has a path; write https://host:port"));
        }
        let host = url.host_str().ok_or_else(|| bad("has no host"))?;
        let port = url.port_or_known_default().unwrap_or(443);
        Ok(HubUrl { host: host.trim_matches(['[', ']']).to_owned(), port })
    }

    /// The host: a name or an address (IPv6 without brackets).
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, IPv6 in brackets.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for HubUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

/// Through which HTTP proxy hubs are reached, if any.
#[derive(Debug, Clone)]
pub struct Proxies(Arc<Matcher>);

impl Default for Proxies {
    fn default() -> Proxies {
        Proxies::from_environment()
    }
}

impl Proxies {
    /// None.
    pub fn none() -> Proxies {
        Proxies(Arc::new(Matcher::builder().build()))
    }

    /// As `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say (or in lower case).
    pub fn from_environment() -> Proxies {
        Proxies(Arc::new(Matcher::from_env()))
    }

    /// Through `url` (`http://user:password@host:port`), but for the hosts, domains and networks in
    /// `except` (as in `NO_PROXY`, separated by commas).
    pub fn configured(url: &str, except: &str) -> Proxies {
        Proxies(Arc::new(Matcher::builder().all(url.to_owned()).no(except.to_owned()).build()))
    }

    fn of(&self, hub: &HubUrl) -> Option<Intercept> {
        let uri: Uri = hub.to_string().parse().ok()?;
        self.0.intercept(&uri)
    }
}

/// Why a hub cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection.
    #[error("connect to {to}: {source}")]
    Connect {
        /// Where to: the hub, or the proxy before it.
        to: String,
        /// What the system says.
        source: io::Error,
    },
    /// The proxy does not let us through.
    #[error("proxy {proxy}: {what}")]
    Proxy {
        /// The proxy, `host:port`.
        proxy: String,
        /// Its answer, or what is wrong with it.
        what: String,
    },
    /// TLS did not come about: another CA, interception, a clock that is wrong, a certificate refused.
    #[error("TLS with {hub}: {source}{}", stranger(source))]
    Tls {
        /// The hub, `host:port`.
        hub: String,
        /// What rustls says.
        source: io::Error,
    },
    /// It took too long.
    #[error("no answer from {hub} in {after:?} ({phase})")]
    Timeout {
        /// The hub, `host:port`.
        hub: String,
        /// How long was waited.
        after: std::time::Duration,
        /// What was waited for.
        phase: &'static str,
    },
}

/// What an unknown issuer means here.
fn stranger(error: &io::Error) -> &'static str {
    use rustls::CertificateError;
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            " (a hub of another fleet, or something between that ends TLS)"
        }
        _ => "",
    }
}

/// Opens TLS streams to hubs.
#[derive(Clone)]
pub struct Connector {
    connect: Arc<dyn Connect>,
    proxies: Proxies,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("proxies", &self.proxies).finish_non_exhaustive()
    }
}

impl Connector {
    /// Over TCP.
    pub fn new(proxies: Proxies) -> Connector {
        Connector::over(Arc::new(Tcp), proxies)
    }

    /// Over whatever `connect` opens.
    pub fn over(connect: Arc<dyn Connect>, proxies: Proxies) -> Connector {
        Connector { connect, proxies }
    }

    /// A TLS stream to `hub`, its certificate checked as `tls` says. Has no deadline of its own.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self, hub: &HubUrl, tls: Arc<ClientConfig>) -> Result<BoxedStream, ConnectError> {
        let stream = self.stream(hub).await?;
        let secured = self.connect.secure(stream, hub, tls).await;
        secured.map_err(|source| ConnectError::Tls { hub: hub.authority(), source })
    }

    /// The proxy between here and `hub`, `host:port`.
    pub(crate) fn proxy_of(&self, hub: &HubUrl) -> Option<String> {
        let proxy = self.proxies.of(hub)?;
        let host = proxy.uri().host().unwrap_or_default();
        Some(format!("{host}:{}", proxy.uri().port_u16().unwrap_or(80)))
    }

    /// A byte stream to `hub`, through the proxy where there is one.
    pub(crate) async fn stream(&self, hub: &HubUrl) -> Result<BoxedStream, ConnectError> {
        let Some(proxy) = self.proxies.of(hub) else { return self.dial(&hub.host, hub.port).await };
        let host = proxy.uri().host().unwrap_or_default().trim_matches(['[', ']']);
        let port = proxy.uri().port_u16().unwrap_or(80);
        let shown = format!("{host}:{port}");
        if proxy.uri().scheme_str() != Some("http") {
            let what = "only proxies that are themselves spoken to over http:// are supported".to_owned();
            return Err(ConnectError::Proxy { proxy: shown, what });
        }
        let stream = self.dial(host, port).await?;
        let authorization = proxy.basic_auth().map(http::HeaderValue::as_bytes);
        let asked = ask_proxy(stream, &hub.authority(), authorization).await;
        asked.map_err(|error| ConnectError::Proxy { proxy: shown, what: error.to_string() })
    }

    async fn dial(&self, host: &str, port: u16) -> Result<BoxedStream, ConnectError> {
        let to = || if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        self.connect.connect(host, port).await.map_err(|source| ConnectError::Connect { to: to(), source })
    }
}

/// Asks the proxy at the other end of `stream` for a way to `to`.
///
/// Source: RFC 9110 section 9.3.6.
async fn ask_proxy(
    mut stream: BoxedStream,
    to: &str,
    authorization: Option<&[u8]>,
) -> io::Result<BoxedStream> {
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
    if let Some(authorization) = authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    stream.flush().await?;
    let head = read_head(&mut stream).await?;
    let status = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let code = status.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if status.starts_with(b"HTTP/1.") && code.len() == 3 && code[0] == b'2' {
        return Ok(stream);
    }
    let shown = String::from_utf8_lossy(&status[..status.len().min(PROXY_STATUS_BYTES_MAX)]).into_owned();
    Err(io::Error::other(format!("refuses to connect to {to}: {shown}")))
}

/// Reads up to the empty line and not a byte further: what follows belongs to the hub.
async fn read_head(stream: &mut BoxedStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_ANSWER_BYTES_MAX {
            return Err(io::Error::other("its answer to CONNECT is too long"));
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(io::Error::other("closes the connection instead of answering CONNECT"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_watches_connections() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let stream = TcpStream::connect(addr).await.expect("a connection");
        watch(&stream).expect("a socket that can be watched");
        assert!(sockopt::socket_keepalive(&stream).expect("an option"));
        assert_eq!(sockopt::tcp_keepidle(&stream).expect("an option"), PROBE_EVERY);
        assert_eq!(sockopt::tcp_keepintvl(&stream).expect("an option"), PROBE_EVERY);
        assert_eq!(sockopt::tcp_user_timeout(&stream).expect("an option"), 10_000);
    }

    #[test]
    fn hub_urls() {
        for (text, expected) in [
            ("https://hub.example.org", "https://hub.example.org:443"),
            ("https://hub.example.org/", "https://hub.example.org:443"),
            ("https://10.0.0.1:9090", "https://10.0.0.1:9090"),
            ("https://[fd00::1]:9090", "https://[fd00::1]:9090"),
            ("http://hub:80", "hub URL `http://hub:80`: agents reach hubs over https only"),
            ("hub:9090", "hub URL `hub:9090`: agents reach hubs over https only"),
            ("https://hub/x", "hub URL `https://hub/x`: has a path; write https://host:port"),
            ("//", "hub URL `//`: is not a URL; write https://host:port"),
        ] {
            let said = HubUrl::parse(text).map_or_else(|error| error.to_string(), |url| url.to_string());
            assert_eq!(said, expected, "{text}");
        }
    }

    #[test]
    fn proxies_and_their_exceptions() {
        let proxies = Proxies::configured("http://user:pa%20ss@proxy:3128", "example.org,10.0.0.0/8");
        for (hub, expected) in [
            ("https://hub.example.net", Some("proxy:3128")),
            ("https://hub.example.org", None),
            ("https://10.1.2.3", None),
            ("https://11.1.2.3", Some("proxy:3128")),
        ] {
            let hub = HubUrl::parse(hub).expect("a hub");
            let through = proxies.of(&hub).and_then(|p| p.uri().authority().map(ToString::to_string));
            assert_eq!(through.as_deref(), expected, "{hub}");
        }
        let hub = HubUrl::parse("https://hub").expect("a hub");
        let authorization = proxies.of(&hub).and_then(|proxy| proxy.basic_auth().cloned());
        assert_eq!(
            authorization.as_ref().map(|value| value.as_bytes()),
            Some(&b"Basic dXNlcjpwYSBzcw=="[..])
        );
        assert!(Proxies::none().of(&hub).is_none());
    }

    #[tokio::test]
    async fn what_proxies_answer() {
        for (answer, expected) in [
            ("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n", "ok, then: hub speaks"),
            (
                "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                "refuses to connect to hub:1: HTTP/1.1 407 Proxy Authentication Required",
            ),
            ("SSH-2.0-x\r\n\r\n", "refuses to connect to hub:1: SSH-2.0-x"),
            ("HTTP/1.1 200", "closes the connection instead of answering CONNECT"),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let asked = tokio::spawn(ask_proxy(Box::new(ours), "hub:1", Some(b"Basic eA==")));
            let mut request = [0; 1024];
            let read = theirs.read(&mut request).await.expect("a request");
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            assert_eq!(
                request,
                "CONNECT hub:1 HTTP/1.1\r\nHost: hub:1\r\nProxy-Authorization: Basic eA==\r\n\r\n"
            );
            theirs.write_all(answer.as_bytes()).await.expect("write");
            theirs.write_all(b"hub speaks").await.expect("write");
            drop(theirs);
            let said = match asked.await.expect("no panic") {
                Ok(mut stream) => {
                    let mut rest = String::new();
                    stream.read_to_string(&mut rest).await.expect("the rest");
                    format!("ok, then: {rest}")
                }
                Err(error) => error.to_string(),
            };
            assert_eq!(
                said.trim_end_matches("hub speaks").trim_end(),
                expected.trim_end_matches("hub speaks").trim_end()
            );
        }
    }
}
