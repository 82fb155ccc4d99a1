//! Where a job's targets come from: `static_configs` and the `*_sd_configs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{Labels, TargetGroup};
use scrape::config::{
    ConfigDuration, ConfigError, HTTP_CLIENT_FIELDS, HttpClientConfig, HttpClientText, NameValidation,
    join_dir,
};
use serde::Deserialize;

use super::yaml::{self, Key, Node};

/// The keys of the mechanisms we have.
pub(super) const AVAILABLE: [&str; 4] =
    ["static_configs", "file_sd_configs", "http_sd_configs", "dns_sd_configs"];

/// Mechanisms Prometheus has beside ours.
const KNOWN_ELSEWHERE: [&str; 34] = [
    "aws",
    "azure",
    "consul",
    "digitalocean",
    "docker",
    "dockerswarm",
    "ec2",
    "ecs",
    "elasticache",
    "eureka",
    "gce",
    "hetzner",
    "ionos",
    "kubernetes",
    "kuma",
    "lightsail",
    "linode",
    "marathon",
    "msk",
    "nerve",
    "nomad",
    "openstack",
    "outscale",
    "ovhcloud",
    "puppetdb",
    "rds",
    "scaleway",
    "serverset",
    "stackit",
    "triton",
    "uyuni",
    "vultr",
    "xds",
    "zookeeper",
];

/// One way to find targets.
#[derive(Debug, Clone, PartialEq)]
pub enum Discovery {
    /// Targets written in the configuration.
    Static(Vec<TargetGroup>),
    /// What the agent of the job's cluster has discovered.
    Agent {
        /// The cluster.
        cluster: String,
    },
    /// Target groups in files that are watched.
    File {
        /// Paths; the last component may hold wildcards.
        files: Vec<PathBuf>,
        /// How often files are read again even if they seem unchanged.
        refresh_interval: Duration,
    },
    /// Target groups as JSON from a URL.
    Http {
        /// The URL.
        url: String,
        /// How often it is asked.
        refresh_interval: Duration,
        /// How the request is made.
        client: Box<HttpClientConfig>,
    },
    /// Targets from DNS records.
    Dns {
        /// Names asked for.
        names: Vec<String>,
        /// The type of the records.
        record: DnsRecord,
        /// The port, where the record does not have one.
        port: u16,
        /// How often they are asked for.
        refresh_interval: Duration,
    },
}

/// A type of DNS record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as DNS names them")]
pub enum DnsRecord {
    Srv,
    A,
    Aaaa,
    Mx,
    Ns,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StaticText {
    targets: Vec<String>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileText {
    files: Vec<String>,
    refresh_interval: Option<ConfigDuration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HttpText {
    url: Option<String>,
    refresh_interval: Option<ConfigDuration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DnsText {
    names: Vec<String>,
    #[serde(rename = "type")]
    record: Option<String>,
    port: Option<u16>,
    refresh_interval: Option<ConfigDuration>,
}

/// Whether `key` belongs to discovery (available or not).
pub(super) fn is_discovery_key(key: &str) -> bool {
    key == "static_configs" || key.strip_suffix("_sd_configs").is_some_and(is_mechanism)
}

fn is_mechanism(name: &str) -> bool {
    matches!(name, "file" | "http" | "dns") || KNOWN_ELSEWHERE.contains(&name)
}

/// Reads the discovery part of one job. `relabelled` says whether the job has relabelling rules,
/// which may still turn an odd static target into an address.
///
/// # Errors
/// The first thing wrong, at its place.
pub(super) fn read(
    sections: &Node,
    names: NameValidation,
    relabelled: bool,
    dir: &Path,
) -> Result<Vec<Discovery>, yaml::Error> {
    let mut found = Vec::new();
    for (Key { text, at }, list) in sections.entries()? {
        if let Some(name) = text.strip_suffix("_sd_configs")
            && !AVAILABLE.contains(&text.as_str())
        {
            let message =
                format!("discovery mechanism `{name}` is not available; available: static, file, http, dns");
            return Err(yaml::Error::at(*at, message));
        }
        if text == "static_configs" {
            found.push(Discovery::Static(read_static(list, names, relabelled)?));
            continue;
        }
        for entry in list.items()? {
            let read = match text.as_str() {
                "file_sd_configs" => file(&entry.read()?, dir),
                "http_sd_configs" => http(entry, dir)?,
                _ => dns(&entry.read()?),
            };
            found.push(read.map_err(|e| place(entry, &e))?);
        }
    }
    Ok(found)
}

fn place(node: &Node, error: &ConfigError) -> yaml::Error {
    yaml::Error::at(node.locate(&error.path), error.message.clone())
}

fn read_static(
    list: &Node,
    names: NameValidation,
    relabelled: bool,
) -> Result<Vec<TargetGroup>, yaml::Error> {
    let mut groups = Vec::new();
    for (i, entry) in list.items()?.iter().enumerate() {
        let written: StaticText = entry.read()?;
        for (at, target) in written.targets.iter().enumerate() {
            if !relabelled && target.contains('/') {
                let error =
                    ConfigError::new(format!("targets[{at}]"), format!("`{target}` is not a valid hostname"));
                let mut error = place(entry, &error);
                error.hint =
                    Some("write host:port; path and scheme go to `metrics_path` and `scheme`".to_owned());
                return Err(error);
            }
        }
        if let Some(name) = written.labels.keys().find(|name| !names.is_valid_label_name(name)) {
            let message = format!("`{name}` is not a valid label name");
            return Err(place(entry, &ConfigError::new(format!("labels.{name}"), message)));
        }
        groups.push(TargetGroup {
            source: i.to_string(),
            labels: Labels::from_pairs(&written.labels),
            targets: written
                .targets
                .iter()
                .map(|t| Labels::from_pairs([("__address__", t.as_str())]))
                .collect(),
        });
    }
    Ok(groups)
}

fn file(written: &FileText, dir: &Path) -> Result<Discovery, ConfigError> {
    if written.files.is_empty() {
        return Err(ConfigError::new("files", "file discovery needs at least one path in `files`"));
    }
    for (i, path) in written.files.iter().enumerate() {
        let extension = path.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
        let known = matches!(extension.as_deref(), Some("json" | "yml" | "yaml"));
        let star = path.find('*');
        if !known || star.is_some_and(|star| path[star + 1..].contains(['/', '*'])) {
            let message = format!(
                "`{path}` is not valid for file discovery: it ends with .json, .yml or .yaml and may have one `*`, in \
                 its last part"
            );
            return Err(ConfigError::new(format!("files[{i}]"), message));
        }
    }
    Ok(Discovery::File {
        files: written.files.iter().map(|file| join_dir(dir, file)).collect(),
        refresh_interval: written.refresh_interval.map_or(Ok(Duration::from_secs(300)), positive)?,
    })
}

fn http(entry: &Node, dir: &Path) -> Result<Result<Discovery, ConfigError>, yaml::Error> {
    let (client, own) = entry.split(|key| HTTP_CLIENT_FIELDS.contains(&key))?;
    let own: HttpText = own.read().map_err(|e| hint_from(e, HTTP_CLIENT_FIELDS))?;
    let client: HttpClientText = client.read()?;
    Ok(client.validate(dir).and_then(|client| {
        let url = own.url.filter(|url| !url.is_empty());
        let url = url.ok_or_else(|| ConfigError::new("url", "HTTP discovery needs a `url`"))?;
        let scheme_ok = url.starts_with("http://") || url.starts_with("https://");
        let host = url.split("://").nth(1).unwrap_or_default();
        if !scheme_ok || host.is_empty() || host.starts_with('/') {
            return Err(ConfigError::new(
                "url",
                "the URL of HTTP discovery is http or https and names a host",
            ));
        }
        let refresh_interval = own.refresh_interval.map_or(Ok(Duration::from_secs(60)), positive)?;
        Ok(Discovery::Http { url, refresh_interval, client: Box::new(client) })
    }))
}

fn positive(refresh_interval: ConfigDuration) -> Result<Duration, ConfigError> {
    match refresh_interval.0.is_zero() {
        true => Err(ConfigError::new("refresh_interval", "the refresh interval has to be above zero")),
        false => Ok(refresh_interval.0),
    }
}

/// Offers the names of `more` too when an unknown field has no near neighbour yet.
pub(super) fn hint_from(mut error: yaml::Error, more: &[&'static str]) -> yaml::Error {
    let unknown = error.message.strip_prefix("unknown field `").and_then(|rest| rest.strip_suffix('`'));
    if error.hint.is_none()
        && let Some(near) = unknown.and_then(|field| yaml::nearest(field, more.iter().copied()))
    {
        error.hint = Some(format!("did you mean `{near}`?"));
    }
    error
}

fn dns(written: &DnsText) -> Result<Discovery, ConfigError> {
    if written.names.is_empty() {
        return Err(ConfigError::new("names", "DNS discovery needs at least one name in `names`"));
    }
    let record = match written.record.as_deref().unwrap_or("SRV").to_ascii_uppercase().as_str() {
        "SRV" => DnsRecord::Srv,
        "A" => DnsRecord::A,
        "AAAA" => DnsRecord::Aaaa,
        "MX" => DnsRecord::Mx,
        "NS" => DnsRecord::Ns,
        other => {
            let message = format!("unknown record type `{other}` (SRV, A, AAAA, MX, NS)");
            return Err(ConfigError::new("type", message));
        }
    };
    if record != DnsRecord::Srv && written.port.unwrap_or(0) == 0 {
        return Err(ConfigError::new("port", "a `port` is needed for all record types except SRV"));
    }
    Ok(Discovery::Dns {
        names: written.names.clone(),
        record,
        port: written.port.unwrap_or(0),
        refresh_interval: written.refresh_interval.map_or(Ok(Duration::from_secs(30)), positive)?,
    })
}
