//! OAuth 2.0 client credentials.
//!
//! Source: RFC 6749 section 4.4; `prometheus/common`, `config/http_config.go`, `OAuth2`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use url::Url;

use super::ConfigError;
use super::http::{HttpClientConfig, ProxyConfig, ProxyText, TlsConfig, TlsText, one_of};
use super::values::{Secret, Source};

/// The only way of asking for a token that is available.
const GRANT_TYPE: &str = "client_credentials";

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
    /// How a token is asked for; `client_credentials` is the only way here.
    pub grant_type: Option<String>,
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
    /// The client's secret.
    pub client_secret: Option<Source>,
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

impl OAuth2Text {
    /// Checks what was written. File names are relative to `dir`; paths of errors begin with `oauth2`.
    pub(super) fn validate(&self, dir: &Path) -> Result<OAuth2Config, ConfigError> {
        let missing = |field: &str| {
            ConfigError::new(format!("oauth2.{field}"), format!("`{field}` is missing or empty"))
        };
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(other) = given(&self.grant_type).filter(|grant| grant != GRANT_TYPE) {
            let message = format!("grant type `{other}` is not available, only `{GRANT_TYPE}` is");
            return Err(ConfigError::new("oauth2.grant_type", message));
        }
        let client_id = given(&self.client_id).ok_or_else(|| missing("client_id"))?;
        let token_url = given(&self.token_url).ok_or_else(|| missing("token_url"))?;
        let token_url = match Url::parse(&token_url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
            _ => {
                let message = "`token_url` is not a URL that begins with http or https";
                return Err(ConfigError::new("oauth2.token_url", message));
            }
        };
        let proxy = ProxyText {
            url: &self.proxy_url,
            no_proxy: &self.no_proxy,
            from_environment: self.proxy_from_environment,
            connect_header: &self.proxy_connect_header,
        };
        let usual = HttpClientConfig::default().tls;
        Ok(OAuth2Config {
            client_id,
            client_secret: one_of(
                dir,
                "oauth2",
                "client_secret",
                &self.client_secret,
                &self.client_secret_file,
            )?,
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
}
