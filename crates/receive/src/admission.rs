//! Which times the samples of a request may have.

use std::collections::HashSet;

use foldhash::fast::FixedState;

use crate::tally::Refusal;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// Judges timestamps: none beyond the latest that is taken, and not too many different days, because
/// each day of old samples ends in a file of its own.
#[derive(Debug)]
pub(crate) struct Admission {
    latest_ms: i64,
    days_max: usize,
    days: HashSet<i64, FixedState>,
    /// The day of the last timestamp, in most requests that of all.
    last_day: Option<i64>,
}

impl Admission {
    /// Takes timestamps up to `latest_ms`, of at most `days_max` different days (UTC).
    pub(crate) fn new(latest_ms: i64, days_max: usize) -> Admission {
        Admission { latest_ms, days_max, days: HashSet::default(), last_day: None }
    }

    /// Why a sample at `timestamp_ms` is not taken; none when it is.
    pub(crate) fn refusal(&mut self, timestamp_ms: i64) -> Option<Refusal> {
        if timestamp_ms > self.latest_ms {
            return Some(Refusal::TooFarAhead);
        }
        let day = timestamp_ms.div_euclid(DAY_MS);
        if self.last_day == Some(day) {
            return None;
        }
        if self.days.len() >= self.days_max && !self.days.contains(&day) {
            return Some(Refusal::TooManyDays);
        }
        self.days.insert(day);
        self.last_day = Some(day);
        None
    }

    /// What the answer says of a sample refused as `refusal`, before naming its series and time.
    pub(crate) fn words(&self, refusal: Refusal) -> String {
        match refusal {
            Refusal::TooManyDays => format!("the request has samples of more than {} days", self.days_max),
            _ => "timestamp is too far in the future".to_owned(),
        }
    }
}
