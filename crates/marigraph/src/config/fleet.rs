//! `fleet`: authorities of the user's whose certificates agents may bring to a hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::tunnel::identity::{NamePlace, NameRule};
use model::TenantId;
use scrape::config::{ConfigError, join_dir};
use serde::Deserialize;

/// Most authorities, and most names of one.
const ENTRIES_MAX: usize = 1000;

/// `fleet`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FleetText {
    /// Authorities beside the fleet's own whose client certificates make agents.
    pub client_authorities: Vec<ClientAuthorityText>,
}

/// An entry of `fleet.client_authorities`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientAuthorityText {
    /// The authority's certificates, PEM; read again when the file changes.
    pub ca_file: String,
    /// What it has revoked, PEM; read again when the file changes.
    pub crl_file: Option<String>,
    /// The tenants its agents may be of; the first where a certificate names none. Default: `default`.
    pub tenants: Vec<String>,
    /// Which clusters names in its certificates stand for; the first that fits counts. Default: the common name is the
    /// cluster.
    pub names: Option<Vec<NameText>>,
}

/// An entry of `names`: exactly one of `uri`, `dns` and `common_name`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NameText {
    /// A URI among the alternative names.
    pub uri: Option<String>,
    /// A DNS name among them.
    pub dns: Option<String>,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// The cluster, where the name has no `{cluster}`.
    pub cluster: Option<String>,
    /// The tenant, one of the authority's. Default: its first.
    pub tenant: Option<String>,
    /// Further labels of all series.
    pub labels: BTreeMap<String, String>,
}

/// `fleet` as meant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FleetConfig {
    /// The user's authorities.
    pub client_authorities: Vec<ClientAuthorityConfig>,
}

/// An authority of the user's.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientAuthorityConfig {
    /// Its certificates.
    pub ca_file: PathBuf,
    /// What it has revoked.
    pub crl_file: Option<PathBuf>,
    /// The tenants its agents may be of; not empty.
    pub tenants: Vec<TenantId>,
    /// Which clusters names stand for.
    pub names: Vec<NameRule>,
}

impl FleetText {
    /// Checks what was written. File names are relative to `dir`.
    ///
    /// # Errors
    /// A file is missing, a name is none or says no cluster, or is for a tenant the authority is not for.
    pub fn validate(&self, dir: &Path) -> Result<FleetConfig, ConfigError> {
        if self.client_authorities.len() > ENTRIES_MAX {
            let what = format!("{} entries; at most {ENTRIES_MAX}", self.client_authorities.len());
            return Err(ConfigError::new("client_authorities", what));
        }
        let authority = |(i, written): (usize, &ClientAuthorityText)| {
            written.validate(dir, &format!("client_authorities[{i}]"))
        };
        let all = self.client_authorities.iter().enumerate().map(authority);
        Ok(FleetConfig { client_authorities: all.collect::<Result<_, _>>()? })
    }
}

impl ClientAuthorityText {
    fn validate(&self, dir: &Path, at: &str) -> Result<ClientAuthorityConfig, ConfigError> {
        let bad = |field: &str, what: String| ConfigError::new(format!("{at}.{field}"), what);
        if self.ca_file.is_empty() {
            return Err(ConfigError::new(at.to_owned(), "`ca_file` is missing"));
        }
        let mut tenants = vec![TenantId::default()];
        if !self.tenants.is_empty() {
            let read = |name: &String| TenantId::new(name).map_err(|error| bad("tenants", error.to_string()));
            tenants = self.tenants.iter().map(read).collect::<Result<_, _>>()?;
        }
        let by_common_name = NameText { common_name: Some("{cluster}".to_owned()), ..NameText::default() };
        let names = self.names.clone().unwrap_or_else(|| vec![by_common_name]);
        if names.len() > ENTRIES_MAX {
            return Err(bad("names", format!("{} entries; at most {ENTRIES_MAX}", names.len())));
        }
        let rule = |(i, name): (usize, &NameText)| {
            name.validate(&tenants).map_err(|what| bad(&format!("names[{i}]"), what))
        };
        let names = names.iter().enumerate().map(rule).collect::<Result<_, _>>()?;
        let crl_file = self.crl_file.as_ref().map(|file| join_dir(dir, file));
        Ok(ClientAuthorityConfig { ca_file: join_dir(dir, &self.ca_file), crl_file, tenants, names })
    }
}

impl NameText {
    fn validate(&self, tenants: &[TenantId]) -> Result<NameRule, String> {
        let places = [
            (NamePlace::Uri, &self.uri),
            (NamePlace::Dns, &self.dns),
            (NamePlace::CommonName, &self.common_name),
        ];
        let mut given = places.iter().filter_map(|(place, name)| Some((*place, name.as_ref()?)));
        let (Some((place, pattern)), None) = (given.next(), given.next()) else {
            return Err("exactly one of `uri`, `dns` and `common_name` has to be there".to_owned());
        };
        let tenant = self.tenant.as_ref().map(|name| TenantId::new(name).map_err(|error| error.to_string()));
        let tenant = tenant.transpose()?;
        if let Some(tenant) = tenant.as_ref().filter(|tenant| !tenants.contains(tenant)) {
            return Err(format!("tenant {:?} is not among the authority's `tenants`", tenant.as_str()));
        }
        NameRule::new(place, pattern, self.cluster.clone(), tenant, self.labels.clone())
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let check = |entry: &str, want: &str| {
            let text = format!("fleet:\n  client_authorities:\n  - {entry}\n");
            let read = Config::parse(&text, "hub.yml");
            match read {
                Ok(config) => assert_eq!(want, "", "{entry}: {:?}", config.fleet),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!want.is_empty() && error.contains(want), "{entry}: {error}");
                }
            }
        };
        check("{ca_file: a.crt}", "");
        check("{ca_file: a.crt, names: [{uri: 'spiffe://x/{cluster}/{agent}'}]}", "");
        check(
            "{ca_file: a.crt, tenants: [a, b], names: [{dns: a.x, cluster: eu, tenant: b, labels: {r: n}}]}",
            "",
        );
        check("{}", "`ca_file` is missing");
        check("{ca_file: a.crt, names: [{cluster: eu}]}", "exactly one of `uri`");
        check("{ca_file: a.crt, names: [{dns: a, uri: b, cluster: eu}]}", "exactly one of `uri`");
        check("{ca_file: a.crt, names: [{dns: a.x}]}", "which cluster is it?");
        check("{ca_file: a.crt, names: [{dns: '{cluster}', cluster: eu}]}", "stands in the name, too");
        check("{ca_file: a.crt, names: [{dns: '{cluster}.{agent}'}]}", "may belong to the first");
        check("{ca_file: a.crt, names: [{dns: '{cluster}{agent}'}]}", "has to stand between");
        check("{ca_file: a.crt, names: [{dns: '{tenant}.{cluster}'}]}", "{tenant} means nothing");
        check("{ca_file: a.crt, names: [{dns: a, cluster: eu, tenant: b}]}", "not among the authority's");
        check("{ca_file: a.crt, tenants: ['a/b']}", "a/b");
        check("{ca_file: a.crt, names: [{dns: a, cluster: eu, labels: {cluster: x}}]}", "not free");
        check("{ca_files: a.crt}", "unknown field `ca_files`");
    }
}
