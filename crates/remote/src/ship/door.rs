//! The hub's end: messages in, verdicts out, in front of what stores.

use std::collections::BTreeSet;

use model::TenantId;
use queue::{Intervals, Lane, Lost};

use super::message::{Answer, Batch, Hello, HelloAnswer, MessageError, SegmentKey, SentBlock, Verdict};

/// Who brings blocks, as the certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// The tenant.
    pub tenant: TenantId,
    /// The cluster.
    pub cluster: String,
}

/// The store cannot take anything in now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IntakeError(pub String);

/// What stores the blocks.
pub trait Intake: Send + Sync {
    /// Blocks of an incarnation that are stored or refused for good. It may name some that are not durable
    /// yet: [`Intake::sync`] follows before anybody is told.
    ///
    /// # Errors
    /// When it cannot say now.
    fn stored(&self, peer: &Peer, queue_id: u128, incarnation: u128) -> Result<Intervals, IntakeError>;

    /// The peer says that it writes this life of a queue; that is remembered for good.
    ///
    /// # Errors
    /// It could not be written down.
    fn writes(&self, _peer: &Peer, _queue_id: u128, _incarnation: u128) -> Result<(), IntakeError> {
        Ok(())
    }

    /// The blocks of the segment that its decoder has read without a gap, if it still has one: from, and
    /// up to before.
    fn position(&self, peer: &Peer, segment: &SegmentKey) -> Option<(u64, u64)>;

    /// Takes a block in. A context block only refreshes the decoder's memory and is
    /// [`Verdict::Context`] (or [`Verdict::NeedContext`]).
    fn take(&self, peer: &Peer, segment: &SegmentKey, lane: Lane, block: &SentBlock<'_>) -> Verdict;

    /// Makes all that was taken before the call durable.
    ///
    /// # Errors
    /// Then nothing of it is acknowledged.
    fn sync(&self) -> Result<(), IntakeError>;

    /// The agent holds these segments of its queue (incarnation and first block) and no others: what is
    /// kept for the rest is of no use any more.
    fn held(&self, _peer: &Peer, _queue_id: u128, _segments: &[(u128, u64)]) {}

    /// Books blocks that never come; records that have been booked before count once. How many of them
    /// are booked, durable with the next [`Intake::sync`].
    fn book_lost(&self, peer: &Peer, queue_id: u128, lost: &[Lost]) -> usize;
}

/// Why a message gets no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DoorError {
    /// The message is at fault (400).
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The store is (503): nothing was acknowledged.
    #[error("store: {0}")]
    Store(#[from] IntakeError),
}

/// Answers the messages of agents.
#[derive(Debug)]
pub struct Door<I> {
    intake: I,
}

impl<I: Intake> Door<I> {
    /// A door in front of `intake`.
    pub fn new(intake: I) -> Door<I> {
        Door { intake }
    }

    /// What is behind the door.
    pub fn intake(&self) -> &I {
        &self.intake
    }

    /// Answers a hello (`POST /fleet/v1/rows/hello`). Blocks for as long as a sync takes.
    ///
    /// # Errors
    /// [`DoorError`]
    pub fn hello(&self, peer: &Peer, body: &[u8]) -> Result<Vec<u8>, DoorError> {
        let hello = Hello::decode(body)?;
        self.intake.writes(peer, hello.queue_id, hello.incarnation)?;
        let mut answer = HelloAnswer::default();
        let held: Vec<(u128, u64)> = hello.segments.iter().map(|segment| (segment.0, segment.1)).collect();
        self.intake.held(peer, hello.queue_id, &held);
        let incarnations: BTreeSet<u128> = hello.segments.iter().map(|segment| segment.0).collect();
        for incarnation in incarnations {
            let mut stored = Intervals::new();
            let all = self.intake.stored(peer, hello.queue_id, incarnation)?;
            // Only what the agent holds: the rest is of no use to it.
            for (_, first, next) in hello.segments.iter().filter(|segment| segment.0 == incarnation) {
                let within = all.iter().filter(|(from, to)| from < next && first <= to);
                within.for_each(|(from, to)| stored.insert(from.max(*first), to.min(next - 1)));
            }
            if !stored.is_empty() {
                answer.stored.push((incarnation, stored));
            }
        }
        for &(incarnation, first, _) in &hello.segments {
            let key = SegmentKey { queue_id: hello.queue_id, incarnation, first };
            answer.positions.extend(self.intake.position(peer, &key).map(|at| (incarnation, first, at)));
        }
        answer.lost_booked = self.intake.book_lost(peer, hello.queue_id, &hello.lost) as u64;
        self.intake.sync()?;
        Ok(answer.encode())
    }

    /// Takes a batch in (`POST /fleet/v1/rows/blocks`). Blocks for as long as a sync takes.
    ///
    /// # Errors
    /// [`DoorError`]
    pub fn blocks(&self, peer: &Peer, body: &[u8]) -> Result<Vec<u8>, DoorError> {
        let batch = Batch::decode(body)?;
        let mut answer = Answer::default();
        for block in &batch.blocks {
            let verdict = self.intake.take(peer, &batch.segment, batch.lane, block);
            answer.push(block.block, verdict);
            // The rest would only be refused for the same reason.
            if matches!(verdict, Verdict::NeedContext { .. } | Verdict::Later { .. }) {
                break;
            }
        }
        answer.lost_booked = self.intake.book_lost(peer, batch.segment.queue_id, &batch.lost) as u64;
        self.intake.sync()?;
        Ok(answer.encode())
    }
}
