//! A hub: the real door, in front of a store of opaque blocks in one file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use parking_lot::Mutex;
use queue::{Intervals, Lane, Lost};
use remote::ship::message::{Answer, Batch};
use remote::ship::{Door, Intake, IntakeError, Peer, Refusal, Request, SegmentKey, SentBlock, Verdict};
use stdx::disk::{AppendFile, Disk, FakeDisk, Survivors};

use sim::Dice;

use crate::Key;

const LOG: &str = "/hub/log";

pub(crate) struct Hub {
    pub(crate) disk: FakeDisk,
    /// What it has told anybody is stored.
    pub(crate) promised: BTreeSet<Key>,
    door: Door<LogIntake>,
}

impl Hub {
    pub(crate) fn new() -> Hub {
        let disk = FakeDisk::new(Path::new("/hub"));
        Hub { door: Door::new(LogIntake::open(&disk)), disk, promised: BTreeSet::new() }
    }

    pub(crate) fn answer(&self, peer: &Peer, request: Request, body: &[u8]) -> Option<Vec<u8>> {
        match request {
            Request::Hello => self.door.hello(peer, body).ok(),
            Request::Blocks => self.door.blocks(peer, body).ok(),
        }
    }

    pub(crate) fn promise(&mut self, body: &[u8], answer: &Answer) {
        let batch = Batch::decode(body).expect("it was answered");
        for (first, last, verdict) in &answer.verdicts {
            if matches!(verdict, Verdict::Stored | Verdict::Known) {
                self.promised.extend((*first..=*last).map(|block| (batch.segment.incarnation, block)));
            }
        }
    }

    pub(crate) fn crash(&mut self, cut: bool, dice: &mut Dice) {
        self.disk = match cut {
            true if dice.one_in(3) => self.disk.after_power_cut(Survivors::Nothing),
            true => self.disk.after_power_cut(Survivors::Some(dice.below(u64::MAX))),
            false => self.disk.after_kill(),
        };
        self.door = Door::new(LogIntake::open(&self.disk));
    }

    pub(crate) fn fill_disk(&mut self, dice: &mut Dice) {
        let used: u64 = self.disk.files().iter().map(|(_, len)| len).sum();
        let full = !dice.one_in(3);
        self.disk.set_capacity(full.then(|| used + dice.below(3_000)));
    }

    pub(crate) fn intake(&self, look: impl FnOnce(&State)) {
        look(&self.door.intake().0.lock());
    }
}

struct LogIntake(Mutex<State>);

pub(crate) struct State {
    file: Box<dyn AppendFile>,
    disk: FakeDisk,
    len: u64,
    broken: bool,
    stored: BTreeMap<u128, Intervals>,
    blocks: BTreeMap<Key, Vec<u8>>,
    refused: BTreeSet<Key>,
    /// Who brought an incarnation first.
    owners: BTreeMap<u128, String>,
    lost: BTreeSet<(u128, u64, u64)>,
    /// What the decoders have in memory.
    positions: BTreeMap<SegmentKey, Vec<(u64, u64)>>,
}

impl State {
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.blocks.contains_key(key)
    }

    pub(crate) fn refused(&self, key: &Key) -> bool {
        self.refused.contains(key)
    }

    pub(crate) fn blocks(&self) -> &BTreeMap<Key, Vec<u8>> {
        &self.blocks
    }

    /// Writes a record, and takes it in; false when the disk does not take it.
    fn log(&mut self, kind: u8, incarnation: u128, block: u64, bytes: &[u8]) -> bool {
        if self.broken {
            return false;
        }
        let mut record = vec![kind];
        record.extend_from_slice(&incarnation.to_le_bytes());
        record.extend_from_slice(&block.to_le_bytes());
        record.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        record.extend_from_slice(bytes);
        record.extend_from_slice(&crc32c::crc32c(&record).to_le_bytes());
        if self.file.write_all(&record).is_err() {
            self.broken = self.disk.truncate(Path::new(LOG), self.len).is_err();
            return false;
        }
        self.len += record.len() as u64;
        self.apply(kind, incarnation, block, bytes);
        true
    }

    fn apply(&mut self, kind: u8, incarnation: u128, block: u64, bytes: &[u8]) {
        let key = (incarnation, block);
        match kind {
            1 => {
                assert!(self.blocks.insert(key, bytes.to_vec()).is_none(), "{key:?} is stored twice");
                self.stored.entry(incarnation).or_default().insert(block, block);
            }
            2 => {
                self.refused.insert(key);
            }
            3 => {
                self.owners.insert(incarnation, String::from_utf8_lossy(bytes).into_owned());
            }
            _ => {
                let last = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
                self.lost.insert((incarnation, block, last));
            }
        }
    }

    /// Blocks that have to come before this one, for the decoder's memory.
    fn missing(&self, segment: &SegmentKey, block: &SentBlock<'_>) -> Option<u64> {
        let stored = self.stored.get(&segment.incarnation).cloned().unwrap_or_default();
        let read = self.positions.get(segment).map_or(&[][..], Vec::as_slice);
        let knows = |block: &u64| {
            stored.contains(*block) || read.iter().any(|(from, next)| (*from..*next).contains(block))
        };
        // The dictionary needs all blocks before; the bases those from the floor on, read without a gap.
        if let Some(unknown) = (segment.first..block.block).find(|block| !knows(block)) {
            return Some(unknown);
        }
        let goes_on = read.iter().any(|(from, next)| *next == block.block && *from <= block.floor);
        (!goes_on && block.floor != block.block).then_some(block.floor)
    }
}

impl LogIntake {
    fn open(disk: &FakeDisk) -> LogIntake {
        let path = Path::new(LOG);
        let bytes = if disk.exists(path) { disk.read(path).expect("readable") } else { Vec::new() };
        let file = if disk.exists(path) { disk.open_append(path) } else { disk.create(path) };
        let mut state = State {
            file: file.expect("a healed disk"),
            disk: disk.clone(),
            len: 0,
            broken: false,
            stored: BTreeMap::new(),
            blocks: BTreeMap::new(),
            refused: BTreeSet::new(),
            owners: BTreeMap::new(),
            lost: BTreeSet::new(),
            positions: BTreeMap::new(),
        };
        let mut rest = bytes.as_slice();
        while let Some((record, after)) = whole_record(rest) {
            let incarnation = u128::from_le_bytes(record[1..17].try_into().expect("sixteen bytes"));
            let block = u64::from_le_bytes(record[17..25].try_into().expect("eight bytes"));
            state.apply(record[0], incarnation, block, &record[29..record.len() - 4]);
            state.len += record.len() as u64;
            rest = after;
        }
        disk.truncate(path, state.len).expect("a healed disk");
        state.file.sync_data().expect("a healed disk");
        disk.sync_dir(Path::new("/hub")).expect("a healed disk");
        LogIntake(Mutex::new(state))
    }
}

fn whole_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u32::from_le_bytes(bytes.get(25..29)?.try_into().ok()?) as usize;
    let (record, rest) = bytes.split_at_checked(29 + len + 4)?;
    let (content, crc) = record.split_last_chunk::<4>()?;
    (crc32c::crc32c(content) == u32::from_le_bytes(*crc)).then_some((record, rest))
}

impl Intake for LogIntake {
    fn stored(&self, _: &Peer, _: u128, incarnation: u128) -> Result<Intervals, IntakeError> {
        Ok(self.0.lock().stored.get(&incarnation).cloned().unwrap_or_default())
    }

    fn position(&self, _: &Peer, segment: &SegmentKey) -> Option<(u64, u64)> {
        self.0.lock().positions.get(segment)?.last().copied()
    }

    fn take(&self, peer: &Peer, segment: &SegmentKey, _: Lane, block: &SentBlock<'_>) -> Verdict {
        let state = &mut *self.0.lock();
        let later = Verdict::Later { after_ms: 700 };
        let key = (segment.incarnation, block.block);
        match state.owners.get(&segment.incarnation).cloned() {
            Some(owner) if owner != peer.cluster => {
                if block.context || state.has(&key) {
                    return if block.context { Verdict::Context } else { Verdict::Known };
                }
                let refused = state.refused.contains(&key) || state.log(2, key.0, key.1, &[]);
                return if refused { Verdict::Refused(Refusal::IdentityChanged) } else { later };
            }
            Some(_) => {}
            None if state.log(3, key.0, 0, peer.cluster.as_bytes()) => {}
            None => return later,
        }
        if !block.context && state.has(&key) {
            return Verdict::Known;
        }
        if !block.context
            && let Some(from) = state.missing(segment, block)
        {
            return Verdict::NeedContext { from };
        }
        if !block.context && !state.log(1, key.0, key.1, block.payload) {
            return later;
        }
        let positions = state.positions.entry(*segment).or_default();
        let goes_on = (0..positions.len()).filter(|at| positions[*at].1 == block.block);
        let from = match goes_on.min_by_key(|at| positions[*at].0) {
            Some(at) => positions.remove(at).0,
            None => block.block,
        };
        if positions.len() >= 4 {
            positions.remove(0);
        }
        positions.push((from, block.block + 1));
        if block.context { Verdict::Context } else { Verdict::Stored }
    }

    fn sync(&self) -> Result<(), IntakeError> {
        let state = &mut *self.0.lock();
        if state.broken || state.file.sync_data().is_err() {
            state.broken = true;
            return Err(IntakeError("the disk is broken".to_owned()));
        }
        Ok(())
    }

    fn book_lost(&self, _: &Peer, _: u128, lost: &[Lost]) -> usize {
        let state = &mut *self.0.lock();
        let books = |lost: &&Lost| {
            state.lost.contains(&(lost.incarnation, lost.first, lost.last))
                || state.log(4, lost.incarnation, lost.first, &lost.last.to_le_bytes())
        };
        lost.iter().take_while(books).count()
    }
}
