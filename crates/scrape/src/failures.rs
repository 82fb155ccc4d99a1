//! Files to which failed scrapes are logged, one line of JSON each.
//!
//! Jobs that name the same file share it. A reload opens it anew, so that it may be moved away.
//!
//! Source: Prometheus `scrape_failure_log_file`, `util/logging`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// A file that is being written to.
#[derive(Debug)]
pub(crate) struct FailureLog {
    path: PathBuf,
    file: Mutex<File>,
}

impl FailureLog {
    /// Writes one failure; what cannot be written is told to the program's log.
    pub(crate) fn write(&self, now_ms: i64, job: &str, target: &str, message: &str) {
        let (mut line, texts) =
            (String::with_capacity(256), [("msg", message), ("job_name", job), ("target", target)]);
        line.push_str(&format!("{{\"time\":\"{}\",\"level\":\"ERROR\"", utc(now_ms)));
        for (key, text) in texts {
            line.push_str(&format!(",\"{key}\":{}", serde_json::Value::from(text)));
        }
        line.push_str("}\n");
        if let Err(e) = self.file.lock().write_all(line.as_bytes()) {
            tracing::warn!("write scrape failure log {}: {e}", self.path.display());
        }
    }
}

/// The files of all jobs, by path.
#[derive(Debug, Default)]
pub(crate) struct FailureLogs(Mutex<BTreeMap<PathBuf, Arc<FailureLog>>>);

impl FailureLogs {
    /// The files are now exactly those of `paths`, each opened anew.
    ///
    /// # Errors
    /// A file that cannot be opened; the message names it, and nothing has changed.
    pub(crate) fn open<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> Result<(), String> {
        let mut logs = self.0.lock();
        let mut opened = Vec::new();
        for path in paths {
            if !opened.iter().any(|(known, _)| *known == path) {
                opened.push((path, open(path)?));
            }
        }
        let mut next = BTreeMap::new();
        for (path, file) in opened {
            let log = match logs.remove(path) {
                Some(log) => {
                    *log.file.lock() = file;
                    log
                }
                None => Arc::new(FailureLog { path: path.to_owned(), file: Mutex::new(file) }),
            };
            next.insert(path.to_owned(), log);
        }
        *logs = next;
        Ok(())
    }

    /// The file at `path`.
    pub(crate) fn at(&self, path: &Path) -> Option<Arc<FailureLog>> {
        self.0.lock().get(path).cloned()
    }
}

fn open(path: &Path) -> Result<File, String> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|e| format!("open scrape failure log {}: {e}", path.display()))
}

/// A time as RFC 3339 has it, in UTC: `2026-01-02T03:04:05.678Z`.
fn utc(ms: i64) -> String {
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Days since 1 March of year 0, in eras of 400 years.
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + year_of_era + era * 400;
    let (hours, minutes) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (seconds, millis) = (of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_767_323_045_678, "2026-01-02T03:04:05.678Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }

    #[test]
    fn files_are_shared_and_opened_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, moved) = (dir.path().join("a.log"), dir.path().join("b.log"));
        let logs = FailureLogs::default();
        logs.open([path.as_path(), &path].into_iter()).expect("a file that can be opened");
        let log = logs.at(&path).expect("the log that was opened");
        log.write(0, "j", "http://a/", "bad \"thing\"\n");
        std::fs::rename(&path, &moved).expect("a file that can be moved");
        logs.open(std::iter::once(path.as_path())).expect("a file that can be opened");
        log.write(1, "j", "http://a/", "again");
        let read = |path: &Path| std::fs::read_to_string(path).expect("a log");
        let begin = "{\"time\":\"1970-01-01T00:00:00.00";
        let rest = "\"job_name\":\"j\",\"target\":\"http://a/\"}\n";
        assert_eq!(
            read(&moved),
            format!("{begin}0Z\",\"level\":\"ERROR\",\"msg\":\"bad \\\"thing\\\"\\n\",{rest}")
        );
        assert_eq!(read(&path), format!("{begin}1Z\",\"level\":\"ERROR\",\"msg\":\"again\",{rest}"));
        let missing = dir.path().join("none/a.log");
        let error = logs.open(std::iter::once(missing.as_path())).expect_err("no such directory");
        assert!(error.starts_with("open scrape failure log ") && logs.at(&path).is_some(), "{error}");
    }
}
