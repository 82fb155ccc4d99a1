//! One tenant's accounts, in memory and in its files.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Labels, SourceId};
use parking_lot::Mutex;
use stdx::disk::{AppendFile, Disk};
use storage::StoreError;

use crate::entry::Entry;
use crate::fact::Fact;
use crate::ledger::LedgerConfig;
use crate::log::{self, Frame, Log};
use crate::pushed::{KEYS_MAX, Totals};
use crate::source::{Overlay, Pause, Said, Source};

/// A log longer than this, and longer than the last snapshot, is put into a snapshot.
const LOG_BYTES: u64 = 4 << 20;
/// A snapshot older than this gives way to a new one, milliseconds.
const SNAPSHOT_AGE_MS: i64 = 24 * 3600 * 1000;
/// Statements about clusters that are kept; older ones go first.
const OVERLAYS_MAX: usize = 4096;

type Syncer = Arc<Mutex<Box<dyn AppendFile>>>;

/// One tenant's accounts.
#[derive(Debug)]
pub(crate) struct Tenant {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    boot: String,
    pub(crate) inner: Mutex<Inner>,
    /// How far the log is synced, by [`Inner::written`]; held by whoever syncs.
    synced: Mutex<u64>,
    /// Held by whoever writes a snapshot.
    compacting: Mutex<()>,
}

/// What is known, and the log it is written to.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) sources: Vec<Option<Box<Source>>>,
    free: Vec<u32>,
    by_id: HashMap<SourceId, u32>,
    /// By cluster.
    pub(crate) overlays: BTreeMap<String, Vec<Overlay>>,
    /// Times whose detail is lost, both ends included.
    pub(crate) lost: Vec<(i64, i64)>,
    /// What was pushed, by cluster and job, as it was last written down.
    pub(crate) pushed: BTreeMap<(String, String), Totals>,
    /// When the last snapshot was made.
    snapshot_ms: i64,
    /// Grows with everything that is learnt.
    pub(crate) generation: u64,
    log: Option<Log>,
    /// The number of the next one.
    next: u64,
    /// Logs before it that no snapshot has taken the place of yet; they are synced along.
    ended: Vec<Syncer>,
    /// Why the log takes no more; a snapshot mends it.
    broken: Option<String>,
    /// Frames written since the start.
    written: u64,
    /// The store's newest position that a frame speaks of, and the newest that is marked as durable.
    position: u64,
    marked: u64,
    snapshot_bytes: u64,
}

/// Entries under construction: what is new is kept and written.
pub(crate) struct Telling<'a> {
    inner: &'a mut Inner,
    frame: Frame,
}

impl Tenant {
    /// Reads what there is below `dir`, makes a snapshot of it, and begins a new log. Where that cannot be
    /// written, the next sync tries again.
    ///
    /// # Errors
    /// What is there cannot be read.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: &LedgerConfig,
        now_ms: i64,
    ) -> io::Result<Tenant> {
        let boot = config.boot.as_str();
        let found = log::recover(&*disk, dir, boot, now_ms)?;
        for damage in &found.damage {
            tracing::error!("ledger: {damage}");
        }
        let mut inner = Inner::default();
        for entry in found.entries {
            inner.apply(entry);
        }
        for (from_ms, to_ms) in found.lost {
            inner.apply(Entry::Lost { from_ms, to_ms });
        }
        let tenant = Tenant {
            disk,
            dir: dir.to_owned(),
            boot: boot.to_owned(),
            inner: Mutex::new(inner),
            synced: Mutex::new(0),
            compacting: Mutex::new(()),
        };
        if config.read_only {
            return Ok(tenant);
        }
        if let Err(error) = tenant.snapshot_as(found.next, now_ms, i64::MIN, |_| Ok(())) {
            let message = format!("write the ledger in {}: {error}", dir.display());
            tracing::error!("{message}");
            let mut inner = tenant.inner.lock();
            (inner.broken, inner.next) = (Some(message), found.next);
        }
        Ok(tenant)
    }

    /// Takes statements in, and writes those that are new. `position` covers the batch they came with.
    pub(crate) fn tell(&self, position: u64, now_ms: i64, tell: impl FnOnce(&mut Telling<'_>)) {
        let mut inner = self.inner.lock();
        inner.position = inner.position.max(position);
        let frame = Frame { position, base_ms: now_ms, entries: Vec::new() };
        let mut telling = Telling { inner: &mut inner, frame };
        tell(&mut telling);
        let frame = telling.frame;
        if !frame.entries.is_empty() {
            inner.generation += 1;
            self.write(&mut inner, &frame);
        }
    }

    fn write(&self, inner: &mut Inner, frame: &Frame) {
        if inner.broken.is_some() {
            return;
        }
        let Some(log) = &mut inner.log else { return };
        if let Err(error) = log.append(frame) {
            let attempt = format!("write log {} of the ledger in {}", log.number, self.dir.display());
            tracing::error!("{attempt}: {error}");
            inner.broken = Some(format!("{attempt}: {error}"));
        }
        inner.written += 1;
    }

    /// The store's newest position that the log speaks of and does not yet know to be durable.
    pub(crate) fn unmarked(&self) -> Option<u64> {
        let inner = self.inner.lock();
        (inner.position > inner.marked || inner.broken.is_some()).then_some(inner.position)
    }

    /// Makes everything told so far durable. The store has everything up to `position` for good.
    ///
    /// # Errors
    /// The log could not be written or synced, and a snapshot in its place neither.
    pub(crate) fn sync(&self, position: u64, now_ms: i64) -> Result<(), StoreError> {
        let (target, broken) = {
            let mut inner = self.inner.lock();
            if position > inner.marked && inner.position > inner.marked {
                inner.marked = position;
                let mut entries = Vec::new();
                Entry::Durable { position }.encode(now_ms, &mut entries);
                let frame = Frame { position: 0, base_ms: now_ms, entries };
                self.write(&mut inner, &frame);
            }
            (inner.written, inner.broken.is_some())
        };
        if broken {
            return self.mend(position, now_ms);
        }
        let mut synced = self.synced.lock();
        if *synced >= target {
            return Ok(());
        }
        let (syncers, covers) = {
            let inner = self.inner.lock();
            let mut syncers = inner.ended.clone();
            syncers.extend(inner.log.as_ref().map(|log| Arc::clone(&log.syncer)));
            (syncers, inner.written)
        };
        if let Err(error) = syncers.iter().try_for_each(|syncer| syncer.lock().sync_data()) {
            drop(synced);
            let message = format!("sync the ledger in {}: {error}", self.dir.display());
            tracing::error!("{message}");
            self.inner.lock().broken = Some(message);
            return self.mend(position, now_ms);
        }
        *synced = covers;
        Ok(())
    }

    /// Leaves a broken log behind: everything goes into a snapshot, and a new log is begun.
    fn mend(&self, position: u64, now_ms: i64) -> Result<(), StoreError> {
        let durable = |needed: u64| {
            if needed <= position { Ok(()) } else { Err(io::Error::other("the store is not synced yet")) }
        };
        let number = self.inner.lock().next;
        let attempt = || format!("begin a new log of the ledger in {}", self.dir.display());
        self.snapshot_as(number, now_ms, i64::MIN, durable)
            .map_err(|source| StoreError::Io { attempt: attempt(), source })
    }

    /// Whether the log is long or old enough to become a snapshot.
    pub(crate) fn is_long(&self, now_ms: i64) -> bool {
        let inner = self.inner.lock();
        // What retention has passed by leaves files and memory with a snapshot.
        if now_ms.saturating_sub(inner.snapshot_ms) > SNAPSHOT_AGE_MS {
            return true;
        }
        inner.log.as_ref().is_some_and(|log| log.len > LOG_BYTES.max(inner.snapshot_bytes))
    }

    /// Puts everything into a snapshot and begins a new log; lets go of what lies before `oldest_ms`.
    /// `durable` waits until the store has a position for good.
    pub(crate) fn compact(
        &self,
        now_ms: i64,
        oldest_ms: i64,
        durable: impl FnOnce(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let number = self.inner.lock().next;
        self.snapshot_as(number, now_ms, oldest_ms, durable)
    }

    fn snapshot_as(
        &self,
        number: u64,
        now_ms: i64,
        oldest_ms: i64,
        durable: impl FnOnce(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let _turn = self.compacting.lock();
        self.disk.create_dir_all(&self.dir)?;
        // Also where it was there already: it may be from an attempt that failed right here.
        self.dir.parent().map_or(Ok(()), |parent| self.disk.sync_dir(parent))?;
        let log = Log::create(&*self.disk, &self.dir, number, &self.boot)?;
        let (entries, position, ended) = {
            let mut inner = self.inner.lock();
            // What is told from here on is in the new log; until there is a snapshot, all logs count.
            inner.forget_before(oldest_ms);
            let entries = inner.encode(now_ms);
            inner.next = number + 1;
            let before = inner.log.replace(log).map(|log| log.syncer);
            if inner.broken.take().is_none() {
                inner.ended.extend(before);
            }
            (entries, inner.position, inner.ended.len())
        };
        let written = durable(position)
            .and_then(|()| log::write_snapshot(&*self.disk, &self.dir, number, now_ms, &entries));
        let mut inner = self.inner.lock();
        if let Err(error) = &written {
            inner.broken = Some(error.to_string());
            return written;
        }
        inner.snapshot_bytes = entries.len() as u64;
        inner.snapshot_ms = now_ms;
        inner.ended.drain(..ended);
        Ok(())
    }
}

/// Ends the pauses that are in force at a time; whether there were any.
fn end_pauses(overlays: &mut Vec<Overlay>, at_ms: i64) -> bool {
    let mut ended = false;
    for overlay in overlays.iter_mut() {
        if let Overlay::Pause { from_ms, until_ms, .. } = overlay
            && (*from_ms..*until_ms).contains(&at_ms)
        {
            *until_ms = at_ms;
            ended = true;
        }
    }
    overlays.retain(
        |overlay| !matches!(overlay, Overlay::Pause { from_ms, until_ms, .. } if from_ms == until_ms),
    );
    overlays.sort_unstable();
    overlays.dedup();
    ended
}

impl Inner {
    pub(crate) fn live(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().flatten().map(|source| &**source)
    }

    /// The pauses in force, by cluster.
    pub(crate) fn pauses(&self, at_ms: i64) -> Vec<Pause> {
        let in_force = |overlay: &Overlay| match overlay {
            Overlay::Pause { cluster, from_ms, until_ms } if (*from_ms..*until_ms).contains(&at_ms) => {
                Some(Pause { cluster: cluster.clone(), from_ms: *from_ms, until_ms: *until_ms })
            }
            _ => None,
        };
        self.overlays.values().flatten().filter_map(in_force).collect()
    }

    pub(crate) fn by_id(&self, id: SourceId) -> Option<&Source> {
        self.sources.get(*self.by_id.get(&id)? as usize)?.as_deref()
    }

    fn source(&mut self, number: u32) -> Option<&mut Source> {
        self.sources.get_mut(number as usize)?.as_deref_mut()
    }

    /// Takes in what a file holds.
    pub(crate) fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Source { number, id, labels } => {
                // A number is given out in order, or again; a damaged one does not make the list long.
                if number as usize > self.sources.len() + (1 << 20) {
                    return;
                }
                let place = number as usize;
                if self.sources.len() <= place {
                    self.sources.resize_with(place + 1, || None);
                }
                if let Some(before) = self.sources[place].take_if(|before| before.id != id) {
                    self.by_id.remove(&before.id);
                }
                if self.sources[place].is_none() {
                    self.sources[place] = Some(Box::new(Source::new(id, labels)));
                }
                self.by_id.insert(id, number);
            }
            Entry::Said { number, at_ms, said } => {
                if let Some(source) = self.source(number) {
                    source.say(at_ms, said);
                }
            }
            Entry::Tick { number, tick_ms, fact, late_ms } => {
                if let Some(source) = self.source(number) {
                    source.tick(tick_ms, fact, late_ms);
                }
            }
            Entry::Run { number, run } => {
                if let Some(source) = self.source(number) {
                    source.runs.push_or_insert(run);
                }
            }
            Entry::Overlay(overlay) => _ = self.overlay(overlay),
            Entry::Durable { .. } => {}
            Entry::Pushed { cluster, job, totals } => {
                let key = (cluster, job);
                if self.pushed.len() < KEYS_MAX || self.pushed.contains_key(&key) {
                    self.pushed.insert(key, totals);
                }
            }
            Entry::Lost { from_ms, to_ms } => {
                if !self.lost.contains(&(from_ms, to_ms)) {
                    self.lost.push((from_ms, to_ms));
                }
            }
        }
    }

    fn overlay(&mut self, overlay: Overlay) -> bool {
        let cluster = match &overlay {
            Overlay::Pause { cluster, .. } | Overlay::Retire { cluster, .. } => cluster,
            Overlay::Loss(loss) => &loss.cluster,
        };
        let known = self.overlays.entry(cluster.clone()).or_default();
        if let Overlay::Pause { from_ms, until_ms, .. } = overlay
            && from_ms == until_ms
        {
            return end_pauses(known, from_ms);
        }
        let Err(place) = known.binary_search(&overlay) else { return false };
        known.insert(place, overlay);
        if known.len() > OVERLAYS_MAX {
            known.remove(0);
        }
        true
    }

    fn forget_before(&mut self, oldest_ms: i64) {
        for number in 0..self.sources.len() {
            let Some(source) = &mut self.sources[number] else { continue };
            source.forget_before(oldest_ms);
            if source.is_over(oldest_ms) {
                self.by_id.remove(&source.id);
                self.sources[number] = None;
            }
        }
        for overlays in self.overlays.values_mut() {
            overlays.retain(|overlay| match overlay {
                Overlay::Pause { until_ms, .. } => *until_ms >= oldest_ms,
                Overlay::Loss(loss) => loss.to_ms >= oldest_ms,
                Overlay::Retire { .. } => true,
            });
        }
        self.overlays.retain(|_, overlays| !overlays.is_empty());
        self.lost.retain(|(_, to)| *to >= oldest_ms);
        self.pushed.retain(|_, totals| totals.last_ms >= oldest_ms);
        let sources = &self.sources;
        self.free = (0..sources.len() as u32).filter(|at| sources[*at as usize].is_none()).collect();
    }

    /// Everything, as entries.
    fn encode(&self, base_ms: i64) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, source) in (0u32..).zip(&self.sources) {
            let Some(source) = source else { continue };
            Entry::Source { number, id: source.id, labels: source.labels.clone() }.encode(base_ms, &mut out);
            for (at_ms, said) in &source.events {
                Entry::Said { number, at_ms: *at_ms, said: *said }.encode(base_ms, &mut out);
            }
            for run in source.runs.as_slice() {
                Entry::Run { number, run: *run }.encode(base_ms, &mut out);
            }
        }
        for overlay in self.overlays.values().flatten() {
            Entry::Overlay(overlay.clone()).encode(base_ms, &mut out);
        }
        for (from_ms, to_ms) in &self.lost {
            Entry::Lost { from_ms: *from_ms, to_ms: *to_ms }.encode(base_ms, &mut out);
        }
        for ((cluster, job), totals) in &self.pushed {
            let (cluster, job) = (cluster.clone(), job.clone());
            Entry::Pushed { cluster, job, totals: *totals }.encode(base_ms, &mut out);
        }
        out
    }
}

impl Telling<'_> {
    /// The number of a source; a new one where it is not known.
    fn number(&mut self, id: SourceId, labels: &Labels) -> u32 {
        if let Some(number) = self.inner.by_id.get(&id) {
            return *number;
        }
        let number = self.inner.free.pop().unwrap_or(self.inner.sources.len() as u32);
        let entry = Entry::Source { number, id, labels: labels.clone() };
        entry.encode(self.frame.base_ms, &mut self.frame.entries);
        self.inner.apply(entry);
        number
    }

    /// A statement about a source's schedule.
    pub(crate) fn said(&mut self, id: SourceId, labels: &Labels, at_ms: i64, said: Said) {
        let number = self.number(id, labels);
        let Some(source) = self.inner.source(number) else { return };
        source.heard_ms = self.frame.base_ms;
        if source.say(at_ms, said) {
            Entry::Said { number, at_ms, said }.encode(self.frame.base_ms, &mut self.frame.entries);
        }
    }

    /// What became of a tick.
    pub(crate) fn tick(&mut self, id: SourceId, labels: &Labels, tick_ms: i64, fact: Fact, late_ms: u32) {
        let number = self.number(id, labels);
        let Some(source) = self.inner.source(number) else { return };
        source.heard_ms = self.frame.base_ms;
        if source.tick(tick_ms, fact, late_ms) {
            let entry = Entry::Tick { number, tick_ms, fact, late_ms };
            entry.encode(self.frame.base_ms, &mut self.frame.entries);
        }
    }

    /// As [`Telling::tick`], unless something is known of the tick already.
    pub(crate) fn tick_if_unknown(&mut self, id: SourceId, labels: &Labels, tick_ms: i64, fact: Fact) {
        let known = self.inner.by_id(id).is_some_and(|source| source.runs.contains(tick_ms));
        if !known {
            self.tick(id, labels, tick_ms, fact, 0);
        }
    }

    /// What was pushed in all.
    pub(crate) fn pushed(&mut self, (cluster, job): (String, String), totals: Totals) {
        let entry = Entry::Pushed { cluster, job, totals };
        entry.encode(self.frame.base_ms, &mut self.frame.entries);
        self.inner.apply(entry);
    }

    /// What counts for a cluster.
    pub(crate) fn overlay(&mut self, overlay: Overlay) {
        if self.inner.overlay(overlay.clone()) {
            Entry::Overlay(overlay).encode(self.frame.base_ms, &mut self.frame.entries);
        }
    }

    pub(crate) fn inner(&self) -> &Inner {
        self.inner
    }
}
