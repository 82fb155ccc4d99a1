//! What is known of one tick, and the names under which gaps are explained.

use std::fmt;

use storage::{Failure, RejectReason};

/// What became of one tick. Of two statements about one tick the better one holds ([`Fact::better_than`]),
/// so that it does not matter how often and in which order they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fact {
    /// Stored, every cell.
    Complete {
        /// Samples of the row, the report not counted.
        cells: u32,
    },
    /// Stored, with cells lost.
    Partial {
        /// Samples stored.
        stored: u32,
        /// Samples that should have been.
        exposed: u32,
    },
    /// The row came, and nothing of it could be kept.
    Refused(Loss),
    /// The target did not answer: the row holds the report only.
    Failed(Failure),
    /// Nobody scraped.
    Skipped,
}

impl Fact {
    /// What a scrape is that handed over `samples` of `exposed`, of which the store refused `refused`.
    pub fn scraped(samples: u32, exposed: u32, refused: u32, loss: Loss) -> Fact {
        let exposed = exposed.max(samples);
        let stored = samples.saturating_sub(refused);
        match stored {
            _ if stored == exposed => Fact::Complete { cells: stored },
            0 if refused > 0 => Fact::Refused(loss),
            _ => Fact::Partial { stored, exposed },
        }
    }

    /// A total order, the better the greater.
    fn rank(self) -> (u8, i64, u32) {
        match self {
            Fact::Complete { .. } => (4, 0, 0),
            Fact::Partial { stored, exposed } => (3, -i64::from(exposed - stored.min(exposed)), stored),
            Fact::Refused(loss) => (2, -i64::from(loss as u8), 0),
            Fact::Failed(failure) => (1, -i64::from(failure as u8), 0),
            Fact::Skipped => (0, 0, 0),
        }
    }

    /// Whether this statement takes the place of `other` at the same tick. Of two complete rows the one
    /// that came first stays, as in the store.
    pub fn better_than(self, other: Fact) -> bool {
        self.rank() > other.rank()
    }
}

/// Why rows were lost on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Loss {
    /// The agent's queue was at its limit of bytes.
    QueueFull = 0,
    /// Older than the queue or the store keeps.
    TooOld = 1,
    /// Backlog written under another identity.
    IdentityChanged = 2,
    /// A limit of the tenant, the source or the agent.
    Limit = 3,
    /// It contradicts what is stored already.
    Conflict = 4,
    /// The scrape through the tunnel broke off.
    Tunnel = 5,
    /// The queue's files were damaged.
    Damaged = 6,
    /// The rows were taken out on purpose.
    Removed = 7,
}

impl Loss {
    /// All of them, by number.
    pub const ALL: [Loss; 8] = [
        Loss::QueueFull,
        Loss::TooOld,
        Loss::IdentityChanged,
        Loss::Limit,
        Loss::Conflict,
        Loss::Tunnel,
        Loss::Damaged,
        Loss::Removed,
    ];

    /// As it stands in metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Loss::QueueFull => "dropped_queue_full",
            Loss::TooOld => "dropped_too_old",
            Loss::IdentityChanged => "identity_changed",
            Loss::Limit => "refused_limit",
            Loss::Conflict => "refused_conflict",
            Loss::Tunnel => "tunnel",
            Loss::Damaged => "dropped_damaged",
            Loss::Removed => "removed",
        }
    }

    /// The loss that a refusal of the store is.
    pub fn of(reason: RejectReason) -> Loss {
        match reason {
            RejectReason::TooOld => Loss::TooOld,
            RejectReason::SeriesLimit | RejectReason::UnknownSeries => Loss::Limit,
            RejectReason::OutOfOrder | RejectReason::Duplicate | RejectReason::Invalid => Loss::Conflict,
        }
    }
}

/// How a tick is judged in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Stored whole.
    Stored,
    /// Stored, with cells lost.
    Partial,
    /// Not stored: the target did not answer.
    Failed(Failure),
    /// Not stored: nobody scraped, because the scrape before took too long.
    Skipped,
    /// Not stored: nobody was there to scrape.
    AgentDown,
    /// Not stored: lost, and somebody said so.
    Lost(Loss),
    /// Due, and nobody has said anything since: the agent is silent, or its rows are still on the way.
    Silent,
    /// Later ticks have been told of, this one has not.
    Undelivered,
    /// The ledger's own detail of that time was lost.
    DetailLost,
}

impl Verdict {
    /// Whether the row is in the store.
    pub fn is_stored(self) -> bool {
        matches!(self, Verdict::Stored | Verdict::Partial)
    }

    /// Whether nobody can say what became of it.
    pub fn is_unknown(self) -> bool {
        matches!(self, Verdict::Silent | Verdict::Undelivered | Verdict::DetailLost)
    }

    /// Whether the record has a gap that the data does not tell of itself. A target that does not answer
    /// is in the data: its `up` is 0.
    pub fn is_gap_in_record(self) -> bool {
        !matches!(self, Verdict::Stored | Verdict::Failed(_))
    }

    /// As it stands in metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Stored => "stored",
            Verdict::Partial => "partial",
            Verdict::Failed(Failure::Unreachable) => "target_unreachable",
            Verdict::Failed(Failure::Timeout) => "target_timeout",
            Verdict::Failed(Failure::Status) => "target_status",
            Verdict::Failed(Failure::Malformed) => "target_malformed",
            Verdict::Failed(Failure::Limit) => "target_limit",
            Verdict::Failed(Failure::Other) => "target_other",
            Verdict::Failed(Failure::SampleLimit) => "sample_limit",
            Verdict::Skipped => "skipped",
            Verdict::AgentDown => "agent_down",
            Verdict::Lost(loss) => loss.as_str(),
            Verdict::Silent => "silent",
            Verdict::Undelivered => "undelivered",
            Verdict::DetailLost => "detail_lost",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Fact> for Verdict {
    fn from(fact: Fact) -> Verdict {
        match fact {
            Fact::Complete { .. } => Verdict::Stored,
            Fact::Partial { .. } => Verdict::Partial,
            Fact::Refused(loss) => Verdict::Lost(loss),
            Fact::Failed(failure) => Verdict::Failed(failure),
            Fact::Skipped => Verdict::Skipped,
        }
    }
}
