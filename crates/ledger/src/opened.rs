//! The sources that the store has named.
//!
//! There may be hundreds of thousands that push one series each, so an entry is 48 bytes and a place in a table of
//! numbers: tenants and sums stand once, entries in chunks, which never move and leave no room of a doubling behind.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use model::{Labels, SourceId, TenantId};
use storage::{SourceDesc, SourceRef};

use crate::pushed::Sums;

/// Entries of a chunk.
const CHUNK: usize = 512;

/// [`Entry::kind`] of a source that has neither accounts nor pushed rows yet.
const NEW: u32 = u32::MAX;
/// [`Entry::kind`] of one with a schedule or ticks: it is not one that pushes.
const WITH_ACCOUNTS: u32 = u32::MAX - 1;

/// All sources that are open.
#[derive(Debug, Default)]
pub(crate) struct OpenSources {
    /// Numbers of entries, by the reference of their source.
    numbers: HashTable<u32>,
    hasher: RandomState,
    chunks: Vec<Vec<Entry>>,
    tenants: Vec<TenantId>,
    tenant_numbers: HashMap<TenantId, u32>,
    sums: Vec<Arc<Sums>>,
    /// Places in `sums`, by the address of what stands there, which stays as long as it does.
    sums_numbers: HashMap<usize, u32>,
}

/// One of them.
#[derive(Debug)]
struct Entry {
    reference: SourceRef,
    id: SourceId,
    labels: Labels,
    tenant: u32,
    /// [`NEW`], [`WITH_ACCOUNTS`], or the place of its sums.
    kind: AtomicU32,
}

/// What rows without accounts are to their source.
pub(crate) enum Pushing<'a> {
    /// They count here.
    Counted(&'a Sums),
    /// Nobody has asked before; see [`OpenSources::count_in`].
    New,
    /// The source has accounts, or is not open.
    No,
}

impl OpenSources {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether it is known.
    pub(crate) fn contains(&self, source: SourceRef) -> bool {
        self.entry(source).is_some()
    }

    /// Takes a source in, if it is not known.
    pub(crate) fn insert(&mut self, source: SourceRef, desc: &SourceDesc) {
        let Ok(number) = u32::try_from(self.len()) else { return };
        if self.contains(source) {
            return;
        }
        let tenant = self.tenant_number(&desc.tenant);
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(if self.chunks.is_empty() { 4 } else { CHUNK }));
        }
        let labels = desc.labels.clone();
        let entry = Entry { reference: source, id: desc.id, labels, tenant, kind: AtomicU32::new(NEW) };
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(entry);
        }
        let OpenSources { numbers, hasher, chunks, .. } = self;
        let hash_of = |number: &u32| at(chunks, *number).map_or(0, |entry| hasher.hash_one(entry.reference));
        numbers.insert_unique(hasher.hash_one(source), number, hash_of);
    }

    /// Whose it is.
    pub(crate) fn tenant(&self, source: SourceRef) -> Option<&TenantId> {
        self.tenants.get(self.entry(source)?.tenant as usize)
    }

    /// Says that it has accounts; its identity and labels.
    pub(crate) fn with_accounts(&self, source: SourceRef) -> Option<(SourceId, Labels)> {
        let entry = self.entry(source)?;
        entry.kind.store(WITH_ACCOUNTS, Ordering::Relaxed);
        Some((entry.id, entry.labels.clone()))
    }

    /// Where rows of it count that come without accounts.
    pub(crate) fn pushing(&self, source: SourceRef) -> Pushing<'_> {
        let Some(entry) = self.entry(source) else { return Pushing::No };
        match entry.kind.load(Ordering::Relaxed) {
            NEW => Pushing::New,
            number => self.sums.get(number as usize).map_or(Pushing::No, |sums| Pushing::Counted(sums)),
        }
    }

    /// Has the rows of a new source count in what `sums_of` gives for its tenant and labels.
    pub(crate) fn count_in(
        &mut self,
        source: SourceRef,
        sums_of: impl FnOnce(&TenantId, &Labels) -> Arc<Sums>,
    ) {
        let Some(entry) = self.entry(source) else { return };
        let Some(tenant) = self.tenants.get(entry.tenant as usize) else { return };
        let sums = sums_of(tenant, &entry.labels);
        let OpenSources { sums: all, sums_numbers, .. } = self;
        let number = *sums_numbers.entry(Arc::as_ptr(&sums) as usize).or_insert_with(|| {
            all.push(sums);
            all.len() as u32 - 1
        });
        if let Some(entry) = self.entry(source) {
            // Only a new one: accounts may have come meanwhile.
            _ = entry.kind.compare_exchange(NEW, number, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn entry(&self, source: SourceRef) -> Option<&Entry> {
        let is_it = |number: &u32| at(&self.chunks, *number).is_some_and(|entry| entry.reference == source);
        let number = self.numbers.find(self.hasher.hash_one(source), is_it)?;
        at(&self.chunks, *number)
    }

    fn tenant_number(&mut self, tenant: &TenantId) -> u32 {
        if let Some(number) = self.tenant_numbers.get(tenant) {
            return *number;
        }
        let number = self.tenants.len() as u32;
        self.tenants.push(tenant.clone());
        self.tenant_numbers.insert(tenant.clone(), number);
        number
    }
}

fn at(chunks: &[Vec<Entry>], number: u32) -> Option<&Entry> {
    chunks.get(number as usize / CHUNK)?.get(number as usize % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desc(n: u64, tenant: &str) -> SourceDesc {
        let labels = Labels::from_pairs([("instance", format!("i{n}")), ("job", format!("j{}", n % 3))]);
        let tenant = TenantId::new(tenant).expect("a tenant");
        SourceDesc { tenant, id: SourceId(u128::from(n) << 64), labels }
    }

    impl OpenSources {
        /// What it holds, beside labels, which the store holds too.
        fn bytes(&self) -> usize {
            let chunks: usize = self.chunks.iter().map(Vec::capacity).sum();
            self.numbers.allocation_size()
                + chunks * size_of::<Entry>()
                + self.chunks.capacity() * size_of::<Vec<Entry>>()
        }
    }

    #[test]
    fn a_source_costs_less_than_seventy_bytes() {
        // Just behind a doubling of the table, and where it is full.
        for count in [100_000, 57_345, 114_688, 114_689] {
            let mut open = OpenSources::default();
            for n in 0..count {
                open.insert(SourceRef(n * 7), &desc(n, "anonymous"));
            }
            assert_eq!(open.len() as u64, count);
            let each = open.bytes() as f64 / count as f64;
            assert!(each < 70.0, "{each:.1} bytes each of {count} sources");
        }
    }

    #[test]
    fn sources_are_told_apart_and_share_their_sums() {
        let mut open = OpenSources::default();
        let mut of_job: HashMap<(String, String), Arc<Sums>> = HashMap::new();
        let tenants = ["one", "two"];
        let reference = |n: u64| SourceRef(n * n + 5);
        for n in 0..2_000 {
            open.insert(reference(n), &desc(n, tenants[n as usize % 2]));
            // Whoever opens it again finds it as it was.
            open.insert(reference(n), &desc(n + 1, tenants[0]));
        }
        assert_eq!(open.len(), 2_000);
        for n in 0..2_000 {
            let source = reference(n);
            assert_eq!(open.tenant(source).map(TenantId::as_str), Some(tenants[n as usize % 2]));
            assert!(matches!(open.pushing(source), Pushing::New), "source {n}");
            if n % 5 == 0 {
                let wanted = desc(n, tenants[0]);
                assert_eq!(open.with_accounts(source), Some((wanted.id, wanted.labels)));
            }
            open.count_in(source, |tenant, labels| {
                let job = labels.get("job").unwrap_or_default().to_owned();
                Arc::clone(of_job.entry((tenant.as_str().to_owned(), job)).or_default())
            });
        }
        assert_eq!((of_job.len(), open.sums.len()), (6, 6), "two tenants with three jobs each");
        for n in 0..2_000u64 {
            let key = (tenants[n as usize % 2].to_owned(), format!("j{}", n % 3));
            match open.pushing(reference(n)) {
                Pushing::Counted(sums) => {
                    assert_ne!(n % 5, 0, "source {n} has accounts");
                    assert!(std::ptr::eq(sums, &*of_job[&key]), "source {n}");
                }
                Pushing::No => assert_eq!(n % 5, 0, "source {n} has none"),
                Pushing::New => panic!("source {n} was asked for"),
            }
        }
        assert!(matches!(open.pushing(SourceRef(1)), Pushing::No));
        assert!(open.with_accounts(SourceRef(1)).is_none());
    }
}
