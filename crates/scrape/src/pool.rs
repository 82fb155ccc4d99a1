//! A scrape pool: one job, its targets, and a task for each.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use model::status::{ActiveTarget, DroppedTarget, TargetMetadata};
use model::{Labels, SourceId, TargetGroup};
use storage::{EndReason, SeriesRef};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::{HttpClient, Kept};
use crate::config::ScrapeConfig;
use crate::metrics::Job;
use crate::relay::Relayed;
use crate::schedule::Schedule;
use crate::scraper::{Scraper, Work};
use crate::shared::{Shared, Status};
use crate::target::{Owner, Populated, Target, populate};
use crate::turns::Turn;

/// Troubles of a pool that are remembered.
const TROUBLES_MAX: usize = 50;
/// What discovery calls the address.
const ADDRESS: &str = "__address__";

/// Something discovered that is not scraped, though no relabelling drops it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The job.
    pub pool: String,
    /// The address that was discovered.
    pub address: String,
    /// Why.
    pub what: String,
}

/// One job's targets.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
    config: Arc<ScrapeConfig>,
    client: Arc<HttpClient>,
    groups: Vec<TargetGroup>,
    targets: BTreeMap<SourceId, Running>,
    dropped: Vec<DroppedTarget>,
    dropped_count: usize,
    /// Targets that are none, or there already.
    troubles: Vec<Trouble>,
    /// The error of all targets while there are more than the limit.
    forced_error: Option<String>,
}

/// A target with its task.
struct Running {
    target: Arc<Target>,
    status: Arc<Status>,
    /// A connection that requests of others have left open.
    kept: Arc<Kept>,
    order: watch::Sender<Order>,
    task: JoinHandle<Handed>,
}

/// What a task leaves to the one that goes on with its target.
#[derive(Debug, Default)]
struct Handed {
    /// The series left alive.
    live: Vec<SeriesRef>,
    /// The schedule that has been told of, with the last tick.
    begun: Option<(Schedule, Option<i64>)>,
    /// The tick whose scrape was broken off.
    broken_off: Option<i64>,
}

/// What a task is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Go on.
    Scrape,
    /// The target is gone: end its series, unless somebody goes on with them.
    Gone(EndReason),
    /// Another task takes over: leave the series as they are.
    HandOver,
}

impl Pool {
    pub(crate) fn new(shared: Arc<Shared>, config: Arc<ScrapeConfig>, client: Arc<HttpClient>) -> Pool {
        Pool {
            owner: Owner::of(&shared.owner, &config),
            shared,
            config,
            client,
            groups: Vec::new(),
            targets: BTreeMap::new(),
            dropped: Vec::new(),
            dropped_count: 0,
            troubles: Vec::new(),
            forced_error: None,
        }
    }

    pub(crate) fn config(&self) -> &Arc<ScrapeConfig> {
        &self.config
    }

    /// Goes on under another configuration: targets that stay the same are handed over.
    pub(crate) fn reconfigure(&mut self, config: Arc<ScrapeConfig>, client: Arc<HttpClient>) {
        self.owner = Owner::of(&self.shared.owner, &config);
        self.config = config;
        self.client = client;
        let groups = std::mem::take(&mut self.groups);
        self.sync(groups, true);
    }

    /// The targets are now those of `groups`.
    pub(crate) fn update(&mut self, groups: Vec<TargetGroup>) {
        self.sync(groups, false);
    }

    fn sync(&mut self, groups: Vec<TargetGroup>, reconfigured: bool) {
        let wanted = self.populate(&groups);
        self.groups = groups;
        let limit = self.config.limits.targets;
        let count = wanted.len() as u64;
        let forced_error = (limit > 0 && count > limit)
            .then(|| format!("target_limit exceeded (number of targets: {count}, limit: {limit})"));
        let restart = reconfigured || forced_error != self.forced_error;
        self.forced_error = forced_error;
        let mut before = std::mem::take(&mut self.targets);
        for (id, target) in wanted {
            let running = match before.remove(&id) {
                Some(mut running) if !restart && running.scrapes_alike(&target) => {
                    // Labels before relabelling may have changed all the same.
                    if *running.target != target {
                        running.target = Arc::new(target);
                    }
                    running
                }
                Some(running) => {
                    let status = running.status.clone();
                    let before = running.stop(Order::HandOver);
                    self.start(target, status, Some(before))
                }
                None => self.start(target, Arc::default(), None),
            };
            self.targets.insert(id, running);
        }
        let reason = if reconfigured { EndReason::Reconfigured } else { EndReason::Gone };
        for running in before.into_values() {
            drop(running.stop(Order::Gone(reason)));
        }
        let job = Job { scrape_job: self.config.job_name.clone() };
        self.shared.metrics.targets.get_or_create(&job).set(self.targets.len() as i64);
        self.shared.metrics.targets_dropped.get_or_create(&job).set(self.dropped_count as i64);
    }

    /// All targets of `groups`, relabelled, each once.
    fn populate(&mut self, groups: &[TargetGroup]) -> Vec<(SourceId, Target)> {
        self.dropped.clear();
        self.dropped_count = 0;
        self.troubles.clear();
        let keep = match self.config.limits.dropped_targets_kept {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let mut seen = HashSet::new();
        let mut targets = Vec::new();
        for group in groups {
            for own in &group.targets {
                match populate(&self.owner, &self.config, &group.labels, own) {
                    Ok(Populated::Scraped(target)) => {
                        if seen.insert(target.id) {
                            targets.push((target.id, *target));
                        } else {
                            let what =
                                format!("a duplicate: {} is scraped already with these labels", target.url);
                            self.trouble(&group.labels, own, what);
                        }
                    }
                    Ok(Populated::Dropped(discovered_labels)) => {
                        self.dropped_count += 1;
                        if self.dropped.len() < keep {
                            let scrape_pool = self.config.job_name.clone();
                            self.dropped.push(DroppedTarget { scrape_pool, discovered_labels });
                        }
                    }
                    Err(problem) => {
                        self.invalid(group, own, &problem);
                        self.trouble(&group.labels, own, format!("not a target: {problem}"));
                    }
                }
            }
        }
        targets
    }

    fn trouble(&mut self, group: &Labels, own: &Labels, what: String) {
        if self.troubles.len() < TROUBLES_MAX {
            let address = own.get(ADDRESS).or_else(|| group.get(ADDRESS)).unwrap_or_default().to_owned();
            self.troubles.push(Trouble { pool: self.config.job_name.clone(), address, what });
        }
    }

    pub(crate) fn troubles(&self) -> &[Trouble] {
        &self.troubles
    }

    fn invalid(&self, group: &TargetGroup, own: &Labels, problem: &str) {
        self.shared.metrics.targets_invalid.inc();
        tracing::warn!(job = %self.config.job_name, group = %group.source, target = %own, "not a target: {problem}");
    }

    /// Starts a task; it waits for the one `before` it, whose series it goes on with.
    fn start(&self, target: Target, status: Arc<Status>, before: Option<JoinHandle<Handed>>) -> Running {
        let target = Arc::new(target);
        let (order, orders) = watch::channel(Order::Scrape);
        let work = Work {
            shared: self.shared.clone(),
            owner: self.owner.clone(),
            config: self.config.clone(),
            client: self.client.clone(),
            target: target.clone(),
            status: status.clone(),
            forced_error: self.forced_error.clone(),
        };
        let task = self.shared.tasks.spawn(async move {
            let handed = match before {
                Some(before) => before.await.unwrap_or_default(),
                None => Handed::default(),
            };
            let scraper = Scraper::new(work, &handed.live);
            Loop::new(scraper, handed).run(orders).await
        });
        Running { target, status, kept: Arc::default(), order, task }
    }

    /// All targets are gone: the job is no longer configured.
    pub(crate) fn stop(self) {
        let job = Job { scrape_job: self.config.job_name.clone() };
        self.shared.metrics.targets.remove(&job);
        self.shared.metrics.targets_dropped.remove(&job);
        for running in self.targets.into_values() {
            drop(running.stop(Order::Gone(EndReason::Reconfigured)));
        }
    }

    pub(crate) fn active(&self, out: &mut Vec<ActiveTarget>) {
        let first = out.len();
        out.extend(self.targets.values().map(|running| {
            let (target, status) = (&running.target, running.status.get());
            ActiveTarget {
                id: target.id,
                scrape_pool: self.config.job_name.clone(),
                scraped_by: status.scraped_by.map(|name| name.to_string()),
                discovered_labels: target.discovered.clone(),
                labels: target.labels.clone(),
                scrape_url: target.url.to_string(),
                last_error: status.last_error,
                last_scrape_ms: status.last_scrape_ms,
                last_scrape_duration_seconds: status.last_duration_seconds,
                health: status.health,
                scrape_interval_ms: i64::try_from(target.interval.as_millis()).unwrap_or(i64::MAX),
                scrape_timeout_ms: i64::try_from(target.timeout.as_millis()).unwrap_or(i64::MAX),
            }
        }));
        out[first..].sort_by(|a, b| a.labels.cmp(&b.labels).then_with(|| a.scrape_url.cmp(&b.scrape_url)));
    }

    /// What it takes to ask target `id` for somebody else.
    pub(crate) fn relayed(&self, id: SourceId) -> Option<Relayed> {
        let running = self.targets.get(&id)?;
        let (client, target) = (Arc::clone(&self.client), Arc::clone(&running.target));
        Some(Relayed { client, target, kept: Arc::clone(&running.kept) })
    }

    pub(crate) fn dropped(&self) -> &[DroppedTarget] {
        &self.dropped
    }

    pub(crate) fn dropped_count(&self) -> usize {
        self.dropped_count
    }

    pub(crate) fn metadata(&self, metric: Option<&str>, out: &mut Vec<TargetMetadata>) {
        for running in self.targets.values() {
            for (name, metadata) in running.status.get().metadata.iter().map(|family| &**family) {
                if metric.is_none_or(|metric| metric == name) {
                    let (target, metric) = (running.target.labels.clone(), name.clone());
                    out.push(TargetMetadata { target, metric, metadata: metadata.clone() });
                }
            }
        }
    }
}

impl Running {
    fn scrapes_alike(&self, target: &Target) -> bool {
        let how = |target: &Target| (target.interval, target.timeout, target.histograms);
        how(&self.target) == how(target)
    }

    fn stop(self, order: Order) -> JoinHandle<Handed> {
        // The task may have ended by itself at shutdown; then nobody listens.
        _ = self.order.send(order);
        self.task
    }
}

/// One target's loop.
struct Loop {
    shared: Arc<Shared>,
    scraper: Scraper,
    schedule: Schedule,
    /// The last tick, or the timestamp of its scrape where that was later.
    last: Option<i64>,
    /// The tick that is being scraped.
    under_way: Option<i64>,
    /// It is not our turn.
    standing_by: bool,
}

impl Loop {
    /// Goes on with what was `handed` over: under the same schedule as if nothing had happened.
    fn new(mut scraper: Scraper, handed: Handed) -> Loop {
        let schedule = Schedule::new(scraper.target.id, scraper.target.interval);
        let same = handed.begun.filter(|(before, _)| *before == schedule);
        if same.is_none() {
            scraper.accounts.begin(scraper.now_ms(), schedule.stated());
        } else if let Some(tick_ms) = handed.broken_off {
            scraper.accounts.skip(tick_ms);
        }
        let last = same.and_then(|(_, last)| last);
        Loop { shared: scraper.shared(), scraper, schedule, last, under_way: None, standing_by: false }
    }

    /// Scrapes on schedule until told otherwise.
    async fn run(mut self, mut orders: watch::Receiver<Order>) -> Handed {
        let order = self.scrape_until_ordered(&mut orders).await;
        let at_ms = self.under_way.unwrap_or_else(|| self.shared.clock.now_ms());
        match order {
            Order::HandOver => Handed {
                live: self.scraper.live_columns(),
                begun: self.has_begun().then_some((self.schedule, self.last)),
                broken_off: self.under_way,
            },
            Order::Gone(reason) => {
                self.scraper.state_end(at_ms, reason);
                if !self.standing_by {
                    end(&self.shared, &mut self.scraper, self.schedule, self.last).await;
                }
                Handed::default()
            }
            Order::Scrape => {
                let next = self.schedule.next(at_ms, self.last);
                let reason = match self.shared.turns.turn(self.scraper.target.id, next) {
                    Turn::Other(_) => EndReason::HandedOver,
                    Turn::Mine | Turn::Nobody => EndReason::Shutdown,
                };
                self.scraper.state_end(at_ms, reason);
                Handed::default()
            }
        }
    }

    /// Whether anybody has been told of our schedule.
    fn has_begun(&self) -> bool {
        !self.standing_by && self.scraper.accounts.has_begun()
    }

    /// The tick is not ours: whoever's it is goes on with the series, so they are left as they are.
    fn stand_by(&mut self, tick_ms: i64, scraped_by: Option<String>) {
        if !std::mem::replace(&mut self.standing_by, true) {
            self.scraper.state_end(tick_ms, EndReason::HandedOver);
            self.scraper.let_go();
            self.shared.metrics.targets_standing_by.inc();
        }
        self.scraper.status().stand_by(scraped_by.as_deref());
        self.last = self.last.max(Some(tick_ms));
    }

    /// The tick is ours, and those after it until further notice.
    fn take_over(&mut self, tick_ms: i64) {
        if std::mem::take(&mut self.standing_by) {
            self.scraper.accounts.begin(tick_ms, self.schedule.stated());
            self.shared.metrics.targets_standing_by.dec();
        }
    }

    /// Gives the order that ended it; [`Order::Scrape`] at shutdown.
    async fn scrape_until_ordered(&mut self, orders: &mut watch::Receiver<Order>) -> Order {
        let (shared, schedule) = (self.shared.clone(), self.schedule);
        loop {
            let now_ms = shared.clock.now_ms();
            let tick = schedule.next(now_ms, self.last);
            let skipped = if self.standing_by { 0 } else { schedule.skipped(self.last, tick) };
            shared.metrics.ticks_skipped.inc_by(skipped);
            let wait = std::time::Duration::from_millis((tick - now_ms).max(0).unsigned_abs());
            tokio::select! {
                biased;
                () = shared.shutdown.cancelled() => return Order::Scrape,
                // A sender dropped without an order means that the pool is gone at shutdown.
                _ = orders.changed() => return *orders.borrow(),
                () = tokio::time::sleep_until(Instant::now() + wait) => {}
            }
            let began_ms = shared.clock.now_ms();
            match shared.turns.turn(self.scraper.target.id, tick) {
                Turn::Mine => self.take_over(tick),
                Turn::Other(name) => {
                    self.stand_by(tick, Some(name));
                    continue;
                }
                Turn::Nobody => {
                    self.stand_by(tick, None);
                    continue;
                }
            }
            shared.metrics.lateness.observe((began_ms - tick).max(0) as f64 / 1000.0);
            // A timestamp never goes back, even when the clock has been put back.
            let earliest_ms = self.last.map_or(i64::MIN, |last| last + 1);
            let timestamp_ms = schedule.timestamp(tick, began_ms).max(earliest_ms);
            self.last = Some(tick.max(timestamp_ms));
            self.under_way = Some(tick);
            self.scraper.accounts.tick(tick, skipped, schedule.stated());
            let _under_way = shared.scraping();
            tokio::select! {
                biased;
                () = shared.shutdown.cancelled() => return Order::Scrape,
                _ = orders.changed() => return *orders.borrow(),
                () = self.scraper.scrape(timestamp_ms) => self.under_way = None,
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if self.standing_by {
            self.shared.metrics.targets_standing_by.dec();
        }
    }
}

/// Ends a target's series where its next scrape would have been, but only after the one behind it:
/// if the target lives on under another pool, newer samples are there by then, and the markers come
/// too late to be taken.
///
/// Source: Prometheus `scrapeLoop.endOfRunStaleness`.
async fn end(shared: &Shared, scraper: &mut Scraper, schedule: Schedule, last: Option<i64>) {
    let Some(last) = last else { return };
    let stale_ms = last + schedule.interval_ms();
    let write_ms = stale_ms + schedule.interval_ms() + schedule.interval_ms() / 10;
    let wait = std::time::Duration::from_millis((write_ms - shared.clock.now_ms()).max(0).unsigned_abs());
    tokio::select! {
        biased;
        () = shared.shutdown.cancelled() => {}
        // Only the present owner of the target ends its series.
        () = tokio::time::sleep(wait) => if shared.turns.turn(scraper.target.id, stale_ms) == Turn::Mine {
            scraper.end(stale_ms);
        },
    }
}
