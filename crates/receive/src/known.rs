//! The series a door knows by their label bytes.
//!
//! **Layout.** 48 bytes a series and a table of 4-byte numbers: no copy of the label bytes, which
//! at some 400 bytes a series would be the largest thing in the process. A 128-bit hash with a
//! secret stands for them: in 1.0 that of the label bytes, in 2.0 one made of the hashes of the
//! symbols, each of which is hashed once a request ([`fold_symbol`]). A series that is sent in both
//! versions is known twice.
//!
//! **Guessing.** Every entry names the one that followed it in the last request that had both. The
//! follower's remembered length cuts the label bytes out of the message without walking them; when
//! their hash is the follower's, it is found, and no table has been touched.
//!
//! **Forgetting.** Every [`SWEEP_MS`] the entries not used since the sweep before are dropped.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;
use storage::{SeriesRef, SourceRef};
use xxhash_rust::xxh3::xxh3_128_with_secret;

/// Time between sweeps, milliseconds.
const SWEEP_MS: i64 = 30 * 60 * 1000;
const NONE: u32 = u32::MAX;
/// What xxh3 uses by itself.
const SECRET_BYTES: usize = 192;

/// Where a series goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) source: SourceRef,
    pub(crate) series: SeriesRef,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u128,
    place: Place,
    /// Length of the label bytes; the highest bit marks an unusual spelling.
    len: u32,
    /// The entry that followed this one.
    next: u32,
    /// The last request that had it; 0 since a sweep.
    request: u32,
    /// Hash of the metadata last passed on; 0 for none.
    metadata: u32,
}

const UNUSUAL: u32 = 1 << 31;

/// What was found of a series.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found {
    Known {
        id: u32,
        place: Place,
        guessed: bool,
        /// The request may have this series twice.
        repeats: bool,
    },
    Unknown,
}

/// The way of one request through the known series.
#[derive(Debug)]
pub(crate) struct Walk {
    last: u32,
    request: u32,
}

#[derive(Debug)]
pub(crate) struct KnownSeries {
    entries: Vec<Entry>,
    table: HashTable<u32>,
    secret: Box<[u8; SECRET_BYTES]>,
    requests: u32,
    swept_ms: i64,
}

impl Default for KnownSeries {
    fn default() -> KnownSeries {
        KnownSeries {
            entries: Vec::new(),
            table: HashTable::new(),
            secret: random_secret(),
            requests: 0,
            swept_ms: i64::MIN,
        }
    }
}

impl KnownSeries {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Starts the way of a request, and sweeps when it is time.
    pub(crate) fn begin(&mut self, now_ms: i64) -> Walk {
        if self.requests == u32::MAX {
            self.requests = 0;
            self.entries.iter_mut().for_each(|entry| entry.request = entry.request.min(1));
        }
        self.requests += 1;
        if self.swept_ms == i64::MIN {
            self.swept_ms = now_ms;
        }
        if now_ms.saturating_sub(self.swept_ms) >= SWEEP_MS {
            self.swept_ms = now_ms;
            self.retain(|entry| entry.request != 0);
            self.entries.iter_mut().for_each(|entry| entry.request = 0);
        }
        Walk { last: NONE, request: self.requests }
    }

    /// How long the label bytes of the next series probably are.
    #[inline]
    pub(crate) fn expected_len(&self, walk: &Walk) -> Option<usize> {
        let next = self.entries.get(walk.last as usize)?.next;
        self.entries.get(next as usize).map(|entry| (entry.len & !UNUSUAL) as usize)
    }

    /// The expected next series, if it has this hash.
    #[inline]
    pub(crate) fn guess(&mut self, walk: &mut Walk, hash: u128) -> Option<Found> {
        let id = self.entries.get(walk.last as usize)?.next;
        if self.entries.get(id as usize)?.hash != hash {
            return None;
        }
        Some(self.step(walk, id, true))
    }

    /// Finds a series wherever it is.
    pub(crate) fn find(&mut self, walk: &mut Walk, hash: u128) -> Found {
        match self.table.find(hash as u64, |id| self.entries[*id as usize].hash == hash) {
            Some(&id) => {
                if let Some(last) = self.entries.get_mut(walk.last as usize) {
                    last.next = id;
                }
                self.step(walk, id, false)
            }
            None => Found::Unknown,
        }
    }

    fn step(&mut self, walk: &mut Walk, id: u32, guessed: bool) -> Found {
        let entry = &mut self.entries[id as usize];
        let repeats = entry.request == walk.request || entry.len & UNUSUAL != 0;
        entry.request = walk.request;
        walk.last = id;
        Found::Known { id, place: entry.place, guessed, repeats }
    }

    /// The name of a series by its label bytes (1.0).
    #[inline]
    pub(crate) fn hash(&self, label_bytes: &[u8]) -> u128 {
        xxh3_128_with_secret(label_bytes, &*self.secret)
    }

    /// The names of symbols, from which [`fold_symbol`] makes the name of a series (2.0).
    pub(crate) fn hash_symbols(&self, symbols: &[&[u8]]) -> Vec<u128> {
        symbols.iter().map(|symbol| self.hash(symbol)).collect()
    }

    /// Notes the metadata that comes with a series; true when it is not what came last time.
    pub(crate) fn metadata_changed(&mut self, id: u32, hash: u32) -> bool {
        std::mem::replace(&mut self.entries[id as usize].metadata, hash) != hash
    }

    /// Adds a series, or corrects its place. `unusual` spellings are those that another spelling of
    /// the same labels may stand beside.
    pub(crate) fn insert(
        &mut self,
        hash: u128,
        label_bytes: usize,
        unusual: bool,
        place: Place,
        metadata: u32,
    ) {
        if let Some(&id) = self.table.find(hash as u64, |id| self.entries[*id as usize].hash == hash) {
            self.entries[id as usize].place = place;
            return;
        }
        let Ok(id) = u32::try_from(self.entries.len()) else { return };
        let Some(len) = u32::try_from(label_bytes).ok().filter(|len| len & UNUSUAL == 0) else { return };
        let len = if unusual { len | UNUSUAL } else { len };
        self.entries.push(Entry { hash, place, len, next: NONE, request: self.requests, metadata });
        let entries = &self.entries;
        self.table.insert_unique(hash as u64, id, |id| entries[*id as usize].hash as u64);
    }

    /// Forgets the places that the store no longer knows.
    pub(crate) fn forget(&mut self, gone: &HashSet<Place>) {
        self.retain(|entry| !gone.contains(&entry.place));
    }

    /// Keeps what `keep` accepts, renumbered.
    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        let mut moved = vec![NONE; self.entries.len()];
        let mut kept = Vec::new();
        for (id, entry) in self.entries.iter().enumerate().filter(|(_, entry)| keep(entry)) {
            moved[id] = kept.len() as u32;
            kept.push(*entry);
        }
        for entry in &mut kept {
            entry.next = moved.get(entry.next as usize).copied().unwrap_or(NONE);
        }
        self.entries = kept;
        let entries = &self.entries;
        self.table = HashTable::with_capacity(entries.len());
        for (id, entry) in entries.iter().enumerate() {
            self.table.insert_unique(entry.hash as u64, id as u32, |id| entries[*id as usize].hash as u64);
        }
    }
}

/// The name of a series of 2.0 before its first symbol.
pub(crate) const NO_SYMBOLS: u128 = 0x9e37_79b9_7f4a_7c15_c2b2_ae3d_27d4_eb4f;

/// Appends a symbol to the name of a series; the order counts. Both halves are folded apart, each
/// by a multiplication whose high half is not lost.
#[inline]
pub(crate) fn fold_symbol(name: u128, symbol: u128) -> u128 {
    let fold = |name: u64, symbol: u64, odd: u64| {
        let product = u128::from(name ^ symbol) * u128::from(odd);
        (product as u64 ^ (product >> 64) as u64).wrapping_add(symbol)
    };
    let low = fold(name as u64, symbol as u64, 0xa076_1d64_78bd_642f);
    let high = fold((name >> 64) as u64, (symbol >> 64) as u64, 0xe703_7ed1_a0b4_28db);
    u128::from(high) << 64 | u128::from(low)
}

/// A secret for the hash, so that nobody outside can choose labels that collide. Made once: from a
/// seed the hash would make one anew for every series.
fn random_secret() -> Box<[u8; SECRET_BYTES]> {
    let mut secret = Box::new([0; SECRET_BYTES]);
    for chunk in secret.chunks_exact_mut(8) {
        // Every `RandomState` has other keys.
        chunk.copy_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u64) -> Place {
        Place { source: SourceRef(1), series: SeriesRef(n) }
    }

    fn known(names: &[&str]) -> KnownSeries {
        let mut known = KnownSeries::default();
        known.begin(0);
        for (n, name) in names.iter().enumerate() {
            let hash = known.hash(name.as_bytes());
            known.insert(hash, name.len(), false, place(n as u64), 0);
        }
        known
    }

    /// Finds names in turn: `g` guessed, `t` by table, `?` unknown; `!` for a repeat.
    fn walk(known: &mut KnownSeries, now_ms: i64, names: &[&str]) -> String {
        let mut walk = known.begin(now_ms);
        let mut out = String::new();
        for name in names {
            let hash = known.hash(name.as_bytes());
            match known.guess(&mut walk, hash).unwrap_or_else(|| known.find(&mut walk, hash)) {
                Found::Known { place, guessed, repeats, .. } => {
                    out += &format!(
                        "{}{}{} ",
                        if guessed { 'g' } else { 't' },
                        place.series.0,
                        if repeats { "!" } else { "" }
                    );
                }
                Found::Unknown => out += "? ",
            }
        }
        out.trim_end().to_owned()
    }

    #[test]
    fn a_sender_who_repeats_himself_is_guessed() {
        let mut known = known(&["a", "bb", "ccc"]);
        assert_eq!(walk(&mut known, 0, &["a", "bb", "ccc"]), "t0 t1 t2");
        assert_eq!(walk(&mut known, 0, &["a", "bb", "ccc"]), "t0 g1 g2");
        assert_eq!(walk(&mut known, 0, &["a", "ccc", "new", "bb", "bb"]), "t0 t2 ? t1 t1!");
        assert_eq!(walk(&mut known, 0, &["a", "ccc", "bb"]), "t0 g2 g1");
    }

    #[test]
    fn what_is_not_used_is_forgotten() {
        let mut known = known(&["a", "bb", "ccc"]);
        walk(&mut known, 0, &["a", "bb", "ccc"]);
        assert_eq!(walk(&mut known, SWEEP_MS, &["bb", "ccc"]), "t1 g2", "all were used since the start");
        assert_eq!(walk(&mut known, 2 * SWEEP_MS, &["bb", "ccc", "a"]), "t1 g2 ?");
        known.forget(&HashSet::from([place(1)]));
        assert_eq!(walk(&mut known, 2 * SWEEP_MS, &["bb", "ccc"]), "? t2");
        assert_eq!(known.len(), 1);
    }
}
