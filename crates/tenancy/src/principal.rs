//! What a caller may do, and to whose data.

use std::fmt;
use std::str::FromStr;

use model::TenantId;
use serde::{Deserialize, Serialize};

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Query.
    Read,
    /// Push.
    Write,
    /// Everything.
    Admin,
}

impl Role {
    /// `read`, `write` or `admin`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Write => "write",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        [Role::Read, Role::Write, Role::Admin]
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| format!("{text:?} is no role; write read, write or admin"))
    }
}

/// Who presented an API token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token's id, for logs.
    pub token: String,
    /// What it may do.
    pub role: Role,
    /// Whose data.
    pub tenant: TenantId,
    /// The clusters whose series it may see; all of the tenant's when empty. Sorted.
    pub clusters: Vec<String>,
}
