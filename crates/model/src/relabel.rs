//! Relabelling: rules that rewrite a label set or drop it.
//!
//! A [`RuleSpec`] is what a configuration says; [`Rule::new`] checks it and compiles it; [`apply`]
//! runs rules over a label set.
//!
//! Source: Prometheus `model/relabel/relabel.go`.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use crate::LabelsBuilder;
use crate::labels::{is_legacy_label_name, write_quoted};

mod md5;
#[cfg(test)]
mod tests;

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Action {
    /// Sets the target label to the replacement, if the source matches.
    #[default]
    Replace,
    /// Drops the set unless the source matches.
    Keep,
    /// Drops the set if the source matches.
    Drop,
    /// Drops the set unless the source equals the target label.
    KeepEqual,
    /// Drops the set if the source equals the target label.
    DropEqual,
    /// Sets the target label to a hash of the source, modulo the modulus.
    HashMod,
    /// Copies labels whose names match to names made from the replacement.
    LabelMap,
    /// Removes labels whose names match.
    LabelDrop,
    /// Removes labels whose names do not match.
    LabelKeep,
    /// Sets the target label to the source in lower case.
    Lowercase,
    /// Sets the target label to the source in upper case.
    Uppercase,
}

impl Action {
    /// An action by its name in a configuration, in any case.
    ///
    /// # Errors
    /// [`RelabelError`] names the unknown action.
    pub fn parse(name: &str) -> Result<Action, RelabelError> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "replace" => Action::Replace,
            "keep" => Action::Keep,
            "drop" => Action::Drop,
            "keepequal" => Action::KeepEqual,
            "dropequal" => Action::DropEqual,
            "hashmod" => Action::HashMod,
            "labelmap" => Action::LabelMap,
            "labeldrop" => Action::LabelDrop,
            "labelkeep" => Action::LabelKeep,
            "lowercase" => Action::Lowercase,
            "uppercase" => Action::Uppercase,
            _ => return Err(RelabelError(format!("unknown relabel action {}", quoted(name)))),
        })
    }

    /// The name in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Replace => "replace",
            Action::Keep => "keep",
            Action::Drop => "drop",
            Action::KeepEqual => "keepequal",
            Action::DropEqual => "dropequal",
            Action::HashMod => "hashmod",
            Action::LabelMap => "labelmap",
            Action::LabelDrop => "labeldrop",
            Action::LabelKeep => "labelkeep",
            Action::Lowercase => "lowercase",
            Action::Uppercase => "uppercase",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which label names are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NameScheme {
    /// Any that are not empty.
    #[default]
    Utf8,
    /// `[a-zA-Z_][a-zA-Z0-9_]*`.
    Legacy,
}

impl NameScheme {
    fn allows(self, name: &str) -> bool {
        match self {
            NameScheme::Utf8 => !name.is_empty(),
            NameScheme::Legacy => is_legacy_label_name(name),
        }
    }

    /// Whether `template` may become an allowed name once its `$` references are expanded.
    fn allows_template(self, template: &str) -> bool {
        static UTF8: LazyLock<Option<re2::Regex>> = LazyLock::new(|| {
            re2::Regex::anchored(r"(?:(?:[^\${}]|\$(?:\{[^\${}]+\}|[^\${}]+))+[^\${}]*)+").ok()
        });
        static LEGACY: LazyLock<Option<re2::Regex>> =
            LazyLock::new(|| re2::Regex::anchored(r"(?:(?:[a-zA-Z_]|\$(?:\{\w+\}|\w+))+\w*)+").ok());
        let regex = match self {
            NameScheme::Utf8 => &UTF8,
            NameScheme::Legacy => &LEGACY,
        };
        regex.as_ref().is_some_and(|regex| regex.is_match(template))
    }
}

/// A rule as a configuration states it, with Prometheus' defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSpec {
    /// Labels whose values, joined by the separator, are the source. An absent label counts as empty.
    pub source_labels: Vec<String>,
    /// Joins the source labels' values; `;` by default.
    pub separator: String,
    /// The label to set or to compare with.
    pub target_label: String,
    /// Must match all of the source (or of a label's name); `None` where not stated, meaning `(.*)`.
    pub regex: Option<String>,
    /// The modulus of `hashmod`.
    pub modulus: u64,
    /// The template of the new value (or name); `$1` by default.
    pub replacement: String,
    /// What to do.
    pub action: Action,
}

impl Default for RuleSpec {
    fn default() -> Self {
        RuleSpec {
            source_labels: Vec::new(),
            separator: ";".to_owned(),
            target_label: String::new(),
            regex: None,
            modulus: 0,
            replacement: "$1".to_owned(),
            action: Action::Replace,
        }
    }
}

/// A rule that cannot be used, in Prometheus' words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RelabelError(String);

fn quoted(text: &str) -> String {
    let mut out = String::new();
    let _ = write_quoted(&mut out, text);
    out
}

impl RuleSpec {
    /// Checks everything but the regular expression.
    fn validate(&self, names: NameScheme) -> Result<(), RelabelError> {
        use Action::{
            DropEqual, HashMod, KeepEqual, LabelDrop, LabelKeep, LabelMap, Lowercase, Replace, Uppercase,
        };
        let action = self.action;
        let fail = |message: String| Err(RelabelError(message));
        let default = RuleSpec::default();
        if let Some(bad) = self.source_labels.iter().find(|name| !names.allows(name)) {
            return fail(format!("{} is not a valid label name", quoted(bad)));
        }
        if action == HashMod && self.modulus == 0 {
            return fail("relabel configuration for hashmod requires non-zero modulus".to_owned());
        }
        if matches!(action, Replace | HashMod | Lowercase | Uppercase | KeepEqual | DropEqual) {
            if self.target_label.is_empty() {
                return fail(format!(
                    "relabel configuration for {action} action requires 'target_label' value"
                ));
            }
            let template = action == Replace && self.target_label.contains('$');
            let valid = match template {
                true => names.allows_template(&self.target_label),
                false => names.allows(&self.target_label),
            };
            if !valid {
                return fail(format!(
                    "{} is invalid 'target_label' for {action} action",
                    quoted(&self.target_label)
                ));
            }
        }
        let replaces = self.replacement != default.replacement;
        if matches!(action, Lowercase | Uppercase | KeepEqual | DropEqual) && replaces {
            return fail(format!("'replacement' can not be set for {action} action"));
        }
        if action == LabelMap && !names.allows_template(&self.replacement) {
            return fail(format!(
                "{} is invalid 'replacement' for {action} action",
                quoted(&self.replacement)
            ));
        }
        let others = self.modulus != 0 || self.separator != default.separator || replaces;
        if matches!(action, DropEqual | KeepEqual) && (self.regex.is_some() || others) {
            return fail(format!(
                "{action} action requires only 'source_labels' and `target_label`, and no other fields"
            ));
        }
        let sourced = !self.source_labels.is_empty() || !self.target_label.is_empty();
        if matches!(action, LabelDrop | LabelKeep) && (sourced || others) {
            return fail(format!("{action} action requires only 'regex', and no other fields"));
        }
        Ok(())
    }
}

/// A rule, ready to run.
#[derive(Debug, Clone)]
pub struct Rule {
    spec: RuleSpec,
    names: NameScheme,
    regex: re2::Regex,
    /// What `replace` can skip.
    shortcut: Shortcut,
}

/// Rules that say the same are the same.
impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        (&self.spec, self.names) == (&other.spec, other.names)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortcut {
    /// Match and expand.
    None,
    /// Everything matches, and the target gets the source as it is.
    Copy,
    /// Everything matches, and neither template refers to the source.
    Constant,
}

impl Rule {
    /// Checks and compiles a rule.
    ///
    /// # Errors
    /// [`RelabelError`] for fields that do not fit the action, names that are not allowed, and
    /// regular expressions that do not parse.
    pub fn new(spec: RuleSpec, names: NameScheme) -> Result<Rule, RelabelError> {
        spec.validate(names)?;
        let pattern = spec.regex.as_deref().unwrap_or("(.*)");
        let regex = re2::Regex::wrapped(pattern).map_err(|error| RelabelError(error.to_string()))?;
        let all = spec.action == Action::Replace && pattern == "(.*)" && !spec.target_label.contains('$');
        let shortcut = match spec.replacement.as_str() {
            "$1" | "${1}" if all => Shortcut::Copy,
            text if all && !text.contains('$') => Shortcut::Constant,
            _ => Shortcut::None,
        };
        Ok(Rule { spec, names, regex, shortcut })
    }

    /// What the configuration said.
    pub fn spec(&self) -> &RuleSpec {
        &self.spec
    }

    /// Runs the rule; `false` when it drops the set.
    fn run(&self, labels: &mut LabelsBuilder) -> bool {
        let target = self.spec.target_label.as_str();
        match self.spec.action {
            Action::Keep => return self.regex.is_match(&self.source(labels)),
            Action::Drop => return !self.regex.is_match(&self.source(labels)),
            Action::KeepEqual => return self.source(labels) == labels.get(target).unwrap_or_default(),
            Action::DropEqual => return self.source(labels) != labels.get(target).unwrap_or_default(),
            Action::Replace => self.replace(labels),
            Action::HashMod => {
                let [.., a, b, c, d, e, f, g, h] = md5::md5(self.source(labels).as_bytes());
                let hash = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
                labels.set(target, &(hash % self.spec.modulus).to_string());
            }
            Action::Lowercase => {
                // One character for one, as Go does; `ß` has no single upper case and stays.
                let lower = self
                    .source(labels)
                    .chars()
                    .map(|c| c.to_lowercase().next().unwrap_or(c))
                    .collect::<String>();
                labels.set(target, &lower);
            }
            Action::Uppercase => {
                let upper = self.source(labels).chars().map(upper).collect::<String>();
                labels.set(target, &upper);
            }
            Action::LabelMap => self.map_names(labels),
            Action::LabelDrop => labels.retain(|name, _| !self.regex.is_match(name)),
            Action::LabelKeep => labels.retain(|name, _| self.regex.is_match(name)),
        }
        true
    }

    /// The values of the source labels, joined.
    fn source<'l>(&self, labels: &'l LabelsBuilder) -> Cow<'l, str> {
        let get = |name: &String| labels.get(name).unwrap_or_default();
        match self.spec.source_labels.as_slice() {
            [] => Cow::Borrowed(""),
            [only] => Cow::Borrowed(get(only)),
            [first, rest @ ..] => {
                let mut joined = get(first).to_owned();
                for name in rest {
                    joined.push_str(&self.spec.separator);
                    joined.push_str(get(name));
                }
                Cow::Owned(joined)
            }
        }
    }

    fn replace(&self, labels: &mut LabelsBuilder) {
        let RuleSpec { target_label, replacement, .. } = &self.spec;
        match self.shortcut {
            Shortcut::Constant => {
                labels.set(target_label, replacement);
            }
            Shortcut::Copy => {
                let source = self.source(labels).into_owned();
                labels.set(target_label, &source);
            }
            Shortcut::None => {
                let source = self.source(labels);
                let Some(value) = self.regex.expand(&source, replacement) else { return };
                let name = match target_label.contains('$') {
                    true => self.regex.expand(&source, target_label).unwrap_or_default(),
                    false => target_label.clone(),
                };
                if self.names.allows(&name) {
                    labels.set(&name, &value);
                }
            }
        }
    }

    fn map_names(&self, labels: &mut LabelsBuilder) {
        let mapped: Vec<(String, String)> = labels
            .iter()
            .filter_map(|(name, value)| {
                Some((self.regex.expand(name, &self.spec.replacement)?, value.to_owned()))
            })
            .collect();
        for (name, value) in mapped {
            labels.set(&name, &value);
        }
    }
}

fn upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

/// Runs `rules` in order. `false` when one of them dropped the set, which is then of no use.
pub fn apply(rules: &[Rule], labels: &mut LabelsBuilder) -> bool {
    rules.iter().all(|rule| rule.run(labels))
}
