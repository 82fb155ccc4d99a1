//! The hub's desk: gives certificates for tokens and for older certificates, and admits hubs.

use std::fmt;
use std::sync::Arc;

use stdx::clock::Clock;
use tenancy::{AgentRecord, HubRecord, Redeemer, Refusal, Registry, TokenKind};

use super::IdentityError;
use super::authority::{Authority, Issued, SIGNING_REQUEST_BYTES_MAX, Subject, requested_key_hash};
use super::exchange::{CertificateAnswer, EnrolRequest, JoinAnswer, JoinRequest, RenewRequest, WhoAnswer};
use super::peer::{PeerIdentity, PeerKind, Standing};

/// What the hub has to give certificates with.
pub struct Desk {
    /// Signs.
    pub authority: Authority,
    /// Remembers.
    pub registry: Arc<Registry>,
    pub(super) clock: Arc<dyn Clock>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Desk({:?})", self.authority)
    }
}

/// Why nothing is given; the message is for the one who asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Denied {
    /// As HTTP has it: 400, 401, 403, 413, 503.
    pub status: u16,
    /// Why.
    pub message: String,
}

pub(super) fn denied<T>(status: u16, message: impl fmt::Display) -> Result<T, Denied> {
    Err(Denied { status, message: message.to_string() })
}

impl Desk {
    /// A desk of this authority.
    pub fn new(authority: Authority, registry: Arc<Registry>, clock: Arc<dyn Clock>) -> Desk {
        Desk { authority, registry, clock }
    }

    /// Whether a certificate that came in by a handshake must not be served any more: it was revoked since.
    pub fn is_revoked(&self, peer: &PeerIdentity) -> bool {
        self.registry.is_revoked(&peer.agent_id, &peer.serial)
    }

    /// An agent enrols.
    ///
    /// # Errors
    /// The token or the request is not taken.
    pub fn enrol(&self, message: &EnrolRequest) -> Result<CertificateAnswer, Denied> {
        let key = key_of(&message.request)?;
        let redeemer = Redeemer { kind: TokenKind::Enrol, key: &key };
        let grant = self.registry.redeem(&message.token, redeemer).or_else(refused)?;
        let subject = Subject {
            tenant: grant.tenant,
            cluster: grant.cluster,
            agent_id: grant.agent_id,
            labels: grant.labels,
        };
        self.give(&subject, &message.request, grant.token)
    }

    /// An agent renews; `peer` is who its connection is from.
    ///
    /// # Errors
    /// There is no certificate, or none that is good for it, or the request is not taken.
    pub fn renew(
        &self,
        peer: Option<&PeerIdentity>,
        message: &RenewRequest,
    ) -> Result<CertificateAnswer, Denied> {
        let Some(peer) = peer.filter(|peer| peer.kind == PeerKind::Agent) else {
            return denied(401, "a certificate is renewed for an agent that shows the one it has");
        };
        if peer.brought.is_some() {
            return denied(403, "this certificate is renewed by whoever issued it, not by the fleet");
        }
        if self.is_revoked(peer) {
            return denied(403, "the certificate was revoked; enrol with a new token");
        }
        if peer.standing(self.clock.now_ms()) == Standing::Useless {
            return denied(403, "the certificate expired more than 90 days ago; enrol with a new token");
        }
        key_of(&message.request)?;
        let subject = Subject {
            tenant: peer.tenant.clone(),
            cluster: peer.cluster.clone(),
            agent_id: peer.agent_id.clone(),
            labels: peer.labels.clone(),
        };
        self.give(&subject, &message.request, String::new())
    }

    /// An agent asks who its certificate says that it is.
    ///
    /// # Errors
    /// It shows none, or one that is good for nothing now.
    pub fn who(&self, peer: Option<&PeerIdentity>) -> Result<WhoAnswer, Denied> {
        let Some(peer) = peer.filter(|peer| peer.kind == PeerKind::Agent) else {
            return denied(401, "this door is for agents, which show their certificate");
        };
        if self.is_revoked(peer) {
            return denied(403, "the certificate was revoked");
        }
        if peer.standing(self.clock.now_ms()) != Standing::Current {
            return denied(403, "the certificate has expired");
        }
        self.meet(peer)?;
        Ok(WhoAnswer {
            tenant: peer.tenant.to_string(),
            cluster: peer.cluster.clone(),
            agent_id: peer.agent_id.clone(),
            labels: peer.labels.clone(),
        })
    }

    /// Remembers an agent with a certificate of the user's; one of the fleet's was remembered when it was made.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn meet(&self, peer: &PeerIdentity) -> Result<(), Denied> {
        let Some(name) = peer.brought.as_ref().filter(|_| peer.kind == PeerKind::Agent) else {
            return Ok(());
        };
        if !self.is_new(peer) {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        let record = AgentRecord {
            agent_id: peer.agent_id.clone(),
            tenant: peer.tenant.to_string(),
            cluster: peer.cluster.clone(),
            labels: peer.labels.clone(),
            serial: peer.serial.clone(),
            not_after_ms: peer.not_after_ms,
            enrolled_ms: now_ms,
            renewed_ms: now_ms,
            token: String::new(),
            roots: Vec::new(),
            brought: name.clone(),
            elsewhere: false,
        };
        tracing::info!(%peer, name, serial = peer.serial, "an agent with a certificate of its own authority");
        self.registry.remember_agent(record).or_else(|error| denied(503, error))
    }

    /// Whether [`Desk::meet`] has something to write down.
    pub fn is_new(&self, peer: &PeerIdentity) -> bool {
        let known = || self.registry.has_certificate(&peer.agent_id, &peer.serial, peer.not_after_ms);
        peer.brought.is_some() && !known()
    }

    /// A hub joins.
    ///
    /// # Errors
    /// The token or the request is not taken, or the root's key is not here.
    pub fn join(&self, message: &JoinRequest) -> Result<JoinAnswer, Denied> {
        let key = key_of(&message.request)?;
        if !self.authority.roots().iter().any(|root| root.role == "signing" && root.has_key) {
            return denied(403, IdentityError::NoRootKey);
        }
        self.registry
            .redeem(&message.token, Redeemer { kind: TokenKind::Join, key: &key })
            .or_else(refused)?;
        if self.registry.is_revoked(&message.hub_id, "") {
            return denied(403, "this hub was revoked");
        }
        let admission = self
            .authority
            .admit_hub(&message.hub_id, &message.request)
            .or_else(|error| denied(400, error))?;
        let hub = HubRecord {
            hub_id: message.hub_id.clone(),
            address: message.address.clone(),
            roots: Vec::new(),
            at_ms: self.clock.now_ms(),
        };
        self.registry.remember_hub(hub).or_else(|error| denied(400, error))?;
        let (revocations, hub_id) = (self.registry.revocations(), self.authority.hub_id());
        Ok(JoinAnswer { admission, revocations, hub_id })
    }

    /// Lets the next root sign, once every other hub of the fleet trusts it. With `force` in any case.
    ///
    /// # Errors
    /// There is no next root, or hubs (the first five are named) would be cut off.
    pub fn switch_root(&self, force: bool) -> Result<(), IdentityError> {
        let roots = self.authority.roots();
        if let Some(next) = roots.iter().find(|root| root.role == "next") {
            let behind = self.hubs_without(|roots| roots.contains(&next.pin));
            refuse_for(&behind, "hubs do not trust the next root yet", force)?;
        }
        self.authority.switch_root()
    }

    /// The other hubs whose roots are not as they should be.
    fn hubs_without(&self, good: impl Fn(&[String]) -> bool) -> Vec<String> {
        let own = self.authority.hub_id();
        let hubs = self.registry.hubs().into_iter();
        hubs.filter(|hub| {
            hub.hub_id != own && !self.registry.is_revoked(&hub.hub_id, "") && !good(&hub.roots)
        })
        .map(|hub| format!("{} at {:?}", hub.hub_id, hub.address))
        .collect()
    }

    /// Forgets the old roots, once every agent that may still come has a certificate under the new one.
    /// With `force` in any case.
    ///
    /// # Errors
    /// There is no old root, or agents or hubs (the first five are named) would be cut off.
    pub fn retire_root(&self, force: bool) -> Result<(), IdentityError> {
        let pin = self.authority.pin()?.to_string();
        let now_ms = self.clock.now_ms();
        let behind: Vec<String> = self
            .registry
            .agents()
            .into_iter()
            .filter(|agent| {
                agent.brought.is_empty()
                    && agent.roots.first() != Some(&pin)
                    && !self.registry.is_revoked(&agent.agent_id, &agent.serial)
                    && agent.not_after_ms.saturating_add(90 * 24 * 3600 * 1000) > now_ms
            })
            .map(|agent| format!("{} of {}", agent.agent_id, agent.cluster))
            .collect();
        let hubs = self.hubs_without(|roots| roots.first() == Some(&pin));
        refuse_for(&hubs, "hubs hang on the old root still", force)?;
        if !behind.is_empty() && !force {
            let shown = behind.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            return Err(IdentityError::State(format!(
                "{} agents have no certificate under the new root yet and would be cut off ({shown}); they get \
                 one with their next renewal",
                behind.len()
            )));
        }
        self.authority.retire_root()
    }

    fn give(&self, subject: &Subject, request: &str, token: String) -> Result<CertificateAnswer, Denied> {
        let issued = self.authority.issue_agent(subject, request).or_else(|error| denied(400, error))?;
        let mine = |error: IdentityError| denied::<CertificateAnswer>(503, error);
        let bundle = match self.authority.bundle() {
            Ok(bundle) => bundle,
            Err(error) => return mine(error),
        };
        let pin = match self.authority.pin() {
            Ok(pin) => pin,
            Err(error) => return mine(error),
        };
        let Issued { chain_pem, identity } = issued;
        let now_ms = self.clock.now_ms();
        let mut roots = vec![pin];
        roots.extend(bundle.pins().into_iter().filter(|other| *other != pin));
        let record = AgentRecord {
            agent_id: identity.agent_id.clone(),
            tenant: identity.tenant.to_string(),
            cluster: identity.cluster.clone(),
            labels: identity.labels.clone(),
            serial: identity.serial.clone(),
            not_after_ms: identity.not_after_ms,
            enrolled_ms: now_ms,
            renewed_ms: now_ms,
            token,
            // The one that this certificate leads to comes first.
            roots: roots.iter().map(ToString::to_string).collect(),
            brought: String::new(),
            elsewhere: false,
        };
        self.registry.remember_agent(record).or_else(|error| denied(503, error))?;
        Ok(CertificateAnswer {
            chain: chain_pem,
            bundle: bundle.to_pem(),
            tenant: identity.tenant.to_string(),
            cluster: identity.cluster,
            agent_id: identity.agent_id,
            labels: identity.labels,
            not_after_ms: identity.not_after_ms,
        })
    }
}

fn refuse_for(hubs: &[String], why: &str, force: bool) -> Result<(), IdentityError> {
    if hubs.is_empty() || force {
        return Ok(());
    }
    let shown = hubs.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    Err(IdentityError::State(format!(
        "{} {why} and would be cut off ({shown}); they follow by themselves as soon as they reach this hub; one          that is gone for good can be revoked",
        hubs.len()
    )))
}

/// The hash of the key, once the request is sound: a bad one must not cost the token.
fn key_of(request: &str) -> Result<[u8; 32], Denied> {
    let status = if request.len() > SIGNING_REQUEST_BYTES_MAX { 413 } else { 400 };
    requested_key_hash(request).or_else(|error| denied(status, error))
}

pub(super) fn refused<T>(refusal: Refusal) -> Result<T, Denied> {
    let status = match refusal {
        Refusal::Bad(_) | Refusal::Kind(..) => 400,
        Refusal::Record(_) => 503,
        _ => 403,
    };
    denied(status, refusal)
}
