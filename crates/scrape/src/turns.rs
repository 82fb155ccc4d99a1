//! Whose turn a tick is, where several scrapers share targets.

use std::fmt;

use model::SourceId;

/// Tells which ticks are scraped here. The ticks of one target are the same for all that share it: same identity,
/// same interval, same grid of time.
pub trait Turns: Send + Sync + fmt::Debug {
    /// Asked when the tick begins; what is [`Turn::Mine`] is taken for begun.
    fn turn(&self, target: SourceId, tick_ms: i64) -> Turn;

    /// Whether the row of a tick that was ours may still be appended.
    fn holds(&self, tick_ms: i64) -> bool;
}

/// Whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Ours.
    Mine,
    /// Another scraper's, by name.
    Other(String),
    /// Nobody's that is known here.
    Nobody,
}

/// All targets are scraped here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Turns for Alone {
    fn turn(&self, _: SourceId, _: i64) -> Turn {
        Turn::Mine
    }

    fn holds(&self, _: i64) -> bool {
        true
    }
}
