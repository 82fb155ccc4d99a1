//! What concerns the roots: export and import, hubs that join, one root after another.
//!
//! A root is replaced in three steps, each of which agents get with their next certificate:
//! [`Authority::add_root`] (trusted, signs nothing), [`Authority::switch_root`] (signs; the old one is
//! still trusted), [`Authority::retire_root`] (the old one is gone).

use std::sync::Arc;

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::file::one_certificate;
use super::{
    Authority, AuthorityExport, IdentityError, Intermediate, LocalKey, Root, RootPin, RootRole, State,
    make_intermediate, make_root, requested_key,
};
use crate::identity::bundle::certificates_to_pem;
use crate::identity::{AgentTls, OwnCertificate, ServerTrust};

/// A root, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootInfo {
    /// The hash of its key.
    pub pin: String,
    /// `signing`, `next` or `old`.
    pub role: String,
    /// When it was made, milliseconds since the epoch.
    pub made_ms: i64,
    /// Whether its key is at this hub.
    pub has_key: bool,
}

/// What a hub gets that joins: an intermediate for its key, and the roots, without keys.
#[derive(Debug, Serialize, Deserialize)]
pub struct Admission {
    /// PEM.
    intermediate: String,
    roots: AuthorityExport,
}

impl Authority {
    /// The roots, the one that signs first.
    pub fn roots(&self) -> Vec<RootInfo> {
        let state = self.state.lock();
        let info = |root: &Root| RootInfo {
            pin: RootPin::of(&root.certificate).map(|pin| pin.to_string()).unwrap_or_default(),
            role: root.role.name().to_owned(),
            made_ms: root.made_ms,
            has_key: root.key.is_some(),
        };
        let mut roots: Vec<RootInfo> = state.roots.iter().map(info).collect();
        roots.sort_by_key(|root| root.role != RootRole::Signing.name());
        roots
    }

    /// The roots with the keys that are here, for a safe or another hub. Whoever has it can admit hubs.
    ///
    /// # Errors
    /// The key of the root that signs is not here.
    pub fn export(&self) -> Result<AuthorityExport, IdentityError> {
        let state = self.state.lock();
        state.signing_root()?.key.as_ref().ok_or(IdentityError::NoRootKey)?;
        Ok(state.export())
    }

    /// Takes over the roots of an export in place of its own, and signs itself an intermediate with them.
    /// Agents that were enrolled with the root it had are strangers afterwards.
    ///
    /// # Errors
    /// The export is of another version or broken, or has no key of the root that signs.
    pub fn import(&self, export: AuthorityExport) -> Result<(), IdentityError> {
        let roots = export.roots()?;
        self.change(|state, now_ms| {
            state.roots = roots;
            state.intermediate = new_intermediate(state, now_ms)?;
            state.check()
        })
    }

    /// Signs an intermediate for another hub's key; `request` as in [`Authority::issue_agent`].
    ///
    /// # Errors
    /// The root's key is not here, or the request cannot be used.
    pub fn admit_hub(&self, hub_id: &str, request: &str) -> Result<Admission, IdentityError> {
        if hub_id.len() != 16 || !hub_id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(IdentityError::SigningRequest("a hub's id is 16 hexadecimal digits".into()));
        }
        let key = requested_key(request)?;
        let state = self.state.lock();
        let signed = make_intermediate(state.signing_root()?, hub_id, &key, self.clock.now_ms())?;
        Ok(Admission { intermediate: pem(&signed), roots: state.export().without_keys() })
    }

    /// Becomes a hub of the fleet that gave `admission` for `key`; the root it made for itself is gone.
    ///
    /// # Errors
    /// The admission is not for this key, or does not hang together.
    pub fn join(&self, key: &LocalKey, admission: Admission) -> Result<(), IdentityError> {
        let certificate = one_certificate(&admission.intermediate)?;
        let key = KeyPair::from_pem(&key.to_pem()).map_err(|error| IdentityError::Key(error.to_string()))?;
        let mut roots = admission.roots.without_keys().roots()?;
        self.change(|state, _| {
            // The keys of roots that stay do.
            for kept in state.roots.drain(..) {
                if let Some(root) = roots.iter_mut().find(|root| root.certificate == kept.certificate) {
                    root.key = kept.key;
                }
            }
            state.roots = roots;
            state.intermediate = Intermediate { certificate, key };
            state.check()
        })
    }

    /// Whether these are the roots of a hub that has gone on with a rotation: this one has to be admitted
    /// again by it ([`Authority::join`]), without a token.
    pub fn is_behind(&self, theirs: &[RootInfo]) -> bool {
        let mine = self.roots();
        let signing = |roots: &[RootInfo]| roots.iter().find(|root| root.role == "signing").cloned();
        let (Some(my), Some(their)) = (signing(&mine), signing(theirs)) else { return false };
        let rotating = mine.iter().any(|root| root.role == "next" && root.has_key);
        if !their.has_key || rotating {
            return false;
        }
        if my.pin != their.pin {
            let old_there = theirs.iter().any(|root| root.role == "old" && root.pin == my.pin);
            return old_there || their.made_ms > my.made_ms;
        }
        let lacks = |roots: &[RootInfo], pin: &str| !roots.iter().any(|root| root.pin == pin);
        theirs.iter().any(|root| root.role == "next" && lacks(&mine, &root.pin))
            || mine.iter().any(|root| root.role == "old" && lacks(theirs, &root.pin))
    }

    /// TLS of this hub as a client of the fleet's other hubs.
    ///
    /// # Errors
    /// None that a file read by [`Authority::open_or_create`] leads to.
    pub fn client_tls(&self) -> Result<AgentTls, IdentityError> {
        let certificate = OwnCertificate::try_from(self.issue_server(&[])?)?;
        AgentTls::new(ServerTrust::Fleet(self.bundle()?), Some(certificate), Arc::clone(&self.clock))
    }

    /// The pins of the roots that are trusted, the one that this hub's certificates lead to first.
    ///
    /// # Errors
    /// None that a file read by [`Authority::open_or_create`] leads to.
    pub fn pins(&self) -> Result<Vec<RootPin>, IdentityError> {
        let first = self.pin()?;
        let others = self.bundle()?.pins().into_iter().filter(|pin| *pin != first);
        Ok(std::iter::once(first).chain(others).collect())
    }

    /// Makes the next root and has it trusted; it signs nothing yet.
    ///
    /// # Errors
    /// This hub cannot sign with the present one, or there is a next root already.
    pub fn add_root(&self) -> Result<(), IdentityError> {
        self.change(|state, now_ms| {
            state.signing_root()?.key.as_ref().ok_or(IdentityError::NoRootKey)?;
            if state.roots.iter().any(|root| root.role == RootRole::Next) {
                let what = "there is a next root already; `ca rotate --switch` lets it sign";
                return Err(IdentityError::State(what.into()));
            }
            state.roots.push(Root { role: RootRole::Next, ..make_root(now_ms)? });
            state.check()
        })
    }

    /// Lets the next root sign; the present one stays trusted as old. This hub's intermediate is made
    /// anew; other hubs are admitted again.
    ///
    /// # Errors
    /// There is no next root, or its key is not here.
    pub fn switch_root(&self) -> Result<(), IdentityError> {
        self.change(|state, now_ms| {
            if !state.roots.iter().any(|root| root.role == RootRole::Next) {
                let what = "there is no next root; `ca rotate` makes one";
                return Err(IdentityError::State(what.into()));
            }
            for root in &mut state.roots {
                root.role = match root.role {
                    RootRole::Next => RootRole::Signing,
                    RootRole::Signing | RootRole::Old => RootRole::Old,
                };
            }
            state.intermediate = new_intermediate(state, now_ms)?;
            state.check()
        })
    }

    /// Forgets the old roots: what hangs on them is not trusted any more.
    ///
    /// # Errors
    /// There is none, or this hub's own intermediate hangs on one.
    pub fn retire_root(&self) -> Result<(), IdentityError> {
        self.change(|state, _| {
            let before = state.roots.len();
            state.roots.retain(|root| root.role != RootRole::Old);
            if state.roots.len() == before {
                return Err(IdentityError::State("there is no old root".into()));
            }
            state.check()
        })
    }
}

fn new_intermediate(state: &State, now_ms: i64) -> Result<Intermediate, IdentityError> {
    let key = KeyPair::generate()?;
    let certificate = make_intermediate(state.signing_root()?, &state.hub_id, &key, now_ms)?;
    Ok(Intermediate { certificate, key })
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    certificates_to_pem(std::slice::from_ref(certificate))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use stdx::clock::FakeClock;
    use stdx::disk::FakeDisk;

    use super::*;
    use crate::identity::AuthorityOptions;

    fn authority(disk: &FakeDisk) -> Authority {
        let clock = FakeClock::at(1_790_000_000_000);
        let options = AuthorityOptions::default();
        Authority::open_or_create(disk.shared(), Path::new("/d/fleet"), clock, options).expect("opened")
    }

    fn disk() -> FakeDisk {
        FakeDisk::new(Path::new("/d"))
    }

    fn shown(authority: &Authority) -> Vec<(String, bool)> {
        authority.roots().into_iter().map(|root| (root.role, root.has_key)).collect()
    }

    #[test]
    fn a_root_follows_another_in_three_steps_that_survive_a_restart() {
        let disk = disk();
        let at = |step: &dyn Fn(&Authority) -> Result<(), IdentityError>| {
            let authority = authority(&disk);
            let outcome = step(&authority).map_err(|error| error.to_string());
            let again = self::authority(&disk);
            assert_eq!(authority.roots(), again.roots());
            (
                outcome.is_ok(),
                again.roots().iter().map(|root| root.role.clone()).collect::<Vec<_>>().join(" "),
            )
        };
        let first = authority(&disk).pin().expect("a pin");
        assert_eq!(at(&Authority::switch_root), (false, "signing".into()));
        assert_eq!(at(&Authority::retire_root), (false, "signing".into()));
        assert_eq!(at(&Authority::add_root), (true, "signing next".into()));
        assert_eq!(at(&Authority::add_root), (false, "signing next".into()));
        assert_eq!(authority(&disk).pin().expect("a pin"), first);
        assert_eq!(at(&Authority::switch_root), (true, "signing old".into()));
        let second = authority(&disk).pin().expect("a pin");
        assert_ne!(second, first);
        assert_eq!(authority(&disk).bundle().expect("a bundle").pins().len(), 2);
        assert_eq!(at(&Authority::retire_root), (true, "signing".into()));
        assert_eq!(authority(&disk).bundle().expect("a bundle").pins(), [second]);
    }

    #[test]
    fn hubs_join_with_an_intermediate_and_without_the_roots_key() {
        let (first, second, third) = (authority(&disk()), authority(&disk()), authority(&disk()));
        let key = LocalKey::generate().expect("a key");
        let request = key.request().expect("a request");
        let admission = first.admit_hub(&second.hub_id(), &request).expect("admitted");
        let text = serde_json::to_string(&admission).expect("JSON");
        assert!(!text.contains("PRIVATE KEY"), "a root's key leaves with an admission");
        let wrong = LocalKey::generate().expect("a key");
        let read = || serde_json::from_str::<Admission>(&text).expect("JSON");
        assert!(second.join(&wrong, read()).is_err(), "an admission for another key");
        second.join(&key, read()).expect("joined");
        assert_eq!(second.bundle().expect("a bundle"), first.bundle().expect("a bundle"));
        assert_eq!(shown(&second), [("signing".into(), false)]);
        for outcome in [second.add_root(), second.admit_hub(&third.hub_id(), &request).map(drop)] {
            assert!(matches!(outcome, Err(IdentityError::NoRootKey)), "{outcome:?}");
        }
        assert!(matches!(second.export(), Err(IdentityError::NoRootKey)));
        assert!(first.admit_hub("../../x", &request).is_err());

        // An export carries the key: that hub can do everything.
        third.import(first.export().expect("an export")).expect("imported");
        assert_eq!(third.pin().expect("a pin"), first.pin().expect("a pin"));
        assert_eq!(shown(&third), [("signing".into(), true)]);
        third.add_root().expect("it has the key");
    }

    #[test]
    fn hubs_follow_a_rotation_each_step_once_and_never_back() {
        let (first, second, third) = (authority(&disk()), authority(&disk()), authority(&disk()));
        let follow = |hub: &Authority, other: &Authority| {
            let behind = hub.is_behind(&other.roots());
            if behind {
                let key = LocalKey::generate().expect("a key");
                let request = key.request().expect("a request");
                let admission = other.admit_hub(&hub.hub_id(), &request).expect("admitted");
                hub.join(&key, admission).expect("followed");
            }
            behind
        };
        let key = LocalKey::generate().expect("a key");
        let admission = first.admit_hub(&second.hub_id(), &key.request().expect("a request"));
        second.join(&key, admission.expect("admitted")).expect("joined");
        // The third has the root's key too.
        third.import(first.export().expect("an export")).expect("imported");
        for at in 0..4 {
            let step = match at {
                0 => Ok(()),
                1 => first.add_root(),
                2 => first.switch_root(),
                _ => first.retire_root(),
            };
            step.expect("a step");
            for hub in [&second, &third] {
                assert!(!first.is_behind(&hub.roots()), "{at}");
                assert_eq!(follow(hub, &first), at > 0, "{at}");
                assert!(!follow(hub, &first), "{at}: once is enough");
                assert_eq!(hub.pins().expect("pins"), first.pins().expect("pins"), "{at}");
            }
            assert!(!follow(&second, &third) && !follow(&third, &second), "{at}");
            // A key that was here stays as long as its root.
            assert_eq!(third.roots().iter().any(|root| root.has_key), at < 3, "{at}");
        }
    }

    #[test]
    fn a_change_that_cannot_be_written_is_not_in_force() {
        let disk = disk();
        let authority = authority(&disk);
        disk.set_read_only(true);
        assert!(authority.add_root().is_err());
        assert_eq!(shown(&authority), [("signing".into(), true)]);
    }
}
