//! Who the agent is: enrolled once, renewed for ever; or, without a hub, who it says it is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use model::Labels;
use stdx::clock::Clock;
use tunnel::identity::{AgentIdentity, ExchangeError, PeerIdentity, Reach, Reaching};
use tunnel::{Connector, HubUrl};

use super::brought;
use crate::cli::AgentArgs;

/// First and longest wait after a hub could not be reached.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The way to hubs, for exchanges of certificates.
pub(super) struct Way(pub(super) Connector);

impl Reach for Way {
    fn reach<'a>(&'a self, hub: &'a str, tls: Arc<rustls::ClientConfig>) -> Reaching<'a> {
        Box::pin(async move {
            let url = HubUrl::parse(hub).map_err(|error| error.to_string())?;
            let stream = self.0.connect(&url, tls).await.map_err(|error| error.to_string())?;
            Ok(Box::new(stream) as _)
        })
    }
}

/// Who an agent is.
pub(super) struct Who {
    /// The cluster it stands in; empty where nobody has said so.
    pub(super) cluster: String,
    /// What every series of it carries.
    pub(super) stamped: Labels,
    /// What it shows hubs; missing without any.
    pub(super) identity: Option<Arc<AgentIdentity>>,
}

impl Who {
    /// With hubs the identity of the data directory, which see [`identity`]; without, what the flags say.
    ///
    /// # Errors
    /// See there.
    pub(super) async fn of(args: &AgentArgs, way: &Way, clock: Arc<dyn Clock>) -> Result<Who> {
        let who = if args.hubs.is_empty() {
            let cluster = args.cluster.clone().unwrap_or_default();
            let stamped =
                Labels::from_pairs([("cluster", &cluster)].into_iter().filter(|_| !cluster.is_empty()));
            Who { cluster, stamped, identity: None }
        } else {
            let (identity, peer) = identity(args, way, clock).await?;
            let further = peer.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let stamped = Labels::from_pairs(further.chain([("cluster", peer.cluster.as_str())]));
            Who { cluster: peer.cluster, stamped, identity: Some(identity) }
        };
        let agent = who.identity.as_ref().and_then(|identity| identity.current()).map(|peer| peer.agent_id);
        tracing::info!(agent, cluster = who.cluster, labels = %who.stamped, "this agent");
        Ok(who)
    }
}

/// The identity in the data directory; enrols when there is none, which takes until one of the hubs answers.
///
/// # Errors
/// No identity and no token, a hub refuses the token, or the directory cannot be used.
async fn identity(
    args: &AgentArgs,
    way: &Way,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<AgentIdentity>, PeerIdentity)> {
    let directory = args.data.display();
    let identity = brought::open(&args.own, &args.data, clock)?;
    if identity.is_brought() {
        let who = brought::who(&identity, way, &args.hubs).await?;
        return Ok((Arc::new(identity), who));
    }
    let token = token(args)?;
    if identity.is_to_enrol(token.as_deref()) {
        let Some(token) = token else {
            bail!(
                "there is no identity in {directory} yet: an agent needs a token once. Make one at the hub with \
                 `marigraph token create --cluster NAME` and give it with --token; or give a certificate of an \
                 authority that the hub believes with --hub.cert-file"
            );
        };
        enrol(&identity, way, &args.hubs, &token).await?;
    }
    let current = identity.current().context("no certificate is in force")?;
    Ok((Arc::new(identity), current))
}

fn token(args: &AgentArgs) -> Result<Option<String>> {
    let read = |path: &Path| -> Result<String> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read the token in {}", path.display()))?;
        Ok(text.trim().to_owned())
    };
    match (&args.token, &args.token_file) {
        (Some(token), _) => Ok(Some(token.clone())),
        (None, Some(path)) => read(path).map(Some),
        (None, None) => Ok(None),
    }
}

/// Tries each hub in turn until one answers.
async fn enrol(identity: &AgentIdentity, way: &Way, hubs: &[String], token: &str) -> Result<()> {
    let mut wait = RETRY.0;
    loop {
        for hub in hubs {
            match identity.enrol(way, hub, token).await {
                Ok(who) => {
                    tracing::info!(%hub, cluster = who.cluster, agent = who.agent_id, "enrolled");
                    return Ok(());
                }
                Err(error @ ExchangeError::Unreachable { .. }) => {
                    tracing::warn!(%error, "no hub to enrol at yet; trying again (`marigraph agent check` tells what is wrong)");
                }
                Err(error) => return Err(error).context("enrol"),
            }
        }
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.75..1.25))).await;
        wait = wait.saturating_mul(2).min(RETRY.1);
    }
}
