use std::collections::BTreeMap;

use model::{MatchOp, Matcher};
use proptest::prelude::*;
use stdx::disk::RealDisk;

use super::*;
use crate::part::tests::{Model, bits, clipped, model, spec, write};

/// What must be left of the samples of one series at one time.
fn winner(samples: &[(Rank, Column)]) -> Column {
    let key = |(rank, column): &(Rank, Column)| {
        let stale = column.values.first().is_some_and(|v| model::is_stale(*v))
            || column.histograms.first().is_some_and(|(_, h)| h.is_stale());
        let (_, values, histograms, starts) = bits(column);
        let start = starts.iter().flatten().next().copied().unwrap_or(0);
        let by_value = (!stale, !histograms.is_empty(), values, histograms, start);
        let by_rank = if rank.replace { (true, rank.position) } else { (false, 0) };
        (by_rank, by_value)
    };
    samples.iter().max_by(|a, b| key(a).cmp(&key(b))).unwrap().1.clone()
}

fn times_of(column: &Column) -> Vec<i64> {
    column.times.iter().copied().chain(column.histograms.iter().map(|(time, _)| *time)).collect()
}

/// The plain way: every sample by itself.
fn merged(inputs: &[(Rank, Column)]) -> Column {
    let mut by_time: BTreeMap<i64, Vec<(Rank, Column)>> = BTreeMap::new();
    for (rank, column) in inputs {
        for time in times_of(column) {
            by_time.entry(time).or_default().push((*rank, clipped(column, time, time)));
        }
    }
    let has_starts = inputs.iter().any(|(_, column)| column.start_times.is_some());
    let has_histogram_starts = inputs.iter().any(|(_, column)| column.histogram_starts.is_some());
    let (mut out, mut times, mut starts) = (Column::default(), Vec::new(), Vec::new());
    let mut histogram_starts = Vec::new();
    for samples in by_time.values() {
        let one = winner(samples);
        times.extend_from_slice(&one.times);
        out.values.extend_from_slice(&one.values);
        starts.extend(one.times.iter().map(|_| one.start_times.as_ref().map_or(0, |s| s[0])));
        let of_histogram = one.histograms.iter().map(|_| one.histogram_starts.as_ref().map_or(0, |s| s[0]));
        histogram_starts.extend(of_histogram);
        out.histograms.extend(one.histograms);
    }
    out.histogram_starts =
        (has_histogram_starts && !out.histograms.is_empty()).then(|| histogram_starts.into());
    out.start_times = (has_starts && !times.is_empty()).then(|| starts.into());
    out.times = times.into();
    out
}

fn ranks() -> impl Strategy<Value = Vec<Rank>> {
    // Positions differ: two parts never end at the same place of the log.
    let ranks = prop::collection::vec(any::<bool>(), 4).prop_map(|replace| {
        (0..).zip(replace).map(|(position, replace)| Rank { replace, position }).collect::<Vec<_>>()
    });
    ranks.prop_shuffle()
}

fn tombstones() -> impl Strategy<Value = Vec<Tombstone>> {
    let matchers = [
        Matcher::equal("a", "x"),
        Matcher::new(MatchOp::NotEqual, "a", "x").unwrap(),
        Matcher::new(MatchOp::Regex, "__name__", "up|x").unwrap(),
        Matcher::equal("missing", ""),
    ];
    let one = (0..matchers.len(), 900..2500i64, -10..700i64, 0..5u64).prop_map(
        move |(matcher, start_ms, len, position)| Tombstone {
            matchers: vec![matchers[matcher].clone()],
            start_ms,
            end_ms: start_ms + len,
            position,
        },
    );
    prop::collection::vec(one, 0..4)
}

/// What a merge of `inputs` must give.
fn expected(inputs: &[(Rank, Model)], options: &MergeOptions<'_>) -> BTreeMap<Labels, Column> {
    let mut by_labels: BTreeMap<Labels, Vec<(Rank, Column)>> = BTreeMap::new();
    for (rank, series) in inputs {
        for (labels, column) in series {
            let column = clipped(column, options.keep_from_ms, i64::MAX);
            let deleted = |time: i64| {
                options.tombstones.iter().any(|t| {
                    rank.position <= t.position
                        && t.matches(labels)
                        && (t.start_ms..=t.end_ms).contains(&time)
                })
            };
            for time in times_of(&column).into_iter().filter(|time| !deleted(*time)) {
                by_labels.entry(labels.clone()).or_default().push((*rank, clipped(&column, time, time)));
            }
        }
    }
    by_labels.into_iter().map(|(labels, inputs)| (labels, merged(&inputs))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn joined_columns_equal_the_plain_way(
        models in prop::collection::vec(model(), 2..5),
        ranks in ranks(),
    ) {
        let mut cache = TimeConcatCache::default();
        let mut by_labels: BTreeMap<Labels, Vec<(Rank, Column)>> = BTreeMap::new();
        for (rank, model) in ranks.into_iter().zip(models) {
            for (labels, column) in model {
                by_labels.entry(labels.only(|name| name == "a")).or_default().push((rank, column));
            }
        }
        for inputs in by_labels.into_values() {
            // Several series fold into one here; like ranks with like values must not depend on order.
            let mut pieces: Vec<Piece> =
                inputs.iter().map(|(rank, column)| Piece { rank: *rank, column: column.clone() }).collect();
            let joined = combine(&mut pieces, &mut cache);
            prop_assert_eq!(bits(&joined), bits(&merged(&inputs)));
            prop_assert!(pieces.is_empty());
        }
    }

    #[test]
    fn merged_parts_equal_the_plain_way(
        models in prop::collection::vec(model(), 1..5),
        ranks in ranks(),
        cuts in prop::collection::btree_set(900..2500i64, 0..3),
        keep_from_ms in prop_oneof![Just(i64::MIN), 900..2000i64],
        tombstones in tombstones(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let cuts: Vec<i64> = cuts.into_iter().collect();
        let options = MergeOptions { level: 2, cuts_ms: &cuts, keep_from_ms, tombstones: &tombstones };
        let inputs: Vec<(Rank, Model)> = ranks.into_iter().zip(models).collect();
        let mut parts = Vec::new();
        for (number, (rank, series)) in (1u128..).zip(&inputs) {
            let spec = PartSpec {
                wal_first: rank.position, wal_last: rank.position, replace: rank.replace, ..spec(number)
            };
            let (path, _) = write(dir.path(), spec, series, &[]);
            parts.push(Arc::new(Part::open(&RealDisk, &path).unwrap()));
        }
        let mut ids = 100u128;
        let mut next_id = || { ids += 1; Ulid::from_parts(0, ids) };
        let infos = merge(&RealDisk, dir.path(), &parts, &options, &mut next_id).unwrap();
        let expected = expected(&inputs, &options);
        let mut found: BTreeMap<Labels, Column> = BTreeMap::new();
        let mut bounds: Vec<i64> = vec![i64::MIN];
        bounds.extend(&cuts);
        bounds.push(i64::MAX);
        for info in &infos {
            prop_assert_eq!(info.spec.level, 2);
            let range = bounds.windows(2).find(|w| w[0] <= info.min_ms && info.max_ms < w[1]);
            prop_assert!(range.is_some(), "{:?} crosses {:?}", info, cuts);
            let part = Part::open(&RealDisk, &dir.path().join(info.file_name())).unwrap();
            prop_assert!(part.verify().is_empty());
            let all: Vec<u32> = part.select(&[]).unwrap().iter().collect();
            let (mut labels, mut columns) = (Vec::new(), Vec::new());
            part.labels_of(&all, &mut labels).unwrap();
            part.load(&all, i64::MIN, i64::MAX, &mut columns).unwrap();
            for (labels, column) in labels.into_iter().zip(columns) {
                let whole = found.entry(labels).or_default();
                let starts = column.start_times.iter().flat_map(|s| s.iter().copied());
                let starts: Arc<[i64]> = whole.start_times.iter().flat_map(|s| s.iter().copied()).chain(starts).collect();
                whole.start_times = (!starts.is_empty()).then_some(starts);
                let starts = column.histogram_starts.iter().flat_map(|s| s.iter().copied());
                let before = whole.histogram_starts.iter().flat_map(|s| s.iter().copied());
                let starts: Arc<[i64]> = before.chain(starts).collect();
                whole.histogram_starts = (!starts.is_empty()).then_some(starts);
                whole.times = whole.times.iter().chain(column.times.iter()).copied().collect();
                whole.values.extend(column.values);
                whole.histograms.extend(column.histograms);
            }
        }
        let comparable = |columns: BTreeMap<Labels, Column>| {
            columns.into_iter().map(|(labels, column)| (labels, bits(&column))).collect::<Vec<_>>()
        };
        prop_assert_eq!(comparable(found), comparable(expected));
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        prop_assert_eq!(left, inputs.len() + infos.len());
    }
}

fn column(times: &Arc<[i64]>, value: f64) -> Column {
    Column { times: times.clone(), values: vec![value; times.len()], ..Column::default() }
}

fn piece(position: u64, replace: bool, column: Column) -> Piece {
    Piece { rank: Rank { replace, position }, column }
}

#[test]
fn joined_times_stay_shared() {
    let mut cache = TimeConcatCache::default();
    let (a, b): (Arc<[i64]>, Arc<[i64]>) = (Arc::from([1, 2, 3]), Arc::from([3, 4, 5]));
    let alone =
        combine(&mut vec![piece(1, false, column(&a, 1.0)), piece(2, false, Column::default())], &mut cache);
    assert!(Arc::ptr_eq(&alone.times, &a));
    let mut join = |value| {
        combine(&mut vec![piece(2, false, column(&b, value)), piece(1, false, column(&a, 9.0))], &mut cache)
    };
    let (one, two) = (join(1.0), join(20.0));
    assert!(Arc::ptr_eq(&one.times, &two.times));
    assert_eq!(*one.times, [1, 2, 3, 4, 5]);
    assert_eq!((one.values, two.values), (vec![9.0, 9.0, 9.0, 1.0, 1.0], vec![9.0, 9.0, 20.0, 20.0, 20.0]));
    let mut clipped = || {
        let mut column = column(&a, 1.0);
        clip(&mut column, 2, 3, &mut cache);
        column
    };
    let (one, two) = (clipped(), clipped());
    assert!(Arc::ptr_eq(&one.times, &two.times));
    assert_eq!(*one.times, [2, 3]);
}

#[test]
fn conflicts_go_as_decided() {
    let at: Arc<[i64]> = Arc::from([7]);
    let stale = model::stale_nan();
    for (name, inputs, winner) in [
        ("larger bits", vec![(1, false, 2.0), (2, false, 1.0)], 2.0),
        ("sign is a bit", vec![(1, false, -1.0), (2, false, 1.0)], -1.0),
        ("a real value beats a marker", vec![(1, false, 1.0), (2, false, stale)], 1.0),
        ("replace: later", vec![(1, true, 2.0), (2, true, 1.0)], 1.0),
        ("replace: over a later refusal", vec![(1, true, 1.0), (2, false, 2.0)], 1.0),
        ("replace: even by a marker", vec![(1, false, 1.0), (2, true, stale)], stale),
    ] {
        for turn in 0..inputs.len() {
            let mut inputs = inputs.clone();
            inputs.rotate_left(turn);
            let mut pieces: Vec<Piece> = inputs
                .into_iter()
                .map(|(position, replace, v)| piece(position, replace, column(&at, v)))
                .collect();
            let joined = combine(&mut pieces, &mut TimeConcatCache::default());
            assert_eq!(
                joined.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
                [f64::to_bits(winner)],
                "{name}"
            );
        }
    }
}

#[test]
fn damage_fails_a_merge_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (series, _) = crate::part::tests::sample();
    let (good, _) = write(dir.path(), spec(1), &series, &[]);
    let (bad, _) = write(dir.path(), spec(2), &series, &[]);
    let mut bytes = std::fs::read(&bad).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&bad, bytes).unwrap();
    let parts: Vec<Arc<Part>> =
        [&good, &bad].map(|path| Arc::new(Part::open(&RealDisk, path).unwrap())).to_vec();
    let error =
        merge(&RealDisk, dir.path(), &parts, &MergeOptions::default(), &mut || Ulid::from_parts(1, 1));
    assert!(error.unwrap_err().to_string().contains("section VAL, byte 64: the page fails its checksum"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    let infos =
        merge(&RealDisk, dir.path(), &parts[..1], &MergeOptions::default(), &mut || Ulid::from_parts(1, 1));
    assert_eq!(infos.unwrap().len(), 1);
}
