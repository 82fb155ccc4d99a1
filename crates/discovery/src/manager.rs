//! Runs the discoverers of all pools and tells of changes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use model::TargetGroup;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{PoolConfig, Source};
use crate::dns::Resolve;
use crate::metrics::Metrics;
use crate::provider::Updates;

#[cfg(test)]
mod tests;

/// How changes are collected.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The least time between two tellings of one pool. Prometheus' is 5 s.
    pub collect: Duration,
    /// How long a pool waits, after a start or reload, for discoverers that have not answered yet.
    pub settle: Duration,
    /// How many tellings may wait for the receiver.
    pub queue: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { collect: Duration::from_secs(5), settle: Duration::from_secs(5), queue: 64 }
    }
}

/// All target groups of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTargets {
    /// The pool's name.
    pub pool: String,
    /// Every group of every source of the pool, in the order of the sources. Groups without targets
    /// may be among them.
    pub groups: Vec<TargetGroup>,
}

/// What a pool's discovery looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// The pool's name.
    pub pool: String,
    /// Its sources, in order.
    pub providers: Vec<ProviderStatus>,
}

/// What one source looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderStatus {
    /// `static`, `file`, `http`, `dns`.
    pub mechanism: &'static str,
    /// Whether it has answered or failed at least once.
    pub reported: bool,
    /// Targets it knows of.
    pub targets: usize,
    /// Why the last attempt failed; empty when it succeeded.
    pub last_error: String,
}

/// The owner of all discoverers.
#[derive(Debug)]
pub struct Manager {
    shared: Arc<Shared>,
    resolver: ResolverHandle,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct ResolverHandle(Arc<dyn Resolve>);

impl std::fmt::Debug for ResolverHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl Manager {
    /// A manager without pools, and the channel on which it tells of them.
    ///
    /// Must be called within a tokio runtime. Everything ends when `stop` is cancelled or the
    /// receiver is dropped.
    pub fn new(
        options: Options,
        metrics: Metrics,
        resolver: Arc<dyn Resolve>,
        stop: CancellationToken,
    ) -> (Manager, mpsc::Receiver<PoolTargets>) {
        let stop = stop.child_token();
        let (sender, receiver) = mpsc::channel(options.queue.max(1));
        let shared = Arc::new(Shared { metrics, changed: Notify::new(), state: Mutex::default() });
        let tasks = TaskTracker::new();
        tasks.spawn(tell(Arc::clone(&shared), options, sender, stop.clone()));
        (Manager { shared, resolver: ResolverHandle(resolver), stop, tasks }, receiver)
    }

    /// Makes `pools` the pools from now on. A source that stays as it was goes on undisturbed;
    /// others are stopped and started. Every pool is told anew, as soon as its new sources have
    /// answered once.
    ///
    /// Pool names are unique: of two pools with one name the later is taken.
    pub fn apply(&self, pools: Vec<PoolConfig>) {
        let mut state = self.shared.state.lock();
        let mut before = std::mem::take(&mut state.pools);
        let names: HashSet<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
        for gone in before.keys().filter(|name| !names.contains(name.as_str())) {
            self.shared.metrics.removed(gone);
        }
        let mut started = Vec::new();
        for pool in pools {
            let mut old = before.remove(&pool.name).map(|pool| pool.providers).unwrap_or_default();
            let mut providers = Vec::with_capacity(pool.sources.len());
            for source in pool.sources {
                let same = old.iter().position(|provider| provider.source == source);
                providers.push(match same {
                    Some(at) => old.remove(at),
                    None => {
                        state.last_id += 1;
                        let provider = Provider::new(state.last_id, source, self.stop.child_token());
                        started.push(provider.id);
                        provider
                    }
                });
            }
            state
                .pools
                .insert(pool.name, Pool { providers, dirty: true, applied: Instant::now(), told: None });
        }
        // Whatever is left in `before` and `old` was dropped, which stops its discoverers.
        drop(before);
        state.index();
        for pool in state.pools.values() {
            for provider in pool.providers.iter().filter(|provider| started.contains(&provider.id)) {
                let discoverer = provider.source.discoverer(&self.resolver.0);
                let mechanism = provider.source.mechanism();
                let updates = Updates::new(Arc::clone(&self.shared), provider.id, mechanism);
                self.tasks.spawn(discoverer.run(updates, provider.stop.0.clone()));
            }
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    /// How every pool stands, sorted by name.
    pub fn status(&self) -> Vec<PoolStatus> {
        let state = self.shared.state.lock();
        let status = |(name, pool): (&String, &Pool)| PoolStatus {
            pool: name.clone(),
            providers: pool.providers.iter().map(Provider::status).collect(),
        };
        state.pools.iter().map(status).collect()
    }

    /// Stops everything and waits until it has ended.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What discoverers write to and the teller reads from.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) metrics: Metrics,
    changed: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pools: BTreeMap<String, Pool>,
    /// The pool of each provider.
    pool_by_provider: HashMap<u64, String>,
    last_id: u64,
}

#[derive(Debug)]
struct Pool {
    providers: Vec<Provider>,
    /// Whether something changed since the last telling.
    dirty: bool,
    applied: Instant,
    /// When the pool was last told since it was applied.
    told: Option<Instant>,
}

#[derive(Debug)]
struct Provider {
    id: u64,
    source: Source,
    stop: StopOnDrop,
    groups: Vec<TargetGroup>,
    reported: bool,
    last_error: String,
}

/// Cancels its token when dropped.
#[derive(Debug)]
struct StopOnDrop(CancellationToken);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Provider {
    fn new(id: u64, source: Source, stop: CancellationToken) -> Provider {
        let stop = StopOnDrop(stop);
        Provider { id, source, stop, groups: Vec::new(), reported: false, last_error: String::new() }
    }

    fn targets(&self) -> usize {
        self.groups.iter().map(|group| group.targets.len()).sum()
    }

    fn status(&self) -> ProviderStatus {
        ProviderStatus {
            mechanism: self.source.mechanism(),
            reported: self.reported,
            targets: self.targets(),
            last_error: self.last_error.clone(),
        }
    }
}

impl State {
    fn index(&mut self) {
        self.pool_by_provider = self
            .pools
            .iter()
            .flat_map(|(name, pool)| pool.providers.iter().map(move |provider| (provider.id, name.clone())))
            .collect();
    }

    fn provider(&mut self, id: u64) -> Option<(&mut Provider, &mut bool)> {
        let pool = self.pools.get_mut(self.pool_by_provider.get(&id)?)?;
        let provider = pool.providers.iter_mut().find(|provider| provider.id == id)?;
        Some((provider, &mut pool.dirty))
    }
}

impl Pool {
    /// When the pool is to be told; `None` while nothing has changed.
    fn due(&self, options: &Options) -> Option<Instant> {
        if !self.dirty {
            return None;
        }
        Some(match self.told {
            Some(told) => told + options.collect,
            None if self.providers.iter().all(|provider| provider.reported) => self.applied,
            None => self.applied + options.settle,
        })
    }
}

impl Shared {
    pub(crate) fn pool_of(&self, provider: u64) -> Option<String> {
        self.state.lock().pool_by_provider.get(&provider).cloned()
    }

    pub(crate) fn set(&self, provider: u64, groups: Vec<TargetGroup>, error: Option<String>) {
        let mut state = self.state.lock();
        let Some((provider, dirty)) = state.provider(provider) else { return };
        *dirty |= provider.groups != groups;
        provider.groups = groups;
        provider.reported = true;
        provider.last_error = error.unwrap_or_default();
        drop(state);
        self.changed.notify_one();
    }

    pub(crate) fn failed(&self, provider: u64, error: String) {
        let mut state = self.state.lock();
        let Some((provider, _)) = state.provider(provider) else { return };
        provider.reported = true;
        provider.last_error = error;
        drop(state);
        self.changed.notify_one();
    }

    fn next_due(&self, options: &Options) -> Option<Instant> {
        self.state.lock().pools.values().filter_map(|pool| pool.due(options)).min()
    }

    /// The pools that are due at `now`; they are then no longer dirty.
    fn take_due(&self, now: Instant, options: &Options) -> Vec<PoolTargets> {
        let mut state = self.state.lock();
        let mut due = Vec::new();
        for (name, pool) in &mut state.pools {
            if pool.due(options).is_some_and(|at| at <= now) {
                pool.dirty = false;
                pool.told = Some(now);
                let groups =
                    pool.providers.iter().flat_map(|provider| provider.groups.iter().cloned()).collect();
                self.metrics.updated(name, pool.providers.iter().map(Provider::targets).sum());
                due.push(PoolTargets { pool: name.clone(), groups });
            }
        }
        due
    }
}

/// Tells of pools as they become due.
async fn tell(
    shared: Arc<Shared>,
    options: Options,
    sender: mpsc::Sender<PoolTargets>,
    stop: CancellationToken,
) {
    let rounds = async {
        loop {
            let due = shared.next_due(&options);
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shared.changed.notified() => continue,
                () = sender.closed() => return,
                () = wait => {}
            }
            for targets in shared.take_due(Instant::now(), &options) {
                if sender.send(targets).await.is_err() {
                    return;
                }
            }
        }
    };
    stop.run_until_cancelled(rounds).await;
    // Also when the receiver is gone: nobody is left to find targets for.
    stop.cancel();
}
