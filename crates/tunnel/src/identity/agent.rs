//! An agent's identity: the key that never leaves, the certificate, the roots it trusts; enrolment once,
//! renewal for ever.
//!
//! All of it is one file, `identity.json` (mode 0600, replaced whole, `docs/formats/certificates.md`). The key is
//! on the disk before the token is sent: when the answer is lost, the same key may redeem the token again.
//! A renewal is for a new key each time, and what is in force is what is on the disk.
//!
//! An agent can also bring a certificate of an authority of the user's ([`AgentIdentity::bring`]). Then hubs say who
//! it is, by their own configuration ([`AgentIdentity::ask_who`]); the answer is in the same file, for a start
//! without a hub.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use stdx::clock::Clock;
use stdx::disk::{Disk, replace_private};
use tenancy::{TenantId, Token, TokenKind};
use tokio::sync::watch;

use super::IdentityError;
use super::bundle::{Bundle, RootPin};
use super::exchange::{
    CertificateAnswer, ENROL_PATH, EnrolRequest, ExchangeError, RENEW_PATH, Reach, RenewRequest, WHO_PATH,
    WhoAnswer, post,
};
use super::key::LocalKey;
use super::peer::{PeerIdentity, PeerKind, Shown, Standing, check_cluster, check_labels};
use super::server_trust::ServerTrust;
use super::tls::{AgentTls, Alpn, OwnCertificate};

/// The file in the agent's data directory.
pub const IDENTITY_FILE: &str = "identity.json";
const VERSION: u32 = 1;
/// Longest sleep before the clock is looked at again: it may have been set, the machine may have slept.
const NAP: Duration = Duration::from_secs(60);
/// First and longest wait after a renewal that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

#[derive(Clone, Default, Serialize, Deserialize)]
struct IdentityFile {
    version: u32,
    /// PEM (PKCS #8): the key of an enrolment under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending_key: Option<String>,
    /// What is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enrolled: Option<Enrolled>,
    /// Who a hub has said the holder of a certificate of the user's is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    brought: Option<Brought>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Brought {
    /// The names in that certificate, for people and to be compared.
    names: String,
    #[serde(flatten)]
    who: WhoAnswer,
}

#[derive(Clone, Serialize, Deserialize)]
struct Enrolled {
    /// PEM (PKCS #8).
    key: String,
    /// PEM.
    chain: String,
    /// PEM.
    bundle: String,
    /// The id of the token that was redeemed.
    token: String,
    /// When the certificate came, milliseconds since the epoch.
    obtained_ms: i64,
}

/// Who an agent is.
pub struct AgentIdentity {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    clock: Arc<dyn Clock>,
    /// The user's authorities for hubs, beside the fleet's.
    roots: Mutex<Option<Arc<rustls::RootCertStore>>>,
    tls: AgentTls,
    held: Mutex<Held>,
    changed: watch::Sender<u64>,
    /// One exchange at a time.
    exchanging: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    file: IdentityFile,
    identity: Option<PeerIdentity>,
    /// What the user has brought, and looks after.
    brought: Option<Shown>,
}

impl std::fmt::Debug for AgentIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AgentIdentity({:?})", self.held.lock().identity)
    }
}

impl AgentIdentity {
    /// Opens the identity in `directory`; there may be none yet. Hubs are believed by the fleet's roots and,
    /// where given, by `roots` of the user.
    ///
    /// # Errors
    /// The file cannot be read or is not what it should be.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        roots: Option<Arc<rustls::RootCertStore>>,
        clock: Arc<dyn Clock>,
    ) -> Result<AgentIdentity, IdentityError> {
        // Nobody is believed before enrolment says whom.
        let trust = ServerTrust::Pinned(RootPin([0; 32])).with_users(roots.clone());
        let tls = AgentTls::new(trust, None, Arc::clone(&clock))?;
        let (identity, file) = AgentIdentity::with(disk, directory, roots, tls, clock)?;
        if let Some(file) = file {
            let put = identity.put_in_force(file);
            put.map_err(|error| IdentityError::BadFile {
                path: identity.path.clone(),
                reason: error.to_string(),
            })?;
        }
        Ok(identity)
    }

    /// The identity of an agent that brings its `certificate`, of an authority that its hubs believe; hubs are believed
    /// by `roots`. What hubs have said that it is, is in `directory`. It is never renewed by us;
    /// [`AgentIdentity::replace`] takes a new one.
    ///
    /// # Errors
    /// The file cannot be read or is not what it should be, or the certificate cannot be read.
    pub fn bring(
        disk: Arc<dyn Disk>,
        directory: &Path,
        certificate: OwnCertificate,
        roots: Arc<rustls::RootCertStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<AgentIdentity, IdentityError> {
        let shown = shown_by(&certificate)?;
        let trust = ServerTrust::Roots(Arc::clone(&roots));
        let tls = AgentTls::new(trust, Some(certificate), Arc::clone(&clock))?;
        let (identity, file) = AgentIdentity::with(disk, directory, Some(roots), tls, clock)?;
        let mut held = identity.held.lock();
        held.file = file.unwrap_or(IdentityFile { version: VERSION, ..IdentityFile::default() });
        let said = held.file.brought.as_ref().filter(|brought| brought.names == shown.to_string());
        held.identity = said.map(|brought| identity_said(&brought.who, &shown)).transpose()?;
        held.brought = Some(shown);
        drop(held);
        Ok(identity)
    }

    fn with(
        disk: Arc<dyn Disk>,
        directory: &Path,
        roots: Option<Arc<rustls::RootCertStore>>,
        tls: AgentTls,
        clock: Arc<dyn Clock>,
    ) -> Result<(AgentIdentity, Option<IdentityFile>), IdentityError> {
        let path = directory.join(IDENTITY_FILE);
        let file = read(disk.as_ref(), &path)?;
        let identity = AgentIdentity {
            disk,
            path,
            clock,
            roots: Mutex::new(roots),
            tls,
            held: Mutex::default(),
            changed: watch::Sender::new(0),
            exchanging: tokio::sync::Mutex::new(()),
        };
        Ok((identity, file))
    }

    /// Shows `certificate`, brought by the user, from the next connection on.
    ///
    /// # Errors
    /// It cannot be read, or this agent has one of the fleet's; the old one stays.
    pub fn replace(&self, certificate: OwnCertificate) -> Result<(), IdentityError> {
        let shown = shown_by(&certificate)?;
        let mut held = self.held.lock();
        if held.brought.is_none() {
            return Err(IdentityError::State("this agent has a certificate of the fleet's".into()));
        }
        if let Some(identity) = &mut held.identity {
            identity.take_dates(&shown);
        }
        held.brought = Some(shown);
        self.tls.replace_certificate(certificate);
        drop(held);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Believes hubs by these authorities of the user's in place of those that were given before, from the next
    /// connection on.
    ///
    /// # Errors
    /// One cannot be used; what was believed stays.
    pub fn replace_roots(&self, roots: Arc<rustls::RootCertStore>) -> Result<(), IdentityError> {
        let trust = match self.bundle() {
            Some(bundle) => ServerTrust::Fleet(bundle).with_users(Some(Arc::clone(&roots))),
            None => ServerTrust::Roots(Arc::clone(&roots)),
        };
        self.tls.replace_trust(trust)?;
        *self.roots.lock() = Some(roots);
        Ok(())
    }

    /// Asks `hub` who the certificate that the user brought says that this is, and writes it down.
    ///
    /// # Errors
    /// [`ExchangeError::Unreachable`] is also a hub that ends the connection because it does not believe the
    /// certificate.
    pub async fn ask_who(&self, reach: &dyn Reach, hub: &str) -> Result<PeerIdentity, ExchangeError> {
        let _one_at_a_time = self.exchanging.lock().await;
        let shown = self.held.lock().brought.clone();
        let shown = shown.ok_or_else(|| IdentityError::State("the certificate is the fleet's".into()))?;
        let tls = self.tls.client_config(Alpn::Http1);
        let who: WhoAnswer = post(reach, hub, tls, WHO_PATH, &serde_json::json!({})).await?;
        let identity = identity_said(&who, &shown)?;
        let mut held = self.held.lock();
        let brought = Brought { names: shown.to_string(), who };
        if held.file.brought.as_ref() != Some(&brought) {
            let file = IdentityFile { brought: Some(brought), ..held.file.clone() };
            self.write(&file)?;
            held.file = file;
        }
        held.identity = Some(identity.clone());
        Ok(identity)
    }

    /// What stands in the certificate that the user has brought.
    pub(super) fn shown(&self) -> Option<Shown> {
        self.held.lock().brought.clone()
    }

    /// The user's authorities that hubs are believed by.
    pub(super) fn roots(&self) -> Option<Arc<rustls::RootCertStore>> {
        self.roots.lock().clone()
    }

    /// Whether the user has brought the certificate.
    pub fn is_brought(&self) -> bool {
        self.held.lock().brought.is_some()
    }

    /// Who it is; `None` before it enrolled, or before a hub has said so.
    pub fn current(&self) -> Option<PeerIdentity> {
        self.held.lock().identity.clone()
    }

    /// Whether it is to enrol with `token`, if there is one: it never did, its certificate expired more
    /// than 90 days ago, or this is another token than the one it has redeemed.
    pub fn is_to_enrol(&self, token: Option<&str>) -> bool {
        let now_ms = self.clock.now_ms();
        let held = self.held.lock();
        if held.brought.is_some() {
            return false;
        }
        let given = token.and_then(|token| token.parse::<Token>().ok()).map(|token| token.id());
        let redeemed = held.file.enrolled.as_ref().map(|enrolled| &enrolled.token);
        held.identity.as_ref().is_none_or(|identity| {
            identity.standing(now_ms) == Standing::Useless && identity.not_after_ms < now_ms
        }) || given.is_some_and(|given| redeemed != Some(&given))
    }

    /// The fleet's roots, which hubs are believed by; `None` before it enrolled, and with a certificate of the user's.
    pub fn bundle(&self) -> Option<Bundle> {
        let held = self.held.lock();
        if held.brought.is_some() {
            return None;
        }
        Bundle::from_pem(&held.file.enrolled.as_ref()?.bundle).ok()
    }

    /// TLS towards hubs; certificate and roots in it follow this identity.
    pub fn tls(&self) -> &AgentTls {
        &self.tls
    }

    /// Tells when there is a new certificate.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Enrols at `hub` (`https://host:port`): redeems `token` for a certificate.
    ///
    /// # Errors
    /// [`ExchangeError::Unreachable`] may be tried again with the same token.
    pub async fn enrol(
        &self,
        reach: &dyn Reach,
        hub: &str,
        token: &str,
    ) -> Result<PeerIdentity, ExchangeError> {
        let _one_at_a_time = self.exchanging.lock().await;
        let parsed: Token = token.parse()?;
        let pin = match (parsed.kind, parsed.pin) {
            (TokenKind::Enrol, Some(pin)) => RootPin(pin),
            (kind, _) => {
                let what = format!("this token is for {}, agents need one for enrol", kind.name());
                return Err(IdentityError::Key(what).into());
            }
        };
        let key = self.key_for_enrolment()?;
        let request = LocalKey::from_pem(&key)?.request()?;
        let message = EnrolRequest { token: token.trim().to_owned(), request };
        // Its own TLS: what is in force stays, should this fail.
        let trust = ServerTrust::Pinned(pin).with_users(self.roots.lock().clone());
        let tls = AgentTls::new(trust, None, Arc::clone(&self.clock))?.client_config(Alpn::Http1);
        let answer: CertificateAnswer = post(reach, hub, tls, ENROL_PATH, &message).await?;
        if !Bundle::from_pem(&answer.bundle)?.pins().contains(&pin) {
            let what = "the hub's roots do not have the one that the token pins";
            return Err(IdentityError::Certificate(what.into()).into());
        }
        self.take(answer, key, parsed.id()).map_err(ExchangeError::from)
    }

    /// Gets a new certificate for a new key at `hub`.
    ///
    /// # Errors
    /// The old certificate stays in force.
    pub async fn renew(&self, reach: &dyn Reach, hub: &str) -> Result<PeerIdentity, ExchangeError> {
        let _one_at_a_time = self.exchanging.lock().await;
        let key = LocalKey::generate()?;
        let message = RenewRequest { request: key.request()? };
        let tls = self.tls.client_config(Alpn::Http1);
        let answer: CertificateAnswer = post(reach, hub, tls, RENEW_PATH, &message).await?;
        let old = self.current();
        let new = certificate_of(&answer.chain, &key.to_pem()).and_then(|it| identity_of(&it))?;
        if old.is_some_and(|old| (old.uri(), old.kind) != (new.uri(), new.kind)) {
            let what = format!("the hub renews it for somebody else, {new}");
            return Err(IdentityError::Certificate(what).into());
        }
        let token = self.held.lock().file.enrolled.as_ref().map(|enrolled| enrolled.token.clone());
        self.take(answer, key.to_pem(), token.unwrap_or_default()).map_err(ExchangeError::from)
    }

    /// When the certificate is to be renewed, milliseconds since the epoch: after two thirds of its time,
    /// give or take a twentieth, so that a fleet enrolled in one night does not come back in one.
    pub fn renewal_due_ms(&self) -> Option<i64> {
        let held = self.held.lock();
        if held.brought.is_some() {
            return None;
        }
        let (enrolled, identity) = (held.file.enrolled.as_ref()?, held.identity.as_ref()?);
        let lifetime_ms = identity.not_after_ms.saturating_sub(enrolled.obtained_ms).max(0);
        // The serial number is random, and the same after a restart.
        let chance = identity.serial.get(2..6).and_then(|hex| i64::from_str_radix(hex, 16).ok());
        let per_mille = 617 + chance.unwrap_or(0) % 100;
        Some(enrolled.obtained_ms + lifetime_ms / 1000 * per_mille)
    }

    /// Renews the certificate in time, at the first of `hubs` that does it, until dropped.
    pub async fn keep_renewed(&self, reach: &dyn Reach, hubs: &[String]) {
        let mut changes = self.changes();
        let mut failures = 0;
        loop {
            let wait_ms = match self.renewal_due_ms() {
                Some(due_ms) => due_ms - self.clock.now_ms(),
                None => i64::MAX,
            };
            if wait_ms > 0 {
                let nap = NAP.min(Duration::from_millis(wait_ms.unsigned_abs()));
                tokio::select! {
                    () = tokio::time::sleep(nap) => {}
                    _ = changes.changed() => {}
                }
                continue;
            }
            if self.renew_at_any(reach, hubs).await {
                failures = 0;
                continue;
            }
            failures += 1;
            let longest = RETRY.0.saturating_mul(1 << (failures - 1).min(7)).min(RETRY.1);
            tokio::time::sleep(longest.mul_f64(rand::random_range(0.5..1.0))).await;
        }
    }

    async fn renew_at_any(&self, reach: &dyn Reach, hubs: &[String]) -> bool {
        for hub in hubs {
            match self.renew(reach, hub).await {
                Ok(identity) => {
                    let until_ms = identity.not_after_ms;
                    tracing::info!(%hub, serial = identity.serial, until_ms, "certificate renewed");
                    return true;
                }
                Err(error) => tracing::warn!(%hub, %error, "the certificate could not be renewed"),
            }
        }
        false
    }

    /// The key that enrols, on the disk before it is used.
    fn key_for_enrolment(&self) -> Result<String, IdentityError> {
        let mut held = self.held.lock();
        if let Some(key) = &held.file.pending_key {
            return Ok(key.clone());
        }
        let key = LocalKey::generate()?.to_pem();
        let file = IdentityFile { version: VERSION, pending_key: Some(key.clone()), ..held.file.clone() };
        self.write(&file)?;
        held.file = file;
        Ok(key)
    }

    /// Writes down what a hub gave, and puts it in force.
    fn take(
        &self,
        answer: CertificateAnswer,
        key: String,
        token: String,
    ) -> Result<PeerIdentity, IdentityError> {
        // Checked before anything is written.
        identity_of(&certificate_of(&answer.chain, &key)?)?;
        Bundle::from_pem(&answer.bundle)?;
        let obtained_ms = self.clock.now_ms();
        let enrolled = Enrolled { key, chain: answer.chain, bundle: answer.bundle, token, obtained_ms };
        let brought = self.held.lock().file.brought.clone();
        let file = IdentityFile { version: VERSION, pending_key: None, enrolled: Some(enrolled), brought };
        self.write(&file)?;
        self.put_in_force(file)?;
        self.changed.send_modify(|version| *version += 1);
        self.current().ok_or_else(|| IdentityError::State("no certificate is in force".into()))
    }

    fn put_in_force(&self, file: IdentityFile) -> Result<(), IdentityError> {
        let mut identity = None;
        if let Some(enrolled) = &file.enrolled {
            let certificate = certificate_of(&enrolled.chain, &enrolled.key)?;
            identity = Some(identity_of(&certificate)?);
            let fleet = ServerTrust::Fleet(Bundle::from_pem(&enrolled.bundle)?);
            self.tls.replace_trust(fleet.with_users(self.roots.lock().clone()))?;
            self.tls.replace_certificate(certificate);
        }
        *self.held.lock() = Held { file, identity, brought: None };
        Ok(())
    }

    fn write(&self, file: &IdentityFile) -> Result<(), IdentityError> {
        let path = &self.path;
        let failed = |verb, source| IdentityError::File { verb, path: path.clone(), source };
        let text = serde_json::to_vec_pretty(file).map_err(|error| failed("write", error.into()))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        self.disk.create_dir_all(directory).map_err(|source| failed("make the directory of", source))?;
        if let Some(above) = directory.parent().filter(|above| !above.as_os_str().is_empty()) {
            self.disk.sync_dir(above).map_err(|source| failed("sync the directory of", source))?;
        }
        replace_private(self.disk.as_ref(), path, &text).map_err(|source| failed("write", source))
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<IdentityFile>, IdentityError> {
    let bytes = match disk.read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::File { verb: "read", path: path.to_owned(), source }),
    };
    let bad = |reason: String| IdentityError::BadFile { path: path.to_owned(), reason };
    let file: IdentityFile = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if file.version != VERSION {
        return Err(bad(format!("version {}; this program reads {VERSION}", file.version)));
    }
    Ok(Some(file))
}

fn certificate_of(chain: &str, key: &str) -> Result<OwnCertificate, IdentityError> {
    OwnCertificate::from_pem(chain, key)
}

fn identity_of(certificate: &OwnCertificate) -> Result<PeerIdentity, IdentityError> {
    let first = certificate.chain().first();
    let first = first.ok_or_else(|| IdentityError::Certificate("the chain is empty".into()))?;
    PeerIdentity::of_certificate(first)
}

fn shown_by(certificate: &OwnCertificate) -> Result<Shown, IdentityError> {
    let first = certificate.chain().first();
    Shown::read(first.ok_or_else(|| IdentityError::Certificate("the chain is empty".into()))?)
}

/// Who a hub says that the holder of a certificate is.
fn identity_said(who: &WhoAnswer, shown: &Shown) -> Result<PeerIdentity, IdentityError> {
    let bad = |error: &dyn std::fmt::Display| {
        IdentityError::Certificate(format!("what the hub says of it: {error}"))
    };
    check_cluster(&who.cluster)?;
    check_labels(&who.labels)?;
    let mut identity = PeerIdentity {
        kind: PeerKind::Agent,
        tenant: TenantId::new(&who.tenant).map_err(|error| bad(&error))?,
        cluster: who.cluster.clone(),
        agent_id: who.agent_id.clone(),
        labels: who.labels.clone(),
        brought: Some(shown.to_string()),
        serial: String::new(),
        not_before_ms: 0,
        not_after_ms: 0,
    };
    identity.take_dates(shown);
    Ok(identity)
}

#[cfg(test)]
mod tests;
