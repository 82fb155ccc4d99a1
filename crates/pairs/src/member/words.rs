//! The other way on which members hear of each other: words. Who cannot read the leases gives marks; whoever hears one takes
//! the giver for alive as if it had renewed its lease then, and says so. When all others have said so the giver
//! goes on, as after a renewal that began when the mark was given. It does not matter how long words take, in which
//! order they come, or who carries them: what counts are two clocks of one member each.

use std::time::Duration;

use super::{MEMBERS_MAX, Member, Now, Seen, Stranger, millis};
use crate::word::{Heard, Word};

/// Marks that may still be acknowledged.
const MARKS_MAX: usize = 64;
/// Strangers that are remembered.
const STRANGERS_MAX: usize = 4 * MEMBERS_MAX;

impl Member {
    /// What the others are to be told now: while this member cannot read the leases, or while another one says that
    /// it cannot, or does not renew its lease in time, which may be for that.
    pub fn word(&mut self, now: Now) -> Option<Word> {
        let own = self.own.as_ref().filter(|_| self.rival.is_none())?;
        let patience = self.settings.renewal() * 5 / 2;
        // Whether it lives cannot be told from its lease before it is renewed: that is asked here, too, and at once.
        let asks = self.answered.contains(&None);
        let is_in_need = |seen: &Seen| {
            let lately = |away: Duration| now.mono < away + patience;
            now.mono >= seen.renewed + patience || seen.away.is_some_and(lately) || (asks && !seen.lives)
        };
        let mut others = self.others.values().filter(|seen| !seen.gone);
        if self.away.is_none() && !others.any(is_in_need) {
            return None;
        }
        let mark = self.marks.back().map_or(1, |(last, _)| last + 1);
        if self.marks.len() >= MARKS_MAX {
            self.marks.pop_front();
        }
        self.marks.push_back((mark, now));
        let heard = |(name, seen): (&String, &Seen)| Heard {
            member: name.clone(),
            incarnation: seen.held.lease.incarnation,
            // Who is gone is not waited for any more.
            mark: if seen.gone { 0 } else { seen.heard },
        };
        Some(Word {
            member: self.settings.name.clone(),
            incarnation: self.incarnation,
            transitions: own.lease.transitions,
            mark,
            renewed_ms: now.wall_ms,
            duration_ms: u64::try_from(self.settings.duration.as_millis()).unwrap_or(u64::MAX),
            is_away: self.away.is_some(),
            heard: self.others.iter().map(heard).take(MEMBERS_MAX).collect(),
        })
    }

    /// Takes in what the others have told on a way, counted from 0, in answer to the word with that mark.
    pub fn hear(&mut self, now: Now, way: usize, mark: u64, words: Vec<Word>) {
        if let Some(answered) = self.answered.get_mut(way) {
            answered.get_or_insert(now.mono);
        }
        for word in words {
            if word.member != self.settings.name {
                self.hear_one(now, &word);
            }
        }
        self.cover(now, mark);
    }

    fn hear_one(&mut self, now: Now, word: &Word) {
        let ours =
            |heard: &&Heard| heard.member == self.settings.name && heard.incarnation == self.incarnation;
        let has_ours = word.heard.iter().find(ours).map(|heard| heard.mark);
        let acknowledged = has_ours.unwrap_or(0);
        if let Some(seen) = self.others.get_mut(&word.member)
            && seen.held.lease.incarnation == word.incarnation
        {
            seen.acknowledged = seen.acknowledged.max(acknowledged);
            let is_news = word.mark > seen.heard && word.transitions == seen.held.lease.transitions;
            if is_news && !seen.gone {
                seen.heard = word.mark;
                seen.away = word.is_away.then_some(now.mono);
                seen.since = seen.since.max(now.mono);
                seen.held.lease.renewed_ms = seen.held.lease.renewed_ms.max(word.renewed_ms);
            }
            return;
        }
        if has_ours.is_none() {
            return;
        }
        if self.strangers.len() >= STRANGERS_MAX {
            self.strangers.retain(|_, stranger| !stranger.is_past);
        }
        let is_room = self.strangers.len() < STRANGERS_MAX;
        let known = self.strangers.get(&word.incarnation);
        if known.map_or(is_room, |stranger| word.mark > stranger.heard) {
            let stranger = Stranger { heard: word.mark, since: now.mono, acknowledged, is_past: false };
            self.strangers.insert(word.incarnation, stranger);
        }
    }

    /// Goes on with its share if all others have heard of it lately; where there are none, if there is a way on which they
    /// would be heard.
    fn cover(&mut self, now: Now, answered: u64) {
        // From when its lease has run out; who has begun anew counts on that (`Doubt`).
        let until = self.renewed.map(|at| at + self.settings.fence() + self.settings.keep);
        let may = self.away.is_some_and(|since| now.mono < since + self.settings.keep)
            && until.is_some_and(|until| now.mono < until);
        if !may || self.rival.is_some() || !self.own.as_ref().is_some_and(|own| own.confirmed) {
            return;
        }
        // Whom its lease counts in, and it has not, may begin anew and trust in that.
        let counted = self.own.as_ref().and_then(|own| own.lease.views.last()).map(|view| &view.members);
        let is_gone = |name: &String| self.others.get(name).is_some_and(|seen| seen.gone);
        if counted.is_some_and(|members| members.iter().any(is_gone)) {
            return;
        }
        let has_lease =
            |incarnation: &u64| self.others.values().any(|seen| seen.held.lease.incarnation == *incarnation);
        let known = self.others.values().filter(|seen| !seen.gone).map(|seen| seen.acknowledged);
        let strange = self.strangers.iter().filter(|(who, stranger)| !stranger.is_past && !has_lease(who));
        let heard = known.chain(strange.map(|(_, who)| who.acknowledged)).min().unwrap_or(answered);
        let Some((_, given)) = self.marks.iter().find(|(mark, _)| *mark == heard) else { return };
        let until = given.mono + self.settings.fence();
        if now.mono < until {
            self.covered = self.covered.max(Some(until));
            let until_ms = given.wall_ms.saturating_add(millis(self.settings.duration));
            self.share.stretch(until, until_ms);
        }
    }
}
