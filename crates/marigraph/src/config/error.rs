//! What is wrong with a configuration, told so that one can go there and mend it.

use std::fmt;

use super::yaml;

/// A configuration that cannot be used. Nothing of it was applied.
///
/// Prints as `file:line:column: message`, the line with a mark below the place, and a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// Line and column, counted from 1, where the trouble has a place.
    pub place: Option<(usize, usize)>,
    /// What is wrong.
    pub message: String,
    /// What may have been meant.
    pub hint: Option<String>,
    /// The line itself; values that look like secrets are left out.
    pub snippet: Option<String>,
}

impl ConfigError {
    /// An error about a file as a whole.
    pub(crate) fn of_file(file: &str, message: impl Into<String>) -> ConfigError {
        ConfigError { file: file.to_owned(), place: None, message: message.into(), hint: None, snippet: None }
    }

    /// An error at a place in the text of `file`.
    pub(crate) fn in_text(file: &str, text: &str, error: yaml::Error) -> ConfigError {
        let place = error.at.map(|at| (at.line, at.column));
        let line = place.and_then(|(line, _)| text.lines().nth(line - 1));
        // A misspelt key may be one of a secret, and so may text where something else was expected.
        let withheld = error.message.starts_with("unknown field")
            || error.message.ends_with(&format!(", found {}", yaml::TEXT_WITHHELD));
        ConfigError {
            file: file.to_owned(),
            place,
            message: error.message,
            hint: error.hint,
            snippet: line.map(|line| hide_secret(line.trim_end(), withheld)),
        }
    }

    /// `file:line:column: message` and the hint, on one line.
    pub fn summary(&self) -> String {
        let place = self.place.map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default();
        let hint = self.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{}{place}: {}{hint}", self.file, self.message)
    }
}

/// The line without its value, where its key or the words in it suggest a secret, or `always`.
fn hide_secret(line: &str, always: bool) -> String {
    let lower = line.to_ascii_lowercase();
    let suspicious = always
        || ["pass", "secret", "token", "credential", "auth", "key:", "://"]
            .iter()
            .any(|word| lower.contains(word));
    match line.find(": ") {
        Some(end) if suspicious => format!("{}: ...", &line[..end]),
        None if suspicious && !line.ends_with(':') => {
            let margin = line.len() - line.trim_start_matches([' ', '-']).len();
            format!("{}...", &line[..margin])
        }
        _ => line.chars().take(200).collect(),
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        let Some((line, column)) = self.place else {
            write!(f, ": {}", self.message)?;
            return self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"));
        };
        write!(f, ":{line}:{column}: {}", self.message)?;
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        if let Some(snippet) = &self.snippet {
            let arrow = " ".repeat(column.saturating_sub(1).min(snippet.chars().count()));
            write!(f, "\n{margin} |\n{number} | {snippet}\n{margin} | {arrow}^")?;
        }
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\n{margin} = {hint}"))
    }
}

impl std::error::Error for ConfigError {}

/// Something accepted that has no effect, or not the expected one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigWarning {
    /// The file, as it was named.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The section or field, and what about it.
    pub message: String,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}
