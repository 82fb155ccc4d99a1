//! Late samples that came beside the lanes, in compact form: sorted by series and time.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;
use stdx::bytes::{Cursor, put_varint, put_zigzag};
use storage::Column;

use super::DAY_MS;
use crate::codec::{CodecError, decode_values, encode_values};
use crate::merge::{Piece, Rank, TimeConcatCache, combine};
use crate::tombstone::Deleted;

/// Samples of a series that are encoded together, at most: what a look-up of one has to decode.
const ENTRY_SAMPLES: usize = 512;

/// Samples of many series, once encoded.
#[derive(Debug, Clone)]
pub(crate) struct Loose {
    /// Whether they came under the policy `Replace`.
    pub(crate) replace: bool,
    /// The log position of the newest arrival.
    pub(crate) position: u64,
    body: Arc<Body>,
    /// What has been deleted since: slot, first and last time.
    deleted: SmallVec<[(u32, i64, i64); 0]>,
}

/// Entries of up to [`ENTRY_SAMPLES`], by slot and time.
#[derive(Debug, Default)]
struct Body {
    slots: Vec<u32>,
    /// Where each entry ends in `bytes`.
    ends: Vec<u32>,
    /// Each: count, first time, differences of times, values.
    bytes: Vec<u8>,
    samples: usize,
    days: Vec<(i64, u64)>,
}

/// The samples of one series: times ascending, each once, and bit patterns.
pub(crate) type Samples = Vec<(i64, u64)>;

impl Loose {
    /// Encodes samples by slot.
    pub(crate) fn new(replace: bool, position: u64, mut samples: Vec<(u32, Samples)>) -> Loose {
        samples.sort_unstable_by_key(|(slot, _)| *slot);
        let mut body = Body::default();
        let mut days: BTreeMap<i64, u64> = BTreeMap::new();
        let mut values = Vec::new();
        for (slot, samples) in &samples {
            for chunk in samples.chunks(ENTRY_SAMPLES) {
                put_varint(&mut body.bytes, chunk.len() as u64);
                let (mut last, mut step) = (0i64, 0i64);
                values.clear();
                for (time, bits) in chunk {
                    let next = time.wrapping_sub(last);
                    put_zigzag(&mut body.bytes, next.wrapping_sub(step));
                    (last, step) = (*time, next);
                    values.push(f64::from_bits(*bits));
                    *days.entry(time.div_euclid(DAY_MS)).or_default() += 1;
                }
                encode_values(&values, &mut body.bytes);
                body.slots.push(*slot);
                body.ends.push(body.bytes.len() as u32);
                body.samples += chunk.len();
            }
        }
        body.days = days.into_iter().collect();
        body.slots.shrink_to_fit();
        body.ends.shrink_to_fit();
        body.bytes.shrink_to_fit();
        Loose { replace, position, body: Arc::new(body), deleted: SmallVec::new() }
    }

    /// Several as one: `pieces` all came under the same policy, the later ones after the earlier.
    pub(crate) fn merged(pieces: &[Loose]) -> Result<Loose, CodecError> {
        let mut slots: Vec<u32> = pieces.iter().flat_map(|loose| loose.slots().iter().copied()).collect();
        slots.sort_unstable();
        slots.dedup();
        let (mut cache, mut of_slot) = (TimeConcatCache::default(), Vec::new());
        let mut samples = Vec::with_capacity(slots.len());
        for slot in slots {
            pieces.iter().try_for_each(|loose| loose.pieces(slot, &mut cache, &mut of_slot))?;
            let column = combine(&mut of_slot, &mut cache);
            let bits = column.values.iter().map(|value| value.to_bits());
            samples.push((slot, column.times.iter().copied().zip(bits).collect()));
            cache.clear();
        }
        let position = pieces.iter().map(|loose| loose.position).max().unwrap_or(0);
        Ok(Loose::new(pieces.iter().any(|loose| loose.replace), position, samples))
    }

    /// Whether both hold the same samples in the same form.
    pub(crate) fn is_same(&self, other: &Loose) -> bool {
        Arc::ptr_eq(&self.body, &other.body) && self.deleted == other.deleted
    }

    pub(crate) fn samples(&self) -> usize {
        self.body.samples
    }

    /// Samples of each day, by its number since the epoch.
    pub(crate) fn days(&self) -> &[(i64, u64)] {
        &self.body.days
    }

    /// The slots that have samples, ascending; some come several times.
    pub(crate) fn slots(&self) -> &[u32] {
        &self.body.slots
    }

    pub(crate) fn has(&self, slot: u32) -> bool {
        self.body.slots.binary_search(&slot).is_ok()
    }

    /// Estimated memory, bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Loose>() + size_of::<Body>() + self.body.slots.len() * 8 + self.body.bytes.len()
    }

    fn entries(&self, slot: u32) -> impl Iterator<Item = &[u8]> {
        let body = &self.body;
        let from = body.slots.partition_point(|other| *other < slot);
        let to = body.slots.partition_point(|other| *other <= slot);
        (from..to).map(move |at| {
            let start = at.checked_sub(1).map_or(0, |before| body.ends[before]);
            &body.bytes[start as usize..body.ends[at] as usize]
        })
    }

    /// Appends the samples of a slot.
    pub(crate) fn pieces(
        &self,
        slot: u32,
        cache: &mut TimeConcatCache,
        out: &mut Vec<Piece>,
    ) -> Result<(), CodecError> {
        for entry in self.entries(slot) {
            let (times, values) = decode(entry)?;
            let mut column = Column { times: times.into(), values, ..Column::default() };
            let mut deleted = Deleted::default();
            let own = self.deleted.iter().filter(|(of, _, _)| *of == slot);
            own.for_each(|(_, start_ms, end_ms)| deleted.add(*start_ms, *end_ms));
            deleted.apply(&mut column, cache);
            out.push(Piece { rank: Rank { replace: self.replace, position: self.position }, column });
        }
        Ok(())
    }

    /// The sample of a slot at a time.
    pub(crate) fn value_at(&self, slot: u32, timestamp_ms: i64) -> Option<u64> {
        let gone = |(of, start_ms, end_ms): &(u32, i64, i64)| {
            *of == slot && (*start_ms..=*end_ms).contains(&timestamp_ms)
        };
        if self.deleted.iter().any(gone) {
            return None;
        }
        self.entries(slot).find_map(|entry| {
            let (times, values) = decode(entry).ok()?;
            let at = times.binary_search(&timestamp_ms).ok()?;
            values.get(at).map(|value| value.to_bits())
        })
    }

    /// Removes the samples of a slot from `start_ms` to `end_ms`, both inclusive.
    pub(crate) fn delete(&mut self, slot: u32, start_ms: i64, end_ms: i64) {
        if self.has(slot) {
            self.deleted.push((slot, start_ms, end_ms));
        }
    }
}

fn decode(entry: &[u8]) -> Result<(Vec<i64>, Vec<f64>), CodecError> {
    let mut reader = Cursor::new(entry);
    let count = reader.at_most(ENTRY_SAMPLES)?;
    let mut times = Vec::with_capacity(count);
    let (mut last, mut step) = (0i64, 0i64);
    for _ in 0..count {
        step = step.wrapping_add(reader.zigzag()?);
        last = last.wrapping_add(step);
        times.push(last);
    }
    let mut values = Vec::with_capacity(count);
    decode_values(&entry[reader.position()..], count, &mut values)?;
    Ok((times, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_back_by_slot() {
        let samples: Vec<(u32, Samples)> = [9u32, 3, 5]
            .iter()
            .map(|slot| {
                let times = (0..1300i64).map(|n| n * 15_000 - i64::from(*slot) * 7_000_000);
                (*slot, times.map(|time| (time, f64::to_bits(time as f64 / 8.0))).collect())
            })
            .chain([(4, vec![(i64::MIN, 1), (-1, u64::MAX), (i64::MAX, 0)])])
            .collect();
        let mut loose = Loose::new(true, 77, samples.clone());
        assert_eq!(loose.samples(), 3903);
        assert!(loose.bytes() < 3903 * 8, "{}", loose.bytes());
        assert_eq!(loose.days().iter().map(|(_, samples)| samples).sum::<u64>(), 3903);
        let read = |loose: &Loose, slot| -> Samples {
            let (mut cache, mut pieces) = (TimeConcatCache::default(), Vec::new());
            loose.pieces(slot, &mut cache, &mut pieces).expect("readable");
            assert!(pieces.iter().all(|piece| piece.rank == Rank { replace: true, position: 77 }));
            pieces
                .iter()
                .flat_map(|piece| piece.column.times.iter().zip(&piece.column.values))
                .map(|(time, value)| (*time, value.to_bits()))
                .collect()
        };
        for (slot, wanted) in &samples {
            assert_eq!(read(&loose, *slot), *wanted);
            assert!(
                wanted.iter().step_by(99).all(|(time, bits)| loose.value_at(*slot, *time) == Some(*bits))
            );
            assert_eq!(loose.value_at(*slot, 1), None);
        }
        assert!(!loose.has(6) && read(&loose, 6).is_empty());
        let later = Loose::new(true, 80, vec![(4, vec![(-1, 9), (5, 6)]), (8, vec![(0, 0)])]);
        let both = Loose::merged(&[loose.clone(), later]).expect("readable");
        assert_eq!((both.position, both.samples()), (80, 3905));
        assert_eq!(both.value_at(4, -1), Some(9), "the later replacement wins");
        assert_eq!(both.value_at(8, 0), Some(0));
        assert_eq!(both.value_at(9, samples[0].1[700].0), Some(samples[0].1[700].1));
        loose.delete(4, i64::MIN, 0);
        assert_eq!((read(&loose, 4), loose.value_at(4, -1)), (vec![(i64::MAX, 0)], None));
    }
}
