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
    /// Who revoked it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revoked_by: String,
    /// The hub that made it and counts its uses; this one when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub home: String,
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
    /// The token it enrolled with; empty where it needed none.
    pub token: String,
    /// Hashes of the roots it was given with that certificate.
    #[serde(default)]
    pub roots: Vec<String>,
    /// The name in its certificate that stands for it, where an authority of the user's has issued that; empty for the
    /// fleet's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub brought: String,
    /// Another hub told of it, and it was never seen at this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
}

/// A hub of the fleet, as it says of itself or as one that joined dialled it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubRecord {
    /// 16 hexadecimal digits.
    pub hub_id: String,
    /// Where it is reached (`https://host:port`); may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Hashes of the roots it trusts, the one that its own certificate leads to first; empty when it has
    /// not told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<String>,
    /// When this was so, milliseconds since the epoch; the newest record counts.
    pub at_ms: i64,
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

/// A line of the journal, and what hubs tell each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// A token was made.
    Token(TokenRecord),
    /// A token was redeemed for the key with this hash, and the holder got this id.
    TokenUsed {
        /// The token.
        id: String,
        /// SHA-256 of the key, hexadecimal.
        key: String,
        /// Who the holder of the key is now.
        agent_id: String,
        /// When, milliseconds since the epoch.
        at_ms: i64,
    },
    /// A token was taken back.
    TokenRevoked {
        /// The token.
        id: String,
        /// When, milliseconds since the epoch.
        at_ms: i64,
        /// By whom.
        author: String,
    },
    /// An agent got a certificate.
    Agent(AgentRecord),
    /// Certificates are good for nothing any more.
    Revoked(Revocation),
    /// A hub belongs to the fleet.
    Hub(HubRecord),
}
