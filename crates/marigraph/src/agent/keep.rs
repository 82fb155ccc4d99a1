//! Where an agent's rows are kept: in the queue until hubs and receivers have them, in its own store, or in both.
//!
//! | `storage.local` | hubs | rows go to |
//! |---|---|---|
//! | no | any | the queue, which hubs and receivers of remote write read |
//! | yes | no | the store, and beside it the queue of remote write while there are receivers |
//! | yes | yes | the same, and what is selected into the queue for hubs ([`super::ship`]) |

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use prometheus_client::registry::Registry;
use remote::{Encoder, EncoderConfig, EncoderMetrics, Prompt};
use stdx::clock::Clock;
use stdx::disk::RealDisk;
use storage::{Appender, Queryable};
use tsdb::SeriesLimits;
use web::StoreAdmin;

use super::local::Local;
use super::nothing::Nothing;
use super::ship::{self, Ship};
use crate::cli::AgentArgs;
use crate::config::Config;
use crate::program::Keeper;
use crate::remote_writes::RemoteWrites;
use crate::store::Store;

/// The queue for hubs, within the data directory.
const QUEUE: &str = "queue";
/// Time between two syncs of the queue that remote write has beside a store.
const COMMIT: Duration = Duration::from_millis(200);

/// What keeps the rows.
pub(super) struct Keep {
    /// Into the queue for hubs; missing without hubs and with a store.
    shipping: Option<Arc<Encoder>>,
    local: Option<Local>,
    /// From the store into that queue, where there are both.
    ship: Option<Ship>,
    remote_writes: RemoteWrites,
    /// Takes what is scraped.
    pub(super) scraped: Arc<dyn Appender>,
    /// Takes what is pushed: it has it on disk when it answers.
    pub(super) pushed: Arc<dyn Appender>,
    /// Whether there is a hub.
    has_hubs: bool,
}

impl Keep {
    /// Opens what `config` and the flags ask for. `cluster` is written on what is queued.
    ///
    /// # Errors
    /// Nothing would keep the rows, or files cannot be read.
    pub(super) async fn open(
        args: &AgentArgs,
        config: &Config,
        cluster: &str,
        clock: &Arc<dyn Clock>,
        registry: &mut Registry,
    ) -> Result<Keep> {
        let has_hubs = !args.hubs.is_empty();
        if config.storage.retention_time.is_some() || config.storage.retention_bytes.is_some() {
            tracing::warn!("storage: tsdb: retention is a hub's; an agent has `storage: local: retention`");
        }
        require_a_place(has_hubs || config.storage.local.is_some(), config)?;
        let local = match &config.storage.local {
            Some(local) => Some(Local::open(&args.data, local, &config.storage, clock, registry).await?),
            None => None,
        };
        let shipping = match has_hubs || local.is_none() {
            true => Some(open_queue(args, cluster, clock, registry).await?),
            false => None,
        };
        let remote_writes = match (&local, &shipping) {
            (None, Some(encoder)) => RemoteWrites::over(encoder.queue().clone(), Arc::clone(clock), registry),
            _ => {
                // The figures of an encoder are those of the hub's queue where there is one.
                let figures = EncoderMetrics::default();
                if shipping.is_none() {
                    figures.register(registry);
                }
                RemoteWrites::with_figures(&args.data, COMMIT, Arc::clone(clock), figures, registry)
            }
        };
        let (scraped, pushed, ship): (Arc<dyn Appender>, Arc<dyn Appender>, Option<Ship>);
        match (&local, &shipping) {
            (Some(local), None) => {
                scraped = remote_writes.beside(local.db.clone());
                (pushed, ship) = (Arc::clone(&scraped), None);
            }
            (Some(local), Some(encoder)) => {
                let way = Ship::new(&args.data, Arc::clone(encoder), Arc::clone(clock));
                scraped = remote_writes.beside(way.scraped(local.db.clone()));
                pushed = remote_writes.beside(way.pushed(local.db.clone()));
                ship = Some(way);
            }
            (None, Some(encoder)) => {
                ship::everything_ships(&args.data, clock.now_ms())?;
                scraped = Arc::clone(encoder) as _;
                (pushed, ship) = (Arc::new(Prompt(Arc::clone(encoder))), None);
            }
            (None, None) => bail!("neither a queue nor a store is open"),
        }
        Ok(Keep { shipping, local, ship, remote_writes, scraped, pushed, has_hubs })
    }

    /// Into the queue for hubs, where there is one.
    pub(super) fn shipping(&self) -> Option<&Arc<Encoder>> {
        self.shipping.as_ref()
    }

    /// Answers queries.
    pub(super) fn queryable(&self) -> Arc<dyn Queryable> {
        match &self.local {
            Some(local) => local.db.clone(),
            None => Arc::new(Nothing),
        }
    }

    /// Answers what the API says of the store.
    pub(super) fn admin(&self) -> Arc<dyn StoreAdmin> {
        match &self.local {
            Some(local) => Arc::new(Store(local.db.clone())),
            None => Arc::new(Nothing),
        }
    }

    /// How the rows' places are, for the program.
    pub(super) fn keeper(&self) -> Arc<dyn Keeper> {
        let store = self.local.as_ref().map(|local| Store(local.db.clone()));
        Arc::new(Keeping { shipping: self.shipping.clone(), store })
    }

    /// How long rows are kept, for people; empty without a store.
    pub(super) fn retention(&self) -> String {
        self.local.as_ref().map(Local::retention).unwrap_or_default()
    }

    /// Looks at what may be wrong with a configuration before any of it is in force.
    ///
    /// # Errors
    /// Nothing would keep the rows, or a receiver's TLS files cannot be used.
    pub(super) fn check(&self, config: &Config) -> Result<()> {
        require_a_place(self.has_hubs || self.local.is_some(), config)?;
        self.remote_writes.clients(&config.remote_writes).map(drop)
    }

    /// Puts the part of a configuration in force that can be while rows come in.
    ///
    /// # Errors
    /// A receiver's client or queue cannot be made. Nothing has changed then.
    pub(super) fn apply(&self, config: &Config) -> Result<()> {
        if let (Some(ship), Some(local)) = (&self.ship, &config.storage.local) {
            ship.select(&local.ship, &local.ship_matchers)?;
        }
        self.remote_writes.apply(&config.remote_writes)
    }

    /// Adds to the agent's status; the keys are in docs/formats/tunnel.md.
    pub(super) fn status(&self, status: &mut serde_json::Map<String, serde_json::Value>) {
        if let Some(encoder) = &self.shipping {
            let stats = encoder.queue().stats();
            let not_queued = self.ship.as_ref().map_or(0, Ship::lost);
            let reader = |(name, pending): (String, queue::Pending)| {
                serde_json::json!({
                    "name": name,
                    "blocks": pending.blocks,
                    "rows": pending.rows,
                    "bytes": pending.bytes,
                    "oldest_ms": pending.oldest_ms,
                })
            };
            let readers: Vec<_> = encoder.queue().pending().into_iter().map(reader).collect();
            let queue = serde_json::json!({
                "segments": stats.segments,
                "bytes": stats.bytes,
                "not_queued": not_queued,
                "readers": readers,
            });
            status.insert("queue".to_owned(), queue);
        }
        if let Some(local) = &self.local {
            status.insert("store".to_owned(), local.status());
        }
    }

    /// Writes and syncs what is in memory, and ends remote write; nobody appends any more.
    ///
    /// # Errors
    /// The last rows could not be written. The rest has been done.
    pub(super) async fn stop(&self) -> Result<()> {
        let shipping = self.shipping.clone();
        let flush = move || shipping.map_or(Ok(()), |encoder| encoder.flush());
        let flushed = tokio::task::spawn_blocking(flush).await?.context("write the last block to the queue");
        self.remote_writes.stop().await;
        let Some(local) = &self.local else { return flushed };
        let db = Arc::clone(&local.db);
        let closed = tokio::task::spawn_blocking(move || db.close()).await?.context("close the store");
        flushed.and(closed)
    }
}

/// Somebody has to keep the rows.
fn require_a_place(has_place: bool, config: &Config) -> Result<()> {
    if has_place || !config.remote_writes.is_empty() {
        return Ok(());
    }
    bail!(
        "{}: nothing would keep the rows: give a hub (--hub), a receiver (`remote_write`), or a store of the agent's own \
         (`storage: {{local: {{}}}}`)",
        config.name
    )
}

async fn open_queue(
    args: &AgentArgs,
    cluster: &str,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
) -> Result<Arc<Encoder>> {
    let options = queue::Options {
        bytes_max: args.queue_bytes_max,
        age_max: args.queue_age_max,
        ..queue::Options::default()
    };
    let (directory, opening) = (args.data.join(QUEUE), Arc::clone(clock));
    let shown = directory.display().to_string();
    let open = move || queue::open(RealDisk::shared(), &directory, opening, options);
    let opened =
        tokio::task::spawn_blocking(open).await?.with_context(|| format!("open the queue in {shown}"))?;
    let metrics = EncoderMetrics::default();
    metrics.register(registry);
    let config = EncoderConfig { cluster: cluster.to_owned(), ..EncoderConfig::default() };
    Ok(Encoder::new(opened.writer, Arc::clone(clock), config, metrics))
}

/// Queue and store as the program's keepers of rows.
struct Keeping {
    shipping: Option<Arc<Encoder>>,
    store: Option<Store>,
}

impl Keeper for Keeping {
    fn not_ready(&self) -> Option<String> {
        let read_only = self.shipping.as_ref().is_some_and(|encoder| encoder.queue().stats().read_only);
        let queue = read_only.then(|| {
            "the queue's disk failed to sync; nothing more is queued until the next start".to_owned()
        });
        queue.or_else(|| self.store.as_ref().and_then(Keeper::not_ready))
    }

    fn refused_tenants(&self) -> usize {
        self.store.as_ref().map_or(0, Keeper::refused_tenants)
    }

    fn problems(&self) -> u64 {
        self.store.as_ref().map_or(0, Keeper::problems)
    }

    fn set_series_limits(&self, limits: SeriesLimits) {
        if let Some(store) = &self.store {
            store.set_series_limits(limits);
        }
    }
}
