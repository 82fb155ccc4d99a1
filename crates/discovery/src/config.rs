//! Where a pool's targets come from.
//!
//! The shapes of `prometheus.yml` are read by the program, which hands these over: what was written
//! has become what is meant (paths are absolute, defaults are filled in).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::TargetGroup;

use crate::dns::Resolve;
use crate::http::HttpFetch;
use crate::provider::{Discoverer, Fixed};
use crate::{dns, file, http};

/// Discovery of one scrape pool.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// The pool's name (`job_name`).
    pub name: String,
    /// Its sources; together they make up its targets.
    pub sources: Vec<Source>,
}

/// One way to find targets.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Targets written in the configuration.
    Static(Vec<TargetGroup>),
    /// Target groups in files that are watched.
    File(FileConfig),
    /// Target groups as JSON from a URL.
    Http(HttpConfig),
    /// Targets from DNS records.
    Dns(DnsConfig),
}

/// `file_sd_configs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// Paths that end in `.json`, `.yml` or `.yaml`; the last part may hold `*` and `?`.
    pub files: Vec<PathBuf>,
    /// How often files are read again even if they seem unchanged; Prometheus' default is 5 min.
    pub refresh_interval: Duration,
}

/// `http_sd_configs`.
#[derive(Clone)]
pub struct HttpConfig {
    /// The URL, `http` or `https`.
    pub url: String,
    /// How often it is asked, and how long an answer may take; Prometheus' default is 1 min.
    pub refresh_interval: Duration,
    /// Makes the requests, with the credentials and TLS settings of the configuration.
    pub fetch: Arc<dyn HttpFetch>,
}

/// Two are equal when they ask the same URL as often through the very same client.
impl PartialEq for HttpConfig {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url
            && self.refresh_interval == other.refresh_interval
            && Arc::ptr_eq(&self.fetch, &other.fetch)
    }
}

impl fmt::Debug for HttpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HttpConfig { url, refresh_interval, .. } = self;
        f.debug_struct("HttpConfig")
            .field("url", url)
            .field("refresh_interval", refresh_interval)
            .finish_non_exhaustive()
    }
}

/// `dns_sd_configs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// Names asked for; at least one.
    pub names: Vec<String>,
    /// The type of the records; Prometheus' default is SRV.
    pub record: DnsRecordType,
    /// The port of the targets; not used with SRV, whose records have their own.
    pub port: u16,
    /// How often the names are asked for; Prometheus' default is 30 s.
    pub refresh_interval: Duration,
}

/// A type of DNS record that leads to targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DnsRecordType {
    /// Hosts and ports of a service.
    Srv,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Mail exchangers.
    Mx,
    /// Name servers.
    Ns,
}

impl DnsRecordType {
    /// As DNS writes it: `SRV`, `AAAA`, ...
    pub fn as_str(self) -> &'static str {
        match self {
            DnsRecordType::Srv => "SRV",
            DnsRecordType::A => "A",
            DnsRecordType::Aaaa => "AAAA",
            DnsRecordType::Mx => "MX",
            DnsRecordType::Ns => "NS",
        }
    }
}

impl Source {
    /// What the source is called in metrics: `static`, `file`, `http`, `dns`.
    pub fn mechanism(&self) -> &'static str {
        match self {
            Source::Static(_) => "static",
            Source::File(_) => "file",
            Source::Http(_) => "http",
            Source::Dns(_) => "dns",
        }
    }

    /// Checks what would otherwise only show as an error at run time.
    ///
    /// # Errors
    /// What is wrong, in one sentence.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Source::Static(_) => Ok(()),
            Source::File(config) => {
                if config.files.is_empty() {
                    return Err(
                        "file service discovery config must contain at least one path name".to_owned()
                    );
                }
                config.files.iter().try_for_each(|path| file::check_pattern(path))?;
                positive(config.refresh_interval)
            }
            Source::Http(config) => {
                let rest = config.url.strip_prefix("http://").or_else(|| config.url.strip_prefix("https://"));
                match rest.map(|rest| rest.split('/').next().unwrap_or_default()) {
                    None => Err("URL scheme must be 'http' or 'https'".to_owned()),
                    Some("") => Err("host is missing in URL".to_owned()),
                    Some(_) => positive(config.refresh_interval),
                }
            }
            Source::Dns(config) => {
                if config.names.is_empty() {
                    return Err("DNS-SD config must contain at least one SRV record name".to_owned());
                }
                if config.port == 0 && config.record != DnsRecordType::Srv {
                    return Err(format!(
                        "a port is required in DNS-SD configs for {} records",
                        config.record.as_str()
                    ));
                }
                positive(config.refresh_interval)
            }
        }
    }

    pub(crate) fn discoverer(&self, resolver: &Arc<dyn Resolve>) -> Box<dyn Discoverer> {
        match self {
            Source::Static(groups) => Box::new(Fixed(groups.clone())),
            Source::File(config) => Box::new(file::FileDiscoverer::new(config.clone())),
            Source::Http(config) => Box::new(http::HttpDiscoverer::new(config.clone())),
            Source::Dns(config) => Box::new(dns::DnsDiscoverer::new(config.clone(), Arc::clone(resolver))),
        }
    }
}

fn positive(refresh_interval: Duration) -> Result<(), String> {
    match refresh_interval.is_zero() {
        true => Err("refresh interval must be greater than zero".to_owned()),
        false => Ok(()),
    }
}

/// The path as text, for labels and messages.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fake::FakeFetch;

    #[test]
    fn bad_sources_say_why() {
        let minute = Duration::from_secs(60);
        let file = |files: &[&str], refresh_interval| {
            let files = files.iter().map(PathBuf::from).collect();
            Source::File(FileConfig { files, refresh_interval })
        };
        let http = |url: &str| {
            let fetch = Arc::new(FakeFetch::default());
            Source::Http(HttpConfig { url: url.to_owned(), refresh_interval: minute, fetch })
        };
        let dns = |names: &[&str], record, port| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            Source::Dns(DnsConfig { names, record, port, refresh_interval: minute })
        };
        for (source, want) in [
            (file(&[], minute), "file service discovery config must contain at least one path name"),
            (file(&["a.txt"], minute), r#"path name "a.txt" is not valid for file discovery"#),
            (
                file(&["a.json", "*/a.json"], minute),
                r#"path name "*/a.json" is not valid for file discovery"#,
            ),
            (file(&["a.json"], Duration::ZERO), "refresh interval must be greater than zero"),
            (http("ftp://a"), "URL scheme must be 'http' or 'https'"),
            (http("http://"), "host is missing in URL"),
            (http("https:///path"), "host is missing in URL"),
            (dns(&[], DnsRecordType::Srv, 0), "DNS-SD config must contain at least one SRV record name"),
            (dns(&["a"], DnsRecordType::A, 0), "a port is required in DNS-SD configs for A records"),
        ] {
            assert_eq!(source.validate(), Err(want.to_owned()), "{source:?}");
        }
        for source in [
            Source::Static(Vec::new()),
            file(&["/a/b-*.yml", "c.JSON", "d?.yaml"], minute),
            http("http://localhost:8080/sd"),
            dns(&["a"], DnsRecordType::Srv, 0),
            dns(&["a"], DnsRecordType::Aaaa, 53),
        ] {
            assert_eq!(source.validate(), Ok(()), "{source:?}");
        }
    }
}
