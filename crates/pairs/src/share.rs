//! Who scrapes which tick, as a member may act on it now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::view::{View, at, gives, owner};

/// Titles that are kept; without an older one a change takes effect a little later.
const TITLES_MAX: usize = 8;
/// Changes of a claim that are kept, likewise.
const OBJECTIONS_MAX: usize = 8;

/// Whose tick it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Ours.
    Mine,
    /// That member's, as far as we know.
    Other(String),
    /// Nobody's that we know of: we have no lease, or the change is under way.
    Nobody,
}

/// What another member claims.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claim {
    pub(crate) views: Vec<View>,
    /// Ticks from here on are not claimed.
    pub(crate) until_ms: i64,
    /// Added to our ticks to have theirs, where clocks are far apart.
    pub(crate) shift_ms: i64,
}

/// What each of the others claims.
pub(crate) type Claims = BTreeMap<String, Vec<Claim>>;

/// Views that we have written down.
#[derive(Debug)]
struct Title {
    views: Vec<View>,
    /// For each of the others that claimed something when we read after writing: what it claimed then and has
    /// claimed since. A tick that it did not claim at one of these times is free: a claim that comes later
    /// is written by somebody who will read ours. `None` before that read.
    objections: Option<BTreeMap<String, Vec<Vec<Claim>>>>,
}

#[derive(Debug, Default)]
struct Acting {
    /// By the monotonic clock, since its origin.
    until: Duration,
    /// Ticks from here on are not promised.
    until_ms: i64,
    /// In the order in which they were written, the last one perhaps not yet.
    titles: Vec<Title>,
    claims: Claims,
    latest_ms: Option<i64>,
}

impl Acting {
    /// Whether a tick is held: a title gives it without objection, and so did all since.
    fn is_held(&self, member: &str, key: u128, tick_ms: i64) -> bool {
        let mut titles =
            self.titles.iter().rev().take_while(|title| gives(&title.views, member, key, tick_ms));
        titles.any(|title| {
            let objections = title.objections.as_ref();
            objections.is_some_and(|all| !all.iter().any(|(name, since)| objects(name, since, key, tick_ms)))
        })
    }
}

fn objects(member: &str, since: &[Vec<Claim>], key: u128, tick_ms: i64) -> bool {
    let claims = |claim: &Claim| {
        tick_ms < claim.until_ms && gives(&claim.views, member, key, tick_ms + claim.shift_ms)
    };
    since.iter().all(|set| set.iter().any(claims))
}

#[derive(Debug)]
struct Inner {
    name: String,
    origin: Instant,
    acting: Mutex<Acting>,
}

/// Tells scrapers which ticks are theirs. Clones are one.
#[derive(Debug, Clone)]
pub struct Share(Arc<Inner>);

impl Share {
    /// The share of `member`, which is nothing until a [`Member`](crate::Member) with it has a lease.
    pub fn new(member: &str) -> Share {
        let inner = Inner { name: member.to_owned(), origin: Instant::now(), acting: Mutex::default() };
        Share(Arc::new(inner))
    }

    /// Whose the tick of target `key` is. A tick that is ours is taken for begun: it will not be given away.
    pub fn turn(&self, key: u128, tick_ms: i64) -> Turn {
        self.turn_at(key, tick_ms, self.elapsed())
    }

    /// As [`Share::turn`], at a time by the monotonic clock.
    pub fn turn_at(&self, key: u128, tick_ms: i64, mono: Duration) -> Turn {
        let name = &self.0.name;
        let mut acting = self.0.acting.lock();
        let in_time = mono < acting.until && tick_ms < acting.until_ms;
        if in_time && acting.is_held(name, key, tick_ms) {
            acting.latest_ms = acting.latest_ms.max(Some(tick_ms));
            return Turn::Mine;
        }
        let view = acting.titles.last().and_then(|title| at(&title.views, tick_ms));
        let other = view.and_then(|view| owner(key, &view.members)).filter(|owner| owner != name);
        let claims =
            |(name, claims): &(&String, &Vec<Claim>)| objects(name, &[(*claims).clone()], key, tick_ms);
        let other = other.or_else(|| acting.claims.iter().find(claims).map(|(name, _)| name.as_str()));
        other.map_or(Turn::Nobody, |other| Turn::Other(other.to_owned()))
    }

    /// Whether a row of a tick that was ours may still be written down: the lease has not run out meanwhile.
    pub fn holds(&self, tick_ms: i64) -> bool {
        let acting = self.0.acting.lock();
        self.elapsed() < acting.until && tick_ms < acting.until_ms
    }

    /// The member's name.
    pub fn member(&self) -> &str {
        &self.0.name
    }

    /// Since the origin of the monotonic clock.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.origin.elapsed()
    }

    /// What is ours is from now on only what these views give us, too. `make` hears of the last tick begun.
    pub(crate) fn declare(&self, make: impl FnOnce(Option<i64>) -> Vec<View>) -> Vec<View> {
        let mut acting = self.0.acting.lock();
        let views = make(acting.latest_ms);
        if acting.titles.last().is_none_or(|title| title.views != views) {
            if acting.titles.len() >= TITLES_MAX {
                acting.titles.remove(0);
            }
            acting.titles.push(Title { views: views.clone(), objections: None });
        }
        views
    }

    /// Whether the last view that we have written down is without us, and has somebody.
    pub(crate) fn has_successor(&self) -> bool {
        let acting = self.0.acting.lock();
        let last = acting.titles.last().and_then(|title| title.views.last());
        last.is_some_and(|view| !view.members.is_empty() && !view.members.contains(&self.0.name))
    }

    /// The lease has been renewed.
    pub(crate) fn renew(&self, until: Duration, until_ms: i64) {
        let mut acting = self.0.acting.lock();
        (acting.until, acting.until_ms) = (until, until_ms);
    }

    /// The lease cannot be renewed and has not been given up.
    pub(crate) fn stretch(&self, until: Duration, until_ms: i64) {
        let mut acting = self.0.acting.lock();
        (acting.until, acting.until_ms) = (acting.until.max(until), acting.until_ms.max(until_ms));
    }

    /// The others' claims have been read; since the last title was written when `confirms`.
    pub(crate) fn heed(&self, claims: Claims, confirms: bool) {
        let mut acting = self.0.acting.lock();
        for title in &mut acting.titles {
            let Some(objections) = &mut title.objections else { continue };
            objections.retain(|name, since| {
                let Some(now) = claims.get(name).filter(|now| !now.is_empty()) else { return false };
                if since.last() != Some(now) {
                    if since.len() >= OBJECTIONS_MAX {
                        since.remove(1);
                    }
                    since.push(now.clone());
                }
                true
            });
        }
        if let Some(title) = acting.titles.last_mut().filter(|title| confirms && title.objections.is_none()) {
            let first = claims.iter().filter(|(_, claims)| !claims.is_empty());
            title.objections = Some(first.map(|(name, now)| (name.clone(), vec![now.clone()])).collect());
        }
        acting.claims = claims;
    }

    /// Nothing is ours any more.
    pub(crate) fn close(&self) {
        let mut acting = self.0.acting.lock();
        acting.titles.clear();
        acting.until = Duration::ZERO;
    }
}
