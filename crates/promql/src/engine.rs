//! The engine: text and store to answer.
//!
//! A query is parsed, its durations and `@` are resolved for the evaluated range
//! ([`crate::eval`]), and the tree is evaluated once for the whole range, node by node, over columns
//! of samples. Nothing here keeps state between queries but the thread pool, so a query that fails,
//! or even panics, leaves nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::TenantId;
use storage::Queryable;

use crate::answer::{Answer, EvalError};
use crate::parser::ParseOptions;

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
}

impl Engine {
    /// An engine with its own pool of threads.
    pub fn new(options: EngineOptions) -> Engine {
        Engine { options }
    }

    /// The options it was made with.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Evaluates `query` at `at_ms`.
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
        let _ = (store, tenant, query, at_ms, options);
        Err(EvalError::Internal("not evaluated".into()))
    }

    /// Evaluates `query` at `start_ms`, `start_ms + step_ms`, ... up to `end_ms`.
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
        let _ = (store, tenant, query, start_ms, end_ms, step_ms, options);
        Err(EvalError::Internal("not evaluated".into()))
    }
}
