//! Files of the user's that a hub's TLS is made of: its own certificate, and the authorities of agents that bring
//! theirs. Each is read again when it changes; what cannot be used changes nothing, and the log says so once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use tunnel::identity::{Bundle, ClientAuthorities, ClientAuthority, HubTls, OwnCertificate, PeerIdentity};

use super::Identity;
use crate::config::{ClientAuthorityConfig, FleetConfig};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// The largest of them that is read, bytes.
const BYTES_MAX: u64 = 4 << 20;

/// A certificate or a list of them, as it stands.
pub(crate) fn read(path: &Path) -> Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
    read.with_context(|| format!("read {}", path.display()))?;
    if text.len() as u64 >= BYTES_MAX {
        bail!("{}: larger than 4 MiB", path.display());
    }
    Ok(text)
}

/// What the files are, and what stood in them when they were last read.
pub(super) struct OwnFiles {
    /// Certificate and key that everybody is shown but agents that believe the fleet only.
    shown: Option<(PathBuf, PathBuf)>,
    state: Mutex<State>,
}

/// All files as a configuration names them, read and usable.
pub(crate) struct ReadFiles {
    config: FleetConfig,
    shown: Option<(OwnCertificate, (String, String))>,
    authorities: Arc<ClientAuthorities>,
    texts: Vec<(String, String)>,
}

#[derive(Default)]
struct State {
    config: FleetConfig,
    shown: Option<(String, String)>,
    authorities: Option<Vec<(String, String)>>,
    /// What the log has been told.
    told: String,
}

impl OwnFiles {
    /// Nothing is read yet. `shown`: certificate and key.
    pub(super) fn new(shown: Option<(PathBuf, PathBuf)>) -> OwnFiles {
        OwnFiles { shown, state: Mutex::default() }
    }

    /// Reads all of them; nothing has changed yet.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub(super) fn read(&self, config: &FleetConfig) -> Result<ReadFiles> {
        let texts = texts(config)?;
        let authorities = authorities(config, &texts)?;
        Ok(ReadFiles { config: config.clone(), shown: self.shown()?, authorities, texts })
    }

    /// Puts in force what was read. Gives whether some who were believed are not any more.
    pub(super) fn apply(&self, read: ReadFiles, tls: &HubTls) -> bool {
        let mut state = self.state.lock();
        if let Some((certificate, texts)) = read.shown {
            tls.set_own_certificate(Some(certificate));
            state.shown = Some(texts);
        }
        let before = tls.replace_client_authorities(Arc::clone(&read.authorities));
        state.authorities = Some(read.texts);
        state.config = read.config;
        !read.authorities.takes_all_of(&before)
    }

    fn shown(&self) -> Result<Option<(OwnCertificate, (String, String))>> {
        let Some((chain, key)) = &self.shown else { return Ok(None) };
        let texts = (read(chain)?, read(key)?);
        let own = OwnCertificate::from_pem(&texts.0, &texts.1);
        Ok(Some((own.with_context(|| format!("use {}", chain.display()))?, texts)))
    }

    /// Reads again what has changed; gives as [`OwnFiles::apply`] does.
    fn look(&self, tls: &HubTls) -> Result<bool> {
        let mut state = self.state.lock();
        if let Some((certificate, texts)) = self.shown()?
            && state.shown.as_ref() != Some(&texts)
        {
            tls.set_own_certificate(Some(certificate));
            state.shown = Some(texts);
            tracing::info!("the hub shows a new certificate of your own authority");
        }
        let texts = texts(&state.config)?;
        if state.authorities.as_ref() == Some(&texts) {
            return Ok(false);
        }
        let authorities = authorities(&state.config, &texts)?;
        let before = tls.replace_client_authorities(Arc::clone(&authorities));
        state.authorities = Some(texts);
        tracing::info!("authorities of agents' certificates were read again");
        Ok(!authorities.takes_all_of(&before))
    }

    /// Says what a look has come to; a certificate and its key are rarely replaced in the same moment, so the log hears
    /// of what stays wrong once.
    fn tell(&self, looked: Result<bool>) -> bool {
        let said = looked.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        let mut state = self.state.lock();
        if !said.is_empty() && said != state.told {
            tracing::warn!("the certificates and authorities in force stay: {said}");
        }
        state.told = said;
        looked.unwrap_or(false)
    }
}

/// Looks at the hub's files until dropped; calls `close` when some are not believed any more.
pub(super) async fn keep_read(hub: &Arc<Identity>, mut close: impl FnMut()) {
    loop {
        tokio::time::sleep(LOOK).await;
        let looking = Arc::clone(hub);
        let looked =
            tokio::task::spawn_blocking(move || looking.own.tell(looking.own.look(&looking.tls))).await;
        if looked.unwrap_or(false) {
            close();
        }
    }
}

/// Certificates and revocations of each authority.
fn texts(config: &FleetConfig) -> Result<Vec<(String, String)>> {
    let one = |authority: &ClientAuthorityConfig| {
        let revoked = authority.crl_file.as_deref().map(read).transpose()?;
        Ok((read(&authority.ca_file)?, revoked.unwrap_or_default()))
    };
    config.client_authorities.iter().map(one).collect()
}

fn authorities(config: &FleetConfig, texts: &[(String, String)]) -> Result<Arc<ClientAuthorities>> {
    let one = |(authority, (roots, revoked)): (&ClientAuthorityConfig, &(String, String))| {
        let name = authority.ca_file.display().to_string();
        Ok(ClientAuthority {
            roots: Bundle::from_pem(roots).with_context(|| format!("use {name}"))?,
            name,
            revoked: revoked.clone(),
            tenants: authority.tenants.clone(),
            names: authority.names.clone(),
        })
    };
    let all: Vec<ClientAuthority> =
        config.client_authorities.iter().zip(texts).map(one).collect::<Result<_>>()?;
    Ok(Arc::new(ClientAuthorities::new(all)?))
}

/// Reads all files of `fleet`, for `marigraph check config`.
///
/// # Errors
/// One cannot be read or used.
pub(crate) fn check(config: &FleetConfig) -> Result<()> {
    authorities(config, &texts(config)?).map(drop)
}

/// Whose connections end when authorities change.
pub(crate) fn is_brought(peer: &PeerIdentity) -> bool {
    peer.brought.is_some()
}
