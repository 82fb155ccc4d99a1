//! The recorded exposition: 250 rows of 1,307 series, truly 15 s apart, of a node_exporter and a
//! Prometheus server. It stands beside the workspace, not in it; tests skip what needs it where it
//! is not there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Series in a row.
pub const SERIES: usize = 1307;

/// The recording.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Exposition text with `@N` in place of the value of column N.
    pub exposition: String,
    /// Rows of [`SERIES`] values.
    pub rows: Vec<Vec<f64>>,
}

/// The directory of shared data, when it stands beside the workspace.
pub fn shared_data() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.parent()?;
    let directory = workspace.parent()?.join("shared/data");
    directory.is_dir().then_some(directory)
}

/// Reads the recording; `None` where there is none.
///
/// # Errors
/// It is there and cannot be read.
pub fn load() -> Result<Option<Recorded>> {
    let Some(directory) = shared_data().map(|d| d.join("recorded")).filter(|d| d.is_dir()) else {
        return Ok(None);
    };
    let exposition =
        std::fs::read_to_string(directory.join("exposition.hdr")).context("read exposition.hdr")?;
    let packed = std::fs::read(directory.join("values-15s.f64.zst")).context("read values-15s.f64.zst")?;
    let bytes = zstd::decode_all(packed.as_slice()).context("unpack values-15s.f64.zst")?;
    if bytes.len() % (SERIES * 8) != 0 {
        bail!("values-15s.f64.zst holds {} bytes, not whole rows", bytes.len());
    }
    let value = |chunk: &[u8]| f64::from_le_bytes(chunk.try_into().expect("eight bytes"));
    let rows = bytes.chunks(SERIES * 8).map(|row| row.chunks(8).map(value).collect()).collect();
    Ok(Some(Recorded { exposition, rows }))
}

impl Recorded {
    /// The exposition text of row `at` (rows repeat).
    pub fn text(&self, at: usize) -> String {
        let row = &self.rows[at % self.rows.len()];
        let mut out = String::with_capacity(self.exposition.len() + SERIES * 12);
        for line in self.exposition.lines() {
            match line.rsplit_once(" @") {
                Some((series, column)) if !line.starts_with('#') => {
                    let column: usize = column.parse().expect("a column number");
                    out.push_str(series);
                    out.push(' ');
                    out.push_str(&model::number::format_general(row[column]));
                }
                _ => out.push_str(line),
            }
            out.push('\n');
        }
        out
    }
}
