//! An agent: targets with schedules, the encoder, a queue on a disk of its own, and a sender for each hub.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use model::{Labels, SourceId, TenantId};
use queue::{Ids, Lane, Options, Queue, Start};
use remote::ship::{Outgoing, Peer, Sender, SenderOptions};
use remote::{Encoder, EncoderConfig, EncoderMetrics};
use sim::Dice;
use stdx::clock::{Clock, FakeClock};
use stdx::disk::{FakeDisk, Survivors};
use storage::{Account, Appender, Batch, CommitPosition, Outcome, Policy, Row, Schedule, SourceDesc};

use crate::ground::{Block, Ground, Told};

const DIR: &str = "/agent/queue";
const TARGETS: u64 = 3;
const COLUMNS: u64 = 12;
/// Ticks missed beyond this are not told one by one: the scraper begins anew, as `scrape`'s does.
const SKIPPED_MAX: i64 = 20;

pub(crate) struct Agent {
    pub(crate) disk: FakeDisk,
    pub(crate) peer: Peer,
    /// Which life this is.
    pub(crate) epoch: u64,
    /// The machine's own clock, which jumps.
    pub(crate) clock: Arc<FakeClock>,
    /// What all that it scrapes has in its name.
    name: u64,
    /// The incarnations of its queue so far, those of before it was cloned among them.
    lives: Vec<u128>,
    options: Options,
    sender_options: SenderOptions,
    /// A request without an answer for so long has failed, milliseconds.
    patience_ms: i64,
    queue: Queue,
    encoder: Arc<Encoder>,
    sending: Vec<Sending>,
    targets: Vec<Target>,
    /// Told since the last flush: source and tick.
    open: Vec<(CommitPosition, (u128, i64))>,
    newest_ms: i64,
    next_epoch: Arc<AtomicU64>,
}

struct Sending {
    sender: Sender,
    waiting: Vec<(u64, i64)>,
    /// Something was written since the last look, or the hub has answered.
    news: Arc<AtomicBool>,
}

/// What an agent scrapes.
struct Target {
    id: SourceId,
    labels: Labels,
    schedule: Schedule,
    /// Ticks at or before this are done with.
    last_ms: i64,
    /// Since when rows are due, unless that has been told.
    begin_ms: Option<i64>,
    /// Ticks without a scrape that nobody has been told of.
    skipped: Vec<i64>,
}

/// What outlives a process.
struct Before {
    disk: FakeDisk,
    peer: Peer,
    clock: Arc<FakeClock>,
    name: u64,
    lives: Vec<u128>,
    options: Options,
    sender_options: SenderOptions,
    patience_ms: i64,
    hubs: usize,
    newest_ms: i64,
    next_epoch: Arc<AtomicU64>,
}

impl Agent {
    pub(crate) fn new(dice: &mut Dice, ground: &mut Ground, now_ms: i64, patience_ms: i64) -> Agent {
        let counter = AtomicU64::new(1);
        let options = Options {
            bytes_max: if dice.one_in(4) { 5_000 + dice.below(25_000) } else { 1 << 30 },
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
        ground.names += 1;
        let before = Before {
            disk: FakeDisk::new(Path::new("/agent")),
            peer: Peer { tenant: TenantId::default(), cluster: "a".to_owned() },
            clock: FakeClock::at(now_ms),
            name: ground.names,
            lives: Vec::new(),
            options,
            sender_options,
            patience_ms,
            hubs: ground.lost.len(),
            newest_ms: 0,
            next_epoch: Arc::default(),
        };
        Agent::start(before, now_ms)
    }

    fn start(before: Before, now_ms: i64) -> Agent {
        let Before { disk, peer, clock, name, mut lives, options, sender_options, .. } = before;
        let Before { patience_ms, hubs, newest_ms, next_epoch, .. } = before;
        let opened = queue::open(disk.shared(), Path::new(DIR), clock.clone(), options.clone())
            .expect("a healed disk opens");
        lives.push(opened.queue.incarnation());
        let sending = |hub: usize| {
            let reader = opened.queue.reader(&format!("hub-{hub}"), Start::Oldest).expect("a reader");
            let news = Arc::new(AtomicBool::new(true));
            let written = Arc::clone(&news);
            opened.queue.on_write(move || written.store(true, Ordering::SeqCst));
            Sending { sender: Sender::new(reader, sender_options.clone(), now_ms), waiting: Vec::new(), news }
        };
        let sending = (0..hubs).map(sending).collect();
        let config = EncoderConfig { cluster: peer.cluster.clone(), ..EncoderConfig::default() };
        let encoder =
            Encoder::without_thread(opened.writer, clock.clone(), config, EncoderMetrics::default());
        // A target is not scraped twice for one tick, whatever the machine's clock says after a restart.
        let begin_ms = clock.now_ms().max(newest_ms + 1);
        let target = |number: u64| {
            let interval_ms = [1_000, 2_000, 5_000][(number % 3) as usize];
            let schedule =
                Schedule { interval_ms, offset_ms: (name * 137 + number * 311) as i64 % interval_ms };
            let instance = format!("{name}-{number}");
            let labels =
                [("cluster", peer.cluster.as_str()), ("instance", instance.as_str()), ("job", "sim")];
            Target {
                id: SourceId(u128::from(name * 100 + number)),
                labels: Labels::from_pairs(labels),
                schedule,
                last_ms: begin_ms - 1,
                begin_ms: Some(begin_ms),
                skipped: Vec::new(),
            }
        };
        Agent {
            epoch: next_epoch.fetch_add(1, Ordering::SeqCst),
            targets: (0..TARGETS).map(target).collect(),
            disk,
            peer,
            clock,
            name,
            lives,
            options,
            sender_options,
            patience_ms,
            queue: opened.queue,
            encoder,
            sending,
            open: Vec::new(),
            newest_ms,
            next_epoch,
        }
    }

    /// Scrapes what is due by the machine's clock.
    pub(crate) fn scrape(&mut self, dice: &mut Dice, ground: &mut Ground) {
        let now_ms = self.clock.now_ms();
        for at in 0..self.targets.len() {
            let target = &mut self.targets[at];
            let Schedule { interval_ms, offset_ms } = target.schedule;
            let tick_ms = now_ms - (now_ms - offset_ms).rem_euclid(interval_ms);
            if tick_ms <= target.last_ms {
                continue;
            }
            let first = target.last_ms + 1 + (offset_ms - target.last_ms - 1).rem_euclid(interval_ms);
            let missed = (tick_ms - first) / interval_ms;
            if missed > SKIPPED_MAX {
                target.skipped.clear();
                target.begin_ms = Some(target.begin_ms.unwrap_or(tick_ms));
            } else if dice.one_in(3) {
                target.skipped.extend((0..missed).map(|n| first + n * interval_ms));
            } else {
                // It had been asked in time, and its rows are late only.
                (0..missed).for_each(|n| self.tick(at, first + n * interval_ms, dice, ground));
            }
            self.tick(at, tick_ms, dice, ground);
        }
        if dice.one_in(3) {
            self.encoder.close_due();
        }
        self.take_losses(ground);
    }

    /// One scrape of a target: its row, and what is to be said beside it.
    fn tick(&mut self, at: usize, tick_ms: i64, dice: &mut Dice, ground: &mut Ground) {
        let target = &mut self.targets[at];
        target.last_ms = tick_ms;
        self.newest_ms = self.newest_ms.max(tick_ms);
        let desc = SourceDesc { tenant: TenantId::default(), id: target.id, labels: target.labels.clone() };
        let Ok(source) = self.encoder.open_source(&desc) else { return };
        let answers = !dice.one_in(10);
        let columns: Vec<u64> = (0..COLUMNS).filter(|_| answers && !dice.one_in(5)).collect();
        let outcome = match columns.len() as u32 {
            _ if !answers => Outcome::Failed(storage::Failure::Timeout),
            samples if dice.one_in(12) => Outcome::Scraped { samples, exposed: samples + 2 },
            samples => Outcome::Scraped { samples, exposed: samples },
        };
        let mut names: Vec<String> =
            columns.iter().map(|column| format!("{}/{column}", target.id.0)).collect();
        let mut values: Vec<f64> = columns.iter().map(|column| value(*column, dice)).collect();
        names.push(format!("{}/up", target.id.0));
        values.push(if answers { 1.0 } else { 0.0 });
        let labels = |name: &String| {
            let metric = if name.ends_with("up") { "up" } else { "m" };
            let pairs = [("__name__", metric), ("cluster", &self.peer.cluster), ("job", "sim"), ("n", name)];
            Labels::from_pairs(pairs)
        };
        let labels: Vec<Labels> = names.iter().map(labels).collect();
        let Ok(found) = self.encoder.resolve(source, &labels) else { return };
        let series: Vec<_> = found.into_iter().map(|series| series.expect("no limit")).collect();
        let timestamp_ms = tick_ms + dice.below(3) as i64;
        let rows = [Row::floats(source, timestamp_ms, &series, &values)];
        let schedule = target.schedule;
        let begin = target.begin_ms.map(|at_ms| Account::Begin { source, at_ms, schedule });
        let skipped = target.skipped.iter().map(|tick| Account::Tick {
            source,
            tick_ms: *tick,
            outcome: Outcome::Skipped,
        });
        let mut accounts: Vec<Account> = begin.into_iter().chain(skipped).collect();
        accounts.push(Account::Tick { source, tick_ms, outcome });
        let batch = Batch { accounts: &accounts, ..Batch::rows(&rows, Policy::SCRAPE) };
        let Ok(done) = self.encoder.append(&batch) else { return };
        assert_eq!(done.rejected, [], "nothing of it is late");
        // The open block gets the queue's next number.
        let block: Block = (self.queue.incarnation(), self.queue.next_block());
        let told = Told { outcome, block, required: false, cells: Vec::new() };
        let account = ground.source(target.id.0, target.schedule);
        if let Some(begin_ms) = target.begin_ms.take() {
            account.begins.push((begin_ms, told.block));
        }
        for tick in std::mem::take(&mut target.skipped) {
            let told = Told { outcome: Outcome::Skipped, ..told.clone() };
            assert!(account.ticks.insert(tick, told).is_none());
            self.open.push((done.position, (target.id.0, tick)));
        }
        let cells =
            names.into_iter().zip(values).map(|(name, value)| ((name, timestamp_ms), value.to_bits()));
        assert!(account.ticks.insert(tick_ms, Told { cells: cells.collect(), ..told }).is_none());
        self.open.push((done.position, (target.id.0, tick_ms)));
        if dice.one_in(10) {
            // Somebody waits for this row, and with it for all in its block; a failure says nothing of others.
            let _ = self.encoder.wait_durable(done.position);
        }
    }

    /// What was appended and could be made durable has to arrive.
    pub(crate) fn flush(&mut self, ground: &mut Ground) {
        for (position, (source, tick_ms)) in std::mem::take(&mut self.open) {
            if self.encoder.wait_durable(position).is_err() {
                continue;
            }
            let told = ground.sources.get_mut(&source).and_then(|source| source.ticks.get_mut(&tick_ms));
            told.expect("it was told").required = true;
        }
        self.take_losses(ground);
    }

    pub(crate) fn upkeep(&mut self, ground: &mut Ground) {
        let _ = self.queue.upkeep();
        self.take_losses(ground);
    }

    /// Notes what the queue has dropped, before a hub hears of it.
    pub(crate) fn take_losses(&self, ground: &mut Ground) {
        for (hub, sending) in self.sending.iter().enumerate() {
            for lost in sending.sender.reader().lost() {
                ground.lost[hub].extend((lost.first..=lost.last).map(|block| (lost.incarnation, block)));
                ground.lost_times[hub].insert((lost.oldest_ms, lost.newest_ms));
            }
        }
    }

    pub(crate) fn crash(
        &mut self,
        cut: bool,
        re_enrol: bool,
        dice: &mut Dice,
        ground: &mut Ground,
        now_ms: i64,
    ) {
        self.take_losses(ground);
        let mut before = self.leave(match cut {
            true if dice.one_in(3) => self.disk.after_power_cut(Survivors::Nothing),
            true => self.disk.after_power_cut(Survivors::Some(dice.below(u64::MAX))),
            false => self.disk.after_kill(),
        });
        if re_enrol {
            ground.renamed.insert(self.name);
            ground.brought.extend(&self.lives);
            ground.names += 1;
            before.name = ground.names;
            before.peer.cluster.push('x');
        }
        self.sending.clear();
        *self = Agent::start(before, now_ms);
        self.take_losses(ground);
    }

    fn leave(&self, disk: FakeDisk) -> Before {
        Before {
            disk,
            peer: self.peer.clone(),
            clock: Arc::clone(&self.clock),
            name: self.name,
            lives: self.lives.clone(),
            options: self.options.clone(),
            sender_options: self.sender_options.clone(),
            patience_ms: self.patience_ms,
            hubs: self.sending.len(),
            newest_ms: self.newest_ms,
            next_epoch: Arc::clone(&self.next_epoch),
        }
    }

    /// Another agent on a copy of the volume as it is, with targets of its own.
    pub(crate) fn clone_volume(&self, ground: &mut Ground, now_ms: i64) -> Agent {
        ground.names += 1;
        let clock = FakeClock::at(self.clock.now_ms());
        let clone = Before { clock, name: ground.names, ..self.leave(self.disk.after_kill()) };
        Agent::start(clone, now_ms)
    }

    pub(crate) fn fill_disk(&mut self, dice: &mut Dice) {
        let used: u64 = self.disk.files().iter().map(|(_, len)| len).sum();
        let full = !dice.one_in(3);
        self.disk.set_capacity(full.then(|| used + dice.below(3_000)));
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.queue.stats().read_only
    }

    /// What is to be sent, by hub. A sender is asked only when it wants to be, or has news.
    pub(crate) fn poll(&mut self, now_ms: i64) -> Vec<(usize, Outgoing)> {
        let mut all = Vec::new();
        for (hub, Sending { sender, waiting, news }) in self.sending.iter_mut().enumerate() {
            let late = |(_, since): &&(u64, i64)| now_ms - since > self.patience_ms;
            let late: Vec<u64> = waiting.iter().filter(late).map(|(id, _)| *id).collect();
            for id in late {
                waiting.retain(|(other, _)| *other != id);
                sender.failed(id, now_ms);
                news.store(true, Ordering::SeqCst);
            }
            if !news.swap(false, Ordering::SeqCst) && sender.wakes_at_ms().is_none_or(|at_ms| at_ms > now_ms)
            {
                continue;
            }
            while let Some(outgoing) = sender.poll(now_ms).expect("the queue can be read") {
                waiting.push((outgoing.id, now_ms));
                all.push((hub, outgoing));
                assert!(all.len() < 20, "a few at a time");
            }
            let wakes = sender.wakes_at_ms();
            assert!(
                wakes.is_none_or(|at_ms| at_ms > now_ms),
                "it would turn in circles: {wakes:?} at {now_ms}"
            );
        }
        all
    }

    pub(crate) fn answered(&mut self, hub: usize, id: u64, body: &[u8], now_ms: i64) {
        let Sending { sender, waiting, news } = &mut self.sending[hub];
        waiting.retain(|(other, _)| *other != id);
        // A mutilated answer counts as none.
        let _ = sender.answered(id, body, now_ms);
        news.store(true, Ordering::SeqCst);
    }

    pub(crate) fn failed(&mut self, hub: usize, id: u64, now_ms: i64) {
        let Sending { sender, waiting, news } = &mut self.sending[hub];
        waiting.retain(|(other, _)| *other != id);
        sender.failed(id, now_ms);
        news.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_drained(&self) -> bool {
        let done = |sending: &Sending| {
            let reader = sending.sender.reader();
            let pending = [Lane::Live, Lane::Backlog].map(|lane| reader.pending(lane).blocks);
            pending == [0, 0] && reader.lost().is_empty()
        };
        self.sending.iter().all(done)
    }

    /// Blocks that a hub will never take, unless another has written them under another identity.
    pub(crate) fn refused(&self) -> Vec<&'static str> {
        let all = self.sending.iter().flat_map(|sending| sending.sender.stats().refused.keys());
        all.map(|refusal| refusal.as_str()).filter(|refusal| *refusal != "identity_changed").collect()
    }

    pub(crate) fn state(&self) -> String {
        let text = |sending: &Sending| {
            let (sender, lost) = (&sending.sender, sending.sender.reader().lost());
            format!("{:?} wakes {:?} lost {lost:?}", sender.stats(), sender.wakes_at_ms())
        };
        self.sending.iter().map(text).collect::<Vec<_>>().join("; ")
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
