//! Kills and power cuts at every operation of the disk, and damage.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use stdx::disk::Survivors;
use storage::{Appended, StoreError};

use super::*;
use crate::Verdict;

/// A store that has for good only what somebody waited for.
#[derive(Debug, Default)]
struct SlowStore {
    position: AtomicU64,
    durable: AtomicU64,
    /// Ticks of the batches, with their positions.
    ticks: Mutex<Vec<(u64, i64)>>,
}

impl Appender for SlowStore {
    fn open_source(&self, _source: &SourceDesc) -> Result<SourceRef, StoreError> {
        Ok(SourceRef(7))
    }

    fn resolve(&self, _: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        Ok(vec![None; labels.len()])
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        let position = self.position.fetch_add(1, Ordering::SeqCst) + 1;
        for account in batch.accounts {
            if let Account::Tick { tick_ms, .. } = account {
                self.ticks.lock().push((position, *tick_ms));
            }
        }
        Ok(Appended { position: CommitPosition(position), ..Appended::default() })
    }

    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        self.durable.fetch_max(position.0, Ordering::SeqCst);
        Ok(())
    }
}

struct Run {
    store: Arc<SlowStore>,
    /// Ticks told, and those of them that were acknowledged.
    acknowledged: i64,
    told: i64,
}

fn open(
    disk: &FakeDisk,
    boot: &str,
    store: Arc<SlowStore>,
) -> Result<(Arc<Ledger>, LedgerAppender), crate::OpenError> {
    let config = LedgerConfig { boot: boot.to_owned(), ..LedgerConfig::new(Path::new(DIR)) };
    let ledger = Arc::new(Ledger::open(config, disk.shared(), FakeClock::at(tick(0)))?);
    let appender = LedgerAppender::new(store, Arc::clone(&ledger));
    Ok((ledger, appender))
}

/// Tells of ticks until the disk dies: some with acknowledgement, some with a snapshot.
fn run(disk: &FakeDisk, ticks: i64) -> Run {
    let mut run = Run { store: Arc::default(), acknowledged: 0, told: 0 };
    let Ok((ledger, appender)) = open(disk, "boot", Arc::clone(&run.store)) else { return run };
    let Ok(source) = appender.open_source(&desc("a", "node")) else { return run };
    for n in 0..ticks {
        let accounts = [begin(source, 0), whole(source, n)];
        let batch = Batch { accounts: &accounts[usize::from(n > 0)..], ..Batch::rows(&[], Policy::SCRAPE) };
        let Ok(appended) = appender.append(&batch) else { return run };
        run.told = n + 1;
        if n % 3 == 1 && appender.wait_durable(appended.position).is_ok() {
            run.acknowledged = n + 1;
        }
        if n % 4 == 3
            && let Ok(tenant) = ledger.tenant(&TenantId::default())
        {
            let wait =
                |position| run.store.wait_durable(CommitPosition(position)).map_err(std::io::Error::other);
            // A snapshot that fails is mended by the next acknowledgement, or by nobody.
            drop(tenant.compact(tick(n), i64::MIN, wait));
        }
    }
    run
}

fn stored(disk: &FakeDisk, boot: &str) -> (i64, Vec<i64>) {
    let (ledger, _) = open(disk, boot, Arc::default()).expect("a disk that works again");
    let ask = |n: i64| Ask { start_ms: tick(n), end_ms: tick(n + 1), ..Ask::default() };
    let is_stored = |n: &i64| ledger.report(&TenantId::default(), &ask(*n)).total.stored == 1;
    let stored: Vec<i64> = (0..40).filter(is_stored).collect();
    let last = stored.last().map_or(0, |last| last + 1);
    (last, stored)
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_made_up() {
    const TICKS: i64 = 14;
    let whole_run = FakeDisk::new(Path::new("/data"));
    run(&whole_run, TICKS);
    let operations = whole_run.operations();
    assert!(operations > 30, "{operations}");
    for operation in 0..operations {
        let disk = FakeDisk::new(Path::new("/data"));
        disk.die_at(operation);
        let run = run(&disk, TICKS);
        let context = format!("operation {operation}: {} told, {} acknowledged", run.told, run.acknowledged);
        // Killed: all that was written counts, the store has it too.
        let (last, ticks) = stored(&disk.after_kill(), "boot");
        assert!(run.acknowledged <= last && last <= run.told, "{context}: {ticks:?}");
        assert_eq!(ticks, (0..last).collect::<Vec<_>>(), "{context}");
        // Power lost: never more than the store has for good.
        let durable = run.store.durable.load(Ordering::SeqCst);
        let has = run.store.ticks.lock().iter().filter(|(position, _)| *position <= durable).count() as i64;
        for survivors in
            [Survivors::Nothing, Survivors::All, Survivors::Some(operation + 1), Survivors::Some(77)]
        {
            let (last, ticks) = stored(&disk.after_power_cut(survivors), "another boot");
            assert!(run.acknowledged <= last && last <= has, "{context}, {survivors:?}: {ticks:?} of {has}");
        }
    }
}

#[test]
fn a_failed_operation_is_mended() {
    const TICKS: i64 = 14;
    let whole_run = FakeDisk::new(Path::new("/data"));
    run(&whole_run, TICKS);
    for operation in 0..whole_run.operations() {
        let disk = FakeDisk::new(Path::new("/data"));
        disk.fail_at(operation);
        let run = run(&disk, TICKS);
        let (last, _) = stored(&disk.after_power_cut(Survivors::Nothing), "another boot");
        assert!(run.acknowledged <= last, "operation {operation}: {} of {last}", run.acknowledged);
        if run.told == TICKS {
            assert_eq!(run.acknowledged, TICKS, "operation {operation}: it did not come back");
        }
    }
}

fn files(disk: &FakeDisk, extension: &str) -> Vec<(PathBuf, u64)> {
    let of = |(path, _): &(PathBuf, u64)| path.extension().is_some_and(|found| found == extension);
    disk.files().into_iter().filter(of).collect()
}

#[test]
fn damage_makes_unknown_and_never_complete() {
    let disk = FakeDisk::new(Path::new("/data"));
    run(&disk, 30);
    // After a clean start everything is in the snapshot.
    let disk = disk.after_kill();
    assert_eq!(stored(&disk, "boot").0, 30);
    let (snapshot, len) = files(&disk, "snapshot").pop().expect("a snapshot");
    for at in (0..len).step_by(7) {
        let damaged = disk.after_kill();
        assert!(damaged.flip_byte(&snapshot, at));
        let (ledger, _) = open(&damaged, "boot", Arc::default()).expect("it opens all the same");
        let ask = Ask { end_ms: tick(40), ..Ask::default() };
        let report = ledger.report(&TenantId::default(), &ask);
        assert_eq!((report.total.stored, report.detail_lost.len()), (0, 1), "byte {at}");
        // It says so after the next start, too.
        let again = open(&damaged.after_kill(), "boot", Arc::default()).expect("it opens").0;
        assert_eq!(again.report(&TenantId::default(), &ask).detail_lost.len(), 1, "byte {at}");
    }
}

#[test]
fn a_damaged_log_costs_what_was_in_the_damaged_place() {
    let disk = FakeDisk::new(Path::new("/data"));
    let store = Arc::<SlowStore>::default();
    let (_, appender) = open(&disk, "boot", Arc::clone(&store)).unwrap();
    let source = appender.open_source(&desc("a", "node")).unwrap();
    for n in 0..20 {
        let accounts = [begin(source, 0), whole(source, n)];
        let batch = Batch { accounts: &accounts[usize::from(n > 0)..], ..Batch::rows(&[], Policy::SCRAPE) };
        appender.append(&batch).unwrap();
    }
    let (log, len) = files(&disk, "log").pop().expect("a log");
    for at in (0..len).step_by(5) {
        let damaged = disk.after_kill();
        assert!(damaged.flip_byte(&log, at));
        let config = LedgerConfig { boot: "boot".to_owned(), ..LedgerConfig::new(Path::new(DIR)) };
        let ledger = Ledger::open(config, damaged.shared(), FakeClock::at(tick(100))).expect("it opens");
        let report = ledger.report(&TenantId::default(), &Ask { end_ms: tick(20), ..Ask::default() });
        let (total, lost) = (&report.total, &report.detail_lost);
        let whole = total.stored == 20;
        let owns_up = !lost.is_empty() || total.unknown_rows() > 0;
        assert!(!whole || !lost.is_empty(), "byte {at}: {total:?}");
        assert!(owns_up, "byte {at}: {total:?} {lost:?}");
        assert!(total.missing.keys().all(|verdict| *verdict == Verdict::AgentDown), "byte {at}");
    }
}

#[test]
fn a_log_that_was_not_begun_is_no_damage() {
    let disk = FakeDisk::new(Path::new("/data"));
    run(&disk, 30);
    let disk = disk.after_kill();
    assert_eq!(stored(&disk, "boot").0, 30);
    let (log, _) = files(&disk, "log").pop().expect("a log");
    let begun = disk.read(&log).expect("it can be read");
    let head = 8 + 8 + 1 + "boot".len();
    for len in 0..=head {
        for garbled in [false, true] {
            let left = disk.after_kill();
            let bytes = if garbled { vec![0; len] } else { begun[..len].to_vec() };
            left.remove_file(&log).expect("it can be removed");
            left.create(&log).and_then(|mut file| file.write_all(&bytes)).expect("it can be written");
            let (ledger, _) = open(&left, "boot", Arc::default()).expect("it opens");
            let ask = Ask { end_ms: tick(40), ..Ask::default() };
            let report = ledger.report(&TenantId::default(), &ask);
            assert_eq!((report.total.stored, report.detail_lost), (30, Vec::new()), "{len} bytes, {garbled}");
        }
    }
}
