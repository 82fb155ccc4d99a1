//! What a lease is, and the place where leases are kept.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::view::View;

/// A future that may be sent.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A member's name is at most this long, bytes.
pub const MEMBER_LENGTH_MAX: usize = 63;

/// What a member is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is there, and takes no targets yet.
    Waiting,
    /// It takes its share.
    Serving,
    /// It stops; others take over.
    Leaving,
}

/// A member's lease. In Kubernetes' words: `holderIdentity` is member and incarnation, `leaseDurationSeconds`,
/// `acquireTime`, `renewTime` and `leaseTransitions` are what they say, and standing and views are annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Whose lease; also its name. See [`is_member_name`](crate::is_member_name).
    pub member: String,
    /// Random, another one with each start of the member's process.
    pub incarnation: u64,
    /// Without a renewal for this long the member is gone.
    pub duration: Duration,
    /// When this incarnation took it, by the member's wall clock, milliseconds since the epoch.
    pub acquired_ms: i64,
    /// When it was renewed, by the member's wall clock. The member scrapes no tick that is later than this
    /// by the duration or more, unless it cannot read the leases and goes on without.
    pub renewed_ms: i64,
    /// How often the lease was taken, or taken again after it had run out.
    pub transitions: u32,
    /// What the member is up to.
    pub standing: Standing,
    /// What it claims: at each tick its share of the view in force. Sorted by time; empty for nothing.
    pub views: Vec<View>,
    /// A fingerprint of what it scrapes: equal for members that are configured alike.
    pub setup: String,
}

/// What changes with each write of a lease; Kubernetes' `resourceVersion`. Only equality means anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// A lease as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What it says.
    pub lease: Lease,
    /// Which write of it that is.
    pub version: Version,
}

/// Why leases could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another version than the expected one stands there, or none: nothing has been written.
    #[error("the lease was changed by somebody else")]
    Conflict(Option<Box<Held>>),
    /// The place cannot be used now. Whether the write has been done is not known.
    #[error("{0}")]
    Unavailable(String),
}

/// The place where leases are kept, seen by all members. Whoever reads sees every write that had returned before
/// the read began.
pub trait Leases: Send + Sync {
    /// All leases that can be read.
    ///
    /// # Errors
    /// The place cannot be read.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Held>, LeaseError>>;

    /// Writes a lease over the version `over`; `None` where none is to be there.
    ///
    /// # Errors
    /// [`LeaseError::Conflict`] with what stands there; otherwise nobody knows whether it was written.
    fn put(&self, lease: Lease, over: Option<Version>) -> BoxFuture<'_, Result<Version, LeaseError>>;

    /// Removes the lease of `member` if it is the version `over`.
    ///
    /// # Errors
    /// As [`Leases::put`].
    fn remove(&self, member: String, over: Version) -> BoxFuture<'_, Result<(), LeaseError>>;
}
