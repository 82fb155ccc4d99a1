//! A slow, thin and forgetful line: a TCP relay between two ends that know nothing of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes read at once, and pieces that may be under way.
const PIECE: usize = 16 << 10;
const UNDER_WAY: usize = 64;

/// A relay on a port of its own. Ends when dropped.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Connections numbered below this one carry nothing any more.
    forgotten: Arc<AtomicU64>,
    accepted: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Passes on what comes to `listen`, to `to` and back, each byte `delay` later.
    ///
    /// # Errors
    /// The port cannot be had.
    pub async fn start(listen: SocketAddr, to: SocketAddr, delay: Duration) -> Result<Relay> {
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let (forgotten, accepted) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (lost, counted) = (Arc::clone(&forgotten), Arc::clone(&accepted));
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let lost = Arc::clone(&lost);
                tokio::spawn(async move {
                    // Who cannot be reached is told by the end of the connection.
                    let Ok(far) = TcpStream::connect(to).await else { return };
                    let line = Line { number, lost, delay };
                    let _ = near.set_nodelay(true).and(far.set_nodelay(true));
                    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                    tokio::join!(line.carry(from_near, to_far), line.carry(from_far, to_near));
                });
            }
        });
        Ok(Relay { addr, forgotten, accepted, task })
    }

    /// Forgets the connections there are: they stay open and carry nothing any more. Gives how many have been
    /// accepted so far.
    pub fn forget_connections(&self) -> u64 {
        let accepted = self.accepted.load(Ordering::SeqCst);
        self.forgotten.store(accepted, Ordering::SeqCst);
        accepted
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Line {
    number: u64,
    lost: Arc<AtomicU64>,
    delay: Duration,
}

impl Line {
    /// One direction, until its end.
    async fn carry(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        let read = async move {
            let mut buffer = vec![0; PIECE];
            while let Ok(length @ 1..) = from.read(&mut buffer).await {
                if sender.send((Instant::now() + self.delay, buffer[..length].to_vec())).await.is_err() {
                    return;
                }
            }
        };
        let write = async move {
            while let Some((due, piece)) = pieces.recv().await {
                tokio::time::sleep_until(due).await;
                let forgotten = self.number < self.lost.load(Ordering::SeqCst);
                if !forgotten && to.write_all(&piece).await.is_err() {
                    return;
                }
            }
            // A forgotten connection does not end for its other end either.
            if self.number < self.lost.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
        };
        tokio::join!(read, write);
    }
}
