//! The hub's end of the road: blocks in, rows into the store, exactly once.
//!
//! A block goes the same way whether it is new, repeated, or comes after a restart:
//!
//! 1. Its checksum, its place in the segment and the identity it was written under are looked at. The
//!    tenant and the cluster are the certificate's, never the block's.
//! 2. What it adds to the dictionary is learned and appended to the segment's *dictionary log* on disk, which
//!    is synced before the block is acknowledged. Every entry is verified once: the cluster label of a
//!    series that says something else is renamed to `exported_cluster`.
//! 3. Its rows are decoded. After a restart the dictionary comes from the log, the bases from *context*: blocks
//!    from the floor on, which the sender repeats.
//! 4. Each of its batches is appended under its own exactly-once key. A hub that dies between two of
//!    them is sent the block again, and the store takes what it lacks.
//!
//! What is kept in memory of an agent is the bases (17 bytes a series with the store's reference) and the texts
//! of its dictionary, for the segments that are being read; both go away when nobody reads them.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use queue::{Intervals, Lost};
use stdx::clock::Clock;
use stdx::disk::Disk;
use storage::{Appender, CommitPosition, StoreError};

use crate::block::{Block, BlockError};
use crate::ship::{Intake, IntakeError, Peer, Refusal, SegmentKey, SentBlock, Verdict};

mod collect;
mod log;
mod metrics;
mod names;
mod refused;
mod segment;
#[cfg(test)]
mod tests;

use log::Logs;
pub use metrics::IntakeMetrics;
#[doc(hidden)]
pub use names::fuzz_names;
use names::{Names, Whose};
use refused::Refused;
pub use refused::{NeverComing, Reason};
use segment::{Segment, To};

/// Rows further ahead of the hub's clock than this wait at the agent, milliseconds.
/// Source: Prometheus, `scrape.maxAheadTime`.
const AHEAD_MS: i64 = 10 * 60 * 1000;
/// How long a sender waits whose rows are ahead of the clock, milliseconds.
const AHEAD_RETRY_MS: u64 = 60_000;
/// How long a sender waits when the store does not take its rows now, milliseconds.
const BUSY_RETRY_MS: u64 = 2_000;
/// How long a sender waits when the store has stopped writing, milliseconds.
const READ_ONLY_RETRY_MS: u64 = 30_000;
/// What has not been read for this long leaves the memory, milliseconds.
const MEMORY_IDLE_MS: i64 = 10 * 60 * 1000;
/// A dictionary log that has not been used for this long is removed, milliseconds.
const LOG_IDLE_MS: i64 = 24 * 3600 * 1000;
/// Segments of one agent in memory: live and backlog, and those just left.
const SEGMENTS_OF_AGENT_MAX: usize = 4;

/// What an intake has to know.
#[derive(Clone)]
pub struct IntakeConfig {
    /// Where the dictionary logs are kept.
    pub dir: PathBuf,
    /// Where it is kept under which names queues have been filled.
    pub names_dir: PathBuf,
    /// The label that says which cluster a series comes from.
    pub cluster_label: String,
    /// How long the store keeps samples, milliseconds; `None`: for ever.
    pub retention_ms: Option<i64>,
    /// Told of rows that never come: they were dropped at the agent, or damaged, or are refused.
    pub on_lost: Option<OnLost>,
}

/// Hears of rows of a peer's queue that never come, and says whether that is written down for good: the agent
/// forgets them then. The same may come again.
pub type OnLost = Arc<dyn Fn(&Peer, u128, &NeverComing<'_>) -> bool + Send + Sync>;

impl fmt::Debug for IntakeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntakeConfig")
            .field("dir", &self.dir)
            .field("names_dir", &self.names_dir)
            .field("cluster_label", &self.cluster_label)
            .field("retention_ms", &self.retention_ms)
            .finish_non_exhaustive()
    }
}

/// Takes blocks of agents into a store.
pub struct StoreIntake {
    store: Arc<dyn Appender>,
    clock: Arc<dyn Clock>,
    config: IntakeConfig,
    logs: Logs,
    names: Names,
    metrics: IntakeMetrics,
    agents: Mutex<HashMap<AgentKey, Agent>>,
    refused: Refused,
    /// Everything up to here has been appended.
    appended: AtomicU64,
    /// Everything up to here survives a power cut.
    durable: AtomicU64,
}

/// A queue of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AgentKey {
    peer: Peer,
    queue_id: u128,
}

/// What is in memory of a queue.
#[derive(Default)]
struct Agent {
    segments: HashMap<(u128, u64), Arc<Mutex<Segment>>>,
    /// Blocks stored or refused for good, by incarnation.
    done: HashMap<u128, Intervals>,
    /// Which lost blocks have been booked since the start.
    booked: Vec<Lost>,
    used_ms: i64,
    /// When the newest row began that was taken since the start.
    newest_ms: Option<i64>,
}

impl fmt::Debug for StoreIntake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreIntake").field("config", &self.config).finish_non_exhaustive()
    }
}

impl StoreIntake {
    /// An intake in front of `store`.
    pub fn new(
        store: Arc<dyn Appender>,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        config: IntakeConfig,
        metrics: IntakeMetrics,
    ) -> StoreIntake {
        StoreIntake {
            store,
            clock,
            logs: Logs::new(Arc::clone(&disk), config.dir.clone()),
            names: Names::open(disk, config.names_dir.clone()),
            config,
            metrics,
            agents: Mutex::default(),
            refused: Refused::default(),
            appended: AtomicU64::new(0),
            durable: AtomicU64::new(0),
        }
    }

    /// Lets go of what nobody has used for long, in memory and on disk. To be called every minute or so.
    pub fn upkeep(&self) {
        let now_ms = self.clock.now_ms();
        let is_idle = |used_ms: i64| now_ms.saturating_sub(used_ms) > MEMORY_IDLE_MS;
        let mut agents = self.agents.lock();
        agents.retain(|_, agent| {
            agent.segments.retain(|_, segment| {
                // One that is locked is in use.
                segment.try_lock().is_none_or(|segment| !is_idle(segment.used_ms))
            });
            !agent.segments.is_empty() || !is_idle(agent.used_ms)
        });
        self.metrics.agents.set(agents.len() as i64);
        drop(agents);
        self.logs.remove_unused(now_ms, LOG_IDLE_MS);
    }

    /// When the newest row began that was taken from a queue of a peer, milliseconds since the epoch: since the
    /// start, and while it goes on sending.
    pub fn newest_ms(&self, peer: &Peer, queue_id: u128) -> Option<i64> {
        let agent = AgentKey { peer: peer.clone(), queue_id };
        self.agents.lock().get(&agent)?.newest_ms
    }

    /// What is in memory of a segment, from its log if need be.
    fn segment(&self, peer: &Peer, key: &SegmentKey) -> Arc<Mutex<Segment>> {
        let now_ms = self.clock.now_ms();
        let agent_key = AgentKey { peer: peer.clone(), queue_id: key.queue_id };
        let name = (key.incarnation, key.first);
        let mut agents = self.agents.lock();
        let agent = agents.entry(agent_key.clone()).or_default();
        agent.used_ms = now_ms;
        if let Some(known) = agent.segments.get(&name) {
            return Arc::clone(known);
        }
        if agent.segments.len() >= SEGMENTS_OF_AGENT_MAX {
            let used = |segment: &Arc<Mutex<Segment>>| segment.try_lock().map_or(i64::MAX, |s| s.used_ms);
            let oldest = agent.segments.iter().min_by_key(|(_, segment)| used(segment));
            if let Some(oldest) = oldest.map(|(name, _)| *name) {
                agent.segments.remove(&oldest);
            }
        }
        // Its log is read when it is first locked, not under this lock.
        let segment = Segment::new(agent_key, *key, now_ms);
        let segment = Arc::new(Mutex::new(segment));
        agent.segments.insert(name, Arc::clone(&segment));
        self.metrics.agents.set(agents.len() as i64);
        segment
    }

    /// Tells of dropped rows, in the name of whose they were. Whether that is written down.
    fn tell_lost(&self, peer: &Peer, queue_id: u128, record: &Lost) -> bool {
        let cluster = match self.names.whose(&peer.tenant, queue_id, record.incarnation) {
            Whose::Of(cluster) => cluster,
            Whose::Living(cluster) if cluster == peer.cluster => cluster,
            // Who is not known to have been another speaks of itself.
            Whose::Unknown => peer.cluster.clone(),
            Whose::Living(other) => {
                tracing::info!(
                    cluster = peer.cluster,
                    other,
                    "a copy of another agent's queue has dropped rows: that agent has them"
                );
                self.metrics.unproven_rows.inc_by(record.rows);
                return true;
            }
        };
        if let Some(on_lost) = &self.config.on_lost
            && !on_lost(peer, queue_id, &NeverComing::dropped(&cluster, record))
        {
            return false;
        }
        tracing::warn!(cluster, ?record, "blocks of an agent are lost");
        self.metrics.lost_rows.inc_by(record.rows);
        true
    }

    /// Whether rows of a segment are known to be of `cluster`, and that nobody else may bring them yet.
    fn proves(&self, peer: &Peer, key: &SegmentKey, cluster: &str) -> bool {
        let whose = self.names.whose(&peer.tenant, key.queue_id, key.incarnation);
        cluster == peer.cluster || matches!(whose, Whose::Of(name) if name == cluster)
    }

    fn note_newest(&self, peer: &Peer, key: &SegmentKey, newest_ms: i64) {
        let agent = AgentKey { peer: peer.clone(), queue_id: key.queue_id };
        let mut agents = self.agents.lock();
        let newest = &mut agents.entry(agent).or_default().newest_ms;
        *newest = (*newest).max(Some(newest_ms));
    }

    fn note_done(&self, peer: &Peer, key: &SegmentKey, block: u64) {
        let agent = AgentKey { peer: peer.clone(), queue_id: key.queue_id };
        let mut agents = self.agents.lock();
        agents.entry(agent).or_default().done.entry(key.incarnation).or_default().insert(block, block);
    }

    fn is_done(&self, peer: &Peer, key: &SegmentKey, block: u64) -> bool {
        let agent = AgentKey { peer: peer.clone(), queue_id: key.queue_id };
        let agents = self.agents.lock();
        agents
            .get(&agent)
            .and_then(|agent| agent.done.get(&key.incarnation))
            .is_some_and(|done| done.contains(block))
    }

    fn take_block(&self, peer: &Peer, key: &SegmentKey, sent: &SentBlock<'_>) -> Result<Verdict, No> {
        let block = Block::parse(sent.payload)?;
        let header = *block.header();
        if sent.block.checked_sub(key.first) != Some(u64::from(header.index)) {
            return Err(No::Refused(Refusal::Malformed));
        }
        if block.cluster().is_some_and(|cluster| cluster != peer.cluster) {
            return Err(No::Refused(Refusal::IdentityChanged));
        }
        let now_ms = self.clock.now_ms();
        if header.rows > 0 && header.newest_ms > now_ms.saturating_add(AHEAD_MS) && !sent.context {
            return Ok(Verdict::Later { after_ms: AHEAD_RETRY_MS });
        }
        let segment = self.segment(peer, key);
        let mut segment = segment.lock();
        segment.used_ms = now_ms;
        segment.load(&self.logs)?;
        segment.learn(&block, &self.logs)?;
        let is_done = self.is_done(peer, key, sent.block) || segment.logged.contains(sent.block);
        let is_too_old = self
            .config
            .retention_ms
            .is_some_and(|retention| header.rows > 0 && header.newest_ms < now_ms.saturating_sub(retention));
        if sent.context || is_done || is_too_old {
            return segment.read_context(&block, sent.context, is_done);
        }
        segment.resolve(&*self.store, &self.config.cluster_label, &self.metrics)?;
        let mut to = To {
            store: &*self.store,
            logs: &self.logs,
            cluster_label: &self.config.cluster_label,
            metrics: &self.metrics,
        };
        let outcome = segment.store(&block, &mut to)?;
        if header.rows > 0 {
            self.note_newest(peer, key, header.newest_ms);
        }
        self.appended.fetch_max(outcome.position.0, Ordering::AcqRel);
        segment.log_progress(sent.block, outcome.position, self.durable.load(Ordering::Acquire), &self.logs);
        Ok(if outcome.repeated { Verdict::Known } else { Verdict::Stored })
    }
}

/// Why a block was not taken.
#[derive(Debug)]
pub(crate) enum No {
    Refused(Refusal),
    NeedsContext { from: u32 },
    Store(StoreError),
    Log(std::io::Error),
}

impl From<BlockError> for No {
    fn from(error: BlockError) -> No {
        match error {
            BlockError::NeedsContext { from } => No::NeedsContext { from },
            BlockError::Malformed(_) => No::Refused(Refusal::Malformed),
            BlockError::Version { .. } => No::Refused(Refusal::Version),
            BlockError::Limit { .. } => No::Refused(Refusal::Limit),
        }
    }
}

impl From<StoreError> for No {
    fn from(error: StoreError) -> No {
        No::Store(error)
    }
}

impl From<std::io::Error> for No {
    fn from(error: std::io::Error) -> No {
        No::Log(error)
    }
}

impl Intake for StoreIntake {
    fn writes(&self, peer: &Peer, queue_id: u128, incarnation: u128) -> Result<(), IntakeError> {
        let done = self.names.certify(peer, queue_id, incarnation);
        done.map_err(|error| IntakeError(format!("write down whose a queue is: {error}")))
    }

    fn stored(&self, peer: &Peer, queue_id: u128, incarnation: u128) -> Result<Intervals, IntakeError> {
        let agent = AgentKey { peer: peer.clone(), queue_id };
        let mut stored = self
            .logs
            .stored(&agent, incarnation)
            .map_err(|error| IntakeError(format!("read the dictionary logs of {}: {error}", peer.cluster)))?;
        let agents = self.agents.lock();
        if let Some(done) = agents.get(&agent).and_then(|agent| agent.done.get(&incarnation)) {
            stored.extend(done);
        }
        Ok(stored)
    }

    fn position(&self, peer: &Peer, key: &SegmentKey) -> Option<(u64, u64)> {
        let agent = AgentKey { peer: peer.clone(), queue_id: key.queue_id };
        let segment = {
            let agents = self.agents.lock();
            Arc::clone(agents.get(&agent)?.segments.get(&(key.incarnation, key.first))?)
        };
        let (from, next) = segment.lock().position()?;
        Some((key.first + u64::from(from), key.first + u64::from(next)))
    }

    fn take(&self, peer: &Peer, key: &SegmentKey, _lane: queue::Lane, sent: &SentBlock<'_>) -> Verdict {
        let verdict = match self.take_block(peer, key, sent) {
            Ok(verdict) => verdict,
            Err(No::Refused(refusal)) => {
                tracing::warn!(
                    cluster = peer.cluster,
                    block = sent.block,
                    reason = refusal.as_str(),
                    "a block is refused"
                );
                Verdict::Refused(refusal)
            }
            Err(No::NeedsContext { from }) => Verdict::NeedContext { from: key.first + u64::from(from) },
            Err(No::Store(error)) => {
                tracing::warn!(cluster = peer.cluster, block = sent.block, %error, "a block has to wait");
                let read_only = matches!(error, StoreError::ReadOnly { .. });
                Verdict::Later { after_ms: if read_only { READ_ONLY_RETRY_MS } else { BUSY_RETRY_MS } }
            }
            Err(No::Log(error)) => {
                tracing::warn!(
                    cluster = peer.cluster, block = sent.block, %error, "a block has to wait: write a dictionary log"
                );
                Verdict::Later { after_ms: BUSY_RETRY_MS }
            }
        };
        if let Verdict::Refused(refusal) = verdict
            && !sent.context
            && !self.is_done(peer, key, sent.block)
        {
            let is_proven = |cluster: &str| self.proves(peer, key, cluster);
            self.metrics.unproven_rows.inc_by(self.refused.note(peer, key, sent, refusal, is_proven));
        }
        if matches!(verdict, Verdict::Stored | Verdict::Known | Verdict::Refused(_)) && !sent.context {
            self.note_done(peer, key, sent.block);
        }
        self.metrics.count(&verdict);
        verdict
    }

    fn sync(&self) -> Result<(), IntakeError> {
        if let Some(on_lost) = &self.config.on_lost {
            self.refused.book(on_lost)?;
        }
        let position = self.appended.load(Ordering::Acquire);
        self.logs.sync().map_err(|error| IntakeError(format!("sync a dictionary log: {error}")))?;
        // Also where the store has nothing new: a block that comes again may tell what stands in front of it, the ledger,
        // something that it has lost.
        let done = self.store.wait_durable(CommitPosition(position));
        done.map_err(|error| IntakeError(error.to_string()))?;
        self.durable.fetch_max(position, Ordering::AcqRel);
        Ok(())
    }

    fn held(&self, peer: &Peer, queue_id: u128, segments: &[(u128, u64)]) {
        let agent = AgentKey { peer: peer.clone(), queue_id };
        if let Some(agent) = self.agents.lock().get_mut(&agent) {
            agent.segments.retain(|name, _| segments.contains(name));
            agent.done.retain(|incarnation, _| segments.iter().any(|(other, _)| other == incarnation));
        }
        self.logs.retain(&agent, segments);
    }

    fn book_lost(&self, peer: &Peer, queue_id: u128, lost: &[Lost]) -> usize {
        self.names.hear(peer, queue_id);
        let mut agents = self.agents.lock();
        let agent = agents.entry(AgentKey { peer: peer.clone(), queue_id }).or_default();
        agent.used_ms = self.clock.now_ms();
        let booked = agent.booked.clone();
        drop(agents);
        let mut new = Vec::new();
        let mut known = 0;
        for record in lost {
            if !booked.contains(record) {
                if !self.tell_lost(peer, queue_id, record) {
                    // The agent keeps this one and those behind it, and tells again.
                    break;
                }
                new.push(*record);
            }
            known += 1;
        }
        let mut agents = self.agents.lock();
        let agent = agents.entry(AgentKey { peer: peer.clone(), queue_id }).or_default();
        // Bounded: older records are the first to be forgotten, and booked again at worst.
        let excess = (agent.booked.len() + new.len()).saturating_sub(BOOKED_MAX);
        agent.booked.drain(..excess.min(agent.booked.len()));
        agent.booked.extend(new);
        known
    }
}

/// Most records of lost blocks remembered of an agent.
const BOOKED_MAX: usize = 4096;
