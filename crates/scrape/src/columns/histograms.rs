//! The histograms of a scrape: which are stored, in which row, how finely.

use std::mem::replace;

use model::Histogram;
use storage::SeriesRef;
use wire::exposition::ScrapedRow;

use super::{AHEAD_MS_MAX, Assembled, Columns, DROPPED, Reading};
use crate::config::Resolution;

/// The coarsest exponential schema.
const SCHEMA_MIN: i32 = -4;

impl Columns {
    /// Decides for every histogram where it goes, after the floats.
    pub(super) fn plan_histograms(&mut self, reading: &Reading<'_>, reported: &[u32], out: &mut Assembled) {
        let Reading { config, scraped, timestamp_ms, .. } = *reading;
        self.plan.histograms.clear();
        for (cell, histogram) in (0u32..).zip(&scraped.histograms) {
            let local = self.local_of.get(histogram.column as usize).copied().unwrap_or(DROPPED);
            if local == DROPPED {
                continue;
            }
            out.kept += 1;
            if reported.contains(&local) {
                continue;
            }
            out.seen.set(local);
            match histogram.timestamp_ms.filter(|_| config.honor_timestamps) {
                Some(ms) if ms > timestamp_ms.saturating_add(AHEAD_MS_MAX) => self.plan.left_out += 1,
                Some(ms) => {
                    out.laned_histograms.push((ms, local, cell));
                    if config.track_timestamps_staleness {
                        out.track.set(local);
                    }
                }
                None => {
                    if out.row.set(local) {
                        self.plan.histograms.push((cell, self.series[local as usize]));
                    } else {
                        self.plan.left_out += 1;
                    }
                    out.track.set(local);
                }
            }
        }
    }

    /// Notes which histograms the row and its lanes hold.
    pub(super) fn place_histograms(&self, out: &mut Assembled) {
        out.histogram_cells.extend_from_slice(&self.plan.histograms);
        out.row_histograms = self.plan.histograms.len();
        let laned = out.laned_histograms.iter();
        let series = |(_, local, cell): &(i64, u32, u32)| Some((*cell, self.series(*local)?));
        out.histogram_cells.extend(laned.filter_map(series));
    }
}

impl Assembled {
    /// Moves the histograms of the scrape into the rows, as finely as `resolution` allows. False when
    /// one has too many buckets and cannot be made coarser.
    pub(crate) fn take_histograms(&mut self, scraped: &mut ScrapedRow, resolution: &Resolution) -> bool {
        for (at, (cell, series)) in self.histogram_cells.iter().enumerate() {
            let Some(cell) = scraped.histograms.get_mut(*cell as usize) else { return false };
            let mut histogram = replace(&mut cell.histogram, Histogram::stale());
            if !reduce(&mut histogram, resolution) {
                return false;
            }
            let rows =
                if at < self.row_histograms { &mut self.histograms } else { &mut self.lane_histograms };
            rows.push((*series, histogram));
        }
        true
    }

    /// Moves the histograms back, to be assembled again.
    pub(crate) fn give_histograms_back(&mut self, scraped: &mut ScrapedRow) {
        let taken: Vec<(SeriesRef, Histogram)> =
            self.histograms.drain(..).chain(self.lane_histograms.drain(..)).collect();
        for ((cell, _), (_, histogram)) in self.histogram_cells.iter().zip(taken) {
            if let Some(cell) = scraped.histograms.get_mut(*cell as usize) {
                cell.histogram = histogram;
            }
        }
    }
}

/// Makes a histogram as coarse as it has to be; false when that cannot be.
///
/// Source: Prometheus `scrape.maxSchemaAppender`, `scrape.bucketLimitAppender`.
fn reduce(histogram: &mut Histogram, resolution: &Resolution) -> bool {
    let is_exponential = histogram.schema >= SCHEMA_MIN;
    if is_exponential
        && histogram.schema > resolution.schema_max
        && histogram.reduce_resolution(resolution.schema_max).is_err()
    {
        return false;
    }
    let limit = match resolution.buckets_max {
        0 => return true,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    while histogram.bucket_count() > limit {
        let coarser = histogram.schema - 1;
        if !is_exponential || coarser < SCHEMA_MIN || histogram.reduce_resolution(coarser).is_err() {
            return false;
        }
    }
    true
}
