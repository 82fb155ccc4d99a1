//! The strings of labels, each kept once and counted.
//!
//! A string is twenty bytes beside its own: where it stands in a chunk of text, and who uses it. What is
//! removed leaves a hole, and when there are more holes than text, all is put together anew.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a chunk; a longer string has one of its own.
const CHUNK: usize = 64 << 10;
/// Holes of so many bytes in all are left alone.
const HOLES_MIN: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Symbols {
    entries: Vec<Entry>,
    free: Vec<u32>,
    table: HashTable<u32>,
    text: Text,
    /// Bytes of text that nobody uses any more.
    holes: usize,
}

/// Where a string is.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    chunk: u32,
    at: u32,
    len: u32,
    uses: u32,
}

/// Chunks that never move.
#[derive(Debug, Default)]
struct Text {
    chunks: Vec<String>,
    bytes: usize,
}

impl Text {
    fn get(&self, entry: &Entry) -> &str {
        let chunk = self.chunks.get(entry.chunk as usize);
        chunk.map_or("", |chunk| &chunk[entry.at as usize..][..entry.len as usize])
    }

    /// Adds a string that is used once.
    fn add(&mut self, text: &str) -> Entry {
        let fits = |chunk: &String| chunk.len() + text.len() <= CHUNK;
        if !self.chunks.last().is_some_and(fits) {
            let capacity = if self.chunks.is_empty() { 256 } else { CHUNK };
            self.chunks.push(String::with_capacity(capacity.max(text.len())));
        }
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        let at = chunk.len();
        chunk.push_str(text);
        self.bytes += text.len();
        // Strings of labels come in requests that are no longer than this.
        Entry { chunk: number as u32, at: at as u32, len: text.len() as u32, uses: 1 }
    }
}

impl Symbols {
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.table.find(xxh3_64(text.as_bytes()), |id| self.text(*id) == text).copied()
    }

    /// Finds or adds `text` and counts a use of it.
    pub(super) fn intern(&mut self, text: &str) -> u32 {
        if let Some(id) = self.find(text) {
            self.entries[id as usize].uses += 1;
            return id;
        }
        let entry = self.text.add(text);
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id as usize] = entry;
                id
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        let (entries, texts) = (&self.entries, &self.text);
        let hash_of = |id: &u32| xxh3_64(texts.get(&entries[*id as usize]).as_bytes());
        self.table.insert_unique(xxh3_64(text.as_bytes()), id, hash_of);
        id
    }

    /// Takes back a use.
    pub(super) fn release(&mut self, id: u32) {
        self.entries[id as usize].uses -= 1;
        if self.entries[id as usize].uses > 0 {
            return;
        }
        let hash = xxh3_64(self.text(id).as_bytes());
        if let Ok(found) = self.table.find_entry(hash, |other| *other == id) {
            found.remove();
        }
        self.holes += std::mem::take(&mut self.entries[id as usize]).len as usize;
        self.free.push(id);
        if self.holes > HOLES_MIN && self.holes > self.text.bytes / 2 {
            self.close_holes();
        }
    }

    fn close_holes(&mut self) {
        let before = std::mem::take(&mut self.text);
        for entry in self.entries.iter_mut().filter(|entry| entry.uses > 0) {
            *entry = Entry { uses: entry.uses, ..self.text.add(before.get(entry)) };
        }
        self.holes = 0;
    }

    pub(super) fn text(&self, id: u32) -> &str {
        self.text.get(&self.entries[id as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_stay_while_holes_are_closed() {
        let mut symbols = Symbols::default();
        let text = |n: usize| format!("{n}-{}", "ä".repeat(n % 90));
        let long = "x".repeat(3 * CHUNK);
        let ids: Vec<u32> = (0..40_000).map(|n| symbols.intern(&text(n))).collect();
        let of_long = symbols.intern(&long);
        assert_eq!(symbols.intern(&text(7)), ids[7]);
        let before = symbols.text.bytes;
        for (n, id) in ids.iter().enumerate().filter(|(n, _)| n % 10 != 7) {
            symbols.release(*id);
            assert_eq!(symbols.find(&text(n)), None);
        }
        assert!(symbols.text.bytes < before / 2, "{} of {before} bytes", symbols.text.bytes);
        for (n, id) in ids.iter().enumerate().filter(|(n, _)| n % 10 == 7) {
            assert_eq!((symbols.text(*id), symbols.find(&text(n))), (&*text(n), Some(*id)));
        }
        assert_eq!(symbols.text(of_long), long);
        // Used twice.
        symbols.release(ids[7]);
        assert_eq!(symbols.text(ids[7]), text(7));
        let again = symbols.intern("again");
        assert_eq!(symbols.text(again), "again");
    }
}
