//! Random actions against a plain model, with kills, power cuts, full and failing disks.
//!
//! `MARIGRAPH_QUEUE_SEEDS=100000` runs that many seeds, `MARIGRAPH_QUEUE_SEED=7` one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use queue::{
    BlockMeta, Finding, Ids, Lane, LostReason, Opened, Options, Queue, QueueError, Reader, Start, Writer,
    open,
};
use stdx::clock::FakeClock;
use stdx::disk::{FakeDisk, Survivors};

const DIR: &str = "/data/queue";

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % n.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

type Key = (u128, u64);

#[derive(Debug, Clone)]
struct Written {
    meta: BlockMeta,
    payload: Vec<u8>,
    segment_first: u64,
    durable: bool,
}

#[derive(Debug, Default)]
struct ReaderModel {
    /// Blocks from before its start.
    skipped: BTreeSet<Key>,
    acknowledged: BTreeSet<Key>,
    /// Handed out in this process and neither acknowledged nor rewound.
    taken: BTreeSet<Key>,
    /// Booked as lost.
    lost: BTreeSet<Key>,
}

struct World {
    dice: Dice,
    disk: FakeDisk,
    clock: Arc<FakeClock>,
    ids: Arc<AtomicU64>,
    options: Options,
    opened: Option<(Queue, Writer)>,
    readers: BTreeMap<String, Option<Reader>>,
    blocks: BTreeMap<Key, Written>,
    model: BTreeMap<String, ReaderModel>,
    /// The disk refuses since this was set; it ends with a crash.
    dying: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(0x1234_5678_9abc_def1));
        dice.below(1);
        let ids = Arc::new(AtomicU64::new(1));
        let counter = Arc::clone(&ids);
        let options = Options {
            bytes_max: 6_000 + dice.below(60_000),
            age_max: Duration::from_secs(3_600),
            segment_bytes_max: 1_000 + dice.below(8_000),
            segment_age_max: Duration::from_secs(600),
            block_bytes_max: 4_000,
            ids: Ids(Arc::new(move || u128::from(counter.fetch_add(1, Ordering::SeqCst)) << 64 | 0xabc)),
        };
        World {
            dice,
            disk: FakeDisk::new(Path::new("/data")),
            clock: FakeClock::at(1_700_000_000_000),
            ids,
            options,
            opened: None,
            readers: BTreeMap::new(),
            blocks: BTreeMap::new(),
            model: BTreeMap::new(),
            dying: false,
        }
    }

    fn open(&mut self) -> Vec<Finding> {
        let disk = self.disk.shared();
        let opened = open(disk, Path::new(DIR), self.clock.clone(), self.options.clone());
        let Opened { queue, writer, findings } = opened.expect("a healed disk opens");
        let known: BTreeSet<String> = queue.readers().into_iter().collect();
        let expected: BTreeSet<String> = self.model.keys().cloned().collect();
        assert_eq!(known, expected, "readers survive");
        self.readers = expected.into_iter().map(|name| (name, None)).collect();
        self.opened = Some((queue, writer));
        findings
    }

    fn queue(&self) -> Queue {
        self.opened.as_ref().expect("open").0.clone()
    }

    fn write(&mut self) {
        let (due, fresh, next, first) = {
            let (_, writer) = self.opened.as_mut().expect("open");
            if writer.due() || self.dice.one_in(12) {
                writer.rotate();
            }
            (writer.due(), writer.fresh(), writer.next_block(), writer.segment_first())
        };
        assert!(!due && (!fresh || first == next));
        let len = if self.dice.one_in(10) { self.dice.below(3_500) } else { self.dice.below(300) };
        let payload: Vec<u8> = (0..len).map(|_| self.dice.below(256) as u8).collect();
        let meta = BlockMeta {
            floor: first + self.dice.below(next - first + 1),
            oldest_ms: self.dice.below(1_000) as i64,
            newest_ms: 1_000 + self.dice.below(1_000) as i64,
            rows: self.dice.below(50) as u32,
            samples: self.dice.below(5_000) as u32,
            origin: self.dice.below(3),
            tenant: self.dice.below(3),
            flags: self.dice.below(9) as u32,
        };
        let (_, writer) = self.opened.as_mut().expect("open");
        match writer.write(&meta, &payload) {
            Ok(key) => {
                assert_eq!(key.block, next);
                let written = Written { meta, payload, segment_first: first, durable: false };
                assert!(self.blocks.insert((key.incarnation, key.block), written).is_none(), "a key twice");
            }
            Err(QueueError::ReadOnly { .. }) => assert!(self.dying),
            Err(_) => {
                assert!(writer.fresh(), "after an error the segment is over");
                assert_eq!(writer.next_block(), next, "and the number is free");
            }
        }
        self.book_losses();
    }

    fn sync(&mut self) {
        let queue = self.queue();
        match queue.sync() {
            Ok(durable) => {
                assert_eq!(durable, queue.next_block());
                let of = (queue.incarnation(), 0)..(queue.incarnation(), durable);
                self.blocks.range_mut(of).for_each(|(_, block)| block.durable = true);
            }
            Err(QueueError::ReadOnly { .. }) => {
                assert!(self.dying);
                assert!(queue.sync().is_err() && queue.stats().read_only);
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn upkeep(&mut self) {
        let result = self.queue().upkeep();
        assert!(result.is_ok() || self.dying || self.full(), "{result:?}");
        self.book_losses();
    }

    fn full(&self) -> bool {
        // Only a disk with a capacity refuses while it is not dying.
        true
    }

    fn add_reader(&mut self) {
        let name = format!("hub-{}", self.dice.below(3));
        if self.model.contains_key(&name) {
            return self.open_reader(&name);
        }
        let start = if self.dice.one_in(2) { Start::Oldest } else { Start::Now };
        let queue = self.queue();
        let Ok(reader) = queue.reader(&name, start) else { return };
        let mut model = ReaderModel::default();
        let held = held(&queue);
        model.skipped = match start {
            Start::Now => self.blocks.keys().copied().collect(),
            Start::Oldest => self.blocks.keys().copied().filter(|key| !held.contains(key)).collect(),
        };
        self.model.insert(name.clone(), model);
        self.readers.insert(name, Some(reader));
    }

    fn open_reader(&mut self, name: &str) {
        let queue = self.queue();
        let slot = self.readers.get_mut(name).expect("known");
        if slot.is_none() {
            *slot = Some(queue.reader(name, Start::Now).expect("it is known"));
            self.model.get_mut(name).expect("known").taken.clear();
        } else {
            assert!(matches!(queue.reader(name, Start::Now), Err(QueueError::Open(_))));
        }
    }

    fn remove_reader(&mut self) {
        let Some(name) = self.any_reader() else { return };
        self.readers.insert(name.clone(), None);
        if self.queue().remove_reader(&name).is_ok() {
            self.model.remove(&name);
            self.readers.remove(&name);
        }
    }

    fn any_reader(&mut self) -> Option<String> {
        let names: Vec<String> = self.model.keys().cloned().collect();
        let at = self.dice.below(names.len() as u64) as usize;
        names.get(at).cloned()
    }

    fn read(&mut self) {
        let Some(name) = self.any_reader() else { return };
        self.open_reader(&name);
        let lane = if self.dice.one_in(2) { Lane::Live } else { Lane::Backlog };
        for _ in 0..self.dice.below(8) {
            let reader = self.readers[&name].as_ref().expect("open");
            let block = reader.next(lane).expect("reading works on a dying disk too");
            let Some(block) = block else { break };
            let key = (block.key.incarnation, block.key.block);
            let written = self.blocks.get(&key).unwrap_or_else(|| panic!("{key:?} was never written"));
            assert_eq!((&block.meta, &block.payload), (&written.meta, &written.payload), "{key:?}");
            assert_eq!(block.segment_first, written.segment_first);
            let model = self.model.get_mut(&name).expect("known");
            assert!(!model.skipped.contains(&key), "{name} got {key:?} from before its start");
            assert!(!model.lost.contains(&key), "{name} got {key:?}, which was booked as lost");
            assert!(!model.acknowledged.contains(&key), "{name} got {key:?} after it acknowledged it");
            assert!(model.taken.insert(key), "{name} got {key:?} twice");
        }
        self.book_losses();
    }

    fn acknowledge(&mut self) {
        let Some(name) = self.any_reader() else { return };
        let model = self.model.get_mut(&name).expect("known");
        let Some(reader) = &self.readers[&name] else { return };
        let all = self.dice.one_in(3);
        let some: Vec<Key> = model.taken.iter().copied().filter(|_| all || self.dice.one_in(2)).collect();
        for (incarnation, block) in some {
            reader.acknowledge(incarnation, block, block);
            model.taken.remove(&(incarnation, block));
            if !model.lost.contains(&(incarnation, block)) {
                model.acknowledged.insert((incarnation, block));
            }
        }
    }

    fn other_reading(&mut self) {
        let Some(name) = self.any_reader() else { return };
        self.open_reader(&name);
        let queue = self.queue();
        let reader = self.readers[&name].as_ref().expect("open");
        let model = self.model.get_mut(&name).expect("known");
        match self.dice.below(5) {
            0 => {
                reader.rewind();
                model.taken.clear();
            }
            1 => reader.split_at(self.dice.below(queue.next_segment() + 2)),
            2 => {
                if let Some((incarnation, block)) = model.taken.pop_first() {
                    reader.give_back(incarnation, block);
                }
            }
            3 => queue.request_rotation(),
            _ => {
                let at = self.dice.below(self.blocks.len() as u64) as usize;
                let Some((key, written)) = self.blocks.iter().nth(at) else { return };
                match reader.read(key.0, key.1).expect("readable") {
                    Some(block) => assert_eq!(block.payload, written.payload),
                    None => assert!(!held(&queue).contains(key), "{key:?} is in a segment"),
                }
            }
        }
    }

    /// Takes the records of losses in, and compares their sums.
    fn book_losses(&mut self) {
        for (name, reader) in &self.readers {
            let Some(reader) = reader else { continue };
            let model = self.model.get_mut(name).expect("known");
            let records = reader.lost();
            for lost in &records {
                assert_ne!(lost.reason, LostReason::Damaged, "{lost:?}");
                assert_eq!((lost.blocks, lost.unreadable), (lost.last - lost.first + 1, 0));
                let keys: Vec<Key> =
                    (lost.first..=lost.last).map(|block| (lost.incarnation, block)).collect();
                // A record may outlive a power cut that took blocks which had never been synced.
                let blocks: Option<Vec<&Written>> = keys.iter().map(|key| self.blocks.get(key)).collect();
                let Some(blocks) = blocks else { continue };
                let sum =
                    |of: fn(&BlockMeta) -> u32| blocks.iter().map(|b| u64::from(of(&b.meta))).sum::<u64>();
                assert_eq!((lost.rows, lost.samples), (sum(|m| m.rows), sum(|m| m.samples)), "{lost:?}");
                assert_eq!(Some(lost.oldest_ms), blocks.iter().map(|b| b.meta.oldest_ms).min());
                assert_eq!(Some(lost.newest_ms), blocks.iter().map(|b| b.meta.newest_ms).max());
                for key in keys {
                    assert!(!model.acknowledged.contains(&key), "{key:?} was acknowledged");
                    assert!(!model.skipped.contains(&key), "{key:?} was before the start");
                    model.lost.insert(key);
                    model.taken.remove(&key);
                }
            }
            reader.booked(&records);
        }
    }

    /// The process or the machine dies, and comes back.
    fn crash(&mut self) {
        let cut = self.dice.one_in(2);
        let seed = self.dice.below(u64::MAX);
        self.disk = match cut {
            true => self.disk.after_power_cut(match seed % 3 {
                0 => Survivors::Nothing,
                1 => Survivors::All,
                _ => Survivors::Some(seed),
            }),
            false => self.disk.after_kill(),
        };
        self.readers.clear();
        if let Some((queue, writer)) = self.opened.take() {
            // Their disk is not the one that comes back.
            drop((queue, writer));
        }
        self.dying = false;
        let findings = self.open();
        for finding in &findings {
            assert!(matches!(finding, Finding::TornTail { .. }), "{finding}");
        }
        let held = held(&self.queue());
        // What was not synced may be gone, and what is there stays: opening has synced it.
        let gone = |key: &Key, block: &Written| cut && !block.durable && !held.contains(key);
        self.blocks.retain(|key, block| !gone(key, block));
        self.blocks.values_mut().for_each(|block| block.durable = true);
        for (name, model) in &mut self.model {
            model.taken.clear();
            let blocks = &self.blocks;
            for set in [&mut model.acknowledged, &mut model.skipped, &mut model.lost] {
                set.retain(|key| blocks.contains_key(key));
            }
            // Acknowledgements that were not persisted are forgotten, which costs a repetition.
            let reader = self.opened.as_ref().expect("open").0.reader(name, Start::Now).expect("known");
            model.acknowledged.retain(|(incarnation, block)| {
                !held.contains(&(*incarnation, *block)) || reader.done(*incarnation).contains(*block)
            });
            model.lost.retain(|(incarnation, block)| {
                !held.contains(&(*incarnation, *block)) || reader.done(*incarnation).contains(*block)
            });
            self.readers.insert(name.clone(), Some(reader));
        }
        self.book_losses();
    }

    fn step(&mut self) {
        match self.dice.below(40) {
            0..=13 => self.write(),
            14..=16 => self.sync(),
            17..=19 => self.upkeep(),
            20..=25 => self.read(),
            26..=29 => self.acknowledge(),
            30..=31 => self.other_reading(),
            // On a dying disk nobody knows whether the file of a reader is there.
            32 if !self.dying => self.add_reader(),
            33 if !self.dying && self.dice.one_in(4) => self.remove_reader(),
            34 => self.clock.advance_ms(self.dice.below(200_000) as i64 - 20_000),
            35 if self.dice.one_in(3) => {
                self.dying = true;
                self.disk.die_at(self.disk.operations() + self.dice.below(12));
            }
            36 if self.dice.one_in(3) => {
                self.dying = true;
                self.disk.fail_syncs(true);
            }
            37 => {
                let used: u64 = self.disk.files().iter().map(|(_, len)| len).sum();
                let room = self.dice.below(3_000);
                self.disk.set_capacity((!self.dice.one_in(2)).then_some(used + room));
            }
            38 if self.dice.one_in(2) => self.crash(),
            _ => {}
        }
    }

    /// Everything that is left reaches every reader, or is booked.
    fn settle(&mut self) {
        self.crash();
        self.upkeep();
        for name in self.model.keys().cloned().collect::<Vec<_>>() {
            let reader = self.readers[&name].as_ref().expect("crash opens all");
            reader.split_at(self.dice.below(8));
            for lane in [Lane::Live, Lane::Backlog] {
                let mut before = (0, 0);
                while let Some(block) = reader.next(lane).expect("readable") {
                    let place = (block.segment, block.key.block);
                    assert!(place > before, "oldest first: {place:?} after {before:?}");
                    before = place;
                    let key = (block.key.incarnation, block.key.block);
                    assert_eq!(block.payload, self.blocks[&key].payload);
                    reader.acknowledge(key.0, key.1, key.1);
                    self.model.get_mut(&name).expect("known").acknowledged.insert(key);
                }
                assert_eq!(reader.pending(lane).blocks, 0);
            }
        }
        self.book_losses();
        for (name, model) in &self.model {
            for key in self.blocks.keys() {
                let there = model.acknowledged.contains(key);
                assert!(
                    there || model.lost.contains(key) || model.skipped.contains(key),
                    "{name} never got {key:?}, and nobody says so"
                );
            }
        }
        self.upkeep();
        if !self.model.is_empty() {
            assert_eq!(self.queue().segments(), [], "all is done with");
        }
    }
}

fn held(queue: &Queue) -> BTreeSet<Key> {
    let blocks = |s: queue::SegmentInfo| (s.first..s.next).map(move |block| (s.incarnation, block));
    queue.segments().into_iter().flat_map(blocks).collect()
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.open();
    for _ in 0..world.dice.below(250) {
        world.step();
    }
    world.settle();
    assert!(world.ids.load(Ordering::SeqCst) > 2);
}

#[test]
fn it_does_what_a_plain_model_does() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("MARIGRAPH_QUEUE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MARIGRAPH_QUEUE_SEEDS").unwrap_or(400),
    };
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            panic!("seed {seed}: {}", text.unwrap_or_default());
        }
    }
}
