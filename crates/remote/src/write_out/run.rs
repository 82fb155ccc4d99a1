//! Sending for as long as the program runs: reading beside the runtime, requests as tasks of their own, a
//! cursor that follows.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use queue::{Lane, QueueError, Reader};
use stdx::clock::Clock;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::answer::Answer;
use super::catalog::Shape;
use super::config::WriteOutConfig;
use super::feed::{Blocks, Feed};
use super::group::Cut;
use super::intake::{Intake, Read};
use super::metrics::{DropReason, RemoteMetrics, WriteOutMetrics};
use super::sender::{Now, Outgoing, Sender, Step, Ticket};

/// How often figures are brought up to date, and lost blocks booked.
const LOOK_ROUND: Duration = Duration::from_secs(1);
/// How long requests under way may take when the program stops.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// First and longest wait before everything begins anew after a fault of our own.
const BEGIN_ANEW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The wait after the queue could not be read.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The future of an answer; an error says in words why there is none.
pub type Posting<'a> = Pin<Box<dyn Future<Output = Result<Answer, String>> + Send + 'a>>;

/// Sends requests to one receiver. The wiring gives an HTTP client.
pub trait Post: Send + Sync + 'static {
    /// Sends a body with these headers (names in lower case) and waits for the answer, for as long as its
    /// timeout allows.
    fn post(&self, headers: Vec<(&'static str, String)>, body: Bytes) -> Posting<'_>;
}

/// Writes the rows of a queue to one receiver.
#[derive(Clone)]
pub struct WriteOut {
    config: WriteOutConfig,
    reader: Arc<Reader>,
    post: Arc<dyn Post>,
    clock: Arc<dyn Clock>,
    metrics: RemoteMetrics,
    written: Arc<Notify>,
}

impl std::fmt::Debug for WriteOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WriteOut({})", self.config.name)
    }
}

impl WriteOut {
    /// A receiver that is sent what `reader` has not acknowledged.
    pub fn new(
        config: WriteOutConfig,
        reader: Reader,
        post: Arc<dyn Post>,
        clock: Arc<dyn Clock>,
        metrics: &WriteOutMetrics,
    ) -> WriteOut {
        let written = Arc::new(Notify::new());
        let wake = Arc::downgrade(&written);
        reader.queue().on_write(move || {
            if let Some(wake) = wake.upgrade() {
                wake.notify_one();
            }
        });
        let metrics = metrics.of(&config.name);
        WriteOut { config, reader: Arc::new(reader), post, clock, metrics, written }
    }

    /// Sends until `stop` is ready. What was under way then has a little time to be answered; the cursor is
    /// made durable. Dropping the future loses no more than a `kill` does.
    ///
    /// A panic in it, or in a request, is logged and counted, and after a while everything that has not been acknowledged
    /// is read and sent again.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut wait = BEGIN_ANEW.0;
        loop {
            let begun = Instant::now();
            let mut at_work = self.clone().at_work();
            self.metrics.working(true);
            let ended = unless_it_panics(at_work.run(stop.as_mut())).await;
            if matches!(ended, Some(Ended::Stopped)) {
                return;
            }
            // Nobody reads any more when the next one begins.
            if let Some(reading) = at_work.reading.take() {
                let _ = reading.await;
            }
            drop(at_work);
            self.reader.rewind();
            self.metrics.working(false);
            self.metrics.restarted();
            if begun.elapsed() > BEGIN_ANEW.1 {
                wait = BEGIN_ANEW.0;
            }
            let remote = self.config.name.as_str();
            tracing::error!(remote, after = ?wait, "remote write failed by a fault of its own and begins anew");
            tokio::select! {
                () = stop.as_mut() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(BEGIN_ANEW.1);
        }
    }

    fn at_work(self) -> AtWork {
        let cut = Cut {
            points_max: self.config.queue.capacity.max(1),
            slice_ms: i64::try_from(self.config.queue.batch_send_deadline.as_millis())
                .unwrap_or(i64::MAX)
                .max(1),
        };
        let shape =
            Shape { external_labels: self.config.external_labels.clone(), rules: self.config.rules.clone() };
        let intake = Intake::new(
            Arc::clone(&self.reader),
            Feed::new(shape, cut),
            self.metrics.clone(),
            &self.config.name,
        );
        self.metrics.shards_max(self.config.queue.max_shards);
        self.metrics.none_pending();
        let seed = self.reader.queue().id() as u64 ^ self.reader.queue().incarnation() as u64;
        AtWork {
            sender: Sender::new(self.config.clone(), self.metrics.clone(), seed),
            intake: Some(intake),
            reading: None,
            is_behind: false,
            read_again_at: None,
            under_way: JoinSet::new(),
            groups: VecDeque::new(),
            persisting: None,
            is_dirty: false,
            start: Instant::now(),
            is_broken: false,
            out: self,
        }
    }
}

/// How sending ended.
enum Ended {
    /// As it was asked to.
    Stopped,
    /// A task of it panicked.
    Broken,
}

struct AtWork {
    out: WriteOut,
    is_broken: bool,
    sender: Sender,
    /// Absent while it is reading.
    intake: Option<Intake>,
    reading: Option<JoinHandle<(Intake, Result<Read, QueueError>)>>,
    /// Whether something was written while it was reading, which it may not have seen.
    is_behind: bool,
    /// When there may be something to read although nothing has been written.
    read_again_at: Option<Instant>,
    under_way: JoinSet<(Ticket, Duration, Result<Answer, String>)>,
    /// Groups with the sender, and their blocks.
    groups: VecDeque<(u64, Blocks)>,
    persisting: Option<JoinHandle<Result<(), QueueError>>>,
    /// Whether blocks were acknowledged since the cursor was last written.
    is_dirty: bool,
    start: Instant,
}

impl AtWork {
    async fn run(&mut self, mut stop: impl Future<Output = ()> + Unpin) -> Ended {
        let written = Arc::clone(&self.out.written);
        let mut look_round = tokio::time::interval(LOOK_ROUND);
        self.read();
        while !self.is_broken {
            let wake = self.send();
            self.persist();
            let wake = self.read_again_at.into_iter().chain(wake).min();
            tokio::select! {
                () = &mut stop => {
                    self.stop().await;
                    return Ended::Stopped;
                }
                Some(done) = self.under_way.join_next() => self.answered(done),
                read = join(&mut self.reading) => self.has_read(read),
                persisted = join(&mut self.persisting) => self.persisted(persisted),
                () = written.notified() => self.read(),
                () = until(wake) => {
                    if self.read_again_at.is_some_and(|at| at <= Instant::now()) {
                        self.read();
                    }
                }
                _ = look_round.tick() => self.look_round(),
            }
        }
        Ended::Broken
    }

    fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { mono_ms, wall_ms: self.out.clock.now_ms() }
    }

    /// Starts reading, if there is room for what it will give.
    fn read(&mut self) {
        if !self.sender.has_room() {
            self.read_again_at = None; // an answer makes room
            return;
        }
        let Some(mut intake) = self.intake.take() else {
            self.is_behind = true;
            return;
        };
        self.is_behind = false;
        self.read_again_at = None;
        let (points_max, now_ms) = (self.sender.points_max(), self.out.clock.now_ms());
        self.reading = Some(tokio::task::spawn_blocking(move || {
            let read = intake.read(points_max, now_ms);
            (intake, read)
        }));
    }

    fn has_read(&mut self, read: Option<(Intake, Result<Read, QueueError>)>) {
        let Some((mut intake, read)) = read else {
            // It panicked: what it had read is handed out again to another one.
            tracing::error!(remote = self.out.config.name, "reading the queue for remote write failed");
            self.is_broken = true;
            return;
        };
        for (family, metadata) in intake.take_metadata() {
            self.sender.set_metadata(&family, &metadata);
        }
        self.intake = Some(intake);
        match read {
            Ok(Read::Group(group, blocks)) => {
                let number = self.sender.push(group);
                self.groups.push_back((number, blocks));
                self.acknowledge();
                self.read();
            }
            Ok(Read::Nothing(_)) if self.is_behind => self.read(),
            Ok(Read::Nothing(due_ms)) => {
                self.read_again_at = due_ms.map(|due_ms| {
                    let wait_ms = due_ms.saturating_sub(self.out.clock.now_ms()).clamp(1, 3_600_000);
                    Instant::now() + Duration::from_millis(wait_ms.unsigned_abs())
                });
            }
            Err(error) => {
                tracing::error!(remote = self.out.config.name, %error, "read the queue for remote write");
                self.read_again_at = Some(Instant::now() + AFTER_FAILURE);
            }
        }
    }

    /// Sends what may go; says when there may be more.
    fn send(&mut self) -> Option<Instant> {
        loop {
            match self.sender.next(self.now()) {
                Step::Send(request) => self.post(request),
                Step::Wait(wake) => return wake.map(|ms| self.start + Duration::from_millis(ms)),
            }
        }
    }

    fn post(&mut self, request: Outgoing) {
        let post = Arc::clone(&self.out.post);
        let mut headers = vec![
            ("content-encoding", "snappy".to_owned()),
            ("content-type", request.protocol.content_type().to_owned()),
            ("x-prometheus-remote-write-version", request.protocol.version().to_owned()),
        ];
        if request.retry > 0 {
            headers.push(("retry-attempt", request.retry.to_string()));
        }
        self.under_way.spawn(async move {
            let sent = Instant::now();
            let answer = post.post(headers, request.body).await;
            (request.ticket, sent.elapsed(), answer)
        });
    }

    fn answered(&mut self, done: Result<(Ticket, Duration, Result<Answer, String>), tokio::task::JoinError>) {
        // A request that panicked is never answered; its batch would wait for ever.
        let Ok((ticket, took, answer)) = done else {
            tracing::error!(remote = self.out.config.name, "a request of remote write failed");
            self.is_broken = true;
            return;
        };
        self.out.metrics.took(took.as_secs_f64());
        self.sender.answered(ticket, answer, self.now());
        self.acknowledge();
        if self.reading.is_none() && self.read_again_at.is_none() {
            self.read();
        }
    }

    /// Acknowledges the blocks of all groups that are done with.
    fn acknowledge(&mut self) {
        let Some(last) = self.sender.finished() else { return };
        while let Some((_, blocks)) = self.groups.pop_front_if(|(number, _)| *number <= last) {
            for (incarnation, first, last) in blocks {
                self.out.reader.acknowledge(incarnation, first, last);
            }
            self.is_dirty = true;
        }
    }

    /// Makes the cursor durable, one write after the other.
    fn persist(&mut self) {
        if self.is_dirty && self.persisting.is_none() {
            self.is_dirty = false;
            let reader = Arc::clone(&self.out.reader);
            self.persisting = Some(tokio::task::spawn_blocking(move || reader.persist()));
        }
    }

    fn persisted(&mut self, outcome: Option<Result<(), QueueError>>) {
        if let Some(Err(error)) = outcome {
            let remote = self.out.config.name.as_str();
            tracing::error!(remote, %error, "write the cursor of remote write; after a crash, more is sent twice");
        }
    }

    fn look_round(&mut self) {
        let pending = self.out.reader.pending(Lane::Live);
        let lag_ms =
            pending.oldest_ms.map_or(0, |oldest_ms| self.out.clock.now_ms().saturating_sub(oldest_ms));
        self.out.metrics.queue(lag_ms.max(0) as f64 / 1000.0, pending.bytes);
        let lost = self.out.reader.lost();
        for record in &lost {
            let reason = record.reason.as_str();
            tracing::error!(
                remote = self.out.config.name,
                reason,
                blocks = record.blocks,
                samples = record.samples,
                oldest_ms = record.oldest_ms,
                newest_ms = record.newest_ms,
                "the queue lost rows before the receiver took them"
            );
            self.out.metrics.dropped(DropReason::Lost(reason), record.samples);
        }
        if !lost.is_empty() {
            self.out.reader.booked(&lost);
            self.is_dirty = true;
        }
    }

    async fn stop(&mut self) {
        let answers = async {
            while let Some(done) = self.under_way.join_next().await {
                self.answered(done);
            }
        };
        // Whoever does not answer in time is asked again after the start.
        let _ = tokio::time::timeout(LAST_ANSWERS, answers).await;
        if let Some(reading) = self.reading.take() {
            let _ = reading.await;
        }
        if let Some(persisting) = self.persisting.take() {
            let _ = persisting.await;
        }
        let reader = Arc::clone(&self.out.reader);
        let outcome = tokio::task::spawn_blocking(move || reader.persist()).await;
        self.persisted(outcome.ok());
        self.out.metrics.none_pending();
    }
}

/// What `job` gives; `None` when it panics, which has been told where panics are.
async fn unless_it_panics<T>(job: impl Future<Output = T>) -> Option<T> {
    let mut job = std::pin::pin!(job);
    std::future::poll_fn(|context| {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| job.as_mut().poll(context)));
        polled.map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

/// The result of a task that may be there; `None` when it panicked. Never ready without a task.
async fn join<T>(task: &mut Option<JoinHandle<T>>) -> Option<T> {
    match task {
        Some(handle) => {
            let done = handle.await.ok();
            *task = None;
            done
        }
        None => std::future::pending().await,
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
