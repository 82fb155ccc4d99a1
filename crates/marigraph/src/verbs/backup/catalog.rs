//! The catalog of a backup: a text with a line for each file, and a checksum of its own at the end.
//! Drawn in `docs/formats/backup.md`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};

/// The name of the catalog's file.
pub const CATALOG: &str = "BACKUP";
/// The version of the catalog that is written, and the newest that is read: major, minor.
pub const VERSION: (u32, u32) = (1, 0);
/// A catalog longer than this is none, bytes.
const CATALOG_BYTES_MAX: u64 = 1 << 30;

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the backup, without `..`; where it will be in the data directory.
    pub path: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32C of all of it.
    pub crc: u32,
}

/// What a backup says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// The version of Marigraph that made it.
    pub made_by: String,
    /// When it was begun, milliseconds since the epoch: what was acknowledged before is in it.
    pub made_ms: i64,
    /// The format of the data directory in it: major, minor.
    pub store: (u32, u32),
    /// Its files, all but the catalog.
    pub files: Vec<Entry>,
}

impl Catalog {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Reads the catalog of the backup `dir`.
    ///
    /// # Errors
    /// It is not there, damaged, or of a newer version, with the command that helps.
    pub fn read(dir: &Path) -> Result<Catalog> {
        let path = dir.join(CATALOG);
        let text = (|| {
            let bytes = std::fs::metadata(&path)?.len();
            if bytes > CATALOG_BYTES_MAX {
                return Err(std::io::Error::other(format!("{bytes} bytes are too many for a catalog")));
            }
            std::fs::read_to_string(&path)
        })()
        .with_context(|| format!("read {}", path.display()))?;
        Catalog::parse(&text).with_context(|| format!("backup {}", dir.display()))
    }

    /// Reads a catalog from its text.
    ///
    /// # Errors
    /// As [`Catalog::read`].
    pub fn parse(text: &str) -> Result<Catalog> {
        // Not `lines`: a name may end with a carriage return.
        let mut lines = text.split_terminator('\n').enumerate().map(|(at, line)| (at + 1, line));
        let mut next = |word: &str| -> Result<&str> {
            let (at, line) = lines.next().ok_or_else(|| anyhow!("the catalog ends before `{word}`"))?;
            let rest = line.strip_prefix(word).and_then(|rest| rest.strip_prefix(' '));
            rest.ok_or_else(|| anyhow!("{CATALOG}:{at}: expected `{word} …`, found {line:?}"))
        };
        let version = version(next("marigraph-backup")?)?;
        let made_by = next("made-by")?.to_owned();
        if version.0 > VERSION.0 {
            bail!(newer("catalog", version, VERSION, &made_by));
        }
        let mut catalog = Catalog { made_by, ..Catalog::default() };
        catalog.store = self::version(next("store")?)?;
        catalog.made_ms = next("made-ms")?.parse().context("made-ms is not a number")?;
        let newest = tsdb::closed::NEWEST_FORMAT;
        if catalog.store.0 > newest.0 {
            bail!(newer("store", catalog.store, newest, &catalog.made_by));
        }
        check_sum(text)?;
        for (at, line) in lines {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("file", rest) => {
                    let entry = entry(rest).with_context(|| format!("{CATALOG}:{at}"))?;
                    catalog.files.push(entry);
                }
                ("end", _) => return Ok(catalog),
                // Minor versions add lines that older programs may skip.
                _ => {}
            }
        }
        bail!("the catalog ends before `end`")
    }

    /// The catalog's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "marigraph-backup {}.{}\nmade-by {}\nstore {}.{}\nmade-ms {}\n",
            VERSION.0, VERSION.1, self.made_by, self.store.0, self.store.1, self.made_ms
        );
        for file in &self.files {
            let _ = writeln!(text, "file {:08x} {} {}", file.crc, file.bytes, file.path.display());
        }
        let crc = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "end {crc:08x}");
        text
    }

    /// Writes the catalog of the backup `dir`, durably.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(CATALOG);
        let write = || {
            let mut file = std::fs::File::create_new(&path)?;
            file.write_all(self.text().as_bytes())?;
            file.sync_data()
        };
        write().with_context(|| format!("write {}", path.display()))
    }
}

fn newer(what: &str, found: (u32, u32), known: (u32, u32), made_by: &str) -> String {
    format!(
        "made by marigraph {made_by} with {what} format {}.{}; this is marigraph {}, which reads up to {}.{}: install \
         marigraph {made_by} and run its `marigraph restore`",
        found.0,
        found.1,
        env!("CARGO_PKG_VERSION"),
        known.0,
        known.1
    )
}

fn version(text: &str) -> Result<(u32, u32)> {
    let numbers = text.split_once('.');
    let numbers = numbers.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    numbers.ok_or_else(|| anyhow!("{text:?} is not a version"))
}

fn check_sum(text: &str) -> Result<()> {
    let at = text.rfind("\nend ").map(|at| at + 1).ok_or_else(|| anyhow!("the catalog ends before `end`"))?;
    let said = text[at + "end ".len()..].trim_end();
    let found = format!("{:08x}", crc32c::crc32c(&text.as_bytes()[..at]));
    ensure!(said == found, "the catalog fails its checksum: it says {said}, its bytes give {found}");
    Ok(())
}

fn entry(text: &str) -> Result<Entry> {
    let mut words = text.splitn(3, ' ');
    let mut word = || words.next().ok_or_else(|| anyhow!("expected a checksum, a length and a path"));
    let crc = u32::from_str_radix(word()?, 16).context("the checksum is not hexadecimal")?;
    let bytes = word()?.parse().context("the length is not a number")?;
    let path = PathBuf::from(word()?);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(inside && path.file_name().is_some(), "{} leads out of the backup", path.display());
    Ok(Entry { path, bytes, crc })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let file = |path: &str, bytes, crc| Entry { path: path.into(), bytes, crc };
        Catalog {
            made_by: "0.1.0".into(),
            made_ms: 1_700_000_000_123,
            store: (1, 0),
            files: vec![file("FORMAT", 4, 0xdead_beef), file("wal/00000001.wal", 64 << 20, 7)],
        }
    }

    fn signed(body: &str) -> String {
        format!("{body}end {:08x}\n", crc32c::crc32c(body.as_bytes()))
    }

    #[test]
    fn a_catalog_goes_both_ways() {
        let text = catalog().text();
        assert_eq!(Catalog::parse(&text).expect("a catalog"), catalog());
        assert!(text.starts_with(
            "marigraph-backup 1.0\nmade-by 0.1.0\nstore 1.0\nmade-ms 1700000000123\nfile deadbeef 4 FORMAT\n"
        ));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, want: &str| {
            let error = Catalog::parse(text).expect_err("not a catalog");
            let said = format!("{error:#}");
            assert!(said.contains(want), "{said:?} lacks {want:?}");
        };
        let head = "marigraph-backup 1.0\nmade-by 0.1.0\nstore 1.0\nmade-ms 5\n";
        check("", "ends before `marigraph-backup`");
        check("hello\n", "BACKUP:1: expected `marigraph-backup …`, found \"hello\"");
        check(&head.replace("made-ms 5", "made-ms x"), "made-ms is not a number");
        check(head, "the catalog ends before `end`");
        check(&signed(head).replace("made-ms 5", "made-ms 6"), "the catalog fails its checksum");
        check(&signed(&format!("{head}file 7 0\n")), "BACKUP:5: expected a checksum, a length and a path");
        check(&signed(&format!("{head}file 7 0 ../etc/passwd\n")), "../etc/passwd leads out of the backup");
        check(&signed(&format!("{head}file 7 0 /etc/passwd\n")), "/etc/passwd leads out of the backup");
        let newer = "made by marigraph 9.1.0 with catalog format 2.0; this is marigraph 0.1.0, which reads up to 1.0: \
                     install marigraph 9.1.0 and run its `marigraph restore`";
        check("marigraph-backup 2.0\nmade-by 9.1.0\nanything\n", newer);
        check(&head.replace("store 1.0", "store 3.4"), "with store format 3.4; this is marigraph");
    }

    #[test]
    fn a_newer_minor_version_is_read() {
        let body = "marigraph-backup 1.9\nmade-by 0.9.0\nstore 1.7\nmade-ms 5\ncolour blue\nfile 00000007 3 FORMAT\n";
        let catalog = Catalog::parse(&signed(body)).expect("a catalog");
        assert_eq!((catalog.store, catalog.files.len()), ((1, 7), 1));
    }
}
