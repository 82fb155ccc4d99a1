//! The other sections: ours, and those of Prometheus that are known but not acted on yet.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use model::Matcher;
use scrape::config::{ByteSize, ConfigDuration, ConfigError, Secret, Source, join_dir};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tsdb::SeriesLimits;

/// `storage`: what can be changed while running.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageText {
    /// The store.
    pub tsdb: TsdbText,
    /// Exemplars.
    pub exemplars: ExemplarsText,
    /// What an agent keeps itself. Present means on.
    pub local: Option<LocalText>,
}

/// `storage.local`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalText {
    /// How long and how much is kept. Default: 24h, 8GB.
    pub retention: RetentionText,
    /// Selectors of the series that go to hubs as well. Default: none.
    pub ship: Vec<String>,
}

/// `storage.tsdb`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TsdbText {
    /// How old a pushed sample may be. Our store takes samples of any age within retention.
    pub out_of_order_time_window: Option<ConfigDuration>,
    /// Not known to our store.
    pub stale_series_compaction_threshold: Option<f64>,
    /// How long and how much is kept.
    pub retention: RetentionText,
}

/// `storage.tsdb.retention`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionText {
    /// By time.
    pub time: Option<ConfigDuration>,
    /// By size on disk.
    pub size: Option<ByteSize>,
    /// By a share of the disk; not supported.
    pub percentage: Option<f64>,
}

/// `storage.exemplars`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExemplarsText {
    /// How many exemplars are kept in memory.
    pub max_exemplars: Option<i64>,
}

/// `storage` as meant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StorageConfig {
    /// How old a pushed sample may be, where stated.
    pub out_of_order_time_window: Option<Duration>,
    /// How long samples are kept, where stated here and not as a flag.
    pub retention_time: Option<Duration>,
    /// How many bytes are kept, where stated.
    pub retention_bytes: Option<u64>,
    /// How many exemplars are kept, where stated; zero for none.
    pub max_exemplars: Option<usize>,
    /// What an agent keeps itself; nothing where missing.
    pub local: Option<LocalConfig>,
}

/// `storage.local` as meant.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// How long samples are kept; zero for as long as there is room.
    pub retention_time: Duration,
    /// How many bytes are kept; zero for any number.
    pub retention_bytes: u64,
    /// What goes to hubs as well, as written.
    pub ship: Vec<String>,
    /// The same as matchers: a series goes that all matchers of one entry match.
    pub ship_matchers: Vec<Vec<Matcher>>,
}

impl PartialEq for LocalConfig {
    fn eq(&self, other: &LocalConfig) -> bool {
        (self.retention_time, self.retention_bytes, &self.ship)
            == (other.retention_time, other.retention_bytes, &other.ship)
    }
}

/// How long an agent keeps samples.
const LOCAL_TIME: Duration = Duration::from_secs(24 * 3600);
/// How much an agent keeps, bytes.
const LOCAL_BYTES: u64 = 8 << 30;

impl LocalText {
    /// What was meant.
    ///
    /// # Errors
    /// A selector that cannot be read, or that selects by nothing.
    pub fn validate(&self) -> Result<LocalConfig, ConfigError> {
        let matchers = self.ship.iter().enumerate().map(|(i, text)| {
            let at = || format!("ship[{i}]");
            let matchers = promql::parser::parse_matchers(text)
                .map_err(|error| ConfigError::new(at(), format!("`{text}` is not a selector: {error}")))?;
            if matchers.iter().all(Matcher::matches_empty) {
                let message = format!("`{text}` selects by nothing; `{{__name__=~\".+\"}}` is everything");
                return Err(ConfigError::new(at(), message));
            }
            Ok(matchers)
        });
        Ok(LocalConfig {
            retention_time: self.retention.time.map_or(LOCAL_TIME, |time| time.0),
            retention_bytes: self.retention.size.map_or(LOCAL_BYTES, |size| size.0),
            ship_matchers: matchers.collect::<Result<_, _>>()?,
            ship: self.ship.clone(),
        })
    }
}

impl StorageConfig {
    /// The part that holds until the next start.
    pub fn until_restart(&self) -> StorageConfig {
        let mut fixed = self.clone();
        if let Some(local) = &mut fixed.local {
            (local.ship, local.ship_matchers) = (Vec::new(), Vec::new());
        }
        fixed
    }
}

impl StorageText {
    /// What was meant.
    ///
    /// # Errors
    /// See [`LocalText::validate`].
    pub fn validate(&self) -> Result<StorageConfig, ConfigError> {
        Ok(StorageConfig {
            out_of_order_time_window: self.tsdb.out_of_order_time_window.map(|window| window.0),
            retention_time: self.tsdb.retention.time.map(|time| time.0),
            retention_bytes: self.tsdb.retention.size.map(|size| size.0),
            max_exemplars: self.exemplars.max_exemplars.map(|max| usize::try_from(max).unwrap_or(0)),
            local: match &self.local {
                Some(local) => Some(local.validate().map_err(|error| error.below("local"))?),
                None => None,
            },
        })
    }
}

/// `limits`: budgets that shed only the excess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsText {
    /// Most series of a source (a scrape target; for pushes, a job and instance) in memory; 0 for any
    /// number.
    pub series_per_source: usize,
    /// Most series with the same label `job` in memory; 0 for any number.
    pub series_per_job: usize,
}

impl LimitsText {
    /// What was meant.
    pub fn validate(&self) -> SeriesLimits {
        let limit = |max: usize| (max > 0).then_some(max);
        SeriesLimits { per_source: limit(self.series_per_source), per_job: limit(self.series_per_job) }
    }
}

/// `machine`: the collector for the machine the program runs on. Present means on.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineText {
    /// The path it is exposed at. Default: `/metrics/machine`.
    pub path: Option<String>,
}

/// `machine` as meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConfig {
    /// The path it is exposed at.
    pub path: String,
}

impl MachineText {
    /// Checks what was written.
    ///
    /// # Errors
    /// A path that does not begin with a slash, or that something else answers at.
    pub fn validate(&self) -> Result<MachineConfig, ConfigError> {
        let path = self
            .path
            .clone()
            .filter(|path| !path.is_empty())
            .unwrap_or_else(|| "/metrics/machine".to_owned());
        let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~".contains(&b));
        if !path.starts_with('/') || path == "/" || !plain {
            let message = format!("`{path}` is not a path such as /metrics/machine");
            return Err(ConfigError::new("path", message));
        }
        let taken = ["/metrics", "/federate"].contains(&path.as_str())
            || ["/api/", "/-/"].iter().any(|prefix| path.starts_with(prefix));
        if taken {
            return Err(ConfigError::new("path", format!("`{path}` is taken by something else")));
        }
        Ok(MachineConfig { path })
    }
}

/// `web`: the program's own HTTP server.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebText {
    /// Who may come in. Off loopback nothing answers without it.
    pub auth: WebAuthText,
}

/// `web.auth`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebAuthText {
    /// Tokens that are accepted as `Authorization: Bearer <token>`.
    pub bearer_tokens: Vec<Secret>,
    /// A file with one more token.
    pub bearer_token_file: Option<String>,
    /// Users and their passwords for basic authentication.
    pub basic_auth_users: BTreeMap<String, PasswordText>,
}

/// A password, or the file it is in.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PasswordText {
    /// The password.
    pub password: Option<Secret>,
    /// A file with the password.
    pub password_file: Option<String>,
}

/// `web.auth` as meant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WebAuth {
    /// Bearer tokens.
    pub bearer_tokens: Vec<Source>,
    /// Users and passwords.
    pub basic_auth_users: Vec<(String, Source)>,
}

impl WebAuth {
    /// Whether anybody can be let in.
    pub fn is_empty(&self) -> bool {
        self.bearer_tokens.is_empty() && self.basic_auth_users.is_empty()
    }
}

impl WebText {
    /// Checks what was written. File names are relative to `dir`.
    ///
    /// # Errors
    /// Empty tokens and passwords, users with two passwords or none.
    pub fn validate(&self, dir: &Path) -> Result<WebAuth, ConfigError> {
        let mut bearer_tokens = Vec::new();
        for (i, token) in self.auth.bearer_tokens.iter().enumerate() {
            if token.reveal().trim().is_empty() {
                return Err(ConfigError::new(
                    format!("auth.bearer_tokens[{i}]"),
                    "an empty token lets anybody in",
                ));
            }
            bearer_tokens.push(Source::Inline(token.clone()));
        }
        bearer_tokens
            .extend(self.auth.bearer_token_file.iter().map(|file| Source::File(join_dir(dir, file))));
        let mut basic_auth_users = Vec::new();
        for (user, written) in &self.auth.basic_auth_users {
            let at = format!("auth.basic_auth_users.{user}");
            let password = match (&written.password, &written.password_file) {
                (Some(_), Some(_)) => {
                    return Err(ConfigError::new(at, "`password` and `password_file` exclude each other"));
                }
                (Some(password), None) if !password.reveal().is_empty() => Source::Inline(password.clone()),
                (None, Some(file)) => Source::File(join_dir(dir, file)),
                _ => return Err(ConfigError::new(at, format!("user `{user}` has no password"))),
            };
            basic_auth_users.push((user.clone(), password));
        }
        Ok(WebAuth { bearer_tokens, basic_auth_users })
    }
}

/// `alerting`, looked at but not acted on.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AlertingText {
    pub(super) alert_relabel_configs: Option<Vec<IgnoredAny>>,
    pub(super) alertmanagers: Option<Vec<IgnoredAny>>,
}

/// `runtime`, which tunes Go.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RuntimeText {
    pub(super) gogc: Option<i64>,
}

/// `tracing`, looked at but not acted on.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TracingText {
    pub(super) client_type: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) sampling_fraction: Option<f64>,
    pub(super) insecure: Option<bool>,
    pub(super) tls_config: Option<IgnoredAny>,
    pub(super) headers: Option<BTreeMap<String, String>>,
    pub(super) compression: Option<String>,
    pub(super) timeout: Option<ConfigDuration>,
}

/// `otlp`, looked at but not acted on.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OtlpText {
    pub(super) promote_all_resource_attributes: Option<bool>,
    pub(super) promote_resource_attributes: Option<Vec<String>>,
    pub(super) ignore_resource_attributes: Option<Vec<String>>,
    pub(super) translation_strategy: Option<String>,
    pub(super) keep_identifying_resource_attributes: Option<bool>,
    pub(super) convert_histograms_to_nhcb: Option<bool>,
    pub(super) promote_scope_metadata: Option<bool>,
    pub(super) label_name_underscore_sanitization: Option<bool>,
    pub(super) label_name_preserve_multiple_underscores: Option<bool>,
}
