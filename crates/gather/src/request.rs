//! One request: all its selections together have one time, one memory, and ask a store that has failed them
//! no second time.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use storage::{Missing, QueryError, Queryable, Request, Select};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::remote_read::{FrameReader, ReadHints, ReadQuery, ReadRequest, START_TIMES, WARNINGS};
use wire::remote_write::snappy_encode;

use crate::ahead::Ahead;
use crate::far::{BoxFuture, Far, FarError, Fleet, may_have};
use crate::gather::Options;
use crate::metrics::Metrics;
use crate::places::{Lane, Places};
use crate::pulse::{Pulses, Waiting};
use crate::samples::{Budget, Collector, FarSet, Trouble};
use crate::text::shown_time;

/// What `ReadRequest::accepted` calls chunks in frames.
const STREAMED_XOR_CHUNKS: u64 = 1;
/// How often it is looked whether anybody still waits.
const GONE_EVERY: Duration = Duration::from_millis(50);
/// How long what remains of a request's time must be at least for anybody to be asked.
const TIME_MIN: Duration = Duration::from_millis(1);
/// As good as for ever.
const FAR_OFF: Duration = Duration::from_secs(365 * 86_400);

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) local: Arc<dyn Queryable>,
    pub(crate) fleet: Arc<dyn Fleet>,
    pub(crate) runtime: Handle,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) pulses: Pulses,
    /// Questions under way at once, of all requests.
    pub(crate) places: Arc<Semaphore>,
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
    places: Places,
    /// Stores that gave this request no answer, by name, and why.
    failed: Failed,
    /// What was asked before its turn.
    pub(crate) ahead: Ahead,
}

type Failed = Arc<Mutex<BTreeMap<String, String>>>;

/// Questions under way, and what is known already of their answers.
#[derive(Debug)]
pub(crate) struct Begun<T> {
    asking: JoinSet<(usize, Arc<dyn Far>, Answer<T>)>,
    /// Stores that are not asked, and what is to be said of that.
    unanswered: Vec<String>,
    /// Of stores that do not keep what is asked.
    too_old: Vec<String>,
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
        let budget = Budget::new(shared.options.bytes_max, request.samples_max.unwrap_or(u64::MAX));
        let places = Places::new(&shared.places);
        let (shared, failed, ahead) = (Arc::clone(shared), Failed::default(), Ahead::default());
        Asking { shared, request, end, budget, places, failed, ahead }
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
                Some(why) if overlaps => plan.unanswered.push(unanswered(&*far, why)),
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
        let begun = self.begin(select, 1, each);
        self.finish(begun, meanwhile)
    }

    /// Asks all stores that may have something for `select`, which is one of `together` that go out at once.
    pub(crate) fn begin<T: Send + 'static>(
        &self,
        select: &Select,
        together: usize,
        each: impl Fn(Arc<dyn Far>, Sign) -> BoxFuture<'static, Answer<T>>,
    ) -> Begun<T> {
        let Plan { stores, unanswered, too_old } = self.plan(select);
        let mut asking = JoinSet::new();
        for (number, far) in stores.into_iter().enumerate() {
            let work = self.work(number, far, together, &each);
            asking.spawn_on(work, &self.shared.runtime);
        }
        Begun { asking, unanswered, too_old }
    }

    /// Runs `meanwhile`, waits for the answers, and gives both.
    pub(crate) fn finish<T: 'static, L>(
        &self,
        begun: Begun<T>,
        meanwhile: impl FnOnce() -> Result<L, QueryError>,
    ) -> Result<Asked<L, T>, QueryError> {
        // Dropped on an error: what is under way ends then.
        let Begun { mut asking, mut unanswered, mut too_old } = begun;
        let local = meanwhile()?;
        let mut answers = BTreeMap::new();
        while let Some((number, far, answer)) = self.next(&mut asking)? {
            match answer {
                Ok(answer) => _ = answers.insert(number, answer),
                Err(why) => unanswered.push(self::unanswered(&*far, &why)),
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
        together: usize,
        each: &impl Fn(Arc<dyn Far>, Sign) -> BoxFuture<'static, Answer<T>>,
    ) -> impl Future<Output = (usize, Arc<dyn Far>, Answer<T>)> + Send + 'static {
        let (shared, end, failed) = (Arc::clone(&self.shared), self.end, Arc::clone(&self.failed));
        let lane = self.places.lane(far.name());
        let sign: Sign = Arc::default();
        let answer = each(Arc::clone(&far), Arc::clone(&sign));
        async move {
            let part = Part { far: &*far, end, failed: &failed, shared: &shared };
            let answer = part.answer(lane, together, answer, &sign).await;
            if let Err(why) = &answer {
                failed.lock().entry(far.name().to_owned()).or_insert_with(|| why.clone());
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
        if func.is_empty() && self.ahead.knows(select) {
            return self.read_ahead(select, meanwhile);
        }
        let Asked { local, far, warnings } = self.finish(self.begin_read(select, func, 1)?, meanwhile)?;
        Ok(Asked { local, far: within_bounds(far)?, warnings })
    }

    /// Sends `select`, one of `together`.
    pub(crate) fn begin_read(
        &self,
        select: &Select,
        func: &'static str,
        together: usize,
    ) -> Result<Begun<Read>, QueryError> {
        let request = read_request(select, func)?;
        let window = (select.start_ms, select.end_ms);
        let each = |far: Arc<dyn Far>, sign: Sign| -> BoxFuture<'static, Answer<Read>> {
            let (request, metrics) = (request.clone(), self.shared.metrics.clone());
            let budget = Arc::clone(&self.budget);
            Box::pin(async move {
                match read(&*far, request, &budget, window, &metrics, &sign).await {
                    // Too much is the query's fault, not the store's.
                    Err(trouble @ (Trouble::TooMuch(_) | Trouble::TooManySamples(_))) => Ok(Err(trouble)),
                    Err(Trouble::Answer(why)) => Err(why),
                    Ok(set) => Ok(Ok(set)),
                }
            })
        };
        Ok(self.begin(select, together, each))
    }
}

/// What a store sent, or that it was more than the request may hold.
pub(crate) type Read = Result<FarSet, Trouble>;

/// The sets, if none was too much.
pub(crate) fn within_bounds(read: Vec<Read>) -> Result<Vec<FarSet>, QueryError> {
    let sets: Result<Vec<FarSet>, Trouble> = read.into_iter().collect();
    sets.map_err(|trouble| QueryError::Limit(trouble.to_string()))
}

fn unanswered(far: &dyn Far, why: &str) -> String {
    format!("cluster {:?} did not answer: {why}", far.cluster())
}

/// One question to one store.
struct Part<'a> {
    far: &'a dyn Far,
    end: Option<Instant>,
    failed: &'a Failed,
    shared: &'a Shared,
}

impl Part<'_> {
    /// Waits for a place, and then for `answer`: until it is silent for too long, or too slow.
    async fn answer<T>(
        &self,
        lane: Lane,
        together: usize,
        answer: BoxFuture<'static, Answer<T>>,
        sign: &Sign,
    ) -> Answer<T> {
        let no_time = || Err("no time is left for it".to_owned());
        // Those that go to a store together share its line.
        let whole = self.shared.options.patience * lane.shares(together);
        let far_off = Instant::now() + FAR_OFF;
        let Ok(_places) = tokio::time::timeout_at(self.end.unwrap_or(far_off), lane.places()).await else {
            return no_time();
        };
        // Another question of this request has found out meanwhile.
        if let Some(why) = self.failed.lock().get(self.far.name()) {
            return Err(why.clone());
        }
        let begin = Instant::now();
        let left = self.end.map_or(FAR_OFF, |end| end.saturating_duration_since(begin));
        let patience = self.shared.options.patience.min(left);
        if patience < TIME_MIN {
            return no_time();
        }
        *sign.lock() = Some(self.shared.pulses.wait_for(self.far.name(), begin, patience)?);
        let Metrics { requests, failures, .. } = &self.shared.metrics;
        let cluster = Metrics::of(self.far.cluster());
        requests.get_or_create(&cluster).inc();
        let answer = in_time(answer, begin, patience, whole.min(left), sign).await;
        heard(sign);
        if answer.is_err() {
            failures.get_or_create(&cluster).inc();
        }
        answer
    }
}

/// The answer, if its first sign comes within `patience` and all of it within `whole`.
async fn in_time<T>(
    mut answer: BoxFuture<'static, Answer<T>>,
    begin: Instant,
    patience: Duration,
    whole: Duration,
    sign: &Sign,
) -> Answer<T> {
    if let Ok(answer) = tokio::time::timeout_at(begin + patience, &mut answer).await {
        return answer;
    }
    let was_heard = sign.lock().as_ref().is_some_and(Waiting::was_heard);
    if was_heard && let Ok(answer) = tokio::time::timeout_at(begin + whole, answer).await {
        return answer;
    }
    let silent = sign.lock().take().is_some_and(|waiting| waiting.gave_up(Instant::now()));
    Err(match silent {
        true => format!("no answer within {patience:?}"),
        false => format!("no whole answer within {whole:?}"),
    })
}

/// Where a store's first sign of life is told.
pub(crate) type Sign = Arc<Mutex<Option<Waiting>>>;

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
    let request =
        ReadRequest { queries: vec![query], accepted: vec![STREAMED_XOR_CHUNKS, WARNINGS, START_TIMES] };
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
