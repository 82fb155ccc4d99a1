//! What the registry remembers, as the lines of its journal have it (`docs/formats/registry.md`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Role, TokenKind};

/// A token that was made, without its secret. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// 16 hexadecimal digits.
    pub id: String,
    /// What it is for.
    pub kind: TokenKind,
    /// SHA-256 of the secret, hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Whose data; of an agent or a caller.
    pub tenant: String,
    /// Of an agent, or the clusters a caller may see (all when empty).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<String>,
    /// Further labels of an agent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Of a caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// How often it may be redeemed; 0 for API tokens, which are shown, not redeemed.
    pub uses_max: u32,
    /// When it was made.
    pub made_ms: i64,
    /// From when on it is worth nothing; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
    /// Who made it.
    pub author: String,
    /// How often it was redeemed.
    #[serde(default)]
    pub uses: u32,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<i64>,
}

/// An agent that enrolled. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Its id.
    pub agent_id: String,
    /// Whose data.
    pub tenant: String,
    /// Its cluster.
    pub cluster: String,
    /// Further labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Serial number of its newest certificate.
    pub serial: String,
    /// End of that certificate.
    pub not_after_ms: i64,
    /// When it enrolled.
    pub enrolled_ms: i64,
    /// When it last got a certificate.
    pub renewed_ms: i64,
    /// The token it enrolled with.
    pub token: String,
    /// Hashes of the roots it was given with that certificate.
    #[serde(default)]
    pub roots: Vec<String>,
}

/// A certificate, or all of an agent or hub, that is good for nothing any more.
///
/// Hubs exchange these records; merging is the union, and nothing takes one back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revocation {
    /// Whose; agent or hub.
    pub agent_id: String,
    /// Which certificate; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
    /// By whom.
    pub author: String,
}

/// A line of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(crate) enum Record {
    Token(TokenRecord),
    /// A token was redeemed for the key with this hash, and the holder got this id.
    TokenUsed {
        id: String,
        key: String,
        agent_id: String,
        at_ms: i64,
    },
    TokenRevoked {
        id: String,
        at_ms: i64,
        author: String,
    },
    Agent(AgentRecord),
    Revoked(Revocation),
}
