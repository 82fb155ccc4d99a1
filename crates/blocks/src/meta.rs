//! `meta.json`: what a block says of itself.
//!
//! External labels are not Prometheus' but Thanos' (`thanos.labels`), who attach them to every series of
//! the block; Prometheus disregards them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use stdx::disk::Disk;
use ulid::Ulid;

use crate::error::BlockError;
use crate::filenames;

/// Longest description that is read, bytes.
const BYTES_MAX: u64 = 16 << 20;

/// A block's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockMeta {
    /// The block's name.
    #[serde(with = "one_ulid")]
    pub ulid: Ulid,
    /// First timestamp, inclusive, milliseconds.
    pub min_time: i64,
    /// Last timestamp, exclusive, milliseconds.
    pub max_time: i64,
    /// How many.
    #[serde(default)]
    pub stats: BlockStats,
    /// Where its samples come from.
    #[serde(default)]
    pub compaction: Compaction,
    /// Of the format of this file and the index: 1.
    pub version: u32,
    /// What Thanos and its relatives add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thanos: Option<Thanos>,
}

/// Figures of a block; absent ones read as 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockStats {
    /// Samples of every kind.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_samples: u64,
    /// Floats.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_float_samples: u64,
    /// Histograms.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_histogram_samples: u64,
    /// Series.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_series: u64,
    /// Chunks.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_chunks: u64,
    /// Intervals in the tombstones file.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_tombstones: u64,
}

/// How a block came to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Compaction {
    /// How often its samples have been compacted; 1 for a new block.
    pub level: u32,
    /// The blocks of level 1 that its samples were in.
    #[serde(with = "ulids", skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Ulid>,
    /// Free words of its maker.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// The section that Thanos, Cortex and Mimir read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thanos {
    /// External labels.
    pub labels: BTreeMap<String, String>,
    /// Not downsampled.
    pub downsample: Downsample,
    /// Who made the block.
    pub source: String,
}

/// The resolution of a downsampled block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Downsample {
    /// Milliseconds; 0 for raw samples.
    pub resolution: i64,
}

/// ULIDs as their texts.
mod one_ulid {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use ulid::Ulid;

    pub(super) fn serialize<S: Serializer>(ulid: &Ulid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(ulid)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ulid, D::Error> {
        parse(&String::deserialize(deserializer)?)
    }

    pub(super) fn parse<E: Error>(text: &str) -> Result<Ulid, E> {
        Ulid::from_string(text).map_err(|_| E::custom(format_args!("{text:?} is not a ULID")))
    }
}

/// The same for lists.
mod ulids {
    use serde::{Deserialize, Deserializer, Serializer};
    use ulid::Ulid;

    pub(super) fn serialize<S: Serializer>(ulids: &[Ulid], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ulids.iter().map(Ulid::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Ulid>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| super::one_ulid::parse(text)).collect()
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl BlockMeta {
    /// Reads the description of the block in `dir`.
    ///
    /// # Errors
    /// It is not there, is no description, or one of a version that is not known.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<BlockMeta, BlockError> {
        let path = dir.join(filenames::META);
        let open = |source| BlockError::io("read", &path)(source);
        if disk.open_read(&path).and_then(|file| file.len()).map_err(open)? > BYTES_MAX {
            return Err(BlockError::corrupt(&path, BYTES_MAX, "the description is longer than 16 MiB"));
        }
        let bytes = disk.read(&path).map_err(BlockError::io("read", &path))?;
        let meta: BlockMeta = serde_json::from_slice(&bytes).map_err(|error| {
            let before = bytes.split_inclusive(|b| *b == b'\n').take(error.line().saturating_sub(1));
            let offset = before.map(<[u8]>::len).sum::<usize>() + error.column().saturating_sub(1);
            BlockError::corrupt(&path, offset as u64, error.to_string())
        })?;
        if meta.version != 1 {
            let reason = format!("version {} of a block is not known, only version 1", meta.version);
            return Err(BlockError::Unsupported { path, reason });
        }
        if meta.min_time > meta.max_time {
            let reason = format!("minTime {} is above maxTime {}", meta.min_time, meta.max_time);
            return Err(BlockError::corrupt(&path, 0, reason));
        }
        Ok(meta)
    }

    /// Writes the description into `dir`, durably.
    ///
    /// # Errors
    /// The disk refuses, or there is one already.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), BlockError> {
        let path = dir.join(filenames::META);
        let write = || -> std::io::Result<()> {
            let mut bytes = Vec::new();
            let indented = serde_json::ser::PrettyFormatter::with_indent(b"\t");
            self.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, indented))?;
            let mut file = disk.create(&path)?;
            file.write_all(&bytes)?;
            file.sync_data()
        };
        write().map_err(BlockError::io("write", &path))
    }

    /// The external labels, if it says any.
    pub fn external_labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.thanos.iter().flat_map(|thanos| &thanos.labels).map(|(n, v)| (n.as_str(), v.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use expect_test::expect;
    use stdx::disk::RealDisk;

    use super::*;

    fn check(text: &str, want: &str) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("meta.json"), text).expect("written");
        let got = match BlockMeta::read(&RealDisk, dir.path()) {
            Ok(meta) => {
                format!("{} {}..{} {}", meta.ulid, meta.min_time, meta.max_time, meta.stats.num_samples)
            }
            Err(error) => error.to_string().replace(&dir.path().display().to_string(), "DIR"),
        };
        assert_eq!(got, want, "{text}");
    }

    #[test]
    fn descriptions_are_read_or_refused_with_a_place() {
        let id = "01GXQG25CJ3DSMBDYFJD4B3M5H";
        check(
            &format!(
                r#"{{"ulid":"{id}","minTime":5,"maxTime":9,"stats":{{"numSamples":7}},"version":1,"new":[1]}}"#
            ),
            &format!("{id} 5..9 7"),
        );
        check(
            &format!("{{\"ulid\":\"{id}\",\n\"minTime\":\"x\"}}"),
            "DIR/meta.json, byte 50: invalid type: string \"x\", expected i64 at line 2 column 13",
        );
        check(
            &format!(r#"{{"ulid":"{id}","minTime":5,"maxTime":9,"version":2}}"#),
            "DIR/meta.json: version 2 of a block is not known, only version 1",
        );
        check(
            &format!(r#"{{"ulid":"{id}","minTime":9,"maxTime":5,"version":1}}"#),
            "DIR/meta.json, byte 0: minTime 9 is above maxTime 5",
        );
    }

    #[test]
    fn a_description_looks_like_prometheus_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let ulid = Ulid::from_parts(1, 2);
        let stats = BlockStats { num_samples: 3, num_series: 1, num_chunks: 1, ..BlockStats::default() };
        let compaction = Compaction { level: 1, sources: vec![ulid], hints: Vec::new() };
        let meta = BlockMeta { ulid, min_time: 0, max_time: 10, stats, compaction, version: 1, thanos: None };
        meta.write(&RealDisk, dir.path()).expect("written");
        let text = fs::read_to_string(dir.path().join("meta.json")).expect("readable");
        expect![[r#"
            {
            	"ulid": "00000000010000000000000002",
            	"minTime": 0,
            	"maxTime": 10,
            	"stats": {
            		"numSamples": 3,
            		"numSeries": 1,
            		"numChunks": 1
            	},
            	"compaction": {
            		"level": 1,
            		"sources": [
            			"00000000010000000000000002"
            		]
            	},
            	"version": 1
            }"#]]
        .assert_eq(&text);
        assert_eq!(BlockMeta::read(&RealDisk, dir.path()).expect("read"), meta);
    }
}
