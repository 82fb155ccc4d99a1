//! Limits that a hub gives to agents: what a document of them is. They only ever narrow what the agent's own
//! configuration says, and name no file and no target.

use std::collections::BTreeMap;

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

/// Where a limit is in [`Limits`].
type Field = fn(&mut Limits) -> &mut u64;

/// The limits there are.
const NAMES: [(&str, Field); 6] = [
    ("body_size_limit", |limits| &mut limits.body_bytes),
    ("label_limit", |limits| &mut limits.labels),
    ("label_name_length_limit", |limits| &mut limits.label_name_bytes),
    ("label_value_length_limit", |limits| &mut limits.label_value_bytes),
    ("sample_limit", |limits| &mut limits.samples),
    ("target_limit", |limits| &mut limits.targets),
];

impl LimitSet {
    /// Limits from `name=value` words.
    ///
    /// # Errors
    /// What is wrong with which word.
    pub(crate) fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<LimitSet, String> {
        let mut limits = BTreeMap::new();
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is no name=value"))?;
            let value: u64 =
                value.parse().map_err(|_| format!("{name}: {value:?} is no number of bytes, labels, ..."))?;
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
            if !NAMES.iter().any(|(known, _)| known == name) {
                let known: Vec<&str> = NAMES.iter().map(|(known, _)| *known).collect();
                return Err(format!("there is no limit {name:?}; there are {}", known.join(", ")));
            }
            if *value == 0 {
                return Err(format!("{name}: 0 would be no limit; leave it out instead"));
            }
        }
        Ok(self)
    }

    /// A job's own limits, and these where they are narrower.
    pub(crate) fn narrow(&self, mut own: Limits) -> Limits {
        for (name, field) in NAMES {
            let own = field(&mut own);
            if let Some(central) = self.0.get(name)
                && (*own == 0 || central < own)
            {
                *own = *central;
            }
        }
        own
    }

    /// `name=value` words, by name.
    pub(crate) fn words(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
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
        check(
            &["bearer_token_file=1"],
            "there is no limit \"bearer_token_file\"; there are body_size_limit, ",
        );
    }
}
