//! Whole blocks: written, read, damaged.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use blocks::segments::Window;
use blocks::tombstones::Tombstones;
use blocks::{Block, BlockError, BlockSpec, BlockWriter, Samples, find_blocks};
use expect_test::expect;
use model::histogram::{Buckets, Span};
use model::{Histogram, Labels};
use stdx::disk::RealDisk;
use ulid::Ulid;

fn labels(text: &str) -> Labels {
    Labels::from_pairs(text.split(',').map(|pair| pair.split_once('=').expect("name=value")))
}

fn histogram(count: u64) -> Arc<Histogram> {
    let (positive, negative) = (vec![count as i64, 1], Vec::new());
    let buckets = Buckets::Int { count: 2 * count + 1, zero_count: 0, positive, negative };
    let positive_spans = vec![Span { offset: 0, length: 2 }];
    Arc::new(Histogram { sum: count as f64, schema: 1, positive_spans, buckets, ..Histogram::stale() })
}

/// A small block with all there is: floats over several chunks, histograms, UTF-8 names.
fn write_small(parent: &Path, segment_bytes_max: u64) -> Ulid {
    let ulid = Ulid::from_parts(1_700_000_000_000, 7);
    let spec = BlockSpec { segment_bytes_max, ..BlockSpec::new(ulid) };
    let mut writer = BlockWriter::create(&RealDisk, parent, spec).expect("created");
    let times: Vec<i64> = (0..200).map(|at| at * 15_000).collect();
    let values: Vec<f64> = (0..200).map(|at| f64::from(at % 7 / 4)).collect();
    let histograms: Vec<_> = (0..30).map(|at| (at * 15_000 + 7, histogram(at as u64))).collect();
    writer.add(&labels("__name__=a,job=x"), &times, &values, &[]).expect("added");
    writer.add(&labels("__name__=b,größe=µ"), &times[..3], &values[..3], &histograms).expect("added");
    writer.add(&labels("__name__=none"), &[], &[], &[]).expect("added nothing");
    writer.add(&labels("__name__=z,job=x"), &times[..1], &[model::stale_nan()], &[]).expect("added");
    let meta = writer.finish().expect("finished").expect("a block");
    assert_eq!((meta.min_time, meta.max_time), (0, 199 * 15_000 + 1));
    assert_eq!((meta.stats.num_series, meta.stats.num_samples, meta.stats.num_chunks), (3, 234, 9));
    ulid
}

/// Everything of a block, as text, and what is damaged.
fn read(dir: &Path) -> Result<(String, Vec<String>), BlockError> {
    let block = Block::open(&RealDisk, dir)?;
    let (mut text, mut damage) = (String::new(), Vec::new());
    let (mut samples, mut window) = (Samples::default(), Window::default());
    for series in block.series() {
        match series {
            Ok(series) => {
                block.samples(&series, i64::MIN..=i64::MAX, &mut window, &mut samples, |error| {
                    damage.push(error.to_string())
                });
                let sum: f64 =
                    samples.values.iter().filter(|value| !value.is_nan()).fold(0.0, |sum, value| sum + value);
                let counts: f64 = samples
                    .histograms
                    .iter()
                    .map(|(_, histogram)| histogram.count())
                    .fold(0.0, |sum, count| sum + count);
                text += &format!(
                    "{} {} chunks, {} floats {sum:.3}, {} histograms {counts}\n",
                    series.labels,
                    series.chunks.len(),
                    samples.times.len(),
                    samples.histograms.len()
                );
            }
            Err(error) => damage.push(error.to_string()),
        }
    }
    if let Err(error) = block.index().postings(|_, _, _| {}) {
        damage.push(error.to_string());
    }
    Ok((text, damage))
}

const WHOLE: &str = r#"{__name__="a", job="x"} 2 chunks, 200 floats 84.000, 0 histograms 0
{__name__="b", "größe"="µ"} 6 chunks, 3 floats 0.000, 30 histograms 900
{__name__="z", job="x"} 1 chunks, 1 floats 0.000, 0 histograms 0
"#;

#[test]
fn a_block_comes_back() {
    let parent = tempfile::tempdir().expect("a directory");
    let ulid = write_small(parent.path(), 512 << 20);
    let dir = parent.path().join(ulid.to_string());
    assert_eq!(find_blocks(&RealDisk, parent.path()).expect("listed"), std::slice::from_ref(&dir));
    assert_eq!(find_blocks(&RealDisk, &dir).expect("listed"), std::slice::from_ref(&dir));
    let (text, damage) = read(&dir).expect("opened");
    assert_eq!((text.as_str(), damage), (WHOLE, vec![]));
    let block = Block::open(&RealDisk, &dir).expect("opened");
    let mut lists = String::new();
    let visited = block.index().postings(|name, value, series| {
        lists += &format!("{name}={value} {series:?}\n");
    });
    visited.expect("sound postings");
    expect![[r#"
        = [4, 6, 9]
        __name__=a [4]
        __name__=b [6]
        __name__=z [9]
        größe=µ [6]
        job=x [4, 9]
    "#]]
    .assert_eq(&lists);
    for series in block.series() {
        let series = series.expect("sound");
        assert_eq!(block.index().series_at(series.id).expect("found"), series);
    }
}

#[test]
fn segments_end_before_they_are_too_long() {
    let parent = tempfile::tempdir().expect("a directory");
    let ulid = write_small(parent.path(), 300);
    let dir = parent.path().join(ulid.to_string());
    assert_eq!(read(&dir).expect("opened"), (WHOLE.to_owned(), vec![]));
    let segments = fs::read_dir(dir.join("chunks")).expect("listed").count();
    assert!(segments > 1, "{segments} files");
}

#[test]
fn deleted_samples_are_not_read() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join(write_small(parent.path(), 512 << 20).to_string());
    fs::remove_file(dir.join("tombstones")).expect("removed");
    let mut tombstones = Tombstones::default();
    tombstones.add(4, 15_000, 45_000);
    tombstones.add(9, i64::MIN, i64::MAX);
    tombstones.write(&RealDisk, &dir).expect("written");
    assert_eq!(Tombstones::read(&RealDisk, &dir).expect("read"), tombstones);
    let (text, damage) = read(&dir).expect("opened");
    assert!(text.contains("197 floats") && text.contains(" 0 floats") && damage.is_empty(), "{text}");
}

#[test]
fn what_is_out_of_order_is_refused() {
    let parent = tempfile::tempdir().expect("a directory");
    let spec = BlockSpec::new(Ulid::from_parts(1, 1));
    let mut writer = BlockWriter::create(&RealDisk, parent.path(), spec).expect("created");
    writer.add(&labels("__name__=b"), &[1], &[1.0], &[]).expect("added");
    let mut check =
        |name: &str, times: &[i64], values: &[f64], histograms: &[(i64, Arc<Histogram>)], want: &str| {
            let refused = writer.add(&labels(name), times, values, histograms).expect_err(want).to_string();
            assert!(refused.ends_with(want), "{refused}");
        };
    check("__name__=b", &[1], &[1.0], &[], "series {__name__=\"b\"} is there already, or out of order");
    check("__name__=a", &[1], &[1.0], &[], "series {__name__=\"a\"} is there already, or out of order");
    check("__name__=c", &[1, 1], &[1.0, 2.0], &[], "the times of series {__name__=\"c\"} do not ascend");
    check(
        "__name__=c",
        &[2],
        &[2.0],
        &[(2, histogram(1))],
        "the times of series {__name__=\"c\"} do not ascend",
    );
    check("__name__=c", &[2], &[], &[], "series {__name__=\"c\"} has 1 times for 0 values");
    let meta = writer.finish().expect("finished").expect("a block");
    assert_eq!(meta.stats.num_series, 1);
}

#[test]
fn a_writer_that_gives_up_leaves_nothing() {
    let parent = tempfile::tempdir().expect("a directory");
    let create = || {
        let spec = BlockSpec::new(Ulid::from_parts(1, 1));
        BlockWriter::create(&RealDisk, parent.path(), spec).expect("created")
    };
    let mut writer = create();
    writer.add(&labels("__name__=b"), &[1], &[1.0], &[]).expect("added");
    drop(writer);
    assert_eq!(create().finish().expect("finished"), None);
    assert_eq!(fs::read_dir(parent.path()).expect("listed").count(), 0);
}

/// Every file of a small block, cut anywhere and with bits of every byte turned over: an error that names the file,
/// or what is there, but never a panic, and never samples that were not written.
#[test]
fn damage_anywhere_is_told_and_survived() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join(write_small(parent.path(), 512 << 20).to_string());
    for name in ["meta.json", "index", "chunks/000001", "tombstones"] {
        let path = dir.join(name);
        let whole = fs::read(&path).expect("read");
        let mut unnoticed = 0;
        let mut check = |bytes: &[u8], what: &str| {
            fs::write(&path, bytes).expect("written");
            match read(&dir) {
                Err(error) => {
                    assert!(
                        error.to_string().contains(name.trim_start_matches("chunks/")),
                        "{what} of {name}: {error}"
                    );
                }
                Ok((text, damage)) => {
                    unnoticed += usize::from(damage.is_empty());
                    let invented = text.lines().find(|line| {
                        // Lines of series that lost something are shorter, never different otherwise.
                        !WHOLE.contains(line) && damage.is_empty()
                    });
                    assert_eq!(invented, None, "{what} of {name}: {damage:?}");
                }
            }
        };
        for len in 0..whole.len() {
            check(&whole[..len], &format!("first {len} bytes"));
        }
        for at in 0..whole.len() {
            let mask = if at % 3 == 0 { 0xff } else { 1u8 << (at * 5 % 8) };
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            check(&bytes, &format!("byte {at} ^ {mask:#04x}"));
        }
        fs::write(&path, &whole).expect("written");
        // Only what nobody reads is free to change: names of figures, label indices, padding.
        let free = if name == "meta.json" { usize::MAX } else { 300 };
        assert!(unnoticed <= free, "{unnoticed} changes of {name} went unnoticed");
    }
    assert_eq!(read(&dir).expect("opened"), (WHOLE.to_owned(), vec![]));
}

#[test]
fn one_damaged_series_does_not_take_the_others_away() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join(write_small(parent.path(), 512 << 20).to_string());
    let path = dir.join("index");
    let mut index = fs::read(&path).expect("read");
    // In the entry of the second series.
    index[6 * 16 + 3] ^= 0x55;
    fs::write(&path, &index).expect("written");
    let (text, damage) = read(&dir).expect("opened");
    assert_eq!(text.lines().count(), 2, "{text}");
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert!(damage[0].ends_with("index, byte 96: the series fails its checksum"), "{damage:?}");
}
