//! What the receiver of a selection is told of rows that are due.
//!
//! The writer states every tick of every source. Of these the receiver hears only what concerns the selection, as if
//! nothing else were scraped:
//!
//! - A source begins with the first tick whose scrape had a selected series, and ends (`reconfigured`) with the first
//!   scrape that has none any more. One of which nothing was ever selected is not mentioned.
//! - Between these all its ticks are told: a failed or skipped one is missing at the receiver, too.
//! - A tick's cells are those selected. Of what the writer left out (series past a limit), those count whose
//!   labels it had asked for and which are selected; series that a page shows twice do not, because nobody
//!   knows which they were.

use std::collections::HashSet;

use model::Labels;

use crate::{Account, EndReason, Outcome, Schedule};

/// What a row has of a selection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Selected {
    /// Series on their way, those of a report included.
    series: u32,
    /// Of these, cells of the exposition.
    cells: u32,
    /// Cells that the first appender did not take.
    lost: u32,
}

impl Selected {
    pub(super) fn add(&mut self, series: usize, cells: u32) {
        self.series = self.series.saturating_add(u32::try_from(series).unwrap_or(u32::MAX));
        self.cells = self.cells.saturating_add(cells);
    }

    pub(super) fn lose(&mut self, cells: u32) {
        self.lost = self.lost.saturating_add(cells);
    }
}

/// What is due of one source.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// When rows are due, as the writer has stated it; missing while none are.
    schedule: Option<Schedule>,
    /// Whether the receiver expects rows.
    has_begun: bool,
    /// Whether the receiver has been told that nothing comes, if it had to be.
    is_settled: bool,
    /// Since the last tick.
    selected: Selected,
    /// Selected series that were refused at a limit, by the hash of their labels.
    refused: HashSet<u128>,
}

impl Due {
    /// A row is on its way.
    pub(super) fn count(&mut self, row: Selected) {
        self.selected.add(row.series as usize, row.cells);
        self.selected.lose(row.lost);
    }

    /// A selected series was refused at a limit.
    pub(super) fn refused(&mut self, labels: &Labels) {
        self.refused.insert(labels.hash128());
    }

    /// Another selection: what the receiver expects it goes on to expect, until it is told otherwise.
    pub(super) fn start_over(&mut self) {
        *self = Due { schedule: self.schedule, has_begun: self.has_begun, ..Due::default() };
    }

    /// The receiver did not get what was said last.
    pub(super) fn not_told(&mut self) {
        (self.has_begun, self.is_settled) = (false, false);
    }

    /// This is not told now: the branch is off, or the writer will say it again. What it says only once is
    /// taken in.
    pub(super) fn overhear(&mut self, account: &Account) {
        match account {
            Account::Begin { schedule, .. } => self.schedule = Some(*schedule),
            Account::Tick { .. } => self.selected = Selected::default(),
            Account::End { .. } => self.schedule = None,
        }
    }

    /// What the receiver hears of it. Until `ends_others_until_ms` it may expect rows of sources that never began
    /// here.
    pub(super) fn say(&mut self, account: &Account, ends_others_until_ms: i64) -> [Option<Account>; 2] {
        let same = [Some(*account), None];
        match *account {
            Account::Begin { schedule, .. } => {
                self.schedule = Some(schedule);
                if self.has_begun { same } else { [None, None] }
            }
            Account::End { .. } => {
                self.schedule = None;
                if std::mem::take(&mut self.has_begun) { same } else { [None, None] }
            }
            Account::Tick { outcome: Outcome::Skipped, .. } if self.has_begun => same,
            Account::Tick { outcome: Outcome::Skipped, .. } => [None, None],
            Account::Tick { outcome: Outcome::Failed(_), .. } => {
                let selected = std::mem::take(&mut self.selected);
                // Its report may be selected.
                self.tell_tick(account, selected.series > 0, false)
            }
            Account::Tick { source, tick_ms, outcome: Outcome::Scraped { samples, exposed } } => {
                let selected = std::mem::take(&mut self.selected);
                let refused = u32::try_from(self.refused.len()).unwrap_or(u32::MAX);
                let lost = selected.lost.saturating_add(refused.min(exposed.saturating_sub(samples)));
                let outcome = Outcome::Scraped {
                    samples: selected.cells,
                    exposed: selected.cells.saturating_add(lost),
                };
                let any = selected.series > 0 || lost > 0;
                let may_expect = !self.is_settled && tick_ms < ends_others_until_ms;
                let is_over = !any && (self.has_begun || may_expect);
                self.tell_tick(&Account::Tick { source, tick_ms, outcome }, any, is_over)
            }
        }
    }

    /// A tick, with a begin before it where nobody expects it, or instead of it the end.
    fn tell_tick(&mut self, tick: &Account, any: bool, is_over: bool) -> [Option<Account>; 2] {
        let Account::Tick { source, tick_ms, .. } = *tick else { return [None, None] };
        if is_over {
            (self.has_begun, self.is_settled) = (false, true);
            return [Some(Account::End { source, at_ms: tick_ms, reason: EndReason::Reconfigured }), None];
        }
        match (self.has_begun, any, self.schedule) {
            (true, ..) => [Some(*tick), None],
            (false, true, Some(schedule)) => {
                self.has_begun = true;
                [Some(Account::Begin { source, at_ms: tick_ms, schedule }), Some(*tick)]
            }
            _ => [None, None],
        }
    }
}
