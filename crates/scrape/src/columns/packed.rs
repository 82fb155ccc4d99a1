//! References of a row's series while they stay the same.

use storage::SeriesRef;

/// Series on average in a stretch, at least; with fewer a list is not much larger.
const STRETCH_MIN: usize = 8;

/// References in order, as stretches of evenly spaced ones: a store gives the new series of a scrape numbers one
/// behind the other, so those of a target are mostly one stretch.
#[derive(Debug)]
pub(super) struct PackedSeries(Box<[Stretch]>);

#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// How many there are up to its end, those of the stretches before it included.
    end: usize,
    first: u64,
    step: u64,
}

impl PackedSeries {
    /// `None` where that would not save much.
    pub(super) fn of(series: &[SeriesRef]) -> Option<PackedSeries> {
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut start = 0;
        for (at, SeriesRef(number)) in series.iter().enumerate() {
            if let Some(last) = stretches.last_mut() {
                let step = number.wrapping_sub(series[at - 1].0);
                if last.end == start + 1 {
                    last.step = step;
                }
                if last.step == step {
                    last.end = at + 1;
                    continue;
                }
            }
            start = at;
            stretches.push(Stretch { end: at + 1, first: *number, step: 0 });
            if stretches.len() * STRETCH_MIN > series.len() {
                return None;
            }
        }
        Some(PackedSeries(stretches.into()))
    }

    /// Reference number `at`.
    pub(super) fn get(&self, at: usize) -> Option<SeriesRef> {
        let place = self.0.partition_point(|stretch| stretch.end <= at);
        let start = place.checked_sub(1).map_or(0, |before| self.0[before].end);
        Some(self.0.get(place)?.number(at - start))
    }

    /// Appends all to `out`.
    pub(super) fn unpack(&self, out: &mut Vec<SeriesRef>) {
        let mut start = 0;
        for stretch in &self.0 {
            out.extend((0..stretch.end - start).map(|n| stretch.number(n)));
            start = stretch.end;
        }
    }
}

impl Stretch {
    fn number(&self, n: usize) -> SeriesRef {
        SeriesRef(self.first.wrapping_add(self.step.wrapping_mul(n as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(numbers: &[u64], stretches: Option<usize>) {
        let series: Vec<SeriesRef> = numbers.iter().copied().map(SeriesRef).collect();
        let packed = PackedSeries::of(&series);
        assert_eq!(packed.as_ref().map(|packed| packed.0.len()), stretches);
        let Some(packed) = packed else { return };
        let mut unpacked = vec![SeriesRef(7)];
        packed.unpack(&mut unpacked);
        assert_eq!(unpacked[1..], series);
        for at in 0..=series.len() {
            assert_eq!(packed.get(at), series.get(at).copied(), "number {at}");
        }
    }

    #[test]
    fn what_is_packed_is_what_comes_out() {
        let even = |first: u64, step: u64, count: u64| {
            (0..count).map(move |n| first.wrapping_add(step.wrapping_mul(n)))
        };
        let joined = |parts: &[(u64, u64, u64)]| -> Vec<u64> {
            parts.iter().flat_map(|(first, step, count)| even(*first, *step, *count)).collect()
        };
        check(&[], Some(0));
        check(&joined(&[(5, 1 << 16, 1307)]), Some(1));
        check(&joined(&[(5, 1, 100), (3, 1, 100)]), Some(2));
        // One alone between two stretches begins a stretch with what follows it.
        check(&joined(&[(5, 1, 100), (1000, 0, 1), (3, 1, 100)]), Some(3));
        check(&joined(&[(9, 0, 40)]), Some(1));
        // Downwards, and over the end of numbers.
        check(&joined(&[(900, u64::MAX, 800), (u64::MAX - 3, 2, 40)]), Some(2));
        check(&[1], None);
        check(&joined(&[(1, 1, 7)]), None);
        check(&[1, 5, 6, 20, 21, 40, 90, 91, 100, 3, 2, 7, 0, 8, 15, 4], None);
    }
}
