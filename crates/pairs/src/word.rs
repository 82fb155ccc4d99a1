//! What members tell each other beside their leases; the format is in docs/formats/lease.md.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lease::BoxFuture;
use crate::member::{MEMBERS_MAX, is_member_name};

/// A longer word is none, bytes.
pub const WORD_BYTES_MAX: usize = 16 << 10;
const FORMAT: &str = "marigraph-word-1";

/// A sign of life of a member, and whom it has heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Who says it.
    pub member: String,
    /// As in its lease.
    pub incarnation: u64,
    /// As in its lease.
    pub transitions: u32,
    /// A number that it has not given before, from 1 on.
    pub mark: u64,
    /// When it was said, by the member's wall clock, milliseconds since the epoch.
    pub renewed_ms: i64,
    /// As in its lease, milliseconds; who carries the word forgets it after half of that.
    pub duration_ms: u64,
    /// It cannot read the leases.
    pub is_away: bool,
    /// The members whose leases it has read.
    pub heard: Vec<Heard>,
}

/// The last mark of a member that another one has heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Whose.
    pub member: String,
    /// As in the lease that was read.
    pub incarnation: u64,
    /// 0 for none: only its lease is known, or it is taken for gone.
    pub mark: u64,
}

/// A way on which members hear of each other while they cannot read the leases.
pub trait Words: Send + Sync {
    /// Tells the others a word, and gives what they have told last, each one a word.
    ///
    /// # Errors
    /// What went wrong; whether they hear it is not known.
    fn exchange(&self, word: Word) -> BoxFuture<'_, Result<Vec<Word>, String>>;
}

impl Word {
    /// For how long it is worth telling; five minutes at most.
    pub fn lasts(&self) -> Duration {
        Duration::from_millis(self.duration_ms / 2).min(Duration::from_secs(300))
    }

    /// As JSON.
    pub fn encode(&self) -> Vec<u8> {
        // Strings and numbers only: it cannot fail.
        serde_json::to_vec(&WireWord::from(self)).unwrap_or_default()
    }

    /// A word from its JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Word, String> {
        if bytes.len() > WORD_BYTES_MAX {
            return Err(format!("more than {WORD_BYTES_MAX} bytes"));
        }
        serde_json::from_slice::<WireWord>(bytes).map_err(|error| error.to_string())?.try_into()
    }

    /// Several words as JSON.
    pub fn encode_all(words: &[Word]) -> Vec<u8> {
        let words: Vec<WireWord> = words.iter().map(WireWord::from).collect();
        serde_json::to_vec(&words).unwrap_or_default()
    }

    /// Several words, as many as there can be members.
    ///
    /// # Errors
    /// What is wrong with one of them, or there are more.
    pub fn decode_all(bytes: &[u8]) -> Result<Vec<Word>, String> {
        if bytes.len() > WORD_BYTES_MAX * MEMBERS_MAX {
            return Err(format!("{} bytes of words", bytes.len()));
        }
        let words: Vec<WireWord> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if words.len() > MEMBERS_MAX {
            return Err(format!("{} words, {MEMBERS_MAX} at most", words.len()));
        }
        words.into_iter().map(Word::try_from).collect()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireWord {
    format: String,
    member: String,
    incarnation: String,
    transitions: u32,
    mark: u64,
    renewed_ms: i64,
    duration_ms: u64,
    away: bool,
    heard: Vec<WireHeard>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireHeard {
    member: String,
    incarnation: String,
    mark: u64,
}

impl From<&Word> for WireWord {
    fn from(word: &Word) -> WireWord {
        let heard = |heard: &Heard| WireHeard {
            member: heard.member.clone(),
            incarnation: format!("{:016x}", heard.incarnation),
            mark: heard.mark,
        };
        WireWord {
            format: FORMAT.to_owned(),
            member: word.member.clone(),
            incarnation: format!("{:016x}", word.incarnation),
            transitions: word.transitions,
            mark: word.mark,
            renewed_ms: word.renewed_ms,
            duration_ms: word.duration_ms,
            away: word.is_away,
            heard: word.heard.iter().map(heard).collect(),
        }
    }
}

impl TryFrom<WireWord> for Word {
    type Error = String;

    fn try_from(word: WireWord) -> Result<Word, String> {
        if word.format != FORMAT {
            return Err(format!("format {:?}, not {FORMAT:?}", word.format));
        }
        if word.heard.len() > MEMBERS_MAX {
            return Err(format!("more than {MEMBERS_MAX} members are heard"));
        }
        let heard = |heard: WireHeard| {
            let (member, incarnation) = named(heard.member, &heard.incarnation)?;
            Ok::<_, String>(Heard { member, incarnation, mark: heard.mark })
        };
        let (member, incarnation) = named(word.member, &word.incarnation)?;
        Ok(Word {
            member,
            incarnation,
            transitions: word.transitions,
            mark: word.mark,
            renewed_ms: word.renewed_ms,
            duration_ms: word.duration_ms,
            is_away: word.away,
            heard: word.heard.into_iter().map(heard).collect::<Result<_, _>>()?,
        })
    }
}

fn named(member: String, incarnation: &str) -> Result<(String, u64), String> {
    if !is_member_name(&member) {
        return Err(format!("{member:?} is not a member's name"));
    }
    let number = u64::from_str_radix(incarnation, 16);
    let number = number.map_err(|_| format!("incarnation {incarnation:?} is not a hexadecimal number"))?;
    Ok((member, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word() -> Word {
        let heard = Heard { member: "berlin-1".to_owned(), incarnation: 7, mark: 0 };
        Word {
            member: "berlin-0".to_owned(),
            incarnation: u64::MAX,
            transitions: 3,
            mark: 12,
            renewed_ms: 1_763_848_812_500,
            duration_ms: 8_000,
            is_away: true,
            heard: vec![heard],
        }
    }

    #[test]
    fn words_read_as_they_were_written() {
        assert_eq!(Word::decode(&word().encode()), Ok(word()));
        let all = vec![word(), Word { mark: 13, ..word() }];
        assert_eq!(Word::decode_all(&Word::encode_all(&all)), Ok(all));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = String::from_utf8(word().encode()).expect("text");
        let check = |from: &str, to: &str, want: &str| {
            assert!(text.contains(from), "{from} in {text}");
            let error = Word::decode(text.replacen(from, to, 1).as_bytes()).expect_err(to);
            assert!(error.contains(want), "{error}");
        };
        check("word-1", "word-2", "marigraph-word-2");
        check("berlin-0", "../x", "\"../x\" is not a member's name");
        check("berlin-1", "", "\"\" is not a member's name");
        check("ffff", "gfff", "is not a hexadecimal number");
        check("\"mark\"", "\"marks\"", "unknown field `marks`");
        let many = vec![word(); MEMBERS_MAX + 1];
        assert!(Word::decode_all(&Word::encode_all(&many)).is_err_and(|error| error.contains("words")));
        let large = Word { heard: vec![word().heard[0].clone(); 1000], ..word() };
        assert!(Word::decode(&large.encode()).is_err_and(|error| error.contains("bytes")));
    }
}
