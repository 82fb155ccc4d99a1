//! Certificates of the user's own authorities, at an agent: read at the start, and again when their files change.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use stdx::clock::Clock;
use stdx::disk::RealDisk;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::rustls::RootCertStore;
use tunnel::identity::{
    AgentIdentity, ExchangeError, OwnCertificate, PeerIdentity, Reach, explained, roots_of_pem,
};

use crate::cli::{AgentArgs, OwnCertificateArgs};
use crate::hub::read_certificates;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// First and longest wait before hubs that did not say who this is are asked again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long an agent that knows who it is waits at its start for a hub to say so again.
const PATIENCE: Duration = Duration::from_secs(3);

/// The text of the files, as they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnCertificates {
    /// Authorities of hubs.
    ca: Option<String>,
    /// Chain and key that the agent shows.
    pair: Option<(String, String)>,
}

impl OwnCertificates {
    /// Reads the files that the flags name.
    ///
    /// # Errors
    /// One cannot be read.
    pub(crate) fn read(args: &OwnCertificateArgs) -> Result<OwnCertificates> {
        let ca = args.ca_file.as_deref().map(read_certificates).transpose()?;
        let pair = args.cert_file.as_deref().zip(args.key_file.as_deref());
        let pair = pair
            .map(|(chain, key)| Ok::<_, anyhow::Error>((read_certificates(chain)?, read_certificates(key)?)));
        Ok(OwnCertificates { ca, pair: pair.transpose()? })
    }

    /// The authorities, where there are any.
    ///
    /// # Errors
    /// They cannot be used.
    pub(crate) fn roots(&self) -> Result<Option<Arc<RootCertStore>>> {
        self.ca.as_deref().map(roots_of_pem).transpose().context("use --hub.ca-file")
    }

    /// The certificate, where there is one.
    ///
    /// # Errors
    /// It cannot be used, or the key is another's.
    pub(crate) fn certificate(&self) -> Result<Option<OwnCertificate>> {
        let pair = self.pair.as_ref();
        let read = pair.map(|(chain, key)| OwnCertificate::from_pem(chain, key)).transpose();
        read.context("use --hub.cert-file with --hub.key-file")
    }
}

/// The identity in the data directory, with what the user brings; it need not have enrolled.
///
/// # Errors
/// A file cannot be read or used.
pub(crate) fn open(
    args: &OwnCertificateArgs,
    data: &std::path::Path,
    clock: Arc<dyn Clock>,
) -> Result<AgentIdentity> {
    let own = OwnCertificates::read(args)?;
    let (disk, directory) = (RealDisk::shared(), data.display());
    let opened = match (own.certificate()?, own.roots()?) {
        (Some(certificate), Some(roots)) => AgentIdentity::bring(disk, data, certificate, roots, clock),
        (_, roots) => AgentIdentity::open(disk, data, roots, clock),
    };
    opened.with_context(|| format!("open the identity in {directory}"))
}

/// Asks the hubs in turn who this is, until one says so; one that has said so before need not be there.
///
/// # Errors
/// A hub refuses for good.
pub(super) async fn who(identity: &AgentIdentity, way: &dyn Reach, hubs: &[String]) -> Result<PeerIdentity> {
    let mut wait = RETRY.0;
    let known = identity.current();
    loop {
        for hub in hubs {
            let asked = identity.ask_who(way, hub);
            let asked = match &known {
                Some(known) => match tokio::time::timeout(PATIENCE, asked).await {
                    Ok(asked) => asked,
                    Err(_) => return Ok(known.clone()),
                },
                None => asked.await,
            };
            match (asked, &known) {
                (Ok(who), _) => return Ok(who),
                (Err(error), Some(known)) => {
                    tell(hub, &error);
                    return Ok(known.clone());
                }
                (Err(error @ ExchangeError::Unreachable { .. }), None) => tell(hub, &error),
                (Err(error), None) => return Err(error).context("ask who this agent is"),
            }
        }
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.75..1.25))).await;
        wait = wait.saturating_mul(2).min(RETRY.1);
    }
}

fn tell(hub: &str, error: &ExchangeError) {
    let text = error.to_string();
    let why = explained(&text, true).map(|(what, advice)| format!("{what}; {advice}")).unwrap_or_default();
    tracing::warn!(hub, why, "the hub does not say who this agent is: {text}");
}

/// Reads the files again when they change, and has every hub say again who this is then, and whenever a tunnel was `lost`:
/// a hub whose rules have changed closes it. Ends when the hubs agree that this is somebody else. A hub that does not
/// answer holds the files up for as long as an exchange may take.
pub(super) async fn keep(
    args: &AgentArgs,
    identity: &AgentIdentity,
    way: &dyn Reach,
    lost: &Notify,
) -> PeerIdentity {
    let mut before = OwnCertificates::read(&args.own).ok();
    let mut said = Said::new(identity.current(), args.hubs.len());
    let mut untold: Vec<usize> = Vec::new();
    let (mut failed, mut wait, mut again) = (String::new(), RETRY.0, Instant::now());
    let anew = |untold: &mut Vec<usize>, wait: &mut Duration| {
        if identity.is_brought() {
            *untold = (0..args.hubs.len()).collect();
        }
        *wait = RETRY.0;
    };
    anew(&mut untold, &mut wait);
    loop {
        if !untold.is_empty() && Instant::now() >= again {
            let mut still = Vec::new();
            for hub in untold {
                match identity.ask_who(way, &args.hubs[hub]).await {
                    Ok(who) => said.hears(hub, who),
                    Err(error) => {
                        tell(&args.hubs[hub], &error);
                        still.push(hub);
                    }
                }
            }
            if let Some(who) = said.somebody_else() {
                tracing::warn!(%who, "the hubs say that this agent is somebody else now");
                return who.clone();
            }
            untold = still;
            again = Instant::now() + wait;
            wait = wait.saturating_mul(2).min(RETRY.1);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = lost.notified() => {
                anew(&mut untold, &mut wait);
                // All agents of a hub have lost it in the same moment.
                again = Instant::now() + RETRY.0.mul_f64(rand::random_range(0.0..1.0));
                tokio::time::sleep_until(again).await;
            }
        }
        let read = tokio::task::block_in_place(|| look(args, identity, &mut before));
        match read {
            Ok(true) => {
                anew(&mut untold, &mut wait);
                again = Instant::now();
            }
            Ok(false) => failed.clear(),
            Err(error) => {
                let why = format!("{error:#}");
                if why != failed {
                    tracing::warn!("the certificates in force stay: {why}");
                }
                failed = why;
            }
        }
    }
}

/// Who this is by what each hub said last.
struct Said {
    /// Who it has been since the start: what is stamped on series.
    started: Option<PeerIdentity>,
    hubs: Vec<Option<PeerIdentity>>,
    /// Whether the log has been told that they disagree.
    is_told: bool,
}

impl Said {
    fn new(started: Option<PeerIdentity>, hubs: usize) -> Said {
        Said { started, hubs: vec![None; hubs], is_told: false }
    }

    fn hears(&mut self, hub: usize, who: PeerIdentity) {
        self.hubs[hub] = Some(who);
    }

    /// Somebody other than at the start, if all hubs that have answered agree on that: where their rules differ, beginning
    /// anew with each of them would never end.
    fn somebody_else(&mut self) -> Option<&PeerIdentity> {
        let started = self.started.as_ref()?;
        let mut said = self.hubs.iter().flatten();
        let first = said.next()?;
        let agree = said.all(|who| is_same(who, first));
        if !agree && !self.is_told {
            tracing::warn!("the hubs' rules differ in who this agent is: it stays who it is ({started})");
        }
        self.is_told = !agree;
        (agree && !is_same(first, started)).then_some(first)
    }
}

/// Whether series are stamped alike.
fn is_same(one: &PeerIdentity, other: &PeerIdentity) -> bool {
    (&one.tenant, &one.cluster, &one.labels) == (&other.tenant, &other.cluster, &other.labels)
}

/// Puts what has changed in force; whether there was something.
fn look(args: &AgentArgs, identity: &AgentIdentity, before: &mut Option<OwnCertificates>) -> Result<bool> {
    let now = OwnCertificates::read(&args.own)?;
    if before.as_ref() == Some(&now) {
        return Ok(false);
    }
    // All of it can be used, or nothing is.
    let (certificate, roots) = (now.certificate()?, now.roots()?);
    if let Some(roots) = roots {
        identity.replace_roots(roots)?;
    }
    if let Some(certificate) = certificate {
        identity.replace(certificate)?;
    }
    tracing::info!("the agent's own certificates were read again");
    *before = Some(now);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::TenantId;
    use tunnel::identity::PeerKind;

    use super::*;

    #[test]
    fn an_agent_is_somebody_else_when_the_hubs_agree() {
        let who = |cluster: &str| PeerIdentity {
            kind: PeerKind::Agent,
            tenant: TenantId::default(),
            cluster: cluster.to_owned(),
            agent_id: "own-1".to_owned(),
            labels: BTreeMap::new(),
            brought: Some("one".to_owned()),
            serial: String::new(),
            not_before_ms: 0,
            not_after_ms: 0,
        };
        let check = |said: &[Option<&str>], becomes: Option<&str>| {
            let mut all = Said::new(Some(who("alpha")), said.len());
            for (hub, cluster) in said.iter().enumerate() {
                if let Some(cluster) = cluster {
                    all.hears(hub, who(cluster));
                }
            }
            assert_eq!(all.somebody_else().map(|who| who.cluster.as_str()), becomes, "{said:?}");
        };
        check(&[], None);
        check(&[None, None], None);
        check(&[Some("alpha"), None], None);
        check(&[Some("beta")], Some("beta"));
        check(&[None, Some("beta")], Some("beta"));
        check(&[Some("beta"), Some("beta")], Some("beta"));
        check(&[Some("alpha"), Some("beta")], None);
        check(&[Some("gamma"), Some("beta")], None);
    }
}
