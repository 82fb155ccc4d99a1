//! Relabelling rules as written.

use model::relabel::{Action, NameScheme, Rule, RuleSpec};
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
/// The first rule that cannot be used, as `section[i]` or one of its fields.
pub fn relabel_rules(
    section: &str,
    written: &Option<Vec<RelabelText>>,
    names: NameScheme,
) -> Result<Vec<Rule>, ConfigError> {
    let mut rules = Vec::new();
    for (i, rule) in written.iter().flatten().enumerate() {
        rules.push(rule.validate(names).map_err(|e| e.below(&format!("{section}[{i}]")))?);
    }
    Ok(rules)
}

impl RelabelText {
    fn validate(&self, names: NameScheme) -> Result<Rule, ConfigError> {
        let usual = RuleSpec::default();
        let action = match &self.action {
            Some(name) => Action::parse(name).map_err(|e| ConfigError::new("action", e.to_string()))?,
            None => usual.action,
        };
        let spec = RuleSpec {
            source_labels: self.source_labels.clone().unwrap_or_default(),
            separator: self.separator.clone().unwrap_or(usual.separator),
            target_label: self.target_label.clone().unwrap_or_default(),
            regex: self.regex.clone(),
            modulus: self.modulus.unwrap_or(0),
            replacement: self.replacement.clone().unwrap_or(usual.replacement),
            action,
        };
        Rule::new(spec, names).map_err(|e| {
            let message = e.to_string();
            let at = if message.starts_with("error parsing regexp") { "regex" } else { "" };
            ConfigError::new(at, message)
        })
    }
}
