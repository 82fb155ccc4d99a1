//! The HTTP client of the verbs that talk to a server: one request, one connection, the whole answer.
//!
//! The scrape client gives bodies of successful GETs only; here the words of a refusal matter, and forms
//! are posted.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use axum::body::Body;
use clap::Args;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use scrape::client::{BoxedStream, TlsConfigs};
use scrape::config::{Auth, HttpClientConfig, Secret, Source};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// The largest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// Of a refusal in words that are no JSON, this much is told.
const REFUSAL_CHARS_MAX: usize = 200;
const USER_AGENT: &str = concat!("marigraph/", env!("CARGO_PKG_VERSION"));

/// How to reach a server: credentials, TLS, headers.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub struct ClientArgs {
    /// Further header of every request; may be given several times
    #[arg(hide_short_help = true, long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// User of basic authentication; http://user:password@host works too
    #[arg(long = "basic-auth.user", value_name = "NAME")]
    pub user: Option<String>,
    /// File with the password of basic authentication
    #[arg(long = "basic-auth.password-file", value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// File with a bearer token
    #[arg(long = "bearer-token-file", value_name = "FILE", conflicts_with = "user")]
    pub bearer_token_file: Option<PathBuf>,
    /// Certificates of the authorities that are trusted, PEM; the system's otherwise
    #[arg(long = "tls.ca-file", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Our certificate, PEM
    #[arg(hide_short_help = true, long = "tls.cert-file", value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// The key of our certificate, PEM
    #[arg(hide_short_help = true, long = "tls.key-file", value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// The name that the server's certificate has to have, where it is not the host's
    #[arg(hide_short_help = true, long = "tls.server-name", value_name = "NAME")]
    pub server_name: Option<String>,
    /// Accept any certificate of the server
    #[arg(hide_short_help = true, long = "tls.insecure-skip-verify")]
    pub insecure_skip_verify: bool,
    /// File with client options as a configuration has them (basic_auth, authorization, tls_config, ...)
    #[arg(
        long = "http.config.file",
        hide_short_help = true,
        value_name = "FILE",
        conflicts_with_all = ["user", "bearer_token_file", "ca_file", "cert_file", "server_name", "insecure_skip_verify"]
    )]
    pub config_file: Option<PathBuf>,
    /// Longest a request may take
    #[arg(
        long = "timeout",
        hide_short_help = true,
        value_name = "DURATION",
        default_value = "2m",
        value_parser = crate::cli::parse_duration
    )]
    pub timeout: Duration,
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let split = text.find(['=', ':']).ok_or("write NAME=VALUE")?;
    let name = HeaderName::try_from(text[..split].trim())
        .map_err(|_| format!("{:?} is not the name of a header", &text[..split]))?;
    let value = HeaderValue::from_str(text[split + 1..].trim())
        .map_err(|_| "the value has characters that no header may have".to_owned())?;
    Ok((name, value))
}

impl ClientArgs {
    /// The options as a configuration has them.
    fn config(&self) -> Result<HttpClientConfig> {
        if let Some(path) = &self.config_file {
            return Ok(crate::config::read_client_options(path)?);
        }
        let file = |path: &Option<PathBuf>| path.clone().map(Source::File);
        let mut config = HttpClientConfig::default();
        if let Some(user) = &self.user {
            let username = Some(Source::Inline(Secret::new(user.as_str())));
            config.auth = Auth::Basic { username, password: file(&self.password_file) };
        } else if let Some(token) = file(&self.bearer_token_file) {
            config.auth = Auth::Scheme { scheme: "Bearer".to_owned(), credentials: Some(token) };
        }
        config.tls.ca = file(&self.ca_file);
        config.tls.identity = file(&self.cert_file).zip(file(&self.key_file));
        config.tls.server_name = self.server_name.clone();
        config.tls.insecure_skip_verify = self.insecure_skip_verify;
        Ok(config)
    }
}

/// A server, and how to reach it.
#[derive(Debug, Clone)]
pub struct Server {
    url: Url,
    config: HttpClientConfig,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Server {
    /// The server at `url`; `http://` may be left out. A path in front of the API's stays.
    ///
    /// # Errors
    /// The URL or an option cannot be used.
    pub fn new(url: &str, args: &ClientArgs) -> Result<Server> {
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let parsed = Url::parse(&full).with_context(|| format!("{url:?} is not a URL"))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
            bail!("{url:?} is not the URL of a server; write http://HOST:PORT or https://HOST:PORT");
        }
        Ok(Server {
            url: parsed,
            config: args.config()?,
            headers: args.headers.clone(),
            timeout: args.timeout,
        })
    }

    /// The same server, given at least so much time for a request.
    pub fn patient(&self, least: Duration) -> Server {
        Server { timeout: self.timeout.max(least), ..self.clone() }
    }

    /// Asks `GET path` or, with a form, `POST path`; `path` begins with a slash.
    ///
    /// # Errors
    /// The server cannot be reached, breaks off, or takes too long. An answer of any status is none.
    pub async fn ask(&self, method: Method, path: &str, form: &[(&str, String)]) -> Result<Answer> {
        let exchange = self.exchange(method, path, form);
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("no answer from {} within {:?}", self.shown(), self.timeout),
        }
    }

    /// As [`Server::ask`], for callers without a runtime.
    ///
    /// # Errors
    /// See [`Server::ask`].
    pub fn ask_blocking(&self, method: Method, path: &str, form: &[(&str, String)]) -> Result<Answer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.ask(method, path, form))
    }

    /// As [`Server::ask_blocking`], for doors that answer with JSON: what a success says.
    ///
    /// # Errors
    /// See [`Server::ask`]; the server refuses, or has answered something else.
    pub fn json_blocking<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        form: &[(&str, String)],
    ) -> Result<T> {
        let answer = self.ask_blocking(method, path, form)?;
        self.understood(path, &answer)
    }

    /// What an answer of `path` says, if it is a success.
    ///
    /// # Errors
    /// [`Server::refusal`], or it is something else.
    pub fn understood<T: DeserializeOwned>(&self, path: &str, answer: &Answer) -> Result<T> {
        if !answer.status.is_success() {
            return Err(self.refusal(path, answer));
        }
        let read = serde_json::from_slice(&answer.body);
        read.with_context(|| format!("understand the answer of {} to {path}", self.shown()))
    }

    /// Why the server refuses what was asked of `path`, in its own words, or what to do about it.
    pub fn refusal(&self, path: &str, answer: &Answer) -> anyhow::Error {
        #[derive(Deserialize)]
        struct Refused {
            error: String,
        }
        let shown = self.shown();
        let said = serde_json::from_slice::<Refused>(&answer.body).map(|refused| refused.error);
        match (answer.status.as_u16(), said) {
            (401, _) => {
                anyhow!(
                    "{shown} wants a credential, or another one: --bearer-token-file or --basic-auth.user"
                )
            }
            (_, Ok(said)) if said == "admin APIs disabled" => anyhow!(
                "{shown} makes no snapshots and deletes nothing: start the hub with --web.enable-admin-api (or \
                 MARIGRAPH_WEB_ENABLE_ADMIN_API=true)"
            ),
            (code, Ok(said)) => anyhow!("{shown} answers {code}: {said}"),
            (404, Err(_)) => anyhow!("{shown} has no {path}: is it a Marigraph hub?"),
            (code, Err(_)) => {
                let text = String::from_utf8_lossy(&answer.body);
                let start: String = text.trim().chars().take(REFUSAL_CHARS_MAX).collect();
                anyhow!("{shown}{path} answers {code}: {start}")
            }
        }
    }

    /// `POST path` with a body, for callers without a runtime.
    ///
    /// # Errors
    /// See [`Server::ask`].
    pub fn post_blocking(
        &self,
        path: &str,
        body: Vec<u8>,
        headers: &[(HeaderName, &'static str)],
    ) -> Result<Answer> {
        let mut request = self.request(Method::POST, path, &[])?;
        *request.body_mut() = Body::from(body);
        for (name, value) in headers {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match tokio::time::timeout(self.timeout, self.carried(request)).await {
                Ok(outcome) => outcome,
                Err(_) => bail!("no answer from {} within {:?}", self.shown(), self.timeout),
            }
        })
    }

    async fn exchange(&self, method: Method, path: &str, form: &[(&str, String)]) -> Result<Answer> {
        self.carried(self.request(method, path, form)?).await
    }

    async fn carried(&self, request: Request<Body>) -> Result<Answer> {
        let stream = self.connect().await?;
        let lost = || format!("{} broke off", self.shown());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(lost)?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.with_context(lost)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow!("read the answer of {}: {error}", self.shown()))?;
        driver.abort();
        Ok(Answer { status: head.status, body: body.to_bytes().into() })
    }

    fn request(&self, method: Method, path: &str, form: &[(&str, String)]) -> Result<Request<Body>> {
        let encoded = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut uri = format!("{}{path}", self.url.path().trim_end_matches('/'));
        let posts = method == Method::POST;
        if !posts && !encoded.is_empty() {
            uri.push('?');
            uri.push_str(&encoded);
        }
        let uri: Uri = uri.parse().with_context(|| format!("{uri:?} is not a path"))?;
        let mut request = Request::new(if posts { Body::from(encoded) } else { Body::empty() });
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        let host = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        headers.insert(header::HOST, HeaderValue::from_str(host)?);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if posts {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(header::CONTENT_TYPE, form);
        }
        self.add_headers(headers)?;
        Ok(request)
    }

    fn add_headers(&self, headers: &mut HeaderMap) -> Result<()> {
        let read = |source: &Option<Source>| match source {
            Some(source) => source.read().map_err(anyhow::Error::msg),
            None => Ok(Secret::default()),
        };
        let basic = |user: &str, password: &str| {
            use base64::Engine as _;
            let pair = format!("{user}:{password}");
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        };
        let authorization = match &self.config.auth {
            Auth::Basic { username, password } => {
                Some(basic(read(username)?.reveal(), read(password)?.reveal()))
            }
            Auth::Scheme { scheme, credentials } => Some(format!("{scheme} {}", read(credentials)?.reveal())),
            _ if !self.url.username().is_empty() => {
                let user = unescape(self.url.username());
                Some(basic(&user, &unescape(self.url.password().unwrap_or_default())))
            }
            _ => None,
        };
        if let Some(text) = authorization {
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| anyhow!("the credential has characters that no header may have"))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        for (name, sources) in &self.config.headers {
            for source in sources {
                let value = source.read().map_err(anyhow::Error::msg)?;
                headers.append(name, HeaderValue::from_str(value.reveal())?);
            }
        }
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        Ok(())
    }

    async fn connect(&self) -> Result<BoxedStream> {
        let host = self.url.host_str().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = self.url.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((host, port)).await;
        let stream = stream.map_err(|error| self.unreachable(&error))?;
        if self.url.scheme() == "http" {
            return Ok(Box::new(stream));
        }
        let tls = TlsConfigs::default().get(&self.config.tls, false).map_err(anyhow::Error::msg)?;
        let name = self.config.tls.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).with_context(|| format!("{name:?} is no name"))?;
        let stream = TlsConnector::from(tls).connect(name, stream).await;
        let stream = stream.with_context(|| format!("speak TLS with {}", self.shown()))?;
        Ok(Box::new(stream))
    }

    fn unreachable(&self, error: &std::io::Error) -> anyhow::Error {
        let hint = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "; nobody listens there: is the server running?",
            _ => "",
        };
        anyhow!("cannot reach {}: {error}{hint}", self.shown())
    }

    /// The URL without credentials.
    pub fn shown(&self) -> String {
        let mut url = self.url.clone();
        // Only URLs without a host refuse this.
        let _ = (url.set_password(None), url.set_username(""));
        url.as_str().trim_end_matches('/').to_owned()
    }
}

/// A part of a URL as it was meant.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        let hex = (first == b'%').then(|| others.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &others[2..] } else { others };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
