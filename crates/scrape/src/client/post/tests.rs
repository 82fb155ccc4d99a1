//! A server in memory that answers what it is told, by script.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use url::Url;

use super::{Post, Posted, Reach};
use crate::client::{BoxedStream, Connecting, Connector, FetchError, HttpClient, Slot, TlsConfigs};
use crate::config::{Auth, HttpClientConfig, Secret, Source};

/// Answers each request with the next of its answers; an empty one closes the connection instead.
#[derive(Clone, Default)]
struct Server {
    answers: Arc<Mutex<Vec<String>>>,
    seen: Arc<Mutex<Vec<String>>>,
    dials: Arc<Mutex<usize>>,
}

impl Server {
    async fn serve(self, mut stream: DuplexStream) -> io::Result<()> {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let len = head.split("content-length: ").nth(1).and_then(|t| t.split("\r\n").next());
            let mut body = vec![0; len.and_then(|text| text.parse().ok()).unwrap_or(0)];
            stream.read_exact(&mut body).await?;
            self.seen.lock().push(head + &String::from_utf8_lossy(&body));
            let answer = self.answers.lock().remove(0);
            if answer.is_empty() {
                return Ok(());
            }
            stream.write_all(answer.as_bytes()).await?;
        }
    }
}

impl Connector for Server {
    fn connect<'a>(&'a self, _: &'a str, _: u16, _: Reach) -> Connecting<'a> {
        Box::pin(async move {
            *self.dials.lock() += 1;
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(self.clone().serve(theirs));
            Ok(Box::new(ours) as BoxedStream)
        })
    }
}

fn client(server: &Server) -> HttpClient {
    let credentials = Some(Source::Inline(Secret::new("hunter2")));
    let auth = Auth::Scheme { scheme: "Bearer".to_owned(), credentials };
    let config = HttpClientConfig { auth, ..HttpClientConfig::default() };
    HttpClient::new(&config, Arc::new(server.clone()), Arc::new(TlsConfigs::default())).expect("a client")
}

async fn post(slot: &mut Slot, client: &HttpClient) -> Result<Posted, FetchError> {
    let url = Url::parse("http://receiver/api/v1/write?x=1").expect("a URL");
    let post = Post {
        url: &url,
        headers: &[("content-encoding", "snappy")],
        body: Bytes::from_static(b"the body"),
        timeout: Duration::from_secs(5),
    };
    slot.post(client, &post).await
}

#[tokio::test(start_paused = true)]
async fn bodies_are_sent_on_one_connection_and_answers_come_back_whatever_they_are() {
    let server = Server::default();
    let (client, mut slot) = (client(&server), Slot::default());
    *server.answers.lock() = vec![
        "HTTP/1.1 204 No Content\r\nX-Written: 3\r\n\r\n".to_owned(),
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\n\r\nout of order".to_owned(),
        // The server closes a connection that it has kept: the same goes out again on another one.
        String::new(),
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"
            .to_owned(),
    ];
    let first = post(&mut slot, &client).await.expect("an answer");
    assert_eq!((first.status.as_u16(), first.header("x-written")), (204, Some("3")));
    let second = post(&mut slot, &client).await.expect("an answer");
    assert_eq!((second.status.as_u16(), second.body.as_slice()), (400, &b"out of order"[..]));
    let third = post(&mut slot, &client).await.expect("an answer");
    assert_eq!(third.status.as_u16(), 307);
    assert_eq!(*server.dials.lock(), 2);
    let seen = server.seen.lock();
    assert_eq!(seen.len(), 4);
    for request in seen.iter() {
        assert!(request.starts_with("post /api/v1/write?x=1 http/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nauthorization: bearer hunter2\r\n"), "{request}");
        assert!(
            request.contains("\r\ncontent-encoding: snappy\r\n") && request.ends_with("the body"),
            "{request}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn long_answers_are_cut_and_silence_ends() {
    let server = Server::default();
    let (client, mut slot) = (client(&server), Slot::default());
    let long = "x".repeat(1 << 20);
    *server.answers.lock() = vec![
        format!("HTTP/1.1 500 Oh\r\nContent-Length: {}\r\n\r\n{long}", long.len()),
        "HTTP/1.1 20".to_owned(),
    ];
    let answer = post(&mut slot, &client).await.expect("an answer");
    assert_eq!(answer.body.len(), 64 << 10);
    let silent = post(&mut slot, &client).await;
    assert!(matches!(silent, Err(FetchError::Deadline(_))), "{silent:?}");
    assert_eq!(*server.dials.lock(), 2, "a connection with the rest of an answer is of no use");
}
