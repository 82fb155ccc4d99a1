//! From a host and a port to a byte stream: dialling, CONNECT, TLS.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The longest answer to a CONNECT request.
const CONNECT_ANSWER_BYTES_MAX: usize = 16 << 10;

/// What requests travel on.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream of any kind.
pub type BoxedStream = Box<dyn Stream>;

/// A connection in the making.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<BoxedStream>> + Send + 'a>>;

/// Opens byte streams: over TCP, or through a tunnel, or into a test.
pub trait Connector: Send + Sync + 'static {
    /// Connects to `port` of `host`, a name or an IP address (IPv6 without brackets), as far as `reach`
    /// allows. Dropped when the deadline has passed.
    fn connect<'a>(&'a self, host: &'a str, port: u16, reach: Reach) -> Connecting<'a>;

    /// Whether the other end takes whole URLs, as a proxy does, and speaks TLS with `https` ones itself.
    fn takes_urls(&self) -> bool {
        false
    }
}

/// Where a connection may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Wherever the configuration says.
    Anywhere,
    /// Not to link-local addresses, where clouds hand out credentials: for requests of others. Looked
    /// at after names have been resolved.
    BeyondTheLink,
}

impl Reach {
    /// Whether a connection may lead to `address`.
    ///
    /// # Errors
    /// `PermissionDenied`, naming the address.
    pub fn check(self, address: IpAddr) -> io::Result<()> {
        let address = address.to_canonical();
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            // The metadata service of one cloud has a unique local address.
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6 == METADATA_V6,
        };
        if self == Reach::Anywhere || !link_local {
            return Ok(());
        }
        let what = format!("{address} is a link-local address, which nobody may ask for from afar");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
    }

    /// As [`Reach::check`], where `host` is an address and no name.
    pub(super) fn check_literal(self, host: &str) -> io::Result<()> {
        host.parse().map_or(Ok(()), |address| self.check(address))
    }
}

/// Source: Amazon EC2 user guide, instance metadata over IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

impl fmt::Debug for dyn Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

/// Connects over TCP; names are resolved by the system.
#[derive(Debug, Default, Clone, Copy)]
pub struct TcpConnector;

impl Connector for TcpConnector {
    fn connect<'a>(&'a self, host: &'a str, port: u16, reach: Reach) -> Connecting<'a> {
        Box::pin(async move {
            // What has been checked is what is dialled: a name is resolved once.
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in tokio::net::lookup_host((host, port)).await? {
                reach.check(address.ip())?;
                match TcpStream::connect(address).await {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        return Ok(Box::new(stream) as BoxedStream);
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }
}

/// Speaks TLS on `stream` with the server called `name`; says whether HTTP/2 was agreed on.
pub(super) async fn tls(
    stream: BoxedStream,
    config: Arc<ClientConfig>,
    name: &str,
) -> io::Result<(BoxedStream, bool)> {
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` is not a server name")))?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Box::new(stream), http2))
}

/// Asks the proxy at the other end of `stream` for a way to `host:port`.
///
/// Source: RFC 9110 section 9.3.6.
pub(super) async fn tunnel(
    mut stream: BoxedStream,
    host: &str,
    port: u16,
    headers: &HeaderMap,
) -> io::Result<BoxedStream> {
    let to = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
    for (name, value) in headers {
        put_header(&mut request, name.as_str(), value);
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    stream.flush().await?;
    let answer = read_head(&mut stream).await?;
    let status = answer.split(|b| *b == b'\r').next().unwrap_or_default();
    let code = status.split(|b| *b == b' ').nth(1).unwrap_or_default();
    if code.len() == 3 && code[0] == b'2' {
        return Ok(stream);
    }
    let status = String::from_utf8_lossy(&status[..status.len().min(100)]).into_owned();
    Err(io::Error::other(format!("the proxy refuses to connect to {to}: {status}")))
}

fn put_header(request: &mut Vec<u8>, name: &str, value: &HeaderValue) {
    request.extend_from_slice(name.as_bytes());
    request.extend_from_slice(b": ");
    request.extend_from_slice(value.as_bytes());
    request.extend_from_slice(b"\r\n");
}

/// Reads up to the empty line and not a byte further: what follows belongs to the target.
async fn read_head(stream: &mut BoxedStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= CONNECT_ANSWER_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the proxy's answer is too long"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}
