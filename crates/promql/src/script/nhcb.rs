//! Classic histograms as native ones with custom buckets, for `load_with_nhcb`.
//!
//! Source: Prometheus `util/convertnhcb`.

use std::collections::BTreeMap;

use model::histogram::{CUSTOM_BUCKETS_SCHEMA, CounterResetHint};
use model::labels::{BUCKET_LABEL, METRIC_NAME};
use model::{Labels, LabelsBuilder};

use super::Load;
use crate::histogram::FloatHistogram;
use crate::series::SequenceValue;

/// What is known of one histogram at one step.
#[derive(Debug, Default)]
struct Classic {
    /// Upper bound and cumulative count, in the order found.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

/// The native histograms that the classic ones of `load` make: series, step and value.
///
/// # Errors
/// Counts that fall from bucket to bucket, or do not agree with the whole.
pub fn convert(load: &Load) -> Result<Vec<(Labels, usize, FloatHistogram)>, String> {
    let mut classic: BTreeMap<(Labels, usize), Classic> = BTreeMap::new();
    for series in &load.series {
        let name = series.labels.metric_name();
        let Some((base, part)) = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix).map(|base| (base, *suffix)))
        else {
            continue;
        };
        let bound = series.labels.get(BUCKET_LABEL).and_then(|le| model::number::parse_float(le).ok());
        let mut labels = LabelsBuilder::from_labels(&series.labels);
        let labels = labels.set(METRIC_NAME, base).remove(BUCKET_LABEL).build();
        for (step, value) in series.values.iter().enumerate() {
            let SequenceValue::Float(value) = value else { continue };
            let at = classic.entry((labels.clone(), step)).or_default();
            match (part, bound) {
                ("_bucket", Some(bound)) if !bound.is_nan() => at.buckets.push((bound, *value)),
                ("_count", _) => at.count = Some(*value),
                ("_sum", _) => at.sum = *value,
                _ => {}
            }
        }
    }
    classic
        .into_iter()
        .map(|((labels, step), classic)| {
            let histogram = native(classic).map_err(|reason| format!("{labels}: {reason}"))?;
            Ok((labels, step, histogram))
        })
        .collect()
}

fn native(mut classic: Classic) -> Result<FloatHistogram, String> {
    classic.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    classic.buckets.dedup_by(|later, first| later.0 == first.0);
    let last = classic.buckets.last().copied();
    let count = classic.count.or(last.map(|(_, count)| count)).unwrap_or(0.0);
    if last.is_none_or(|(bound, _)| bound != f64::INFINITY) {
        classic.buckets.push((f64::INFINITY, count));
    }
    if classic.buckets.last().is_some_and(|(_, all)| *all != count) {
        return Err(format!("the last bucket does not hold the count {count}"));
    }
    let mut before = 0.0;
    let mut positive = Vec::with_capacity(classic.buckets.len());
    for (index, (bound, cumulative)) in (0..).zip(&classic.buckets) {
        if *cumulative < before {
            return Err(format!("bucket {bound} holds less than the one below"));
        }
        if *cumulative > before {
            positive.push((index, cumulative - before));
        }
        before = *cumulative;
    }
    Ok(FloatHistogram {
        counter_reset_hint: CounterResetHint::Unknown,
        schema: CUSTOM_BUCKETS_SCHEMA,
        zero_threshold: 0.0,
        zero_count: 0.0,
        count,
        sum: classic.sum,
        positive,
        negative: Vec::new(),
        custom_values: classic.buckets.iter().map(|(bound, _)| *bound).filter(|b| b.is_finite()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Command, Script};

    #[test]
    fn buckets_become_differences() {
        let script = Script::parse(
            "load_with_nhcb 1m\n h_bucket{le=\"1\"} 2\n h_bucket{le=\"5\"} 2\n h_bucket{le=\"+Inf\"} 7\n h_sum 12\n",
        )
        .expect("script");
        let Command::Load(load) = &script.commands[0] else { panic!("{script:?}") };
        let native = convert(load).expect("converts");
        let [(labels, 0, histogram)] = &native[..] else { panic!("{native:?}") };
        assert_eq!(labels.to_string(), r#"{__name__="h"}"#);
        assert_eq!(histogram.positive, [(0, 2.0), (2, 5.0)]);
        assert_eq!((&*histogram.custom_values, histogram.count), (&[1.0, 5.0][..], 7.0));
    }
}
