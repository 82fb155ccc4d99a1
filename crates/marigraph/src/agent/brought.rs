//! Certificates of the user's own authorities, at an agent: read at the start, and again when their files change.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use stdx::clock::Clock;
use stdx::disk::RealDisk;
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

/// Reads the files again when they change, and has every hub say again who this is, until dropped. A hub that does not
/// answer holds the files up for as long as an exchange may take.
pub(super) async fn keep(args: &AgentArgs, identity: &AgentIdentity, way: &dyn Reach) {
    let started = identity.current();
    let mut before = OwnCertificates::read(&args.own).ok();
    let mut untold: Vec<&String> =
        if identity.is_brought() { args.hubs.iter().collect() } else { Vec::new() };
    let (mut failed, mut wait, mut again) = (String::new(), RETRY.0, tokio::time::Instant::now());
    loop {
        if !untold.is_empty() && tokio::time::Instant::now() >= again {
            let mut still = Vec::new();
            for hub in untold {
                match identity.ask_who(way, hub).await {
                    Ok(who) => differs(started.as_ref(), &who),
                    Err(error) => {
                        tell(hub, &error);
                        still.push(hub);
                    }
                }
            }
            untold = still;
            again = tokio::time::Instant::now() + wait;
            wait = wait.saturating_mul(2).min(RETRY.1);
        }
        tokio::time::sleep(LOOK).await;
        let read = tokio::task::block_in_place(|| look(args, identity, &mut before));
        match read {
            Ok(true) if identity.is_brought() => {
                (untold, wait, again) = (args.hubs.iter().collect(), RETRY.0, tokio::time::Instant::now());
            }
            Ok(_) => failed.clear(),
            Err(error) => {
                let said = format!("{error:#}");
                if said != failed {
                    tracing::warn!("the certificates in force stay: {said}");
                }
                failed = said;
            }
        }
    }
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

/// What is stamped on series is settled at the start.
fn differs(started: Option<&PeerIdentity>, who: &PeerIdentity) {
    let told = |who: &PeerIdentity| (who.tenant.clone(), who.cluster.clone(), who.labels.clone());
    if started.is_some_and(|started| told(started) != told(who)) {
        tracing::warn!(%who, "a hub says that this agent is somebody else now; that takes effect with the next start");
    }
}
