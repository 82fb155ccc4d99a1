//! What a scrape pool is told: one entry of `scrape_configs`.
//!
//! Two types, as everywhere: [`ScrapeConfigText`] and [`HttpClientText`] are what was written,
//! [`ScrapeConfig`] is what is meant, with the global defaults applied and contradictions refused.
//! Names, defaults and meaning are Prometheus'. Where targets come from (`*_sd_configs`) is not
//! known here: target groups are handed in.
//!
//! Source: Prometheus `config/config.go`, `ScrapeConfig`.

mod histograms;
mod http;
mod oauth2;
mod relabel;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::relabel::{NameScheme, Rule};
use serde::Deserialize;
use wire::exposition::{EscapingScheme, Protocol};

pub use histograms::{HistogramChoice, Resolution};
pub use http::{
    Auth, AuthorizationText, BasicAuthText, HTTP_CLIENT_FIELDS, HeaderText, HttpClientConfig, HttpClientText,
    ProxyConfig, TlsConfig, TlsText,
};
pub use oauth2::{AssertionConfig, Grant, OAuth2Config, OAuth2Text, SignatureAlgorithm};
pub(crate) use oauth2::{CLIENT_CREDENTIALS, JWT_BEARER};
pub use relabel::{RelabelText, relabel_rules};
pub use values::{ByteSize, ConfigDuration, Secret, Source, join_dir};

/// A contradiction in what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The field at fault, as a path below the section: `tls_config.key`, `relabel_configs[2].regex`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl ConfigError {
    /// An error at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> ConfigError {
        ConfigError { path: path.into(), message: message.into() }
    }

    /// The same error seen from a section further out.
    pub fn below(mut self, section: &str) -> ConfigError {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.path = format!("{section}{dot}{}", self.path);
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for ConfigError {}

/// One entry of `scrape_configs` as written, without its discovery and HTTP client options.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrapeConfigText {
    /// Names the scrape pool, and becomes the label `job`. Required, unique.
    pub job_name: Option<String>,
    /// The cluster whose agent the targets are asked through. Default: they are asked directly.
    pub cluster: Option<String>,
    /// How often each target is scraped. Default: the global interval.
    pub scrape_interval: Option<ConfigDuration>,
    /// After how long a scrape has failed; at most the interval. Default: the global timeout, or the
    /// interval where that is shorter.
    pub scrape_timeout: Option<ConfigDuration>,
    /// Formats asked for, the best first. Default: the global list.
    pub scrape_protocols: Option<Vec<String>>,
    /// The format assumed when a target does not name one.
    pub fallback_scrape_protocol: Option<String>,
    /// Whether native histograms are scraped; they come in protobuf, which is then asked for first.
    /// Default: the global setting.
    pub scrape_native_histograms: Option<bool>,
    /// Whether classic histograms are kept beside native ones. Default: the global setting.
    pub always_scrape_classic_histograms: Option<bool>,
    /// Older name of `always_scrape_classic_histograms`.
    pub scrape_classic_histograms: Option<bool>,
    /// Whether classic histograms become native ones with custom buckets. Default: the global setting.
    pub convert_classic_histograms_to_nhcb: Option<bool>,
    /// Failed scrapes are logged there. Default: the global file.
    pub scrape_failure_log_file: Option<String>,
    /// The path scraped. Default: `/metrics`.
    pub metrics_path: Option<String>,
    /// `http` or `https`. Default: `http`.
    pub scheme: Option<String>,
    /// URL parameters.
    pub params: Option<BTreeMap<String, Vec<String>>>,
    /// Whether labels in the scrape win over the target's. Default: false, they become `exported_*`.
    pub honor_labels: Option<bool>,
    /// Whether timestamps in the scrape are used. Default: true.
    pub honor_timestamps: Option<bool>,
    /// Whether series with timestamps of their own get staleness markers. Default: false.
    pub track_timestamps_staleness: Option<bool>,
    /// Whether compressed answers are asked for. Default: true.
    pub enable_compression: Option<bool>,
    /// Whether `scrape_timeout_seconds`, `scrape_sample_limit` and `scrape_body_size_bytes` are
    /// reported. Default: the global setting.
    pub extra_scrape_metrics: Option<bool>,
    /// The largest body, uncompressed. 0: none.
    pub body_size_limit: Option<ByteSize>,
    /// The most samples after relabelling. 0: none.
    pub sample_limit: Option<u64>,
    /// The most labels of a series. 0: none.
    pub label_limit: Option<u64>,
    /// The longest label name, bytes. 0: none.
    pub label_name_length_limit: Option<u64>,
    /// The longest label value, bytes. 0: none.
    pub label_value_length_limit: Option<u64>,
    /// The most targets of the pool. 0: none.
    pub target_limit: Option<u64>,
    /// The most dropped targets that are remembered. 0: none.
    pub keep_dropped_targets: Option<u64>,
    /// The most buckets of a native histogram; beyond it they are merged. 0: any number.
    pub native_histogram_bucket_limit: Option<u64>,
    /// The smallest growth of a native histogram's buckets; finer ones are merged.
    pub native_histogram_min_bucket_factor: Option<f64>,
    /// `utf8` or `legacy`. Default: the global scheme.
    pub metric_name_validation_scheme: Option<String>,
    /// `allow-utf-8`, `underscores`, `dots` or `values`. Default: by the validation scheme.
    pub metric_name_escaping_scheme: Option<String>,
    /// Changes to targets before they are scraped.
    pub relabel_configs: Option<Vec<RelabelText>>,
    /// Changes to series before they are stored.
    pub metric_relabel_configs: Option<Vec<RelabelText>>,
}

/// What `global` says about scraping.
#[derive(Debug, Clone, PartialEq)]
pub struct ScrapeDefaults {
    /// The interval.
    pub scrape_interval: ConfigDuration,
    /// The timeout.
    pub scrape_timeout: ConfigDuration,
    /// The formats, when stated.
    pub protocols: Option<Vec<Protocol>>,
    /// What is made of histograms.
    pub histograms: HistogramChoice,
    /// Where failed scrapes are logged.
    pub failure_log: Option<PathBuf>,
    /// Whether to report the extra scrape metrics.
    pub extra_metrics: bool,
    /// Limits of jobs that state none.
    pub limits: Limits,
    /// Which names are valid.
    pub names: NameValidation,
    /// How names are asked for, when stated.
    pub escaping: Option<EscapingScheme>,
}

impl Default for ScrapeDefaults {
    fn default() -> Self {
        ScrapeDefaults {
            scrape_interval: ConfigDuration::from_secs(60),
            scrape_timeout: ConfigDuration::from_secs(10),
            protocols: None,
            histograms: HistogramChoice::default(),
            failure_log: None,
            extra_metrics: false,
            limits: Limits::default(),
            names: NameValidation::Utf8,
            escaping: None,
        }
    }
}

/// Which metric and label names are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NameValidation {
    /// Any UTF-8.
    #[default]
    Utf8,
    /// Letters, digits, underscores and (in metric names) colons.
    Legacy,
}

impl NameValidation {
    /// Reads `metric_name_validation_scheme`.
    ///
    /// # Errors
    /// Any other word than `utf8`, `legacy` and nothing.
    pub fn parse(written: Option<&str>) -> Result<Option<NameValidation>, ConfigError> {
        match written {
            None | Some("") => Ok(None),
            Some("utf8") => Ok(Some(NameValidation::Utf8)),
            Some("legacy") => Ok(Some(NameValidation::Legacy)),
            Some(other) => Err(ConfigError::new(
                "metric_name_validation_scheme",
                format!("unknown name validation scheme `{other}`, it is `utf8` or `legacy`"),
            )),
        }
    }

    /// The same for relabelling.
    pub fn scheme(self) -> NameScheme {
        match self {
            NameValidation::Utf8 => NameScheme::Utf8,
            NameValidation::Legacy => NameScheme::Legacy,
        }
    }

    /// Whether `name` may name a label.
    pub fn is_valid_label_name(self, name: &str) -> bool {
        match self {
            NameValidation::Utf8 => !name.is_empty(),
            NameValidation::Legacy => model::labels::is_legacy_label_name(name),
        }
    }

    /// Whether `name` may name a metric.
    pub fn is_valid_metric_name(self, name: &str) -> bool {
        match self {
            NameValidation::Utf8 => !name.is_empty(),
            NameValidation::Legacy => model::labels::is_legacy_metric_name(name),
        }
    }
}

/// Bounds on what a target may send; 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of the body, uncompressed.
    pub body_bytes: u64,
    /// Samples after relabelling.
    pub samples: u64,
    /// Labels of a series.
    pub labels: u64,
    /// Bytes of a label name.
    pub label_name_bytes: u64,
    /// Bytes of a label value.
    pub label_value_bytes: u64,
    /// Targets of a pool.
    pub targets: u64,
    /// Dropped targets of a pool that are remembered.
    pub dropped_targets_kept: u64,
}

impl Limits {
    fn or(self, other: Limits) -> Limits {
        let pick = |a: u64, b: u64| if a == 0 { b } else { a };
        Limits {
            body_bytes: pick(self.body_bytes, other.body_bytes),
            samples: pick(self.samples, other.samples),
            labels: pick(self.labels, other.labels),
            label_name_bytes: pick(self.label_name_bytes, other.label_name_bytes),
            label_value_bytes: pick(self.label_value_bytes, other.label_value_bytes),
            targets: pick(self.targets, other.targets),
            dropped_targets_kept: pick(self.dropped_targets_kept, other.dropped_targets_kept),
        }
    }
}

/// The scheme of a target's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    /// Plain HTTP.
    #[default]
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// One entry of `scrape_configs` as meant. Two are equal when the same was written with the same
/// global defaults, and the same limits are in force.
#[derive(Debug, Clone)]
pub struct ScrapeConfig {
    /// Names the pool; the label `job` of its targets.
    pub job_name: String,
    /// The cluster whose agent the targets are asked through; their label `cluster`.
    pub cluster: Option<String>,
    /// The interval, above zero.
    pub scrape_interval: Duration,
    /// The timeout, at most the interval, above zero.
    pub scrape_timeout: Duration,
    /// Formats asked for, the best first; not empty.
    pub protocols: Vec<Protocol>,
    /// The format assumed when a target does not name one.
    pub fallback_protocol: Option<Protocol>,
    /// How targets are asked to spell names.
    pub escaping: EscapingScheme,
    /// Which names are valid.
    pub names: NameValidation,
    /// The path.
    pub metrics_path: String,
    /// The scheme.
    pub scheme: Scheme,
    /// URL parameters.
    pub params: BTreeMap<String, Vec<String>>,
    /// Whether the scrape's labels win.
    pub honor_labels: bool,
    /// Whether the scrape's timestamps are used.
    pub honor_timestamps: bool,
    /// Whether series with own timestamps get staleness markers.
    pub track_timestamps_staleness: bool,
    /// Whether compressed answers are asked for.
    pub enable_compression: bool,
    /// Whether the extra scrape metrics are reported.
    pub extra_metrics: bool,
    /// What is made of histograms, where a target does not say otherwise.
    pub histograms: HistogramChoice,
    /// Bounds on the resolution of native histograms.
    pub resolution: Resolution,
    /// Where failed scrapes are logged.
    pub failure_log: Option<PathBuf>,
    /// Bounds.
    pub limits: Limits,
    /// How requests are made.
    pub http: HttpClientConfig,
    /// Changes to targets.
    pub relabel: Vec<Rule>,
    /// Changes to series.
    pub metric_relabel: Vec<Rule>,
    written: (ScrapeConfigText, HttpClientText, ScrapeDefaults),
}

impl PartialEq for ScrapeConfig {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written && self.limits == other.limits
    }
}

impl ScrapeConfigText {
    /// Checks what was written and applies the defaults. File names are relative to `dir`.
    ///
    /// # Errors
    /// The first contradiction, with the field at fault.
    pub fn validate(
        &self,
        http: &HttpClientText,
        defaults: &ScrapeDefaults,
        dir: &Path,
    ) -> Result<ScrapeConfig, ConfigError> {
        let job_name = self.job_name.clone().filter(|name| !name.is_empty());
        let job_name =
            job_name.ok_or_else(|| ConfigError::new("job_name", "`job_name` is missing or empty"))?;
        let (scrape_interval, scrape_timeout) = self.times(defaults)?;
        let (names, escaping) = self.names(defaults)?;
        let metrics_path = self.metrics_path.clone().filter(|path| !path.is_empty());
        let cluster = self.cluster.clone().filter(|cluster| !cluster.is_empty());
        if cluster.is_some()
            && let Some(field) = http.first_of_the_way()
        {
            let message = format!(
                "`{field}` has no place in a job with `cluster`: the agent there asks, with what its own jobs say"
            );
            return Err(ConfigError::new(field, message));
        }
        Ok(ScrapeConfig {
            job_name,
            cluster,
            scrape_interval,
            scrape_timeout,
            protocols: self.protocols(defaults)?,
            fallback_protocol: self.fallback()?,
            escaping,
            names,
            metrics_path: metrics_path.unwrap_or_else(|| "/metrics".to_owned()),
            scheme: match self.scheme.as_deref() {
                None | Some("" | "http") => Scheme::Http,
                Some("https") => Scheme::Https,
                Some(other) => {
                    let message = format!("unknown scheme `{other}`, it is `http` or `https`");
                    return Err(ConfigError::new("scheme", message));
                }
            },
            params: self.params.clone().unwrap_or_default(),
            honor_labels: self.honor_labels.unwrap_or(false),
            honor_timestamps: self.honor_timestamps.unwrap_or(true),
            track_timestamps_staleness: self.track_timestamps_staleness.unwrap_or(false),
            enable_compression: self.enable_compression.unwrap_or(true),
            extra_metrics: self.extra_scrape_metrics.unwrap_or(defaults.extra_metrics),
            histograms: self.histograms(defaults),
            resolution: self.resolution()?,
            failure_log: match self.scrape_failure_log_file.as_deref().filter(|file| !file.is_empty()) {
                Some(file) => Some(join_dir(dir, file)),
                None => defaults.failure_log.clone(),
            },
            limits: self.limits().or(defaults.limits),
            http: http.validate(dir)?,
            relabel: relabel_rules("relabel_configs", &self.relabel_configs, names.scheme())?,
            metric_relabel: relabel_rules(
                "metric_relabel_configs",
                &self.metric_relabel_configs,
                names.scheme(),
            )?,
            written: (self.clone(), http.clone(), defaults.clone()),
        })
    }

    /// Interval and timeout.
    fn times(&self, defaults: &ScrapeDefaults) -> Result<(Duration, Duration), ConfigError> {
        let stated = |duration: Option<ConfigDuration>| duration.map(|d| d.0).filter(|d| !d.is_zero());
        let interval = stated(self.scrape_interval).unwrap_or(defaults.scrape_interval.0);
        let timeout = stated(self.scrape_timeout).unwrap_or(defaults.scrape_timeout.0.min(interval));
        if timeout > interval {
            let message = format!(
                "the scrape timeout ({}) is greater than the scrape interval ({})",
                ConfigDuration(timeout),
                ConfigDuration(interval)
            );
            return Err(ConfigError::new("scrape_timeout", message));
        }
        Ok((interval, timeout))
    }

    fn protocols(&self, defaults: &ScrapeDefaults) -> Result<Vec<Protocol>, ConfigError> {
        match (&self.scrape_protocols, &defaults.protocols) {
            (Some(written), _) => parse_protocols(written),
            (None, Some(global)) => Ok(global.clone()),
            (None, None) if self.histograms(defaults).native => Ok(Protocol::PROTO_FIRST.to_vec()),
            (None, None) => Ok(Protocol::DEFAULTS.to_vec()),
        }
    }

    fn fallback(&self) -> Result<Option<Protocol>, ConfigError> {
        match self.fallback_scrape_protocol.as_deref() {
            None | Some("") => Ok(None),
            Some(name) => match Protocol::parse(name) {
                Ok(protocol) => Ok(Some(protocol)),
                Err(e) => Err(ConfigError::new("fallback_scrape_protocol", e.to_string())),
            },
        }
    }

    fn names(&self, defaults: &ScrapeDefaults) -> Result<(NameValidation, EscapingScheme), ConfigError> {
        let stated = NameValidation::parse(self.metric_name_validation_scheme.as_deref())?;
        let names = stated.unwrap_or(defaults.names);
        let by_names = match names {
            NameValidation::Utf8 => EscapingScheme::AllowUtf8,
            NameValidation::Legacy => EscapingScheme::Underscores,
        };
        let escaping = match parse_escaping(self.metric_name_escaping_scheme.as_deref())? {
            Some(escaping) => escaping,
            None if stated.is_none() => defaults.escaping.unwrap_or(by_names),
            None => by_names,
        };
        if escaping == EscapingScheme::AllowUtf8 && names == NameValidation::Legacy {
            let message = "UTF-8 names are asked for, but the validation scheme is not `utf8`";
            return Err(ConfigError::new("metric_name_escaping_scheme", message));
        }
        Ok((names, escaping))
    }

    fn limits(&self) -> Limits {
        Limits {
            body_bytes: self.body_size_limit.unwrap_or_default().0,
            samples: self.sample_limit.unwrap_or(0),
            labels: self.label_limit.unwrap_or(0),
            label_name_bytes: self.label_name_length_limit.unwrap_or(0),
            label_value_bytes: self.label_value_length_limit.unwrap_or(0),
            targets: self.target_limit.unwrap_or(0),
            dropped_targets_kept: self.keep_dropped_targets.unwrap_or(0),
        }
    }
}

/// Reads a list of protocol names.
///
/// # Errors
/// An empty list, a name given twice, an unknown name; the path is `scrape_protocols`.
pub fn parse_protocols(written: &[String]) -> Result<Vec<Protocol>, ConfigError> {
    let at = "scrape_protocols";
    if written.is_empty() {
        return Err(ConfigError::new(at, "`scrape_protocols` cannot be empty"));
    }
    let mut protocols = Vec::new();
    for (i, name) in written.iter().enumerate() {
        let protocol =
            Protocol::parse(name).map_err(|e| ConfigError::new(format!("{at}[{i}]"), e.to_string()))?;
        if protocols.contains(&protocol) {
            return Err(ConfigError::new(format!("{at}[{i}]"), format!("protocol `{name}` is given twice")));
        }
        protocols.push(protocol);
    }
    Ok(protocols)
}

/// Reads `metric_name_escaping_scheme`.
///
/// # Errors
/// An unknown word; the path is `metric_name_escaping_scheme`.
pub fn parse_escaping(written: Option<&str>) -> Result<Option<EscapingScheme>, ConfigError> {
    match written {
        None | Some("") => Ok(None),
        Some("allow-utf-8") => Ok(Some(EscapingScheme::AllowUtf8)),
        Some("underscores") => Ok(Some(EscapingScheme::Underscores)),
        Some("dots") => Ok(Some(EscapingScheme::Dots)),
        Some("values") => Ok(Some(EscapingScheme::Values)),
        Some(other) => Err(ConfigError::new(
            "metric_name_escaping_scheme",
            format!(
                "unknown escaping scheme `{other}`, it is `allow-utf-8`, `underscores`, `dots` or `values`"
            ),
        )),
    }
}
