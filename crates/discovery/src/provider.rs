//! What every discoverer is, and how it reports.

use std::sync::Arc;
use std::time::Duration;

use model::TargetGroup;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::BoxFuture;
use crate::manager::Shared;

/// Finds targets until it is stopped.
pub trait Discoverer: Send {
    /// Reports to `updates`: each time the whole set, and a failure where there is nothing new to
    /// say. Ends when `stop` is cancelled, or when there will be nothing more to report.
    fn run(self: Box<Self>, updates: Updates, stop: CancellationToken) -> BoxFuture<'static, ()>;
}

/// Where one discoverer reports.
#[derive(Debug)]
pub struct Updates {
    shared: Arc<Shared>,
    /// Names the discoverer within `shared`; reports of one that was replaced go nowhere.
    provider: u64,
    mechanism: &'static str,
}

impl Updates {
    pub(crate) fn new(shared: Arc<Shared>, provider: u64, mechanism: &'static str) -> Updates {
        Updates { shared, provider, mechanism }
    }

    /// Everything the discoverer knows now: replaces what it reported before.
    pub fn set(&self, groups: Vec<TargetGroup>) {
        self.shared.metrics.refreshed(self.mechanism);
        self.shared.set(self.provider, groups, None);
    }

    /// As [`Updates::set`], where `error` hides a part that stays as it was last known.
    pub fn set_partly(&self, groups: Vec<TargetGroup>, error: String) {
        self.failure(&error);
        self.shared.set(self.provider, groups, Some(error));
    }

    /// An attempt failed; what was reported before stands.
    pub fn failed(&self, error: String) {
        self.failure(&error);
        self.shared.failed(self.provider, error);
    }

    fn failure(&self, error: &str) {
        self.shared.metrics.failed(self.mechanism);
        let pool = self.shared.pool_of(self.provider).unwrap_or_default();
        tracing::warn!(
            pool,
            mechanism = self.mechanism,
            error,
            "discovery failed, targets stay as they were"
        );
    }
}

/// Groups that never change.
pub(crate) struct Fixed(pub(crate) Vec<TargetGroup>);

impl Discoverer for Fixed {
    fn run(self: Box<Self>, updates: Updates, _stop: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move { updates.set(self.0) })
    }
}

/// Ticks now and then every `interval`; a late tick delays those after it.
pub(crate) fn ticks(interval: Duration) -> Interval {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
