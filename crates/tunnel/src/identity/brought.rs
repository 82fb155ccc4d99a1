//! Certificates of agents that the user brings: which authorities of the user's a hub believes, and which
//! cluster a name in such a certificate stands for.
//!
//! What a certificate says is confined by the authority it leads to: an authority stands for some tenants and no
//! others, it certifies agents and never hubs, and the ids of its agents begin with `own-` and are made of
//! tenant, cluster and name, so that they are nobody else's. Nothing is renewed by us and nothing is let in after its
//! end: that is the business of whoever issued it. The format is in `docs/formats/certificates.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use tenancy::TenantId;

use super::IdentityError;
use super::bundle::{Bundle, RootPin};
use super::peer::{NameError, PeerIdentity, PeerKind, Shown, check_cluster, check_labels, hex};

/// Longest name that can stand for an agent, bytes.
const NAME_BYTES_MAX: usize = 512;

/// Where in a certificate a name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamePlace {
    /// An alternative name of the kind URI, as SPIFFE has them.
    Uri,
    /// An alternative name of the kind DNS; upper and lower case are the same.
    Dns,
    /// The subject's common name.
    CommonName,
}

/// Which cluster a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRule {
    place: NamePlace,
    pieces: Vec<Piece>,
    cluster: Option<String>,
    tenant: Option<TenantId>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Cluster,
    Agent,
}

impl Piece {
    /// What may stand in its place.
    fn takes(&self, c: char) -> bool {
        c.is_ascii_alphanumeric() || c == '-' || (*self == Piece::Cluster && matches!(c, '.' | '_'))
    }
}

impl NameRule {
    /// Names at `place` that are as `pattern` is: `{cluster}` stands for the cluster's name, `{agent}` for letters,
    /// digits and hyphens that tell agents of a cluster apart, everything else for itself. `cluster` where the pattern
    /// does not have it; `tenant` is the authority's first one where missing.
    ///
    /// # Errors
    /// The pattern is none, is ambiguous, or the cluster is in neither place or in both.
    pub fn new(
        place: NamePlace,
        pattern: &str,
        cluster: Option<String>,
        tenant: Option<TenantId>,
        labels: BTreeMap<String, String>,
    ) -> Result<NameRule, NameError> {
        let bad = |why: &str| Err(NameError(format!("{pattern:?}: {why}")));
        if pattern.is_empty() || pattern.len() > NAME_BYTES_MAX {
            return bad("a name has 1 to 512 bytes");
        }
        let lower = pattern.to_ascii_lowercase();
        let pieces = pieces(if place == NamePlace::Dns { &lower } else { pattern })?;
        let count = |wanted: &Piece| pieces.iter().filter(|piece| *piece == wanted).count();
        if count(&Piece::Cluster) > 1 || count(&Piece::Agent) > 1 {
            return bad("{cluster} and {agent} stand once at most");
        }
        match (&cluster, count(&Piece::Cluster)) {
            (None, 0) => return bad("which cluster is it? Give `cluster`, or put {cluster} into the name"),
            (Some(_), 1) => return bad("the cluster is given and stands in the name, too"),
            (Some(cluster), _) => check_cluster(cluster)?,
            (None, _) => {}
        }
        for three in pieces.windows(3) {
            if let [before, Piece::Literal(between), Piece::Cluster | Piece::Agent] = three
                && between.chars().next().is_some_and(|c| before.takes(c))
            {
                return bad("what stands between {cluster} and {agent} may belong to the first of them");
            }
        }
        let touch = |two: &[Piece]| !two.iter().any(|piece| matches!(piece, Piece::Literal(_)));
        if pieces.windows(2).any(touch) {
            return bad("something has to stand between {cluster} and {agent}");
        }
        check_labels(&labels)?;
        Ok(NameRule { place, pieces, cluster, tenant, labels })
    }

    /// The cluster of an agent with this name.
    fn cluster_of(&self, name: &str) -> Option<String> {
        let (mut rest, mut cluster) = (name, self.cluster.as_deref());
        for (i, piece) in self.pieces.iter().enumerate() {
            if let Piece::Literal(text) = piece {
                rest = rest.strip_prefix(text.as_str())?;
                continue;
            }
            let length = match self.pieces.get(i + 1) {
                Some(Piece::Literal(last)) if i + 2 == self.pieces.len() => {
                    rest.strip_suffix(last.as_str())?.len()
                }
                Some(Piece::Literal(next)) => rest.find(next.as_str())?,
                _ => rest.len(),
            };
            let (taken, after) = rest.split_at_checked(length)?;
            if taken.is_empty() || !taken.chars().all(|c| piece.takes(c)) {
                return None;
            }
            if *piece == Piece::Cluster {
                cluster = Some(taken);
            }
            rest = after;
        }
        cluster.filter(|cluster| rest.is_empty() && check_cluster(cluster).is_ok()).map(str::to_owned)
    }
}

fn pieces(pattern: &str) -> Result<Vec<Piece>, NameError> {
    let mut found = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        let Some(at) = rest.find('{') else {
            found.push(Piece::Literal(rest.to_owned()));
            break;
        };
        if at > 0 {
            found.push(Piece::Literal(rest[..at].to_owned()));
        }
        let Some(end) = rest[at..].find('}') else {
            return Err(NameError(format!("{pattern:?}: a {{ without its }}")));
        };
        found.push(match &rest[at..=at + end] {
            "{cluster}" => Piece::Cluster,
            "{agent}" => Piece::Agent,
            other => {
                return Err(NameError(format!(
                    "{pattern:?}: {other} means nothing; there are {{cluster}} and {{agent}}"
                )));
            }
        });
        rest = &rest[at + end + 1..];
    }
    Ok(found)
}

/// An authority of the user's, and what its certificates may say.
#[derive(Debug, Clone)]
pub struct ClientAuthority {
    /// For messages: the file it is from.
    pub name: String,
    /// Its certificates.
    pub roots: Bundle,
    /// What it has revoked: PEM with one list or several, or nothing.
    pub revoked: String,
    /// The tenants its agents may be of; the first where a certificate names none. Not empty.
    pub tenants: Vec<TenantId>,
    /// Which clusters its names stand for, in this order. Certificates with a `marigraph://agent/…` URI need none.
    pub names: Vec<NameRule>,
}

/// The authorities of the user's that a hub believes.
#[derive(Default)]
pub struct ClientAuthorities(Vec<(ClientAuthority, Arc<dyn ClientCertVerifier>)>);

impl fmt::Debug for ClientAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(authority, _)| &authority.name)).finish()
    }
}

impl ClientAuthorities {
    /// These.
    ///
    /// # Errors
    /// A certificate or a list of revocations cannot be used.
    pub fn new(all: Vec<ClientAuthority>) -> Result<ClientAuthorities, IdentityError> {
        let provider = super::tls::provider();
        let verified = |authority: ClientAuthority| {
            let verifier = verifier(&provider, &authority)
                .map_err(|error| IdentityError::Certificate(format!("{}: {error}", authority.name)))?;
            Ok((authority, verifier))
        };
        all.into_iter().map(verified).collect::<Result<_, _>>().map(ClientAuthorities)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether whoever `before` let in is let in as the same by these, too.
    pub fn takes_all_of(&self, before: &ClientAuthorities) -> bool {
        let same = |old: &ClientAuthority, new: &ClientAuthority| {
            let roots: Vec<RootPin> = new.roots.pins();
            old.roots.pins().iter().all(|pin| roots.contains(pin))
                && (&old.revoked, &old.tenants, &old.names) == (&new.revoked, &new.tenants, &new.names)
        };
        self.0.len() >= before.0.len()
            && before.0.iter().zip(&self.0).all(|((old, _), (new, _))| same(old, new))
    }

    /// Who shows this certificate.
    ///
    /// # Errors
    /// As rustls has it: no authority certifies it, it has expired, it is not for clients, it was revoked; a
    /// [`CertificateError::ApplicationVerificationFailure`] where it says nothing that its authority may say.
    pub(super) fn who(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PeerIdentity, Error> {
        let mut failed = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for (authority, verifier) in &self.0 {
            match verifier.verify_client_cert(certificate, intermediates, now) {
                Ok(_) => {
                    return authority.identity(certificate).map_err(|error| {
                        tracing::warn!(authority = authority.name, %error, "refuse a client certificate");
                        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
                    });
                }
                Err(error) => {
                    if !is_unknown_issuer(&error) {
                        failed = error;
                    }
                }
            }
        }
        Err(failed)
    }
}

pub(super) fn is_unknown_issuer(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer))
}

fn verifier(
    provider: &Arc<CryptoProvider>,
    authority: &ClientAuthority,
) -> Result<Arc<dyn ClientCertVerifier>, IdentityError> {
    let failed = |error: &dyn fmt::Display| IdentityError::Certificate(error.to_string());
    let lists: Result<Vec<_>, _> =
        CertificateRevocationListDer::pem_slice_iter(authority.revoked.as_bytes()).collect();
    WebPkiClientVerifier::builder_with_provider(authority.roots.store()?, Arc::clone(provider))
        .with_crls(lists.map_err(|error| failed(&error))?)
        .only_check_end_entity_revocation()
        .allow_unknown_revocation_status()
        .build()
        .map_err(|error| failed(&error))
}

impl ClientAuthority {
    /// Who a certificate of this authority says its holder is.
    fn identity(&self, certificate: &CertificateDer<'_>) -> Result<PeerIdentity, IdentityError> {
        let shown = Shown::read(certificate)?;
        let mut identity = match shown.our_uri()? {
            Some(uri) => {
                let mut identity = PeerIdentity::of_uri(uri)?;
                if identity.kind != PeerKind::Agent {
                    return Err(IdentityError::Certificate("only the fleet's root makes hubs".to_owned()));
                }
                identity.labels.clear();
                let name = identity.uri();
                PeerIdentity { brought: Some(name), ..PeerIdentity::of_uri(uri)? }
            }
            None => self.by_rule(&shown)?,
        };
        if !self.tenants.contains(&identity.tenant) {
            let what = format!("its authority is not for tenant {:?}", identity.tenant.as_str());
            return Err(IdentityError::Certificate(what));
        }
        let name = identity.brought.clone().unwrap_or_default();
        identity.agent_id = id_of(&identity.tenant, &identity.cluster, &name);
        identity.take_dates(&shown);
        Ok(identity)
    }

    fn by_rule(&self, shown: &Shown) -> Result<PeerIdentity, IdentityError> {
        let bad = |what: String| Err(IdentityError::Certificate(what));
        for rule in &self.names {
            let names = match rule.place {
                NamePlace::Uri => &shown.uris,
                NamePlace::Dns => &shown.dns,
                NamePlace::CommonName => &shown.common_names,
            };
            let short = names.iter().filter(|name| name.len() <= NAME_BYTES_MAX);
            let mut fitting = short.filter_map(|name| Some((name, rule.cluster_of(name)?)));
            let Some((name, cluster)) = fitting.next() else { continue };
            if fitting.next().is_some() {
                return bad(format!("several of its names stand for an agent: {shown}"));
            }
            let Some(tenant) = rule.tenant.as_ref().or(self.tenants.first()) else { continue };
            return Ok(PeerIdentity {
                kind: PeerKind::Agent,
                tenant: tenant.clone(),
                cluster,
                agent_id: String::new(),
                labels: rule.labels.clone(),
                brought: Some(name.clone()),
                serial: String::new(),
                not_before_ms: 0,
                not_after_ms: 0,
            });
        }
        bad(format!("no cluster in it: none of the names that its authority may give is there, but {shown}"))
    }
}

/// `own-` and 16 hexadecimal digits: the same for every certificate with this name, and no other agent's.
fn id_of(tenant: &TenantId, cluster: &str, name: &str) -> String {
    let text = format!("{tenant}\0{cluster}\0{name}");
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    format!("own-{}", hex(&hash.as_ref()[..8]))
}

#[cfg(test)]
mod tests;
