//! TLS and tunnels, over streams in memory.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use url::Url;

use super::{BoxedStream, Connecting, Connector, Fetch, HttpClient, Reach, Slot, TcpConnector, TlsConfigs};
use crate::config::{Auth, HttpClientConfig, HttpClientText, Source, TlsText};

/// One TLS server behind any name, perhaps with a proxy before it.
#[derive(Clone)]
struct Server {
    identity: Arc<Mutex<Identity>>,
    http2: bool,
    /// The status the proxy answers CONNECT with; `None` without a proxy.
    proxy: Option<&'static str>,
    log: Arc<Mutex<Vec<String>>>,
}

struct Identity {
    cert_pem: String,
    config: Arc<rustls::ServerConfig>,
}

impl Identity {
    fn new(http2: bool) -> Identity {
        let CertifiedKey { cert, signing_key }: CertifiedKey<KeyPair> =
            generate_simple_self_signed(["target".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key))
            .expect("a server configuration");
        if http2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        Identity { cert_pem: cert.pem(), config: Arc::new(config) }
    }
}

impl Server {
    fn new(http2: bool) -> Server {
        let identity = Arc::new(Mutex::new(Identity::new(http2)));
        Server { identity, http2, proxy: None, log: Arc::default() }
    }

    fn write_ca(&self, path: &Path) {
        std::fs::write(path, &self.identity.lock().cert_pem).expect("a file in a temporary directory");
    }

    async fn serve(self, mut stream: tokio::io::DuplexStream) -> io::Result<()> {
        if let Some(status) = self.proxy {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            self.log.lock().push(String::from_utf8_lossy(&head).replace("\r\n", "|"));
            stream.write_all(format!("HTTP/1.1 {status}\r\nVia: test\r\n\r\n").as_bytes()).await?;
        }
        let config = self.identity.lock().config.clone();
        let io = TokioIo::new(TlsAcceptor::from(config).accept(stream).await?);
        let log = self.log.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let http2 = request.version() == Version::HTTP_2;
            let host = request.headers().get("host").is_some();
            log.lock().push(format!("{} http2={http2} host={host}", request.uri()));
            async { Ok::<_, io::Error>(Response::new(Full::new(Bytes::from_static(b"a 1\n")))) }
        });
        let served = if self.http2 {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
        } else {
            hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
        };
        served.map_err(io::Error::other)
    }
}

impl Connector for Server {
    fn connect<'a>(&'a self, host: &'a str, port: u16, _reach: Reach) -> Connecting<'a> {
        Box::pin(async move {
            self.log.lock().push(format!("dial {host}:{port}"));
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(self.clone().serve(theirs));
            Ok(Box::new(ours) as BoxedStream)
        })
    }
}

fn tls_client(server: &Server, change: impl FnOnce(&mut HttpClientText, &mut TlsText)) -> HttpClient {
    let (mut written, mut tls) = (HttpClientText::default(), TlsText::default());
    change(&mut written, &mut tls);
    written.tls_config = Some(tls);
    let config = written.validate(Path::new("")).expect("good options");
    HttpClient::new(&config, Arc::new(server.clone()), Arc::new(TlsConfigs::default())).expect("a client")
}

async fn get(client: &HttpClient, slot: &mut Slot) -> Result<String, String> {
    let url = Url::parse("https://target/metrics?x=1").expect("a URL");
    let fetch = Fetch {
        url: &url,
        accept: "*/*",
        gzip: true,
        timeout: Duration::from_secs(5),
        announce_timeout: false,
        headers: &[],
        body_bytes_max: 0,
        keep_alive: true,
    };
    let mut body = Vec::new();
    slot.fetch(client, &fetch, &mut body).await.map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn tls_servers_are_verified_and_http2_is_agreed_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ca = dir.path().join("ca.pem");
    for (http2, request) in [
        (true, "https://target/metrics?x=1 http2=true host=false"),
        (false, "/metrics?x=1 http2=false host=true"),
    ] {
        let server = Server::new(http2);
        server.write_ca(&ca);
        let trusting = tls_client(&server, |_, tls| tls.ca_file = Some(ca.display().to_string()));
        assert_eq!(get(&trusting, &mut Slot::default()).await.as_deref(), Ok("a 1\n"));
        assert_eq!(server.log.lock().as_slice(), ["dial target:443", request]);
    }
}

#[tokio::test]
async fn strangers_are_refused_unless_told_otherwise() {
    let server = Server::new(false);
    let strict =
        tls_client(&server, |_, tls| tls.ca = Some(Server::new(false).identity.lock().cert_pem.clone()));
    let error = get(&strict, &mut Slot::default()).await.expect_err("another authority");
    assert!(error.starts_with("connect to target:443: invalid peer certificate"), "{error}");
    let own_ca = server.identity.lock().cert_pem.clone();
    let other_name = tls_client(&server, |_, tls| {
        tls.ca = Some(own_ca);
        tls.server_name = Some("somebody-else".into());
    });
    let error = get(&other_name, &mut Slot::default()).await.expect_err("another name");
    assert!(error.contains("certificate not valid for name"), "{error}");
    let careless = tls_client(&server, |_, tls| tls.insecure_skip_verify = Some(true));
    assert_eq!(get(&careless, &mut Slot::default()).await.as_deref(), Ok("a 1\n"));
}

#[tokio::test]
async fn changed_certificate_files_are_read_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ca = dir.path().join("ca.pem");
    let server = Server::new(false);
    server.write_ca(&ca);
    let client = tls_client(&server, |_, tls| tls.ca_file = Some(ca.display().to_string()));
    assert_eq!(get(&client, &mut Slot::default()).await.as_deref(), Ok("a 1\n"));
    *server.identity.lock() = Identity::new(false);
    get(&client, &mut Slot::default()).await.expect_err("the old authority");
    server.write_ca(&ca);
    // Same second, perhaps same size: set a time that cannot be the old one.
    let file = std::fs::File::options().write(true).open(&ca).expect("the file");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("a file time");
    assert_eq!(get(&client, &mut Slot::default()).await.as_deref(), Ok("a 1\n"));
}

#[tokio::test]
async fn tls_targets_are_reached_through_a_tunnel() {
    let mut server = Server::new(false);
    server.proxy = Some("200 Connection established");
    let proxied = |server: &Server| {
        tls_client(server, |http, tls| {
            tls.insecure_skip_verify = Some(true);
            http.proxy_url = Some("http://user:pass@proxy:3128".into());
            http.proxy_connect_header =
                Some([("X-Site".to_owned(), vec![crate::config::Secret::new("north")])].into());
        })
    };
    assert_eq!(get(&proxied(&server), &mut Slot::default()).await.as_deref(), Ok("a 1\n"));
    let log = server.log.lock().clone();
    assert_eq!(log[0], "dial proxy:3128");
    assert_eq!(
        log[1],
        "CONNECT target:443 HTTP/1.1|Host: target:443|proxy-authorization: Basic dXNlcjpwYXNz|x-site: north||"
    );
    server.proxy = Some("407 Proxy Authentication Required");
    let error = get(&proxied(&server), &mut Slot::default()).await.expect_err("a refusal");
    assert_eq!(
        error,
        "connect to proxy:3128: the proxy refuses to connect to target:443: HTTP/1.1 407 Proxy Authentication Required"
    );
}

#[tokio::test]
async fn credentials_come_from_files_each_time() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let password = dir.path().join("password");
    let config = HttpClientConfig {
        auth: Auth::Basic {
            username: Some(Source::Inline(crate::config::Secret::new("anna"))),
            password: Some(Source::File(password.clone())),
        },
        ..HttpClientConfig::default()
    };
    let client = HttpClient::new(&config, Arc::new(Server::new(false)), Arc::default()).expect("a client");
    let missing = client.authorization().await.expect_err("no file yet").to_string();
    assert!(missing.starts_with("read ") && missing.contains("password: No such file"), "{missing}");
    for (written, want) in [("one\n", "Basic YW5uYTpvbmU="), ("two", "Basic YW5uYTp0d28=")] {
        std::fs::write(&password, written).expect("a file in a temporary directory");
        let header = client.authorization().await.expect("credentials");
        assert_eq!(header.as_ref().map(|value| value.as_bytes()), Some(want.as_bytes()));
    }
}

#[tokio::test]
async fn plain_targets_are_reached_over_tcp() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let at = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = |_: Request<Incoming>| async {
                Ok::<_, io::Error>(Response::new(Full::new(Bytes::from_static(b"a 1\n"))))
            };
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(served);
        }
    });
    let client = HttpClient::new(&HttpClientConfig::default(), Arc::new(TcpConnector), Arc::default());
    let client = client.expect("a client");
    let url = Url::parse(&format!("http://localhost:{}/", at.port())).expect("a URL");
    let fetch = Fetch {
        url: &url,
        accept: "*/*",
        gzip: true,
        timeout: Duration::from_secs(5),
        announce_timeout: false,
        headers: &[],
        body_bytes_max: 0,
        keep_alive: false,
    };
    let (_, body) = client.get(&fetch).await.expect("an answer");
    assert_eq!(body, b"a 1\n");
    let nobody = Url::parse("http://127.0.0.1:1/").expect("a URL");
    let error = client.get(&Fetch { url: &nobody, ..fetch }).await.expect_err("nobody listens on port 1");
    assert_eq!(error.to_string(), "connect to 127.0.0.1:1: Connection refused (os error 111)");
}
