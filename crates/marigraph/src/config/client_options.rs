//! Options of an HTTP client in a file of their own, as `--http.config.file` names it.

use std::path::Path;

use scrape::config::{HttpClientConfig, HttpClientText};

use super::{ConfigError, yaml};

/// Reads the options in `path`. File names in it are relative to its directory.
///
/// # Errors
/// The file cannot be read, or is wrong: with line and column.
///
/// Source: promtool's `--http.config.file`.
pub fn read_client_options(path: &Path) -> Result<HttpClientConfig, ConfigError> {
    let name = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|error| ConfigError::of_file(&name, error.to_string()))?;
    let wrong = |error| ConfigError::in_text(&name, &text, error);
    let tree = yaml::parse(&text).map_err(wrong)?;
    let written: HttpClientText = tree.read().map_err(wrong)?;
    let dir = path.parent().unwrap_or(Path::new(""));
    written.validate(dir).map_err(|error| wrong(yaml::Error::at(tree.locate(&error.path), error.message)))
}
