//! Paths with wildcards in their last part, as `scrape_config_files` has them.

use std::io;
use std::path::{Path, PathBuf};

/// The files that `pattern` names, sorted. A pattern without matches is no error.
///
/// Wildcards (`*`, `?`) stand in the last part only.
///
/// # Errors
/// The directory cannot be read, other than because it does not exist.
///
/// Source: Prometheus' check of these paths; Go `filepath.Glob`.
pub(super) fn files(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(name) = pattern.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
    if !name.contains(['*', '?']) {
        return Ok(if pattern.exists() { vec![pattern.to_path_buf()] } else { Vec::new() });
    }
    let dir = pattern.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|file| matches(name, file)) && !entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Whether `pattern` describes the whole of `text`.
fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = text.chars();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '*' => {
                let tail = letters.as_str();
                let mut from = rest.as_str();
                loop {
                    if matches(tail, from) {
                        return true;
                    }
                    let Some(first) = from.chars().next() else { return false };
                    from = &from[first.len_utf8()..];
                }
            }
            '?' if rest.next().is_some() => {}
            letter if rest.next() == Some(letter) => {}
            _ => return false,
        }
    }
    rest.as_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match() {
        for (pattern, text, want) in [
            ("*.yml", "a.yml", true),
            ("*.yml", "a.yaml", false),
            ("job-?.yml", "job-1.yml", true),
            ("job-?.yml", "job-.yml", false),
            ("*", "anything", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }
}
