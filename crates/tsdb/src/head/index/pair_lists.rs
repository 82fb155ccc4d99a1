//! Which pairs each series has.

use std::collections::HashMap;

/// Lists of pair numbers, in chunks that never move; freed lists are used again for series with as
/// many labels.
#[derive(Debug, Default)]
pub(super) struct PairLists {
    chunks: Vec<Vec<u32>>,
    free: HashMap<u32, Vec<u32>>,
}

const CHUNK: usize = 1 << 16;

impl PairLists {
    pub(super) fn add(&mut self, pairs: &[u32]) -> u32 {
        if let Some(at) = self.free.get_mut(&(pairs.len() as u32)).and_then(Vec::pop) {
            let (chunk, from) = (at as usize / CHUNK, at as usize % CHUNK);
            self.chunks[chunk][from..from + pairs.len()].copy_from_slice(pairs);
            return at;
        }
        let fits = self.chunks.last().is_some_and(|chunk| chunk.len() + pairs.len() <= CHUNK);
        if !fits {
            self.chunks.push(Vec::with_capacity(if self.chunks.is_empty() { 256 } else { CHUNK }));
        }
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        let at = number * CHUNK + chunk.len();
        chunk.extend_from_slice(pairs);
        at as u32
    }

    pub(super) fn get(&self, at: u32, len: u32) -> &[u32] {
        let (chunk, from) = (at as usize / CHUNK, at as usize % CHUNK);
        &self.chunks[chunk][from..from + len as usize]
    }

    pub(super) fn free(&mut self, at: u32, len: u32) {
        self.free.entry(len).or_default().push(at);
    }
}
