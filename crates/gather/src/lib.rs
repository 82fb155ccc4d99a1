//! Selections over several stores, local and far away, merged into one answer.
//!
//! Some clusters keep their data ([`Far`] stores, reached through their tunnels). A selection is sent to
//! each that may have something, with the exact window, while the local store answers; what comes back
//! (remote read's chunks) is merged by full label set. The evaluator sees one [`storage::Queryable`] and
//! does not know.
//!
//! A store that does not answer in time costs its own part: the answer carries a warning that names the
//! cluster, or, for callers who want everything or nothing ([`storage::Missing`]), the query fails. A store
//! that keeps silent is waited for by few, and then left alone for a while.
//!
//! All selections that a query is going to make are sent at once ([`storage::Queryable::expect`]), so that a
//! query of many selectors waits for its stores about as long as one of few.
//!
//! Bounds: seconds for each store and request, bytes and samples for all stores of one request, questions at
//! once for a store, a request, and the program.
//!
//! [`OfCluster`] narrows such a store to one cluster, and takes off what enrolment stamped.
//!
//! Source: Prometheus `storage/remote/read.go`, `storage/merge.go`.

mod ahead;
mod far;
mod gather;
mod merge;
mod metrics;
mod of_cluster;
mod places;
mod pulse;
mod request;
mod samples;
mod text;

pub use far::{BoxFuture, Far, FarError, Fleet, Pieces, Reach};
pub use gather::{Gather, Options};
pub use metrics::Metrics;
pub use of_cluster::OfCluster;
