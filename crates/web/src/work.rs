//! Work that blocks: evaluation and look-ups run on threads of their own, a bounded number at once,
//! and stop when nobody waits for them any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use promql::engine::CancelFlag;
use storage::{Missing, Request};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::reply::{ApiError, ErrorKind};

/// Look-ups of labels, series and status that run at once.
const LOOKUPS_MAX: usize = 32;
/// How long a look-up waits for its turn.
const LOOKUP_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a look-up of many selectors may take.
const SEARCH_TIME_MAX: Duration = Duration::from_secs(120);

/// How long a remote read waits for its turn.
const READ_WAIT_MAX: Duration = Duration::from_secs(120);
/// Bytes of forms and requests that are being read, or still needed, of all connections together.
const FORM_BYTES_MAX: usize = 64 << 20;

/// The places for blocking work, and the memory for what it is asked. One for the life of the program:
/// what was there before a reload counts after it.
#[derive(Debug, Clone)]
pub struct Work {
    queries: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    form_bytes: Arc<Semaphore>,
}

impl Work {
    /// Places for so many queries and remote reads at once; at least one each.
    pub fn new(query_concurrency_max: usize, read_concurrency_max: usize) -> Work {
        let places = |count: usize| Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS)));
        Work {
            queries: places(query_concurrency_max),
            lookups: places(LOOKUPS_MAX),
            reads: places(read_concurrency_max),
            form_bytes: places(FORM_BYTES_MAX),
        }
    }

    /// Memory for `bytes` more of a form, as long as the permit lives.
    ///
    /// # Errors
    /// All of it is taken.
    pub(crate) fn form_memory(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let busy = || ApiError::new(ErrorKind::Busy, "too many large requests at once; try again later");
        let bytes = u32::try_from(bytes).map_err(|_| busy())?;
        Arc::clone(&self.form_bytes).try_acquire_many_owned(bytes).map_err(|_| busy())
    }

    /// Runs a remote read, however long it takes, as long as somebody waits.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Patience) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = place(&self.reads, READ_WAIT_MAX, "too many remote reads at once").await?;
        let patience = Patience { cancel: CancelFlag::default(), deadline: None };
        let _cancel_on_drop = CancelOnDrop(patience.cancel.clone());
        on_thread(place, move || run(&patience)).await
    }

    /// Runs a query. `run` gets what is left of `timeout` after waiting for a place, and a flag that
    /// is raised when the future is dropped, because the client has gone.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        timeout: Duration,
        run: impl FnOnce(Duration, CancelFlag) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let begin = Instant::now();
        let place = place(&self.queries, timeout, "query timed out in query queue").await?;
        let left = timeout.saturating_sub(begin.elapsed());
        let cancel = CancelFlag::default();
        let _cancel_on_drop = CancelOnDrop(cancel.clone());
        on_thread(place, move || run(left, cancel)).await
    }

    /// Runs a look-up that consists of many: `run` asks its [`Patience`] before each.
    pub(crate) async fn search<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Patience) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let deadline = Some(Instant::now() + SEARCH_TIME_MAX);
        let patience = Patience { cancel: CancelFlag::default(), deadline };
        let _cancel_on_drop = CancelOnDrop(patience.cancel.clone());
        self.lookup(move || run(&patience)).await
    }

    /// As [`search`](Self::search), for one look-up that waits for nobody, if `at_hand`: on the thread that has
    /// read the request, which then also writes the answer. Two hops between threads take longer than most
    /// lists. Another thread goes on with everything else meanwhile, so a long one holds up nobody.
    pub(crate) async fn search_here<T: Send + 'static>(
        &self,
        at_hand: bool,
        run: impl FnOnce(&Patience) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let threads = Handle::current().runtime_flavor();
        let place = match at_hand && threads == RuntimeFlavor::MultiThread {
            true => self.lookups.clone().try_acquire_owned().ok(),
            false => None,
        };
        let Some(place) = place else { return self.search(run).await };
        let deadline = Some(Instant::now() + SEARCH_TIME_MAX);
        let patience = Patience { cancel: CancelFlag::default(), deadline };
        let run = AssertUnwindSafe(|| tokio::task::block_in_place(|| run(&patience)));
        let outcome = catch_unwind(run).unwrap_or_else(|_| Err(panicked("it ran on the request's thread")));
        drop(place);
        outcome
    }

    /// Runs a look-up.
    pub(crate) async fn lookup<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let place =
            place(&self.lookups, LOOKUP_WAIT_MAX, "too many look-ups at once: this one waited too long")
                .await?;
        on_thread(place, run).await
    }
}

/// How long somebody waits for a look-up: until it takes too long, or the client has gone.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    cancel: CancelFlag,
    deadline: Option<Instant>,
}

impl Patience {
    /// What a store that asks others is told.
    pub(crate) fn request(&self, missing: Missing) -> Request {
        let time_left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        Request { missing, time_left, gone: Some(gone(&self.cancel)), samples_max: None }
    }

    /// Whether anybody still waits.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        if self.cancel.is_cancelled() {
            return Err(ApiError::gone());
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let late = format!("the look-up took more than {SEARCH_TIME_MAX:?}");
            return Err(ApiError::new(ErrorKind::Timeout, late));
        }
        Ok(())
    }
}

/// Tells whether the flag is raised.
pub(crate) fn gone(cancel: &CancelFlag) -> Arc<dyn Fn() -> bool + Send + Sync> {
    let cancel = cancel.clone();
    Arc::new(move || cancel.is_cancelled())
}

async fn place(
    places: &Arc<Semaphore>,
    wait_max: Duration,
    late: &str,
) -> Result<OwnedSemaphorePermit, ApiError> {
    match tokio::time::timeout(wait_max, places.clone().acquire_owned()).await {
        Ok(Ok(place)) => Ok(place),
        Ok(Err(_)) => Err(ApiError::new(ErrorKind::Unavailable, "shutting down")),
        Err(_) => Err(ApiError::new(ErrorKind::Timeout, late)),
    }
}

/// Runs `run` and keeps its place until it has really ended, whether somebody waits or not.
async fn on_thread<T: Send + 'static>(
    place: OwnedSemaphorePermit,
    run: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let thread = tokio::task::spawn_blocking(move || {
        let _place = place;
        run()
    });
    thread.await.unwrap_or_else(|error| Err(panicked(error)))
}

fn panicked(how: impl std::fmt::Display) -> ApiError {
    tracing::error!(error = %how, "a request panicked");
    ApiError::new(ErrorKind::Internal, "unexpected error: the request panicked; the log has more")
}

struct CancelOnDrop(CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_dropped_query_is_cancelled_and_keeps_its_place_until_it_ends() {
        let work = Work::new(1, 1);
        let (report, reports) = mpsc::channel();
        let asked = work.clone();
        let waiting = tokio::spawn(async move {
            let run = move |_, cancel: CancelFlag| {
                report.send("running").expect("the test listens");
                while !cancel.is_cancelled() {
                    std::thread::yield_now();
                }
                report.send("cancelled").expect("the test listens");
                Ok(())
            };
            asked.query(Duration::from_secs(60), run).await
        });
        let (first, reports) =
            tokio::task::spawn_blocking(move || (reports.recv(), reports)).await.expect("no panic");
        assert_eq!(first, Ok("running"));
        waiting.abort();
        let second = work.query(Duration::from_secs(60), |_, _| Ok("next")).await;
        assert_eq!(second, Ok("next"), "the place is free once the first has ended");
        assert_eq!(reports.recv(), Ok("cancelled"));
    }

    #[tokio::test]
    async fn a_dropped_search_ends_at_its_next_look_at_patience() {
        let work = Work::new(1, 1);
        let (report, reports) = mpsc::channel();
        let asked = work.clone();
        let waiting = tokio::spawn(async move {
            let run = move |patience: &Patience| {
                report.send(Ok(())).expect("the test listens");
                while patience.check().is_ok() {
                    std::thread::yield_now();
                }
                report.send(patience.check()).expect("the test listens");
                Ok(())
            };
            asked.search(run).await
        });
        let (first, reports) =
            tokio::task::spawn_blocking(move || (reports.recv(), reports)).await.expect("no panic");
        assert_eq!(first, Ok(Ok(())));
        waiting.abort();
        let ended = tokio::task::spawn_blocking(move || reports.recv()).await.expect("no panic");
        assert_eq!(ended, Ok(Err(ApiError::new(ErrorKind::Canceled, "the client has gone"))));
    }

    #[tokio::test]
    async fn waiting_in_the_queue_counts() {
        let work = Work::new(1, 1);
        let held = work.queries.clone().acquire_owned().await.expect("open");
        let late = work.query(Duration::ZERO, |_, _| Ok(())).await;
        drop(held);
        assert_eq!(late, Err(ApiError::new(ErrorKind::Timeout, "query timed out in query queue")));
    }

    #[tokio::test]
    async fn memory_for_forms_ends_and_comes_back() {
        let work = Work::new(1, 1);
        let held = work.form_memory(FORM_BYTES_MAX - 10).expect("there is enough");
        let rest = work.form_memory(10).expect("it just fits");
        assert_eq!(work.form_memory(1).expect_err("all is taken").kind, ErrorKind::Busy);
        drop(rest);
        assert!(work.form_memory(11).is_err());
        drop(held);
        assert!(work.form_memory(FORM_BYTES_MAX).is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_is_at_hand_is_answered_on_the_thread_of_the_request_and_holds_up_nobody() {
        let work = Work::new(1, 1);
        let (begun, has_begun) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let asked = work.clone();
        let long = tokio::spawn(async move {
            let before = std::thread::current().id();
            let run = move |_: &Patience| {
                begun.send(()).expect("the test listens");
                may_go_on.recv().expect("the test goes on");
                Ok(std::thread::current().id() == before)
            };
            asked.search_here(true, run).await
        });
        tokio::task::spawn_blocking(move || has_begun.recv()).await.expect("no panic").expect("begun");
        // The runtime has one thread, and goes on.
        let other = work.clone();
        let short = tokio::spawn(async move { other.search_here(true, |_| Ok(7)).await });
        assert_eq!(short.await.expect("no panic"), Ok(7));
        go_on.send(()).expect("it waits");
        assert_eq!(long.await.expect("no panic"), Ok(true));
        let kind = |answer: Result<(), ApiError>| answer.expect_err("panicked").kind;
        let panics = tokio::spawn(async move { work.search_here(true, |_| panic!("on purpose")).await });
        assert_eq!(kind(panics.await.expect("caught")), ErrorKind::Internal);
    }

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let answer: Result<(), _> = Work::new(1, 1).lookup(|| panic!("on purpose")).await;
        assert_eq!(answer.expect_err("panicked").kind, ErrorKind::Internal);
    }
}
