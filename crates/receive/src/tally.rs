//! What was not taken of a request, and why.

use storage::RejectReason;

use crate::metrics::ReceiveMetrics;

/// Why something was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The labels name no series. Counts series.
    InvalidLabels,
    /// A histogram or exemplar makes no sense.
    Invalid,
    /// A series of 2.0 without any sample.
    NoSamples,
    /// Too far ahead of our clock.
    TooFarAhead,
    /// Of a day beyond as many as one request may have.
    TooManyDays,
    TooOld,
    OutOfOrder,
    Duplicate,
    SeriesLimit,
    /// The store forgot the series twice in a row.
    UnknownSeries,
    /// An exemplar, which is not worth an error in 1.0.
    Exemplar,
}

impl Refusal {
    const ALL: [Refusal; 11] = [
        Refusal::InvalidLabels,
        Refusal::Invalid,
        Refusal::NoSamples,
        Refusal::TooFarAhead,
        Refusal::TooManyDays,
        Refusal::TooOld,
        Refusal::OutOfOrder,
        Refusal::Duplicate,
        Refusal::SeriesLimit,
        Refusal::UnknownSeries,
        Refusal::Exemplar,
    ];

    pub(crate) fn of(reason: RejectReason) -> Refusal {
        match reason {
            RejectReason::TooOld => Refusal::TooOld,
            RejectReason::OutOfOrder => Refusal::OutOfOrder,
            RejectReason::Duplicate => Refusal::Duplicate,
            RejectReason::UnknownSeries => Refusal::UnknownSeries,
            RejectReason::SeriesLimit => Refusal::SeriesLimit,
            RejectReason::Invalid => Refusal::Invalid,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Refusal::InvalidLabels => "invalid_labels",
            Refusal::Invalid => "invalid",
            Refusal::NoSamples => "no_samples",
            Refusal::TooFarAhead => "too_far_ahead",
            Refusal::TooManyDays => "too_many_days",
            Refusal::TooOld => "too_old",
            Refusal::OutOfOrder => "out_of_order",
            Refusal::Duplicate => "duplicate",
            Refusal::SeriesLimit => "series_limit",
            Refusal::UnknownSeries => "unknown_series",
            Refusal::Exemplar => "exemplar",
        }
    }

    /// As the answer's text counts it.
    fn counted(self) -> &'static str {
        match self {
            Refusal::InvalidLabels => "series with invalid labels",
            Refusal::Invalid => "invalid",
            Refusal::NoSamples => "series without samples",
            Refusal::TooFarAhead => "too far in the future",
            Refusal::TooManyDays => "of too many days",
            Refusal::TooOld => "too old",
            Refusal::OutOfOrder => "out of order",
            Refusal::Duplicate => "duplicate",
            Refusal::SeriesLimit => "over the series limit",
            Refusal::UnknownSeries => "of unknown series",
            Refusal::Exemplar => "exemplars",
        }
    }

    /// Whether 1.0 answers 204 all the same, as Prometheus does.
    fn is_quiet_in_v1(self) -> bool {
        matches!(self, Refusal::InvalidLabels | Refusal::NoSamples | Refusal::Exemplar)
    }
}

/// Most bytes of a refusal's words: the labels of a series may have megabytes.
const WORDS_BYTES_MAX: usize = 1024;

/// `words`, or their beginning.
fn shortened(mut words: String) -> String {
    if words.len() > WORDS_BYTES_MAX {
        words.truncate(words.floor_char_boundary(WORDS_BYTES_MAX));
        words.push_str("...");
    }
    words
}

/// Counts of refusals, and the first of them in words.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: [usize; Refusal::ALL.len()],
    /// The first of those that 1.0 answers, and of all.
    first_loud: Option<String>,
    first: Option<String>,
}

impl Tally {
    /// Counts `count` refusals; `words` tell of the first.
    pub(crate) fn refuse(&mut self, refusal: Refusal, count: usize, words: impl FnOnce() -> String) {
        self.counts[refusal as usize] += count;
        if self.first.is_none() || (self.first_loud.is_none() && !refusal.is_quiet_in_v1()) {
            let words = shortened(words());
            if !refusal.is_quiet_in_v1() {
                self.first_loud.get_or_insert_with(|| words.clone());
            }
            self.first.get_or_insert(words);
        }
    }

    /// Whether words for a refusal that 1.0 answers would still be shown.
    pub(crate) fn wants_words(&self) -> bool {
        self.first_loud.is_none()
    }

    pub(crate) fn count(&self, refusal: Refusal) -> usize {
        self.counts[refusal as usize]
    }

    /// The first refusal and how many there are of each kind; `None` when the request is to be
    /// answered as a success.
    pub(crate) fn answer(&self, is_v1: bool) -> Option<String> {
        let first = if is_v1 { self.first_loud.as_ref()? } else { self.first.as_ref()? };
        let shown = |refusal: &Refusal| self.count(*refusal) > 0;
        let counts: Vec<String> = Refusal::ALL
            .into_iter()
            .filter(shown)
            .map(|refusal| format!("{} {}", self.count(refusal), refusal.counted()))
            .collect();
        Some(format!("{first}; not taken: {}", counts.join(", ")))
    }

    pub(crate) fn publish(&self, metrics: &ReceiveMetrics) {
        for refusal in Refusal::ALL.into_iter().filter(|refusal| self.count(*refusal) > 0) {
            let reason = crate::metrics::Reason { reason: refusal.name() };
            metrics.refused.get_or_create(&reason).inc_by(self.count(refusal) as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_an_end() {
        let mut tally = Tally::default();
        tally.refuse(Refusal::Invalid, 2, || "\u{e4}".repeat(1 << 20));
        let text = tally.answer(true).expect("an answer");
        assert_eq!(text, format!("{}...; not taken: 2 invalid", "\u{e4}".repeat(512)));
    }
}
