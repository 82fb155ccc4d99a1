//! A hub: the real door, intake and store, on a disk of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use model::{Matcher, TenantId};
use remote::intake::{IntakeConfig, IntakeMetrics, StoreIntake};
use remote::ship::message::Answer;
use remote::ship::{Door, Peer, Request};
use sim::{Dice, Packet};
use stdx::clock::FakeClock;
use stdx::disk::{FakeDisk, Survivors};
use storage::{Queryable, Select};
use tsdb::{Config, Db, SyncPolicy};

use crate::Key;

pub(crate) struct Hub {
    pub(crate) disk: FakeDisk,
    time: Arc<FakeClock>,
    db: Arc<Db>,
    door: Door<StoreIntake>,
}

fn open(disk: &FakeDisk, time: &Arc<FakeClock>) -> (Arc<Db>, Door<StoreIntake>) {
    let mut config = Config::new(Path::new("/hub/store"));
    config.disk = disk.shared();
    config.clock = time.clone();
    config.lock = false;
    config.background = false;
    config.sync = SyncPolicy::Off;
    config.retention = None;
    let db = Arc::new(Db::open(config).expect("a healed disk opens"));
    let config = IntakeConfig {
        dir: Path::new("/hub/intake").to_owned(),
        cluster_label: "cluster".to_owned(),
        retention_ms: None,
        on_lost: None,
    };
    let intake = StoreIntake::new(db.clone(), disk.shared(), time.clone(), config, IntakeMetrics::default());
    (db, Door::new(intake))
}

impl Hub {
    pub(crate) fn new(time: &Arc<FakeClock>) -> Hub {
        let disk = FakeDisk::new(Path::new("/hub"));
        let (db, door) = open(&disk, time);
        Hub { disk, time: Arc::clone(time), db, door }
    }

    pub(crate) fn answer(&self, peer: &Peer, request: Request, body: &[u8]) -> Option<Vec<u8>> {
        match request {
            Request::Hello => self.door.hello(peer, body).ok(),
            Request::Blocks => self.door.blocks(peer, body).ok(),
        }
    }

    pub(crate) fn crash(&mut self, cut: bool, dice: &mut Dice) {
        self.disk = match cut {
            true if dice.one_in(3) => self.disk.after_power_cut(Survivors::Nothing),
            true => self.disk.after_power_cut(Survivors::Some(dice.below(u64::MAX))),
            false => self.disk.after_kill(),
        };
        (self.db, self.door) = open(&self.disk, &self.time);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.db.readiness().is_err()
    }

    /// What the store's threads do at times of their own.
    pub(crate) fn maintain(&mut self, dice: &mut Dice) {
        match dice.below(3) {
            0 => drop(self.db.flush()),
            1 => drop(self.db.compact()),
            _ => self.door.intake().upkeep(),
        }
    }

    pub(crate) fn fill_disk(&mut self, dice: &mut Dice) {
        let used: u64 = self.disk.files().iter().map(|(_, len)| len).sum();
        let full = !dice.one_in(3);
        self.disk.set_capacity(full.then(|| used + dice.below(3_000)));
    }

    /// All samples, with their bits.
    pub(crate) fn dump(&self) -> BTreeMap<Key, u64> {
        let matchers = vec![Matcher::equal("__name__", "m")];
        let select = Select { tenant: TenantId::default(), start_ms: i64::MIN, end_ms: i64::MAX, matchers };
        let set = self.db.select(&select).expect("select");
        assert_eq!(set.warnings(), Vec::<String>::new());
        let mut columns = Vec::new();
        set.load(0..set.len(), &mut columns).expect("load");
        let mut found = BTreeMap::new();
        for (at, column) in columns.iter().enumerate() {
            let name = set.labels(at).get("n").expect("its name").to_owned();
            let cells = column.times.iter().zip(&column.values);
            found.extend(cells.map(|(time, value)| ((name.clone(), *time), value.to_bits())));
        }
        found
    }
}

/// An answer in words.
pub(crate) fn tell(packet: &Packet, body: &Option<Vec<u8>>) -> String {
    match (packet.request, body) {
        (_, None) => "refused".to_owned(),
        (Request::Hello, Some(_)) => "hello".to_owned(),
        (Request::Blocks, Some(body)) => format!("{:?}", Answer::decode(body).map(|answer| answer.verdicts)),
    }
}
