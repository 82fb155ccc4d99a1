//! Kinds of values that configuration files are made of.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _};

/// A text that must not be shown: prints as `<secret>`, also in debug output.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself. Keep it out of messages and logs.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

/// A duration as Prometheus writes it: `15s`, `1h30m`, `0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ConfigDuration(pub Duration);

impl ConfigDuration {
    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> ConfigDuration {
        ConfigDuration(Duration::from_secs(seconds))
    }

    /// Milliseconds.
    pub fn as_millis(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for ConfigDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&model::duration::format(self.as_millis()))
    }
}

impl<'de> Deserialize<'de> for ConfigDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ConfigDuration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let ms = model::duration::parse(&text).map_err(D::Error::custom)?;
        Ok(ConfigDuration(Duration::from_millis(ms.unsigned_abs())))
    }
}

/// A number of bytes with its unit: `512MB`, `1.5GiB`, `0`. Units are powers of 1024 either way.
///
/// Source: Prometheus reads these with `units.ParseBase2Bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    fn parse(text: &str) -> Result<ByteSize, String> {
        if text == "0" {
            return Ok(ByteSize(0));
        }
        let bad = || format!("not a valid size: {text:?} (a number with its unit, such as 512MB)");
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, unit) = text.split_at(end);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let power = match unit.trim_end_matches('B').trim_end_matches('i') {
            "" if unit == "B" => 0,
            "K" => 1,
            "M" => 2,
            "G" => 3,
            "T" => 4,
            "P" => 5,
            "E" => 6,
            _ => return Err(bad()),
        };
        let bytes = number * 1024f64.powi(power);
        if !unit.ends_with('B') || bytes >= i64::MAX as f64 {
            return Err(bad());
        }
        Ok(ByteSize(bytes as u64))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        let text = String::deserialize(deserializer)?;
        ByteSize::parse(&text).map_err(D::Error::custom)
    }
}

/// Where a text comes from: the configuration itself, or a file that is read again when it is used.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// Written in the configuration.
    Inline(Secret),
    /// The content of a file, white space at both ends removed.
    File(PathBuf),
}

impl Source {
    /// The text, and nothing else than the text, of a credential.
    ///
    /// # Errors
    /// The file cannot be read; the message names it.
    pub fn read(&self) -> Result<Secret, String> {
        match self {
            Source::Inline(secret) => Ok(secret.clone()),
            Source::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Secret::new(text.trim())),
                Err(e) => Err(format!("read {}: {e}", path.display())),
            },
        }
    }
}

/// `path` as seen from `dir`, the directory of the file it is written in.
pub fn join_dir(dir: &Path, path: &str) -> PathBuf {
    dir.join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse() {
        for (text, want) in [
            ("0", Some(0)),
            ("1B", Some(1)),
            ("512MB", Some(512 << 20)),
            ("10KiB", Some(10 << 10)),
            ("1.5GB", Some(3 << 29)),
            ("15", None),
            ("15M", None),
            ("MB", None),
            ("9000000EB", None),
            ("", None),
        ] {
            assert_eq!(ByteSize::parse(text).ok().map(|size| size.0), want, "{text}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = Secret::new("hunter2");
        assert_eq!(
            format!("{secret} {secret:?} {:?}", Source::Inline(secret.clone())),
            "<secret> <secret> Inline(<secret>)"
        );
        assert_eq!(secret.reveal(), "hunter2");
    }
}
