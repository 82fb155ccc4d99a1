//! The ledger over a store in memory and a disk that forgets.

use std::path::Path;
use std::sync::Arc;

use model::{Labels, SourceId, TenantId};
use stdx::clock::FakeClock;
use stdx::disk::{Disk, FakeDisk, Survivors};
use storage::memory::MemoryStore;
use storage::{
    Account, Appender, Batch, BlockKey, CommitPosition, EndReason, Failure, Outcome, Policy, Row, Schedule,
    SeriesRef, SourceDesc, SourceRef,
};

use crate::{Ask, By, Ledger, LedgerAppender, LedgerConfig, Loss, LossReport, Pause, Report, Tally};

mod crashes;
mod golden;
mod model_based;
mod present;

const DIR: &str = "/data/ledger";
const START_MS: i64 = 1_700_000_000_000;
const INTERVAL_MS: i64 = 15_000;
const GRID: Schedule = Schedule { interval_ms: INTERVAL_MS, offset_ms: 5_000 };

/// Tick `n` of [`GRID`].
fn tick(n: i64) -> i64 {
    START_MS - START_MS.rem_euclid(INTERVAL_MS) + GRID.offset_ms + n * INTERVAL_MS
}

struct Bench {
    disk: FakeDisk,
    clock: Arc<FakeClock>,
    store: Arc<MemoryStore>,
    ledger: Arc<Ledger>,
    appender: LedgerAppender,
}

impl Bench {
    fn new() -> Bench {
        Bench::on(FakeDisk::new(Path::new("/data")), Arc::new(MemoryStore::new()), "boot", tick(0))
    }

    fn on(disk: FakeDisk, store: Arc<MemoryStore>, boot: &str, now_ms: i64) -> Bench {
        let clock = FakeClock::at(now_ms);
        let config = LedgerConfig { boot: boot.to_owned(), ..LedgerConfig::new(Path::new(DIR)) };
        let ledger = Arc::new(Ledger::open(config, disk.shared(), clock.clone()).unwrap());
        let appender = LedgerAppender::new(store.clone(), Arc::clone(&ledger));
        Bench { disk, clock, store, ledger, appender }
    }

    /// The next start of the program on `disk`, with what the store has.
    fn restarted(&self, disk: FakeDisk, boot: &str) -> Bench {
        Bench::on(disk, Arc::clone(&self.store), boot, self.now())
    }

    fn now(&self) -> i64 {
        stdx::clock::Clock::now_ms(&*self.clock)
    }

    fn source(&self, cluster: &str, job: &str) -> SourceRef {
        self.appender.open_source(&desc(cluster, job)).unwrap()
    }

    fn state(&self, accounts: &[Account]) -> CommitPosition {
        self.append(&[], accounts, None)
    }

    fn append(&self, rows: &[Row<'_>], accounts: &[Account], key: Option<BlockKey>) -> CommitPosition {
        let batch = Batch { accounts, key, ..Batch::rows(rows, Policy::SCRAPE) };
        self.appender.append(&batch).unwrap().position
    }

    fn report(&self, from: i64, to: i64) -> Report {
        let ask = Ask { start_ms: from, end_ms: to, by: By::Source, gaps_max: 100, ..Ask::default() };
        self.ledger.report(&TenantId::default(), &ask)
    }

    /// The sum of ticks `from..to`.
    fn tally(&self, from: i64, to: i64) -> Tally {
        self.report(tick(from), tick(to)).total
    }
}

fn desc(cluster: &str, job: &str) -> SourceDesc {
    let tenant = TenantId::default();
    let labels = Labels::from_pairs([("cluster", cluster), ("job", job)]);
    let id = SourceId::of(&tenant, cluster, job, &labels, "");
    SourceDesc { tenant, id, labels }
}

fn begin(source: SourceRef, n: i64) -> Account {
    Account::Begin { source, at_ms: tick(n), schedule: GRID }
}

fn end(source: SourceRef, n: i64, reason: EndReason) -> Account {
    Account::End { source, at_ms: tick(n), reason }
}

fn told(source: SourceRef, n: i64, outcome: Outcome) -> Account {
    Account::Tick { source, tick_ms: tick(n), outcome }
}

fn whole(source: SourceRef, n: i64) -> Account {
    told(source, n, Outcome::Scraped { samples: 10, exposed: 10 })
}

/// What a tally says, shortly: `expected stored+partial`, reasons.
fn shown(tally: &Tally) -> String {
    let mut parts = vec![format!("{} expected, {} stored", tally.expected, tally.stored)];
    if tally.partial > 0 {
        parts.push(format!("{} partial", tally.partial));
    }
    let reasons = tally.missing.iter().chain(&tally.unknown);
    parts.extend(reasons.map(|(verdict, rows)| format!("{rows} {verdict}")));
    parts.join(", ")
}

/// States `accounts`, asks at tick `now` for ticks 0 to 20.
#[track_caller]
fn check(now: i64, accounts: impl Fn(SourceRef) -> Vec<Account>, want: &str) {
    let bench = Bench::new();
    let source = bench.source("a", "node");
    bench.state(&accounts(source));
    bench.clock.set_ms(tick(now));
    assert_eq!(shown(&bench.tally(0, 20)), want);
    // Once more, the other way round, after a restart.
    let mut backwards = accounts(source);
    backwards.reverse();
    let other = Bench::new();
    let source = other.source("a", "node");
    other.state(&backwards);
    other.state(&accounts(source));
    other.clock.set_ms(tick(now));
    assert_eq!(shown(&other.tally(0, 20)), want, "backwards");
    let killed = other.restarted(other.disk.after_kill(), "boot");
    assert_eq!(shown(&killed.tally(0, 20)), want, "after a kill");
}

#[test]
fn what_is_told_and_what_is_not() {
    let ticks = |source, range: std::ops::Range<i64>| range.map(move |n| whole(source, n));
    check(20, |s| [begin(s, 0)].into_iter().chain(ticks(s, 0..10)).collect(), {
        // The last one is not late yet.
        "19 expected, 10 stored, 9 silent"
    });
    let complete =
        |s: SourceRef| -> Vec<Account> { [begin(s, 0)].into_iter().chain(ticks(s, 0..20)).collect() };
    check(20, complete, "20 expected, 20 stored");
    check(21, complete, "20 expected, 20 stored");
    let with = |more: fn(SourceRef) -> Vec<Account>, told: &'static [i64]| {
        move |s: SourceRef| -> Vec<Account> {
            [begin(s, 0)].into_iter().chain(told.iter().map(|n| whole(s, *n))).chain(more(s)).collect()
        }
    };
    check(
        40,
        with(|s| vec![end(s, 10, EndReason::Gone)], &[0, 1, 2, 3]),
        "10 expected, 4 stored, 6 undelivered",
    );
    check(40, with(|s| vec![end(s, 4, EndReason::Gone)], &[0, 1, 2, 3]), "4 expected, 4 stored");
    // A stop is no end: somebody has to come back, or to retire it.
    check(
        40,
        with(|s| vec![end(s, 4, EndReason::Shutdown)], &[0, 1, 2, 3]),
        "20 expected, 4 stored, 16 agent_down",
    );
    check(
        40,
        with(
            |s| vec![end(s, 4, EndReason::Shutdown), begin(s, 8), end(s, 10, EndReason::Gone)],
            &[0, 1, 2, 3, 8, 9],
        ),
        "10 expected, 6 stored, 4 agent_down",
    );
    // One that died and came back.
    check(
        40,
        with(|s| vec![begin(s, 8), end(s, 10, EndReason::Gone)], &[0, 1, 2, 3, 8, 9]),
        "10 expected, 6 stored, 4 agent_down",
    );
    // One that took over.
    check(
        40,
        with(
            |s| vec![end(s, 4, EndReason::HandedOver), begin(s, 5), end(s, 8, EndReason::Gone)],
            &[0, 1, 2, 3, 5, 6, 7],
        ),
        "8 expected, 7 stored, 1 agent_down",
    );
    // Told in between is lost in between.
    check(40, with(|s| vec![end(s, 6, EndReason::Gone)], &[0, 1, 5]), "6 expected, 3 stored, 3 undelivered");
    check(
        40,
        with(
            |s| {
                vec![
                    told(s, 2, Outcome::Failed(Failure::Timeout)),
                    told(s, 3, Outcome::Skipped),
                    told(s, 4, Outcome::Scraped { samples: 7, exposed: 10 }),
                    end(s, 6, EndReason::Gone),
                ]
            },
            &[0, 1, 5],
        ),
        "6 expected, 4 stored, 1 partial, 1 target_timeout, 1 skipped",
    );
    // Ticks alone tell a schedule.
    check(20, |s| (0..5).map(|n| whole(s, n)).collect(), "19 expected, 5 stored, 14 silent");
    // Another interval from tick 4 on.
    check(
        40,
        |s| {
            let slow =
                Schedule { interval_ms: 4 * INTERVAL_MS, offset_ms: tick(4).rem_euclid(4 * INTERVAL_MS) };
            let mut all = vec![begin(s, 0), Account::Begin { source: s, at_ms: tick(4), schedule: slow }];
            all.extend([0, 1, 2, 3, 4, 12, 16].map(|n| whole(s, n)));
            all
        },
        "8 expected, 7 stored, 1 undelivered",
    );
}

#[test]
fn the_better_of_two_statements_holds() {
    let bench = Bench::new();
    let source = bench.source("a", "node");
    bench.state(&[begin(source, 0), whole(source, 0)]);
    bench.state(&[told(source, 1, Outcome::Failed(Failure::Unreachable))]);
    bench.state(&[whole(source, 2), whole(source, 1)]);
    bench.state(&[told(source, 1, Outcome::Failed(Failure::Unreachable)), told(source, 2, Outcome::Skipped)]);
    bench.clock.set_ms(tick(3));
    let report = bench.report(tick(0), tick(3));
    assert_eq!(shown(&report.total), "3 expected, 3 stored");
    assert_eq!((report.total.cells_stored, report.total.percent()), (30, Some(100.0)));
    assert_eq!(report.gaps, []);
}

#[test]
fn pauses_retirement_and_losses() {
    let bench = Bench::new();
    let tenant = TenantId::default();
    let (a, b) = (bench.source("a", "node"), bench.source("b", "node"));
    bench.state(&[begin(a, 0), whole(a, 0), begin(b, 0), whole(b, 0)]);
    bench.clock.set_ms(tick(40));
    let loss = |from, to, cluster: &str| LossReport {
        cluster: cluster.to_owned(),
        source: None,
        from_ms: tick(from),
        to_ms: tick(to),
        rows: 3,
        reason: Loss::QueueFull,
    };
    bench.ledger.lost(&tenant, loss(1, 3, "a")).unwrap();
    bench.ledger.pause(&tenant, "a", tick(5), tick(8)).unwrap();
    bench.ledger.retire(&tenant, "b", tick(10)).unwrap();
    let by_cluster = |bench: &Bench, cluster: &str| {
        let ask =
            Ask { cluster: Some(cluster.to_owned()), start_ms: tick(0), end_ms: tick(20), ..Ask::default() };
        shown(&bench.ledger.report(&tenant, &ask).total)
    };
    let check = |bench: &Bench| {
        assert_eq!(by_cluster(bench, "a"), "17 expected, 1 stored, 3 dropped_queue_full, 13 silent");
        assert_eq!(by_cluster(bench, "b"), "10 expected, 1 stored, 9 silent");
        assert_eq!(by_cluster(bench, "c"), "0 expected, 0 stored");
    };
    check(&bench);
    // They were written down at once.
    check(&bench.restarted(bench.disk.after_power_cut(stdx::disk::Survivors::Nothing), "boot"));
    // Begun anew after it was retired.
    bench.state(&[begin(b, 15)]);
    assert_eq!(by_cluster(&bench, "b"), "15 expected, 1 stored, 9 agent_down, 5 silent");
    let other = TenantId::new("other").unwrap();
    assert_eq!(bench.ledger.clusters(&tenant), ["a", "b"]);
    assert_eq!(bench.ledger.clusters(&other), [""; 0]);
    assert_eq!(
        bench.ledger.report(&other, &Ask { end_ms: i64::MAX / 4, ..Ask::default() }),
        Report::default()
    );
}

#[test]
fn a_pause_ends_early() {
    let bench = Bench::new();
    let tenant = TenantId::default();
    let a = bench.source("a", "node");
    bench.state(&[begin(a, 0), whole(a, 0)]);
    bench.ledger.pause(&tenant, "a", tick(2), tick(30)).unwrap();
    bench.clock.set_ms(tick(8));
    let in_force = bench.ledger.pauses(&tenant, tick(8));
    assert_eq!(in_force, [Pause { cluster: "a".to_owned(), from_ms: tick(2), until_ms: tick(30) }]);
    bench.ledger.resume(&tenant, "a", tick(8)).unwrap();
    bench.clock.set_ms(tick(40));
    let check = |bench: &Bench| {
        assert_eq!(bench.ledger.pauses(&tenant, tick(8)), []);
        let ask = Ask { start_ms: tick(0), end_ms: tick(20), ..Ask::default() };
        let total = bench.ledger.report(&tenant, &ask).total;
        assert_eq!(shown(&total), "14 expected, 1 stored, 13 silent");
    };
    check(&bench);
    check(&bench.restarted(bench.disk.after_power_cut(stdx::disk::Survivors::Nothing), "boot"));
}

#[test]
fn cells_that_the_store_refuses_are_lost() {
    let bench = Bench::new();
    let source = bench.source("a", "node");
    let labels = ["m0", "m1", "m2"].map(|name| Labels::from_pairs([("__name__", name)]));
    let series: Vec<SeriesRef> =
        bench.appender.resolve(source, &labels).unwrap().into_iter().flatten().collect();
    let scraped = |n| told(source, n, Outcome::Scraped { samples: 3, exposed: 3 });
    let put = |n: i64, late: i64, series: &[SeriesRef], values: &[f64], key| {
        let row = Row::floats(source, tick(n) + late, series, values);
        bench.append(&[row], &[scraped(n)], key)
    };
    bench.state(&[begin(source, 0)]);
    put(0, 0, &series, &[1.0; 3], None);
    put(1, 40, &series, &[1.0; 3], None);
    // Out of order, a part of it, and then all of it.
    put(3, 0, &series[..1], &[1.0; 3][..1], None);
    put(2, 0, &series, &[1.0; 3], None);
    bench.clock.set_ms(tick(4));
    let report = bench.report(tick(0), tick(3));
    assert_eq!(shown(&report.total), "3 expected, 3 stored, 1 partial");
    assert_eq!((report.total.cells_stored, report.total.cells_lost), (8, 1));
    assert_eq!(report.total.percent(), Some(99.999));
    bench.store.set_oldest_ms(tick(5));
    put(4, 0, &series, &[1.0; 3], None);
    assert_eq!(shown(&bench.tally(4, 5)), "1 expected, 0 stored, 1 dropped_too_old");
    // Ends that come too late are no loss.
    put(6, 0, &series, &[1.0; 3], None);
    let stale = [model::stale_nan(); 3];
    put(5, 0, &series, &stale, None);
    assert_eq!(shown(&bench.tally(5, 7)), "2 expected, 2 stored");
    // A block that comes again does not say how it went the first time.
    let key = Some(BlockKey { queue_id: 1, incarnation: 1, block: 1 });
    put(8, 0, &series, &[1.0; 3], None);
    put(7, 0, &series, &[2.0; 3], key);
    assert_eq!(shown(&bench.tally(7, 8)), "1 expected, 0 stored, 1 refused_conflict");
    put(7, 0, &series, &[2.0; 3], key);
    assert_eq!(shown(&bench.tally(7, 8)), "1 expected, 0 stored, 1 refused_conflict");
}

#[test]
fn a_block_that_the_store_knows_still_counts() {
    let bench = Bench::new();
    let source = bench.source("a", "node");
    let series: Vec<SeriesRef> = bench
        .appender
        .resolve(source, &[Labels::from_pairs([("__name__", "m")])])
        .unwrap()
        .into_iter()
        .flatten()
        .collect();
    let key = Some(BlockKey { queue_id: 1, incarnation: 1, block: 1 });
    let row = Row::floats(source, tick(0), &series, &[1.0]);
    let scraped = told(source, 0, Outcome::Scraped { samples: 1, exposed: 1 });
    // Stored, and the ledger's power went before it was written down.
    let batch = Batch { key, ..Batch::rows(std::slice::from_ref(&row), Policy::SCRAPE) };
    bench.store.append(&batch).unwrap();
    bench.append(std::slice::from_ref(&row), &[begin(source, 0), scraped], key);
    assert_eq!(shown(&bench.tally(0, 1)), "1 expected, 1 stored");
}

#[test]
fn how_even_the_record_is() {
    let bench = Bench::new();
    let source = bench.source("a", "node");
    bench.state(&[begin(source, 0), whole(source, 0), whole(source, 1), whole(source, 2)]);
    bench.state(&[whole(source, 6), whole(source, 7)]);
    bench.clock.set_ms(tick(8));
    let report = bench.report(tick(0), tick(8));
    let worst = report.total.worst.unwrap();
    assert_eq!((worst.between_ms, worst.interval_ms), (4 * INTERVAL_MS, INTERVAL_MS));
    assert_eq!(worst.from_ms, tick(2));
    let gap = &report.gaps[0];
    assert_eq!((gap.from_ms, gap.to_ms, gap.rows), (tick(3), tick(5), 3));
    assert_eq!((gap.cluster.as_str(), gap.job.as_str(), report.gaps.len()), ("a", "node", 1));
}

#[test]
fn incomplete_times_touch_selections() {
    let bench = Bench::new();
    let tenant = TenantId::default();
    let (a, b) = (bench.source("a", "node"), bench.source("b", "node"));
    let ticks = |s: SourceRef, gone: &[i64]| -> Vec<Account> {
        let rest = (0..100).filter(|n| !gone.contains(n)).map(|n| whole(s, n));
        [begin(s, 0)].into_iter().chain(rest).collect()
    };
    bench.state(&ticks(a, &[]));
    bench.state(&ticks(b, &[50, 51, 70]));
    bench.clock.set_ms(tick(100));
    let touched = |matchers: &[model::Matcher], from: i64, to: i64| -> Vec<(String, i64, i64)> {
        let found = bench.ledger.incomplete(&tenant, &[(matchers, tick(from), tick(to))]);
        found
            .into_iter()
            .map(|one| (one.cluster, (one.from_ms - tick(0)) / INTERVAL_MS, one.rows as i64))
            .collect()
    };
    let cluster = |name: &str| [model::Matcher::equal("cluster", name)];
    assert_eq!(touched(&[], 0, 100), [("b".to_owned(), 50, 2), ("b".to_owned(), 70, 1)]);
    assert_eq!(touched(&[], 0, 49), []);
    assert_eq!(touched(&cluster("a"), 0, 100), []);
    assert_eq!(touched(&cluster("b"), 51, 60), [("b".to_owned(), 50, 2)]);
    assert_eq!(touched(&[model::Matcher::equal("job", "other")], 0, 100), []);
    assert_eq!(touched(&[model::Matcher::equal("__name__", "up")], 69, 75), [("b".to_owned(), 70, 1)]);
}

#[test]
fn pushes_are_received_against_stored() {
    let bench = Bench::new();
    let source = bench.source("a", "telegraf");
    let labels = [Labels::from_pairs([("__name__", "m")])];
    let series: Vec<SeriesRef> =
        bench.appender.resolve(source, &labels).unwrap().into_iter().flatten().collect();
    bench.store.set_oldest_ms(tick(1));
    let rows: Vec<Row<'_>> = (0..4).map(|n| Row::floats(source, tick(n), &series, &[1.0])).collect();
    bench.appender.append(&Batch::rows(&rows, Policy::REMOTE_WRITE)).unwrap();
    let pushed = bench.ledger.pushed(&TenantId::default());
    assert_eq!((pushed[0].received, pushed[0].stored, pushed[0].cells_refused), (4, 3, 1));
    assert_eq!((pushed[0].job.as_str(), pushed[0].last_ms), ("telegraf", tick(0)));
    assert_eq!(bench.report(0, i64::MAX / 4).total, Tally::default());

    // It is silent since then, whatever the program does; what comes later is added.
    bench.appender.commit().unwrap();
    bench.clock.set_ms(tick(50));
    for (what, disk) in
        [("kill", bench.disk.after_kill()), ("power", bench.disk.after_power_cut(Survivors::All))]
    {
        let again = bench.restarted(disk, what);
        assert_eq!(again.ledger.pushed(&TenantId::default()), pushed, "{what}");
        let source = again.source("a", "telegraf");
        let rows = [Row::floats(source, tick(5), &series, &[1.0])];
        again.appender.append(&Batch::rows(&rows, Policy::REMOTE_WRITE)).unwrap();
        let later = again.ledger.pushed(&TenantId::default());
        assert_eq!((later[0].received, later[0].stored, later[0].last_ms), (5, 4, tick(50)), "{what}");
    }
}

#[test]
fn what_retention_has_passed_by_leaves_the_files() {
    let disk = FakeDisk::new(Path::new("/data"));
    let clock = FakeClock::at(tick(0));
    let retention = Some(std::time::Duration::from_secs(24 * 3600));
    let config = || LedgerConfig { retention, boot: "boot".into(), ..LedgerConfig::new(Path::new(DIR)) };
    let store = Arc::new(MemoryStore::new());
    let ledger = Arc::new(Ledger::open(config(), disk.shared(), clock.clone()).unwrap());
    let appender = LedgerAppender::new(store.clone(), Arc::clone(&ledger));
    let source = appender.open_source(&desc("a", "short")).unwrap();
    let accounts = [
        begin(source, 0),
        whole(source, 0),
        Account::End { source, at_ms: tick(1), reason: EndReason::Gone },
    ];
    appender.append(&Batch { accounts: &accounts, ..Batch::rows(&[], Policy::SCRAPE) }).unwrap();
    appender.maintain().unwrap();
    assert_eq!(ledger.pushed(&TenantId::default()), []);
    let sources = |at: &Ledger| {
        let ask = Ask { start_ms: 0, end_ms: i64::MAX / 4, by: By::Source, ..Ask::default() };
        at.report(&TenantId::default(), &ask).groups.len()
    };
    assert_eq!(sources(&ledger), 1);
    // Nothing fills the log; a snapshot is made all the same, a day later and then another.
    for days in [1, 2, 3] {
        clock.set_ms(tick(0) + days * 25 * 3_600_000);
        appender.maintain().unwrap();
    }
    let again = Ledger::open(config(), disk.after_kill().shared(), clock.clone()).unwrap();
    assert_eq!((sources(&ledger), sources(&again)), (0, 0));
}

#[test]
fn a_loss_that_is_told_again_after_a_restart_changes_nothing() {
    let bench = Bench::new();
    let source = bench.source("a", "node");
    bench.state(&[begin(source, 0), whole(source, 0), whole(source, 3)]);
    let tell = |bench: &Bench| {
        let (from_ms, to_ms) = (tick(1), tick(2));
        let (cluster, reason) = ("a".to_owned(), Loss::QueueFull);
        let loss = LossReport { cluster, source: None, from_ms, to_ms, rows: 2, reason };
        bench.ledger.lost(&TenantId::default(), loss).unwrap();
    };
    tell(&bench);
    bench.clock.set_ms(tick(4));
    let told = shown(&bench.tally(0, 4));
    assert!(told.contains("2 dropped_queue_full"), "{told}");
    let again = bench.restarted(bench.disk.after_kill(), "boot");
    let bytes = |bench: &Bench| bench.disk.files().iter().map(|(_, len)| len).sum::<u64>();
    let before = bytes(&again);
    tell(&again);
    assert_eq!((shown(&again.tally(0, 4)), bytes(&again)), (told, before));
}

#[test]
fn counters_go_on_once_and_agents_are_watched() {
    let bench = Bench::new();
    let tenant = TenantId::default();
    let mut registry = prometheus_client::registry::Registry::default();
    bench.ledger.register_metrics(&mut registry);
    let source = bench.source("a", "node");
    bench.state(&[begin(source, 0), whole(source, 0), whole(source, 1)]);
    bench.ledger.agent_enrolled(&tenant, "a", "agent-1", tick(0));
    bench.ledger.agent_enrolled(&tenant, "b", "agent-2", tick(0));
    bench.clock.set_ms(tick(10));
    bench.ledger.agent_seen(&tenant, "a", "agent-1", tick(10) - 4_000);
    bench.appender.maintain().unwrap();
    bench.appender.maintain().unwrap();
    bench.state(&[whole(source, 2), whole(source, 3)]);
    bench.appender.maintain().unwrap();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    let place = "{cluster=\"a\",ledger_job=\"node\"}";
    assert_eq!(
        line("marigraph_ledger_rows_expected_total"),
        format!("marigraph_ledger_rows_expected_total{place} 9")
    );
    assert_eq!(
        line("marigraph_ledger_rows_stored_total"),
        format!("marigraph_ledger_rows_stored_total{place} 2")
    );
    assert_eq!(
        line("marigraph_ledger_rows_unknown_total"),
        format!("marigraph_ledger_rows_unknown_total{place} 7")
    );
    assert_eq!(
        line("marigraph_ledger_rows_late_total"),
        format!("marigraph_ledger_rows_late_total{place} 2")
    );
    assert_eq!(line("marigraph_cluster_up{cluster=\"a\"}"), "marigraph_cluster_up{cluster=\"a\"} 1");
    assert_eq!(line("marigraph_cluster_up{cluster=\"b\"}"), "marigraph_cluster_up{cluster=\"b\"} 0");
    // Another tenant's cluster of that name is another one; of a retired one nothing is told.
    let other = TenantId::new("acme").unwrap();
    bench.ledger.agent_enrolled(&other, "a", "agent-9", tick(0));
    let desc = SourceDesc { tenant: other.clone(), ..desc("a", "node") };
    let theirs = bench.appender.open_source(&desc).unwrap();
    bench.state(&[begin(theirs, 8), whole(theirs, 8)]);
    bench.ledger.retire(&tenant, "b", tick(9)).unwrap();
    assert_eq!(bench.ledger.retired(&tenant), ["b"]);
    bench.appender.maintain().unwrap();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let up: Vec<&str> = text.lines().filter(|line| line.starts_with("marigraph_cluster_up{")).collect();
    assert!(up.contains(&"marigraph_cluster_up{cluster=\"a\"} 1"), "{up:?}");
    assert!(up.contains(&"marigraph_cluster_up{cluster=\"a\",tenant=\"acme\"} 0"), "{up:?}");
    assert_eq!(up.len(), 2, "{up:?}");
    let stored: Vec<&str> =
        text.lines().filter(|line| line.starts_with("marigraph_ledger_rows_stored_total{")).collect();
    let theirs = "marigraph_ledger_rows_stored_total{cluster=\"a\",tenant=\"acme\",ledger_job=\"node\"} 1";
    assert_eq!(stored.len(), 2, "{stored:?}");
    assert!(stored.contains(&theirs), "{stored:?}");
    let agents = bench.ledger.agents(&tenant);
    assert_eq!(
        agents.iter().map(|a| (a.silent, a.agent.as_str())).collect::<Vec<_>>(),
        [(true, "agent-2"), (false, "agent-1")]
    );
}

#[test]
fn sources_that_nobody_scrapes_any_more_are_over() {
    let bench = Bench::new();
    let tenant = TenantId::default();
    let (old, kept) = (bench.source("a", "old"), bench.source("a", "kept"));
    bench.state(&[begin(old, 0), whole(old, 0), begin(kept, 0), whole(kept, 0)]);
    bench.clock.set_ms(tick(20));
    bench.state(&[begin(kept, 10), whole(kept, 10)]);
    bench.ledger.settled(&tenant, "a", tick(10)).unwrap();
    let shown: Vec<String> = bench.report(tick(0), tick(20)).groups.iter().map(|g| shown(&g.tally)).collect();
    assert_eq!(
        shown,
        ["19 expected, 2 stored, 9 agent_down, 8 silent", "10 expected, 1 stored, 9 undelivered"]
    );
}

#[test]
fn a_day_of_perfect_rows_costs_little() {
    let bench = Bench::new();
    let sources: Vec<SourceRef> = (0..20).map(|n| bench.source("a", &format!("job{n}"))).collect();
    for &source in &sources {
        bench.state(&[begin(source, 0)]);
    }
    for n in 0..5760 {
        bench.clock.set_ms(tick(n) + 10);
        let ticks: Vec<Account> = sources.iter().map(|source| whole(*source, n)).collect();
        bench.state(&ticks);
        if n % 500 == 0 {
            bench.appender.maintain().unwrap();
        }
    }
    let fresh = bench.restarted(bench.disk.after_kill(), "boot");
    let bytes: u64 = fresh.disk.files().iter().map(|(_, len)| len).sum();
    let per_source = bytes / 20;
    assert!(per_source < 100, "{per_source} bytes a source, with its labels");
    assert_eq!(shown(&fresh.tally(0, 5760)), "115200 expected, 115200 stored");
    assert!(fresh.disk.read_dir(&Path::new(DIR).join("default")).unwrap().len() <= 2);
}
