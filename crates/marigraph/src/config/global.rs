//! The section `global`: defaults for everything else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::Labels;
use scrape::config::{
    ByteSize, ConfigDuration, ConfigError, HistogramChoice, Limits, NameValidation, ScrapeDefaults, join_dir,
    parse_escaping, parse_protocols,
};
use serde::Deserialize;

/// `global` as written.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GlobalText {
    /// How often targets are scraped. Default: 1m.
    pub scrape_interval: Option<ConfigDuration>,
    /// After how long a scrape has failed. Default: 10s, or the interval where that is shorter.
    pub scrape_timeout: Option<ConfigDuration>,
    /// Formats asked for, the best first.
    pub scrape_protocols: Option<Vec<String>>,
    /// How often rules are evaluated. Default: 1m.
    pub evaluation_interval: Option<ConfigDuration>,
    /// How far in the past rules are evaluated. Default: 0s.
    pub rule_query_offset: Option<ConfigDuration>,
    /// Queries are logged there.
    pub query_log_file: Option<String>,
    /// Failed scrapes are logged there.
    pub scrape_failure_log_file: Option<String>,
    /// Labels added where data leaves for other systems. `$NAME` and `${NAME}` in values stand for
    /// environment variables, `$$` for a dollar sign.
    pub external_labels: Option<BTreeMap<String, String>>,
    /// The largest body, uncompressed. 0: none.
    pub body_size_limit: Option<ByteSize>,
    /// The most samples of a scrape after relabelling. 0: none.
    pub sample_limit: Option<u64>,
    /// The most labels of a series. 0: none.
    pub label_limit: Option<u64>,
    /// The longest label name, bytes. 0: none.
    pub label_name_length_limit: Option<u64>,
    /// The longest label value, bytes. 0: none.
    pub label_value_length_limit: Option<u64>,
    /// The most targets of a pool. 0: none.
    pub target_limit: Option<u64>,
    /// The most dropped targets of a pool that are remembered. 0: none.
    pub keep_dropped_targets: Option<u64>,
    /// `utf8` (the default) or `legacy`.
    pub metric_name_validation_scheme: Option<String>,
    /// `allow-utf-8`, `underscores`, `dots` or `values`.
    pub metric_name_escaping_scheme: Option<String>,
    /// Whether native histograms are scraped.
    pub scrape_native_histograms: Option<bool>,
    /// Whether classic histograms become native ones.
    pub convert_classic_histograms_to_nhcb: Option<bool>,
    /// Whether classic histograms are kept beside native ones.
    pub always_scrape_classic_histograms: Option<bool>,
    /// Whether the extra scrape metrics are reported.
    pub extra_scrape_metrics: Option<bool>,
}

/// `global` as meant.
#[derive(Debug, Clone, Default)]
pub struct Global {
    /// What concerns scraping.
    pub scrape: ScrapeDefaults,
    /// How often rules are evaluated.
    pub evaluation_interval: Duration,
    /// How far in the past rules are evaluated.
    pub rule_query_offset: Duration,
    /// Where queries are logged.
    pub query_log_file: Option<PathBuf>,
    /// Labels added where data leaves for other systems.
    pub external_labels: Labels,
}

impl GlobalText {
    /// Checks what was written and applies defaults.
    ///
    /// # Errors
    /// The first contradiction, with the field at fault.
    pub fn validate(&self, dir: &Path) -> Result<Global, ConfigError> {
        let names = NameValidation::parse(self.metric_name_validation_scheme.as_deref())?.unwrap_or_default();
        let stated = |duration: Option<ConfigDuration>| duration.filter(|d| !d.0.is_zero());
        Ok(Global {
            scrape: self.scrape(names, dir)?,
            evaluation_interval: stated(self.evaluation_interval).unwrap_or(ConfigDuration::from_secs(60)).0,
            rule_query_offset: self.rule_query_offset.unwrap_or_default().0,
            query_log_file: self.query_log_file.as_ref().map(|file| join_dir(dir, file)),
            external_labels: self.external_labels(names, &mut |name| std::env::var(name).ok())?,
        })
    }

    fn scrape(&self, names: NameValidation, dir: &Path) -> Result<ScrapeDefaults, ConfigError> {
        let stated = |duration: Option<ConfigDuration>| duration.filter(|d| !d.0.is_zero());
        let usual = ScrapeDefaults::default();
        let scrape_interval = stated(self.scrape_interval).unwrap_or(usual.scrape_interval);
        let scrape_timeout = stated(self.scrape_timeout).unwrap_or(usual.scrape_timeout.min(scrape_interval));
        if scrape_timeout > scrape_interval {
            let message = format!(
                "the global scrape timeout ({scrape_timeout}) is greater than the scrape interval ({scrape_interval})"
            );
            return Err(ConfigError::new("scrape_timeout", message));
        }
        Ok(ScrapeDefaults {
            scrape_interval,
            scrape_timeout,
            protocols: self.scrape_protocols.as_deref().map(parse_protocols).transpose()?,
            histograms: HistogramChoice {
                native: self.scrape_native_histograms.unwrap_or(false),
                keep_classic: self.always_scrape_classic_histograms.unwrap_or(false),
                convert_classic: self.convert_classic_histograms_to_nhcb.unwrap_or(false),
            },
            failure_log: self
                .scrape_failure_log_file
                .as_deref()
                .filter(|file| !file.is_empty())
                .map(|file| join_dir(dir, file)),
            extra_metrics: self.extra_scrape_metrics.unwrap_or(false),
            limits: Limits {
                body_bytes: self.body_size_limit.unwrap_or_default().0,
                samples: self.sample_limit.unwrap_or(0),
                labels: self.label_limit.unwrap_or(0),
                label_name_bytes: self.label_name_length_limit.unwrap_or(0),
                label_value_bytes: self.label_value_length_limit.unwrap_or(0),
                targets: self.target_limit.unwrap_or(0),
                dropped_targets_kept: self.keep_dropped_targets.unwrap_or(0),
            },
            names,
            escaping: parse_escaping(self.metric_name_escaping_scheme.as_deref())?,
        })
    }

    fn external_labels(
        &self,
        names: NameValidation,
        lookup: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Result<Labels, ConfigError> {
        let mut pairs = Vec::new();
        for (name, value) in self.external_labels.iter().flatten() {
            if !names.is_valid_label_name(name) {
                let at = format!("external_labels.{name}");
                return Err(ConfigError::new(at, format!("`{name}` is not a valid label name")));
            }
            pairs.push((name.as_str(), expand(value, lookup)));
        }
        Ok(Labels::from_pairs(pairs))
    }
}

/// Replaces `$NAME` and `${NAME}`, and `$$` by a dollar sign; unknown names by nothing.
///
/// Source: Go `os.Expand`.
fn expand(text: &str, lookup: &mut dyn FnMut(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let braced = rest.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = braced {
            out.push_str(&if name == "$" { "$".to_owned() } else { lookup(name).unwrap_or_default() });
            rest = after;
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            if end == 0 {
                out.push('$');
            } else {
                out.push_str(&lookup(&rest[..end]).unwrap_or_default());
            }
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_labels_take_environment_variables() {
        let mut lookup = |name: &str| (name == "SITE").then(|| "north".to_owned());
        for (text, want) in [
            ("plain", "plain"),
            ("$SITE", "north"),
            ("a-${SITE}-b", "a-north-b"),
            ("$$SITE", "$SITE"),
            ("$OTHER.", "."),
            ("5$", "5$"),
        ] {
            assert_eq!(expand(text, &mut lookup), want, "{text}");
        }
    }
}
