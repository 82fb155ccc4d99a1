//! The messages between agent and hub, as bytes and back (`docs/formats/ship.md`).

use queue::{Intervals, Lane, Lost, LostReason};
use stdx::bytes::put_varint;

const MAGIC: &[u8; 4] = b"MGRS";
/// A reader refuses a larger major version.
const MAJOR: u8 = 1;
const MINOR: u8 = 0;
/// Most bytes of a hello or of an answer.
pub const HELLO_BYTES_MAX: usize = 4 << 20;
/// Most bytes of a batch: one block of the largest size, and what belongs to it.
pub const BATCH_BYTES_MAX: usize = 20 << 20;
/// Most segments in a hello.
pub const SEGMENTS_MAX: usize = 1 << 14;
/// Most records of lost blocks in a message.
pub const LOST_MAX: usize = 1 << 11;
/// Most blocks in a batch.
pub const BLOCKS_MAX: usize = 1 << 14;
/// Most intervals in an answer, of all incarnations together.
pub const INTERVALS_MAX: usize = 1 << 17;

/// Bytes that are no message of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// They do not say what they should.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// They come from a newer version.
    #[error("message of version {major}.{minor}, and this program reads up to {MAJOR}.x")]
    Version {
        /// The message's major version.
        major: u8,
        /// The message's minor version.
        minor: u8,
    },
}

/// A segment's name: two of a queue never have the same incarnation and first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentKey {
    /// The queue's random id.
    pub queue_id: u128,
    /// The incarnation.
    pub incarnation: u128,
    /// Its first block.
    pub first: u64,
}

/// What an agent says first on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// The queue's random id.
    pub queue_id: u128,
    /// The incarnation that is being written.
    pub incarnation: u128,
    /// The segments it holds: incarnation, first block, one past the last.
    pub segments: Vec<(u128, u64, u64)>,
    /// Blocks that this hub will not get, not booked yet.
    pub lost: Vec<Lost>,
}

/// What the hub answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HelloAnswer {
    /// Blocks that are durably stored or refused for good, for each incarnation that was named.
    pub stored: Vec<(u128, Intervals)>,
    /// Segments whose decoder the hub still has: incarnation, first block, and the blocks it has read
    /// without a gap (from, up to before).
    pub positions: Vec<(u128, u64, (u64, u64))>,
    /// So many of the lost records have been booked durably.
    pub lost_booked: u64,
}

/// Blocks of one segment, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Whose.
    pub segment: SegmentKey,
    /// The lane they come from: rows of the backlog may be older than what the hub has.
    pub lane: Lane,
    /// The blocks.
    pub blocks: Vec<SentBlock<'a>>,
    /// Blocks that this hub will not get, not booked yet.
    pub lost: Vec<Lost>,
}

/// A block in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentBlock<'a> {
    /// Its number within the incarnation.
    pub block: u64,
    /// Where decoding without memory begins.
    pub floor: u64,
    /// Who took the rows in first; 0 is the queue's owner.
    pub origin: u64,
    /// Whose they are; 0 is the one tenant of the queue's owner.
    pub tenant: u64,
    /// The encoder's.
    pub flags: u32,
    /// Sent for the decoder's memory only: it is not to be stored again.
    pub context: bool,
    /// The block.
    pub payload: &'a [u8],
}

/// What a hub did with the blocks of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// First block, last block, verdict; in the order of the batch. Blocks that are not named were not looked at.
    pub verdicts: Vec<(u64, u64, Verdict)>,
    /// So many of the lost records have been booked durably.
    pub lost_booked: u64,
}

/// What became of a block at the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Stored, durably.
    Stored,
    /// It had been stored before.
    Known,
    /// Read as context.
    Context,
    /// It cannot be decoded: blocks from this one on are needed first.
    NeedContext {
        /// The first block that is needed.
        from: u64,
    },
    /// It will never be stored.
    Refused(Refusal),
    /// Not now.
    Later {
        /// When to come again, in milliseconds.
        after_ms: u64,
    },
}

/// Why a block is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// It was queued under another identity than the one that brings it.
    IdentityChanged,
    /// All its rows are older than retention.
    TooOld,
    /// It is not a block.
    Malformed,
    /// It is past a limit.
    Limit,
    /// The hub does not know its version.
    Version,
    /// Blocks that it builds on are lost; said by the sender to itself.
    ContextLost,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 6] = [
        Refusal::IdentityChanged,
        Refusal::TooOld,
        Refusal::Malformed,
        Refusal::Limit,
        Refusal::Version,
        Refusal::ContextLost,
    ];

    /// As it stands in metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::IdentityChanged => "identity_changed",
            Refusal::TooOld => "too_old",
            Refusal::Malformed => "malformed",
            Refusal::Limit => "limit",
            Refusal::Version => "version",
            Refusal::ContextLost => "context_lost",
        }
    }

    fn code(self) -> u8 {
        Refusal::ALL.iter().position(|refusal| *refusal == self).map_or(0, |at| at as u8 + 1)
    }
}

impl Hello {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out::begin(1);
        out.id(self.queue_id);
        out.id(self.incarnation);
        out.number(self.segments.len() as u64);
        let mut before = None;
        for (incarnation, first, next) in &self.segments {
            // An incarnation is spelled out once for all its segments in sequence.
            out.0.push(u8::from(before != Some(*incarnation)));
            if before != Some(*incarnation) {
                out.id(*incarnation);
            }
            before = Some(*incarnation);
            out.number(*first);
            out.number(next.saturating_sub(*first));
        }
        out.lost(&self.lost);
        out.end()
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`MessageError`]
    pub fn decode(bytes: &[u8]) -> Result<Hello, MessageError> {
        let mut input = In::begin(bytes, 1, HELLO_BYTES_MAX)?;
        let (queue_id, incarnation) = (input.id()?, input.id()?);
        let mut segments = Vec::new();
        let mut before = None;
        for _ in 0..input.count(SEGMENTS_MAX)? {
            let incarnation = match (input.byte()?, before) {
                (1, _) => input.id()?,
                (0, Some(before)) => before,
                _ => return Err(MessageError::Malformed("a segment has no incarnation")),
            };
            before = Some(incarnation);
            let first = input.number()?;
            let next = first.checked_add(input.number()?).ok_or(TOO_LARGE)?;
            segments.push((incarnation, first, next));
        }
        let lost = input.lost()?;
        input.end(Hello { queue_id, incarnation, segments, lost })
    }
}

impl HelloAnswer {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out::begin(2);
        out.number(self.stored.len() as u64);
        for (incarnation, stored) in &self.stored {
            out.id(*incarnation);
            out.number(stored.len() as u64);
            let mut at = 0;
            for (first, last) in stored.iter() {
                out.number(first - at);
                out.number(last - first);
                at = last;
            }
        }
        out.number(self.positions.len() as u64);
        for (incarnation, first, (from, next)) in &self.positions {
            out.id(*incarnation);
            out.number(*first);
            out.number(from.saturating_sub(*first));
            out.number(next.saturating_sub(*from));
        }
        out.number(self.lost_booked);
        out.end()
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`MessageError`]
    pub fn decode(bytes: &[u8]) -> Result<HelloAnswer, MessageError> {
        let mut input = In::begin(bytes, 2, HELLO_BYTES_MAX)?;
        let mut answer = HelloAnswer::default();
        for _ in 0..input.count(SEGMENTS_MAX)? {
            let incarnation = input.id()?;
            let mut stored = Intervals::new();
            let mut at = 0_u64;
            for _ in 0..input.count(INTERVALS_MAX)? {
                let first = at.checked_add(input.number()?).ok_or(TOO_LARGE)?;
                at = first.checked_add(input.number()?).ok_or(TOO_LARGE)?;
                stored.insert(first, at);
            }
            answer.stored.push((incarnation, stored));
        }
        for _ in 0..input.count(SEGMENTS_MAX)? {
            let (incarnation, first) = (input.id()?, input.number()?);
            let from = first.checked_add(input.number()?).ok_or(TOO_LARGE)?;
            let next = from.checked_add(input.number()?).ok_or(TOO_LARGE)?;
            answer.positions.push((incarnation, first, (from, next)));
        }
        answer.lost_booked = input.number()?;
        input.end(answer)
    }
}

impl Batch<'_> {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out::begin(3);
        let bytes: usize = self.blocks.iter().map(|block| block.payload.len() + 16).sum();
        out.0.reserve(bytes + 64);
        out.id(self.segment.queue_id);
        out.id(self.segment.incarnation);
        out.number(self.segment.first);
        out.0.push(u8::from(self.lane == Lane::Backlog));
        out.lost(&self.lost);
        out.number(self.blocks.len() as u64);
        let mut next = self.segment.first;
        for block in &self.blocks {
            let owned = block.origin == 0 && block.tenant == 0 && block.flags == 0;
            out.0.push(u8::from(block.context) | u8::from(!owned) << 1);
            out.number(block.block.saturating_sub(next));
            out.number(block.block.saturating_sub(block.floor));
            if !owned {
                out.number(block.origin);
                out.number(block.tenant);
                out.number(u64::from(block.flags));
            }
            out.number(block.payload.len() as u64);
            out.0.extend_from_slice(block.payload);
            next = block.block + 1;
        }
        out.end()
    }
}

impl<'a> Batch<'a> {
    /// Reads the message.
    ///
    /// # Errors
    /// [`MessageError`]
    pub fn decode(bytes: &'a [u8]) -> Result<Batch<'a>, MessageError> {
        let mut input = In::begin(bytes, 3, BATCH_BYTES_MAX)?;
        let segment = SegmentKey { queue_id: input.id()?, incarnation: input.id()?, first: input.number()? };
        let lane = match input.byte()? {
            0 => Lane::Live,
            1 => Lane::Backlog,
            _ => return Err(MessageError::Malformed("an unknown lane")),
        };
        let lost = input.lost()?;
        let mut blocks = Vec::new();
        let mut next = segment.first;
        for _ in 0..input.count(BLOCKS_MAX)? {
            let bits = input.byte()?;
            if bits > 3 {
                return Err(MessageError::Malformed("a block with unknown bits"));
            }
            let block = next.checked_add(input.number()?).ok_or(TOO_LARGE)?;
            next = block.checked_add(1).ok_or(TOO_LARGE)?;
            let floor = block.checked_sub(input.number()?).filter(|floor| *floor >= segment.first);
            let floor = floor.ok_or(MessageError::Malformed("a floor before the segment"))?;
            let (mut origin, mut tenant, mut flags) = (0, 0, 0);
            if bits & 2 != 0 {
                (origin, tenant) = (input.number()?, input.number()?);
                flags = u32::try_from(input.number()?).map_err(|_| TOO_LARGE)?;
            }
            let len = usize::try_from(input.number()?).map_err(|_| TOO_LARGE)?;
            let payload = input.take(len)?;
            blocks.push(SentBlock { block, floor, origin, tenant, flags, context: bits & 1 != 0, payload });
        }
        input.end(Batch { segment, lane, blocks, lost })
    }
}

impl Answer {
    /// Adds the verdict on the next block.
    pub fn push(&mut self, block: u64, verdict: Verdict) {
        match self.verdicts.last_mut() {
            Some((_, last, before)) if *last + 1 == block && *before == verdict => *last = block,
            _ => self.verdicts.push((block, block, verdict)),
        }
    }

    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out::begin(4);
        out.number(self.verdicts.len() as u64);
        for (first, last, verdict) in &self.verdicts {
            out.number(*first);
            out.number(last.saturating_sub(*first));
            match verdict {
                Verdict::Stored => out.0.push(0),
                Verdict::Known => out.0.push(1),
                Verdict::Context => out.0.push(2),
                Verdict::NeedContext { from } => {
                    out.0.push(3);
                    out.number(*from);
                }
                Verdict::Refused(refusal) => out.0.extend_from_slice(&[4, refusal.code()]),
                Verdict::Later { after_ms } => {
                    out.0.push(5);
                    out.number(*after_ms);
                }
            }
        }
        out.number(self.lost_booked);
        out.end()
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`MessageError`]
    pub fn decode(bytes: &[u8]) -> Result<Answer, MessageError> {
        let mut input = In::begin(bytes, 4, HELLO_BYTES_MAX)?;
        let mut answer = Answer::default();
        for _ in 0..input.count(BLOCKS_MAX)? {
            let first = input.number()?;
            let last = first.checked_add(input.number()?).ok_or(TOO_LARGE)?;
            let verdict = match input.byte()? {
                0 => Verdict::Stored,
                1 => Verdict::Known,
                2 => Verdict::Context,
                3 => Verdict::NeedContext { from: input.number()? },
                4 => {
                    let code = input.byte()?;
                    let refusal = Refusal::ALL.into_iter().find(|refusal| refusal.code() == code);
                    Verdict::Refused(refusal.ok_or(MessageError::Malformed("an unknown refusal"))?)
                }
                5 => Verdict::Later { after_ms: input.number()? },
                _ => return Err(MessageError::Malformed("an unknown verdict")),
            };
            answer.verdicts.push((first, last, verdict));
        }
        answer.lost_booked = input.number()?;
        input.end(answer)
    }
}

/// Whose message it is, of a hello or a batch that has been read: the queue's id.
pub fn queue_id(bytes: &[u8]) -> Option<u128> {
    let mut input = In(bytes);
    input.take(MAGIC.len() + 3).ok()?;
    input.id().ok()
}

const TOO_LARGE: MessageError = MessageError::Malformed("a number past all bounds");
const SHORT: MessageError = MessageError::Malformed("it ends early");
const LOST_REASONS: [LostReason; 3] = [LostReason::Bytes, LostReason::Age, LostReason::Damaged];

struct Out(Vec<u8>);

impl Out {
    fn begin(kind: u8) -> Out {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[kind, MAJOR, MINOR]);
        Out(out)
    }

    fn number(&mut self, number: u64) {
        put_varint(&mut self.0, number);
    }

    fn id(&mut self, id: u128) {
        self.0.extend_from_slice(&id.to_le_bytes());
    }

    fn lost(&mut self, lost: &[Lost]) {
        self.number(lost.len() as u64);
        for lost in lost {
            self.id(lost.incarnation);
            self.number(lost.first);
            self.number(lost.last.saturating_sub(lost.first));
            for number in [lost.blocks, lost.rows, lost.samples, lost.unreadable] {
                self.number(number);
            }
            self.0.extend_from_slice(&lost.oldest_ms.to_le_bytes());
            self.0.extend_from_slice(&lost.newest_ms.to_le_bytes());
            let code = LOST_REASONS.iter().position(|reason| *reason == lost.reason);
            self.0.push(code.map_or(0, |at| at as u8 + 1));
        }
    }

    fn end(mut self) -> Vec<u8> {
        let crc = crc32c::crc32c(&self.0);
        self.0.extend_from_slice(&crc.to_le_bytes());
        self.0
    }
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn begin(bytes: &'a [u8], kind: u8, bytes_max: usize) -> Result<In<'a>, MessageError> {
        if bytes.len() > bytes_max {
            return Err(MessageError::Malformed("it is too long"));
        }
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or(SHORT)?;
        let mut input = In(content);
        if input.take(4)? != MAGIC {
            return Err(MessageError::Malformed("it does not begin like one"));
        }
        let (found, major, minor) = (input.byte()?, input.byte()?, input.byte()?);
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return Err(MessageError::Malformed("its checksum is wrong"));
        }
        if major > MAJOR || major == 0 {
            return Err(MessageError::Version { major, minor });
        }
        if found != kind {
            return Err(MessageError::Malformed("it is of another kind"));
        }
        Ok(input)
    }

    fn end<T>(self, message: T) -> Result<T, MessageError> {
        // Later minor versions append.
        Ok(message)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], MessageError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(SHORT)?;
        self.0 = tail;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, MessageError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn id(&mut self) -> Result<u128, MessageError> {
        self.array().map(u128::from_le_bytes)
    }

    fn number(&mut self) -> Result<u64, MessageError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(TOO_LARGE);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(TOO_LARGE)
    }

    fn count(&mut self, max: usize) -> Result<usize, MessageError> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if count > max { Err(MessageError::Malformed("it has too many parts")) } else { Ok(count) }
    }

    fn lost(&mut self) -> Result<Vec<Lost>, MessageError> {
        let mut all = Vec::new();
        for _ in 0..self.count(LOST_MAX)? {
            let (incarnation, first) = (self.id()?, self.number()?);
            let last = first.checked_add(self.number()?).ok_or(TOO_LARGE)?;
            let (blocks, rows) = (self.number()?, self.number()?);
            let (samples, unreadable) = (self.number()?, self.number()?);
            let (oldest_ms, newest_ms) =
                (i64::from_le_bytes(self.array()?), i64::from_le_bytes(self.array()?));
            let reason = usize::from(self.byte()?).checked_sub(1).and_then(|at| LOST_REASONS.get(at));
            let reason = *reason.ok_or(MessageError::Malformed("an unknown reason of loss"))?;
            all.push(Lost {
                incarnation,
                first,
                last,
                blocks,
                rows,
                samples,
                oldest_ms,
                newest_ms,
                unreadable,
                reason,
            });
        }
        Ok(all)
    }
}
