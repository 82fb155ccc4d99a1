//! A hub: the real door, intake, ledger and store, on a disk of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use ledger::{Ledger, LedgerAppender, LedgerConfig, Loss, LossReport};
use model::{Labels, Matcher, TenantId};
use parking_lot::Mutex;
use queue::LostReason;
use remote::intake::{IntakeConfig, IntakeMetrics, StoreIntake};
use remote::ship::message::{self, Answer, Hello};
use remote::ship::{Door, Peer, Refusal, Request};
use remote::{OnLost, Reason};
use sim::{Dice, Packet};
use stdx::clock::FakeClock;
use stdx::disk::{Disk, FakeDisk, Survivors};
use storage::{
    Appended, Appender, Batch, CommitPosition, Queryable, Select, SeriesRef, SourceDesc, SourceRef,
    StoreError,
};
use tsdb::{Config, Db, SyncPolicy};

use crate::ground::Key;

pub(crate) struct Hub {
    pub(crate) disk: FakeDisk,
    pub(crate) ledger: Arc<Ledger>,
    /// Power cuts so far: after one, a row that nobody sends again may be in the store and not in the ledger.
    pub(crate) power_cuts: u64,
    /// Its disk has refused to write, perhaps to the ledger and not to the store: a kill then does the same.
    pub(crate) was_refused: bool,
    /// Whose queues it has been told that are.
    pub(crate) names: Names,
    time: Arc<FakeClock>,
    db: Arc<Db>,
    witness: Arc<Witness>,
    kept: Arc<LedgerAppender>,
    door: Door<StoreIntake>,
}

/// What certificates have said of queues' lives. All agents here have copies of one queue.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// In the order of their first hello that was answered: incarnation and cluster.
    heard: Vec<(u128, String)>,
    /// Whose agent was heard of after one of another name had begun: its rows may come yet.
    living: BTreeSet<u128>,
    /// Whose blocks came, or were told to be lost, before anybody had said whose they are.
    early: BTreeSet<u128>,
}

impl Names {
    fn note(&mut self, peer: &Peer, request: Request, body: &[u8], is_answered: bool) {
        let (spoken_of, lost) = match (Hello::decode(body), message::Batch::decode(body)) {
            (Ok(hello), _) => (None, hello.lost),
            (_, Ok(batch)) => (Some(batch.segment.incarnation), batch.lost),
            _ => return,
        };
        let spoken_of = spoken_of.into_iter().chain(lost.iter().map(|lost| lost.incarnation));
        let heard = |incarnation: &u128| self.heard.iter().any(|(known, _)| known == incarnation);
        self.early.extend(spoken_of.filter(|incarnation| !heard(incarnation)));
        if let (Request::Hello, Ok(hello), true) = (request, Hello::decode(body), is_answered)
            && self.heard.iter().all(|(incarnation, _)| *incarnation != hello.incarnation)
        {
            self.heard.push((hello.incarnation, peer.cluster.clone()));
        }
        let last_other = self.heard.iter().rposition(|(_, cluster)| *cluster != peer.cluster);
        let before = self.heard.iter().take(last_other.unwrap_or(0));
        let own = before.filter(|(_, cluster)| *cluster == peer.cluster);
        self.living.extend(own.map(|(incarnation, _)| incarnation));
    }

    /// Whether the hub has to know whose the life is, and that nobody else can bring its rows.
    pub(crate) fn proves(&self, incarnation: u128) -> bool {
        let heard = self.heard.iter().any(|(known, _)| *known == incarnation);
        heard && !self.living.contains(&incarnation) && !self.early.contains(&incarnation)
    }
}

/// Stands before the store, and does not believe it: no sample is taken twice.
struct Witness {
    db: Arc<Db>,
    names: Mutex<HashMap<SeriesRef, String>>,
    taken: Mutex<BTreeSet<Key>>,
}

impl Appender for Witness {
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        self.db.open_source(source)
    }

    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        let found = self.db.resolve(source, labels)?;
        let named = found.iter().zip(labels).filter_map(|(series, labels)| Some(((*series)?, name(labels))));
        self.names.lock().extend(named);
        Ok(found)
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        let done = self.db.append(batch)?;
        if done.untaken || done.repeated {
            return Ok(done);
        }
        let (names, mut taken) = (self.names.lock(), self.taken.lock());
        for (at, row) in batch.rows.iter().enumerate() {
            for series in row.series {
                let refused = done.rejected.iter().any(|no| no.row == at && no.series == *series);
                assert!(!refused, "the store refuses a sample: {:?}", done.rejected);
                let key = (names[series].clone(), row.timestamp_ms);
                assert!(taken.insert(key.clone()), "{key:?} of block {:?} is stored twice", batch.key);
            }
        }
        Ok(done)
    }

    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        self.db.wait_durable(position)
    }
}

fn name(labels: &Labels) -> String {
    labels.get("n").expect("its name").to_owned()
}

impl Hub {
    pub(crate) fn new(time: &Arc<FakeClock>) -> Hub {
        Hub::open(FakeDisk::new(Path::new("/hub")), time, 0)
    }

    fn open(disk: FakeDisk, time: &Arc<FakeClock>, power_cuts: u64) -> Hub {
        let mut config = Config::new(Path::new("/hub/store"));
        config.disk = disk.shared();
        config.clock = time.clone();
        config.lock = false;
        config.background = false;
        config.sync = SyncPolicy::Off;
        config.retention = None;
        let db = Arc::new(Db::open(config).expect("a healed disk opens"));
        let witness =
            Arc::new(Witness { taken: Mutex::new(keys(&db)), names: Mutex::default(), db: Arc::clone(&db) });

        // As the hub does before it opens its ledger, which trusts the store's log.
        let log = Path::new("/hub/store").join(tsdb::filenames::WAL_DIR);
        for path in disk.read_dir(&log).expect("a healed disk") {
            disk.open_append(&path).and_then(|mut file| file.sync_data()).expect("a healed disk");
        }
        let boot = format!("boot {power_cuts}");
        let config = LedgerConfig { boot, ..LedgerConfig::new(Path::new("/hub/ledger")) };
        let ledger =
            Arc::new(Ledger::open(config, disk.shared(), time.clone()).expect("a healed disk opens"));
        let kept = Arc::new(LedgerAppender::new(witness.clone(), Arc::clone(&ledger)));
        let config = IntakeConfig {
            dir: Path::new("/hub/intake").to_owned(),
            names_dir: Path::new("/hub/queues").to_owned(),
            cluster_label: "cluster".to_owned(),
            retention_ms: None,
            on_lost: Some(book_losses(Arc::clone(&ledger))),
        };
        let metrics = IntakeMetrics::default();
        let intake = StoreIntake::new(kept.clone(), disk.shared(), time.clone(), config, metrics);
        Hub {
            disk,
            ledger,
            power_cuts,
            was_refused: false,
            names: Names::default(),
            time: Arc::clone(time),
            db,
            witness,
            kept,
            door: Door::new(intake),
        }
    }

    pub(crate) fn answer(&mut self, peer: &Peer, request: Request, body: &[u8]) -> Option<Vec<u8>> {
        let answer = match request {
            Request::Hello => self.door.hello(peer, body).ok(),
            Request::Blocks => self.door.blocks(peer, body).ok(),
        };
        self.names.note(peer, request, body, answer.is_some());
        answer
    }

    pub(crate) fn crash(&mut self, cut: bool, dice: &mut Dice) {
        let disk = match cut {
            true if dice.one_in(3) => self.disk.after_power_cut(Survivors::Nothing),
            true => self.disk.after_power_cut(Survivors::Some(dice.below(u64::MAX))),
            false => self.disk.after_kill(),
        };
        let (was_refused, names) = (self.was_refused, std::mem::take(&mut self.names));
        *self = Hub::open(disk, &self.time, self.power_cuts + u64::from(cut));
        (self.was_refused, self.names) = (was_refused, names);
    }

    /// Whether the ledger may have less than the store, of what no agent is bound to tell again.
    pub(crate) fn may_lack(&self) -> bool {
        self.power_cuts > 0 || self.was_refused
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.db.readiness().is_err()
    }

    /// What the store's threads and the ledger do at times of their own.
    pub(crate) fn maintain(&mut self, dice: &mut Dice) {
        match dice.below(5) {
            0 | 1 => drop(self.db.flush()),
            2 => drop(self.db.compact()),
            3 => drop(self.kept.maintain()),
            _ => self.door.intake().upkeep(),
        }
    }

    pub(crate) fn fill_disk(&mut self, dice: &mut Dice) {
        let used: u64 = self.disk.files().iter().map(|(_, len)| len).sum();
        let full = !dice.one_in(3);
        self.disk.set_capacity(full.then(|| used + dice.below(3_000)));
        self.was_refused |= full;
    }

    /// All samples, with their bits; what came in through the door is all there.
    pub(crate) fn dump(&self) -> BTreeMap<Key, u64> {
        let found = dump(&self.db);
        assert!(
            self.witness.taken.lock().iter().eq(found.keys()),
            "the store has other samples than it took"
        );
        found
    }
}

fn keys(db: &Db) -> BTreeSet<Key> {
    dump(db).into_keys().collect()
}

fn dump(db: &Db) -> BTreeMap<Key, u64> {
    let matchers = vec![Matcher::equal("job", "sim")];
    let select = Select { tenant: TenantId::default(), start_ms: i64::MIN, end_ms: i64::MAX, matchers };
    let set = db.select(&select).expect("select");
    assert_eq!(set.warnings(), Vec::<String>::new());
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("load");
    let mut found = BTreeMap::new();
    for (at, column) in columns.iter().enumerate() {
        let name = name(set.labels(at));
        for (time, value) in column.times.iter().zip(&column.values) {
            let key = (name.clone(), *time);
            assert!(found.insert(key.clone(), value.to_bits()).is_none(), "{key:?} is there twice");
        }
    }
    found
}

/// As the hub's wiring books what never comes.
fn book_losses(ledger: Arc<Ledger>) -> OnLost {
    Arc::new(move |peer, _, never| {
        let reason = match never.reason {
            Reason::Dropped(LostReason::Bytes) => Loss::QueueFull,
            Reason::Dropped(LostReason::Age) => Loss::TooOld,
            Reason::Refused(Refusal::IdentityChanged) => Loss::IdentityChanged,
            Reason::Dropped(LostReason::Damaged) | Reason::Refused(_) => Loss::Damaged,
        };
        if never.from_ms > never.to_ms {
            return true;
        }
        let (from_ms, to_ms, rows) = (never.from_ms, never.to_ms, never.rows);
        let cluster = never.cluster.to_owned();
        let report = LossReport { cluster, source: None, from_ms, to_ms, rows, reason };
        ledger.lost(&peer.tenant, report).is_ok()
    })
}

/// An answer in words.
pub(crate) fn tell(packet: &Packet, body: &Option<Vec<u8>>) -> String {
    match (packet.request, body) {
        (_, None) => "refused".to_owned(),
        (Request::Hello, Some(_)) => "hello".to_owned(),
        (Request::Blocks, Some(body)) => format!("{:?}", Answer::decode(body).map(|answer| answer.verdicts)),
    }
}
