//! An agent: a queue on a disk of its own, and a sender for each hub.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::TenantId;
use queue::{BlockMeta, Ids, Options, Queue, Start, Writer};
use remote::ship::{Outgoing, Peer, Sender, SenderOptions, SenderStats};
use stdx::clock::FakeClock;
use stdx::disk::{FakeDisk, Survivors};

use sim::Dice;

use crate::{Ground, Key};

const DIR: &str = "/agent/queue";
/// A request without an answer for so long has failed.
const TIMEOUT_MS: i64 = 5_000;

pub(crate) struct Agent {
    pub(crate) disk: FakeDisk,
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) peer: Peer,
    /// Which life this is.
    pub(crate) epoch: u64,
    pub(crate) failing: bool,
    pub(crate) sending: Vec<Sending>,
    options: Options,
    sender_options: SenderOptions,
    queue: Queue,
    writer: Writer,
}

pub(crate) struct Sending {
    sender: Sender,
    waiting: Vec<(u64, i64)>,
}

impl Sending {
    pub(crate) fn poll(&mut self, now_ms: i64) -> Vec<Outgoing> {
        let late: Vec<u64> =
            self.waiting.iter().filter(|(_, since)| now_ms - since > TIMEOUT_MS).map(|(id, _)| *id).collect();
        for id in late {
            self.waiting.retain(|(waiting, _)| *waiting != id);
            self.sender.failed(id, now_ms);
        }
        let mut all = Vec::new();
        while let Some(outgoing) = self.sender.poll(now_ms).expect("the queue can be read") {
            self.waiting.push((outgoing.id, now_ms));
            all.push(outgoing);
            assert!(all.len() < 10, "a few at a time");
        }
        let wakes = self.sender.wakes_at_ms();
        assert!(wakes.is_none_or(|at_ms| at_ms > now_ms), "it would turn in circles: {wakes:?} at {now_ms}");
        all
    }

    pub(crate) fn answered(&mut self, id: u64, body: &[u8], now_ms: i64) {
        self.waiting.retain(|(waiting, _)| *waiting != id);
        let _ = self.sender.answered(id, body, now_ms);
    }

    pub(crate) fn stats(&self) -> &SenderStats {
        self.sender.stats()
    }
}

fn open(
    disk: &FakeDisk,
    clock: &Arc<FakeClock>,
    options: &Options,
    sender_options: &SenderOptions,
    hubs: usize,
    now_ms: i64,
) -> (Queue, Writer, Vec<Sending>) {
    let opened = queue::open(disk.shared(), Path::new(DIR), clock.clone(), options.clone())
        .expect("a healed disk opens");
    let sending = (0..hubs)
        .map(|hub| {
            let reader = opened.queue.reader(&format!("hub-{hub}"), Start::Oldest).expect("a reader");
            Sending { sender: Sender::new(reader, sender_options.clone(), now_ms), waiting: Vec::new() }
        })
        .collect();
    (opened.queue, opened.writer, sending)
}

impl Agent {
    pub(crate) fn new(dice: &mut Dice, ids: &Arc<AtomicU64>, hubs: usize, now_ms: i64) -> Agent {
        let counter = Arc::clone(ids);
        let options = Options {
            bytes_max: if dice.one_in(3) { 8_000 + dice.below(30_000) } else { 1 << 30 },
            age_max: Duration::from_secs(7 * 86_400),
            segment_bytes_max: 600 + dice.below(8_000),
            segment_age_max: Duration::from_secs(1 + dice.below(600)),
            block_bytes_max: 4_000,
            ids: Ids(Arc::new(move || u128::from(counter.fetch_add(1, Ordering::SeqCst)))),
        };
        let sender_options = SenderOptions {
            batch_bytes: 200 + dice.below(4_000) as usize,
            backlog_bytes_per_second: if dice.one_in(2) { 0 } else { 2_000 + dice.below(20_000) },
            outage_ms: 5_000 + dice.below(30_000) as i64,
            retry_max_ms: 1_000 + dice.below(10_000) as i64,
            ..SenderOptions::default()
        };
        let disk = FakeDisk::new(Path::new("/agent"));
        let clock = FakeClock::at(1_700_000_000_000);
        let (queue, writer, sending) = open(&disk, &clock, &options, &sender_options, hubs, now_ms);
        let peer = Peer { tenant: TenantId::default(), cluster: "a".to_owned() };
        Agent {
            disk,
            clock,
            peer,
            epoch: ids.fetch_add(1, Ordering::SeqCst),
            failing: false,
            sending,
            options,
            sender_options,
            queue,
            writer,
        }
    }

    pub(crate) fn write(&mut self, dice: &mut Dice, ground: &mut Ground) {
        self.clock.advance_ms(dice.below(1_000) as i64);
        if self.writer.due() {
            self.writer.rotate();
        }
        let (next, first) = (self.writer.next_block(), self.writer.segment_first());
        let len = 20 + dice.below(300);
        let payload: Vec<u8> = (0..len).map(|_| dice.below(256) as u8).collect();
        let meta = BlockMeta {
            floor: next - dice.below((next - first).min(12) + 1),
            oldest_ms: self.clock_ms(),
            newest_ms: self.clock_ms(),
            rows: 1 + dice.below(9) as u32,
            samples: 100,
            ..BlockMeta::default()
        };
        if let Ok(key) = self.writer.write(&meta, &payload) {
            assert!(ground.written.insert((key.incarnation, key.block), payload).is_none());
        }
        self.take_losses(ground);
    }

    fn clock_ms(&self) -> i64 {
        use stdx::clock::Clock;
        self.clock.now_ms()
    }

    pub(crate) fn sync(&mut self, ground: &mut Ground) {
        if let Ok(durable) = self.queue.sync() {
            let incarnation = self.queue.incarnation();
            let of = ground.written.range((incarnation, 0)..(incarnation, durable));
            ground.required.extend(of.map(|(key, _)| *key));
        }
    }

    pub(crate) fn upkeep(&mut self, ground: &mut Ground) {
        let _ = self.queue.upkeep();
        self.take_losses(ground);
    }

    fn take_losses(&self, ground: &mut Ground) {
        for (hub, sending) in self.sending.iter().enumerate() {
            for lost in sending.sender.reader().lost() {
                ground.lost[hub].extend((lost.first..=lost.last).map(|block| (lost.incarnation, block)));
            }
        }
    }

    /// The process or the machine dies, and starts again, perhaps under another identity.
    pub(crate) fn crash(
        &mut self,
        cut: bool,
        re_enrol: bool,
        dice: &mut Dice,
        ground: &mut Ground,
        now_ms: i64,
    ) {
        self.take_losses(ground);
        let disk = match cut {
            true if dice.one_in(3) => self.disk.after_power_cut(Survivors::Nothing),
            true => self.disk.after_power_cut(Survivors::Some(dice.below(u64::MAX))),
            false => self.disk.after_kill(),
        };
        let hubs = self.sending.len();
        self.sending.clear();
        self.disk = disk;
        self.failing = false;
        self.epoch += 1_000_000;
        if re_enrol {
            self.peer.cluster.push('x');
        }
        let (queue, writer, sending) =
            open(&self.disk, &self.clock, &self.options, &self.sender_options, hubs, now_ms);
        (self.queue, self.writer, self.sending) = (queue, writer, sending);
        ground.required.extend(self.held());
    }

    fn held(&self) -> Vec<Key> {
        let blocks = |s: queue::SegmentInfo| (s.first..s.next).map(move |block| (s.incarnation, block));
        self.queue.segments().into_iter().flat_map(blocks).collect()
    }

    /// Another agent on a copy of the volume as it is.
    pub(crate) fn clone_volume(
        &self,
        dice: &mut Dice,
        ground: &mut Ground,
        hubs: usize,
        now_ms: i64,
    ) -> Agent {
        let mut clone = Agent::new(dice, &Arc::new(AtomicU64::new(1)), hubs, now_ms);
        clone.disk = self.disk.after_kill();
        clone.options = self.options.clone();
        clone.clock = FakeClock::at(self.clock_ms());
        clone.peer = self.peer.clone();
        clone.epoch = self.epoch + 500_000 + dice.below(1_000);
        let (queue, writer, sending) =
            open(&clone.disk, &clone.clock, &clone.options, &clone.sender_options, hubs, now_ms);
        assert_eq!(queue.id(), self.queue.id());
        (clone.queue, clone.writer, clone.sending) = (queue, writer, sending);
        ground.required.extend(clone.held());
        clone
    }

    pub(crate) fn fill_disk(&mut self, dice: &mut Dice) {
        let used: u64 = self.disk.files().iter().map(|(_, len)| len).sum();
        let full = !dice.one_in(3);
        self.disk.set_capacity(full.then(|| used + dice.below(2_000)));
    }

    pub(crate) fn is_drained(&self) -> bool {
        let done = |sending: &Sending| {
            let reader = sending.sender.reader();
            let pending = [queue::Lane::Live, queue::Lane::Backlog].map(|lane| reader.pending(lane).blocks);
            pending == [0, 0] && reader.lost().is_empty()
        };
        self.sending.iter().all(done)
    }

    pub(crate) fn state(&self) -> String {
        let text = |sending: &Sending| format!("{:?} {:?}", sending.stats(), sending.sender.wakes_at_ms());
        self.sending.iter().map(text).collect::<Vec<_>>().join("; ")
    }
}
