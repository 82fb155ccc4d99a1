//! Many targets in one process, gzipped: each serves the recording from another row on, or an awkward
//! exposition.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::data::ROW_STRIDE;
use crate::shapes::bodies::{Huge, OwnTimes, TICK_SECONDS};

/// The targets.
#[derive(Debug)]
pub(crate) struct Simulator {
    /// Where they listen; target `n` is at `/metrics/n`.
    pub(crate) addr: SocketAddr,
    served: Arc<AtomicU64>,
}

/// What targets serve.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content {
    /// The recording.
    Recorded,
    /// The same to all who ask in the same tick.
    Huge(Huge),
    /// Lines with times.
    OwnTimes(OwnTimes),
}

struct State {
    content: Content,
    plain: Vec<Bytes>,
    gzipped: Vec<Bytes>,
    next_row: Vec<AtomicUsize>,
    /// The last tick's text of a huge target, packed: making it takes a while.
    huge: Mutex<Option<(u64, Bytes)>>,
    served: Arc<AtomicU64>,
}

impl Simulator {
    /// Starts `targets` targets; renders and compresses every row of the recording first.
    pub(crate) async fn start(content: Content, targets: usize) -> Result<Simulator> {
        let plain: Vec<Bytes> = match content {
            Content::Recorded => {
                let recorded = testkit::recorded::load()?.context("the recording is not there")?;
                (0..recorded.rows.len()).map(|row| recorded.text(row).into()).collect()
            }
            Content::Huge(_) | Content::OwnTimes(_) => Vec::new(),
        };
        let gzipped = plain.iter().map(gzip).collect::<Result<Vec<Bytes>>>()?;
        let served = Arc::new(AtomicU64::new(0));
        let next_row = (0..targets).map(|n| AtomicUsize::new(n * ROW_STRIDE)).collect();
        let state = Arc::new(State {
            content,
            plain,
            gzipped,
            next_row,
            huge: Mutex::default(),
            served: Arc::clone(&served),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                let service = service_fn(move |request: Request<Incoming>| {
                    let state = Arc::clone(&state);
                    async move { tokio::task::block_in_place(|| state.answer(&request)) }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Simulator { addr, served })
    }

    /// Rows served since the start, all targets.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// The scrape configuration of all targets, in Prometheus' language.
    pub(crate) fn config(&self, targets: usize, interval: &str) -> String {
        let mut out = format!(
            "global:\n  scrape_interval: {interval}\n  scrape_timeout: {interval}\n\
             scrape_configs:\n  - job_name: bench\n    static_configs:\n"
        );
        for n in 0..targets {
            out.push_str(&format!(
                "      - targets: ['{}']\n        labels: {{__metrics_path__: /metrics/{n}, \
                 instance: '10.0.{}.{}:9100', cluster: c{}}}\n",
                self.addr,
                n / 250,
                n % 250,
                n % 4
            ));
        }
        out
    }
}

impl State {
    fn answer(&self, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let target = request.uri().path().rsplit('/').next().and_then(|n| n.parse::<usize>().ok());
        let Some((target, row)) = target.and_then(|n| Some((n, self.next_row.get(n)?))) else {
            return Ok(Response::builder().status(StatusCode::NOT_FOUND).body(Full::default())?);
        };
        self.served.fetch_add(1, Ordering::Relaxed);
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
        let body = match self.content {
            Content::Recorded => {
                let row = row.fetch_add(1, Ordering::Relaxed) % self.plain.len();
                if !takes_gzip(request) {
                    let response = Response::builder().header(header::CONTENT_TYPE, testkit::target::TEXT);
                    return Ok(response.body(Full::new(self.plain[row].clone()))?);
                }
                self.gzipped[row].clone()
            }
            Content::Huge(huge) => {
                let tick = now_ms / 1000 / TICK_SECONDS;
                let mut last = self.huge.lock().map_err(|_| anyhow::anyhow!("a request panicked"))?;
                match &*last {
                    Some((of, body)) if *of == tick => body.clone(),
                    _ => {
                        let body = gzip(&huge.text(tick).into())?;
                        *last = Some((tick, body.clone()));
                        body
                    }
                }
            }
            Content::OwnTimes(own) => gzip(&own.text(target, now_ms).into())?,
        };
        let response = Response::builder()
            .header(header::CONTENT_TYPE, testkit::target::TEXT)
            .header(header::CONTENT_ENCODING, "gzip");
        Ok(response.body(Full::new(body))?)
    }
}

fn takes_gzip(request: &Request<Incoming>) -> bool {
    let accepted = request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|value| value.contains("gzip"))
}

fn gzip(text: &Bytes) -> Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    std::io::Write::write_all(&mut encoder, text)?;
    Ok(encoder.finish()?.into())
}
