//! `remote_write`: other systems that are sent what comes in.
//!
//! Source: Prometheus `config/config.go`, `RemoteWriteConfig`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use model::Labels;
use model::relabel::NameScheme;
use remote::write_out::{MetadataConfig, Protocol, QueueConfig, WriteOutConfig};
use scrape::config::{
    ConfigDuration, ConfigError, HTTP_CLIENT_FIELDS, HttpClientConfig, HttpClientText, RelabelText, Secret,
    Source, relabel_rules,
};
use serde::Deserialize;
use url::Url;

use super::discovery::hint_from;
use super::yaml::{self, Node};

/// Headers that a section may not set: the client does, or another key is for them.
const RESERVED_HEADERS: [&str; 13] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-authorization",
    "retry-attempt",
    "transfer-encoding",
    "user-agent",
    "x-prometheus-remote-write-version",
];
/// Ways of authentication that Prometheus has beside ours.
const ELSEWHERE: [&str; 3] = ["sigv4", "azuread", "google_iam"];
/// Most samples in a request that may be asked for: receivers refuse bodies of more than some 32 MB.
const SAMPLES_PER_SEND_MAX: usize = 100_000;
/// Most requests under way at a time that may be asked for.
const SHARDS_MAX: usize = 1000;
/// Most samples that may be read at a time.
const CAPACITY_MAX: usize = 10_000_000;

/// One entry of `remote_write` as written, without its HTTP client options.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteWriteText {
    /// Where to. Required.
    pub url: Option<String>,
    /// Names it in metrics, logs, and the file of its cursor. Default: the URL without user and query.
    pub name: Option<String>,
    /// After how long a request has failed. Default: 30s.
    pub remote_timeout: Option<ConfigDuration>,
    /// Further headers of every request.
    pub headers: Option<BTreeMap<String, String>>,
    /// Changes to series before they are sent.
    pub write_relabel_configs: Option<Vec<RelabelText>>,
    /// `prometheus.WriteRequest` or `io.prometheus.write.v2.Request`. Default: the first.
    pub protobuf_message: Option<String>,
    /// Whether exemplars are sent. Default: false.
    pub send_exemplars: Option<bool>,
    /// Whether native histograms are sent. Default: false.
    pub send_native_histograms: Option<bool>,
    /// Whether each request goes to another address of the host. Not supported.
    pub round_robin_dns: Option<bool>,
    /// How it is sent.
    pub queue_config: Option<QueueText>,
    /// Metadata of families.
    pub metadata_config: Option<MetadataText>,
}

/// `queue_config` as written.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueText {
    /// Samples that are read from the queue at a time. Default: 10000.
    pub capacity: Option<usize>,
    /// Requests under way at a time when nothing waits. Default: 1.
    pub min_shards: Option<usize>,
    /// Most requests under way at a time. Default: 50.
    pub max_shards: Option<usize>,
    /// Most samples in a request. Default: 2000.
    pub max_samples_per_send: Option<usize>,
    /// Longest that samples wait for a request to fill. Default: 5s.
    pub batch_send_deadline: Option<ConfigDuration>,
    /// First wait before a request is repeated. Default: 30ms.
    pub min_backoff: Option<ConfigDuration>,
    /// Longest wait before a request is repeated. Default: 5s.
    pub max_backoff: Option<ConfigDuration>,
    /// Whether a request answered 429 is repeated. Default: true.
    pub retry_on_http_429: Option<bool>,
    /// Older samples are not sent. Default: 0s, none.
    pub sample_age_limit: Option<ConfigDuration>,
}

/// `metadata_config` as written.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetadataText {
    /// Whether metadata is sent. Default: true.
    pub send: Option<bool>,
    /// How often. Default: 1m.
    pub send_interval: Option<ConfigDuration>,
    /// Most families in a request. Default: 2000.
    pub max_samples_per_send: Option<usize>,
}

/// One entry of `remote_write` as meant.
#[derive(Debug, Clone)]
pub struct RemoteWrite {
    /// Where to.
    pub url: Url,
    /// After how long a request has failed.
    pub timeout: Duration,
    /// How requests are made, further headers included.
    pub client: HttpClientConfig,
    /// What is sent, and how. Without the external labels, which are global.
    pub send: WriteOutConfig,
    /// What was accepted without effect.
    pub(super) notices: Vec<ConfigError>,
}

/// The entries of the section.
pub(super) fn read(
    list: &Node,
    names: NameScheme,
    external_labels: &Labels,
    dir: &Path,
) -> Result<Vec<RemoteWrite>, yaml::Error> {
    let mut found: Vec<RemoteWrite> = Vec::new();
    for entry in list.items()? {
        let (client, own) = entry.split(|key| HTTP_CLIENT_FIELDS.contains(&key))?;
        if let Some((key, _)) = own.entries()?.iter().find(|(key, _)| ELSEWHERE.contains(&key.text.as_str()))
        {
            let message = format!("`{}` is not supported", key.text);
            return Err(yaml::Error::at(key.at, message));
        }
        let own: RemoteWriteText = own.read().map_err(|e| hint_from(e, HTTP_CLIENT_FIELDS))?;
        let client: HttpClientText = client.read()?;
        let meant = client.validate(dir).and_then(|client| own.validate(client, names, external_labels));
        let meant = meant.map_err(|e| yaml::Error::at(entry.locate(&e.path), e.message))?;
        if found.iter().any(|other| other.send.name == meant.send.name) {
            let message = format!("two entries are called `{}`: give one of them a `name`", meant.send.name);
            return Err(yaml::Error::at(entry.locate("name"), message));
        }
        found.push(meant);
    }
    Ok(found)
}

impl RemoteWriteText {
    fn validate(
        &self,
        mut client: HttpClientConfig,
        names: NameScheme,
        external_labels: &Labels,
    ) -> Result<RemoteWrite, ConfigError> {
        let written = self.url.as_deref().filter(|url| !url.is_empty());
        let written = written.ok_or_else(|| ConfigError::new("url", "`url` is missing"))?;
        let url =
            Url::parse(written).map_err(|e| ConfigError::new("url", format!("this is not a URL: {e}")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(ConfigError::new("url", "the URL is http or https and names a host"));
        }
        for (name, text) in self.headers.iter().flatten() {
            client.headers.push(header(name, text)?);
        }
        let mut send = WriteOutConfig::new(&self.name(&url));
        send.external_labels = external_labels.clone();
        send.rules = relabel_rules("write_relabel_configs", &self.write_relabel_configs, names)?;
        send.protocol = match self.protobuf_message.as_deref() {
            None | Some("") => Protocol::V1,
            Some(name) => {
                [Protocol::V1, Protocol::V2].into_iter().find(|p| p.message() == name).ok_or_else(|| {
                    let known = [Protocol::V1, Protocol::V2].map(Protocol::message).join(", ");
                    ConfigError::new("protobuf_message", format!("unknown message `{name}` ({known})"))
                })?
            }
        };
        send.send_exemplars = self.send_exemplars.unwrap_or(false);
        send.send_native_histograms = self.send_native_histograms.unwrap_or(false);
        if let Some(queue) = &self.queue_config {
            send.queue = queue.validate().map_err(|e| e.below("queue_config"))?;
        }
        if let Some(metadata) = &self.metadata_config {
            send.metadata = metadata.validate();
        }
        let mut notices = Vec::new();
        if self.round_robin_dns == Some(true) {
            notices.push(ConfigError::new("round_robin_dns", "no effect: connections are kept open"));
        }
        let timeout = stated(self.remote_timeout).unwrap_or(Duration::from_secs(30));
        Ok(RemoteWrite { url, timeout, client, send, notices })
    }

    fn name(&self, url: &Url) -> String {
        match self.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => name.to_owned(),
            None => {
                let mut shown = url.clone();
                // Neither fails for a URL that has a host.
                let _ = (shown.set_username(""), shown.set_password(None));
                shown.set_query(None);
                shown.set_fragment(None);
                shown.into()
            }
        }
    }
}

fn header(name: &str, text: &str) -> Result<(http::HeaderName, Vec<Source>), ConfigError> {
    let at = format!("headers.{name}");
    let header = http::HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| ConfigError::new(at.as_str(), format!("`{name}` is not a valid header name")))?;
    if RESERVED_HEADERS.contains(&header.as_str()) {
        return Err(ConfigError::new(at, format!("setting header `{name}` is not allowed")));
    }
    if http::HeaderValue::from_str(text).is_err() {
        return Err(ConfigError::new(at, "a value holds characters that no header may have"));
    }
    Ok((header, vec![Source::Inline(Secret::new(text))]))
}

impl QueueText {
    fn validate(&self) -> Result<QueueConfig, ConfigError> {
        let usual = QueueConfig::default();
        let number =
            |field: &str, written: Option<usize>, usual: usize, max: usize| match written.unwrap_or(usual) {
                value if (1..=max).contains(&value) => Ok(value),
                value => Err(ConfigError::new(field, format!("{value} is not between 1 and {max}"))),
            };
        let queue = QueueConfig {
            capacity: number("capacity", self.capacity, usual.capacity, CAPACITY_MAX)?,
            min_shards: number("min_shards", self.min_shards, usual.min_shards, SHARDS_MAX)?,
            max_shards: number("max_shards", self.max_shards, usual.max_shards, SHARDS_MAX)?,
            max_samples_per_send: number(
                "max_samples_per_send",
                self.max_samples_per_send,
                usual.max_samples_per_send,
                SAMPLES_PER_SEND_MAX,
            )?,
            batch_send_deadline: stated(self.batch_send_deadline).unwrap_or(usual.batch_send_deadline),
            min_backoff: stated(self.min_backoff).unwrap_or(usual.min_backoff),
            max_backoff: stated(self.max_backoff).unwrap_or(usual.max_backoff),
            retry_on_http_429: self.retry_on_http_429.unwrap_or(usual.retry_on_http_429),
            sample_age_limit: stated(self.sample_age_limit),
        };
        if queue.min_shards > queue.max_shards {
            return Err(ConfigError::new("min_shards", "`min_shards` is above `max_shards`"));
        }
        if queue.min_backoff > queue.max_backoff {
            return Err(ConfigError::new("min_backoff", "`min_backoff` is above `max_backoff`"));
        }
        Ok(queue)
    }
}

impl MetadataText {
    fn validate(&self) -> MetadataConfig {
        let usual = MetadataConfig::default();
        let families = self.max_samples_per_send.filter(|families| *families > 0);
        MetadataConfig {
            send: self.send.unwrap_or(usual.send),
            send_interval: stated(self.send_interval).unwrap_or(usual.send_interval),
            max_samples_per_send: families.unwrap_or(usual.max_samples_per_send),
        }
    }
}

/// A duration that was written and is not zero.
fn stated(duration: Option<ConfigDuration>) -> Option<Duration> {
    duration.map(|duration| duration.0).filter(|duration| !duration.is_zero())
}
