//! An agent: rows, the encoder, a queue on a disk of its own, and a sender for each hub.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::{Labels, SourceId, TenantId};
use queue::{Ids, Lane, Options, Queue, Start};
use remote::ship::{Outgoing, Peer, Sender, SenderOptions};
use remote::{Encoder, EncoderConfig, EncoderMetrics};
use sim::Dice;
use stdx::clock::{Clock, FakeClock};
use stdx::disk::{FakeDisk, Survivors};
use storage::{Appender, Batch, CommitPosition, Policy, Row, SourceDesc};

use crate::{Ground, Key, Sent};

const DIR: &str = "/agent/queue";
/// A request without an answer for so long has failed.
const TIMEOUT_MS: i64 = 10_000;
const SOURCES: u64 = 3;
const COLUMNS: u64 = 12;

pub(crate) struct Agent {
    pub(crate) disk: FakeDisk,
    pub(crate) peer: Peer,
    /// Which life this is.
    pub(crate) epoch: u64,
    name: u64,
    time: Arc<FakeClock>,
    options: Options,
    sender_options: SenderOptions,
    queue: Queue,
    encoder: Arc<Encoder>,
    senders: Vec<(Sender, Vec<(u64, i64)>)>,
    /// Appended since the last flush.
    open: Vec<(CommitPosition, Vec<Key>)>,
    newest_ms: i64,
    next_epoch: Arc<AtomicU64>,
}

impl Agent {
    pub(crate) fn new(dice: &mut Dice, ground: &mut Ground, time: &Arc<FakeClock>, hubs: usize) -> Agent {
        let counter = AtomicU64::new(1);
        let options = Options {
            bytes_max: 1 << 30,
            age_max: Duration::from_secs(7 * 86_400),
            segment_bytes_max: 1_000 + dice.below(20_000),
            segment_age_max: Duration::from_secs(5 + dice.below(600)),
            ids: Ids(Arc::new(move || u128::from(counter.fetch_add(1, Ordering::SeqCst)))),
            ..Options::default()
        };
        let sender_options = SenderOptions {
            batch_bytes: 500 + dice.below(8_000) as usize,
            backlog_bytes_per_second: if dice.one_in(2) { 0 } else { 2_000 + dice.below(20_000) },
            outage_ms: 5_000 + dice.below(30_000) as i64,
            retry_max_ms: 1_000 + dice.below(10_000) as i64,
            ..SenderOptions::default()
        };
        let disk = FakeDisk::new(Path::new("/agent"));
        let peer = Peer { tenant: TenantId::default(), cluster: "a".to_owned() };
        ground.agents += 1;
        Agent::start(disk, peer, ground.agents, time, options, sender_options, hubs, Arc::default())
    }

    #[allow(clippy::too_many_arguments)]
    fn start(
        disk: FakeDisk,
        peer: Peer,
        name: u64,
        time: &Arc<FakeClock>,
        options: Options,
        sender_options: SenderOptions,
        hubs: usize,
        next_epoch: Arc<AtomicU64>,
    ) -> Agent {
        let opened = queue::open(disk.shared(), Path::new(DIR), time.clone(), options.clone())
            .expect("a healed disk opens");
        let sender = |hub: usize| {
            let reader = opened.queue.reader(&format!("hub-{hub}"), Start::Oldest).expect("a reader");
            (Sender::new(reader, sender_options.clone(), time.now_ms()), Vec::new())
        };
        let senders = (0..hubs).map(sender).collect();
        let (config, metrics) = (EncoderConfig::default(), EncoderMetrics::default());
        let encoder = Encoder::without_thread(opened.writer, time.clone(), config, metrics);
        Agent {
            disk,
            peer,
            epoch: next_epoch.fetch_add(1, Ordering::SeqCst),
            name,
            time: Arc::clone(time),
            options,
            sender_options,
            queue: opened.queue,
            encoder,
            senders,
            open: Vec::new(),
            newest_ms: 0,
            next_epoch,
        }
    }

    /// A scrape.
    pub(crate) fn append(&mut self, dice: &mut Dice, ground: &mut Ground) {
        let source = dice.below(SOURCES);
        let id = SourceId(u128::from(self.name * 100 + source));
        let labels = Labels::from_pairs([("job", "sim")]);
        let desc = SourceDesc { tenant: TenantId::default(), id, labels };
        let Ok(source_ref) = self.encoder.open_source(&desc) else { return };
        let columns: Vec<u64> = (0..COLUMNS).filter(|_| !dice.one_in(5)).collect();
        let names: Vec<String> =
            columns.iter().map(|column| format!("{}-{source}-{column}", self.name)).collect();
        let all = names.iter().map(|name| {
            Labels::from_pairs([("__name__", "m"), ("job", "sim"), ("cluster", "a"), ("n", name.as_str())])
        });
        let Ok(found) = self.encoder.resolve(source_ref, &all.collect::<Vec<_>>()) else { return };
        let series: Vec<_> = found.into_iter().map(|series| series.expect("no limit")).collect();
        let values: Vec<f64> = columns.iter().map(|column| value(*column, dice)).collect();
        self.newest_ms = (self.newest_ms + 1).max(self.time.now_ms());
        let rows = [Row::floats(source_ref, self.newest_ms, &series, &values)];
        let Ok(done) = self.encoder.append(&Batch::rows(&rows, Policy::SCRAPE)) else { return };
        assert_eq!(done.rejected, [], "nothing of it is late");
        let mut keys = Vec::new();
        for (name, value) in names.into_iter().zip(values) {
            let key = (name, self.newest_ms);
            let sent = Sent { bits: value.to_bits(), required: false };
            assert!(ground.sent.insert(key.clone(), sent).is_none());
            keys.push(key);
        }
        self.open.push((done.position, keys));
        if dice.one_in(3) {
            self.encoder.close_due();
        }
        if dice.one_in(10) {
            // Somebody waits for this row, and with it for all in its block; a failure says nothing of others.
            let _ = self.encoder.wait_durable(done.position);
        }
    }

    /// What was appended and could be made durable has to arrive.
    pub(crate) fn flush(&mut self, ground: &mut Ground) {
        for (position, keys) in std::mem::take(&mut self.open) {
            if self.encoder.wait_durable(position).is_err() {
                continue;
            }
            for key in keys {
                if let Some(sent) = ground.sent.get_mut(&key) {
                    sent.required = true;
                }
            }
        }
    }

    pub(crate) fn upkeep(&mut self) {
        let _ = self.queue.upkeep();
    }

    pub(crate) fn crash(&mut self, cut: bool, dice: &mut Dice) {
        let disk = match cut {
            true if dice.one_in(3) => self.disk.after_power_cut(Survivors::Nothing),
            true => self.disk.after_power_cut(Survivors::Some(dice.below(u64::MAX))),
            false => self.disk.after_kill(),
        };
        let hubs = self.senders.len();
        self.senders.clear();
        let (newest_ms, name) = (self.newest_ms, self.name);
        *self = Agent::start(
            disk,
            self.peer.clone(),
            name,
            &self.time.clone(),
            self.options.clone(),
            self.sender_options.clone(),
            hubs,
            Arc::clone(&self.next_epoch),
        );
        self.newest_ms = newest_ms;
    }

    /// Another agent on a copy of the volume as it is.
    pub(crate) fn clone_volume(&self, ground: &mut Ground) -> Agent {
        ground.agents += 1;
        Agent::start(
            self.disk.after_kill(),
            self.peer.clone(),
            ground.agents,
            &self.time,
            self.options.clone(),
            self.sender_options.clone(),
            self.senders.len(),
            Arc::clone(&self.next_epoch),
        )
    }

    pub(crate) fn fill_disk(&mut self, dice: &mut Dice) {
        let used: u64 = self.disk.files().iter().map(|(_, len)| len).sum();
        let full = !dice.one_in(3);
        self.disk.set_capacity(full.then(|| used + dice.below(3_000)));
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.queue.stats().read_only
    }

    pub(crate) fn poll(&mut self, now_ms: i64) -> Vec<(usize, Outgoing)> {
        let mut all = Vec::new();
        for (hub, (sender, waiting)) in self.senders.iter_mut().enumerate() {
            let late = |(_, since): &&(u64, i64)| now_ms - since > TIMEOUT_MS;
            let late: Vec<u64> = waiting.iter().filter(late).map(|(id, _)| *id).collect();
            for id in late {
                waiting.retain(|(other, _)| *other != id);
                sender.failed(id, now_ms);
            }
            while let Some(outgoing) = sender.poll(now_ms).expect("the queue can be read") {
                waiting.push((outgoing.id, now_ms));
                all.push((hub, outgoing));
            }
        }
        all
    }

    pub(crate) fn answered(&mut self, hub: usize, id: u64, body: &[u8], now_ms: i64) {
        let (sender, waiting) = &mut self.senders[hub];
        waiting.retain(|(other, _)| *other != id);
        // A mutilated answer counts as none.
        let _ = sender.answered(id, body, now_ms);
    }

    pub(crate) fn is_drained(&self) -> bool {
        let done = |(sender, _): &(Sender, _)| {
            [Lane::Live, Lane::Backlog].into_iter().all(|lane| sender.reader().pending(lane).blocks == 0)
        };
        self.senders.iter().all(done)
    }

    pub(crate) fn refused(&self) -> usize {
        self.senders.iter().map(|(sender, _)| sender.stats().refused.len()).sum()
    }

    pub(crate) fn state(&self) -> String {
        let text = |(sender, _): &(Sender, _)| format!("{:?} {:?}", sender.stats(), sender.wakes_at_ms());
        self.senders.iter().map(text).collect::<Vec<_>>().join("; ")
    }
}

/// Values as targets have them, and some that they should not have.
fn value(column: u64, dice: &mut Dice) -> f64 {
    match (column % 4, dice.below(12)) {
        (_, 0) => f64::from_bits(0x7ff8_0000_0000_0000 | dice.below(1 << 40)),
        (_, 1) => [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY][dice.below(4) as usize],
        (0, _) => 7.0,
        (1, _) => dice.below(1_000_000) as f64,
        (2, _) => dice.below(100_000) as f64 / 100.0,
        _ => f64::from_bits(dice.below(u64::MAX)),
    }
}
