//! The scrape door: targets that answer with anything but metrics.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use testkit::http;
use testkit::target::FakeTarget;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{others_are_served, start};
use crate::{PATIENCE, eventually, query};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\n";

/// What a target does once it has been asked.
#[derive(Debug, Clone)]
enum Does {
    /// Sends these bytes and closes.
    Send(Vec<u8>),
    /// Sends these bytes, and then nothing more.
    Hang(Vec<u8>),
    /// Sends these bytes, and resets the connection.
    Reset(Vec<u8>),
    /// Sends these bytes, and then comment lines without end.
    Endless(Vec<u8>),
}

/// A target that answers badly. Ends when dropped.
struct Liar {
    addr: SocketAddr,
    server: JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Liar {
    async fn start(does: Does) -> Result<Liar> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let does = does.clone();
                // The scraper breaks off where it has had enough.
                tokio::spawn(async move { _ = answer(stream, does).await });
            }
        });
        Ok(Liar { addr, server })
    }
}

async fn answer(mut stream: TcpStream, does: Does) -> Result<()> {
    let mut head = [0; 4096];
    anyhow::ensure!(stream.read(&mut head).await? > 0, "closed without a request");
    match does {
        Does::Send(bytes) => stream.write_all(&bytes).await?,
        Does::Hang(bytes) => {
            stream.write_all(&bytes).await?;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        Does::Reset(bytes) => {
            stream.write_all(&bytes).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.set_zero_linger()?;
        }
        Does::Endless(bytes) => {
            stream.write_all(&bytes).await?;
            // Bounded, should nobody break off: 256 MiB.
            let lines = "# and on it goes\n".repeat(4096);
            for _ in 0..4096 {
                stream.write_all(lines.as_bytes()).await?;
            }
        }
    }
    Ok(())
}

fn plain(body: impl AsRef<[u8]>) -> Does {
    Does::Send([format!("{OK}connection: close\r\n\r\n").as_bytes(), body.as_ref()].concat())
}

fn gzip(body: &[u8]) -> Result<Vec<u8>> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(body)?;
    Ok(packed.finish()?)
}

fn packed(gzip: &[u8]) -> Does {
    let head = format!("{OK}content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", gzip.len());
    Does::Send([head.as_bytes(), gzip].concat())
}

fn cases() -> Result<Vec<(&'static str, Does, String)>> {
    let many = (0..100_000).map(|at| format!("l{at}=\"v\"")).collect::<Vec<_>>().join(",");
    let ten_megabytes = "x".repeat(10 << 20);
    let get = |text: &str| format!("Get \"http://ADDR/metrics\": {text}");
    Ok(vec![
        ("bomb", packed(&gzip(&vec![b'#'; 16 << 20])?), "body size limit exceeded".to_owned()),
        ("endless", Does::Endless(format!("{OK}\r\n").into()), "body size limit exceeded".to_owned()),
        ("cut_gzip", packed(&gzip(b"fish 1\n")?[..12]), get("gzip: incomplete deflate stream")),
        ("not_gzip", packed(b"fish{kind=\"cod\"} 1\n"), get("gzip: invalid gzip header")),
        (
            "brotli",
            Does::Send(format!("{OK}content-encoding: br\r\n\r\nfish").into()),
            get("content encoding \"br\" was not asked for"),
        ),
        (
            "no_type",
            Does::Send(b"HTTP/1.1 200 OK\r\n\r\nfish 1\n".to_vec()),
            "the answer has no Content-Type and no fallback_scrape_protocol is set for the target".to_owned(),
        ),
        (
            "html",
            Does::Send(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>".to_vec()),
            "unsupported Content-Type \"text/html\" and no fallback_scrape_protocol is set for the target"
                .to_owned(),
        ),
        (
            "not_utf8",
            plain(b"fish{kind=\"\xff\xfe\"} 1\n"),
            "line 1: the series is not valid UTF-8".to_owned(),
        ),
        (
            "no_value",
            plain("good 1\nfish\n"),
            "line 2: expected a value after the series, got the end of the line".to_owned(),
        ),
        (
            "long_line",
            plain(&ten_megabytes),
            "line 1: expected a value after the series, got the end of the data".to_owned(),
        ),
        (
            "long_value",
            plain(format!("fish{{kind=\"{ten_megabytes}\"}} 1\n")),
            format!(
                "label_value_length_limit exceeded (metric: fish, label name: kind, value: \"{}\", length: 10485760, limit: 100)",
                "x".repeat(50)
            ),
        ),
        (
            "many_labels",
            plain(format!("fish{{{many}}} 1\n")),
            "label_limit exceeded (metric: fish, number of labels: 100003, limit: 50)".to_owned(),
        ),
        ("no_head", Does::Hang(Vec::new()), get("context deadline exceeded (no whole answer within 1s)")),
        ("half_head", Does::Hang(OK.into()), get("context deadline exceeded (no whole answer within 1s)")),
        (
            "half_body",
            Does::Hang(format!("{OK}content-length: 100\r\n\r\nfish 1\n").into()),
            get("context deadline exceeded (no whole answer within 1s)"),
        ),
        (
            "reset",
            Does::Reset(format!("{OK}content-length: 100\r\n\r\nfish 1\n").into()),
            get("error reading a body from connection: Connection reset by peer (os error 104)"),
        ),
        (
            "closed",
            Does::Send(format!("{OK}content-length: 100\r\n\r\nfish 1\n").into()),
            get("error reading a body from connection: end of file before message length reached"),
        ),
        ("empty", Does::Send(Vec::new()), get("connection closed before message completed")),
        ("not_http", Does::Send(b"220 mail.example ESMTP\r\n".to_vec()), get("invalid HTTP version parsed")),
        (
            "long_head",
            Does::Send(format!("{OK}x: {}\r\n\r\n", "y".repeat(1 << 20)).into()),
            get("the headers of the answer are too large"),
        ),
        (
            "circle",
            Does::Send(b"HTTP/1.1 302 Found\r\nlocation: /metrics\r\ncontent-length: 0\r\n\r\n".to_vec()),
            get("stopped after 10 redirects"),
        ),
        (
            "elsewhere",
            Does::Send(b"HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\n\r\n".to_vec()),
            get("unsupported protocol scheme \"file\""),
        ),
        (
            "teapot",
            Does::Send(b"HTTP/1.1 418 I'm a teapot\r\n\r\n".to_vec()),
            "server returned HTTP status 418 I'm a teapot".to_owned(),
        ),
    ])
}

/// The cases whose target is not down with the error that is expected.
async fn wrong_errors(
    addr: SocketAddr,
    cases: &[(&str, Does, String)],
    liars: &[Liar],
) -> Result<Vec<String>> {
    let targets = http::get(addr, "/api/v1/targets").await?.json()?;
    let active = targets["data"]["activeTargets"].as_array().context("targets")?;
    let mut differ = Vec::new();
    for ((name, _, expected), liar) in cases.iter().zip(liars) {
        let target =
            active.iter().find(|t| t["labels"]["job"] == *name).with_context(|| (*name).to_owned())?;
        let said = target["lastError"].as_str().unwrap_or_default().replace(&liar.addr.to_string(), "ADDR");
        assert_eq!(target["health"], "down", "{name}");
        assert!(said.len() < 4096, "{name}: an error of {} bytes", said.len());
        if said != *expected {
            differ.push(format!("{name}\n  expected {expected}\n  found    {said}"));
        }
    }
    Ok(differ)
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_answer_badly_are_down_and_say_why() -> Result<()> {
    let good = FakeTarget::start("fish{kind=\"cod\"} 3\n").await?;
    let cases = cases()?;
    let mut liars = Vec::new();
    let mut config = String::from(
        "global: {scrape_interval: 3s, scrape_timeout: 3s}\nscrape_configs:\n  - job_name: long_value\n    \
         label_value_length_limit: 100\n    static_configs: [{targets: [",
    );
    let (mut jobs, mut long_value) = (
        format!("  - job_name: good\n    static_configs: [{{targets: ['{}']}}]\n", good.addr),
        String::new(),
    );
    for (name, does, _) in &cases {
        let liar = Liar::start(does.clone()).await?;
        if *name == "long_value" {
            long_value = format!("'{}'", liar.addr);
        } else {
            let size = if ["long_line"].contains(name) { "20MB" } else { "2MB" };
            let patience = if matches!(does, Does::Hang(_)) { "1s" } else { "3s" };
            jobs.push_str(&format!(
                "  - job_name: {name}\n    scrape_timeout: {patience}\n    body_size_limit: {size}\n    label_limit: 50\n    static_configs: \
                 [{{targets: ['{}']}}]\n",
                liar.addr
            ));
        }
        liars.push(liar);
    }
    config.push_str(&format!("{long_value}]}}]\n{jobs}"));
    let directory = tempfile::tempdir()?;
    let hub = start(directory.path(), &config, &[]).await?;
    let addr = hub.addr();
    let down = cases.len();
    eventually(addr, "up == 0", |result| result.len() == down).await?;
    others_are_served(addr).await?;
    // A scrape may run out of time on a busy machine; the next one tells.
    let begin = Instant::now();
    let differ = loop {
        let differ = wrong_errors(addr, &cases, &liars).await?;
        if differ.is_empty() || begin.elapsed() > PATIENCE {
            break differ;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    eventually(addr, "count_over_time(up{job=\"good\"}[1m]) > 1", |result| result.len() == 1).await?;
    assert_eq!(query(addr, "min_over_time(up{job=\"good\"}[1m]) == 1").await?.len(), 1);
    assert_eq!(query(addr, "fish").await?.len(), 1, "nothing of a failed scrape is kept");
    assert_eq!(query(addr, "max_over_time(up{job!=\"good\"}[1m]) > 0").await?.len(), 0);
    hub.stop().await
}
