//! A scrape target whose body tests change as they go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Content type of the text exposition.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An HTTP server on loopback that answers every request with one body. Ends when dropped.
#[derive(Debug)]
pub struct FakeTarget {
    /// Where it listens.
    pub addr: SocketAddr,
    page: watch::Sender<Page>,
    scrapes: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

#[derive(Debug, Clone)]
struct Page {
    status: u16,
    content_type: &'static str,
    body: Bytes,
}

impl FakeTarget {
    /// Starts a target that serves `body` as text exposition.
    ///
    /// # Errors
    /// No port could be had.
    pub async fn start(body: impl Into<Bytes>) -> Result<FakeTarget> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let (page, current) = watch::channel(Page { status: 200, content_type: TEXT, body: body.into() });
        let scrapes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&scrapes);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (current, counted) = (current.clone(), Arc::clone(&counted));
                let service = service_fn(move |_: Request<Incoming>| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let page = current.borrow().clone();
                    async move {
                        Response::builder()
                            .status(page.status)
                            .header("content-type", page.content_type)
                            .body(Full::new(page.body))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Ok(FakeTarget { addr, page, scrapes, server })
    }

    /// Serves another body from now on.
    pub fn set_body(&self, body: impl Into<Bytes>) {
        self.page.send_modify(|page| page.body = body.into());
    }

    /// Answers with another status from now on.
    pub fn set_status(&self, status: u16) {
        self.page.send_modify(|page| page.status = status);
    }

    /// How many requests have come.
    pub fn scrapes(&self) -> usize {
        self.scrapes.load(Ordering::SeqCst)
    }
}

impl Drop for FakeTarget {
    fn drop(&mut self) {
        self.server.abort();
    }
}
