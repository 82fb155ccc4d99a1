//! `proxy`: other people's tools on their way to targets behind agents and PushProx clients.

use std::path::Path;
use std::time::Duration;

use model::TenantId;
use proxy::{Options, PushProxOptions};
use scrape::config::{ConfigDuration, ConfigError, Secret, Source, join_dir};
use serde::Deserialize;

/// Shortest secret of a PushProx door, characters: whoever guesses it may push any answer.
const SECRET_CHARACTERS_MIN: usize = 16;

/// `proxy`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyText {
    /// What host names of targets end in. Default: `marigraph.internal`.
    pub host_suffix: Option<String>,
    /// The label that holds the cluster's name in lists of targets. Default: `cluster`.
    pub cluster_label: Option<String>,
    /// Requests for targets that one credential may have under way. Default: 512.
    pub requests_per_caller: Option<usize>,
    /// PushProx clients. Without doors there are none.
    pub pushprox: PushProxText,
}

/// `proxy.pushprox`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushProxText {
    /// The path below which the doors are. Default: `/pushprox`.
    pub url_prefix: Option<String>,
    /// How long a client is known after its last poll, and the longest a poll is held. Default: 5m.
    pub registration_timeout: Option<ConfigDuration>,
    /// Most clients of all doors together. Default: 2048.
    pub clients_max: Option<usize>,
    /// Where clients come in.
    pub doors: Vec<PushProxDoorText>,
}

/// An entry of `proxy.pushprox.doors`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushProxDoorText {
    /// Whose clients. Default: `default`.
    pub tenant: Option<String>,
    /// Of which cluster.
    pub cluster: String,
    /// The last part of the door's path.
    pub secret: Option<Secret>,
    /// A file with it.
    pub secret_file: Option<String>,
}

/// `proxy` as meant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProxyConfig {
    /// What holds until the next start.
    pub options: Options,
    /// Where PushProx clients come in; no tenant has two for one cluster.
    pub doors: Vec<DoorConfig>,
}

/// A door for PushProx clients.
#[derive(Debug, Clone, PartialEq)]
pub struct DoorConfig {
    /// Whose clients.
    pub tenant: TenantId,
    /// Of which cluster.
    pub cluster: String,
    /// The last part of the path.
    pub secret: Source,
}

impl ProxyText {
    /// Checks what was written. File names are relative to `dir`.
    ///
    /// # Errors
    /// A suffix or path that can be none, zeros, doors without cluster or secret, or two for one cluster.
    pub fn validate(&self, dir: &Path) -> Result<ProxyConfig, ConfigError> {
        let defaults = Options::default();
        let host_suffix = self.host_suffix.clone().unwrap_or(defaults.host_suffix);
        if !host_suffix.split('.').all(|label| proxy::names::encode(label) == label) {
            let message =
                format!("`{host_suffix}` is not a host name in lower case such as marigraph.internal");
            return Err(ConfigError::new("host_suffix", message));
        }
        let cluster_label = self.cluster_label.clone().unwrap_or(defaults.cluster_label);
        if !model::labels::is_legacy_label_name(&cluster_label) || cluster_label.starts_with("__") {
            let message = format!("`{cluster_label}` is not a name for a label");
            return Err(ConfigError::new("cluster_label", message));
        }
        let requests_per_caller = self.requests_per_caller.unwrap_or(defaults.requests_per_caller);
        if requests_per_caller == 0 {
            return Err(ConfigError::new("requests_per_caller", "with 0 nobody gets through"));
        }
        let pushprox = self.pushprox.options(defaults.pushprox)?;
        let options =
            Options { host_suffix, cluster_label, requests_per_caller, pushprox, ..Options::default() };
        Ok(ProxyConfig { options, doors: self.pushprox.doors(dir)? })
    }
}

impl PushProxText {
    fn options(&self, defaults: PushProxOptions) -> Result<PushProxOptions, ConfigError> {
        let prefix = self.url_prefix.as_deref().unwrap_or(&defaults.prefix);
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let plain = prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~".contains(&b));
        if !prefix.starts_with('/') || prefix.len() < 2 || !plain {
            let message = format!("`{prefix}` is not a path such as /pushprox");
            return Err(ConfigError::new("pushprox.url_prefix", message));
        }
        let first = prefix.split('/').nth(1).unwrap_or_default();
        if ["api", "-", "metrics", "federate", "sd", "fleet", "cluster"].contains(&first) {
            let message = format!("`{prefix}` is taken by something else");
            return Err(ConfigError::new("pushprox.url_prefix", message));
        }
        let registration_timeout = self.registration_timeout.map_or(defaults.registration_timeout, |d| d.0);
        if registration_timeout < Duration::from_secs(10) {
            let message = "clients would poll all the time: at least 10s";
            return Err(ConfigError::new("pushprox.registration_timeout", message));
        }
        let clients_max = self.clients_max.unwrap_or(defaults.clients_max);
        Ok(PushProxOptions { prefix: prefix.to_owned(), registration_timeout, clients_max })
    }

    fn doors(&self, dir: &Path) -> Result<Vec<DoorConfig>, ConfigError> {
        let mut doors: Vec<DoorConfig> = Vec::new();
        for (i, written) in self.doors.iter().enumerate() {
            let door = written.validate(&format!("pushprox.doors[{i}]"), dir)?;
            if doors.iter().any(|other| other.tenant == door.tenant && other.cluster == door.cluster) {
                let message = format!("cluster `{}` has a door already", door.cluster);
                return Err(ConfigError::new(format!("pushprox.doors[{i}]"), message));
            }
            doors.push(door);
        }
        Ok(doors)
    }
}

impl PushProxDoorText {
    fn validate(&self, at: &str, dir: &Path) -> Result<DoorConfig, ConfigError> {
        let wrong = |message: String| Err(ConfigError::new(at, message));
        let tenant = match self.tenant.as_deref().map(TenantId::new) {
            None => TenantId::default(),
            Some(Ok(tenant)) => tenant,
            Some(Err(error)) => return wrong(error.to_string()),
        };
        if self.cluster.is_empty() || self.cluster.len() > 128 {
            return wrong("`cluster` wants 1 to 128 characters".to_owned());
        }
        let secret = match (&self.secret, &self.secret_file) {
            (Some(secret), None) => Source::Inline(secret.clone()),
            (None, Some(file)) => Source::File(join_dir(dir, file)),
            _ => return wrong("give one of `secret` and `secret_file`".to_owned()),
        };
        if let Source::Inline(secret) = &secret
            && let Err(message) = check_secret(secret)
        {
            return wrong(message);
        }
        Ok(DoorConfig { tenant, cluster: self.cluster.clone(), secret })
    }
}

impl DoorConfig {
    /// The door, its secret read.
    ///
    /// # Errors
    /// The file cannot be read, or what stands in it can be no part of a path.
    pub fn open(&self) -> Result<proxy::Door, String> {
        let named = |error: String| format!("proxy: pushprox: door of cluster {}: {error}", self.cluster);
        let secret = self.secret.read().map_err(named)?;
        check_secret(&secret).map_err(named)?;
        let secret = secret.reveal().to_owned();
        Ok(proxy::Door { tenant: self.tenant.clone(), cluster: self.cluster.clone(), secret })
    }
}

/// A secret stands in a URL, and nothing but it keeps strangers out.
fn check_secret(secret: &Secret) -> Result<(), String> {
    let text = secret.reveal();
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    if plain && text.len() >= SECRET_CHARACTERS_MIN {
        return Ok(());
    }
    Err(format!("a secret has at least {SECRET_CHARACTERS_MIN} characters of a-z A-Z 0-9 - . _ ~"))
}
