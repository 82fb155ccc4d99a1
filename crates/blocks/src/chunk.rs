//! Chunks: up to 120 samples of one series, floats or histograms.
//!
//! Source: Prometheus `tsdb/docs/format/chunks.md`, `tsdb/chunkenc`.

use std::sync::Arc;

use model::Histogram;
use stdx::bytes::Malformed;

use crate::bits::BitWriter;

mod histogram;
mod layout;
mod xor;

/// Samples of a chunk that is written here; readers take up to 65,535.
pub const CHUNK_SAMPLES: usize = 120;

/// What a chunk holds, by its byte in a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Floats.
    Xor = 1,
    /// Histograms with integer counts.
    Histogram = 2,
    /// Histograms with float counts.
    FloatHistogram = 3,
}

impl Encoding {
    pub(crate) fn of(byte: u8) -> Option<Encoding> {
        match byte {
            1 => Some(Encoding::Xor),
            2 => Some(Encoding::Histogram),
            3 => Some(Encoding::FloatHistogram),
            _ => None,
        }
    }
}

/// Samples of one series. As input of a writer: times ascending, unique, no time on both sides.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    /// Times of the floats, milliseconds.
    pub times: Vec<i64>,
    /// The floats, as many; staleness markers and other NaNs bit for bit.
    pub values: Vec<f64>,
    /// Histograms with their times.
    pub histograms: Vec<(i64, Arc<Histogram>)>,
}

impl Samples {
    /// How many.
    pub fn len(&self) -> usize {
        self.times.len() + self.histograms.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all, keeping the memory.
    pub fn clear(&mut self) {
        self.times.clear();
        self.values.clear();
        self.histograms.clear();
    }

    /// Keeps the samples whose time `keep` accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(i64) -> bool) {
        if !self.times.iter().all(|time| keep(*time)) {
            let kept = self.times.iter().zip(&self.values).filter(|(time, _)| keep(**time));
            (self.times, self.values) = kept.map(|(time, value)| (*time, *value)).unzip();
        }
        self.histograms.retain(|(time, _)| keep(*time));
    }

    /// Brings samples in order of time; of several at one time the first stays, a float before a
    /// histogram. Says whether anything had to be moved or left out.
    pub fn sort(&mut self) -> bool {
        let ascending = self.times.is_sorted_by(|a, b| a < b);
        let mut changed = !ascending;
        if !ascending {
            let mut order: Vec<usize> = (0..self.times.len()).collect();
            order.sort_by_key(|at| self.times[*at]);
            order.dedup_by_key(|at| self.times[*at]);
            self.values = order.iter().map(|at| self.values[*at]).collect();
            self.times = order.iter().map(|at| self.times[*at]).collect();
        }
        if !self.histograms.is_sorted_by(|a, b| a.0 < b.0) {
            changed = true;
            self.histograms.sort_by_key(|(time, _)| *time);
            self.histograms.dedup_by_key(|(time, _)| *time);
        }
        let before = self.histograms.len();
        if !self.times.is_empty() {
            self.histograms.retain(|(time, _)| self.times.binary_search(time).is_err());
        }
        changed | (self.histograms.len() < before)
    }
}

/// A chunk that has just been encoded.
#[derive(Debug, Clone, Copy)]
pub struct Encoded<'a> {
    /// What it holds.
    pub encoding: Encoding,
    /// Time of its first sample.
    pub min_ms: i64,
    /// Time of its last sample.
    pub max_ms: i64,
    /// How many samples.
    pub samples: usize,
    /// The bytes, without frame and checksum.
    pub data: &'a [u8],
}

/// Encodes series into chunks. Keeps its memory from one to the next.
#[derive(Debug, Default)]
pub struct Encoder {
    out: BitWriter,
}

impl Encoder {
    /// Encodes the samples of one series (times and values equally long; see [`Samples`] for their
    /// order) and hands the chunks to `emit`, in order of time.
    ///
    /// # Errors
    /// What `emit` gives.
    pub fn encode<E>(
        &mut self,
        times: &[i64],
        values: &[f64],
        histograms: &[(i64, Arc<Histogram>)],
        mut emit: impl FnMut(Encoded<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut at, mut next) = (0, 0);
        let mut runs = histogram::Runs::default();
        while at < times.len() || next < histograms.len() {
            let until = histograms.get(next).map_or(i64::MAX, |(time, _)| *time);
            if at < times.len() && (times[at] < until || next == histograms.len()) {
                let mut end = times.len().min(at + CHUNK_SAMPLES);
                if next < histograms.len() {
                    end = at + times[at..end].partition_point(|time| *time < until);
                }
                let data = xor::encode(&times[at..end], &values[at..end], &mut self.out);
                let (min_ms, max_ms, samples) = (times[at], times[end - 1], end - at);
                emit(Encoded { encoding: Encoding::Xor, min_ms, max_ms, samples, data })?;
                runs.interrupt();
                at = end;
            } else {
                let before = times.get(at).copied().unwrap_or(i64::MAX);
                let mut end = histograms.len().min(next + CHUNK_SAMPLES);
                if at < times.len() {
                    end = next + histograms[next..end].partition_point(|(time, _)| *time < before);
                }
                // At least one, also where a time is on both sides against the rule.
                let candidates = &histograms[next..end.max(next + 1)];
                let (count, header) = runs.next(candidates);
                let run = &candidates[..count];
                let (encoding, data) = histogram::encode(run, header, &mut self.out);
                let (min_ms, max_ms) = (run[0].0, run[count - 1].0);
                emit(Encoded { encoding, min_ms, max_ms, samples: count, data })?;
                next += count;
            }
        }
        Ok(())
    }
}

/// Appends the samples of a chunk to `out`, in the order they have in it.
///
/// # Errors
/// The bytes are not a chunk of this encoding; what was read before stays in `out`.
pub fn decode(encoding: Encoding, data: &[u8], out: &mut Samples) -> Result<(), Malformed> {
    match encoding {
        Encoding::Xor => xor::decode(data, &mut out.times, &mut out.values),
        Encoding::Histogram | Encoding::FloatHistogram => {
            histogram::decode(encoding, data, &mut out.histograms)
        }
    }
}

#[cfg(test)]
mod tests;
