//! Making a request of some points of a group.

use std::ops::Range;

use bytes::Bytes;
use wire::remote_write::{EncoderV1, EncoderV2, PointsToWrite, SeriesToWrite, snappy_encode_into};

use super::config::Protocol;
use super::group::{Group, Piece};

/// Memory that the texts of series may take before they are forgotten and learnt anew, bytes.
const TEXTS_MAX: usize = 64 << 20;

/// A request that can be sent, any number of times.
#[derive(Debug, Clone)]
pub(super) struct Body {
    pub(super) protocol: Protocol,
    /// Packed.
    pub(super) bytes: Bytes,
    pub(super) samples: u32,
    pub(super) histograms: u32,
    pub(super) exemplars: u32,
}

impl Body {
    pub(super) fn points(&self) -> usize {
        (self.samples + self.histograms) as usize
    }
}

/// Makes requests; keeps its memory from one to the next.
#[derive(Debug, Default)]
pub(super) struct RequestWriter {
    first: EncoderV1,
    second: EncoderV2,
    packed: Vec<u8>,
}

impl RequestWriter {
    /// The points of `pieces` as a request, their exemplars if `exemplars` says so.
    pub(super) fn write(
        &mut self,
        protocol: Protocol,
        group: &Group,
        pieces: &[Piece],
        exemplars: bool,
    ) -> Body {
        self.first.clear();
        self.second.clear();
        if self.second.memory_bytes() > TEXTS_MAX {
            self.second.forget();
        }
        let mut body = Body { protocol, bytes: Bytes::new(), samples: 0, histograms: 0, exemplars: 0 };
        for piece in pieces {
            let points = points_of(group, piece, exemplars);
            body.samples += points.samples.len() as u32;
            body.histograms += points.histograms.len() as u32;
            body.exemplars += points.exemplars.len() as u32;
            self.series(protocol, group, piece, points);
        }
        body.bytes = self.pack(protocol);
        body
    }

    /// Metadata of families as a request of 1.0.
    pub(super) fn write_metadata<'m>(
        &mut self,
        families: impl Iterator<Item = (&'m str, &'m model::Metadata)>,
    ) -> Bytes {
        self.first.clear();
        families.for_each(|(family, metadata)| self.first.metadata(family, metadata));
        self.pack(Protocol::V1)
    }

    fn series(&mut self, protocol: Protocol, group: &Group, piece: &Piece, points: PointsToWrite<'_>) {
        let series = &group.series[piece.series as usize];
        let whole = SeriesToWrite {
            labels: &series.labels,
            samples: points.samples,
            histograms: points.histograms,
            exemplars: points.exemplars,
            metadata: series.metadata.as_deref(),
        };
        match protocol {
            Protocol::V1 => self.first.series(&whole),
            Protocol::V2 => {
                let mut known = series.known.lock();
                let fresh = known.as_ref().is_some_and(|known| self.second.known_series(known, &points));
                if !fresh {
                    let learnt = self.second.know(whole.labels, whole.metadata);
                    let written = self.second.known_series(&learnt, &points);
                    debug_assert!(written, "known a moment ago");
                    *known = Some(learnt);
                }
            }
        }
    }

    fn pack(&mut self, protocol: Protocol) -> Bytes {
        let bytes = match protocol {
            Protocol::V1 => self.first.bytes(),
            Protocol::V2 => self.second.bytes(),
        };
        // Only a request past 4 GiB cannot be packed; batches are far from that.
        if snappy_encode_into(bytes, &mut self.packed).is_err() {
            self.packed.clear();
        }
        Bytes::copy_from_slice(&self.packed)
    }
}

fn points_of<'g>(group: &'g Group, piece: &Piece, exemplars: bool) -> PointsToWrite<'g> {
    let range = |range: &Range<u32>| range.start as usize..range.end as usize;
    PointsToWrite {
        samples: &group.samples[range(&piece.samples)],
        histograms: &group.histograms[range(&piece.histograms)],
        exemplars: if exemplars { &group.exemplars[range(&piece.exemplars)] } else { &[] },
    }
}
