//! Who may come in by the configuration (`web: auth:`), whatever the role.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use model::TenantId;
use web::{Auth, Caller, Credential, Role};

use crate::config::WebAuth;

/// The credentials of the configuration, files read.
pub(crate) fn auth(written: &WebAuth) -> Result<Auth> {
    let administrator = || Caller::new(TenantId::default(), Role::Admin);
    let mut accepted = Vec::new();
    for token in &written.bearer_tokens {
        let secret = token.read().map_err(anyhow::Error::msg).context("web: auth: bearer token")?;
        accepted.push((Credential::Bearer(secret.reveal().to_owned()), administrator()));
    }
    for (user, password) in &written.basic_auth_users {
        let secret =
            password.read().map_err(anyhow::Error::msg).with_context(|| format!("web: auth: user {user}"))?;
        let credential = Credential::Basic { user: user.clone(), password: secret.reveal().to_owned() };
        accepted.push((credential, administrator()));
    }
    Ok(Auth::new(accepted))
}

/// Lets nobody in unasked who comes from elsewhere.
///
/// # Errors
/// `addr` is not a loopback address, and there is no credential.
pub(crate) fn require_credential(addr: SocketAddr, auth: &Auth) -> Result<()> {
    if addr.ip().is_loopback() || auth.is_configured() {
        return Ok(());
    }
    bail!(
        "{addr} can be reached from elsewhere and nobody needs a credential; listen on 127.0.0.1, or add \
         `web: {{auth: {{bearer_token_file: FILE}}}}` to the configuration"
    );
}
