//! Limits that a hub gives to agents: what a document of them is. They only ever narrow what the agent's own
//! configuration says, and name no file and no target.

use std::collections::BTreeMap;
use std::time::Duration;

use scrape::config::Limits;
use serde::{Deserialize, Serialize};

/// Where an agent takes them.
pub(crate) const LIMITS_PATH: &str = "/tunnel/v1/limits";
/// Longest document, bytes.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 16 << 10;

/// Limits by Prometheus' names; what is not named is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct LimitSet(BTreeMap<String, u64>);

/// One revision of a cluster's limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsDocument {
    /// The highest one wins.
    pub(crate) revision: u64,
    /// Who gave it.
    pub(crate) author: String,
    /// When, milliseconds since the epoch.
    pub(crate) set_ms: i64,
    /// Why, or what it goes back to; may be empty.
    #[serde(default)]
    pub(crate) reason: String,
    /// The limits.
    pub(crate) limits: LimitSet,
}

/// What a limit is of.
#[derive(Clone, Copy)]
enum Of {
    /// Each job: where it is in [`Limits`].
    Job(fn(&mut Limits) -> &mut u64),
    /// The agent.
    Agent {
        /// A lower number would leave nothing to work with.
        least: u64,
    },
}

/// The limits there are.
const NAMES: [(&str, Of); 10] = [
    ("body_size_limit", Of::Job(|limits| &mut limits.body_bytes)),
    ("concurrent_scrapes_limit", Of::Agent { least: 1 }),
    ("concurrent_tunnel_requests_limit", Of::Agent { least: 1 }),
    ("label_limit", Of::Job(|limits| &mut limits.labels)),
    ("label_name_length_limit", Of::Job(|limits| &mut limits.label_name_bytes)),
    ("label_value_length_limit", Of::Job(|limits| &mut limits.label_value_bytes)),
    (QUEUE_AGE, Of::Agent { least: 60 }),
    ("queue_size_limit", Of::Agent { least: 32 << 20 }),
    ("sample_limit", Of::Job(|limits| &mut limits.samples)),
    ("target_limit", Of::Job(|limits| &mut limits.targets)),
];
const QUEUE_AGE: &str = "queue_age_limit";

impl LimitSet {
    /// Limits from `name=value` words.
    ///
    /// # Errors
    /// What is wrong with which word.
    pub(crate) fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<LimitSet, String> {
        let mut limits = BTreeMap::new();
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is no name=value"))?;
            let value = match value.parse::<u64>() {
                Ok(value) => value,
                Err(_) if name == QUEUE_AGE => seconds(value)?,
                Err(_) => return Err(format!("{name}: {value:?} is no number of bytes, labels, ...")),
            };
            if limits.insert(name.to_owned(), value).is_some() {
                return Err(format!("{name} stands twice"));
            }
        }
        LimitSet(limits).checked()
    }

    /// The limits, if every one is known and a number above zero.
    ///
    /// # Errors
    /// What is wrong with which limit.
    pub(crate) fn checked(self) -> Result<LimitSet, String> {
        for (name, value) in &self.0 {
            let Some((_, of)) = NAMES.iter().find(|(known, _)| known == name) else {
                let known: Vec<&str> = NAMES.iter().map(|(known, _)| *known).collect();
                return Err(format!("there is no limit {name:?}; there are {}", known.join(", ")));
            };
            if *value == 0 {
                return Err(format!("{name}: 0 would be no limit; leave it out instead"));
            }
            if let Of::Agent { least } = of
                && value < least
            {
                return Err(format!("{name}: {value} is too little to work with; at least {least}"));
            }
        }
        Ok(self)
    }

    /// A job's own limits, and these where they are narrower.
    pub(crate) fn narrow(&self, mut own: Limits) -> Limits {
        for (name, of) in NAMES {
            let Of::Job(field) = of else { continue };
            let own = field(&mut own);
            if let Some(central) = self.0.get(name)
                && (*own == 0 || central < own)
            {
                *own = *central;
            }
        }
        own
    }

    /// How many scrapes may be under way at once.
    pub(crate) fn scrapes_at_once(&self) -> Option<usize> {
        self.count("concurrent_scrapes_limit")
    }

    /// How many requests of hubs may be under way at once.
    pub(crate) fn tunnel_requests_at_once(&self) -> Option<usize> {
        self.count("concurrent_tunnel_requests_limit")
    }

    /// Bytes of the queue on disk.
    pub(crate) fn queue_bytes(&self) -> Option<u64> {
        self.0.get("queue_size_limit").copied()
    }

    /// Age of rows in the queue.
    pub(crate) fn queue_age(&self) -> Option<Duration> {
        self.0.get(QUEUE_AGE).copied().map(Duration::from_secs)
    }

    fn count(&self, name: &str) -> Option<usize> {
        self.0.get(name).map(|value| usize::try_from(*value).unwrap_or(usize::MAX))
    }

    /// `name=value` words, by name.
    pub(crate) fn words(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

/// A number of seconds as people write it: `2h`.
fn seconds(text: &str) -> Result<u64, String> {
    let millis = model::duration::parse(text);
    millis.map(|ms| ms.unsigned_abs() / 1000).map_err(|error| format!("{QUEUE_AGE}: {text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_only_narrow() {
        let check = |words: &[&str], own: (u64, u64), narrowed: (u64, u64)| {
            let limits = LimitSet::parse(words.iter().copied()).expect("good words");
            let got = limits.narrow(Limits { samples: own.0, labels: own.1, ..Limits::default() });
            assert_eq!((got.samples, got.labels), narrowed, "{words:?} on {own:?}");
        };
        check(&[], (10, 0), (10, 0));
        check(&["sample_limit=5"], (10, 7), (5, 7));
        check(&["sample_limit=50"], (10, 7), (10, 7));
        check(&["sample_limit=50", "label_limit=3"], (0, 0), (50, 3));
        check(&["concurrent_scrapes_limit=1"], (10, 7), (10, 7));
    }

    #[test]
    fn what_is_of_the_agent() {
        let words = ["queue_age_limit=2h", "queue_size_limit=1000000000", "concurrent_scrapes_limit=20"];
        let limits = LimitSet::parse(words.into_iter()).expect("good words");
        assert_eq!(limits.queue_age(), Some(Duration::from_secs(7200)));
        assert_eq!(limits.queue_bytes(), Some(1_000_000_000));
        assert_eq!((limits.scrapes_at_once(), limits.tunnel_requests_at_once()), (Some(20), None));
        assert!(limits.words().contains(&"queue_age_limit=7200".to_owned()), "{:?}", limits.words());
    }

    #[test]
    fn bad_words_are_refused() {
        let check = |words: &[&str], told: &str| {
            let refused = LimitSet::parse(words.iter().copied()).expect_err("bad words");
            assert!(refused.contains(told), "{refused}");
        };
        check(&["sample_limit"], "\"sample_limit\" is no name=value");
        check(&["sample_limit=-1"], "sample_limit: \"-1\" is no number");
        check(&["sample_limit=0"], "0 would be no limit");
        check(&["sample_limit=1", "sample_limit=2"], "sample_limit stands twice");
        check(&["queue_age_limit=2x"], "queue_age_limit: \"2x\"");
        check(&["queue_age_limit=59s"], "queue_age_limit: 59 is too little to work with; at least 60");
        check(&["queue_size_limit=1"], "queue_size_limit: 1 is too little");
        check(&["concurrent_scrapes_limit=0"], "0 would be no limit");
        check(
            &["bearer_token_file=1"],
            "there is no limit \"bearer_token_file\"; there are body_size_limit, ",
        );
    }
}
