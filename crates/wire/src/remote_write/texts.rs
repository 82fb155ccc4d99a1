//! Texts by number, and which of them the present request has said already.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// Texts that were seen, each with a number of its own, from 0. Numbers hold until [`Texts::forget`].
#[derive(Debug, Default)]
pub(super) struct Texts {
    numbers: HashTable<u32>,
    /// Where each text ends in `bytes`; it starts where the one before ends.
    ends: Vec<usize>,
    bytes: Vec<u8>,
    /// For each text, the last request that said it, and as which of its symbols.
    said: Vec<(u64, u32)>,
}

impl Texts {
    /// The number of `text`.
    pub(super) fn number(&mut self, text: &str) -> u32 {
        let Texts { numbers, ends, bytes, said } = self;
        let same = |&number: &u32| at(ends, bytes, number) == text.as_bytes();
        let hash = xxh3_64(text.as_bytes());
        if let Some(known) = numbers.find(hash, same) {
            return *known;
        }
        let number = ends.len() as u32;
        bytes.extend_from_slice(text.as_bytes());
        ends.push(bytes.len());
        said.push((0, 0));
        numbers.insert_unique(hash, number, |&number| xxh3_64(at(ends, bytes, number)));
        number
    }

    /// The symbol of text `number` in request `request` (from 1). When the request has not said it yet,
    /// it becomes symbol `next`, and the text comes too.
    #[inline]
    pub(super) fn symbol(&mut self, number: u32, request: u64, next: u32) -> (u32, Option<&[u8]>) {
        match self.said.get_mut(number as usize) {
            Some((said_in, symbol)) if *said_in == request => (*symbol, None),
            Some(said) => {
                *said = (request, next);
                (next, Some(at(&self.ends, &self.bytes, number)))
            }
            None => (0, None), // no number of ours: the empty text
        }
    }

    /// Memory taken, bytes, about.
    pub(super) fn size(&self) -> usize {
        self.bytes.capacity()
            + self.ends.capacity() * size_of::<usize>()
            + self.said.capacity() * size_of::<(u64, u32)>()
            + self.numbers.capacity() * size_of::<u32>()
    }

    /// Forgets all of them and gives the memory back.
    pub(super) fn forget(&mut self) {
        *self = Texts::default();
    }
}

fn at<'a>(ends: &[usize], bytes: &'a [u8], number: u32) -> &'a [u8] {
    let number = number as usize;
    let start = if number == 0 { 0 } else { ends[number - 1] };
    &bytes[start..ends[number]]
}
