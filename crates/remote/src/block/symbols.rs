//! Texts of labels, each kept once for all sources of an encoder.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use stdx::bytes::put_text;

/// Not in the dictionary of this segment.
const UNDEFINED: u32 = u32::MAX;

/// Interned texts. Ids are given again after [`Symbols::sweep`].
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    by_text: HashTable<u32>,
    /// `None` where an id is free.
    texts: Vec<Option<Box<str>>>,
    free: Vec<u32>,
    /// The id that the segment's dictionary knows a symbol by.
    in_segment: Vec<u32>,
    defined: u32,
    hasher: foldhash::fast::FixedState,
}

impl Symbols {
    /// The id of `text`.
    pub(crate) fn intern(&mut self, text: &str) -> u32 {
        let (texts, hasher) = (&self.texts, self.hasher.clone());
        let text_of = |id: u32| texts[id as usize].as_deref().unwrap_or_default();
        let hash = hasher.hash_one(text);
        if let Some(id) = self.by_text.find(hash, |id| text_of(*id) == text) {
            return *id;
        }
        let id = self.free.pop().unwrap_or(self.texts.len() as u32);
        self.by_text.insert_unique(hash, id, |id| hasher.hash_one(text_of(*id)));
        if id as usize == self.texts.len() {
            self.texts.push(Some(text.into()));
            self.in_segment.push(UNDEFINED);
        } else {
            self.texts[id as usize] = Some(text.into());
            self.in_segment[id as usize] = UNDEFINED;
        }
        id
    }

    /// The id of `text`, if it has one.
    #[cfg(test)]
    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.by_text.find(hash, |id| self.text(*id) == text).copied()
    }

    /// The text of a symbol.
    #[cfg(test)]
    pub(crate) fn text(&self, id: u32) -> &str {
        self.texts[id as usize].as_deref().unwrap_or_default()
    }

    /// How the segment's dictionary calls the symbol; a new one is written to `additions`.
    pub(crate) fn define(&mut self, id: u32, additions: &mut Additions) -> u32 {
        if self.in_segment[id as usize] == UNDEFINED {
            self.in_segment[id as usize] = self.defined;
            self.defined += 1;
            additions.symbols += 1;
            put_text(&mut additions.texts, self.texts[id as usize].as_deref().unwrap_or_default());
        }
        self.in_segment[id as usize]
    }

    /// A new segment knows no symbols.
    pub(crate) fn start_segment(&mut self) {
        self.in_segment.fill(UNDEFINED);
        self.defined = 0;
    }

    /// Lets go of symbols that `used` does not name. Only between segments.
    pub(crate) fn sweep(&mut self, used: &[bool]) {
        for id in 0..self.texts.len() {
            if used.get(id).copied().unwrap_or(false) {
                continue;
            }
            let Some(text) = self.texts[id].take() else { continue };
            let hash = self.hasher.hash_one(&*text);
            if let Ok(entry) = self.by_text.find_entry(hash, |other| *other == id as u32) {
                entry.remove();
            }
            self.free.push(id as u32);
        }
    }

    /// How many ids there are, free ones included.
    pub(crate) fn ids(&self) -> usize {
        self.texts.len()
    }
}

/// Symbols that a block adds to the dictionary.
#[derive(Debug, Default)]
pub(crate) struct Additions {
    pub(crate) symbols: u64,
    pub(crate) texts: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_have_one_id_until_they_are_swept() {
        let mut symbols = Symbols::default();
        let (a, b) = (symbols.intern("a"), symbols.intern("b"));
        assert_eq!((symbols.intern("a"), symbols.find("b"), symbols.find("c")), (a, Some(b), None));
        let mut additions = Additions::default();
        assert_eq!((symbols.define(b, &mut additions), symbols.define(a, &mut additions)), (0, 1));
        assert_eq!(symbols.define(b, &mut additions), 0);
        assert_eq!((additions.symbols, additions.texts.as_slice()), (2, &b"\x01b\x01a"[..]));
        symbols.start_segment();
        let mut used = vec![false; symbols.ids()];
        used[b as usize] = true;
        symbols.sweep(&used);
        assert_eq!((symbols.find("a"), symbols.text(b)), (None, "b"));
        assert_eq!(symbols.intern("c"), a, "a free id is given again");
        let mut additions = Additions::default();
        assert_eq!(symbols.define(a, &mut additions), 0, "a new segment knows nothing");
    }
}
