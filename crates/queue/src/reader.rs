//! The reading end: a cursor, and two lanes of blocks to hand out.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;

use parking_lot::Mutex;

use crate::block::{Block, BlockKey, Header};
use crate::cursor::{Lost, LostReason};
use crate::error::QueueError;
use crate::intervals::Intervals;
use crate::pending::Pending;
use crate::queue::Queue;
use crate::segment::{Segment, Step, Walk};

/// Which blocks to read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Segments from the split on.
    Live,
    /// Segments before the split.
    Backlog,
}

/// A reader of a queue. Its cursor is durable; what it has handed out is forgotten with the handle.
#[derive(Debug)]
pub struct Reader {
    queue: Queue,
    name: String,
    lanes: Mutex<Lanes>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// The first segment of the live lane.
    split: u64,
    /// Handed out and not acknowledged, for each incarnation.
    taken: BTreeMap<u128, Intervals>,
    live: Place,
    backlog: Place,
    /// Where [`Reader::read`] was.
    context: Place,
}

/// Where a lane is: in which segment, with its open file.
#[derive(Debug, Default)]
struct Place {
    segment: u64,
    walk: Option<Walk>,
}

/// A block that is wanted, and where to look for it.
struct Aim {
    block: u64,
    incarnation: u128,
    /// Number of the segment's file.
    segment: u64,
    path: PathBuf,
    /// Its blocks, and where they end.
    first: u64,
    next: u64,
    end: u64,
    /// A block at or before the wanted one, with its offset.
    from: (u64, u64),
}

impl Reader {
    pub(crate) fn new(queue: Queue, name: String) -> Reader {
        Reader { queue, name, lanes: Mutex::default() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The queue that it reads from.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Makes `segment` and later ones the live lane, and earlier ones the backlog.
    pub fn split_at(&self, segment: u64) {
        let mut lanes = self.lanes.lock();
        lanes.split = segment;
        (lanes.live, lanes.backlog) = (Place::default(), Place::default());
    }

    /// The oldest block of the lane that has neither been acknowledged nor handed out; `None` when there is
    /// none for now. Damaged blocks on the way are booked as [`Lost`].
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn next(&self, lane: Lane) -> Result<Option<Block>, QueueError> {
        let mut lanes = self.lanes.lock();
        while let Some(aim) = self.aim(&lanes, lane) {
            let place = match lane {
                Lane::Live => &mut lanes.live,
                Lane::Backlog => &mut lanes.backlog,
            };
            match self.fetch(place, &aim) {
                Ok(Some(block)) => {
                    let taken = lanes.taken.entry(aim.incarnation).or_default();
                    taken.insert(aim.block, aim.block);
                    return Ok(Some(block));
                }
                Ok(None) => {}
                // Dropped between the look and the read.
                Err(_) if !self.queue.0.state().segments.contains_key(&aim.segment) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Any block that is still in the queue, whether acknowledged or not; `None` when it is gone or damaged.
    /// Blocks in sequence are read without going back to the start.
    ///
    /// # Errors
    /// When the segment cannot be read.
    pub fn read(&self, incarnation: u128, block: u64) -> Result<Option<Block>, QueueError> {
        let found =
            self.queue.0.state().segment_of(incarnation, block).map(|segment| Aim::at(segment, block));
        let Some(aim) = found else { return Ok(None) };
        let mut lanes = self.lanes.lock();
        match self.walk_to(&mut lanes.context, &aim)? {
            Some((step, walk)) if step.header.block == block => self.block_of(&aim, &step, walk),
            _ => Ok(None),
        }
    }

    /// Takes `first ..= last` as done with.
    pub fn acknowledge(&self, incarnation: u128, first: u64, last: u64) {
        self.acknowledge_all(incarnation, &Intervals::from_iter([(first, last)]));
    }

    /// Takes all of `blocks` as done with; those that the queue does not hold are left out.
    pub fn acknowledge_all(&self, incarnation: u128, blocks: &Intervals) {
        let mut lanes = self.lanes.lock();
        if let Some(taken) = lanes.taken.get_mut(&incarnation) {
            blocks.iter().for_each(|(first, last)| taken.remove(first, last));
            if taken.is_empty() {
                lanes.taken.remove(&incarnation);
            }
        }
        drop(lanes);
        let mut state = self.queue.0.state();
        let held: Vec<(u64, u64)> = state
            .segments
            .values()
            .filter(|segment| segment.incarnation == incarnation && segment.next > segment.first)
            .map(|segment| (segment.first, segment.next - 1))
            .collect();
        let Some(entry) = state.readers.get_mut(&self.name) else { return };
        for (first, last) in blocks.iter() {
            for &(from, to) in held.iter().filter(|(from, to)| *from <= last && first <= *to) {
                entry.state.done.entry(incarnation).or_default().insert(first.max(from), last.min(to));
                entry.dirty = true;
            }
        }
    }

    /// What it needs no more of an incarnation: acknowledged, lost, or before its start.
    pub fn done(&self, incarnation: u128) -> Intervals {
        let state = self.queue.0.state();
        let done = state.readers.get(&self.name).and_then(|entry| entry.state.done.get(&incarnation));
        done.cloned().unwrap_or_default()
    }

    /// Hands out again what has been handed out and not acknowledged: after a connection was lost.
    pub fn rewind(&self) {
        let mut lanes = self.lanes.lock();
        lanes.taken.clear();
        (lanes.live, lanes.backlog) = (Place::default(), Place::default());
    }

    /// Hands one block out again.
    pub fn give_back(&self, incarnation: u128, block: u64) {
        let mut lanes = self.lanes.lock();
        if let Some(taken) = lanes.taken.get_mut(&incarnation) {
            taken.remove(block, block);
        }
    }

    /// What it has still to do, blocks that are handed out included.
    pub fn pending(&self, lane: Lane) -> Pending {
        let split = self.lanes.lock().split;
        let state = self.queue.0.state();
        let segments = state.segments.values().filter(|segment| lane.has(segment.number, split));
        Pending::of(segments, state.readers.get(&self.name).map(|entry| &entry.state))
    }

    /// The blocks that it lost and that have not been booked yet, oldest record first. Durable.
    pub fn lost(&self) -> Vec<Lost> {
        let state = self.queue.0.state();
        state.readers.get(&self.name).map(|entry| entry.state.lost.clone()).unwrap_or_default()
    }

    /// These records are booked where it counts, and need not be kept here.
    pub fn booked(&self, records: &[Lost]) {
        let mut state = self.queue.0.state();
        if let Some(entry) = state.readers.get_mut(&self.name) {
            entry.state.lost.retain(|lost| !records.contains(lost));
            entry.dirty = true;
        }
    }

    /// Makes acknowledgements durable now; [`Queue::upkeep`] does it from time to time.
    ///
    /// # Errors
    /// When the file cannot be written; the one before stays.
    pub fn persist(&self) -> Result<(), QueueError> {
        self.queue.0.write_cursor(&self.name)
    }

    /// The block that comes next in a lane.
    fn aim(&self, lanes: &Lanes, lane: Lane) -> Option<Aim> {
        let state = self.queue.0.state();
        let done = &state.readers.get(&self.name)?.state.done;
        let none = Intervals::new();
        let numbers = match lane {
            Lane::Live => (Bound::Included(lanes.split), Bound::Unbounded),
            Lane::Backlog => (Bound::Unbounded, Bound::Excluded(lanes.split)),
        };
        state.segments.range(numbers).find_map(|(_, segment)| {
            let done = done.get(&segment.incarnation).unwrap_or(&none);
            let taken = lanes.taken.get(&segment.incarnation).unwrap_or(&none);
            first_outside(segment, done, taken).map(|block| Aim::at(segment, block))
        })
    }

    /// Reads the block; `None` when something on the way was damaged, which has been booked.
    fn fetch(&self, place: &mut Place, aim: &Aim) -> Result<Option<Block>, QueueError> {
        let Some((step, walk)) = self.walk_to(place, aim)? else {
            self.lose(aim, aim.block, aim.next - 1, None);
            return Ok(None);
        };
        if step.header.block > aim.block {
            self.lose(aim, aim.block, step.header.block - 1, None);
            walk.at = (step.header.block, step.offset);
            return Ok(None);
        }
        let block = self.block_of(aim, &step, walk)?;
        if block.is_none() {
            self.lose(aim, aim.block, aim.block, Some(&step.header));
        }
        Ok(block)
    }

    fn block_of(&self, aim: &Aim, step: &Step, walk: &mut Walk) -> Result<Option<Block>, QueueError> {
        let payload = walk.payload(step).map_err(QueueError::io("read", &aim.path))?;
        Ok(payload.map(|payload| Block {
            key: BlockKey {
                queue_id: self.queue.id(),
                incarnation: aim.incarnation,
                block: step.header.block,
            },
            segment_first: aim.first,
            segment: aim.segment,
            meta: step.header.meta,
            payload,
        }))
    }

    /// Brings a place to the block, or to the next sound one behind it; `None` at the end of the segment.
    fn walk_to<'a>(
        &self,
        place: &'a mut Place,
        aim: &Aim,
    ) -> Result<Option<(Step, &'a mut Walk)>, QueueError> {
        let failed = |what| QueueError::io(what, &aim.path);
        let kept = place.walk.take().filter(|walk| place.segment == aim.segment && walk.at.0 <= aim.block);
        let walk = match kept {
            Some(walk) => walk,
            None => {
                let file = self.queue.0.disk.open_read(&aim.path).map_err(failed("open"))?;
                Walk::new(file, aim.incarnation, aim.from, aim.end)
            }
        };
        place.segment = aim.segment;
        let walk = place.walk.insert(walk);
        walk.end = aim.end;
        if walk.at.0 < aim.from.0 {
            walk.at = aim.from;
        }
        while let Some(step) = walk.next().map_err(failed("read"))? {
            if step.header.block >= aim.block {
                return Ok(Some((step, walk)));
            }
        }
        Ok(None)
    }

    /// Books blocks as damaged, except for those that are done with.
    fn lose(&self, aim: &Aim, first: u64, last: u64, header: Option<&Header>) {
        tracing::error!(
            segment = %aim.path.display(), first, last, "blocks of the queue are damaged"
        );
        let mut state = self.queue.0.state();
        let Some(entry) = state.readers.get_mut(&self.name) else { return };
        entry.dirty = true;
        let done = entry.state.done.get(&aim.incarnation).cloned().unwrap_or_default();
        let mut missing = Intervals::from_iter([(first, last)]);
        done.iter().for_each(|(from, to)| missing.remove(from, to));
        for (first, last) in missing.iter() {
            entry.state.lose(damaged(aim.incarnation, first, last, header));
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(entry) = self.queue.0.state().readers.get_mut(&self.name) {
            entry.open = false;
        }
    }
}

impl Lane {
    fn has(self, segment: u64, split: u64) -> bool {
        match self {
            Lane::Live => segment >= split,
            Lane::Backlog => segment < split,
        }
    }
}

fn damaged(incarnation: u128, first: u64, last: u64, header: Option<&Header>) -> Lost {
    let blocks = last - first + 1;
    let meta = header.map(|header| &header.meta);
    Lost {
        incarnation,
        first,
        last,
        blocks,
        rows: meta.map_or(0, |meta| u64::from(meta.rows)),
        samples: meta.map_or(0, |meta| u64::from(meta.samples)),
        oldest_ms: meta.map_or(i64::MAX, |meta| meta.oldest_ms),
        newest_ms: meta.map_or(i64::MIN, |meta| meta.newest_ms),
        unreadable: if header.is_some() { 0 } else { blocks },
        reason: LostReason::Damaged,
    }
}

/// The first block of the segment that is in neither set.
fn first_outside(segment: &Segment, done: &Intervals, taken: &Intervals) -> Option<u64> {
    let mut block = segment.first;
    while block < segment.next {
        match done.around(block).or_else(|| taken.around(block)) {
            Some((_, last)) => block = last.saturating_add(1),
            None => return Some(block),
        }
    }
    None
}

impl Aim {
    fn at(segment: &Segment, block: u64) -> Aim {
        Aim {
            block,
            incarnation: segment.incarnation,
            segment: segment.number,
            path: segment.path.clone(),
            first: segment.first,
            next: segment.next,
            end: segment.end,
            from: segment.place_before(block),
        }
    }
}
