use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::histogram::{Buckets, CounterResetHint, Span};
use model::{Histogram, LabelsBuilder, MatchOp, Matcher, Metadata};
use proptest::prelude::*;
use stdx::disk::RealDisk;
use storage::Column;

use super::*;

mod faults;
mod histogram_blocks;

/// Series in part order.
pub(crate) type Model = Vec<(Labels, Column)>;

pub(crate) fn spec(id: u128) -> PartSpec {
    PartSpec {
        id: Ulid::from_parts(1_700_000_000_000, id),
        tenant: TenantId::default(),
        level: 0,
        wal_first: 1,
        wal_last: 9,
        late: false,
        replace: false,
    }
}

pub(crate) fn write(
    dir: &Path,
    spec: PartSpec,
    series: &Model,
    metadata: &[(&str, Metadata)],
) -> (PathBuf, PartInfo) {
    let disk = RealDisk;
    let mut writer = PartWriter::create(&disk, dir, spec).unwrap();
    for (labels, column) in series {
        writer.add_series(labels, column).unwrap();
    }
    for (metric, metadata) in metadata {
        writer.add_metadata(metric, metadata);
    }
    let info = writer.finish().unwrap();
    (dir.join(info.file_name()), info)
}

/// Times, values, histograms, start times of floats and of histograms.
type Bits = (Vec<i64>, Vec<u64>, Vec<(i64, Vec<u8>)>, [Vec<i64>; 2]);

/// A column as comparable bits.
pub(crate) fn bits(column: &Column) -> Bits {
    let encode = |h: &Histogram| {
        let mut bytes = Vec::new();
        histograms::encode_histogram(h, None, &mut bytes);
        bytes
    };
    (
        column.times.to_vec(),
        column.values.iter().map(|v| v.to_bits()).collect(),
        column.histograms.iter().map(|(time, h)| (*time, encode(h))).collect(),
        [&column.start_times, &column.histogram_starts]
            .map(|starts| starts.as_ref().map_or(Vec::new(), |starts| starts.to_vec())),
    )
}

pub(crate) fn clipped(column: &Column, start: i64, end: i64) -> Column {
    let rows: Vec<usize> =
        (0..column.times.len()).filter(|&i| (start..=end).contains(&column.times[i])).collect();
    Column {
        times: rows.iter().map(|&i| column.times[i]).collect(),
        values: rows.iter().map(|&i| column.values[i]).collect(),
        histograms: column.histograms.iter().filter(|(t, _)| (start..=end).contains(t)).cloned().collect(),
        start_times: column
            .start_times
            .as_ref()
            .filter(|_| !rows.is_empty())
            .map(|s| rows.iter().map(|&i| s[i]).collect()),
        histogram_starts: column.histogram_starts.as_ref().and_then(|starts| {
            let kept = starts.iter().zip(&column.histograms).filter(|(_, (t, _))| (start..=end).contains(t));
            let kept: Vec<i64> = kept.map(|(start, _)| *start).collect();
            (!kept.is_empty()).then(|| kept.into())
        }),
    }
}

fn histogram() -> impl Strategy<Value = Histogram> {
    let spans = || prop::collection::vec((any::<i32>(), 0..9u32), 0..3);
    let spans =
        move || spans().prop_map(|s| s.into_iter().map(|(offset, length)| Span { offset, length }).collect());
    let float = || prop_oneof![any::<u64>().prop_map(f64::from_bits), (0..50u32).prop_map(f64::from)];
    let ints = (
        any::<u64>(),
        0..9u64,
        prop::collection::vec(-9..9i64, 0..6),
        prop::collection::vec(any::<i64>(), 0..3),
    )
        .prop_map(|(count, zero_count, positive, negative)| Buckets::Int {
            count,
            zero_count,
            positive,
            negative,
        });
    let floats =
        (float(), float(), prop::collection::vec(float(), 0..6), prop::collection::vec(float(), 0..3))
            .prop_map(|(count, zero_count, positive, negative)| Buckets::Float {
                count,
                zero_count,
                positive,
                negative,
            });
    let hint = prop_oneof![
        Just(CounterResetHint::Unknown),
        Just(CounterResetHint::Reset),
        Just(CounterResetHint::NotReset),
        Just(CounterResetHint::Gauge),
    ];
    let layout = (any::<i32>(), float(), spans(), spans(), prop::collection::vec(float(), 0..4));
    (hint, layout, float(), prop_oneof![ints, floats]).prop_map(
        |(
            counter_reset_hint,
            (schema, zero_threshold, positive_spans, negative_spans, custom_values),
            sum,
            buckets,
        )| {
            Histogram {
                counter_reset_hint,
                schema,
                zero_threshold,
                sum,
                positive_spans,
                negative_spans,
                custom_values,
                buckets,
            }
        },
    )
}

/// Label sets that collide in names and values often enough to be interesting.
fn labels() -> impl Strategy<Value = Labels> {
    let names = ["__name__", "a", "instance", "Z", "ü"];
    let values = ["", "x", "xy", "xyz", "y", "up", "näme", "0"];
    prop::collection::vec((0..names.len(), 0..values.len()), 1..5).prop_map(move |pairs| {
        let mut builder = LabelsBuilder::default();
        for (name, value) in pairs {
            builder.set(names[name], values[value]);
        }
        builder.build()
    })
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (0..1000i32).prop_map(|k| f64::from(k) / 4.0),
        1 => any::<u64>().prop_map(f64::from_bits),
        1 => Just(model::stale_nan()),
    ]
}

/// Sources of rows, and series that have runs of a source's rows, rows of their own, or histograms.
pub(crate) fn model() -> impl Strategy<Value = Model> {
    let times = prop::collection::vec(1..40i64, 1..60).prop_map(|steps| {
        steps
            .iter()
            .scan(1000, |t, s| {
                *t += s;
                Some(*t)
            })
            .collect::<Arc<[i64]>>()
    });
    let series = (
        labels(),
        0..4usize,
        any::<[prop::sample::Index; 2]>(),
        0..8u8,
        prop::collection::vec(value(), 60),
        histogram(),
    );
    (prop::collection::vec(times, 4), prop::collection::vec(series, 0..30)).prop_map(|(sources, series)| {
        let mut map: BTreeMap<Labels, Column> = BTreeMap::new();
        for (labels, source, ends, kind, values, histogram) in series {
            let source = &sources[source];
            let (a, b) = (ends[0].index(source.len() + 1), ends[1].index(source.len() + 1));
            let rows = a.min(b)..a.max(b);
            let mut column = Column::default();
            match kind {
                0 | 1 => column.times = source.clone(),
                2 => column.times = source[rows].into(),
                3 => column.times = source.iter().copied().step_by(3).collect(),
                4 | 5 => {
                    let times = source[rows].iter().copied();
                    column.histograms = times.map(|t| (t, Arc::new(histogram.clone()))).collect();
                }
                _ => {
                    column.times = source[rows.clone()].into();
                    let others = source.iter().copied().filter(|t| !column.times.contains(t));
                    column.histograms = others.map(|t| (t, Arc::new(histogram.clone()))).collect();
                }
            }
            column.values = values[..column.times.len()].to_vec();
            if kind % 2 == 1 && !column.times.is_empty() {
                column.start_times = Some(column.times.iter().map(|t| t / 100 * 100).collect());
            }
            if kind % 2 == 1 && !column.histograms.is_empty() {
                let times = column.histograms.iter().map(|(time, _)| *time);
                column.histogram_starts = Some(times.map(|t| t / 100 * 100).collect());
            }
            if !column.is_empty() {
                map.insert(labels, column);
            }
        }
        let mut series: Model = map.into_iter().collect();
        series.sort_by(|a, b| part_order(&a.0, &b.0));
        series
    })
}

fn matchers() -> impl Strategy<Value = Vec<Matcher>> {
    let names = ["__name__", "a", "instance", "Z", "none"];
    let ops = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];
    let values = ["", "x", "xy", "up", "x|y", "x.*", "xy.+", ".*", ".+", "|x", "n.me", "(?i)X", "missing"];
    let one = (0..names.len(), 0..ops.len(), 0..values.len())
        .prop_map(move |(name, op, value)| Matcher::new(ops[op], names[name], values[value]).unwrap());
    prop::collection::vec(one, 0..4)
}

fn matching(series: &Model, matchers: &[Matcher]) -> Vec<u32> {
    let all = |labels: &Labels| matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or_default()));
    (0u32..).zip(series).filter(|(_, (labels, _))| all(labels)).map(|(at, _)| at).collect()
}

fn check_samples(part: &Part, series: &Model, start: i64, end: i64) {
    let numbers: Vec<u32> = (0..series.len() as u32).collect();
    let mut columns = Vec::new();
    part.load(&numbers, start, end, &mut columns).unwrap();
    assert_eq!(columns.len(), series.len());
    for ((labels, column), loaded) in series.iter().zip(&columns) {
        assert_eq!(bits(loaded), bits(&clipped(column, start, end)), "{labels} from {start} to {end}");
    }
}

fn check_labels(part: &Part, series: &Model, matchers: &[Matcher]) {
    let numbers = matching(series, matchers);
    assert_eq!(part.select(matchers).unwrap().iter().collect::<Vec<_>>(), numbers, "{matchers:?}");
    let mut labels = Vec::new();
    part.labels_of(&numbers, &mut labels).unwrap();
    let expected: Vec<&Labels> = numbers.iter().map(|&n| &series[n as usize].0).collect();
    assert_eq!(labels.iter().collect::<Vec<_>>(), expected);
    let mut values: BTreeMap<String, std::collections::BTreeSet<String>> = BTreeMap::new();
    for labels in expected {
        for (name, value) in labels {
            values.entry(name.into()).or_default().insert(value.into());
        }
    }
    assert_eq!(part.label_names(matchers).unwrap(), values.keys().cloned().collect::<Vec<_>>());
    for name in ["__name__", "a", "none"] {
        let expected: Vec<String> = values.get(name).into_iter().flatten().cloned().collect();
        assert_eq!(part.label_values(name, matchers).unwrap(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_part_answers_as_the_model_does(
        series in model(),
        matchers in prop::collection::vec(matchers(), 1..8),
        ranges in prop::collection::vec((900..3000i64, 0..2500i64), 1..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (path, info) = write(dir.path(), spec(1), &series, &[]);
        let part = Part::open(&RealDisk, &path).unwrap();
        assert_eq!(part.info(), &info);
        assert_eq!(info.series as usize, series.len());
        assert_eq!(info.bytes, std::fs::metadata(&path).unwrap().len());
        check_samples(&part, &series, i64::MIN, i64::MAX);
        for (start, len) in ranges {
            check_samples(&part, &series, start, start + len);
        }
        for matchers in matchers {
            check_labels(&part, &series, &matchers);
        }
        check_labels(&part, &series, &[]);
        assert!(part.verify().is_empty(), "{:?}", part.verify());
    }

    #[test]
    fn histograms_come_back_bit_for_bit(histograms in prop::collection::vec(histogram(), 1..8), repeat in any::<bool>()) {
        let mut bytes = Vec::new();
        let mut previous: Option<&Histogram> = None;
        let twice: Vec<&Histogram> = histograms.iter().flat_map(|h| std::iter::repeat_n(h, 1 + usize::from(repeat))).collect();
        for histogram in &twice {
            histograms::encode_histogram(histogram, previous, &mut bytes);
            previous = Some(histogram);
        }
        let mut reader = stdx::bytes::Cursor::new(&bytes);
        let mut before: Option<Histogram> = None;
        for histogram in twice {
            let back = histograms::decode_histogram(&mut reader, before.as_ref()).unwrap();
            let encode = |h: &Histogram| { let mut out = Vec::new(); histograms::encode_histogram(h, None, &mut out); out };
            assert_eq!(encode(&back), encode(histogram));
            before = Some(back);
        }
        assert_eq!(reader.remaining(), 0);
    }
}

/// A part with something in every section: two targets, a late comer, odd values, histograms, starts.
pub(crate) fn sample() -> (Model, Vec<(&'static str, Metadata)>) {
    let mut series = Model::new();
    for target in 0..2i64 {
        let times: Arc<[i64]> =
            (0..600).map(|i| 1_700_000_000_000 + i * 15_000 + (i * 7 + target) % 5).collect();
        let labels = |name: &str, more: &[(&str, &str)]| {
            let instance = format!("host-{target}:9100");
            let base = [("__name__", name), ("instance", &instance), ("job", "node")];
            Labels::from_pairs(base.into_iter().chain(more.iter().copied()))
        };
        let mut add = |labels, values: Vec<f64>, starts: bool| {
            let times = if values.len() == times.len() {
                times.clone()
            } else {
                times[times.len() - values.len()..].into()
            };
            let start_times = starts.then(|| Arc::from(vec![1_699_999_000_000; times.len()]));
            series.push((labels, Column { times, values, start_times, ..Column::default() }));
        };
        add(labels("up", &[]), vec![1.0; 600], false);
        add(
            labels("cpu_seconds_total", &[("cpu", "0")]),
            (0..600).map(|i| f64::from(i * i % 97 + i * 15) / 100.0).collect(),
            true,
        );
        add(
            labels("cpu_seconds_total", &[("cpu", "1")]),
            (0..600).map(|i| f64::from(i * i % 97 + i * 15) / 100.0).collect(),
            true,
        );
        add(
            labels("late", &[]),
            (0..100).map(|i| if i == 50 { f64::NAN } else { f64::from(i) * 4096.0 }).collect(),
            false,
        );
        let histogram = |i: i64| {
            Arc::new(Histogram {
                schema: 3,
                sum: i as f64 * 0.25,
                positive_spans: vec![Span { offset: -2, length: 3 }],
                buckets: Buckets::Int {
                    count: 3 * i as u64,
                    zero_count: 0,
                    positive: vec![i, 0, 0],
                    negative: vec![],
                },
                ..Histogram::stale()
            })
        };
        if target == 0 {
            let histograms =
                times.iter().take(130).enumerate().map(|(i, &t)| (t, histogram(i as i64))).collect();
            series.push((labels("latency", &[]), Column { histograms, ..Column::default() }));
        }
    }
    series.sort_by(|a, b| part_order(&a.0, &b.0));
    let metadata =
        |metric_type, unit: &str, help: &str| Metadata { metric_type, unit: unit.into(), help: help.into() };
    let metadata = vec![
        ("cpu_seconds_total", metadata(MetricType::Counter, "seconds", "time spent")),
        ("latency", metadata(MetricType::Histogram, "", "")),
        ("latency", metadata(MetricType::Gauge, "", "said by an older version")),
        ("latency", metadata(MetricType::Histogram, "", "")),
    ];
    (series, metadata)
}

#[test]
fn the_sample_part_is_small_and_shares_its_times() {
    let dir = tempfile::tempdir().unwrap();
    let (series, metadata) = sample();
    let (path, info) = write(dir.path(), spec(2), &series, &metadata);
    assert_eq!((info.samples, info.histograms, info.series), (2 * 1900, 130, 9));
    assert!(info.bytes < 5000, "{} bytes", info.bytes);
    let part = Part::open(&RealDisk, &path).unwrap();
    check_samples(&part, &series, i64::MIN, i64::MAX);
    let cpus = part.select(&[Matcher::equal("__name__", "cpu_seconds_total")]).unwrap();
    let cpus: Vec<u32> = cpus.iter().collect();
    for (start, end) in [(0, i64::MAX), (1_700_000_100_000, 1_700_001_000_000)] {
        let mut columns = Vec::new();
        part.load(&cpus, start, end, &mut columns).unwrap();
        part.load(&cpus, start, end, &mut columns).unwrap();
        // In part order: cpu 0 of both hosts, then cpu 1 of both.
        for other in [2, 4, 6] {
            assert!(Arc::ptr_eq(&columns[0].times, &columns[other].times), "{start} {other}");
            assert!(!Arc::ptr_eq(&columns[0].times, &columns[other + 1].times), "{start} {other}");
        }
        assert!(Arc::ptr_eq(
            columns[0].start_times.as_ref().unwrap(),
            columns[1].start_times.as_ref().unwrap()
        ));
    }
    let metadata = part.metadata().unwrap();
    assert_eq!(metadata.len(), 2);
    assert_eq!(metadata[1].1.len(), 2);
    assert_eq!(metadata[1].1[1].help, "said by an older version");
}

#[test]
fn an_empty_part_answers_with_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, info) = write(dir.path(), spec(3), &Vec::new(), &[]);
    assert!(info.min_ms > info.max_ms);
    let part = Part::open(&RealDisk, &path).unwrap();
    assert!(part.select(&[]).unwrap().is_empty());
    assert!(part.label_names(&[]).unwrap().is_empty());
    assert!(part.label_values("a", &[]).unwrap().is_empty());
    assert!(part.metadata().unwrap().is_empty());
    assert!(part.verify().is_empty());
}

#[test]
fn the_writer_keeps_its_rules_and_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let (series, _) = sample();
    let disk = RealDisk;
    {
        let mut writer = PartWriter::create(&disk, dir.path(), spec(4)).unwrap();
        writer.add_series(&series[1].0, &series[1].1).unwrap();
        let again = writer.add_series(&series[1].0, &series[1].1).unwrap_err();
        assert!(again.to_string().contains("out of order"), "{again}");
        let short = Column { times: series[2].1.times.clone(), ..Column::default() };
        let short = writer.add_series(&series[2].0, &short).unwrap_err();
        assert!(short.to_string().contains("differ in length"), "{short}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn newer_versions_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (series, metadata) = sample();
    let (path, _) = write(dir.path(), spec(5), &series, &metadata);
    let bytes = std::fs::read(&path).unwrap();
    let edit = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        edit(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        Part::open(&RealDisk, &path)
    };
    let newer = edit(&|bytes| {
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    });
    let newer = newer.unwrap_err().to_string();
    assert!(newer.ends_with("format 2 is newer than this program's 1"), "{newer}");
    // A section of an unknown id, first optional, then required.
    let swap_id = |bytes: &mut Vec<u8>, from: [u8; 3], to: [u8; 3]| {
        let footer = bytes.len() - layout::FOOTER_LEN;
        let at = u64::from_le_bytes(bytes[footer..footer + 8].try_into().unwrap()) as usize;
        let found = (at..footer).find(|&i| bytes[i..i + 3] == from).unwrap();
        bytes[found..found + 3].copy_from_slice(&to);
        let tail = layout::encode_footer(at as u64, &bytes[at..footer]);
        bytes[footer..].copy_from_slice(&tail);
    };
    let skipped = edit(&|bytes| swap_id(bytes, [9, 1, 0], [99, 1, 0])).unwrap();
    assert!(skipped.metadata().unwrap().is_empty() && skipped.verify().is_empty());
    let refused = edit(&|bytes| swap_id(bytes, [9, 1, 0], [99, 1, 1])).unwrap_err().to_string();
    assert!(refused.ends_with("section 99 version 1 is required and not known to this program"), "{refused}");
    let cut = edit(&|bytes| bytes.truncate(bytes.len() - 1)).unwrap_err().to_string();
    assert!(cut.contains("section footer") && cut.ends_with("no magic at its end"), "{cut}");
}

#[test]
fn a_bad_page_takes_only_its_own_data_away() {
    let dir = tempfile::tempdir().unwrap();
    let times: Arc<[i64]> = (0..480).collect();
    let noise = |seed: u64| {
        (0..480u64)
            .map(|i| f64::from_bits(xxhash_rust::xxh3::xxh3_64(&(seed << 32 | i).to_le_bytes())))
            .collect()
    };
    let series: Model = (0..200u64)
        .map(|n| {
            (
                Labels::from_pairs([("n", format!("{n:04}"))]),
                Column { times: times.clone(), values: noise(n), ..Column::default() },
            )
        })
        .collect();
    let (path, _) = write(dir.path(), spec(7), &series, &[]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[layout::HEADER_LEN + 3 * layout::PAGE + 17] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
    let part = Part::open(&RealDisk, &path).unwrap();
    let (mut bad, mut columns) = (Vec::new(), Vec::new());
    for (number, (_, column)) in (0u32..).zip(&series) {
        columns.clear();
        match part.load(&[number], 0, 480, &mut columns) {
            Ok(()) => assert_eq!(bits(&columns[0]), bits(column)),
            Err(error) => bad.push((number, error.to_string())),
        }
    }
    assert!((16..=19).contains(&bad.len()), "{bad:?}");
    let place = format!(
        "part {}, section VAL, byte {}: the page fails its checksum",
        path.display(),
        64 + 3 * layout::PAGE
    );
    assert!(bad.iter().all(|(_, error)| *error == place), "{bad:?}");
    assert!(part.verify().iter().any(|error| error.to_string() == place));
    assert_eq!(part.select(&[Matcher::equal("n", "0100")]).unwrap().len(), 1);
}

/// Makes the golden part of a new version: `cargo test -p tsdb golden -- --ignored`.
#[test]
#[ignore = "writes testdata"]
fn write_the_golden_part() {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let (series, metadata) = sample_of_1_1();
    let (path, _) = write(&testdata, spec(0xc0ffee), &series, &metadata);
    std::fs::rename(path, testdata.join(format!("part-v{}.{}.mgp", layout::MAJOR, layout::MINOR))).unwrap();
}

/// The sample part with what version 1.1 has besides: start times of histograms.
fn sample_of_1_1() -> (Model, Vec<(&'static str, Metadata)>) {
    let (mut series, metadata) = sample();
    for (_, column) in series.iter_mut().filter(|(_, column)| !column.histograms.is_empty()) {
        let starts = (0..column.histograms.len()).map(|row| if row < 50 { 0 } else { 1_699_999_000_000 });
        column.histogram_starts = Some(starts.collect());
    }
    (series, metadata)
}

/// Histograms in columns, and with start times. As above: never replace the file.
#[test]
fn the_golden_part_of_version_1_1_reads_as_it_was_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/part-v1.1.mgp");
    let (series, metadata) = sample_of_1_1();
    let part = Part::open(&RealDisk, &path).unwrap();
    check_samples(&part, &series, i64::MIN, i64::MAX);
    check_labels(&part, &series, &[]);
    assert!(part.verify().is_empty());
    let dir = tempfile::tempdir().unwrap();
    let (again, _) = write(dir.path(), spec(0xc0ffee), &series, &metadata);
    assert!(
        std::fs::read(again).unwrap() == std::fs::read(path).unwrap(),
        "what is written today is the same"
    );
}

/// Parts of version 1 must be readable for ever. Written by `sample()`; never replace the file, add one.
#[test]
fn the_golden_part_of_version_1_reads_as_it_was_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/part-v1.mgp");
    let (series, metadata) = sample();
    let part = Part::open(&RealDisk, &path).unwrap();
    check_samples(&part, &series, i64::MIN, i64::MAX);
    check_labels(&part, &series, &[]);
    check_labels(&part, &series, &[Matcher::equal("cpu", "1")]);
    assert_eq!(part.metadata().unwrap()[0].1, [metadata[0].1.clone()]);
    assert!(part.verify().is_empty());
}

#[test]
fn many_series_and_values_span_pages() {
    let dir = tempfile::tempdir().unwrap();
    let times: Arc<[i64]> = (0..3).collect();
    let mut series: Model = Vec::new();
    for n in 0..9000u32 {
        let pairs = [
            ("__name__", format!("metric_{}", n % 3)),
            ("id", format!("/system.slice/some-rather-long-unit-name-{:05}.service", n / 3)),
            ("odd", if n % 7 == 0 { "yes".into() } else { String::new() }),
        ];
        let values = vec![f64::from(n), f64::from(n), f64::from(n % 5)];
        series
            .push((Labels::from_pairs(pairs), Column { times: times.clone(), values, ..Column::default() }));
    }
    series.sort_by(|a, b| part_order(&a.0, &b.0));
    let (path, _) = write(dir.path(), spec(8), &series, &[]);
    let part = Part::open(&RealDisk, &path).unwrap();
    check_samples(&part, &series, 1, 2);
    let matcher = |op, name: &str, value: &str| Matcher::new(op, name, value).unwrap();
    for matchers in [
        vec![],
        vec![Matcher::equal("id", "/system.slice/some-rather-long-unit-name-01234.service")],
        vec![Matcher::equal("odd", "yes"), matcher(MatchOp::Regex, "id", ".*name-01.*")],
        vec![matcher(MatchOp::NotEqual, "odd", "yes"), matcher(MatchOp::Regex, "__name__", "metric_[02]")],
        vec![matcher(MatchOp::NotRegex, "id", ".*[02468].service"), Matcher::equal("__name__", "metric_1")],
        vec![matcher(MatchOp::Equal, "odd", "")],
        vec![matcher(MatchOp::Regex, "odd", ".+"), matcher(MatchOp::NotRegex, "id", "")],
    ] {
        check_labels(&part, &series, &matchers);
    }
    assert!(part.verify().is_empty());
}
