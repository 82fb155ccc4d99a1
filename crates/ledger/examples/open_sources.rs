//! What the ledger holds of sources that push one series each: bytes of resident memory a source.
//!
//! `cargo run --release -p ledger --example open_sources [-- SOURCES]`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ledger::{Ledger, LedgerAppender, LedgerConfig};
use model::{Labels, SourceId, TenantId};
use stdx::clock::SystemClock;
use stdx::disk::RealDisk;
use storage::{
    Appended, Appender, Batch, CommitPosition, Policy, Row, SeriesRef, SourceDesc, SourceRef, StoreError,
};

/// Gives out numbers and keeps nothing, so that what is held is the ledger's.
#[derive(Default)]
struct Numbers(AtomicU64);

impl Appender for Numbers {
    fn open_source(&self, _: &SourceDesc) -> Result<SourceRef, StoreError> {
        Ok(SourceRef(self.0.fetch_add(1, Ordering::Relaxed)))
    }

    fn resolve(&self, _: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        Ok(vec![None; labels.len()])
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        Ok(Appended { samples: batch.rows.len(), ..Appended::default() })
    }

    fn wait_durable(&self, _: CommitPosition) -> Result<(), StoreError> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let count: u32 = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let config = LedgerConfig { read_only: true, ..LedgerConfig::new(Path::new("/nonexistent")) };
    let ledger = Arc::new(Ledger::open(config, Arc::new(RealDisk), Arc::new(SystemClock))?);
    let appender = LedgerAppender::new(Arc::new(Numbers::default()), ledger);
    // The store shares the labels with the ledger, so they are no cost of the ledger's.
    let labels: Vec<Labels> = (0..count).map(of_source).collect();
    let empty = resident_bytes();
    for (n, labels) in (0..).zip(&labels) {
        let (tenant, id) = (TenantId::default(), SourceId(n));
        let source = appender.open_source(&SourceDesc { tenant, id, labels: labels.clone() })?;
        let row = Row::floats(source, 1_700_000_000_000, &[SeriesRef(0)], &[1.0]);
        appender.append(&Batch::rows(&[row], Policy::REMOTE_WRITE))?;
    }
    println!("{:.1} bytes a source", (resident_bytes() - empty) / f64::from(count));
    Ok(())
}

fn of_source(n: u32) -> Labels {
    Labels::from_pairs([("instance", format!("run-{n:08x}")), ("job", "batch".to_owned())])
}

fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok());
    pages.unwrap_or_default() * 4096.0
}
