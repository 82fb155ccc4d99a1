//! The state of sending: which request goes out next, and what an answer changes. No I/O, no clock.
//!
//! Groups come in the order of the queue and are done in that order. A batch waits for those batches
//! before it that hold the same series, so that a receiver gets each series in order; all others go out
//! side by side, as many as the receiver bears: one more with each success, half as many with each failure.
//!
//! A batch is a stack of *parts*. There is one at first; when the receiver finds a part too large, or
//! something in it that it will never take, it becomes two, the earlier to be sent first. A part of
//! a single point that is refused is booked and given up. A part that has been written is kept as it is
//! and sent again byte for byte.

mod batch;
mod refused;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::Metadata;

use super::answer::{Answer, Sent, Verdict, judge};
use super::config::{Protocol, WriteOutConfig};
use super::group::Group;
use super::metrics::{DropReason, RemoteMetrics};
use super::request::{Body, RequestWriter};
use batch::{Batch, Phase};
use refused::{Line, RefusedLog, TooOld};

/// Milliseconds between two lines about failures.
const FAILURE_LINE_MS: u64 = 30_000;
/// Most families that metadata is kept of.
const FAMILIES_MAX: usize = 100_000;
/// A first backoff doubles at most so often.
const DOUBLINGS_MAX: u32 = 20;

/// Two clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// Monotonic, milliseconds.
    pub(super) mono_ms: u64,
    /// Wall time, milliseconds since the epoch.
    pub(super) wall_ms: i64,
}

/// Names a request that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Ticket {
    /// A batch of a group.
    Batch { group: u64, batch: usize },
    /// Metadata.
    Metadata,
}

/// A request to send.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) ticket: Ticket,
    pub(super) protocol: Protocol,
    /// Packed.
    pub(super) body: Bytes,
    /// How many times the same was sent before.
    pub(super) retry: u32,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// Send this, and say what came of it.
    Send(Outgoing),
    /// Nothing until an answer or a group comes, or the monotonic clock shows this.
    Wait(Option<u64>),
}

/// See the module.
pub(super) struct Sender {
    config: WriteOutConfig,
    metrics: RemoteMetrics,
    writer: RequestWriter,
    groups: VecDeque<GroupState>,
    next_group: u64,
    /// The message in use.
    protocol: Protocol,
    speaks_v2: bool,
    /// Most points in a request, less than configured when the receiver found that too large.
    points_max: usize,
    in_flight: usize,
    /// Most requests under way.
    shards: usize,
    /// Whether a batch could go out but for `shards`.
    is_short: bool,
    /// Nothing goes out before, monotonic.
    gate_ms: u64,
    /// Failures since the last success.
    failures: u32,
    failure_line_ms: u64,
    too_old: TooOld,
    refused: RefusedLog,
    random: u64,
    metadata: MetadataState,
}

struct GroupState {
    number: u64,
    group: Group,
    batches: Vec<Batch>,
    /// Batches that are not done.
    open: usize,
}

#[derive(Default)]
struct MetadataState {
    families: BTreeMap<String, Arc<Metadata>>,
    /// The family after which the next request begins.
    after: Option<String>,
    due_ms: u64,
    in_flight: bool,
}

impl Sender {
    /// `seed` spreads the waits of many senders.
    pub(super) fn new(config: WriteOutConfig, metrics: RemoteMetrics, seed: u64) -> Sender {
        let shards = config.queue.min_shards.max(1);
        metrics.shards(shards);
        Sender {
            protocol: config.protocol,
            speaks_v2: false,
            points_max: config.queue.max_samples_per_send.max(1),
            shards,
            config,
            metrics,
            writer: RequestWriter::default(),
            groups: VecDeque::new(),
            next_group: 0,
            in_flight: 0,
            is_short: false,
            gate_ms: 0,
            failures: 0,
            failure_line_ms: 0,
            too_old: TooOld::default(),
            refused: RefusedLog::default(),
            random: seed | 1,
            metadata: MetadataState::default(),
        }
    }

    /// Most points that a batch should have.
    pub(super) fn points_max(&self) -> usize {
        self.points_max
    }

    /// Whether another group is welcome: there are enough when all requests can be under way.
    pub(super) fn has_room(&self) -> bool {
        let per_group = self.config.queue.capacity.div_ceil(self.points_max).max(1);
        self.groups.len() < 2 + self.shards / per_group
    }

    /// Takes the next group; its number comes back from [`Sender::finished`].
    pub(super) fn push(&mut self, mut group: Group) -> u64 {
        self.metrics.dropped(DropReason::Relabelled, group.dropped);
        let batches = Batch::of(&mut group, self.config.send_exemplars);
        self.metrics.pending(batches.iter().map(Batch::points).sum());
        let (number, open) = (self.next_group, batches.len());
        self.next_group += 1;
        self.groups.push_back(GroupState { number, group, batches, open });
        number
    }

    /// The newest group, if it and all before are done with.
    pub(super) fn finished(&mut self) -> Option<u64> {
        let mut last = None;
        while let Some(done) = self.groups.pop_front_if(|group| group.open == 0) {
            self.metrics.newest(done.group.newest_ms);
            last = Some(done.number);
        }
        last
    }

    /// What to do now.
    pub(super) fn next(&mut self, now: Now) -> Step {
        if now.mono_ms < self.gate_ms {
            return Step::Wait(Some(self.gate_ms));
        }
        if let Some(outgoing) = self.next_metadata(now) {
            return Step::Send(outgoing);
        }
        self.too_old.forget(now.mono_ms);
        self.is_short = false;
        let mut wake: Option<u64> = None;
        for at in 0..self.groups.len() {
            for batch in 0..self.groups[at].batches.len() {
                match self.groups[at].batches[batch].phase {
                    Phase::Done | Phase::InFlight => continue,
                    Phase::Backoff(until) if until > now.mono_ms => {
                        wake = Some(wake.map_or(until, |wake| wake.min(until)));
                        continue;
                    }
                    Phase::Backoff(_) => {}
                    Phase::Waiting if self.may_go(at, batch) => {}
                    Phase::Waiting => continue,
                }
                if self.in_flight >= self.shards {
                    self.is_short = true;
                    return Step::Wait(wake);
                }
                if let Some(outgoing) = self.start(at, batch, now) {
                    return Step::Send(outgoing);
                }
            }
        }
        Step::Wait(wake)
    }

    /// Takes in what came of a request; an error says why there was no answer.
    pub(super) fn answered(&mut self, ticket: Ticket, answer: Result<Answer, String>, now: Now) {
        let Ticket::Batch { group, batch } = ticket else { return self.metadata_answered(answer) };
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(at) = self.groups.iter().position(|state| state.number == group) else { return };
        let Some(state) = self.groups[at].batches.get_mut(batch) else { return };
        state.phase = Phase::Waiting;
        let Some(body) = state.body.clone() else { return };
        match answer {
            Err(why) => self.retry(at, batch, None, &why, now),
            Ok(answer) => self.judged(at, batch, &body, &answer, now),
        }
    }

    fn judged(&mut self, at: usize, batch: usize, body: &Body, answer: &Answer, now: Now) {
        let sent = Sent {
            protocol: body.protocol,
            speaks_v2: self.speaks_v2,
            points: body.points(),
            retry_on_http_429: self.config.queue.retry_on_http_429,
        };
        let verdict = judge(answer, sent);
        self.speaks_v2 |= body.protocol == Protocol::V2 && answer.written.is_some();
        if !matches!(verdict, Verdict::Retry(_) | Verdict::Misconfigured) {
            self.succeeded();
        }
        match verdict {
            Verdict::Taken => {
                self.metrics.sent(body.samples, body.histograms, body.exemplars);
                self.done_with_part(at, batch);
            }
            Verdict::Partly => self.partly(at, batch, body, answer, now),
            Verdict::OlderMessage => self.use_older_message(answer),
            Verdict::Retry(after) => self.retry(at, batch, after, &shown(answer), now),
            Verdict::Misconfigured => {
                // Asking again at once does not help: somebody has to do something first.
                let after = Some(self.config.queue.max_backoff);
                self.retry(at, batch, after, &shown(answer), now);
            }
            Verdict::TooLarge => {
                if self.groups[at].batches[batch].split() {
                    self.points_max = (body.points() / 2).clamp(1, self.points_max);
                } else {
                    self.give_up(at, batch, DropReason::TooLarge, answer, now);
                }
            }
            Verdict::Refused => self.refused(at, batch, answer, now),
            Verdict::Drop => self.give_up(at, batch, DropReason::TooManyRequests, answer, now),
        }
    }

    /// Whether no batch before this one that is not done holds a series of it.
    fn may_go(&self, at: usize, batch: usize) -> bool {
        let group = &self.groups[at];
        let this = &group.batches[batch];
        if this.follows && group.batches[batch - 1].phase != Phase::Done {
            return false;
        }
        self.groups.iter().take(at).filter(|earlier| earlier.open > 0).all(|earlier| {
            // Batches of a group stand in the order of their series.
            let from = earlier.batches.partition_point(|other| other.last < this.first);
            let mut overlapping = earlier.batches[from..].iter().take_while(|other| other.first <= this.last);
            overlapping.all(|other| other.phase == Phase::Done)
        })
    }

    /// Sends the next part of a batch; `None` when there is nothing left to send.
    fn start(&mut self, at: usize, batch: usize, now: Now) -> Option<Outgoing> {
        if self.config.queue.sample_age_limit.is_some() {
            // What has waited may have become too old. With nothing left out, the bytes are the same.
            self.groups[at].batches[batch].body = None;
        }
        while self.groups[at].batches[batch].body.is_none() {
            if self.groups[at].batches[batch].parts.is_empty() {
                return None;
            }
            self.write(at, batch, now);
        }
        let number = self.groups[at].number;
        let state = &mut self.groups[at].batches[batch];
        let body = state.body.as_ref()?;
        state.phase = Phase::InFlight;
        state.attempts += 1;
        self.in_flight += 1;
        let retry = state.attempts - 1;
        self.metrics.request(body.bytes.len(), body.points(), retry > 0);
        let (protocol, body) = (body.protocol, body.bytes.clone());
        Some(Outgoing { ticket: Ticket::Batch { group: number, batch }, protocol, body, retry })
    }

    /// Writes the next part of a batch, without what is not to be sent; with nothing left, the part is done.
    fn write(&mut self, at: usize, batch: usize, now: Now) {
        let GroupState { group, batches, .. } = &mut self.groups[at];
        let Some(part) = batches[batch].parts.last_mut() else { return };
        if let Some(limit) = self.config.queue.sample_age_limit {
            let oldest_ms = now.wall_ms.saturating_sub(millis(limit) as i64);
            self.metrics.given_up(DropReason::Age, part.trim(group, oldest_ms));
        }
        if let Some(oldest_ms) = self.too_old.oldest_ms() {
            self.metrics.given_up(DropReason::Refused, part.trim(group, oldest_ms));
        }
        if !self.config.send_native_histograms {
            self.metrics.given_up(DropReason::Histograms, part.trim_histograms());
        }
        if part.pieces.is_empty() {
            return self.done_with_part(at, batch);
        }
        let body = self.writer.write(self.protocol, group, &part.pieces, part.exemplars);
        batches[batch].body = Some(body);
    }

    /// Part of a request of 2.0 was stored, and the rest never will be.
    fn partly(&mut self, at: usize, batch: usize, body: &Body, answer: &Answer, now: Now) {
        let written = answer.written.unwrap_or_default();
        let samples = body.samples.min(u32::try_from(written.samples).unwrap_or(u32::MAX));
        let histograms = body.histograms.min(u32::try_from(written.histograms).unwrap_or(u32::MAX));
        let exemplars = body.exemplars.min(u32::try_from(written.exemplars).unwrap_or(u32::MAX));
        let points = body.points() - (samples + histograms) as usize;
        self.metrics.sent(samples, histograms, exemplars);
        self.metrics.given_up(DropReason::Refused, points);
        if points > 0 {
            let line = Line { points, of: body.points(), first: None, answer: &shown(answer) };
            self.refused.tell(&self.config.name, line, now.mono_ms);
        }
        self.done_with_part(at, batch);
    }

    /// Something in the part will never be taken: finds out what, or gives up a single point.
    fn refused(&mut self, at: usize, batch: usize, answer: &Answer, now: Now) {
        let GroupState { group, batches, .. } = &mut self.groups[at];
        let state = &mut batches[batch];
        if state.split() {
            return;
        }
        state.body = None;
        let Some(part) = state.parts.last_mut() else { return };
        if part.exemplars && part.pieces.iter().any(|piece| !piece.exemplars.is_empty()) {
            // Perhaps it is only these.
            part.exemplars = false;
            return;
        }
        if let Some((_, timestamp_ms)) = part.first_point(group) {
            self.too_old.learn(timestamp_ms, answer, now.mono_ms);
        }
        self.give_up(at, batch, DropReason::Refused, answer, now);
    }

    /// Books the next part as lost.
    fn give_up(&mut self, at: usize, batch: usize, reason: DropReason, answer: &Answer, now: Now) {
        let GroupState { group, batches, .. } = &self.groups[at];
        if let Some(part) = batches[batch].parts.last() {
            let points = part.points();
            self.metrics.given_up(reason, points);
            let line = Line { points, of: points, first: part.first_point(group), answer: &shown(answer) };
            self.refused.tell(&self.config.name, line, now.mono_ms);
        }
        self.done_with_part(at, batch);
    }

    fn done_with_part(&mut self, at: usize, batch: usize) {
        let group = &mut self.groups[at];
        let state = &mut group.batches[batch];
        state.next_part();
        if state.parts.is_empty() && state.phase != Phase::Done {
            state.phase = Phase::Done;
            group.open -= 1;
        }
    }

    /// The receiver does not speak 2.0: what has been written is written anew.
    fn use_older_message(&mut self, answer: &Answer) {
        if self.protocol == Protocol::V2 {
            let remote = self.config.name.as_str();
            tracing::warn!(
                remote,
                answer = shown(answer),
                "the receiver does not take remote write 2.0, it is sent 1.0"
            );
            self.protocol = Protocol::V1;
        }
        let batches = self.groups.iter_mut().flat_map(|group| &mut group.batches);
        for batch in batches.filter(|batch| batch.phase != Phase::InFlight) {
            if batch.body.as_ref().is_some_and(|body| body.protocol == Protocol::V2) {
                batch.body = None;
                batch.attempts = 0;
            }
        }
    }

    fn retry(&mut self, at: usize, batch: usize, after: Option<Duration>, why: &str, now: Now) {
        self.failures = self.failures.saturating_add(1);
        self.shards = (self.shards / 2).max(self.config.queue.min_shards.max(1));
        self.metrics.shards(self.shards);
        let attempts = self.groups[at].batches[batch].attempts;
        let own_ms = self.backoff_ms(attempts);
        // While nothing gets through, all wait: a receiver that comes back is not run over.
        let gate_ms = match after {
            Some(after) => millis(after),
            None => self.backoff_ms(self.failures),
        };
        self.gate_ms = self.gate_ms.max(now.mono_ms + gate_ms);
        self.groups[at].batches[batch].phase = Phase::Backoff(now.mono_ms + own_ms.max(gate_ms));
        if self.failures == 1 || now.mono_ms >= self.failure_line_ms + FAILURE_LINE_MS {
            self.failure_line_ms = now.mono_ms;
            let remote = self.config.name.as_str();
            tracing::warn!(
                remote,
                failures = self.failures,
                again_in_ms = gate_ms,
                reason = why,
                "remote write failed, the same is sent again"
            );
        }
    }

    /// The wait after `failures` failures in a row: from half of it on at random.
    fn backoff_ms(&mut self, failures: u32) -> u64 {
        let queue = &self.config.queue;
        let doublings = failures.saturating_sub(1).min(DOUBLINGS_MAX);
        let whole = millis(queue.min_backoff).max(1).saturating_mul(1 << doublings);
        let whole = whole.min(millis(queue.max_backoff).max(1));
        // Xorshift: waits need to differ, not to be hard to guess.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        whole - self.random % (whole / 2 + 1)
    }

    fn succeeded(&mut self) {
        if self.failures > 0 {
            let (remote, failures) = (self.config.name.as_str(), self.failures);
            tracing::info!(remote, failures, "remote write works again");
        }
        self.failures = 0;
        self.gate_ms = 0;
        if self.is_short && self.shards < self.config.queue.max_shards {
            self.shards += 1;
            self.metrics.shards(self.shards);
        }
    }
}

/// Metadata that goes out by itself (1.0): now and then all of it. Nothing waits for it.
impl Sender {
    /// What a source says of a family.
    pub(super) fn set_metadata(&mut self, family: &str, metadata: &Metadata) {
        let families = &mut self.metadata.families;
        let is_known = families.contains_key(family);
        if self.config.metadata.send && (is_known || families.len() < FAMILIES_MAX) {
            families.insert(family.to_owned(), Arc::new(metadata.clone()));
        }
    }

    fn next_metadata(&mut self, now: Now) -> Option<Outgoing> {
        let state = &mut self.metadata;
        let is_due = now.mono_ms >= state.due_ms || state.after.is_some();
        if self.protocol != Protocol::V1 || state.families.is_empty() || state.in_flight || !is_due {
            return None;
        }
        let max = self.config.metadata.max_samples_per_send.max(1);
        let from = match state.after.take() {
            Some(after) => (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded),
            None => (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded),
        };
        let families: Vec<_> = state.families.range::<String, _>(from).take(max).collect();
        let last = families.last().map(|(family, _)| (*family).clone());
        let is_whole = families.len() < max;
        let body = self
            .writer
            .write_metadata(families.iter().map(|(name, metadata)| (name.as_str(), metadata.as_ref())));
        state.after = last.filter(|_| !is_whole);
        state.in_flight = true;
        state.due_ms = now.mono_ms + millis(self.config.metadata.send_interval).max(1);
        self.metrics.request(body.len(), 0, false);
        Some(Outgoing { ticket: Ticket::Metadata, protocol: Protocol::V1, body, retry: 0 })
    }

    fn metadata_answered(&mut self, answer: Result<Answer, String>) {
        self.metadata.in_flight = false;
        if !answer.is_ok_and(|answer| answer.status / 100 == 2) {
            self.metadata.after = None;
            self.metrics.metadata_failed();
        }
    }
}

/// An answer in a line.
fn shown(answer: &Answer) -> String {
    match answer.text.as_str() {
        "" => format!("HTTP status {}", answer.status),
        text => format!("HTTP status {}: {text}", answer.status),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
