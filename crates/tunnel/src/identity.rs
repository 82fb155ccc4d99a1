//! Who is at the other end: the fleet's authority, certificates that say who an agent is, and the TLS
//! configurations of both ends.
//!
//! One root is the fleet. The first hub makes it; every hub has an intermediate of its own, with which it
//! signs its server certificate and the client certificates of agents. A certificate carries tenant,
//! cluster, agent id and enrolled labels in a URI (`docs/formats/certificates.md`); nothing an agent sends
//! besides can change them. Agents trust a [`Bundle`] of roots, so that a root can be replaced.
//!
//! A hub may believe authorities of the user's, too ([`ClientAuthorities`]), and an agent a hub that shows a certificate
//! of the user's ([`ServerTrust::Either`]).
//!
//! TLS sessions are never resumed: a resumed session shows no certificate again, and a revoked agent
//! would come back by it.

mod agent;
mod authority;
mod brought;
mod bundle;
mod check;
mod desk;
mod error;
mod exchange;
mod hubs;
mod key;
mod peer;
mod server_trust;
mod tls;

pub use agent::{AgentIdentity, IDENTITY_FILE};
pub use authority::{
    AUTHORITY_FILE, Admission, Authority, AuthorityExport, AuthorityOptions, HubCertificate, Issued,
    RootInfo, SIGNING_REQUEST_BYTES_MAX, Subject, requested_key_hash,
};
pub use brought::{ClientAuthorities, ClientAuthority, NamePlace, NameRule};
pub use bundle::{Bundle, RootPin};
pub use check::{Check, Finding, Outcome, explained};
pub use desk::{Denied, Desk};
pub use error::IdentityError;
pub use exchange::{
    CertificateAnswer, ENROL_PATH, EXCHANGE_BYTES_MAX, EnrolRequest, ExchangeError, JOIN_PATH, JoinAnswer,
    JoinRequest, RENEW_PATH, Reach, Reaching, Refused, RenewRequest, TlsStream, WHO_PATH, WhoAnswer, join_at,
};
pub use hubs::{
    ADMIT_PATH, AdmitRequest, CLAIM_PATH, Claimed, PAGE_BYTES, PULL_PATH, PUSH_PATH, PullRequest, Pulled,
    PushRequest, Pushed, ask_hub,
};
pub use key::LocalKey;
pub use peer::{NameError, PeerIdentity, PeerKind, Standing, check_cluster, check_labels};
pub use server_trust::{ServerTrust, roots_of_pem};
pub use tls::{AgentTls, Alpn, HubTls, IsRevoked, OwnCertificate};

#[cfg(test)]
mod tests;
