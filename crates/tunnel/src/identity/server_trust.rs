//! How an agent knows a hub: by the fleet's roots, by one pinned root, or by an authority of the user.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::IdentityError;
use super::bundle::{Bundle, RootPin, certificates_from_pem};
use super::peer::{PeerIdentity, PeerKind};

/// A name that every hub's certificate has. The fleet's roots certify nothing but hubs as servers, so an
/// agent asks for this one and a hub may be dialled by any name or address.
pub(super) const FLEET_NAME: &str = "hub.marigraph.internal";

/// What an agent believes of a hub's certificate.
#[derive(Debug, Clone)]
pub enum ServerTrust {
    /// It leads to one of these roots, and is a hub's; the name it was dialled by does not matter.
    Fleet(Bundle),
    /// As `Fleet`, but all that is known of the root is the hash of its key: for enrolling.
    Pinned(RootPin),
    /// It leads to one of these authorities and has the name that was dialled: the user's own.
    Roots(Arc<RootCertStore>),
    /// One of both: the fleet's, which is `Fleet` or `Pinned`, or the user's own.
    Either(Box<ServerTrust>, Arc<RootCertStore>),
}

impl ServerTrust {
    /// What is believed of the fleet, and beside it an authority of the user's, if there is one.
    pub fn with_users(self, roots: Option<Arc<RootCertStore>>) -> ServerTrust {
        match roots {
            Some(roots) => ServerTrust::Either(Box::new(self), roots),
            None => self,
        }
    }

    pub(super) fn believes_users(&self) -> bool {
        matches!(self, ServerTrust::Roots(_) | ServerTrust::Either(..))
    }
}

/// The authorities in a PEM text, as many as a system has.
///
/// # Errors
/// There is none, or one cannot be used.
pub fn roots_of_pem(text: &str) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut store = RootCertStore::empty();
    for root in certificates_from_pem(text)? {
        store.add(root).map_err(|error| IdentityError::Certificate(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(IdentityError::Certificate("no certificate in the text".into()));
    }
    Ok(Arc::new(store))
}

/// The verifier of an agent; what it believes can be exchanged.
#[derive(Debug)]
pub(super) struct HubVerifier {
    provider: Arc<CryptoProvider>,
    trust: ArcSwap<Trust>,
}

#[derive(Debug)]
enum Trust {
    Fleet(Arc<WebPkiServerVerifier>),
    Pinned(RootPin),
    Roots(Arc<WebPkiServerVerifier>),
    Either(Box<Trust>, Box<Trust>),
}

impl HubVerifier {
    pub(super) fn new(provider: Arc<CryptoProvider>, trust: ServerTrust) -> Result<Self, IdentityError> {
        let trust = ArcSwap::from_pointee(Trust::new(&provider, trust)?);
        Ok(HubVerifier { provider, trust })
    }

    /// Believes `trust` from the next handshake on.
    pub(super) fn replace(&self, trust: ServerTrust) -> Result<(), IdentityError> {
        self.trust.store(Arc::new(Trust::new(&self.provider, trust)?));
        Ok(())
    }
}

impl Trust {
    fn new(provider: &Arc<CryptoProvider>, trust: ServerTrust) -> Result<Trust, IdentityError> {
        Ok(match trust {
            ServerTrust::Fleet(bundle) => Trust::Fleet(verifier(provider, bundle.store()?)?),
            ServerTrust::Pinned(pin) => Trust::Pinned(pin),
            ServerTrust::Roots(roots) => Trust::Roots(verifier(provider, roots)?),
            ServerTrust::Either(fleet, roots) => {
                let users = Trust::new(provider, ServerTrust::Roots(roots))?;
                Trust::Either(Box::new(Trust::new(provider, *fleet)?), Box::new(users))
            }
        })
    }
}

impl Trust {
    fn verify(
        &self,
        provider: &Arc<CryptoProvider>,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let fleet = ServerName::try_from(FLEET_NAME).map_err(|_| Error::General("fleet name".into()))?;
        match self {
            Trust::Fleet(verifier) => {
                verifier.verify_server_cert(certificate, intermediates, &fleet, &[], now)
            }
            Trust::Roots(verifier) => {
                verifier.verify_server_cert(certificate, intermediates, server_name, &[], now)
            }
            Trust::Pinned(pin) => {
                let pinned = |shown: &&CertificateDer<'_>| RootPin::of(shown).is_ok_and(|it| it == *pin);
                let root = intermediates.iter().find(pinned).ok_or(CertificateError::UnknownIssuer)?;
                let mut store = RootCertStore::empty();
                store.add(root.clone().into_owned())?;
                let verifier =
                    verifier(provider, Arc::new(store)).map_err(|error| Error::General(error.to_string()))?;
                verifier.verify_server_cert(certificate, intermediates, &fleet, &[], now)
            }
            Trust::Either(ours, users) => {
                let verify =
                    |trust: &Trust| trust.verify(provider, certificate, intermediates, server_name, now);
                verify(ours).or_else(|error| {
                    verify(users).map_err(|theirs| match is_hub(certificate) {
                        true => error,
                        false => theirs,
                    })
                })
            }
        }
    }
}

fn is_hub(certificate: &CertificateDer<'_>) -> bool {
    PeerIdentity::of_certificate(certificate).is_ok_and(|identity| identity.kind == PeerKind::Hub)
}

fn verifier(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
) -> Result<Arc<WebPkiServerVerifier>, IdentityError> {
    WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
        .build()
        .map_err(|error| IdentityError::Tls(error.to_string()))
}

impl ServerCertVerifier for HubVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.trust.load().verify(&self.provider, certificate, intermediates, server_name, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
