//! How requests are made: authentication, TLS, proxies, headers.
//!
//! Source: `prometheus/common`, `config/http_config.go`.

use std::collections::BTreeMap;
use std::path::Path;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use url::Url;

use super::ConfigError;
use super::oauth2::{OAuth2Config, OAuth2Text};
use super::values::{Secret, Source, join_dir};

/// The fields of [`HttpClientText`]: they stand beside others in every section that makes requests.
pub const HTTP_CLIENT_FIELDS: &[&str] = &[
    "basic_auth",
    "authorization",
    "oauth2",
    "bearer_token",
    "bearer_token_file",
    "tls_config",
    "follow_redirects",
    "enable_http2",
    "proxy_url",
    "no_proxy",
    "proxy_from_environment",
    "proxy_connect_header",
    "http_headers",
];

/// HTTP client options as written.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpClientText {
    /// User name and password for the `Authorization` header.
    pub basic_auth: Option<BasicAuthText>,
    /// Any other `Authorization` header.
    pub authorization: Option<AuthorizationText>,
    /// OAuth 2.0.
    pub oauth2: Option<OAuth2Text>,
    /// Older form of `authorization.credentials`.
    pub bearer_token: Option<Secret>,
    /// Older form of `authorization.credentials_file`.
    pub bearer_token_file: Option<String>,
    /// TLS settings.
    pub tls_config: Option<TlsText>,
    /// Whether redirects are followed. Default: true.
    pub follow_redirects: Option<bool>,
    /// Whether HTTP/2 is offered to TLS servers. Default: true.
    pub enable_http2: Option<bool>,
    /// The proxy's URL, `http` or `https`.
    pub proxy_url: Option<String>,
    /// Hosts, domains and networks reached without the proxy, separated by commas.
    pub no_proxy: Option<String>,
    /// Take the proxy from `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`. Default: false.
    pub proxy_from_environment: Option<bool>,
    /// Headers of `CONNECT` requests to the proxy.
    pub proxy_connect_header: Option<BTreeMap<String, Vec<Secret>>>,
    /// Further headers of every request.
    pub http_headers: Option<BTreeMap<String, HeaderText>>,
}

/// Basic authentication as written.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BasicAuthText {
    /// The user.
    pub username: Option<String>,
    /// A file with the user's name.
    pub username_file: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// A file with the password.
    pub password_file: Option<String>,
}

/// An `Authorization` header as written.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthorizationText {
    /// The scheme. Default: `Bearer`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// What follows the scheme.
    pub credentials: Option<Secret>,
    /// A file with the credentials.
    pub credentials_file: Option<String>,
}

/// Values of one header as written; all of them are sent.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderText {
    /// Values that may be shown.
    pub values: Vec<String>,
    /// Values that may not.
    pub secrets: Vec<Secret>,
    /// Files with a value each.
    pub files: Vec<String>,
}

/// TLS settings as written.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsText {
    /// Certificates of the authorities that are trusted, PEM. Default: the system's.
    pub ca: Option<String>,
    /// A file with them.
    pub ca_file: Option<String>,
    /// Our certificate, PEM.
    pub cert: Option<String>,
    /// A file with it.
    pub cert_file: Option<String>,
    /// The certificate's key, PEM.
    pub key: Option<Secret>,
    /// A file with it.
    pub key_file: Option<String>,
    /// The name the server's certificate has to have. Default: the host's.
    pub server_name: Option<String>,
    /// Accept any certificate. Default: false.
    pub insecure_skip_verify: Option<bool>,
    /// The oldest version accepted: `TLS12` (also what `TLS10` and `TLS11` mean here), `TLS13`.
    pub min_version: Option<String>,
    /// The newest version accepted: `TLS12`, `TLS13`.
    pub max_version: Option<String>,
}

/// HTTP client options as meant.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpClientConfig {
    /// The `Authorization` header.
    pub auth: Auth,
    /// TLS settings.
    pub tls: TlsConfig,
    /// Whether redirects are followed.
    pub follow_redirects: bool,
    /// Whether HTTP/2 is offered to TLS servers.
    pub enable_http2: bool,
    /// The way through a proxy.
    pub proxy: ProxyConfig,
    /// Further headers, each with its values.
    pub headers: Vec<(HeaderName, Vec<Source>)>,
}

/// The `Authorization` header.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Auth {
    /// None.
    #[default]
    None,
    /// Basic authentication.
    Basic {
        /// The user.
        username: Option<Source>,
        /// The password.
        password: Option<Source>,
    },
    /// `<scheme> <credentials>`.
    Scheme {
        /// `Bearer` or another word.
        scheme: String,
        /// What follows it.
        credentials: Option<Source>,
    },
    /// A token that is had by client credentials.
    OAuth2(Box<OAuth2Config>),
}

/// TLS settings. Equal settings share one TLS client configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TlsConfig {
    /// Trusted authorities; the system's where missing.
    pub ca: Option<Source>,
    /// Our certificate and its key.
    pub identity: Option<(Source, Source)>,
    /// The name the server's certificate has to have, where it is not the host's.
    pub server_name: Option<String>,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
    /// Whether TLS 1.2 is accepted.
    pub tls12: bool,
    /// Whether TLS 1.3 is accepted.
    pub tls13: bool,
}

/// The way through a proxy.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProxyConfig {
    /// The proxy.
    pub url: Option<Url>,
    /// Hosts, domains and networks reached without it.
    pub no_proxy: Vec<String>,
    /// Take both from the environment.
    pub from_environment: bool,
    /// Headers of `CONNECT` requests.
    pub connect_headers: Vec<(HeaderName, Vec<Secret>)>,
}

impl Default for HttpClientConfig {
    fn default() -> Self {
        HttpClientConfig {
            auth: Auth::None,
            tls: TlsConfig { tls12: true, tls13: true, ..TlsConfig::default() },
            follow_redirects: true,
            enable_http2: true,
            proxy: ProxyConfig::default(),
            headers: Vec::new(),
        }
    }
}

impl HttpClientText {
    /// The first field written that says how to reach and convince a server, as against what to do with its
    /// answers.
    pub(super) fn first_of_the_way(&self) -> Option<&'static str> {
        let written = [
            (self.basic_auth.is_some(), "basic_auth"),
            (self.authorization.is_some(), "authorization"),
            (self.oauth2.is_some(), "oauth2"),
            (self.bearer_token.is_some(), "bearer_token"),
            (self.bearer_token_file.is_some(), "bearer_token_file"),
            (self.tls_config.is_some(), "tls_config"),
            (self.proxy_url.is_some(), "proxy_url"),
            (self.proxy_from_environment == Some(true), "proxy_from_environment"),
            (self.http_headers.is_some(), "http_headers"),
        ];
        written.into_iter().find_map(|(written, field)| written.then_some(field))
    }

    /// Checks what was written. File names are relative to `dir`.
    ///
    /// # Errors
    /// The first contradiction, with the field at fault.
    pub fn validate(&self, dir: &Path) -> Result<HttpClientConfig, ConfigError> {
        Ok(HttpClientConfig {
            auth: self.auth(dir)?,
            tls: self
                .tls_config
                .as_ref()
                .map_or(Ok(HttpClientConfig::default().tls), |tls| tls.validate(dir))?,
            follow_redirects: self.follow_redirects.unwrap_or(true),
            enable_http2: self.enable_http2.unwrap_or(true),
            proxy: self.proxy()?,
            headers: self.headers(dir)?,
        })
    }

    fn auth(&self, dir: &Path) -> Result<Auth, ConfigError> {
        let ways = [
            ("basic_auth", self.basic_auth.is_some()),
            ("oauth2", self.oauth2.is_some()),
            ("authorization", self.authorization.is_some()),
            ("bearer_token", self.bearer_token.is_some()),
            ("bearer_token_file", self.bearer_token_file.is_some()),
        ];
        let mut given = ways.iter().filter(|(_, given)| *given).map(|(name, _)| *name);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            let message = format!("`{first}` and `{second}` exclude each other");
            return Err(ConfigError::new(second, message));
        }
        if let Some(oauth2) = &self.oauth2 {
            return Ok(Auth::OAuth2(Box::new(oauth2.validate(dir)?)));
        }
        if let Some(basic) = &self.basic_auth {
            let username = basic.username.clone().map(Secret::new);
            return Ok(Auth::Basic {
                username: one_of(dir, "basic_auth", "username", &username, &basic.username_file)?,
                password: one_of(dir, "basic_auth", "password", &basic.password, &basic.password_file)?,
            });
        }
        if let Some(written) = &self.authorization {
            let scheme = match written.kind.as_deref().map(str::trim) {
                None | Some("") => "Bearer".to_owned(),
                Some(word) if word.eq_ignore_ascii_case("basic") => {
                    let message = "the type cannot be `basic`, use `basic_auth` instead";
                    return Err(ConfigError::new("authorization.type", message));
                }
                Some(word) => word.to_owned(),
            };
            let (inline, file) = (&written.credentials, &written.credentials_file);
            let credentials = one_of(dir, "authorization", "credentials", inline, file)?;
            return Ok(Auth::Scheme { scheme, credentials });
        }
        let token = match (&self.bearer_token, &self.bearer_token_file) {
            (Some(token), _) => Source::Inline(token.clone()),
            (None, Some(file)) => Source::File(join_dir(dir, file)),
            (None, None) => return Ok(Auth::None),
        };
        Ok(Auth::Scheme { scheme: "Bearer".to_owned(), credentials: Some(token) })
    }

    fn proxy(&self) -> Result<ProxyConfig, ConfigError> {
        let proxy = ProxyText {
            url: &self.proxy_url,
            no_proxy: &self.no_proxy,
            from_environment: self.proxy_from_environment,
            connect_header: &self.proxy_connect_header,
        };
        proxy.validate()
    }

    fn headers(&self, dir: &Path) -> Result<Vec<(HeaderName, Vec<Source>)>, ConfigError> {
        let mut headers = Vec::new();
        for (name, written) in self.http_headers.iter().flatten() {
            let at = format!("http_headers.{name}");
            let header = header_name(name, &at)?;
            if RESERVED_HEADERS.contains(&header.as_str()) {
                return Err(ConfigError::new(at.as_str(), format!("setting header `{name}` is not allowed")));
            }
            let values = written.values.iter().map(|value| Secret::new(value.as_str()));
            let mut sources: Vec<Source> = Vec::new();
            for value in values.chain(written.secrets.iter().cloned()) {
                if HeaderValue::from_str(value.reveal()).is_err() {
                    return Err(ConfigError::new(
                        at.as_str(),
                        "a value holds characters that no header may have",
                    ));
                }
                sources.push(Source::Inline(value));
            }
            sources.extend(written.files.iter().map(|file| Source::File(join_dir(dir, file))));
            headers.push((header, sources));
        }
        Ok(headers)
    }
}

/// The proxy fields of a section as written.
pub(super) struct ProxyText<'a> {
    pub(super) url: &'a Option<String>,
    pub(super) no_proxy: &'a Option<String>,
    pub(super) from_environment: Option<bool>,
    pub(super) connect_header: &'a Option<BTreeMap<String, Vec<Secret>>>,
}

impl ProxyText<'_> {
    pub(super) fn validate(&self) -> Result<ProxyConfig, ConfigError> {
        let from_environment = self.from_environment.unwrap_or(false);
        let written_url = self.url.as_deref().filter(|url| !url.is_empty());
        let no_proxy = self.no_proxy.as_deref().unwrap_or_default();
        if from_environment && written_url.is_some() {
            let message = "`proxy_url` and `proxy_from_environment` exclude each other";
            return Err(ConfigError::new("proxy_url", message));
        }
        if !no_proxy.is_empty() && written_url.is_none() {
            return Err(ConfigError::new("no_proxy", "`no_proxy` needs `proxy_url`"));
        }
        let connect_header = self.connect_header.as_ref().filter(|headers| !headers.is_empty());
        if connect_header.is_some() && written_url.is_none() && !from_environment {
            let message = "`proxy_connect_header` needs `proxy_url` or `proxy_from_environment`";
            return Err(ConfigError::new("proxy_connect_header", message));
        }
        let mut connect_headers = Vec::new();
        for (name, values) in connect_header.into_iter().flatten() {
            let at = format!("proxy_connect_header.{name}");
            connect_headers.push((header_name(name, &at)?, values.clone()));
        }
        Ok(ProxyConfig {
            url: written_url.map(proxy_url).transpose()?,
            no_proxy: no_proxy
                .split(',')
                .map(|e| e.trim().to_ascii_lowercase())
                .filter(|e| !e.is_empty())
                .collect(),
            from_environment,
            connect_headers,
        })
    }
}

/// Headers the client sets itself.
const RESERVED_HEADERS: [&str; 16] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "transfer-encoding",
    "user-agent",
    "www-authenticate",
    "x-prometheus-remote-read-version",
    "x-prometheus-remote-write-version",
    "x-prometheus-scrape-timeout-seconds",
];

fn header_name(name: &str, at: &str) -> Result<HeaderName, ConfigError> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| ConfigError::new(at, format!("`{name}` is not a valid header name")))
}

fn proxy_url(text: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(text)
        .map_err(|e| ConfigError::new("proxy_url", format!("`{}` is not a URL: {e}", without_user(text))))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        scheme => {
            Err(ConfigError::new("proxy_url", format!("a proxy's URL is http or https, not `{scheme}`")))
        }
    }
}

/// The part of a URL behind user and password.
fn without_user(text: &str) -> &str {
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

/// What was given: inline, as a file, or neither; both is an error.
pub(super) fn one_of(
    dir: &Path,
    section: &str,
    field: &str,
    inline: &Option<Secret>,
    file: &Option<String>,
) -> Result<Option<Source>, ConfigError> {
    match (inline, file.as_deref().filter(|file| !file.is_empty())) {
        (Some(_), Some(_)) => Err(ConfigError::new(
            format!("{section}.{field}_file"),
            format!("`{field}` and `{field}_file` exclude each other"),
        )),
        (Some(inline), None) => Ok(Some(Source::Inline(inline.clone()))),
        (None, Some(file)) => Ok(Some(Source::File(join_dir(dir, file)))),
        (None, None) => Ok(None),
    }
}

impl TlsText {
    pub(super) fn validate(&self, dir: &Path) -> Result<TlsConfig, ConfigError> {
        let ca = self.ca.clone().map(Secret::new);
        let cert = self.cert.clone().map(Secret::new);
        let cert = one_of(dir, "tls_config", "cert", &cert, &self.cert_file)?;
        let key = one_of(dir, "tls_config", "key", &self.key, &self.key_file)?;
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(ConfigError::new("tls_config", "a certificate needs `key` or `key_file`"));
            }
            (None, Some(_)) => {
                return Err(ConfigError::new("tls_config", "a key needs `cert` or `cert_file`"));
            }
        };
        let oldest = tls_version("min_version", self.min_version.as_deref(), 10)?;
        let newest = tls_version("max_version", self.max_version.as_deref(), 13)?;
        if newest < 12 {
            let message = "TLS 1.0 and 1.1 are not spoken; the newest version has to be TLS12 or TLS13";
            return Err(ConfigError::new("tls_config.max_version", message));
        }
        if oldest > newest {
            let message = "`max_version` must be greater than or equal to `min_version`";
            return Err(ConfigError::new("tls_config.max_version", message));
        }
        Ok(TlsConfig {
            ca: one_of(dir, "tls_config", "ca", &ca, &self.ca_file)?,
            identity,
            server_name: self.server_name.clone().filter(|name| !name.is_empty()),
            insecure_skip_verify: self.insecure_skip_verify.unwrap_or(false),
            tls12: oldest <= 12,
            tls13: newest >= 13,
        })
    }
}

fn tls_version(field: &str, written: Option<&str>, default: u8) -> Result<u8, ConfigError> {
    match written {
        None | Some("") => Ok(default),
        Some("TLS10") => Ok(10),
        Some("TLS11") => Ok(11),
        Some("TLS12") => Ok(12),
        Some("TLS13") => Ok(13),
        Some(other) => Err(ConfigError::new(
            format!("tls_config.{field}"),
            format!("unknown TLS version `{other}` (TLS10, TLS11, TLS12, TLS13)"),
        )),
    }
}
