//! OAuth 2.0: client credentials, or an assertion that is signed with the client's key.
//!
//! Source: RFC 6749 section 4.4; RFC 7523 section 2.1; `prometheus/common`, `config/http_config.go`, `OAuth2`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use url::Url;

use super::ConfigError;
use super::http::{HttpClientConfig, ProxyConfig, ProxyText, TlsConfig, TlsText, one_of};
use super::values::{Secret, Source};

/// Ways of asking for a token: with a secret...
pub(crate) const CLIENT_CREDENTIALS: &str = "client_credentials";
/// ...and with a signed assertion.
pub(crate) const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// OAuth 2.0 as written.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OAuth2Text {
    /// The client's name. Required.
    pub client_id: Option<String>,
    /// The client's secret.
    pub client_secret: Option<Secret>,
    /// A file with the client's secret.
    pub client_secret_file: Option<String>,
    /// What the token shall allow.
    pub scopes: Option<Vec<String>>,
    /// Where tokens are had. Required.
    pub token_url: Option<String>,
    /// Further parameters of the request for a token.
    pub endpoint_params: Option<BTreeMap<String, String>>,
    /// How a token is asked for: `client_credentials` (the default) or
    /// `urn:ietf:params:oauth:grant-type:jwt-bearer`. What follows is only used by the latter.
    pub grant_type: Option<String>,
    /// The RSA key that signs, PEM.
    pub client_certificate_key: Option<Secret>,
    /// A file with it.
    pub client_certificate_key_file: Option<String>,
    /// What the token's server calls that key.
    pub client_certificate_key_id: Option<String>,
    /// `RS256` (the default), `RS384` or `RS512`.
    pub signature_algorithm: Option<String>,
    /// Who asserts. Default: the client's name.
    pub iss: Option<String>,
    /// Whom the assertion is meant for. Default: `token_url`.
    pub audience: Option<String>,
    /// Further claims; they win over ours.
    pub claims: Option<serde_json::Map<String, serde_json::Value>>,
    /// TLS settings towards the token's server.
    pub tls_config: Option<TlsText>,
    /// The proxy towards the token's server, `http` or `https`.
    pub proxy_url: Option<String>,
    /// Hosts, domains and networks reached without the proxy, separated by commas.
    pub no_proxy: Option<String>,
    /// Take the proxy from the environment. Default: false.
    pub proxy_from_environment: Option<bool>,
    /// Headers of `CONNECT` requests to the proxy.
    pub proxy_connect_header: Option<BTreeMap<String, Vec<Secret>>>,
}

/// OAuth 2.0 as meant.
#[derive(Debug, Clone, PartialEq)]
pub struct OAuth2Config {
    /// The client's name.
    pub client_id: String,
    /// How it proves that it is the client.
    pub grant: Grant,
    /// What the token shall allow.
    pub scopes: Vec<String>,
    /// Where tokens are had.
    pub token_url: Url,
    /// Further parameters of the request.
    pub endpoint_params: BTreeMap<String, String>,
    /// TLS settings towards the token's server.
    pub tls: TlsConfig,
    /// The way to it.
    pub proxy: ProxyConfig,
}

/// What a client shows for a token.
#[derive(Debug, Clone, PartialEq)]
pub enum Grant {
    /// Its secret.
    ClientCredentials {
        /// The client's secret.
        secret: Option<Source>,
    },
    /// An assertion signed with its key.
    JwtBearer(AssertionConfig),
}

/// What an assertion says, and what signs it.
#[derive(Debug, Clone, PartialEq)]
pub struct AssertionConfig {
    /// An RSA key, PEM.
    pub key: Source,
    /// What the token's server calls it.
    pub key_id: Option<String>,
    /// How it signs.
    pub algorithm: SignatureAlgorithm,
    /// Who asserts.
    pub issuer: String,
    /// Whom the assertion is meant for.
    pub audience: String,
    /// Further claims; they win over ours.
    pub claims: serde_json::Map<String, serde_json::Value>,
}

/// Signatures of assertions: RSA with PKCS #1 v1.5 padding.
///
/// Source: RFC 7518 section 3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// With SHA-256.
    Rs256,
    /// With SHA-384.
    Rs384,
    /// With SHA-512.
    Rs512,
}

impl SignatureAlgorithm {
    /// Its name in an assertion's header and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            SignatureAlgorithm::Rs256 => "RS256",
            SignatureAlgorithm::Rs384 => "RS384",
            SignatureAlgorithm::Rs512 => "RS512",
        }
    }
}

impl OAuth2Text {
    /// Checks what was written. File names are relative to `dir`; paths of errors begin with `oauth2`.
    pub(super) fn validate(&self, dir: &Path) -> Result<OAuth2Config, ConfigError> {
        let client_id = given(&self.client_id).ok_or_else(|| missing("client_id"))?;
        let token_url = self.token_url()?;
        let grant = self.grant(dir, &client_id, &token_url)?;
        self.check_params(&grant)?;
        let proxy = ProxyText {
            url: &self.proxy_url,
            no_proxy: &self.no_proxy,
            from_environment: self.proxy_from_environment,
            connect_header: &self.proxy_connect_header,
        };
        let usual = HttpClientConfig::default().tls;
        Ok(OAuth2Config {
            client_id,
            grant,
            scopes: self.scopes.clone().unwrap_or_default(),
            token_url,
            endpoint_params: self.endpoint_params.clone().unwrap_or_default(),
            tls: match &self.tls_config {
                Some(tls) => tls.validate(dir).map_err(|e| e.below("oauth2"))?,
                None => usual,
            },
            proxy: proxy.validate().map_err(|e| e.below("oauth2"))?,
        })
    }

    fn token_url(&self) -> Result<Url, ConfigError> {
        let written = given(&self.token_url).ok_or_else(|| missing("token_url"))?;
        match Url::parse(&written) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
            _ => {
                let message = "`token_url` is not a URL that begins with http or https";
                Err(ConfigError::new("oauth2.token_url", message))
            }
        }
    }

    fn grant(&self, dir: &Path, client_id: &str, token_url: &Url) -> Result<Grant, ConfigError> {
        let (inline, file) = (&self.client_secret, &self.client_secret_file);
        let secret = one_of(dir, "oauth2", "client_secret", inline, file)?;
        let (inline, file) = (&self.client_certificate_key, &self.client_certificate_key_file);
        let key = one_of(dir, "oauth2", "client_certificate_key", inline, file)?;
        match given(&self.grant_type).as_deref() {
            None | Some(CLIENT_CREDENTIALS) => Ok(Grant::ClientCredentials { secret }),
            Some(JWT_BEARER) => Ok(Grant::JwtBearer(AssertionConfig {
                key: key.ok_or_else(|| missing("client_certificate_key"))?,
                key_id: given(&self.client_certificate_key_id),
                algorithm: self.algorithm()?,
                issuer: given(&self.iss).unwrap_or_else(|| client_id.to_owned()),
                audience: given(&self.audience)
                    .or_else(|| given(&self.token_url))
                    .unwrap_or_else(|| token_url.to_string()),
                claims: self.claims.clone().unwrap_or_default(),
            })),
            Some(other) => {
                let message = format!(
                    "grant type `{other}` is not available, only `{CLIENT_CREDENTIALS}` and `{JWT_BEARER}` are"
                );
                Err(ConfigError::new("oauth2.grant_type", message))
            }
        }
    }

    fn algorithm(&self) -> Result<SignatureAlgorithm, ConfigError> {
        use SignatureAlgorithm::{Rs256, Rs384, Rs512};
        let Some(name) = given(&self.signature_algorithm) else { return Ok(Rs256) };
        [Rs256, Rs384, Rs512].into_iter().find(|algorithm| algorithm.name() == name).ok_or_else(|| {
            let message = format!("`{name}` is not a signature algorithm: RS256, RS384 and RS512 are");
            ConfigError::new("oauth2.signature_algorithm", message)
        })
    }

    /// Further parameters must not say again what the request says by itself; but some servers want another
    /// `grant_type`.
    fn check_params(&self, grant: &Grant) -> Result<(), ConfigError> {
        let names = self.endpoint_params.iter().flatten().map(|(name, _)| name.as_str());
        let taken = |name: &&str| match *name {
            "scope" => self.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty()),
            "assertion" => matches!(grant, Grant::JwtBearer(_)),
            _ => false,
        };
        match { names }.find(taken) {
            None => Ok(()),
            Some(name) => {
                let message = format!("`{name}` stands in the request already");
                Err(ConfigError::new(format!("oauth2.endpoint_params.{name}"), message))
            }
        }
    }
}

fn missing(field: &str) -> ConfigError {
    ConfigError::new(format!("oauth2.{field}"), format!("`{field}` is missing or empty"))
}

/// A text that says something.
fn given(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}
