//! The query log: a line of JSON for every query that was evaluated, with its times and what it cost.
//!
//! Source: Prometheus `promql/engine.go`, `exec`; `util/logging/file.go`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use promql::answer::Stats;

use crate::json::Object;

/// Where queries are logged; nowhere at first.
#[derive(Debug, Default)]
pub struct QueryLog {
    file: Mutex<Option<File>>,
    /// Whether there is one.
    on: AtomicBool,
    /// Whether the last line could not be written, which is told once.
    failing: AtomicBool,
}

impl QueryLog {
    /// Opens the file at `path` for [`QueryLog::install`]; it is made where there is none, and appended to.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(path)
    }

    /// Logs to `file` from now on, or no longer. A file that was moved away is let go of by opening its
    /// path anew.
    pub fn install(&self, file: Option<File>) {
        self.on.store(file.is_some(), Ordering::Relaxed);
        self.failing.store(false, Ordering::Relaxed);
        *self.lock() = file;
    }

    /// Whether anything is logged at all.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Logs one query.
    pub(crate) fn write(&self, line: &Logged<'_>) {
        let line = line.to_json();
        let outcome = self.lock().as_mut().map(|file| file.write_all(&line));
        match outcome {
            Some(Err(error)) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::error!(%error, "write to the query log; further failures are not told");
            }
            Some(Ok(())) => self.failing.store(false, Ordering::Relaxed),
            _ => {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The address of a client, in the extensions of a request where the listener knows it.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(
    /// Its address.
    pub IpAddr,
);

/// What is logged of a query.
#[derive(Debug)]
pub(crate) struct Logged<'a> {
    pub(crate) now_ms: i64,
    pub(crate) query: &'a str,
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
    /// 0 for an instant query.
    pub(crate) step_ms: i64,
    /// What went wrong, if anything did.
    pub(crate) error: Option<String>,
    pub(crate) stats: &'a Stats,
    pub(crate) queued: std::time::Duration,
    pub(crate) client: Option<IpAddr>,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
}

impl Logged<'_> {
    fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + self.query.len());
        let mut line = Object::new(&mut out);
        line.text("time", &date(self.now_ms));
        line.text("level", "INFO");
        line.text("msg", "promql query logged");
        let mut params = Object::new(line.field("params"));
        params.text("end", &date(self.end_ms));
        params.text("query", self.query);
        params.text("start", &date(self.start_ms));
        params.integer("step", self.step_ms / 1000);
        params.end();
        if let Some(error) = &self.error {
            line.text("error", error);
        }
        crate::api::write_stats(line.field("stats"), self.stats, self.queued);
        // no traces are kept here, and these are the numbers of none
        line.text("spanID", "0000000000000000");
        line.text("traceID", "00000000000000000000000000000000");
        let mut request = Object::new(line.field("httpRequest"));
        request.text("clientIP", &self.client.map(|client| client.to_string()).unwrap_or_default());
        request.text("method", self.method);
        request.text("path", self.path);
        request.end();
        line.end();
        out.push(b'\n');
        out
    }
}

/// `2006-01-02T15:04:05.000Z`; times beyond the calendar in milliseconds.
fn date(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_is_an_object() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("query.log");
        let log = QueryLog::default();
        let line = |error: Option<String>| {
            Logged {
                now_ms: 1_435_781_430_500,
                query: "rate(a{b=\"<\"}[5m])",
                start_ms: 0,
                end_ms: 60_000,
                step_ms: 15_000,
                error,
                stats: &Stats::default(),
                queued: Duration::from_millis(1500),
                client: Some([127, 0, 0, 1].into()),
                method: "GET",
                path: "/api/v1/query_range",
            }
            .to_json()
        };
        assert!(!log.is_on());
        log.install(Some(QueryLog::open(&path).expect("open")));
        assert!(log.is_on());
        let shown = String::from_utf8(line(None)).expect("UTF-8");
        assert!(shown.starts_with(concat!(
            r#"{"time":"2015-07-01T20:10:30.500Z","level":"INFO","msg":"promql query logged","params":"#,
            r#"{"end":"1970-01-01T00:01:00.000Z","query":"rate(a{b=\"\u003c\"}[5m])","start":"1970-01-01T00:00:00.000Z","step":15},"#,
            r#""stats":{"timings":{"evalTotalTime":0,"resultSortTime":0,"queryPreparationTime":0,"innerEvalTime":0,"execQueueTime":1.5,"execTotalTime":1.5},"#
        )), "{shown}");
        assert!(
            shown.ends_with(concat!(
                r#""spanID":"0000000000000000","traceID":"00000000000000000000000000000000","#,
                r#""httpRequest":{"clientIP":"127.0.0.1","method":"GET","path":"/api/v1/query_range"}}"#,
                "\n"
            )),
            "{shown}"
        );
        let failed = String::from_utf8(line(Some("query timed out".into()))).expect("UTF-8");
        let failed: serde_json::Value = serde_json::from_str(&failed).expect("JSON");
        assert_eq!(failed["error"], "query timed out");
        assert_eq!(failed["params"]["step"], 15);
    }

    #[test]
    fn a_file_moved_away_is_let_go_of() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, moved) = (directory.path().join("query.log"), directory.path().join("query.log.1"));
        let log = QueryLog::default();
        let stats = Stats::default();
        let write = |query: &str| {
            log.write(&Logged {
                now_ms: 0,
                query,
                start_ms: 0,
                end_ms: 0,
                step_ms: 0,
                error: None,
                stats: &stats,
                queued: Duration::ZERO,
                client: None,
                method: "POST",
                path: "/api/v1/query",
            });
        };
        let lines = |path: &Path| std::fs::read_to_string(path).expect("read").lines().count();
        write("nowhere");
        log.install(Some(QueryLog::open(&path).expect("open")));
        write("one");
        std::fs::rename(&path, &moved).expect("move");
        write("two");
        log.install(Some(QueryLog::open(&path).expect("open")));
        write("three");
        assert_eq!((lines(&moved), lines(&path)), (2, 1));
        log.install(None);
        write("four");
        assert_eq!((lines(&moved), lines(&path), log.is_on()), (2, 1, false));
    }
}
