//! What the proxy needs of the rest of the hub.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{HeaderMap, Response};
use model::TenantId;
use model::status::ActiveTarget;
use tokio::time::Instant;

use crate::{Body, BoxFuture};

/// The clusters of all tenants, and the way to their targets. Implemented in the wiring, over the
/// tunnels.
pub trait Fleet: Send + Sync {
    /// The clusters of `tenant` that are enrolled, connected or not, in any order, each once.
    fn clusters(&self, tenant: &TenantId) -> Vec<ClusterState>;

    /// The targets of a cluster, as its agents see them now. In any order; every replica is a target of
    /// its own, and no id comes twice.
    ///
    /// # Errors
    /// [`FleetError::UnknownCluster`], [`FleetError::NotConnected`], [`FleetError::Timeout`],
    /// [`FleetError::Failed`].
    fn targets<'a>(
        &'a self,
        tenant: &'a TenantId,
        cluster: &'a str,
    ) -> BoxFuture<'a, Result<Vec<FleetTarget>, FleetError>>;

    /// Has an agent fetch one target: the agent resolves the id to the URL, and adds TLS and credentials.
    /// The answer's head comes as soon as the target has sent it; dropping its body ends the fetch.
    ///
    /// # Errors
    /// See [`FleetError`]; what the target itself answers is no error, whatever its status.
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Response<Body>, FleetError>>;
}

/// A cluster of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterState {
    /// Its name, unique within the tenant.
    pub name: String,
    /// Whether an agent of it is connected to this hub.
    pub connected: bool,
}

/// A target of a cluster.
#[derive(Debug, Clone)]
pub struct FleetTarget {
    /// What the agent resolves to the URL; unique within the cluster.
    pub id: String,
    /// URL, labels, interval, health.
    pub state: ActiveTarget,
}

/// One fetch.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// Whose cluster.
    pub tenant: TenantId,
    /// Which cluster.
    pub cluster: String,
    /// Which target.
    pub target: String,
    /// What the caller sent, without hop-by-hop headers and without credentials.
    pub headers: HeaderMap,
    /// When the caller will have gone; body included.
    pub deadline: Instant,
}

/// Why a fleet could not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// No cluster of this name is enrolled.
    #[error("no such cluster")]
    UnknownCluster,
    /// No agent of the cluster is connected here.
    #[error("no agent is connected")]
    NotConnected,
    /// The agent does not know the target (any longer).
    #[error("the agent has no such target")]
    UnknownTarget,
    /// The agent's own policy does not let the hub reach it.
    #[error("refused by the agent: {0}")]
    Refused(String),
    /// There was no answer in time.
    #[error("no answer in time")]
    Timeout,
    /// Too much is under way already.
    #[error("busy: {0}")]
    Busy(String),
    /// The target could not be reached by the agent, or the tunnel broke.
    #[error("{0}")]
    Failed(String),
}

/// Who is calling. Implemented in the wiring.
pub trait Readers: Send + Sync {
    /// Who sent these headers, of which only `authorization` counts. Without it, the caller that needs
    /// no credential, where there is one.
    ///
    /// # Errors
    /// See [`ReaderError`].
    fn reader(&self, headers: &HeaderMap) -> Result<Caller, ReaderError>;
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReaderError {
    /// No credential, or one that is not known.
    #[error("the credential is not known here")]
    Unknown,
    /// The credential is known and does not allow reading.
    #[error("{0}")]
    NotAllowed(String),
}

/// A caller who may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose targets.
    pub tenant: TenantId,
    /// Which clusters.
    pub clusters: Clusters,
    /// What requests under way are counted by; the same for all of one credential. Not shown to anybody.
    pub key: Arc<str>,
}

/// The clusters a caller may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clusters {
    /// All of the tenant.
    All,
    /// These.
    Only(BTreeSet<String>),
}

impl Clusters {
    /// Whether `cluster` is among them.
    pub fn contains(&self, cluster: &str) -> bool {
        match self {
            Clusters::All => true,
            Clusters::Only(names) => names.contains(cluster),
        }
    }
}
