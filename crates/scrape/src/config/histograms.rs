//! What is made of histograms.

use super::{ConfigError, ScrapeConfigText, ScrapeDefaults};

/// The highest and the lowest exponential schema.
const SCHEMAS: (i32, i32) = (-4, 8);
/// The growth of a bucket of the finest schema; a smaller factor asks for nothing.
const FINEST_FACTOR: f64 = 1.00271;

/// Which histograms of a target become what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistogramChoice {
    /// Whether native histograms are scraped.
    pub native: bool,
    /// Whether classic histograms are kept beside native ones.
    pub keep_classic: bool,
    /// Whether classic histograms become native ones with custom buckets.
    pub convert_classic: bool,
}

/// Bounds on the resolution of native histograms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolution {
    /// The most buckets; 0 for any number. Beyond it buckets are merged, and where they cannot be,
    /// the scrape fails.
    pub buckets_max: u64,
    /// The finest schema; finer histograms are brought down to it.
    pub schema_max: i32,
}

impl Default for Resolution {
    fn default() -> Self {
        Resolution { buckets_max: 0, schema_max: SCHEMAS.1 }
    }
}

impl ScrapeConfigText {
    pub(super) fn histograms(&self, defaults: &ScrapeDefaults) -> HistogramChoice {
        let keep_classic = self.always_scrape_classic_histograms.or(self.scrape_classic_histograms);
        HistogramChoice {
            native: self.scrape_native_histograms.unwrap_or(defaults.histograms.native),
            keep_classic: keep_classic.unwrap_or(defaults.histograms.keep_classic),
            convert_classic: self
                .convert_classic_histograms_to_nhcb
                .unwrap_or(defaults.histograms.convert_classic),
        }
    }

    pub(super) fn resolution(&self) -> Result<Resolution, ConfigError> {
        let factor = self.native_histogram_min_bucket_factor.unwrap_or(0.0);
        if !factor.is_finite() {
            let message = format!("a bucket factor is a number, not {factor}");
            return Err(ConfigError::new("native_histogram_min_bucket_factor", message));
        }
        Ok(Resolution {
            buckets_max: self.native_histogram_bucket_limit.unwrap_or(0),
            schema_max: schema_of(factor),
        })
    }
}

/// The finest schema whose buckets grow by at least `factor`.
///
/// Source: Prometheus `scrape.pickSchema`.
fn schema_of(factor: f64) -> i32 {
    let factor = if factor <= 1.0 { FINEST_FACTOR } else { factor };
    let schema = -factor.log2().log2();
    (schema.floor() as i32).clamp(SCHEMAS.0, SCHEMAS.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_become_schemas() {
        for (factor, schema) in [
            (0.0, 8),
            (1.0, 8),
            (1.002, 8),
            (1.003, 7),
            (1.1, 2),
            (1.5, 0),
            (2.0, 0),
            (2.1, -1),
            (4.0, -1),
            (65536.0, -4),
            (1e300, -4),
        ] {
            assert_eq!(schema_of(factor), schema, "{factor}");
        }
    }
}
