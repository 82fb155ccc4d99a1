//! A client that leaves in the middle of a query ends it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::TenantId;
use storage::{ListedLabels, ListedMetadata, QueryError, Queryable, Select, SeriesSet};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::fixture::{Fixture, Setup};

/// A store that answers only when the test says so.
struct SlowStore {
    asked: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Queryable for SlowStore {
    fn select(&self, _: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.asked.send(()).expect("the test listens");
        self.go_on.lock().expect("no panic").recv().expect("the test goes on");
        Err(QueryError::Cancelled)
    }

    fn label_names(&self, _: &Select) -> Result<ListedLabels, QueryError> {
        Ok(ListedLabels::default())
    }

    fn label_values(&self, _: &str, _: &Select) -> Result<ListedLabels, QueryError> {
        Ok(ListedLabels::default())
    }

    fn metadata(&self, _: &TenantId, _: Option<&str>) -> Result<ListedMetadata, QueryError> {
        Ok(ListedMetadata::default())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handler_ends_with_the_connection() {
    let (asked, was_asked) = channel();
    let (go_on, may_go_on) = channel();
    let fixture =
        Fixture::over(Arc::new(SlowStore { asked, go_on: Mutex::new(may_go_on) }), Setup::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = fixture.router.clone();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    let mut client = TcpStream::connect(address).await.expect("connect");
    client.write_all(b"GET /api/v1/query?query=up HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("send");
    tokio::task::spawn_blocking(move || was_asked.recv())
        .await
        .expect("no panic")
        .expect("the store is asked");
    drop(client);

    let counted = "marigraph_web_requests_total{handler=\"/api/v1/query\",code=\"499\"} 1\n";
    let begin = Instant::now();
    while !fixture.ask("/metrics").await.body.contains(counted) {
        assert!(begin.elapsed() < Duration::from_secs(20), "the handler runs on without a client");
        tokio::task::yield_now().await;
    }
    go_on.send(()).expect("the store waits");
    server.abort();
}
