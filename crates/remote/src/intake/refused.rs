//! Rows that never come: dropped at the agent, or refused here. Whoever keeps the account hears of them before the
//! agent may forget them.

use parking_lot::Mutex;
use queue::{Lost, LostReason};

use super::OnLost;
use crate::block::Block;
use crate::ship::{IntakeError, Peer, Refusal, SegmentKey, SentBlock};

/// A tick lies before the row that its scrape brings, and the head of a block knows rows only: so much earlier the
/// first tick of a refused block may be, milliseconds. Agents begin scrapes within this.
const TICK_BEFORE_ROW_MS: i64 = 1_000;

/// Rows that never come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeverComing<'a> {
    /// The cluster whose rows they are: of blocks that were queued under another identity, that one's.
    pub cluster: &'a str,
    /// The first tick that may be among them, milliseconds. Later than `to_ms` when nothing of them could be read.
    pub from_ms: i64,
    /// The last one, included, milliseconds.
    pub to_ms: i64,
    /// How many.
    pub rows: u64,
    /// Why.
    pub reason: Reason,
}

/// Why rows never come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The agent's queue has dropped them.
    Dropped(LostReason),
    /// The hub has refused them for good.
    Refused(Refusal),
}

impl<'a> NeverComing<'a> {
    pub(super) fn dropped(cluster: &'a str, lost: &Lost) -> NeverComing<'a> {
        NeverComing {
            cluster,
            from_ms: lost.oldest_ms,
            to_ms: lost.newest_ms,
            rows: lost.rows,
            reason: Reason::Dropped(lost.reason),
        }
    }
}

/// Blocks that were refused and are not booked yet: those of a batch together, as a backlog has one for each second.
#[derive(Debug, Default)]
pub(super) struct Refused(Mutex<Vec<Noted>>);

#[derive(Debug)]
struct Noted {
    peer: Peer,
    key: SegmentKey,
    cluster: String,
    refusal: Refusal,
    from_ms: i64,
    to_ms: i64,
    rows: u64,
}

impl Refused {
    /// Notes a block that is refused for good, as far as its head can be read. What it says of whose it is counts where
    /// `is_proven`; gives the rows of one where it does not.
    pub(super) fn note(
        &self,
        peer: &Peer,
        key: &SegmentKey,
        sent: &SentBlock<'_>,
        refusal: Refusal,
        is_proven: impl FnOnce(&str) -> bool,
    ) -> u64 {
        let Ok(block) = Block::parse(sent.payload) else { return 0 };
        let header = block.header();
        if header.rows == 0 || header.oldest_ms > header.newest_ms {
            return 0;
        }
        let cluster = block.cluster().unwrap_or(&peer.cluster);
        if !is_proven(cluster) {
            tracing::info!(
                cluster = peer.cluster,
                other = cluster,
                block = sent.block,
                "nothing shows that rows an agent brings of another cluster are that one's and nobody else's"
            );
            return u64::from(header.rows);
        }
        let from_ms = header.oldest_ms.saturating_sub(TICK_BEFORE_ROW_MS);
        let (to_ms, rows) = (header.newest_ms, u64::from(header.rows));
        let mut noted = self.0.lock();
        let is_same = |last: &&mut Noted| {
            last.key == *key && last.refusal == refusal && last.peer == *peer && last.cluster == cluster
        };
        if let Some(last) = noted.last_mut().filter(is_same) {
            (last.from_ms, last.to_ms) = (last.from_ms.min(from_ms), last.to_ms.max(to_ms));
            last.rows = last.rows.saturating_add(rows);
            return 0;
        }
        let (peer, cluster) = (peer.clone(), cluster.to_owned());
        noted.push(Noted { peer, key: *key, cluster, refusal, from_ms, to_ms, rows });
        0
    }

    /// Tells `on_lost` of all of them; what it has not written down stays.
    ///
    /// # Errors
    /// Something has not been written down: nobody may be told that it was refused.
    pub(super) fn book(&self, on_lost: &OnLost) -> Result<(), IntakeError> {
        // Others wait here until it is written down, for what they are to say may be among it.
        let mut noted = self.0.lock();
        let is_open = |noted: &Noted| {
            let never = NeverComing {
                cluster: &noted.cluster,
                from_ms: noted.from_ms,
                to_ms: noted.to_ms,
                rows: noted.rows,
                reason: Reason::Refused(noted.refusal),
            };
            !on_lost(&noted.peer, noted.key.queue_id, &never)
        };
        noted.retain(is_open);
        if noted.is_empty() {
            return Ok(());
        }
        Err(IntakeError("it could not be written down that rows are refused".to_owned()))
    }
}
