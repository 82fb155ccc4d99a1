//! Who a row belongs to.

use std::fmt;
use std::sync::Arc;

use crate::Labels;

/// The owner of data. Comes from who is calling, never from the data.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

/// A tenant name that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadTenantId;

impl fmt::Display for BadTenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tenant name is 1 to 64 of a-z, 0-9, '-' and '_', and starts with a letter or digit")
    }
}

impl std::error::Error for BadTenantId {}

impl TenantId {
    /// A tenant by name: 1 to 64 of `a-z 0-9 - _`, first a letter or digit (it names a directory).
    ///
    /// # Errors
    /// [`BadTenantId`] for anything else.
    pub fn new(name: &str) -> Result<TenantId, BadTenantId> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if first && name.len() <= 64 && name.bytes().all(allowed) {
            Ok(TenantId(name.into()))
        } else {
            Err(BadTenantId)
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    /// The tenant of an installation that has only one: `default`.
    fn default() -> Self {
        TenantId("default".into())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The logical identity of a source: a 128-bit hash of tenant, cluster, scrape pool, final target
/// labels and URL (for pushes: tenant, door and the labels the series share).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u128);

impl SourceId {
    /// The identity of `labels` seen by `door` (a scrape pool's name, `remote-write`, ...) at `url`
    /// (empty for pushes).
    pub fn of(tenant: &TenantId, cluster: &str, door: &str, labels: &Labels, url: &str) -> SourceId {
        let mut bytes = Vec::with_capacity(128);
        for part in [tenant.as_str(), cluster, door, url] {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.extend_from_slice(labels.as_bytes());
        SourceId(xxhash_rust::xxh3::xxh3_128(&bytes))
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
