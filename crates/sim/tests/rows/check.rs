//! What must hold in the end, at every hub.

use std::collections::BTreeMap;

use ledger::{Ask, By, Loss, Report, Verdict};
use model::{SourceId, TenantId};
use storage::Outcome;

use crate::ground::{Account, Block, Ground, Key, Told};
use crate::hub::Hub;

/// Compares a hub with what happened: the store sample by sample, the ledger tick by tick. Gives the number of
/// samples that had to arrive.
pub(crate) fn check(at: usize, hub: &Hub, ground: &Ground) -> usize {
    let found = hub.dump();
    let mut required = 0;
    let mut sent: BTreeMap<&Key, u64> = BTreeMap::new();
    for (source, account) in &ground.sources {
        for told in account.ticks.values() {
            let is_due = ground.is_due(at, *source, told);
            let there = told.cells.iter().filter(|(key, _)| found.contains_key(key)).count();
            assert!(
                there == told.cells.len() || (there == 0 && !is_due),
                "hub {at} has {there} samples of {told:?}, due: {is_due}"
            );
            required += if is_due { told.cells.len() } else { 0 };
            sent.extend(told.cells.iter().map(|(key, bits)| (key, *bits)));
        }
    }
    for (key, bits) in &found {
        assert_eq!(sent.get(key), Some(bits), "hub {at} has invented {key:?}");
    }
    for (source, account) in &ground.sources {
        Judged { at, hub, ground, source: *source, account, found: &found }.check();
    }
    required
}

/// One source at one hub.
struct Judged<'a> {
    at: usize,
    hub: &'a Hub,
    ground: &'a Ground,
    source: u128,
    account: &'a Account,
    found: &'a BTreeMap<Key, u64>,
}

impl Judged<'_> {
    fn check(&self) {
        let ticks = &self.account.ticks;
        let Some((last, _)) = ticks.last_key_value() else { return };
        let end_ms = last + 1;
        let everything = self.report(i64::MIN / 4, end_ms);
        self.check_sums(&everything);
        let Some(start_ms) = self.known_from() else { return };
        let report = self.report(start_ms, end_ms);
        let mut verdicts: BTreeMap<i64, Verdict> = BTreeMap::new();
        let interval_ms = self.account.schedule.interval_ms;
        for gap in &report.gaps {
            let n = i64::try_from(gap.rows).expect("few");
            verdicts.extend((0..n).map(|n| (gap.from_ms + n * interval_ms, gap.verdict)));
        }
        let first = start_ms + (self.account.schedule.offset_ms - start_ms).rem_euclid(interval_ms);
        let mut expected = 0;
        for tick_ms in (first..end_ms).step_by(interval_ms as usize) {
            expected += 1;
            let verdict = verdicts.remove(&tick_ms).unwrap_or(Verdict::Stored);
            self.check_tick(tick_ms, verdict);
        }
        assert_eq!(verdicts, BTreeMap::new(), "{}: gaps where nothing was due", self.place());
        assert_eq!(report.total.expected, expected, "{}: rows due from {start_ms} on", self.place());
    }

    /// Since when the ledger certainly knows that rows are due.
    fn known_from(&self) -> Option<i64> {
        let ticks = &self.account.ticks;
        if self.ground.is_renamed(self.source) {
            // Nobody repeats what was said under the old name: what has arrived has, and no power cut may take it.
            let has_come =
                |block: &Block| ticks.values().any(|told| told.block == *block && self.is_there(told));
            let begins = self.account.begins.iter().filter(|_| !self.hub.may_lack());
            return begins.filter(|(_, block)| has_come(block)).map(|(begin, _)| *begin).min();
        }
        // Every life that has certainly been heard of has said since when rows are due.
        let sure = |told: &&Told| self.ground.is_due(self.at, self.source, told);
        let first_sure = ticks.iter().find(|(_, told)| sure(told)).map(|(tick, _)| *tick)?;
        let begins = self.account.begins.iter().map(|(begin, _)| *begin);
        begins.filter(|begin| *begin <= first_sure).max()
    }

    /// The sums fit, and the stored ones are those that are found in the store.
    fn check_sums(&self, report: &Report) {
        let total = &report.total;
        let sum = total.stored + total.missing_rows() + total.unknown_rows();
        assert_eq!(total.expected, sum, "{}: {total:?}", self.place());
        let rows = self.account.ticks.values().filter(|told| told.is_scraped() && self.is_there(told));
        let (mut stored, mut cells) = (0, 0);
        for told in rows {
            stored += 1;
            cells += told.samples().count() as u64;
        }
        if !self.hub.may_lack() {
            assert_eq!((total.stored, total.cells_stored), (stored, cells), "{}: recounted", self.place());
        }
        assert!(total.stored <= stored, "{}: {} stored, and {stored} found", self.place(), total.stored);
    }

    fn check_tick(&self, tick_ms: i64, verdict: Verdict) {
        let told = self.account.ticks.get(&tick_ms);
        let context = || format!("{}, tick {tick_ms}: {verdict:?} of {told:?}", self.place());
        let Some(told) = told else {
            // Nobody ever said a word of it.
            assert!(!verdict.is_stored(), "{}", context());
            let told = !matches!(verdict, Verdict::Failed(_) | Verdict::Skipped);
            assert!(told, "{}", context());
            return self.check_missing(tick_ms, verdict, &context);
        };
        let is_there = self.is_there(told);
        if self.ground.is_due(self.at, self.source, told) {
            return assert_eq!(verdict, told.verdict(), "{}", context());
        }
        match verdict {
            Verdict::Stored | Verdict::Partial => {
                assert!(is_there && verdict == told.verdict(), "{}", context());
            }
            Verdict::Failed(_) | Verdict::Skipped => assert_eq!(verdict, told.verdict(), "{}", context()),
            _ => {
                // The ledger has less than the store only where the disk refused it or the power took it, and nobody said it again.
                let less = is_there && told.is_scraped();
                assert!(!less || self.hub.may_lack(), "{}", context());
                self.check_missing(tick_ms, verdict, &context);
            }
        }
    }

    /// The reason that is given for a row which is not there.
    fn check_missing(&self, tick_ms: i64, verdict: Verdict, context: &dyn Fn() -> String) {
        let (ground, at) = (self.ground, self.at);
        let next_begin = self.account.begins.iter().map(|(begin, _)| *begin).find(|begin| *begin > tick_ms);
        match verdict {
            Verdict::Lost(Loss::IdentityChanged) => {
                assert!(ground.refused_then(tick_ms), "nobody has another name: {}", context());
            }
            Verdict::Lost(_) => assert!(ground.speaks_of(at, tick_ms), "nobody lost it: {}", context()),
            Verdict::AgentDown => assert!(next_begin.is_some(), "nobody began anew: {}", context()),
            Verdict::Undelivered | Verdict::Silent => {}
            Verdict::DetailLost if self.hub.power_cuts > 0 => {}
            _ => panic!("{}", context()),
        }
        let told = self.account.ticks.get(&tick_ms);
        let renamed = ground.is_renamed(self.source);
        let dropped = told.is_some_and(|told| told.required && ground.lost[at].contains(&told.block));
        // What a life wrote under its old name and could not bring is refused, unless it was dropped first. A hub
        // that has never been told the old name by a certificate has nobody to book it for.
        let proven = |told: &Told| self.hub.names.proves(told.block.0);
        let gone = told.is_some_and(|told| told.required && renamed && !self.is_there(told) && proven(told));
        if (dropped && !renamed || gone) && told.is_some_and(|told| told.outcome != Outcome::Skipped) {
            assert!(matches!(verdict, Verdict::Lost(_)), "it was dropped or refused: {}", context());
        }
        // The agent was away, and the ledger knows what came before and what came after.
        let spoken_of = ground.speaks_of(at, tick_ms) || ground.refused_then(tick_ms);
        let Some(begin) = next_begin.filter(|_| told.is_none() && !spoken_of) else {
            return;
        };
        let next = self.account.ticks.range(tick_ms..).next();
        let sure = next.is_some_and(|(tick, told)| *tick >= begin && ground.is_due(at, self.source, told));
        let is_down = matches!(verdict, Verdict::AgentDown | Verdict::DetailLost);
        assert!(!sure || is_down, "the agent was away: {}", context());
    }

    fn report(&self, start_ms: i64, end_ms: i64) -> Report {
        let source = Some(SourceId(self.source));
        let ask = Ask { source, start_ms, end_ms, by: By::Source, gaps_max: 1 << 20, ..Ask::default() };
        let report = self.hub.ledger.report(&TenantId::default(), &ask);
        let lost = &report.detail_lost;
        // The power may take a page and leave the one behind it.
        let known = |(from_ms, _): &(i64, i64)| self.hub.power_cuts > 0 && *from_ms > 0;
        assert!(lost.iter().all(known), "nothing was damaged: {lost:?}");
        report
    }

    fn is_there(&self, told: &Told) -> bool {
        told.cells.first().is_some_and(|(key, _)| self.found.contains_key(key))
    }

    fn place(&self) -> String {
        format!("hub {}, source {}", self.at, self.source)
    }
}

impl Told {
    fn is_scraped(&self) -> bool {
        matches!(self.outcome, Outcome::Scraped { .. })
    }

    /// What the ledger has to make of it.
    fn verdict(&self) -> Verdict {
        match self.outcome {
            Outcome::Scraped { samples, exposed } if samples == exposed => Verdict::Stored,
            Outcome::Scraped { .. } => Verdict::Partial,
            Outcome::Failed(failure) => Verdict::Failed(failure),
            Outcome::Skipped => Verdict::Skipped,
        }
    }
}
