//! The TLS configurations of both ends. Certificates and roots are exchanged in place: a connection made
//! after that uses the new ones, those that stand are not touched.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use stdx::clock::Clock;

use super::IdentityError;
use super::authority::HubCertificate;
use super::brought::{ClientAuthorities, is_unknown_issuer};
use super::bundle::{Bundle, certificates_from_pem};
use super::peer::{PeerIdentity, Shown, Standing};
use super::server_trust::{HubVerifier, ServerTrust};

/// An agent offers this too, and the hub never takes it: it tells a hub that has a certificate of the
/// user's for other callers that this one wants the fleet's.
pub(super) const FLEET_PROTOCOL: &[u8] = b"marigraph";

/// Whether an agent or hub has been revoked; asked in every handshake.
pub type IsRevoked = Arc<dyn Fn(&PeerIdentity) -> bool + Send + Sync>;

/// Which protocols an agent offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/1.1, which can be upgraded: the tunnel.
    Http1,
    /// HTTP/2, or HTTP/1.1 where the hub has no other.
    Http2,
}

/// A chain with its key, of the user's own authority or ours.
#[derive(Clone)]
pub struct OwnCertificate(Arc<CertifiedKey>);

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnCertificate")
    }
}

impl OwnCertificate {
    /// From PEM texts: the chain, the holder's first, and the key.
    ///
    /// # Errors
    /// A text is no PEM, the key is of a kind we cannot use, or does not belong to the certificate.
    pub fn from_pem(chain: &str, key: &str) -> Result<OwnCertificate, IdentityError> {
        let chain = certificates_from_pem(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| IdentityError::Key(error.to_string()))?;
        OwnCertificate::new(chain, key)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<OwnCertificate, IdentityError> {
        if chain.is_empty() {
            return Err(IdentityError::Certificate("no certificate in the text".into()));
        }
        let key = provider().key_provider.load_private_key(key);
        let key = key.map_err(|error| IdentityError::Key(error.to_string()))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|error| IdentityError::Key(error.to_string()))?;
        Ok(OwnCertificate(Arc::new(certified)))
    }

    /// The chain, DER, the holder's first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.cert
    }
}

impl TryFrom<HubCertificate> for OwnCertificate {
    type Error = IdentityError;

    fn try_from(certificate: HubCertificate) -> Result<OwnCertificate, IdentityError> {
        OwnCertificate::new(certificate.chain, certificate.key)
    }
}

/// TLS of a hub: server certificate, and client certificates for those who have one.
pub struct HubTls {
    certificates: Arc<HubCertificates>,
    verifier: Arc<PeerVerifier>,
    config: Arc<ServerConfig>,
}

impl fmt::Debug for HubTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubTls")
    }
}

impl HubTls {
    /// A hub with the certificate `fleet`, made by the authority, that takes client certificates which
    /// lead to `trusted` and are not `revoked`.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub fn new(
        fleet: HubCertificate,
        trusted: &Bundle,
        revoked: IsRevoked,
        clock: Arc<dyn Clock>,
    ) -> Result<HubTls, IdentityError> {
        let provider = provider();
        let certificates = Arc::new(HubCertificates {
            fleet: ArcSwap::from_pointee(fleet.try_into()?),
            own: ArcSwap::from_pointee(None),
        });
        let inner = ArcSwap::from_pointee(client_verifier(&provider, trusted)?);
        let clock_time = Arc::new(ClockTime(Arc::clone(&clock)));
        let users = ArcSwap::<ClientAuthorities>::default();
        let verifier = Arc::new(PeerVerifier {
            provider: Arc::clone(&provider),
            inner,
            users,
            revoked,
            clock: clock_time,
        });
        let mut config = ServerConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
            .with_safe_default_protocol_versions()
            .map_err(|error| IdentityError::Tls(error.to_string()))?
            .with_client_cert_verifier(Arc::clone(&verifier) as Arc<dyn ClientCertVerifier>)
            .with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Nothing is resumed: see the head of `identity`.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(HubTls { certificates, verifier, config: Arc::new(config) })
    }

    /// For the acceptor; stays the same for good, what it consults is exchanged.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Shows `fleet` to agents from the next handshake on.
    ///
    /// # Errors
    /// The certificate cannot be used; the old one stays.
    pub fn replace_certificate(&self, fleet: HubCertificate) -> Result<(), IdentityError> {
        self.certificates.fleet.store(Arc::new(fleet.try_into()?));
        Ok(())
    }

    /// Shows `own` to callers that are not agents, from the next handshake on; `None`: ours.
    pub fn set_own_certificate(&self, own: Option<OwnCertificate>) {
        self.certificates.own.store(Arc::new(own));
    }

    /// Takes client certificates that lead to `trusted`, from the next handshake on.
    ///
    /// # Errors
    /// A root cannot be used; the old ones stay.
    pub fn replace_trusted(&self, trusted: &Bundle) -> Result<(), IdentityError> {
        self.verifier.inner.store(Arc::new(client_verifier(&self.verifier.provider, trusted)?));
        Ok(())
    }

    /// Takes client certificates of these authorities of the user's beside the fleet's, from the next handshake on.
    /// Gives those that were believed before.
    pub fn replace_client_authorities(&self, users: Arc<ClientAuthorities>) -> Arc<ClientAuthorities> {
        self.verifier.users.swap(users)
    }

    /// Who is at the other end of a connection, by the certificates that it showed (`peer_certificates` of the
    /// connection); `None` for a caller without one. They are verified again: the handshake does not tell which
    /// authority has vouched for them.
    ///
    /// # Errors
    /// No authority vouches for the certificate; the handshake did not let it pass, or it is not believed any more.
    pub fn peer(
        &self,
        certificates: Option<&[CertificateDer<'_>]>,
    ) -> Result<Option<PeerIdentity>, IdentityError> {
        let Some((first, rest)) = certificates.and_then(<[_]>::split_first) else { return Ok(None) };
        if self.verifier.users.load().is_empty() {
            return PeerIdentity::of_certificate(first).map(Some);
        }
        let now = self.verifier.clock.current_time().unwrap_or_else(UnixTime::now);
        let known = self.verifier.who(first, rest, now);
        known.map(Some).map_err(|error| IdentityError::Certificate(error.to_string()))
    }
}

/// TLS of an agent.
pub struct AgentTls {
    certificate: Arc<AgentCertificate>,
    verifier: Arc<HubVerifier>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl fmt::Debug for AgentTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentTls")
    }
}

impl AgentTls {
    /// An agent that believes hubs by `trust` and shows `certificate`, which an agent that enrols does
    /// not have yet. Whether an authority of the user's is among what it believes is settled here.
    ///
    /// # Errors
    /// A root cannot be used.
    pub fn new(
        trust: ServerTrust,
        certificate: Option<OwnCertificate>,
        clock: Arc<dyn Clock>,
    ) -> Result<AgentTls, IdentityError> {
        let provider = provider();
        let believes_users = trust.believes_users();
        let verifier = Arc::new(HubVerifier::new(Arc::clone(&provider), trust)?);
        let certificate = Arc::new(AgentCertificate(ArcSwap::from_pointee(certificate)));
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| IdentityError::Tls(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_client_cert_resolver(Arc::clone(&certificate) as _);
        config.resumption = Resumption::disabled();
        let offering = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        };
        // Who believes an authority of the user's is shown what everybody is shown.
        let (http1, http2) = match believes_users {
            true => (offering(&[b"http/1.1"]), offering(&[b"h2", b"http/1.1"])),
            false => {
                (offering(&[b"http/1.1", FLEET_PROTOCOL]), offering(&[b"h2", b"http/1.1", FLEET_PROTOCOL]))
            }
        };
        Ok(AgentTls { certificate, verifier, http1, http2 })
    }

    /// For the connector; stays the same for good, what it consults is exchanged. The name given to the
    /// connector is the host that is dialled.
    pub fn client_config(&self, alpn: Alpn) -> Arc<ClientConfig> {
        match alpn {
            Alpn::Http1 => Arc::clone(&self.http1),
            Alpn::Http2 => Arc::clone(&self.http2),
        }
    }

    /// Shows `certificate` from the next handshake on.
    pub fn replace_certificate(&self, certificate: OwnCertificate) {
        self.certificate.0.store(Arc::new(Some(certificate)));
    }

    /// Believes hubs by `trust` from the next handshake on.
    ///
    /// # Errors
    /// A root cannot be used; what was believed stays.
    pub fn replace_trust(&self, trust: ServerTrust) -> Result<(), IdentityError> {
        self.verifier.replace(trust)
    }
}

/// What the hub shows.
#[derive(Debug)]
struct HubCertificates {
    /// Leads to the fleet's root.
    fleet: ArcSwap<OwnCertificate>,
    /// The user's, for everybody but agents.
    own: ArcSwap<Option<OwnCertificate>>,
}

impl ResolvesServerCert for HubCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let agent = hello.alpn().is_some_and(|mut offered| offered.any(|it| it == FLEET_PROTOCOL));
        match &**self.own.load() {
            Some(own) if !agent => Some(Arc::clone(&own.0)),
            _ => Some(Arc::clone(&self.fleet.load().0)),
        }
    }
}

/// What the agent shows.
#[derive(Debug)]
struct AgentCertificate(ArcSwap<Option<OwnCertificate>>);

impl ResolvesClientCert for AgentCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().as_ref().map(|own| Arc::clone(&own.0))
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

/// Lets in certificates that lead to the fleet, unrevoked; expired ones too, for 90 days: the doors ask
/// for their [`Standing`].
struct PeerVerifier {
    provider: Arc<CryptoProvider>,
    inner: ArcSwap<Arc<dyn ClientCertVerifier>>,
    /// The user's own authorities.
    users: ArcSwap<ClientAuthorities>,
    revoked: IsRevoked,
    clock: Arc<ClockTime>,
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerVerifier")
    }
}

impl PeerVerifier {
    /// Whose certificate it is, by the fleet's authority or one of the user's.
    fn who(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PeerIdentity, Error> {
        let of_fleet = self.of_fleet(certificate, intermediates, now);
        let users = self.users.load();
        let known = of_fleet.or_else(|error| {
            // What the fleet vouches for, and refuses all the same, is told as the fleet tells it.
            let strange = is_unknown_issuer(&error) || is_unreadable(&error);
            users.who(certificate, intermediates, now).map_err(|theirs| {
                match !users.is_empty() && (strange || !is_unknown_issuer(&theirs)) {
                    true => theirs,
                    false => error,
                }
            })
        });
        known.inspect_err(|error| {
            let names = Shown::read(certificate).map(|shown| shown.to_string()).unwrap_or_default();
            tracing::warn!(names, %error, "refuse a client certificate");
        })
    }

    fn of_fleet(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PeerIdentity, Error> {
        let identity = PeerIdentity::of_certificate(certificate).map_err(|error| {
            tracing::debug!(%error, "a client certificate that the fleet has not made");
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
        })?;
        let now_ms = i64::try_from(now.as_secs().saturating_mul(1000)).unwrap_or(i64::MAX);
        // An expired one is looked at as it was in its last second.
        let when = match identity.standing(now_ms) {
            Standing::RenewalOnly => at_ms(identity.not_after_ms),
            _ => now,
        };
        let verified = self.inner.load().verify_client_cert(certificate, intermediates, when);
        verified.map(|_| identity)
    }
}

/// It names nobody of the fleet.
fn is_unreadable(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // The list would be stale after a rotation; agents have one certificate and need no hint.
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let identity = self.who(certificate, intermediates, now)?;
        if (self.revoked)(&identity) {
            tracing::warn!(peer = %identity, serial = identity.serial, "refuse a revoked certificate");
            return Err(CertificateError::Revoked.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn client_verifier(
    provider: &Arc<CryptoProvider>,
    trusted: &Bundle,
) -> Result<Arc<dyn ClientCertVerifier>, IdentityError> {
    WebPkiClientVerifier::builder_with_provider(trusted.store()?, Arc::clone(provider))
        .build()
        .map_err(|error| IdentityError::Tls(error.to_string()))
}

/// The clock, as rustls wants it.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(at_ms(self.0.now_ms()))
    }
}

fn at_ms(ms: i64) -> UnixTime {
    let seconds = u64::try_from(ms.div_euclid(1000)).unwrap_or(0);
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

/// The one provider of cryptography.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
