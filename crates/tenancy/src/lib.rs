//! Who is calling: tokens, their roles and scopes, the agents that enrolled, and what has been revoked.
//!
//! [`Registry`] is the hub's memory of them, one journal in its data directory. It knows digests of
//! secrets only. [`Token`] is the printed form. Hubs tell each other what theirs know ([`Registry::since`],
//! [`Registry::merge`]); what they know adds up the same in whatever order it comes.

mod journal;
mod principal;
mod records;
mod registry;
mod token;

pub use journal::JournalError;
pub use model::TenantId;
pub use principal::{Principal, Role};
pub use records::{AgentRecord, HubRecord, Record, Revocation, TokenRecord};
pub use registry::{
    Claim, Grant, Merged, Overdrawn, Page, Place, REGISTRY_FILE, Redeemer, Refusal, Registry, RegistryError,
    TokenSpec,
};
pub use token::{BadToken, Token, TokenKind};
