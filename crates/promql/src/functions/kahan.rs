//! Compensated summation (Kahan, with Neumaier's improvement).
//!
//! Source: Prometheus `util/kahansum/kahansum.go`: same order of operations, so same bits.

/// Adds `inc` to the running `sum` with compensation `c`.
#[inline]
pub(crate) fn inc(inc: f64, sum: f64, c: f64) -> (f64, f64) {
    let t = sum + inc;
    if t.is_infinite() {
        (t, 0.0)
    } else if sum.abs() >= inc.abs() {
        (t, c + ((sum - t) + inc))
    } else {
        (t, c + ((inc - t) + sum))
    }
}

/// The compensated sum of `values`.
#[inline]
pub(crate) fn sum(values: &[f64]) -> f64 {
    let (mut total, mut c) = (0.0, 0.0);
    for v in values {
        (total, c) = inc(*v, total, c);
    }
    if total.is_infinite() { total } else { total + c }
}

/// A mean: the compensated sum divided by the count, as long as the sum does not overflow; an
/// incremental mean from then on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mean {
    /// The sum, or once `incremental` the mean.
    value: f64,
    c: f64,
    count: f64,
    incremental: bool,
}

impl Mean {
    pub(crate) fn new(first: f64) -> Mean {
        Mean { value: first, c: 0.0, count: 1.0, incremental: false }
    }

    #[inline]
    pub(crate) fn add(&mut self, v: f64) {
        self.count += 1.0;
        if !self.incremental {
            let (value, c) = inc(v, self.value, self.c);
            if !value.is_infinite() {
                (self.value, self.c) = (value, c);
                return;
            }
            self.incremental = true;
            self.value /= self.count - 1.0;
            self.c /= self.count - 1.0;
        }
        let q = (self.count - 1.0) / self.count;
        (self.value, self.c) = inc(v / self.count, q * self.value, q * self.c);
    }

    pub(crate) fn get(&self) -> f64 {
        if self.incremental { self.value + self.c } else { self.value / self.count + self.c / self.count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_terms_survive_large_ones() {
        assert_eq!(sum(&[1.0, 1e100, 1.0, -1e100]), 2.0);
        assert_eq!(sum(&[f64::INFINITY, 1.0]), f64::INFINITY);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    }

    #[test]
    fn a_mean_survives_overflow() {
        let mut mean = Mean::new(f64::MAX);
        mean.add(f64::MAX);
        mean.add(f64::MAX);
        assert!((mean.get() / f64::MAX - 1.0).abs() < 1e-15);
    }
}
