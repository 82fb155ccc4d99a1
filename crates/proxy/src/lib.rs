//! Other people's tools through the tunnel: a forward proxy for an unmodified Prometheus, HTTP service
//! discovery that names every target of every cluster with its labels, and PushProx' hub side.
//!
//! Discovery gives each target an address of its own below one suffix that resolves nowhere,
//! `<target>.<cluster>.<suffix>:80` ([`names`]). A Prometheus with `proxy_url` set to the hub asks for
//! it in absolute form; [`Proxy`] finds out who asks and which target is meant, and has it fetched by
//! the agent that knows the target. The agent holds the real URL, TLS and credentials; bytes pass
//! through as they come, neither unpacked nor gathered.
//!
//! What this crate needs of the rest of the hub stands in two traits: [`Fleet`] (clusters, targets, one
//! fetch) and [`Readers`] (who is calling).
//!
//! Source: RFC 9112 section 3.2.2 (absolute form); Prometheus `docs/http_sd.md`.

mod bodies;
mod directory;
mod fleet;
mod forward;
mod headers;
mod limits;
mod metrics;
pub mod names;
mod proxy;
mod pushprox;
mod refusal;
mod sd;

use std::pin::Pin;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

pub use fleet::{
    Caller, ClusterState, Clusters, FetchRequest, Fleet, FleetError, FleetTarget, ReaderError, Readers,
};
pub use metrics::ProxyMetrics;
pub use proxy::{Options, Proxy};
pub use pushprox::message::{Framing, PushedHead, UnreadableMessage};
pub use pushprox::{Door, PushProxOptions};

/// A body on its way through.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// What can go wrong with a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An answer that takes its time.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
