//! What hubs of a fleet say to each other (`docs/formats/certificates.md`): changes of their registries, claims on
//! tokens, and admission under a new root. Both ends show a hub's certificate.

use std::sync::Arc;

use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tenancy::{Claim, Merged, Page, Record, RegistryError};

use super::IdentityError;
use super::authority::{Admission, RootInfo};
use super::desk::{Denied, Desk, denied, refused};
use super::exchange::{ExchangeError, Reach, post};
use super::peer::{PeerIdentity, PeerKind, Standing};

/// Where a hub asks for what has changed.
pub const PULL_PATH: &str = "/fleet/v1/hubs/pull";
/// Where a hub tells of what has changed.
pub const PUSH_PATH: &str = "/fleet/v1/hubs/push";
/// Where a hub redeems a token that was made there.
pub const CLAIM_PATH: &str = "/fleet/v1/hubs/claim";
/// Where a hub gets an intermediate under the root that signs now.
pub const ADMIT_PATH: &str = "/fleet/v1/hubs/admit";
/// How much of a registry goes into one message, bytes.
pub const PAGE_BYTES: usize = 128 << 10;

/// Asks for what has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// The last page's.
    pub epoch: u64,
    /// The last page's.
    pub revision: u64,
    /// How long to wait for a change, if there is none; 20 seconds at most, milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
}

/// What has changed, and which roots the hub trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Whose registry.
    pub hub_id: String,
    /// Its roots.
    pub roots: Vec<RootInfo>,
    /// What has changed.
    pub page: Page,
}

/// Tells of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRequest {
    /// What has changed.
    pub records: Vec<Record>,
}

/// What a hub says that was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// Who it is.
    pub hub_id: String,
    /// Of its registry: another one than before has to be told everything.
    pub epoch: u64,
}

/// What a hub has to merge before it redeems a token of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// The token and its use.
    pub records: Vec<Record>,
}

/// Asks for an intermediate under the root that signs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmitRequest {
    /// PKCS #10, PEM.
    pub request: String,
}

/// Asks another hub, over a connection of its own.
///
/// # Errors
/// See [`ExchangeError`].
pub async fn ask_hub<A: DeserializeOwned>(
    reach: &dyn Reach,
    hub: &str,
    tls: Arc<ClientConfig>,
    path: &str,
    message: &impl Serialize,
) -> Result<A, ExchangeError> {
    post(reach, hub, tls, path, message).await
}

impl Desk {
    /// The hub that calls, if it is one of the fleet.
    ///
    /// # Errors
    /// It shows no certificate, or none of a hub that is in force.
    pub fn hub<'a>(&self, peer: Option<&'a PeerIdentity>) -> Result<&'a PeerIdentity, Denied> {
        let Some(peer) = peer.filter(|peer| peer.kind == PeerKind::Hub) else {
            return denied(403, "this door is for the fleet's hubs, which show their certificate");
        };
        if self.is_revoked(peer) {
            return denied(403, "this hub was revoked");
        }
        if peer.standing(self.clock.now_ms()) != Standing::Current {
            return denied(403, "the hub's certificate is not in force");
        }
        Ok(peer)
    }

    /// What has changed after what the caller knows.
    pub fn pulled(&self, asked: &PullRequest) -> Pulled {
        let page = self.registry.since(asked.epoch, asked.revision, PAGE_BYTES);
        Pulled { hub_id: self.authority.hub_id(), roots: self.authority.roots(), page }
    }

    /// Takes in what another hub tells.
    ///
    /// # Errors
    /// A record makes no sense, or cannot be written down.
    pub fn told(&self, told: PushRequest) -> Result<(Pushed, Merged), Denied> {
        let merged = self.registry.merge(told.records).or_else(|error| match error {
            RegistryError::Journal(_) => denied(503, error),
            _ => denied(400, error),
        })?;
        Ok((Pushed { hub_id: self.authority.hub_id(), epoch: self.registry.epoch() }, merged))
    }

    /// Redeems a token that was made here, for another hub.
    ///
    /// # Errors
    /// Why not.
    pub fn claimed(&self, claim: &Claim) -> Result<Claimed, Denied> {
        let records = self.registry.claim(claim).or_else(refused)?;
        Ok(Claimed { records })
    }

    /// Admits a hub of the fleet under the root that signs now.
    ///
    /// # Errors
    /// The root's key is not here, or the request cannot be used.
    pub fn admitted(&self, hub: &PeerIdentity, asked: &AdmitRequest) -> Result<Admission, Denied> {
        self.authority.admit_hub(&hub.agent_id, &asked.request).or_else(|error| match error {
            IdentityError::NoRootKey => denied(403, error),
            _ => denied(400, error),
        })
    }
}
