//! The fleet's authority at a hub: the roots, this hub's intermediate, and what it signs.
//!
//! All of it is one file, `authority.json` (mode 0600, replaced whole, `docs/formats/certificates.md`), so
//! that no crash leaves a root without its key. Only the hub that made a root (or imported it) has its
//! key; it is needed to admit hubs and to rotate, never for agents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use stdx::clock::Clock;
use stdx::disk::Disk;
use tenancy::TenantId;
use time::OffsetDateTime;

use super::IdentityError;
use super::bundle::{Bundle, RootPin, certificates_to_pem};
use super::key::LocalKey;
use super::peer::{PeerIdentity, PeerKind, check_cluster, check_labels, hex};
use super::server_trust::FLEET_NAME;

mod file;
mod rotation;

pub use file::{AUTHORITY_FILE, AuthorityExport};
use file::{RootRole, State};
pub use rotation::{Admission, RootInfo};

/// Certificates begin to be valid this long before they are made: clocks of clusters are late.
const BACKDATED_MS: i64 = 24 * 3600 * 1000;
const DAY_MS: i64 = 24 * 3600 * 1000;
const ROOT_DAYS: i64 = 20 * 365;
const INTERMEDIATE_DAYS: i64 = 5 * 365;
/// Largest request to sign, bytes.
pub const SIGNING_REQUEST_BYTES_MAX: usize = 16 << 10;
/// Most names of a hub.
const NAMES_MAX: usize = 64;

/// How long certificates last.
#[derive(Debug, Clone, Copy)]
pub struct AuthorityOptions {
    /// Of agents.
    pub agent_lifetime: Duration,
    /// Of the hub's server certificate, which it renews by itself.
    pub server_lifetime: Duration,
}

impl Default for AuthorityOptions {
    /// 30 and 90 days.
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        AuthorityOptions { agent_lifetime: days(30), server_lifetime: days(90) }
    }
}

/// Who an agent's certificate is for. What the request to sign says about it does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Whose data.
    pub tenant: TenantId,
    /// The cluster, see [`check_cluster`].
    pub cluster: String,
    /// The agent's id.
    pub agent_id: String,
    /// Further labels, see [`check_labels`].
    pub labels: BTreeMap<String, String>,
}

/// A certificate that was signed.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, then the intermediate it hangs on; PEM.
    pub chain_pem: String,
    /// Who it says.
    pub identity: PeerIdentity,
}

/// The SHA-256 of the key that a request wants certified: the same key may redeem a token twice.
///
/// # Errors
/// As [`Authority::issue_agent`].
pub fn requested_key_hash(request: &str) -> Result<[u8; 32], IdentityError> {
    let key = requested_key(request)?;
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, key.der_bytes()).as_ref());
    Ok(hash)
}

/// A hub's own server certificate, with its key and the whole chain, root included: an agent that enrols
/// knows nothing but the hash of the root's key.
pub struct HubCertificate {
    /// DER, the hub's first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// Last moment it is valid, milliseconds since the epoch.
    pub not_after_ms: i64,
}

/// Prints no key.
impl std::fmt::Debug for HubCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HubCertificate(until {})", self.not_after_ms)
    }
}

/// The fleet's authority at one hub.
pub struct Authority {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    clock: Arc<dyn Clock>,
    options: AuthorityOptions,
    state: Mutex<State>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.path.display())
    }
}

impl Authority {
    /// Opens the authority in `directory`; where there is none, makes a fleet root and an intermediate.
    ///
    /// # Errors
    /// The file cannot be read or written, or is not what it should be; it is never made anew then.
    pub fn open_or_create(
        disk: Arc<dyn Disk>,
        directory: &Path,
        clock: Arc<dyn Clock>,
        options: AuthorityOptions,
    ) -> Result<Authority, IdentityError> {
        let path = directory.join(AUTHORITY_FILE);
        let state = match State::read(disk.as_ref(), &path)? {
            Some(state) => state,
            None => {
                let state = first_state(clock.now_ms())?;
                state.write(disk.as_ref(), &path)?;
                state
            }
        };
        Ok(Authority { disk, path, clock, options, state: Mutex::new(state) })
    }

    /// This hub's id: 16 hexadecimal digits, made with its data directory.
    pub fn hub_id(&self) -> String {
        self.state.lock().hub_id.clone()
    }

    /// The roots that are trusted now.
    ///
    /// # Errors
    /// None that a file read by [`Authority::open_or_create`] leads to.
    pub fn bundle(&self) -> Result<Bundle, IdentityError> {
        self.state.lock().bundle()
    }

    /// The pin of the root that this hub's certificates lead to: what new tokens carry.
    ///
    /// # Errors
    /// None that a file read by [`Authority::open_or_create`] leads to.
    pub fn pin(&self) -> Result<RootPin, IdentityError> {
        RootPin::of(&self.state.lock().issuing_root()?.certificate)
    }

    /// Signs a client certificate for `subject` and the key in `request` (PKCS #10, PEM). Subject,
    /// names and extensions that are asked for are passed over.
    ///
    /// # Errors
    /// The request is too large, no request, or not signed by its key; the subject cannot be certified.
    pub fn issue_agent(&self, subject: &Subject, request: &str) -> Result<Issued, IdentityError> {
        check_cluster(&subject.cluster)?;
        check_labels(&subject.labels)?;
        let key = requested_key(request)?;
        let state = self.state.lock();
        let now_ms = self.clock.now_ms();
        let lifetime_ms = i64::try_from(self.options.agent_lifetime.as_millis()).unwrap_or(i64::MAX);
        let identity = PeerIdentity {
            kind: PeerKind::Agent,
            tenant: subject.tenant.clone(),
            cluster: subject.cluster.clone(),
            agent_id: subject.agent_id.clone(),
            labels: subject.labels.clone(),
            brought: None,
            serial: String::new(),
            not_before_ms: now_ms - BACKDATED_MS,
            not_after_ms: now_ms.saturating_add(lifetime_ms).min(state.intermediate_end_ms()?),
        };
        let mut params = leaf(&identity, ExtendedKeyUsagePurpose::ClientAuth)?;
        let name = format!("{} {}", subject.cluster, subject.agent_id);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &state.intermediate_issuer()?)?;
        // Read again, so that nothing leaves that we would not take back.
        let identity = PeerIdentity::of_certificate(certificate.der())?;
        let chain = [certificate.der().clone(), state.intermediate.certificate.clone()];
        Ok(Issued { chain_pem: certificates_to_pem(&chain), identity })
    }

    /// Makes a server certificate for this hub under these names and addresses.
    ///
    /// # Errors
    /// A name cannot be certified.
    pub fn issue_server(&self, names: &[String]) -> Result<HubCertificate, IdentityError> {
        if names.len() > NAMES_MAX {
            return Err(IdentityError::State(format!("{} names; at most {NAMES_MAX}", names.len())));
        }
        let state = self.state.lock();
        let now_ms = self.clock.now_ms();
        let lifetime_ms = i64::try_from(self.options.server_lifetime.as_millis()).unwrap_or(i64::MAX);
        let identity = PeerIdentity {
            kind: PeerKind::Hub,
            tenant: TenantId::default(),
            cluster: String::new(),
            agent_id: state.hub_id.clone(),
            labels: BTreeMap::new(),
            brought: None,
            serial: String::new(),
            not_before_ms: now_ms - BACKDATED_MS,
            not_after_ms: now_ms.saturating_add(lifetime_ms).min(state.intermediate_end_ms()?),
        };
        let mut params = leaf(&identity, ExtendedKeyUsagePurpose::ServerAuth)?;
        // A hub is also a client: of the hub it joined.
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        let common = names.first().map_or(FLEET_NAME, String::as_str).to_owned();
        params.distinguished_name.push(DnType::CommonName, common);
        let mut all = names.to_vec();
        all.push(FLEET_NAME.to_owned());
        all.sort();
        all.dedup();
        params.subject_alt_names.extend(CertificateParams::new(all)?.subject_alt_names);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &state.intermediate_issuer()?)?;
        let root = state.issuing_root()?.certificate.clone();
        Ok(HubCertificate {
            chain: vec![certificate.der().clone(), state.intermediate.certificate.clone(), root],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            not_after_ms: identity.not_after_ms,
        })
    }

    /// Changes the state: what `change` makes of a copy is written, then in force.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut State, i64) -> Result<T, IdentityError>,
    ) -> Result<T, IdentityError> {
        let mut state = self.state.lock();
        let mut next = state.try_clone()?;
        let outcome = change(&mut next, self.clock.now_ms())?;
        next.write(self.disk.as_ref(), &self.path)?;
        *state = next;
        Ok(outcome)
    }
}

/// A root and its key.
struct Root {
    certificate: CertificateDer<'static>,
    key: Option<KeyPair>,
    role: RootRole,
    made_ms: i64,
}

/// The hub's own authority.
struct Intermediate {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

fn first_state(now_ms: i64) -> Result<State, IdentityError> {
    let hub_id = random_hex();
    let root = make_root(now_ms)?;
    let key = KeyPair::generate()?;
    let certificate = make_intermediate(&root, &hub_id, &key, now_ms)?;
    let intermediate = Intermediate { certificate, key };
    Ok(State { hub_id, roots: vec![root], intermediate })
}

fn make_root(now_ms: i64) -> Result<Root, IdentityError> {
    let key = KeyPair::generate()?;
    let mut params = dated(now_ms - BACKDATED_MS, now_ms + ROOT_DAYS * DAY_MS)?;
    // Each root's name is its own: a chain is built by names.
    let name = format!("Marigraph fleet root {}", random_hex());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?.der().clone();
    Ok(Root { certificate, key: Some(key), role: RootRole::Signing, made_ms: now_ms })
}

fn make_intermediate(
    root: &Root,
    hub_id: &str,
    key: &impl PublicKeyData,
    now_ms: i64,
) -> Result<CertificateDer<'static>, IdentityError> {
    let signer = root.key.as_ref().ok_or(IdentityError::NoRootKey)?;
    let mut params = dated(now_ms - BACKDATED_MS, now_ms + INTERMEDIATE_DAYS * DAY_MS)?;
    // The key's own part in the name keeps two intermediates of one hub apart.
    let name = format!("Marigraph hub {hub_id} {}", random_hex());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(&root.certificate, signer)?;
    Ok(params.signed_by(key, &issuer)?.der().clone())
}

/// The parameters of a certificate that signs nothing.
fn leaf(identity: &PeerIdentity, usage: ExtendedKeyUsagePurpose) -> Result<CertificateParams, IdentityError> {
    let mut params = dated(identity.not_before_ms, identity.not_after_ms)?;
    let uri = identity.uri().try_into().map_err(IdentityError::from)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn dated(not_before_ms: i64, not_after_ms: i64) -> Result<CertificateParams, IdentityError> {
    let date = |ms: i64| {
        OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000))
            .map_err(|error| IdentityError::Certificate(format!("{ms} ms is no date: {error}")))
    };
    let mut params = CertificateParams::default();
    params.not_before = date(not_before_ms)?;
    params.not_after = date(not_after_ms)?;
    params.distinguished_name = DistinguishedName::new();
    // 16 random bytes, positive and without a leading zero byte.
    let mut serial = [0; 16];
    rand::fill(&mut serial);
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// The key that a request wants certified, once it has proved to have the private one.
fn requested_key(request: &str) -> Result<rcgen::PublicKey, IdentityError> {
    use rustls_pki_types::pem::PemObject;
    if request.len() > SIGNING_REQUEST_BYTES_MAX {
        return Err(IdentityError::SigningRequest(format!(
            "{} bytes; at most {SIGNING_REQUEST_BYTES_MAX} are read",
            request.len()
        )));
    }
    let bad = |error: &dyn std::fmt::Display| IdentityError::SigningRequest(error.to_string());
    let der =
        CertificateSigningRequestDer::from_pem_slice(request.as_bytes()).map_err(|error| bad(&error))?;
    let parsed = CertificateSigningRequestParams::from_der(&der).map_err(|error| bad(&error))?;
    Ok(parsed.public_key)
}

/// 16 hexadecimal digits nobody else has.
pub(super) fn random_hex() -> String {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes);
    hex(&bytes)
}
