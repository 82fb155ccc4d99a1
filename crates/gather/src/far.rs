//! What this crate asks of the stores far away; the wiring knows the way to them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use model::{Labels, Matcher, TenantId};
use tokio::sync::mpsc;

/// A future in a box, as trait objects need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The body of an answer, as it comes.
pub type Pieces = mpsc::Receiver<Result<Vec<u8>, FarError>>;

/// Why a far store gave no answer, for people: `the agent is not connected`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FarError(pub String);

/// From when to when a store may have samples, milliseconds since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// Before this it has not all there was, where it is known.
    pub oldest_ms: Option<i64>,
    /// Before this it surely has nothing, where it is known.
    pub first_ms: Option<i64>,
    /// After this it surely has nothing, where it is known.
    pub end_ms: Option<i64>,
}

/// One store far away, as it is now.
pub trait Far: Send + Sync {
    /// Its cluster.
    fn cluster(&self) -> &str;

    /// Its own name; a cluster may have several stores.
    fn name(&self) -> &str;

    /// Labels that every series of it carries (`cluster` and what else enrolment stamped): a selection
    /// that contradicts them is not sent, a series that contradicts them is not taken.
    fn labels(&self) -> &Labels;

    /// What times it has.
    fn reach(&self) -> Reach;

    /// Sends a remote-read request (a `prometheus.ReadRequest`, packed with snappy) that wants chunks.
    /// Dropping the receiver ends the answer.
    fn read(&self, request: Vec<u8>) -> BoxFuture<'_, Result<Pieces, FarError>>;

    /// Gets `path_and_query` of its Prometheus API, with at most `bytes_max` bytes of answer.
    fn get(&self, path_and_query: String, bytes_max: usize) -> BoxFuture<'_, Result<Vec<u8>, FarError>>;
}

/// All far stores.
pub trait Fleet: Send + Sync {
    /// Those of `tenant` that keep data of their own, connected or not.
    fn stores(&self, tenant: &TenantId) -> Vec<Arc<dyn Far>>;
}

/// Whether a store whose series all carry `labels` may have series that satisfy `matchers`.
pub(crate) fn may_have(labels: &Labels, matchers: &[Matcher]) -> bool {
    matchers.iter().all(|matcher| labels.get(&matcher.name).is_none_or(|value| matcher.matches(value)))
}
