//! Rows into the queue: an [`Appender`] whose store is a queue of blocks.
//!
//! Rows of many sources gather in one open block, which is written when it is a second old, when it is
//! large, or when somebody waits for it. **Until then they are in memory only**: a killed process loses that
//! second of scrapes. Doors that answer for what they took use [`Prompt`], which writes before it returns.
//!
//! What the encoder keeps of a series is its last value (8 bytes), a byte of exponent, and its
//! labels as a few bytes of symbol numbers, for the dictionary of the next segment.
//!
//! Lateness is judged here, by the newest row of the source that came under [`Late::Reject`]: so whoever
//! reads the queue may take every row as it comes, also hours later. Conflicts are left to the store at
//! the other end, but for rows that repeat the one before them exactly, which are dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::{Labels, SourceId};
use parking_lot::{Condvar, Mutex, MutexGuard};
use queue::{BlockMeta, Queue, QueueError, Writer};
use stdx::clock::Clock;
use storage::{
    Account, Appended, Appender, Batch, CommitPosition, Late, Policy, Row, SeriesRef, SourceDesc, SourceRef,
    StoreError,
};

use crate::block::{BlockWriter, SAMPLES_MAX, Symbols};

mod metrics;
mod source;
#[cfg(test)]
mod tests;

pub use metrics::EncoderMetrics;
use source::{Common, Room, Source};

/// A block is written when it has this many bytes, before they are packed.
const BLOCK_BYTES: usize = 2 << 20;
/// A block is written when it has this many samples.
const BLOCK_SAMPLES: usize = SAMPLES_MAX / 4;
/// A block is written when it has this many rows.
const BLOCK_ROWS: usize = 100_000;
/// Series and sources that had no row for this long are forgotten at the next segment, milliseconds.
const IDLE_MS: i64 = 30 * 60 * 1000;
/// How often the clock is looked at for blocks that are old enough.
const TICK: Duration = Duration::from_millis(200);
/// Blocks whose rows were lost that are remembered for those who wait.
const LOST_MAX: usize = 1000;

/// Bounds of an encoder.
#[derive(Debug, Clone)]
pub struct EncoderConfig {
    /// Whose cluster it is, as the agent's certificate says; a hub refuses what was queued under
    /// another name than the one that brings it. Empty: not said.
    pub cluster: String,
    /// A block is written when its first row is this old: what a killed process loses, and how late rows
    /// leave, against bytes (a few per cent from 1 s to 5 s).
    pub block_age: Duration,
    /// Most series in all.
    pub series_max: usize,
    /// Most series of one source.
    pub source_series_max: usize,
}

impl Default for EncoderConfig {
    fn default() -> EncoderConfig {
        EncoderConfig {
            cluster: String::new(),
            block_age: Duration::from_secs(1),
            series_max: 10_000_000,
            source_series_max: 1_000_000,
        }
    }
}

/// Appends rows to a queue of blocks.
#[derive(Debug)]
pub struct Encoder {
    inner: Mutex<Inner>,
    queue: Queue,
    clock: Arc<dyn Clock>,
    config: EncoderConfig,
    metrics: EncoderMetrics,
    /// Blocks before this one survive a power cut; they are counted as [`Inner::closed`] does.
    durable: AtomicU64,
    ticker: Arc<Ticker>,
}

/// Wakes the thread that closes blocks in time.
#[derive(Debug, Default)]
struct Ticker {
    stopped: Mutex<bool>,
    wake: Condvar,
}

#[derive(Debug)]
struct Inner {
    writer: Writer,
    block: BlockWriter,
    symbols: Symbols,
    sources: Vec<Source>,
    common: Common,
    by_id: HashMap<SourceId, u32>,
    series: usize,
    /// Number of the next block's first batch, within the queue's incarnation.
    next_batch: u64,
    /// Blocks closed so far, lost ones included; the open block has this number.
    closed: u64,
    /// Lost blocks by that number, latest last.
    lost: Vec<u64>,
    opened_ms: i64,
    /// The first and the last tick that the open block speaks of; its rows begin a little later.
    ticks: Option<(i64, i64)>,
    swept_ms: i64,
    room: Room,
}

impl Encoder {
    /// An encoder that writes to `writer`, and a thread that closes blocks when they are old enough; the
    /// thread ends with the encoder.
    pub fn new(
        writer: Writer,
        clock: Arc<dyn Clock>,
        config: EncoderConfig,
        metrics: EncoderMetrics,
    ) -> Arc<Encoder> {
        let encoder = Encoder::without_thread(writer, clock, config, metrics);
        start_ticker(&encoder);
        encoder
    }

    /// An encoder that closes old blocks only when [`Encoder::close_due`] is called: for simulations with a clock
    /// of their own.
    pub fn without_thread(
        writer: Writer,
        clock: Arc<dyn Clock>,
        config: EncoderConfig,
        metrics: EncoderMetrics,
    ) -> Arc<Encoder> {
        let now_ms = clock.now_ms();
        let inner = Inner {
            block: BlockWriter::new(&config.cluster),
            symbols: Symbols::default(),
            sources: Vec::new(),
            common: Common::default(),
            by_id: HashMap::new(),
            series: 0,
            next_batch: 0,
            closed: 0,
            lost: Vec::new(),
            opened_ms: now_ms,
            ticks: None,
            swept_ms: now_ms,
            room: Room::default(),
            writer,
        };
        let queue = inner.writer.queue().clone();
        let (inner, durable, ticker) = (Mutex::new(inner), AtomicU64::new(0), Arc::<Ticker>::default());
        Arc::new(Encoder { inner, queue, clock, config, metrics, durable, ticker })
    }

    /// Writes the open block if it is old enough. The encoder's own thread does so; simulations with a
    /// clock of their own do it, too.
    pub fn close_due(&self) {
        let now_ms = self.clock.now_ms();
        let mut inner = self.inner.lock();
        if !inner.block.is_empty() && self.is_old(inner.opened_ms, now_ms) {
            self.close_block(&mut inner);
        }
        let Inner { sources, common, .. } = &mut *inner;
        sources.iter_mut().for_each(|source| source.rest(common, now_ms));
    }

    /// Writes the open block and makes all blocks durable: the last thing before a shutdown.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::ReadOnly`]: what was appended last may be lost.
    pub fn flush(&self) -> Result<(), StoreError> {
        let position = {
            let mut inner = self.inner.lock();
            self.close_block(&mut inner);
            CommitPosition(inner.closed)
        };
        self.wait_durable(position)
    }

    /// The queue that it writes to.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Writes the open block, if there is one.
    fn close_block(&self, inner: &mut MutexGuard<'_, Inner>) {
        if inner.block.is_empty() {
            return;
        }
        let (rows, samples) = (inner.block.rows(), inner.block.samples());
        if let Err(error) = inner.write_block(&self.metrics) {
            let closed = inner.closed;
            inner.lost.push(closed);
            if inner.lost.len() > LOST_MAX {
                inner.lost.remove(0);
            }
            // Blocks after this one may not refer to it.
            inner.writer.rotate();
            self.metrics.lost_rows.inc_by(rows as u64);
            tracing::error!(queue = %self.queue.dir().display(), rows, samples, %error, "rows are lost: write a block to the queue");
        }
        inner.closed += 1;
    }

    /// Begins a segment where the queue wants one. Between blocks only.
    fn start_segment(&self, inner: &mut Inner, now_ms: i64) {
        if inner.writer.due() {
            inner.writer.rotate();
        }
        if !inner.writer.fresh() || inner.block.index() == 0 {
            return;
        }
        if now_ms.saturating_sub(inner.swept_ms) >= IDLE_MS {
            inner.swept_ms = now_ms;
            inner.sweep();
            self.metrics.series.set(inner.series as i64);
        }
        let Inner { block, symbols, .. } = inner;
        block.start_segment(symbols);
        self.metrics.segments.inc();
    }

    fn append_row(&self, inner: &mut Inner, at: usize, row: &Row<'_>, policy: Policy, done: &mut Appended) {
        let Inner { block, symbols, sources, room, .. } = inner;
        let source = &mut sources[row.source.0 as usize];
        source.append(
            at,
            row,
            policy,
            &mut source::To { block, symbols, room, done, metrics: &self.metrics },
        );
    }

    fn check_sources(&self, inner: &Inner, batch: &Batch<'_>) -> Result<(), StoreError> {
        let rows = batch.rows.iter().map(|row| row.source);
        let metadata = batch.metadata.iter().map(|entry| entry.source);
        let accounts = batch.accounts.iter().map(|account| account.source());
        match rows.chain(metadata).chain(accounts).find(|source| source.0 >= inner.sources.len() as u64) {
            Some(unknown) => Err(StoreError::UnknownSource(unknown.0)),
            None => Ok(()),
        }
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        if self.queue.stats().read_only {
            let reason = format!("queue {} failed to sync", self.queue.dir().display());
            return Err(StoreError::ReadOnly { reason });
        }
        Ok(())
    }
}

impl Appender for Encoder {
    fn open_source(&self, desc: &SourceDesc) -> Result<SourceRef, StoreError> {
        let inner = &mut *self.inner.lock();
        if let Some(number) = inner.by_id.get(&desc.id) {
            return Ok(SourceRef(u64::from(*number)));
        }
        let number = inner.sources.len() as u32;
        if number >= source::SOURCES_MAX {
            let limit = format!("{number} sources have been open since the start, as many as can be");
            return Err(StoreError::Limit { tenant: desc.tenant.to_string(), limit });
        }
        inner.sources.push(Source::new(number, desc, &mut inner.symbols));
        inner.by_id.insert(desc.id, number);
        self.metrics.sources.set(i64::from(number) + 1);
        Ok(SourceRef(u64::from(number)))
    }

    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        let now_ms = self.clock.now_ms();
        let inner = &mut *self.inner.lock();
        let at = usize::try_from(source.0).unwrap_or(usize::MAX);
        let Some(source) = inner.sources.get_mut(at) else {
            return Err(StoreError::UnknownSource(source.0));
        };
        let (before, others) = (source.series(), inner.series - source.series());
        let room = self.config.series_max.saturating_sub(others).min(self.config.source_series_max);
        let found: Vec<Option<SeriesRef>> =
            labels.iter().map(|labels| source.resolve(labels, room, &mut inner.symbols, now_ms)).collect();
        inner.series += source.series() - before;
        self.metrics.series.set(inner.series as i64);
        self.metrics.refused_series.inc_by(found.iter().filter(|found| found.is_none()).count() as u64);
        Ok(found)
    }

    /// Unlike a store's, what this has taken may be lost by the death of the process for
    /// about a second; [`Prompt`] and [`Appender::wait_durable`] are for those who must not lose it.
    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        self.check_writable()?;
        let now_ms = self.clock.now_ms();
        let mut inner = self.inner.lock();
        self.check_sources(&inner, batch)?;
        if !inner.block.is_empty() && (self.is_old(inner.opened_ms, now_ms) || inner.writer.due()) {
            self.close_block(&mut inner);
        }
        let mut done = Appended::default();
        let policy = Policy { late: Late::Accept, ..batch.policy };
        for (at, row) in batch.rows.iter().enumerate() {
            let samples = row.series.len() + row.histograms.len();
            if inner.is_large() || inner.block.samples() + samples > SAMPLES_MAX {
                self.close_block(&mut inner);
            }
            self.begin(&mut inner, policy, now_ms);
            self.append_row(&mut inner, at, row, batch.policy, &mut done);
        }
        if !batch.metadata.is_empty() || !batch.accounts.is_empty() {
            self.begin(&mut inner, policy, now_ms);
            inner.append_statements(batch);
        }
        inner.block.forget_empty_batch();
        done.position = CommitPosition(if inner.block.is_empty() { inner.closed } else { inner.closed + 1 });
        self.metrics.samples.inc_by((done.samples + done.histograms) as u64);
        self.metrics.refused_samples.inc_by(done.rejected.len() as u64);
        if inner.is_large() {
            self.close_block(&mut inner);
        }
        Ok(done)
    }

    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        let closed = {
            let mut inner = self.inner.lock();
            if inner.closed < position.0 {
                self.close_block(&mut inner);
            }
            // A later block may be durable when this one is lost.
            if inner.lost.contains(&position.0.saturating_sub(1)) {
                let attempt = format!("write to queue {}", self.queue.dir().display());
                return Err(StoreError::Io {
                    attempt,
                    source: std::io::Error::other("the block could not be written"),
                });
            }
            inner.closed
        };
        if self.durable.load(Ordering::Acquire) >= position.0 {
            return Ok(());
        }
        self.queue.sync().map_err(|error| StoreError::ReadOnly { reason: error.to_string() })?;
        self.durable.fetch_max(closed, Ordering::AcqRel);
        Ok(())
    }
}

impl Encoder {
    /// Whether a block's first row came long enough ago; a clock that went back says so, too.
    fn is_old(&self, opened_ms: i64, now_ms: i64) -> bool {
        let age_ms = now_ms.saturating_sub(opened_ms);
        age_ms < 0 || u128::from(age_ms.unsigned_abs()) >= self.config.block_age.as_millis()
    }

    /// Makes sure that a block is open, and that what comes is under `policy`.
    fn begin(&self, inner: &mut Inner, policy: Policy, now_ms: i64) {
        if inner.block.is_empty() {
            self.start_segment(inner, now_ms);
            inner.opened_ms = now_ms;
        }
        inner.block.begin_batch(policy);
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        *self.ticker.stopped.lock() = true;
        self.ticker.wake.notify_all();
        let mut inner = self.inner.lock();
        self.close_block(&mut inner);
    }
}

impl Inner {
    fn is_large(&self) -> bool {
        self.block.bytes() > BLOCK_BYTES
            || self.block.samples() > BLOCK_SAMPLES
            || self.block.rows() > BLOCK_ROWS
    }

    fn write_block(&mut self, metrics: &EncoderMetrics) -> Result<(), QueueError> {
        let number = self.writer.next_block();
        let ticks = self.ticks.take();
        let (header, block) = self.block.finish(self.next_batch).map_err(|source| QueueError::Io {
            what: "pack a block for",
            path: self.writer.queue().dir().to_owned(),
            source,
        })?;
        // Should the block be dropped, these say of which ticks nothing will come.
        let (first, last) = match ticks {
            Some((first, last)) if header.rows > 0 => {
                (first.min(header.oldest_ms), last.max(header.newest_ms))
            }
            Some(ticks) => ticks,
            None => (header.oldest_ms, header.newest_ms),
        };
        let meta = BlockMeta {
            floor: number - u64::from(header.back),
            oldest_ms: first,
            newest_ms: last,
            rows: header.rows,
            samples: header.samples,
            ..BlockMeta::default()
        };
        self.writer.write(&meta, &block)?;
        self.next_batch += u64::from(header.batches);
        metrics.blocks.inc();
        metrics.rows.inc_by(u64::from(header.rows));
        metrics.bytes.inc_by(block.len() as u64);
        Ok(())
    }

    fn append_statements(&mut self, batch: &Batch<'_>) {
        let Inner { block, symbols, sources, ticks, .. } = self;
        for entry in batch.metadata {
            let writer = &mut sources[entry.source.0 as usize].writer;
            block.metadata(writer, symbols, entry.metric, entry.metadata);
        }
        for account in batch.accounts {
            if let Account::Tick { tick_ms, .. } = *account {
                let (first, last) = ticks.unwrap_or((tick_ms, tick_ms));
                *ticks = Some((first.min(tick_ms), last.max(tick_ms)));
            }
            sources[account.source().0 as usize].account(account, block, symbols);
        }
    }

    /// Forgets series that had no row since the last time, and symbols that nobody uses.
    fn sweep(&mut self) {
        let mut used = vec![false; self.symbols.ids()];
        for source in &mut self.sources {
            self.series -= source.sweep(&self.common);
            source.writer.each_symbol(|symbol| used[symbol as usize] = true);
        }
        self.symbols.sweep(&used);
    }
}

fn start_ticker(encoder: &Arc<Encoder>) {
    let (weak, ticker) = (Arc::downgrade(encoder), Arc::clone(&encoder.ticker));
    let run = move |weak: Weak<Encoder>, ticker: Arc<Ticker>| {
        loop {
            let mut stopped = ticker.stopped.lock();
            if *stopped {
                return;
            }
            ticker.wake.wait_for(&mut stopped, TICK);
            drop(stopped);
            let Some(encoder) = weak.upgrade() else { return };
            encoder.close_due();
        }
    };
    let thread = std::thread::Builder::new().name("remote-blocks".to_owned());
    if let Err(error) = thread.spawn(move || run(weak, ticker)) {
        tracing::error!(%error, "no thread to close blocks in time: they are closed by the rows that follow");
    }
}

/// The same encoder for doors that answer for what they took: [`Appender::append`] returns when the block
/// has been written. Callers that come at once share a block.
#[derive(Debug, Clone)]
pub struct Prompt(pub Arc<Encoder>);

impl Appender for Prompt {
    fn open_source(&self, desc: &SourceDesc) -> Result<SourceRef, StoreError> {
        self.0.open_source(desc)
    }

    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        self.0.resolve(source, labels)
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        let done = self.0.append(batch)?;
        let mut inner = self.0.inner.lock();
        if inner.closed < done.position.0 {
            self.0.close_block(&mut inner);
        }
        if inner.lost.contains(&done.position.0.saturating_sub(1)) {
            let attempt = format!("write to queue {}", self.0.queue.dir().display());
            return Err(StoreError::Io {
                attempt,
                source: std::io::Error::other("the block could not be written"),
            });
        }
        Ok(done)
    }

    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        self.0.wait_durable(position)
    }
}
