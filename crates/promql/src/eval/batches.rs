//! Batches of series: computed by several threads, consumed in the order of series.
//!
//! The thread that asks computes too, and takes from the pool no more helpers than its share while
//! other queries have work for several threads. So a query goes on however busy the pool is, a small
//! one never waits for a large one's turn, and a lone one has all threads.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

use super::budget::Budget;
use super::rows::row_weight;
use super::tally::Tally;
use super::{Evaluator, Reduce, Row, Sink, Steps};
use crate::annotations::Annotations;
use crate::answer::EvalError;

/// Most series in a batch: enough to make a load worthwhile, few enough to keep decoded samples in cache.
const BATCH_SERIES_MAX: u64 = 128;
/// About how many samples or cells a batch may have.
const BATCH_CELLS: u64 = 4 << 20;
/// The interval that samples are guessed to have.
const SAMPLE_EVERY_MS: u64 = 10_000;
/// Batches computed before their rows are consumed, for each thread.
const BATCHES_AHEAD: usize = 4;

/// How many series to take at once, when each is looked at over `span_ms` and gives a row of `steps`.
pub(crate) fn batch_series(span_ms: i64, steps: Steps) -> usize {
    let samples = u64::try_from(span_ms).unwrap_or(0) / SAMPLE_EVERY_MS;
    let cells = samples.max(steps.count as u64).max(1);
    (BATCH_CELLS / cells).clamp(1, BATCH_SERIES_MAX) as usize
}

/// What a batch of series gives.
pub(crate) struct Outcome {
    pub(crate) rows: Vec<Row>,
    pub(crate) notes: Annotations,
    pub(crate) tally: Tally,
    /// Samples that were held for it.
    pub(crate) held: u64,
}

type Computed = Result<Outcome, EvalError>;

/// What computes a batch, with fewer rows in the end where there are several batches of `series` series: a
/// sum of few series is built series by series.
pub(crate) fn reduced(
    work: impl Fn(Range<usize>) -> Computed + Send + Sync,
    reduce: Option<Reduce<'_>>,
    series: usize,
    each: usize,
) -> impl Fn(Range<usize>) -> Computed + Send + Sync {
    let reduce = reduce.filter(|_| series > each);
    move |range| {
        let mut outcome = work(range)?;
        if let Some(reduce) = reduce {
            outcome.rows = (reduce.rows)(outcome.rows);
        }
        Ok(outcome)
    }
}

/// The threads of an engine.
#[derive(Debug)]
pub(crate) struct Workers {
    pool: rayon::ThreadPool,
    /// Queries that have work for several threads just now.
    busy: AtomicUsize,
}

impl Workers {
    pub(crate) fn new(pool: rayon::ThreadPool) -> Workers {
        Workers { pool, busy: AtomicUsize::new(0) }
    }

    /// Keeps a thread of the pool for itself.
    #[cfg(test)]
    pub(crate) fn occupy(&self, run: impl FnOnce() + Send) {
        self.pool.install(run);
    }

    /// Counts one more query as busy until what it gives is dropped.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> impl Sized {
        Busy::new(self)
    }

    /// How many threads a query may use, its own among them.
    fn share(&self) -> usize {
        self.pool.current_num_threads() / self.busy.load(Ordering::Relaxed).max(1)
    }
}

/// A query counted as busy until this is dropped.
struct Busy<'w>(&'w Workers);

impl<'w> Busy<'w> {
    fn new(workers: &'w Workers) -> Busy<'w> {
        workers.busy.fetch_add(1, Ordering::Relaxed);
        Busy(workers)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Batches being computed.
struct Batches<'a, W> {
    workers: &'a Workers,
    budget: &'a Budget,
    work: W,
    series: usize,
    each: usize,
    count: usize,
    /// How far computing may be ahead of consuming.
    ahead: usize,
    /// The first batch that nobody has taken on.
    next: AtomicUsize,
    consumed: AtomicUsize,
    helpers: AtomicUsize,
    stopped: AtomicBool,
}

impl<W: Fn(Range<usize>) -> Computed + Sync> Batches<'_, W> {
    /// Takes on the next batch, unless there is none or the last ones wait to be consumed.
    fn claim(&self) -> Option<usize> {
        let end = self.count.min(self.consumed.load(Ordering::Acquire) + self.ahead);
        let claimed = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < end).then_some(next + 1));
        claimed.ok()
    }

    fn compute(&self, batch: usize) -> Computed {
        self.budget.check()?;
        let from = batch * self.each;
        (self.work)(from..(from + self.each).min(self.series))
    }

    /// Another thread's part: batch after batch while there are any and the query's share lasts.
    fn help(&self, report: &Sender<(usize, thread::Result<Computed>)>) {
        while !self.stopped.load(Ordering::Relaxed)
            && self.helpers.load(Ordering::Relaxed) < self.workers.share()
            && let Some(batch) = self.claim()
        {
            let computed = catch_unwind(AssertUnwindSafe(|| self.compute(batch)));
            if report.send((batch, computed)).is_err() {
                break;
            }
        }
        self.helpers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Computes with helpers of `scope`, and hands the outcomes to `consume` in order.
    fn run<'s>(
        &'s self,
        scope: &rayon::ScopeFifo<'s>,
        consume: &mut dyn FnMut(Computed) -> Result<(), EvalError>,
    ) -> Result<(), EvalError>
    where
        W: Send,
    {
        let (report, reports) = mpsc::channel();
        let mut ready: BTreeMap<usize, Computed> = BTreeMap::new();
        let mut consumed = 0;
        while consumed < self.count {
            let open = self.count - self.next.load(Ordering::Relaxed).min(self.count);
            // This thread is one of the share, and takes one of the batches.
            while self.helpers.load(Ordering::Relaxed) + 1 < self.workers.share().min(open) {
                self.helpers.fetch_add(1, Ordering::Relaxed);
                let report = report.clone();
                scope.spawn_fifo(move |_| self.help(&report));
            }
            for (batch, computed) in reports.try_iter() {
                ready.insert(batch, computed.unwrap_or_else(|panic| resume_unwind(panic)));
            }
            if let Some(computed) = ready.remove(&consumed) {
                consume(computed)?;
                consumed += 1;
                self.consumed.store(consumed, Ordering::Release);
            } else if let Some(batch) = self.claim() {
                ready.insert(batch, self.compute(batch));
            } else if let Ok((batch, computed)) = reports.recv() {
                // All batches that may be are taken on, the next one by a helper.
                ready.insert(batch, computed.unwrap_or_else(|panic| resume_unwind(panic)));
            }
        }
        Ok(())
    }
}

impl Evaluator<'_> {
    /// An outcome to be filled.
    pub(crate) fn outcome(&self, steps: Steps) -> Outcome {
        Outcome {
            rows: Vec::new(),
            notes: Annotations::default(),
            tally: Tally::new(steps, self.per_step),
            held: 0,
        }
    }

    /// Computes `work` for ranges of `series` series, each of which is looked at over `span_ms`, by several
    /// threads, and consumes the outcomes in order.
    ///
    /// What is held is counted in that order, one batch after the other: whether a query holds too much
    /// does not depend on threads.
    pub(crate) fn in_batches(
        &self,
        series: usize,
        span_ms: i64,
        steps: Steps,
        work: impl Fn(Range<usize>) -> Computed + Send + Sync,
        sink: Sink<'_>,
    ) -> Result<(), EvalError> {
        let mut consume = |computed: Computed| {
            let outcome = computed?;
            self.count(&outcome.tally, steps);
            if !outcome.notes.is_empty() {
                self.notes.lock().merge(outcome.notes);
            }
            let held = outcome.held + outcome.rows.len() as u64 * row_weight(steps);
            self.budget.take(held)?;
            self.budget.give(held);
            sink(outcome.rows)
        };
        let each = batch_series(span_ms, steps);
        let batches = Batches {
            workers: self.workers,
            budget: &self.budget,
            work,
            series,
            each,
            count: series.div_ceil(each),
            ahead: BATCHES_AHEAD * self.workers.pool.current_num_threads(),
            next: AtomicUsize::new(0),
            consumed: AtomicUsize::new(0),
            helpers: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        };
        // Rows of so many steps are made one at a time, when there is room for one.
        let huge = steps.count as u64 > BATCH_CELLS;
        if huge && series > 0 {
            self.budget.fits_beside(row_weight(steps))?;
        }
        if huge || batches.count < 2 || self.workers.pool.current_num_threads() < 2 {
            return (0..batches.count).try_for_each(|batch| consume(batches.compute(batch)));
        }
        let _busy = Busy::new(self.workers);
        let (batches, consume) = (&batches, &mut consume);
        self.workers.pool.in_place_scope_fifo(|scope| {
            let outcome = catch_unwind(AssertUnwindSafe(|| batches.run(scope, consume)));
            batches.stopped.store(true, Ordering::Relaxed);
            outcome.unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}
