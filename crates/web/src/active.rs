//! Which queries are being evaluated, in a file that outlives the process: when the program died of one,
//! the next start can say which it may have been.
//!
//! The file has the form that Prometheus gives it: `[`, then a slot of 1,000 bytes for each query that can
//! run at once, with an object of JSON, zeros, and a comma; a free slot is all zeros. Slots are written in
//! place and never synced: what matters is the death of the process, not that of the machine.
//!
//! Source: Prometheus `promql/query_logger.go`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;

use crate::json;

/// Bytes of a slot.
const SLOT: usize = 1000;
/// Most slots, however many queries may run; further ones are not written down.
const SLOTS_MAX: usize = 1000;

/// The queries being evaluated.
#[derive(Debug, Default)]
pub struct ActiveQueries {
    /// None: nothing is written down.
    file: Option<File>,
    /// Slots that nobody uses.
    free: Mutex<Vec<usize>>,
}

impl ActiveQueries {
    /// Opens the file at `path` anew, with `slots` slots. Also gives the queries, as JSON, that stood in it:
    /// those that the process before this one did not finish.
    ///
    /// # Errors
    /// The file cannot be read, made or written.
    pub fn open(path: &Path, slots: usize) -> io::Result<(ActiveQueries, Vec<String>)> {
        let unfinished = unfinished(path)?;
        let slots = slots.clamp(1, SLOTS_MAX);
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
        file.set_len((1 + slots * SLOT) as u64)?;
        file.write_all_at(b"[", 0)?;
        Ok((ActiveQueries { file: Some(file), free: Mutex::new((0..slots).rev().collect()) }, unfinished))
    }

    /// Writes down that `query` is being evaluated, until what it gives is dropped. `now_ms` is
    /// milliseconds since the epoch.
    pub(crate) fn begin(&self, query: &str, now_ms: i64) -> Active<'_> {
        let slot = self.file.is_some().then(|| self.lock().pop()).flatten();
        let active = Active { queries: self, slot };
        if let Some(slot) = slot {
            self.write(slot, &entry(query, now_ms / 1000));
        }
        active
    }

    fn write(&self, slot: usize, bytes: &[u8; SLOT]) {
        let at = 1 + slot as u64 * SLOT as u64;
        if let Some(Err(error)) = self.file.as_ref().map(|file| file.write_all_at(bytes, at)) {
            // a query matters more than its note
            tracing::debug!(%error, "write down an active query");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A query under way.
#[derive(Debug)]
pub(crate) struct Active<'a> {
    queries: &'a ActiveQueries,
    slot: Option<usize>,
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.queries.write(slot, &[0; SLOT]);
            self.queries.lock().push(slot);
        }
    }
}

/// A slot with `query`, cut where it is too long.
fn entry(query: &str, seconds: i64) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    let mut end = query.len().min(SLOT);
    loop {
        end = query.floor_char_boundary(end);
        let mut out = Vec::with_capacity(SLOT);
        let mut object = json::Object::new(&mut out);
        object.text("query", &query[..end]);
        object.integer("timestamp_sec", seconds);
        object.end();
        if out.len() < SLOT {
            slot[..out.len()].copy_from_slice(&out);
            slot[SLOT - 1] = b',';
            return slot;
        }
        // escapes take up to six bytes for one
        end = end.saturating_sub((out.len() - SLOT) / 6 + 1);
    }
}

/// The entries of a file that was left behind; none when there is no such file.
fn unfinished(path: &Path) -> io::Result<Vec<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take((1 + SLOTS_MAX * SLOT) as u64).read_to_end(&mut bytes)?;
    let slots = bytes.get(1..).unwrap_or_default().chunks(SLOT);
    let texts = slots.map(|slot| {
        let end = slot.iter().position(|byte| *byte == 0).unwrap_or(slot.len());
        String::from_utf8_lossy(&slot[..end]).trim_end_matches(',').to_owned()
    });
    Ok(texts.filter(|text| !text.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_finished_is_found_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("queries.active");
        let (queries, before) = ActiveQueries::open(&path, 2).expect("open");
        assert_eq!(before, Vec::<String>::new());
        let first = queries.begin("up{a=\"b\"}", 7_500);
        let second = queries.begin("rate(x[5m])", 8_000);
        let without_a_slot = queries.begin("third", 9_000);
        drop(first);
        let third = queries.begin("fourth", 9_000);
        assert_eq!(std::fs::metadata(&path).expect("a file").len(), 2001);
        drop(without_a_slot);
        std::mem::forget((second, third));
        let (queries, before) = ActiveQueries::open(&path, 2).expect("open again");
        assert_eq!(
            before,
            [r#"{"query":"fourth","timestamp_sec":9}"#, r#"{"query":"rate(x[5m])","timestamp_sec":8}"#]
        );
        drop(queries);
        let (_, before) = ActiveQueries::open(&path, 2).expect("open once more");
        assert_eq!(before, Vec::<String>::new(), "all were finished");
    }

    #[test]
    fn long_queries_are_cut_between_characters() {
        for query in ["x".repeat(5000), "\u{e9}".repeat(700), "\"".repeat(990), "\u{1}".repeat(900)] {
            let slot = entry(&query, 1);
            let end = slot.iter().position(|byte| *byte == 0).unwrap_or(SLOT - 1);
            let text = std::str::from_utf8(&slot[..end]).expect("UTF-8");
            let json: serde_json::Value = serde_json::from_str(text.trim_end_matches(',')).expect("JSON");
            let kept = json["query"].as_str().expect("a query");
            assert!(query.starts_with(kept) && end > SLOT - 20, "{end}");
            assert_eq!(slot[SLOT - 1], b',');
        }
    }

    #[test]
    fn anything_may_stand_in_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("queries.active");
        for bytes in [&b""[..], b"[", b"\0\0", &[0xff; 1500], &[0; 3000]] {
            std::fs::write(&path, bytes).expect("write");
            let (_, before) = ActiveQueries::open(&path, 1).expect("open");
            assert!(before.len() <= 2, "{before:?}");
        }
    }

    #[test]
    fn without_a_file_nothing_is_written_down() {
        drop(ActiveQueries::default().begin("up", 0));
    }
}
