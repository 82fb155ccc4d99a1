//! Where a hub's rows are kept: the store, the ledger before it, and beside it what leaves by remote write.

use std::sync::Arc;
use std::time::Duration;

use ::ledger::{Ledger, LedgerAppender};
use anyhow::{Context, Result, anyhow};
use prometheus_client::registry::Registry;
use stdx::clock::Clock;
use storage::Appender;
use tokio::task::JoinHandle;
use tsdb::Db;

use super::ledger;
use crate::cli::HubArgs;
use crate::config::{Config, StorageConfig};
use crate::remote_writes::RemoteWrites;
use crate::store::Retention;

/// Takes rows and keeps them.
pub(super) struct Rows {
    pub(super) store: Arc<Db>,
    pub(super) ledger: Arc<Ledger>,
    /// The way in: into the store by way of the ledger, and into the queue of remote write.
    pub(super) appender: Arc<dyn Appender>,
    pub(super) retention: Retention,
    /// The part of the way that the ledger and the store are.
    kept: Arc<LedgerAppender>,
    remote_writes: RemoteWrites,
    /// What the store was opened with.
    storage: StorageConfig,
    /// Keeps the ledger going.
    upkeep: JoinHandle<()>,
}

impl Rows {
    /// Opens what the data directory holds.
    ///
    /// # Errors
    /// The store or the ledger cannot be opened.
    pub(super) async fn open(
        args: &HubArgs,
        storage: &StorageConfig,
        clock: &Arc<dyn Clock>,
        registry: &mut Registry,
    ) -> Result<Rows> {
        // The configuration wins over the flags.
        let retention = Retention::new(
            storage.retention_time.unwrap_or(args.retention_time),
            storage.retention_bytes.unwrap_or(args.retention_size),
        );
        let store = Arc::new(open_store(args, &retention, storage).await?);
        store.register_metrics(registry);
        let ledger = Arc::new(open_ledger(args, &retention, clock).await?);
        ledger.register_metrics(registry);
        let kept = Arc::new(LedgerAppender::new(store.clone(), Arc::clone(&ledger)));
        let upkeep = ledger::keep_up(Arc::clone(&kept), Arc::clone(&ledger), clock.now_ms());
        let remote_writes = RemoteWrites::new(&args.data, args.commit_interval, Arc::clone(clock), registry);
        let appender = remote_writes.beside(kept.clone());
        let storage = storage.clone();
        Ok(Rows { store, ledger, appender, retention, kept, remote_writes, storage, upkeep })
    }

    /// What a configuration could not put in force here, before anything of it is.
    ///
    /// # Errors
    /// A receiver's client cannot be made.
    pub(super) fn check(&self, config: &Config) -> Result<()> {
        self.remote_writes.clients(&config.remote_writes).map(drop)
    }

    /// Puts a checked configuration in force; what the store was opened with stays.
    ///
    /// # Errors
    /// A receiver's queue cannot be opened.
    pub(super) fn apply(&self, config: &Config) -> Result<()> {
        if config.storage != self.storage {
            tracing::warn!("storage: what has changed takes effect with the next start");
        }
        self.remote_writes.apply(&config.remote_writes)
    }

    /// Stops remote write, then closes the ledger and the store, whose logs are synced. Nothing may come in
    /// any more.
    ///
    /// # Errors
    /// The store could not be closed cleanly.
    pub(super) async fn stop(self: Arc<Self>) -> Result<()> {
        self.remote_writes.stop().await;
        self.upkeep.abort();
        let close = move || {
            if let Err(error) = self.kept.commit() {
                tracing::error!("close the ledger: {error}");
            }
            self.store.close().context("close the store")
        };
        tokio::task::spawn_blocking(close).await?
    }
}

async fn open_store(args: &HubArgs, retention: &Retention, storage: &StorageConfig) -> Result<Db> {
    if storage.local.is_some() {
        tracing::warn!("storage: local: is for agents; a hub has a store anyhow");
    }
    let mut store = tsdb::Config::new(&args.data);
    store.retention = retention.time;
    store.retention_bytes = retention.bytes;
    store.sync = match args.commit_interval {
        Duration::ZERO => tsdb::SyncPolicy::Always,
        interval => tsdb::SyncPolicy::Every(interval),
    };
    if let Some(exemplars) = storage.max_exemplars {
        store.exemplars_max = exemplars;
    }
    let directory = args.data.display().to_string();
    // On the thread that the program began with, whose heap grows in larger steps than others'.
    let opened = tokio::task::block_in_place(|| Db::open(store));
    // The store's errors say what lies behind them themselves.
    opened.map_err(|error| anyhow!("open the store in {directory}: {error}"))
}

async fn open_ledger(args: &HubArgs, retention: &Retention, clock: &Arc<dyn Clock>) -> Result<Ledger> {
    let (data, time, clock) = (args.data.clone(), retention.time, Arc::clone(clock));
    tokio::task::spawn_blocking(move || ledger::open(&data, time, clock)).await?
}
