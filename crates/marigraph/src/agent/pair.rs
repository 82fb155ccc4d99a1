//! Where agents of one cluster share its targets: the member's name, its lease, and what it says of each tick.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use model::SourceId;
use pairs::{BoxFuture, FileLeases, MemberState, Metrics, Pair, PairConfig, Settings, Share, Word, Words};
use prometheus_client::registry::Registry;
use scrape::{Alone, Turn, Turns};
use serde_json::json;
use tunnel::identity::AgentIdentity;
use tunnel::{Connector, HubUrl, Line};

use crate::cli::AgentArgs;
use crate::config::Config;
use crate::pull::Pull;

/// Longest wait for discovery before an agent takes its share.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for scrapes that have begun when the agent stops.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// This agent as one of several; prepared, and then at work.
pub(super) struct Sharing {
    directory: PathBuf,
    settings: Settings,
    share: Share,
    metrics: Metrics,
}

impl Sharing {
    /// What the flags say; `None` for an agent that has all targets to itself.
    ///
    /// # Errors
    /// The directory is not there, or the name cannot be one.
    pub(super) fn of(
        args: &AgentArgs,
        identity: Option<&Arc<AgentIdentity>>,
        config: &Config,
        registry: &mut Registry,
    ) -> Result<Option<Sharing>> {
        let Some(directory) = args.pair_leases.clone() else { return Ok(None) };
        std::fs::read_dir(&directory)
            .with_context(|| format!("--pair.leases {}: it has to be there", directory.display()))?;
        let certificate = || identity.and_then(|identity| identity.current()).map(|who| who.agent_id);
        let name = args.pair_name.clone().or_else(certificate).unwrap_or_else(hostname);
        let name = name.to_ascii_lowercase();
        if !pairs::is_member_name(&name) {
            bail!(
                "--pair.name {name:?}: a member's name is 1 to 63 of a-z, 0-9, '.' and '-', with a letter or digit at both ends"
            );
        }
        let setup = format!("{:08x}", crc32c::crc32c(config.to_yaml().as_bytes()));
        let settings = Settings { name, duration: args.pair_duration, setup, keep: args.pair_keep };
        let share = Share::new(&settings.name);
        Ok(Some(Sharing { directory, settings, share, metrics: Metrics::register(registry) }))
    }

    /// Starts to be one of them: from when the targets are discovered, it takes its share. At `hubs` it hears of the
    /// others while the leases are away.
    pub(super) fn start(self, pull: &Arc<Pull>, hubs: Vec<Line>) -> Sharer {
        let Sharing { directory, settings, share, metrics } = self;
        tracing::info!(member = settings.name, leases = %directory.display(), "this agent shares its targets");
        let leases = Arc::new(FileLeases::new(&directory));
        let clock = pull.scraper().clock();
        let words = hubs.into_iter().map(|line| Arc::new(AtHub(line)) as Arc<dyn Words>).collect();
        let pair = Arc::new(Pair::start(PairConfig { settings, leases, words, clock, metrics }, share));
        let (ready, pull) = (Arc::downgrade(&pair), Arc::clone(pull));
        tokio::spawn(async move {
            pull.discovered(DISCOVERY_PATIENCE).await;
            if let Some(pair) = ready.upgrade() {
                pair.ready();
            }
        });
        Sharer(pair)
    }
}

/// The lines to hubs on which a pair's agents hear of each other; none without hubs.
pub(super) fn lines(
    hubs: &[String],
    connector: &Connector,
    identity: Option<&Arc<AgentIdentity>>,
) -> Vec<Line> {
    let Some(identity) = identity else { return Vec::new() };
    // They have been read before.
    let hubs = hubs.iter().filter_map(|url| HubUrl::parse(url).ok());
    hubs.map(|hub| Line::new(hub, connector.clone(), identity.clone())).collect()
}

/// A hub that carries words.
struct AtHub(Line);

impl Words for AtHub {
    fn exchange(&self, word: Word) -> BoxFuture<'_, Result<Vec<Word>, String>> {
        Box::pin(async move {
            let answer =
                self.0.post("/fleet/v1/pair", word.encode()).await.map_err(|error| error.to_string())?;
            Word::decode_all(&answer)
        })
    }
}

/// Tells the scraper whose turn a tick is.
pub(super) fn turns(sharing: Option<&Sharing>) -> Arc<dyn Turns> {
    match sharing {
        Some(sharing) => Arc::new(ByLease(sharing.share.clone())),
        None => Arc::new(Alone),
    }
}

/// This agent as one of several, at work.
pub(super) struct Sharer(Arc<Pair>);

impl Sharer {
    /// Gives the targets to the others, and waits for the scrapes that have begun.
    pub(super) async fn leave(&self, pull: &Pull) {
        if self.0.leave().await {
            pull.scraper().drain(DRAIN_PATIENCE).await;
        }
    }

    /// The members as this one sees them, for the agent's status.
    pub(super) fn status(&self) -> serde_json::Value {
        let line = |member: MemberState| {
            json!({
                "member": member.member,
                "standing": member.standing,
                "renewed_ms": member.renewed_ms,
                "is_set_up_otherwise": member.is_set_up_otherwise,
            })
        };
        self.0.members().into_iter().map(line).collect()
    }
}

#[derive(Debug)]
struct ByLease(Share);

impl Turns for ByLease {
    fn turn(&self, target: SourceId, tick_ms: i64) -> Turn {
        match self.0.turn(target.0, tick_ms) {
            pairs::Turn::Mine => Turn::Mine,
            pairs::Turn::Other(name) => Turn::Other(name),
            pairs::Turn::Nobody => Turn::Nobody,
        }
    }

    fn holds(&self, tick_ms: i64) -> bool {
        self.0.holds(tick_ms)
    }
}

/// This machine's name.
pub(super) fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
