//! Where agents that share targets hear of each other while their leases are away: each tells a word, and is told those
//! of the others of its cluster. The hub only carries them: nothing in them hangs on when it does.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use pairs::Word;
use parking_lot::Mutex;
use tokio::time::Instant;
use tunnel::identity::PeerIdentity;

/// Words that are kept for one cluster; with one more the oldest goes.
const WORDS_MAX: usize = 64;

/// The words of all clusters.
#[derive(Debug, Default)]
pub(super) struct PairWords(Mutex<HashMap<(String, String), Cluster>>);

/// By member and incarnation: until when a word is told, and it.
type Cluster = BTreeMap<(String, u64), (Instant, Word)>;

impl PairWords {
    /// Takes one agent's word, and gives those of others of its cluster that may still be news.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn exchange(&self, peer: &PeerIdentity, body: &[u8]) -> Result<Vec<u8>, String> {
        let word = Word::decode(body)?;
        Ok(Word::encode_all(&self.told(peer.tenant.as_str(), &peer.cluster, word, Instant::now())))
    }

    fn told(&self, tenant: &str, cluster: &str, word: Word, now: Instant) -> Vec<Word> {
        let key = (word.member.clone(), word.incarnation);
        let mut all = self.0.lock();
        all.retain(|_, words| {
            words.retain(|_, (until, _)| now < *until);
            !words.is_empty()
        });
        let words = all.entry((tenant.to_owned(), cluster.to_owned())).or_default();
        let others = words.iter().filter(|(of, _)| **of != key).map(|(_, (_, word))| word.clone()).collect();
        // An older one may come later.
        if words.get(&key).is_none_or(|(_, known)| known.mark <= word.mark) {
            let until = now + word.lasts().max(Duration::from_secs(1));
            words.insert(key, (until, word));
        }
        if words.len() > WORDS_MAX {
            let oldest = words.iter().min_by_key(|(_, (until, _))| *until).map(|(key, _)| key.clone());
            oldest.map(|key| words.remove(&key));
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(member: &str, mark: u64) -> Word {
        Word {
            member: member.to_owned(),
            incarnation: 1,
            transitions: 1,
            mark,
            renewed_ms: 0,
            duration_ms: 8_000,
            is_away: true,
            heard: Vec::new(),
        }
    }

    #[test]
    fn each_hears_the_others_of_its_cluster_while_words_are_news() {
        let words = PairWords::default();
        let begin = Instant::now();
        let check = |seconds: u64, of: (&str, &str), member: &str, mark: u64, want: &[(&str, u64)]| {
            let now = begin + Duration::from_secs(seconds);
            let told = words.told(of.0, of.1, word(member, mark), now);
            let told: Vec<(&str, u64)> = told.iter().map(|word| (word.member.as_str(), word.mark)).collect();
            assert_eq!(told, want, "{member} {mark} at {seconds} s");
        };
        let (alpha, beta, other) = (("default", "alpha"), ("default", "beta"), ("acme", "alpha"));
        check(0, alpha, "a", 2, &[]);
        check(0, alpha, "b", 1, &[("a", 2)]);
        check(1, alpha, "a", 1, &[("b", 1)]); // late
        check(1, beta, "c", 1, &[]);
        check(1, other, "c", 1, &[]);
        check(3, alpha, "b", 2, &[("a", 2)]);
        check(5, alpha, "a", 3, &[("b", 2)]);
        check(8, alpha, "b", 3, &[("a", 3)]);
        check(60, alpha, "a", 9, &[]);
        for n in 0..2 * WORDS_MAX {
            words.told("default", "alpha", word(&format!("m{n}"), 1), begin + Duration::from_secs(60));
        }
        assert_eq!(words.0.lock().values().map(BTreeMap::len).sum::<usize>(), WORDS_MAX);
    }
}
