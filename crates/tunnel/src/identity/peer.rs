//! Who a certificate says its holder is.
//!
//! It is one URI among the certificate's alternative names:
//! `marigraph://agent/<tenant>/<cluster>/<agent id>?<label>=<value>&…` or `marigraph://hub/<hub id>`.

use std::collections::BTreeMap;
use std::fmt;

use rustls_pki_types::CertificateDer;
use url::Url;
use url::form_urlencoded;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use tenancy::TenantId;

use super::IdentityError;

/// The scheme of our URIs.
pub(super) const SCHEME: &str = "marigraph";
/// How long after its expiry a certificate may still be used to get a new one.
const RENEWAL_GRACE_MS: i64 = 90 * 24 * 3600 * 1000;
/// Most labels that enrolment may stamp.
const LABELS_MAX: usize = 16;
/// Longest name or value of such a label, bytes.
const LABEL_BYTES_MAX: usize = 256;
/// Longest cluster name, bytes.
const CLUSTER_BYTES_MAX: usize = 63;
/// Longest certificate that is looked at, bytes.
pub(super) const CERTIFICATE_BYTES_MAX: usize = 16 << 10;

/// What the holder of a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// An agent of a cluster.
    Agent,
    /// A hub of the same fleet.
    Hub,
}

/// What a certificate is good for at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Everything its holder may do.
    Current,
    /// Only getting a new one: it is the fleet's and has expired, at most 90 days ago.
    RenewalOnly,
    /// Nothing.
    Useless,
}

/// Who is at the other end, by a certificate that was verified. The front puts it into the extensions of
/// every request of the connection; every door asks [`PeerIdentity::standing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Agent or hub.
    pub kind: PeerKind,
    /// Whose data; the default tenant for a hub.
    pub tenant: TenantId,
    /// The cluster's name; empty for a hub.
    pub cluster: String,
    /// The agent's id, or the hub's: 16 hexadecimal digits where we made it.
    pub agent_id: String,
    /// Further labels that the agent puts on everything, sorted by name, without `cluster`.
    pub labels: BTreeMap<String, String>,
    /// The name that stands for the agent in a certificate of an authority of the user's; `None` for one of the
    /// fleet's.
    pub brought: Option<String>,
    /// The certificate's serial number, hexadecimal, lower case.
    pub serial: String,
    /// First moment it is valid, milliseconds since the epoch.
    pub not_before_ms: i64,
    /// Last moment it is valid, milliseconds since the epoch.
    pub not_after_ms: i64,
}

/// A name that cannot go into a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameError(pub(super) String);

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NameError {}

impl PeerIdentity {
    /// Reads a certificate, DER. Whether to believe it is the verifier's business.
    ///
    /// # Errors
    /// It is no certificate, or carries not exactly one URI of ours, or one that breaks the rules.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<PeerIdentity, IdentityError> {
        let shown = Shown::read(certificate)?;
        let mut identity = PeerIdentity::of_uri(shown.our_uri()?.ok_or_else(|| {
            IdentityError::Certificate("it names no agent or hub (no marigraph:// URI)".to_owned())
        })?)?;
        identity.take_dates(&shown);
        Ok(identity)
    }

    /// Serial number and dates of a certificate.
    pub(super) fn take_dates(&mut self, shown: &Shown) {
        self.serial.clone_from(&shown.serial);
        (self.not_before_ms, self.not_after_ms) = (shown.not_before_ms, shown.not_after_ms);
    }

    /// The URI of this identity.
    pub fn uri(&self) -> String {
        match self.kind {
            PeerKind::Hub => format!("{SCHEME}://hub/{}", self.agent_id),
            PeerKind::Agent => {
                let mut uri = format!("{SCHEME}://agent/{}/{}/{}", self.tenant, self.cluster, self.agent_id);
                if !self.labels.is_empty() {
                    let labels =
                        form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.labels).finish();
                    uri.push('?');
                    uri.push_str(&labels);
                }
                uri
            }
        }
    }

    /// What the certificate is good for at `now_ms`. That it is not revoked was seen when it connected.
    pub fn standing(&self, now_ms: i64) -> Standing {
        if now_ms < self.not_before_ms {
            Standing::Useless
        } else if now_ms <= self.not_after_ms {
            Standing::Current
        } else if self.brought.is_none() && now_ms - self.not_after_ms <= RENEWAL_GRACE_MS {
            Standing::RenewalOnly
        } else {
            Standing::Useless
        }
    }

    /// Reads a URI of ours.
    pub(super) fn of_uri(uri: &str) -> Result<PeerIdentity, IdentityError> {
        let bad = |what: String| IdentityError::Certificate(format!("{uri:?}: {what}"));
        let url = Url::parse(uri).map_err(|error| bad(error.to_string()))?;
        let path: Vec<&str> = url.path_segments().map(Iterator::collect).unwrap_or_default();
        let mut identity = PeerIdentity {
            kind: PeerKind::Hub,
            tenant: TenantId::default(),
            cluster: String::new(),
            agent_id: String::new(),
            labels: BTreeMap::new(),
            brought: None,
            serial: String::new(),
            not_before_ms: 0,
            not_after_ms: 0,
        };
        let id = match (url.host_str(), path.as_slice()) {
            (Some("hub"), [id]) => *id,
            (Some("agent"), [tenant, cluster, id]) => {
                identity.kind = PeerKind::Agent;
                identity.tenant = TenantId::new(tenant).map_err(|error| bad(error.to_string()))?;
                check_cluster(cluster)?;
                (*cluster).clone_into(&mut identity.cluster);
                for (name, value) in url.query_pairs() {
                    if identity.labels.insert(name.to_string(), value.into_owned()).is_some() {
                        return Err(bad(format!("the label {name:?} twice")));
                    }
                }
                check_labels(&identity.labels)?;
                *id
            }
            _ => {
                return Err(bad("neither marigraph://agent/TENANT/CLUSTER/ID nor marigraph://hub/ID".into()));
            }
        };
        if id.is_empty() || id.len() > 64 || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(bad("the id is not 1 to 64 letters, digits and hyphens".into()));
        }
        id.clone_into(&mut identity.agent_id);
        Ok(identity)
    }
}

/// What stands in a certificate, as far as anybody here looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// Hexadecimal, lower case.
    pub(super) serial: String,
    pub(super) not_before_ms: i64,
    pub(super) not_after_ms: i64,
    pub(super) uris: Vec<String>,
    /// Lower case.
    pub(super) dns: Vec<String>,
    pub(super) common_names: Vec<String>,
    /// Whether its holder may be a client: no extended key usages, or that one, or any.
    pub(super) for_clients: bool,
}

impl Shown {
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Result<Shown, IdentityError> {
        let bad = |what: &str| IdentityError::Certificate(what.to_owned());
        if certificate.len() > CERTIFICATE_BYTES_MAX {
            return Err(bad("larger than 16 KiB"));
        }
        let (rest, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| bad(&error.to_string()))?;
        if !rest.is_empty() {
            return Err(bad("bytes after its end"));
        }
        let names = parsed.subject_alternative_name().map_err(|error| bad(&error.to_string()))?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let usage = parsed.extended_key_usage().map_err(|error| bad(&error.to_string()))?;
        let mut shown = Shown {
            serial: hex(parsed.raw_serial()),
            not_before_ms: parsed.validity().not_before.timestamp().saturating_mul(1000),
            not_after_ms: parsed.validity().not_after.timestamp().saturating_mul(1000),
            uris: Vec::new(),
            dns: Vec::new(),
            common_names: Vec::new(),
            for_clients: usage.is_none_or(|usage| usage.value.client_auth || usage.value.any),
        };
        for name in names {
            match name {
                GeneralName::URI(uri) => shown.uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => shown.dns.push(name.to_ascii_lowercase()),
                _ => {}
            }
        }
        let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        shown.common_names.extend(common.map(str::to_owned));
        Ok(shown)
    }

    /// The one URI of ours, if there is one.
    pub(super) fn our_uri(&self) -> Result<Option<&str>, IdentityError> {
        let mut ours = self.uris.iter().filter(|uri| uri.starts_with("marigraph://"));
        let uri = ours.next();
        if ours.next().is_some() {
            return Err(IdentityError::Certificate("it names several agents or hubs".to_owned()));
        }
        Ok(uri.map(String::as_str))
    }
}

/// The names it carries, for people: `common name "agent.eu", URI "spiffe://…"`.
impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [("common name", &self.common_names), ("URI", &self.uris), ("DNS name", &self.dns)];
        let all = kinds.into_iter().flat_map(|(kind, names)| names.iter().map(move |name| (kind, name)));
        let all: Vec<String> = all.take(8).map(|(kind, name)| format!("{kind} {name:?}")).collect();
        f.write_str(if all.is_empty() { "no name at all" } else { "" })?;
        f.write_str(&all.join(", "))
    }
}

/// For the log: `agent 0123… of cluster "eu" (tenant default)`.
impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            PeerKind::Hub => write!(f, "hub {}", self.agent_id),
            PeerKind::Agent => {
                write!(f, "agent {} of cluster {:?} (tenant {})", self.agent_id, self.cluster, self.tenant)
            }
        }
    }
}

/// Whether `name` can be a cluster's: 1 to 63 of letters, digits, `.`, `-` and `_`, first a letter or
/// digit. It goes into certificates, host names and URLs.
///
/// # Errors
/// It cannot.
pub fn check_cluster(name: &str) -> Result<(), NameError> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if first && name.len() <= CLUSTER_BYTES_MAX && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(NameError(format!(
        "cluster {name:?}: a cluster's name is 1 to 63 letters, digits, '.', '-' and '_', and starts with a \
         letter or digit"
    )))
}

/// Whether these can be the further labels of an enrolment: at most 16, names as Prometheus has them and
/// not `cluster` or `__…`, names and values of at most 256 bytes, values not empty.
///
/// # Errors
/// They cannot; which and why.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), NameError> {
    if labels.len() > LABELS_MAX {
        return Err(NameError(format!("{} labels; at most {LABELS_MAX} can be enrolled", labels.len())));
    }
    for (name, value) in labels {
        let bad = |why: &str| Err(NameError(format!("label {name:?}: {why}")));
        let start = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !start || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return bad("a label's name is letters, digits and '_', and starts with no digit");
        }
        if name == "cluster" || name.starts_with("__") {
            return bad("this name is not free: the cluster has its own place, and __ is internal");
        }
        if value.is_empty() || name.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
            return bad("name and value have 1 to 256 bytes");
        }
    }
    Ok(())
}

/// Hexadecimal, lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
