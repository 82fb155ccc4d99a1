//! Who is calling: tokens, their roles and scopes, and what has been revoked.

pub use model::TenantId;
