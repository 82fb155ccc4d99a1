//! Quantiles and fractions of classic histograms: cumulative counts by upper bound.
//!
//! Source: Prometheus `promql/quantile.go`.

/// A bucket of a classic histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ClassicBucket {
    /// `le`
    pub(crate) upper: f64,
    /// Observations at or below it.
    pub(crate) count: f64,
}

/// Where counts had to be made monotonic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ForcedAt {
    pub(crate) min_bucket: f64,
    pub(crate) max_bucket: f64,
    pub(crate) max_diff: f64,
}

/// Differences relatively smaller than this are artefacts of float arithmetic.
const SMALL_DELTA: f64 = 1e-12;

/// The quantile `q` of buckets sorted by bound, at least one; on a straight line inside a bucket.
pub(crate) fn quantile(q: f64, buckets: &mut Vec<ClassicBucket>) -> (f64, Option<ForcedAt>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if buckets.last().is_none_or(|b| b.upper != f64::INFINITY) {
        return (f64::NAN, None);
    }
    coalesce(buckets);
    let forced = make_monotonic(buckets);
    let last = buckets.len() - 1;
    let observations = buckets[last].count;
    if last == 0 || observations == 0.0 {
        return (f64::NAN, forced);
    }
    let mut rank = q * observations;
    // As a search for the first bucket that holds the rank; NaN counts hold none.
    let at = buckets[..last].partition_point(|b| !holds(b.count, rank));
    if at == last {
        return (buckets[last - 1].upper, forced);
    }
    if at == 0 && buckets[0].upper <= 0.0 {
        return (buckets[0].upper, forced);
    }
    let ClassicBucket { upper, mut count } = buckets[at];
    let mut start = 0.0;
    if at > 0 {
        start = buckets[at - 1].upper;
        count -= buckets[at - 1].count;
        rank -= buckets[at - 1].count;
    }
    (start + (upper - start) * (rank / count), forced)
}

fn holds(count: f64, rank: f64) -> bool {
    count >= rank
}

/// The share of observations between `lower` and `upper` in buckets sorted by bound, at least one.
pub(crate) fn fraction(lower: f64, upper: f64, buckets: &mut Vec<ClassicBucket>) -> f64 {
    if buckets.last().is_none_or(|b| b.upper != f64::INFINITY) {
        return f64::NAN;
    }
    coalesce(buckets);
    let count = buckets[buckets.len() - 1].count;
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let mut start = if buckets[0].upper <= 0.0 { f64::NEG_INFINITY } else { 0.0 };
    let mut rank = 0.0;
    let (mut lower_rank, mut upper_rank) = (None, None);
    for b in buckets.iter() {
        let rank_of = |v: f64| {
            if start >= v {
                Some(rank)
            } else if b.upper > v {
                // Nothing is known inside an unbounded bucket.
                Some(if start == f64::NEG_INFINITY {
                    b.count
                } else {
                    rank + (b.count - rank) * (v - start) / (b.upper - start)
                })
            } else {
                None
            }
        };
        lower_rank = lower_rank.or_else(|| rank_of(lower));
        upper_rank = upper_rank.or_else(|| rank_of(upper));
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        rank = b.count;
        start = b.upper;
    }
    let capped = |rank: Option<f64>| match rank {
        Some(rank) if rank > count => count,
        Some(rank) => rank,
        None => count,
    };
    (capped(upper_rank) - capped(lower_rank)) / count
}

/// Adds up buckets with the same bound.
fn coalesce(buckets: &mut Vec<ClassicBucket>) {
    buckets.dedup_by(|later, earlier| {
        let same = later.upper == earlier.upper;
        if same {
            earlier.count += later.count;
        }
        same
    });
}

/// Takes away decreases; small differences silently.
fn make_monotonic(buckets: &mut [ClassicBucket]) -> Option<ForcedAt> {
    let mut forced: Option<ForcedAt> = None;
    let mut previous = buckets[0].count;
    for b in &mut buckets[1..] {
        let count = b.count;
        if count == previous {
            continue;
        }
        if almost_equal(previous, count) {
            b.count = previous;
        } else if count < previous {
            b.count = previous;
            let at = forced.get_or_insert(ForcedAt {
                min_bucket: f64::INFINITY,
                max_bucket: f64::NEG_INFINITY,
                max_diff: 0.0,
            });
            at.min_bucket = at.min_bucket.min(b.upper);
            at.max_bucket = at.max_bucket.max(b.upper);
            at.max_diff = at.max_diff.max(previous - count);
        } else {
            previous = count;
        }
    }
    forced
}

fn almost_equal(a: f64, b: f64) -> bool {
    if a.is_nan() && b.is_nan() {
        return true;
    }
    let sum = a.abs() + b.abs();
    let difference = (a - b).abs();
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < SMALL_DELTA * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < SMALL_DELTA
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(all: &[(f64, f64)]) -> Vec<ClassicBucket> {
        all.iter().map(|(upper, count)| ClassicBucket { upper: *upper, count: *count }).collect()
    }

    const INF: f64 = f64::INFINITY;

    #[test]
    fn quantiles() {
        for (q, input, expected) in [
            (0.5, &[(1.0, 2.0), (2.0, 4.0), (INF, 4.0)][..], 1.0),
            (0.75, &[(1.0, 2.0), (2.0, 4.0), (INF, 4.0)][..], 1.5),
            (1.0, &[(1.0, 2.0), (2.0, 4.0), (INF, 5.0)][..], 2.0),
            (0.5, &[(-1.0, 2.0), (INF, 2.0)][..], -1.0),
            (0.5, &[(1.0, 1.0), (1.0, 1.0), (INF, 2.0)][..], 0.5),
        ] {
            assert_eq!(quantile(q, &mut buckets(input)), (expected, None), "{q} of {input:?}");
        }
        assert!(quantile(0.5, &mut buckets(&[(1.0, 2.0)])).0.is_nan());
        assert!(quantile(0.5, &mut buckets(&[(INF, 2.0)])).0.is_nan());
    }

    #[test]
    fn decreases_are_taken_away_and_told() {
        let (value, forced) = quantile(0.5, &mut buckets(&[(1.0, 4.0), (2.0, 2.0), (3.0, 8.0), (INF, 8.0)]));
        assert_eq!(value, 1.0);
        assert_eq!(forced, Some(ForcedAt { min_bucket: 2.0, max_bucket: 2.0, max_diff: 2.0 }));
        let tiny = 4.0 * (1.0 - 1e-14);
        assert_eq!(quantile(0.5, &mut buckets(&[(1.0, 4.0), (2.0, tiny), (INF, 4.0)])).1, None);
    }

    #[test]
    fn fractions() {
        let input = [(1.0, 2.0), (2.0, 4.0), (INF, 8.0)];
        for (lower, upper, expected) in
            [(0.0, 1.0, 0.25), (0.5, 1.5, 0.25), (-INF, INF, 1.0), (2.0, 1.0, 0.0), (3.0, INF, 0.5)]
        {
            assert_eq!(fraction(lower, upper, &mut buckets(&input)), expected, "{lower}..{upper}");
        }
    }
}
