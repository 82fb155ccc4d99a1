//! What a query or a flush pins: tiles by their `Arc`, late samples copied. What arrives afterwards
//! does not show.

use std::ops::Range;
use std::sync::Arc;

use roaring::RoaringBitmap;
use smallvec::SmallVec;
use storage::{Column, SeriesRef};

use super::block::Block;
use super::index::slot_of;
use super::late::{Late, Loose, PinnedRun};
use super::side::Side;
use super::tile::{COLUMNS_MAX, ROWS_MAX, rows_of};
use super::{FastMap, Lanes, NOWHERE};
use crate::codec::CodecError;
use crate::merge::{Piece, Rank, TimeConcatCache};
use crate::version::Version;

/// Neighbouring columns of one lane, as pinned.
#[derive(Debug, Default)]
pub(crate) struct PinnedTile {
    pub(crate) blocks: Vec<Block>,
}

/// One series, as pinned. A selection may have very many, and nearly all have one place and nothing else.
#[derive(Debug, Default)]
pub(crate) struct PinnedSeries {
    /// As the head numbers it.
    slot: u32,
    /// Where its rows are now.
    place: Option<Place>,
    more: Option<Box<More>>,
}

/// Tile, and column within.
#[derive(Debug, Clone, Copy)]
struct Place {
    tile: u32,
    column: u16,
}

/// What few series have.
#[derive(Debug, Default)]
struct More {
    /// Where rows of before are.
    former: Vec<Place>,
    /// Samples beside the lanes.
    beside: Vec<Beside>,
    /// Late rows: run as pinned, column.
    runs: Vec<(u32, u32)>,
    /// From when on which start timestamp holds.
    starts: Vec<(i64, i64)>,
}

impl PinnedSeries {
    /// The places of its rows, oldest first.
    fn places(&self) -> impl Iterator<Item = Place> {
        let former = self.more.iter().flat_map(|more| &more.former);
        former.copied().chain(self.place)
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// Adds the place of later rows.
    fn add_place(&mut self, place: Place) {
        if let Some(before) = self.place.replace(place) {
            self.more().former.push(before);
        }
    }

    fn starts(&self) -> &[(i64, i64)] {
        self.more.as_ref().map_or(&[], |more| &more.starts)
    }
}

/// Histograms of a series, or floats beside the lanes.
#[derive(Debug, Clone)]
struct Beside {
    /// The flush that writes histograms.
    flush: u64,
    /// The spill that writes floats.
    spill: u64,
    piece: Piece,
}

/// Some series of a head at one moment.
#[derive(Debug, Default)]
pub(crate) struct HeadSnapshot {
    pub(crate) tiles: Vec<PinnedTile>,
    /// As asked for.
    series: Vec<PinnedSeries>,
    /// Late rows, by the spill that writes them.
    runs: Vec<(u64, PinnedRun)>,
    /// Single late samples made compact, by the spill that writes them.
    loose: Vec<(u64, Loose)>,
}

impl Lanes {
    /// Pins `wanted`, samples from `start_ms` to `end_ms`.
    pub(crate) fn pin(&self, wanted: &[SeriesRef], start_ms: i64, end_ms: i64) -> HeadSnapshot {
        let mut snapshot =
            HeadSnapshot { series: Vec::with_capacity(wanted.len()), ..HeadSnapshot::default() };
        let mut known: FastMap<(u32, u32), u32> = FastMap::default();
        let mut times: FastMap<u32, Option<Arc<[i64]>>> = FastMap::default();
        let mut known_runs: FastMap<(u64, u32), u32> = FastMap::default();
        for (spill, late) in self.lates() {
            snapshot.loose.extend(late.loose.iter().map(|loose| (spill, loose.clone())));
        }
        for series in wanted {
            let slot = slot_of(*series);
            let mut pinned = PinnedSeries { slot, ..PinnedSeries::default() };
            let home = self.home(*series);
            if home.is_none() {
                snapshot.series.push(pinned);
                continue;
            }
            let former = self.former.get(&slot).into_iter().flatten().copied();
            let homes = former.chain(home.filter(|h| h.lane != NOWHERE).map(|h| (h.lane, h.column)));
            for (lane, column) in homes {
                let number = column / COLUMNS_MAX as u32;
                let tile = *known.entry((lane, number)).or_insert_with(|| {
                    let (times, range) = (times.entry(lane).or_default(), (start_ms, end_ms));
                    let blocks = self.lanes[lane as usize].pin(number, self.flush, range, times);
                    snapshot.tiles.push(PinnedTile { blocks });
                    (snapshot.tiles.len() - 1) as u32
                });
                pinned.add_place(Place { tile, column: (column as usize % COLUMNS_MAX) as u16 });
            }
            let beside = self.pin_beside(slot);
            if !beside.is_empty() {
                pinned.more().beside = beside;
            }
            for (spill, late) in self.lates() {
                for (run, column) in late.places(slot) {
                    let number = *known_runs.entry((spill, *run)).or_insert_with(|| {
                        snapshot.runs.push((spill, late.runs[*run as usize].pin(start_ms, end_ms)));
                        (snapshot.runs.len() - 1) as u32
                    });
                    pinned.more().runs.push((number, *column));
                }
            }
            if let Some(starts) = self.starts.get(&slot) {
                pinned.more().starts.clone_from(starts);
            }
            snapshot.series.push(pinned);
        }
        snapshot
    }

    /// The late samples, by the spill that writes them.
    fn lates(&self) -> impl Iterator<Item = (u64, &Late)> {
        let frozen = self.frozen_late.iter().map(|(spill, late)| (*spill, &**late));
        frozen.chain((!self.late.is_empty()).then_some((self.spill, &self.late)))
    }

    fn pin_beside(&self, slot: u32) -> Vec<Beside> {
        let mut out = Vec::new();
        let sides = self.frozen.iter().map(|(flush, side)| (*flush, &**side));
        for (flush, side) in sides.chain([(self.flush, &self.side)]) {
            if !side.is_empty() {
                let mut pieces = Vec::new();
                side.pieces(slot, &mut pieces);
                for Piece { rank, mut column } in pieces {
                    let histograms = std::mem::take(&mut column.histograms);
                    let histograms = Column { histograms, ..Column::default() };
                    for (flush, spill, column) in
                        [(flush, u64::MAX, histograms), (u64::MAX, self.spill, column)]
                    {
                        if !column.is_empty() {
                            out.push(Beside { flush, spill, piece: Piece { rank, column } });
                        }
                    }
                }
            }
        }
        out
    }

    /// Closes everything, and pins what the flush that starts now has to write: all blocks of it and of
    /// earlier flushes that failed.
    pub(crate) fn pin_for_flush(&mut self) -> FlushSnapshot {
        for lane in 0..self.lanes.len() as u32 {
            self.close(lane);
        }
        let spill = self.freeze_late();
        let flush = self.flush;
        self.flush += 1;
        if !self.side.is_empty() {
            let side = std::mem::take(&mut self.side);
            for slot in side.slots() {
                if side.has_histograms(slot) {
                    let floor = self.histogram_floors.entry(slot).or_insert(i64::MIN);
                    *floor = (*floor).max(side.newest(slot));
                }
            }
            self.frozen.push((flush, Arc::new(side)));
        }
        let mut pinned = FlushSnapshot {
            flush: Some(flush),
            spill,
            sides: self.frozen.iter().map(|(_, side)| side.clone()).collect(),
            active: std::mem::take(&mut self.active),
            ..self.pin_frozen_late()
        };
        for lane in &self.lanes {
            for (columns, blocks) in lane.closed() {
                pinned.tiles.push(PinnedTile { blocks: blocks.to_vec() });
                pinned.columns.push(columns.into());
            }
        }
        pinned
    }

    /// Pins what the spill that starts now has to write: all late floats, those of spills that failed
    /// included.
    pub(crate) fn pin_for_spill(&mut self) -> FlushSnapshot {
        let spill = self.freeze_late();
        FlushSnapshot { spill, ..self.pin_frozen_late() }
    }

    /// Sets all late floats apart. The number of the spill that writes them.
    fn freeze_late(&mut self) -> u64 {
        self.seal_loose();
        let spill = self.spill;
        self.spill += 1;
        if !self.late.is_empty() {
            self.frozen_late.push((spill, Arc::new(self.late.take())));
        }
        spill
    }

    fn pin_frozen_late(&self) -> FlushSnapshot {
        FlushSnapshot {
            lates: self.frozen_late.iter().map(|(_, late)| late.clone()).collect(),
            starts: self.starts.clone(),
            ..FlushSnapshot::default()
        }
    }

    /// Removes what spills up to `spill` have written.
    pub(crate) fn prune_late(&mut self, spill: u64) {
        for (_, late) in self.frozen_late.iter().filter(|(number, _)| *number <= spill) {
            self.active.extend(late.slots());
        }
        self.frozen_late.retain(|(number, _)| *number > spill);
    }

    /// Removes what flushes up to `flush` have written, and lanes that are of no more use.
    pub(crate) fn prune(&mut self, flush: u64) {
        self.frozen.retain(|(number, _)| *number > flush);
        for number in 0..self.lanes.len() {
            let lane = &mut self.lanes[number];
            lane.prune(flush);
            lane.retired |= lane.is_awkward() && !lane.columns.is_empty();
        }
        self.drop_former();
        self.drop_retired();
    }

    /// Forgets start timestamps that only concern samples of a flush: the last of each series then holds
    /// on for what comes.
    pub(crate) fn forget_starts(&mut self, pinned: &FlushSnapshot) {
        for (slot, starts) in &mut self.starts {
            let last = pinned.starts.get(slot).and_then(|starts| starts.last());
            if let Some((from, _)) = last {
                let before = starts.partition_point(|(other, _)| other < from);
                starts.drain(..before);
                starts.shrink_to_fit();
            }
        }
    }

    /// Forgets former homes whose lanes have nothing left of the series' rows.
    fn drop_former(&mut self) {
        let lanes = &self.lanes;
        self.former.retain(|_, homes| {
            homes.retain(|(lane, _)| !lanes[*lane as usize].is_drained());
            !homes.is_empty()
        });
    }

    fn drop_retired(&mut self) {
        let mut inhabited = RoaringBitmap::new();
        inhabited.extend(self.homes.iter().filter(|home| home.lane != NOWHERE).map(|home| home.lane));
        inhabited.extend(self.former.values().flatten().map(|(lane, _)| *lane));
        let (mut gone, mut of_sources) = (RoaringBitmap::new(), RoaringBitmap::new());
        for (number, lane) in (0u32..).zip(&mut self.lanes) {
            if lane.columns.is_empty() || inhabited.contains(number) || !lane.is_drained() {
                continue;
            }
            of_sources.insert(lane.source);
            gone.insert(number);
            *lane = super::lane::Lane::default();
            self.free_lanes.push(number);
        }
        // Once for each source: it may have as many lanes as series.
        for source in of_sources {
            let source = &mut self.sources[source as usize];
            source.lanes.retain(|lane| !gone.contains(*lane));
            if gone.contains(source.last_lane) {
                source.last_lane = NOWHERE;
            }
        }
    }

    /// Removes series for good. Their samples have been flushed.
    pub(crate) fn remove(&mut self, slots: &RoaringBitmap) {
        for slot in slots {
            self.disown(slot);
            let Some(home) = self.homes.get_mut(slot as usize) else { continue };
            if home.lane != NOWHERE {
                let lane = &mut self.lanes[home.lane as usize];
                lane.drop_column();
                lane.retired = true;
            }
            // No reference has generation 0.
            *home = super::Home { generation: 0, lane: NOWHERE, column: 0, owner: NOWHERE };
            self.starts.remove(&slot);
            self.histogram_floors.remove(&slot);
            self.former.remove(&slot);
        }
        let gone = |series: &SeriesRef| slots.contains(slot_of(*series));
        self.exemplars.retain(|(series, _)| !gone(series));
        self.drop_retired();
    }

    /// Whether a series has samples that have not been flushed.
    pub(crate) fn has_samples(&self, slot: u32) -> bool {
        let Some(home) = self.homes.get(slot as usize) else { return false };
        let in_lane = home.lane != NOWHERE && self.lanes[home.lane as usize].has_samples(home.column);
        in_lane
            || self.former.contains_key(&slot)
            || self.lates().any(|(_, late)| late.has(slot))
            || self.side.has(slot)
            || self.frozen.iter().any(|(_, side)| side.has(slot))
    }

    /// Removes the samples of series from `start_ms` to `end_ms`, both inclusive.
    pub(crate) fn delete(&mut self, slots: &RoaringBitmap, start_ms: i64, end_ms: i64) {
        self.late.judge_anew();
        for slot in slots {
            self.side.delete(slot, start_ms, end_ms);
            self.late.delete(slot, start_ms, end_ms);
            for (_, late) in self.frozen_late.iter_mut().filter(|(_, late)| late.has(slot)) {
                Arc::make_mut(late).delete(slot, start_ms, end_ms);
            }
            for (_, side) in &mut self.frozen {
                Arc::make_mut(side).delete(slot, start_ms, end_ms);
            }
            let Some(home) = self.homes.get(slot as usize).copied() else { continue };
            let former = self.former.get(&slot).cloned().unwrap_or_default();
            let homes = former.into_iter().chain((home.lane != NOWHERE).then_some((home.lane, home.column)));
            for (lane, column) in homes {
                self.lanes[lane as usize].delete(column, start_ms, end_ms);
            }
        }
    }
}

/// What a flush or a spill has to write.
#[derive(Debug, Default)]
pub(crate) struct FlushSnapshot {
    /// The number of the flush; `None` for a spill.
    pub(crate) flush: Option<u64>,
    /// The number of the spill, or of what a flush has of late floats.
    pub(crate) spill: u64,
    /// The late floats.
    pub(crate) lates: Vec<Arc<Late>>,
    pub(crate) tiles: Vec<PinnedTile>,
    /// The series of each tile's columns.
    columns: Vec<Box<[SeriesRef]>>,
    pub(crate) sides: Vec<Arc<Side>>,
    starts: FastMap<u32, Vec<(i64, i64)>>,
    active: RoaringBitmap,
}

impl FlushSnapshot {
    /// Samples in all.
    pub(crate) fn samples(&self) -> usize {
        let blocks = self.tiles.iter().flat_map(|tile| &tile.blocks);
        blocks.map(Block::samples).sum::<usize>()
            + self.sides.iter().map(|side| side.len()).sum::<usize>()
            + self.lates.iter().map(|late| late.samples()).sum::<usize>()
    }

    /// The places of all columns that have samples, by slot: (slot, tile, column within), and all slots
    /// that have been active.
    pub(crate) fn places(&self) -> (Vec<(u32, u32, u16)>, RoaringBitmap) {
        let mut places = Vec::new();
        for (number, (tile, columns)) in self.tiles.iter().zip(&self.columns).enumerate() {
            for (within, series) in columns.iter().enumerate() {
                if tile.blocks.iter().any(|block| block.presence(within) != 0) {
                    places.push((slot_of(*series), number as u32, within as u16));
                }
            }
        }
        places.sort_unstable();
        let mut active = self.active.clone();
        active.extend(places.iter().map(|(slot, _, _)| *slot));
        active.extend(self.sides.iter().flat_map(|side| side.slots()));
        active.extend(self.lates.iter().flat_map(|late| late.slots()));
        (places, active)
    }

    /// The slots of all series that have samples: those of `places`, and those beside the lanes.
    pub(crate) fn slots(&self, places: &[(u32, u32, u16)]) -> Vec<u32> {
        let mut slots: Vec<u32> = places.iter().map(|(slot, _, _)| *slot).collect();
        slots.extend(self.sides.iter().flat_map(|side| side.slots()));
        slots.extend(self.lates.iter().flat_map(|late| late.slots()));
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// The least log position of what it has, about.
    pub(crate) fn first_position(&self) -> Option<u64> {
        let blocks = self.tiles.iter().flat_map(|tile| &tile.blocks).map(|block| block.position);
        blocks.chain(self.lates.iter().filter_map(|late| late.first_position())).min()
    }

    /// The pieces of a series that are not late floats.
    pub(crate) fn read_lanes(
        &self,
        slot: u32,
        places: &[(u32, u32, u16)],
        cache: &mut TimeConcatCache,
        out: &mut Vec<Piece>,
    ) -> Result<(), CodecError> {
        let (from, pinned) = (out.len(), self.pinned(slot, places));
        read_tiles(&self.tiles, &pinned, 0, cache, out)?;
        self.sides.iter().for_each(|side| side.pieces(slot, out));
        if let Some(starts) = self.starts.get(&slot) {
            start_columns(&mut out[from..], starts);
        }
        Ok(())
    }

    /// The late floats of a series.
    pub(crate) fn read_late(
        &self,
        slot: u32,
        cache: &mut TimeConcatCache,
        out: &mut Vec<Piece>,
    ) -> Result<(), CodecError> {
        let from = out.len();
        self.lates.iter().try_for_each(|late| late.pieces(slot, cache, out))?;
        if let Some(starts) = self.starts.get(&slot) {
            start_columns(&mut out[from..], starts);
        }
        Ok(())
    }

    /// Where the rows of a series are.
    fn pinned(&self, slot: u32, places: &[(u32, u32, u16)]) -> PinnedSeries {
        let from = places.partition_point(|(other, _, _)| *other < slot);
        let own = places[from..].iter().take_while(|(other, _, _)| *other == slot);
        let mut pinned = PinnedSeries { slot, ..PinnedSeries::default() };
        own.for_each(|(_, tile, column)| pinned.add_place(Place { tile: *tile, column: *column }));
        pinned
    }
}

impl HeadSnapshot {
    /// The pieces of one pinned series, without what is in the parts of `version`.
    pub(crate) fn read(
        &self,
        series: u32,
        version: &Version,
        cache: &mut TimeConcatCache,
        out: &mut Vec<Piece>,
    ) -> Result<(), CodecError> {
        let (from, series) = (out.len(), &self.series[series as usize]);
        read_tiles(&self.tiles, series, version.pruned, cache, out)?;
        let shows = |beside: &&Beside| beside.flush > version.pruned && beside.spill > version.spilled;
        let more = series.more.as_deref();
        let beside = more.into_iter().flat_map(|more| &more.beside);
        out.extend(beside.filter(shows).map(|beside| beside.piece.clone()));
        for (run, column) in more.into_iter().flat_map(|more| &more.runs) {
            let (spill, run) = &self.runs[*run as usize];
            if *spill > version.spilled {
                run.pieces(*column, cache, out)?;
            }
        }
        for (_, loose) in self.loose.iter().filter(|(spill, _)| *spill > version.spilled) {
            loose.pieces(series.slot, cache, out)?;
        }
        start_columns(&mut out[from..], series.starts());
        Ok(())
    }
}

/// The pieces of one pinned series that are in tiles, without those of flushes up to `pruned`.
fn read_tiles(
    tiles: &[PinnedTile],
    series: &PinnedSeries,
    pruned: u64,
    cache: &mut TimeConcatCache,
    out: &mut Vec<Piece>,
) -> Result<(), CodecError> {
    for Place { tile, column } in series.places() {
        let within = usize::from(column);
        for block in &tiles[tile as usize].blocks {
            let present = block.presence(within);
            if block.flush <= pruned || present == 0 {
                continue;
            }
            let mut values = Vec::with_capacity(ROWS_MAX);
            block.read(within, &mut values)?;
            let times = if block.is_complete(within) {
                block.times()
            } else {
                cache.cut(&block.times(), &runs_of(present))
            };
            let column = Column { times, values, ..Column::default() };
            out.push(Piece { rank: Rank { replace: false, position: block.position }, column });
        }
    }
    Ok(())
}

/// Gives columns their start timestamps.
fn start_columns(pieces: &mut [Piece], starts: &[(i64, i64)]) {
    if starts.is_empty() {
        return;
    }
    for column in pieces.iter_mut().map(|piece| &mut piece.column) {
        if !column.times.is_empty() {
            column.start_times = Some(starts_of(column.times.iter().copied(), starts));
        }
        if !column.histograms.is_empty() {
            let times = column.histograms.iter().map(|(time, _)| *time);
            column.histogram_starts = Some(starts_of(times, starts));
        }
    }
}

fn runs_of(present: u32) -> SmallVec<[Range<usize>; 8]> {
    let mut runs: SmallVec<[Range<usize>; 8]> = SmallVec::new();
    for row in rows_of(present) {
        match runs.last_mut() {
            Some(run) if run.end == row => run.end += 1,
            _ => runs.push(row..row + 1),
        }
    }
    runs
}

fn starts_of(times: impl Iterator<Item = i64>, starts: &[(i64, i64)]) -> Arc<[i64]> {
    let at = |time: i64| {
        let after = starts.partition_point(|(from, _)| *from <= time);
        after.checked_sub(1).map_or(0, |at| starts[at].1)
    };
    times.map(at).collect()
}

impl Lanes {
    /// What was pinned for `flush` has been written to the log again instead: it stays, for the flush
    /// after.
    pub(crate) fn flush_later(&mut self, flush: u64) {
        for (_, late) in std::mem::take(&mut self.frozen_late).into_iter().rev() {
            self.late.absorb(&late);
        }
        let next = self.flush;
        for block in self.lanes.iter_mut().flat_map(|lane| lane.closed_mut()) {
            if block.flush <= flush {
                block.flush = next;
            }
        }
        for (number, _) in &mut self.frozen {
            if *number <= flush {
                *number = next;
            }
        }
    }
}
