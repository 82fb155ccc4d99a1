//! What is asked through a tunnel, and what must come of it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use sim::Dice;
use tokio::time::{Instant, Sleep};
use tunnel::{Agents, Ask, Body, Handler, Lane, To};

/// Which question an answer is for.
const QUESTION: HeaderName = HeaderName::from_static("question");
/// Who answers.
const ANSWERS: HeaderName = HeaderName::from_static("answers");
/// A deadline nobody looks at is kept this much later at the latest: the hub looks once in a second.
const SLACK: Duration = Duration::from_millis(1_100);

/// What went on, of all questions.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Answers in the making or on their way, at agents.
    pub(crate) running: AtomicUsize,
    pub(crate) whole: AtomicUsize,
    pub(crate) failed: AtomicUsize,
    /// How often an agent has seen a question.
    seen: Mutex<HashMap<u64, usize>>,
    /// What must not be, found where no panic would be seen.
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    pub(crate) fn check(&self) {
        assert_eq!(*self.wrong.lock(), Vec::<String>::new());
    }
}

/// A question and how it is to go.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    number: u64,
    /// A POST with a body of so many bytes; a GET for none.
    sends: Option<usize>,
    bytes: usize,
    pieces: usize,
    /// Before the answer begins, and before each piece.
    first_ms: u64,
    pause_ms: u64,
    /// The answer's body breaks off at its end.
    breaks: bool,
    reader: Reader,
    ask: Ask,
}

/// What the one who asks does with the answer.
#[derive(Debug, Clone, Copy)]
enum Reader {
    Whole,
    /// Has enough after so many frames.
    Leaves(usize),
    /// Reads only after a while.
    Sleeps(u64),
}

impl Plan {
    pub(crate) fn new(number: u64, dice: &mut Dice) -> Plan {
        let mut below = |n: u64| dice.below(n);
        let deadline = Duration::from_millis([1_000, 5_000, 10_000, 30_000][below(4) as usize]);
        let ask = match below(8) {
            0 => Ask::control(deadline),
            1 => Ask::bulk(deadline),
            _ => Ask::scrape(deadline),
        };
        let large = if ask.lane == Lane::Bulk { 400_000 } else { 60_000 };
        Plan {
            number,
            sends: (below(6) == 0).then(|| below(20_000) as usize),
            bytes: [0, 1, 500, 5_000, below(large) as usize][below(5) as usize],
            pieces: 1 + below(12) as usize,
            first_ms: [0, 0, 10, 1_500, 8_000][below(5) as usize],
            pause_ms: [0, 0, 30, 400][below(4) as usize],
            breaks: below(12) == 0,
            reader: match below(6) {
                0 => Reader::Leaves(below(3) as usize),
                1 => Reader::Sleeps(below(20_000)),
                _ => Reader::Whole,
            },
            ask,
        }
    }

    /// A small one, which has to be answered.
    pub(crate) fn simple(number: u64) -> Plan {
        let (reader, ask) = (Reader::Whole, Ask::scrape(Duration::from_secs(5)));
        let (pieces, first_ms, pause_ms) = (2, 0, 0);
        Plan { number, sends: None, bytes: 3_000, pieces, first_ms, pause_ms, breaks: false, reader, ask }
    }

    fn request(&self) -> Request<Bytes> {
        let Plan { number, bytes, pieces, first_ms, pause_ms, breaks, .. } = self;
        let sends = self.sends.unwrap_or_default();
        let path =
            format!("/work/{number}/{sends}/{bytes}/{pieces}/{first_ms}/{pause_ms}/{}", u8::from(*breaks));
        let (method, body) = match self.sends {
            Some(bytes) => (Method::POST, (0..bytes).map(|at| byte(self.number, "", at)).collect()),
            None => (Method::GET, Bytes::new()),
        };
        Request::builder().method(method).uri(path).body(body).expect("a request")
    }

    /// Reads what [`Plan::request`] has written.
    fn of(request: &Request<tunnel::Whole>) -> Plan {
        let numbers = request.uri().path().trim_start_matches("/work/").split('/');
        let numbers: Vec<u64> = numbers.map(|number| number.parse().expect("a number")).collect();
        let &[number, sends, bytes, pieces, first_ms, pause_ms, breaks] = &numbers[..] else {
            panic!("seven numbers: {numbers:?}");
        };
        Plan {
            sends: (request.method() == Method::POST).then_some(sends as usize),
            bytes: bytes as usize,
            pieces: pieces as usize,
            first_ms,
            pause_ms,
            breaks: breaks == 1,
            ..Plan::simple(number)
        }
    }

    /// Asks, and checks the answer. Whether it came whole.
    pub(crate) async fn ask(self, hub: Agents, to: To, tally: Arc<Tally>) -> bool {
        let began = Instant::now();
        let answer = hub.request(&to, self.request(), self.ask).await;
        let took = began.elapsed();
        assert!(took <= self.ask.deadline + Duration::from_millis(5), "no answer after {took:?}: {self:?}");
        let whole = match answer {
            Err(_) => false,
            Ok(answer) => self.read(answer, &to, began).await,
        };
        if whole { &tally.whole } else { &tally.failed }.fetch_add(1, Ordering::SeqCst);
        whole
    }

    async fn read(&self, answer: Response<tunnel::TunnelBody>, to: &To, began: Instant) -> bool {
        let said = |name| answer.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let (question, answers) = (said(QUESTION), said(ANSWERS).expect("who answers").to_owned());
        assert_eq!(question, Some(self.number.to_string().as_str()), "an answer to another question");
        match to {
            To::Agent(key) => assert_eq!(answers, key.to_string(), "another agent answers"),
            To::Cluster { tenant, cluster } => {
                let is_meant = answers.starts_with(&format!("{tenant}/{cluster}/"));
                assert!(is_meant, "an agent of another cluster answers: {answers}");
            }
        }
        let mut body = answer.into_body();
        let mut read = Vec::new();
        let mut frames = 0;
        if let Reader::Sleeps(ms) = self.reader {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        let slept = Instant::now();
        loop {
            if matches!(self.reader, Reader::Leaves(after) if frames >= after) {
                return false;
            }
            let frame = body.frame().await;
            let end = (began + self.ask.deadline).max(slept) + SLACK;
            assert!(Instant::now() <= end, "a body goes on after its deadline: {self:?}");
            match frame {
                Some(Ok(frame)) => read.extend_from_slice(&frame.into_data().expect("data")),
                Some(Err(_)) => return false,
                None => break,
            }
            frames += 1;
        }
        assert!(!self.breaks, "a body that broke off has a clean end, after {} bytes: {self:?}", read.len());
        let expected: Vec<u8> = (0..self.bytes).map(|at| byte(self.number, &answers, at)).collect();
        assert!(read == expected, "{} bytes of {}: {self:?}", read.len(), self.bytes);
        true
    }
}

/// What an agent of that name answers with.
pub(crate) fn handler(name: String, tally: Arc<Tally>) -> Handler {
    Handler::from_fn(move |request: Request<tunnel::Whole>| {
        let plan = Plan::of(&request);
        let running = Running::new(&tally);
        let (name, tally) = (name.clone(), Arc::clone(&tally));
        async move {
            let times = {
                let mut seen = tally.seen.lock();
                let times = seen.entry(plan.number).or_default();
                *times += 1;
                *times
            };
            if let Some(bytes) = plan.sends {
                if times > 1 {
                    tally.wrong.lock().push(format!("seen {times} times: {plan:?}"));
                }
                // What breaks off on its way is an error, and nobody waits for an answer.
                if let Ok(body) = request.into_body().collect().await {
                    let expected: Vec<u8> = (0..bytes).map(|at| byte(plan.number, "", at)).collect();
                    if body.to_bytes() != expected {
                        tally.wrong.lock().push(format!("the body of a question is cut short: {plan:?}"));
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(plan.first_ms)).await;
            let question = HeaderValue::from(plan.number);
            let answers = HeaderValue::from_str(&name).expect("a name");
            let pieces = Pieces { plan, name, sent: 0, pause: None, _running: running };
            let body: Body = pieces.boxed_unsync();
            let mut response = Response::new(body);
            response.headers_mut().insert(QUESTION, question);
            response.headers_mut().insert(ANSWERS, answers);
            response
        }
    })
}

/// Counts an answer as long as it lives.
struct Running(Arc<Tally>);

impl Running {
    fn new(tally: &Arc<Tally>) -> Running {
        tally.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(tally))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The body of an answer, piece by piece.
struct Pieces {
    plan: Plan,
    name: String,
    sent: usize,
    pause: Option<Pin<Box<Sleep>>>,
    _running: Running,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = tunnel::protocol::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if this.sent == this.plan.pieces {
            let broken = this.plan.breaks.then(|| Err("the target is gone".into()));
            return Poll::Ready(broken);
        }
        if this.plan.pause_ms > 0 {
            let pause = Duration::from_millis(this.plan.pause_ms);
            let sleep = this.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
        this.pause = None;
        let Plan { number, bytes, pieces, .. } = this.plan;
        let from = bytes * this.sent / pieces;
        this.sent += 1;
        let to = bytes * this.sent / pieces;
        let piece: Bytes = (from..to).map(|at| byte(number, &this.name, at)).collect();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// What stands at a place of a body: other bodies have something else there.
fn byte(number: u64, name: &str, at: usize) -> u8 {
    let name: usize = name.bytes().map(usize::from).sum();
    ((number as usize * 31 + name * 17 + at * 7 + at / 251) % 251) as u8
}
