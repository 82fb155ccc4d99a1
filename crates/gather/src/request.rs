//! One request: all its selections together have one time, one memory, and ask a store that has failed them
//! no second time.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use storage::{Missing, QueryError, Queryable, Request, Select};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::remote_read::{FrameReader, ReadHints, ReadQuery, ReadRequest, WARNINGS};
use wire::remote_write::snappy_encode;

use crate::far::{BoxFuture, Far, FarError, Fleet, may_have};
use crate::gather::Options;
use crate::metrics::Metrics;
use crate::pulse::Pulses;
use crate::samples::{Budget, Collector, FarSet, Trouble};
use crate::text::shown_time;

/// What `ReadRequest::accepted` calls chunks in frames.
const STREAMED_XOR_CHUNKS: u64 = 1;
/// How often it is looked whether anybody still waits.
const GONE_EVERY: Duration = Duration::from_millis(50);
/// How long what remains of a request's time must be at least for anybody to be asked.
const TIME_MIN: Duration = Duration::from_millis(1);

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) local: Arc<dyn Queryable>,
    pub(crate) fleet: Arc<dyn Fleet>,
    pub(crate) runtime: Handle,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) pulses: Pulses,
}

/// What a far store said, or why it said nothing, for people.
pub(crate) type Answer<T> = Result<T, String>;

/// What came of asking: the local part, those of far stores, and warnings.
pub(crate) struct Asked<L, T> {
    pub(crate) local: L,
    pub(crate) far: Vec<T>,
    pub(crate) warnings: Vec<String>,
}

/// One request under way.
pub(crate) struct Asking {
    pub(crate) shared: Arc<Shared>,
    request: Request,
    /// When the answers have to be there.
    end: Option<Instant>,
    budget: Arc<Budget>,
    /// Stores that gave this request no answer, by name, and why.
    failed: Mutex<BTreeMap<String, String>>,
}

/// What is left to do after a look at who is there.
#[derive(Default)]
struct Plan {
    stores: Vec<Arc<dyn Far>>,
    /// Stores that are not asked, and what is to be said of that.
    unanswered: Vec<String>,
    /// Of stores that do not keep what is asked.
    too_old: Vec<String>,
}

impl Asking {
    pub(crate) fn new(shared: &Arc<Shared>, request: Request) -> Asking {
        // What answers say must still be computed with and sent.
        let end = request.time_left.map(|left| Instant::now() + left / 4 * 3);
        let budget = Budget::new(shared.options.bytes_max);
        Asking { shared: Arc::clone(shared), request, end, budget, failed: Mutex::default() }
    }

    /// Which stores may have something for `select`.
    fn plan(&self, select: &Select) -> Plan {
        let mut plan = Plan::default();
        let failed = self.failed.lock();
        for far in self.shared.fleet.stores(&select.tenant) {
            if !may_have(far.labels(), &select.matchers) {
                continue;
            }
            let (reach, cluster) = (far.reach(), far.cluster());
            // Look-ups without a window begin long before anybody kept anything.
            if let Some(oldest) = reach.oldest_ms.filter(|oldest| *oldest > select.start_ms)
                && select.start_ms > 0
            {
                plan.too_old.push(format!(
                    "cluster {cluster:?} keeps nothing older than {}: of the time before, the answer has what this hub stores",
                    shown_time(oldest)
                ));
            }
            let overlaps = reach.first_ms.is_none_or(|first| first <= select.end_ms)
                && reach.end_ms.is_none_or(|end| end >= select.start_ms);
            match failed.get(far.name()) {
                Some(why) if overlaps => plan.unanswered.push(why.clone()),
                None if overlaps => plan.stores.push(far),
                _ => {}
            }
        }
        plan
    }

    /// Asks all stores that may have something for `select` at once, runs `meanwhile`, and gives both.
    pub(crate) fn ask<T: Send + 'static, L>(
        &self,
        select: &Select,
        each: impl Fn(Arc<dyn Far>, Sign) -> BoxFuture<'static, Answer<T>>,
        meanwhile: impl FnOnce() -> Result<L, QueryError>,
    ) -> Result<Asked<L, T>, QueryError> {
        let Plan { stores, mut unanswered, mut too_old } = self.plan(select);
        if stores.is_empty() && unanswered.is_empty() && too_old.is_empty() {
            return Ok(Asked { local: meanwhile()?, far: Vec::new(), warnings: Vec::new() });
        }
        let mut asking = JoinSet::new();
        for (number, far) in stores.into_iter().enumerate() {
            let work = self.work(number, far, &each);
            asking.spawn_on(work, &self.shared.runtime);
        }
        // Dropped on an error: what is under way ends then.
        let local = meanwhile()?;
        let mut answers = BTreeMap::new();
        while let Some((number, far, answer)) = self.next(&mut asking)? {
            match answer {
                Ok(answer) => _ = answers.insert(number, answer),
                Err(why) => {
                    let why = format!("cluster {:?} did not answer: {why}", far.cluster());
                    self.failed.lock().insert(far.name().to_owned(), why.clone());
                    unanswered.push(why);
                }
            }
            if self.request.missing != Missing::Warn && !unanswered.is_empty() {
                break;
            }
        }
        let mut warnings = unanswered;
        warnings.sort();
        too_old.sort();
        let fails = match self.request.missing {
            Missing::Warn => false,
            Missing::FailUnanswered => !warnings.is_empty(),
            Missing::Fail => !warnings.is_empty() || !too_old.is_empty(),
        };
        warnings.extend(too_old);
        warnings.dedup();
        if fails {
            return Err(QueryError::Incomplete(warnings.join("; ")));
        }
        Ok(Asked { local, far: answers.into_values().collect(), warnings })
    }

    /// One store's part, with its bounds.
    fn work<T: Send + 'static>(
        &self,
        number: usize,
        far: Arc<dyn Far>,
        each: &impl Fn(Arc<dyn Far>, Sign) -> BoxFuture<'static, Answer<T>>,
    ) -> impl Future<Output = (usize, Arc<dyn Far>, Answer<T>)> + Send + 'static {
        let metrics = self.shared.metrics.clone();
        let now = Instant::now();
        let left = self.end.map(|end| end.saturating_duration_since(now));
        let patience =
            left.map_or(self.shared.options.patience, |left| left.min(self.shared.options.patience));
        let waiting = match patience < TIME_MIN {
            true => Err("no time is left for it".to_owned()),
            false => self.shared.pulses.wait_for(far.name(), now, patience),
        };
        let started = waiting.map(|waiting| {
            let sign: Sign = Arc::new(Mutex::new(Some(waiting)));
            (each(Arc::clone(&far), Arc::clone(&sign)), sign)
        });
        async move {
            let (answer, sign) = match started {
                Ok(started) => started,
                Err(why) => return (number, far, Err(why)),
            };
            metrics.requests.get_or_create(&Metrics::of(far.cluster())).inc();
            let in_time = tokio::time::timeout(patience, answer).await;
            let answer = in_time.unwrap_or_else(|_| {
                let silent = sign.lock().take().is_some_and(|waiting| waiting.gave_up(Instant::now()));
                Err(match silent {
                    true => format!("no answer within {patience:?}"),
                    false => format!("no whole answer within {patience:?}"),
                })
            });
            heard(&sign);
            if answer.is_err() {
                metrics.failures.get_or_create(&Metrics::of(far.cluster())).inc();
            }
            (number, far, answer)
        }
    }

    /// The next answer, as long as anybody waits for it.
    fn next<A: 'static>(&self, asking: &mut JoinSet<A>) -> Result<Option<A>, QueryError> {
        let gone = self.request.gone.as_deref();
        self.shared.runtime.block_on(async {
            loop {
                tokio::select! {
                    done = asking.join_next() => match done {
                        None => return Ok(None),
                        Some(Ok(done)) => return Ok(Some(done)),
                        // Nothing else ends them; the log has the panic.
                        Some(Err(error)) => return Err(QueryError::Corrupt(format!("a cluster's answer: {error}"))),
                    },
                    () = tokio::time::sleep(GONE_EVERY), if gone.is_some() => {
                        if gone.is_some_and(|gone| gone()) {
                            return Err(QueryError::Cancelled);
                        }
                    }
                }
            }
        })
    }

    /// Sends `select` to all stores that may have something; `meanwhile` is the local one.
    pub(crate) fn read<L>(
        &self,
        select: &Select,
        func: &'static str,
        meanwhile: impl FnOnce() -> Result<L, QueryError>,
    ) -> Result<Asked<L, FarSet>, QueryError> {
        let request = read_request(select, func)?;
        let window = (select.start_ms, select.end_ms);
        let each = |far: Arc<dyn Far>, sign: Sign| -> BoxFuture<'static, Answer<Result<FarSet, Trouble>>> {
            let (request, metrics) = (request.clone(), self.shared.metrics.clone());
            let budget = Arc::clone(&self.budget);
            Box::pin(async move {
                match read(&*far, request, &budget, window, &metrics, &sign).await {
                    // Too much is the query's fault, not the store's.
                    Err(trouble @ Trouble::TooMuch(_)) => Ok(Err(trouble)),
                    Err(Trouble::Answer(why)) => Err(why),
                    Ok(set) => Ok(Ok(set)),
                }
            })
        };
        let Asked { local, far, warnings } = self.ask(select, each, meanwhile)?;
        let far = far.into_iter().collect::<Result<Vec<FarSet>, Trouble>>();
        Ok(Asked { local, far: far.map_err(|trouble| QueryError::Limit(trouble.to_string()))?, warnings })
    }
}

/// Where a store's first sign of life is told.
pub(crate) type Sign = Arc<Mutex<Option<crate::pulse::Waiting>>>;

/// The store has answered.
pub(crate) fn heard(sign: &Sign) {
    if let Some(waiting) = &mut *sign.lock() {
        waiting.heard(Instant::now());
    }
}

fn read_request(select: &Select, func: &str) -> Result<Vec<u8>, QueryError> {
    let hints = ReadHints {
        func: func.to_owned(),
        start_ms: select.start_ms,
        end_ms: select.end_ms,
        ..ReadHints::default()
    };
    let query = ReadQuery {
        start_ms: select.start_ms,
        end_ms: select.end_ms,
        matchers: select.matchers.clone(),
        hints: Some(hints),
    };
    let request = ReadRequest { queries: vec![query], accepted: vec![STREAMED_XOR_CHUNKS, WARNINGS] };
    snappy_encode(&request.encode()).map_err(|error| QueryError::Limit(error.to_string()))
}

async fn read(
    far: &dyn Far,
    request: Vec<u8>,
    budget: &Arc<Budget>,
    window: (i64, i64),
    metrics: &Metrics,
    sign: &Sign,
) -> Result<FarSet, Trouble> {
    let of_far = |error: FarError| Trouble::Answer(error.to_string());
    let begun = far.read(request).await;
    heard(sign);
    let mut pieces = begun.map_err(of_far)?;
    let bytes = metrics.bytes.get_or_create(&Metrics::of(far.cluster())).clone();
    let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
    let mut collector = Collector::new(budget, window, far);
    let malformed = |error: wire::remote_read::FrameError| Trouble::Answer(error.to_string());
    while let Some(piece) = pieces.recv().await {
        let piece = piece.map_err(of_far)?;
        bytes.inc_by(piece.len() as u64);
        reader.push(&piece);
        while reader.next(&mut frames).map_err(malformed)? {
            for frame in frames.drain(..) {
                collector.take(frame)?;
            }
        }
        collector.holds(reader.buffered())?;
    }
    reader.end().map_err(malformed)?;
    collector.finish(reader.warnings)
}
