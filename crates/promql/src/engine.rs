//! The engine: text and store to answer.
//!
//! A query is parsed, its durations and `@` are resolved for the evaluated range
//! (`eval::plan`), and the tree is evaluated once for the whole range, node by node, over columns
//! of samples. Nothing here keeps state between queries but the thread pool, so a query that fails,
//! or even panics, leaves nothing behind.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use model::TenantId;
use parking_lot::Mutex;
use storage::Queryable;

use crate::answer::{Answer, EvalError, Stats, StepStats, Timings, Value};
use crate::ast::ValueType;
use crate::eval::batches::Workers;
use crate::eval::budget::Budget;
use crate::eval::plan::Planner;
use crate::eval::tally::Tally;
use crate::eval::{Evaluator, Steps};
use crate::parser::{ParseOptions, parse};

/// How queries are evaluated.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// How long a sample counts as present, milliseconds.
    pub lookback_ms: i64,
    /// How long a query may run.
    pub timeout: Duration,
    /// How many samples a query may hold at once.
    pub max_samples: u64,
    /// Threads for evaluation; 0 takes one for each processor.
    pub threads: usize,
    /// The step of subqueries written without one, milliseconds.
    pub default_subquery_interval_ms: i64,
    /// What the parser accepts.
    pub features: ParseOptions,
    /// Drop metric names at the end of the query, not in each function
    /// (`promql-delayed-name-removal`).
    pub delayed_name_removal: bool,
    /// Judge counters by `__type__` instead of their names (`type-and-unit-labels`).
    pub type_and_unit_labels: bool,
    /// Let `rate` and its kin use start timestamps (`use-start-timestamps`).
    pub use_start_timestamps: bool,
}

impl Default for EngineOptions {
    /// What Prometheus does without switches.
    fn default() -> Self {
        EngineOptions {
            lookback_ms: 5 * 60 * 1000,
            timeout: Duration::from_secs(120),
            max_samples: 50_000_000,
            threads: 0,
            default_subquery_interval_ms: 60 * 1000,
            features: ParseOptions::default(),
            delayed_name_removal: false,
            type_and_unit_labels: false,
            use_start_timestamps: false,
        }
    }
}

/// What one query asks for beside its text.
#[derive(Debug, Clone, Default)]
pub struct QueryOptions {
    /// Replaces [`EngineOptions::lookback_ms`].
    pub lookback_ms: Option<i64>,
    /// Replaces [`EngineOptions::timeout`] when shorter.
    pub timeout: Option<Duration>,
    /// Raised by the caller to stop the query.
    pub cancel: CancelFlag,
    /// Also gather [`Stats::per_step`].
    pub per_step_stats: bool,
    /// At most this many series in the answer; 0 for all. The answer then has the warning
    /// `results truncated due to limit`.
    pub limit: usize,
}

/// A flag that stops a query; clones share it.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Asks the query to stop; it does within a batch of series.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the query was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Evaluates queries. One for the whole program; cheap to share, all methods take `&self`.
#[derive(Debug)]
pub struct Engine {
    options: EngineOptions,
    workers: Workers,
}

/// What a query asks for, beside its text.
struct Ask<'a> {
    store: &'a dyn Queryable,
    tenant: &'a TenantId,
    query: &'a str,
    steps: Steps,
    /// The end as asked for.
    end_ms: i64,
    /// 0 for an instant query.
    step_ms: i64,
    options: &'a QueryOptions,
}

impl Engine {
    /// An engine with its own pool of threads.
    ///
    /// # Panics
    /// When the operating system refuses threads.
    pub fn new(options: EngineOptions) -> Engine {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|at| format!("promql-{at}"))
            .build()
            .expect("threads for queries");
        Engine { options, workers: Workers::new(pool) }
    }

    /// The options it was made with.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Evaluates `query` at `at_ms`. Blocks; call it from a thread that may.
    ///
    /// # Errors
    /// See [`EvalError`].
    pub fn instant(
        &self,
        store: &dyn Queryable,
        tenant: &TenantId,
        query: &str,
        at_ms: i64,
        options: &QueryOptions,
    ) -> Result<Answer, EvalError> {
        let steps = Steps { start_ms: at_ms, step_ms: 1, count: 1 };
        self.guarded(&Ask { store, tenant, query, steps, end_ms: at_ms, step_ms: 0, options })
    }

    /// Evaluates `query` at `start_ms`, `start_ms + step_ms`, ... up to `end_ms`. Blocks; call it from
    /// a thread that may.
    ///
    /// # Errors
    /// See [`EvalError`].
    #[allow(clippy::too_many_arguments)] // a range is three numbers; a struct would only be unpacked again
    pub fn range(
        &self,
        store: &dyn Queryable,
        tenant: &TenantId,
        query: &str,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
        options: &QueryOptions,
    ) -> Result<Answer, EvalError> {
        if step_ms <= 0 {
            return Err(EvalError::BadRequest(
                "zero or negative query resolution step widths are not accepted. Try a positive integer"
                    .into(),
            ));
        }
        if end_ms < start_ms {
            return Err(EvalError::BadRequest("end timestamp must not be before start time".into()));
        }
        let steps = Steps::new(start_ms, end_ms, step_ms);
        self.guarded(&Ask { store, tenant, query, steps, end_ms, step_ms, options })
    }

    /// A panic is our mistake, but only this query's end.
    fn guarded(&self, ask: &Ask<'_>) -> Result<Answer, EvalError> {
        catch_unwind(AssertUnwindSafe(|| self.evaluate(ask))).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            Err(EvalError::Internal(text.unwrap_or_else(|| "panic".into())))
        })
    }

    fn evaluate(&self, ask: &Ask<'_>) -> Result<Answer, EvalError> {
        let started = Instant::now();
        let expr = parse(ask.query, &self.options.features)?;
        let parsed = Instant::now();
        let kind = expr.value_type();
        let is_range = ask.step_ms > 0;
        if is_range && !matches!(kind, ValueType::Vector | ValueType::Scalar) {
            return Err(EvalError::BadRequest(format!(
                "invalid expression type {:?} for range query, must be Scalar or instant Vector",
                kind.documented()
            )));
        }
        let planner = Planner {
            steps: ask.steps,
            end_ms: ask.end_ms,
            query_step_ms: ask.step_ms,
            default_subquery_interval_ms: self.options.default_subquery_interval_ms,
            inside: Cell::default(),
        };
        let node = planner.plan(&expr)?;
        drop(expr);
        let planned = Instant::now();
        let evaluator = self.evaluator(ask, started);
        evaluator.announce(&node);
        let (mut value, sorting) = if is_range {
            let mut series = evaluator.range(&node, kind, ask.steps)?;
            let sorting = Instant::now();
            series.sort_by(|a, b| a.labels.cmp(&b.labels));
            (Value::Matrix(series), sorting)
        } else {
            (evaluator.instant(&node, kind, ask.steps.start_ms)?, Instant::now())
        };
        evaluator.budget.check()?;
        let (mut warnings, infos) = evaluator.notes.lock().texts(ask.query);
        if value.truncate(ask.options.limit) {
            warnings.push("results truncated due to limit".into());
        }
        let done = Instant::now();
        let tally = evaluator.tally.into_inner();
        let per_step = tally.by_step().iter().enumerate().map(|(step, counted)| StepStats {
            t_ms: ask.steps.at(step),
            queryable_samples: counted.looked_at,
            samples_read: counted.read,
        });
        let stats = Stats {
            total_queryable_samples: tally.looked_at,
            peak_samples: evaluator.budget.peak(),
            samples_read: tally.read,
            per_step: per_step.collect(),
            timings: Timings {
                parse: parsed - started,
                prepare: planned - parsed,
                inner_eval: sorting - planned,
                result_sort: done - sorting,
                total: done - started,
            },
        };
        Ok(Answer { value, warnings, infos, stats })
    }

    fn evaluator<'q>(&'q self, ask: &Ask<'q>, started: Instant) -> Evaluator<'q> {
        let timeout = ask.options.timeout.map_or(self.options.timeout, |t| t.min(self.options.timeout));
        let deadline = started.checked_add(timeout);
        Evaluator {
            store: ask.store,
            tenant: ask.tenant,
            workers: &self.workers,
            budget: Budget::new(self.options.max_samples, deadline, ask.options.cancel.clone()),
            notes: Mutex::default(),
            lookback_ms: ask.options.lookback_ms.filter(|ms| *ms > 0).unwrap_or(self.options.lookback_ms),
            delayed_names: self.options.delayed_name_removal,
            type_labels: self.options.type_and_unit_labels,
            start_timestamps: self.options.use_start_timestamps,
            steps: ask.steps,
            per_step: ask.options.per_step_stats,
            tally: Mutex::new(Tally::new(ask.steps, ask.options.per_step_stats)),
            subqueries: AtomicU32::new(0),
        }
    }
}

#[cfg(test)]
mod tests;
