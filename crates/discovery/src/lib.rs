//! Static, file, HTTP and DNS discovery: target groups out.
//!
//! A [`Manager`] runs the discoverers of every scrape pool and tells, pool by pool, the whole set of
//! target groups whenever it has changed. Changes are collected for a few seconds, so that a busy
//! source does not make the scraper run in circles; right after a start or reload a pool is told as
//! soon as each of its discoverers has answered once.
//!
//! ```text
//!  Source ─► Discoverer ─► Updates ─┐
//!  Source ─► Discoverer ─► Updates ─┴► pool ─► (collected) ─► PoolTargets ─► scrape
//! ```
//!
//! A discoverer that fails keeps what it last knew. Nothing here opens a connection by itself except
//! DNS: HTTP requests go through an [`HttpFetch`] that the wiring hands in.

use std::future::Future;
use std::pin::Pin;

pub mod config;
pub mod dns;
pub mod document;
pub mod file;
pub mod http;
pub mod manager;
pub mod metrics;
pub mod provider;

pub use config::{DnsConfig, DnsRecordType, FileConfig, HttpConfig, PoolConfig, Source};
pub use dns::{DnsRecord, Resolve, SystemResolver};
pub use http::{HttpFetch, HttpRequest, HttpResponse};
pub use manager::{Manager, Options, PoolStatus, PoolTargets, ProviderStatus};
pub use metrics::Metrics;
pub use provider::{Discoverer, Updates};

/// A future on the heap, for traits that are used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
