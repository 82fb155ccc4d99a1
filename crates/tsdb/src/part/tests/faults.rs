//! Parts on disks that flip bytes, die, fill up and lose what was not synced.

use roaring::RoaringBitmap;
use stdx::disk::{Disk, FakeDisk, Survivors};

use super::*;

/// Everything a part can be asked.
#[derive(Debug, PartialEq)]
struct Dump {
    info: PartInfo,
    labels: Vec<Labels>,
    columns: Vec<Bits>,
    selected: RoaringBitmap,
    texts: [Vec<String>; 2],
    metadata: Vec<(String, Vec<Metadata>)>,
}

/// Asks everything, or gives the first error.
fn dump(part: &Part) -> Result<Dump, PartError> {
    let all: Vec<u32> = part.select(&[])?.iter().collect();
    let (mut labels, mut columns) = (Vec::new(), Vec::new());
    part.labels_of(&all, &mut labels)?;
    part.load(&all, i64::MIN, i64::MAX, &mut columns)?;
    let matchers = [Matcher::equal("job", "node"), Matcher::new(MatchOp::NotRegex, "cpu", "1.*").unwrap()];
    Ok(Dump {
        info: part.info().clone(),
        labels,
        columns: columns.iter().map(bits).collect(),
        selected: part.select(&matchers)?,
        texts: [part.label_names(&[])?, part.label_values("instance", &[])?],
        metadata: part.metadata()?,
    })
}

const DIR: &str = "/parts";

fn write_on(disk: &FakeDisk, series: &Model) -> Result<PartInfo, PartError> {
    let mut writer = PartWriter::create(disk, Path::new(DIR), spec(6))?;
    for (labels, column) in series {
        writer.add_series(labels, column)?;
    }
    for (metric, metadata) in &sample().1 {
        writer.add_metadata(metric, metadata);
    }
    writer.finish()
}

fn path() -> PathBuf {
    Path::new(DIR).join(file_name(spec(6).id))
}

#[test]
fn any_flipped_byte_is_an_error_or_changes_nothing() {
    let disk = FakeDisk::new(Path::new(DIR));
    let info = write_on(&disk, &sample().0).unwrap();
    let truth = dump(&Part::open(&disk, &path()).unwrap()).unwrap();
    let mut errors = 0;
    for at in 0..info.bytes {
        assert!(disk.flip_byte(&path(), at));
        match Part::open(&disk, &path()).and_then(|part| dump(&part)) {
            Ok(answer) => assert!(answer == truth, "byte {at} changes the answer"),
            Err(error) => {
                errors += 1;
                assert!(error.to_string().contains(&path().display().to_string()), "{error}");
            }
        }
        disk.flip_byte(&path(), at);
    }
    // All bytes are covered by some checksum, and all sections are asked.
    assert_eq!(errors, info.bytes);
}

#[test]
fn a_part_is_there_whole_or_not_at_all() {
    let (series, _) = sample();
    let quiet = FakeDisk::new(Path::new(DIR));
    write_on(&quiet, &series).unwrap();
    let truth = dump(&Part::open(&quiet, &path()).unwrap()).unwrap();
    let check = |name: &str, disk: &FakeDisk, finished: bool| match Part::open(disk, &path()) {
        Ok(part) => {
            assert_eq!(
                part.verify().iter().map(ToString::to_string).collect::<Vec<_>>(),
                Vec::<String>::new()
            );
            assert!(dump(&part).unwrap() == truth, "{name}");
        }
        Err(error) => assert!(!finished && !disk.exists(&path()), "{name}: {error}"),
    };
    for operation in 0..=quiet.operations() {
        let disk = FakeDisk::new(Path::new(DIR));
        disk.die_at(operation);
        let finished = write_on(&disk, &series).is_ok();
        assert_eq!(finished, operation >= quiet.operations(), "operation {operation}");
        check("killed", &disk.after_kill(), finished);
        for survivors in [Survivors::Nothing, Survivors::Some(operation), Survivors::All] {
            check("power cut", &disk.after_power_cut(survivors), finished);
        }
    }
}

#[test]
fn a_refused_write_is_an_error_and_leaves_nothing() {
    let (series, _) = sample();
    let quiet = FakeDisk::new(Path::new(DIR));
    write_on(&quiet, &series).unwrap();
    for operation in 0..quiet.operations() {
        let disk = FakeDisk::new(Path::new(DIR));
        disk.fail_at(operation);
        let Err(error) = write_on(&disk, &series) else { panic!("operation {operation} failed unseen") };
        assert!(matches!(error, PartError::Io { .. }), "{error}");
        assert!(disk.files().is_empty(), "operation {operation}: {error} leaves {:?}", disk.files());
    }
    let disk = FakeDisk::new(Path::new(DIR));
    disk.set_capacity(Some(1000));
    assert!(matches!(write_on(&disk, &series), Err(PartError::Io { .. })));
    assert!(disk.files().is_empty());
}

#[test]
fn many_distinct_time_columns_pass_through_a_spool() {
    let disk = FakeDisk::new(Path::new(DIR));
    let column = |n: u64| {
        let mut time = 0;
        let step = |i: u64| (xxhash_rust::xxh3::xxh3_64(&(n << 32 | i).to_le_bytes()) >> 24) as i64;
        let times: Arc<[i64]> = (0..5000)
            .map(|i| {
                time += 1 + step(i);
                time
            })
            .collect();
        Column { values: vec![n as f64; times.len()], times, ..Column::default() }
    };
    let series: Model =
        (0..200).map(|n| (Labels::from_pairs([("n", format!("{n:03}"))]), column(n))).collect();
    let info = write_on(&disk, &series).unwrap();
    assert!(info.bytes > 4 << 20, "{} bytes do not fill the spool", info.bytes);
    assert_eq!(disk.files().len(), 1);
    let part = Part::open(&disk, &path()).unwrap();
    check_samples(&part, &series, i64::MIN, i64::MAX);
    let few: Model = series[..20].to_vec();
    let mut columns = Vec::new();
    part.load(&(0..20).collect::<Vec<_>>(), 1 << 50, 1 << 51, &mut columns).unwrap();
    for ((_, column), loaded) in few.iter().zip(&columns) {
        assert_eq!(bits(loaded), bits(&clipped(column, 1 << 50, 1 << 51)));
    }
}
