//! Where samples are read from: a store of ours, or blocks.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use blocks::{Block, Samples, find_blocks};
use model::{Labels, Matcher, TenantId};
use stdx::disk::RealDisk;
use storage::{Column, Queryable, Select, SeriesSet};
use tsdb::{Config, Db};

use super::{Damage, Selector, explain};
use crate::verbs::terminal::Progress;

/// What a directory is.
#[derive(Debug)]
pub(crate) enum Source {
    /// A data directory of ours.
    Store(Box<Db>),
    /// Blocks, by first timestamp; those that can be opened.
    Blocks(Vec<Block>),
}

/// Opens a directory for reading, whatever it is.
pub(crate) fn open(dir: &Path, damage: &mut Damage, progress: &mut Progress) -> Result<Source> {
    if is_store(dir) {
        return Ok(Source::Store(Box::new(open_store(dir, damage, progress)?)));
    }
    let found = find_blocks(&RealDisk, dir)?;
    if found.is_empty() {
        bail!("{} is neither a data directory (it has no FORMAT) nor has it blocks", dir.display());
    }
    Ok(Source::Blocks(open_blocks(&found, damage, progress)))
}

fn is_store(dir: &Path) -> bool {
    dir.join(tsdb::filenames::FORMAT).exists()
}

/// Opens those blocks that can be, by first timestamp.
pub(crate) fn open_blocks(dirs: &[PathBuf], damage: &mut Damage, progress: &mut Progress) -> Vec<Block> {
    let mut blocks = Vec::new();
    for dir in dirs {
        match Block::open(&RealDisk, dir) {
            Ok(block) => blocks.push(block),
            Err(error) => damage.tell(progress, format!("{error}; the block is left out")),
        }
    }
    blocks.sort_by_key(|block| (block.meta().min_time, block.meta().ulid));
    blocks
}

/// Opens a store for reading, without changing anything in it, and tells what is damaged.
pub(crate) fn open_store(dir: &Path, damage: &mut Damage, progress: &mut Progress) -> Result<Db> {
    if !is_store(dir) {
        bail!("{} is no data directory: it has no {}", dir.display(), tsdb::filenames::FORMAT);
    }
    let config = Config { read_only: true, background: false, retention: None, ..Config::new(dir) };
    let db = Db::open(config).map_err(|error| explain(error, false))?;
    db.problems().into_iter().for_each(|problem| damage.tell(progress, problem));
    Ok(db)
}

/// The series of a store that one of some selectors wants, in order of labels.
#[derive(Debug)]
pub(crate) struct Selected {
    sets: Vec<Box<dyn SeriesSet>>,
    /// (set, number in it).
    order: Vec<(usize, usize)>,
}

impl Selected {
    /// Selects from `start_ms` to `end_ms`, both inclusive; everything without selectors.
    pub(crate) fn new(
        db: &Db,
        tenant: &TenantId,
        selectors: &[Selector],
        (start_ms, end_ms): (i64, i64),
    ) -> Result<Selected> {
        let everything: [&[Matcher]; 1] = [&[]];
        let lists: Vec<&[Matcher]> = match selectors {
            [] => everything.to_vec(),
            some => some.iter().map(|selector| selector.0.as_slice()).collect(),
        };
        let mut sets = Vec::with_capacity(lists.len());
        for matchers in lists {
            let select = Select { tenant: tenant.clone(), start_ms, end_ms, matchers: matchers.to_vec() };
            sets.push(db.select(&select).with_context(|| format!("select of tenant {tenant}"))?);
        }
        let all =
            sets.iter().enumerate().flat_map(|(set, series)| (0..series.len()).map(move |at| (set, at)));
        let mut order: Vec<(usize, usize)> = all.collect();
        if sets.len() > 1 {
            let labels = |(set, at): &(usize, usize)| sets[*set].labels(*at);
            order.sort_by(|a, b| labels(a).cmp(labels(b)));
            order.dedup_by(|a, b| labels(a) == labels(b));
        }
        Ok(Selected { sets, order })
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn labels(&self, at: usize) -> &Labels {
        let (set, number) = self.order[at];
        self.sets[set].labels(number)
    }

    /// Tells what the store says of the selection: once it is loaded, also what could not be read.
    pub(crate) fn tell_warnings(&self, damage: &mut Damage, progress: &mut Progress) {
        for warning in self.sets.iter().flat_map(|set| set.warnings()) {
            damage.tell(progress, warning);
        }
    }

    /// Reads the columns of `range` into `out` (which is cleared); what cannot be read is told, and its
    /// column is empty.
    pub(crate) fn load(
        &self,
        range: Range<usize>,
        out: &mut Vec<Column>,
        damage: &mut Damage,
        progress: &mut Progress,
    ) {
        out.clear();
        let neighbours = |a: &(usize, usize), b: &(usize, usize)| a.0 == b.0 && a.1 + 1 == b.1;
        for run in self.order[range].chunk_by(neighbours) {
            let (set, first) = run[0];
            let set = &self.sets[set];
            let before = out.len();
            if set.load(first..first + run.len(), out).is_ok() {
                continue;
            }
            // One by one, so that only those go that cannot be read.
            out.truncate(before);
            for number in first..first + run.len() {
                let before = out.len();
                if let Err(error) = set.load(number..number + 1, out) {
                    out.truncate(before);
                    out.push(Column::default());
                    let labels = set.labels(number);
                    damage.tell(progress, format!("{error}; series {labels} is left out here"));
                }
            }
        }
    }
}

/// Whether a series satisfies one of the selectors, or there are none.
pub(crate) fn is_selected(labels: &Labels, selectors: &[Selector]) -> bool {
    let satisfies = |selector: &Selector| {
        selector.0.iter().all(|matcher| matcher.matches(labels.get(&matcher.name).unwrap_or_default()))
    };
    selectors.is_empty() || selectors.iter().any(satisfies)
}

/// The samples as a column.
pub(crate) fn column_of(samples: &mut Samples) -> Column {
    Column {
        times: std::mem::take(&mut samples.times).into(),
        values: std::mem::take(&mut samples.values),
        histograms: std::mem::take(&mut samples.histograms),
        ..Column::default()
    }
}
