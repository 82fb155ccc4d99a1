//! `marigraph push metrics`: an exposition, sent once by remote write.
//!
//! Source: Prometheus `cmd/promtool/metrics.go`, `util/fmtutil/format.go`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use http::header::HeaderName;
use model::{Labels, LabelsBuilder};
use wire::exposition::{CreatedLines, Protocol, RowMemory, ScrapedRow};
use wire::remote_write::{EncoderV1, Sample, SeriesToWrite, snappy_encode};

use crate::verbs::client::{ClientArgs, Server};

/// Most bytes of an exposition.
const BYTES_MAX: u64 = 1 << 30;
/// Series in a request.
const SERIES_MAX: usize = 5_000;

/// The verbs of `marigraph push`.
#[derive(Debug, Subcommand)]
pub enum PushVerb {
    /// Send an exposition (Prometheus text, or OpenMetrics when it ends with # EOF) by remote write
    Metrics(PushArgs),
}

/// Flags of `marigraph push metrics`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        curl -s http://127.0.0.1:9100/metrics | marigraph push metrics --label job=node http://127.0.0.1:9190/api/v1/write")]
pub struct PushArgs {
    /// The receiver, such as http://127.0.0.1:9190/api/v1/write
    pub url: String,
    /// Files with expositions; the standard input otherwise
    pub files: Vec<PathBuf>,
    /// Further label of every series; may be given several times
    #[arg(long = "label", value_name = "NAME=VALUE", default_value = "job=marigraph", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// How to reach the receiver.
    #[command(flatten)]
    pub client: ClientArgs,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// `marigraph push`.
///
/// # Errors
/// An exposition cannot be read, or the receiver does not take it.
pub fn run(verb: &PushVerb) -> Result<()> {
    let PushVerb::Metrics(args) = verb;
    let server = Server::new(&args.url, &args.client)?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let inputs: Vec<Option<&Path>> = match args.files.is_empty() {
        true => vec![None],
        false => args.files.iter().map(|file| Some(file.as_path())).collect(),
    };
    for file in inputs {
        let shown = file.map_or("the standard input".to_owned(), |file| file.display().to_string());
        let series = series(&read(file)?, &args.labels, now_ms).with_context(|| shown.clone())?;
        for part in series.chunks(SERIES_MAX) {
            send(&server, part).with_context(|| shown.clone())?;
        }
        eprintln!("{shown}: {} samples sent", series.len());
    }
    Ok(())
}

fn read(file: Option<&Path>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let read = match file {
        Some(file) => {
            std::fs::File::open(file).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut body))
        }
        None => std::io::stdin().lock().take(BYTES_MAX + 1).read_to_end(&mut body),
    };
    read.with_context(|| {
        file.map_or("read the standard input".into(), |file| format!("read {}", file.display()))
    })?;
    if body.len() as u64 > BYTES_MAX {
        bail!("an exposition of more than {BYTES_MAX} bytes");
    }
    Ok(body)
}

/// The samples of an exposition; those without a time of their own are of `now_ms`.
fn series(body: &[u8], further: &[(String, String)], now_ms: i64) -> Result<Vec<(Labels, Sample)>> {
    let is_open = body.trim_ascii_end().ends_with(b"# EOF");
    let protocol = if is_open { Protocol::OpenMetricsText1_0_0 } else { Protocol::PrometheusText1_0_0 };
    let mut row = ScrapedRow::default();
    RowMemory::new(CreatedLines::Series).read(body, protocol, &mut row)?;
    let mut labels =
        vec![Labels::empty(); row.new_columns.iter().map(|(at, _)| *at as usize + 1).max().unwrap_or(0)];
    for (column, own) in &row.new_columns {
        let mut all = LabelsBuilder::from_labels(own);
        for (name, value) in further.iter().filter(|(name, _)| own.get(name).is_none()) {
            all.set(name, value);
        }
        labels[*column as usize] = all.build();
    }
    let mut times = row.timestamps.iter().peekable();
    let cells = row.columns.iter().zip(&row.values).enumerate();
    let sample = |(at, (column, value)): (usize, (&u32, &f64))| {
        let own = times.next_if(|(cell, _)| *cell as usize == at);
        let timestamp_ms = own.map_or(now_ms, |(_, time)| *time);
        (labels[*column as usize].clone(), Sample { timestamp_ms, value: *value, ..Sample::default() })
    };
    Ok(cells.map(sample).collect())
}

fn send(server: &Server, series: &[(Labels, Sample)]) -> Result<()> {
    let mut request = EncoderV1::default();
    for (labels, sample) in series {
        request.series(&SeriesToWrite::floats(labels, std::slice::from_ref(sample)));
    }
    let headers = [
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "snappy"),
        ("x-prometheus-remote-write-version", "0.1.0"),
    ];
    let headers = headers.map(|(name, value)| (HeaderName::from_static(name), value));
    let answer = server.post_blocking("", snappy_encode(&request.finish())?, &headers)?;
    if !answer.status.is_success() {
        let said: String = String::from_utf8_lossy(&answer.body).trim().chars().take(500).collect();
        bail!("{} answers {}: {said}", server.shown(), answer.status);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_get_further_labels_and_a_time() {
        let text = b"# TYPE a counter\na{job=\"own\"} 1\nb 2 5000\nb{x=\"1\"} 3\n";
        let shown: Vec<String> = series(text, &[("job".into(), "x".into())], 7)
            .expect("an exposition")
            .iter()
            .map(|(labels, sample)| format!("{labels} {} {}", sample.timestamp_ms, sample.value))
            .collect();
        assert_eq!(
            shown,
            [
                r#"{__name__="a", job="own"} 7 1"#,
                r#"{__name__="b", job="x"} 5000 2"#,
                r#"{__name__="b", job="x", x="1"} 7 3"#,
            ]
        );
    }
}
