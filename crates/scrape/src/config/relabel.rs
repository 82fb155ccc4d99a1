//! Relabelling rules as written.

/// Temporary.
#[derive(Debug, Clone)]
pub struct Rule;
use serde::Deserialize;

use super::ConfigError;

/// One entry of `relabel_configs` or `metric_relabel_configs` as written.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelabelText {
    /// Labels whose values are joined and matched.
    pub source_labels: Option<Vec<String>>,
    /// What joins them. Default: `;`.
    pub separator: Option<String>,
    /// The label that is set.
    pub target_label: Option<String>,
    /// The expression. Default: `(.*)`.
    pub regex: Option<String>,
    /// The modulus of `hashmod`.
    pub modulus: Option<u64>,
    /// What the label is set to; may refer to groups. Default: `$1`.
    pub replacement: Option<String>,
    /// What is done. Default: `replace`.
    pub action: Option<String>,
}

/// The rules of `section`.
///
/// # Errors
/// The first rule that cannot be used, as `section[i].field`.
pub fn relabel_rules(section: &str, written: &Option<Vec<RelabelText>>) -> Result<Vec<Rule>, ConfigError> {
    let mut rules = Vec::new();
    for (i, rule) in written.iter().flatten().enumerate() {
        rules.push(rule.validate().map_err(|e| e.below(&format!("{section}[{i}]")))?);
    }
    Ok(rules)
}

impl RelabelText {
    fn validate(&self) -> Result<Rule, ConfigError> {
        Ok(Rule)
    }
}
