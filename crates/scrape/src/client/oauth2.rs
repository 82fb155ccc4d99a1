//! Tokens: one for all requests of a client, had anew shortly before it expires.
//!
//! Whoever needs a token while there is none asks for it, and everybody else waits for that answer:
//! the token's server sees one request, however many targets there are. A refusal is remembered for a
//! moment, so that a server in trouble is not asked once for each of them.
//!
//! Source: RFC 6749 sections 2.3.1, 4.4, 5; RFC 7523 section 2.1; Go `golang.org/x/oauth2`.

mod assertion;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded::{self, byte_serialize};

use super::{
    Connector, FetchError, HttpClient, Reach, TlsConfigs, USER_AGENT, authority, body, secret, value,
};
use crate::config::{CLIENT_CREDENTIALS, Grant, HttpClientConfig, JWT_BEARER, OAuth2Config, Secret};

/// How long before its end a token counts as expired.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);
/// How long a refusal is remembered.
const REFUSAL_KEPT: Duration = Duration::from_secs(1);
/// The time for one request for a token.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// How much of a refusal is shown.
const SHOWN_CHARS: usize = 200;

/// The token of one client.
pub(super) struct Tokens {
    config: OAuth2Config,
    /// Leads to the token's server.
    client: Box<HttpClient>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    refused: Option<(Instant, String)>,
    /// Whether the server wants the credentials as parameters instead of a header; found out once.
    in_params: Option<bool>,
}

struct Token {
    header: HeaderValue,
    /// None: never.
    expires: Option<Instant>,
}

impl Tokens {
    /// # Errors
    /// A TLS file that cannot be read or used.
    pub(super) fn new(
        config: &OAuth2Config,
        connector: &Arc<dyn Connector>,
        tls: &Arc<TlsConfigs>,
    ) -> Result<Tokens, String> {
        let http = HttpClientConfig {
            tls: config.tls.clone(),
            proxy: config.proxy.clone(),
            ..HttpClientConfig::default()
        };
        let client = HttpClient::new(&http, connector.clone(), tls.clone())?;
        Ok(Tokens { config: config.clone(), client: Box::new(client), state: Mutex::default() })
    }

    /// The `Authorization` header.
    ///
    /// # Errors
    /// [`FetchError::Setup`] when no token can be had.
    pub(super) async fn get(&self) -> Result<HeaderValue, FetchError> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if let Some(token) = &state.token
            && token.expires.is_none_or(|expires| now + EXPIRY_MARGIN < expires)
        {
            return Ok(token.header.clone());
        }
        if let Some((until, problem)) = &state.refused
            && now < *until
        {
            return Err(FetchError::Setup(problem.clone()));
        }
        // A target's deadline may end this; then nothing has changed, and the next one asks.
        let asked = tokio::time::timeout(TIMEOUT, self.ask(&mut state.in_params)).await;
        let outcome = asked.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")));
        match outcome {
            Ok(token) => {
                let header = token.header.clone();
                (state.token, state.refused) = (Some(token), None);
                Ok(header)
            }
            Err(problem) => {
                let problem =
                    format!("oauth2: no token from {}: {problem}", without_query(&self.config.token_url));
                state.token = None;
                state.refused = Some((Instant::now() + REFUSAL_KEPT, problem.clone()));
                Err(FetchError::Setup(problem))
            }
        }
    }

    /// The token was refused: the next request asks for another.
    pub(super) async fn forget(&self) {
        self.state.lock().await.token = None;
    }

    async fn ask(&self, in_params: &mut Option<bool>) -> Result<Token, String> {
        let (status, answer) = match &self.config.grant {
            Grant::ClientCredentials { secret } => {
                let secret = secret.as_ref().map(|source| source.read()).transpose()?;
                self.ask_with_secret(&secret.unwrap_or_default(), in_params).await?
            }
            Grant::JwtBearer(what) => {
                let assertion = assertion::signed(what, &self.config.client_id, &self.config.scopes)?;
                self.post(None, self.form(JWT_BEARER, &[("assertion", &assertion)])).await?
            }
        };
        if !status.is_success() {
            return Err(format!("server returned HTTP status {status}: {}", shown(&answer)));
        }
        token_of(&answer)
    }

    /// Asks with the client's secret; the first time in both ways a server may want it.
    async fn ask_with_secret(
        &self,
        client_secret: &Secret,
        in_params: &mut Option<bool>,
    ) -> Result<(StatusCode, Vec<u8>), String> {
        let first = in_params.unwrap_or(false);
        let (mut status, mut answer) = self.post_secret(client_secret, first).await?;
        let mut way = first;
        if status.is_client_error() && in_params.is_none() {
            way = !first;
            (status, answer) = self.post_secret(client_secret, way).await?;
        }
        if status.is_success() {
            *in_params = Some(way);
        }
        Ok((status, answer))
    }

    async fn post_secret(
        &self,
        client_secret: &Secret,
        in_params: bool,
    ) -> Result<(StatusCode, Vec<u8>), String> {
        let id = self.config.client_id.as_str();
        if in_params {
            let credentials = [("client_id", id), ("client_secret", client_secret.reveal())];
            return self.post(None, self.form(CLIENT_CREDENTIALS, &credentials)).await;
        }
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", encoded(id), encoded(client_secret.reveal()));
        let basic = secret(&format!("Basic {}", BASE64.encode(pair))).map_err(|e| e.to_string())?;
        self.post(Some(basic), self.form(CLIENT_CREDENTIALS, &[])).await
    }

    async fn post(
        &self,
        authorization: Option<HeaderValue>,
        form: String,
    ) -> Result<(StatusCode, Vec<u8>), String> {
        let mut headers = HeaderMap::with_capacity(4);
        headers.extend(authorization.map(|value| (header::AUTHORIZATION, value)));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, form_type);
        self.client.post(&self.config.token_url, headers, form).await.map_err(|e| e.to_string())
    }

    /// A request: the grant, what the configuration adds, and at its end what proves who asks.
    fn form(&self, grant_type: &str, proof: &[(&str, &str)]) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        let params = &self.config.endpoint_params;
        if !params.contains_key("grant_type") {
            form.append_pair("grant_type", grant_type);
        }
        if !self.config.scopes.is_empty() {
            form.append_pair("scope", &self.config.scopes.join(" "));
        }
        form.extend_pairs(params).extend_pairs(proof);
        form.finish()
    }
}

impl HttpClient {
    /// Posts a form on a connection of its own; gives status and body whatever the status is.
    async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        form: String,
    ) -> Result<(StatusCode, Vec<u8>), FetchError> {
        let mut open = self.open(&authority(url)?, true, Reach::Anywhere).await?;
        let mut headers = headers;
        if !open.sender.is_http2() {
            headers.insert(header::CONNECTION, value("close")?);
        }
        let mut request = self.request(url, open.sender.is_http2(), headers, Bytes::from(form))?;
        *request.method_mut() = http::Method::POST;
        let response = open.sender.send(request).await?;
        let (status, mut answer) = (response.status(), Vec::new());
        body::read(response, ANSWER_BYTES_MAX, &mut answer).await?;
        Ok((status, answer))
    }
}

/// The token in an answer.
fn token_of(answer: &[u8]) -> Result<Token, String> {
    let fields: serde_json::Map<String, serde_json::Value> = match serde_json::from_slice(answer) {
        Ok(fields) => fields,
        // Some servers answer as a form.
        Err(_) => form_urlencoded::parse(answer)
            .map(|(name, text)| (name.into_owned(), serde_json::Value::from(text.into_owned())))
            .collect(),
    };
    let text = |name: &str| fields.get(name).and_then(|field| field.as_str()).filter(|text| !text.is_empty());
    if let Some(error) = text("error") {
        let about = text("error_description").map(|about| format!(" ({about})")).unwrap_or_default();
        return Err(shown(format!("{error}{about}").as_bytes()));
    }
    let token = text("access_token").ok_or("the answer has no access_token")?;
    let scheme = match text("token_type") {
        None => "Bearer",
        Some(word) if word.eq_ignore_ascii_case("bearer") => "Bearer",
        Some(word) => word,
    };
    let lifetime = match fields.get("expires_in") {
        Some(serde_json::Value::String(digits)) => digits.parse::<u64>().ok(),
        Some(number) => number.as_u64().or_else(|| number.as_f64().map(|seconds| seconds as u64)),
        None => None,
    };
    let header = secret(&format!("{scheme} {token}")).map_err(|_| "the access_token holds odd characters")?;
    let expires = lifetime.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    Ok(Token { header, expires: expires.and_then(|lifetime| Instant::now().checked_add(lifetime)) })
}

/// The beginning of an answer, on one line.
fn shown(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(SHOWN_CHARS).collect()
}

/// The URL without what may be a secret.
fn without_query(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    // These only fail for URLs that have no host.
    _ = shown.set_username("");
    _ = shown.set_password(None);
    shown.to_string()
}

#[cfg(test)]
mod tests;
