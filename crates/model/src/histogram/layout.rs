//! Other layouts of the same histogram: without empty buckets, with coarser ones.
//!
//! Source: Prometheus `model/histogram/generic.go` (`compactBuckets`, `reduceResolution`).

use super::{Buckets, CUSTOM_BUCKETS_SCHEMA, Histogram, Span};

/// A histogram that has no such layout. It is left in an unspecified, but well-formed or empty state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The spans tell of another number of buckets than there are, or go backwards.
    #[error("the spans of a histogram do not fit its buckets")]
    Spans,
    /// An index or a population is beyond what a histogram can hold.
    #[error("a histogram has bucket indexes or populations out of range")]
    Range,
    /// Only exponential buckets can be made coarser, and only to a lower schema.
    #[error("buckets of schema {from} cannot be reduced to schema {to}")]
    Schema {
        /// The histogram's.
        from: i32,
        /// The one asked for.
        to: i32,
    },
}

/// The populations of one side with their indexes, ascending.
type Indexed<T> = Vec<(i64, T)>;

impl Histogram {
    /// Leaves out empty buckets, but for runs of at most `empty_max` between others, which are kept or
    /// put in because a further span would cost more.
    ///
    /// # Errors
    /// [`LayoutError`] for spans that do not fit.
    pub fn compact(&mut self, empty_max: u32) -> Result<(), LayoutError> {
        if empty_max == 0 && self.is_compact() {
            return Ok(());
        }
        self.each_side(|buckets| fill(buckets, empty_max, 0), |buckets| fill(buckets, empty_max, 0.0))
    }

    /// Merges buckets up to `schema`, which is lower than the histogram's.
    ///
    /// # Errors
    /// [`LayoutError`] for custom buckets, a schema that is not lower, and spans that do not fit.
    pub fn reduce_resolution(&mut self, schema: i32) -> Result<(), LayoutError> {
        let from = self.schema;
        if from == CUSTOM_BUCKETS_SCHEMA || schema >= from || !(-4..=52).contains(&schema) {
            return Err(LayoutError::Schema { from, to: schema });
        }
        let shift = from.saturating_sub(schema).min(63) as u32;
        self.each_side(
            |buckets| merge(buckets, shift, |sum: &mut i128, count| *sum += count),
            |buckets| merge(buckets, shift, |sum: &mut f64, count| *sum += count),
        )?;
        self.schema = schema;
        Ok(())
    }

    /// How many buckets both sides have, the zero bucket not counted.
    pub fn bucket_count(&self) -> usize {
        match &self.buckets {
            Buckets::Int { positive, negative, .. } => positive.len() + negative.len(),
            Buckets::Float { positive, negative, .. } => positive.len() + negative.len(),
        }
    }

    /// Whether no bucket is empty and no span without need.
    fn is_compact(&self) -> bool {
        let spans = |spans: &[Span]| {
            spans.iter().all(|span| span.length > 0) && spans.iter().skip(1).all(|span| span.offset > 0)
        };
        let int = |deltas: &[i64]| {
            let mut count = 0i64;
            deltas.iter().all(|delta| {
                count = count.wrapping_add(*delta);
                count != 0
            })
        };
        spans(&self.positive_spans)
            && spans(&self.negative_spans)
            && match &self.buckets {
                Buckets::Int { positive, negative, .. } => int(positive) && int(negative),
                Buckets::Float { positive, negative, .. } => {
                    positive.iter().chain(negative).all(|count| *count != 0.0)
                }
            }
    }

    /// Changes both sides.
    fn each_side(
        &mut self,
        int: impl Fn(Indexed<i128>) -> Indexed<i128>,
        float: impl Fn(Indexed<f64>) -> Indexed<f64>,
    ) -> Result<(), LayoutError> {
        match &mut self.buckets {
            Buckets::Int { positive, negative, .. } => {
                let sides = [(&mut self.positive_spans, positive), (&mut self.negative_spans, negative)];
                for (spans, deltas) in sides {
                    let buckets = int(indexed(spans, absolute(deltas))?);
                    *spans = spans_of(&buckets)?;
                    *deltas = deltas_of(&buckets)?;
                }
            }
            Buckets::Float { positive, negative, .. } => {
                let sides = [(&mut self.positive_spans, positive), (&mut self.negative_spans, negative)];
                for (spans, counts) in sides {
                    let buckets = float(indexed(spans, counts.iter().copied())?);
                    *spans = spans_of(&buckets)?;
                    *counts = buckets.into_iter().map(|(_, count)| count).collect();
                }
            }
        }
        Ok(())
    }
}

fn absolute(deltas: &[i64]) -> impl ExactSizeIterator<Item = i128> {
    let mut count = 0i128;
    deltas.iter().map(move |delta| {
        count += i128::from(*delta);
        count
    })
}

fn deltas_of(buckets: &Indexed<i128>) -> Result<Vec<i64>, LayoutError> {
    let mut before = 0i128;
    let mut deltas = Vec::with_capacity(buckets.len());
    for (_, count) in buckets {
        deltas.push(i64::try_from(count - before).map_err(|_| LayoutError::Range)?);
        before = *count;
    }
    Ok(deltas)
}

fn indexed<T>(
    spans: &[Span],
    mut counts: impl ExactSizeIterator<Item = T>,
) -> Result<Indexed<T>, LayoutError> {
    let mut buckets = Vec::with_capacity(counts.len());
    let mut index = 0i64;
    for (i, span) in spans.iter().enumerate() {
        if i > 0 && span.offset < 0 {
            return Err(LayoutError::Spans);
        }
        index += i64::from(span.offset);
        for _ in 0..span.length {
            buckets.push((index, counts.next().ok_or(LayoutError::Spans)?));
            index += 1;
        }
    }
    match counts.next() {
        Some(_) => Err(LayoutError::Spans),
        None => Ok(buckets),
    }
}

fn spans_of<T>(buckets: &Indexed<T>) -> Result<Vec<Span>, LayoutError> {
    let mut spans: Vec<Span> = Vec::new();
    let mut next = 0i64;
    for (index, _) in buckets {
        match spans.last_mut() {
            Some(span) if *index == next => span.length += 1,
            _ => {
                let offset = i32::try_from(index - next).map_err(|_| LayoutError::Range)?;
                spans.push(Span { offset, length: 1 });
            }
        }
        next = index + 1;
    }
    Ok(spans)
}

/// The populated buckets, and empty ones in gaps of at most `empty_max`.
fn fill<T: Copy + PartialEq>(buckets: Indexed<T>, empty_max: u32, empty: T) -> Indexed<T> {
    let mut out: Indexed<T> = Vec::with_capacity(buckets.len());
    for (index, count) in buckets.into_iter().filter(|(_, count)| *count != empty) {
        if let Some((last, _)) = out.last().copied()
            && index - last - 1 <= i64::from(empty_max)
        {
            out.extend((last + 1..index).map(|gap| (gap, empty)));
        }
        out.push((index, count));
    }
    out
}

/// Buckets `2^shift` times as wide on the logarithmic scale.
fn merge<T: Copy>(buckets: Indexed<T>, shift: u32, add: impl Fn(&mut T, T)) -> Indexed<T> {
    let mut out: Indexed<T> = Vec::with_capacity(buckets.len());
    for (index, count) in buckets {
        // The bucket of index i ends at base^i, its own end included.
        let index = ((index - 1) >> shift) + 1;
        match out.last_mut() {
            Some((last, sum)) if *last == index => add(sum, count),
            _ => out.push((index, count)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(list: &[(i32, u32)]) -> Vec<Span> {
        list.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect()
    }

    fn int(schema: i32, list: &[(i32, u32)], deltas: &[i64]) -> Histogram {
        let (positive, negative) = (deltas.to_vec(), Vec::new());
        let buckets = Buckets::Int { count: 0, zero_count: 0, positive, negative };
        Histogram { schema, positive_spans: spans(list), buckets, sum: 0.0, ..Histogram::stale() }
    }

    fn float(schema: i32, list: &[(i32, u32)], counts: &[f64]) -> Histogram {
        let (positive, negative) = (Vec::new(), counts.to_vec());
        let buckets = Buckets::Float { count: 0.0, zero_count: 0.0, positive, negative };
        Histogram { schema, negative_spans: spans(list), buckets, sum: 0.0, ..Histogram::stale() }
    }

    #[test]
    fn empty_buckets_go() {
        for (before, empty_max, after) in [
            (int(0, &[(-2, 2), (1, 1)], &[5, -1, 0]), 0, int(0, &[(-2, 2), (1, 1)], &[5, -1, 0])),
            (int(0, &[(0, 0)], &[]), 0, int(0, &[], &[])),
            (int(0, &[(2, 5)], &[0, 3, -3, 2, -2]), 0, int(0, &[(3, 1), (1, 1)], &[3, -1])),
            (int(0, &[(2, 5)], &[0, 3, -3, 2, -2]), 1, int(0, &[(3, 3)], &[3, -3, 2])),
            (int(0, &[(0, 1), (0, 1), (2, 0), (1, 1)], &[1, 1, 1]), 0, int(0, &[(0, 2), (3, 1)], &[1, 1, 1])),
            (int(0, &[(0, 1), (2, 1)], &[1, 1]), 2, int(0, &[(0, 4)], &[1, -1, 0, 2])),
            (int(0, &[(0, 1), (3, 1)], &[1, 1]), 2, int(0, &[(0, 1), (3, 1)], &[1, 1])),
            (float(0, &[(0, 4)], &[0.0, 1.5, 0.0, 2.0]), 0, float(0, &[(1, 1), (1, 1)], &[1.5, 2.0])),
        ] {
            let mut histogram = before.clone();
            assert_eq!(histogram.compact(empty_max), Ok(()), "{before:?}");
            assert_eq!(histogram, after, "{before:?} with {empty_max}");
        }
    }

    #[test]
    fn buckets_become_coarser() {
        for (before, schema, after) in [
            (int(1, &[(0, 4)], &[1, 1, 1, 1]), 0, int(0, &[(0, 3)], &[1, 4, -1])),
            (int(2, &[(-7, 1), (12, 2)], &[1, 1, 1]), 0, int(0, &[(-1, 1), (2, 1)], &[1, 4])),
            (float(8, &[(1, 2), (254, 1)], &[1.0, 2.0, 4.0]), 0, float(0, &[(1, 2)], &[3.0, 4.0])),
            (int(0, &[(0, 2)], &[3, -1]), -4, int(-4, &[(0, 2)], &[3, -1])),
        ] {
            let mut histogram = before.clone();
            assert_eq!(histogram.reduce_resolution(schema), Ok(()), "{before:?}");
            assert_eq!(histogram, after, "{before:?} to {schema}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let custom = Histogram { schema: CUSTOM_BUCKETS_SCHEMA, ..Histogram::stale() };
        let refused = LayoutError::Schema { from: CUSTOM_BUCKETS_SCHEMA, to: -5 };
        assert_eq!(custom.clone().reduce_resolution(-5), Err(refused));
        let refused = LayoutError::Schema { from: 0, to: 0 };
        assert_eq!(int(0, &[], &[]).reduce_resolution(0), Err(refused));
        for (bad, error) in [
            (int(1, &[(0, 2)], &[0]), LayoutError::Spans),
            (int(1, &[(0, 1)], &[0, 1]), LayoutError::Spans),
            (int(1, &[(0, 1), (-1, 1)], &[0, 1]), LayoutError::Spans),
            (int(1, &[(i32::MAX, 1), (i32::MAX, 0), (1, 1)], &[1, 1]), LayoutError::Range),
        ] {
            assert_eq!(bad.clone().compact(0), Err(error), "{bad:?}");
        }
        let mut wide = int(1, &[(1, 4)], &[i64::MAX, 0, 0, 0]);
        assert_eq!(wide.reduce_resolution(0), Err(LayoutError::Range));
    }
}
