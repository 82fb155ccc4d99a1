//! Prometheus' blocks, which an import reads.

use std::convert::Infallible;
use std::path::Path;

use blocks::chunk::{self, Encoder, Encoding, Samples};
use blocks::index::Index;
use blocks::{BlockSpec, BlockWriter};
use model::Labels;
use stdx::disk::{Disk, FakeDisk};
use ulid::Ulid;

use crate::store::disk_with;

/// The first byte says which encoding; the rest is a chunk. What is in order is encoded as something that
/// decodes the same.
pub(crate) fn chunk(bytes: &[u8]) {
    let Some((first, data)) = bytes.split_first() else { return };
    let encoding = match first % 3 {
        0 => Encoding::Xor,
        1 => Encoding::Histogram,
        _ => Encoding::FloatHistogram,
    };
    let mut samples = Samples::default();
    let decoded = chunk::decode(encoding, data, &mut samples);
    assert_eq!(samples.times.len(), samples.values.len());
    let ascending = samples.times.windows(2).all(|pair| pair[0] < pair[1]);
    if decoded.is_err() || encoding != Encoding::Xor || !ascending {
        return;
    }
    let mut again = Samples::default();
    let encoded = Encoder::default().encode(&samples.times, &samples.values, &[], |part| {
        assert!(chunk::decode(part.encoding, part.data, &mut again).is_ok());
        Ok::<(), Infallible>(())
    });
    assert!(encoded.is_ok());
    let bits = |samples: &Samples| samples.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!((&again.times, bits(&again)), (&samples.times, bits(&samples)));
}

pub(crate) fn chunk_seeds() -> Vec<Vec<u8>> {
    let times: Vec<i64> = (0..120).map(|i| 1_700_000_000_000 + i * 15_000 + i % 5).collect();
    let values: Vec<f64> = (0..120).map(|i| f64::from(i % 11) * 1.25).collect();
    let histogram = std::sync::Arc::new(crate::wires::histogram());
    let histograms: Vec<_> = times.iter().take(20).map(|time| (*time, histogram.clone())).collect();
    let mut seeds = Vec::new();
    let mut keep = |part: chunk::Encoded<'_>| {
        seeds.push([&[part.encoding as u8 - 1], part.data].concat());
        Ok::<(), Infallible>(())
    };
    let _ = Encoder::default().encode(&times, &values, &[], &mut keep);
    let _ = Encoder::default().encode(&[], &[], &histograms, &mut keep);
    seeds
}

/// An index: all its series and postings.
pub(crate) fn index(bytes: &[u8]) {
    let (disk, path) = disk_with(bytes);
    let Ok(index) = Index::open(&disk, &path) else { return };
    let _ = index.series().take(1000).count();
    let _ = index.postings(|_, _, _| ());
}

pub(crate) fn index_seeds() -> Vec<Vec<u8>> {
    let disk = FakeDisk::new(Path::new("/data"));
    let ulid = Ulid::from_bytes([7; 16]);
    let write = || -> Result<Vec<u8>, blocks::BlockError> {
        let mut writer = BlockWriter::create(&disk, Path::new("/data"), BlockSpec::new(ulid))?;
        for instance in ["one", "two"] {
            let labels = Labels::from_pairs([("__name__", "a"), ("instance", instance)]);
            writer.add(&labels, &[1_700_000_000_000, 1_700_000_015_000], &[1.0, 2.0], &[])?;
        }
        writer.finish()?;
        let path = Path::new("/data").join(ulid.to_string()).join("index");
        Ok(disk.read(&path).expect("the block has an index"))
    };
    vec![write().expect("the simulated disk takes blocks")]
}
