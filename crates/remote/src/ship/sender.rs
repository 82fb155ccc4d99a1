//! The agent's end: what to send to one hub next, and what its answers mean for the queue.

use std::collections::{BTreeMap, BTreeSet};

use queue::{Block, Lane, Lost, QueueError, Reader};

use super::message::{
    Answer, BLOCKS_MAX, Batch, Hello, HelloAnswer, LOST_MAX, MessageError, Refusal, SEGMENTS_MAX, SegmentKey,
    SentBlock, Verdict,
};

#[cfg(test)]
mod tests;

/// After so many requests for context that cannot be read any more, the hub will not understand a block.
const DAMAGED_TRIES: u32 = 2;
/// After so many although all context was sent; copies of a volume may disturb each other for a while.
const CONTEXT_TRIES: u32 = 100;
/// Each further request for the same context waits for so much longer, milliseconds.
const CONTEXT_WAIT_MS: i64 = 50;

/// How a sender behaves.
#[derive(Debug, Clone)]
pub struct SenderOptions {
    /// Bytes of blocks in a batch; a larger block goes alone.
    pub batch_bytes: usize,
    /// Most bytes a second from the backlog lane, 0 for no limit.
    pub backlog_bytes_per_second: u64,
    /// A hub out of reach for longer than this gets live rows first when it is back.
    pub outage_ms: i64,
    /// The first wait after a failure, doubled with each further one, with jitter.
    pub retry_min_ms: i64,
    /// The longest wait.
    pub retry_max_ms: i64,
    /// Start of the random numbers that jitter the waits.
    pub seed: u64,
}

impl Default for SenderOptions {
    fn default() -> SenderOptions {
        SenderOptions {
            batch_bytes: 1 << 20,
            backlog_bytes_per_second: 16 << 20,
            outage_ms: 30_000,
            retry_min_ms: 250,
            retry_max_ms: 30_000,
            seed: 1,
        }
    }
}

/// Which request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `POST /fleet/v1/rows/hello`.
    Hello,
    /// `POST /fleet/v1/rows/blocks`.
    Blocks,
}

/// A request to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// To be named with the answer.
    pub id: u64,
    /// Where it goes.
    pub request: Request,
    /// Its body.
    pub body: Vec<u8>,
}

/// A sender in figures, counted since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SenderStats {
    /// Whether the hub has answered the last hello, and nothing has failed since.
    pub online: bool,
    /// Blocks that the hub has stored, or had.
    pub acknowledged_blocks: u64,
    /// Rows in those.
    pub acknowledged_rows: u64,
    /// Blocks sent for context only.
    pub context_blocks: u64,
    /// Bytes of all bodies sent.
    pub sent_bytes: u64,
    /// Bytes of the blocks in those.
    pub sent_block_bytes: u64,
    /// Requests that failed or were answered with nonsense.
    pub failures: u64,
    /// Blocks and rows that will never be stored, by reason.
    pub refused: BTreeMap<Refusal, (u64, u64)>,
}

/// Sends the blocks of a queue to one hub. It does no input or output but reading the queue: [`Sender::poll`]
/// says what to send, [`Sender::answered`] and [`Sender::failed`] what came of it. Times are milliseconds of a
/// clock that does not jump.
#[derive(Debug)]
pub struct Sender {
    reader: Reader,
    options: SenderOptions,
    link: Link,
    live: LaneState,
    backlog: LaneState,
    /// For each segment, the blocks that the hub's decoder has read by all we know: from, up to before.
    positions: BTreeMap<(u128, u64), (u64, u64)>,
    /// How often the hub asked for context of a block since it was last out of reach.
    tries: BTreeMap<(u128, u64), u32>,
    /// Segments with damaged blocks that were wanted as context.
    damaged: BTreeSet<(u128, u64)>,
    /// Bytes that the backlog lane may send, and when that was reckoned.
    allowance: (u64, i64),
    /// When the hub was last heard of.
    heard_ms: Option<i64>,
    /// When [`Sender::poll`] last looked.
    polled_ms: i64,
    attempts: u32,
    next_id: u64,
    random: u64,
    stats: SenderStats,
}

#[derive(Debug, PartialEq)]
enum Link {
    Offline { retry_at_ms: i64 },
    Greeting { id: u64, lost: Vec<Lost> },
    Online,
}

#[derive(Debug, Default)]
struct LaneState {
    in_flight: Option<InFlight>,
    not_before_ms: i64,
}

#[derive(Debug)]
struct InFlight {
    id: u64,
    key: (u128, u64),
    /// Number and rows of the blocks that were sent to be stored.
    blocks: BTreeMap<u64, u32>,
    lost: Vec<Lost>,
}

impl Sender {
    /// A sender of what `reader` has to read. Blocks from before this start of the process are backlog.
    pub fn new(reader: Reader, options: SenderOptions, now_ms: i64) -> Sender {
        reader.rewind();
        reader.split_at(reader.queue().next_segment());
        Sender {
            link: Link::Offline { retry_at_ms: now_ms },
            live: LaneState::default(),
            backlog: LaneState::default(),
            positions: BTreeMap::new(),
            tries: BTreeMap::new(),
            damaged: BTreeSet::new(),
            allowance: (0, now_ms),
            heard_ms: Some(now_ms),
            polled_ms: now_ms,
            attempts: 0,
            next_id: 1,
            random: options.seed | 1,
            stats: SenderStats::default(),
            reader,
            options,
        }
    }

    /// The cursor in the queue.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The sender in figures.
    pub fn stats(&self) -> &SenderStats {
        &self.stats
    }

    /// The next request to make now, if there is one; to be called until there is none, and again when
    /// something was written, answered, or [`Sender::wakes_at_ms`] has come.
    ///
    /// # Errors
    /// When the queue cannot be read. It is offline then for a while.
    pub fn poll(&mut self, now_ms: i64) -> Result<Option<Outgoing>, QueueError> {
        self.polled_ms = now_ms;
        match &self.link {
            Link::Offline { retry_at_ms } if now_ms >= *retry_at_ms => return Ok(Some(self.greet())),
            Link::Offline { .. } | Link::Greeting { .. } => return Ok(None),
            Link::Online => {}
        }
        for lane in [Lane::Live, Lane::Backlog] {
            match self.poll_lane(lane, now_ms) {
                Ok(None) => {}
                Ok(some) => return Ok(some),
                Err(error) => {
                    self.go_offline(now_ms);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// When [`Sender::poll`] may have something without anything else happening.
    pub fn wakes_at_ms(&self) -> Option<i64> {
        match &self.link {
            Link::Offline { retry_at_ms } => Some(*retry_at_ms),
            Link::Greeting { .. } => None,
            Link::Online => {
                // A lane that need not wait had nothing to send: news or an answer will say when it has.
                let waits =
                    |lane: &&LaneState| lane.in_flight.is_none() && lane.not_before_ms > self.polled_ms;
                [&self.live, &self.backlog].into_iter().filter(waits).map(|lane| lane.not_before_ms).min()
            }
        }
    }

    /// The hub has answered (200). Answers to requests that are no longer waited for are passed over.
    ///
    /// # Errors
    /// [`MessageError`] for a malformed answer, which counts as a failure.
    pub fn answered(&mut self, id: u64, body: &[u8], now_ms: i64) -> Result<(), MessageError> {
        let result = match &self.link {
            Link::Greeting { id: expected, .. } if *expected == id => {
                HelloAnswer::decode(body).map(|answer| self.greeted(&answer, now_ms))
            }
            Link::Online => match self.lane_of(id) {
                Some(lane) => Answer::decode(body).map(|answer| self.judged(lane, &answer, now_ms)),
                None => Ok(()),
            },
            _ => Ok(()),
        };
        if result.is_err() {
            self.failed(id, now_ms);
        }
        result
    }

    /// No answer, or none that says what became of the blocks: all that is under way is sent again later.
    pub fn failed(&mut self, id: u64, now_ms: i64) {
        let current = match &self.link {
            Link::Greeting { id: expected, .. } => *expected == id,
            Link::Online => self.lane_of(id).is_some(),
            Link::Offline { .. } => false,
        };
        if current {
            self.stats.failures += 1;
            self.go_offline(now_ms);
        }
    }

    fn greet(&mut self) -> Outgoing {
        let queue = self.reader.queue();
        let mut segments: Vec<(u128, u64, u64)> =
            queue.segments().iter().map(|held| (held.incarnation, held.first, held.next)).collect();
        segments.truncate(SEGMENTS_MAX);
        let mut lost = self.reader.lost();
        lost.truncate(LOST_MAX);
        let hello =
            Hello { queue_id: queue.id(), incarnation: queue.incarnation(), segments, lost: lost.clone() };
        let id = self.take_id();
        self.link = Link::Greeting { id, lost };
        let body = hello.encode();
        self.stats.sent_bytes += body.len() as u64;
        Outgoing { id, request: Request::Hello, body }
    }

    fn greeted(&mut self, answer: &HelloAnswer, now_ms: i64) {
        let Link::Greeting { lost, .. } = std::mem::replace(&mut self.link, Link::Online) else { return };
        self.book(&lost, answer.lost_booked);
        for (incarnation, stored) in &answer.stored {
            self.reader.acknowledge_all(*incarnation, stored);
        }
        self.positions =
            answer.positions.iter().map(|(incarnation, first, at)| ((*incarnation, *first), *at)).collect();
        let silent_ms = self.heard_ms.map_or(i64::MAX, |heard| now_ms.saturating_sub(heard));
        if silent_ms >= self.options.outage_ms {
            // Live rows begin with the next segment; what has waited follows beside them.
            self.reader.queue().request_rotation();
            self.reader.split_at(self.reader.queue().next_segment());
        }
        (self.heard_ms, self.attempts) = (Some(now_ms), 0);
        self.stats.online = true;
    }

    fn poll_lane(&mut self, lane: Lane, now_ms: i64) -> Result<Option<Outgoing>, QueueError> {
        let state = self.lane(lane);
        if state.in_flight.is_some() || now_ms < state.not_before_ms {
            return Ok(None);
        }
        if lane == Lane::Backlog && !self.may_send_backlog(now_ms) {
            return Ok(None);
        }
        let Some(first) = self.reader.next(lane)? else {
            return Ok(self.send_lost(lane));
        };
        let key = (first.key.incarnation, first.segment_first);
        let mut parcel = Parcel::default();
        let ready = self.gather_context(&mut parcel, &first)?;
        if ready {
            self.gather_blocks(&mut parcel, first, lane)?;
        } else {
            // The context alone fills a batch; the block itself has to wait.
            self.reader.give_back(first.key.incarnation, first.key.block);
        }
        if lane == Lane::Backlog {
            self.allowance.0 = self.allowance.0.saturating_sub(parcel.bytes as u64);
        }
        Ok(Some(self.send(lane, key, &parcel)))
    }

    /// Puts into the parcel what the hub's decoder needs before it can read `first`; false when more is needed
    /// than a batch holds.
    fn gather_context(&mut self, parcel: &mut Parcel, first: &Block) -> Result<bool, QueueError> {
        let (block, floor) = (first.key.block, first.meta.floor);
        let key = (first.key.incarnation, first.segment_first);
        let position = self.positions.get(&key).copied();
        let (from, mut next) = match position {
            Some((from, next)) if from <= floor && next <= block => (from, next),
            _ => (floor, floor),
        };
        while next < block && parcel.fits(self.options.batch_bytes, 0) {
            // A context block that is damaged is left out; the hub will say whether it could do without.
            match self.reader.read(first.key.incarnation, next)? {
                Some(context) => {
                    self.stats.context_blocks += 1;
                    parcel.push(context, true);
                }
                None => drop(self.damaged.insert(key)),
            }
            next += 1;
        }
        self.positions.insert(key, (from, next));
        Ok(next == block)
    }

    fn gather_blocks(&mut self, parcel: &mut Parcel, first: Block, lane: Lane) -> Result<(), QueueError> {
        let key = (first.key.incarnation, first.segment_first);
        let mut next = first.key.block + 1;
        parcel.push(first, false);
        while let Some(block) = self.reader.next(lane)? {
            let follows = (block.key.incarnation, block.segment_first) == key && block.key.block == next;
            if !follows || !parcel.fits(self.options.batch_bytes, block.payload.len()) {
                self.reader.give_back(block.key.incarnation, block.key.block);
                break;
            }
            next += 1;
            parcel.push(block, false);
        }
        if let Some(position) = self.positions.get_mut(&key) {
            position.1 = next;
        }
        Ok(())
    }

    fn send(&mut self, lane: Lane, key: (u128, u64), parcel: &Parcel) -> Outgoing {
        let mut lost = self.reader.lost();
        lost.truncate(LOST_MAX);
        let blocks = parcel.blocks.iter().map(|(block, context)| sent(block, *context)).collect();
        let segment = SegmentKey { queue_id: self.reader.queue().id(), incarnation: key.0, first: key.1 };
        let body = Batch { segment, lane, blocks, lost: lost.clone() }.encode();
        self.stats.sent_bytes += body.len() as u64;
        self.stats.sent_block_bytes += parcel.bytes as u64;
        let id = self.take_id();
        let stored = parcel.blocks.iter().filter(|(_, context)| !context);
        let blocks = stored.map(|(block, _)| (block.key.block, block.meta.rows)).collect();
        self.lane_mut(lane).in_flight = Some(InFlight { id, key, blocks, lost });
        Outgoing { id, request: Request::Blocks, body }
    }

    /// Losses are told without waiting for the next block.
    fn send_lost(&mut self, lane: Lane) -> Option<Outgoing> {
        let under_way = [&self.live, &self.backlog].into_iter().any(|lane| lane.in_flight.is_some());
        if under_way || self.reader.lost().is_empty() {
            return None;
        }
        let key = (self.reader.queue().incarnation(), 0);
        Some(self.send(lane, key, &Parcel::default()))
    }

    fn judged(&mut self, lane: Lane, answer: &Answer, now_ms: i64) {
        let Some(flight) = self.lane_mut(lane).in_flight.take() else { return };
        self.heard_ms = Some(now_ms);
        self.book(&flight.lost, answer.lost_booked);
        if flight.blocks.is_empty() && answer.lost_booked == 0 && !flight.lost.is_empty() {
            self.lane_mut(lane).not_before_ms = now_ms + self.options.retry_max_ms;
        }
        let (incarnation, _) = flight.key;
        let mut open = flight.blocks;
        for &(first, last, verdict) in &answer.verdicts {
            match verdict {
                Verdict::Stored | Verdict::Known => {
                    for (block, rows) in take_range(&mut open, first, last) {
                        self.stats.acknowledged_blocks += 1;
                        self.stats.acknowledged_rows += u64::from(rows);
                        self.tries.remove(&(incarnation, block));
                        self.reader.acknowledge(incarnation, block, block);
                    }
                }
                Verdict::Refused(refusal) => {
                    for (block, rows) in take_range(&mut open, first, last) {
                        self.refuse(incarnation, block, rows, refusal);
                    }
                }
                Verdict::Context => {}
                Verdict::NeedContext { from } => {
                    let from = from.max(flight.key.1);
                    self.positions.insert(flight.key, (from, from));
                    // It may be a context block that lacks context: the block behind it counts.
                    if let Some((block, rows)) =
                        open.range(first..).next().map(|(block, rows)| (*block, *rows))
                    {
                        let wait_ms = self.count_try(flight.key, (block, rows), &mut open);
                        self.lane_mut(lane).not_before_ms = now_ms.saturating_add(wait_ms);
                    }
                }
                Verdict::Later { after_ms } => {
                    let wait_ms = i64::try_from(after_ms).unwrap_or(i64::MAX).min(self.options.retry_max_ms);
                    self.lane_mut(lane).not_before_ms = now_ms.saturating_add(wait_ms.max(1));
                    self.positions.remove(&flight.key);
                }
            }
        }
        if !open.is_empty()
            && !answer.verdicts.iter().any(|(_, _, v)| matches!(v, Verdict::NeedContext { .. }))
        {
            self.positions.remove(&flight.key);
        }
        for block in open.keys() {
            self.reader.give_back(incarnation, *block);
        }
    }

    /// Counts a request for context of a block; how long to wait before it is sent again.
    fn count_try(
        &mut self,
        key: (u128, u64),
        (block, rows): (u64, u32),
        open: &mut BTreeMap<u64, u32>,
    ) -> i64 {
        let tries_max = if self.damaged.contains(&key) { DAMAGED_TRIES } else { CONTEXT_TRIES };
        let tries = self.tries.entry((key.0, block)).or_default();
        *tries += 1;
        let wait_ms = i64::from(*tries - 1) * CONTEXT_WAIT_MS;
        if *tries >= tries_max {
            open.remove(&block);
            self.refuse(key.0, block, rows, Refusal::ContextLost);
        }
        wait_ms
    }

    fn refuse(&mut self, incarnation: u128, block: u64, rows: u32, refusal: Refusal) {
        let sums = self.stats.refused.entry(refusal).or_default();
        sums.0 += 1;
        sums.1 += u64::from(rows);
        tracing::warn!(
            reader = self.reader.name(),
            block,
            rows,
            reason = refusal.as_str(),
            "the hub refused a block"
        );
        self.tries.remove(&(incarnation, block));
        self.reader.acknowledge(incarnation, block, block);
    }

    fn book(&mut self, sent: &[Lost], booked: u64) {
        let booked = usize::try_from(booked).unwrap_or(usize::MAX).min(sent.len());
        if booked > 0 {
            self.reader.booked(&sent[..booked]);
        }
    }

    fn go_offline(&mut self, now_ms: i64) {
        (self.live, self.backlog) = (LaneState::default(), LaneState::default());
        self.positions.clear();
        self.tries.clear();
        self.reader.rewind();
        self.stats.online = false;
        let wait_ms = self.options.retry_min_ms.saturating_mul(1_i64 << self.attempts.min(20));
        let wait_ms = wait_ms.clamp(1, self.options.retry_max_ms.max(1));
        self.attempts = self.attempts.saturating_add(1);
        // Between half and all of it, so that a thousand agents do not come back at once.
        let wait_ms = wait_ms / 2 + i64::try_from(self.dice() % (wait_ms as u64 / 2 + 1)).unwrap_or(0);
        self.link = Link::Offline { retry_at_ms: now_ms.saturating_add(wait_ms) };
    }

    /// Refills the allowance of the backlog lane; whether there is any.
    fn may_send_backlog(&mut self, now_ms: i64) -> bool {
        let rate = self.options.backlog_bytes_per_second;
        if rate == 0 {
            return true;
        }
        let (bytes, since_ms) = self.allowance;
        let passed_ms = u64::try_from(now_ms.saturating_sub(since_ms)).unwrap_or(0);
        let earned = u64::try_from(u128::from(rate) * u128::from(passed_ms) / 1000).unwrap_or(u64::MAX);
        let most = rate.max(self.options.batch_bytes as u64);
        self.allowance = (bytes.saturating_add(earned).min(most), now_ms);
        let enough = self.allowance.0 >= (self.options.batch_bytes as u64).min(rate);
        if !enough {
            self.backlog.not_before_ms = now_ms + 100;
            self.allowance = (bytes, since_ms);
        }
        enough
    }

    fn lane(&self, lane: Lane) -> &LaneState {
        match lane {
            Lane::Live => &self.live,
            Lane::Backlog => &self.backlog,
        }
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut LaneState {
        match lane {
            Lane::Live => &mut self.live,
            Lane::Backlog => &mut self.backlog,
        }
    }

    fn lane_of(&self, id: u64) -> Option<Lane> {
        let has = |lane: &Lane| self.lane(*lane).in_flight.as_ref().is_some_and(|flight| flight.id == id);
        [Lane::Live, Lane::Backlog].into_iter().find(has)
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn dice(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// Blocks for one batch.
#[derive(Debug, Default)]
struct Parcel {
    blocks: Vec<(Block, bool)>,
    bytes: usize,
}

impl Parcel {
    fn push(&mut self, block: Block, context: bool) {
        self.bytes += block.payload.len();
        self.blocks.push((block, context));
    }

    fn fits(&self, bytes_max: usize, more: usize) -> bool {
        self.blocks.is_empty() || (self.bytes + more < bytes_max && self.blocks.len() < BLOCKS_MAX)
    }
}

fn sent(block: &Block, context: bool) -> SentBlock<'_> {
    SentBlock {
        block: block.key.block,
        floor: block.meta.floor,
        origin: block.meta.origin,
        tenant: block.meta.tenant,
        flags: block.meta.flags,
        context,
        payload: &block.payload,
    }
}

/// Takes the blocks `first ..= last` out.
fn take_range(open: &mut BTreeMap<u64, u32>, first: u64, last: u64) -> Vec<(u64, u32)> {
    if last < first {
        return Vec::new();
    }
    let found: Vec<(u64, u32)> = open.range(first..=last).map(|(block, rows)| (*block, *rows)).collect();
    for (block, _) in &found {
        open.remove(block);
    }
    found
}
