//! Byte streams between agents and hubs, as TCP over a bad network: late, stalled, forgotten by a firewall, reset,
//! ended in the middle of a write. All of it follows from dice and from tokio's (paused) time.

mod pipe;

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tunnel::HubUrl;
use tunnel::connect::{BoxedStream, Connect, Connecting};

use crate::Dice;
use pipe::Pipe;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From agents to hubs.
    ToHub,
    /// From hubs to agents.
    ToAgent,
    /// Both.
    Both,
}

/// The lines of a simulation. Cheap to clone.
#[derive(Clone)]
pub struct Lines(Arc<Mutex<State>>);

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lines({} streams)", self.0.lock().streams.len())
    }
}

struct State {
    dice: Dice,
    /// Agent and hub: until when nothing passes, and which way.
    stalls: BTreeMap<(usize, usize), Stall>,
    hubs: BTreeMap<usize, mpsc::UnboundedSender<Arrived>>,
    streams: BTreeMap<u64, Pair>,
    next: u64,
    began: Instant,
    digest: u64,
}

#[derive(Clone, Copy)]
struct Stall {
    until: Instant,
    way: Way,
}

/// Both directions of a stream.
#[derive(Clone)]
struct Pair {
    agent: usize,
    hub: usize,
    to_hub: Arc<Mutex<Pipe>>,
    to_agent: Arc<Mutex<Pipe>>,
    /// Since when nothing passes in one direction, for good or for the time being; when the other one follows, since
    /// then.
    silent_since: Option<Instant>,
    agent_has_left: bool,
    hub_has_left: bool,
}

/// A stream that an agent has opened, as the hub gets it.
#[derive(Debug)]
pub struct Arrived {
    /// Which agent.
    pub agent: usize,
    /// The hub's end.
    pub stream: End,
}

/// Streams that should have ended: see [`Lines::overdue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdue {
    /// Number of the agent.
    pub agent: usize,
    /// Number of the hub.
    pub hub: usize,
    /// Number of the stream.
    pub stream: u64,
    /// How long nothing has passed.
    pub silent: Duration,
    /// Whether the agent still holds its end; else the hub does.
    pub held_by_agent: bool,
}

impl Lines {
    /// No line yet.
    pub fn new(seed: u64) -> Lines {
        Lines(Arc::new(Mutex::new(State {
            dice: Dice::new(seed ^ 0x11e5),
            stalls: BTreeMap::new(),
            hubs: BTreeMap::new(),
            streams: BTreeMap::new(),
            next: 0,
            began: Instant::now(),
            digest: 0,
        })))
    }

    /// Hub `hub` listens until the receiver is dropped; before and after, agents are refused.
    pub fn listen(&self, hub: usize) -> mpsc::UnboundedReceiver<Arrived> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().hubs.insert(hub, sender);
        receiver
    }

    /// What opens streams for an agent. Hubs are `hub-0`, `hub-1` and so on, whatever the port.
    pub fn dialler(&self, agent: usize) -> Arc<dyn Connect> {
        Arc::new(Dialler { lines: self.clone(), agent })
    }

    /// Nothing passes between agent and hub for so long, one way or both; then it does, as TCP repeats what was
    /// not confirmed. New streams have to wait as well.
    pub fn stall(&self, agent: usize, hub: usize, way: Way, until: Instant) {
        let mut state = self.0.lock();
        state.stalls.insert((agent, hub), Stall { until, way });
        state.each(agent, hub, |pair| pair.stall(Stall { until, way }));
    }

    /// A firewall forgets the streams there are: nothing passes on them any more, one way or both, and nobody is told.
    pub fn forget(&self, agent: usize, hub: usize, way: Way) {
        self.0.lock().each(agent, hub, |pair| {
            let now = Instant::now();
            if pair.pipes(way).any(|pipe| pipe.lock().passes(now)) {
                pair.silent_since = Some(now);
            }
            pair.pipes(way).for_each(|pipe| pipe.lock().forget());
        });
    }

    /// The streams there are end for who reads them: what is on its way is cut short, the other end finds them reset.
    pub fn cut(&self, agent: usize, hub: usize) {
        let mut state = self.0.lock();
        let mut dice = state.dice.clone();
        state.each(agent, hub, |pair| {
            let is_reset = dice.one_in(2);
            pair.pipes(Way::Both).for_each(|pipe| pipe.lock().cut(is_reset, dice.below(1_000)));
        });
        state.dice = dice;
    }

    /// Every stall is over.
    pub fn heal(&self) {
        let now = Instant::now();
        let mut state = self.0.lock();
        let all: Vec<(usize, usize)> = state.stalls.keys().copied().collect();
        for (agent, hub) in all {
            state.stalls.remove(&(agent, hub));
            state.each(agent, hub, |pair| pair.stall(Stall { until: now, way: Way::Both }));
        }
    }

    /// Ends of streams that are still held though nothing passes: after `deaf` by who hears nothing, after `mute` by who
    /// hears and is not heard.
    pub fn overdue(&self, deaf: Duration, mute: Duration) -> Vec<Overdue> {
        let now = Instant::now();
        let mut state = self.0.lock();
        state.tidy(now);
        let mut overdue = Vec::new();
        for (stream, pair) in &state.streams {
            let Some(since) = pair.silent_since else { continue };
            let (agent, hub, stream, silent) = (pair.agent, pair.hub, *stream, now - since);
            for (held_by_agent, has_left, hears) in
                [(true, pair.agent_has_left, &pair.to_agent), (false, pair.hub_has_left, &pair.to_hub)]
            {
                let bound = if hears.lock().passes(now) { mute } else { deaf };
                if !has_left && silent >= bound {
                    overdue.push(Overdue { agent, hub, stream, silent, held_by_agent });
                }
            }
        }
        overdue
    }

    /// How many streams between agent and hub have an end that somebody holds.
    pub fn held(&self, agent: usize, hub: usize) -> usize {
        let mut state = self.0.lock();
        state.tidy(Instant::now());
        state.streams.values().filter(|pair| (pair.agent, pair.hub) == (agent, hub)).count()
    }

    /// What has passed so far and when, in one number: two runs that were the same have the same.
    pub fn digest(&self) -> u64 {
        self.0.lock().digest
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(self.0.lock().dice.below(100))
    }

    fn stalled_until(&self, agent: usize, hub: usize) -> Option<Instant> {
        let until = self.0.lock().stalls.get(&(agent, hub))?.until;
        (until > Instant::now()).then_some(until)
    }

    fn open(&self, agent: usize, hub: usize) -> io::Result<End> {
        let mut state = self.0.lock();
        let Some(listening) = state.hubs.get(&hub).filter(|listening| !listening.is_closed()).cloned() else {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens"));
        };
        let number = state.next;
        state.next += 1;
        let pipe = |dice: &mut Dice| Arc::new(Mutex::new(Pipe::new(dice)));
        let (to_hub, to_agent) = (pipe(&mut state.dice), pipe(&mut state.dice));
        let mut pair = Pair {
            agent,
            hub,
            to_hub: Arc::clone(&to_hub),
            to_agent: Arc::clone(&to_agent),
            silent_since: None,
            agent_has_left: false,
            hub_has_left: false,
        };
        if let Some(stall) = state.stalls.get(&(agent, hub)).filter(|stall| stall.until > Instant::now()) {
            pair.stall(*stall);
        }
        state.streams.insert(number, pair);
        let end = |reads: &Arc<Mutex<Pipe>>, writes: &Arc<Mutex<Pipe>>, is_agent| End {
            lines: self.clone(),
            number,
            is_agent,
            reads: Arc::clone(reads),
            writes: Arc::clone(writes),
        };
        let there = end(&to_hub, &to_agent, false);
        let here = end(&to_agent, &to_hub, true);
        drop(state);
        listening
            .send(Arrived { agent, stream: there })
            .map_err(|_| io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens any more"))?;
        Ok(here)
    }
}

impl State {
    fn each(&mut self, agent: usize, hub: usize, mut change: impl FnMut(&mut Pair)) {
        let of = |pair: &&mut Pair| (pair.agent, pair.hub) == (agent, hub);
        self.streams.values_mut().filter(of).for_each(&mut change);
    }

    /// Streams that both ends have left are gone, and stalls that are over do not count.
    fn tidy(&mut self, now: Instant) {
        self.streams.retain(|_, pair| !(pair.agent_has_left && pair.hub_has_left));
        for pair in self.streams.values_mut() {
            if pair.pipes(Way::Both).all(|pipe| pipe.lock().passes(now)) {
                pair.silent_since = None;
            }
        }
    }

    fn note(&mut self, stream: u64, what: u64) {
        let at = self.began.elapsed().as_millis() as u64;
        for number in [at, stream, what] {
            self.digest = (self.digest.rotate_left(7) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
}

impl Pair {
    fn pipes(&self, way: Way) -> impl Iterator<Item = &Arc<Mutex<Pipe>>> {
        let to_hub = (way != Way::ToAgent).then_some(&self.to_hub);
        let to_agent = (way != Way::ToHub).then_some(&self.to_agent);
        to_hub.into_iter().chain(to_agent)
    }

    fn stall(&mut self, stall: Stall) {
        let now = Instant::now();
        if self.pipes(Way::Both).all(|pipe| pipe.lock().passes(now)) {
            self.silent_since = None;
        }
        if stall.until > now && self.pipes(stall.way).any(|pipe| pipe.lock().passes(now)) {
            self.silent_since = Some(now);
        }
        self.pipes(stall.way).for_each(|pipe| pipe.lock().stall(stall.until));
    }
}

struct Dialler {
    lines: Lines,
    agent: usize,
}

impl Connect for Dialler {
    fn connect<'a>(&'a self, host: &'a str, _port: u16) -> Connecting<'a> {
        Box::pin(async move {
            let hub = host.strip_prefix("hub-").and_then(|number| number.parse().ok());
            let hub: usize = hub.ok_or_else(|| io::Error::other("no such host"))?;
            tokio::time::sleep(self.lines.pause()).await;
            // The first packets are repeated until they get through; who connects has patience of its own.
            while let Some(until) = self.lines.stalled_until(self.agent, hub) {
                tokio::time::sleep_until(until).await;
            }
            Ok(Box::new(self.lines.open(self.agent, hub)?) as BoxedStream)
        })
    }

    /// Without TLS: who the agent is, the line knows.
    fn secure<'a>(
        &'a self,
        stream: BoxedStream,
        _hub: &'a HubUrl,
        _tls: Arc<ClientConfig>,
    ) -> Connecting<'a> {
        Box::pin(async move { Ok(stream) })
    }
}

/// One end of a stream.
pub struct End {
    lines: Lines,
    number: u64,
    is_agent: bool,
    reads: Arc<Mutex<Pipe>>,
    writes: Arc<Mutex<Pipe>>,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "End({}, of the agent: {})", self.number, self.is_agent)
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = self.reads.lock().poll_read(context, into);
        if let Poll::Ready(done) = &read {
            let bytes = (into.filled().len() - before) as u64;
            self.lines
                .0
                .lock()
                .note(self.number, bytes * 4 + u64::from(self.is_agent) * 2 + u64::from(done.is_err()));
        }
        read
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let delay = self.lines.0.lock().dice.below(80);
        self.writes.lock().poll_write(context, bytes, Duration::from_millis(delay))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes.lock().end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.writes.lock().end();
        self.reads.lock().reader_has_left();
        let mut state = self.lines.0.lock();
        if let Some(pair) = state.streams.get_mut(&self.number) {
            if self.is_agent {
                pair.agent_has_left = true;
            } else {
                pair.hub_has_left = true;
            }
        }
    }
}
