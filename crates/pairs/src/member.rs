//! A member, without input and output: what it reads and writes is handed in and out, with the times at which
//! that began and ended.

mod words;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::lease::{Held, Lease, LeaseError, MEMBER_LENGTH_MAX, Standing, Version};
use crate::share::{Claim, Share};
use crate::view::View;

/// Views in a lease at most: with more the members wait for the changes under way.
pub(crate) const VIEWS_MAX: usize = 8;
/// Members of a view at most.
pub(crate) const MEMBERS_MAX: usize = 64;
/// A view stays in the lease for this long after the next one has begun, milliseconds.
const VIEW_KEPT_MS: i64 = 60_000;
/// Clocks further apart than this tell different ticks; what is claimed then is compared by each one's own clock.
const APART_MS: i64 = 60_000;
/// A lease of another member counts for at most this long, whatever it says.
const DURATION_MAX: Duration = Duration::from_secs(300);
/// A lease that has not changed for this many durations is removed by whoever sees it.
const LITTER: u32 = 60;

/// The time by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The time that ticks go by, milliseconds since the epoch.
    pub wall_ms: i64,
    /// By the clock that never goes back, since the origin of the member's [`Share`].
    pub mono: Duration,
}

/// Who a member is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name: one for each member, and the same after a restart. See [`is_member_name`].
    pub name: String,
    /// How long others wait for a sign of it.
    pub duration: Duration,
    /// A fingerprint of what it scrapes.
    pub setup: String,
    /// For how long it goes on with the share it had while it cannot read the leases and the others say that they hear
    /// of it all the same ([`Member::word`]); zero for not at all.
    pub keep: Duration,
}

impl Settings {
    /// Time between two looks at the others.
    pub(crate) fn beat(&self) -> Duration {
        self.duration / 16
    }

    /// Time between two renewals.
    fn renewal(&self) -> Duration {
        self.duration / 8
    }

    /// For so long after the begin of a renewal it acts on it.
    fn fence(&self) -> Duration {
        self.duration * 3 / 4
    }

    /// What is given away is given away from this much later on, so that the others have read it by then.
    fn lead_ms(&self) -> i64 {
        millis(self.duration / 4)
    }
}

/// Whether a text can be a member's name: 1 to 63 of `a-z 0-9 . -`, a letter or digit at both ends. That is a
/// name for a Kubernetes Lease, and for a file.
pub fn is_member_name(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'.' || *b == b'-';
    bytes.len() <= MEMBER_LENGTH_MAX && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
}

/// A lease to be written.
#[derive(Debug, Clone)]
pub struct Write {
    /// What.
    pub lease: Lease,
    /// Over which version; `None` where none should be.
    pub over: Option<Version>,
}

/// Another member.
#[derive(Debug)]
struct Seen {
    held: Held,
    /// When the read ended that saw this version first.
    renewed: Duration,
    /// The last sign of it: that, or a word.
    since: Duration,
    /// Its clock ahead of ours, at least, when it wrote.
    ahead_ms: i64,
    /// It has been seen to write.
    lives: bool,
    /// It has not been looked at since our lease ran out: what it wrote may be old.
    doubted: bool,
    gone: bool,
    /// It has begun anew since the read before, and claimed nothing in between.
    anew: bool,
    /// What it claimed before it began anew.
    ghost: Option<Claim>,
    /// Its last mark that we have heard; 0 for none.
    heard: u64,
    /// When it last said that it cannot read the leases.
    away: Option<Duration>,
    /// Our last mark that it has heard; 0 for none.
    acknowledged: u64,
}

/// Our lease as it was last written.
#[derive(Debug)]
struct Own {
    lease: Lease,
    /// When the write ended.
    written: Duration,
    /// The others have been read since.
    confirmed: bool,
}

/// One of several that share targets.
#[derive(Debug)]
pub struct Member {
    settings: Settings,
    incarnation: u64,
    share: Share,
    others: BTreeMap<String, Seen>,
    version: Option<Version>,
    own: Option<Own>,
    /// Being written, or perhaps written.
    pending: Option<(Lease, Now)>,
    /// When the last successful write began.
    renewed: Option<Duration>,
    /// Somebody else goes by our name; since when its lease is the same.
    rival: Option<(Held, Duration)>,
    ready: bool,
    leaving: bool,
    transitions: u32,
    acquired_ms: i64,
    lapses: u64,
    /// When the first read began that has failed, or what took long, since the last read that has not failed.
    away: Option<Duration>,
    /// The last marks that we gave, and when.
    marks: VecDeque<(u64, Now)>,
    /// So long all others take us for alive, as they have said.
    covered: Option<Duration>,
    /// By incarnation, whom we have no lease of, and who say that they have ours.
    strangers: BTreeMap<u64, Stranger>,
    /// For each way on which words travel: when the first word was answered there since this member has begun, or
    /// begun anew.
    answered: Vec<Option<Duration>>,
}

/// Who has our lease, and its own we have not read.
#[derive(Debug)]
struct Stranger {
    /// Its last mark that we have heard, and when.
    heard: u64,
    since: Duration,
    /// Our last mark that it has heard; 0 for none.
    acknowledged: u64,
    /// There is no lease of it any more.
    is_past: bool,
}

impl Member {
    /// A member that tells by `share` what is its. `incarnation` is random.
    pub fn new(settings: Settings, incarnation: u64, share: Share) -> Member {
        Member {
            settings,
            incarnation,
            share,
            others: BTreeMap::new(),
            version: None,
            own: None,
            pending: None,
            renewed: None,
            rival: None,
            ready: false,
            leaving: false,
            transitions: 0,
            acquired_ms: 0,
            lapses: 0,
            away: None,
            marks: VecDeque::new(),
            covered: None,
            strangers: BTreeMap::new(),
            answered: Vec::new(),
        }
    }

    /// There are so many ways on which members hear of each other while the leases are away; none unless this is said.
    pub fn hears_on(&mut self, ways: usize) {
        self.answered = vec![None; ways];
    }

    /// Targets have been discovered: it takes its share from now on.
    pub fn ready(&mut self) {
        self.ready = true;
    }

    /// It gives everything away, and nothing is asked of it any more.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether what it had is others' by now, or there are no others.
    pub fn has_left(&self, now: Now) -> bool {
        let given = |own: &Own| {
            own.confirmed
                && self.pending.is_none()
                && own.lease.views.last().is_none_or(|view| {
                    view.from_ms <= now.wall_ms && !view.members.contains(&self.settings.name)
                })
        };
        self.leaving && (self.serving().next().is_none() || self.own.as_ref().is_none_or(given))
    }

    /// What is to be written now, if anything. What is given away by it is given away when this returns.
    pub fn beat(&mut self, now: Now) -> Option<Write> {
        let over = self.renewed.is_some_and(|renewed| now.mono >= renewed + self.settings.fence());
        if over && self.covered.is_none_or(|until| now.mono >= until) {
            self.lapse();
        }
        if self.rival.is_some() {
            return None;
        }
        let lease = if let Some((pending, _)) = self.pending.take() {
            Lease { renewed_ms: now.wall_ms, ..pending }
        } else if let Some(own) = &self.own {
            let due = self.renewed.is_none_or(|at| now.mono >= at + self.settings.renewal());
            let lease = self.next(own, now);
            let same = Lease { renewed_ms: own.lease.renewed_ms, ..lease.clone() } == own.lease;
            if same && !due {
                return None;
            }
            lease
        } else {
            self.first(now)
        };
        self.pending = Some((lease.clone(), now));
        Some(Write { lease, over: self.version.clone() })
    }

    /// What became of the write that the last [`Member::beat`] gave.
    pub fn wrote(&mut self, ended: Now, outcome: Result<Version, &LeaseError>) {
        match outcome {
            Ok(version) => {
                let Some((lease, began)) = self.pending.take() else { return };
                let changed = self.own.as_ref().is_none_or(|own| own.lease.views != lease.views);
                let confirmed = !changed && self.own.as_ref().is_some_and(|own| own.confirmed);
                let promised_ms = lease.renewed_ms.saturating_add(millis(self.settings.duration));
                self.version = Some(version);
                self.renewed = Some(began.mono);
                self.share.renew(began.mono + self.settings.fence(), promised_ms);
                self.own = Some(Own { lease, written: ended.mono, confirmed });
            }
            Err(LeaseError::Conflict(None)) => {
                self.version = None;
                self.lapse();
            }
            Err(LeaseError::Conflict(Some(held))) if held.lease.incarnation == self.incarnation => {
                // A write of ours that nobody knew of has arrived.
                self.version = Some(held.version.clone());
            }
            Err(LeaseError::Conflict(Some(held))) => {
                let begun = self.version.is_some();
                self.lapse();
                self.transitions = self.transitions.max(held.lease.transitions);
                self.version = Some(held.version.clone());
                // At the start it is the one before us. Later it is a second one with our name.
                self.rival = begun.then(|| ((**held).clone(), ended.mono));
            }
            Err(LeaseError::Unavailable(_)) => {}
        }
    }

    /// A read that began then has failed, or it or a write takes long.
    pub fn missed(&mut self, began: Now) {
        self.away.get_or_insert(began.mono);
    }

    /// Whether the leases cannot be read, and it goes on with its share all the same, as the others know that it does.
    pub fn keeps_share(&self, now: Now) -> bool {
        let covered = self.covered.is_some_and(|until| now.mono < until);
        self.own.is_some() && self.rival.is_none() && self.away.is_some() && covered
    }

    /// For how long the leases could not be read; zero when the last read went well.
    pub fn away(&self, now: Now) -> Duration {
        self.away.map_or(Duration::ZERO, |since| now.mono.saturating_sub(since))
    }

    /// Takes in what a read from `began` to `ended` has found.
    pub fn read(&mut self, began: Now, ended: Now, found: Vec<Held>) {
        self.away = None;
        // They have written their leases before they spoke.
        for stranger in self.strangers.values_mut() {
            stranger.is_past |= stranger.since < began.mono;
        }
        let mut absent: Vec<String> = self.others.keys().cloned().collect();
        if self.rival.is_some() && !found.iter().any(|held| held.lease.member == self.settings.name) {
            (self.rival, self.version) = (None, None);
        }
        for held in found {
            if held.lease.member == self.settings.name {
                self.see_own(began, ended, held);
                continue;
            }
            absent.retain(|name| *name != held.lease.member);
            self.see(began, ended, held);
        }
        let doubt = self.doubt();
        for name in absent {
            if let Some(seen) = self.others.get_mut(&name) {
                // Who leaves removes its lease; with others nobody knows.
                let left = seen.held.lease.standing == Standing::Leaving;
                seen.gone |= left || doubt.is_over(seen, began.mono);
            }
        }
        self.others.retain(|_, seen| {
            let over = promise_ms(&seen.held.lease) < ended.wall_ms.saturating_sub(APART_MS);
            !(seen.gone && over && began.mono >= seen.since + duration(&seen.held.lease) * LITTER)
        });
        let confirms = self.pending.is_none()
            && self.own.as_ref().is_some_and(|own| !own.confirmed && began.mono >= own.written);
        if self.others.values().any(|seen| seen.anew) {
            let claims = |(name, seen): (&String, &mut Seen)| {
                let ghost = seen.ghost.clone().into_iter().collect();
                let set = if std::mem::take(&mut seen.anew) { ghost } else { claims(seen, ended).collect() };
                (name.clone(), set)
            };
            self.share.heed(self.others.iter_mut().map(claims).collect(), false);
        }
        let claims = |(name, seen): (&String, &Seen)| (name.clone(), claims(seen, ended).collect());
        self.share.heed(self.others.iter().map(claims).collect(), confirms);
        if let Some(own) = self.own.as_mut().filter(|_| confirms) {
            own.confirmed = true;
        }
    }

    /// Leases of members that are gone for long.
    pub fn litter(&self, now: Now) -> Vec<Held> {
        let old =
            |seen: &&Seen| seen.gone && now.mono >= seen.since + duration(&seen.held.lease) * (LITTER - 1);
        self.others.values().filter(old).map(|seen| seen.held.clone()).collect()
    }

    /// Our lease as it was last written, while we have one.
    pub fn lease(&self) -> Option<(&Lease, &Version)> {
        Some(&self.own.as_ref()?.lease).zip(self.version.as_ref())
    }

    /// The other members' leases, and whether each of them is gone.
    pub fn others(&self) -> impl Iterator<Item = (&Lease, bool)> {
        self.others.values().map(|seen| (&seen.held.lease, seen.gone))
    }

    /// Another process that uses our name.
    pub fn rival(&self) -> Option<&Lease> {
        self.rival.as_ref().map(|(held, _)| &held.lease)
    }

    /// How often the lease has run out, or was taken away.
    pub fn lapses(&self) -> u64 {
        self.lapses
    }

    /// How far the other clock that differs most is ahead of ours (behind: negative), milliseconds, about.
    pub fn ahead_ms(&self) -> i64 {
        let living = self.others.values().filter(|seen| !seen.gone).map(|seen| seen.ahead_ms);
        living.max_by_key(|ahead| ahead.saturating_abs()).unwrap_or(0)
    }

    /// Who acts on a time that is over must not act.
    fn lapse(&mut self) {
        self.share.close();
        for seen in self.others.values_mut() {
            (seen.lives, seen.doubted) = (false, true);
        }
        if self.own.take().is_some() {
            self.lapses += 1;
        }
        self.pending = None;
        self.renewed = None;
        self.covered = None;
        self.answered.fill(None);
    }

    /// What is known of those that may not know of us.
    fn doubt(&self) -> Doubt {
        let heard = self.answered.iter().try_fold(Duration::ZERO, |last, at| Some(last.max((*at)?)));
        let goes_on = !self.answered.is_empty() && !self.settings.keep.is_zero();
        Doubt { name: self.settings.name.clone(), keep: self.settings.keep, goes_on, heard }
    }

    /// Whether somebody whom we take for gone still has a share where others scrape: they know more than we do.
    fn is_kept_by_others(&self) -> bool {
        let gone = |name: &String| self.others.get(name).is_some_and(|seen| seen.gone);
        let serving = self.others.values().filter(|seen| seen.lives && !seen.gone);
        serving.filter_map(|seen| seen.held.lease.views.last()).any(|view| view.members.iter().any(gone))
    }

    /// Others that take their share.
    fn serving(&self) -> impl Iterator<Item = &str> {
        let serves = |seen: &&Seen| seen.lives && !seen.gone && seen.held.lease.standing == Standing::Serving;
        self.others.values().filter(serves).map(|seen| seen.held.lease.member.as_str())
    }

    /// The lease that claims nothing.
    fn first(&mut self, now: Now) -> Lease {
        self.transitions = self.transitions.saturating_add(1);
        self.acquired_ms = now.wall_ms;
        Lease {
            member: self.settings.name.clone(),
            incarnation: self.incarnation,
            duration: self.settings.duration,
            acquired_ms: now.wall_ms,
            renewed_ms: now.wall_ms,
            transitions: self.transitions,
            standing: Standing::Waiting,
            views: Vec::new(),
            setup: self.settings.setup.clone(),
        }
    }

    /// The lease as it is to be; what it gives away is given away.
    fn next(&self, own: &Own, now: Now) -> Lease {
        let mut lease = Lease { renewed_ms: now.wall_ms, ..own.lease.clone() };
        // The others have to be known; and one change after the other.
        if !own.confirmed || !self.ready {
            return lease;
        }
        let mut members: Vec<String> = self.serving().map(str::to_owned).collect();
        members.truncate(MEMBERS_MAX - 1);
        if self.leaving {
            lease.standing = Standing::Leaving;
            if lease.views.is_empty() || members.is_empty() {
                return lease;
            }
        } else {
            lease.standing = Standing::Serving;
            members.push(self.settings.name.clone());
        }
        members.sort();
        if lease.views.is_empty() {
            // Who comes anew sees leases of which nobody knows yet whether they are renewed.
            let patience = self.settings.renewal() * 3;
            // While somebody else scrapes there is time: until every one of them lives or is gone.
            let scraped = self.serving().next().is_some();
            let in_doubt =
                |seen: &Seen| !seen.lives && !seen.gone && (scraped || now.mono < seen.since + patience);
            if self.others.values().any(in_doubt) || self.is_kept_by_others() {
                return Lease { renewed_ms: now.wall_ms, ..own.lease.clone() };
            }
            let view = View { from_ms: now.wall_ms, members };
            lease.views = self.share.declare(|_| vec![view]);
            return lease;
        }
        let keeps = |name: &String| members.contains(name) || *name == self.settings.name;
        for view in &mut lease.views {
            view.members.retain(keeps);
        }
        let over = |pair: &[View]| pair[1].from_ms < now.wall_ms - VIEW_KEPT_MS;
        while lease.views.len() > 1 && over(&lease.views[..2]) {
            lease.views.remove(0);
        }
        lease.views.dedup_by(|later, earlier| later.members == earlier.members);
        let last_ms = lease.views.last().map_or(i64::MIN, |view| view.from_ms);
        let mut views = std::mem::take(&mut lease.views);
        let is_to_change = |view: &View| {
            view.members != members && (!self.leaving || view.members.contains(&self.settings.name))
        };
        let changes = views.last().is_some_and(is_to_change) && views.len() < VIEWS_MAX;
        let living = self.others.values().filter(|seen| !seen.gone);
        let ahead_ms = living.map(|seen| seen.ahead_ms.clamp(0, APART_MS)).max().unwrap_or(0);
        let from_ms = (now.wall_ms + self.settings.lead_ms() + ahead_ms).max(last_ms);
        lease.views = self.share.declare(|latest_ms| {
            if changes {
                let from_ms = latest_ms.map_or(from_ms, |latest_ms| from_ms.max(latest_ms + 1));
                views.push(View { from_ms, members });
            }
            views
        });
        lease
    }

    fn see_own(&mut self, began: Now, ended: Now, held: Held) {
        let Some((rival, since)) = &mut self.rival else { return };
        if rival.version != held.version {
            self.version = Some(held.version.clone());
            (*rival, *since) = (held, ended.mono);
        } else if began.mono >= *since + duration(&held.lease) {
            self.rival = None;
        }
    }

    fn see(&mut self, began: Now, ended: Now, held: Held) {
        let doubt = self.doubt();
        let ahead_ms = held.lease.renewed_ms.saturating_sub(ended.wall_ms);
        let since = ended.mono;
        let new = |held, lives, ghost| Seen {
            held,
            renewed: since,
            since,
            ahead_ms,
            lives,
            doubted: false,
            gone: false,
            anew: false,
            ghost,
            heard: 0,
            away: None,
            acknowledged: 0,
        };
        match self.others.get_mut(&held.lease.member) {
            Some(seen) if seen.held.version == held.version => {
                seen.doubted = false;
                seen.gone |= doubt.is_over(seen, began.mono);
            }
            Some(seen) => {
                let term = |lease: &Lease| (lease.incarnation, lease.transitions);
                let anew = term(&held.lease) != term(&seen.held.lease);
                let ghost = match anew {
                    true if seen.held.lease.views.is_empty() => None,
                    // It has scraped nothing since it began anew, by its own clock.
                    true => claim(seen, held.lease.acquired_ms.saturating_add(1), ended),
                    false => seen.ghost.take(),
                };
                let said = if anew { (0, None, 0) } else { (seen.heard, seen.away, seen.acknowledged) };
                let (heard, away, acknowledged) = said;
                *seen = Seen { anew, heard, away, acknowledged, ..new(held, !seen.doubted, ghost) };
            }
            None => _ = self.others.insert(held.lease.member.clone(), new(held, false, None)),
        }
    }
}

/// When a member without a sign of life is gone. One that we have never seen to write, and that counts us out, perhaps
/// cannot read the leases, and does not wait for us to say that we have heard of it. It does once it has heard of us on
/// all ways; and it stops at the latest when its time to go on is over.
struct Doubt {
    /// Ours.
    name: String,
    /// For how long members go on without leases.
    keep: Duration,
    /// Whether they go on at all.
    goes_on: bool,
    /// Since when we have been heard on all ways.
    heard: Option<Duration>,
}

impl Doubt {
    fn is_over(&self, seen: &Seen, at: Duration) -> bool {
        let lasts = duration(&seen.held.lease);
        let counts_us_out = |last: &View| !last.members.contains(&self.name);
        let is_scraping = seen.held.lease.views.last().is_some_and(counts_us_out);
        let since = match self.heard {
            _ if seen.lives || !self.goes_on || !is_scraping => seen.since,
            Some(heard) => seen.since.max(heard),
            None => seen.since + self.keep + lasts * 2,
        };
        at >= since + lasts
    }
}

/// What a member claims that has not been forgotten.
fn claims(seen: &Seen, now: Now) -> impl Iterator<Item = Claim> {
    let until_ms = if seen.gone { i64::MIN } else { i64::MAX };
    let current = (!seen.held.lease.views.is_empty()).then(|| claim(seen, until_ms, now)).flatten();
    current.into_iter().chain(seen.ghost.clone())
}

/// What it claims up to `until_ms`; what the gone has promised.
fn claim(seen: &Seen, until_ms: i64, now: Now) -> Option<Claim> {
    let lease = &seen.held.lease;
    let shift_ms = if seen.ahead_ms.saturating_abs() > APART_MS { seen.ahead_ms } else { 0 };
    let promised_ms = promise_ms(lease);
    let until_ms = match (seen.gone, until_ms) {
        // Nobody waits for a clock that is far ahead.
        (true, _) if shift_ms != 0 || promised_ms > now.wall_ms.saturating_add(APART_MS) => return None,
        (true, _) => promised_ms,
        (false, i64::MAX) => i64::MAX,
        (false, until_ms) if shift_ms != 0 => until_ms.saturating_sub(shift_ms),
        // It may have gone on beyond its promise while the place was away.
        (false, until_ms) => until_ms,
    };
    Some(Claim { views: lease.views.clone(), until_ms, shift_ms })
}

fn duration(lease: &Lease) -> Duration {
    lease.duration.min(DURATION_MAX)
}

/// The member scrapes no tick from here on.
fn promise_ms(lease: &Lease) -> i64 {
    lease.renewed_ms.saturating_add(millis(duration(lease)))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
