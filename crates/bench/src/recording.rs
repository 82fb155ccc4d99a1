//! A recording that is a directory of expositions: a gzip file for each scrape, named by when it was, in
//! milliseconds.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use testkit::recorded::Recorded;

/// Reads the directory: a row for each file, in order of time, of the series that all of them have. Where a
/// file has a series twice (expositions of two programs, one behind the other), the second gets a label.
///
/// # Errors
/// A file cannot be read; there are none, or no series is in all of them.
pub(crate) fn read(directory: &Path) -> Result<Recorded> {
    let mut files: Vec<(i64, PathBuf)> = std::fs::read_dir(directory)
        .with_context(|| format!("list {}", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.parse().ok()?, path)))
        .collect();
    files.sort();
    let scrapes: Vec<HashMap<String, f64>> =
        files.iter().map(|(_, path)| scrape(path)).collect::<Result<_>>()?;
    let first = scrapes.first().with_context(|| format!("{} has no scrapes", directory.display()))?;
    let mut series: Vec<&String> =
        first.keys().filter(|series| scrapes.iter().all(|scrape| scrape.contains_key(*series))).collect();
    series.sort();
    ensure!(!series.is_empty(), "no series is in all scrapes of {}", directory.display());
    let rows = scrapes.iter().map(|scrape| series.iter().map(|series| scrape[*series]).collect()).collect();
    let line = |(column, series): (usize, &&String)| format!("{series} @{column}\n");
    let exposition = series.iter().enumerate().map(line).collect();
    Ok(Recorded { exposition, rows })
}

/// The samples of one file, by series as the exposition writes them.
fn scrape(path: &Path) -> Result<HashMap<String, f64>> {
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    flate2::read::MultiGzDecoder::new(file)
        .read_to_string(&mut text)
        .with_context(|| format!("unpack {}", path.display()))?;
    let mut samples = HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line}"))?;
        let value: f64 = value.parse().with_context(|| format!("no value: {line}"))?;
        let mut name = series.to_owned();
        if samples.contains_key(&name) {
            name = match series.strip_suffix('}') {
                Some(labels) => format!("{labels},exporter=\"second\"}}"),
                None => format!("{series}{{exporter=\"second\"}}"),
            };
        }
        samples.insert(name, value);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn rows_are_what_all_scrapes_have() {
        let directory = tempfile::tempdir().unwrap();
        let texts =
            ["# TYPE a gauge\na 1\nb{x=\"y z\"} NaN\na 2\ngone 5\n", "b{x=\"y z\"} +Inf\na 3\na 4e+02\n"];
        for (at, text) in texts.iter().enumerate() {
            let file = std::fs::File::create(directory.path().join(format!("{}.gz", 1000 + at))).unwrap();
            let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::default());
            packed.write_all(text.as_bytes()).unwrap();
            packed.finish().unwrap();
        }
        let recorded = read(directory.path()).unwrap();
        assert_eq!(recorded.exposition, "a @0\na{exporter=\"second\"} @1\nb{x=\"y z\"} @2\n");
        assert_eq!(recorded.rows.len(), 2);
        assert_eq!(recorded.rows[0][..2], [1.0, 2.0]);
        assert!(recorded.rows[0][2].is_nan());
        assert_eq!(recorded.rows[1], [3.0, 400.0, f64::INFINITY]);
    }
}
