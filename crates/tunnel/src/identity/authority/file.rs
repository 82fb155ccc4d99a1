//! `authority.json`: roots, keys and the hub's intermediate, in one file.

use std::io;
use std::path::Path;

use rcgen::{Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use stdx::disk::{Disk, replace_private};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Bundle, IdentityError, Intermediate, Root};
use crate::identity::bundle::{certificates_from_pem, certificates_to_pem};

/// The file's name.
pub const AUTHORITY_FILE: &str = "authority.json";
const VERSION: u32 = 1;

/// What a root is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RootRole {
    /// Signs intermediates.
    Signing,
    /// Already trusted, to sign later.
    Next,
    /// Signs no more, still trusted.
    Old,
}

impl RootRole {
    pub(super) fn name(self) -> &'static str {
        match self {
            RootRole::Signing => "signing",
            RootRole::Next => "next",
            RootRole::Old => "old",
        }
    }
}

/// The fleet's roots as they stand in `authority.json` and in an export.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RootFile {
    /// PEM.
    certificate: String,
    /// PEM (PKCS #8); only at hubs that have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    role: RootRole,
    made_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct AuthorityFile {
    version: u32,
    hub_id: String,
    roots: Vec<RootFile>,
    /// PEM: the intermediate.
    intermediate: String,
    /// PEM (PKCS #8).
    intermediate_key: String,
}

/// The roots with their keys, as `marigraph ca export` writes them. Whoever has it can admit hubs.
#[derive(Serialize, Deserialize)]
pub struct AuthorityExport {
    version: u32,
    roots: Vec<RootFile>,
}

/// Prints no key.
impl std::fmt::Debug for AuthorityExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuthorityExport({} roots)", self.roots.len())
    }
}

/// What an authority knows.
pub(super) struct State {
    pub(super) hub_id: String,
    /// Exactly one of them signs.
    pub(super) roots: Vec<Root>,
    pub(super) intermediate: Intermediate,
}

impl State {
    /// The state in the file; `None` where there is no file.
    pub(super) fn read(disk: &dyn Disk, path: &Path) -> Result<Option<State>, IdentityError> {
        let bytes = match disk.read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::File { verb: "read", path: path.to_owned(), source }),
        };
        let bad = |reason: String| IdentityError::BadFile { path: path.to_owned(), reason };
        let file: AuthorityFile = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if file.version != VERSION {
            return Err(bad(format!("version {}; this program reads {VERSION}", file.version)));
        }
        State::of_file(file).map(Some).map_err(|error| bad(error.to_string()))
    }

    /// Puts the state into the file, durably.
    pub(super) fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), IdentityError> {
        let file = |verb, source| IdentityError::File { verb, path: path.to_owned(), source };
        let directory = path.parent().unwrap_or(Path::new("."));
        disk.create_dir_all(directory).map_err(|source| file("make the directory of", source))?;
        if let Some(above) = directory.parent().filter(|above| !above.as_os_str().is_empty()) {
            disk.sync_dir(above).map_err(|source| file("sync the directory of", source))?;
        }
        let text = serde_json::to_vec_pretty(&self.to_file()).map_err(|error| file("write", error.into()))?;
        replace_private(disk, path, &text).map_err(|source| file("write", source))
    }

    pub(super) fn try_clone(&self) -> Result<State, IdentityError> {
        State::of_file(self.to_file())
    }

    pub(super) fn bundle(&self) -> Result<Bundle, IdentityError> {
        Bundle::new(self.roots.iter().map(|root| root.certificate.clone()).collect())
    }

    /// The root that signs intermediates.
    pub(super) fn signing_root(&self) -> Result<&Root, IdentityError> {
        let signing = self.roots.iter().find(|root| root.role == RootRole::Signing);
        signing.ok_or_else(|| IdentityError::State("no root signs".into()))
    }

    /// The root that signed this hub's intermediate.
    pub(super) fn issuing_root(&self) -> Result<&Root, IdentityError> {
        let issuer = issuer(&self.intermediate.certificate)?;
        for root in &self.roots {
            if subject(&root.certificate)? == issuer {
                return Ok(root);
            }
        }
        Err(IdentityError::State("no root of the bundle signed this hub's intermediate".into()))
    }

    pub(super) fn intermediate_issuer(&self) -> Result<Issuer<'_, &KeyPair>, IdentityError> {
        Ok(Issuer::from_ca_cert_der(&self.intermediate.certificate, &self.intermediate.key)?)
    }

    /// Last moment the intermediate is valid, milliseconds since the epoch.
    pub(super) fn intermediate_end_ms(&self) -> Result<i64, IdentityError> {
        let end = parsed(&self.intermediate.certificate)?.validity().not_after.timestamp();
        Ok(end.saturating_mul(1000))
    }

    fn of_file(file: AuthorityFile) -> Result<State, IdentityError> {
        let roots = file.roots.into_iter().map(Root::of_file).collect::<Result<Vec<_>, _>>()?;
        let certificate = one_certificate(&file.intermediate)?;
        let key = key(&file.intermediate_key)?;
        let state = State { hub_id: file.hub_id, roots, intermediate: Intermediate { certificate, key } };
        state.check()?;
        Ok(state)
    }

    /// What every state must satisfy.
    pub(super) fn check(&self) -> Result<(), IdentityError> {
        let signing = self.roots.iter().filter(|root| root.role == RootRole::Signing).count();
        if signing != 1 {
            return Err(IdentityError::State(format!("{signing} roots sign; exactly one must")));
        }
        self.bundle()?;
        self.issuing_root()?;
        let pairs = self.roots.iter().filter_map(|root| Some((&root.certificate, root.key.as_ref()?)));
        let own = (&self.intermediate.certificate, &self.intermediate.key);
        for (certificate, key) in pairs.chain([own]) {
            let public = parsed(certificate)?.public_key().subject_public_key.data.to_vec();
            if public != key.public_key_raw() {
                return Err(IdentityError::State("a key does not belong to its certificate".into()));
            }
        }
        Ok(())
    }

    fn to_file(&self) -> AuthorityFile {
        AuthorityFile {
            version: VERSION,
            hub_id: self.hub_id.clone(),
            roots: self.roots.iter().map(Root::to_file).collect(),
            intermediate: certificates_to_pem(std::slice::from_ref(&self.intermediate.certificate)),
            intermediate_key: self.intermediate.key.serialize_pem(),
        }
    }

    /// The roots with the keys that are here.
    pub(super) fn export(&self) -> AuthorityExport {
        AuthorityExport { version: VERSION, roots: self.roots.iter().map(Root::to_file).collect() }
    }
}

impl AuthorityExport {
    /// The same roots, without their keys.
    pub(super) fn without_keys(mut self) -> AuthorityExport {
        self.roots.iter_mut().for_each(|root| root.key = None);
        self
    }

    pub(super) fn roots(self) -> Result<Vec<Root>, IdentityError> {
        if self.version != VERSION {
            let what = format!("an export of version {}; this program reads {VERSION}", self.version);
            return Err(IdentityError::State(what));
        }
        self.roots.into_iter().map(Root::of_file).collect()
    }
}

impl Root {
    fn of_file(file: RootFile) -> Result<Root, IdentityError> {
        let certificate = one_certificate(&file.certificate)?;
        let key = file.key.as_deref().map(key).transpose()?;
        Ok(Root { certificate, key, role: file.role, made_ms: file.made_ms })
    }

    fn to_file(&self) -> RootFile {
        RootFile {
            certificate: certificates_to_pem(std::slice::from_ref(&self.certificate)),
            key: self.key.as_ref().map(KeyPair::serialize_pem),
            role: self.role,
            made_ms: self.made_ms,
        }
    }
}

fn key(pem: &str) -> Result<KeyPair, IdentityError> {
    KeyPair::from_pem(pem).map_err(|error| IdentityError::Key(error.to_string()))
}

pub(super) fn one_certificate(pem: &str) -> Result<CertificateDer<'static>, IdentityError> {
    let mut all = certificates_from_pem(pem)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(IdentityError::Certificate("one certificate belongs here".into())),
    }
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, IdentityError> {
    let parsed = X509Certificate::from_der(certificate);
    Ok(parsed.map_err(|error| IdentityError::Certificate(error.to_string()))?.1)
}

/// The name of the holder, DER.
pub(super) fn subject(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, IdentityError> {
    Ok(parsed(certificate)?.subject().as_raw().to_vec())
}

/// The name of the signer, DER.
pub(super) fn issuer(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, IdentityError> {
    Ok(parsed(certificate)?.issuer().as_raw().to_vec())
}
